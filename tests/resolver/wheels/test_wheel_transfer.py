from __future__ import annotations

import time

import httpx
import pytest

from grpoenv.wheels import RangeClient, TransferError, WheelFile
from resolver.wheels import wheel_server as faults
from resolver.wheels.wheel_server import Fault, WheelServer, serving


def content(server: WheelServer, wheel: WheelFile) -> bytes:
    return (server.folder / wheel.filename).read_bytes()


def span(client: RangeClient, wheel: WheelFile) -> bytes:
    assert wheel.size
    return client.span(wheel.url, 10, 60, wheel.size).data


def test_a_span_is_what_was_asked_for(
    server: WheelServer, client: RangeClient, wheel: WheelFile
) -> None:
    assert span(client, wheel) == content(server, wheel)[10:60]
    assert server.file_requests() == ["bytes=10-59"]


def test_a_tail_tells_the_size_where_the_index_does_not(
    server: WheelServer, client: RangeClient, wheel: WheelFile
) -> None:
    tail = client.tail(wheel.url, 100, None)
    assert (tail.data, tail.total) == (content(server, wheel)[-100:], wheel.size)
    assert server.file_requests() == ["bytes=-100"]


def test_a_server_without_ranges_gives_the_whole_file(
    server: WheelServer, client: RangeClient, wheel: WheelFile
) -> None:
    server.faults.append(faults.no_ranges)
    assert wheel.size
    found = client.span(wheel.url, 10, 60, wheel.size)
    assert (found.start, found.data) == (0, content(server, wheel))


SIZE = 70 * 2**20


@pytest.mark.parametrize(
    ("fault", "size", "reason"),
    [
        (
            faults.claimed_length(SIZE, 200),
            SIZE,
            "URL has 70 MiB and its server knows no range requests",
        ),
        (
            faults.claimed_length(SIZE, 200),
            None,
            f"URL has {SIZE} bytes at the server and SIZE after the index",
        ),
        (faults.content_range(""), None, "URL: the server sent part of it with Content-Range ''"),
        (
            faults.content_range("bytes */9"),
            None,
            "URL: the server sent part of it with Content-Range 'bytes */9'",
        ),
        (
            faults.content_range("bytes 0-49/100"),
            None,
            "URL: asked for bytes 10-59 of SIZE, and the server sent 'bytes 0-49/100'",
        ),
        (
            faults.content_range("bytes 10-59/100"),
            None,
            "URL: asked for bytes 10-59 of SIZE, and the server sent 'bytes 10-59/100'",
        ),
        (
            faults.too_much,
            None,
            "URL: the server sent more than 50 bytes",
        ),
        (faults.status(404), None, "URL cannot be read: the server answered 404"),
        (faults.status(204), None, "URL cannot be read: the server answered 204"),
        (
            faults.status(416),
            None,
            "URL is shorter than the index says: the server answered 416",
        ),
        (
            faults.status(206, Content_Encoding="gzip"),
            None,
            "URL was sent compressed, which was not asked for",
        ),
        (
            faults.status(302, Location="/files/elsewhere"),
            None,
            "URL cannot be read: Exceeded maximum allowed redirects.",
        ),
    ],
)
def test_a_wrong_answer_is_an_error_at_once(
    server: WheelServer,
    client: RangeClient,
    wheel: WheelFile,
    fault: Fault,
    size: int | None,
    reason: str,
) -> None:
    server.faults.append(fault)
    with pytest.raises(TransferError) as caught:
        client.span(wheel.url, 10, 60, size or wheel.size or 0)
    assert caught.value.message == reason.replace("URL", wheel.url).replace("SIZE", str(wheel.size))
    assert client.requests == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faults.truncated, "peer closed connection without sending complete message body"),
        (faults.status(429, Retry_After="0"), "the server answered 429"),
        (faults.status(503), "the server answered 503"),
        (faults.hang, "timed out"),
    ],
    ids=["truncated", "429", "503", "hang"],
)
def test_what_may_pass_is_tried_three_times(
    server: WheelServer, client: RangeClient, wheel: WheelFile, fault: Fault, reason: str
) -> None:
    server.faults.append(fault)
    with pytest.raises(TransferError) as caught:
        span(client, wheel)
    assert f"{wheel.url} could not be read in 3 tries: {reason}" in caught.value.message
    assert len(server.file_requests()) == 3


def test_what_has_passed_does_not_show(
    server: WheelServer, client: RangeClient, wheel: WheelFile
) -> None:
    server.faults += [faults.once(faults.truncated), faults.once(faults.status(500))]
    assert span(client, wheel) == content(server, wheel)[10:60]
    assert len(server.file_requests()) == 3


def test_the_wait_that_a_server_asks_for_is_bounded(
    server: WheelServer,
    client: RangeClient,
    wheel: WheelFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.faults.append(faults.status(429, Retry_After="86400"))
    with pytest.raises(TransferError):
        span(client, wheel)
    assert waits == [5.0, 5.0]


def test_a_server_that_drips_is_left(
    server: WheelServer, client: RangeClient, wheel: WheelFile
) -> None:
    server.faults.append(faults.drip)
    with pytest.raises(TransferError, match=r"only \d+ bytes came before the time was up"):
        span(client, wheel)


def test_nobody_there(client: RangeClient) -> None:
    with pytest.raises(TransferError, match="could not be read in 3 tries"):
        client.span("http://user:secret@127.0.0.1:9/x.whl", 0, 9, 10)


@pytest.mark.parametrize("url", ["ftp://host/x.whl", "http://host:port/", "x.whl"])
def test_no_address_at_all(client: RangeClient, url: str) -> None:
    with pytest.raises(TransferError, match="cannot be read"):
        client.span(url, 0, 9, 10)


def test_offline_means_no_request(server: WheelServer, wheel: WheelFile) -> None:
    client = RangeClient(environment={"UV_OFFLINE": "1"})
    with pytest.raises(TransferError) as caught:
        span(client, wheel)
    assert caught.value.message == f"{wheel.url} is not in the cache, and UV_OFFLINE is set"
    assert server.requests == []


def guarded(request: faults.Request) -> bool:
    if request.headers.get("Authorization") == "Basic dXNlcjpzZWNyZXQ=":
        return False
    request.reply(401, b"")
    return True


def test_credentials_of_the_index_are_asked_for_where_they_are_needed(
    server: WheelServer, wheel: WheelFile
) -> None:
    server.faults.append(guarded)
    asked: list[int] = []

    def address() -> str:
        asked.append(1)
        return server.index.replace("//", "//user:secret@")

    client = RangeClient(credentials=address, environment={}, timeout=httpx.Timeout(1.0))
    assert span(client, wheel) == span(client, wheel) == content(server, wheel)[10:60]
    assert asked == [1]
    assert len(server.file_requests()) == 3
    client.close()


def test_credentials_go_to_the_index_alone_and_into_no_message(
    server: WheelServer, wheel: WheelFile
) -> None:
    server.faults.append(guarded)
    client = RangeClient(
        credentials=lambda: "http://user:secret@another.example/simple", environment={}
    )
    with pytest.raises(TransferError) as caught:
        client.span(wheel.url.replace("//", "//name:other@"), 10, 60, wheel.size or 0)
    assert "other" not in caught.value.message
    assert "****@" in caught.value.message
    assert all("c2VjcmV0" not in str(headers) for _, _, headers in server.requests)
    client.close()


def test_credentials_do_not_follow_a_redirect_to_another_host(
    server: WheelServer, client: RangeClient, wheel: WheelFile, tmp_path: object
) -> None:
    with serving(server.folder) as other:
        server.faults.append(faults.status(302, Location=other.url(server.folder / wheel.filename)))
        address = wheel.url.replace("//", "//user:secret@")
        assert client.span(address, 10, 60, wheel.size or 0).data == content(server, wheel)[10:60]
        assert "Authorization" in server.requests[0][2]
        assert "Authorization" not in other.requests[0][2]
