"""What a run records about its machine, and the one rule of comparability."""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from hograd_bench import environment, schema, system_info
from hograd_bench.metrics import Metric, metrics


@pytest.fixture(scope="module")
def here() -> environment.Environment:
    return environment.record()


def changed(base: environment.Environment, fact: str, value: Any) -> environment.Environment:
    other = copy.deepcopy(base)
    section, _, key = fact.partition(".")
    other[section][key] = value
    return other


def gpu(name: str, driver: str = "1") -> dict[str, Any]:
    return {"name": name, "memory_bytes": 2**33, "driver": driver}


def test_it_is_plain_json_and_says_what_torch_says(here: environment.Environment) -> None:
    assert schema.parse_json(json.dumps(here, allow_nan=False)) == here
    assert here["torch"]["version"] == torch.__version__
    assert here["torch"]["commit"] == torch.version.git_version
    assert here["torch"]["capability"] == torch.backends.cpu.get_cpu_capability()
    assert here["threads"]["intra_op"] == torch.get_num_threads()
    assert here["memory"]["total_bytes"] > 2**28
    assert here["cpu"]["logical"] >= len(here["cpu"]["affinity"] or [0]) >= 1
    assert here["packages"]["torch"] == torch.__version__
    assert len(here["gpus"]) == torch.cuda.device_count()


def test_it_tells_nothing_private(monkeypatch: pytest.MonkeyPatch) -> None:
    # Names that no machine has: a host called "linux" or a user called "docker" would be found where they belong.
    for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME", "COMPUTERNAME"):
        monkeypatch.setenv(name, "alice")
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setattr(socket, "gethostname", lambda: "alice")
    monkeypatch.setattr(platform, "node", lambda: "alice")
    system, _, *rest = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((system, "alice", *rest)))
    monkeypatch.setattr(platform, "_uname_cache", None, raising=False)
    monkeypatch.setenv("LD_PRELOAD", "/home/alice/lib/libjemalloc.so.2:/opt/x/libtbb.so")
    monkeypatch.setenv("TORCH_HOME", "/home/alice")
    monkeypatch.setenv("TORCH_LOGS_OUT", "/home/alice/log")
    monkeypatch.setenv("TORCH_HUB_TOKEN", "hunter2")
    monkeypatch.setenv("OMP_PROC_BIND", "close")
    monkeypatch.setenv("HOGRAD_UNRELATED", "alice")
    found = environment.record()
    assert found["variables"]["LD_PRELOAD"] == "libjemalloc.so.2 libtbb.so"
    assert found["variables"]["OMP_PROC_BIND"] == "close"
    text = json.dumps(found)
    for secret in ("alice", "hunter2", str(Path(__file__).parents[2])):
        assert secret not in text
    values = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
    assert not [v for v in values if v.startswith("/") or re.match(r"[A-Z]:\\", v)]


def test_two_records_here_are_fully_comparable(here: environment.Environment) -> None:
    assert environment.comparable(here, environment.record()) == environment.Comparability("full", (), frozenset())


@pytest.mark.parametrize(
    ("fact", "value", "level", "facet"),
    [
        ("torch.version", "9.9.9", "none", "torch"),
        ("torch.build_hash", "0", "none", "torch"),
        ("torch.capability", "an instruction set of 2099", "none", "isa"),
        ("cpu.flags_hash", "0", "none", "isa"),
        ("cpu.vendor", "Other", "none", "isa"),
        ("variables.ATEN_CPU_CAPABILITY", "of 2099", "none", "isa"),
        ("variables.MKL_CBWR", "of 2099", "none", "isa"),
        ("variables.OMP_PROC_BIND", "of 2099", "deterministic", "threads"),
        ("variables.MKL_NUM_THREADS", "2099", "deterministic", "threads"),
        ("variables.MALLOC_ARENA_MAX", "2099", "deterministic", "process"),
        ("threads.intra_op", 2099, "deterministic", "threads"),
        ("cpu.affinity", [2099], "deterministic", "threads"),
        ("cpu.model", "Other", "deterministic", "machine"),
        ("cpu.governor", "powersave!", "deterministic", "machine"),
        ("memory.total_bytes", 2**50, "deterministic", "machine"),
        ("system.kernel", "0.1", "deterministic", "machine"),
        ("python.version", "3.99", "deterministic", "process"),
        ("packages.numpy", "0.1", "deterministic", "process"),
        ("source.commit", "f00", "full", None),
        ("source.dirty", "?", "full", None),
        ("memory.available_bytes", 1, "full", None),
        ("system.load_average", [2099, 9, 9], "full", None),
        ("packages.rich", "0.1", "full", None),
    ],
)
def test_the_rule(here: environment.Environment, fact: str, value: Any, level: str, facet: str | None) -> None:
    here = changed(here, "cpu.affinity", [0, 1])
    other = changed(here, fact, value)
    assert other != here  # no value above may be that of the machine which runs the test
    for a, b in ((here, other), (other, here)):
        found = environment.comparable(a, b)
        assert (found.level, found.differing) == (level, frozenset({facet} - {None}))
        assert len(found.reasons) == (facet is not None)
        if facet is not None and not fact.startswith(("variables", "memory", "cpu.affinity")):
            assert found.reasons[0].startswith(f"{fact}: ")
            assert str(value) in found.reasons[0]


def test_the_gpu_counts_for_cuda_cells_only(here: environment.Environment) -> None:
    a, b = ({**here, "gpus": [gpu(name)]} for name in ("H200", "A100"))
    assert environment.comparable(a, b).level == "full"
    assert environment.comparable(a, b, "cuda").level == "none"
    other_driver = {**here, "gpus": [gpu("H200", "2")]}
    assert environment.comparable(a, other_driver, "cuda").level == "deterministic"
    assert environment.comparable(a, {**here, "gpus": []}, "cuda").level == "none"


@pytest.mark.parametrize("unknown", [{}, {"torch": None}, {"machine": "x"}])
def test_an_unknown_environment_compares_with_none(here: environment.Environment, unknown: dict[str, Any]) -> None:
    for a, b in ((here, unknown), (unknown, here), (unknown, unknown)):
        assert environment.comparable(a, b).level == "none"


def test_hostile_environments_do_not_break_the_rule(here: environment.Environment) -> None:
    odd = {"torch": "<b>", "gpus": [], "cpu": ["x"], "memory": {"total_bytes": "many"}, "variables": {"OMP_X": ["y"]}}
    found = environment.comparable(here, odd)
    assert found.level == "none"
    assert all(len(reason) < 250 for reason in found.reasons)
    for section in ("cpu", "gpus", "variables", "packages", "memory"):
        for value in (None, 3, "text", [], [1], {"x": [1]}):
            hostile = {**here, section: value}
            for device in ("cpu", "cuda"):
                assert environment.comparable(here, hostile, device).level in ("full", "deterministic", "none")
            assert environment.machine_slug(hostile)
            assert environment.bound({**here, "ceilings": value}, "cpu", 1, "float32", 1, 1) is None


def metric(deterministic: bool, *depends_on: str) -> Metric:
    return Metric("m", "B", deterministic, "i", "d", depends_on)


@pytest.mark.parametrize(
    ("fact", "deterministic", "depends_on", "allowed"),
    [
        ("source.commit", False, ("torch",), True),
        ("cpu.model", False, (), False),
        ("cpu.model", True, ("torch", "threads"), True),
        ("torch.version", True, (), False),  # nothing declared: it may depend on anything
        ("torch.version", True, ("torch",), False),
        ("torch.version", True, ("threads",), True),
        ("torch.capability", True, ("torch",), True),
        ("torch.capability", False, ("torch",), False),
    ],
)
def test_a_declared_dependence_narrows_the_rule(
    here: environment.Environment, fact: str, deterministic: bool, depends_on: tuple[str, ...], allowed: bool
) -> None:
    rule = environment.comparable(here, changed(here, fact, "other"))
    assert rule.allows(metric(deterministic, *depends_on)) is allowed
    assert not environment.comparable(here, {}).allows(metric(deterministic, *depends_on))


def test_every_metric_depends_on_facets_that_exist() -> None:
    for record in metrics().values():
        assert set(record.depends_on) <= set(environment.FACETS), record.name


def test_the_slug_is_a_folder_name_and_outlives_upgrades(here: environment.Environment) -> None:
    slug = environment.machine_slug(here)
    assert here["machine"] == slug
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,80}", slug)
    for fact in ("torch.version", "system.kernel", "python.version", "memory.available_bytes", "cpu.governor"):
        assert environment.machine_slug(changed(here, fact, "other")) == slug
    for fact in ("cpu.model", "cpu.flags_hash", "cpu.logical", "cpu.stepping", "cpu.caches_bytes"):
        other = {"L9": 1} if fact == "cpu.caches_bytes" else "other"
        assert environment.machine_slug(changed(here, fact, other)) != slug
    with_gpu = environment.machine_slug({"cpu": {"model": "x"}, "gpus": [gpu("NVIDIA H200"), gpu("NVIDIA H200")]})
    assert "-nvidia-h200-" in with_gpu
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,80}", environment.machine_slug({}))


@pytest.mark.parametrize(
    ("model", "start"),
    [
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "intel-xeon-e5-2680-v4-8cpu-"),
        ("AMD EPYC 7B13 64-Core Processor", "amd-epyc-7b13-8cpu-"),
        ("../../<script>", "script-8cpu-"),
        ("", "8cpu-"),
        ("é中", "8cpu-"),
        ("x" * 500, "x" * 60 + "-"),
    ],
)
def test_slugs_of_other_machines(model: str, start: str) -> None:
    slug = environment.machine_slug({"cpu": {"model": model, "logical": 8}})
    assert slug.startswith(start)


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a file where system_info.py would lie; the module believes to be that file."""
    for name in ("bench/hograd_bench/system_info.py", "hograd_core/x.py", "constraints.txt", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one\n", encoding="utf-8")
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    monkeypatch.setattr(system_info, "__file__", str(tmp_path / "bench/hograd_bench/system_info.py"))
    return tmp_path


def test_commit_and_dirty_flag(checkout: Path) -> None:
    clean = system_info.source()
    assert clean["commit"] == git(checkout, "rev-parse", "HEAD")
    committed = int(git(checkout, "show", "-s", "--format=%ct", "HEAD"))
    assert datetime.fromisoformat(clean["committed"]) == datetime.fromtimestamp(committed, UTC)
    assert clean["dirty"] is False
    (checkout / "README.md").write_text("two\n", encoding="utf-8")  # no figure comes from it
    assert system_info.source()["dirty"] is False
    assert len(clean["constraints_sha256"]) == 64
    (checkout / "constraints.txt").write_text("two\n", encoding="utf-8")
    assert system_info.source()["constraints_sha256"] != clean["constraints_sha256"]
    for room in ("hograd_core", "bench"):
        (checkout / room / "new.py").write_text("untracked\n", encoding="utf-8")
        assert system_info.source()["dirty"] is True
        (checkout / room / "new.py").unlink()


def test_what_git_is_told_elsewhere_changes_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook's variables name another repository; a user may have asked for no untracked files in git's status."""
    (checkout / "bench" / "new.py").write_text("untracked\n", encoding="utf-8")
    git(checkout, "config", "status.showUntrackedFiles", "no")
    head = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(checkout / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(checkout / "elsewhere" / "index"))
    found = system_info.source()
    assert (found["commit"], found["dirty"]) == (head, True)


def test_a_stranger_s_checkout_is_not_taken_for_ours(checkout: Path) -> None:
    git(checkout, "rm", "-q", "--cached", "bench/hograd_bench/system_info.py")
    git(checkout, "commit", "-qm", "y")
    found = system_info.source()
    assert {found[fact] for fact in ("commit", "committed", "dirty", "constraints_sha256")} == {None}


def test_probes_survive_a_system_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_info, "_read", lambda path: None)
    monkeypatch.setattr(system_info, "_output", lambda *command: None)
    monkeypatch.setattr(system_info, "_CPU", Path("/nowhere"))
    found = environment.record()
    assert found["cpu"]["caches_bytes"] == {}
    assert found["cpu"]["governor"] is None
    assert found["source"]["commit"] is None
    assert environment.comparable(found, found).level == "full"


def test_probes_read_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "cpu0/cpufreq/scaling_governor": "performance\n", "cpu0/cpufreq/cpuinfo_max_freq": "3500000\n",
        "intel_pstate/no_turbo": "1\n", "smt/active": "1\n",
        "cpu0/cache/index0/level": "1", "cpu0/cache/index0/type": "Data", "cpu0/cache/index0/size": "48K",
        "cpu0/cache/index3/level": "3", "cpu0/cache/index3/type": "Unified", "cpu0/cache/index3/size": "32M",
        "cpu0/cache/index4/level": "4", "cpu0/cache/index4/type": "Unified", "cpu0/cache/index4/size": "much",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(system_info, "_CPU", tmp_path)
    found = system_info.cpu()
    assert (found["governor"], found["max_mhz"], found["boost"], found["smt"]) == ("performance", 3500.0, False, True)
    assert found["caches_bytes"] == {"L1d": 49152, "L3": 2**25}


def test_environment_variables_reach_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MKL_CBWR", raising=False)
    assert "MKL_CBWR" not in system_info.variables()
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    assert system_info.variables()["MKL_CBWR"] == "AVX2"
    assert "PATH" not in system_info.variables()
    assert "PATH" in os.environ
