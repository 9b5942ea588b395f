"""Small real wheels, a matrix that locks them, and probes of machines that are not there."""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.tags import platform_tags
from packaging.utils import canonicalize_name
from packaging.version import Version

from grpoenv._data import DataPaths
from grpoenv.gpu import Answer, Gpu
from grpoenv.host import Host
from grpoenv.lockfile import Pin, render_lock
from grpoenv.matrix_file import load_matrix
from grpoenv.probe import Interpreter, Probe

PYTHON = f"3.{sys.version_info.minor}"


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str] | None = None,
    requires: Iterable[str] = (),
) -> Path:
    """Write a pure wheel of one package ``name`` into ``folder``."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"]
    metadata += [f"Requires-Dist: {text}\n" for text in requires]
    content = {f"{module}/__init__.py": f"VERSION = {version!r}\n", **(files or {})}
    content[f"{info}/METADATA"] = "".join(metadata)
    content[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = [f"{file},{_digest(text)},{len(text.encode())}" for file, text in content.items()]
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in content.items():
            wheel.writestr(file, text)
        wheel.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return path


def _digest(text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Depot:
    """A folder of wheels, and a matrix of stacks over them."""

    root: Path
    stacks: list[str] = field(default_factory=list)
    breaks: list[str] = field(default_factory=list)

    @property
    def data(self) -> DataPaths:
        return DataPaths(self.root / "compat-matrix.toml", self.root / "lockfiles")

    @property
    def wheels(self) -> Path:
        return self.root / "wheels"

    def wheel(self, name: str, version: str, **options: object) -> Pin:
        self.wheels.mkdir(exist_ok=True)
        path = make_wheel(self.wheels, name, version, **options)  # type: ignore[arg-type]
        digest = f"sha256:{sha256(path)}"
        size = path.stat().st_size
        return Pin(canonicalize_name(name), Version(version), (digest,), size)

    def stack(
        self,
        id_: str,
        pins: list[Pin],
        *,
        runtime: str = "trl",
        level: str = "resolved",
        python: str = PYTHON,
        requires: Sequence[str] = (),
        extra: str = "",
    ) -> None:
        """Add a stack whose lock for this interpreter holds ``pins``."""
        lock = self.data.locks / id_ / "lock.txt"
        lock.parent.mkdir(parents=True)
        lock.write_text(render_lock(pins))
        versions = "\n".join(f'"{pin.name}" = "{pin.version}"' for pin in pins)
        levels = ["resolved", level] if level != "resolved" else ["resolved"]
        evidence = "".join(
            f"""
            [[stack.target.evidence]]
            level = "{one}"
            date = 2026-11-23
            grpoenv = "0.1.0"
            machine = "a test"
            command = "pytest"
            """
            for one in levels
        )
        self.stacks.append(f"""
            [[stack]]
            id = "{id_}"
            runtime = "{runtime}"
            summary = "a stack"
            requires = {list(requires)}
            as_of = 2026-11-23
            {extra}
            [stack.versions]
            {versions}
            [[stack.target]]
            python = "{python}"
            platform = "x86_64-manylinux_2_17"
            lock = "{id_}/lock.txt"
            sha256 = "{sha256(lock)}"
            {evidence}""")
        self.write()

    def write(self) -> None:
        rows = "\n".join([*self.stacks, *self.breaks])
        text = "\n".join(line.strip() for line in f"schema = 1\n{rows}".split("\n"))
        self.data.matrix.write_text(text)

    def matrix(self):  # type: ignore[no-untyped-def]
        return load_matrix(self.data.matrix)


NO_GPU = Gpu(Answer.NO, "no NVIDIA driver is loaded")


def make_probe(
    packages: Mapping[str, str] | None = None,
    *,
    python: str = "3.11.12",
    host: str = "plain",
    gpu: Gpu = NO_GPU,
    **changes: object,
) -> Probe:
    """Return a probe of a Linux machine with ``packages``."""
    site = f"/env/lib/python{python.rpartition('.')[0]}/site-packages"
    interpreter = Interpreter(
        executable="/env/bin/python",
        version=python,
        implementation="CPython",
        prefix="/env",
        in_venv=True,
        purelib=site,
        platlib=site,
        scripts="/env/bin",
        data="/env",
        site_folders=(site,),
        externally_managed=False,
        writable=True,
    )
    probe = Probe(
        interpreter=interpreter,
        system="Linux",
        machine="x86_64",
        libc="glibc 2.35",
        platform_tags=tuple(platform_tags()),
        gpu=gpu,
        host=Host(host, "", "a test"),
        packages={canonicalize_name(n): Version(v) for n, v in (packages or {}).items()},
        disk_free_mib=100_000,
    )
    return replace(probe, **changes)  # type: ignore[arg-type]
