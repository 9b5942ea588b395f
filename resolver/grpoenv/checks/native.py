"""Native libraries: what each needs of the system, of CUDA and of torch, read from their tables.

A package whose compiled part cannot be loaded looks well to every check of metadata, and many hide
the failure until the first use. What each library needs (other libraries, versions of glibc and
libstdc++, symbols of torch) is held against what is here; no library is loaded. ``loading`` does
that, on request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.checks.kept import Made, kept_findings, key_of
from grpoenv.elf import NotReadable, defined_symbols, undefined_symbols
from grpoenv.gpu import Answer
from grpoenv.linker_search import LibrarySearch, system_libraries
from grpoenv.torch_build import TorchBuild, torch_abi, torch_build

__all__ = ["CHECK", "NATIVE", "Native", "cuda_library", "libraries_of", "severity_of"]

_TORCH = NormalizedName("torch")
_BITSANDBYTES = NormalizedName("bitsandbytes")
_TAKES_ANOTHER_MINOR = Version("0.50")
"""The first bitsandbytes that takes a library of another minor version of CUDA."""
_OF_TORCH = re.compile(r"3c10|2at|5torch|^c10_|^aoti_torch|^torch_")
"""Names that a library of torch alone can give: its C++ name spaces and its C interface."""
_FROM_DRIVER = ("libcuda.so.1", "libnvidia-ml.so.1")
_LIBRARY_OF_TORCH = re.compile(r"lib(torch|c10)\w*\.so")
_NEW_STRING = "St7__cxx1112basic_string"
"""What ``std::string`` is called in the C++11 ABI alone."""
_GLIBC = re.compile(r"glibc (?P<version>[\d.]+)")
_GLIBC_VERSION = re.compile(r"GLIBC_[\d.]+$")
_SYSTEM = {"libc.so.6", "libm.so.6", "libstdc++.so.6"}
_FFMPEG = re.compile(r"lib(avutil|avcodec|avformat|avdevice|avfilter|swscale|swresample)\.so")


@dataclass(frozen=True)
class Native:
    """The libraries of a package that its import, or its first use, loads.

    ``patterns`` are of paths in site-packages. ``consequence`` says what comes of it if one cannot
    be loaded, and ``severity`` how bad that is for GRPO training. With ``any_of``, a library is in
    several builds and one that loads is enough.
    """

    patterns: tuple[str, ...]
    severity: Severity
    consequence: str
    any_of: bool = False


_IMPORT_FAILS = "importing it fails, and with it whatever imports it where it is installed"
NATIVE: dict[NormalizedName, Native] = {
    NormalizedName(name): native
    for name, native in {
        "torch": Native(
            ("torch/_C.*.so", "torch/lib/libtorch*.so", "torch/lib/libc10*.so"),
            Severity.PROBLEM,
            "import torch fails",
        ),
        "triton": Native(("triton/_C/libtriton.so",), Severity.PROBLEM, "import triton fails"),
        "tokenizers": Native(("tokenizers/*.so",), Severity.PROBLEM, "import transformers fails"),
        "safetensors": Native(("safetensors/*.so",), Severity.PROBLEM, "import transformers fails"),
        "torchvision": Native(
            ("torchvision/_C*.so",),
            Severity.PROBLEM,
            "importing it ends with 'operator torchvision::nms does not exist', and transformers "
            "imports it where it is installed",
        ),
        "flash-attn": Native(
            ("flash_attn_*.so",),
            Severity.PROBLEM,
            "transformers imports it where it is installed, and fails",
        ),
        "vllm": Native(
            ("vllm/_C.*.so", "vllm/_moe_C.*.so", "vllm/cumem_allocator.*.so"),
            Severity.PROBLEM,
            "vLLM loads it when its engine starts, and fails",
        ),
        "bitsandbytes": Native(
            ("bitsandbytes/libbitsandbytes_cuda*.so",),
            Severity.WARNING,
            "4-bit and 8-bit weights fail at their first use",
        ),
        "torchaudio": Native(
            ("torchaudio/lib/_torchaudio.*so", "torchaudio/lib/libtorchaudio.*so"),
            Severity.WARNING,
            "importing torchaudio fails",
        ),
        "torchcodec": Native(
            ("torchcodec/libtorchcodec*[0-9].so",),
            Severity.WARNING,
            "importing torchcodec fails, and with it audio and video in datasets and transformers",
            any_of=True,
        ),
        "torchao": Native(
            ("torchao/_C*.so",), Severity.WARNING, "torchao goes on without its compiled kernels"
        ),
        "xformers": Native(
            ("xformers/_C.so",),
            Severity.WARNING,
            "xformers goes unused, and attention of PyTorch takes its place",
        ),
    }.items()
}
"""What happens without each was seen in the package's own loading code (2026-11)."""


def severity_of(environment: Environment, name: NormalizedName) -> Severity:
    """Return how bad it is that ``name`` cannot be loaded here.

    datasets and transformers try torchcodec where it is installed, and an unsloth that does not yet
    look whether it works ends with it (incidents unsloth-5446, unsloth-4689).
    """
    unsloth = environment.installed.get(NormalizedName("unsloth"))
    if name == "torchcodec" and unsloth is not None:
        try:
            text = environment.trees[unsloth.name].read("unsloth/import_fixes.py")
        except (OSError, KeyError):
            text = b""
        if b"torchcodec" not in text:
            return Severity.PROBLEM
    return NATIVE[name].severity


def libraries_of(environment: Environment, name: NormalizedName) -> list[Path]:
    """Return the libraries of package ``name`` that count here, by its RECORD."""
    native = NATIVE[name]
    files = _native_files(environment, name)
    chosen = [path for path, place in files if any(fnmatch(place, one) for one in native.patterns)]
    return _for_cuda(environment, chosen) if name == "bitsandbytes" else chosen


def _native_files(environment: Environment, name: NormalizedName) -> list[tuple[Path, str]]:
    """Return each ``.so`` file of ``name`` with its path inside site-packages."""
    distribution = environment.installed[name]
    base = f"{distribution.info.parent}/"
    return [
        (Path(path), path.removeprefix(base))
        for path, _ in distribution.recorded_files() or ()
        if path.endswith(".so") and Path(path).is_file()
    ]


def _for_cuda(environment: Environment, paths: list[Path]) -> list[Path]:
    """Return the one library that bitsandbytes chooses, none for a torch without CUDA."""
    build = torch_build(environment)
    if not isinstance(build, TorchBuild) or build.cuda is None:
        return []
    version = environment.installed[_BITSANDBYTES].version
    chosen = cuda_library(version, [str(path) for path in paths], build.cuda)
    return [Path(chosen)] if chosen else []


def cuda_library(version: Version, paths: Iterable[str], cuda: tuple[int, int]) -> str | None:
    """Return the one of ``paths`` that this bitsandbytes chooses for a CUDA, None without one.

    That of the same version. From 0.50 on also the newest older one, or else the oldest newer one,
    of the same major version (``bitsandbytes.cextension``).
    """
    found = {}
    for path in paths:
        digits = PurePosixPath(path).stem.removeprefix("libbitsandbytes_cuda")
        if digits.isdigit() and len(digits) >= 3:
            found[int(digits[:-1]), int(digits[-1])] = path
    if cuda in found or version < _TAKES_ANOTHER_MINOR:
        return found.get(cuda)
    same = sorted(each for each in found if each[0] == cuda[0])
    older = [each for each in same if each <= cuda]
    return found[(older or same)[-1 if older else 0]] if same else None


def _run(environment: Environment) -> Iterator[Finding]:
    if environment.probe.system != "Linux":
        system = environment.probe.system
        yield Finding(Severity.NOTE, "grpoenv", f"reads no libraries of {system}", "ELF alone")
        return
    yield from kept_findings("native", _key(environment), lambda: _look(environment))


def _key(environment: Environment) -> str:
    grpoenv = Path(__file__).parents[1]
    read_by = ("elf.py", "linker_search.py", "torch_build.py")
    return key_of(
        environment,
        environment.installed,
        [Path(__file__), *(grpoenv / name for name in read_by)],
        environment.probe.interpreter.executable,
        environment.probe.gpu.answer.value,
        environment.probe.libc,
        environment.use.variables.get("LD_LIBRARY_PATH", ""),
        sorted(system_libraries().items()),
    )


def _look(environment: Environment) -> Made:
    interpreter = Path(environment.probe.interpreter.executable)
    search = LibrarySearch(interpreter, environment.use.variables)
    search.load(_torch_libraries(environment))
    symbols = _Symbols(search.loaded)
    found = [
        finding
        for name, native in NATIVE.items()
        if name in environment.installed
        for finding in _package(environment, name, native, search, symbols)
    ]
    return found, search.paths


def _torch_libraries(environment: Environment) -> list[Path]:
    """Return the libraries of torch on the disk: what conda installs has no RECORD of them."""
    if _TORCH not in environment.installed:
        return []
    package = environment.installed[_TORCH].info.parent / "torch"
    return sorted([*package.glob("_C.*.so"), *package.glob("lib/lib*.so")])


class _Symbols:
    """What the libraries of torch define, read when first asked for."""

    def __init__(self, loaded: Mapping[str, Path]) -> None:
        self._torch = [path for name, path in loaded.items() if _LIBRARY_OF_TORCH.match(name)]
        self._defined: frozenset[str] | None = None

    def missing_in(self, path: Path, siblings: list[Path]) -> list[str]:
        """Return the symbols that ``path`` wants of torch, and that nothing gives."""
        wanted = [name for name in undefined_symbols(path) if _OF_TORCH.search(name)]
        if not wanted or not self._torch:
            return []  # a torch without libraries is for ``files`` and ``requirements`` to report
        if self._defined is None:
            self._defined = frozenset().union(*map(defined_symbols, self._torch))
        missing = [name for name in wanted if name not in self._defined]
        if missing and siblings:
            given = frozenset().union(*map(defined_symbols, siblings))
            missing = [name for name in missing if name not in given]
        return missing


def _package(
    environment: Environment,
    name: NormalizedName,
    native: Native,
    search: LibrarySearch,
    symbols: _Symbols,
) -> Iterator[Finding]:
    wrong: dict[Path, str] = {}
    libraries = libraries_of(environment, name)
    for path in libraries:
        try:
            reason = _reason(environment, path, search, None if name == _TORCH else symbols)
        except (OSError, NotReadable) as error:
            yield Finding(
                Severity.UNDETERMINED,
                environment.label(name),
                f"has a library that cannot be read: {error}",
                str(path),
            )
            return
        if reason:
            wrong[path] = reason
    yield from _system_versions(environment, name, search, set(libraries))
    if wrong and not (native.any_of and _one_whole(libraries, wrong)):
        path, reason = _first(wrong)
        yield Finding(
            severity_of(environment, name),
            environment.label(name),
            f"has a library that cannot be loaded, {path.name}: {reason}; {native.consequence}",
            f"{path} (readelf -d, readelf --dyn-syms)",
        )


def _system_versions(
    environment: Environment, name: NormalizedName, search: LibrarySearch, known: set[Path]
) -> Iterator[Finding]:
    """Yield the first other library of a package that this system is too old for.

    Such ones are loaded for some models only (incident vllm-28612), or by some functions.
    """
    for path, _ in _native_files(environment, name):
        if path in known:
            continue
        try:
            library = search.read(path)
            for soname in _SYSTEM & library.versions.keys():
                found = search.find(soname, library)
                wanted = library.versions[soname]
                if found and (reason := _version_reason(environment, wanted, found, search)):
                    yield Finding(
                        Severity.WARNING,
                        environment.label(name),
                        f"has a library that cannot be loaded where it is needed: {reason}",
                        f"{path} (readelf -V)",
                    )
                    return
        except (OSError, NotReadable):
            continue  # no library that is known to matter


def _one_whole(libraries: list[Path], wrong: Mapping[Path, str]) -> bool:
    """Tell whether all libraries of one build, numbered in their names, are right."""
    builds: dict[str, list[Path]] = {}
    for path in libraries:
        builds.setdefault(re.sub(r"\D", "", path.stem), []).append(path)
    return any(not any(path in wrong for path in build) for build in builds.values())


def _first(wrong: Mapping[Path, str]) -> tuple[Path, str]:
    """Return the library that tells most: one that misses symbols, and not merely FFmpeg."""
    return min(wrong.items(), key=lambda item: ("FFmpeg" in item[1], item[0]))


def _reason(
    environment: Environment, path: Path, search: LibrarySearch, symbols: _Symbols | None
) -> str:
    """Return why ``path`` cannot be loaded, "" if nothing speaks against it."""
    library = search.read(path)
    siblings = []
    missing = []
    for soname in library.needed:
        found = search.find(soname, library) or _beside(path, soname)
        if found is None:
            if soname not in _FROM_DRIVER or environment.probe.gpu.answer is Answer.YES:
                missing.append(soname)
            continue
        if found.parent == path.parent and found.name not in search.loaded:
            siblings.append(found)
        wanted = library.versions.get(soname)
        if reason := _version_reason(environment, wanted, found, search):
            return reason
    if symbols and (undefined := symbols.missing_in(path, siblings)):
        more = f" and {len(undefined) - 1} more" if len(undefined) > 1 else ""
        return f"torch does not define {undefined[0]}{more}{_abi_hint(environment, undefined)}"
    if missing and all(map(_FFMPEG.match, missing)):
        return f"there is no FFmpeg of its kind ({missing[0]} and others)"
    return f"there is no {', '.join(missing)}" if missing else ""


def _abi_hint(environment: Environment, undefined: list[str]) -> str:
    if torch_abi(environment) is False and any(_NEW_STRING in s for s in undefined):
        return ", and was compiled with the new C++ ABI while torch has the old one"
    return ""


def _beside(path: Path, soname: str) -> Path | None:
    """Return a library in the same folder, which packages load by its path before this one."""
    return path.parent / soname if (path.parent / soname).is_file() else None


def _version_reason(
    environment: Environment, wanted: frozenset[str] | None, found: Path, search: LibrarySearch
) -> str:
    """Return the version that ``found`` lacks, "" where it has all that are ``wanted`` of it."""
    if not wanted:
        return ""
    if reason := _glibc_reason(environment, wanted):
        return reason
    defined = search.read(found).defines
    missing = sorted(wanted - defined, key=_natural)
    if not defined or not missing:
        return ""
    family = missing[-1].rpartition("_")[0]
    newest = max((name for name in defined if name.startswith(f"{family}_")), key=_natural)
    return f"it needs {missing[-1]}, and {found} goes up to {newest}"


def _glibc_reason(environment: Environment, wanted: frozenset[str]) -> str:
    """Return the glibc that is too old; the probe tells it, whatever machine this is."""
    release = _GLIBC.fullmatch(environment.probe.libc)
    newest = max(filter(_GLIBC_VERSION.match, wanted), key=_natural, default="")
    if release is None or not newest or _natural(newest) <= _natural(release["version"]):
        return ""
    return f"it needs {newest}, and this is {environment.probe.libc}"


def _natural(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


CHECK = Check(
    "native",
    "the compiled libraries find all that they need: libraries, glibc, libstdc++, torch's symbols",
    _run,
    evidence="the dynamic sections and symbol tables of the libraries themselves",
    seconds=1.0,
)
