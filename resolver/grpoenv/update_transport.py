"""An httpx transport whose whole exchange ends at one deadline.

httpx bounds each single read, so a server that sends one byte at a time could hold the thread for
hours; here every connect, read and write is given no more than what is left of the total. Proxies
come from the environment, as they do for httpx itself.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

__all__ = ["TIMEOUT_ERRORS", "TRANSPORT_ERRORS", "Deadline", "DeadlineTransport"]

TIMEOUT_ERRORS: Final = (httpx.TimeoutException, httpcore.TimeoutException, TimeoutError)
TRANSPORT_ERRORS: Final = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    OSError,
)


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock, in seconds."""

    at_s: float

    def left_s(self) -> float:
        """Return the seconds left; negative once it has passed."""
        return self.at_s - time.monotonic()

    def within(self, timeout_s: float | None) -> float:
        """Return `timeout_s`, but no more than what is left; raises TimeoutError if nothing is."""
        left_s = self.left_s()
        if left_s <= 0:
            raise TimeoutError("the deadline of the exchange has passed")
        return left_s if timeout_s is None else min(timeout_s, left_s)


class _DeadlineStream(httpcore.NetworkStream):
    """A connection whose reads and writes end at the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.within(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.within(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        limit_s = self._deadline.within(timeout)
        secure = self._stream.start_tls(ssl_context, server_hostname, limit_s)
        return _DeadlineStream(secure, self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class _DeadlineBackend(httpcore.NetworkBackend):
    """Opens connections that end at the deadline."""

    def __init__(self, deadline: Deadline) -> None:
        self._sockets = httpcore.SyncBackend()
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        limit_s = self._deadline.within(timeout)
        stream = self._sockets.connect_tcp(host, port, limit_s, local_address, socket_options)
        return _DeadlineStream(stream, self._deadline)


class _Body(httpx.SyncByteStream):
    """The body of a reply, as httpx wants it."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream


class DeadlineTransport(httpx.BaseTransport):
    """One exchange with an index, over by `deadline`.

    Raises one of `TIMEOUT_ERRORS` or `TRANSPORT_ERRORS`, while sending or while the body is read.
    """

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._pool: httpcore.ConnectionPool | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return the reply with its body still to be read."""
        self._pool = self._opened_pool(request.url)
        reply = self._pool.handle_request(_as_httpcore(request))
        if not isinstance(reply.stream, Iterable):
            raise httpcore.ProtocolError("the reply has no body to read")
        return httpx.Response(reply.status, headers=reply.headers, stream=_Body(reply.stream))

    def close(self) -> None:
        """Close the connection."""
        if self._pool is not None:
            self._pool.close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close the connection."""
        self.close()

    def _opened_pool(self, url: httpx.URL) -> httpcore.ConnectionPool:
        backend = _DeadlineBackend(self._deadline)
        context = httpx.create_ssl_context() if url.scheme == "https" else None
        proxy = _proxy_for(url)
        if proxy is None:
            return httpcore.ConnectionPool(ssl_context=context, network_backend=backend)
        return httpcore.HTTPProxy(
            proxy_url=str(proxy.copy_with(username=None, password=None)),
            proxy_auth=(proxy.username, proxy.password) if proxy.username else None,
            ssl_context=context,
            network_backend=backend,
        )


def _proxy_for(url: httpx.URL) -> httpx.URL | None:
    proxies = getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    if not address or proxy_bypass(url.host):
        return None
    return httpx.URL(address if "://" in address else f"http://{address}")


def _as_httpcore(request: httpx.Request) -> httpcore.Request:
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        ),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )
