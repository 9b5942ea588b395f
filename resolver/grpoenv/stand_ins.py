"""Stand-ins for the wheels of packages that are published as sources alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from grpoenv.private_cache import read_private, user_cache_folder, write_private
from grpoenv.update_network import effective_index
from grpoenv.uv import redacted
from grpoenv.wheels import (
    DamagedWheel,
    PublishedSdist,
    RangeClient,
    published_sdists,
    stand_in,
    stand_in_filename,
)

__all__ = ["make_stand_ins"]

_WHOLE_LIMIT_BYTES = 64 * 2**20


def make_stand_ins(
    names: Iterable[NormalizedName], requirements: Sequence[str], exclude_newer: str, python: str
) -> list[Path]:
    """Make a wheel of the newest sdist of each package; return the folders that hold them.

    The newest is that which the lines of ``requirements`` about it, the version of ``python`` and
    ``exclude_newer`` (as uv takes it) allow, pre-releases left out. A package of which there is
    none is left out. Raises WheelError where an index or an archive cannot be read.
    """
    index, until = effective_index(os.environ), _moment(exclude_newer)
    if index is None or (exclude_newer and until is None):
        return []
    folders = []
    with closing(RangeClient(credentials=lambda: index.url)) as client:
        for name in names:
            allowed = _allowed(name, requirements)
            fitting = [
                sdist
                for sdist in published_sdists(name, index.url, client)
                if _is_older(sdist, until)
                and allowed.contains(sdist.version, prereleases=False)
                and _takes(sdist, python)
            ]
            if fitting:
                folders.append(_made(name, fitting[-1], client))
    return folders


def _made(name: NormalizedName, sdist: PublishedSdist, client: RangeClient) -> Path:
    """Return the folder in the user's cache that holds the stand-in of one sdist."""
    folder = user_cache_folder() / "sources" / (sdist.sha256 or "unproven")
    filename = stand_in_filename(name, sdist.version)
    if not sdist.sha256 or read_private(folder, filename, _WHOLE_LIMIT_BYTES) is None:
        content = client.whole(sdist.url, sdist.size).data
        found = hashlib.sha256(content).hexdigest()
        if sdist.sha256 and found != sdist.sha256:
            place = redacted(sdist.url)
            raise DamagedWheel(f"{place} has the SHA-256 {found}, not {sdist.sha256}")
        write_private(folder, filename, stand_in(content, name, sdist.version))
    return folder


def _moment(exclude_newer: str) -> datetime | None:
    """Return the moment that ``exclude_newer`` means: of a day its end, None where it is no date."""
    try:
        moment = datetime.fromisoformat(exclude_newer.replace("Z", "+00:00"))
    except ValueError:
        return None
    if len(exclude_newer) == len("2026-01-01"):
        moment += timedelta(days=1)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _is_older(sdist: PublishedSdist, until: datetime | None) -> bool:
    return until is None or (sdist.uploaded is not None and sdist.uploaded < until)


def _takes(sdist: PublishedSdist, python: str) -> bool:
    try:
        return SpecifierSet(sdist.python).contains(Version(python), prereleases=True)
    except InvalidSpecifier:
        return True


def _allowed(name: NormalizedName, requirements: Sequence[str]) -> SpecifierSet:
    found = SpecifierSet()
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if canonicalize_name(requirement.name) == name:
            found &= requirement.specifier
    return found
