"""Calls whose answer the world knows: versions, what is installed, what something has."""

from __future__ import annotations

import ast
import operator
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version

from grpoenv.linker.frames import Frame
from grpoenv.linker.members import Members
from grpoenv.linker.values import (
    UNKNOWN,
    Absent,
    Class,
    Const,
    Function,
    Instance,
    ModuleRef,
    Partial,
    Result,
    Source,
    Unknown,
    Value,
)

__all__ = ["Answers", "version_of"]

_AVAILABLE = re.compile(r"^_?is_(\w+?)_(?:available|installed)$")
_VERSION_TEST = re.compile(
    r"^is_(\w+?)_(?:version|greater_or_equal|less_or_equal|equal_or_newer)(?:_than)?$"
)
_GENERATION = re.compile(r"_v?\d+$")
_LEAST = re.compile(r"^min(?:imum)?_version$")
_QUESTIONS = ("is_", "_is_")
_COMPARES = frozenset(("compare_version", "compare_versions"))
_TOLD = frozenset(
    {
        *_COMPARES,
        "Version",
        "find_spec",
        "getattr",
        "getsource",
        "hasattr",
        "machine",
        "parse",
        "system",
        "version",
    }
)
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


class Answers(Members):
    """Answers the few functions that ask for what a world has."""

    @abstractmethod
    def eval(self, node: ast.expr, frame: Frame) -> Value:
        """Return what an expression gives, ``Unknown`` where that cannot be told."""

    @abstractmethod
    def nobody_has(self, holder: ast.expr, name: str, frame: Frame) -> bool:
        """Tell whether no class that ``holder`` can be of has the attribute ``name``."""

    @abstractmethod
    def missing_attribute(
        self, module: ModuleRef, name: str, found: Absent, node: ast.AST, frame: Frame
    ) -> Value:
        """Return what an attribute gives that a module does not have."""

    def _known_call(
        self,
        node: ast.Call,
        callee: Value,
        arguments: list[Value],
        keywords: Mapping[str | None, Value],
        frame: Frame,
    ) -> Value | None:
        """Return what one of the few functions gives whose answer the world knows."""
        if isinstance(callee, Function) and (stored := self._stored_answer(callee)) is not None:
            return stored
        name = callee.name if isinstance(callee, ModuleRef) else _function_name(callee, node)
        last = name.rpartition(".")[2]
        if last not in _TOLD and not last.startswith(_QUESTIONS):
            return None
        texts = [a.value for a in arguments if isinstance(a, Const) and isinstance(a.value, str)]
        if name == "inspect.getsource" and arguments:
            of = arguments[0]
            if isinstance(of, (Function, Class)):
                return Source(of, of.node.name)
            return of if isinstance(of, Source) else UNKNOWN
        if last in ("Version", "parse") and len(texts) == 1 and "json" not in name:
            return version_of(texts[0])
        if name in ("importlib.metadata.version", "importlib_metadata.version") and texts:
            return self._installed_version(texts[0])
        if name == "importlib.util.find_spec" and texts:
            there = self.world.has_module(texts[0])
            return UNKNOWN if there is None else Const(True if there else None)
        if name in ("platform.system", "platform.machine"):
            platform = self.world.platform
            return Const(platform.system if last == "system" else platform.machine)
        if name == "builtins.hasattr" and len(arguments) == 2 and texts:
            if isinstance(arguments[0], Unknown) and self.nobody_has(node.args[0], texts[0], frame):
                return Const(False)
            return self._has(arguments[0], texts[0])
        if name == "builtins.getattr" and len(arguments) > 1 and texts:
            return self._get(arguments, texts[0], node, frame)
        if last in _COMPARES and len(arguments) == 3:
            return self._compared(*arguments)
        least = self._least_version(callee, keywords)
        return self._availability(least, last, arguments, texts)

    def _stored_answer(self, function: Function) -> Const | None:
        """Return what ``def is_x_available(): return _x_available`` gives where that is certain.

        A tuple is true, whatever it says: what tells availability with one to somebody who
        expects a truth value says that everything is there.
        """
        if function.module.name in self.world.open_modules:
            return None  # somebody sets its names, as unsloth does to mend these answers
        body = function.node.body
        last = body[-1]
        if (
            len(body) > 2
            or not isinstance(last, ast.Return)
            or not isinstance(last.value, ast.Name)
        ):
            return None
        stored = self.world.lookup(function.module.name, last.value.id)
        return Const(True) if isinstance(stored, Result) and stored.filled else None

    def _availability(
        self, least: Value | None, function: str, arguments: list[Value], texts: list[str]
    ) -> Value | None:
        if (match := _AVAILABLE.match(function)) and len(arguments) == len(texts) <= 1:
            return self._is_installed(match[1], Const(texts[0]) if texts else least)
        if match := _VERSION_TEST.match(function):
            have = self.world.versions.get(canonicalize_name(match[1]))
            compare = texts[0] if len(texts) == 2 else "<=" if "less" in function else ">="
            if have is not None and texts and compare in _OPERATORS:
                want = version_of(texts[-1])
                if isinstance(want, Const):
                    return Const(bool(_OPERATORS[compare](have, want.value)))
        return None

    def _compared(self, package: Value, operation: Value, wanted: Value) -> Value | None:
        """Return what ``compare_version("torch", operator.ge, "2.4")`` gives."""
        parts = [str(part.value) for part in (package, wanted) if isinstance(part, Const)]
        if isinstance(operation, ModuleRef) and len(parts) == 2:
            compare: Any = getattr(operator, operation.name.partition("operator.")[2], None)
            have, want = self.world.versions.get(canonicalize_name(parts[0])), version_of(parts[1])
            if compare in _OPERATORS.values() and have is not None and isinstance(want, Const):
                return Const(bool(compare(have, want.value)))
        return None

    def _installed_version(self, name: str) -> Value:
        have = self.world.versions.get(canonicalize_name(name))
        return Const(str(have)) if have is not None else UNKNOWN

    def _least_version(self, callee: Value, keywords: Mapping[str | None, Value]) -> Value | None:
        """Return ``min_version`` of a call of ``is_x_available``, or its default, None without one."""
        for name, value in keywords.items():
            if name and _LEAST.search(name):
                return value
        if not isinstance(callee, Function):
            return None
        arguments = callee.node.args.args
        if len(arguments) != 1 or not callee.node.args.defaults:
            return None
        if not _LEAST.search(arguments[0].arg):
            return None
        return self.eval(callee.node.args.defaults[0], Frame(callee.module))

    def _is_installed(self, name: str, least: Value | None) -> Value | None:
        canonical: NormalizedName = canonicalize_name(name)
        if canonical in self.world.trees:
            if least is None or least == Const(None):
                return Const(True)
            wanted = version_of(str(least.value)) if isinstance(least, Const) else UNKNOWN
            if not isinstance(wanted, Const):
                return UNKNOWN
            return Const(bool(_OPERATORS[">="](self.world.versions[canonical], wanted.value)))
        canonical = canonicalize_name(_GENERATION.sub("", name))  # as in is_flash_attn_2_available
        return Const(False) if canonical in self.world.absent else None

    def _has(self, value: Value, name: str) -> Value:
        if isinstance(value, ModuleRef) and self.world.lacks_standard(f"{value.name}.{name}"):
            return Const(False)
        if isinstance(value, ModuleRef) and self.world.tree_of(value.name) is not None:
            found = self.world.lookup(value.name, name)
            if isinstance(found, Unknown):
                return UNKNOWN
            return Const(not isinstance(found, Absent))
        if isinstance(value, Partial):
            if value.cls is None or name in value.attributes:
                return Const(True) if name in value.attributes else UNKNOWN
            value = Instance(value.cls)
        if isinstance(value, Instance):
            method = self.find_member(value.cls, name)
            if isinstance(method, Function) or self._has_field(value.cls, name):
                return Const(True)
            if self.never_has(value.cls, name):
                return Const(False)
        return UNKNOWN

    def _get(self, arguments: list[Value], name: str, node: ast.AST, frame: Frame) -> Value:
        module = arguments[0]
        if isinstance(module, ModuleRef) and self.world.tree_of(module.name):
            found = self.world.lookup(module.name, name)
            if not isinstance(found, Absent):
                return found
            if len(arguments) > 2:
                return arguments[2]
            return self.missing_attribute(module, name, found, node, frame)
        return UNKNOWN


def version_of(text: str) -> Value:
    """Return the version that a text states."""
    try:
        return Const(Version(text))
    except InvalidVersion:
        return UNKNOWN


def _function_name(callee: Value, node: ast.Call) -> str:
    if isinstance(callee, Function):
        return callee.node.name
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""
