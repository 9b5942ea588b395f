"""A verdict in SARIF 2.1.0, which code scanning services read."""

from __future__ import annotations

import json
from typing import Any

from grpoenv import __version__
from grpoenv.checks import CHECKS, Finding, Severity
from grpoenv.verify import Verdict

__all__ = ["sarif_text"]

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_KINDS = {
    Severity.PROBLEM: ("fail", "error"),
    Severity.UNDETERMINED: ("open", "none"),
    Severity.WARNING: ("fail", "warning"),
    Severity.NOTE: ("informational", "none"),
}
"""Kind and level: the level of what is no failure is "none" (SARIF 2.1.0, section 3.27.10)."""


def sarif_text(verdict: Verdict) -> str:
    """Return the log: one run, a rule for each check, a result for each finding."""
    driver = {
        "name": "grpoenv",
        "version": __version__,
        "rules": [
            {
                "id": check.name,
                "shortDescription": {"text": check.proves},
                "help": {"text": f"evidence: {check.evidence}"},
            }
            for check in CHECKS
        ],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True}],
        "results": [_result(finding) for finding in verdict.findings],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1)


def _result(finding: Finding) -> dict[str, Any]:
    kind, level = _KINDS[finding.severity]
    remedy = f" Mend it: {finding.remedy}" if finding.remedy else ""
    result: dict[str, Any] = {
        "ruleId": finding.check or "grpoenv",
        "kind": kind,
        "level": level,
        "message": {"text": f"{finding.culprit}: {finding.message}.{remedy}"},
        "locations": [_location(finding)],
        "properties": {"evidence": finding.evidence, "chain": list(finding.chain)},
    }
    return result


def _location(finding: Finding) -> dict[str, Any]:
    if finding.file is None:
        return {"logicalLocations": [{"name": finding.culprit, "kind": "module"}]}
    place: dict[str, Any] = {"artifactLocation": {"uri": finding.file.as_posix()}}
    if finding.line:
        place["region"] = {"startLine": finding.line}
    return {"physicalLocation": place}
