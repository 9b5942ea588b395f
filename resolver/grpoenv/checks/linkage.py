"""Every name, key, module and call that one package of the stack takes from another is there.

The packages are linked from their sources (``grpoenv.linker``); nothing is imported. What was found
is kept in the user's cache until a RECORD or a source that was read changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import NormalizedName, canonicalize_name

from grpoenv import __version__
from grpoenv.checks.interface import MANAGED, Check, Environment, Finding, Severity
from grpoenv.checks.requirements import declared_requirements, marker_environment
from grpoenv.private_cache import read_private, user_cache_folder, write_private

if TYPE_CHECKING:
    from grpoenv.linker import Fault, Linkage

__all__ = ["CHECK", "LINKED"]

_LIMIT_BYTES = 16 * 1024 * 1024
LINKED = frozenset(MANAGED) - {NormalizedName("numpy")} | {
    NormalizedName(name) for name in ("vllm", "xformers", "triton")
}
"""numpy makes its names in C, so there is nothing to read."""

_OPTIONAL = frozenset(
    NormalizedName(name)
    for name in ("vllm", "xformers", "deepspeed", "liger-kernel", "mergekit", "diffusers")
)


def _run(environment: Environment) -> Iterator[Finding]:
    names = [name for name in environment.trees if name in LINKED]
    if not names:
        return
    key = _key(environment, names)
    folder = user_cache_folder()
    kept = _kept(folder, key)
    if kept is None:
        kept, files = _link(environment, names)
        _keep(folder, key, kept, files)
    yield from kept


def _link(
    environment: Environment, names: Iterable[NormalizedName]
) -> tuple[list[Finding], list[str]]:
    from grpoenv.linker import Platform, link

    interpreter, trees = environment.probe.interpreter, environment.trees
    linkage = link(
        [trees[name] for name in names],
        platform=Platform.named(
            interpreter.version, environment.probe.system, environment.probe.machine
        ),
        absent=(
            (frozenset(LINKED) | _OPTIONAL) - frozenset(environment.installed)
            if environment.complete
            else frozenset()
        ),
    )
    # What is in a wheel is told by the wheel's hash, which the key has.
    files = [] if environment.planned is not None else list(linkage.paths)
    return list(_findings(environment, linkage)), files


def _findings(environment: Environment, linkage: Linkage) -> Iterator[Finding]:
    """Yield what is wrong, each thing once; what a declared range says already is left to that."""
    groups: dict[tuple[str, str, str, Severity], list[Fault]] = {}
    markers = marker_environment(environment.probe.interpreter)
    declared = declared_requirements(environment.installed, markers)
    for fault in linkage.faults:
        consumer, what = fault.need.consumer.tree.name, _missing(environment, fault)
        stated = {canonicalize_name(requirement.name) for requirement in declared[consumer]}
        if not fault.caught and canonicalize_name(what) not in stated:
            key = (consumer, fault.exception, what or fault.need.what, _severity(fault))
            groups.setdefault(key, []).append(fault)
    for faults in groups.values():
        yield _finding(environment, faults)
    for name, reason in linkage.unread.items():
        yield Finding(Severity.UNDETERMINED, name, "cannot be looked into", reason)
    yield Finding(
        Severity.NOTE,
        "the stack",
        f"{linkage.met} needs of one package in another hold; "
        f"{len(linkage.undecided)} cannot be told from sources",
        f"{linkage.modules} modules read",
    )


def _missing(environment: Environment, fault: Fault) -> str:
    """Return the package that is not installed at all and would have the module, else ""."""
    package = fault.need.module.partition(".")[0]
    gone = canonicalize_name(package) not in environment.installed
    return package if fault.need.kind == "module" and gone else ""


def _severity(fault: Fault) -> Severity:
    certain = fault.sure and fault.phase.value in ("import", "run")
    return Severity.PROBLEM if certain else Severity.WARNING


def _finding(environment: Environment, faults: list[Fault]) -> Finding:
    """Return one finding for all places that lack the same thing; the first one is shown."""
    fault = faults[0]
    consumer = environment.label(fault.need.consumer.tree.name)
    if _severity(fault) is Severity.WARNING:
        when = "fails if an option or the hardware leads there"
    elif fault.phase.value == "import":
        when = f"import {fault.start} fails"
    else:
        when = "it imports, and the default GRPO run fails"
    others = len(faults) - 1
    more = f" ({others} more place{'s' if others > 1 else ''})" if others else ""
    if missing := _missing(environment, fault):
        culprit, what, reason = consumer, missing, f"{missing} is not installed"
    else:
        provider = environment.label(NormalizedName(fault.provider))
        culprit = consumer if consumer == provider else f"{consumer} with {provider}"
        what, reason = fault.need.what, fault.reason
    return Finding(
        _severity(fault),
        culprit,
        f"{fault.exception}: {what}: {when}, because {consumer} {fault.need.verb} it and "
        f"{reason}{more}",
        fault.need.where,
    )


def _key(environment: Environment, names: Iterable[NormalizedName]) -> str:
    """Return what the result hangs on but for the sources themselves."""
    digest = hashlib.sha256(f"{__version__} {sys.version_info[:2]}".encode())
    here = Path(__file__)
    for source in sorted([here, *here.parent.with_name("linker").glob("*.py")]):
        digest.update(source.read_bytes())
    interpreter = environment.probe.interpreter
    digest.update(f"{interpreter.version} {environment.probe.system}".encode())
    digest.update(f"{environment.probe.machine} {environment.complete}".encode())
    digest.update(" ".join(sorted(_OPTIONAL & frozenset(environment.installed))).encode())
    for name in names:
        digest.update(environment.installed[name].fingerprint())
    return digest.hexdigest()


def _stamp(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _kept(folder: Path, key: str) -> list[Finding] | None:
    raw = read_private(folder, f"linkage-{key[:16]}.json", _LIMIT_BYTES)
    try:
        data = json.loads(raw or b"")
        if data["key"] != key or any(_stamp(p) != s for p, s in data["files"].items()):
            return None
        return [
            Finding(**{**f, "severity": Severity(f["severity"]), "chain": tuple(f["chain"])})
            for f in data["findings"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return None


def _keep(folder: Path, key: str, findings: Iterable[Finding], files: Iterable[str]) -> None:
    try:
        stamps = {path: _stamp(path) for path in files}
    except OSError:
        return
    data = {"key": key, "files": stamps, "findings": [asdict(finding) for finding in findings]}
    write_private(folder, f"linkage-{key[:16]}.json", json.dumps(data).encode())


CHECK = Check(
    "linkage",
    "what each package takes from another is there",
    _run,
    evidence="the sources of both sides, with file and line",
    seconds=10.0,
)
