"""What a check is given and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from pathlib import Path

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.distributions import Distribution
from grpoenv.lockfile import Lock
from grpoenv.matrix import MAIN_PACKAGES, Matrix, Stack
from grpoenv.probe import Probe
from grpoenv.source_tree import InstalledTree, SourceTree
from grpoenv.visible import visible

__all__ = ["MANAGED", "Check", "Environment", "Finding", "Severity", "Use"]

MANAGED = (
    *MAIN_PACKAGES,
    *map(
        NormalizedName,
        ("tokenizers", "huggingface-hub", "safetensors", "torchvision", "torchaudio", "torchao"),
    ),
)
"""The packages that grpoenv manages: what is wrong between two of them concerns every user."""


class Severity(str, Enum):
    """How much a finding matters: only a problem makes an environment unsound."""

    PROBLEM = "problem"
    UNDETERMINED = "undetermined"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    ``culprit`` is the package to blame with its version, ``evidence`` says how one can see it for
    oneself (a file and line, a break of the matrix, a declared range), ``chain`` leads from what
    the user asked for to the culprit. ``file`` and ``line`` are there where the culprit is a file
    of the user's. A ``remedy`` of its own goes before the one that ``grpoenv verify`` finds for the
    environment. ``symbol`` is the name that is missing, where one is: by it two checks are known to
    say the same.
    """

    severity: Severity
    culprit: str
    message: str
    evidence: str
    check: str = ""
    remedy: str = ""
    chain: tuple[str, ...] = ()
    file: Path | None = None
    line: int = 0
    symbol: str = ""

    def shown(self) -> Finding:
        """Return the finding with nothing hidden in its texts, whatever files they come from."""
        return replace(
            self,
            culprit=visible(self.culprit),
            message=visible(self.message),
            evidence=visible(self.evidence),
            remedy=visible(self.remedy),
            chain=tuple(map(visible, self.chain)),
        )


@dataclass(frozen=True)
class Use:
    """How the environment is going to be used: where from, with what, and how closely to look.

    ``folder`` is the one that training is started in, None where nobody said; ``variables`` are
    the environment variables that it is started with; ``scripts`` are the user's own files;
    ``asked`` are packages that the user names, and so means to import;
    ``deep`` lets checks run that take long, or run code of the environment in a child process.
    """

    folder: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    scripts: tuple[Path, ...] = ()
    asked: frozenset[NormalizedName] = frozenset()
    deep: bool = False


@dataclass(frozen=True, eq=False)
class Environment:
    """What the checks look at.

    ``stack`` and ``lock`` are those that grpoenv installed here, None where it installed none.
    ``planned`` holds the sources of an environment that does not exist yet, None for one that does.
    Of a package that is not in ``installed`` nothing is known unless that is ``complete``.
    """

    probe: Probe
    installed: dict[NormalizedName, Distribution]
    matrix: Matrix
    stack: Stack | None = None
    lock: Lock | None = None
    use: Use = Use()
    planned: Mapping[NormalizedName, SourceTree] | None = None
    complete: bool = True

    @cached_property
    def trees(self) -> Mapping[NormalizedName, SourceTree]:
        """The sources of each package that has some to read."""
        if self.planned is not None:
            return self.planned
        return {name: InstalledTree(found) for name, found in self.installed.items()}

    @cached_property
    def versions(self) -> dict[NormalizedName, Version]:
        """The installed versions by canonical name."""
        return {name: distribution.version for name, distribution in self.installed.items()}

    def concerns(self, name: NormalizedName) -> bool:
        """Tell whether ``name`` belongs to the stack or is asked about: it is no odd neighbour."""
        if name in MANAGED or name in self.use.asked:
            return True
        return self.lock is not None and name in self.lock.pins

    def is_own_build(self, name: NormalizedName) -> bool:
        """Tell whether an image that is only planned with has a build of its own of ``name``."""
        return self.planned is not None and self.installed[name].version.local is not None

    def label(self, name: NormalizedName) -> str:
        """Return ``"name version"`` as installed."""
        return f"{name} {self.installed[name].version}" if name in self.installed else name


@dataclass(frozen=True)
class Check:
    """A check: its ``name``, what it ``proves``, and the function that runs it.

    ``evidence`` says where what it goes by can be seen, ``seconds`` how long it may take on a
    whole stack (a check with a child process ends the child then). One that is ``deep`` runs only
    where that is asked for.
    """

    name: str
    proves: str
    run: Callable[[Environment], Iterable[Finding]]
    evidence: str = ""
    seconds: float = 1.0
    deep: bool = False
