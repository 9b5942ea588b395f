"""What a function or class shows of itself, read in one walk over its syntax."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = [
    "Body",
    "FunctionNode",
    "body_of",
    "calls_of_self",
    "children",
    "given_to_self",
    "members_of",
    "walk",
]

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef

_PLAIN = frozenset(
    [
        "arg",
        "asname",
        "attr",
        "conversion",
        "ctx",
        "id",
        "is_async",
        "kind",
        "level",
        "module",
        "n",
        "name",
        "op",
        "ops",
        "simple",
        "type_comment",
    ]
)
"""Fields that hold texts and numbers, and nodes that say no more than their own kind."""

_MIXED = frozenset(("keys", "kw_defaults", "kwd_attrs", "names"))
"""Fields with lists that hold other things than nodes, too; of all others every item is one."""

_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {}

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

_TELLING = frozenset(
    (
        *_SCOPES,
        ast.Constant,
        ast.ExceptHandler,
        ast.Global,
        ast.Import,
        ast.ImportFrom,
        ast.Lambda,
        ast.Name,
        ast.Nonlocal,
        ast.Return,
        ast.Yield,
        ast.YieldFrom,
    )
)
"""The kinds of node that tell something of a function's body, or end the walk."""


@dataclass(frozen=True, slots=True)
class Body:
    """The names that a function binds itself, the ``return``s it may reach, whether it yields."""

    local: frozenset[str]
    returns: tuple[ast.Return, ...]
    is_generator: bool


def children(node: ast.AST) -> list[ast.AST]:
    """Return the nodes directly below but for contexts and operators, in order."""
    kind = type(node)
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(name for name in kind._fields if name not in _PLAIN)
    if not _FIELDS[kind]:
        return []
    found: list[ast.AST] = []
    given = node.__dict__
    for name in _FIELDS[kind]:
        if value := given.get(name):
            if isinstance(value, ast.AST):
                found.append(value)
            elif value.__class__ is list and name not in _MIXED:
                found += value
            elif value.__class__ is list:
                found += [item for item in value if isinstance(item, ast.AST)]
    return found


def walk(node: ast.AST) -> list[ast.AST]:
    """Return a node and all below it, parents first."""
    found = [node]
    for each in found:  # grows as it is walked
        found += children(each)
    return found


def calls_of_self(node: ast.AST, name: str) -> Iterator[ast.Call]:
    """Yield the calls ``self.name(...)`` below a node."""
    for each in walk(node):
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute):
            holder = each.func.value
            if each.func.attr == name and isinstance(holder, ast.Name) and holder.id == "self":
                yield each


def body_of(node: FunctionNode) -> Body:
    """Return what the body of a function shows, leaving out the functions and classes inside it."""
    arguments = node.args
    names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    names |= {a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None}
    outside: set[str] = set()
    returns: list[ast.Return] = []
    is_generator = False
    queue: list[ast.AST] = list(node.body)
    while queue:
        child = queue.pop()
        if type(child) not in _TELLING:
            queue += children(child)
            continue
        if isinstance(child, ast.Name):
            if not isinstance(child.ctx, ast.Load):
                names.add(child.id)
            continue
        if isinstance(child, _SCOPES):
            names.add(child.name)
            continue
        if isinstance(child, (ast.Constant, ast.Lambda)):
            continue
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            names |= {a.asname or a.name.partition(".")[0] for a in child.names}
        elif isinstance(child, ast.ExceptHandler) and child.name:
            names.add(child.name)
        elif isinstance(child, (ast.Global, ast.Nonlocal)):
            outside |= set(child.names)
        elif isinstance(child, ast.Return):
            returns.append(child)
        elif isinstance(child, (ast.Yield, ast.YieldFrom)):
            is_generator = True
        queue += children(child)
    leaves = (s.lineno for s in node.body if isinstance(s, (ast.Return, ast.Raise)))
    last = next(leaves, None)  # what follows is dead
    reached = tuple(r for r in returns if last is None or r.lineno <= last)
    return Body(frozenset(names - outside), reached, is_generator)


def members_of(node: ast.ClassDef) -> dict[str, FunctionNode | None]:
    """Return the methods of a class by name, None for a name that it may bind in another way."""
    found: dict[str, FunctionNode | None] = {}
    for statement in reversed(node.body):
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.setdefault(statement.name, statement)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            for alias in statement.names:
                found.setdefault(alias.asname or alias.name.partition(".")[0], None)
        elif not isinstance(statement, (ast.Expr, ast.Pass)):
            for each in walk(statement):
                if isinstance(each, ast.Name):
                    found.setdefault(each.id, None)
                elif isinstance(each, _SCOPES):
                    found.setdefault(each.name, None)
    return found


def given_to_self(node: ast.ClassDef) -> dict[str, list[ast.expr | None]]:
    """Return what methods assign to each ``self.name``, None for what is no plain assignment."""
    plain = {
        id(each.targets[0]): each.value
        for each in walk(node)
        if isinstance(each, ast.Assign) and len(each.targets) == 1
    }
    found: dict[str, list[ast.expr | None]] = {}
    for each in walk(node):
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, (ast.Store, ast.Del)):
            if isinstance(each.value, ast.Name) and each.value.id == "self":
                found.setdefault(each.attr, []).append(plain.get(id(each)))
    return found
