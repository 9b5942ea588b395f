"""Does it compute the right thing? The runtime's self-test, and real GRPO steps of a tiny model.

Both run in a child of the environment's interpreter, without the hub. At the first step
the policy is the reference, so the KL divergence between the two has to be about 0; anything else
means that something computes log-probabilities in two ways.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv import _tiny_grpo
from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.child import Failed, ask
from grpoenv.gpu import Answer

__all__ = ["CHECK", "GRPO_CHECK", "KL_LIMIT", "NO_GPU"]

_SELF_TEST_SECONDS = 120.0
_TRAINING_SECONDS = 240.0
KL_LIMIT = 1e-4
"""Seen: 0.0 exactly in float32 on a CPU (trl 1.16, torch 2.13); bf16 noise would be 1e-3."""
NO_GPU = "0 active drivers"
"""What triton says where there is no GPU to launch a kernel on."""
_RUNTIME = "grpoenv_runtime"
_TRAINER_NEEDS = tuple(map(NormalizedName, ("torch", "trl", "transformers", "datasets")))


def _self_test(environment: Environment) -> Iterator[Finding]:
    interpreter = environment.probe.interpreter
    if not _has_runtime(environment):
        yield Finding(
            Severity.NOTE,
            _RUNTIME,
            "its self-test did not run, because it is not installed in this environment",
            interpreter.purelib,
        )
        return
    answer = ask(
        interpreter.executable,
        ["-m", _RUNTIME],
        timeout_s=_SELF_TEST_SECONDS,
        variables=environment.use.variables,
    )
    seen = f"{interpreter.executable} -I -m {_RUNTIME}"
    if isinstance(answer, Failed):
        yield Finding(Severity.UNDETERMINED, _RUNTIME, f"its self-test: {answer.reason}", seen)
    elif answer.status != 0:
        yield Finding(Severity.PROBLEM, _RUNTIME, f"its self-test fails: {answer.output}", seen)


def _has_runtime(environment: Environment) -> bool:
    folders = map(Path, environment.probe.interpreter.site_folders)
    return NormalizedName("grpoenv") in environment.installed or any(
        (folder / _RUNTIME / "__init__.py").is_file() for folder in folders
    )


def _training(environment: Environment) -> Iterator[Finding]:
    missing = [name for name in _TRAINER_NEEDS if name not in environment.installed]
    if missing:
        yield Finding(
            Severity.NOTE,
            "trl",
            f"no GRPO step was run, because {', '.join(missing)} is not installed",
            environment.probe.interpreter.purelib,
        )
        return
    label = environment.label(NormalizedName("trl"))
    seen = f"{environment.probe.interpreter.executable} -I {_tiny_grpo.__file__} FOLDER"
    with tempfile.TemporaryDirectory(prefix="grpoenv-") as folder:
        answer = ask(
            environment.probe.interpreter.executable,
            [Path(_tiny_grpo.__file__), folder],
            timeout_s=_TRAINING_SECONDS,
            variables=environment.use.variables,
        )
    if isinstance(answer, Failed):
        yield Finding(Severity.UNDETERMINED, label, f"GRPO steps: {answer.reason}", seen)
    elif NO_GPU in answer.output and environment.probe.gpu.answer is Answer.NO:
        yield Finding(
            Severity.NOTE, label, "no GRPO step was run: its Triton kernels need a GPU", seen
        )
    elif answer.status != 0 or not answer.value.get("kl"):
        yield Finding(
            Severity.PROBLEM, label, f"cannot train a tiny model by GRPO: {answer.output}", seen
        )
    else:
        yield from _judge(label, answer.value, seen)


def _judge(label: str, steps: dict[str, list[float]], seen: str) -> Iterator[Finding]:
    first = steps["kl"][0]
    if not all(map(math.isfinite, [*steps["kl"], *steps["loss"]])):
        yield Finding(Severity.PROBLEM, label, f"GRPO steps are not finite: {steps}", seen)
    elif abs(first) > KL_LIMIT:
        yield Finding(
            Severity.PROBLEM,
            label,
            f"the KL divergence at step 1 is {first:g}, and policy and reference are the same "
            "model: it has to be about 0",
            seen,
        )


CHECK = Check(
    "self-test",
    "the losses of grpoenv_runtime are right in this environment",
    _self_test,
    evidence="python -m grpoenv_runtime in a child process",
    seconds=_SELF_TEST_SECONDS,
    deep=True,
)
GRPO_CHECK = Check(
    "training",
    "a tiny model trains by GRPO, finite, with a KL of about 0 at the first step",
    _training,
    evidence="three steps of trl's GRPOTrainer in a child process",
    seconds=_TRAINING_SECONDS,
    deep=True,
)
