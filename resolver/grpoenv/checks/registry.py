"""The keys of ``RL_REPLACEMENTS`` that unsloth takes, against those that its zoo defines.

unsloth reads them when it is imported, so one that is missing ends the import with a KeyError
(unslothai/unsloth#2015). Both sides are read from their sources; nothing is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv.checks.interface import Check, Environment, Finding, Severity

__all__ = ["CHECK", "KeyUse", "defined_keys", "used_keys"]

REGISTRY = "RL_REPLACEMENTS"
_UNSLOTH, _ZOO = NormalizedName("unsloth"), NormalizedName("unsloth-zoo")


@dataclass(frozen=True)
class KeyUse:
    """One place that reads a key; ``at_import`` where merely importing the module gets there."""

    key: str
    path: Path
    line: int
    at_import: bool


def used_keys(source: str, path: Path) -> list[KeyUse]:
    """Return each constant key that ``source`` reads from the registry and cannot do without.

    ``RL_REPLACEMENTS.get("key")`` can, and so can what stands in a ``try`` that catches KeyError.
    Raises SyntaxError if ``source`` does not parse.
    """
    uses: list[KeyUse] = []
    _visit(ast.parse(source), path, at_import=True, uses=uses)
    return uses


def defined_keys(source: str) -> set[str]:
    """Return each constant key that ``source`` gives the registry.

    Raises SyntaxError if ``source`` does not parse.
    """
    keys = set()
    for node in ast.walk(ast.parse(source)):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            if (key := _constant_key(target)) is not None:
                keys.add(key)
            elif _is_registry(target) and isinstance(node, ast.Assign):
                keys |= _literal_keys(node.value)
    return keys


def _visit(node: ast.AST, path: Path, *, at_import: bool, uses: list[KeyUse]) -> None:
    if isinstance(node, ast.Try) and any(_catches_key_error(h) for h in node.handlers):
        return
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        if (key := _constant_key(node)) is not None:
            uses.append(KeyUse(key, path, node.lineno, at_import))
    inner = at_import and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        _visit(child, path, at_import=inner, uses=uses)


def _catches_key_error(handler: ast.ExceptHandler) -> bool:
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {type_.id for type_ in types if isinstance(type_, ast.Name)}
    return handler.type is None or bool(names & {"KeyError", "LookupError", "Exception"})


def _is_registry(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == REGISTRY


def _constant_key(node: ast.AST) -> str | None:
    if isinstance(node, ast.Subscript) and _is_registry(node.value):
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            return node.slice.value
    return None


def _literal_keys(node: ast.AST) -> set[str]:
    if not isinstance(node, ast.Dict):
        return set()
    return {
        key.value
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }


def _run(environment: Environment) -> Iterator[Finding]:
    if _UNSLOTH not in environment.installed or _ZOO not in environment.installed:
        return
    zoo_file = environment.installed[_ZOO].info.parent / "unsloth_zoo" / "rl_replacements.py"
    both = f"{environment.label(_UNSLOTH)} with {environment.label(_ZOO)}"
    try:
        defined = defined_keys(zoo_file.read_text("utf-8"))
        uses = [use for path in _readers(environment) for use in _uses_in(path)]
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        yield Finding(
            Severity.UNDETERMINED,
            both,
            f"the registry {REGISTRY} cannot be read: {error}",
            str(zoo_file),
        )
        return
    for use in {use.key: use for use in reversed(uses) if use.key not in defined}.values():
        when = "import unsloth fails" if use.at_import else f"fails where {use.path.name} reads it"
        yield Finding(
            Severity.PROBLEM,
            both,
            f"KeyError: {use.key!r}: {when}, because {environment.label(_UNSLOTH)} takes "
            f"{REGISTRY}[{use.key!r}] and {environment.label(_ZOO)} does not define it",
            f"{use.path}:{use.line} against {zoo_file}",
        )


def _readers(environment: Environment) -> list[Path]:
    files = environment.installed[_UNSLOTH].recorded_files() or []
    return [Path(path) for path, _ in files if path.endswith(".py") and Path(path).is_file()]


def _uses_in(path: Path) -> list[KeyUse]:
    raw = path.read_bytes()
    if REGISTRY.encode() not in raw:
        return []
    return used_keys(raw.decode("utf-8"), path)


CHECK = Check(
    "registry",
    f"every key of {REGISTRY} that unsloth takes is defined",
    _run,
    evidence="the sources of unsloth and unsloth_zoo",
)
