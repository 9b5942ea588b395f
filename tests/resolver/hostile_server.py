"""A server on the loopback that answers one way for each fault, and counts who asks."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

JSON = "application/vnd.pypi.simple.v1+json"


def page(*versions: str, **extra: object) -> bytes:
    files = [{"filename": f"grpoenv-{version}-py3-none-any.whl", **extra} for version in versions]
    return json.dumps({"meta": {"api-version": "1.1"}, "files": files}).encode()


def reply(body: bytes, status: str = "200 OK", kind: str = JSON, extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}"
    return head.encode() + b"\r\n" + body


class HostileServer:
    """Runs `answer(connection)` for each connection; `requests` holds what clients sent."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/simple"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self.requests.append(connection.recv(65536))
                self._answer(connection)

    def close(self) -> None:
        # close() alone does not wake an accept() under way.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def serving(answer: bytes | Callable[[socket.socket], None]) -> Iterator[HostileServer]:
    def send(connection: socket.socket) -> None:
        if isinstance(answer, bytes):
            connection.sendall(answer)
        else:
            answer(connection)

    server = HostileServer(send)
    try:
        yield server
    finally:
        server.close()


def drip(content: bytes, pause_s: float = 0.1, limit_s: float = 8.0) -> Callable[..., None]:
    """Send one byte at a time, never pausing as long as a read may take."""

    def answer(connection: socket.socket) -> None:
        end = time.monotonic() + limit_s
        for byte in content:
            if time.monotonic() > end:
                return
            connection.sendall(bytes([byte]))
            time.sleep(pause_s)

    return answer


def hang(connection: socket.socket) -> None:
    """Say nothing until the client leaves."""
    connection.settimeout(8.0)
    connection.recv(1)


def flood(connection: socket.socket) -> None:
    """Send a body without end, up to 64 MiB."""
    connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\n\r\n".encode())
    for _ in range(1024):
        connection.sendall(b" " * 65536)
