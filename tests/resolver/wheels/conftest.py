"""A wheel on a server, and a client that does not wait long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from depot import make_wheel, sha256
from grpoenv.wheels import RangeClient, SpanStore, WheelFile
from resolver.wheels.wheel_server import WheelServer, serving


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WheelServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as server:
        yield server


@pytest.fixture
def client() -> Iterator[RangeClient]:
    client = RangeClient(
        environment={}, backoff_s=0.001, span_timeout_s=0.5, timeout=httpx.Timeout(0.3)
    )
    yield client
    client.close()


@pytest.fixture
def store(tmp_path: Path) -> SpanStore:
    return SpanStore(tmp_path / "store")


@pytest.fixture
def wheel(server: WheelServer) -> WheelFile:
    """A wheel of a package ``demo`` of two modules."""
    path = make_wheel(server.folder, "demo", "1.0", {"demo/inner.py": "VALUE = 1\n"})
    return published(server, path)


def published(server: WheelServer, path: Path, **changes: object) -> WheelFile:
    """Return what an index would say of ``path``."""
    name, version = path.name.split("-")[:2]
    fields: dict[str, object] = {
        "name": canonicalize_name(name),
        "version": Version(version),
        "filename": path.name,
        "url": server.url(path),
        "size": path.stat().st_size,
        "sha256": sha256(path),
    }
    return WheelFile(**{**fields, **changes})  # type: ignore[arg-type]
