"""Evaluate expressions as far as files, versions and the platform tell; the rest is unknown."""

from __future__ import annotations

import ast
import builtins
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from grpoenv.linker.answers import Answers
from grpoenv.linker.frames import Frame
from grpoenv.linker.modules import Module
from grpoenv.linker.signatures import return_lengths
from grpoenv.linker.values import (
    UNKNOWN,
    Absent,
    Class,
    Const,
    Function,
    Instance,
    Keywords,
    ModuleRef,
    Partial,
    Plain,
    Registry,
    Result,
    Source,
    Super,
    Unknown,
    Value,
)

if TYPE_CHECKING:
    from grpoenv.linker.world import World

__all__ = ["Evaluator", "truth_of"]

_PLAIN = (str, int, float, bool, type(None))
_MAX_DEPTH = 60
_REMEMBERED = 10_000
_DEVICES = frozenset(("DEVICE_TYPE", "DEVICE_TYPE_TORCH"))
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class Evaluator(Answers):
    """Evaluates expressions in a world, without any side effect."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._depth = 0
        self._methods: dict[type[ast.expr], Callable[[Any, Frame], Value]] = {}
        self._told = {
            "sys.platform": Const(world.platform.sys_platform),
            "sys.version_info": Const(world.platform.python),
            "os.name": Const(world.platform.os_name),
            "typing.TYPE_CHECKING": Const(False),
        }

    def truth(self, node: ast.expr, frame: Frame) -> bool | None:
        """Return whether a condition is true, None if that cannot be told."""
        return truth_of(self.eval(node, frame))

    def eval(self, node: ast.expr, frame: Frame) -> Value:
        """Return what an expression gives, ``Unknown`` where that cannot be told."""
        if self._depth > _MAX_DEPTH:
            return Unknown("too deeply nested")
        kind = type(node)
        if (method := self._methods.get(kind)) is None:
            method = self._methods[kind] = self._method_of(kind)
        self._depth += 1
        try:
            return method(node, frame)
        finally:
            self._depth -= 1

    def _method_of(self, kind: type[ast.expr]) -> Callable[[Any, Frame], Value]:
        found: Callable[[Any, Frame], Value]
        found = getattr(self, f"_eval_{kind.__name__}", self.eval_other)
        return found

    def eval_other(self, node: ast.expr, frame: Frame) -> Value:
        """Evaluate an expression of which nothing can be known."""
        return UNKNOWN

    def _eval_Constant(self, node: ast.Constant, frame: Frame) -> Value:
        return _constant(node.value) if isinstance(node.value, _PLAIN) else UNKNOWN

    def _eval_Tuple(self, node: ast.Tuple, frame: Frame) -> Value:
        plain: list[Plain] = []
        for value in [self.eval(element, frame) for element in node.elts]:
            if isinstance(value, Const) and not isinstance(value.value, (tuple, Version)):
                plain.append(value.value)
        return Const(tuple(plain)) if len(plain) == len(node.elts) else UNKNOWN

    def _eval_Name(self, node: ast.Name, frame: Frame) -> Value:
        return self.name(node.id, frame)

    def name(self, name: str, frame: Frame) -> Value:
        """Return what a name means in ``frame``; what the device is, the platform tells."""
        if name in _DEVICES:
            return Const(self.world.platform.device)
        scope: Frame | None = frame
        innermost = True
        while scope is not None:
            if scope.names is not None and (innermost or not scope.is_class):
                if name in scope.names:
                    return scope.names[name]
                if name in scope.local:
                    return UNKNOWN
            if name in scope.missing:
                return self.missing_name(name, scope.missing[name], frame)
            scope, innermost = scope.parent, False
        found = self.world.lookup(frame.module.name, name)
        if isinstance(found, ModuleRef):
            return self._external(found.name)
        if not isinstance(found, Absent) and not isinstance(found, Unknown):
            return found
        if name == "TYPE_CHECKING":
            return Const(False)
        if hasattr(builtins, name):  # a module that runs text as code could bind it anew: none does
            return ModuleRef(f"builtins.{name}")
        return found if isinstance(found, Unknown) else UNKNOWN

    def missing_name(self, name: str, left_in: Module, frame: Frame) -> Value:
        """Return what stands for a name that a copied source left behind."""
        return UNKNOWN

    def _eval_Attribute(self, node: ast.Attribute, frame: Frame) -> Value:
        return self.attribute(self.eval(node.value, frame), node.attr, node, frame)

    def attribute(self, value: Value, name: str, node: ast.AST, frame: Frame) -> Value:
        """Return an attribute of a value."""
        if isinstance(value, ModuleRef):
            return self._module_attribute(value, name, node, frame)
        if isinstance(value, Source):
            value = value.of
        if isinstance(value, Class) and value.module.tree is not frame.module.tree:
            if self.lacks(value, name):
                return self.missing_member(value, name, node, frame)
        if isinstance(value, Partial):
            if name in value.attributes or value.cls is None:
                return value.attributes.get(name, UNKNOWN)
            value = Instance(value.cls)
        if isinstance(value, Instance) and self.never_has(value.cls, name):
            return self.missing_member(value.cls, name, node, frame)
        if isinstance(value, Super):
            return self._inherited(value.cls, name)
        if isinstance(value, (Class, Instance)):
            # what torch.autograd.Function calls with one argument of its own before the others
            found = self.member(value, "forward" if name == "apply" else name)
            if name == "apply" and isinstance(found, Function):
                found = replace(found, bound=True)
            if isinstance(value, Instance) and found is UNKNOWN:
                return self.held(value, name)
            return found
        if isinstance(value, Const) and isinstance(value.value, Version):
            return _version_part(value.value, name)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            if self.nobody_has(node.value, name, frame):
                return self.missing_everywhere(name, node, frame)
        return UNKNOWN

    def nobody_has(self, holder: ast.expr, name: str, frame: Frame) -> bool:
        """Tell whether ``holder`` is a model or a tokenizer, and none of them has an attribute."""
        return False

    def missing_everywhere(self, name: str, node: ast.Attribute, frame: Frame) -> Value:
        """Return what stands for an attribute of which no package knows."""
        return UNKNOWN

    def _module_attribute(self, module: ModuleRef, name: str, node: ast.AST, frame: Frame) -> Value:
        """Return an attribute of a module."""
        if self.world.tree_of(module.name) is None:
            if python := self.world.lacks_standard(f"{module.name}.{name}"):
                return self.missing_attribute(module, name, Absent(python), node, frame)
            return self._external(f"{module.name}.{name}")
        found = self.world.lookup(module.name, name)
        if isinstance(found, Absent):
            return self.missing_attribute(module, name, found, node, frame)
        return found

    def missing_attribute(
        self, module: ModuleRef, name: str, absent: Absent, node: ast.AST, frame: Frame
    ) -> Value:
        """Return what stands for an attribute that is not there."""
        return UNKNOWN

    def missing_member(self, cls: Class, name: str, node: ast.AST, frame: Frame) -> Value:
        """Return what stands for an attribute that a class does not have."""
        return UNKNOWN

    def _eval_Subscript(self, node: ast.Subscript, frame: Frame) -> Value:
        value = self.eval(node.value, frame)
        index = self.eval(node.slice, frame)
        if isinstance(value, Registry) and isinstance(index, Const):
            return self._item(value, str(index.value), node, frame)
        if isinstance(value, Keywords) and isinstance(index, Const):
            self.keyword(value, str(index.value), node, frame)
        if isinstance(value, Result):
            value = value.value
        if isinstance(value, Const) and isinstance(value.value, tuple):
            if isinstance(index, Const) and isinstance(index.value, int):
                if -len(value.value) <= index.value < len(value.value):
                    return Const(value.value[index.value])
            if isinstance(node.slice, ast.Slice) and node.slice.lower is None:
                upper = node.slice.upper
                if isinstance(upper, ast.Constant) and isinstance(upper.value, int):
                    return Const(value.value[: upper.value])
        return UNKNOWN

    def _item(self, registry: Registry, key: str, node: ast.AST, frame: Frame) -> Value:
        """Return what a registry holds under a key."""
        items = self.world.items(registry)
        if isinstance(items, Unknown):
            return items
        if key not in items:
            return self._missing_item(registry, key, node, frame)
        value = self.world.evaluator.eval(items[key], Frame(registry.module))
        return Source(value.of, key) if isinstance(value, Source) else value

    def _missing_item(self, registry: Registry, key: str, node: ast.AST, frame: Frame) -> Value:
        """Return what stands for a key that is not there."""
        return UNKNOWN

    def keyword(self, keywords: Keywords, key: str, node: ast.AST, frame: Frame) -> None:
        """Look at a keyword that a function reads from those that its caller left over."""

    def _eval_Dict(self, node: ast.Dict, frame: Frame) -> Value:
        for part in (*node.keys, *node.values):
            if part is not None:
                self.eval(part, frame)
        return self._gathered(
            [k.value if isinstance(k, ast.Constant) else None for k in node.keys], frame
        )

    def _gathered(self, names: Sequence[object], frame: Frame) -> Value:
        """Return a dictionary of keywords that may have more of them later."""
        texts = frozenset(name for name in names if isinstance(name, str))
        return Keywords(texts, True, "", frame.module) if len(texts) == len(names) else UNKNOWN

    def _super(self, frame: Frame | None) -> Value:
        """Return what ``super()`` gives in a frame."""
        while frame is not None and frame.owner is None:
            frame = frame.parent
        return UNKNOWN if frame is None or frame.owner is None else Super(frame.owner)

    def _eval_Call(self, node: ast.Call, frame: Frame) -> Value:
        if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args:
            return self._super(frame)
        holder: Value = UNKNOWN
        if isinstance(node.func, ast.Attribute):
            holder = self.eval(node.func.value, frame)
            callee = self.attribute(holder, node.func.attr, node.func, frame)
        else:
            callee = self.eval(node.func, frame)
        arguments = [self.eval(argument, frame) for argument in node.args]
        keywords = {keyword.arg: self.eval(keyword.value, frame) for keyword in node.keywords}
        if not arguments and isinstance(callee, ModuleRef) and callee.name == "builtins.dict":
            return self._gathered([keyword.arg for keyword in node.keywords], frame)
        if isinstance(node.func, ast.Attribute):
            made = _text_method(holder, node.func.attr, arguments)
            if made is not None:
                return made
            if isinstance(holder, (Registry, Keywords)) and arguments:
                return self._dictionary_method(holder, arguments, node, frame)
        known = self._known_call(node, callee, arguments, keywords, frame)
        return self.call(callee, node, frame) if known is None else known

    def _dictionary_method(
        self, holder: Registry | Keywords, arguments: list[Value], node: ast.Call, frame: Frame
    ) -> Value:
        """Return what ``get`` or ``pop`` of a dictionary gives."""
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        key = arguments[0]
        if not isinstance(key, Const):
            return UNKNOWN
        if isinstance(holder, Keywords):
            if method == "pop" and len(arguments) == 1:
                self.keyword(holder, str(key.value), node, frame)
            return UNKNOWN
        items = self.world.items(holder)
        if method != "get" or isinstance(items, Unknown):
            return UNKNOWN
        if str(key.value) in items:
            return self._item(holder, str(key.value), node, frame)
        if self.world.filled_elsewhere(holder):
            return UNKNOWN
        return arguments[1] if len(arguments) > 1 else Const(None)

    def call(self, callee: Value, node: ast.Call, frame: Frame) -> Value:
        """Return what a call gives of which only the callee is known."""
        if isinstance(callee, Function):
            return self.result_of(callee)
        return Instance(callee) if isinstance(callee, Class) else UNKNOWN

    def result_of(self, function: Function, value: Value = UNKNOWN) -> Result:
        """Return what a call of ``function`` gives, of which ``value`` and its ``return``s are known."""
        lengths = return_lengths(function.node, self.world.body_of(function.node))
        return Result(function, lengths is not None and 0 not in lengths, value)

    def _eval_JoinedStr(self, node: ast.JoinedStr, frame: Frame) -> Value:
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                found = self.eval(value.value, frame)
                if isinstance(found, Source):
                    return found
        return UNKNOWN

    def _eval_BinOp(self, node: ast.BinOp, frame: Frame) -> Value:
        sides = [self.eval(node.left, frame), self.eval(node.right, frame)]
        return next((side for side in sides if isinstance(side, Source)), UNKNOWN)

    def _eval_UnaryOp(self, node: ast.UnaryOp, frame: Frame) -> Value:
        value = self.eval(node.operand, frame)
        if isinstance(node.op, ast.Not):
            truth = truth_of(value)
            return UNKNOWN if truth is None else Const(not truth)
        return UNKNOWN

    def _eval_BoolOp(self, node: ast.BoolOp, frame: Frame) -> Value:
        stops_at = isinstance(node.op, ast.Or)
        value: Value = UNKNOWN
        unsure = False
        for operand in node.values:
            value = self.eval(operand, frame)
            truth = truth_of(value)
            if truth is stops_at:
                return Const(stops_at) if unsure else value
            unsure = unsure or truth is None
        return UNKNOWN if unsure else value

    def _eval_IfExp(self, node: ast.IfExp, frame: Frame) -> Value:
        truth = self.truth(node.test, frame)
        if truth is None:
            return UNKNOWN
        return self.eval(node.body if truth else node.orelse, frame)

    def _eval_NamedExpr(self, node: ast.NamedExpr, frame: Frame) -> Value:
        return self.eval(node.value, frame)

    def _eval_Compare(self, node: ast.Compare, frame: Frame) -> Value:
        left = self.eval(node.left, frame)
        rights = [self.eval(right, frame) for right in node.comparators]
        if len(rights) != 1:
            return UNKNOWN
        return _compare(left, node.ops[0], rights[0])

    def _external(self, path: str) -> Value:
        """Return a name of a module outside the world, by its full path."""
        return self._told.get(path) or ModuleRef(path)


def _text_method(holder: Value, method: str, arguments: list[Value]) -> Value | None:
    """Return what a text method gives, where the text is a constant or a copied source."""
    if isinstance(holder, Source) and method in ("replace", "strip", "rstrip"):
        return holder
    if isinstance(holder, Const) and isinstance(holder.value, str):
        texts = [a.value for a in arguments if isinstance(a, Const)]
        if method in ("startswith", "endswith") and len(texts) == 1:
            return Const(bool(getattr(holder.value, method)(str(texts[0]))))
        if method in ("lower", "upper", "strip") and not arguments:
            return Const(str(getattr(holder.value, method)()))
        return next((a for a in arguments if isinstance(a, Source)), UNKNOWN)
    return None


@lru_cache(_REMEMBERED, typed=True)
def _constant(value: Plain) -> Const:
    return Const(value)


def truth_of(value: Value) -> bool | None:
    """Return whether a value is true, None if that cannot be told."""
    if isinstance(value, Const):
        return True if isinstance(value.value, Version) else bool(value.value)
    if isinstance(value, (Function, Class, Source)):
        return True
    if isinstance(value, Result):
        return True if value.filled else None
    if isinstance(value, ModuleRef):
        return None if "." in value.name else True
    return None


def _compare(left: Value, comparison: ast.cmpop, right: Value) -> Value:
    if isinstance(comparison, (ast.Is, ast.IsNot)):
        left = left.value if isinstance(left, Result) else left
        if right != Const(None) or isinstance(left, Unknown):
            return UNKNOWN
        if isinstance(left, (ModuleRef, Instance, Registry)) and truth_of(left) is None:
            return UNKNOWN
        return Const((left == Const(None)) is isinstance(comparison, ast.Is))
    if not isinstance(left, Const) or not isinstance(right, Const):
        return UNKNOWN
    function = _COMPARISONS.get(type(comparison))
    if function is None:
        return UNKNOWN
    first, second = left.value, right.value
    if isinstance(first, tuple) and isinstance(second, tuple):
        first = first[: max(len(second), 1)] if isinstance(comparison, ast.Eq) else first
    try:
        return Const(bool(function(first, second)))
    except TypeError:
        return UNKNOWN


def _version_part(version: Version, name: str) -> Value:
    if name in ("major", "minor", "micro"):
        return Const(int(getattr(version, name)))
    if name == "release":
        return Const(version.release)
    if name in ("base_version", "public"):
        return Const(str(getattr(version, name)))
    return UNKNOWN
