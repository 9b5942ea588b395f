"""Dictionaries that a module fills by statements with constant keys."""

from __future__ import annotations

import ast

__all__ = ["given_keys", "is_dictionary"]

_DICT_CALLS = ("dict", "OrderedDict")


def is_dictionary(node: ast.expr) -> bool:
    """Tell whether an expression is a dictionary, or a call that makes one."""
    if isinstance(node, ast.Dict):
        return True
    return isinstance(node, ast.Call) and _makes_dictionary(node.func)


def _makes_dictionary(function: ast.expr) -> bool:
    """Tell whether a call of ``function`` makes one: ``dict``, ``OrderedDict[str, str]``."""
    named = function.value if isinstance(function, ast.Subscript) else function
    return isinstance(named, ast.Name) and named.id in _DICT_CALLS


def given_keys(statement: ast.stmt, registry: str) -> dict[str, ast.expr] | None:
    """Return the constant keys that a statement gives ``registry``, None if it gives others."""
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if _is_name(target, registry) and statement.value is not None:
                return _literal(statement.value)
            if isinstance(target, ast.Subscript) and _is_name(target.value, registry):
                if not isinstance(target.slice, ast.Constant) or statement.value is None:
                    return None
                return {str(target.slice.value): statement.value}
    elif isinstance(statement, ast.AugAssign) and _is_name(statement.target, registry):
        return _literal(statement.value)
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
        if isinstance(call.func, ast.Attribute) and _is_name(call.func.value, registry):
            if call.func.attr == "update":
                return _updated(call)
            if call.func.attr == "setdefault" and isinstance(call.args[0], ast.Constant):
                return {str(call.args[0].value): call.args[-1]}
        elif any(_is_name(argument, registry) for argument in call.args):
            return None
    return {}


def _updated(call: ast.Call) -> dict[str, ast.expr] | None:
    found: dict[str, ast.expr] = {}
    for argument in call.args:
        given = _literal(argument)
        if given is None:
            return None
        found |= given
    if any(keyword.arg is None for keyword in call.keywords):
        return None
    return found | {str(keyword.arg): keyword.value for keyword in call.keywords}


def _literal(node: ast.expr) -> dict[str, ast.expr] | None:
    if isinstance(node, ast.Dict):
        found: dict[str, ast.expr] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if not isinstance(key, ast.Constant):
                return None
            found[str(key.value)] = value
        return found
    if isinstance(node, ast.List):
        return _paired(node)
    if isinstance(node, ast.Call) and _makes_dictionary(node.func):
        return _updated(node)
    return None


def _paired(node: ast.List) -> dict[str, ast.expr] | None:
    """Return what a list of pairs gives a dictionary, None where it is none of constant keys."""
    found: dict[str, ast.expr] = {}
    for pair in node.elts:
        if not isinstance(pair, ast.Tuple) or len(pair.elts) != 2:
            return None
        if not isinstance(pair.elts[0], ast.Constant):
            return None
        found[str(pair.elts[0].value)] = pair.elts[1]
    return found


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
