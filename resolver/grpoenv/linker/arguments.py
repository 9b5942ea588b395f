"""What a call hands to the parameters of a function, as far as it can be told."""

from __future__ import annotations

import ast
from collections.abc import Callable

from grpoenv.linker.modules import Module
from grpoenv.linker.values import Const, Function, Keywords, Value

__all__ = ["Handed", "handed"]

Handed = frozenset[tuple[str, Value]]
"""The parameters of which the value is known, with it."""


def handed(
    call: ast.Call,
    function: Function,
    caller: Module,
    given: Callable[[ast.expr], Value],
    default: Callable[[ast.expr], Value],
) -> Handed:
    """Return the constants that a call hands over, and which keywords it leaves over.

    ``given`` evaluates an argument where the call stands, ``default`` one where the function does.
    """
    if any(isinstance(argument, ast.Starred) for argument in call.args):
        return frozenset()
    arguments = function.node.args
    positional = [a.arg for a in (*arguments.posonlyargs, *arguments.args)][function.bound :]
    keywords = {k.arg: k.value for k in call.keywords if k.arg is not None}
    is_open = len(keywords) < len(call.keywords)
    named = {*positional, *(a.arg for a in arguments.kwonlyargs)}
    values = {} if is_open else _defaults(arguments, default)
    values |= {name: given(node) for name, node in zip(positional, call.args, strict=False)}
    values |= {name: given(node) for name, node in keywords.items() if name in named}
    known: dict[str, Value] = {n: v for n, v in values.items() if isinstance(v, Const)}
    if arguments.kwarg is not None:
        over = frozenset(keywords) - named
        known[arguments.kwarg.arg] = Keywords(over, is_open, function.node.name, caller)
    return frozenset(known.items())


def _defaults(arguments: ast.arguments, default: Callable[[ast.expr], Value]) -> dict[str, Value]:
    positional = [*arguments.posonlyargs, *arguments.args]
    last = positional[len(positional) - len(arguments.defaults) :]
    pairs = [*zip(last, arguments.defaults, strict=True)]
    pairs += [
        (a, node)
        for a, node in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if node is not None
    ]
    return {argument.arg: default(node) for argument, node in pairs}
