"""Follow a package as Python would import and run it, without running anything.

Statements are taken in order. A condition that versions or the platform decide takes one branch;
one that cannot be decided takes both, and what is found there is not certain. What a `try` catches
is not a fault, and its handler is followed in its place. Functions are followed where they are
called and can be told.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from grpoenv.linker.evaluate import Evaluator, Frame, truth_of
from grpoenv.linker.faults import Fault, Faults, Need, Phase
from grpoenv.linker.modules import Module, Opaque, catches
from grpoenv.linker.signatures import (
    Signature,
    misfit,
    return_lengths,
    shape_of,
    signature_of,
)
from grpoenv.linker.syntax import children, walk
from grpoenv.linker.values import (
    UNKNOWN,
    Absent,
    Class,
    Const,
    Function,
    Instance,
    Listing,
    ModuleRef,
    Registry,
    Result,
    Source,
    Unknown,
    Value,
)
from grpoenv.linker.world import World

__all__ = ["Interpreter"]

_MAX_CALLS = 40
_PARENTS = {
    "ModuleNotFoundError": ("ImportError",),
    "KeyError": ("LookupError",),
    "NotImplementedError": ("RuntimeError",),
    "PackageNotFoundError": ("ModuleNotFoundError", "ImportError"),
}


class _Flow(Enum):
    """How a block ends."""

    ON = "goes on"
    MAYBE = "may have returned"
    OUT = "has returned"
    RAISED = "has raised"


class _Thrown(Exception):
    """A fault that a ``try`` further up catches."""

    def __init__(self, exception: str) -> None:
        super().__init__(exception)
        self.exception = exception


@dataclass
class _Guard:
    """An enclosing ``try``: what it catches, None for everything."""

    kept: frozenset[str] | None


class Interpreter(Evaluator):
    """Follows modules and functions and writes every fault it meets into ``faults``.

    ``follows`` names the packages whose modules are followed when they are imported; of the others
    only the names are looked up.
    """

    def __init__(self, world: World, follows: frozenset[str], faults: Faults) -> None:
        super().__init__(world)
        self.follows = follows
        self.faults = faults
        self.phase = Phase.IMPORT
        self.sure = True
        self.start = ""
        self.copied: dict[ast.AST, Frame] = {}
        self.receivers: dict[ast.AST, Value] = {}
        self._statements: dict[type[ast.stmt], Callable[[Any, Frame], _Flow]] = {}
        self._line = 0
        self._guards: list[_Guard] = []
        self._imported: dict[str, list[tuple[bool, frozenset[str] | None]]] = {}
        self._called: dict[ast.AST, list[tuple[bool, frozenset[str] | None]]] = {}
        self._results: dict[ast.AST, Const] = {}
        self._returned: Value | None = None
        self._calls = 0
        self._most_calls = _MAX_CALLS
        self.elements: dict[tuple[str, str], list[Value]] = {}
        self.appended: dict[tuple[str, str, str], list[tuple[Value, ast.expr, Module]]] = {}

    # ------------------------------------------------------------------ modules

    def begin(self, module: str) -> None:
        """Follow a user's first import of a module."""
        self.start = module
        self.import_module(module)

    def begin_run(self) -> None:
        """What follows now is not the import but the run."""
        self.phase = Phase.RUN
        self._called.clear()

    def follow_the_rest(self, packages: frozenset[str]) -> None:
        """Follow the functions of imported modules that nothing certainly calls."""
        self.phase, self.sure = Phase.OPTION, False
        self._most_calls = 1  # each has its own turn
        for module in self.world.parsed:
            if module.tree.name in packages and module.name in self.world.namespaces:
                for statement in module.body:
                    for function in _functions(statement, module):
                        self.follow(function)

    def import_module(self, name: str) -> None:
        """Follow the import of a module and of the packages above it."""
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            self._run_module(".".join(parts[:end]))

    def _run_module(self, name: str) -> None:
        tree = self.world.tree_of(name)
        if tree is None or tree.name not in self.follows or self.phase is Phase.OPTION:
            return
        if not self._is_new(self._imported.setdefault(name, [])):
            return
        module = self.world.module(name)
        if isinstance(module, Opaque):
            self.faults.opaque(module)
        if not isinstance(module, Module):
            return
        namespace: dict[str, Value] = {}
        first = name not in self.world.namespaces
        if first:
            self.world.namespaces[name] = namespace
        frame = Frame(module, self.world.namespaces[name])
        calls, self._calls = self._calls, 0
        try:
            self.block(module.body, frame)
        except RecursionError:
            self.faults.opaque(Opaque(name, f"{module.where()} is nested too deeply"))
        finally:
            self._calls = calls

    def _is_new(self, visits: list[tuple[bool, frozenset[str] | None]]) -> bool:
        """Tell whether a visit can find more than the ones before; if so, note it."""
        kept = self._kept()
        for sure, before in visits:
            if sure >= self.sure and (kept is None or (before is not None and before <= kept)):
                return False
        visits.append((self.sure, kept))
        return True

    def _kept(self) -> frozenset[str] | None:
        if any(guard.kept is None for guard in self._guards):
            return None
        return frozenset().union(*(guard.kept or frozenset() for guard in self._guards))

    # ------------------------------------------------------------------- faults

    def fault(self, exception: str, need: Need, reason: str, provider: str) -> None:
        """Note that ``need`` is not met; unwinds to the ``try`` that catches it, if any."""
        caught = any(self._catches(guard.kept, exception) for guard in self._guards)
        self.faults.add(
            Fault(need, exception, reason, provider, self.phase, self.sure, caught, self.start)
        )
        if caught:
            raise _Thrown(exception)

    @staticmethod
    def _catches(kept: frozenset[str] | None, exception: str) -> bool:
        if kept is None:
            return True
        return exception in kept or any(p in kept for p in _PARENTS.get(exception, ()))

    @contextmanager
    def _unsure(self) -> Iterator[None]:
        before, self.sure = self.sure, False
        try:
            yield
        finally:
            self.sure = before

    # --------------------------------------------------------------- statements

    def block(self, body: Sequence[ast.stmt], frame: Frame) -> _Flow:
        """Follow statements in order."""
        for position, statement in enumerate(body):
            flow = self.statement(statement, frame)
            if flow in (_Flow.OUT, _Flow.RAISED):
                return flow
            if flow is _Flow.MAYBE:
                with self._unsure():
                    rest = self._tolerant(body[position + 1 :], frame)
                return _Flow.OUT if rest in (_Flow.OUT, _Flow.RAISED) else _Flow.MAYBE
        return _Flow.ON

    def _tolerant(self, body: Sequence[ast.stmt], frame: Frame) -> _Flow:
        """Follow a block that may not run: what it throws ends it and nothing else."""
        try:
            return self.block(body, frame)
        except _Thrown:
            return _Flow.RAISED

    def statement(self, node: ast.stmt, frame: Frame) -> _Flow:
        """Follow one statement."""
        kind = type(node)
        if kind not in self._statements:
            self._statements[kind] = getattr(self, f"_do_{kind.__name__}", self._do_other)
        return self._statements[kind](node, frame)

    def _do_other(self, node: ast.stmt, frame: Frame) -> _Flow:
        for child in children(node):
            if isinstance(child, ast.expr):
                self.eval(child, frame)
        return _Flow.ON

    def _do_Import(self, node: ast.Import, frame: Frame) -> _Flow:
        for alias in node.names:
            self._require_module(alias.name, node, frame)
            self.import_module(alias.name)
            top = alias.name.partition(".")[0]
            bound = ModuleRef(alias.name if alias.asname else top)
            self._bind(alias.asname or top, bound, frame)
        return _Flow.ON

    def _do_ImportFrom(self, node: ast.ImportFrom, frame: Frame) -> _Flow:
        source = frame.module.resolve_relative(node.module, node.level)
        if source == "__future__":
            return _Flow.ON
        self._require_module(source, node, frame)
        self.import_module(source)
        for alias in node.names:
            if alias.name == "*":
                self._bind_star(source, frame)
            else:
                value = self._take(source, alias.name, node, frame)
                self._bind(alias.asname or alias.name, value, frame)
        return _Flow.ON

    def _require_module(self, name: str, node: ast.AST, frame: Frame) -> None:
        there = self.world.has_module(name)
        if there is False and name not in self.world.open_modules:
            tree = self.world.tree_of(name)
            if tree is None and not self.sure:
                return
            reason = f"there is no module {name}" if tree else f"{name} is not installed"
            missing = name
            while tree and "." in missing and not self.world.has_module(missing.rpartition(".")[0]):
                missing = missing.rpartition(".")[0]
            need = Need("module", missing, "", frame.module, getattr(node, "lineno", 0))
            self.fault("ModuleNotFoundError", need, reason, tree.name if tree else missing)
        elif there:
            self.faults.met("module", name, frame.module)

    def _take(self, source: str, name: str, node: ast.AST, frame: Frame) -> Value:
        """Return what ``from source import name`` gives."""
        tree = self.world.tree_of(source)
        if tree is None:
            return self._external(f"{source}.{name}")
        if self.world.module(source) is None and source not in self.world.provided:
            return UNKNOWN
        if (target := self.world.lazy_target(source, name)) is not None:
            self.import_module(target)
        found = self.world.lookup(source, name)
        if isinstance(found, ModuleRef) and found.name == f"{source}.{name}":
            self.import_module(found.name)
        if not isinstance(found, Absent):
            self.faults.met("name", f"{source}:{name}", frame.module, found)
            return found
        need = Need("name", source, name, frame.module, getattr(node, "lineno", 0))
        reason = f"{found.where} does not define {name}"
        self.fault("ImportError", need, reason, tree.name)
        return UNKNOWN

    def _bind_star(self, source: str, frame: Frame) -> None:
        """Bind what a star import gives, as far as it is known already."""
        module = self.world.module(source)
        if frame.names is None or not isinstance(module, Module):
            return
        public = self.world.public_names(module)
        names = public if public is not None else self.world.namespaces.get(source, {})
        for name in names:
            if public is None and name.startswith("_"):
                continue
            found = self.world.lookup(source, name)
            if not isinstance(found, (Absent, Unknown)):
                frame.names[name] = found

    def _bind(self, name: str, value: Value, frame: Frame) -> None:
        if frame.names is None:
            return
        if not self.sure and frame.names.get(name, value) != value:
            value = UNKNOWN
        frame.names[name] = value

    def _do_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef, frame: Frame) -> _Flow:
        for decorator in node.decorator_list:
            self.eval(decorator, frame)
        arguments = node.args
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                self.eval(default, frame)
        if not frame.module.future_annotations and self.world.platform.python < (3, 14):
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                if argument.annotation is not None:
                    self.eval(argument.annotation, frame)
            if node.returns is not None:
                self.eval(node.returns, frame)
        self._bind(node.name, self._function(node, frame), frame)
        return _Flow.ON

    _do_AsyncFunctionDef = _do_FunctionDef

    def _function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, frame: Frame
    ) -> Function | Unknown:
        if frame.parent is not None and not frame.is_class:
            self.closures[node] = frame
        return Function(frame.module, node)

    @property
    def closures(self) -> dict[ast.AST, Frame]:
        """The frame that each inner function was defined in."""
        return self.__dict__.setdefault("_closures", {})  # type: ignore[no-any-return]

    def _do_ClassDef(self, node: ast.ClassDef, frame: Frame) -> _Flow:
        for expression in (*node.decorator_list, *node.bases):
            self.eval(expression, frame)
        for keyword in node.keywords:
            self.eval(keyword.value, frame)
        inner = Frame(frame.module, {}, frozenset(), frame, frame.depth + 1, is_class=True)
        self.block(node.body, inner)
        self._bind(node.name, Class(frame.module, node), frame)
        return _Flow.ON

    def _do_Assign(self, node: ast.Assign, frame: Frame) -> _Flow:
        value = self.eval(node.value, frame)
        for target in node.targets:
            self._assign(target, value, node.value, frame)
        return _Flow.ON

    def _do_AnnAssign(self, node: ast.AnnAssign, frame: Frame) -> _Flow:
        if not frame.module.future_annotations and (frame.is_class or frame.parent is None):
            if self.world.platform.python < (3, 14):
                self.eval(node.annotation, frame)
        if node.value is not None:
            self._assign(node.target, self.eval(node.value, frame), node.value, frame)
        return _Flow.ON

    def _do_AugAssign(self, node: ast.AugAssign, frame: Frame) -> _Flow:
        self.eval(node.value, frame)
        if isinstance(node.target, ast.Name) and not self._is_registry(node.target, frame):
            self._bind(node.target.id, UNKNOWN, frame)
        return _Flow.ON

    def _is_registry(self, node: ast.Name, frame: Frame) -> bool:
        return isinstance(self.name(node.id, frame), Registry)

    def _assign(self, target: ast.expr, value: Value, source: ast.expr, frame: Frame) -> None:
        if isinstance(target, ast.Name):
            if frame.names is not None and _is_top(frame):
                if _is_dictionary(source):
                    value = Registry(frame.module, target.id)
                elif isinstance(source, ast.List):
                    value = Listing(frame.module, target.id)
            self._bind(target.id, value, frame)
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target, value, source, frame)
        elif isinstance(target, ast.Attribute):
            self._patch(self.eval(target.value, frame), target.attr, value)
        elif isinstance(target, ast.Subscript):
            self._store_item(target, value, frame)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, UNKNOWN, source, frame)

    def _store_item(self, target: ast.Subscript, value: Value, frame: Frame) -> None:
        holder = self.eval(target.value, frame)
        key = self.eval(target.slice, frame)
        if isinstance(holder, ModuleRef) and holder.name == "sys.modules":
            if isinstance(key, Const) and isinstance(key.value, str):
                self.world.provided.add(key.value)
                self.world.open_modules[key.value] = f"{frame.module.where(target)} replaces it"
                self.world.forget()

    def _patch(self, holder: Value, name: str, value: Value) -> None:
        """Note that a name of a module or class is given a value from outside."""
        if isinstance(holder, ModuleRef) and self.world.tree_of(holder.name) is not None:
            known = isinstance(value, (Function, Class)) and self.sure
            self.world.patched[holder.name, name] = value if known else Unknown("it is patched")
            self.world.forget()
        elif isinstance(holder, Class):
            place = f"{holder.node.name}.{name}"
            self.world.patched[holder.module.name, place] = Unknown("it is patched")

    def _unpack(
        self, target: ast.Tuple | ast.List, value: Value, source: ast.expr, frame: Frame
    ) -> None:
        if isinstance(source, (ast.Tuple, ast.List)) and len(source.elts) == len(target.elts):
            for element, part in zip(target.elts, source.elts, strict=True):
                given = self.world.evaluator.eval(part, frame)
                self._assign(element, given, part, frame)
            return
        for element in target.elts:
            self._assign(element, UNKNOWN, source, frame)
        if isinstance(value, Result) and not any(
            isinstance(element, ast.Starred) for element in target.elts
        ):
            self._check_lengths(target, value.function, frame)

    def _check_lengths(
        self, target: ast.Tuple | ast.List, function: Function, frame: Frame
    ) -> None:
        lengths = return_lengths(function.node, self.world.body_of(function.node))
        wanted = len(target.elts)
        if lengths is None or wanted in lengths:
            return
        name = function.node.name
        need = Need("result", function.module.name, name, frame.module, target.lineno)
        given = " or ".join(map(str, sorted(lengths)))
        reason = f"{function.module.where(function.node)} returns {given} values, not {wanted}"
        self.fault("ValueError", need, reason, function.module.tree.name)

    def _do_If(self, node: ast.If, frame: Frame) -> _Flow:
        truth = truth_of(self.eval(node.test, frame))
        if truth is not None:
            return self.block(node.body if truth else node.orelse, frame)
        with self._unsure():
            flows = [self._tolerant(node.body, frame), self._tolerant(node.orelse, frame)]
        return _joined(flows)

    def _do_For(self, node: ast.For | ast.AsyncFor, frame: Frame) -> _Flow:
        value = self.eval(node.iter, frame)
        if isinstance(value, Listing) and isinstance(node.target, ast.Name):
            for element in self.elements.get((value.module.name, value.name), []):
                self._bind(node.target.id, element, frame)
                self._loop(node.body, [], frame, sure=True)
        self._assign(node.target, UNKNOWN, node.iter, frame)
        filled = isinstance(node.iter, (ast.Tuple, ast.List)) and bool(node.iter.elts)
        return self._loop(node.body, node.orelse, frame, sure=filled)

    _do_AsyncFor = _do_For

    def _do_While(self, node: ast.While, frame: Frame) -> _Flow:
        truth = truth_of(self.eval(node.test, frame))
        if truth is False:
            return self.block(node.orelse, frame)
        return self._loop(node.body, node.orelse, frame, sure=bool(truth))

    def _loop(
        self, body: Sequence[ast.stmt], orelse: Sequence[ast.stmt], frame: Frame, *, sure: bool
    ) -> _Flow:
        if sure and self.sure:
            flow = self.block(body, frame)
        else:
            with self._unsure():
                flow = self._tolerant(body, frame)
        returns = flow is not _Flow.ON and any(
            isinstance(node, ast.Return) for statement in body for node in walk(statement)
        )
        with self._unsure():
            self._tolerant(orelse, frame)
        return _Flow.MAYBE if returns else _Flow.ON

    def _do_Break(self, node: ast.Break, frame: Frame) -> _Flow:
        return _Flow.OUT

    _do_Continue = _do_Break

    def _do_Return(self, node: ast.Return, frame: Frame) -> _Flow:
        value = Const(None) if node.value is None else self.eval(node.value, frame)
        if self.sure:
            self._returned = value
        return _Flow.OUT

    def _do_Raise(self, node: ast.Raise, frame: Frame) -> _Flow:
        name = _exception_name(node)
        if name and any(self._catches(guard.kept, name) for guard in self._guards):
            raise _Thrown(name)
        # inside a function what decides is often computed, and not followed closely enough
        if name and self.sure and self.phase is Phase.IMPORT and _is_top(frame):
            tree = frame.module.tree
            need = Need("refusal", frame.module.name, "", frame.module, node.lineno)
            reason = f"{tree.name} {tree.version} refuses what it finds here"
            self.fault(name, need, reason, tree.name)
        return _Flow.RAISED

    def _do_With(self, node: ast.With | ast.AsyncWith, frame: Frame) -> _Flow:
        kept: frozenset[str] | None = frozenset()
        for item in node.items:
            value = self.eval(item.context_expr, frame)
            if item.optional_vars is not None:
                self._assign(item.optional_vars, UNKNOWN, item.context_expr, frame)
            del value
            kept = _suppressed(item.context_expr) if kept == frozenset() else kept
        if kept == frozenset():
            return self.block(node.body, frame)
        return self._guarded(node.body, kept, frame)[0]

    _do_AsyncWith = _do_With

    def _guarded(
        self, body: Sequence[ast.stmt], kept: frozenset[str] | None, frame: Frame
    ) -> tuple[_Flow, str]:
        """Follow a block inside a ``try``; return how it ended and what it threw, if anything."""
        self._guards.append(_Guard(kept))
        try:
            return self.block(body, frame), ""
        except _Thrown as thrown:
            if not self._catches(kept, thrown.exception):
                raise
            return _Flow.ON, thrown.exception
        finally:
            self._guards.pop()

    def _do_Try(self, node: ast.Try, frame: Frame) -> _Flow:
        keeps = [catches(handler) for handler in node.handlers]
        kept: frozenset[str] | None = frozenset().union(*(k for k in keeps if k is not None))
        if any(k is None for k in keeps):
            kept = None
        flow, thrown = self._guarded(node.body, kept, frame)
        if thrown:
            for handler, keep in zip(node.handlers, keeps, strict=True):
                if self._catches(keep, thrown):
                    if handler.name:
                        self._bind(handler.name, UNKNOWN, frame)
                    flow = self.block(handler.body, frame)
                    break
        elif flow is _Flow.ON:
            flow = self.block(node.orelse, frame)
        last = self.block(node.finalbody, frame)
        return last if last in (_Flow.OUT, _Flow.RAISED) else flow

    _do_TryStar = _do_Try

    def _do_Match(self, node: ast.Match, frame: Frame) -> _Flow:
        self.eval(node.subject, frame)
        with self._unsure():
            flows = [self._tolerant(case.body, frame) for case in node.cases]
        return _joined([*flows, _Flow.ON])

    def _do_Delete(self, node: ast.Delete, frame: Frame) -> _Flow:
        for target in node.targets:
            if isinstance(target, ast.Name) and frame.names is not None and self.sure:
                frame.names.pop(target.id, None)
        return _Flow.ON

    def _do_Assert(self, node: ast.Assert, frame: Frame) -> _Flow:
        self.eval(node.test, frame)
        return _Flow.ON

    def _do_Global(self, node: ast.Global, frame: Frame) -> _Flow:
        return _Flow.ON

    # -------------------------------------------------------------- expressions

    def eval_other(self, node: ast.expr, frame: Frame) -> Value:
        """Follow an expression of which nothing can be known, and everything in it."""
        if isinstance(node, ast.Lambda):
            return UNKNOWN
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            return self._comprehension(node, frame)
        for child in children(node):
            if isinstance(child, ast.expr):
                self.eval(child, frame)
        return UNKNOWN

    def missing_name(self, name: str, left_in: Module, frame: Frame) -> Value:
        """Report a name that a copied source reads and that is not copied with it."""
        need = Need("copied", left_in.name, name, left_in, self._line)
        reason = f"{name} stays behind in {left_in.where()}"
        self.fault("NameError", need, reason, left_in.tree.name)
        return UNKNOWN

    def _eval_Name(self, node: ast.Name, frame: Frame) -> Value:
        if not isinstance(node.ctx, ast.Load):
            return UNKNOWN
        self._line = node.lineno
        return self.name(node.id, frame)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, frame: Frame
    ) -> Value:
        local = frozenset(
            name.id
            for generator in node.generators
            for name in walk(generator.target)
            if isinstance(name, ast.Name)
        )
        self.eval(node.generators[0].iter, frame)
        inner = Frame(frame.module, {}, local, frame, frame.depth + 1)
        with self._unsure():
            try:
                for child in children(node):
                    if isinstance(child, ast.expr):
                        self.eval(child, inner)
            except _Thrown:
                pass
        return UNKNOWN

    def _eval_BoolOp(self, node: ast.BoolOp, frame: Frame) -> Value:
        stops_at = isinstance(node.op, ast.Or)
        value: Value = UNKNOWN
        before, unsure = self.sure, False
        try:
            for operand in node.values:
                value = self.eval(operand, frame)
                truth = truth_of(value)
                if truth is stops_at:
                    return Const(stops_at) if unsure else value
                if truth is None:
                    unsure, self.sure = True, False
        except _Thrown:
            if not unsure:
                raise
        finally:
            self.sure = before
        return UNKNOWN if unsure else value

    def _eval_IfExp(self, node: ast.IfExp, frame: Frame) -> Value:
        truth = truth_of(self.eval(node.test, frame))
        if truth is not None:
            return self.eval(node.body if truth else node.orelse, frame)
        with self._unsure():
            for branch in (node.body, node.orelse):
                try:
                    self.eval(branch, frame)
                except _Thrown:
                    continue
        return UNKNOWN

    def _missing_attribute(
        self, module: ModuleRef, name: str, absent: Absent, node: ast.AST, frame: Frame
    ) -> Value:
        tree = self.world.tree_of(module.name)
        assert tree is not None
        own = self.world.tree_of(frame.module.name)
        if own is not tree and not isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del)):
            need = Need("attribute", module.name, name, frame.module, getattr(node, "lineno", 0))
            reason = f"{absent.where} does not define {name}"
            self.fault("AttributeError", need, reason, tree.name)
        return UNKNOWN

    def _module_attribute(self, module: ModuleRef, name: str, node: ast.AST, frame: Frame) -> Value:
        if (target := self.world.lazy_target(module.name, name)) is not None:
            self.import_module(target)
        return super()._module_attribute(module, name, node, frame)

    def _missing_item(self, registry: Registry, key: str, node: ast.AST, frame: Frame) -> Value:
        foreign = registry.module.tree is not frame.module.tree
        if foreign and isinstance(getattr(node, "ctx", None), ast.Load):
            if filler := self.world.filled_elsewhere(registry):
                return Unknown(f"{filler} fills it too")
            need = Need(
                "key",
                registry.module.name,
                f"{registry.name}[{key!r}]",
                frame.module,
                getattr(node, "lineno", 0),
            )
            reason = f"{registry.module.where()} does not define it"
            self.fault("KeyError", need, reason, registry.module.tree.name)
        return UNKNOWN

    def _item(self, registry: Registry, key: str, node: ast.AST, frame: Frame) -> Value:
        if registry.module.tree is frame.module.tree and registry.module is frame.module:
            return self._collected(registry, key)
        return super()._item(registry, key, node, frame)

    def _collected(self, registry: Registry, key: str) -> Value:
        items = self.world.items(registry)
        if isinstance(items, Unknown) or key not in items:
            return UNKNOWN
        return self.world.evaluator.eval(items[key], Frame(registry.module))

    def _eval_Call(self, node: ast.Call, frame: Frame) -> Value:
        if isinstance(node.func, ast.Attribute) and node.func.attr == "append" and node.args:
            self._note_append(node, frame)
        value = super()._eval_Call(node, frame)
        if isinstance(node.func, ast.Name) and node.func.id == "setattr" and len(node.args) == 3:
            self._setattr(node, frame)
        return value

    def _note_append(self, node: ast.Call, frame: Frame) -> None:
        """Note ``LISTS["key"].append(value)``: unsloth keeps what goes into trainers that way."""
        assert isinstance(node.func, ast.Attribute)
        holder = node.func.value
        if isinstance(holder, ast.Name):
            listing = self.name(holder.id, frame)
            if isinstance(listing, Listing):
                value = self.world.evaluator.eval(node.args[0], frame)
                self.elements.setdefault((listing.module.name, listing.name), []).append(value)
        if isinstance(holder, ast.Subscript) and isinstance(holder.value, ast.Name):
            if isinstance(holder.slice, ast.Constant) and isinstance(holder.slice.value, str):
                value = self.world.evaluator.eval(node.args[0], frame)
                place = (frame.module.name, holder.value.id, holder.slice.value)
                entry = (value, node.args[0], frame.module)
                known = self.appended.setdefault(place, [])
                if all(argument is not node.args[0] for _, argument, _ in known):
                    known.append(entry)

    def _setattr(self, node: ast.Call, frame: Frame) -> None:
        evaluate = self.world.evaluator.eval
        holder, name = evaluate(node.args[0], frame), evaluate(node.args[1], frame)
        if isinstance(name, Const) and isinstance(name.value, str):
            self._patch(holder, name.value, UNKNOWN)
        elif isinstance(holder, ModuleRef):
            self.world.open_modules[holder.name] = f"{frame.module.where(node)} sets names of it"
            self.world.forget()

    def call(self, callee: Value, node: ast.Call, frame: Frame) -> Value:
        """Check that a call binds, and follow the function."""
        if isinstance(callee, Source):
            callee = callee.of
        if isinstance(callee, Function):
            self._check_call(callee, node, frame)
            self.follow(callee)
            return self._results.get(callee.node, Result(callee))
        if isinstance(callee, Class):
            maker = self.find_member(callee, "__init__")
            if isinstance(maker, Function):
                maker = Function(maker.module, maker.node, maker.owner, bound=True)
                self._check_call(maker, node, frame, of=callee)
                self.follow(maker)
            return Instance(callee)
        return UNKNOWN

    def _check_call(
        self, function: Function, node: ast.Call, frame: Frame, of: Class | None = None
    ) -> None:
        if function.module.tree is frame.module.tree:
            return
        if of is not None and (of.node.keywords or of.node.decorator_list):
            return
        signature: Signature | None = signature_of(function.node)
        if signature is None:
            return
        if function.bound:
            signature = signature.without_first()
        why = misfit(shape_of(node), signature)
        name = of.node.name if of else function.node.name
        if why:
            need = Need("call", function.module.name, name, frame.module, node.lineno)
            reason = f"{name}() of {function.module.where(function.node)} {why}"
            self.fault("TypeError", need, reason, function.module.tree.name)
        else:
            self.faults.met("call", f"{function.module.name}:{name}", frame.module)

    def follow(self, function: Function) -> None:
        """Follow the body of a function, unless that was done or it is not one to follow."""
        if function.module.tree.name not in self.follows or self._calls >= self._most_calls:
            return
        if not self._is_new(self._called.setdefault(function.node, [])):
            return
        if isinstance(function.node, ast.AsyncFunctionDef):
            return
        if self.world.body_of(function.node).is_generator:
            return
        before, self._returned = self._returned, None
        self._calls += 1
        try:
            self.block(function.node.body, self.frame_of(function))
            value = self._returned
            if isinstance(value, Const) and not isinstance(value.value, tuple):
                self._results[function.node] = value  # whatever it is called with
        finally:
            self._calls -= 1
            self._returned = before

    def frame_of(self, function: Function) -> Frame:
        """Return a frame for the body of a function, its parameters unknown."""
        names: dict[str, Value] = {}
        arguments = function.node.args
        positional = [*arguments.posonlyargs, *arguments.args]
        receiver = self.receivers.get(function.node)
        if receiver is None and function.owner is not None:
            receiver = Instance(function.owner)
        if receiver is not None and positional:
            names[positional[0].arg] = receiver
        parent = (
            self.copied.get(function.node)
            or self.closures.get(function.node)
            or Frame(function.module)
        )
        return Frame(function.module, names, self.world.body_of(function.node).local, parent, 1)


def _functions(statement: ast.stmt, module: Module) -> Iterator[Function]:
    """Yield a function, or the methods of a class."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield Function(module, statement)
    elif isinstance(statement, ast.ClassDef):
        owner = Class(module, statement)
        for inner in statement.body:
            if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield Function(module, inner, owner)


def _joined(flows: Sequence[_Flow]) -> _Flow:
    """Return how a choice between blocks ends; a branch that raises is taken not to be chosen."""
    others = [flow for flow in flows if flow is not _Flow.RAISED]
    if not others:
        return _Flow.MAYBE
    if all(flow is _Flow.ON for flow in others):
        return _Flow.ON
    if len(others) == len(flows) and all(flow is _Flow.OUT for flow in others):
        return _Flow.OUT
    return _Flow.MAYBE


def _is_top(frame: Frame) -> bool:
    return frame.parent is None and not frame.is_class


def _is_dictionary(node: ast.expr) -> bool:
    return isinstance(node, ast.Dict) or (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict"
    )


def _exception_name(node: ast.Raise) -> str:
    raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    if isinstance(raised, ast.Attribute):
        return raised.attr
    return raised.id if isinstance(raised, ast.Name) else ""


def _suppressed(node: ast.expr) -> frozenset[str] | None:
    """Return what ``contextlib.suppress(...)`` keeps, nothing for other context managers."""
    if isinstance(node, ast.Call) and _last(node.func) == "suppress":
        names = frozenset(_last(argument) for argument in node.args)
        return None if names & {"Exception", "BaseException"} else names
    return frozenset()


def _last(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
