"""Pairs of releases of two packages that import each other, many at a time.

Each release is followed once, alone; what it takes from the other package is written down in the
order in which an import of it gets there (`scan`). A pair is then only looked up: does the other
release have each of these? An answer is worked out once for each need and release.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grpoenv.linker.execute import Interpreter
from grpoenv.linker.faults import Faults, Phase
from grpoenv.linker.flow import keeps
from grpoenv.linker.frames import Frame
from grpoenv.linker.link import FOLLOWED
from grpoenv.linker.modules import Module, Opaque
from grpoenv.linker.room import roomy
from grpoenv.linker.values import Absent, Const, ModuleRef, Registry, Unknown, Value
from grpoenv.linker.world import World
from grpoenv.source_tree import SourceTree

__all__ = ["Parsed", "Scan", "Taken", "answers", "first_failure", "scan"]


@dataclass(frozen=True)
class Taken:
    """One thing that an import certainly takes from the other package; ``key`` of a registry."""

    module: str
    name: str = ""
    key: str = ""

    @property
    def what(self) -> str:
        """The thing as it reads in a message."""
        dotted = f"{self.module}.{self.name}" if self.name else self.module
        return f"{dotted}[{self.key!r}]" if self.key else dotted

    @property
    def exception(self) -> str:
        """What Python raises where it is not there."""
        return "KeyError" if self.key else "ImportError" if self.name else "ModuleNotFoundError"


@dataclass(frozen=True)
class Scan:
    """What importing each module of one release takes from the other package, in order.

    A thing comes with the place that takes it (``"file:line"``).
    """

    version: str
    takes: Mapping[str, tuple[tuple[Taken, str], ...]]


class _Recorder(Interpreter):
    """Writes down what is taken from a package that is not there."""

    def __init__(self, world: World, other: str) -> None:
        super().__init__(world, FOLLOWED, Faults())
        self.other = other
        self.taken: dict[Taken, str] = {}

    def _note(self, taken: Taken, node: ast.AST, frame: Frame) -> None:
        certain = self.sure and self.phase is Phase.IMPORT
        certain = certain and not keeps(self.kept(), taken.exception)
        if certain and taken not in self.taken:
            self.taken[taken] = f"{frame.module.path}:{getattr(node, 'lineno', 0)}"

    def _concerns(self, module: str) -> bool:
        return module.partition(".")[0] == self.other

    def _require_module(self, name: str, node: ast.AST, frame: Frame) -> None:
        if self._concerns(name):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                self._note(Taken(".".join(parts[:end])), node, frame)
        super()._require_module(name, node, frame)

    def _take(self, source: str, name: str, node: ast.AST, frame: Frame) -> Value:
        if self._concerns(source):
            self._note(Taken(source, name), node, frame)
        return super()._take(source, name, node, frame)

    def _eval_Subscript(self, node: ast.Subscript, frame: Frame) -> Value:
        value = self.eval(node.value, frame)
        if isinstance(value, ModuleRef) and self._concerns(value.name):
            key = self.eval(node.slice, frame)
            if isinstance(key, Const) and isinstance(node.ctx, ast.Load):
                module, _, name = value.name.rpartition(".")
                self._note(Taken(module, name, str(key.value)), node, frame)
        return super()._eval_Subscript(node, frame)


Parsed = dict[str, Module | Opaque]
"""The modules of one release that were parsed so far, by path."""


class _ParsingOnce(World):
    """A release alone; what is asked of it again finds its modules parsed."""

    def __init__(self, tree: SourceTree, parsed: Parsed) -> None:
        super().__init__([tree])
        self._parsed = parsed

    def parsed_from(
        self, tree: SourceTree, path: str, name: str, is_package: bool
    ) -> Module | Opaque:
        if path not in self._parsed:
            self._parsed[path] = super().parsed_from(tree, path, name, is_package)
        return self._parsed[path]


def scan(tree: SourceTree, other: str, modules: Iterable[str], parsed: Parsed) -> Scan:
    """Follow the import of each of ``modules`` of a release, one after the other, each anew.

    ``parsed`` gets the modules that this parses, and has those of an earlier question.
    """
    takes = {}
    with roomy():
        world = _ParsingOnce(tree, parsed)
        for module in modules:
            if world.has_module(module):
                recorder = _Recorder(world, other)
                recorder.begin(module)
                takes[module] = tuple(recorder.taken.items())
    return Scan(str(tree.version), takes)


def answers(tree: SourceTree, wanted: Iterable[Taken], parsed: Parsed) -> dict[Taken, bool | None]:
    """Tell of each of ``wanted`` whether a release has it, None if sources cannot tell.

    ``parsed`` as for `scan`.
    """
    with roomy():
        world = _ParsingOnce(tree, parsed)
        return {taken: _has(world, taken) for taken in wanted}


def _has(world: World, taken: Taken) -> bool | None:
    if not taken.name:
        return world.has_module(taken.module)
    if not world.has_module(taken.module):
        return False
    found = world.lookup(taken.module, taken.name)
    if isinstance(found, Absent):
        return False
    if not taken.key:
        return None if isinstance(found, Unknown) and found.reason else True
    if not isinstance(found, Registry):
        return None
    items = world.items(found)
    return None if isinstance(items, Unknown) else taken.key in items


def first_failure(
    importer: Scan,
    start: str,
    has: Mapping[Taken, bool | None],
    other: Scan,
    back: Mapping[Taken, bool | None],
) -> tuple[Taken, str] | None:
    """Return what first stops ``import start`` in a pair and the place, None if nothing does.

    ``has`` are the `answers` of the other release, ``other`` what its modules take in turn, which
    ``back`` answers.
    """
    seen: set[str] = set()
    for taken, place in importer.takes.get(start, ()):
        if has[taken] is False:
            return taken, place
        if taken.module in seen:
            continue
        seen.add(taken.module)
        for returned, there in other.takes.get(taken.module, ()):
            if back[returned] is False:
                return returned, there
    return None
