"""The one request of the update check, against servers that misbehave."""

from __future__ import annotations

import gzip
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpoenv.update_network import (
    IndexAddress,
    PageError,
    ask_index,
    effective_index,
    fetch_page,
    read_page,
)
from grpoenv.update_policy import LIMITS
from grpoenv.update_result import NewerRelease, NotDetermined, UpToDate
from grpoenv.update_transport import Deadline, DeadlineTransport
from resolver import hostile_server as hostile

SLOW = "the index did not answer in time"
UNREACHABLE = "the index could not be reached"
NOT_A_PAGE = "the index's answer is not a project page"


def ask(url: str) -> object:
    return ask_index("0.1.0", {**os.environ, "UV_DEFAULT_INDEX": url})


def fetch_reason(answer: bytes | Callable[[socket.socket], None]) -> tuple[str, float]:
    """Return why `fetch_page` refused `answer`, and after how many seconds."""
    with hostile.serving(answer) as server:
        start = time.monotonic()
        deadline = Deadline(start + LIMITS.total_s)
        with pytest.raises(PageError) as caught, DeadlineTransport(deadline) as transport:
            fetch_page(IndexAddress(server.url), transport, deadline)
        assert len(server.requests) == 1
        return caught.value.reason, time.monotonic() - start


def test_a_newer_release_is_found_through_the_configured_index() -> None:
    with hostile.serving(hostile.reply(hostile.page("0.1.0", "0.2.0"))) as server:
        assert ask(server.url) == NewerRelease("0.1.0", "0.2.0")


def test_the_request_says_nothing_about_the_machine() -> None:
    with hostile.serving(hostile.reply(hostile.page("0.1.0"))) as server:
        assert ask(server.url) == UpToDate("0.1.0")
    (request,) = server.requests
    lines = request.decode().rstrip().split("\r\n")
    assert lines[0] == "GET /simple/grpoenv/ HTTP/1.1"
    assert {line.split(":")[0].lower() for line in lines[1:]} == {
        "host",
        "accept",
        "accept-encoding",
        "connection",
        "user-agent",
    }
    assert "User-Agent: grpoenv" in lines


def test_credentials_go_to_the_configured_index_only_and_are_never_shown() -> None:
    with hostile.serving(hostile.reply(hostile.page("0.1.0"))) as server:
        secret = server.url.replace("http://", "http://user:hush@")
        assert ask(secret) == UpToDate("0.1.0")
    assert b"Authorization: Basic dXNlcjpodXNo" in server.requests[0]
    assert "hush" not in repr(IndexAddress(secret))


def test_a_redirect_is_not_followed() -> None:
    with hostile.serving(hostile.reply(hostile.page("9.0"))) as other:
        target = f"Location: {other.url}/grpoenv/\r\n"
        reason, _ = fetch_reason(hostile.reply(b"", "302 Found", extra=target))
        assert reason == "the index answered with a redirect"
        assert other.requests == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", UNREACHABLE),
        (b"\x00\xff garbage\r\n\r\n", UNREACHABLE),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConte", UNREACHABLE),
        (hostile.reply(b"{}")[:-1], UNREACHABLE),
        (hostile.reply(b"<html>log in", kind="text/html"), "the index does not answer in JSON"),
        (hostile.reply(b"", "404 Not Found"), "the index does not have grpoenv"),
        (hostile.reply(b"", "500 Oops"), "the index answered with an error"),
        (hostile.reply(b"", "204 No Content"), "the index answered with an error"),
        (hostile.reply(b" " * 65537), "the index's answer is too large"),
        (hostile.flood, "the index's answer is too large"),
        (
            hostile.reply(gzip.compress(b" " * 10**7), extra="Content-Encoding: gzip\r\n"),
            "the index answered compressed",
        ),
        (hostile.hang, SLOW),
    ],
    ids=[
        "closed at once",
        "garbage",
        "cut in the head",
        "cut in the body",
        "captive portal",
        "404",
        "500",
        "204",
        "large",
        "endless",
        "bomb",
        "hang",
    ],
)
def test_a_bad_answer_is_refused_with_its_reason(
    answer: bytes | Callable[[socket.socket], None], reason: str
) -> None:
    found, seconds = fetch_reason(answer)
    assert found == reason
    assert seconds < LIMITS.total_s + 1.0


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_slow_drip_ends_at_the_total(part: str) -> None:
    content = hostile.reply(b" " * 60_000)
    head, body = content.split(b"\r\n\r\n", 1)

    def answer(connection: socket.socket) -> None:
        if part == "body":
            connection.sendall(head + b"\r\n\r\n")
        hostile.drip(body if part == "body" else content)(connection)

    reason, seconds = fetch_reason(answer)
    assert reason == SLOW
    assert LIMITS.total_s - 0.2 < seconds < LIMITS.total_s + 1.0


def test_a_closed_port_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/simple"
    assert ask(url) == NotDetermined(UNREACHABLE)


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with hostile.serving(hostile.reply(hostile.page("0.3"))) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/simple"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert ask("http://index.invalid/simple") == NewerRelease("0.1.0", "0.3")
    assert proxy.requests[0].startswith(b"GET http://index.invalid/simple/grpoenv/ HTTP/1.1\r\n")


def test_the_page_is_read_through_any_transport() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/root/grpoenv/"
        assert request.url.query == b""
        return httpx.Response(
            200, content=iter([b"bo", b"dy"]), headers={"Content-Type": hostile.JSON}
        )

    index = IndexAddress("https://index.invalid/root/?token=1#fragment")
    deadline = Deadline(time.monotonic() + 1)
    assert fetch_page(index, httpx.MockTransport(handle), deadline) == b"body"


@pytest.mark.parametrize("address", ["", "file:///wheels", "/wheels"])
def test_without_a_web_index_nothing_is_asked(address: str) -> None:
    assert ask(address) in (
        NotDetermined("no package index is configured"),
        # uv falls back to its own default for an empty value
        *((effective_index({**os.environ}) and ask(address)),) * (address == ""),
    )


def test_a_project_file_cannot_name_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uv.toml").write_text('index-url = "http://trap.invalid/simple"\n')
    monkeypatch.chdir(tmp_path)
    index = effective_index({**os.environ})
    assert index is None or "trap.invalid" not in index.url


def test_constraints_that_do_not_exist_do_not_hide_the_index() -> None:
    environ = {
        **os.environ,
        "UV_DEFAULT_INDEX": "http://one.invalid/simple",
        "UV_CONSTRAINT": "/missing.txt",
        "UV_BUILD_CONSTRAINT": "/missing.txt",
    }
    assert effective_index(environ) == IndexAddress("http://one.invalid/simple")


def test_a_uv_that_fails_means_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpoenv.update_network._uv_path", lambda: "/bin/false")
    assert effective_index({}) is None
    monkeypatch.setattr("grpoenv.update_network._uv_path", lambda: None)
    assert ask_index("0.1.0", {}) == NotDetermined("no package index is configured")


def test_a_uv_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sleeper = tmp_path / "uv"
    sleeper.write_text("#!/bin/sh\nexec sleep 20\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr("grpoenv.update_network._uv_path", lambda: str(sleeper))
    start = time.monotonic()
    assert effective_index(dict(os.environ)) is None
    assert time.monotonic() - start < LIMITS.index_question_s + 1.5


@pytest.mark.parametrize(
    ("page", "result"),
    [
        (hostile.page(), UpToDate("1.0")),
        (hostile.page("0.9", "1.0"), UpToDate("1.0")),
        (hostile.page("1.10", "1.9"), NewerRelease("1.0", "1.10")),
        (hostile.page("2.0rc1", "2.0.dev3", "1.1"), NewerRelease("1.0", "1.1")),
        (hostile.page("2.0", yanked=True), UpToDate("1.0")),
        (hostile.page("2.0", yanked="broken"), UpToDate("1.0")),
        (hostile.page("2.0", yanked=False), NewerRelease("1.0", "2.0")),
        (hostile.page("2.0", **{"requires-python": "<3"}), UpToDate("1.0")),
        (hostile.page("2.0", **{"requires-python": ">=3.8"}), NewerRelease("1.0", "2.0")),
        (hostile.page("2.0", **{"requires-python": None}), NewerRelease("1.0", "2.0")),
        (hostile.page("2.0", **{"requires-python": "\x1b[31m"}), UpToDate("1.0")),
        (hostile.page("9" * 65), UpToDate("1.0")),
        (b'{"files": [{"filename": "other-2.0-py3-none-any.whl"}]}', UpToDate("1.0")),
        (b'{"files": [{"filename": "grpoenv-2.0.tar.gz"}]}', NewerRelease("1.0", "2.0")),
        (b'{"files": [{"filename": 3}, {}]}', UpToDate("1.0")),
        (b'{"files": 3}', NotDetermined(NOT_A_PAGE)),
        (b'{"files": [3]}', NotDetermined(NOT_A_PAGE)),
        (b"[]", NotDetermined(NOT_A_PAGE)),
        (b"", NotDetermined(NOT_A_PAGE)),
        (b"\xff\xfe", NotDetermined(NOT_A_PAGE)),
        (b"[" * 60_000, NotDetermined(NOT_A_PAGE)),
    ],
)
def test_only_releases_that_can_be_recommended_count(page: bytes, result: object) -> None:
    assert read_page(page, "1.0") == result


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["files", "filename", "yanked", "requires-python", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_no_json_makes_the_reader_raise(value: object) -> None:
    result = read_page(json.dumps(value).encode(), "1.0")
    assert result in (UpToDate("1.0"), NotDetermined(NOT_A_PAGE))


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_raise(page: bytes) -> None:
    assert isinstance(read_page(page, "1.0"), UpToDate | NotDetermined)
