"""The main promises, kept with real packages: gigabytes and minutes, so run with ``-m real``."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grpoenv._data import data_paths
from grpoenv.lockfile import read_lock
from grpoenv.probe import read_freeze
from grpoenv.uv import run_uv

pytestmark = pytest.mark.real

GRPOENV = [sys.executable, "-m", "grpoenv"]
TINY_GRPO = Path(__file__).parent.parent / "tiny_grpo.py"


def call(
    *words: str | Path,
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
    code: int = 0,
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
        cwd=folder,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def make_venv(folder: Path) -> Path:
    assert run_uv(["venv", "--quiet", "--python", sys.executable, folder]).status == 0
    return folder / "bin" / "python"


def put(python: Path, *requirements: str) -> None:
    run = run_uv(["pip", "install", "--quiet", "--no-deps", "--python", python, *requirements])
    assert run.status == 0, run.messages


def digests(python: Path, *names: str) -> dict[str, str]:
    (site,) = python.parent.parent.glob("lib/*/site-packages")
    return {
        str(path.relative_to(site)): hashlib.sha256(path.read_bytes()).hexdigest()
        for name in names
        for path in sorted(site.glob(f"{name}*/**/*"))
        if path.is_file() and path.suffix != ".pyc"
    }


def test_trl_is_installed_and_trains_on_a_machine_without_a_gpu(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    call(*GRPOENV, "install", "--stack", "trl-1.16", "--venv", venv)
    python = venv / "bin" / "python"
    assert "sound as stack trl-1.16" in call(venv / "bin" / "grpoenv", "verify").stdout
    steps = json.loads(call(python, TINY_GRPO, tmp_path).stdout.strip().split("\n")[-1])
    assert len(steps["loss"]) == 3
    assert abs(steps["kl"][0]) < 1e-6
    call(python, "-m", "grpoenv_runtime")  # the fast loss equals the slow one


def test_the_seed_break_is_found_and_its_remedy_mends_it(tmp_path: Path) -> None:
    python = make_venv(tmp_path / "venv")
    put(python, "unsloth==2025.3.15", "unsloth_zoo==2025.3.9")
    found = call(*GRPOENV, "verify", "--python", python, code=1).stdout
    assert "KeyError: 'grpo_compute_loss_slow'" in found
    assert "unsloth 2025.3.15 with unsloth-zoo 2025.3.9" in found
    (remedy,) = re.findall(r"^mend it: (.*)$", found, re.MULTILINE)
    call(*shlex.split(remedy))
    assert "sound as stack unsloth-" in call(*GRPOENV, "verify", "--python", python).stdout
    script = "import unsloth; from unsloth import FastLanguageModel"
    # in a folder of its own, because unsloth writes its compiled cache where it is imported
    call(python, "-c", script, environment={"UNSLOTH_ALLOW_CPU": "1"}, folder=tmp_path)


def test_a_colab_image_keeps_its_torch_triton_and_numpy_byte_for_byte(tmp_path: Path) -> None:
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the image of 2025-04 is one of Python 3.11")
    python = make_venv(tmp_path / "venv")
    locks = data_paths().locks
    freeze = read_freeze(locks / "images" / "colab-2025-04.txt")
    lock = read_lock(locks / "colab-2025-04" / "cp311-x86_64-manylinux_2_35.txt")
    shipped = [name for name in freeze if name in lock.pins or name.startswith("nvidia-")]
    put(python, *(f"{name}=={freeze[name].public}" for name in shipped))
    (site,) = python.parent.parent.glob("lib/*/site-packages")
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").touch()
    before = digests(python, "torch", "triton", "numpy")
    colab = {
        "COLAB_RELEASE_TAG": "release-colab_20250430",
        "UV_SYSTEM_PYTHON": "true",
        "UV_CONSTRAINT": "/does/not/exist",
    }
    install = [*GRPOENV, "install", "--colab", "--python", python, "--json"]
    first = json.loads(call(*install, environment=colab).stdout)
    assert first["plan"]["stack"] == "colab-2025-04"
    assert first["verdict"]["sound"]
    assert digests(python, "torch", "triton", "numpy") == before
    everything = digests(python, "")
    second = json.loads(call(*install, environment=colab).stdout)
    assert second["plan"]["changes"] == []
    assert digests(python, "") == everything


@pytest.mark.parametrize("stack", ["trl-1.16", "colab-2025-04"])
def test_locking_a_stack_again_reproduces_the_committed_locks(stack: str, tmp_path: Path) -> None:
    data = data_paths()
    copy = tmp_path / "compat-matrix.toml"
    shutil.copy(data.matrix, copy)
    shutil.copytree(data.locks, tmp_path / "lockfiles")
    call(*GRPOENV, "matrix", "lock", stack, "--matrix", copy)
    for path in sorted((data.locks / stack).iterdir()):
        assert (tmp_path / "lockfiles" / stack / path.name).read_text() == path.read_text()
