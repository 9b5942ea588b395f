"""`patch_trl()` under trl releases of every seam, each in an environment as of its own days.

Packages come from the index, so run with ``-m real``; an environment takes about half a minute.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from grpoenv.uv import run_uv

pytestmark = pytest.mark.real

TESTS = Path(__file__).parent.parent
# The release, and a day soon after it: its neighbours are resolved as of then.
RELEASES = {
    "0.15.2": "2025-03-10",
    "0.16.1": "2025-04-12",
    "0.17.0": "2025-05-05",
    "0.18.2": "2025-06-25",
    "0.20.0": "2025-08-05",
    "0.24.0": "2025-10-25",
    "1.0.0": "2026-04-05",
    "1.7.1": "2026-07-10",
    "1.14.2": "2026-10-08",
    "1.15.0": "2026-10-12",
}
TOLERANCE = 1e-4


def uv(*words: str | Path) -> None:
    run = run_uv([*words])
    assert run.status == 0, run.messages


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> Version:
    return Version(request.param)


@pytest.fixture(scope="module")
def python(release: Version, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trl")
    uv("venv", "--quiet", "--python", sys.executable, folder / "venv")
    found = folder / "venv" / "bin" / "python"
    install = ["pip", "install", "--quiet", "--python", found]
    # One torch for all, that of the tests; trl's other needs are those of its time.
    uv(*install, "torch==2.13.0", TESTS.parent)
    before = ["--exclude-newer", RELEASES[str(release)]]
    uv(*install, *before, f"trl=={release}", "peft", "transformers", "setuptools")
    return found


def run(python: Path, folder: Path, **options: object) -> dict[str, list[float]]:
    folder.mkdir()
    done = subprocess.run(
        [python, TESTS / "tiny_grpo.py", folder, json.dumps(options)],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def assert_same_run(python: Path, tmp_path: Path, release: Version, **options: object) -> None:
    patched = run(python, tmp_path / "patched", patched=True, **options)
    if release == Version("1.15.0"):  # its own scoring asks Triton for a GPU on any machine
        assert all(math.isfinite(value) for value in patched["loss"])
        return
    plain = run(python, tmp_path / "plain", **options)
    assert list(patched) == list(plain)
    for name, values in plain.items():
        assert patched[name] == pytest.approx(values, rel=TOLERANCE, abs=TOLERANCE, nan_ok=True), (
            name
        )
    assert plain["grad_norm"][0] > 0
    print(json.dumps({"loss": [plain["loss"], patched["loss"]], "kl": patched["kl"]}))


def test_a_run_under_the_patch_logs_what_a_plain_run_logs(
    python: Path, tmp_path: Path, release: Version
) -> None:
    assert_same_run(python, tmp_path, release)


def test_two_updates_of_a_batch_and_a_temperature_too(
    python: Path, tmp_path: Path, release: Version
) -> None:
    twice = {"num_iterations": 2} if release >= Version("0.16") else {}
    assert_same_run(python, tmp_path, release, temperature=0.7, **twice)


def test_a_softcapped_tied_head_too(python: Path, tmp_path: Path, release: Version) -> None:
    assert_same_run(python, tmp_path, release, kind="gemma2")


def test_an_adapter_on_the_head_too(python: Path, tmp_path: Path, release: Version) -> None:
    if release >= Version("1.15"):  # trl itself refuses one
        found = run(python, tmp_path / "patched", patched=True, lora=["lm_head"])
        assert found["kl"][0] > 0
    else:
        assert_same_run(python, tmp_path, release, lora=["q_proj", "lm_head"])
