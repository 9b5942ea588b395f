"""An index with its wheels on the loopback: it knows ranges, and answers wrongly when told to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = Callable[["Request"], bool]
"""Answers a request for a file itself and returns True, or leaves it to the server."""


class Request(BaseHTTPRequestHandler):
    """One request; ``server.owner`` is the WheelServer."""

    protocol_version = "HTTP/1.1"

    @property
    def owner(self) -> WheelServer:
        return self.server.owner  # type: ignore[attr-defined, no-any-return]

    def do_GET(self) -> None:
        self.owner.requests.append((self.path, self.headers.get("Range"), dict(self.headers)))
        kind, _, name = self.path.strip("/").partition("/")
        if kind == "simple":
            self.send_page(name)
        elif not any(fault(self) for fault in self.owner.faults):
            self.send_range()

    def do_HEAD(self) -> None:
        """uv asks this way first; nobody else does."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def send_page(self, project: str) -> None:
        if self.owner.page is not None:
            kind, text = self.owner.page
            return self.reply(200, text.encode(), kind=kind)
        rows = [
            {
                "filename": path.name,
                "url": f"/files/{path.name}",
                "hashes": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
                **({"size": path.stat().st_size} if self.owner.tells_size else {}),
                **self.owner.upload_time(path),
            }
            for path in sorted(self.owner.folder.iterdir())
            if path.name.endswith((".whl", ".tar.gz"))
            and path.name.startswith(project.replace("-", "_") + "-")
        ]
        if not rows:
            return self.reply(404, b"")
        body = json.dumps({"meta": {"api-version": "1.1"}, "name": project, "files": rows})
        return self.reply(200, body.encode(), kind="application/vnd.pypi.simple.v1+json")

    @property
    def content(self) -> bytes:
        return (self.owner.folder / self.path.rpartition("/")[2]).read_bytes()

    def asked(self) -> tuple[int, int]:
        """Return start and end of the range asked for, of all where none was."""
        size = len(self.content)
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "bytes=0-"))
        assert match
        if not match[1]:
            return max(0, size - int(match[2])), size
        return int(match[1]), min(int(match[2]) + 1, size) if match[2] else size

    def send_range(self) -> None:
        if "Range" not in self.headers:
            return self.reply(200, self.content)
        start, end = self.asked()
        place = f"bytes {start}-{end - 1}/{len(self.content)}"
        return self.reply(206, self.content[start:end], **{"Content-Range": place})

    def reply(self, status: int, body: bytes, *, kind: str = "text/plain", **extra: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        headers = {name.replace("_", "-"): value for name, value in extra.items()}
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves early is what several faults are about."""


class WheelServer:
    """Serves the wheels of ``folder``; ``faults`` are asked first for every file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[Fault] = []
        self.tells_size = True
        self.uploaded: dict[str, str] = {}
        self.page: tuple[str, str] | None = None
        self.requests: list[tuple[str, str | None, dict[str, str]]] = []
        self._server = _Server(("127.0.0.1", 0), Request)
        self._server.owner = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def index(self) -> str:
        return f"http://{self.host}/simple"

    def url(self, path: Path) -> str:
        return f"http://{self.host}/files/{path.name}"

    def upload_time(self, path: Path) -> dict[str, str]:
        """Return when a wheel was uploaded (``"name-version"``), where the index tells that."""
        time_ = self.uploaded.get("-".join(path.name.removesuffix(".tar.gz").split("-")[:2]))
        return {"upload-time": time_} if time_ else {}

    def file_requests(self) -> list[str | None]:
        return [range_ for path, range_, _ in self.requests if path.startswith("/files")]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[WheelServer]:
    server = WheelServer(folder)
    try:
        yield server
    finally:
        server.close()


def once(fault: Fault) -> Fault:
    """Answer wrongly the first time only."""
    done: list[bool] = []

    def first(request: Request) -> bool:
        if done:
            return False
        done.append(True)
        return fault(request)

    return first


def no_ranges(request: Request) -> bool:
    request.reply(200, request.content)
    return True


def status(code: int, **extra: str) -> Fault:
    def fault(request: Request) -> bool:
        request.reply(code, b"", **extra)
        return True

    return fault


def content_range(text: str) -> Fault:
    def fault(request: Request) -> bool:
        start, end = request.asked()
        request.reply(206, request.content[start:end], **({"Content-Range": text} if text else {}))
        return True

    return fault


def claimed_length(length: int, code: int = 206) -> Fault:
    """Announce ``length`` bytes, send what was asked for, and hang up."""

    def fault(request: Request) -> bool:
        start, end = request.asked()
        place = f"bytes {start}-{end - 1}/{len(request.content)}"
        extra = {"Content-Range": place} if code == 206 else {}
        request.reply(code, request.content[start:end], **extra, Content_Length=str(length))
        request.close_connection = True
        return True

    return fault


def truncated(request: Request) -> bool:
    """Send half of what was announced, and hang up."""
    start, end = request.asked()
    place = f"bytes {start}-{end - 1}/{len(request.content)}"
    half = request.content[start : (start + end) // 2]
    request.reply(206, half, **{"Content-Range": place, "Content-Length": str(end - start)})
    request.close_connection = True
    return True


def too_much(request: Request) -> bool:
    """Announce no length, and send twice as much as was asked for."""
    start, end = request.asked()
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(request.content)}")
    request.send_header("Connection", "close")
    request.end_headers()
    request.wfile.write(request.content[start:end] * 2)
    return True


def drip(request: Request) -> bool:
    start, end = request.asked()
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(request.content)}")
    request.send_header("Content-Length", str(end - start))
    request.end_headers()
    for byte in request.content[start:end]:
        request.wfile.write(bytes([byte]))
        time.sleep(0.02)
    return True


def hang(request: Request) -> bool:
    time.sleep(1.0)
    request.close_connection = True
    return True
