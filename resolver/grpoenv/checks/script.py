"""The user's own scripts and notebooks: unsloth has to be imported before what it patches.

unsloth replaces functions of trl, transformers and peft when it is imported. What has been imported
before keeps the old ones, and the run is slower, needs more memory, or fails.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.errors import InputError
from grpoenv.reading import read_text

__all__ = ["CHECK", "Import", "cell_place", "imports_of", "read_script"]

_LIMIT_BYTES = 16 * 1024 * 1024
_PATCHED = {
    "trl": Severity.PROBLEM,
    "transformers": Severity.PROBLEM,
    "peft": Severity.PROBLEM,
    "accelerate": Severity.WARNING,
    "bitsandbytes": Severity.WARNING,
}
"""What unsloth patches; the first three are those that its own import complains of."""
_HEAL = "grpoenv_runtime.heal()"
_MAGIC = re.compile(r"^\s*(?:[%!?]|\w+\s*=\s*[%!]|[\w.]+\?{1,2}\s*$)")


@dataclass(frozen=True)
class Import:
    """One import that runs when the script does: top-level package, line, cell (0 in a script).

    A call of ``grpoenv_runtime.heal()`` counts as one, because it has its place among them.
    """

    package: str
    line: int
    cell: int = 0

    @property
    def place(self) -> str:
        """Where it stands, as ``":12"`` or ``", cell 3, line 12"``."""
        return f", cell {self.cell}, line {self.line}" if self.cell else f":{self.line}"


def read_script(path: Path) -> list[str]:
    """Return the source of a script, or of each code cell of a notebook, magics taken out.

    Raises InputError if ``path`` cannot be read or is no notebook.
    """
    text = read_text(path, limit_bytes=_LIMIT_BYTES)
    if path.suffix != ".ipynb":
        return [text]
    try:
        cells = json.loads(text)["cells"]
        sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"is no notebook: {error!r}", path=path) from error
    return [_without_magics("".join(source)) for source in sources]


def _without_magics(source: str) -> str:
    """Replace the lines that only IPython understands, so that line numbers stay."""
    if _parses(source):
        return source
    if source.lstrip().startswith("%%") and not source.lstrip().startswith(("%%time", "%%capture")):
        return ""
    kept, continued = [], False
    for line in source.split("\n"):
        magic = bool(_MAGIC.search(line))
        if continued:
            kept.append("")
        else:
            kept.append(_indent(line) + "pass" if magic else line)
        continued = (continued or magic) and line.rstrip().endswith("\\")
    return "\n".join(kept)


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def imports_of(sources: list[str]) -> list[Import]:
    """Return the imports in the order in which they run; those inside functions are left out.

    Raises SyntaxError or ValueError if a source does not parse.
    """
    found: list[Import] = []
    for number, source in enumerate(sources, start=1):
        cell = number if len(sources) > 1 else 0
        _collect(ast.parse(source), cell, found)
    return found


def cell_place(sources: list[str], line: int) -> tuple[int, str]:
    """Return the line in its own source, and the place as text, of a line of all joined."""
    for number, source in enumerate(sources, start=1):
        lines = source.count("\n") + 1
        if line <= lines or number == len(sources):
            return line, Import("", line, number if len(sources) > 1 else 0).place
        line -= lines
    return line, f":{line}"


def _collect(node: ast.AST, cell: int, found: list[Import]) -> None:
    if isinstance(node, ast.Import):
        found += [Import(_top(alias.name), node.lineno, cell) for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        found.append(Import(_top(node.module), node.lineno, cell))
    elif isinstance(node, ast.Call) and _is_heal(node.func):
        found.append(Import(_HEAL, node.lineno, cell))
    elif not _runs_later(node):
        for child in ast.iter_child_nodes(node):
            _collect(child, cell, found)


def _runs_later(node: ast.AST) -> bool:
    """Tell whether the body of ``node`` runs not where it stands, or only for a type checker."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.dump(node.test)
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))


def _is_heal(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else ""
    return (name or (function.id if isinstance(function, ast.Name) else "")) == "heal"


def _top(name: str) -> str:
    return name.partition(".")[0]


def _run(environment: Environment) -> Iterator[Finding]:
    if not environment.use.scripts:
        yield Finding(
            Severity.NOTE,
            "your script",
            "was not looked at: grpoenv verify train.py looks at its imports, too",
            "no script given",
        )
    for path in environment.use.scripts:
        try:
            imports = imports_of(read_script(path))
        except (SyntaxError, ValueError, RecursionError) as error:
            yield Finding(Severity.UNDETERMINED, path.name, f"does not parse: {error}", str(path))
            continue
        yield from _order(environment, path, imports)


def _order(environment: Environment, path: Path, imports: list[Import]) -> Iterator[Finding]:
    unsloth = next((found for found in imports if found.package == "unsloth"), None)
    if unsloth is None:
        return
    label = environment.label(NormalizedName("unsloth"))
    position = imports.index(unsloth)
    early = {found.package: found for found in reversed(imports[:position])}
    for found in sorted(early.values(), key=imports.index):
        if found.package in _PATCHED:
            yield Finding(
                _PATCHED[found.package],
                f"{path.name}{found.place}",
                f"imports {found.package} before unsloth ({path.name}{unsloth.place}): {label} "
                "patches it when it is imported, and what was taken from it before stays as it is",
                f"{path}{found.place} (incidents unsloth-602, unsloth-1831)",
                remedy=f"move 'import unsloth' to the top of {path}",
                file=path,
                line=found.line,
            )
    for found in imports[position:]:
        if found.package == _HEAL:
            yield Finding(
                Severity.PROBLEM,
                f"{path.name}{found.place}",
                f"calls {_HEAL} after unsloth is imported ({path.name}{unsloth.place}): it "
                "mends what that import reads, and raises HealError then",
                f"{path}{found.place}",
                remedy=f"move {_HEAL} above 'import unsloth' in {path}",
                file=path,
                line=found.line,
            )


CHECK = Check(
    "script",
    "your script imports unsloth before what it patches",
    _run,
    evidence="the imports of the scripts given to verify",
    seconds=0.5,
)
