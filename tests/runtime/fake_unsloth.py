"""Packages in a folder that stand for unsloth and its zoo, and a child process that sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ZOO_2025_03 = """
import os
assert os.environ["UNSLOTH_IS_PRESENT"] == "1"
import torch
RL_REPLACEMENTS = {}
def selective_log_softmax(logits, index):
    raise NotImplementedError
def grpo_compute_loss(old_logits, new_logits, input_ids, mask, beta, advantages):
    raise NotImplementedError
class UnslothEfficientGRPO(torch.autograd.Function):
    @staticmethod
    def forward(ctx, _new_hidden_states, _old_hidden_states, lm_head, _input_ids, _mask,
                _advantages, beta, scaler = None, n_chunks = 1):
        raise NotImplementedError
def grpo_accumulated_loss(trainer, input_ids, logits_to_keep, completion_mask, advantages,
                          n_chunks = -1):
    raise NotImplementedError
for value in (selective_log_softmax, grpo_compute_loss, UnslothEfficientGRPO, grpo_accumulated_loss):
    RL_REPLACEMENTS[value.__name__] = value
"""

UNSLOTH_2025_03 = """
import inspect
from unsloth_zoo.rl_replacements import RL_REPLACEMENTS
selective_log_softmax  = RL_REPLACEMENTS["selective_log_softmax"]
grpo_compute_loss      = RL_REPLACEMENTS["grpo_compute_loss"]
grpo_compute_loss_slow = RL_REPLACEMENTS["grpo_compute_loss_slow"]
UnslothEfficientGRPO   = RL_REPLACEMENTS["UnslothEfficientGRPO"]
grpo_accumulated_loss  = RL_REPLACEMENTS["grpo_accumulated_loss"]
PRE_ITEMS = [inspect.getsource(grpo_compute_loss), grpo_compute_loss_slow]
def optional():
    return RL_REPLACEMENTS.get("sft_prepare_dataset", None)
"""


def write_package(
    folder: Path, name: str, version: str, files: dict[str, str], *requires: str
) -> None:
    """Put an importable package with metadata into `folder`."""
    for path, content in {"__init__.py": "", **files}.items():
        target = folder / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
    metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(exist_ok=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {line}" for line in requires]
    metadata.write_text("\n".join(lines) + "\n")


def write_pair(
    folder: Path,
    unsloth: str = "2025.3.14",
    zoo: str = "2025.3.9",
    oldest: str = "2025.3.11",
    unsloth_code: str = UNSLOTH_2025_03,
    zoo_code: str = ZOO_2025_03,
) -> None:
    write_package(folder, "unsloth_zoo", zoo, {"rl_replacements.py": zoo_code})
    files = {"models/__init__.py": "", "models/rl_replacements.py": unsloth_code}
    write_package(folder, "unsloth", unsloth, files, f"unsloth_zoo>={oldest}")


def run(folder: Path, program: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program that finds the packages of `folder`, and keeps its caches there."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={
            **os.environ,
            "PYTHONPATH": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "GRPOENV_NO_UPDATE_CHECK": "1",
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
