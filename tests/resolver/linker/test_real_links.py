"""Releases from the index, linked: breaks that were reported, and sets that are known to work."""

from pathlib import Path

import pytest

from grpoenv.distributions import distributions
from grpoenv.linker import link
from grpoenv.source_tree import InstalledTree
from grpoenv.uv import run_uv

pytestmark = pytest.mark.real

BREAKS = [
    (
        "unsloth==2025.3.15 unsloth_zoo==2025.3.9",
        "unsloth_zoo.rl_replacements.RL_REPLACEMENTS['grpo_compute_loss_slow']",
    ),
    (
        "peft==0.15.0 accelerate==0.31.0 transformers==4.50.3",
        "accelerate.utils.memory.clear_device_cache",
    ),
    ("transformers==5.0.0 huggingface_hub==0.34.4", "huggingface_hub.is_offline_mode"),
    ("unsloth==2026.1.4 unsloth_zoo==2025.8.9", "unsloth_zoo.device_type"),
]
SOUND = [
    "unsloth==2025.3.14 unsloth_zoo==2025.3.12",
    "unsloth==2026.1.4 unsloth_zoo==2026.1.4",
    "transformers==4.50.3 accelerate==1.9.0 peft==0.15.0",
]


def first_fault(requirements: str, folder: Path) -> str:
    run = run_uv(["pip", "install", "--no-deps", "--target", folder, *requirements.split()])
    assert run.status == 0, run.messages
    trees = [InstalledTree(d) for d in distributions([folder]).values()]
    certain = [fault for fault in link(trees).faults if fault.sure and not fault.caught]
    return certain[0].need.what if certain else ""


@pytest.mark.parametrize(("requirements", "what"), BREAKS)
def test_a_reported_break_is_found(requirements: str, what: str, tmp_path: Path) -> None:
    assert first_fault(requirements, tmp_path) == what


@pytest.mark.parametrize("requirements", SOUND)
def test_a_set_that_works_has_no_fault(requirements: str, tmp_path: Path) -> None:
    assert first_fault(requirements, tmp_path) == ""
