"""The state file: whatever is wrong with it, it is absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpoenv.private_cache import exclusive, read_private, user_cache_folder, write_private
from grpoenv.update_state import STATE_FILE, UpdateState, read_state, write_state

GOOD = {"schema": 1, "stamp_s": 1.5, "failures": 0, "installed": "0.1.0", "newest": None}


def put(folder: Path, content: bytes, mode: int = 0o600) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / STATE_FILE).write_bytes(content)
    (folder / STATE_FILE).chmod(mode)


@given(
    stamp_s=st.floats(0, 1e12),
    failures=st.integers(0, 10**6),
    installed=st.text(max_size=30),
    newest=st.none() | st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}", fullmatch=True),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    stamp_s: float,
    failures: int,
    installed: str,
    newest: str | None,
) -> None:
    folder = tmp_path_factory.mktemp("cache") / "grpoenv"
    newest = newest if newest is None or newest.isascii() else None
    state = UpdateState(stamp_s, failures, installed, newest)
    assert write_state(folder, state)
    assert read_state(folder) == state


def test_the_folder_is_private_and_so_is_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "grpoenv"
    assert write_state(folder, UpdateState(1.0))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / STATE_FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.iterdir()] == [STATE_FILE]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"\x00\xff\xfe",
        b"[" * 4000,
        b'{"schema": 1}',
        json.dumps({**GOOD, "schema": 2}).encode(),
        json.dumps({**GOOD, "stamp_s": "1"}).encode(),
        json.dumps({**GOOD, "stamp_s": float("nan")}).encode(),
        json.dumps({**GOOD, "stamp_s": float("inf")}).encode(),
        json.dumps({**GOOD, "stamp_s": -1}).encode(),
        json.dumps({**GOOD, "stamp_s": 10**400}).encode(),
        json.dumps({**GOOD, "failures": 1.5}).encode(),
        json.dumps({**GOOD, "failures": -1}).encode(),
        json.dumps({**GOOD, "installed": 3}).encode(),
        json.dumps({**GOOD, "newest": "\x1b[31m9.9"}).encode(),
        json.dumps({**GOOD, "newest": "9.9\n"}).encode(),
        json.dumps({**GOOD, "newest": "9.9rc1"}).encode(),
        json.dumps({**GOOD, "newest": "1." * 60 + "1"}).encode(),
        json.dumps({**GOOD, "newest": ["9"]}).encode(),
        json.dumps(GOOD).encode() + b" " * 4096,
    ],
)
def test_a_corrupt_file_is_absent(tmp_path: Path, content: bytes) -> None:
    put(tmp_path / "grpoenv", content)
    assert read_state(tmp_path / "grpoenv") is None


def test_the_good_file_of_these_tests_is_read(tmp_path: Path) -> None:
    put(tmp_path / "grpoenv", json.dumps(GOOD).encode())
    assert read_state(tmp_path / "grpoenv") == UpdateState(1.5, 0, "0.1.0", None)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    put(tmp_path / "real", json.dumps(GOOD).encode())
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "folder" / STATE_FILE).symlink_to(tmp_path / "real" / STATE_FILE)
    assert read_state(tmp_path / "real") is not None
    assert read_state(tmp_path / "link") is None
    assert read_state(tmp_path / "folder") is None
    assert not write_state(tmp_path / "link", UpdateState(2.0))
    assert not exclusive_was_had(tmp_path / "link")


def test_writing_over_a_link_replaces_the_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    folder = tmp_path / "grpoenv"
    folder.mkdir(mode=0o700)
    (folder / STATE_FILE).symlink_to(tmp_path / "victim")
    assert write_state(folder, UpdateState(2.0))
    assert (tmp_path / "victim").read_text() == "precious"
    assert read_state(folder) == UpdateState(2.0)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write_is_absent(tmp_path: Path, mode: int) -> None:
    put(tmp_path / "grpoenv", json.dumps(GOOD).encode(), mode)
    assert read_state(tmp_path / "grpoenv") is None


def test_a_folder_that_others_can_write_is_absent(tmp_path: Path) -> None:
    put(tmp_path / "grpoenv", json.dumps(GOOD).encode())
    (tmp_path / "grpoenv").chmod(0o777)
    assert read_state(tmp_path / "grpoenv") is None
    assert not write_state(tmp_path / "grpoenv", UpdateState(2.0))


def test_a_file_of_another_user_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "grpoenv", json.dumps(GOOD).encode())
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "grpoenv").stat().st_uid + 1)
    assert read_state(tmp_path / "grpoenv") is None


def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    folder = tmp_path / "grpoenv"
    folder.mkdir(mode=0o700)
    os.mkfifo(folder / STATE_FILE)
    assert read_state(folder) is None


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not write_state(tmp_path / "file" / "grpoenv", UpdateState(1.0))
    assert not exclusive_was_had(tmp_path / "file" / "grpoenv")


def test_a_failed_replacement_leaves_no_draft(tmp_path: Path) -> None:
    folder = tmp_path / "grpoenv"
    (folder / STATE_FILE).mkdir(parents=True)
    folder.chmod(0o700)
    assert not write_state(folder, UpdateState(1.0))
    assert [path.name for path in folder.iterdir()] == [STATE_FILE]


def test_the_lock_is_had_by_one_at_a_time(tmp_path: Path) -> None:
    with exclusive(tmp_path) as first:
        assert first
        assert not exclusive_was_had(tmp_path)
    assert exclusive_was_had(tmp_path)


def test_the_working_folder_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not write_private(Path("cache/grpoenv"), "x", b"1")
    assert read_private(Path("cache/grpoenv"), "x", 10) is None
    assert list(tmp_path.iterdir()) == []


def test_the_cache_folder_is_grpoenvs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert user_cache_folder() == Path("/somewhere/grpoenv")


def exclusive_was_had(folder: Path) -> bool:
    with exclusive(folder) as had:
        return had


@pytest.mark.parametrize("value", [None, "", "  ", "/x", "relative"])
def test_the_cache_folder_is_platformdirs_s(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert user_cache_folder() == platformdirs.user_cache_path("grpoenv", appauthor=False)
