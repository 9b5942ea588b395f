"""Fetch spans of remote files by HTTP range requests.

What may pass (a lost connection, 429, 5xx) is tried again a bounded number of times; what a server
answers wrongly is an error at once.
"""

from __future__ import annotations

import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import httpx

from grpoenv.uv import redacted
from grpoenv.wheels.errors import TransferError

__all__ = ["Page", "RangeClient", "Span"]

WHOLE_LIMIT_BYTES: Final = 64 * 2**20
"""The most that is downloaded of a file whose server does not know range requests."""
CONNECTIONS: Final = 16

_TRIES: Final = 3
_BACKOFF_S: Final = 0.2
_LONGEST_WAIT_S: Final = 5.0
_TIMEOUT: Final = httpx.Timeout(15.0, connect=10.0, pool=None)
_REDIRECTS: Final = 5
_PASSES = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "grpoenv"}


@dataclass(frozen=True)
class Span:
    """The bytes ``data`` of a file of ``total`` bytes, from ``start`` on."""

    start: int
    data: bytes
    total: int


@dataclass(frozen=True)
class Page:
    """A page of an index: the address that it came from in the end, its type, its content."""

    url: str
    content_type: str
    content: bytes


_Result = TypeVar("_Result")
_Take = Callable[[httpx.Response, float], _Result]
"""Reads an answer, until a moment of the monotonic clock."""


class _Passing(Exception):
    """An answer that another try may better; ``wait_s`` is what the server asks for."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class RangeClient:
    """Fetches spans; safe to use from several threads.

    ``credentials`` gives the index's address with its user and password, and is asked only where a
    server wants some; they go to that index's own host and nowhere else. One span may take
    ``span_timeout_s`` seconds in all. Close it in the end.
    """

    def __init__(
        self,
        *,
        credentials: Callable[[], str | None] = lambda: None,
        environment: Mapping[str, str] = os.environ,
        span_timeout_s: float = 60.0,
        backoff_s: float = _BACKOFF_S,
        timeout: httpx.Timeout = _TIMEOUT,
    ) -> None:
        self._offline = _is_set(environment, "UV_OFFLINE")
        self._system_certificates = any(
            _is_set(environment, name) for name in ("UV_SYSTEM_CERTS", "UV_NATIVE_TLS")
        )
        self._credentials = credentials
        self._span_timeout_s = span_timeout_s
        self._backoff_s = backoff_s
        self._timeout = timeout
        self._lock = threading.Lock()
        self._opened: httpx.Client | None = None
        self._auth: httpx.BasicAuth | None = None
        self._auth_host = ""
        self._asked = False
        self.requests = 0

    def close(self) -> None:
        """Close all connections."""
        if self._opened is not None:
            self._opened.close()

    def tail(self, url: str, length: int, size: int | None) -> Span:
        """Return the last ``length`` bytes of ``url``, or all of a server that knows no ranges.

        ``size`` is the file's size in bytes where the index states it. Raises TransferError.
        """
        if size is None:
            return self._span(url, f"bytes=-{length}", None, None)
        start = max(0, size - length)
        return self._span(url, f"bytes={start}-{size - 1}", (start, size), size)

    def span(self, url: str, start: int, end: int, size: int) -> Span:
        """Return bytes ``start`` to ``end`` (exclusive) of ``url``; raises TransferError.

        A server that knows no ranges gives the whole file.
        """
        return self._span(url, f"bytes={start}-{end - 1}", (start, end), size)

    def whole(self, url: str, size: int | None) -> Span:
        """Return the whole file, of ``size`` bytes where that is known; raises TransferError."""
        return self._span(url, "", None if size is None else (0, size), size)

    def page(self, url: str, accept: str) -> Page:
        """Return a page of an index in a form that ``accept`` names; raises TransferError."""
        return self._get(url, {"Accept": accept}, _page)

    def _span(
        self, url: str, range_: str, wanted: tuple[int, int] | None, size: int | None
    ) -> Span:
        def take(response: httpx.Response, end_s: float) -> Span:
            start, end, total = _expected(response, redacted(url), wanted, size)
            body = _body(response, redacted(url), end - start, end_s)
            if len(body) < end - start:
                raise _Passing(f"the connection ended after {len(body)} of {end - start} bytes")
            return Span(start, body, total)

        return self._get(url, {"Range": range_} if range_ else {}, take)

    def _get(self, url: str, headers: Mapping[str, str], take: _Take[_Result]) -> _Result:
        if self._offline:
            raise TransferError(
                f"{redacted(url)} is not in the cache, and UV_OFFLINE is set",
                remedy="unset UV_OFFLINE",
            )
        for attempt in range(1, _TRIES + 1):
            try:
                return self._try(url, headers, take)
            except (_Passing, httpx.TransportError) as error:
                reason = str(error) or type(error).__name__
                asked_s = error.wait_s if isinstance(error, _Passing) else 0.0
                cause = error
            if attempt < _TRIES:
                time.sleep(min(max(asked_s, self._backoff_s * 4 ** (attempt - 1)), _LONGEST_WAIT_S))
        raise TransferError(
            f"{redacted(url)} could not be read in {_TRIES} tries: {redacted(reason)}"
        ) from cause

    def _try(self, url: str, headers: Mapping[str, str], take: _Take[_Result]) -> _Result:
        place, end_s = redacted(url), time.monotonic() + self._span_timeout_s
        try:
            auth = self._auth if httpx.URL(url).host == self._auth_host else None
            self.requests += 1
            with self._client().stream(
                "GET", url, headers={**_HEADERS, **headers}, auth=auth
            ) as response:
                if response.status_code in (401, 403) and auth is None and self._learn(url):
                    return self._try(url, headers, take)
                _require_answer(response, place)
                return take(response, end_s)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise TransferError(f"{place} cannot be read: {error}") from error

    def _client(self) -> httpx.Client:
        with self._lock:
            if self._opened is None:
                self._opened = httpx.Client(
                    follow_redirects=True,
                    max_redirects=_REDIRECTS,
                    timeout=self._timeout,
                    limits=httpx.Limits(max_connections=CONNECTIONS),
                    verify=ssl.create_default_context() if self._system_certificates else True,
                )
            return self._opened

    def _learn(self, url: str) -> bool:
        """Ask for the index's credentials, once; tell whether there are any for ``url``."""
        with self._lock:
            if not self._asked:
                self._asked = True
                index = httpx.URL(self._credentials() or "")
                if index.username or index.password:
                    self._auth = httpx.BasicAuth(index.username, index.password)
                    self._auth_host = index.host
            return self._auth is not None and httpx.URL(url).host == self._auth_host


def _is_set(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in ("1", "true", "yes", "on", "t", "y")


def _require_answer(response: httpx.Response, place: str) -> None:
    status = response.status_code
    if status in _PASSES:
        raise _Passing(f"the server answered {status}", _retry_after_s(response))
    if status == 416:
        raise TransferError(f"{place} is shorter than the index says: the server answered 416")
    if status not in (200, 206):
        raise TransferError(f"{place} cannot be read: the server answered {status}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise TransferError(f"{place} was sent compressed, which was not asked for")


def _page(response: httpx.Response, end_s: float) -> Page:
    place = redacted(str(response.url))
    body = _body(response, place, WHOLE_LIMIT_BYTES, end_s)
    return Page(str(response.url), response.headers.get("Content-Type", ""), body)


def _expected(
    response: httpx.Response, place: str, wanted: tuple[int, int] | None, size: int | None
) -> tuple[int, int, int]:
    """Return start, end and total of what follows, from the head of the answer."""
    if response.status_code == 200:
        return _whole(response, place, size)
    header = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(header)
    if match is None:
        raise TransferError(f"{place}: the server sent part of it with Content-Range {header!r}")
    start, end, total = int(match[1]), int(match[2]) + 1, int(match[3])
    wanted = wanted or (start, total)
    if (start, end) != wanted or total != (size or total):
        raise TransferError(
            f"{place}: asked for bytes {wanted[0]}-{wanted[1] - 1} of {size or total}, and the "
            f"server sent {header!r}"
        )
    return start, end, total


def _whole(response: httpx.Response, place: str, size: int | None) -> tuple[int, int, int]:
    header = response.headers.get("Content-Length", "")
    total = size if size is not None else int(header) if header.isdecimal() else None
    if total is None:
        raise TransferError(f"{place}: the server knows no range requests and tells no size")
    if header.isdecimal() and int(header) != total:
        raise TransferError(f"{place} has {header} bytes at the server and {total} after the index")
    if total > WHOLE_LIMIT_BYTES:
        raise TransferError(
            f"{place} has {total / 2**20:.0f} MiB and its server knows no range requests",
            remedy="name an index whose server does: export UV_DEFAULT_INDEX=…",
        )
    return 0, total, total


def _body(response: httpx.Response, place: str, limit: int, end_s: float) -> bytes:
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > limit:
            raise TransferError(f"{place}: the server sent more than {limit} bytes")
        if time.monotonic() > end_s:
            raise TransferError(f"{place}: only {len(body)} bytes came before the time was up")
    return bytes(body)


def _retry_after_s(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0
