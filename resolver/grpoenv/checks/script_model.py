"""The models that the user's scripts load, against the model types that transformers has.

A checkpoint's ``config.json`` names its type, and a transformers older than that type ends with a
ValueError. The file is read where the script would find it: in a folder of that name, or in the
cache of the hub. A model that was never downloaded here is not looked at.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.checks.offline import hub_cache
from grpoenv.checks.script import cell_place, read_script
from grpoenv.source_tree import SourceTree

__all__ = ["CHECK", "model_types"]

_TRANSFORMERS = NormalizedName("transformers")
_ADDS = (NormalizedName("unsloth"), NormalizedName("unsloth-zoo"))
"""The packages that register types of their own with transformers (ministral3 in the zoo)."""
_TABLES = ("auto_mappings.py", "configuration_auto.py")
"""Where the table of model types stands: before transformers 5.5 in the second alone."""
_TYPE = re.compile(r"""["']([\w.-]+)["']\s*[,:]\s*["']\w+Config["']""")
_LOADS = re.compile(r"(?:from_pretrained|Trainer)$")
_NAMES = ("model_name", "pretrained_model_name_or_path", "model_name_or_path", "model")
_REGISTERS = re.compile(r"\bAutoConfig\.register\(")
_LIMIT_BYTES = 1024 * 1024


def model_types(tree: SourceTree) -> frozenset[str]:
    """Return the model types that a transformers knows, none where they cannot be read."""
    found: set[str] = set()
    for name in _TABLES:
        try:
            text = tree.read(f"transformers/models/auto/{name}").decode("utf-8", "replace")
        except (OSError, KeyError):
            continue
        found.update(_TYPE.findall(text))
    return frozenset(found)


def _run(environment: Environment) -> Iterator[Finding]:
    if not environment.use.scripts or _TRANSFORMERS not in environment.trees:
        return
    known = model_types(environment.trees[_TRANSFORMERS])
    for path in environment.use.scripts if known else ():
        try:
            sources = read_script(path)
            tree = ast.parse("\n".join(sources))
        except (SyntaxError, ValueError, RecursionError):
            continue  # ``script`` says so
        if any(_REGISTERS.search(source) for source in sources):
            continue
        for line, name in _loaded(tree):
            for config, type_ in _types(environment, path.parent, name):
                if type_ not in known and not _is_registered(environment, type_):
                    place = cell_place(sources, line)
                    yield _finding(environment, path, place, name, type_, config)


def _is_registered(environment: Environment, type_: str) -> bool:
    registers = re.compile(rf"register\(\s*[\"']{re.escape(type_)}[\"']".encode())
    for name in _ADDS:
        tree = environment.trees.get(name)
        for path in tree.paths() if tree else ():
            try:
                if tree and path.endswith(".py") and registers.search(tree.read(path)):
                    return True
            except (OSError, KeyError):
                continue
    return False


def _loaded(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each model that a call loads by a text or a constant."""
    constants = _constants(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not _LOADS.search(ast.unparse(node.func)):
            continue
        given = [keyword.value for keyword in node.keywords if keyword.arg in _NAMES]
        for value in [*node.args[:1], *given]:
            name = constants.get(value.id) if isinstance(value, ast.Name) else value
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value


def _constants(tree: ast.Module) -> Mapping[str, ast.expr]:
    """Return what the names stand for that are assigned once, at the top level."""
    found: dict[str, ast.expr] = {}
    times = Counter(
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and times[target.id] == 1:
                    found[target.id] = node.value
    return found


def _types(environment: Environment, folder: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Yield the ``config.json`` of a model and its type; nothing where it brings its own code."""
    path = _config(environment, folder, name)
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(_LIMIT_BYTES))
    except (OSError, ValueError, RecursionError):
        return
    type_ = config.get("model_type") if isinstance(config, dict) else None
    if isinstance(type_, str) and "auto_map" not in config:
        yield path, type_


def _config(environment: Environment, folder: Path, name: str) -> Path:
    """Return where the configuration of a model is, if it is here."""
    local = (environment.use.folder or folder) / name / "config.json"
    if local.is_file():
        return local
    variables = environment.use.variables
    home = Path(variables.get("HOME") or Path.home())
    kept = hub_cache(variables, home) / f"models--{name.replace('/', '--')}"
    try:
        revision = (kept / "refs" / "main").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        revision = ""
    return kept / "snapshots" / (revision or "main") / "config.json"


def _finding(
    environment: Environment,
    path: Path,
    found: tuple[int, str],
    name: str,
    type_: str,
    config: Path,
) -> Finding:
    line, place = found
    label = environment.label(_TRANSFORMERS)
    return Finding(
        Severity.PROBLEM,
        label,
        f"has no model type {type_!r}, which is that of {name} ({path.name}{place}): loading it "
        "ends with a ValueError",
        f"{config}; transformers/models/auto of {label}",
        remedy="install a transformers that has the type, or load another model",
        file=path,
        line=line,
    )


CHECK = Check(
    "script-model",
    "the installed transformers has the types of the models that your script loads",
    _run,
    evidence="config.json of the models that are here, and transformers' table of types",
    seconds=0.5,
)
