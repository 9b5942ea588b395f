"""What `grpoenv check` looked at, as text for people and as JSON values for programs."""

from __future__ import annotations

from typing import Any

from packaging.utils import NormalizedName

from grpoenv.check import Checked
from grpoenv.checks.interface import MANAGED
from grpoenv.matrix import MAIN_PACKAGES
from grpoenv.planned import PlannedPackages
from grpoenv.probe import Probe
from grpoenv.report import gpu_text

__all__ = ["checked_json", "checked_text"]


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
    python = f"{probe.interpreter.implementation} {probe.interpreter.minor}"
    machine = ", ".join(filter(None, [python, f"{probe.system} {probe.machine}", probe.libc]))
    image = f" on top of {probe.host.release}" if probe.packages else ""
    return f"{machine}{image}; GPU: {gpu_text(probe.gpu)}"


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
            "gpu": gpu_text(probe.gpu),
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
