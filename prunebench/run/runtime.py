"""The machine and the software under a run: what is recorded about them, and the C allocator's tuning."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "prunebench",
    "torch",
    "pytorch-lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
)
"""Distributions whose versions a result stores."""

# <malloc.h> of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TRIM_BYTES, _MMAP_BYTES = 2**31 - 1, 2**30


def tune_allocator() -> bool:
    """Keep freed memory in the process instead of handing it back to the kernel after every training step.

    A training step frees all of its activations (some hundred MB) and takes them again in the next one. By
    default glibc gives the top of the heap beyond 64 MiB at most back to the kernel and maps blocks above 32
    MiB on their own, so that each step pays anew for page faults and zeroed pages. Both thresholds are raised:
    trimming to 2 GiB, separate mappings to 1 GiB. The process then keeps the memory of its peak until it ends.
    ``scripts/bench.py 7`` measures the gain. Call it before the first large allocation.

    Returns:
        True if both thresholds are set; False where the C library is not glibc (nothing is changed there).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    trimmed = bool(mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES))
    # older versions of glibc refuse more than half of an arena, 32 MiB
    mapped = bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)) or bool(mallopt(_M_MMAP_THRESHOLD, 2**25))
    return trimmed and mapped


def limit_spinning() -> None:
    """Let OpenMP's idle threads spin shortly, then sleep; call it before torch is imported.

    By default they spin for long, and threads that share their cores with another process keep each other from
    working: with two threads on two cores beside other processes, a training step of ResNet-20 on 8x8 digits took up
    to 5 s instead of 0.02 s. Sleeping at once (``OMP_WAIT_POLICY=PASSIVE``) costs a quarter of the speed on a quiet
    machine; 10,000 spins cost nothing there. ``OMP_WAIT_POLICY`` and ``GOMP_SPINCOUNT`` of the environment win.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def hardware() -> dict[str, Any]:
    """The machine: ``cpu`` (model), ``cores``, ``threads`` (of torch), ``ram_bytes`` and ``gpus`` (names)."""
    import torch

    from prunebench.measure.latency import device_name

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": device_name("cpu"),
        "cores": _usable_cores(),
        "threads": torch.get_num_threads(),
        "ram_bytes": _ram_bytes(),
        "gpus": gpus,
    }


def versions() -> dict[str, str]:
    """Versions of Python, the system, each of ``PACKAGES``, and of CUDA, cuDNN and the driver if present."""
    import torch

    found = {"python": platform.python_version(), "os": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"  # e.g. prunebench itself, run from a checkout
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    if torch.backends.cudnn.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    driver = re.search(r"Kernel Module\D*(\d[\d.]*)", _read("/proc/driver/nvidia/version"))
    if driver:
        found["nvidia_driver"] = driver[1]
    return found


def git_state(package: Path = Path(__file__).parents[1]) -> dict[str, Any] | None:
    """State of the checkout that holds the folder ``package``.

    Returns:
        ``commit`` (hash) and ``dirty`` (True with changed or untracked files outside of ``outputs/``: results are no
        code), or None where the package does not lie at the top of a checkout with a commit, or git is missing. A
        copy in the site-packages of another project's checkout is not that project's code.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    commit = _git(package, "rev-parse", "--verify", "HEAD")
    if top is None or commit is None or Path(top).resolve() != package.resolve().parent:
        return None
    status = _git(package.parent, "status", "--porcelain", "--", ".", ":(exclude)outputs")
    return {"commit": commit, "dirty": status != ""}


def in_history(commit: str, package: Path = Path(__file__).parents[1]) -> bool:
    """True if ``commit`` is the current one of the checkout that holds ``package``, or one of its ancestors."""
    known = re.fullmatch(r"[0-9a-f]{7,64}", commit)
    return bool(known) and _git(package, "merge-base", "--is-ancestor", commit, "HEAD") is not None


def _git(folder: Path, *arguments: str) -> str | None:
    # inside a git hook these variables point at the repository of the hook
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _usable_cores() -> int:
    # a container or a batch system may give fewer cores than the machine has
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ram_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
