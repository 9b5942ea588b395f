"""What was found: needs that are met, needs that are not, and what could not be looked into."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from grpoenv.linker.modules import Module, Opaque
from grpoenv.linker.values import Unknown, Value

__all__ = ["Fault", "Faults", "Need", "Phase"]


_VERBS = {
    "module": "imports",
    "name": "imports",
    "attribute": "uses",
    "key": "reads",
    "call": "calls",
    "result": "unpacks",
    "refusal": "decides on",
    "keyword": "reads",
    "copied": "copies",
    "override": "overrides",
    "setter": "sets",
}


class Phase(str, Enum):
    """When a need is reached."""

    IMPORT = "import"
    RUN = "run"
    OPTION = "option"


@dataclass(frozen=True)
class Need:
    """What one place of a package takes from another: a module, a name in it, a key, a call."""

    kind: str
    module: str
    name: str
    consumer: Module = field(repr=False, compare=False)
    line: int

    @property
    def where(self) -> str:
        """File and line of the place that takes it."""
        return f"{self.consumer.where()}:{self.line}"

    @property
    def verb(self) -> str:
        """What the place does with it."""
        return _VERBS[self.kind]

    @property
    def what(self) -> str:
        """The need as it reads in a message."""
        return f"{self.module}.{self.name}" if self.name else self.module


@dataclass(frozen=True)
class Fault:
    """A need that is certainly not met.

    ``sure`` tells that its place is certainly reached, ``caught`` that a ``try`` is prepared for it.
    ``provider`` is the package that would have to provide it, ``start`` the import that leads there.
    """

    need: Need
    exception: str
    reason: str
    provider: str
    phase: Phase
    sure: bool
    caught: bool
    start: str = ""


class Faults:
    """Collects what is found, each place once, with the worst that is known of it."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, int, str], Fault] = {}
        self.opaque_modules: dict[str, str] = {}
        self.undecided: dict[tuple[str, str, str], str] = {}
        self.needs: set[tuple[str, str, str]] = set()

    def add(self, fault: Fault) -> None:
        """Add a fault."""
        key = (fault.need.consumer.path, fault.need.line, fault.need.what)
        before = self.found.get(key)
        if before is None or _rank(fault) < _rank(before):
            self.found[key] = fault

    def opaque(self, module: Opaque) -> None:
        """Note a module that could not be looked into."""
        self.opaque_modules.setdefault(module.name, module.reason)

    def met(self, kind: str, what: str, consumer: Module, value: Value | None = None) -> None:
        """Note a need that is met, or of which nothing can be told."""
        key = (kind, what, consumer.path)
        if isinstance(value, Unknown) and value.reason:
            self.undecided.setdefault(key, value.reason)
        self.needs.add(key)


def _rank(fault: Fault) -> tuple[bool, bool, int]:
    return (fault.caught, not fault.sure, list(Phase).index(fault.phase))
