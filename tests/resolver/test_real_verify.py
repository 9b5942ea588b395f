"""``verify`` on real stacks: no false alarms, and real breaks, each made as users make it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grpoenv.uv import run_uv

pytestmark = pytest.mark.real

GRPOENV = [sys.executable, "-m", "grpoenv"]
KERNEL = """
import subprocess, sys
import numpy
uv, grpoenv = sys.argv[1], sys.argv[2:]
subprocess.run([uv, "pip", "install", "-q", "--no-deps", "--python", sys.executable, "numpy<2.4"])
subprocess.run([*grpoenv, "verify", "--json", "--python", sys.executable])
"""


@pytest.fixture(scope="module")
def trl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with stack trl-1.16."""
    venv = tmp_path_factory.mktemp("trl") / "venv"
    words = [*GRPOENV, "install", "--venv", venv, "--stack", "trl-1.16"]
    subprocess.run(list(map(str, words)), check=True)
    return venv / "bin" / "python"


def put(python: Path, *requirements: str) -> None:
    run = run_uv(["pip", "install", "--no-deps", "--python", python, *requirements])
    assert run.status == 0, run.messages


def verify(python: Path, folder: Path, *words: str | Path) -> dict[str, Any]:
    done = subprocess.run(
        [*GRPOENV, "verify", "--json", "--python", str(python), *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"},
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def of_check(answer: dict[str, Any], check: str) -> list[tuple[str, str]]:
    findings = answer["verdict"]["findings"]
    return [(f["severity"], f["culprit"]) for f in findings if f["check"] == check]


def test_the_trl_stack_is_sound_to_the_bottom(trl: Path, tmp_path: Path) -> None:
    answer = verify(trl, tmp_path, "--deep")
    assert answer["exit"] == 0
    severities = {finding["severity"] for finding in answer["verdict"]["findings"]}
    assert severities == {"note"}
    assert {"hashes", "loading", "self-test", "training"} <= set(answer["verdict"]["seconds"])


def test_a_torchvision_for_cuda_beside_a_torch_for_the_cpu(trl: Path, tmp_path: Path) -> None:
    put(trl, "torchvision==0.28.0")
    try:
        answer = verify(trl, tmp_path)
        truth = subprocess.run([trl, "-c", "import torchvision"], capture_output=True, text=True)
    finally:
        run_uv(["pip", "uninstall", "--python", trl, "torchvision"])
    assert of_check(answer, "native") == [("problem", "torchvision 0.28.0")]
    assert "torchvision::nms does not exist" in truth.stderr or "No module" in truth.stderr


def test_a_keyword_that_trl_has_dropped(trl: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("from trl import GRPOConfig\nGRPOConfig('x', max_prompt_length=8)\n")
    answer = verify(trl, tmp_path, script)
    assert of_check(answer, "script-config") == [("problem", "train.py:2")]
    truth = subprocess.run([trl, script], cwd=tmp_path, capture_output=True, text=True)
    assert "unexpected keyword argument 'max_prompt_length'" in truth.stderr


def test_a_kernel_whose_numpy_was_replaced(trl: Path, tmp_path: Path) -> None:
    from grpoenv.uv import find_uv

    kernel = tmp_path / "ipykernel_launcher.py"
    kernel.write_text(KERNEL)
    words = [trl, kernel, find_uv(), *GRPOENV]
    try:
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    finally:
        subprocess.run([*GRPOENV, "verify", "--python", str(trl), "--fix", "--yes"], check=False)
    ((severity, culprit),) = of_check(json.loads(done.stdout), "process")
    assert severity == "problem"
    assert culprit.startswith("numpy 2.3")
    assert verify(trl, tmp_path)["exit"] == 0
