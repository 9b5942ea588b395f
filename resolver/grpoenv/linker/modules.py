"""One module: its syntax tree, and what its top level binds, without running any of it."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from grpoenv.linker.syntax import children, walk
from grpoenv.source_tree import SourceTree

__all__ = ["Binding", "Module", "Opaque", "Test", "catches", "parse", "source_texts"]

Test = tuple[ast.expr, bool] | None
"""A condition that a statement stands under and the value it needs; None where no test can tell."""

_WRITES_ITSELF = re.compile(
    r"globals\(\)\s*(?:\[[^\]]*\]\s*=[^=]|\.update\(|\.setdefault\()"
    r"|sys\.modules\[__name__\]\s*(?:=[^=]|\.__class__\s*=)"
    r"|setattr\(sys\.modules\[__name__\],\s*[^\"'\s]"
)
_NAMES_ITSELF = re.compile(r"(\w+)\s*=\s*sys\.modules\[__name__\]")
_HANDS_ITSELF = re.compile(r"\b(?!(?:get|has|del|set)attr\b)\w+\(\s*sys\.modules\[__name__\]")
_NAMES_ITS_SPACE = re.compile(r"(\w+)\s*=\s*globals\(\)")
_LAZY = re.compile(r"\b(?:__file__|LazyLoader)\b")
"""What a statement mentions that hands its namespace to a loader, for names that are seen."""
_GIVES_ANY = re.compile(r"setattr\(self,\s*[^\"'\s]|self\.__dict__\b|vars\(self\)")

Kind = Literal["import", "from", "star", "function", "class", "value", "deleted", "other"]
_Block = tuple[Sequence[ast.stmt], tuple[Test, ...]]


@dataclass(frozen=True, eq=False)
class Binding:
    """One place at which a module's top level binds a name.

    ``module`` and ``name`` are what an import takes; ``tests`` is what the statement stands under.
    """

    kind: Kind
    node: ast.AST
    tests: tuple[Test, ...]
    module: str = ""
    name: str = ""


@dataclass(frozen=True)
class Opaque:
    """A module that is there and cannot be looked into, with the reason.

    One that is ``sourceless``, compiled or a mere folder, has no source that anyone could miss.
    """

    name: str
    reason: str
    sourceless: bool = False


@dataclass(eq=False)
class Module:
    """A parsed module; ``path`` is relative to site-packages."""

    name: str
    path: str
    is_package: bool
    tree: SourceTree
    text: str
    body: list[ast.stmt] = field(repr=False)

    @cached_property
    def bindings(self) -> dict[str, list[Binding]]:
        """Every name that a statement of the top level binds, in order; stars under ``"*"``."""
        found: dict[str, list[Binding]] = {}
        for statement, tests in self.statements:
            for name, binding in _bound_by(statement, tests, self):
                found.setdefault(name, []).append(binding)
        return found

    @cached_property
    def texts(self) -> list[str]:
        """Every text in the module that may be a piece of source."""
        return [text for statement in self.body for text in source_texts(statement)]

    @cached_property
    def future_annotations(self) -> bool:
        """Whether annotations are never evaluated."""
        return any(
            isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
            for statement in self.body[:10]
        ) and any(
            alias.name == "annotations"
            for statement in self.body[:10]
            if isinstance(statement, ast.ImportFrom)
            for alias in statement.names
        )

    def resolve_relative(self, module: str | None, level: int) -> str:
        """Return the absolute name of a ``from .module import``."""
        if not level:
            return module or ""
        parts = self.name.split(".")
        keep = len(parts) - level + (1 if self.is_package else 0)
        base = parts[: max(keep, 0)]
        return ".".join([*base, module] if module else base)

    @cached_property
    def statements(self) -> list[tuple[ast.stmt, tuple[Test, ...]]]:
        """Every statement that the top level may run, with what it stands under."""
        return list(_statements(self.body, ()))

    def where(self, node: ast.AST | None = None) -> str:
        """Return file and line."""
        line = getattr(node, "lineno", None)
        return self.tree.locate(self.path) + (f":{line}" if line else "")

    @cached_property
    def dynamic(self) -> str:
        """Why names may be bound that no statement shows, empty where none may."""
        for statement, _ in self.statements:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            for node in _own_expressions(statement):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    if node.func.id in ("exec", "globals", "vars", "locals"):
                        if node.func.id != "exec" and _LAZY.search(ast.dump(statement)):
                            continue
                        return f"{self.where(node)} calls {node.func.id}()"
        match = _WRITES_ITSELF.search(self.text) or self._own_name_written()
        if match is None:
            return ""
        line = self.text.count("\n", 0, match.start()) + 1
        return f"{self.tree.locate(self.path)}:{line} writes its own names, or another in its place"

    def _own_name_written(self) -> re.Match[str] | None:
        """Find where the module gets names by way of what it calls itself or its namespace."""
        # each pattern begins with any word, and is looked for where a plain text is found alone
        selves, found = [self.name.rpartition(".")[2]], None
        if "sys.modules[__name__]" in self.text:
            selves += _NAMES_ITSELF.findall(self.text)
            found = _HANDS_ITSELF.search(self.text)
        if found is None and ("setattr(" in self.text or ".__dict__[" in self.text):
            own = "|".join(map(re.escape, selves))
            writes = rf"setattr\(\s*(?:{own})\s*,|\b(?:{own})\.__dict__\["
            found = re.search(writes, self.text)
        if found is None and "globals()" in self.text:
            if spaces := _NAMES_ITS_SPACE.findall(self.text):
                space = "|".join(map(re.escape, spaces))
                writes = rf"\b(?:{space})(?:\[[^\]\n]*\]\s*=[^=]|\.(?:update|setdefault)\()"
                found = re.search(writes, self.text)
        return found

    def sets_global(self, name: str) -> bool:
        """Tell whether a function declares ``name`` global, or runs text that may define it."""
        return name in self._declared_global or name in self._run_as_text

    @cached_property
    def gives_any_attribute(self) -> bool:
        """Whether an object there gives itself attributes that no statement names."""
        return _GIVES_ANY.search(self.text) is not None

    @cached_property
    def _declared_global(self) -> frozenset[str]:
        if "global" not in self.text:  # told much faster
            return frozenset()
        lines = re.findall(r"^\s+global\b([^\n]*)", self.text, re.MULTILINE)
        return frozenset(re.findall(r"\w+", " ".join(lines)))

    @cached_property
    def _run_as_text(self) -> frozenset[str]:
        if "globals()" in self.text and "exec(" in self.text:
            return frozenset(re.findall(r"\w+", self.text))
        return frozenset()


def source_texts(node: ast.AST) -> Iterator[str]:
    """Yield the texts below ``node`` that may be pieces of source."""
    for each in walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            if any(sign in each.value for sign in ("import ", "=", "def ")):
                yield each.value


def parse(tree: SourceTree, path: str, name: str, is_package: bool) -> Module | Opaque:
    """Read and parse one source; whatever is wrong with it becomes the reason of an Opaque."""
    try:
        raw = tree.read(path)
    except (OSError, KeyError, ValueError) as error:
        return Opaque(name, f"{tree.locate(path)} cannot be read: {error}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(raw).body
        text = raw.decode("utf-8", errors="replace")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Opaque(name, f"{tree.locate(path)} cannot be parsed: {error}")
    return Module(name, path, is_package, tree, text, body)


def catches(handler: ast.ExceptHandler) -> frozenset[str] | None:
    """Return the names of the exceptions that ``handler`` catches and keeps, None for all.

    A handler that ends in ``raise`` keeps none.
    """
    if handler.body and isinstance(handler.body[-1], ast.Raise):
        return frozenset()
    if handler.type is None:
        return None
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = frozenset(
        node.id if isinstance(node, ast.Name) else node.attr
        for node in types
        if isinstance(node, (ast.Name, ast.Attribute))
    )
    return None if names & {"Exception", "BaseException"} else names


def _own_expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """Walk the expressions of a statement, not the statements inside it nor deferred code."""
    queue: list[ast.AST] = [child for child in children(statement) if isinstance(child, ast.expr)]
    while queue:
        node = queue.pop()
        yield node
        if not isinstance(node, ast.Lambda):
            queue += children(node)


def _blocks(statement: ast.stmt, tests: tuple[Test, ...]) -> list[_Block]:
    """Return the blocks inside a compound statement that run where it stands."""
    if isinstance(statement, ast.If):
        return [
            (statement.body, (*tests, (statement.test, True))),
            (statement.orelse, (*tests, (statement.test, False))),
        ]
    if isinstance(statement, ast.Try) or type(statement).__name__ == "TryStar":
        assert isinstance(statement, ast.Try)
        kept = any(catches(handler) != frozenset() for handler in statement.handlers)
        inner = (*tests, None) if kept else tests
        return [
            (statement.body, inner),
            *((handler.body, (*tests, None)) for handler in statement.handlers),
            (statement.orelse, inner),
            (statement.finalbody, tests),
        ]
    if isinstance(statement, (ast.With, ast.AsyncWith)):
        return [(statement.body, tests)]
    if isinstance(statement, (ast.For, ast.AsyncFor, ast.While)):
        return [(statement.body, (*tests, None)), (statement.orelse, (*tests, None))]
    if isinstance(statement, ast.Match):
        return [(case.body, (*tests, None)) for case in statement.cases]
    return []


def _statements(
    body: Sequence[ast.stmt], tests: tuple[Test, ...]
) -> Iterator[tuple[ast.stmt, tuple[Test, ...]]]:
    for statement in body:
        yield statement, tests
        for inner, inner_tests in _blocks(statement, tests):
            yield from _statements(inner, inner_tests)


def _bound_by(
    statement: ast.stmt, tests: tuple[Test, ...], module: Module
) -> Iterator[tuple[str, Binding]]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield statement.name, Binding("function", statement, tests)
    elif isinstance(statement, ast.ClassDef):
        yield statement.name, Binding("class", statement, tests)
    elif isinstance(statement, ast.Import):
        for alias in statement.names:
            target = alias.name if alias.asname else alias.name.partition(".")[0]
            name = alias.asname or target
            yield name, Binding("import", statement, tests, target)
    elif isinstance(statement, ast.ImportFrom):
        source = module.resolve_relative(statement.module, statement.level)
        for alias in statement.names:
            kind: Kind = "star" if alias.name == "*" else "from"
            yield alias.asname or alias.name, Binding(kind, statement, tests, source, alias.name)
    elif isinstance(statement, ast.Delete):
        for target_node in statement.targets:
            if isinstance(target_node, ast.Name):
                yield target_node.id, Binding("deleted", statement, tests)
    else:
        yield from _assigned_by(statement, tests)


def _assigned_by(statement: ast.stmt, tests: tuple[Test, ...]) -> Iterator[tuple[str, Binding]]:
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            for name in _names(target):
                kind: Kind = "value" if isinstance(target, ast.Name) else "other"
                yield name, Binding(kind, statement.value, tests)
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        for name in _names(statement.target):
            yield name, Binding("value", statement.value, tests)
    elif isinstance(statement, (ast.For, ast.AsyncFor)):
        for name in _names(statement.target):
            yield name, Binding("other", statement, (*tests, None))
    elif isinstance(statement, (ast.With, ast.AsyncWith)):
        for item in statement.items:
            if item.optional_vars is not None:
                for name in _names(item.optional_vars):
                    yield name, Binding("other", statement, tests)
    for node in _own_expressions(statement):
        if isinstance(node, ast.NamedExpr):
            yield node.target.id, Binding("other", node, tests)


def _names(target: ast.expr) -> Iterator[str]:
    if isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, (ast.Tuple, ast.List)):
        for element in target.elts:
            yield from _names(element)
    elif isinstance(target, ast.Starred):
        yield from _names(target.value)
