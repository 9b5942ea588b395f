"""Every wheel and sdist of a project, from the page that an index has of it (PEP 503, 691, 700).

uv chooses versions (``grpoenv.published``); this is for looking at all of them, as the scan of
every release does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.message import Message
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    NormalizedName,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from grpoenv.uv import redacted
from grpoenv.wheels.errors import TransferError
from grpoenv.wheels.transfer import Page, RangeClient
from grpoenv.wheels.tree import WheelFile

__all__ = [
    "PublishedRelease",
    "PublishedSdist",
    "published_releases",
    "published_sdists",
    "published_wheels",
]

_JSON = "application/vnd.pypi.simple.v1+json"
_HTML = ("application/vnd.pypi.simple.v1+html", "text/html")
_FRACTION = re.compile(r"\.\d+")
"""Parts of a second, of which Python 3.10 reads three or six digits only."""
_ACCEPT = f"{_JSON}, {_HTML[0]};q=0.2, {_HTML[1]};q=0.1"


def published_wheels(
    project: NormalizedName, index: str, client: RangeClient, *, yanked: bool = True
) -> list[WheelFile]:
    """Return the wheels of ``project`` at ``index``, oldest version first.

    ``yanked`` ones are among them unless that is False. Raises TransferError where the index does
    not have the project, or does not answer with a page that can be read.
    """
    page = client.page(f"{index.rstrip('/')}/{project}/", _ACCEPT)
    wheels = [wheel for row in _rows(page) if (wheel := _wheel(project, row, page.url, yanked))]
    return sorted(wheels, key=lambda wheel: (wheel.version, wheel.filename))


@dataclass(frozen=True)
class PublishedRelease:
    """One version of a project that has a wheel; ``uploaded`` is the time of its first, UTC."""

    version: Version
    uploaded: datetime
    yanked: bool


def published_releases(
    project: NormalizedName, index: str, client: RangeClient
) -> list[PublishedRelease]:
    """Return the releases of ``project`` at ``index`` that have a wheel, oldest version first.

    Raises TransferError as ``published_wheels`` does, and where the index tells no upload times.
    """
    page = client.page(f"{index.rstrip('/')}/{project}/", _ACCEPT)
    found: dict[Version, PublishedRelease] = {}
    for row in _rows(page):
        wheel = _wheel(project, row, page.url, True)
        if wheel is None:
            continue
        uploaded, yanked = _upload_time(row, page.url), row.get("yanked") not in (None, False)
        if before := found.get(wheel.version):
            uploaded, yanked = min(uploaded, before.uploaded), yanked and before.yanked
        found[wheel.version] = PublishedRelease(wheel.version, uploaded, yanked)
    return sorted(found.values(), key=lambda release: release.version)


@dataclass(frozen=True)
class PublishedSdist:
    """A source distribution (``.tar.gz``); ``python`` is what it declares to require, or empty.

    ``uploaded`` is None where the index does not tell; ``size`` and ``sha256`` as of a WheelFile.
    """

    version: Version
    url: str
    size: int | None
    sha256: str
    uploaded: datetime | None
    python: str


def published_sdists(
    project: NormalizedName, index: str, client: RangeClient
) -> list[PublishedSdist]:
    """Return the sdists of ``project`` that were not yanked, oldest version first.

    Raises TransferError as ``published_wheels`` does.
    """
    page = client.page(f"{index.rstrip('/')}/{project}/", _ACCEPT)
    found = [sdist for row in _rows(page) if (sdist := _sdist(project, row, page.url))]
    return sorted(found, key=lambda sdist: sdist.version)


def _sdist(project: NormalizedName, row: Mapping[str, Any], base: str) -> PublishedSdist | None:
    try:
        name, version = parse_sdist_filename(str(row["filename"]))
        url, size = urljoin(base, str(row["url"])), row.get("size")
        digest = str(dict(row.get("hashes") or {}).get("sha256", ""))
    except (InvalidSdistFilename, KeyError, TypeError, ValueError):
        return None
    if name != project or row.get("yanked") not in (None, False) or url.endswith(".zip"):
        return None
    return PublishedSdist(
        version=version,
        url=url,
        size=size if isinstance(size, int) else None,
        sha256=digest,
        uploaded=_upload_time(row, base) if "upload-time" in row else None,
        python=str(row.get("requires-python") or ""),
    )


def _upload_time(row: Mapping[str, Any], url: str) -> datetime:
    try:
        text = str(row["upload-time"]).replace("Z", "+00:00")
        return datetime.fromisoformat(_FRACTION.sub("", text)).astimezone(timezone.utc)
    except (KeyError, ValueError) as error:
        raise TransferError(f"{redacted(url)} tells no upload time of its files") from error


def _rows(page: Page) -> Iterable[Mapping[str, Any]]:
    header = Message()
    header["Content-Type"] = page.content_type
    kind = header.get_content_type()
    try:
        if kind in (_JSON, "application/json"):
            rows = json.loads(page.content)["files"]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("a file that is no object")
            return list(rows)
        if kind in _HTML:
            return _anchors(page)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TransferError(f"{redacted(page.url)} is no page of a project: {error}") from error
    raise TransferError(f"{redacted(page.url)} is no page of a project: it is {kind}")


def _anchors(page: Page) -> list[Mapping[str, Any]]:
    parser = _Anchors(page.url)
    parser.feed(page.content.decode("utf-8", errors="replace"))
    parser.close()
    return parser.rows


class _Anchors(HTMLParser):
    """Collects the links of a page in HTML in the form that one in JSON has."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.rows: list[Mapping[str, Any]] = []
        self._base = url

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a link, or the address that links count from."""
        found = dict(attrs)
        href = found.get("href") or ""
        if tag == "base" and href:
            self._base = urljoin(self._base, href)
        if tag == "a" and href:
            url, fragment = urldefrag(urljoin(self._base, href))
            name, _, digest = fragment.partition("=")
            self.rows.append(
                {
                    "filename": unquote(urlsplit(url).path).rpartition("/")[2],
                    "url": url,
                    "hashes": {name: digest} if digest else {},
                    "yanked": "data-yanked" in found,
                }
            )


def _wheel(
    project: NormalizedName, row: Mapping[str, Any], base: str, yanked: bool
) -> WheelFile | None:
    """Return the wheel of a row, None for another kind of file and for what is malformed."""
    try:
        filename = str(row["filename"])
        name, version, _, _ = parse_wheel_filename(filename)
        url, size = urljoin(base, str(row["url"])), row.get("size")
        digest = str(dict(row.get("hashes") or {}).get("sha256", ""))
    except (InvalidWheelFilename, KeyError, TypeError, ValueError):
        return None
    if name != project or (row.get("yanked") not in (None, False) and not yanked):
        return None
    return WheelFile(
        name=name,
        version=version,
        filename=filename,
        url=url,
        size=size if isinstance(size, int) else None,
        sha256=digest,
    )
