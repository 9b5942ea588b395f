"""The keywords that the user's scripts give ``GRPOConfig``, against its fields in the installed trl.

trl drops and renames fields (``max_prompt_length``), and a script written for another version ends
with a TypeError, after the model has been loaded.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.checks.script import imports_of, read_script
from grpoenv.source_tree import SourceTree

__all__ = ["CHECK", "CONFIG", "config_fields"]

CONFIG = "GRPOConfig"
_TRL = NormalizedName("trl")
_SOURCES = (
    "trl/trainer/grpo_config.py",
    "trl/trainer/base_config.py",
    "transformers/training_args.py",
)
"""Where GRPOConfig and the classes that it is made from stand, in all trl from 0.14 to 1.16."""
_NEAR = 0.85
"""How alike a field has to be for a slip of the pen (difflib; max_step and max_steps: 0.94)."""


def config_fields(trees: Mapping[NormalizedName, SourceTree]) -> frozenset[str] | None:
    """Return the keywords that ``GRPOConfig`` takes, None where that cannot be read in full."""
    classes: dict[str, ast.ClassDef] = {}
    for source in _SOURCES:
        try:
            parsed = ast.parse(trees[NormalizedName(source.partition("/")[0])].read(source))
        except (OSError, KeyError, SyntaxError, ValueError, RecursionError):
            continue
        for node in parsed.body:
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, node)
    return _fields(CONFIG, classes, frozenset())


def _fields(
    name: str, classes: dict[str, ast.ClassDef], seen: frozenset[str]
) -> frozenset[str] | None:
    class_ = classes.get(name)
    if class_ is None or name in seen:
        return None
    from grpoenv.linker.signatures import field_names

    found = set(field_names(class_))
    for base in class_.bases:
        inherited = _fields(ast.unparse(base), classes, seen | {name})
        if inherited is None:
            return None
        found |= inherited
    return frozenset(found)


def _run(environment: Environment) -> Iterator[Finding]:
    if not environment.use.scripts or _TRL not in environment.installed:
        return
    fields = config_fields(environment.trees)
    if fields is None:
        label = environment.label(_TRL)
        source = environment.trees[_TRL].locate(_SOURCES[0]) if _TRL in environment.trees else label
        yield Finding(Severity.NOTE, label, f"its {CONFIG} cannot be read in full", source)
        return
    for path in environment.use.scripts:
        yield from _script(environment, path, fields)


def _script(environment: Environment, path: Path, fields: frozenset[str]) -> Iterator[Finding]:
    try:
        sources = read_script(path)
        trees = [ast.parse(source) for source in sources]
        patched = any(found.package == "unsloth" for found in imports_of(sources))
    except (SyntaxError, ValueError, RecursionError):
        return  # ``script`` says so
    label = environment.label(_TRL)
    for tree in trees:
        for keyword in _keywords(tree):
            if keyword.arg is None or keyword.arg in fields:
                continue
            near = difflib.get_close_matches(keyword.arg, fields, 1, _NEAR)
            yield Finding(
                # unsloth adds fields of its own, and takes some that trl has dropped.
                Severity.WARNING if patched else Severity.PROBLEM,
                f"{path.name}:{keyword.lineno}",
                f"gives {CONFIG} the keyword {keyword.arg!r}, which {label} does not have"
                + (f" (it has {near[0]!r})" if near else ""),
                f"{path}:{keyword.lineno} against {_SOURCES[0]} (incidents trl-5964, unsloth-2576)",
                remedy=f"take {keyword.arg!r} out of {path}",
                file=path,
                line=keyword.lineno,
            )


def _keywords(tree: ast.Module) -> Iterator[ast.keyword]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if (name or (node.func.id if isinstance(node.func, ast.Name) else "")) == CONFIG:
                yield from node.keywords


CHECK = Check(
    "script-config",
    "your script gives GRPOConfig what the installed trl takes",
    _run,
    evidence="the calls of GRPOConfig in the scripts, and its fields in trl's source",
    seconds=0.5,
)
