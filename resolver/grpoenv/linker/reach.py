"""Where the interpreter stands: how certainly it got there, in which phase, inside which ``try``."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from grpoenv.linker.evaluate import Evaluator
from grpoenv.linker.faults import Fault, Faults, Need, Phase
from grpoenv.linker.flow import Flow, Thrown, keeps
from grpoenv.linker.frames import Frame
from grpoenv.linker.values import Function
from grpoenv.linker.world import World

__all__ = ["Reach", "Visits"]

Visits = list[tuple[bool, frozenset[str] | None]]
"""How certainly a place was reached before, each time with what an enclosing ``try`` keeps."""


class Reach(Evaluator, ABC):
    """Follows blocks of statements and writes every fault it meets into ``faults``.

    ``follows`` names the packages whose modules are followed when they are imported; of the others
    only the names are looked up. ``absent`` counts the imports of what is not installed. What a
    statement does is told by the classes below this one.
    """

    def __init__(self, world: World, follows: frozenset[str], faults: Faults) -> None:
        super().__init__(world)
        self.follows = follows
        self.faults = faults
        self.phase = Phase.IMPORT
        self.sure = True
        self.start = ""
        self._certain: list[Fault] = []
        self.absent = 0
        self._guards: list[frozenset[str] | None] = []
        self._calls = 0

    @abstractmethod
    def statement(self, node: ast.stmt, frame: Frame) -> Flow:
        """Follow one statement."""

    @abstractmethod
    def import_module(self, name: str) -> None:
        """Follow the import of a module and of the packages above it."""

    @abstractmethod
    def follow(self, function: Function) -> None:
        """Follow the body of a function, unless that was done or it is not one to follow."""

    def block(self, body: Sequence[ast.stmt], frame: Frame) -> Flow:
        """Follow statements in order."""
        for position, statement in enumerate(body):
            flow = self.statement(statement, frame)
            if flow is Flow.ON:
                continue
            if flow is not Flow.MAYBE:
                return flow
            with self.unsure():
                rest = self.tolerant(body[position + 1 :], frame)
            return Flow.OUT if rest in (Flow.OUT, Flow.RAISED) else Flow.MAYBE
        return Flow.ON

    def tolerant(self, body: Sequence[ast.stmt], frame: Frame) -> Flow:
        """Follow a block that may not run: what it throws ends it and nothing else."""
        try:
            return self.block(body, frame)
        except Thrown:
            return Flow.RAISED

    def guarded(
        self, body: Sequence[ast.stmt], kept: frozenset[str] | None, frame: Frame
    ) -> tuple[Flow, Thrown | None]:
        """Follow a block inside a ``try``; return how it ended and what it threw, if anything."""
        self._guards.append(kept)
        try:
            return self.block(body, frame), None
        except Thrown as thrown:
            if not keeps(kept, thrown.exception):
                raise
            return Flow.ON, thrown
        finally:
            self._guards.pop()

    def fault(self, exception: str, need: Need, reason: str, provider: str) -> None:
        """Note that ``need`` is not met; unwinds to the ``try`` that catches it, if any."""
        caught = any(keeps(guard, exception) for guard in self._guards)
        found = Fault(need, exception, reason, provider, self.phase, self.sure, caught, self.start)
        self.faults.add(found)
        if caught:
            raise Thrown(exception, found)
        self._certain.append(found)

    def lack(self) -> None:
        """Note the import of a package that is not installed, where no ``try`` is prepared for it."""
        self.absent += not any(keeps(guard, "ModuleNotFoundError") for guard in self._guards)

    def settle(self, branches: Sequence[Sequence[Fault]]) -> None:
        """Note that one of ``branches`` is taken, each given as what is certainly met in it.

        Where none is without a fault, the choice does not matter: one of them is certain.
        """
        if all(branches):
            for found in branches:
                self.faults.add(replace(found[0], sure=self.sure))
            self._certain += [found[0] for found in branches]

    def is_new(self, visits: Visits) -> bool:
        """Tell whether a visit can find more than the ones before; if so, note it."""
        kept = self.kept()
        for sure, before in visits:
            if sure >= self.sure and (kept is None or (before is not None and before <= kept)):
                return False
        visits.append((self.sure, kept))
        return True

    def kept(self) -> frozenset[str] | None:
        """Return what any enclosing ``try`` keeps, None for everything."""
        if any(guard is None for guard in self._guards):
            return None
        return frozenset().union(*(guard or frozenset() for guard in self._guards))

    @contextmanager
    def unsure(self) -> Iterator[list[Fault]]:
        """Hold what is found inside to be uncertain; give the faults that are certain once there."""
        before, self.sure = self.sure, False
        outside, self._certain = self._certain, []
        try:
            yield self._certain
        finally:
            self.sure, self._certain = before, outside
