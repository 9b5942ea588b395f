"""Read single files out of published wheels, without downloading or installing them.

::

    WheelTree        the files of one wheel: paths() and read(path)
    ├── archive      what a zip file claims about itself, checked before any of it is used
    ├── range_file   a file of which only some spans are here; the rest is fetched when it is read
    ├── transfer     one span from a server, with every way in which that can fail
    └── store        the spans that were fetched, kept in the user's cache by the wheel's hash
    index            every wheel, sdist and release with its time that an index has of a project
    stand_in         a wheel made of the modules of an sdist, for what has no wheel

``remotezip`` and ``unzip-http`` read remote archives too; neither fetches neighbouring files
together nor checks what an archive claims.
"""

from __future__ import annotations

from grpoenv.wheels.errors import DamagedWheel, TransferError, WheelError
from grpoenv.wheels.index import (
    PublishedRelease,
    PublishedSdist,
    published_releases,
    published_sdists,
    published_wheels,
)
from grpoenv.wheels.stand_in import is_stand_in, stand_in, stand_in_filename
from grpoenv.wheels.store import SpanStore
from grpoenv.wheels.transfer import RangeClient
from grpoenv.wheels.tree import WheelFile, WheelTree, fetch_sources, open_wheels

__all__ = [
    "DamagedWheel",
    "PublishedRelease",
    "PublishedSdist",
    "RangeClient",
    "SpanStore",
    "TransferError",
    "WheelError",
    "WheelFile",
    "WheelTree",
    "fetch_sources",
    "is_stand_in",
    "open_wheels",
    "published_releases",
    "published_sdists",
    "published_wheels",
    "stand_in",
    "stand_in_filename",
]
