"""A collected breakage, as one row of an ``incidents.jsonl`` states it, parsed into typed values.

What a person wrote down is kept no closer than it was meant: ``"2.9.x"`` is a range, ``"2.11.0 in
memory, 2.9.1 on disk"`` two versions, ``"git main"`` a branch that no index has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version

__all__ = ["Incident", "Stated", "read_incidents"]

_IN_MEMORY = re.compile(r"(\S+) (?:in memory|loaded), (\S+) on disk")
_RANGE = re.compile(r"(\d[\d.]*) to (\d[\d.]*)")
_SYMBOLS = (
    re.compile(r"cannot import name ['\"](\w+)['\"]"),
    re.compile(r"No module named ['\"]([\w.]+)['\"]"),
    re.compile(r"has no attribute ['\"]?(\w+)"),
    re.compile(r"name ['\"](\w+)['\"] is not defined"),
    re.compile(r"KeyError: ['\"](\w+)['\"]"),
    re.compile(r"unexpected keyword argument ['\"](\w+)['\"]"),
    re.compile(r"missing attribute (\w+)"),
    re.compile(r"ValueError: ['\"](\w+)['\"] is already used"),
    re.compile(r"(Python\.h|PY_SSIZE_T_CLEAN)"),
    re.compile(r"unknown \w+ option ([\w.]+)"),
    re.compile(r"no longer supported, but found (\w+\.py)"),
)
_IMPORT_LINE = re.compile(r"cannot import name ['\"](\w+)['\"] from ['\"]([\w.]+)['\"]")
_MODULE_LINE = re.compile(r"No module named ['\"](\w+\.[\w.]+)['\"]")
_MODEL_TYPE = re.compile(
    r"model type [`'\"]?(\w+)[`'\"]?[^.]{0,40}?(?:is not in|but Trans|unknown|not recogn)"
)
_MODEL = re.compile(r"from_pretrained\([`'\"]([\w.-]+/[\w.-]+)[`'\"]")
_KEYWORD = re.compile(
    r"(\w+)(?:\.__init__\(\))? got an unexpected keyword argument(?: ['\"](\w+))?"
)


@dataclass(frozen=True)
class Stated:
    """What a row says of one package's version; all empty where it says nothing usable.

    ``label`` is the local part of a build (``cu124``), ``loaded`` the version in memory where
    another lies on the disk, ``branch`` tells that it came from a repository's main branch.
    """

    specifier: SpecifierSet = field(default_factory=SpecifierSet)
    label: str = ""
    loaded: str = ""
    branch: bool = False

    @property
    def exact(self) -> Version | None:
        """The one version that is meant, None where a range is."""
        pins = [one for one in self.specifier if one.operator == "==" and "*" not in one.version]
        return Version(pins[0].version) if len(pins) == 1 else None


@dataclass(frozen=True)
class Incident:
    """One row; ``consumers`` take from ``providers`` what is missing or does not fit.

    Both are what the row's ``pair`` says in words, split up: not all of them name a distribution.
    ``told`` is its exception and its cause.
    """

    id: str
    day: date | None
    class_: str
    looks_at: str
    how: str
    exception: str
    consumers: tuple[str, ...]
    providers: tuple[str, ...]
    stated: Mapping[NormalizedName, Stated]
    python: str
    platform: str
    gpu: str
    driver: str
    repository: str
    told: str = ""

    @property
    def model_type(self) -> str:
        """The type of a model that the row says is not known, "" if it names none."""
        match = _MODEL_TYPE.search(self.told)
        return match[1] if match else ""

    @property
    def model(self) -> str:
        """The model that was loaded, where the row names it."""
        match = _MODEL.search(self.told)
        return match[1] if match else "somebody/a-model"

    @property
    def symbol(self) -> str:
        """The name, key or keyword that the exception says is missing, "" if it names none."""
        for pattern in _SYMBOLS:
            if match := pattern.search(self.exception):
                name = match[1]
                return name if name.endswith((".h", ".py")) else name.rpartition(".")[2]
        return ""

    @property
    def import_line(self) -> str:
        """The import that failed, as a statement, "" where the exception shows none."""
        if match := _IMPORT_LINE.search(self.exception):
            return f"from {match[2]} import {match[1]}"
        match = _MODULE_LINE.search(self.exception)
        return f"import {match[1]}" if match else ""

    @property
    def keyword(self) -> tuple[str, str] | None:
        """The callable and the keyword that it does not take."""
        match = _KEYWORD.search(self.exception)
        if match is None:
            return None
        listed = re.search(r"\((\w+)", self.exception[match.end() :])
        word = match[2] or (listed[1] if listed else "")
        return (match[1], word) if word else None


def read_incidents(path: Path) -> list[Incident]:
    """Return every row of ``path``; raises ValueError with the line where one is none."""
    return list(_rows(path))


def _rows(path: Path) -> Iterator[Incident]:
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if line.strip():
            try:
                yield _incident(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}:{number} is no incident: {error!r}") from error


def _incident(row: Mapping[str, Any]) -> Incident:
    environment = row["environment"]
    consumer, _, provider = str(row.get("pair") or "").partition("/")
    return Incident(
        id=row["id"],
        day=date.fromisoformat(row["date"]) if row.get("date") else None,
        class_=row["class"],
        looks_at=row.get("check") or str(row.get("how") or "").partition(":")[0],
        how=row.get("how") or "",
        exception=row.get("exception") or "",
        consumers=_sides(consumer),
        providers=_sides(provider),
        stated={
            canonicalize_name(name): parse_stated(str(text))
            for name, text in (environment.get("packages") or {}).items()
        },
        python=environment.get("python") or "",
        platform=environment.get("platform") or "linux",
        gpu=environment.get("gpu") or "",
        driver=environment.get("driver_cuda") or "",
        repository=(row.get("repo") or "").rpartition("/")[2],
        told=f"{row.get('exception') or ''} {row.get('cause') or ''}",
    )


def _sides(text: str) -> tuple[str, ...]:
    parts = re.split(r",|\(|\)|\bor\b", text)
    return tuple(part.strip() for part in parts if part.strip())


def parse_stated(text: str) -> Stated:
    """Return what a version text means; one that means none gives an empty ``Stated``."""
    if match := _IN_MEMORY.search(text):
        return Stated(_exactly(match[2]).specifier, loaded=match[1])
    if re.search(r"\bgit\b", text) or text.strip() == "main":
        return Stated(branch=True)
    if match := _RANGE.search(text):
        return Stated(SpecifierSet(f">={match[1]},<{_next(match[2])}"))
    if match := re.fullmatch(r"before (\d\S*)", text.strip()):
        return Stated(SpecifierSet(f"<{match[1]}"))
    if re.fullmatch(r"\S+ before", text.strip()):
        return Stated()  # what was there before is not what is there
    try:
        return Stated(SpecifierSet(re.sub(r"\s*\(.*\)", "", text)))
    except InvalidSpecifier:
        return _exactly(re.sub(r"\s*\(.*\)", "", text).strip())


def _exactly(text: str) -> Stated:
    """Return the version that ``text`` is; two numbers, or a last ``x``, mean a series."""
    try:
        if re.fullmatch(r"\d+\.\d+(\.x)?", text):
            return Stated(SpecifierSet(f"=={text.removesuffix('.x')}.*"))
        version = Version(text)
    except (InvalidVersion, InvalidSpecifier):
        return Stated()
    if (
        version.is_devrelease and not version.local
    ):  # a build of the branch that became that release
        return Stated(SpecifierSet(f"=={version.base_version}"))
    return Stated(SpecifierSet(f"=={version.public}"), label=version.local or "")


def _next(series: str) -> str:
    """Return the first version after all of a series: ``2.8`` after ``2.7``."""
    *front, last = series.split(".")
    return ".".join([*front, str(int(last) + 1)])
