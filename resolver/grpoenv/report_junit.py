"""A verdict in the JUnit XML that CI services read: a test case for each check."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree

from grpoenv.checks import CHECKS, Finding, Severity
from grpoenv.verify import Verdict

__all__ = ["junit_text"]

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What an XML 1.0 document cannot hold (production 2)."""


def junit_text(verdict: Verdict) -> str:
    """Return the document: problems are failures, what is undetermined is an error."""
    cases = [_case(verdict, name) for name in [check.name for check in CHECKS]]
    suite = ElementTree.Element(
        "testsuite",
        name="grpoenv verify",
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
        time=f"{sum(verdict.seconds.values()):.3f}",
    )
    suite.extend(cases)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def _case(verdict: Verdict, name: str) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase", classname="grpoenv", name=name, time=f"{verdict.seconds.get(name, 0.0):.3f}"
    )
    found = [finding for finding in verdict.findings if finding.check == name]
    if name not in verdict.seconds:
        ElementTree.SubElement(case, "skipped", message="runs with --deep only")
    _child(case, "failure", [f for f in found if f.severity is Severity.PROBLEM])
    _child(case, "error", [f for f in found if f.severity is Severity.UNDETERMINED])
    rest = [f for f in found if f.severity in (Severity.WARNING, Severity.NOTE)]
    if rest:
        ElementTree.SubElement(case, "system-out").text = _text(rest)
    return case


def _child(case: ElementTree.Element, tag: str, findings: list[Finding]) -> None:
    if findings:
        first = _clean(f"{findings[0].culprit}: {findings[0].message}")
        ElementTree.SubElement(case, tag, message=first).text = _text(findings)


def _text(findings: Iterable[Finding]) -> str:
    lines = []
    for finding in findings:
        lines += [f"{finding.severity.value}: {finding.culprit}: {finding.message}"]
        lines += [f"  evidence: {finding.evidence}"]
        lines += [f"  mend it: {finding.remedy}"] if finding.remedy else []
    return _clean("\n".join(lines))


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
