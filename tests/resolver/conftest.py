"""A depot of small wheels as the only index, and a virtual environment to install into."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from depot import Depot
from grpoenv.uv import run_uv
from site_packages import Site


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Depot:
    """A depot whose wheels are all that uv can see."""
    root = tmp_path / "depot"
    (root / "lockfiles").mkdir(parents=True)
    depot = Depot(root)
    depot.wheels.mkdir()
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(depot.wheels))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_URL_BASE"):
        monkeypatch.delenv(name, raising=False)
    return depot


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """The interpreter of a new virtual environment."""
    folder = tmp_path / "venv"
    run = run_uv(["venv", "--quiet", "--python", sys.executable, folder])
    assert run.status == 0, run.messages
    return folder / "bin" / "python"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site-packages folder with nothing in it, and no cache of what was linked before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Site(tmp_path)
