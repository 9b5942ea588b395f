"""Names that a package hands out on first use: transformers' ``_LazyModule`` and its relatives."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

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
    """Tell whether ``__getattr__`` lists the names that it hands out, and not this one."""
    listed = [_listed_by(binding.node, module) for binding in module.bindings["__getattr__"]]
    return all(names is not None and name not in names for names in listed)


def _listed_by(node: ast.AST | None, module: Module) -> frozenset[str] | None:
    """Return the names that a ``__getattr__`` hands out, None where it does not show them."""
    if isinstance(node, ast.FunctionDef) and node.args.args:
        return _names_asked(node.body, node.args.args[0].arg, module)
    if not isinstance(node, ast.Call):
        return None
    arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
    tables = [argument for argument in arguments if isinstance(argument, ast.Dict)]
    others = [argument for argument in arguments if argument not in tables]
    if not tables or not all(ast.unparse(other) == "__name__" for other in others):
        return None
    return _union(_constants(table, module) for table in tables)


def _names_asked(body: list[ast.stmt], asked: str, module: Module) -> frozenset[str] | None:
    """Return the names that a ``__getattr__`` asks for before it raises."""
    if not body or not isinstance(body[-1], ast.Raise):
        return None
    found: list[frozenset[str] | None] = []
    for statement in body[:-1]:
        if isinstance(statement, ast.If) and not statement.orelse:
            found.append(_names_in(statement.test, asked, module))
        elif not isinstance(statement, (ast.Import, ast.ImportFrom, ast.Expr)):
            return None
    return _union(found)


def _names_in(test: ast.expr, asked: str, module: Module) -> frozenset[str] | None:
    """Return the names for which a test of the one that is asked for can be true."""
    if isinstance(test, ast.BoolOp):
        parts = [_names_in(part, asked, module) for part in test.values]
        if isinstance(test.op, ast.Or):
            return _union(parts)
        return next((part for part in parts if part is not None), None)
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    if not isinstance(test.left, ast.Name) or test.left.id != asked:
        return None
    if isinstance(test.ops[0], ast.Eq):
        texts = _texts(test.comparators[0])
        return frozenset(texts) if len(texts) == 1 else None
    return _constants(test.comparators[0], module) if isinstance(test.ops[0], ast.In) else None


def _constants(node: ast.AST | None, module: Module) -> frozenset[str] | None:
    """Return the texts of a display, or the keys of a table, that nothing else adds to."""
    if isinstance(node, ast.Name):
        adds = rf"\b{node.id}\s*(\[[^\]\n]*\]\s*=(?!=)|[+|]=|\.(update|setdefault|append|extend|add|insert)\()"
        bindings = module.bindings.get(node.id, [])
        if len(bindings) != 1 or re.search(adds, module.text):
            return None
        node = bindings[0].node
    if isinstance(node, ast.Dict):
        elements: list[ast.expr | None] = list(node.keys)
    elif isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        elements = list(node.elts)
    else:
        return None
    texts = [text for element in elements if element is not None for text in _texts(element)]
    return frozenset(texts) if len(texts) == len(elements) else None


def _union(parts: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    """Return all names, None where some part does not show them."""
    found = list(parts)
    known = [part for part in found if part is not None]
    return frozenset().union(*known) if len(known) == len(found) else None
