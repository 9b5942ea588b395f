"""What the installed torch was built for, read from its files: CUDA, and the GPUs it has code for.

``torch/version.py`` names the CUDA version; ``libtorch_python`` holds the text that
``torch.cuda.get_arch_list()`` splits, such as ``sm_75 sm_80 compute_90``.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.checks.interface import Environment
from grpoenv.distributions import Distribution
from grpoenv.source_tree import SourceTree

__all__ = ["TorchBuild", "UnknownBuild", "arch_list", "stated_build", "torch_abi", "torch_build"]

_TORCH = NormalizedName("torch")
_VERSION_FILE = "torch/version.py"
_LABEL = re.compile(r"cpu|cu(\d+)(\d)")
_CUDA = re.compile(
    r"^cuda(?:\s*:[^=]+)?\s*=\s*(?:None|['\"](?P<major>\d+)\.(?P<minor>\d+))", re.MULTILINE
)
_HIP = re.compile(r"^(?:hip|rocm|xpu)(?:\s*:[^=]+)?\s*=\s*['\"]", re.MULTILINE)
_FIRST_ALL_CXX11 = Version("2.7")
_CMAKE = "torch/share/cmake/Torch/TorchConfig.cmake"
_CMAKE_ABI = re.compile(r"_GLIBCXX_USE_CXX11_ABI=(?P<flag>[01])")
_ARCHITECTURES = re.compile(rb"(?:(?:sm|compute)_\d+[af]? ?)+(?=\0)")


@dataclass(frozen=True)
class TorchBuild:
    """A build of torch: its CUDA (major, minor), None for one without; ``source`` says so.

    ``other`` tells that it is a build for ROCm or XPU.
    """

    cuda: tuple[int, int] | None
    source: str
    other: bool = False


@dataclass(frozen=True)
class UnknownBuild:
    """What torch was built for could not be read, for ``reason``."""

    reason: str
    source: str


def torch_build(environment: Environment) -> TorchBuild | UnknownBuild:
    """Return what the torch of ``environment`` is built for.

    An image keeps its own build of torch, such as 2.11.0+cu128: then the label tells, because the
    wheel that the index has of that version is another build.
    """
    if _TORCH not in environment.trees:
        return UnknownBuild("torch is not installed", environment.label(_TORCH))
    tree, label = environment.trees[_TORCH], environment.installed[_TORCH].version.local or ""
    source = tree.locate(_VERSION_FILE)
    if environment.planned is not None and (match := _LABEL.fullmatch(label)):
        return TorchBuild((int(match[1]), int(match[2])) if match[1] else None, source)
    return stated_build(tree)


def stated_build(tree: SourceTree) -> TorchBuild | UnknownBuild:
    """Return what a build of torch says of itself."""
    source = tree.locate(_VERSION_FILE)
    try:
        text = tree.read(_VERSION_FILE).decode("utf-8", errors="replace")
    except OSError as error:
        return UnknownBuild(f"{source} cannot be read: {error.strerror or error}", source)
    except KeyError:
        return UnknownBuild(f"it has no {_VERSION_FILE}", source)
    match = _CUDA.search(text)
    if match is None:
        return UnknownBuild(f"{source} names no CUDA version", source)
    cuda = (int(match["major"]), int(match["minor"])) if match["major"] else None
    return TorchBuild(cuda, source, bool(_HIP.search(text)))


def torch_abi(environment: Environment) -> bool | None:
    """Return whether torch was compiled with the C++11 ABI, None if it does not say.

    All official builds are from 2.7 on; those before say it in their CMake configuration.
    """
    if _TORCH not in environment.installed:
        return None
    if environment.installed[_TORCH].version >= _FIRST_ALL_CXX11:
        return True
    if environment.is_own_build(_TORCH):
        return None
    try:
        text = environment.trees[_TORCH].read(_CMAKE).decode("utf-8", errors="replace")
    except (OSError, KeyError):
        return None
    match = _CMAKE_ABI.search(text)
    return match["flag"] == "1" if match else None


def arch_list(installed: Mapping[NormalizedName, Distribution]) -> tuple[list[str], Path] | None:
    """Return the GPU architectures that torch has code for, and the library that says so.

    They are as in ``torch.cuda.get_arch_list()``: machine code (``sm_86``) and PTX
    (``compute_90``). None where the library cannot be read or holds no such text.
    """
    if _TORCH not in installed:
        return None
    path = installed[_TORCH].info.parent / "torch" / "lib" / "libtorch_python.so"
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            found = _find_architectures(text)
    except (OSError, ValueError):
        return None
    return (found.decode("ascii").split(), path) if found else None


def _find_architectures(text: mmap.mmap) -> bytes | None:
    start = 0
    while (start := text.find(b"\0sm_", start) + 1) > 0:
        if match := _ARCHITECTURES.match(text, start):
            return match[0]
    return None
