"""What assignments, definitions and patches make of names."""

from __future__ import annotations

import ast
from dataclasses import replace

from grpoenv.linker.dictionaries import is_dictionary
from grpoenv.linker.faults import Faults, Need
from grpoenv.linker.flow import Flow
from grpoenv.linker.frames import Frame
from grpoenv.linker.reach import Reach
from grpoenv.linker.signatures import return_lengths, returns_dictionaries
from grpoenv.linker.values import (
    UNKNOWN,
    Class,
    Const,
    Function,
    Keywords,
    Listing,
    ModuleRef,
    Registry,
    Result,
    Unknown,
    Value,
)
from grpoenv.linker.world import World

__all__ = ["Bindings", "is_top"]


class Bindings(Reach):
    """Follows the statements that give names a value.

    ``closures`` has the frame that each inner function was defined in.
    """

    def __init__(self, world: World, follows: frozenset[str], faults: Faults) -> None:
        super().__init__(world, follows, faults)
        self.closures: dict[ast.AST, Frame] = {}

    def bind(self, name: str, value: Value, frame: Frame) -> None:
        """Give a name a value; where that may not happen, what it means is no longer known."""
        if frame.names is None:
            return
        if not self.sure and frame.names.get(name, value) != value:
            value = UNKNOWN
        frame.names[name] = value

    def _do_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef, frame: Frame) -> Flow:
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
        self.bind(node.name, self._function(node, frame), frame)
        return Flow.ON

    _do_AsyncFunctionDef = _do_FunctionDef

    def _function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, frame: Frame
    ) -> Function | Unknown:
        if frame.parent is not None and not frame.is_class:
            self.closures[node] = frame
        return Function(frame.module, node)

    def _do_ClassDef(self, node: ast.ClassDef, frame: Frame) -> Flow:
        for expression in (*node.decorator_list, *node.bases):
            self.eval(expression, frame)
        for keyword in node.keywords:
            self.eval(keyword.value, frame)
        inner = Frame(frame.module, {}, frozenset(), frame, frame.depth + 1, is_class=True)
        self.block(node.body, inner)
        self.bind(node.name, Class(frame.module, node), frame)
        return Flow.ON

    def _do_Assign(self, node: ast.Assign, frame: Frame) -> Flow:
        value = self.eval(node.value, frame)
        for target in node.targets:
            self.assign(target, value, node.value, frame)
        return Flow.ON

    def _do_AnnAssign(self, node: ast.AnnAssign, frame: Frame) -> Flow:
        if not frame.module.future_annotations and (frame.is_class or frame.parent is None):
            if self.world.platform.python < (3, 14):
                self.eval(node.annotation, frame)
        if node.value is not None:
            self.assign(node.target, self.eval(node.value, frame), node.value, frame)
        return Flow.ON

    def _do_AugAssign(self, node: ast.AugAssign, frame: Frame) -> Flow:
        self.eval(node.value, frame)
        if isinstance(node.target, ast.Name) and not self._is_registry(node.target, frame):
            self.bind(node.target.id, UNKNOWN, frame)
        return Flow.ON

    def _is_registry(self, node: ast.Name, frame: Frame) -> bool:
        return isinstance(self.name(node.id, frame), Registry)

    def assign(self, target: ast.expr, value: Value, source: ast.expr, frame: Frame) -> None:
        """Give ``target`` a value, which is that of ``source``."""
        if isinstance(target, ast.Name):
            if frame.names is not None and is_top(frame):
                if is_dictionary(source):
                    value = Registry(frame.module, target.id)
                elif isinstance(source, ast.List):
                    value = Listing(frame.module, target.id)
            self.bind(target.id, value, frame)
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target, value, source, frame)
        elif isinstance(target, ast.Attribute):
            self.patch(self.eval(target.value, frame), target.attr, value)
        elif isinstance(target, ast.Subscript):
            self._store_item(target, value, frame)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, UNKNOWN, source, frame)

    def _store_item(self, target: ast.Subscript, value: Value, frame: Frame) -> None:
        holder = self.eval(target.value, frame)
        key = self.eval(target.slice, frame)
        if isinstance(holder, ModuleRef) and holder.name == "sys.modules":
            if isinstance(key, Const) and isinstance(key.value, str):
                self.world.provided.add(key.value)
                self.world.open_modules[key.value] = f"{frame.module.where(target)} replaces it"
                self.world.forget()
        elif isinstance(holder, Keywords) and isinstance(target.value, ast.Name):
            more = {str(key.value)} if isinstance(key, Const) else set()
            wider = replace(holder, names=holder.names | more, open=holder.open or not more)
            self.bind(target.value.id, wider, frame)

    def patch(self, holder: Value, name: str, value: Value) -> None:
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
                self.assign(element, given, part, frame)
            return
        for element in target.elts:
            self.assign(element, UNKNOWN, source, frame)
        if isinstance(value, Result) and not any(
            isinstance(element, ast.Starred) for element in target.elts
        ):
            self.check_unpacked(target, value.function, frame)

    def check_unpacked(
        self, target: ast.Tuple | ast.List, function: Function, frame: Frame
    ) -> None:
        """Report a result that does not unpack into ``target``, or of which only the keys do."""
        wanted, body = len(target.elts), self.world.body_of(function.node)
        lengths = return_lengths(function.node, body)
        name, home = function.node.name, function.module
        need = Need("result", home.name, name, frame.module, target.lineno)
        where = f"{home.where(function.node)} returns"
        if returns_dictionaries(function.node, body):
            reason = f"{where} a dictionary, of which the keys are unpacked"
            with self.unsure():  # somebody may want the keys
                self.fault("TypeError", need, reason, home.tree.name)
        elif lengths is not None and wanted not in lengths:
            reason = f"{where} {' or '.join(map(str, sorted(lengths)))} values, not {wanted}"
            self.fault("ValueError", need, reason, home.tree.name)

    def _do_Delete(self, node: ast.Delete, frame: Frame) -> Flow:
        for target in node.targets:
            if isinstance(target, ast.Name) and frame.names is not None and self.sure:
                frame.names.pop(target.id, None)
            elif isinstance(target, ast.Subscript):
                holder, key = self.eval(target.value, frame), self.eval(target.slice, frame)
                if isinstance(holder, Keywords) and isinstance(key, Const):
                    self.keyword(holder, str(key.value), target, frame)
                if isinstance(holder, Keywords) and isinstance(target.value, ast.Name):
                    self.bind(target.value.id, UNKNOWN, frame)  # fewer than were put there
        return Flow.ON


def is_top(frame: Frame) -> bool:
    """Tell whether statements there are those of a module, not of a function or class."""
    return frame.parent is None and not frame.is_class
