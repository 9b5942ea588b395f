r"""Locks: one hashed requirements file per stack and target.

A lock is a requirements file that ``uv pip sync`` and ``pip install`` take as it is, of a strict
form: exact pins, at least one SHA-256 per pin, no options, no markers, no addresses. Comments of the
form ``# key=value`` under a pin carry what a plan needs to know without a network::

    torch==2.13.0 \
        --hash=sha256:0123… \
        --hash=sha256:4567…
        # size=532711000
        # cpu-build=2.13.0+cpu
        # cpu-hash=sha256:4567…
        # cpu-size=191000000
    triton==3.7.1 \
        --hash=sha256:89ab…
        # size=188000000
        # only=cuda
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version

from grpoenv.errors import InputError
from grpoenv.reading import read_text

__all__ = ["LOCK_LIMIT_BYTES", "CpuBuild", "Lock", "Pin", "parse_lock", "read_lock", "render_lock"]

LOCK_LIMIT_BYTES = 4 * 1024 * 1024
_PIN_STARTS = re.compile(r"\n(?=[^\s#])")
_SAYS_NOTHING = re.compile(r"\n(?:#.*|\s*)$", re.MULTILINE)
_HEAD = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)(?: \\)?")
_HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")
_NOTE = re.compile(r"    # [a-z-]+=\S+")
_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)"
    r"(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)"
    r"(?P<notes>(?:\n    # [a-z-]+=\S+)*)"
)


@dataclass(frozen=True)
class CpuBuild:
    """A build of a package without CUDA, which a machine without a GPU may take instead."""

    version: Version
    hash: str
    size_bytes: int


@dataclass(frozen=True)
class Pin:
    """One exact version with the SHA-256 of every file that may be installed for it.

    ``size_bytes`` is the size of the wheel for the lock's target; ``cuda_only`` is true for what
    only the CUDA build of torch needs.
    """

    name: NormalizedName
    version: Version
    hashes: tuple[str, ...]
    size_bytes: int
    cpu: CpuBuild | None = None
    cuda_only: bool = False


@dataclass(frozen=True)
class Lock:
    """All pins of one stack for one target, by canonical name, in alphabetical order."""

    pins: dict[NormalizedName, Pin]

    def cuda(self) -> tuple[int, int] | None:
        """Return the CUDA version (major, minor) of the pinned torch build, None if it has none."""
        for name, pin in self.pins.items():
            if name == "nvidia-cuda-runtime" or name.startswith("nvidia-cuda-runtime-cu"):
                return pin.version.major, pin.version.minor
        return None


def read_lock(path: Path) -> Lock:
    """Read and check the lock at ``path``; raises InputError with file and line."""
    return parse_lock(read_text(path, limit_bytes=LOCK_LIMIT_BYTES), path=path)


def parse_lock(text: str, *, path: Path) -> Lock:
    """Parse the text of a lock; ``path`` serves the messages.

    Raises InputError with file and line for anything that is not of the form above.
    """
    pins: dict[NormalizedName, Pin] = {}
    head, *blocks = _PIN_STARTS.split("\n" + text)
    for number, line in enumerate(head.split("\n")):
        if _says_something(line):
            raise InputError(f"{line!r} belongs to no pin", path=path, line=number)
    for number, block in enumerate(blocks):
        try:
            pin = _known_pin(block)
        except InputError:
            pin = _parse_pin(block, path, _first_line(head, blocks[:number]))
        if pin.name in pins:
            line_number = _first_line(head, blocks[:number])
            raise InputError(f"{pin.name} is pinned twice", path=path, line=line_number)
        pins[pin.name] = pin
    if not pins:
        raise InputError("pins nothing", path=path, line=1)
    return Lock(pins)


def render_lock(pins: Iterable[Pin], *, header: str = "") -> str:
    """Return the text of a lock: the inverse of ``parse_lock``, in one canonical form."""
    lines = [f"# {line}" for line in header.splitlines()]
    for pin in sorted(pins, key=lambda pin: pin.name):
        lines.append(f"{pin.name}=={pin.version} \\")
        lines.extend(f"    --hash={hash_} \\" for hash_ in pin.hashes[:-1])
        lines.append(f"    --hash={pin.hashes[-1]}")
        lines.append(f"    # size={pin.size_bytes}")
        if pin.cpu:
            lines.append(f"    # cpu-build={pin.cpu.version}")
            lines.append(f"    # cpu-hash={pin.cpu.hash}")
            lines.append(f"    # cpu-size={pin.cpu.size_bytes}")
        if pin.cuda_only:
            lines.append("    # only=cuda")
    return "\n".join(lines) + "\n"


def _first_line(head: str, blocks: Sequence[str]) -> int:
    """Return the number of the line that follows ``head`` and ``blocks``."""
    return 1 + head.count("\n") + sum(block.count("\n") + 1 for block in blocks)


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


@cache
def _known_pin(block: str) -> Pin:
    """Return the pin that ``block`` states: most of a lock stands in many others, word for word."""
    return _parse_pin(block, Path(), 0)


_version = cache(Version)


def _parse_pin(block: str, path: Path, first: int) -> Pin:
    pin = _PIN.fullmatch(block) or _PIN.fullmatch(_SAYS_NOTHING.sub("", block))
    if not pin:
        raise _why_no_pin(block, path, first)
    try:
        version = _version(pin["version"])
    except InvalidVersion as error:
        raise InputError(f"{pin['version']!r} is no version", path=path, line=first) from error
    hashes = tuple(line.rpartition("=")[2] for line in pin["hashes"].split(" \\\n")[1:])
    notes = dict(line[6:].split("=", 1) for line in pin["notes"].split("\n")[1:])
    return _with_notes(canonicalize_name(pin["name"]), version, hashes, notes, path, first)


def _why_no_pin(block: str, path: Path, first: int) -> InputError:
    """Return the error for the first line of ``block`` that is not as a pin has it."""
    head, *others = block.split("\n")
    if head.startswith("-"):
        option = head.split()[0].split("=")[0]
        told = f"{option} does not belong in a lock: it holds pins and hashes, no options"
        return InputError(told, path=path, line=first)
    if not _HEAD.fullmatch(head):
        told = f"expected name==version, found {head.strip()!r}"
        return InputError(told, path=path, line=first)
    expects_hash = head.endswith("\\")
    for number, line in enumerate(others, start=first + 1):
        if _says_something(line):
            if not (_HASH if expects_hash else _NOTE).fullmatch(line):
                wanted = "a --hash=sha256:… line" if expects_hash else "a '# key=value' line"
                told = f"expected {wanted}, found {line.strip()!r}"
                return InputError(told, path=path, line=number)
            expects_hash = line.endswith("\\")
    pin = head.removesuffix(" \\")
    told = f"{pin} has no hash; a lock installs nothing unhashed"
    if expects_hash and others:
        told = f"{pin}: nothing follows the last backslash"
    return InputError(told, path=path, line=first)


def _with_notes(
    name: NormalizedName,
    version: Version,
    hashes: tuple[str, ...],
    notes: dict[str, str],
    path: Path,
    line: int,
) -> Pin:
    unknown = notes.keys() - {"size", "cpu-build", "cpu-hash", "cpu-size", "only"}
    if unknown:
        raise InputError(f"{name}: unknown note {min(unknown)!r}", path=path, line=line)
    if notes.get("only", "cuda") != "cuda":
        raise InputError(f"{name}: only={notes['only']!r} is not known", path=path, line=line)
    try:
        cpu = None
        if "cpu-build" in notes:
            cpu = CpuBuild(Version(notes["cpu-build"]), notes["cpu-hash"], int(notes["cpu-size"]))
        size = int(notes["size"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{name}: bad or missing note: {error}", path=path, line=line) from error
    if cpu and cpu.hash not in hashes:
        raise InputError(f"{name}: cpu-hash is none of its hashes", path=path, line=line)
    return Pin(name, version, hashes, size, cpu, "only" in notes)
