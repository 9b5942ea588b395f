"""Every name, key, module and call that one package of the stack takes from another is there.

The packages are linked from their sources (``grpoenv.linker``); nothing is imported. What was found
is kept in the user's cache until a RECORD or a source that was read changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import NormalizedName, canonicalize_name

from grpoenv import source_tree
from grpoenv.checks.interface import MANAGED, Check, Environment, Finding, Severity
from grpoenv.checks.kept import Made, kept_findings, key_of
from grpoenv.checks.requirements import declared_requirements
from grpoenv.linker.standard import STANDARD
from grpoenv.torch_build import TorchBuild, torch_build

if TYPE_CHECKING:
    from grpoenv.linker import Fault, Linkage, Platform

__all__ = ["CHECK", "LINKED", "TOLD_ABSENT", "platform_of", "stack_consumers"]

LINKED = frozenset(MANAGED) | {
    NormalizedName(name)
    for name in (
        "deepspeed",
        "dill",
        "fsspec",
        "kernels",
        "liger-kernel",
        "llm-blender",
        "mergekit",
        "multiprocess",
        "pyarrow",
        "triton",
        "typing-extensions",
        "vllm",
        "xformers",
    )
}
"""The packages that are linked with each other; what else is installed has other users."""

_TRAINERS = frozenset(
    NormalizedName(name) for name in ("unsloth", "unsloth-zoo", "trl", "transformers", "peft")
)
"""Who needs one of these takes names from it that come and go with its versions."""

_NAMED_ALIKE = frozenset(
    NormalizedName(name)
    for name in (
        "aiohttp",
        "diffusers",
        "einops",
        "fastapi",
        "httpx",
        "jinja2",
        "pandas",
        "psutil",
        "pydantic",
        "regex",
        "requests",
        "rich",
        "safetensors",
        "sentencepiece",
        "sglang",
        "tokenizers",
        "tqdm",
        "uvicorn",
    )
)
"""Packages whose module has their own name, so that who imports one that is not there fails."""

TOLD_ABSENT = (LINKED | _NAMED_ALIKE) - {NormalizedName("kernels")}
"""The packages of which an import fails for certain where they are not installed: many a program has
a module of its own that is called kernels."""


def _run(environment: Environment) -> Iterator[Finding]:
    names = [name for name in environment.trees if name in LINKED]
    if not names:
        return
    consumers = stack_consumers(environment)
    names += sorted(consumers)
    key = _key(environment, names)
    yield from kept_findings("linkage", key, lambda: _link(environment, names, consumers))


def stack_consumers(environment: Environment) -> frozenset[NormalizedName]:
    """Return the other packages to follow: who declares to need a trainer, or is asked about."""
    asked = environment.use.asked
    declared = declared_requirements(environment)
    return frozenset(
        name
        for name, requirements in declared.items()
        if name in environment.trees
        and name not in LINKED
        and (name in asked or any(canonicalize_name(r.name) in _TRAINERS for r in requirements))
    )


def platform_of(environment: Environment) -> Platform:
    """Return the platform as the linker takes it."""
    from grpoenv.linker import Platform

    probe, build = environment.probe, torch_build(environment)
    return replace(
        Platform.named(probe.interpreter.version, probe.system, probe.machine),
        torch_without_cuda=isinstance(build, TorchBuild) and build.cuda is None,
    )


def _link(
    environment: Environment,
    names: Iterable[NormalizedName],
    consumers: frozenset[NormalizedName],
) -> Made:
    from grpoenv.linker import link

    trees = environment.trees
    linkage = link(
        [trees[name] for name in names],
        platform=platform_of(environment),
        consumers=consumers,
        absent=(
            TOLD_ABSENT - frozenset(environment.installed) if environment.complete else frozenset()
        ),
    )
    # What is in a wheel is told by the wheel's hash, which the key has.
    files = [] if environment.planned is not None else list(linkage.paths)
    return list(_findings(environment, linkage)), files


def _findings(environment: Environment, linkage: Linkage) -> Iterator[Finding]:
    """Yield what is wrong, each thing once; what a declared range says already is left to that."""
    groups: dict[tuple[str, str, str, Severity], list[Fault]] = {}
    declared = declared_requirements(environment)
    for fault in linkage.faults:
        consumer, what = fault.need.consumer.tree.name, _missing(environment, fault)
        stated = {canonicalize_name(requirement.name) for requirement in declared[consumer]}
        # what a package lacks of its own where only an option leads is its own affair
        own = fault.phase.value == "option" and fault.provider == consumer
        if not fault.caught and not own and canonicalize_name(what) not in stated:
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
        provider = _provider(environment, fault)
        culprit = consumer if consumer == provider else f"{consumer} with {provider}"
        what, reason = fault.need.what, fault.reason
    return Finding(
        _severity(fault),
        culprit,
        f"{fault.exception}: {what}: {when}, because {consumer} {fault.need.verb} it and "
        f"{reason}{more}",
        fault.need.where,
        symbol=fault.need.what,
    )


def _provider(environment: Environment, fault: Fault) -> str:
    if fault.provider == STANDARD:
        return f"Python {environment.probe.interpreter.minor}"
    return environment.label(NormalizedName(fault.provider))


def _key(environment: Environment, names: Iterable[NormalizedName]) -> str:
    """Return what the result hangs on but for the sources themselves."""
    here = Path(__file__)
    sources = [here, Path(source_tree.__file__), *here.parent.with_name("linker").glob("*.py")]
    there = sorted(TOLD_ABSENT & frozenset(environment.installed))
    return key_of(environment, names, sources, there, torch_build(environment))


CHECK = Check(
    "linkage",
    "what each package takes from another is there",
    _run,
    evidence="the sources of both sides, with file and line",
    seconds=10.0,
)
