"""What packages were built for, against the Python, the torch, the GPU and the tools that are here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from packaging.version import Version

from depot import NO_GPU
from grpoenv.checks import Severity, Use
from grpoenv.checks.capability import runs_on
from grpoenv.checks.native import cuda_library
from grpoenv.gpu import Answer, Gpu, GpuDevice
from site_packages import Site


def torch(site: Site, version: str = "2.6.0", cuda: str = "'12.4'", archs: str = "") -> Site:
    library = f"\0{archs}\0" if archs else ""
    files = {"torch/version.py": f"cuda = {cuda}\n", "torch/lib/libtorch_python.so": library}
    return site.put("torch", version, files=files)


def gpu(*capability: int, name: str = "a GPU") -> Gpu:
    device = GpuDevice(name, (capability[0], capability[1]), 16_000)
    return Gpu(Answer.YES, "NVML lists 1", "550.54", (12, 4), (device,))


def retag(site: Site, name: str, *tags: str) -> None:
    (path,) = site.folder.glob(f"{name}-*.dist-info/WHEEL")
    path.write_text("Wheel-Version: 1.0\n" + "".join(f"Tag: {tag}\n" for tag in tags))


def test_a_wheel_for_another_python_is_a_problem(site: Site) -> None:
    site.put("torch", "2.6.0")
    retag(site, "torch", "cp312-cp312-linux_x86_64", "cp312-cp312-manylinux_2_28_x86_64")
    (finding,) = site.findings("abi")
    assert finding.severity is Severity.PROBLEM
    assert finding.message == (
        "is a wheel for cp312-cp312-linux_x86_64, cp312-cp312-manylinux_2_28_x86_64, and this is "
        "Python 3.11 on x86_64 with glibc 2.35"
    )


@pytest.mark.parametrize(
    "tag",
    [
        "py3-none-any",
        "cp311-cp311-linux_x86_64",
        "cp311-cp311t-linux_x86_64",
        "cp39-abi3-linux_x86_64",
    ],
)
def test_a_wheel_that_fits_is_no_finding(site: Site, tag: str) -> None:
    site.put("torch", "2.6.0")
    retag(site, "torch", tag)
    assert site.findings("abi") == []


@pytest.mark.parametrize(
    ("name", "version", "files", "words"),
    [
        ("torchvision", "0.21.0", {"version.py": "__version__ = '0.21.0+cu124'"}, None),
        ("torchvision", "0.21.0", {"version.py": "__version__ = '0.21.0+cu126'"}, None),
        ("torchvision", "0.21.0", {"version.py": "__version__ = '0.21.0+cpu'"}, None),
        ("torchvision", "0.21.0+cu118", {}, "CUDA 11, and torch 2.6.0 for CUDA 12.4"),
        ("torchaudio", "2.6.0", {"version.py": "__version__='2.6.0+cu130'"}, "CUDA 13, and"),
        ("flash-attn", "2.7.4+cu12torch2.6cxx11abiFALSE", {}, None),
        ("flash-attn", "2.7.4+cu12torch2.5cxx11abiFALSE", {}, "torch ==2.5.*, and this is"),
        ("flash-attn", "2.7.4+cu12torch2.6cxx11abiTRUE", {}, "the new C++ ABI (cxx11abiTRUE)"),
        ("flash-attn", "2.7.4", {}, None),
        ("torchcodec", "0.2.1", {}, None),
        ("torchcodec", "0.10.0", {}, "torch ==2.10.*, and this is torch 2.6.0"),
        ("torchcodec", "0.17.0", {}, "torch >=2.11, and this is torch 2.6.0"),
        ("torchao", "0.12.0", {}, None),
        ("torchao", "0.16.0", {}, "torch ==2.10.0, and this is torch 2.6.0"),
        ("torchao", "0.17.0", {}, "torch >=2.11, and this is torch 2.6.0"),
        ("vllm", "0.8.5+cu118", {}, "CUDA 11, and"),
    ],
)
def test_what_a_package_says_it_was_built_for_is_held_against_torch(
    site: Site, name: str, version: str, files: dict[str, str], words: str | None
) -> None:
    torch(site)
    cmake = site.folder / "torch" / "share" / "cmake" / "Torch" / "TorchConfig.cmake"
    cmake.parent.mkdir(parents=True)
    cmake.write_text('set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=0")\n')
    module = name.replace("-", "_")
    site.put(name, version, files={f"{module}/{path}": text for path, text in files.items()})
    found = site.findings("abi")
    assert len(found) == (words is not None)
    if words:
        assert f"was built for {words}" in found[0].message


def test_a_flash_attn_from_a_file_says_in_its_name_what_it_was_built_for(site: Site) -> None:
    torch(site)
    site.put("flash-attn", "2.8.0")
    (info,) = site.folder.glob("flash_attn-*.dist-info")
    url = (
        "https://x.invalid/flash_attn-2.8.0%2Bcu12torch2.7cxx11abiTRUE-cp311-cp311-linux_x86_64.whl"
    )
    (info / "direct_url.json").write_text(json.dumps({"url": url}))
    (finding,) = site.findings("abi")
    assert finding.severity is Severity.PROBLEM
    assert "was built for torch ==2.7.*, and this is torch 2.6.0" in finding.message


@pytest.mark.parametrize(
    ("version", "build", "installed", "words"),
    [
        ("0.0.29", {"torch": "2.6.0+cu124", "cuda": 1204}, "2.6.0", None),
        ("0.0.29", {"torch": "2.5.1+cu124", "cuda": 1204}, "2.6.0", "torch ==2.5.1, and this is"),
        ("0.0.35", {"torch": "2.10.0+cu128", "cuda": 1208}, "2.11.0", None),
        ("0.0.35", {"torch": "2.10.0+cu128", "cuda": 1208}, "2.6.0", "torch >=2.10, and this is"),
        ("0.0.35", {"torch": "2.10.0+cu130", "cuda": 1300}, "2.10.0", "CUDA 13, and torch 2.10.0"),
        ("0.0.35", {"torch": "2.10.0", "cuda": None}, "2.10.0", None),
        ("0.0.35", {}, "2.6.0", None),
    ],
)
def test_xformers_names_its_build(
    site: Site, version: str, build: dict[str, object], installed: str, words: str | None
) -> None:
    torch(site, installed)
    text = json.dumps({"version": build})
    site.put("xformers", version, files={"xformers/cpp_lib.json": text})
    found = site.findings("abi")
    assert [f.severity for f in found] == ([Severity.WARNING] if words else [])
    assert all(words in f.message for f in found if words)


@pytest.mark.parametrize(
    ("version", "cuda", "taken"),
    [
        ("0.43.2", (12, 4), "12.4"),
        ("0.43.2", (12, 6), None),
        ("0.49.2", (12, 6), None),
        ("0.50.0", (12, 6), "12.5"),
        ("0.50.0", (12, 0), "12.4"),
        ("0.50.0", (13, 0), None),
    ],
)
def test_bitsandbytes_takes_another_minor_version_of_cuda_only_since_0_50(
    version: str, cuda: tuple[int, int], taken: str | None
) -> None:
    folder = "bitsandbytes/libbitsandbytes"
    paths = [f"{folder}_cuda118.so", f"{folder}_cuda124.so", f"{folder}_cuda125.so"]
    chosen = cuda_library(Version(version), [f"{folder}_cpu.so", *paths], cuda)
    assert chosen == (taken and f"{folder}_cuda{taken.replace('.', '')}.so")


@pytest.mark.parametrize(
    ("cuda", "others", "severity"),
    [
        ("'13.0'", (), Severity.WARNING),
        ("'13.0'", ("unsloth",), Severity.PROBLEM),
        ("'12.8'", ("unsloth",), None),
        ("None", ("unsloth",), None),
    ],
)
def test_bitsandbytes_without_a_library_for_the_cuda_of_torch(
    site: Site, cuda: str, others: tuple[str, ...], severity: Severity | None
) -> None:
    torch(site, "2.11.0", cuda)
    files = {f"bitsandbytes/libbitsandbytes_cuda{each}.so": "" for each in ("118", "128")}
    site.put("bitsandbytes", "0.46.0", files=files)
    for name in others:
        site.put(name, "2026.1.1")
    found = [one for one in site.findings("abi") if one.culprit == "bitsandbytes 0.46.0"]
    assert [one.severity for one in found] == ([severity] if severity else [])
    for one in found:
        assert "no library for CUDA 13.0, which torch 2.11.0 is built for" in one.message
        assert one.evidence == "libbitsandbytes_cuda118.so, libbitsandbytes_cuda128.so"


@pytest.mark.parametrize(
    ("version", "others", "severity"),
    [
        ("3.2.0.post21", ("unsloth",), None),
        ("3.3.1.post19", (), Severity.WARNING),
        ("3.3.1.post19", ("unsloth",), Severity.PROBLEM),
    ],
)
def test_the_triton_for_windows_has_the_minor_version_that_torch_declares_for_linux(
    site: Site, version: str, others: tuple[str, ...], severity: Severity | None
) -> None:
    needs = ["jinja2", 'triton==3.2.0; platform_system == "Linux"']
    files = {"torch/version.py": "cuda = '12.4'\n"}
    site.put("torch", "2.6.0", requires=needs, files=files)
    site.put("triton-windows", version)
    for name in others:
        site.put(name, "2026.1.1")
    found = site.findings("abi")
    assert [one.severity for one in found] == ([severity] if severity else [])
    for one in found:
        assert one.culprit == f"triton-windows {version}"
        assert "in the place of triton 3.2.0, which torch 2.6.0 is made for" in one.message


@pytest.mark.parametrize(("unsloth", "severity"), [("", "problem"), ("torchcodec", "warning")])
def test_an_unsloth_that_does_not_look_at_torchcodec_ends_with_it(
    site: Site, unsloth: str, severity: str
) -> None:
    torch(site)
    site.put("unsloth", "1", files={"unsloth/import_fixes.py": f"# {unsloth}\n"})
    site.put("torchcodec", "0.10.0")
    (finding,) = site.findings("abi")
    assert finding.severity.value == severity


@pytest.mark.parametrize(
    ("capability", "architectures", "fits"),
    [
        ((8, 6), "sm_80", True),
        ((8, 9), "sm_75 sm_80 sm_86 sm_90", True),
        ((8, 0), "sm_86", False),
        ((6, 1), "sm_75 sm_80", False),
        ((6, 1), "sm_50 sm_60", True),
        ((12, 0), "sm_80 sm_90", False),
        ((12, 0), "sm_80 compute_90", True),
        ((9, 0), "sm_90a", True),
        ((9, 1), "sm_90a", False),
        ((10, 3), "sm_100f", True),
        ((8, 0), "gfx942", False),
    ],
)
def test_code_runs_within_its_major_version_and_ptx_upwards(
    capability: tuple[int, int], architectures: str, fits: bool
) -> None:
    assert runs_on(capability, architectures.split()) is fits


def test_a_gpu_that_torch_has_no_code_for_is_a_problem(site: Site) -> None:
    torch(site, archs="sm_75 sm_80 sm_86 sm_90")
    (finding,) = site.findings("capability", gpu(12, 0))
    assert (finding.severity, finding.culprit) == (Severity.PROBLEM, "torch 2.6.0")
    assert "only for sm_75 sm_80 sm_86 sm_90: every CUDA call" in finding.message


def test_a_torch_that_names_no_architectures_is_undetermined(site: Site) -> None:
    (finding,) = torch(site).findings("capability", gpu(8, 0))
    assert finding.severity is Severity.UNDETERMINED


def test_a_gpu_without_bf16_is_a_warning_and_one_with_it_is_none(site: Site) -> None:
    torch(site, archs="sm_75 sm_80")
    (finding,) = site.findings("capability", gpu(7, 5, name="Tesla T4"))
    assert (finding.severity, finding.culprit) == (
        Severity.WARNING,
        "Tesla T4, compute capability 7.5",
    )
    assert site.findings("capability", gpu(8, 0)) == []


def test_a_gpu_too_old_for_triton_is_a_problem_with_unsloth(site: Site) -> None:
    torch(site, archs="sm_60").put("unsloth", "2025.3.9")
    (finding,) = site.findings("capability", gpu(6, 1, name="GTX 1070"))
    assert finding.severity is Severity.PROBLEM
    assert finding.message == "is too old for unsloth 2025.3.9: they need 7.0"


def test_without_a_gpu_the_checks_of_it_say_so(site: Site) -> None:
    torch(site).put("triton", "3.2.0")
    for check in ("capability", "toolchain"):
        (finding,) = site.findings(check, NO_GPU)
        assert finding.severity is Severity.NOTE
        assert finding.message.endswith("no NVIDIA driver is loaded")


@pytest.mark.parametrize(
    ("variables", "severity"), [({}, "warning"), ({"UNSLOTH_ALLOW_CPU": "1"}, "note")]
)
def test_unsloth_without_a_gpu_is_a_warning(
    site: Site, variables: dict[str, str], severity: str
) -> None:
    torch(site).put("unsloth", "2026.1")
    (finding,) = site.findings("capability", NO_GPU, Use(variables=variables))
    assert finding.severity.value == severity


@pytest.fixture
def tools(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Site, Use]:
    """An environment with triton, a compiler, Python.h and the driver's library."""
    from grpoenv.checks import toolchain
    from grpoenv.child import Answered

    site.put("triton", "3.2.0", files={"triton/backends/nvidia/bin/ptxas": "#!/bin/sh\n"})
    (site.folder / "triton" / "backends" / "nvidia" / "bin" / "ptxas").chmod(0o755)
    for path in ("bin/gcc", "include/Python.h", "lib/libcuda.so.1"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch(mode=0o755)
    answer = Answered(0, {"include": str(tmp_path / "include")}, "")
    monkeypatch.setattr(toolchain, "ask", lambda *_, **__: answer)
    monkeypatch.setattr(toolchain, "system_libraries", dict)
    variables = {"PATH": str(tmp_path / "bin"), "LD_LIBRARY_PATH": str(tmp_path / "lib")}
    return site, Use(variables=variables)


def test_a_machine_with_all_tools_is_no_finding(tools: tuple[Site, Use]) -> None:
    site, use = tools
    assert site.findings("toolchain", gpu(8, 0), use) == []


@pytest.mark.parametrize(
    ("path", "words", "remedy"),
    [
        (
            "bin/gcc",
            "needs a C compiler (gcc or clang) for its first kernel",
            "apt-get install gcc",
        ),
        ("include/Python.h", "needs Python.h of Python 3.11", "apt-get install python3.11-dev"),
        ("site-packages/triton/backends/nvidia/bin/ptxas", "has no ptxas that can be run", None),
        ("lib/libcuda.so.1", "does not find it although the driver is loaded", "ldconfig"),
    ],
)
def test_a_tool_that_is_gone_is_a_problem(
    tools: tuple[Site, Use], tmp_path: Path, path: str, words: str, remedy: str | None
) -> None:
    site, use = tools
    os.unlink(tmp_path / path)
    (finding,) = site.findings("toolchain", gpu(8, 0), use)
    assert finding.severity is Severity.PROBLEM
    assert words in finding.message
    assert remedy is None or finding.remedy == remedy
