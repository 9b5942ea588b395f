"""Everything a plan needs to know about a machine, as plain data that can be saved and given back.

A probe of one machine, saved with ``grpoenv probe --json > FILE``, lets ``--probe FILE`` plan for it
on another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidName, NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version

from grpoenv.errors import InputError
from grpoenv.gpu import Answer, Gpu, GpuDevice
from grpoenv.host import HOSTS, Host
from grpoenv.reading import read_text

__all__ = [
    "PROBE_SCHEMA",
    "Interpreter",
    "Probe",
    "manylinux_tags",
    "probe_from_freeze",
    "probe_from_json",
    "probe_to_json",
    "read_freeze",
    "read_probe",
    "wheel_tags",
]

PROBE_SCHEMA = 1
_LIMIT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Interpreter:
    """The Python that packages go into.

    ``site_folders`` are the folders it imports packages from, the first ones first; ``writable``
    tells whether the one that installs go to can be written.
    """

    executable: str
    version: str
    implementation: str
    prefix: str
    in_venv: bool
    purelib: str
    platlib: str
    scripts: str
    data: str
    site_folders: tuple[str, ...]
    externally_managed: bool
    writable: bool

    @property
    def minor(self) -> str:
        """The version as ``"3.11"``."""
        return ".".join(self.version.split(".")[:2])


@dataclass(frozen=True)
class Probe:
    """One machine and one interpreter on it.

    ``platform_tags`` are packaging's platform tags, best first; ``packages`` maps canonical names
    to installed versions with their local part; ``loaded`` names the packages with compiled code
    that the notebook kernel around this process holds in memory, None where there is no kernel;
    ``wheels`` are the wheel files in the folders that the user named with ``UV_FIND_LINKS`` or
    ``PIP_FIND_LINKS``.
    """

    interpreter: Interpreter
    system: str
    machine: str
    libc: str
    platform_tags: tuple[str, ...]
    gpu: Gpu
    host: Host
    packages: dict[NormalizedName, Version]
    disk_free_mib: int | None
    loaded: tuple[NormalizedName, ...] | None = None
    wheels: tuple[str, ...] = ()

    def tags(self) -> list[Tag]:
        """Return the wheel tags that the interpreter accepts, best first."""
        return wheel_tags(self.interpreter.minor, self.platform_tags)


def wheel_tags(python: str, platforms: Sequence[str]) -> list[Tag]:
    """Return the tags that CPython ``python`` ("3.11") accepts on ``platforms``, best first."""
    major, minor = (int(part) for part in python.split("."))
    version, interpreter = (major, minor), f"cp{major}{minor}"
    return [
        *cpython_tags(version, platforms=platforms),
        *compatible_tags(version, interpreter, platforms),
    ]


def manylinux_tags(machine: str, glibc: int) -> tuple[str, ...]:
    """Return the platform tags of Linux on ``machine`` with glibc 2.``glibc``, best first."""
    return (
        *(f"manylinux_2_{n}_{machine}" for n in range(glibc, 4, -1)),
        *(f"manylinux{year}_{machine}" for year in ("2014", "2010", "1")),
        f"linux_{machine}",
    )


def probe_to_json(probe: Probe) -> dict[str, Any]:
    """Return ``probe`` as JSON values; ``probe_from_json`` is the inverse."""
    data = asdict(probe)
    data["packages"] = {name: str(version) for name, version in probe.packages.items()}
    data["gpu"]["answer"] = probe.gpu.answer.value
    return {"schema": PROBE_SCHEMA, **data}


def read_probe(path: Path) -> Probe:
    """Read a saved probe; raises InputError with file and field."""
    text = read_text(path, limit_bytes=_LIMIT_BYTES)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"is no JSON: {error}", path=path, line=getattr(error, "lineno", None)
        ) from error
    return probe_from_json(data, path=path)


def probe_from_json(data: object, *, path: Path) -> Probe:
    """Build a probe from JSON values; raises InputError that names ``path`` and the field."""
    if not isinstance(data, dict) or data.get("schema") != PROBE_SCHEMA:
        raise InputError(f"is no saved probe of schema {PROBE_SCHEMA}", path=path)
    data = {key: value for key, value in data.items() if key not in ("schema", "verb", "exit")}
    try:
        gpu, interpreter = dict(data["gpu"]), dict(data["interpreter"])
        gpu["answer"] = Answer(gpu["answer"])
        gpu["cuda"] = _pair(gpu["cuda"])
        gpu["devices"] = tuple(
            GpuDevice(**{**row, "capability": _pair(row["capability"])}) for row in gpu["devices"]
        )
        interpreter["site_folders"] = tuple(interpreter["site_folders"])
        host = Host(**data["host"])
        if host.kind not in HOSTS:
            raise ValueError(f"host {host.kind!r} is none of {', '.join(HOSTS)}")
        loaded = data["loaded"]
        return Probe(
            **{
                **data,
                "interpreter": Interpreter(**interpreter),
                "gpu": Gpu(**gpu),
                "host": host,
                "platform_tags": tuple(data["platform_tags"]),
                "packages": _packages(data["packages"]),
                "loaded": None if loaded is None else tuple(canonicalize_name(n) for n in loaded),
                "wheels": tuple(data["wheels"]),
            }
        )
    except KeyError as error:
        raise InputError("is missing", path=path, field=str(error.args[0])) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"is no saved probe: {error}", path=path) from error


def read_freeze(path: Path) -> dict[NormalizedName, Version]:
    """Read ``name==version`` lines as ``pip freeze`` prints them, local versions kept.

    Comments are skipped. Raises InputError with file and line for anything else: a freeze with an
    address or an option in it does not say what is installed.
    """
    packages: dict[NormalizedName, Version] = {}
    text = read_text(path, limit_bytes=_LIMIT_BYTES)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, separator, version = line.strip().partition("==")
        try:
            if not separator:
                raise ValueError("expected name==version")
            packages[canonicalize_name(name, validate=True)] = Version(version)
        except (ValueError, InvalidName, InvalidVersion) as error:
            raise InputError(f"{line.strip()!r}: {error}", path=path, line=number) from error
    return dict(sorted(packages.items()))


def probe_from_freeze(path: Path, *, host: str, gpu: Gpu) -> Probe:
    """Return the probe of a hosted image from its package list.

    The list names its interpreter in a comment ``# python: 3.12.12``. The rest is what Colab's and
    Kaggle's images are: Ubuntu 22.04 (glibc 2.35) on x86_64, packages in ``dist-packages``.
    """
    text = read_text(path, limit_bytes=_LIMIT_BYTES)
    match = re.search(r"^# python: (3\.\d+\.\d+)", text, re.MULTILINE)
    if not match:
        raise InputError("lacks its '# python: 3.x.y' line", path=path)
    version = match[1]
    minor = ".".join(version.split(".")[:2])
    packages = f"/usr/local/lib/python{minor}/dist-packages"
    interpreter = Interpreter(
        executable=f"/usr/bin/python{minor}",
        version=version,
        implementation="CPython",
        prefix="/usr",
        in_venv=False,
        purelib=packages,
        platlib=packages,
        scripts="/usr/local/bin",
        data="/usr/local",
        site_folders=(packages,),
        externally_managed=False,
        writable=True,
    )
    return Probe(
        interpreter=interpreter,
        system="Linux",
        machine="x86_64",
        libc="glibc 2.35",
        platform_tags=manylinux_tags("x86_64", 35),
        gpu=gpu,
        host=Host(host, path.stem, f"package list {path.name}"),
        packages=read_freeze(path),
        disk_free_mib=None,
    )


def _packages(data: Mapping[str, str]) -> dict[NormalizedName, Version]:
    return {canonicalize_name(name): Version(version) for name, version in data.items()}


def _pair(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"expected two numbers, found {value!r}")
    return int(value[0]), int(value[1])
