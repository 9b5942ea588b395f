"""Checks of an installed environment: one module each, behind one interface.

A check reads files and metadata; it imports nothing of the environment. What it cannot find out it
reports as undetermined, with the reason: it never passes by default.
"""

from __future__ import annotations

from grpoenv.checks import (
    breaks,
    drift,
    driver,
    interrupted,
    native,
    record,
    registry,
    requirements,
)
from grpoenv.checks.interface import Check, Environment, Finding, Severity, Use

__all__ = ["CHECKS", "Check", "Environment", "Finding", "Severity", "Use"]

CHECKS: tuple[Check, ...] = (
    interrupted.CHECK,
    breaks.CHECK,
    registry.CHECK,
    record.CHECK,
    native.CHECK,
    requirements.CHECK,
    drift.CHECK,
    driver.CHECK,
)
"""All checks, those that name the most precise culprit first."""
