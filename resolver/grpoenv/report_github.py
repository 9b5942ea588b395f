"""A verdict as workflow commands of GitHub Actions, which become annotations of a run."""

from __future__ import annotations

from grpoenv.checks import Finding, Severity
from grpoenv.report_verdict import verdict_line
from grpoenv.verify import Verdict

__all__ = ["github_text"]

_COMMANDS = {
    Severity.PROBLEM: "error",
    Severity.UNDETERMINED: "error",
    Severity.WARNING: "warning",
    Severity.NOTE: "notice",
}


def github_text(verdict: Verdict) -> str:
    """Return one command for each finding, and the verdict in one line."""
    return "\n".join([*map(_command, verdict.findings), verdict_line(verdict)])


def _command(finding: Finding) -> str:
    properties = {"title": f"grpoenv: {finding.culprit}"}
    if finding.file:
        properties["file"] = finding.file.as_posix()
        if finding.line:
            properties["line"] = str(finding.line)
    head = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    remedy = f"\nmend it: {finding.remedy}" if finding.remedy else ""
    message = f"{finding.message}\nevidence: {finding.evidence}{remedy}"
    return f"::{_COMMANDS[finding.severity]} {head}::{_data(message)}"


def _data(text: str) -> str:
    """Escape the message as the runner's toolkit does (actions/toolkit, core/src/command.ts)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
