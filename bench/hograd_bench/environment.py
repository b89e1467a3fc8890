"""What machine and what software a run is made on, and the one rule by which two runs are comparable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from hograd_bench import system_info

Environment = dict[str, Any]
"""What :func:`record` returns; plain JSON types, nested one level under named sections."""


def record(extra_packages: Iterable[str] = ()) -> Environment:
    """Everything about this machine and software that can change a figure; takes well under a second.

    Holds no host name, user name or absolute path. A fact that cannot be had is None.

    Args:
        extra_packages: distributions whose versions matter beyond those that hograd requires.

    Returns:
        Sections "source", "torch", "threads", "cpu", "memory", "system", "python", "gpus", "packages", "variables"
        and "machine" (see :func:`machine_slug`), "recorded" (UTC time in ISO form).
    """
    found: Environment = {
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": system_info.source(),
        "torch": _torch(),
        "threads": _threads(),
        "cpu": system_info.cpu(),
        "memory": system_info.memory(),
        "system": system_info.system(),
        "python": system_info.python(),
        "gpus": _gpus(),
        "packages": system_info.packages(extra_packages),
        "variables": system_info.variables(),
    }
    return {"machine": machine_slug(found), **found}


def machine_slug(environment: Mapping[str, Any]) -> str:
    """A folder name for the machine, such as ``amd-epyc-2cpu-1a2b3c4d5e``: the same after an upgrade of any software.

    The digits stand for CPU model and instruction sets, counts of cores, caches and GPUs.
    """
    cpu, gpus = _section(environment, "cpu"), _gpus_of(environment)
    model = re.sub(r"\((r|tm)\)|\bcpu\b|@.*|\b\d+-core\b|processor", " ", str(cpu.get("model") or "").lower())
    names = [model, f"{cpu.get('logical') or 0}cpu", *sorted({str(g.get("name")).lower() for g in gpus})]
    words = "-".join(filter(None, (re.sub(r"[^a-z0-9]+", "-", name).strip("-") for name in names)))
    identity = [cpu.get(k) for k in ("model", "vendor", "family", "model_number", "stepping", "flags_hash")]
    identity += [cpu.get("logical"), cpu.get("physical"), sorted(_section(cpu, "caches_bytes").items())]
    identity += [(g.get("name"), g.get("memory_bytes")) for g in gpus]
    return f"{words[:60].strip('-')}-{system_info.short_hash(repr(identity))}"


FACETS: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch.version", "torch.commit", "torch.build_hash"),
    "isa": ("torch.capability", "cpu.architecture", "cpu.vendor", "cpu.flags_hash", "variables.kernels"),
    "device": ("gpus.name", "gpus.memory_bytes", "torch.cuda", "torch.cudnn", "torch.tf32"),
    "machine": ("cpu.model", "cpu.family", "cpu.model_number", "cpu.stepping", "cpu.logical", "cpu.physical",
                "cpu.caches_bytes", "cpu.governor", "cpu.boost", "cpu.smt", "memory.total_gib", "memory.huge_pages",
                "system.os", "system.kernel", "system.libc", "system.container", "gpus.driver"),
    "threads": ("cpu.affinity_size", "threads.intra_op", "threads.inter_op", "variables.threads"),
    "process": ("python.version", "python.implementation", "python.optimised", "packages.numpy", "variables.others"),
}  # fmt: skip
"""Facet -> the facts it is made of. A metric's ``depends_on`` names facets."""

DETERMINISTIC = ("torch", "isa")
"""What deterministic metrics depend on where they say nothing else. (A cell carries its own thread count.)"""

_THREAD_VARIABLE = re.compile(r"OMP_|KMP_|GOMP_|MKL_(NUM|DYNAMIC|DOMAIN|THREADING)|OPENBLAS_NUM|BLIS_NUM|VECLIB_")
_KERNEL_VARIABLE = re.compile(r"ATEN_|MKL_|DNNL_|ONEDNN_|CUBLAS_|CUDNN_|NVIDIA_TF32|PYTORCH_|TORCH_")
_GIB = 2**30


class MetricRecord(Protocol):
    """What the rule reads of a ``metrics.Metric``; those who only read results import no metrics."""

    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def deterministic(self) -> bool: ...  # noqa: D102
    @property
    def depends_on(self) -> tuple[str, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class Comparability:
    """How far figures of two runs may be compared.

    Attributes:
        level: "full"; "deterministic" (deterministic metrics only); or "none".
        reasons: one sentence for each fact that differs, the weightiest first.
        differing: the facets that differ.
    """

    level: str
    reasons: tuple[str, ...]
    differing: frozenset[str]

    def allows(self, metric: MetricRecord) -> bool:
        """Whether the metric's values may be compared.

        A deterministic metric that declares what it depends on may be compared wherever that is the same; but on
        different GPUs none may: which kernels run there is the GPU's choice.
        """
        if self.level == "full" or not metric.deterministic:
            return self.level == "full"
        barred = {"unknown", "device", *metric.depends_on}
        return self.level == "deterministic" or (bool(metric.depends_on) and not self.differing & barred)


def comparable(a: Mapping[str, Any], b: Mapping[str, Any], device: str = "cpu") -> Comparability:
    """The one rule by which two runs are comparable, for cells on ``device``.

    - full: every fact in :data:`FACETS` is the same (for "cpu" cells those of the GPU do not count);
    - deterministic: facets in :data:`DETERMINISTIC`, and for "cuda" cells "device", are the same;
    - none: otherwise, and where either environment is unknown.

    The code under test (commit) and the load of the machine are not part of it: the one is what comparisons are
    made for, the other is noise. That times of two runs are comparable does not make their ratio evidence.

    Args:
        a: an environment, from ``record`` or from the store.
        b: another.
        device: "cpu" or "cuda".
    """
    if not _section(a, "torch") or not _section(b, "torch"):
        return Comparability("none", ("an environment is unknown",), frozenset({"unknown"}))
    reasons, differing = [], set()
    for facet, facts in FACETS.items():
        for fact in facts:
            if device == "cpu" and (facet == "device" or fact.startswith("gpus.")):
                continue
            mine, theirs = _fact(a, fact), _fact(b, fact)
            if mine != theirs:
                differing.add(facet)
                reasons.append(f"{fact}: {_brief(mine)} against {_brief(theirs)}")
    if not differing:
        return Comparability("full", (), frozenset())
    decisive = {*DETERMINISTIC, "device"} & differing
    return Comparability("none" if decisive else "deterministic", tuple(reasons), frozenset(differing))


@dataclass(frozen=True)
class Bound:
    """The roofline of one cell.

    Attributes:
        seconds: what this many operations and bytes take at these ceilings.
        limit: "memory" or "arithmetic", whichever takes longer.
        intensity: FLOP per byte moved.
        ridge: the intensity from which this machine is limited by arithmetic.
    """

    seconds: float
    limit: str
    intensity: float
    ridge: float


def bound(
    environment: Mapping[str, Any],
    device: str,
    threads: int,
    dtype: str,
    flops: float,
    bytes_moved: float,
    footprint: float | None = None,
) -> Bound | None:
    """The roofline bound of a cell, from the ceilings in an environment (see ceilings.py).

    Args:
        environment: with ``ceilings.measure()``'s result under "ceilings".
        device: "cpu" or "cuda".
        threads: the cell's; ceilings of exactly that count are needed (on "cuda" it does not matter).
        dtype: the cell's.
        flops: floating-point operations of the cell.
        bytes_moved: bytes read and written.
        footprint: bytes alive at once, e.g. the peak; where they fit in the last cache, the bandwidth within a
            cache counts. None: the bandwidth of the memory.

    Returns:
        The bound, or None where a ceiling was not measured or the cell does not move a byte.
    """
    ceiling = _section(_section(_section(environment, "ceilings"), device), "1" if device == "cuda" else str(threads))
    fits = footprint is not None and footprint <= (ceiling.get("cache_bytes") or 0)
    bandwidth = ceiling.get("cached_copy_bytes_per_s" if fits else "copy_bytes_per_s")
    rate = _section(ceiling, "matmul_flop_per_s").get(dtype)
    if not bandwidth or not rate or not bytes_moved > 0 or not flops >= 0:
        return None
    arithmetic, memory = flops / rate, bytes_moved / bandwidth
    limit = "arithmetic" if arithmetic > memory else "memory"
    return Bound(max(arithmetic, memory), limit, flops / bytes_moved, rate / bandwidth)


def _fact(environment: Mapping[str, Any], name: str) -> Any:
    section, _, key = name.partition(".")
    if section == "gpus":
        return [gpu.get(key) for gpu in _gpus_of(environment)]
    found = _section(environment, section)
    if section == "variables":
        return {name: value for name, value in found.items() if _kind_of_variable(name) == key}
    if name == "memory.total_gib":
        total = found.get("total_bytes")
        # Rounded, for the kernel reserves a little of its own, differently at each boot.
        return round(total / _GIB) if isinstance(total, (int, float)) else None
    if name == "cpu.affinity_size":
        affinity = found.get("affinity")
        return len(affinity) if isinstance(affinity, list) else None
    return found.get(key)


def _section(environment: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section, empty where it is absent or, in a foreign file, something else."""
    found = environment.get(name)
    return found if isinstance(found, Mapping) else {}


def _gpus_of(environment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = environment.get("gpus")
    return [gpu for gpu in found if isinstance(gpu, Mapping)] if isinstance(found, list) else []


def _kind_of_variable(name: str) -> str:
    if _THREAD_VARIABLE.match(name):
        return "threads"
    return "kernels" if _KERNEL_VARIABLE.match(name) else "others"


def _brief(value: Any) -> str:
    text = "unknown" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _torch() -> dict[str, Any]:
    """Version, commit, libraries and build settings; the hash stands for the whole build, its flags included."""
    import torch

    shown = torch.__config__.show()
    settings = dict(re.findall(r"\b([A-Z][A-Z0-9_]+)=([\w.+-]+)(?=[,\s]|$)", shown.partition("Build settings:")[2]))
    libraries = {
        "mkl": r"Math Kernel Library Version ([\w.]+)",
        "onednn": r"MKL-DNN v([\w.]+)",
        "openmp": r"OpenMP (\d+)",
        "compiler": r"^\s*-\s*((?:GCC|clang|MSVC) [\w.]+)",
        "lapack": r"LAPACK is enabled \(usually provided by (\w+)\)",
    }
    found = {name: re.search(pattern, shown, re.MULTILINE) for name, pattern in libraries.items()}
    kept = ("BLAS_INFO", "LAPACK_INFO", "BUILD_TYPE")
    return {
        "version": torch.__version__,
        "commit": torch.version.git_version,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "build_hash": system_info.short_hash(re.sub(r"CPU capability usage.*", "", shown)),
        "libraries": {name: match[1] for name, match in found.items() if match},
        "settings": {k: v for k, v in sorted(settings.items()) if k in kept or k.startswith("USE_")},
        "cuda": torch.version.cuda,
        "cudnn": _cudnn(),
        "hip": getattr(torch.version, "hip", None),
        "tf32": torch.backends.cuda.matmul.allow_tf32 if torch.cuda.is_available() else None,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "parallel_backend": _backend(torch.__config__.parallel_info()),
    }


def _cudnn() -> int | None:
    from torch.backends import cudnn

    return cudnn.version() if cudnn.is_available() else None  # type: ignore[no-untyped-call]


def _backend(parallel_info: str) -> str | None:
    match = re.search(r"ATen parallel backend: (.+)", parallel_info)
    return match[1].strip() if match else None


def _threads() -> dict[str, int]:
    import torch

    return {"intra_op": torch.get_num_threads(), "inter_op": torch.get_num_interop_threads()}


def _gpus() -> list[dict[str, Any]]:
    """One entry a CUDA device, in torch's order."""
    import torch

    if not torch.cuda.is_available():
        return []
    driver = _driver()
    found = []
    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        found.append({
            "name": of.name, "memory_bytes": of.total_memory, "capability": f"{of.major}.{of.minor}",
            "multiprocessors": of.multi_processor_count, "l2_bytes": getattr(of, "L2_cache_size", None),
            "driver": driver,
        })  # fmt: skip
    return found


def _driver() -> str | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            version = pynvml.nvmlSystemGetDriverVersion()
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # no NVML, no permission, no library: all the same here
        return None
    return version.decode() if isinstance(version, bytes) else str(version)
