from __future__ import annotations

import io
import struct
import warnings
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpoenv.wheels import DamagedWheel
from grpoenv.wheels.archive import Archive
from grpoenv.wheels.range_file import RangeFile
from grpoenv.wheels.transfer import Span

FILES = {
    "demo/__init__.py": b"VALUE = 1\n" * 50,
    "demo/inner.py": b"",
    "demo-1.0.dist-info/METADATA": b"Name: demo\nVersion: 1.0\n",
}


def zipped(files: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return raw.getvalue()


PLAIN = zipped(FILES)
PACKED = zipfile.ZipFile(io.BytesIO(PLAIN)).getinfo("demo/__init__.py").compress_size


def opened(raw: bytes) -> Archive:
    return Archive(io.BytesIO(raw), "demo.whl")


def entry(raw: bytes, name: str) -> int:
    """Return where the table of contents describes ``name``."""
    at = raw.index(b"PK\x01\x02")
    while raw[at + 46 : at + 46 + len(name)] != name.encode():
        at = raw.index(b"PK\x01\x02", at + 4)
    return at


def patched(name: str, offset: int, format_: str, value: int, raw: bytes = PLAIN) -> bytes:
    """Change one field of an entry of the table of contents."""
    changed = bytearray(raw)
    struct.pack_into(format_, changed, entry(raw, name) + offset, value)
    return bytes(changed)


def test_files_are_what_was_put_in() -> None:
    archive = opened(PLAIN)
    assert list(archive.names) == list(FILES)
    assert {name: archive.read(name) for name in archive.names} == FILES


def test_zip64_is_read() -> None:
    raw = io.BytesIO()
    with (
        zipfile.ZipFile(raw, "w") as archive,
        archive.open("demo/big.py", "w", force_zip64=True) as file,
    ):
        file.write(b"VALUE = 1\n")
    assert opened(raw.getvalue()).read("demo/big.py") == b"VALUE = 1\n"


NAMES = ["../x", "/x", "a/../x", "a\\x", "C:/x", "./x", "a//x", ".."]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leaves_the_folder_is_refused(name: str) -> None:
    with pytest.raises(DamagedWheel) as caught:
        opened(zipped({**FILES, name: b""}))
    assert caught.value.message == f"demo.whl: {name!r} is no name for a file of a package"


def test_a_name_that_is_there_twice_is_refused() -> None:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("demo/a.py", "1")
        archive.writestr("demo/a.py", "2")
    with pytest.raises(DamagedWheel, match=r"'demo/a\.py' is there twice"):
        opened(raw.getvalue())


def test_a_symbolic_link_is_refused() -> None:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        link = zipfile.ZipInfo("demo/link.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DamagedWheel, match=r"'demo/link\.py' is a symbolic link"):
        opened(raw.getvalue())


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (patched("demo/__init__.py", 8, "<H", 1), "'demo/__init__.py' is encrypted"),
        (
            patched("demo/__init__.py", 10, "<H", 99),
            "'demo/__init__.py' is compressed in an unknown way (99)",
        ),
        (
            zipped(FILES, compression=zipfile.ZIP_BZIP2),
            "'demo/__init__.py' is compressed in an unknown way (12)",
        ),
        (
            patched("demo/__init__.py", 20, "<L", 5000),
            "'demo/__init__.py' reaches beyond its end: its 5,000 bytes from 0 overlap",
        ),
        (
            patched("demo/inner.py", 42, "<L", 0),
            "'demo/__init__.py' reaches beyond its end: its ",
        ),
        (
            patched("demo/inner.py", 24, "<L", 7, zipped(FILES, compression=zipfile.ZIP_STORED)),
            "'demo/inner.py' is stored as it is, in 0 bytes for 7",
        ),
    ],
)
def test_a_table_of_contents_that_cannot_be_true_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(DamagedWheel) as caught:
        opened(raw)
    assert caught.value.message.startswith(f"demo.whl: {reason}")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (
            patched("demo/__init__.py", 24, "<L", 2**30),
            "demo/__init__.py has 1,073,741,824 bytes, more than 16,777,216",
        ),
        (
            patched("demo/__init__.py", 24, "<L", 2**23),
            f"demo/__init__.py would unpack {PACKED} bytes to 8,388,608",
        ),
        (
            patched("demo/__init__.py", 24, "<L", 501),
            "demo/__init__.py has 500 bytes, declared 501",
        ),
        (
            patched("demo/__init__.py", 24, "<L", 499),
            "demo/__init__.py: Bad CRC-32 for file 'demo/__init__.py'",
        ),
        (
            patched("demo/__init__.py", 16, "<L", 1),
            "demo/__init__.py: Bad CRC-32 for file 'demo/__init__.py'",
        ),
    ],
)
def test_a_file_that_is_not_what_it_claims_is_refused(raw: bytes, reason: str) -> None:
    archive = opened(raw)
    with pytest.raises(DamagedWheel) as caught:
        archive.read("demo/__init__.py")
    assert caught.value.message == f"demo.whl: {reason}"
    assert archive.read("demo/inner.py") == b""


def test_a_bomb_is_not_unpacked() -> None:
    archive = opened(zipped({"bomb.py": b"\0" * 8 * 2**20}))
    with pytest.raises(DamagedWheel, match="would unpack"):
        archive.read("bomb.py")


@pytest.mark.parametrize("raw", [b"", b"PK\x05\x06", PLAIN[:-30], b"\0" * 100, PLAIN[:40]])
def test_no_archive_at_all(raw: bytes) -> None:
    with pytest.raises(DamagedWheel, match=r"demo\.whl is no readable archive"):
        opened(raw)


def test_a_table_of_contents_of_half_a_gigabyte_is_not_fetched() -> None:
    end = bytearray(PLAIN)
    at = PLAIN.index(b"PK\x05\x06")
    struct.pack_into("<LL", end, at + 12, 2**29, 0)
    size = 2**29 + len(end) - at

    def fetch(start: int, stop: int) -> Span:
        assert stop - start < 2**20
        tail = bytes(end[at:])
        return Span(start, tail[start - size + len(tail) : stop - size + len(tail)], size)

    file = RangeFile(size, fetch)
    file.add(Span(size - len(end[at:]), bytes(end[at:]), size))
    with pytest.raises(DamagedWheel) as caught:
        Archive(file, "demo.whl")
    assert caught.value.message == f"the archive claims a part of {2**29:,} bytes"


def test_neighbours_are_fetched_together() -> None:
    files = {f"demo/m{n}.py": bytes([n]) * 10 for n in range(5)}
    files["demo/lib.so"] = bytes(range(256)) * 4096
    files |= {f"demo/z{n}.py": bytes([n]) * 10 for n in range(5)}
    archive = opened(zipped(files, compression=zipfile.ZIP_STORED))
    spans = archive.spans(name for name in files if name.endswith(".py"))
    assert len(spans) == 2
    assert sum(end - start for start, end in spans) < 1000


@given(st.lists(st.tuples(st.integers(0, len(PLAIN) - 1), st.integers(0, 255)), max_size=4))
@settings(max_examples=300, deadline=None)
def test_whatever_bytes_change_a_file_is_right_or_refused(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(PLAIN)
    for at, value in changes:
        raw[at] = value
    try:
        archive = opened(bytes(raw))
    except DamagedWheel:
        return
    for name in archive.names:
        try:
            content = archive.read(name)
        except DamagedWheel:
            continue
        assert content in FILES.values()


@given(st.binary(max_size=200), st.binary(max_size=60))
@settings(deadline=None)
def test_random_bytes_are_refused_or_read(head: bytes, tail: bytes) -> None:
    try:
        archive = opened(head + PLAIN[PLAIN.index(b"PK\x05\x06") :][:22] + tail)
        for name in archive.names:
            archive.read(name)
    except DamagedWheel:
        pass


DATA = bytes(range(256)) * 4


@given(
    st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, 300)), max_size=12),
    st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, 300)), min_size=1, max_size=6),
)
@settings(deadline=None)
def test_a_file_in_pieces_reads_as_the_whole_and_fetches_nothing_twice(
    held: list[tuple[int, int]], reads: list[tuple[int, int]]
) -> None:
    fetched = [0] * len(DATA)

    def fetch(start: int, end: int) -> Span:
        for at in range(start, end):
            fetched[at] += 1
        return Span(start, DATA[start:end], len(DATA))

    file = RangeFile(len(DATA), fetch)
    for start, length in held:
        file.add(Span(start, DATA[start : start + length], len(DATA)))
    for start, length in reads:
        file.seek(start)
        assert file.read(length) == DATA[start : start + length]
    assert max(fetched) <= 1
    assert all(
        not fetched[at] for start, length in held for at in range(start, min(start + length, 1024))
    )
    pieces = file.held()
    assert pieces == sorted(pieces, key=lambda piece: piece[0])
