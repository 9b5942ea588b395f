"""Names that a package hands out on first use: transformers' ``_LazyModule`` and its relatives."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from grpoenv.linker.modules import Module

__all__ = [
    "alias_pattern",
    "gathered_names",
    "hands_out_others",
    "is_lazy",
    "lazy_names",
    "puts_modules_below",
    "scanned_folders",
]

_LAZY = re.compile(r"_LazyModule\(|__getattr__\s*,[^=\n]*=\s*[\w.]*attach\(")
_SCANS = re.compile(r"define_import_structure\(([^()]*(?:\([^()]*\)[^()]*)*)\)")
_ALL = re.compile(rb"^__all__\s*(?::[^=\n]*)?\+?=\s*[\[(]([^\])]*)[\])]", re.MULTILINE)
_REGISTERS = re.compile(r"sys\.modules\[\w+\]\s*=")
_FINDS = re.compile(r"sys\.meta_path\.(?:append|insert)\(")
_BELOW_ITSELF = re.compile(r"""f(["'])\{__name__\}\.([\w.{}]+)\1""")
_MATCHES_BELOW = re.compile(r"""rf(["'])\{re\.escape\(__name__\)\}(\\\..+?)\1""")
_KEY = re.compile(r"""["'](\w+)["']\s*:""")
_NAME = re.compile(rb"[\"'](\w+)[\"']")
_DECORATED = re.compile(
    rb"^@(?:export|requires)\(.*?^(?:class|def)\s+(\w+)", re.MULTILINE | re.DOTALL
)


def is_lazy(module: Module) -> bool:
    """Tell whether the module gives out names through a known lazy loader."""
    return bool(_LAZY.search(module.text))


def alias_pattern(module: Module) -> re.Pattern[str] | None:
    """Return what matches the modules that a package may have below itself without a file.

    transformers keeps the names of modules that are gone: 5.5 writes objects into ``sys.modules``
    under names that begin with its own, 5.24 has a finder for the keys of a table and for a pattern.
    """
    below = []
    if _REGISTERS.search(module.text):
        names = (name for _, name in _BELOW_ITSELF.findall(module.text))
        below += [r"\." + re.sub(r"\{\w+\}", r"\\w+", name) for name in names]
    if _FINDS.search(module.text):
        below += [rf"\.{key}" for key in _KEY.findall(module.text)]
        below += [pattern for _, pattern in _MATCHES_BELOW.findall(module.text)]
    try:
        return re.compile(re.escape(module.name) + f"(?:{'|'.join(below)})") if below else None
    except re.error:  # a pattern put together from more than this text
        return None


def puts_modules_below(module: Module) -> bool:
    """Tell whether a package writes modules into ``sys.modules`` under its own written-out name.

    ``torch.distributed._tensor`` does, for modules that have moved.
    """
    below = re.escape(module.name)
    return re.search(rf"sys\.modules\[\s*f?[\"']{below}\.", module.text) is not None


def lazy_names(module: Module) -> dict[str, str]:
    """Return each name that the module's own structure lists, with the module that defines it."""
    found: dict[str, str] = {}
    for statement, _ in module.statements:
        for submodule, name in _listed(statement):
            found.setdefault(name, f"{module.name}.{submodule}")
    return found


def scanned_folders(module: Module) -> list[str]:
    """Return the packages below which the loader gathers every ``__all__``."""
    folders = []
    for match in _SCANS.finditer(module.text):
        parts = re.findall(r"/\s*[\"'](\w+)[\"']", match[1])
        folders.append(".".join([module.name, *parts]))
    return folders


def gathered_names(raw: bytes) -> set[str]:
    """Return what a scanned source exports: its ``__all__`` and what it decorates as exported."""
    first = raw.find(b"__all__")  # most often near the end
    blocks = _ALL.finditer(raw, first) if first >= 0 else ()
    names = {name.decode() for block in blocks for name in _NAME.findall(block[1])}
    if b"@requires(" in raw or b"@export(" in raw:
        names |= {name.decode() for name in _DECORATED.findall(raw)}
    return names


def _listed(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield (submodule, name) pairs that a statement puts into an import structure."""
    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(statement.value, ast.Dict):
        for key, names in zip(statement.value.keys, statement.value.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield from ((key.value, name) for name in _texts(names))
        return
    target: ast.expr | None = None
    value: ast.expr | None = None
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target, value = statement.targets[0], statement.value
    elif isinstance(statement, ast.AugAssign):
        target, value = statement.target, statement.value
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("append", "extend"):
            target, value = call.func.value, call.args[0] if call.args else None
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        if value is not None and isinstance(target.slice.value, str):
            yield from ((target.slice.value, name) for name in _texts(value))


def _texts(node: ast.expr) -> list[str]:
    elements = node.elts if isinstance(node, (ast.List, ast.Tuple, ast.Set)) else [node]
    return [
        element.value
        for element in elements
        if isinstance(element, ast.Constant) and isinstance(element.value, str)
    ]


def hands_out_others(module: Module, name: str) -> bool:
    """Tell whether ``__getattr__`` comes from a call that lists its names, and not this one."""
    for binding in module.bindings["__getattr__"]:
        call = binding.node
        if not isinstance(call, ast.Call):
            return False
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        tables = [argument for argument in arguments if isinstance(argument, ast.Dict)]
        others = [argument for argument in arguments if argument not in tables]
        if not tables or not all(ast.unparse(other) == "__name__" for other in others):
            return False
        for table in tables:
            keys = [key.value for key in table.keys if isinstance(key, ast.Constant)]
            if len(keys) < len(table.keys) or name in keys:
                return False
    return True
