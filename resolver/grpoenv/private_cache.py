"""Small disposable files in the user's cache that nobody else may have had a hand in.

A file is read only when its folder and itself are real (no symbolic link), belong to this user and
cannot be written by others, and when it is small. It is replaced as a whole or not at all. Every
failure reads as "there is no such file": what is kept here can always be made again.

Parents of the folder may be symbolic links, as `~/.cache` often is on a cluster.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["exclusive", "read_private", "user_cache_folder", "write_private"]

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def user_cache_folder() -> Path:
    """Return grpoenv's folder in the user's cache; it need not exist.

    On Linux this is platformdirs' rule written out: importing that costs 5 ms of every start.
    """
    if sys.platform == "linux":
        base = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(base):
            base = os.path.expanduser("~/.cache")
        return Path(base) / "grpoenv"
    from platformdirs import user_cache_path

    return user_cache_path("grpoenv", appauthor=False)


def read_private(folder: Path, name: str, max_bytes: int) -> bytes | None:
    """Return the content of `folder/name`, or None where it is absent, unsafe or over `max_bytes`."""
    try:
        with _opened_folder(folder) as folder_fd:
            return _read_file(folder_fd, name, max_bytes)
    except OSError:
        return None


def write_private(folder: Path, name: str, content: bytes) -> bool:
    """Replace `folder/name` by `content` in one step; return whether that worked.

    The folder is made where it is missing (mode 0700); the file has mode 0600.
    """
    try:
        if folder.is_absolute():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        with _opened_folder(folder) as folder_fd:
            _replace_file(folder_fd, name, content)
    except OSError:
        return False
    return True


@contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock while inside; yield False, at once, where it cannot be had."""
    import fcntl

    try:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(folder_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(folder_fd)


@contextmanager
def _opened_folder(folder: Path) -> Iterator[int]:
    if not folder.is_absolute():  # no home folder is known: never fill the working directory
        raise NotADirectoryError(f"{folder} is not an absolute path")
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _require_private(os.fstat(folder_fd), str(folder))
        yield folder_fd
    finally:
        os.close(folder_fd)


def _require_private(status: os.stat_result, place: str) -> None:
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{place} belongs to user {status.st_uid}, not {os.geteuid()}")
    if status.st_mode & _OTHERS_MAY_WRITE:
        raise PermissionError(f"{place} can be written by others: {stat.filemode(status.st_mode)}")


def _read_file(folder_fd: int, name: str, max_bytes: int) -> bytes | None:
    # O_NONBLOCK: a named pipe put in the file's place must not hang the import.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file_fd = os.open(name, flags, dir_fd=folder_fd)
    try:
        status = os.fstat(file_fd)
        _require_private(status, name)
        if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
            return None
        content = os.read(file_fd, max_bytes + 1)
        return content if len(content) <= max_bytes else None
    finally:
        os.close(file_fd)


def _replace_file(folder_fd: int, name: str, content: bytes) -> None:
    draft = f".{name}.{os.getpid()}.{os.urandom(4).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    draft_fd = os.open(draft, flags, 0o600, dir_fd=folder_fd)
    try:
        with open(draft_fd, "wb") as file:
            file.write(content)
        os.replace(draft, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except OSError:
        os.unlink(draft, dir_fd=folder_fd)
        raise
