"""What the self-test remembers: fingerprints of the environments that passed it.

On the import path of the package, so it imports nothing heavy. Only success is remembered; a
failure is looked into again at every import. The file is disposable.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch

from grpoenv import __version__
from grpoenv.private_cache import read_private, user_cache_folder, write_private

__all__ = ["CACHE_FILE", "accelerator_present", "fingerprint", "passed_before", "remember_pass"]

CACHE_FILE: Final = "self-test-v1.json"
_SCHEMA: Final = 1
_MOST_ENTRIES: Final = 32
_MOST_BYTES: Final = 16 * 1024
_DRIVER: Final = Path("/proc/driver/nvidia")
# Device nodes of NVIDIA, AMD and Intel accelerators: a look at them wakes no driver.
_DEVICE_NODES: Final = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dri/renderD128")


def accelerator_present() -> bool:
    """Whether torch is built for an accelerator that this machine may have; asks no driver."""
    versions = torch.version
    built = versions.cuda or getattr(versions, "hip", None) or getattr(versions, "xpu", None)
    return built is not None and any(os.path.exists(node) for node in _DEVICE_NODES)


def fingerprint() -> str:
    """Return a digest of what the self-test's outcome depends on: grpoenv, torch, triton, device.

    The code of this package counts by the size and time of its files, so that an edited checkout
    is tested anew.
    """
    parts = [
        __version__,
        sys.version,
        platform.machine(),
        torch.__version__,
        str(torch.version.cuda),
        str(getattr(torch.version, "hip", None)),
        torch.backends.cpu.get_cpu_capability(),
        _stamp_of("triton"),
        _read(_DRIVER / "version"),
        *_names(_DRIVER / "gpus"),
        os.environ.get("CUDA_VISIBLE_DEVICES", "-"),
        *_sources("grpoenv_kernels"),
        *_sources("grpoenv_runtime"),
    ]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def passed_before(mark: str, folder: Path | None = None) -> bool:
    """Whether an environment with this fingerprint has passed."""
    return mark in _entries(folder or user_cache_folder())


def remember_pass(mark: str, folder: Path | None = None) -> bool:
    """Add a fingerprint, forgetting the oldest beyond 32; return whether it could be kept."""
    folder = folder or user_cache_folder()
    kept = [entry for entry in _entries(folder) if entry != mark]
    content = {"schema": _SCHEMA, "passed": [*kept, mark][-_MOST_ENTRIES:]}
    return write_private(folder, CACHE_FILE, json.dumps(content).encode())


def _entries(folder: Path) -> list[str]:
    content = read_private(folder, CACHE_FILE, _MOST_BYTES)
    if content is None:
        return []
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return []
    if not isinstance(fields, dict) or fields.get("schema") != _SCHEMA:
        return []
    passed = fields.get("passed")
    return passed if isinstance(passed, list) and all(isinstance(x, str) for x in passed) else []


def _sources(package: str) -> list[str]:
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    return [stamp for folder in folders or () for stamp in _stamps(folder)]


def _stamps(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        files = sorted((entry.name, entry.stat()) for entry in entries if entry.name[-3:] == ".py")
    return [f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in files]


def _stamp_of(package: str) -> str:
    """Return place, size and time of a package's first file, without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return "absent"
    status = os.stat(spec.origin)
    return f"{spec.origin} {status.st_size} {status.st_mtime_ns}"


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return "absent"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
