"""A verdict as text for people and as JSON values for programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from grpoenv.checks import Finding, Severity
from grpoenv.verify import Verdict

__all__ = ["findings_json", "remedies", "verdict_json", "verdict_line", "verdict_text"]

_INDENT = "  "
_WIDTH = max(len(severity.value) for severity in Severity) + 2


def verdict_text(verdict: Verdict, *, notes: bool = False) -> str:
    """Return the verdict as a table: each culprit with what is wrong with it, why, and the remedy.

    Notes, which ask for nothing, are counted, and shown where ``notes`` is true.
    """
    shown = [f for f in verdict.findings if notes or f.severity is not Severity.NOTE]
    lines = list[str]()
    for culprit in dict.fromkeys(finding.culprit for finding in shown):
        lines.append(culprit)
        for finding in shown:
            if finding.culprit == culprit:
                lines += _rows(finding)
    if hidden := len(verdict.findings) - len(shown):
        lines.append(f"{hidden} note{'s' if hidden > 1 else ''}: grpoenv verify --notes")
    lines += [f"mend it: {remedy}" for remedy in remedies(verdict)]
    lines.append(verdict_line(verdict))
    return "\n".join(lines)


def _rows(finding: Finding) -> list[str]:
    rows = [(finding.severity.value, finding.message)]
    if len(finding.chain) > 1:
        rows.append(("chain", " → ".join(finding.chain)))
    if finding.severity is not Severity.NOTE:
        rows.append(("evidence", finding.evidence))
    if finding.severity is Severity.WARNING and finding.remedy:
        rows.append(("remedy", finding.remedy))
    # A text of several lines stays in its column: none of them may pass for a line of the verdict.
    column = f"\n{_INDENT}{'':{_WIDTH}}"
    return [f"{_INDENT}{head:{_WIDTH}}{text}".replace("\n", column) for head, text in rows]


def remedies(verdict: Verdict) -> list[str]:
    """Return what mends the problems, each once."""
    return list(dict.fromkeys(f.remedy for f in verdict.problems if f.remedy))


def verdict_line(verdict: Verdict) -> str:
    """Return the verdict in one line."""
    stack = f" as stack {verdict.stack}" if verdict.stack else ""
    if verdict.problems:
        count = len(verdict.problems)
        return f"unsound: {count} problem{'s' if count > 1 else ''}"
    if verdict.undetermined:
        return f"not determined: {len(verdict.undetermined)} of the questions have no answer here"
    return f"sound{stack}: {', '.join(verdict.checks)}"


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as JSON values."""
    return {
        "stack": verdict.stack or None,
        "sound": not verdict.problems and not verdict.undetermined,
        "checks": list(verdict.checks),
        "seconds": verdict.seconds,
        "findings": findings_json(verdict.findings),
    }


def findings_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return findings as JSON values."""
    return [
        {
            "severity": finding.severity.value,
            "check": finding.check,
            "culprit": finding.culprit,
            "message": finding.message,
            "chain": list(finding.chain),
            "evidence": finding.evidence,
            "remedy": finding.remedy,
            "file": str(finding.file) if finding.file else None,
            "line": finding.line or None,
        }
        for finding in findings
    ]
