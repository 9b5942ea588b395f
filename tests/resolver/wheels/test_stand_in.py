"""Wheels made of source distributions: what is in them, and what is refused."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest
from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.wheels import DamagedWheel, is_stand_in, stand_in, stand_in_filename

NAME, VERSION = NormalizedName("deep-speed"), Version("1.0")


def sdist(files: dict[str, str], *, links: dict[str, str] | None = None) -> bytes:
    """Return a ``.tar.gz`` of files below one folder."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(f"deep-speed-1.0/{path}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
        for path, target in (links or {}).items():
            member = tarfile.TarInfo(f"deep-speed-1.0/{path}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return made.getvalue()


def modules(files: dict[str, str]) -> dict[str, str]:
    """Return the modules of the wheel that is made of an sdist with these files."""
    content = stand_in(sdist({"PKG-INFO": "Name: deep-speed\n", **files}), NAME, VERSION)
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        return {n: wheel.read(n).decode() for n in wheel.namelist() if ".dist-info/" not in n}


def test_its_name_tells_it_from_a_wheel_that_was_built() -> None:
    filename = stand_in_filename(NAME, VERSION)
    assert filename == "deep_speed-1.0-0unbuilt-py3-none-any.whl"
    assert is_stand_in(filename) and not is_stand_in("deep_speed-1.0-py3-none-any.whl")


def test_it_has_the_modules_the_metadata_and_says_that_it_is_unbuilt() -> None:
    files = {"PKG-INFO": "Name: deep-speed\nRequires-Dist: torch\n", "deepspeed/__init__.py": "a"}
    content = stand_in(sdist(files), NAME, VERSION)
    assert content == stand_in(sdist(files), NAME, VERSION)
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        info = "deep_speed-1.0.dist-info"
        assert sorted(wheel.namelist()) == [
            *(f"{info}/{name}" for name in ("METADATA", "RECORD", "UNBUILT", "WHEEL")),
            "deepspeed/__init__.py",
        ]
        assert wheel.read(f"{info}/METADATA").decode() == files["PKG-INFO"]


def test_the_top_level_that_is_named_counts_or_else_what_can_be_imported() -> None:
    layout = {
        "deepspeed/__init__.py": "a",
        "deepspeed/ops/x.py": "b",
        "op_builder/__init__.py": "c",
        "tests/__init__.py": "d",
        "setup.py": "e",
        "csrc/gen.py": "f",
    }
    named = {**layout, "deepspeed.egg-info/top_level.txt": "deepspeed\nsetup\n"}
    assert modules(named) == {
        "deepspeed/__init__.py": "a",
        "deepspeed/ops/x.py": "b",
        "setup.py": "e",
    }
    assert sorted(modules(layout)) == [
        "deepspeed/__init__.py",
        "deepspeed/ops/x.py",
        "op_builder/__init__.py",
    ]
    assert modules({"src/awq/__init__.py": "a", "src/awq/b.py": "b"}) == {
        "awq/__init__.py": "a",
        "awq/b.py": "b",
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be unpacked"),
        (b"PK\x03\x04", "cannot be unpacked"),
        (sdist({"PKG-INFO": "x"})[:-40], "cannot be unpacked"),
        (sdist({"a/__init__.py": ""}), "has no PKG-INFO"),
        (sdist({}, links={"PKG-INFO": "/etc/passwd"}), "has no PKG-INFO"),
        (sdist({"../PKG-INFO": "x", "a/../PKG-INFO": "x"}), "has no PKG-INFO"),
    ],
)
def test_what_is_no_source_distribution_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DamagedWheel, match=f"deep-speed 1.0 {reason}"):
        stand_in(content, NAME, VERSION)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    member = tarfile.TarInfo("a-1.0/big.bin")
    member.size = 300 * 2**20
    bomb = gzip.compress(member.tobuf() + bytes(member.size), compresslevel=1)
    with pytest.raises(DamagedWheel, match="unpacks to more than"):
        stand_in(bomb, NAME, VERSION)
    large = tarfile.TarInfo("a-1.0/big.py")
    large.size = 17 * 2**20
    with pytest.raises(DamagedWheel, match="has 17,825,792 bytes"):
        stand_in(gzip.compress(large.tobuf() + bytes(large.size)), NAME, VERSION)
