"""``grpoenv check`` on the real index: nothing is installed, megabytes are read. Run ``-m real``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

IMAGES = Path(__file__).parents[2] / "lockfiles" / "images"
LOCKS = IMAGES.parent


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("caches")
    return {"XDG_CACHE_HOME": str(folder), "UV_CACHE_DIR": str(folder / "uv")}


def check(caches: dict[str, str], *words: str, code: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "grpoenv", "check", *words, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, **caches},
    )
    assert done.returncode == code, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def problems(answer: dict[str, Any]) -> list[str]:
    return [
        f"{row['check']}: {row['culprit']}: {row['message']}"
        for row in answer["verdict"]["findings"]
        if row["severity"] == "problem"
    ]


def test_the_pair_of_march_2025_is_read_out_of_two_wheels(caches: dict[str, str]) -> None:
    answer = check(caches, "unsloth==2025.3.15", "unsloth_zoo==2025.3.9", "--no-deps", code=1)
    found = problems(answer)
    assert any("grpo_compute_loss_slow" in text and text.startswith("linkage") for text in found)
    assert [row["name"] for row in answer["packages"]] == ["unsloth", "unsloth-zoo"]
    assert {path.name.rpartition(".")[2] for path in wheels_kept(caches)} == {"spans-v1"}
    assert len(wheels_kept(caches)) == 2


def wheels_kept(caches: dict[str, str]) -> list[Path]:
    return list(Path(caches["XDG_CACHE_HOME"], "grpoenv", "wheels").iterdir())


def test_the_pair_that_mended_it_is_sound(caches: dict[str, str]) -> None:
    check(caches, "unsloth==2025.3.18", "unsloth_zoo==2025.3.16", "--no-deps", code=0)


def test_the_advice_of_march_2025_fails_today(caches: dict[str, str]) -> None:
    words = ["unsloth==2025.3.14", "unsloth_zoo==2025.3.12"]
    answer = check(caches, *words, "--python-version", "3.11", code=1)
    assert any("to_py_obj" in text for text in problems(answer))


@pytest.mark.parametrize("image", ["colab-2026-08", "colab-2026-04", "kaggle-2026-06"])
def test_an_image_with_the_newest_unsloth_has_an_answer(caches: dict[str, str], image: str) -> None:
    words = ["--freeze", str(IMAGES / f"{image}.txt"), "--driver", "580.82.07", "--gpu", "T4"]
    answer = check(caches, "unsloth", *words, code=0)
    torch = next(row for row in answer["packages"] if row["name"] == "torch")
    assert torch["version"] == torch["image"]


@pytest.mark.parametrize(
    "lock",
    sorted(
        str(path.relative_to(LOCKS)) for path in LOCKS.glob("*/*.txt") if "images" not in path.parts
    ),
)
def test_every_tested_stack_has_no_problem(caches: dict[str, str], lock: str) -> None:
    python = lock.partition("/cp3")[2].partition("-")[0]
    words = ["-r", str(LOCKS / lock), "--python-version", f"3.{python}"]
    assert problems(check(caches, *words, code=0)) == []
