"""Checks of an installed environment: one module each, behind one interface.

A check reads files and metadata; it imports nothing of the environment. The deep ones alone run
code of it, in a child process. What a check cannot find out it reports as undetermined, and what it
did not look at as a note, with the reason: it never passes by default.
"""

from __future__ import annotations

from grpoenv.checks import (
    abi,
    breaks,
    capability,
    compiled_cache,
    drift,
    driver,
    hashes,
    interrupted,
    linkage,
    loading,
    native,
    numerics,
    offline,
    process,
    record,
    requirements,
    script,
    script_config,
    script_data,
    script_model,
    script_names,
    self_update,
    toolchain,
)
from grpoenv.checks.interface import Check, Environment, Finding, Severity, Use

__all__ = ["CHECKS", "PLANNED_CHECKS", "Check", "Environment", "Finding", "Severity", "Use"]

CHECKS: tuple[Check, ...] = (
    interrupted.CHECK,
    process.CHECK,
    breaks.CHECK,
    linkage.CHECK,
    record.CHECK,
    abi.CHECK,
    native.CHECK,
    requirements.CHECK,
    drift.CHECK,
    driver.CHECK,
    capability.CHECK,
    toolchain.CHECK,
    compiled_cache.CHECK,
    script.CHECK,
    script_names.CHECK,
    script_config.CHECK,
    script_data.CHECK,
    script_model.CHECK,
    self_update.CHECK,
    offline.CHECK,
    hashes.CHECK,
    loading.CHECK,
    toolchain.COMPILE_CHECK,
    numerics.CHECK,
    numerics.GRPO_CHECK,
)
"""All checks, those that name the most precise culprit first."""

PLANNED_CHECKS: tuple[Check, ...] = (
    breaks.CHECK,
    linkage.CHECK,
    abi.CHECK,
    requirements.CHECK,
    driver.CHECK,
    capability.CHECK,
    script.CHECK,
    script_names.CHECK,
    script_config.CHECK,
    script_data.CHECK,
    script_model.CHECK,
    self_update.CHECK,
)
"""Those that hold for an environment that does not exist yet: sources and statements are enough."""
