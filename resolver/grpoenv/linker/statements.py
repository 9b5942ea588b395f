"""Follow the statements that choose, repeat, guard and leave."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from grpoenv.linker.bindings import is_top
from grpoenv.linker.calls import Calls
from grpoenv.linker.evaluate import truth_of
from grpoenv.linker.faults import Faults, Need, Phase
from grpoenv.linker.flow import Flow, Thrown, exception_name, joined, keeps, suppressed
from grpoenv.linker.frames import Frame
from grpoenv.linker.modules import catches
from grpoenv.linker.syntax import children, walk
from grpoenv.linker.values import UNKNOWN, Const, Listing
from grpoenv.linker.world import World

__all__ = ["Statements"]

_BY_NAME = frozenset(("getattr", "import_module", "__import__"))
"""Functions that take the name of what they get: a loop over names is followed for each."""


class Statements(Calls):
    """Takes statements in order, each by its kind."""

    def __init__(self, world: World, follows: frozenset[str], faults: Faults) -> None:
        super().__init__(world, follows, faults)
        self._statements: dict[type[ast.stmt], Callable[[Any, Frame], Flow]] = {}

    def statement(self, node: ast.stmt, frame: Frame) -> Flow:
        """Follow one statement."""
        kind = type(node)
        if kind not in self._statements:
            self._statements[kind] = getattr(self, f"_do_{kind.__name__}", self._do_other)
        return self._statements[kind](node, frame)

    def _do_other(self, node: ast.stmt, frame: Frame) -> Flow:
        for child in children(node):
            if isinstance(child, ast.expr):
                self.eval(child, frame)
        return Flow.ON

    def _do_If(self, node: ast.If, frame: Frame) -> Flow:
        truth = truth_of(self.eval(node.test, frame))
        if truth is not None:
            if truth and isinstance(node.body[0], ast.Raise) and not is_top(frame):
                self._refuse_version(node.test, node.body[0], frame)
            return self.block(node.body if truth else node.orelse, frame)
        flows, branches = [], []
        for body in (node.body, node.orelse):
            with self.unsure() as certain:
                flow = self.tolerant(body, frame)
            flows.append(flow)
            # a branch that raises is taken not to be chosen, unless a `try` around it may want it
            if flow is not Flow.RAISED or self.kept() != frozenset():
                branches.append(certain)
        self.settle(branches)
        return joined(flows)

    def _do_For(self, node: ast.For | ast.AsyncFor, frame: Frame) -> Flow:
        value = self.eval(node.iter, frame)
        if isinstance(value, Listing) and isinstance(node.target, ast.Name):
            for element in self.elements.get((value.module.name, value.name), []):
                self.bind(node.target.id, element, frame)
                self._loop(node.body, [], frame, sure=True)
        if isinstance(value, Const) and isinstance(node.target, ast.Name) and _gets_by_name(node):
            for item in value.value if isinstance(value.value, tuple) else ():
                if frame.names is not None:
                    frame.names[node.target.id] = Const(item)
                if self._loop(node.body, [], frame, sure=self.sure) is not Flow.ON:
                    break
        self.assign(node.target, UNKNOWN, node.iter, frame)
        filled = isinstance(node.iter, (ast.Tuple, ast.List)) and bool(node.iter.elts)
        filled = filled or (self.phase is Phase.RUN and frame.handles_batch)
        return self._loop(node.body, node.orelse, frame, sure=filled)

    _do_AsyncFor = _do_For

    def _do_While(self, node: ast.While, frame: Frame) -> Flow:
        truth = truth_of(self.eval(node.test, frame))
        if truth is False:
            return self.block(node.orelse, frame)
        return self._loop(node.body, node.orelse, frame, sure=bool(truth))

    def _loop(
        self, body: Sequence[ast.stmt], orelse: Sequence[ast.stmt], frame: Frame, *, sure: bool
    ) -> Flow:
        if sure:
            flow = self.block(body, frame)
        else:
            with self.unsure():
                flow = self.tolerant(body, frame)
        returns = flow is not Flow.ON and any(
            isinstance(node, ast.Return) for statement in body for node in walk(statement)
        )
        with self.unsure():
            self.tolerant(orelse, frame)
        return Flow.MAYBE if returns else Flow.ON

    def _do_Break(self, node: ast.Break, frame: Frame) -> Flow:
        return Flow.OUT

    _do_Continue = _do_Break

    def _do_Return(self, node: ast.Return, frame: Frame) -> Flow:
        value = Const(None) if node.value is None else self.eval(node.value, frame)
        if self._certain is self._entered:
            self._returned = value
        return Flow.OUT

    def _do_Raise(self, node: ast.Raise, frame: Frame) -> Flow:
        name = exception_name(node)
        if name and any(keeps(guard, name) for guard in self._guards):
            raise Thrown(name)
        # inside a function what decides is often computed, and not followed closely enough
        if name and self.sure and self.phase is Phase.IMPORT and is_top(frame):
            tree = frame.module.tree
            need = Need("refusal", frame.module.name, "", frame.module, node.lineno)
            reason = f"{tree.name} {tree.version} refuses what it finds here"
            self.fault(name, need, reason, tree.name)
        return Flow.RAISED

    def _refuse_version(self, test: ast.expr, node: ast.Raise, frame: Frame) -> None:
        """Report that a function raises because of the version of a package that it names."""
        name = exception_name(node)
        if self._certain is not self._entered or not self._compares_versions(test, frame):
            return
        words = {word for part in walk(node) for word in _words_of(part)}
        named = [tree for each, tree in self.world.trees.items() if each in words]
        refused = [tree for tree in named if tree is not frame.module.tree]
        if name and len(refused) == 1:
            tree = refused[0]
            need = Need("refusal", tree.name, "", frame.module, node.lineno)
            self.fault(name, need, f"does not take {tree.version}", tree.name)

    def _compares_versions(self, test: ast.expr, frame: Frame) -> bool:
        evaluate = self.world.evaluator.eval
        return any(
            isinstance(found := evaluate(node.left, frame), Const)
            and isinstance(found.value, Version)
            for node in walk(test)
            if isinstance(node, ast.Compare)
        )

    def _do_With(self, node: ast.With | ast.AsyncWith, frame: Frame) -> Flow:
        kept: frozenset[str] | None = frozenset()
        for item in node.items:
            value = self.eval(item.context_expr, frame)
            if item.optional_vars is not None:
                self.assign(item.optional_vars, UNKNOWN, item.context_expr, frame)
            del value
            kept = suppressed(item.context_expr) if kept == frozenset() else kept
        if kept == frozenset():
            return self.block(node.body, frame)
        return self.guarded(node.body, kept, frame)[0]

    _do_AsyncWith = _do_With

    def _do_Try(self, node: ast.Try, frame: Frame) -> Flow:
        kept_each = [catches(handler) for handler in node.handlers]
        kept: frozenset[str] | None = frozenset().union(*(k for k in kept_each if k is not None))
        if any(k is None for k in kept_each):
            kept = None
        flow, thrown = self.guarded(node.body, kept, frame)
        if thrown:
            for handler, keep in zip(node.handlers, kept_each, strict=True):
                if keeps(keep, thrown.exception):
                    flow = self._handle(handler, thrown, frame)
                    break
        elif flow is Flow.ON and node.orelse and node.handlers and self._may_lack(node.body, frame):
            with self.unsure():
                flow = joined([Flow.ON, self.tolerant(node.orelse, frame)])
        elif flow is Flow.ON:
            flow = self.block(node.orelse, frame)
        last = self.block(node.finalbody, frame)
        return last if last in (Flow.OUT, Flow.RAISED) else flow

    _do_TryStar = _do_Try

    def _handle(self, handler: ast.ExceptHandler, thrown: Thrown, frame: Frame) -> Flow:
        """Follow what keeps an exception; it keeps none where it asks for what nobody installed."""
        if handler.name:
            self.bind(handler.name, UNKNOWN, frame)
        fault, before = thrown.fault, self.absent
        flow = self.block(handler.body, frame)
        if self.absent > before and fault is not None and fault.provider in self.world.trees:
            reason = f"{fault.reason}, and what would take its place is not installed"
            self.fault(fault.exception, fault.need, reason, fault.provider)
        return flow

    def _may_lack(self, body: Sequence[ast.stmt], frame: Frame) -> bool:
        """Tell whether a block imports what may or may not be installed."""
        wanted = [a.name for s in body if isinstance(s, ast.Import) for a in s.names]
        wanted += [
            frame.module.resolve_relative(s.module, s.level)
            for s in body
            if isinstance(s, ast.ImportFrom)
        ]
        return any(self.world.has_module(name) is None for name in wanted)

    def _do_Match(self, node: ast.Match, frame: Frame) -> Flow:
        self.eval(node.subject, frame)
        with self.unsure():
            flows = [self.tolerant(case.body, frame) for case in node.cases]
        return joined([*flows, Flow.ON])

    def _do_Assert(self, node: ast.Assert, frame: Frame) -> Flow:
        self.eval(node.test, frame)
        return Flow.ON

    def _do_Global(self, node: ast.Global, frame: Frame) -> Flow:
        return Flow.ON


def _gets_by_name(node: ast.For | ast.AsyncFor) -> bool:
    return any(isinstance(each, ast.Name) and each.id in _BY_NAME for each in walk(node))


def _words_of(node: ast.AST) -> Iterator[NormalizedName]:
    """Yield what may be names of packages in a piece of text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from map(canonicalize_name, re.findall(r"\w(?:[\w.-]*\w)?", node.value))
