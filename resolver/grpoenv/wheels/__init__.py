"""Read single files out of published wheels, without downloading or installing them.

::

    WheelTree        the files of one wheel: paths() and read(path)
    ├── archive      what a zip file claims about itself, checked before any of it is used
    ├── range_file   a file of which only some spans are here; the rest is fetched when it is read
    ├── transfer     one span from a server, with every way in which that can fail
    └── store        the spans that were fetched, kept in the user's cache by the wheel's hash
    index            every wheel, and every release with its time, that an index has of a project

``remotezip`` and ``unzip-http`` read remote archives too; neither fetches neighbouring files
together nor checks what an archive claims.
"""

from __future__ import annotations

from grpoenv.wheels.errors import DamagedWheel, TransferError, WheelError
from grpoenv.wheels.index import PublishedRelease, published_releases, published_wheels
from grpoenv.wheels.store import SpanStore
from grpoenv.wheels.transfer import RangeClient
from grpoenv.wheels.tree import WheelFile, WheelTree, fetch_sources, open_wheels

__all__ = [
    "DamagedWheel",
    "PublishedRelease",
    "RangeClient",
    "SpanStore",
    "TransferError",
    "WheelError",
    "WheelFile",
    "WheelTree",
    "fetch_sources",
    "open_wheels",
    "published_releases",
    "published_wheels",
]
