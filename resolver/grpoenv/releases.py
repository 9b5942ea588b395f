"""What each release of unsloth, its zoo and trl gives: the file ``compat-releases.jsonl``.

The matrix (``compat-matrix.toml``) has the stacks that were locked and run. This file beside it has
one line of JSON for every release, made by ``grpoenv matrix scan`` and never by hand, so that a
diff shows which release changed. It is JSON and not TOML because there are hundreds of them, and
the whole has to load in some milliseconds.

The first line is the head; everything in the file holds for its Python and platform::

    schema, grpoenv     1; the version that wrote the file
    python, platform    "3.11", "x86_64-manylinux_2_28"
    date                the day that ``today`` means

Each other line is a release, in the order of ``SCANNED``, oldest first::

    package, version
    uploaded            the day of its first file on the index
    yanked              true or false
    day                 the outcome of ``PACKAGE==VERSION``, as of the day of the upload; a zoo is
                        asked for beside unsloth, without which it does not import
    tried               outcomes as of days in between, oldest first, and then of its own day with
                        more requirements; looked for where neither of the others is linked
    today               the same line, as of ``date``
    digest              of the line so far, so that a change by hand is found out

An outcome is null where it has not been looked for yet, or else::

    as_of       what had been published at the end of this day (UTC) was there to choose from
    also        what was required beside the line, such as "transformers<5"; absent for nothing
    versions    package = "version", the main ones that uv chose; empty where it finds no set
    verdict     "linked"    the linker finds nothing that is missing
                "import"    an import that a GRPO program makes fails: that of the runtime, or of
                            trl's GRPO trainer
                "run"       it imports, and a default GRPO run fails
                "conflict"  uv finds no set of versions
                "unclear"   it cannot be told
    exception, symbol    what Python raises, and the first thing that is missing   } where the
    culprit, at          the packages that disagree, and the file and line         } verdict is
    reason               uv's words, or why it cannot be told                      } such

Nothing else is allowed. A release has no lock here: its row is the line ``PACKAGE==VERSION`` and a
day, which a resolver that leaves newer files out answers with the same set again, and
``grpoenv matrix lock`` with the same bytes. A lock of 100 packages has 12 KB, which do not compress
to less than 5, so that 300 of them would fill the wheel for stacks that nobody has run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv import __version__
from grpoenv.errors import InputError
from grpoenv.reading import read_text

__all__ = [
    "BROKEN",
    "LINKED",
    "SCANNED",
    "VERDICTS",
    "Outcome",
    "Release",
    "Releases",
    "read_releases",
    "releases_text",
]

SCANNED: Mapping[str, tuple[str, ...]] = {"unsloth": (), "trl": (), "unsloth-zoo": ("unsloth",)}
"""The packages whose releases are looked at, and what is asked for beside a release of each."""

SCHEMA = 1
LIMIT_BYTES = 8 * 1024 * 1024
LINKED = "linked"
BROKEN = ("import", "run")
VERDICTS = (LINKED, *BROKEN, "conflict", "unclear")


@dataclass(frozen=True)
class Outcome:
    """What one line of requirements gives as of a day; the fields are those of the file."""

    as_of: str
    versions: Mapping[str, str]
    verdict: str
    exception: str = ""
    symbol: str = ""
    culprit: str = ""
    at: str = ""
    reason: str = ""
    also: str = ""

    @property
    def failure(self) -> str:
        """What goes wrong, in words; empty where nothing does."""
        if self.verdict in BROKEN:
            return f"{self.exception}: {self.symbol} ({self.culprit})"
        return self.reason


@dataclass(frozen=True)
class Release:
    """One release and what it gives; days are ISO dates."""

    package: NormalizedName
    version: str
    uploaded: str
    yanked: bool = False
    day: Outcome | None = None
    tried: tuple[Outcome, ...] = ()
    today: Outcome | None = None

    @property
    def row(self) -> Outcome | None:
        """The newest outcome that is linked: the set of this release that can be had."""
        outcomes = [self.today, *reversed(self.tried), self.day]
        return next((one for one in outcomes if one and one.verdict == LINKED), None)

    @property
    def unusable(self) -> str:
        """Why no set with this release is known to fit, as of its own day; else empty."""
        if self.row is not None or self.day is None:
            return ""
        return self.day.failure


@dataclass(frozen=True)
class Releases:
    """The whole file; ``date`` is the day that "today" means in it."""

    python: str
    platform: str
    date: str
    rows: tuple[Release, ...] = ()

    def of(self, package: str) -> tuple[Release, ...]:
        """Return the releases of one package, oldest first."""
        return tuple(row for row in self.rows if row.package == package)


def read_releases(path: Path) -> Releases:
    """Read the file strictly; raises InputError with the line where it is not of this schema."""
    lines = read_text(path, limit_bytes=LIMIT_BYTES).splitlines()
    if not lines:
        raise InputError("is empty", path=path)
    head = _object(lines[0], path, 1)
    if head.get("schema") != SCHEMA:
        message = f"has the schema {head.get('schema')!r}; this grpoenv reads {SCHEMA}"
        raise InputError(message, path=path, line=1)
    try:
        _only(head, ("schema", "grpoenv", "python", "platform", "date"))
        rows = tuple(_rows(lines, path))
        return Releases(head["python"], head["platform"], head["date"], rows)
    except (KeyError, ValueError) as error:
        raise InputError(f"is no head of releases: {error}", path=path, line=1) from error


def _rows(lines: Sequence[str], path: Path) -> Iterator[Release]:
    seen = set()
    for number, line in enumerate(lines[1:], start=2):
        try:
            release = _release(_object(line, path, number), _digest(line.rpartition(_SEAL)[0]))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"is no release: {error}", path=path, line=number) from error
        key = (release.package, release.version)
        if key in seen:
            raise InputError(f"{' '.join(key)} is there twice", path=path, line=number)
        seen.add(key)
        yield release


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is no JSON: {error}", path=path, line=number) from error
    if not isinstance(value, dict):
        raise InputError("is no JSON object", path=path, line=number)
    return value


_SEAL = ',"digest":"'
_RELEASE_KEYS = frozenset(field.name for field in fields(Release)) | {"digest"}
_OUTCOME_KEYS = frozenset(field.name for field in fields(Outcome))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _release(data: dict[str, Any], digest: str) -> Release:
    _only(data, _RELEASE_KEYS)
    if data["digest"] != digest:
        message = f"{data['package']} {data['version']} was changed by hand: "
        raise ValueError(f"{message}its digest is {digest}, and the line has {data['digest']}")
    if data["package"] not in SCANNED:
        raise ValueError(f"{data['package']!r} is none of {', '.join(SCANNED)}")
    return Release(
        package=NormalizedName(data["package"]),
        version=_text(data["version"]),
        uploaded=_text(data["uploaded"]),
        yanked=bool(data["yanked"]),
        day=_outcome(data["day"]),
        tried=tuple(filter(None, map(_outcome, data["tried"]))),
        today=_outcome(data["today"]),
    )


def _outcome(data: dict[str, Any] | None) -> Outcome | None:
    if data is None:
        return None
    _only(data, _OUTCOME_KEYS)
    if data["verdict"] not in VERDICTS:
        raise ValueError(f"{data['verdict']!r} is no verdict")
    for value in (*data["versions"].values(), *(data[key] for key in data if key != "versions")):
        _text(value)
    return Outcome(**data)


def _only(data: Mapping[str, Any], known: Iterable[str]) -> None:
    for key in data:
        if key not in known:
            raise ValueError(f"{key} is not a known key")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, found {value!r}")
    return value


def releases_text(releases: Releases) -> str:
    """Return the file's text; the same releases in any order give the same bytes."""
    head = {
        "schema": SCHEMA,
        "grpoenv": __version__,
        "python": releases.python,
        "platform": releases.platform,
        "date": releases.date,
    }
    order = list(SCANNED)
    rows = sorted(releases.rows, key=lambda row: (order.index(row.package), Version(row.version)))
    lines = [_line(head), *(_sealed(_line(_release_json(row))) for row in rows)]
    return "".join(f"{line}\n" for line in lines)


def _sealed(line: str) -> str:
    text = line[:-1]
    return f'{text}{_SEAL}{_digest(text)}"}}'


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _release_json(release: Release) -> dict[str, Any]:
    return {
        **asdict(release),
        "day": _outcome_json(release.day),
        "tried": [_outcome_json(one) for one in release.tried],
        "today": _outcome_json(release.today),
    }


def _outcome_json(outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    return {key: value for key, value in asdict(outcome).items() if value or key == "versions"}
