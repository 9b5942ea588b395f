"""Turn results into text for people and into JSON values for programs.

The JSON of every verb is one object with ``schema``, ``verb`` and ``exit``; docs/json.md lists the
other fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from packaging.utils import NormalizedName

from grpoenv.checks import Finding, Severity
from grpoenv.checks.interface import MANAGED
from grpoenv.gpu import Gpu
from grpoenv.matrix import MAIN_PACKAGES, Matrix
from grpoenv.probe import Probe
from grpoenv.resolve import Change, Plan
from grpoenv.verify import Verdict

if TYPE_CHECKING:
    from grpoenv.check import Checked
    from grpoenv.planned import PlannedPackages

__all__ = [
    "JSON_SCHEMA",
    "checked_json",
    "checked_text",
    "findings_json",
    "matrix_json",
    "matrix_text",
    "plan_json",
    "plan_text",
    "probe_text",
    "restart_text",
    "size_text",
    "verdict_json",
    "verdict_text",
]

JSON_SCHEMA = 1


def size_text(size_bytes: int) -> str:
    """Return a size as people read it: ``"812 MiB"``."""
    if size_bytes >= 2**30:
        return f"{size_bytes / 2**30:.1f} GiB"
    if size_bytes >= 2**20:
        return f"{size_bytes / 2**20:.0f} MiB"
    return f"{size_bytes / 2**10:.0f} KiB"


def plan_text(plan: Plan) -> str:
    """Return the plan as text: the stack, each change old → new, what is kept and why."""
    stack, target = plan.stack, plan.target
    lines = [f"stack    {stack.id}: {stack.summary}"]
    evidence = max(target.evidence, key=lambda row: row.level)
    lines.append(f"evidence {target.level}, {evidence.date}, {evidence.machine}")
    lines.append(f"torch    {_torch_version(plan)} ({plan.torch.value})")
    width = max((len(change.pin.name) for change in plan.changes), default=0)
    for change in plan.changes:
        lines.append(_change_line(change, width))
    if plan.kept:
        names = ", ".join(f"{kept.name} {kept.version}" for kept in plan.kept[:8])
        more = f" and {len(plan.kept) - 8} more" if len(plan.kept) > 8 else ""
        lines.append(f"kept     {names}{more}")
    lines += [f"note     {note}" for note in plan.notes]
    lines.append(_summary_line(plan))
    return "\n".join(lines)


def _torch_version(plan: Plan) -> str:
    versions = {kept.name: kept.version for kept in plan.kept}
    versions |= {change.pin.name: change.new for change in plan.changes}
    return str(versions.get(NormalizedName("torch"), "none"))


def _change_line(change: Change, width: int) -> str:
    if change.old is None:
        return f"  + {change.pin.name:{width}} {change.new}"
    if change.old == change.new:
        return f"  ! {change.pin.name:{width}} {change.new} anew: files of it are missing"
    return f"  ~ {change.pin.name:{width}} {change.old} → {change.new}"


def _summary_line(plan: Plan) -> str:
    if not plan.changes:
        return f"nothing to change: all {len(plan.kept)} packages are as locked"
    new = sum(change.old is None for change in plan.changes)
    return (
        f"{new} to add, {len(plan.changes) - new} to replace, {len(plan.kept)} kept; "
        f"at most {size_text(plan.download_bytes)} to download"
    )


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values."""
    return {
        "stack": plan.stack.id,
        "runtime": plan.stack.runtime,
        "python": plan.target.python,
        "platform": plan.target.platform,
        "lock": plan.target.lock,
        "evidence": str(plan.target.level),
        "torch": plan.torch.value,
        "download_bytes": plan.download_bytes,
        "changes": [
            {
                "name": change.pin.name,
                "old": str(change.old) if change.old else None,
                "new": str(change.new),
                "size_bytes": change.size_bytes,
            }
            for change in plan.changes
        ],
        "kept": [
            {"name": kept.name, "version": str(kept.version), "reason": kept.reason}
            for kept in plan.kept
        ],
        "rejected": [
            {"stack": rejection.stack, "reasons": list(rejection.reasons)}
            for rejection in plan.rejected
        ],
        "notes": list(plan.notes),
    }


def verdict_text(verdict: Verdict, *, notes: bool = False) -> str:
    """Return the verdict as text: problems with their evidence first, then the one command.

    Notes, which ask for nothing, are counted, and shown where ``notes`` is true.
    """
    lines, hidden = list[str](), 0
    for finding in verdict.findings:
        if finding.severity is Severity.NOTE and not notes:
            hidden += 1
        else:
            lines += _finding_lines(finding)
    if hidden:
        lines.append(f"{hidden} note{'s' if hidden > 1 else ''}: add --notes")
    remedies = list(dict.fromkeys(f.remedy for f in verdict.problems if f.remedy))
    lines += [f"mend it: {remedy}" for remedy in remedies]
    lines.append(_verdict_line(verdict))
    return "\n".join(lines)


def _finding_lines(finding: Finding) -> list[str]:
    head = f"{finding.severity.value}: {finding.culprit}: {finding.message}"
    if finding.severity is Severity.NOTE:
        return [head]
    return [head, f"    evidence: {finding.evidence}"]


def _verdict_line(verdict: Verdict) -> str:
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
        "findings": findings_json(verdict.findings),
    }


def findings_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return findings as JSON values."""
    return [
        {
            "severity": finding.severity.value,
            "check": finding.check,
            "culprit": finding.culprit,
            "message": finding.message,
            "evidence": finding.evidence,
            "remedy": finding.remedy,
        }
        for finding in findings
    ]


def checked_text(checked: Checked, probe: Probe) -> str:
    """Return what ``check`` looked at as text: the target, and the set that it is about."""
    lines = [f"target   {_target_text(probe)}"]
    if checked.packages is not None:
        versions = checked.packages.versions
        main = [f"{name} {versions[name]}" for name in MAIN_PACKAGES if name in versions]
        lines.append(f"packages {len(versions)}: {', '.join(main)}")
        for name, old, new in _changed(checked.packages):
            if name in MANAGED:
                lines.append(f"  + {name} {new}" if old is None else f"  ~ {name} {old} → {new}")
    return "\n".join(lines)


def _target_text(probe: Probe) -> str:
    image = f" on top of {probe.host.release}" if probe.packages else ""
    return (
        f"{probe.interpreter.implementation} {probe.interpreter.minor}, {probe.system} "
        f"{probe.machine}, {probe.libc}{image}; GPU: {_gpu_text(probe.gpu)}"
    )


def _changed(packages: PlannedPackages) -> list[tuple[NormalizedName, str | None, str]]:
    """Return name, old and new version of what would change in an image, if it is about one."""
    if not packages.image:
        return []
    return [
        (name, str(packages.image[name]) if name in packages.image else None, str(version))
        for name, version in packages.versions.items()
        if packages.image.get(name) != version
    ]


def checked_json(checked: Checked, probe: Probe) -> dict[str, Any]:
    """Return the target of ``check`` and the set that it is about as JSON values."""
    packages = checked.packages
    return {
        "target": {
            "python": probe.interpreter.version,
            "system": probe.system,
            "machine": probe.machine,
            "libc": probe.libc,
            "image": probe.host.release if probe.packages else None,
            "gpu": _gpu_text(probe.gpu),
        },
        "packages": None
        if packages is None
        else [
            {
                "name": name,
                "version": str(version),
                "image": str(packages.image[name]) if name in packages.image else None,
                "wheel": packages.wheels[name].filename if name in packages.wheels else None,
            }
            for name, version in packages.versions.items()
        ],
    }


def restart_text(names: Sequence[str]) -> str:
    """Return what to do about packages that a live kernel still holds the old code of."""
    return (
        f"restart the runtime before you import anything (Runtime > Restart session): the kernel "
        f"still has the old compiled code of {', '.join(names)} in memory"
    )


def probe_text(probe: Probe) -> str:
    """Return the probe as text, the packages counted."""
    python = probe.interpreter
    lines = [
        f"python   {python.version} at {python.executable}",
        f"packages {len(probe.packages)} in {python.purelib}",
        f"platform {probe.system} {probe.machine}, {probe.libc}",
        f"gpu      {_gpu_text(probe.gpu)}",
        f"host     {probe.host.kind} ({probe.host.reason})",
    ]
    if probe.disk_free_mib is not None:
        lines.append(f"disk     {probe.disk_free_mib:,} MiB free")
    if python.externally_managed:
        lines.append("managed  by the system: nothing can be installed there")
    if probe.loaded:
        lines.append(f"loaded   {', '.join(probe.loaded)}")
    if probe.wheels:
        lines.append(f"wheels   {', '.join(probe.wheels)}")
    return "\n".join(lines)


def _gpu_text(gpu: Gpu) -> str:
    if not gpu.devices:
        return f"{gpu.answer.value}: {gpu.reason}"
    cuda = ".".join(map(str, gpu.cuda)) if gpu.cuda else "?"
    names = ", ".join(
        f"{device.name} ({'.'.join(map(str, device.capability or ('?',)))}, "
        f"{device.memory_mib:,} MiB)"
        for device in gpu.devices
    )
    return f"{names}; driver {gpu.driver}, CUDA {cuda} at the most"


def matrix_json(matrix: Matrix) -> dict[str, Any]:
    """Return the matrix as JSON values."""
    return {
        "stacks": [
            {
                "id": stack.id,
                "runtime": stack.runtime,
                "summary": stack.summary,
                "image": stack.image or None,
                "versions": {name: str(version) for name, version in stack.versions.items()},
                "targets": [
                    {
                        "python": target.python,
                        "platform": target.platform,
                        "lock": target.lock,
                        "level": str(target.level),
                    }
                    for target in stack.targets
                ],
            }
            for stack in matrix.stacks
        ],
        "breaks": [
            {
                "id": break_.id,
                "class": break_.kind,
                "summary": break_.summary,
                "symptom": break_.symptom,
                "when": {name: str(specifier) for name, specifier in break_.when.items()},
                "reference": break_.reference or None,
            }
            for break_ in matrix.breaks
        ],
    }


def matrix_text(matrix: Matrix) -> str:
    """Return the matrix as two tables, stacks and breaks."""
    lines = []
    for stack in matrix.stacks:
        pythons = ", ".join(f"{target.python} {target.level}" for target in stack.targets)
        versions = ", ".join(f"{name} {version}" for name, version in stack.versions.items())
        lines += [f"{stack.id}  ({pythons})", f"    {stack.summary}", f"    {versions}"]
    lines.append("")
    for break_ in matrix.breaks:
        when = ", ".join(f"{name} {specifier}" for name, specifier in break_.when.items())
        lines += [f"break {break_.id}  ({when})", f"    {break_.summary}: {break_.symptom}"]
    return "\n".join(lines)
