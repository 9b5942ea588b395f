"""The set of wheels that uv chooses for one line of requirements as of a day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.checks.linkage import LINKED, TOLD_ABSENT
from grpoenv.errors import InputError, UndeterminedError
from grpoenv.matrix import MAIN_PACKAGES
from grpoenv.probe import Probe
from grpoenv.published import NoSolution, Published, Wanted, find_published
from grpoenv.releases import SCANNED
from grpoenv.scan.kept import Kept
from grpoenv.uv import redacted
from grpoenv.wheels import WheelFile

__all__ = ["Asked", "WheelSet", "find_sets"]

_REASON_LENGTH = 300


@dataclass(frozen=True)
class Asked:
    """One release as of the end of a day (UTC, an ISO date), with what ``also`` requires.

    ``also`` has requirements without spaces, one space apart.
    """

    package: NormalizedName
    version: str
    as_of: str
    also: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """The requirements."""
        return (f"{self.package}=={self.version}", *SCANNED[self.package], *self.also.split())

    @property
    def until(self) -> str:
        """The moment after which nothing counts as published."""
        return f"{date.fromisoformat(self.as_of) + timedelta(days=1)}T00:00:00Z"


@dataclass(frozen=True)
class WheelSet:
    """What uv chose: the wheels that can be linked, the main versions; or why there is no set.

    ``absent`` are the packages that nothing in it brings and that an import cannot do without.
    """

    wheels: tuple[WheelFile, ...]
    versions: dict[str, str]
    absent: frozenset[NormalizedName] = frozenset()
    conflict: str = ""
    unclear: str = ""


def find_sets(
    asked: Iterable[Asked], probe: Probe, *, workers: int
) -> Iterator[tuple[Asked, WheelSet]]:
    """Yield the set of each of ``asked`` as soon as uv has it, ``workers`` at a time."""
    kept = Kept("sets")
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(_find, one, probe, kept): one for one in asked}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _find(asked: Asked, probe: Probe, kept: Kept) -> WheelSet:
    tags = " ".join(probe.platform_tags)
    key = (" ".join(asked.lines), asked.as_of, probe.interpreter.minor, tags, *sorted(TOLD_ABSENT))
    if (data := kept.get(*key)) is not None:
        return _from_json(data)
    wanted = Wanted(asked.lines, exclude_newer=asked.until)
    try:
        found = _wheel_set(find_published(wanted, probe, {}))
    except (InputError, UndeterminedError) as error:
        return WheelSet((), {}, unclear=_brief(error.message))  # not kept: it may pass
    kept.put(_to_json(found), *key)
    return found


def _wheel_set(found: Published | NoSolution) -> WheelSet:
    if isinstance(found, NoSolution):
        return WheelSet((), {}, conflict=_brief(found.reason))
    versions = {name: str(wheel.version) for name, wheel in found.wheels.items()}
    lacking = [row.name for row in found.without_wheel if row.name in LINKED]
    return WheelSet(
        wheels=tuple(w for name, w in sorted(found.wheels.items()) if name in LINKED),
        versions={name: versions[name] for name in MAIN_PACKAGES if name in versions},
        absent=TOLD_ABSENT.difference(found.wheels, (row.name for row in found.without_wheel)),
        unclear=f"no wheel of {', '.join(lacking)} fits" if lacking else "",
    )


def _brief(reason: str) -> str:
    text = " ".join(redacted(reason).split())
    return text if len(text) <= _REASON_LENGTH else f"{text[: _REASON_LENGTH - 1]}…"


def _to_json(found: WheelSet) -> dict[str, object]:
    wheels = [
        {
            "name": wheel.name,
            "version": str(wheel.version),
            "filename": wheel.filename,
            "url": wheel.url,
            "path": str(wheel.path) if wheel.path else None,
            "size": wheel.size,
            "sha256": wheel.sha256,
        }
        for wheel in found.wheels
    ]
    return {
        "wheels": wheels,
        "versions": found.versions,
        "absent": sorted(found.absent),
        "conflict": found.conflict,
    }


def _from_json(data: dict[str, object]) -> WheelSet:
    rows: list[dict[str, object]] = data["wheels"]  # type: ignore[assignment]
    wheels = tuple(
        WheelFile(
            **{  # type: ignore[arg-type]
                **row,
                "version": Version(str(row["version"])),
                "path": Path(str(row["path"])) if row["path"] else None,
            }
        )
        for row in rows
    )
    absent = frozenset(NormalizedName(str(name)) for name in data["absent"])  # type: ignore[attr-defined]
    return WheelSet(wheels, data["versions"], absent, str(data["conflict"]))  # type: ignore[arg-type]
