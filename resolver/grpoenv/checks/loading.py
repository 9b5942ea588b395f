"""Native libraries, really loaded: the dynamic linker has the last word.

In a child of the environment's interpreter, because a library may end the process that loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv import _load_libraries
from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.checks.native import NATIVE, libraries_of, severity_of
from grpoenv.child import Failed, ask
from grpoenv.gpu import Answer

__all__ = ["CHECK"]

_SECONDS = 60.0
_DRIVER = "libcuda.so.1"


def _run(environment: Environment) -> Iterator[Finding]:
    libraries = {
        name: libraries_of(environment, name) for name in NATIVE if name in environment.installed
    }
    paths = [path for found in libraries.values() for path in found]
    python = environment.probe.interpreter.executable
    answer = ask(
        python,
        [Path(_load_libraries.__file__), *paths],
        timeout_s=_SECONDS,
        variables=environment.use.variables,
    )
    if isinstance(answer, Failed):
        yield Finding(
            Severity.PROBLEM if answer.reason.startswith("ended by") else Severity.UNDETERMINED,
            "the compiled libraries",
            f"cannot be loaded together: {answer.reason}",
            f"{python} -I {_load_libraries.__file__} …",
        )
        return
    if answer.status != 0:
        label = environment.label(NormalizedName("torch"))
        yield Finding(Severity.PROBLEM, label, f"import torch fails: {answer.output}", python)
        return
    for name, found in libraries.items():
        yield from _package(environment, name, found, answer.value)


def _package(
    environment: Environment, name: NormalizedName, paths: list[Path], errors: dict[str, str]
) -> Iterator[Finding]:
    native = NATIVE[name]
    wrong = {path: errors[str(path)] for path in paths if str(path) in errors}
    if not wrong or (native.any_of and len(wrong) < len(paths)):
        return
    path, error = next(iter(wrong.items()))
    no_driver = environment.probe.gpu.answer is Answer.NO and _DRIVER in error
    yield Finding(
        Severity.NOTE if no_driver else severity_of(environment, name),
        environment.label(name),
        f"cannot be loaded: {error}"
        + ("; that is part of the driver" if no_driver else f"; {native.consequence}"),
        f"dlopen of {path}",
    )


CHECK = Check(
    "loading",
    "the compiled libraries really load",
    _run,
    evidence="dlopen in a child process",
    seconds=_SECONDS,
    deep=True,
)
