"""Where sources are read from: an installed package, or anything else that looks like one."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.distributions import Distribution

__all__ = ["LIMIT_BYTES", "UNBUILT", "InstalledTree", "SourceTree"]

LIMIT_BYTES = 16 * 1024 * 1024
"""Larger sources are not read: the largest module of the stack has 0.6 MB."""

UNBUILT = ".dist-info/UNBUILT"
"""How a path ends that only a tree has whose package is still to be built."""


class SourceTree(Protocol):
    """The files of one distribution.

    ``paths`` are POSIX paths relative to site-packages (``"trl/__init__.py"``). ``read`` raises
    OSError or KeyError where a file cannot be read; ``locate`` says where it is, for evidence.
    """

    @property
    def name(self) -> NormalizedName:
        """The canonical name of the distribution."""

    @property
    def version(self) -> Version:
        """Its version, local part included."""

    def paths(self) -> Sequence[str]:
        """Return the path of every file."""

    def read(self, path: str) -> bytes:
        """Return the content of one file."""

    def locate(self, path: str) -> str:
        """Return how a user finds the file."""


class InstalledTree:
    """The files that the RECORD of an installed distribution lists inside its folder."""

    def __init__(self, distribution: Distribution) -> None:
        self._distribution = distribution
        self._base = f"{distribution.info.parent}{os.sep}"

    @property
    def name(self) -> NormalizedName:
        """The canonical name of the distribution."""
        return self._distribution.name

    @property
    def version(self) -> Version:
        """Its version, local part included."""
        return self._distribution.version

    def paths(self) -> Sequence[str]:
        """Return the recorded paths; those that leave the folder are none of a module."""
        return self._paths

    @cached_property
    def _paths(self) -> list[str]:
        cut = len(self._base)
        recorded = self._distribution.recorded_files() or []
        return [
            path[cut:].replace(os.sep, "/") for path, _ in recorded if path.startswith(self._base)
        ]

    def read(self, path: str) -> bytes:
        """Return the content of a regular file of at most ``LIMIT_BYTES``; raises OSError.

        A symbolic link is followed as Python would follow it, to a regular file and nothing else.
        """
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(self.locate(path), flags)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(f"{path} is not a regular file")
            if status.st_size > LIMIT_BYTES:
                raise OSError(f"{path} has {status.st_size:,} bytes, more than {LIMIT_BYTES:,}")
            return file.read()

    def locate(self, path: str) -> str:
        """Return the absolute path."""
        return self._base + path.replace("/", os.sep)
