"""Incidents that only files show, built in a folder, and what ``grpoenv verify`` says of it.

Headers that are missing, a library that wants another torch, a package half overwritten, a trainer
that another version generated: the packages in it are small stand-ins of the row's versions; what the row says is wrong is really
so on the disk. Where a library wants a symbol,
the real libraries of the row's torch tell whether it is there.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from incident_environments import (
    DISTRIBUTIONS,
    Index,
    Target,
    parties,
    platform_of,
    python_of,
)
from incident_rows import Incident
from packaging.utils import NormalizedName, canonicalize_name

from grpoenv._data import data_paths
from grpoenv.asked_target import asked_probe
from grpoenv.checks import CHECKS, Check, Environment, Use
from grpoenv.checks.process import findings_for
from grpoenv.distributions import distributions
from grpoenv.elf import defined_symbols
from grpoenv.gpu import Answer, Gpu, GpuDevice
from grpoenv.machine import probe_machine
from grpoenv.matrix_file import load_matrix
from grpoenv.probe import Probe
from grpoenv.published import Published, Wanted, find_published
from grpoenv.verify import judge
from grpoenv.wheels import RangeClient, SpanStore, open_wheels

__all__ = ["Build", "Unbuildable", "build_of"]

_GPU = Gpu(Answer.YES, "named by the row", "580.82.07", (13, 0), (GpuDevice("T4", (7, 5), 0),))
_SHIM = '#include <Python.h>\nstatic int f(PyObject *a) { return PyArg_ParseTuple(a, "ss#", 0); }\n'
_HEAD = '"""\n{zoo}\n{unsloth}\n{transformers}\n{trl}\n__UNSLOTH_VERSIONING__\n"""\n'
_NEW_STRING = "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
_OLD_STRING = "Ss"
_C10_LIBRARIES = ("torch/lib/libc10.so", "torch/lib/libc10_cuda.so")
_TYPE_TABLES = tuple(
    f"transformers/models/auto/{name}.py" for name in ("auto_mappings", "configuration_auto")
)
_SYMBOL = re.compile(r"undefined symbol:? *(\w+)(\.\.\.)?")
_VERSIONED = re.compile(r"(GLIBC(?:XX)?)_([\d.]+)' not found")


@dataclass(frozen=True)
class Unbuildable:
    """The row does not tell enough to build what it reports."""

    reason: str


@dataclass
class Build:
    """A folder with an environment; ``names`` are the packages that the row blames."""

    reading: str
    names: tuple[NormalizedName, ...]
    folder: Path
    incident: Incident
    variables: dict[str, str] = field(default_factory=dict)
    script: str = ""
    executable: str = ""
    reads: Callable[[Environment], Sequence[Any]] | None = None

    @property
    def site(self) -> Path:
        """The folder that packages go into."""
        return self.folder / "site-packages"

    def put(self, name: str, version: str, files: Mapping[str, str | bytes], *needs: str) -> None:
        """Install a package of ``files``."""
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
        metadata += [f"Requires-Dist: {need}" for need in needs]
        every: dict[str, str | bytes] = {**files, f"{info}/METADATA": "\n".join(metadata) + "\n"}
        record = [f"{path},,{len(_bytes(content))}" for path, content in every.items()]
        every[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
        for path, content in every.items():
            (self.site / path).parent.mkdir(parents=True, exist_ok=True)
            (self.site / path).write_bytes(_bytes(content))

    def findings(self) -> list[Mapping[str, Any]]:
        """Return what ``verify`` finds, then forget the folder."""
        try:
            environment = self._environment()
            if self.reads is not None:
                found = self.reads(environment)
            else:
                found = judge(
                    environment, data_paths(), program="grpoenv", checks=_quick()
                ).findings
            return [{**asdict(f), "severity": f.severity.value} for f in found]
        finally:
            subprocess.run(["rm", "-rf", str(self.folder)], check=False)

    def _environment(self) -> Environment:
        data = data_paths()
        script = self.folder / "train.py"
        script.write_text(self.script)
        variables = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.variables}
        use = Use(self.folder, variables, (script,) if self.script else ())
        return Environment(
            probe=self._probe(),
            installed=distributions([self.site]),
            matrix=load_matrix(data.matrix),
            use=use,
        )

    def _probe(self) -> Probe:
        here = probe_machine(None)
        target = asked_probe(
            python_version=python_of(self.incident), platform=platform_of(self.incident)
        )
        interpreter = replace(
            target.interpreter,
            executable=self.executable or here.interpreter.executable,
            purelib=str(self.site),
            platlib=str(self.site),
            site_folders=(str(self.site),),
        )
        return replace(target, interpreter=interpreter, gpu=_GPU, packages={})


def _quick() -> list[Check]:
    return [check for check in CHECKS if not check.deep]


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def build_of(incident: Incident, index: Index) -> Build | Unbuildable | None:
    """Return the build of a row, None where ``grpoenv check`` can be asked instead."""
    for applies, maker in _BUILDERS:
        if applies(incident):
            folder = Path(tempfile.mkdtemp(prefix="incident-"))
            build = Build("", parties(incident).names, folder, incident)
            build.site.mkdir()
            reason = maker(build, incident, index)
            if reason:
                subprocess.run(["rm", "-rf", str(folder)], check=False)
                return Unbuildable(reason)
            return build
    return None


def _version(build: Build, name: str, index: Index) -> str:
    """Return the version of a package: the row's, or that of its day, or any."""
    incident = build.incident
    stated = incident.stated.get(canonicalize_name(name))
    if stated is not None and stated.exact is not None:
        return f"{stated.exact}+{stated.label}" if stated.label else str(stated.exact)
    target = Target(python_of(incident), platform_of(incident))
    range_ = stated.specifier if stated else ""
    found = index.version(f"{name}{range_}", incident.day, target) if incident.day else None
    return str(found) if found else "1.0"


def _toolchain(build: Build, incident: Incident, index: Index) -> str:
    ptxas = "triton/backends/nvidia/bin/ptxas"
    shim = "triton/backends/nvidia/driver.c"
    files = {ptxas: "#!/bin/sh\n", shim: f"#define PY_SSIZE_T_CLEAN\n{_SHIM}"}
    (build.folder / "libcuda.so.1").touch()
    build.variables = {"TRITON_LIBCUDA_PATH": str(build.folder)}
    text, version = incident.exception, _version(build, "triton", index)
    if "Python.h" in text:
        build.reading = "a Python without its headers"
        build.executable = _python_without_headers(build.folder)
    elif "PY_SSIZE_T_CLEAN" in text:
        build.reading = "a triton whose C shim does not define the macro"
        files[shim] = _SHIM
    elif re.search(r"\bptxas\b", text):
        build.reading = "a triton without ptxas"
        del files[ptxas]
    elif re.search(r"C compiler|\bgcc\b|\bcc\b", text):
        build.reading = "no C compiler"
        build.variables["PATH"] = str(build.folder)
    else:
        return "does not say which tool is missing"
    build.put("triton", version, files)
    if (build.site / ptxas).is_file():
        (build.site / ptxas).chmod(0o755)
    build.names = (NormalizedName("triton"),)
    return ""


def _python_without_headers(folder: Path) -> str:
    """Write an interpreter that gives a folder of headers in which there are none."""
    program = folder / "python"
    real = shlex.quote(os.path.realpath(sys.executable))
    (folder / "include").mkdir()
    program.write_text(
        f'#!/bin/sh\n{real} "$@" | sed \'s|"include": "[^"]*"|"include": "{folder}/include"|\'\n'
    )
    program.chmod(0o755)
    return str(program)


def _damaged(build: Build, incident: Incident, index: Index) -> str:
    """Overwrite one file of a package with that of another release."""
    spoken = [name for name in sorted(DISTRIBUTIONS) if re.search(rf"\b{name}\b", incident.how)]
    if not spoken:
        return "does not say whose files are mixed"
    name = spoken[0]
    module = name.replace("-", "_")
    build.reading = f"{name} with a file of another release in it"
    build.put("trl", _version(build, "trl", index), {"trl/__init__.py": ""}, name)
    build.put(name, _version(build, name, index), {f"{module}/__init__.py": "A = 1\n"})
    (build.site / module / "__init__.py").write_text("A = 1\nB = 2\n")
    build.names = (NormalizedName(name),)
    return ""


def _stale_cache(build: Build, incident: Incident, index: Index) -> str:
    build.reading = "trainers in the folder that an older unsloth generated"
    for name in ("unsloth", "unsloth-zoo", "transformers", "trl"):
        build.put(name, _version(build, name, index), {f"{name.replace('-', '_')}/__init__.py": ""})
    head = _HEAD.format(zoo="2025.1.1", unsloth="2025.1.1", transformers="4.48.0", trl="0.13.0")
    cache = build.folder / "unsloth_compiled_cache"
    cache.mkdir()
    (cache / "UnslothGRPOTrainer.py").write_text(head)
    build.names = ()
    return ""


def _stale_process(build: Build, incident: Incident, index: Index) -> str:
    loaded = [(name, s) for name, s in incident.stated.items() if s.loaded]
    if not loaded:
        return "does not say which package was loaded in another version than lies on the disk"
    build.reading = "a process that holds a library of a package which was replaced"
    build.names = tuple(name for name, _ in loaded)
    for name, stated in loaded:
        module = name.replace("-", "_")
        build.put(name, stated.loaded, {f"{module}/lib{module}.so": b"old" * 2000})
    build.reads = lambda environment: _replaced(build, environment)
    return ""


def _replaced(build: Build, environment: Environment) -> list[Any]:
    """Hold the libraries in a process, replace them on the disk, and look at the process."""
    libraries = [str(path) for path in build.site.rglob("*.so")]
    hold = (
        "import mmap, sys\nfiles = [open(path, 'rb') for path in sys.argv[1:]]\n"
        "held = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for file in files]\n"
        "print('held', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, *libraries],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        for path in libraries:
            Path(path).unlink()
            Path(path).write_bytes(b"new" * 2000)
        found = list(findings_for(environment, process.pid))
        process.stdin.close()
    return [replace(finding, check="process") for finding in found]


def _offline(build: Build, incident: Incident, index: Index) -> str:
    build.reading = "offline, with an adapter whose base model is not in the cache"
    build.variables = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(build.folder / "empty")}
    adapter = build.folder / "lora_model"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "unsloth/Base-4B"}')
    build.names = ()
    return ""


def _import_order(build: Build, incident: Incident, index: Index) -> str:
    """Import what the row names, or else trl, before unsloth."""
    patched = ("trl", "transformers", "peft", "accelerate", "bitsandbytes")
    early = [name for name in patched if re.search(rf"\b{name}\b", incident.exception)] or ["trl"]
    build.reading = f"a script that imports {', '.join(early)} before unsloth"
    build.script = "".join(f"import {name}\n" for name in early) + "import unsloth\n"
    build.put("unsloth", _version(build, "unsloth", index), {"unsloth/__init__.py": ""})
    build.names = ()
    return ""


def _library(build: Build, incident: Incident, index: Index) -> str:
    """Compile a library that wants what the row says, beside the row's torch."""
    owner = _owner(incident)
    if owner is None:
        return "does not say whose library it is"
    wanted = _VERSIONED.search(incident.exception)
    torch = _torch_libraries(build, index)
    symbol = _wanted_symbol(incident, torch) if wanted is None else ""
    if symbol == "there":
        return "the row's torch, as published, defines the symbol"
    place = {"flash-attn": "flash_attn_2_cuda.so", "vllm": "vllm/_C.abi3.so"}.get(
        owner, f"{owner.replace('-', '_')}/_C.so"
    )
    library = _compiled(build.folder, symbol, wanted)
    build.put(owner, _version(build, owner, index), {place: library})
    build.reading = f"a library of {owner} that wants " + (
        f"{wanted[1]}_{wanted[2]}" if wanted else symbol
    )
    build.names = (owner,)
    return ""


def _owner(incident: Incident) -> NormalizedName | None:
    if "flash" in incident.exception.lower():
        return NormalizedName("flash-attn")
    named = [n for n in parties(incident).consumers if n in DISTRIBUTIONS]
    return named[0] if named else None


def _torch_libraries(build: Build, index: Index) -> set[str]:
    """Put the c10 libraries of the row's torch there, as published; return what they define."""
    version = _version(build, "torch", index)
    files = {"torch/version.py": f"__version__ = '{version}'\n".encode()}
    files.update(_published(build, "torch", version, _C10_LIBRARIES))
    build.put("torch", version, files)
    libraries = [build.site / path for path in files if path.endswith(".so")]
    return {symbol for library in libraries for symbol in defined_symbols(library)}


def _published(build: Build, name: str, version: str, wanted: Sequence[str]) -> Mapping[str, bytes]:
    """Return those of the ``wanted`` files that the published wheel of a package has."""
    probe = asked_probe(
        python_version=python_of(build.incident), platform=platform_of(build.incident)
    )
    public = version.partition("+")[0]
    found = find_published(Wanted((f"{name}=={public}",), dependencies=False), probe, {})
    files = dict[str, bytes]()
    if isinstance(found, Published):
        with closing(RangeClient()) as client:
            trees, _ = open_wheels(found.wheels.values(), client, SpanStore())
            for tree in trees.values():
                there = set(tree.paths())
                files.update({path: tree.read(path) for path in wanted if path in there})
    return files


def _model(build: Build, incident: Incident, index: Index) -> str:
    """Put the configuration of a model of the row's type into a cache, and load it in a script."""
    build.reading = f"a model of the type {incident.model_type} in the cache"
    version = _version(build, "transformers", index)
    build.put("transformers", version, _published(build, "transformers", version, _TYPE_TABLES))
    kept = build.folder / "hub" / f"models--{incident.model.replace('/', '--')}" / "snapshots/main"
    kept.mkdir(parents=True)
    (kept / "config.json").write_text(json.dumps({"model_type": incident.model_type}))
    build.variables = {"HF_HUB_CACHE": str(build.folder / "hub")}
    build.script = f"model = AutoModel.from_pretrained({incident.model!r})\n"
    build.names = (NormalizedName("transformers"),)
    return ""


def _wanted_symbol(incident: Incident, defined: set[str]) -> str:
    """Return the symbol that the row names; one cut short is that of the other C++ ABI."""
    match = _SYMBOL.search(incident.exception)
    if match is None:
        return "_ZN3c106detail14torchCheckFailEPKcS2_jRK8Otherbuild"
    name, cut = match[1], match[2]
    if not cut:
        return "there" if name in defined else name
    for known in sorted(defined):
        if known.startswith(name):
            for here, there in ((_OLD_STRING, _NEW_STRING), (_NEW_STRING, _OLD_STRING)):
                other = name + known[len(name) :].replace(here, there)
                if other not in defined:
                    return other
    return name


def _compiled(folder: Path, symbol: str, wanted: re.Match[str] | None) -> bytes:
    source, library = folder / "wants.c", folder / "wants.so"
    words = ["gcc", "-shared", "-fPIC", "-nostdlib", str(source), "-o", str(library)]
    if wanted is None:
        source.write_text(f"extern int {symbol}(void);\nint use(void) {{ return {symbol}(); }}\n")
    else:
        words.append(str(_versioned_system(folder, f"{wanted[1]}_{wanted[2]}", wanted[1])))
        source.write_text("extern int newer(void);\nint use(void) { return newer(); }\n")
    subprocess.run(words, check=True, capture_output=True)
    return library.read_bytes()


def _versioned_system(folder: Path, version: str, family: str) -> Path:
    """Compile a stand-in of the system's library that defines a symbol of ``version``."""
    soname = "libc.so.6" if family == "GLIBC" else "libstdc++.so.6"
    source, script, library = folder / "newer.c", folder / "newer.map", folder / soname
    source.write_text("int newer(void) { return 0; }\n")
    script.write_text(f"{version} {{ global: newer; }};\n")
    words = ["gcc", "-shared", "-fPIC", "-nostdlib", str(source), "-o", str(library)]
    words += [f"-Wl,--version-script={script}", f"-Wl,-soname,{soname}"]
    subprocess.run(words, check=True, capture_output=True)
    return library


def _is_library(incident: Incident) -> bool:
    if "undefined symbol" in incident.exception or _VERSIONED.search(incident.exception):
        return True
    return incident.class_ == "abi" and "dlopen every" in incident.how


_Builder = Callable[[Build, Incident, Index], str]
_BUILDERS: tuple[tuple[Callable[[Incident], bool], _Builder], ...] = (
    (lambda row: row.class_ == "toolchain" or row.looks_at == "toolchain probe", _toolchain),
    (lambda row: "RECORD" in row.how, _damaged),
    (lambda row: row.looks_at == "cache stamp check", _stale_cache),
    (lambda row: row.looks_at == "loaded modules vs. disk", _stale_process),
    (lambda row: row.looks_at == "offline check", _offline),
    (lambda row: row.looks_at == "import-order check", _import_order),
    (_is_library, _library),
    (lambda row: bool(row.model_type), _model),
)
"""Which rows are built, and how: the first that applies."""
