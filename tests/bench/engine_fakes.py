"""A suite of some lines in the place of hograd's: its cells do what their problem's name says, in no time."""

from __future__ import annotations

from pathlib import Path

from hograd_bench.cells import Cell
from hograd_bench.engine import Host, Task

# Speaks as engine/child.py does. A problem's name says what its cells do; `log` says what ran beside what.
SUITE = """
import json, os, pathlib, signal, sys, time
given = json.loads(pathlib.Path(sys.argv[1]).read_text())
log = pathlib.Path("log")

def note(text):
    with log.open("a") as file:
        file.write(text + "\\n")

def say(message):
    print(json.dumps(message), flush=True)

if "call" in given:
    say({"result": [given["call"], given["arguments"], os.environ.get("COLOUR"), os.environ.get("HOME")]})
    given = json.loads(sys.stdin.readline() or "null") or sys.exit()
note("process")

def tasks():
    yield from given["tasks"]
    while True:
        say({"more": True})
        yield from json.loads(sys.stdin.readline() or "[]") or sys.exit()

for i, task in enumerate(tasks()):
    say({"ask": i})
    if sys.stdin.readline() != "true\\n":
        continue
    name, problem = task["cell"], task["cell"].split("/")[2]
    note("begin " + name)
    if problem == "meets":  # goes on once another such cell runs, too
        while sum("begin" in line and "/meets/" in line for line in log.read_text().splitlines()) < 2:
            time.sleep(0.01)
    if problem == "slow":
        time.sleep(1)
    if problem == "waits":
        time.sleep(600)
    if problem == "exits":
        print("last words", file=sys.stderr)
        note("end " + name)
        os._exit(7)
    first = log.read_text().count("begin " + name) == 1
    if problem == "ends_worker":  # of Ray: this process's parent
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    if problem == "ends_node" or problem == "ends_node_once" and first:
        os.kill(int(os.environ["RAY_RAYLET_PID"]), signal.SIGKILL)
        time.sleep(600)
    note("end " + name)
    if problem == "foreign":
        say({"unknown": "no such problem"})
    else:
        status = "oom" if problem == "oom" else "ok"
        say({"row": {"cell": name, "status": status, "details": {}, "blob": "x" * 300_000}})
    if problem == "leaves":
        os._exit(0)
"""
FAMILIES = ("accuracy",)


def suite(tmp_path: Path) -> Host:
    """A host that has it."""
    package = tmp_path / "suite" / "hograd_bench" / "engine"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "__main__.py").write_text(SUITE, encoding="utf-8")
    return Host(roots=(str(tmp_path / "suite"),))


def tasks(host: Host, *problems: str, families: tuple[str, ...] = FAMILIES, alone: bool = False) -> list[Task]:
    return [Task(Cell("o", "m", problem, n), families, host, alone) for n, problem in enumerate(problems, 1)]


def log(host: Host) -> list[str]:
    return Path(host.roots[0], "log").read_text(encoding="utf-8").splitlines()


def beside(host: Host) -> set[str]:
    """Problems whose cells ran while another did."""
    found: set[str] = set()
    running: set[str] = set()
    for what, cell in (line.split(" ") for line in log(host) if line != "process"):
        running = running | {cell} if what == "begin" else running - {cell}
        if len(running) > 1:
            found |= {cell.split("/")[2] for cell in running}
    return found
