"""Facts about this machine and this software, each from one place of the operating system.

Every probe returns JSON-ready values, None where a fact cannot be had, and raises nothing. None of them reads a
host name, a user name or an absolute path: environments are published with their rows.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

_CPU = Path("/sys/devices/system/cpu")

# Flags by which ATen, MKL and oneDNN choose kernels; the others come and go with kernels and microcode.
_ISA_FLAG = re.compile(
    r"(sse|ssse|avx|fma|f16c|amx|vnni|bmi|vaes|vpclmul|neon|asimd|sve|sme(?!p)|bf16|i8mm|fphp|dotprod|vsx|altivec)"
)

_VARIABLE = re.compile(
    r"(OMP|MKL|KMP|GOMP|OPENBLAS|VECLIB|BLIS|DNNL|ONEDNN|ATEN|TORCH|PYTORCH|TORCHINDUCTOR|CUDA|CUBLAS|CUDNN|NVIDIA_TF32"
    r"|MALLOC|GLIBC|PYTHON(HASHSEED|MALLOC|OPTIMIZE|DEVMODE))_?[A-Z0-9_]*|LD_PRELOAD"
)

# `git rev-parse --local-env-vars`, but for configuration: that may be what lets us read a stranger's checkout.
_OF_A_HOOK = frozenset(
    f"GIT_{name}"
    for name in (
        "ALTERNATE_OBJECT_DIRECTORIES", "COMMON_DIR", "DIR", "GRAFT_FILE", "IMPLICIT_WORK_TREE", "INDEX_FILE",
        "INTERNAL_SUPER_PREFIX", "NO_REPLACE_OBJECTS", "OBJECT_DIRECTORY", "PREFIX", "REPLACE_REF_BASE",
        "SHALLOW_FILE", "WORK_TREE",
    )
)  # fmt: skip

_PRIVATE = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|HOME|DIR|PATH")


def cpu() -> dict[str, Any]:
    """Model, instruction sets, counts, caches in bytes, clocks policy."""
    described = _cpuinfo()
    flags = sorted(f for f in described.get("flags", "").split() if _ISA_FLAG.match(f) or "_vnni" in f)
    return {
        "model": described.get("model name") or platform.processor() or None,
        "vendor": described.get("vendor_id"),
        "family": described.get("cpu family"),
        "model_number": described.get("model"),
        "stepping": described.get("stepping"),
        "architecture": platform.machine(),
        "flags": flags,
        "flags_hash": short_hash(" ".join(flags)) if flags else None,
        "logical": psutil.cpu_count(logical=True),
        "physical": psutil.cpu_count(logical=False),
        "affinity": affinity(),
        "caches_bytes": caches(),
        "numa_nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or None,
        "governor": _read(_CPU / "cpu0/cpufreq/scaling_governor"),
        "boost": _boost(),
        "smt": {"1": True, "0": False}.get(_read(_CPU / "smt/active") or ""),
        "max_mhz": _max_mhz(),
    }


def affinity() -> list[int] | None:
    """Logical CPUs that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def caches() -> dict[str, int]:
    """Bytes of each cache that the first CPU sees: {"L1d": 32768, ...}; {} where the system does not say."""
    found = {}
    for index in sorted((_CPU / "cpu0/cache").glob("index[0-9]*")):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))
        if level and kind and size and (match := re.fullmatch(r"(\d+)([KMG]?)", size)):
            suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
            found[f"L{level}{suffix}"] = int(match[1]) * 1024 ** " KMG".index(match[2] or " ")
    return found


def memory() -> dict[str, Any]:
    """Bytes of memory and swap in this machine, the limit of the container, and the policy on huge pages."""
    total: int | None
    used: int | None
    try:
        swap = psutil.swap_memory()
        total, used = swap.total, swap.used
    except (OSError, RuntimeError):  # no /proc/vmstat in some sandboxes
        total = used = None
    huge = re.search(r"\[(\w+)\]", _read(Path("/sys/kernel/mm/transparent_hugepage/enabled")) or "")
    return {
        "total_bytes": psutil.virtual_memory().total,
        "available_bytes": psutil.virtual_memory().available,
        "limit_bytes": _container_limit(),
        "swap_total_bytes": total,
        "swap_used_bytes": used,
        "huge_pages": huge[1] if huge else None,
        "page_bytes": os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None,
    }


def system() -> dict[str, Any]:
    """Operating system, kernel, C library, container and virtual machine, load."""
    libc = " ".join(platform.libc_ver()).strip()
    return {
        "os": platform.system(),
        "kernel": platform.release(),
        "distribution": _distribution(),
        "libc": libc or None,
        "container": _container(),
        "virtual_machine": _virtual_machine(),
        "randomised_addresses": {"0": False, "1": True, "2": True}.get(
            _read(Path("/proc/sys/kernel/randomize_va_space")) or ""
        ),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def python() -> dict[str, Any]:
    """The interpreter."""
    return {"version": platform.python_version(), "implementation": platform.python_implementation(),
            "compiler": platform.python_compiler(), "optimised": sys.flags.optimize > 0}  # fmt: skip


def packages(extra: Iterable[str] = ()) -> dict[str, str]:
    """Versions of what hograd requires, directly or not, as far as it is installed; and of ``extra``.

    Not of everything installed: what else is there is nobody's business.
    """
    found: dict[str, str] = {}
    queue = ["hograd", *extra]
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue
        found[name] = distribution.version
        wanted = (r for r in distribution.requires or () if name == "hograd" or "extra ==" not in r)
        queue += [m[0] for r in wanted if (m := re.match(r"[A-Za-z0-9._-]+", r))]
    return dict(sorted(found.items()))


def source() -> dict[str, Any]:
    """Version of hograd, its commit (and when, UTC) where it runs from a checkout, and the hash of the requirements."""
    here = Path(__file__).resolve()
    root = here.parents[2]
    try:
        version = importlib.metadata.version("hograd")
    except importlib.metadata.PackageNotFoundError:
        version = None
    # Installed inside somebody else's checkout, git would name a stranger's commit: this very file must be tracked.
    commit = committed = dirty = None
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is not None:
        commit = _git(here.parent, "rev-parse", "HEAD")
        seconds = _git(here.parent, "show", "-s", "--no-show-signature", "--format=%ct", "HEAD") or ""
        committed = datetime.fromtimestamp(int(seconds), UTC).isoformat() if seconds.isdecimal() else None
        changes = _git(root, "status", "--porcelain", "--untracked-files=normal", "--", "hograd_core", "bench")
        dirty = None if changes is None else bool(changes)
    constraints = root / "constraints.txt"
    pinned = hashlib.sha256(constraints.read_bytes()).hexdigest() if commit and constraints.is_file() else None
    return {
        "version": version, "commit": commit, "committed": committed, "dirty": dirty, "constraints_sha256": pinned,
    }  # fmt: skip


def variables() -> dict[str, str]:
    """Environment variables that change what is computed, how fast, or where it is allocated.

    Of preloaded libraries the file names; other variables that hold a path, or may hold a secret, are left out.
    """
    found = {name: value for name, value in sorted(os.environ.items()) if _VARIABLE.fullmatch(name)}
    if "LD_PRELOAD" in found:
        found["LD_PRELOAD"] = " ".join(part.rsplit("/", 1)[-1] for part in re.split(r"[ :]+", found["LD_PRELOAD"]))
    return {n: v for n, v in found.items() if not _PRIVATE.search(n) and "/" not in v and "\\" not in v}


def short_hash(text: str) -> str:
    """Ten hexadecimal digits that stand for the text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:10]


def git_environment() -> dict[str, str]:
    """Environment for git on a folder that is named: without what a hook exports about the repository it runs for."""
    return {name: value for name, value in os.environ.items() if name not in _OF_A_HOOK}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return None


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo (ARM calls the flags Features)."""
    first = (_read(Path("/proc/cpuinfo")) or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    found = {key.strip(): value.strip() for key, _, value in pairs}
    if sys.platform == "darwin":
        found["model name"] = _output("sysctl", "-n", "machdep.cpu.brand_string") or ""
    arm = {"flags": "Features", "vendor_id": "CPU implementer", "model": "CPU part", "stepping": "CPU revision"}
    return {**{new: found[old] for new, old in arm.items() if old in found}, **found}


def _boost() -> bool | None:
    no_turbo = _read(_CPU / "intel_pstate/no_turbo")
    if no_turbo in ("0", "1"):
        return no_turbo == "0"
    return {"1": True, "0": False}.get(_read(_CPU / "cpufreq/boost") or "")


def _max_mhz() -> float | None:
    khz = _read(_CPU / "cpu0/cpufreq/cpuinfo_max_freq")
    return int(khz) / 1000 if khz and khz.isdigit() else None


def _container_limit() -> int | None:
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(Path(place))
        if text and text.isdigit() and int(text) < 2**60:  # cgroup v1 writes a huge number for "none"
            return int(text)
    return None


def _distribution() -> str | None:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read(Path("/etc/os-release")) or "", re.MULTILINE)
    return match[1] if match else None


def _container() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    match = re.search(r"kubepods|docker|lxc|containerd", _read(Path("/proc/1/cgroup")) or "")
    return match[0] if match else None


def _virtual_machine() -> bool | None:
    flags = _cpuinfo().get("flags")
    return "hypervisor" in flags.split() if flags and platform.machine() in ("x86_64", "AMD64") else None


def _git(folder: Path, *arguments: str) -> str | None:
    return _output("git", "-C", str(folder), *arguments)


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, env=git_environment(), timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout).strip() if done.returncode == 0 else None
