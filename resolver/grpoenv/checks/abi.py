"""What each compiled package was built for, by its own statements, against what is here.

A wheel says for which Python and platform it is (the tags in ``WHEEL``), and the packages built on
torch name the torch, the CUDA and the C++ ABI that they were compiled with: in a local version
(``+cu12torch2.6cxx11abiFALSE``), in a version file, in build metadata. Nothing is loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, parse_tag
from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.checks.native import NATIVE, cuda_library, severity_of
from grpoenv.distributions import Distribution
from grpoenv.source_tree import SourceTree
from grpoenv.torch_build import TorchBuild, stated_build, torch_abi, torch_build

__all__ = ["CHECK", "TORCHCODEC", "BuiltFor", "built_for"]

_TORCH = NormalizedName("torch")
_BITSANDBYTES = NormalizedName("bitsandbytes")
_TRITON_WINDOWS = NormalizedName("triton-windows")
_LIMIT_BYTES = 64 * 1024
_CUDA = re.compile(r"(?:^|[+.])cu(?P<digits>\d{2,3})(?!\d)")
_TORCH_NAME = re.compile(r"(?:torch|pt)(?P<major>\d)\.?(?P<minor>\d+)")
_CXX_ABI = re.compile(r"cxx11abi(?P<flag>TRUE|FALSE)", re.IGNORECASE)
_TRITON_PIN = re.compile(r"^Requires-Dist: (?P<pin>triton\s*\(?==[^;\s)]+)", re.MULTILINE)
_VERSION_FILE = re.compile(r"__version__\s*=\s*['\"](?P<version>[^'\"]+)")

TORCHCODEC = {
    "0.0": "2.4",
    "0.1": "2.5",
    "0.2": "2.6",
    "0.3": "2.7",
    "0.4": "2.7",
    "0.5": "2.7",
    "0.6": "2.8",
    "0.7": "2.8",
    "0.8": "2.9",
    "0.9": "2.9",
    "0.10": "2.10",
    "0.11": "2.11",
}
"""The torch that each torchcodec was built for, from the table in the README of torchcodec 0.17.
Its metadata states no torch at all. From 0.12 on it keeps to torch's stable interface (>= 2.11)."""
_TORCHCODEC_STABLE = (Version("0.12"), SpecifierSet(">=2.11"))

TORCHAO = {
    "0.13.0": "2.8.0",
    "0.14.0": "2.8.0",
    "0.14.1": "2.9.0",
    "0.15.0": "2.9.1",
    "0.16.0": "2.10.0",
}
"""The torch whose C++ interface each torchao was built for, from the table in torchao 0.16's own
module, which leaves its libraries alone beside any other. Its metadata states no torch. From 0.17
on it keeps to torch's stable interface (>= 2.11)."""
_TORCHAO_STABLE = (Version("0.17"), SpecifierSet(">=2.11"))


@dataclass(frozen=True)
class BuiltFor:
    """What a package says that it was built for; None where it does not say.

    ``torch`` is a range of torch versions that it admits, ``cuda`` a CUDA major version, ``abi``
    whether it was compiled with the C++11 ABI, ``source`` where it says so.
    """

    source: str
    torch: SpecifierSet | None = None
    cuda: int | None = None
    abi: bool | None = None


def built_for(distribution: Distribution, tree: SourceTree | None) -> BuiltFor:
    """Return what ``distribution`` says of the torch and the CUDA it was built for.

    ``tree`` has its files, None where only its version is known.
    """
    name = distribution.name
    if name == "xformers":
        return _xformers(distribution, tree)
    text, source = _stated(distribution, tree)
    cuda, torch = _CUDA.search(text), _TORCH_NAME.search(text)
    abi = _CXX_ABI.search(text)
    range_ = SpecifierSet(f"=={torch['major']}.{torch['minor']}.*") if torch else None
    if name == "torchcodec":
        range_ = _torchcodec(distribution.version)
    elif name == "torchao":
        range_ = _torchao(distribution.version)
    return BuiltFor(
        source,
        range_,
        _major(cuda["digits"]) if cuda else None,
        abi["flag"].upper() == "TRUE" if abi else None,
    )


def _stated(distribution: Distribution, tree: SourceTree | None) -> tuple[str, str]:
    """Return the fullest version text of a package, and where it stands."""
    if distribution.version.local:
        return f"+{distribution.version.local}", str(distribution.info)
    address = _read(distribution.info / "direct_url.json")
    if _TORCH_NAME.search(address) or _CXX_ABI.search(address):
        return address.replace("%2B", "+"), str(distribution.info / "direct_url.json")
    text, source = _text(tree, f"{distribution.name.replace('-', '_')}/version.py")
    match = _VERSION_FILE.search(text)
    return (match["version"], source) if match else ("", str(distribution.info))


def _text(tree: SourceTree | None, path: str) -> tuple[str, str]:
    """Return the beginning of a file, empty where it cannot be read, and where it is."""
    try:
        if tree is not None:
            return tree.read(path)[:_LIMIT_BYTES].decode("utf-8", "replace"), tree.locate(path)
    except (OSError, KeyError):
        pass
    return "", path


def _xformers(distribution: Distribution, tree: SourceTree | None) -> BuiltFor:
    text, file = _text(tree, "xformers/cpp_lib.json")
    try:
        build = json.loads(text)["version"]
        torch, cuda = Version(build["torch"]), build["cuda"]
        exact = SpecifierSet(f"=={torch.public}")
        # From 0.0.34 on it declares torch >= 2.10 and keeps to torch's stable interface.
        stable = distribution.version >= Version("0.0.34")
        range_ = SpecifierSet(">=2.10") if stable else exact
        return BuiltFor(file, range_, cuda // 100 if cuda else None)
    except (ValueError, KeyError, TypeError):
        return BuiltFor(file)


def _torchcodec(version: Version) -> SpecifierSet | None:
    if version >= _TORCHCODEC_STABLE[0]:
        return _TORCHCODEC_STABLE[1]
    torch = TORCHCODEC.get(f"{version.major}.{version.minor}")
    return SpecifierSet(f"=={torch}.*") if torch else None


def _torchao(version: Version) -> SpecifierSet | None:
    if version >= _TORCHAO_STABLE[0]:
        return _TORCHAO_STABLE[1]
    torch = TORCHAO.get(version.public)
    return SpecifierSet(f"=={torch}") if torch else None


def _major(digits: str) -> int:
    """Return the CUDA major version of ``"128"``, ``"118"``, ``"13"`` or ``"12"``."""
    return int(digits[:2])


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _run(environment: Environment) -> Iterator[Finding]:
    accepted = set(environment.probe.tags())
    for name in environment.installed:
        # of what is not installed uv has taken the wheel that fits
        if environment.planned is None and (environment.concerns(name) or name in NATIVE):
            yield from _tags(environment, name, accepted)
    if _TORCH in environment.installed:
        for name in NATIVE:
            if name in environment.installed and name != _TORCH:
                yield from _torch(environment, name)
        if _BITSANDBYTES in environment.trees:
            yield from _bitsandbytes(environment, environment.trees[_BITSANDBYTES])
        if _TRITON_WINDOWS in environment.installed and _TORCH in environment.trees:
            yield from _triton_windows(environment, environment.trees[_TORCH])


def _tags(environment: Environment, name: NormalizedName, accepted: set[Tag]) -> Iterator[Finding]:
    path = environment.installed[name].info / "WHEEL"
    stated = [
        line.partition(":")[2].strip()
        for line in _read(path).splitlines()
        if line.lower().startswith("tag:")
    ]
    tags = {tag for text in stated if text.count("-") == 2 for tag in parse_tag(text)}
    # A free-threaded Python takes cp313-cp313t, and cp313-cp313 is what the probe names.
    tags = {Tag(tag.interpreter, tag.abi.removesuffix("t"), tag.platform) for tag in tags}
    if tags and not tags & accepted:
        python, machine = environment.probe.interpreter.minor, environment.probe.machine
        yield Finding(
            Severity.PROBLEM,
            environment.label(name),
            f"is a wheel for {', '.join(stated)}, and this is Python {python} on {machine} with "
            f"{environment.probe.libc}",
            str(path),
        )


def _torch(environment: Environment, name: NormalizedName) -> Iterator[Finding]:
    tree = environment.trees.get(name)
    if environment.is_own_build(name):
        tree = None  # the wheel that the index has of that version is another build
    states = built_for(environment.installed[name], tree)
    if states.cuda is None and tree is not None and environment.is_own_build(_TORCH):
        states = _built_beside_torch(environment, name, states)
    if reason := _mismatch(environment, states):
        yield Finding(
            severity_of(environment, name),
            environment.label(name),
            f"was built for {reason}; {NATIVE[name].consequence}",
            states.source,
        )


def _built_beside_torch(
    environment: Environment, name: NormalizedName, states: BuiltFor
) -> BuiltFor:
    """Return ``states`` with the CUDA of the index's own torch, where ``name`` is pinned to that.

    vLLM's wheel says nowhere what CUDA it needs; it is built beside the one torch that it admits.
    """
    torch, label = environment.installed[_TORCH].version, environment.label(name)
    pins = {f"torch=={torch.public}", f"torch (=={torch.public})"}
    build = stated_build(environment.trees[_TORCH]) if _TORCH in environment.trees else None
    declared = {text.partition(";")[0].strip() for text in environment.installed[name].requires()}
    if not pins & declared or not isinstance(build, TorchBuild) or build.cuda is None:
        return states
    source = f"Requires-Dist of {label}: torch=={torch.public}; the index's own is {build.source}"
    return replace(states, cuda=build.cuda[0], source=source)


def _bitsandbytes(environment: Environment, tree: SourceTree) -> Iterator[Finding]:
    """Yield that none of its libraries is for the CUDA of torch."""
    build, version = torch_build(environment), environment.installed[_BITSANDBYTES].version
    paths = [path for path in tree.paths() if "libbitsandbytes_cuda" in path]
    if not paths or not isinstance(build, TorchBuild) or build.cuda is None or build.other:
        return
    if cuda_library(version, paths, build.cuda) is None:
        trained = NormalizedName("unsloth") in environment.installed
        major, minor = build.cuda
        yield Finding(
            Severity.PROBLEM if trained else Severity.WARNING,
            environment.label(_BITSANDBYTES),
            f"has no library for CUDA {major}.{minor}, which {environment.label(_TORCH)} is built "
            f"for; {NATIVE[_BITSANDBYTES].consequence}"
            + (", and unsloth loads models so unless told otherwise" if trained else ""),
            ", ".join(sorted(path.rpartition("/")[2] for path in paths)),
        )


def _triton_windows(environment: Environment, torch: SourceTree) -> Iterator[Finding]:
    """Yield that torch pairs with another minor version of triton.

    torch declares its triton for Linux alone, in its wheels for Windows, too; the one for Windows
    is others' work, under another name that nothing declares.
    """
    path = next((path for path in torch.paths() if path.endswith(".dist-info/METADATA")), "")
    text, source = _text(torch, path)
    match = _TRITON_PIN.search(text)
    if match is None:
        return
    pinned = Requirement(match["pin"].replace("(", "")).specifier
    asked = Version(next(iter(pinned)).version)
    found = environment.installed[_TRITON_WINDOWS].version
    if found.release[:2] != asked.release[:2]:
        compiles = NormalizedName("unsloth") in environment.installed
        yield Finding(
            Severity.PROBLEM if compiles else Severity.WARNING,
            environment.label(_TRITON_WINDOWS),
            f"is in the place of triton {asked}, which {environment.label(_TORCH)} is made for: "
            "what torch compiles takes names that another minor version moves"
            + (", and unsloth has it compile" if compiles else ""),
            source,
        )


def _mismatch(environment: Environment, states: BuiltFor) -> str:
    """Return what ``states`` asks for and the installed torch is not, "" if it is all."""
    torch = environment.installed[_TORCH]
    build, label = torch_build(environment), environment.label(_TORCH)
    if states.torch and not states.torch.contains(torch.version.public, prereleases=True):
        return f"torch {states.torch}, and this is {label}"
    if states.cuda and isinstance(build, TorchBuild) and not build.other:
        if build.cuda is None:
            return f"CUDA {states.cuda}, and {label} is a build without CUDA"
        if build.cuda[0] != states.cuda:
            major, minor = build.cuda
            return f"CUDA {states.cuda}, and {label} for CUDA {major}.{minor}"
    abi = torch_abi(environment)
    if None not in (states.abi, abi) and states.abi != abi:
        return (
            f"the {'new' if states.abi else 'old'} C++ ABI (cxx11abi"
            f"{str(states.abi).upper()}), and {label} has the other"
        )
    return ""


CHECK = Check(
    "abi",
    "wheels fit this Python and platform, and what is built on torch fits this build of it",
    _run,
    evidence="WHEEL, local versions, version files, build metadata of the packages",
    seconds=0.2,
)
