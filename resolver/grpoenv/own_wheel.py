"""Build the wheel of the running grpoenv, to put the very same one into another environment."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from grpoenv import __version__
from grpoenv._data import data_paths, pairs_path
from grpoenv.errors import OperationError

__all__ = ["build_own_wheel"]

_PACKAGES = ("grpoenv", "grpoenv_runtime", "grpoenv_kernels")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def build_own_wheel(folder: Path) -> Path:
    """Write the wheel into ``folder`` and return its path.

    It is made from the files that are running, whether they lie in a checkout or were installed
    from an index, so it needs no network and no build backend.
    """
    path = folder / f"grpoenv-{__version__}-py3-none-any.whl"
    info = f"grpoenv-{__version__}.dist-info"
    record = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
        for name, content in (*_package_files(), *_metadata_files(info)):
            wheel.writestr(zipfile.ZipInfo(name, _EPOCH), content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
            record.append(f"{name},sha256={digest.rstrip(b'=').decode()},{len(content)}")
        record.append(f"{info}/RECORD,,")
        wheel.writestr(zipfile.ZipInfo(f"{info}/RECORD", _EPOCH), "\n".join(record) + "\n")
    return path


def _package_files() -> Iterator[tuple[str, bytes]]:
    for package in _PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise OperationError(
                f"{package}, a part of grpoenv, is missing",
                remedy="pip install --force-reinstall grpoenv",
            )
        root = Path(spec.origin).parent
        for file in sorted(root.rglob("*")):
            relative = file.relative_to(root)
            if file.is_file() and not {"__pycache__", "data"} & set(relative.parts):
                yield f"{package}/{relative.as_posix()}", file.read_bytes()
    data = data_paths()
    yield "grpoenv/data/compat-matrix.toml", data.matrix.read_bytes()
    yield "grpoenv/data/pairs.json", pairs_path().read_bytes()
    if data.releases.is_file():
        yield "grpoenv/data/compat-releases.jsonl", data.releases.read_bytes()
    for file in sorted(data.locks.rglob("*.txt")):
        name = f"grpoenv/data/lockfiles/{file.relative_to(data.locks).as_posix()}"
        yield name, file.read_bytes()


def _metadata_files(info: str) -> Iterator[tuple[str, bytes]]:
    installed = distribution("grpoenv")
    for name in ("METADATA", "entry_points.txt"):
        text = installed.read_text(name)
        if text is None:
            raise OperationError(
                f"the metadata of the running grpoenv lacks {name}",
                remedy="pip install --force-reinstall grpoenv",
            )
        yield f"{info}/{name}", text.encode()
    yield (
        f"{info}/WHEEL",
        b"Wheel-Version: 1.0\nGenerator: grpoenv\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    )
