from __future__ import annotations

import os
import random
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from depot import make_wheel
from grpoenv.wheels import DamagedWheel, RangeClient, SpanStore, WheelFile, WheelTree, open_wheels
from grpoenv.wheels.range_file import RangeFile
from grpoenv.wheels.transfer import Span
from resolver.wheels import wheel_server as faults
from resolver.wheels.conftest import published
from resolver.wheels.wheel_server import WheelServer

NOISE = random.Random(7)
INNER = "demo/inner.py"


def large_wheel(server: WheelServer) -> WheelFile:
    """A wheel of 4 MB, most of it a library between the modules."""
    path = server.folder / "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("demo/__init__.py", "from demo.inner import VALUE\n")
        wheel.writestr("demo/lib.so", NOISE.randbytes(4 * 2**20))
        wheel.writestr(INNER, "VALUE = 1\n")
        wheel.writestr("demo-1.0.data/purelib/demo_more.py", "MORE = 2\n")
        wheel.writestr("demo-1.0.dist-info/METADATA", "Name: demo\nVersion: 1.0\n")
    return published(server, path)


def test_a_small_wheel_takes_one_request(
    server: WheelServer, wheel: WheelFile, client: RangeClient, store: SpanStore
) -> None:
    tree = WheelTree(wheel, client, store)
    assert (tree.name, str(tree.version)) == ("demo", "1.0")
    assert list(tree.paths())[:2] == ["demo/__init__.py", INNER]
    assert tree.read(INNER) == b"VALUE = 1\n"
    assert tree.metadata().startswith("Metadata-Version: 2.1\nName: demo\n")
    assert tree.locate(INNER) == "demo-1.0-py3-none-any.whl/demo/inner.py"
    assert server.file_requests() == [None]


def test_of_a_large_wheel_only_the_modules_are_fetched(
    server: WheelServer, client: RangeClient, store: SpanStore
) -> None:
    wheel = large_wheel(server)
    tree = WheelTree(wheel, client, store)
    assert "from demo.inner" in tree.read("demo/__init__.py").decode()
    assert tree.read(INNER) == b"VALUE = 1\n"
    assert tree.metadata() == "Name: demo\nVersion: 1.0\n"
    assert len(server.file_requests()) == 2  # the tail holds all but the first module


def test_what_lies_in_purelib_counts_as_installed(
    server: WheelServer, client: RangeClient, store: SpanStore
) -> None:
    tree = WheelTree(large_wheel(server), client, store)
    assert tree.read("demo_more.py") == b"MORE = 2\n"
    assert tree.locate("demo_more.py").endswith("/demo-1.0.data/purelib/demo_more.py")


@pytest.mark.parametrize("tells_size", [True, False])
def test_the_second_time_comes_from_the_cache(
    server: WheelServer, client: RangeClient, store: SpanStore, tells_size: bool
) -> None:
    wheel = large_wheel(server)
    wheel = wheel if tells_size else replace(wheel, size=None)
    first = WheelTree(wheel, client, store).read("demo/__init__.py")
    before = len(server.file_requests())
    assert WheelTree(wheel, client, store).read("demo/__init__.py") == first
    assert len(server.file_requests()) == before + (0 if tells_size else 1)


def test_a_server_without_ranges_serves_as_well(
    server: WheelServer, client: RangeClient, store: SpanStore
) -> None:
    server.faults.append(faults.no_ranges)
    tree = WheelTree(large_wheel(server), client, store)
    assert tree.read("demo/__init__.py").startswith(b"from")
    assert len(server.file_requests()) == 1


def test_another_file_than_the_index_says_is_refused(
    wheel: WheelFile, client: RangeClient, store: SpanStore
) -> None:
    with pytest.raises(DamagedWheel) as caught:
        WheelTree(replace(wheel, sha256="0" * 64), client, store)
    assert caught.value.message == (
        f"demo-1.0-py3-none-any.whl has the SHA-256 {wheel.sha256}, and the index says {'0' * 64}"
    )


def test_a_wheel_in_a_folder_needs_no_server(
    server: WheelServer, wheel: WheelFile, client: RangeClient, store: SpanStore
) -> None:
    local = replace(wheel, url="", path=server.folder / wheel.filename, size=None)
    assert WheelTree(local, client, store).read(INNER) == b"VALUE = 1\n"
    assert server.requests == []


def test_what_cannot_be_read_is_told_for_each_wheel(
    server: WheelServer, wheel: WheelFile, client: RangeClient, store: SpanStore
) -> None:
    bad = server.folder / "bad-1.0-py3-none-any.whl"
    bad.write_bytes(b"no archive")
    bare = server.folder / "bare-1.0-py3-none-any.whl"
    with zipfile.ZipFile(bare, "w") as archive:
        archive.writestr("bare.py", "")
    gone = published(server, make_wheel(server.folder, "gone", "1.0"))
    (server.folder / gone.filename).unlink()
    wheels = [published(server, bad), published(server, bare), wheel]
    trees, errors = open_wheels(
        [*wheels, replace(gone, url="", path=Path("gone.whl"))], client, store
    )
    assert list(trees) == ["demo"]
    assert {name: error.message for name, error in errors.items()} == {
        "bad": "bad-1.0-py3-none-any.whl is no readable archive: File is not a zip file",
        "bare": "bare-1.0-py3-none-any.whl has 0 METADATA files, not one",
        "gone": "gone.whl cannot be read: No such file or directory",
    }


def test_a_read_that_fails_is_an_oserror(
    server: WheelServer, client: RangeClient, store: SpanStore
) -> None:
    tree = WheelTree(large_wheel(server), client, store)
    server.faults.append(faults.status(404))
    with pytest.raises(OSError, match="the server answered 404"):
        tree.read("demo/__init__.py")
    with pytest.raises(KeyError):
        tree.read("demo/none.py")


SHA = "a" * 64


def filled(data: bytes, start: int = 0, size: int = 1000) -> RangeFile:
    file = RangeFile(size, lambda start, end: Span(start, b"", size))
    file.add(Span(start, data, size))
    return file


def test_what_was_kept_comes_back(store: SpanStore) -> None:
    kept = filled(b"abc", 10)
    kept.add(Span(500, b"def", 1000))
    store.save(SHA, kept)
    file = filled(b"")
    assert store.load(SHA, file)
    assert [(start, bytes(piece)) for start, piece in file.held()] == [(10, b"abc"), (500, b"def")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}\n",
        b"[" * 100_000,
        b'{"size": 999, "spans": []}\n',
        b'{"size": 1000, "spans": [[0, 5]]}\nabc',
        b'{"size": 1000, "spans": [[-1, 3]]}\nabc',
        b'{"size": 1000, "spans": [[999, 3]]}\nabc',
        b'{"size": 1000, "spans": 7}\n',
        b"\xff\xfe\n",
    ],
)
def test_a_damaged_entry_counts_as_none(store: SpanStore, tmp_path: Path, content: bytes) -> None:
    store.save(SHA, filled(b"abc"))
    (entry,) = (tmp_path / "store").iterdir()
    entry.write_bytes(content)
    file = filled(b"")
    assert not store.load(SHA, file)
    assert file.held() == []


def test_a_damaged_entry_is_found_by_the_crc(
    server: WheelServer, client: RangeClient, store: SpanStore, tmp_path: Path
) -> None:
    wheel = large_wheel(server)
    WheelTree(wheel, client, store).read("demo/__init__.py")
    (entry,) = (tmp_path / "store").iterdir()
    raw = entry.read_bytes()
    at = raw.index(b"demo/__init__.py") + len(b"demo/__init__.py")
    entry.write_bytes(raw[:at] + b"\0\0\0" + raw[at + 3 :])
    with pytest.raises(OSError, match=r"demo/__init__\.py"):
        WheelTree(wheel, client, store).read("demo/__init__.py")


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_folder_that_others_can_write_is_not_believed(store: SpanStore, tmp_path: Path) -> None:
    store.save(SHA, filled(b"abc"))
    (tmp_path / "store").chmod(0o777)
    assert not store.load(SHA, filled(b""))


def test_the_oldest_entries_go_when_there_is_no_room(tmp_path: Path) -> None:
    store = SpanStore(tmp_path / "store", limit_bytes=2500)
    for number, letter in enumerate("abcd"):
        store.save(letter * 64, filled(b"x" * 1000))
        os.utime(tmp_path / "store" / f"{letter * 64}.spans-v1", (number, number))
    store.trim()
    assert sorted(path.name[0] for path in (tmp_path / "store").iterdir()) == ["c", "d"]


def test_no_name_but_a_hash_reaches_the_disk(store: SpanStore, tmp_path: Path) -> None:
    store.save("../../elsewhere", filled(b"abc"))
    assert not store.load("../../elsewhere", filled(b""))
    assert list(tmp_path.iterdir()) == []


SAVE_OFTEN = """
import sys
from pathlib import Path
from grpoenv.wheels import SpanStore
from grpoenv.wheels.range_file import RangeFile
from grpoenv.wheels.transfer import Span
file = RangeFile(1000, lambda start, end: Span(start, b"", 1000))
file.add(Span(0, sys.argv[2].encode() * 1000, 1000))
for _ in range(50):
    SpanStore(Path(sys.argv[1])).save("a" * 64, file)
"""


def test_processes_may_share_the_folder(store: SpanStore, tmp_path: Path) -> None:
    store.save(SHA, filled(b"a" * 1000))
    others = [
        subprocess.Popen([sys.executable, "-c", SAVE_OFTEN, tmp_path / "store", letter])
        for letter in "ab"
    ]
    while any(other.poll() is None for other in others):
        file = filled(b"")
        assert store.load(SHA, file)
        ((_, piece),) = file.held()
        assert bytes(piece) in (b"a" * 1000, b"b" * 1000)
    assert [other.wait() for other in others] == [0, 0]
