"""``unsloth_compiled_cache``: trainers that unsloth generated for other versions.

unsloth writes Python modules into the folder that training starts in, and heads them with the
versions of unsloth_zoo, unsloth, transformers and trl that they were made from.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv.checks.interface import Check, Environment, Finding, Severity

__all__ = ["CHECK", "stamped_versions"]

_MARK = "__UNSLOTH_VERSIONING__"
_ORDER = tuple(map(NormalizedName, ("unsloth-zoo", "unsloth", "transformers", "trl")))
_HEAD_BYTES = 4096
_GENERATED = re.compile(r"(Unsloth\w+Trainer|unsloth_compiled_module_\w+)\.py")
_FOLDER, _VARIABLE = "unsloth_compiled_cache", "UNSLOTH_COMPILE_LOCATION"


def stamped_versions(path: Path) -> dict[NormalizedName, str] | None:
    """Return the versions that the head of a generated module names, None if it names none.

    Raises OSError if ``path`` cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES).decode("utf-8", "replace")
    before, mark, _ = head.partition(_MARK)
    lines = [line.strip() for line in before.replace('"""', "").splitlines() if line.strip()]
    return dict(zip(_ORDER, lines, strict=False)) if mark and len(lines) == len(_ORDER) else None


def _run(environment: Environment) -> Iterator[Finding]:
    use = environment.use
    if use.folder is None or NormalizedName("unsloth") not in environment.installed:
        return
    folder = use.folder / use.variables.get(_VARIABLE, _FOLDER)
    generated = sorted(path for path in folder.glob("*.py") if _GENERATED.fullmatch(path.name))
    for path in generated:
        try:
            stamped = stamped_versions(path)
        except OSError as error:
            yield Finding(Severity.UNDETERMINED, str(path), f"{error.strerror}", str(path))
            return
        if reason := _differences(environment, stamped):
            yield _stale(environment, path, reason, len(generated))
            return


def _differences(environment: Environment, stamped: dict[NormalizedName, str] | None) -> str:
    if stamped is None:
        return "an unsloth that did not yet note its versions"
    versions = environment.versions
    other = [
        f"{name} {text}"
        for name, text in stamped.items()
        if name in versions and text not in (str(versions[name]), "0")
    ]
    return ", ".join(other)


def _stale(environment: Environment, path: Path, reason: str, count: int) -> Finding:
    rewritten = _is_compared(environment)
    what_comes = (
        "this unsloth writes them anew, unless UNSLOTH_COMPILE_OVERWRITE=0 forbids it"
        if rewritten
        else "this unsloth may run the old code"
    )
    return Finding(
        Severity.WARNING if rewritten else Severity.PROBLEM,
        str(path.parent),
        f"holds {count} generated modules made by {reason}, and {_installed(environment)} are "
        f"installed; {what_comes}",
        f"head of {path}",
        remedy=f"rm -r {shlex.quote(str(path.parent))}",
    )


def _installed(environment: Environment) -> str:
    return ", ".join(environment.label(name) for name in _ORDER if name in environment.installed)


def _is_compared(environment: Environment) -> bool:
    """Tell whether the installed zoo compares the stamp before it runs a generated module."""
    zoo = environment.installed.get(NormalizedName("unsloth-zoo"))
    if zoo is None:
        return False
    try:
        text = (zoo.info.parent / "unsloth_zoo" / "compiler.py").read_text("utf-8", "replace")
    except OSError:
        return False
    return text.count(_MARK) > 1  # once to write the stamp, and again to compare it


CHECK = Check(
    "compiled-cache",
    "no trainers that unsloth generated for other versions lie in the working folder",
    _run,
    evidence="the heads of the modules in unsloth_compiled_cache",
    seconds=0.1,
)
