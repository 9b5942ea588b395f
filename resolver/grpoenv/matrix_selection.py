"""Which rows of the matrix to look at, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from grpoenv.errors import InputError
from grpoenv.matrix import MAIN_PACKAGES, Break, Level, Matrix, Stack, Target

__all__ = ["SORT_KEYS", "Selection", "parse_packages", "parse_sort", "select"]

SORT_KEYS = ("file", "id", "date", "level")
"""What stacks are sorted by, besides the version of a package."""


@dataclass(frozen=True)
class Selection:
    """Conditions that all have to hold; an empty one always does.

    ``words`` are parts of what a row says, in any case. ``packages`` have to be in the row, in a
    version that the specifier contains. ``level`` is the least that a target has to have reached,
    and ``image`` a part of the image's name. ``sort`` is one of ``SORT_KEYS`` or a package, rows
    without it come last.
    """

    words: tuple[str, ...] = ()
    runtime: str = ""
    packages: tuple[Requirement, ...] = ()
    level: Level = Level.RESOLVED
    python: str = ""
    image: str = ""
    sort: str = "file"
    reverse: bool = False

    @property
    def of_stacks(self) -> bool:
        """Tell whether there is a condition that a break can neither meet nor miss."""
        return bool(self.runtime or self.python or self.image or self.level > Level.RESOLVED)


def parse_packages(texts: Sequence[str]) -> tuple[Requirement, ...]:
    """Parse ``"trl"`` or ``"torch>=2.6"``; raises InputError."""
    try:
        return tuple(map(Requirement, texts))
    except InvalidRequirement as error:
        raise InputError(f"--package: {error}") from error


def parse_sort(text: str) -> str:
    """Parse one of ``SORT_KEYS`` or a main package, its name in any spelling; raises InputError."""
    if text in SORT_KEYS:
        return text
    name = canonicalize_name(text)
    if name not in MAIN_PACKAGES:
        raise InputError(
            f"--sort {text!r} is neither a key nor a package whose version stacks state",
            remedy=f"take one of {', '.join([*SORT_KEYS, *MAIN_PACKAGES])}",
        )
    return name


def select(matrix: Matrix, wanted: Selection) -> Matrix:
    """Return ``matrix`` with the rows that are ``wanted``, and of a stack the targets that are.

    A word that is the id of a row means that row alone. Breaks are left out where a condition is
    about stacks alone.
    """
    matrix = _named(matrix, wanted.words) or matrix
    narrowed = [_narrowed(stack, wanted) for stack in matrix.stacks]
    stacks = [stack for stack in narrowed if stack.targets and _stack_meets(stack, wanted)]
    breaks = [row for row in matrix.breaks if not wanted.of_stacks and _break_meets(row, wanted)]
    return replace(matrix, stacks=tuple(_sorted(stacks, wanted)), breaks=tuple(breaks))


def _named(matrix: Matrix, words: Sequence[str]) -> Matrix | None:
    stacks = tuple(row for row in matrix.stacks if [row.id] == list(words))
    breaks = tuple(row for row in matrix.breaks if [row.id] == list(words))
    return replace(matrix, stacks=stacks, breaks=breaks) if stacks or breaks else None


def _narrowed(stack: Stack, wanted: Selection) -> Stack:
    def meets(target: Target) -> bool:
        return target.level >= wanted.level and wanted.python in ("", target.python)

    return replace(stack, targets=tuple(filter(meets, stack.targets)))


def _stack_meets(stack: Stack, wanted: Selection) -> bool:
    return (
        wanted.runtime in ("", stack.runtime)
        and wanted.image.lower() in stack.image.lower()
        and all(_has(stack, package) for package in wanted.packages)
        and _says(_stack_texts(stack), wanted.words)
    )


def _has(stack: Stack, package: Requirement) -> bool:
    version = stack.versions.get(canonicalize_name(package.name))
    return version is not None and package.specifier.contains(version, prereleases=True)


def _stack_texts(stack: Stack) -> Iterable[str]:
    yield from (stack.id, stack.runtime, stack.summary, stack.image)
    yield from (f"{name} {version}" for name, version in stack.versions.items())
    yield from (f"{addition.package} {addition.reason}" for addition in stack.additions)
    for target in stack.targets:
        yield from (f"{row.machine} {row.note}" for row in target.evidence)
        yield from (f"{row.step} {row.error}" for row in target.failures)


def _break_meets(row: Break, wanted: Selection) -> bool:
    texts = [row.id, row.kind, row.summary, row.symptom, row.symbol, row.reference]
    texts += [f"{name} {specifier}" for name, specifier in row.when.items()]
    return all(_concerns(row, package) for package in wanted.packages) and _says(
        texts, wanted.words
    )


def _concerns(row: Break, package: Requirement) -> bool:
    """Tell whether a break names the package and, where one version is asked for, holds for it."""
    name = canonicalize_name(package.name)
    parts = [part for part in package.specifier if part.operator == "=="]
    exact = [Version(part.version) for part in parts if not part.version.endswith(".*")]
    return name in row.when and all(row.when[name].contains(one, prereleases=True) for one in exact)


def _says(texts: Iterable[str], words: Sequence[str]) -> bool:
    text = "\n".join(texts).lower()
    return all(word.lower() in text for word in words)


def _sorted(stacks: list[Stack], wanted: Selection) -> list[Stack]:
    keys: dict[str, Callable[[Stack], Any]] = {
        "id": lambda stack: stack.id,
        "date": lambda stack: stack.as_of,
        "level": lambda stack: max(target.level for target in stack.targets),
    }
    if wanted.sort == "file":
        return stacks[::-1] if wanted.reverse else stacks
    if wanted.sort in keys:
        return sorted(stacks, key=keys[wanted.sort], reverse=wanted.reverse)
    name: NormalizedName = canonicalize_name(wanted.sort)
    known = [stack for stack in stacks if name in stack.versions]
    unknown = [stack for stack in stacks if name not in stack.versions]
    return sorted(known, key=lambda stack: stack.versions[name], reverse=wanted.reverse) + unknown
