"""The compatibility matrix: tested stacks and known breaks, each with its evidence.

``compat-matrix.toml`` holds (``?`` marks what may be left out)::

    schema = 1
    [[stack]]            id, runtime, summary, requires[], as_of, image?, keeps[]?
    [stack.versions]     package = "version", the main ones, equal in every lock of the stack
    [[stack.addition]]   package, reason            what the stack needs and nothing declares
    [[stack.target]]     python, platform, lock, sha256, lacks[]?
    [[stack.target.evidence]]  level, date, grpoenv, machine, command, note?, and of a campaign's
                         cell seconds?, memory_mib?, log?
    [[stack.target.failure]]   level, step, error, and the fields of evidence
    [[break]]            id, class, summary, symptom, symbol?, reference?
    [break.when]         package = "specifier"; it breaks where all of them hold
    [[break.evidence]]   date, machine, command, note?

Nothing else is allowed, so that a misspelt key is an error and not silence.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName
from packaging.version import Version

__all__ = [
    "MAIN_PACKAGES",
    "RUNTIMES",
    "SCHEMA",
    "WINDOWS",
    "Addition",
    "Break",
    "Evidence",
    "Failure",
    "Level",
    "Matrix",
    "Observation",
    "Stack",
    "Target",
]

SCHEMA = 1
MAIN_PACKAGES = tuple(
    NormalizedName(name)
    for name in [
        "unsloth",
        "unsloth-zoo",
        "trl",
        "torch",
        "transformers",
        "triton",
        "numpy",
        "peft",
        "accelerate",
        "datasets",
        "bitsandbytes",
        "xformers",
        "vllm",
    ]
)
"""The packages whose versions a row of the matrix states, in this order."""
RUNTIMES = ("unsloth", "trl")
WINDOWS = "x86_64-pc-windows-msvc"
"""uv's name of the only platform besides Linux that stacks are locked for."""


class Level(IntEnum):
    """How far a stack was really run, in rising order."""

    RESOLVED = 1
    LINKED = 2
    IMPORTED = 3
    TRAINED = 4
    GPU = 5

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Observation:
    """A recorded run: when, on what machine, by which command."""

    date: datetime.date
    machine: str
    command: str
    note: str = ""


@dataclass(frozen=True)
class Evidence(Observation):
    """A recorded run that raises a stack's target to ``level``.

    A cell of a campaign tells what it took, too: ``seconds`` for all its steps, the ``memory_mib``
    of its processes at the most, and in ``log`` the SHA-256 of what they printed.
    """

    level: Level = Level.RESOLVED
    grpoenv: str = ""
    seconds: int = 0
    memory_mib: int = 0
    log: str = ""


@dataclass(frozen=True)
class Failure(Evidence):
    """A recorded run that could not raise a stack's target to ``level``: it is unusable there.

    ``step`` is the first step of that run that failed and ``error`` its exception.
    """

    step: str = ""
    error: str = ""

    @property
    def only_without_gpu(self) -> bool:
        """Tell whether it may be different on a GPU: training on a CPU does not tell of that."""
        return self.level is Level.TRAINED and self.machine.endswith("no GPU")


@dataclass(frozen=True)
class Target:
    """One interpreter and platform that a stack is locked for.

    ``python`` is ``"3.11"``; ``platform`` is uv's name of it, as ``"x86_64-manylinux_2_28"``;
    ``lock`` is a path below the folder of locks and ``sha256`` the digest of that file; ``lacks``
    are main packages of the stack that this platform has no need of.
    """

    python: str
    platform: str
    lock: str
    sha256: str
    evidence: tuple[Evidence, ...]
    lacks: tuple[NormalizedName, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def platform_tag(self) -> str:
        """The tag of wheels for the platform, such as ``manylinux_2_28_x86_64``."""
        machine, _, libc = self.platform.partition("-")
        return "win_amd64" if self.platform == WINDOWS else f"{libc}_{machine}"

    @property
    def level(self) -> Level:
        """The strongest evidence there is."""
        return max(row.level for row in self.evidence)


@dataclass(frozen=True)
class Addition:
    """A package that a stack needs although nothing in it declares so."""

    package: NormalizedName
    reason: str


@dataclass(frozen=True)
class Stack:
    """Exact versions that were tested together.

    ``image`` names the hosted image the stack was made for; ``keeps`` are packages of that image
    which have to be installed already, in the locked version, and are not touched. The stack was
    resolved from what had been published on the day ``as_of``.
    """

    id: str
    runtime: str
    summary: str
    requires: tuple[Requirement, ...]
    versions: dict[NormalizedName, Version]
    targets: tuple[Target, ...]
    as_of: datetime.date
    image: str = ""
    keeps: tuple[NormalizedName, ...] = ()
    additions: tuple[Addition, ...] = ()

    @property
    def main_version(self) -> Version:
        """The version of the package that gives the stack its name."""
        return self.versions[NormalizedName(self.runtime)]


@dataclass(frozen=True)
class Break:
    """Versions that do not work together although their metadata allows it.

    It applies where every package of ``when`` is installed in a version that its specifier
    contains. ``kind`` is the class of the failure and ``symbol`` the first name that is missing.
    """

    id: str
    kind: str
    summary: str
    symptom: str
    when: dict[NormalizedName, SpecifierSet]
    evidence: tuple[Observation, ...]
    symbol: str = ""
    reference: str = ""

    def applies(self, installed: dict[NormalizedName, Version]) -> bool:
        """Tell whether the ``installed`` versions, by canonical name, are broken in this way."""
        return all(
            name in installed and specifier.contains(installed[name], prereleases=True)
            for name, specifier in self.when.items()
        )


@dataclass(frozen=True)
class Matrix:
    """All stacks and breaks of one file."""

    path: Path
    stacks: tuple[Stack, ...] = ()
    breaks: tuple[Break, ...] = field(default=())
