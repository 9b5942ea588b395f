"""Turn plans and probes into text for people and into JSON values for programs.

A verdict has reports of its own, in ``report_verdict`` and the modules beside it, and so has the
matrix, in ``report_matrix``.
The JSON of every verb is one object with ``schema``, ``verb`` and ``exit``; docs/json.md lists the
other fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from packaging.utils import NormalizedName

from grpoenv.gpu import Gpu
from grpoenv.probe import Probe
from grpoenv.resolve import Change, Plan

__all__ = [
    "JSON_SCHEMA",
    "gpu_text",
    "plan_json",
    "plan_text",
    "probe_text",
    "restart_text",
    "size_text",
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
        f"gpu      {gpu_text(probe.gpu)}",
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


def gpu_text(gpu: Gpu) -> str:
    """Return what is known of the GPUs in one line."""
    if not gpu.devices:
        return f"{gpu.answer.value}: {gpu.reason}"
    cuda = ".".join(map(str, gpu.cuda)) if gpu.cuda else "?"
    names = ", ".join(
        f"{device.name} ({'.'.join(map(str, device.capability or ('?',)))}, "
        f"{device.memory_mib:,} MiB)"
        for device in gpu.devices
    )
    return f"{names}; driver {gpu.driver}, CUDA {cuda} at the most"
