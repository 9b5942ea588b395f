"""What triton needs to compile at its first use: a C compiler, Python.h, ptxas, the driver library.

None of them is a Python package, so no requirement names them, and the failure comes in the first
training step.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv import _compile_kernel
from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.child import Answered, Failed, ask
from grpoenv.gpu import Answer
from grpoenv.linker_search import system_libraries

__all__ = ["CHECK", "COMPILE_CHECK"]

_TRITON = NormalizedName("triton")
_TORCH = NormalizedName("torch")
_SHIM = "triton/backends/nvidia/driver.c"
_SIZED = re.compile(r"Py(?:Arg_Parse\w*|_BuildValue)\([^;]*\"[^\";]*#[^\";]*\"")
_NEED_THE_MACRO = range(10, 13)
_ASK_SECONDS = 5.0
_COMPILE_SECONDS = 120.0
_INCLUDE = """
import json, sysconfig
scheme = sysconfig.get_default_scheme() if hasattr(sysconfig, "get_default_scheme") else None
scheme = "posix_prefix" if scheme == "posix_local" else scheme
print(json.dumps({"include": sysconfig.get_paths(scheme)["include"]}))
"""
"""The folder that triton.runtime.build gives the compiler."""


def _run(environment: Environment) -> Iterator[Finding]:
    if _TRITON not in environment.installed:
        return
    label, gpu = environment.label(_TRITON), environment.probe.gpu
    yield from _shim(environment, label)
    if gpu.answer is not Answer.YES:
        yield Finding(
            Severity.NOTE, label, f"its compiler was not looked for: {gpu.reason}", "NVML"
        )
        return
    yield from _compiler(environment, label)
    yield from _python_headers(environment, label)
    yield from _ptxas(environment, label)
    yield from _driver_library(environment, label)


def _shim(environment: Environment, label: str) -> Iterator[Finding]:
    """Look whether triton's own C source does what Python before 3.13 asks of it.

    A ``#`` in a format needs ``PY_SSIZE_T_CLEAN``, or parsing the arguments raises SystemError
    (Python/C API manual, "Parsing arguments").
    """
    try:
        text = environment.trees[_TRITON].read(_SHIM).decode("utf-8", "replace")
    except (OSError, KeyError):
        return  # a triton from before 3.0, or for another vendor's GPUs
    before, _, after = text.partition("#include <Python.h>")
    minor = int(environment.probe.interpreter.minor.partition(".")[2])
    if _SIZED.search(after) and "PY_SSIZE_T_CLEAN" not in before and minor in _NEED_THE_MACRO:
        yield Finding(
            Severity.PROBLEM,
            label,
            "includes Python.h without PY_SSIZE_T_CLEAN, which Python "
            f"{environment.probe.interpreter.minor} asks for: its first kernel ends with a "
            "SystemError",
            f"{environment.trees[_TRITON].locate(_SHIM)} (incident unsloth-1982)",
        )


def _compiler(environment: Environment, label: str) -> Iterator[Finding]:
    variables = environment.use.variables
    path = variables.get("PATH", os.defpath)
    named = variables.get("CC")
    if not any(shutil.which(name, path=path) for name in ([named] if named else ["gcc", "clang"])):
        wanted = f"the compiler {named!r} that CC names" if named else "a C compiler (gcc or clang)"
        yield Finding(
            Severity.PROBLEM,
            label,
            f"needs {wanted} for its first kernel, and there is none",
            f"PATH={path}",
            remedy="apt-get install gcc" if not named else "unset CC",
        )


def _python_headers(environment: Environment, label: str) -> Iterator[Finding]:
    interpreter = environment.probe.interpreter
    answer = ask(interpreter.executable, ["-c", _INCLUDE], timeout_s=_ASK_SECONDS)
    folder = answer.value.get("include") if isinstance(answer, Answered) else None
    if folder is None:
        reason = answer.reason if isinstance(answer, Failed) else answer.output
        yield Finding(
            Severity.UNDETERMINED,
            label,
            f"where the headers of Python {interpreter.minor} are is not known: {reason}",
            interpreter.executable,
        )
    elif not Path(folder, "Python.h").is_file():
        yield Finding(
            Severity.PROBLEM,
            label,
            f"needs Python.h of Python {interpreter.minor} for its first kernel, and it is not "
            "there",
            f"{folder}/Python.h (incidents unsloth-542, vllm-27890)",
            remedy=f"apt-get install python{interpreter.minor}-dev",
        )


def _ptxas(environment: Environment, label: str) -> Iterator[Finding]:
    named = environment.use.variables.get("TRITON_PTXAS_PATH")
    own = environment.installed[_TRITON].info.parent / "triton" / "backends" / "nvidia" / "bin"
    ptxas = Path(named) if named else own / "ptxas"
    if not ptxas.is_file() or not os.access(ptxas, os.X_OK):
        yield Finding(
            Severity.PROBLEM,
            label,
            "has no ptxas that can be run, which turns its kernels into machine code",
            f"{ptxas}" + (" (TRITON_PTXAS_PATH)" if named else ""),
            remedy="unset TRITON_PTXAS_PATH" if named else "",
        )


def _driver_library(environment: Environment, label: str) -> Iterator[Finding]:
    variables = environment.use.variables
    folders = variables.get("TRITON_LIBCUDA_PATH", variables.get("LD_LIBRARY_PATH", "")).split(":")
    name = "libcuda.so.1"
    if name in system_libraries() or any(Path(f, name).exists() for f in folders if f):
        return
    yield Finding(
        Severity.PROBLEM,
        label,
        f"links its kernels with {name}, and the dynamic linker does not find it although the "
        "driver is loaded",
        "ldconfig -p, LD_LIBRARY_PATH, TRITON_LIBCUDA_PATH",
        remedy="ldconfig",
    )


def _compile(environment: Environment) -> Iterator[Finding]:
    if _TRITON not in environment.installed or _TORCH not in environment.installed:
        return
    label = environment.label(_TRITON)
    known = [device.capability for device in environment.probe.gpu.devices if device.capability]
    major, minor = known[0] if known else (8, 0)
    answer = ask(
        environment.probe.interpreter.executable,
        [Path(_compile_kernel.__file__), f"{major}{minor}"],
        timeout_s=_COMPILE_SECONDS,
        variables=environment.use.variables,
    )
    seen = (
        f"{environment.probe.interpreter.executable} -I {_compile_kernel.__file__} {major}{minor}"
    )
    if isinstance(answer, Failed):
        yield Finding(Severity.UNDETERMINED, label, f"compiled nothing: {answer.reason}", seen)
    elif answer.status != 0:
        yield Finding(
            Severity.PROBLEM, label, f"cannot compile a trivial kernel: {answer.output}", seen
        )
    elif answer.value.get("ran") and not answer.value.get("right"):
        yield Finding(Severity.PROBLEM, label, "compiled a trivial kernel that is wrong", seen)
    elif not answer.value.get("ran"):
        yield Finding(
            Severity.NOTE,
            label,
            f"compiled a trivial kernel for capability {major}.{minor}; it was not run, because "
            "torch has no GPU here",
            seen,
        )


CHECK = Check(
    "toolchain",
    "triton finds what it compiles its first kernel with",
    _run,
    evidence="PATH, Python's include folder, triton's own ptxas, the dynamic linker's cache",
    seconds=0.5,
)
COMPILE_CHECK = Check(
    "kernel",
    "triton compiles a kernel, and it computes the right thing where there is a GPU",
    _compile,
    evidence="a child process that compiles one",
    seconds=_COMPILE_SECONDS,
    deep=True,
)
