"""Whether what grpoenv found is what an incident reports: the class and the culprit, by a rule.

A finding counts where a check of the row's kind made it, as a problem or a warning, where its
culprit is what the row blames (both of two packages, where one lacks what the other takes), and
where it names the name, key or keyword that the row's exception names, if that names one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from incident_environments import Parties
from incident_rows import Incident
from packaging.utils import NormalizedName

__all__ = ["Outcome", "expected_checks", "matching"]

_LINKED = ("linkage", "script-names", "script-config", "script-data", "script-model", "breaks")
_BY_LOOK: dict[str, tuple[str, ...]] = {
    "static symbol check": _LINKED,
    "metadata check": (*_LINKED, "requirements", "resolution", "abi", "files", "native"),
    "wheel tag vs. torch version": ("abi", "native"),
    "native-library probe": ("abi", "native", "loading"),
    "native-library check": ("abi", "native", "loading"),
    "toolchain probe": ("toolchain",),
    "driver vs. CUDA": ("driver", "capability"),
    "compute-capability check": ("capability",),
    "import-order check": ("script",),
    "loaded modules vs. disk": ("process",),
    "cache stamp check": ("compiled-cache",),
    "offline check": ("offline",),
}
"""The checks that look at what a row says one could have looked at."""
_BY_CLASS: dict[str, tuple[str, ...]] = {
    "abi": ("abi", "native", "loading"),
    "auto-update": ("self-update",),
    "compute-capability": ("capability",),
    "declared-conflict": ("requirements", "resolution", "linkage"),  # a program may look itself
    "driver-cuda": ("driver", "capability"),
    "import-order": ("script",),
    "missing-name": _LINKED,
    "missing-registry-key": _LINKED,
    "moved-module": _LINKED,
    "python-version": ("requirements", "resolution", "abi"),
    "signature": _LINKED,
    "stale-cache": ("compiled-cache", "breaks"),
    "stale-process": ("process",),
    "toolchain": ("toolchain",),
}
_COMMON = ("AttributeError", "ImportError", "ModuleNotFoundError", "NameError", "TypeError")
"""What Python raises for a missing thing of any kind."""
_FAMILY = {"unsloth": "unsloth-zoo", "unsloth-zoo": "unsloth"}
"""Two halves of one program: which of them is at fault is told differently by different people."""


@dataclass(frozen=True)
class Outcome:
    """What became of one row: ``found``, ``missed`` or ``not decidable``, and why.

    ``reading`` is the environment that the row was taken to mean, ``finding`` what counted.
    """

    id: str
    class_: str
    result: str
    reason: str = ""
    reading: str = ""
    environment: str = ""
    severity: str = ""
    check: str = ""
    finding: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the row of the results; what is empty is left out."""
        named = {key.rstrip("_"): value for key, value in asdict(self).items()}
        return {key: value for key, value in named.items() if value}


def expected_checks(incident: Incident) -> tuple[str, ...]:
    """Return the checks whose word counts for a row."""
    look = _BY_LOOK.get(incident.looks_at, ())
    return tuple(dict.fromkeys((*look, *_BY_CLASS.get(incident.class_, ()))))


def matching(
    incident: Incident, sides: Parties, findings: Iterable[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Return the finding that reports the incident, None if none does; the gravest first."""
    checks = expected_checks(incident)
    for severity in ("problem", "warning"):
        for finding in findings:
            if finding["severity"] == severity and finding["check"] in checks:
                if _blames(finding, sides, incident) and _names(finding, incident, sides):
                    return finding
    return None


def _blames(finding: Mapping[str, Any], sides: Parties, incident: Incident) -> bool:
    """Tell whether a side is the culprit and, where two are known and sources tell, both are in it.

    With no side known any culprit will do.
    """
    culprit = str(finding["culprit"])
    if not sides.names:
        return True
    known = [side for side in (sides.consumers, sides.providers) if side]
    if finding["check"] in ("linkage", "breaks"):
        halves = [half for half in culprit.split(" with ") if not half.startswith("Python ")]
        others = [half for half in halves if not _among(sides.names, half)]
        return not others and all(_among(side, culprit) for side in known)
    if finding["check"] in _LINKED:  # the script is who takes
        return _among(sides.providers or sides.names, f"{culprit} {finding['message']}")
    if finding["check"] == "requirements":
        return all(_among(side, f"{culprit} {finding['message']}") for side in known)
    if finding["check"] in ("driver", "capability"):  # the machine does not suit who was started
        return _among((*sides.names, NormalizedName(incident.repository)), culprit)
    return _among(sides.names, culprit)


def _among(names: Iterable[NormalizedName], text: str) -> bool:
    """Tell whether ``text`` names one of ``names``, or the other half of one."""
    spoken = text.lower().replace("_", "-")
    family = {*names} | {NormalizedName(_FAMILY[name]) for name in names if name in _FAMILY}
    return any(re.search(rf"(?<![\w-]){name}(?![\w-])", spoken) for name in family)


def _names(finding: Mapping[str, Any], incident: Incident, sides: Parties) -> bool:
    """Tell whether the finding names what the row's exception does.

    What declared ranges and builds tell has no symbols, and is the culprit's name. Where the
    exception names nothing, what certainly fails between the two is that, and a warning is not: it
    is about one of many options, and has to have something in common with the row's words.
    """
    message, linked = str(finding["message"]), finding["check"] in _LINKED
    named = linked or finding["check"] == "toolchain" or not sides.names
    if incident.symbol and named:
        return bool(re.search(rf"\b{re.escape(incident.symbol)}(?!\w)", message))
    if not linked:
        return True
    if finding["severity"] == "warning" and not _alike(message, incident):
        return False
    return bool(sides.names)


def _alike(message: str, incident: Incident) -> bool:
    """Tell whether a warning of the linker has a name of the row, or its exception's type or versions."""
    exception = incident.exception
    type_, _, rest = message.partition(": ")
    name = re.findall(r"\w+", rest.partition(": ")[0] or " none")[-1]
    if re.search(rf"\b{name}\b", incident.told) or (type_ not in _COMMON and type_ in exception):
        return True
    said, found = (
        set(re.findall(r"(?<![\w.-])\d+\.\d+[\w.]*", text)) for text in (exception, rest)
    )
    return bool(said & found)
