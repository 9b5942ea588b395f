"""GRPO losses, their registry and its self-test, for use in training scripts.

    import grpoenv_runtime
    loss = grpoenv_runtime.grpo_loss(hidden, weight, ids, mask, advantages, loss_type="dapo")

Importing proves once for each environment (grpoenv, torch, triton, device) that the registry is
complete and that the fast loss equals the slow one on small batches. It does not initialise CUDA,
compiles no kernel, and leaves torch as it was. Modules are loaded when a name is first used.

Environment variables, read at import:

- `GRPOENV_NO_SELF_TEST`: set to anything but `0`, no self-test is run.
- `GRPOENV_NO_UPDATE_CHECK` and those in `grpoenv.update_policy`: no update check is started.
"""

from __future__ import annotations

import gc
import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpoenv_runtime.batch import Batch, make_batch
    from grpoenv_runtime.config import LOSS_TYPES, LossConfig, loss_config
    from grpoenv_runtime.evaluation import Evaluation, evaluate
    from grpoenv_runtime.fast import grpo_compute_loss, grpo_loss, two_phase_reason
    from grpoenv_runtime.heal_zoo import heal
    from grpoenv_runtime.metrics import collect_metrics
    from grpoenv_runtime.policy import LossOutput, Policy
    from grpoenv_runtime.registry import CONTRACTS, Registry
    from grpoenv_runtime.self_test_run import UnsoundFastPathWarning, self_test
    from grpoenv_runtime.slow import grpo_compute_loss_slow
    from grpoenv_runtime.trl_bridge import TrlPatch, UnsupportedTrlError, patch_trl

    RL_REPLACEMENTS: Registry

__all__ = [
    "CONTRACTS",
    "LOSS_TYPES",
    "RL_REPLACEMENTS",
    "Batch",
    "Evaluation",
    "LossConfig",
    "LossOutput",
    "Policy",
    "TrlPatch",
    "UnsoundFastPathWarning",
    "UnsupportedTrlError",
    "collect_metrics",
    "evaluate",
    "grpo_compute_loss",
    "grpo_compute_loss_slow",
    "grpo_loss",
    "heal",
    "loss_config",
    "make_batch",
    "patch_trl",
    "self_test",
    "two_phase_reason",
]

# The module that holds each public name.
_HOMES = {
    "CONTRACTS": "registry",
    "LOSS_TYPES": "config",
    "Batch": "batch",
    "Evaluation": "evaluation",
    "LossConfig": "config",
    "LossOutput": "policy",
    "Policy": "policy",
    "TrlPatch": "trl_bridge",
    "UnsoundFastPathWarning": "self_test_run",
    "UnsupportedTrlError": "trl_bridge",
    "collect_metrics": "metrics",
    "evaluate": "evaluation",
    "grpo_compute_loss": "fast",
    "grpo_compute_loss_slow": "slow",
    "grpo_loss": "fast",
    "heal": "heal_zoo",
    "loss_config": "config",
    "make_batch": "batch",
    "patch_trl": "trl_bridge",
    "self_test": "self_test_run",
    "two_phase_reason": "fast",
}


def __getattr__(name: str) -> Any:
    if name == "RL_REPLACEMENTS":
        value: Any = importlib.import_module("grpoenv_runtime.registry").Registry()
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"grpoenv_runtime.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'grpoenv_runtime' has no attribute {name!r}")
    # The fast loss may be replaced at its first use, so its name is looked up every time.
    if name != "grpo_compute_loss":
        globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _test_once() -> None:
    if os.environ.get("GRPOENV_NO_SELF_TEST", "0") != "0":
        return
    from grpoenv_runtime.self_test_cache import fingerprint, passed_before

    if passed_before(fingerprint()):
        return
    # A full collection walks all of torch's objects, 0.1 s, and what is loaded here stays anyway.
    collecting = gc.isenabled()
    gc.disable()
    try:
        from grpoenv_runtime.self_test_run import run_at_import

        run_at_import()
    finally:
        if collecting:
            gc.enable()


def _check_for_update() -> None:
    from grpoenv.update import log_notice, start_background_check

    log_notice(start_background_check())


_test_once()
_check_for_update()
