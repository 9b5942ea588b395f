"""Whether a call binds to a signature, and whether what a function returns unpacks."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from grpoenv.linker.syntax import Body, FunctionNode

__all__ = [
    "CallShape",
    "Signature",
    "field_names",
    "is_dataclass",
    "misfit",
    "return_lengths",
    "returns_dictionaries",
    "shape_of",
    "signature_of",
]

_PLAIN_DECORATORS = frozenset(
    (
        "staticmethod",
        "classmethod",
        "abstractmethod",
        "no_grad",
        "inference_mode",
        "compile",
        "lru_cache",
        "cache",
        "contextmanager",
        "disable",
        "torch_compile",
        "_deprecate_arguments",
        "add_end_docstrings",
        "add_start_docstrings",
        "add_start_docstrings_to_model_forward",
        "deprecated",
        "replace_return_docstrings",
    )
)
"""Decorators that leave the parameters as they are."""


@dataclass(frozen=True)
class CallShape:
    """How a call passes arguments; ``open`` when it unpacks a sequence or mapping as well."""

    positional: int
    keywords: tuple[str, ...]
    open_positional: bool = False
    open_keywords: bool = False


@dataclass(frozen=True)
class Signature:
    """Parameters by name; ``required`` are those without a default."""

    positional: tuple[str, ...]
    positional_only: int
    keyword_only: tuple[str, ...]
    required: frozenset[str]
    var_positional: bool = False
    var_keywords: bool = False

    def without_first(self) -> Signature:
        """Return the signature of the bound method."""
        if not self.positional:
            return self
        first = self.positional[0]
        return Signature(
            self.positional[1:],
            max(self.positional_only - 1, 0),
            self.keyword_only,
            self.required - {first},
            self.var_positional,
            self.var_keywords,
        )


def shape_of(call: ast.Call) -> CallShape:
    """Return how ``call`` passes its arguments."""
    return CallShape(
        sum(not isinstance(argument, ast.Starred) for argument in call.args),
        tuple(keyword.arg for keyword in call.keywords if keyword.arg is not None),
        any(isinstance(argument, ast.Starred) for argument in call.args),
        any(keyword.arg is None for keyword in call.keywords),
    )


def signature_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Signature | None:
    """Return the signature, None where a decorator may change it."""
    old: list[str] = []
    for decorator in node.decorator_list:
        if _last_name(decorator) == "deprecate_kwarg":  # takes one keyword more, and no other
            old += _constant_texts(decorator)
        elif _last_name(decorator) not in _PLAIN_DECORATORS:
            return None
    arguments = node.args
    positional = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    optional = positional[len(positional) - len(arguments.defaults) :]
    keyword_only = [a.arg for a in arguments.kwonlyargs]
    required = set(positional) - set(optional if arguments.defaults else ())
    required |= {
        name
        for name, default in zip(keyword_only, arguments.kw_defaults, strict=True)
        if default is None
    }
    return Signature(
        tuple(positional),
        len(arguments.posonlyargs),
        (*keyword_only, *old),
        frozenset(required - set(old)),
        arguments.vararg is not None,
        arguments.kwarg is not None,
    )


def misfit(call: CallShape, signature: Signature) -> str:
    """Return why ``call`` does not bind, in Python's words, empty where it does or may."""
    if call.positional > len(signature.positional) and not signature.var_positional:
        return f"takes {len(signature.positional)} positional arguments, {call.positional} given"
    by_position = set(signature.positional[: call.positional])
    by_keyword = set(signature.positional[signature.positional_only :]) | set(
        signature.keyword_only
    )
    for keyword in call.keywords:
        if keyword not in by_keyword and not signature.var_keywords:
            return f"got an unexpected keyword argument '{keyword}'"
        if keyword in by_position and keyword in by_keyword:
            return f"got multiple values for argument '{keyword}'"
    if call.open_positional or call.open_keywords:
        return ""
    missing = sorted(signature.required - by_position - set(call.keywords))
    if missing:
        return f"is not given its required argument {', '.join(map(repr, missing))}"
    return ""


def return_lengths(node: FunctionNode, body: Body) -> frozenset[int] | None:
    """Return the lengths of the tuples that a function returns, None where one is not known."""
    if node.decorator_list and signature_of(node) is None:
        return None
    if any(_last_name(decorator) == "contextmanager" for decorator in node.decorator_list):
        return None
    if body.is_generator:
        return None
    lengths = set()
    for statement in body.returns:
        value = statement.value
        if not isinstance(value, ast.Tuple):
            return None
        if any(isinstance(element, ast.Starred) for element in value.elts):
            return None
        lengths.add(len(value.elts))
    return frozenset(lengths) or None


def returns_dictionaries(node: FunctionNode, body: Body) -> bool:
    """Tell whether all that a function returns is written as a dictionary."""
    if (node.decorator_list and signature_of(node) is None) or body.is_generator:
        return False
    return bool(body.returns) and all(isinstance(r.value, ast.Dict) for r in body.returns)


def is_dataclass(node: ast.ClassDef) -> bool:
    """Tell whether a class has the constructor that ``dataclass`` makes of its fields."""
    made = [d for d in node.decorator_list if _last_name(d) == "dataclass"]
    return any(
        not isinstance(decorator, ast.Call) or all(k.arg != "init" for k in decorator.keywords)
        for decorator in made
    )


def field_names(node: ast.ClassDef) -> list[str]:
    """Return the fields that a dataclass adds to the constructor."""
    return [
        statement.target.id
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        if "ClassVar" not in ast.dump(statement.annotation)
        if not (isinstance(statement.value, ast.Call) and _is_left_out(statement.value))
    ]


def _is_left_out(field: ast.Call) -> bool:
    return any(
        k.arg == "init" and isinstance(k.value, ast.Constant) and not k.value.value
        for k in field.keywords
    )


def _constant_texts(call: ast.expr) -> list[str]:
    """Return the texts that a call is given: the old name of a parameter and the new one."""
    given = [*call.args, *(k.value for k in call.keywords)] if isinstance(call, ast.Call) else []
    return [a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)]


def _last_name(decorator: ast.expr) -> str:
    node = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
