"""The keys that a source reads from a registry and cannot do without."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from grpoenv.linker.modules import catches

__all__ = ["required_keys"]


def required_keys(source: str, registry: str) -> set[str]:
    """Return each constant key that ``source`` reads from the dictionary named ``registry``.

    ``registry.get("key")`` can do without, and so can what stands in a ``try`` that catches
    KeyError. Raises SyntaxError if ``source`` does not parse.
    """
    return set(_keys(ast.parse(source), registry))


def _keys(node: ast.AST, registry: str) -> Iterator[str]:
    if isinstance(node, ast.Try) and any(_keeps_key_error(h) for h in node.handlers):
        return
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        if isinstance(node.value, ast.Name) and node.value.id == registry:
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
                yield node.slice.value
    for child in ast.iter_child_nodes(node):
        yield from _keys(child, registry)


def _keeps_key_error(handler: ast.ExceptHandler) -> bool:
    kept = catches(handler)
    return kept is None or bool(kept & {"KeyError", "LookupError"})
