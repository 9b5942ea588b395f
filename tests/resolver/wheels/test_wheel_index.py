from __future__ import annotations

import json

import pytest
from packaging.utils import NormalizedName

from depot import make_wheel
from grpoenv.wheels import (
    RangeClient,
    SpanStore,
    TransferError,
    WheelFile,
    WheelTree,
    published_wheels,
)
from resolver.wheels.wheel_server import WheelServer

DEMO = NormalizedName("demo")


def test_every_wheel_is_listed_oldest_first(
    server: WheelServer, client: RangeClient, wheel: WheelFile, store: SpanStore
) -> None:
    for version in ("1.10", "1.9"):
        make_wheel(server.folder, "demo", version)
    found = published_wheels(DEMO, server.index, client)
    assert [str(one.version) for one in found] == ["1.0", "1.9", "1.10"]
    assert found[0] == wheel
    assert WheelTree(found[0], client, store).read("demo/inner.py") == b"VALUE = 1\n"


def test_a_page_in_html_says_the_same_but_for_the_size(
    server: WheelServer, client: RangeClient, wheel: WheelFile, store: SpanStore
) -> None:
    server.page = (
        "text/html; charset=utf-8",
        f"""<!DOCTYPE html><html><head><base href="/files/"></head><body>
        <a href="demo-1.0.tar.gz#sha256=00">demo-1.0.tar.gz</a>
        <a href="{wheel.filename}#sha256={wheel.sha256}">{wheel.filename}</a>
        <a data-yanked="broken" href="demo-0.9-py3-none-any.whl">demo-0.9-py3-none-any.whl</a>
        </body></html>""",
    )
    found = published_wheels(DEMO, server.index, client)
    assert [str(one.version) for one in found] == ["0.9", "1.0"]
    assert (found[1].url, found[1].sha256, found[1].size) == (wheel.url, wheel.sha256, None)
    assert WheelTree(found[1], client, store).read("demo/inner.py") == b"VALUE = 1\n"
    assert published_wheels(DEMO, server.index, client, yanked=False) == found[1:]


def test_what_is_malformed_on_a_page_is_passed_over(
    server: WheelServer, client: RangeClient
) -> None:
    rows: list[object] = [
        {"filename": "demo-1.0-py3-none-any.whl"},
        {"filename": "demo-1.0.whl", "url": "x"},
        {"filename": 7, "url": "x"},
        {"filename": "demo-x!-py3-none-any.whl", "url": "x"},
        {"filename": "other-1.0-py3-none-any.whl", "url": "x"},
        {"filename": "demo-2.0-py3-none-any.whl", "url": "x", "hashes": None, "size": "many"},
    ]
    server.page = ("application/vnd.pypi.simple.v1+json", json.dumps({"files": rows}))
    (found,) = published_wheels(DEMO, server.index, client)
    assert (str(found.version), found.size, found.sha256) == ("2.0", None, "")


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("application/json", "[]", "list indices must be integers or slices, not str"),
        ("application/json", '{"files": [1]}', "a file that is no object"),
        ("application/json", "{", "Expecting property name enclosed in double quotes"),
        ("application/json", "[" * 100_000, ""),
        ("image/png", "", "it is image/png"),
        ("", "", "it is text/plain"),
    ],
)
def test_what_is_no_page_is_told(
    server: WheelServer, client: RangeClient, kind: str, body: str, reason: str
) -> None:
    server.page = (kind, body)
    with pytest.raises(TransferError) as caught:
        published_wheels(DEMO, server.index, client)
    start = f"{server.index}/demo/ is no page of a project: {reason}"
    assert caught.value.message.startswith(start)


def test_a_project_that_is_not_there(server: WheelServer, client: RangeClient) -> None:
    with pytest.raises(TransferError, match="the server answered 404"):
        published_wheels(DEMO, server.index, client)
