"""Checks of an installed environment: one module each, behind one interface.

A check reads files and metadata; it imports nothing of the environment. What it cannot find out it
reports as undetermined, with the reason: it never passes by default.
"""

from __future__ import annotations

from grpoenv.checks import breaks, drift, driver, interrupted, linkage, record, requirements
from grpoenv.checks.interface import Check, Environment, Finding, Severity

__all__ = ["CHECKS", "PLANNED_CHECKS", "Check", "Environment", "Finding", "Severity"]

CHECKS: tuple[Check, ...] = (
    interrupted.CHECK,
    breaks.CHECK,
    linkage.CHECK,
    record.CHECK,
    requirements.CHECK,
    drift.CHECK,
    driver.CHECK,
)
"""All checks, those that name the most precise culprit first."""

PLANNED_CHECKS: tuple[Check, ...] = (
    breaks.CHECK,
    linkage.CHECK,
    requirements.CHECK,
    driver.CHECK,
)
"""Those that hold for an environment that does not exist yet: they need no installed file."""
