"""The steps of a campaign that train: how each run is judged, and what its evidence says of it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from depot import NO_GPU, Depot
from grpoenv.campaign import _unsloth_grpo, cell_run
from grpoenv.campaign._made_up_gpu import made_up_gpu
from grpoenv.campaign.campaign import cell_tasks
from grpoenv.campaign.cell import CellResult
from grpoenv.campaign.cell_run import run_cell
from grpoenv.campaign.limits import Limits
from grpoenv.matrix import Level

STEPS = {"loss": [0.1, 0.2, 0.3], "kl": [0.0, 0.01, 0.02]}
ASKS_FOR_GPU = (
    "raise RuntimeError('0 active drivers ([]). There should only be one.')  # as triton does\n"
)


@pytest.fixture(autouse=True)
def without_gpu_and_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up stacks hold no torch for the losses to run on."""
    monkeypatch.setattr(cell_run, "find_gpu", lambda: NO_GPU)
    monkeypatch.setattr(cell_run, "_compare_losses", lambda cell: None)


@pytest.fixture
def trained(
    depot: Depot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SimpleNamespace]:
    """Run the stacks of a depot with other scripts in the place of those that train."""

    def run(runtime: str, script: str, *, vllm: bool = False) -> CellResult:
        path = tmp_path / "train.py"
        path.write_text(f"import json, os, sys\n{script}\n")
        name = "_tiny_grpo" if runtime == "trl" else "_unsloth_grpo"
        monkeypatch.setattr(cell_run, name, SimpleNamespace(__file__=str(path)))
        entry = "class GRPOConfig: pass\nclass GRPOTrainer: pass\n"
        pins = [
            depot.wheel("trl", "1.0", files={"trl/__init__.py": entry}),
            depot.wheel(
                "unsloth",
                "2026.10.9",
                files={"unsloth/__init__.py": "class FastLanguageModel: pass\n"},
            ),
            depot.wheel("unsloth-zoo", "2026.8.1"),
            *([depot.wheel("vllm", "1.0")] if vllm else []),
        ]
        depot.stack("one", pins, runtime=runtime)
        (task,) = cell_tasks(
            depot.matrix(), depot.data, ["one"], upto=Level.TRAINED, limits=Limits(60, 400, 50)
        )
        return run_cell(task, tmp_path / "cell", tmp_path / "log")

    yield SimpleNamespace(run=run)


def printing(value: object) -> str:
    return f"print({json.dumps(value)!r})"


def test_a_plain_run_says_so(trained: SimpleNamespace) -> None:
    result = trained.run("trl", printing({**STEPS, "device": "cpu"}))
    assert result.notes[Level.TRAINED] == (
        "3 GRPO steps of a tiny model, KL at step 1 is 0; the fast loss equals the slow one"
    )


def test_kernels_that_ask_for_a_gpu_run_in_the_interpreter_and_the_evidence_says_so(
    trained: SimpleNamespace,
) -> None:
    script = f"if os.environ.get('TRITON_INTERPRET') != '1':\n    {ASKS_FOR_GPU}"
    result = trained.run("trl", script + printing({**STEPS, "device": "cpu"}))
    assert result.notes[Level.TRAINED] == (
        "3 GRPO steps of a tiny model, its Triton kernels in Triton's interpreter, KL at step 1 is "
        "0; the fast loss equals the slow one"
    )


def test_kernels_that_the_interpreter_cannot_run_block_the_cell_and_are_no_failure(
    trained: SimpleNamespace,
) -> None:
    result = trained.run("trl", ASKS_FOR_GPU)
    assert (result.level, result.failures) == (Level.IMPORTED, ())
    assert result.blocked == "its trainer asks Triton for a GPU"


def test_unsloth_trains_after_an_import_with_a_made_up_gpu_and_the_evidence_says_so(
    trained: SimpleNamespace,
) -> None:
    script = printing({"outcome": "imports", "grpo": {"outcome": "runs", **STEPS}})
    result = trained.run("unsloth", script)
    assert result.notes[Level.IMPORTED].endswith(
        "with UNSLOTH_ALLOW_CPU=1, which leaves trl's trainers as they are"
    )
    assert result.notes[Level.TRAINED] == (
        "3 GRPO steps of a tiny model under LoRA with the trainer that unsloth wrote, uncompiled on "
        "the CPU in float32, after an A100 made up for the import (no model or kernel of unsloth's "
        "own ran), KL at step 1 is 0; the fast loss equals the slow one"
    )


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            {
                "outcome": "imports",
                "grpo": {
                    "outcome": "fails",
                    "exception": "TypeError",
                    "message": "takes 1",
                    "at": "a.py:1",
                },
            },
            "TypeError: takes 1 (a.py:1)",
        ),
        (
            {
                "outcome": "fails",
                "exception": "KeyError",
                "message": "'grpo_compute_loss_slow'",
                "at": "models/rl_replacements.py:237",
            },
            "KeyError: 'grpo_compute_loss_slow' (models/rl_replacements.py:237)",
        ),
        (
            {"outcome": "imports", "grpo": {"outcome": "not generated"}},
            "unsloth left trl's GRPOTrainer as it is",
        ),
        (
            {"outcome": "imports", "grpo": {"outcome": "runs", "loss": [0.1], "kl": [0.5]}},
            "KL [0.5], loss [0.1]",
        ),
        (
            {"outcome": "imports", "grpo": {"outcome": "runs", "loss": [0.1], "kl": [None]}},
            "no divergence was logged",
        ),
    ],
)
def test_what_stops_the_trainer_of_unsloth_is_a_failure_of_the_stack(
    trained: SimpleNamespace, answer: object, error: str
) -> None:
    result = trained.run("unsloth", printing(answer))
    (failure,) = result.failures
    assert (result.level, failure.level, failure.error) == (Level.IMPORTED, Level.TRAINED, error)


@pytest.mark.parametrize(("kl", "level"), [(5e-4, Level.TRAINED), (5e-3, Level.IMPORTED)])
def test_half_precision_may_round_the_divergence_and_no_more(
    trained: SimpleNamespace, kl: float, level: Level
) -> None:
    steps = {"outcome": "runs", "loss": [0.1], "kl": [kl], "bf16": True}
    result = trained.run("unsloth", printing({"outcome": "imports", "grpo": steps}))
    assert result.level is level
    assert "in bf16" in result.notes.get(Level.TRAINED, "in bf16")


def test_an_extension_that_needs_the_driver_blocks_the_cell(trained: SimpleNamespace) -> None:
    result = trained.run("unsloth", "", vllm=True)
    assert (result.level, result.failures) == (Level.LINKED, ())
    assert result.blocked == (
        "vLLM's extension needs libcuda, which comes with the driver of a GPU"
    )


@pytest.mark.parametrize(
    "message",
    [
        "Found no NVIDIA driver on your system",
        "Torch not compiled with CUDA enabled",
        "'types.SimpleNamespace' object has no attribute 'launcher_cls'",
    ],
)
def test_what_the_made_up_gpu_is_to_blame_for_is_no_failure_of_the_stack(
    trained: SimpleNamespace, message: str
) -> None:
    fails = {"outcome": "fails", "exception": "RuntimeError", "message": message, "at": "a.py:1"}
    result = trained.run("unsloth", printing({"outcome": "imports", "grpo": fails}))
    assert (result.level, result.failures) == (Level.IMPORTED, ())
    assert result.blocked == (
        f"there is no GPU, only a made-up one: RuntimeError: {message} (a.py:1)"
    )


def test_a_made_up_gpu_lasts_as_long_as_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    driver = pytest.importorskip("triton.runtime.driver").driver
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = vars(driver).copy()
    with pytest.raises(KeyError, match="stop"), made_up_gpu():
        assert torch.cuda.is_available()
        assert torch.cuda.get_device_capability(0) == (8, 0)
        assert torch.cuda.get_device_properties(0).name == "NVIDIA A100-SXM4-40GB"
        assert driver.active.get_current_target().arch == 80
        raise KeyError("stop")
    assert not torch.cuda.is_available()
    assert vars(driver) == before


def test_the_outcome_of_a_step_has_what_python_raised_and_the_line_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "unsloth"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "broken.py").write_text("def step():\n    return {}['missing']\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert _unsloth_grpo.tried(importlib.import_module("unsloth.broken").step) == {
        "outcome": "fails",
        "exception": "KeyError",
        "message": "'missing'",
        "at": f"{tmp_path.name}/unsloth/broken.py:2",
    }
    assert _unsloth_grpo.tried(lambda: {"kl": [0.0]}) == {"outcome": "runs", "kl": [0.0]}
