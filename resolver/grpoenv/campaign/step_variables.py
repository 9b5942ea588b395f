"""What the processes of a cell find around them: no hub, no index, none of the user's settings."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["step_variables"]

_CHANGES_MACHINE = ("ldconfig", "pip", "pip3", "uv", "sudo")


def step_variables(home: Path) -> dict[str, str]:
    """Return the environment variables of a step: what the system needs, and everything else off."""
    kept = {
        name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ
    }
    temporary = home / "tmp"
    temporary.mkdir(exist_ok=True)
    kept["PATH"] = f"{_harmless_programs(home)}{os.pathsep}{kept.get('PATH', '')}"
    return {
        **kept,
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "PIP_NO_INDEX": "1",
        "UV_OFFLINE": "1",
        "UNSLOTH_DISABLE_AUTO_UPDATES": "1",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "GRPOENV_NO_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
    }


def _harmless_programs(home: Path) -> Path:
    """Return a folder of programs that take the place of those that would change the machine.

    Releases of unsloth run ldconfig on being imported, and pip to update themselves.
    """
    folder = home / "bin"
    folder.mkdir(exist_ok=True)
    for name in _CHANGES_MACHINE:
        program = folder / name
        program.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        program.chmod(0o755)
    return folder
