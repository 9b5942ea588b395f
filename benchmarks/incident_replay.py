"""Ask grpoenv about the environment of one incident, and judge its answer."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from incident_builds import Unbuildable, build_of
from incident_environments import Index, Parties, Situation, parties, situations
from incident_rows import Incident
from incident_verdicts import Outcome, expected_checks, matching
from packaging.utils import NormalizedName

from grpoenv.asked_target import asked_probe
from grpoenv.errors import UndeterminedError
from grpoenv.gpu_models import capability_of
from grpoenv.published import Published, Wanted, find_published
from grpoenv.wheels import RangeClient, SpanStore, fetch_sources, open_wheels

__all__ = ["replay"]

_TIMEOUT_S = 3600.0
_DRIVER = re.compile(r"driver (\d{3}(?:\.\d+)*)")
_HELD = r"^[ \t]*(?:(?:class|def)\s+NAME\b|NAME\s*(?::[^=\n]+)?=|NAME\s*:)"

_OVERRIDE = re.compile(r"(\w+)\(\) takes (\d+) positional arguments? but \d+ were given")
_OF_MODULE = re.compile(r"module ['\"]?([\w.]+)['\"]? has no attribute ['\"]?(\w+)")
_TAKEN = "already used"
"""What is said of a name that is there and should not be."""


def replay(incident: Incident, index: Index) -> Outcome:
    """Return what becomes of ``incident``."""
    outcome = Outcome(incident.id, incident.class_, "not decidable")
    if incident.class_ == "numerics":
        return replace(outcome, reason="nothing fails: only a run on the hardware tells")
    if not expected_checks(incident):
        reason = f"no check looks at {incident.class_} ({incident.looks_at or 'no evidence named'})"
        return replace(outcome, reason=reason)
    if reason := _unstated(incident):
        return replace(outcome, reason=reason)
    build = build_of(incident, index)
    if isinstance(build, Unbuildable):
        return replace(outcome, reason=build.reason)
    if build is not None:
        found = matching(incident, Parties(build.names, ()), build.findings())
        return _judged(replace(outcome, reading=build.reading), found)
    return _planned(incident, index, outcome)


def _unstated(incident: Incident) -> str:
    """Return what the row's class is about and the row does not state, "" where it does."""
    torch = incident.stated.get(NormalizedName("torch"))
    hardware = incident.driver or incident.gpu.startswith("none") or incident.platform == "windows"
    if incident.class_ == "driver-cuda" and not hardware and not (torch and torch.label):
        return "states neither a driver nor a build of torch"
    if incident.class_ == "compute-capability" and capability_of(incident.gpu) is None:
        return "states no GPU whose compute capability is known"
    return ""


def _judged(outcome: Outcome, finding: Mapping[str, Any] | None) -> Outcome:
    if finding is None:
        return replace(outcome, result="missed", reason="no check reports it")
    return replace(
        outcome,
        result="found",
        reason="",
        severity=finding["severity"],
        check=finding["check"],
        finding=f"{finding['culprit']}: {finding['message']}"[:300],
    )


def _planned(incident: Incident, index: Index, outcome: Outcome) -> Outcome:
    """Ask ``grpoenv check`` about each reading of the row, until one has the incident."""
    sides = parties(incident)
    script = _script(incident, sides)
    reason, missed = "names neither packages with versions nor a day", None
    for situation in situations(incident, sides, index):
        environment = " ".join(f"{name}=={version}" for name, version in situation.pins.items())
        tried = replace(outcome, reading=situation.reading, environment=environment)
        answer = _ask(incident, situation, script)
        if isinstance(answer, str):
            reason = f"grpoenv check: {answer}"
            continue
        if (found := matching(incident, sides, answer)) is not None:
            return _judged(tried, found)
        why = _fits(incident, situation, index) or _elsewhere(incident, sides, situation, script)
        if not why:
            missed = missed or replace(tried, result="missed", reason="no check reports it")
        outcome, reason = tried, why
    if missed and not _quoted(incident):
        return replace(missed, result="not decidable", reason="does not quote what failed")
    return missed or replace(outcome, reason=reason)


def _quoted(incident: Incident) -> bool:
    """Tell whether the exception is a quotation, and not words about one in brackets."""
    words = re.match(r"\w*(?:Error|Exception)? ?\(", incident.exception)
    return not words and "not quoted" not in incident.exception


def _script(incident: Incident, sides: Parties) -> str:
    """Return the user's line that fails, "" where it is a package's own."""
    if incident.keyword and incident.keyword[0].endswith("Config"):
        name, word = incident.keyword
        first = "import unsloth\n" if "unsloth" in sides.consumers else ""
        return f"{first}from trl import {name}\n\nconfig = {name}({word}=None)\n"
    if sides.script and incident.keyword and incident.keyword[0].endswith("Trainer"):
        name, word = incident.keyword
        return f"from trl import {name}\n\ntrainer = {name}(None, {word}=None)\n"
    if sides.script and (match := _OVERRIDE.search(incident.exception)):
        parameters = ", ".join(["self", *(f"given{n}" for n in range(1, int(match[2])))])
        own = f"class Own(Trainer):\n    def {match[1]}({parameters}): pass\n"
        return f"from transformers import Trainer\n\n{own}"
    if sides.script and (match := _OF_MODULE.search(incident.exception)):
        return f"import {match[1]}\n\n{match[1]}.{match[2]}\n"
    if match := re.search(
        r"Dataset scripts are no longer supported, but found (\w+\.py)", incident.exception
    ):
        return f"from datasets import load_dataset\n\ndata = load_dataset('{match[1]}')\n"
    return f"{incident.import_line}\n" if sides.script and incident.import_line else ""


def _ask(
    incident: Incident, situation: Situation, script: str
) -> Sequence[Mapping[str, Any]] | str:
    """Return the findings of ``grpoenv check``, or why there are none."""
    with tempfile.TemporaryDirectory(prefix="incident-") as folder:
        listed, train = Path(folder) / "freeze.txt", Path(folder) / "train.py"
        lines = [f"{name}=={version}" for name, version in sorted(situation.packages.items())]
        listed.write_text("\n".join([f"# python: {situation.target.python}.0", *lines]) + "\n")
        train.write_text(script)
        command = [sys.executable, "-m", "grpoenv", "check", "--json", "--no-deps"]
        command += ["--platform", situation.target.platform]
        # what builds fit is told by the label of each, which the index's own wheel has not
        builds = incident.class_ == "abi" and not situation.complete
        builds = builds and any(version.local for version in situation.pins.values())
        if situation.complete or builds:
            command += ["--freeze", str(listed)]
        else:
            command += ["--python-version", situation.target.python]
        command += [*_machine(incident), *(["--script", str(train)] if script else [])]
        for name, version in situation.pins.items():
            if name in situation.on_index and not builds:
                command.append(f"{name}=={version.public}")
        run = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    try:
        answer = json.loads(run.stdout)
        findings: Sequence[Mapping[str, Any]] = answer["verdict"]["findings"]
        return findings
    except (ValueError, KeyError):
        return f"{run.stderr or run.stdout}".strip()[-300:]


def _machine(incident: Incident) -> list[str]:
    """Return the GPU and the driver as options."""
    options: list[str] = []
    if incident.gpu.startswith("none"):
        return ["--gpu", "none"]
    if capability := capability_of(incident.gpu):
        options += ["--gpu", "{}.{}".format(*capability)]
    if match := _DRIVER.search(incident.driver):
        options += ["--driver", match[1]]
    return options


def _fits(incident: Incident, situation: Situation, index: Index) -> str:
    """Return why a conflict of declared ranges is not in ``situation``: uv meets them all."""
    if incident.class_ != "declared-conflict":
        return ""
    exact = [f"{name}=={situation.pins[name].public}" for name in situation.on_index]
    met = index.resolve(exact, [], None, situation.target)
    return "as read, no declared ranges conflict: uv meets them all" if met else ""


def _elsewhere(incident: Incident, sides: Parties, situation: Situation, script: str) -> str:
    """Return why ``situation`` cannot be the incident's, "" where it may be.

    That is told from texts alone: where no consumer has the missing name in its sources, or the
    provider defines it, the row's environment was another one.
    """
    if not sides.names and not script:
        return "blames no package by name"
    if sides.consumers and not any(name in situation.packages for name in sides.consumers):
        return f"states no version of {', '.join(sides.consumers)}"
    symbol = incident.symbol
    if not symbol:
        return ""
    consumers = _texts(situation, sides.consumers)
    if not script and consumers and not any(symbol in text for text in consumers):
        return f"as read, {', '.join(sides.consumers)} does not mention {symbol}"
    if _TAKEN in incident.exception:
        there = any(
            re.search(rf"[\"']{symbol}[\"']", t) for t in _texts(situation, sides.providers)
        )
        return "" if there else f"as read, {', '.join(sides.providers)} has no {symbol}"
    held = re.compile(_HELD.replace("NAME", re.escape(symbol)), re.MULTILINE)
    if any(held.search(text) for text in _texts(situation, sides.providers)):
        return f"as read, {', '.join(sides.providers)} has {symbol}"
    return ""


def _texts(situation: Situation, names: Sequence[NormalizedName]) -> list[str]:
    """Return the sources of the packages among ``names`` that are in the situation as wheels."""
    family = [*names, *([NormalizedName("unsloth-zoo")] if "unsloth" in names else [])]
    pins = [f"{n}=={situation.packages[n].public}" for n in family if n in situation.packages]
    probe = asked_probe(python_version=situation.target.python, platform=situation.target.platform)
    try:
        found = find_published(Wanted(tuple(pins), dependencies=False), probe, {}) if pins else None
    except UndeterminedError:  # there are no wheels
        return []
    return list(_read(found)) if isinstance(found, Published) else []


def _read(found: Published) -> Iterator[str]:
    with closing(RangeClient()) as client:
        trees, _ = open_wheels(found.wheels.values(), client, SpanStore())
        fetch_sources(trees.values())
        for tree in trees.values():
            for path in tree.paths():
                if path.endswith(".py"):
                    yield tree.read(path).decode("utf-8", "replace")
