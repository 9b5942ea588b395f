"""Two gloo processes under torchrun against one process that holds the whole batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grpoenv_runtime import LOSS_TYPES
from grpoenv_runtime.evaluation import high_entropy_mask

pytest.importorskip("accelerate", reason="the processes are those of accelerate's DDP")

SCRIPT = Path(__file__).parent / "two_processes.py"
TINY_GRPO = Path(__file__).parent.parent / "tiny_grpo.py"


def torchrun(processes: int, *words: str | Path) -> str:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, f"--nproc-per-node={processes}", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(processes: int, folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    out = folder / f"{processes}.pt"
    torchrun(processes, SCRIPT, out)
    return torch.load(out)


def test_two_processes_give_the_loss_and_gradients_of_one(tmp_path):
    alone, together = losses(1, tmp_path), losses(2, tmp_path)
    assert set(LOSS_TYPES) <= set(alone)
    for case, expected in alone.items():
        assert expected["loss"] != 0
        assert expected["head.weight"].abs().max() > 0
        for name, value in expected.items():
            torch.testing.assert_close(
                together[case][name],
                value,
                rtol=1e-5,
                atol=1e-6,
                msg=lambda text, case=case, name=name: f"{case}: {name}: {text}",
            )


def test_a_quantile_over_processes_that_are_not_there_is_refused():
    mask = torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="num_processes is 2, but 1 take part"):
        high_entropy_mask(torch.zeros(1, 3), mask, 0.5, num_processes=2)


def test_trl_in_two_processes_logs_the_same_under_the_patch(tmp_path):
    pytest.importorskip("trl", reason="the processes run trl's trainer")
    options = {"gradient_accumulation_steps": 2, "lora": ["q_proj"]}

    def figures(patched: bool) -> dict[str, list[float]]:
        out = torchrun(2, TINY_GRPO, tmp_path, json.dumps({**options, "patched": patched}))
        return json.loads(out.strip().splitlines()[-1])

    plain, patched = figures(patched=False), figures(patched=True)
    assert plain["grad_norm"][0] > 0
    assert list(plain) == list(patched)
    for name, values in plain.items():
        assert patched[name] == pytest.approx(values, rel=1e-4, abs=1e-4, nan_ok=True), name


def test_a_fully_sharded_model_scores_and_trains_under_the_patch():
    pytest.importorskip("trl", reason="the processes run trl's scoring method")
    torchrun(2, Path(__file__).parent / "sharded_scores.py")
