"""The CUDA that torch was built for, against the driver."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packaging.utils import NormalizedName

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.gpu import Answer

__all__ = ["CHECK"]

_TORCH = NormalizedName("torch")
_VERSION_FILE = "torch/version.py"
_LABEL = re.compile(r"cpu|cu(\d+)(\d)")
_CUDA = re.compile(
    r"^cuda(?:\s*:[^=]+)?\s*=\s*(?P<value>None|['\"](?P<version>\d+\.\d+))", re.MULTILINE
)


def _run(environment: Environment) -> Iterator[Finding]:
    if _TORCH not in environment.installed:
        return
    gpu, torch = environment.probe.gpu, environment.label(_TORCH)
    if gpu.answer is Answer.NO:
        yield Finding(
            Severity.NOTE, torch, f"not held against a driver: {gpu.reason}", _place(environment)
        )
        return
    if gpu.answer is Answer.UNKNOWN or gpu.cuda is None:
        reason = gpu.reason if gpu.answer is Answer.UNKNOWN else "the driver names no CUDA version"
        yield Finding(Severity.UNDETERMINED, torch, f"no driver to compare: {reason}", "NVML")
        return
    yield from _compare(environment, gpu.cuda, gpu.driver)


def _place(environment: Environment) -> str:
    tree = environment.trees.get(_TORCH)
    return tree.locate(_VERSION_FILE) if tree else environment.label(_TORCH)


def _version_text(environment: Environment) -> str:
    """Return ``torch/version.py``; raises KeyError or OSError.

    An image keeps its own build of torch, such as 2.11.0+cu128: then the label tells, because the
    wheel that the index has of that version is another build.
    """
    label = environment.installed[_TORCH].version.local or ""
    if environment.planned is not None and (match := _LABEL.fullmatch(label)):
        return "cuda = None" if match[1] is None else f"cuda = '{match[1]}.{match[2]}'"
    return environment.trees[_TORCH].read(_VERSION_FILE).decode("utf-8", errors="replace")


def _compare(environment: Environment, admits: tuple[int, int], driver: str) -> Iterator[Finding]:
    torch, place = environment.label(_TORCH), _place(environment)
    try:
        match = _CUDA.search(_version_text(environment))
    except OSError as error:
        match, why = None, f"{place} cannot be read: {error.strerror or error}"
    except KeyError:
        match, why = None, f"it has no {_VERSION_FILE}"
    else:
        why = f"{place} names no CUDA version"
    if match is None:
        yield Finding(Severity.UNDETERMINED, torch, why, place)
    elif match["version"] is None:
        yield Finding(
            Severity.PROBLEM,
            torch,
            f"is a build without CUDA, and there is a GPU (driver {driver})",
            place,
        )
    elif int(match["version"].split(".")[0]) > admits[0]:
        yield Finding(
            Severity.PROBLEM,
            torch,
            f"is built for CUDA {match['version']}, and driver {driver} admits CUDA "
            f"{admits[0]}.{admits[1]} at the most; a newer driver mends it too",
            place,
        )


CHECK = Check("driver", "the driver can run the CUDA that torch was built for", _run)
