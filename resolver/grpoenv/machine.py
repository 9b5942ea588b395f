"""Probe this machine: ask the interpreter, the driver, the file system and the environment."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.tags import platform_tags

from grpoenv import _inspect
from grpoenv.distributions import distributions, installed_versions
from grpoenv.errors import InputError
from grpoenv.gpu import find_gpu
from grpoenv.host import find_host
from grpoenv.kernel import loaded_distributions
from grpoenv.probe import Interpreter, Probe

__all__ = [
    "existing_parent",
    "inspect_interpreter",
    "is_running_interpreter",
    "machine_text",
    "probe_machine",
    "wheel_folders",
]

_TIMEOUT_S = 20.0


def probe_machine(python: Path | None = None) -> Probe:
    """Probe this machine with the interpreter ``python``, by default the running one.

    Raises InputError if ``python`` is no interpreter.
    """
    described = inspect_interpreter(python)
    interpreter = _interpreter(described)
    installed = distributions(interpreter.site_folders)
    free = shutil.disk_usage(existing_parent(Path(interpreter.purelib))).free
    return Probe(
        interpreter=interpreter,
        system=described["system"],
        machine=described["machine"],
        libc=described["libc"],
        platform_tags=tuple(platform_tags()),
        gpu=find_gpu(),
        host=find_host(),
        packages=installed_versions(installed),
        disk_free_mib=free // 2**20,
        loaded=loaded_distributions(installed.values()),
        wheels=tuple(
            sorted(file.name for folder in wheel_folders() for file in folder.glob("*.whl"))
        ),
    )


def inspect_interpreter(python: Path | None) -> dict[str, Any]:
    """Return what ``grpoenv._inspect`` tells of ``python``, by default of the running one."""
    if python is None or is_running_interpreter(python):
        described: dict[str, Any] = _inspect.describe()
        return described
    command = [str(python), "-I", str(Path(_inspect.__file__))]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_TIMEOUT_S, check=True, stdin=subprocess.DEVNULL
        )
        described = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{python} did not answer within {_TIMEOUT_S:g} s; is it a Python interpreter?",
            remedy="give --python the path of a CPython 3.10 or newer",
        ) from error
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise InputError(
            f"{python} is no Python interpreter: {error}",
            remedy="give --python the path of a CPython 3.10 or newer",
        ) from error
    return described


def is_running_interpreter(python: Path) -> bool:
    """Tell whether ``python`` is the interpreter that runs this code."""
    # Links alone do not tell: the interpreters of all virtual environments lead to the system's.
    running = Path(sys.executable)
    same_folder = os.path.realpath(python.parent) == os.path.realpath(running.parent)
    return same_folder and os.path.realpath(python) == os.path.realpath(running)


def wheel_folders(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the local folders of wheels that ``UV_FIND_LINKS`` and ``PIP_FIND_LINKS`` name."""
    named = environment.get("UV_FIND_LINKS", "").replace(",", " ").split()
    named += environment.get("PIP_FIND_LINKS", "").split()
    local = [text.removeprefix("file://") for text in named]
    folders = dict.fromkeys(Path(text) for text in local if "://" not in text)
    return [folder for folder in folders if folder.is_dir()]


def machine_text() -> str:
    """Return what evidence says of the machine that it comes from."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def existing_parent(path: Path) -> Path:
    """Return ``path``, or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return path


def _interpreter(described: dict[str, Any]) -> Interpreter:
    names = ("executable", "version", "implementation", "prefix", "in_venv", "data")
    purelib = existing_parent(Path(described["purelib"]))
    return Interpreter(
        **{name: described[name] for name in names},
        purelib=described["purelib"],
        platlib=described["platlib"],
        scripts=described["scripts"],
        site_folders=tuple(described["site_folders"]),
        externally_managed=described["externally_managed"],
        writable=os.access(purelib, os.W_OK),
    )
