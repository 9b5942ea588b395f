"""The one question the update check asks, and the reading of its answer.

Everything slow to import is imported here, so this module is only ever imported on the check's own
thread. The address of the index is asked of uv, which honours the user's own configuration: the
environment, the user's and the system's files. Project files do not count: uv runs in the folder
of the Python environment, so that starting a program in a foreign checkout sends nothing to an
address that the checkout names.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - or the socket imports it later, outside the fork guard
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx
import uv
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from grpoenv.update_policy import LIMITS
from grpoenv.update_result import NewerRelease, NotDetermined, UpdateResult, UpToDate
from grpoenv.update_transport import (
    TIMEOUT_ERRORS,
    TRANSPORT_ERRORS,
    Deadline,
    DeadlineTransport,
)

__all__ = ["IndexAddress", "PageError", "ask_index", "effective_index", "fetch_page", "read_page"]

_PROJECT: Final = "grpoenv"
_JSON_TYPES: Final = ("application/vnd.pypi.simple.v1+json", "application/json")
# Constant for every user and version: the request must not tell one machine from another.
_HEADERS: Final = {
    "Accept": _JSON_TYPES[0],
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": _PROJECT,
}
# These may name files that do not exist and make every uv command fail; the index needs none.
_UV_NOISE: Final = ("UV_CONSTRAINT", "UV_BUILD_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE")


@dataclass(frozen=True)
class IndexAddress:
    """The index that an install would use; may hold a password, so it is never shown."""

    url: str = field(repr=False)


class PageError(Exception):
    """The index gave no usable answer; `reason` is our own text."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def ask_index(installed: str, environ: Mapping[str, str]) -> UpdateResult:
    """Ask the effective index, once, whether a release newer than `installed` exists."""
    index = effective_index(environ)
    if index is None:
        return NotDetermined("no package index is configured")
    deadline = Deadline(time.monotonic() + LIMITS.total_s)
    try:
        with DeadlineTransport(deadline) as transport:
            return read_page(fetch_page(index, transport, deadline), installed)
    except PageError as error:
        return NotDetermined(error.reason)


def effective_index(environ: Mapping[str, str]) -> IndexAddress | None:
    """Return the index that uv would use in this environment, or None where uv names none."""
    uv_path = _uv_path()
    if uv_path is None:
        return None
    command = [uv_path, "pip", "compile", "-", "--emit-index-url", "--offline", "--no-header"]
    try:
        answer = subprocess.run(
            [*command, "--quiet", "--python", sys.executable],
            cwd=sys.prefix,
            env={name: value for name, value in environ.items() if name not in _UV_NOISE},
            input="",
            capture_output=True,
            text=True,
            timeout=LIMITS.index_question_s,
            check=True,
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return _index_line(answer)


def fetch_page(index: IndexAddress, transport: httpx.BaseTransport, deadline: Deadline) -> bytes:
    """Return the body of our project's page on `index`: one GET, no retry, no redirect.

    Raises PageError with the reason for whatever is not a small JSON page in time.
    """
    timeout = httpx.Timeout(LIMITS.read_s, connect=LIMITS.connect_s)
    try:
        client = httpx.Client(
            transport=transport,
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            headers=_HEADERS,
        )
        with client, client.stream("GET", _project_url(index)) as response:
            _require_plain_json(response)
            return _bounded_body(response.iter_raw(), deadline)
    except TIMEOUT_ERRORS as error:
        raise PageError("the index did not answer in time") from error
    except TRANSPORT_ERRORS as error:
        raise PageError("the index could not be reached") from error


def read_page(page: bytes, installed: str) -> UpdateResult:
    """Compare the releases on a JSON project page with `installed`.

    Only the version in a file's name, `yanked` and `requires-python` are read. Pre-releases,
    withdrawn files and files for other Pythons do not count.
    """
    try:
        files = json.loads(page)["files"]
        offered = [version for entry in files if (version := _offered_version(entry))]
        newest = max(offered, default=None)
        is_newer = newest is not None and newest > Version(installed)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return NotDetermined("the index's answer is not a project page")
    return NewerRelease(installed, str(newest)) if is_newer else UpToDate(installed)


def _uv_path() -> str | None:
    try:
        return os.fspath(uv.find_uv_bin())
    except FileNotFoundError:
        return shutil.which("uv")


def _index_line(answer: str) -> IndexAddress | None:
    marker = "--index-url "
    for line in answer.splitlines():
        address = line.removeprefix(marker).strip()
        if line.startswith(marker) and address.startswith(("https://", "http://")):
            return IndexAddress(address)
    return None


def _project_url(index: IndexAddress) -> httpx.URL:
    url = httpx.URL(index.url)
    return url.copy_with(path=f"{url.path.rstrip('/')}/{_PROJECT}/", query=None, fragment=None)


def _require_plain_json(response: httpx.Response) -> None:
    if response.is_redirect or 300 <= response.status_code < 400:
        raise PageError("the index answered with a redirect")
    if response.status_code == 404:
        raise PageError("the index does not have grpoenv")
    if response.status_code != 200:
        raise PageError("the index answered with an error")
    if response.headers.get("Content-Type", "").split(";")[0].strip() not in _JSON_TYPES:
        raise PageError("the index does not answer in JSON")
    # Not asked for, and a small reply could unpack into a large one.
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise PageError("the index answered compressed")


def _bounded_body(chunks: Iterator[bytes], deadline: Deadline) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > LIMITS.body_bytes:
            raise PageError("the index's answer is too large")
        if deadline.left_s() <= 0:
            raise PageError("the index did not answer in time")
    return bytes(body)


def _offered_version(entry: dict[str, object]) -> Version | None:
    """Return the version of a file that this Python could install, None for any other entry."""
    version = _file_version(entry.get("filename"))
    if version is None or not _is_plain(version) or entry.get("yanked", False):
        return None
    requires = entry.get("requires-python") or ""
    python = ".".join(str(part) for part in sys.version_info[:3])
    try:
        fits = SpecifierSet(str(requires)[:200]).contains(python, prereleases=True)
    except InvalidSpecifier:
        return None
    return version if fits else None


def _is_plain(version: Version) -> bool:
    """Tell a release of digits and dots from a pre-, post-, development or local one."""
    return str(version) == version.base_version and version.epoch == 0


def _file_version(filename: object) -> Version | None:
    if not isinstance(filename, str):
        return None
    try:
        if filename.endswith(".whl"):
            name, version = parse_wheel_filename(filename)[:2]
        else:
            name, version = parse_sdist_filename(filename)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return None
    fits = name == _PROJECT and len(str(version)) <= LIMITS.version_characters
    return version if fits else None
