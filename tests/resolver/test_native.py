"""Native libraries, compiled for the occasion: each way in which one cannot be loaded."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpoenv.checks import Severity
from grpoenv.elf import (
    NotReadable,
    defined_symbols,
    read_shared_object,
    undefined_symbols,
)
from grpoenv.linker_search import LibrarySearch, system_libraries
from site_packages import Site

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
TORCH = {f"torch/{name}": "" for name in ("lib/libtorch_cpu.so", "lib/libc10.so", "version.py")}


@pytest.fixture
def compile_library(tmp_path: Path) -> Callable[..., Path]:
    def compile_(path: Path, source: str, *options: str | Path) -> Path:
        code = tmp_path / "source.c"
        code.write_text(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        command = ["cc", "-shared", "-fPIC", "-o", path, code, *options]
        subprocess.run(command, check=True)
        return path

    return compile_


@pytest.fixture
def stack(site: Site, compile_library: Callable[..., Path]) -> Site:
    """A torch of two libraries, and an xformers that is linked with them."""
    site.put("torch", "2.6.0", files=TORCH).put("xformers", "1", files={"xformers/_C.so": ""})
    lib = site.folder / "torch" / "lib"
    compile_library(lib / "libc10.so", "int c10_here;", "-Wl,-soname,libc10.so")
    compile_library(
        lib / "libtorch_cpu.so",
        "int torch_here(void) { return 1; }",
        f"-L{lib}",
        "-Wl,--no-as-needed",
        "-lc10",
        "-Wl,-soname,libtorch_cpu.so,-rpath,$ORIGIN",
    )
    return site


def link_xformers(site: Site, compile_: Callable[..., Path], source: str, *options: str) -> None:
    lib = site.folder / "torch" / "lib"
    path = site.folder / "xformers" / "_C.so"
    compile_(path, source, f"-L{lib}", "-Wl,--no-as-needed", "-ltorch_cpu", *options)


@needs_compiler
def test_libraries_that_find_all_they_need_are_no_finding(
    stack: Site, compile_library: Callable[..., Path]
) -> None:
    link_xformers(stack, compile_library, "int torch_here(void); int f() { return torch_here(); }")
    assert stack.findings("native") == []


@needs_compiler
def test_a_symbol_that_torch_does_not_define_is_named(
    stack: Site, compile_library: Callable[..., Path]
) -> None:
    link_xformers(stack, compile_library, "int torch_gone(void); int f() { return torch_gone(); }")
    (finding,) = stack.findings("native")
    assert (finding.severity, finding.culprit) == (Severity.WARNING, "xformers 1")
    assert finding.message == (
        "has a library that cannot be loaded, _C.so: torch does not define torch_gone; "
        "xformers goes unused, and attention of PyTorch takes its place"
    )


@needs_compiler
def test_the_other_cxx_abi_is_named(stack: Site, compile_library: Callable[..., Path]) -> None:
    name = (
        "_ZN3c105ErrorC2ENS_14SourceLocationENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
    )
    link_xformers(stack, compile_library, f"int {name}(void); int f() {{ return {name}(); }}")
    cmake = stack.folder / "torch" / "share" / "cmake" / "Torch" / "TorchConfig.cmake"
    cmake.parent.mkdir(parents=True)
    cmake.write_text('set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=0")\n')
    (finding,) = stack.findings("native")
    assert f"{name}, and was compiled with the new C++ ABI while torch has" in finding.message


@needs_compiler
def test_a_torch_without_a_record_raises_no_alarm(
    stack: Site, compile_library: Callable[..., Path]
) -> None:
    link_xformers(stack, compile_library, "int torch_here(void); int f() { return torch_here(); }")
    (info,) = stack.folder.glob("torch-*.dist-info")
    (info / "RECORD").write_text("")
    assert stack.findings("native") == []


@needs_compiler
def test_a_library_that_is_nowhere_is_named(
    stack: Site, compile_library: Callable[..., Path]
) -> None:
    lib = stack.folder / "torch" / "lib"
    cuda = compile_library(lib / "libcudart.so", "int x;", "-Wl,-soname,libcudart.so.99")
    link_xformers(stack, compile_library, "int f;", "-lcudart")
    cuda.unlink()
    (finding,) = stack.findings("native")
    assert "there is no libcudart.so.99;" in finding.message


@needs_compiler
def test_a_dependency_of_torch_itself_that_is_gone_is_a_problem(
    stack: Site, compile_library: Callable[..., Path]
) -> None:
    link_xformers(stack, compile_library, "int f;")
    (stack.folder / "torch" / "lib" / "libc10.so").unlink()
    messages = [f.message for f in stack.findings("native") if f.severity is Severity.PROBLEM]
    assert len(messages) == 1
    assert messages[0].endswith("libtorch_cpu.so: there is no libc10.so; import torch fails")


@needs_compiler
def test_a_symbol_version_that_is_too_new_is_named(
    stack: Site, compile_library: Callable[..., Path], tmp_path: Path
) -> None:
    lib, script = stack.folder / "torch" / "lib", tmp_path / "versions"
    source = "int c10_here; int g(void) { return 1; }"
    options = ("-Wl,-soname,libc10.so", f"-Wl,--version-script={script}")
    script.write_text("GLIBC_2.28 {}; GLIBC_2.32 { global: *; };")
    compile_library(lib / "libc10.so", source, *options)
    link_xformers(stack, compile_library, "int g(void); int f() { return g(); }", "-lc10")
    script.write_text("GLIBC_2.28 { global: *; };")
    compile_library(lib / "libc10.so", source, *options)
    found = [f.message for f in stack.findings("native") if "xformers" in f.culprit]
    assert len(found) == 1
    assert "it needs GLIBC_2.32, and " in found[0]
    assert "goes up to GLIBC_2.28" in found[0]


@needs_compiler
def test_a_library_for_some_models_alone_that_needs_a_newer_system_is_a_warning(
    stack: Site, compile_library: Callable[..., Path], tmp_path: Path
) -> None:
    link_xformers(stack, compile_library, "int f;")
    stack.put("vllm", "1", files={"vllm/flash/fa3.so": ""})
    script = tmp_path / "versions"
    script.write_text("GLIBC_9.99 { global: *; };")
    options = ("-Wl,-soname,libc.so.6", f"-Wl,--version-script={script}", "-nostdlib")
    newer = compile_library(tmp_path / "libnewer.so", "int g(void) { return 1; }", *options)
    path = stack.folder / "vllm" / "flash" / "fa3.so"
    compile_library(path, "int g(void); int f() { return g(); }", newer, "-nostdlib")
    (finding,) = stack.findings("native")
    assert (finding.severity, finding.culprit) == (Severity.WARNING, "vllm 1")
    assert "where it is needed: it needs GLIBC_9.99, and " in finding.message


@needs_compiler
def test_one_build_for_the_ffmpeg_that_is_there_is_enough(
    stack: Site, compile_library: Callable[..., Path]
) -> None:
    names = [f"torchcodec/libtorchcodec_core{n}.so" for n in (4, 5)]
    stack.put("torchcodec", "0.13", files=dict.fromkeys(names, ""))
    lib = stack.folder / "torch" / "lib"
    gone = compile_library(lib / "libffmpeg.so", "int x;", "-Wl,-soname,libavutil.so.56")
    link_xformers(stack, compile_library, "int f;")
    wants = (f"-L{lib}", "-Wl,--no-as-needed", "-lffmpeg")
    compile_library(stack.folder / names[0], "int f;", *wants)
    compile_library(stack.folder / names[1], "int f;")
    gone.unlink()
    assert stack.findings("native") == []
    (stack.folder / names[1]).write_bytes((stack.folder / names[0]).read_bytes())
    (finding,) = stack.findings("native")
    assert "there is no FFmpeg of its kind (libavutil.so.56 and others)" in finding.message


@pytest.mark.parametrize("content", [b"", b"text", b"\x7fELF", b"\x7fELF\x02\x01\x01" + b"\0" * 90])
def test_a_library_that_is_none_is_undetermined(site: Site, content: bytes) -> None:
    site.put("torch", "2.6.0", files=TORCH)
    for name in ("libtorch_cpu.so", "libc10.so"):
        (site.folder / "torch" / "lib" / name).write_bytes(content)
    (finding,) = site.findings("native")
    assert finding.severity is Severity.UNDETERMINED
    assert finding.message.startswith("has a library that cannot be read: ")


@needs_compiler
def test_tables_of_a_library_are_read(compile_library: Callable[..., Path], tmp_path: Path) -> None:
    source = "int used(void); int given(void) { return used(); }"
    path = compile_library(tmp_path / "lib.so", source, "-Wl,-rpath,$ORIGIN/../x:/y")
    assert "given" in defined_symbols(path)
    assert "used" in undefined_symbols(path)
    assert read_shared_object(path).folders == (tmp_path.parent / "x", Path("/y"))


@needs_compiler
def test_a_library_cut_off_anywhere_is_not_readable_or_read(
    compile_library: Callable[..., Path], tmp_path: Path
) -> None:
    raw = compile_library(tmp_path / "lib.so", "int x;").read_bytes()
    cut = tmp_path / "cut.so"
    for size in range(0, len(raw), 97):
        cut.write_bytes(raw[:size])
        try:
            read_shared_object(cut)
            undefined_symbols(cut)
        except NotReadable:
            continue


@needs_compiler
def test_damaged_tables_are_not_readable_or_read(
    compile_library: Callable[..., Path], tmp_path: Path
) -> None:
    source = "#include <stdio.h>\nint f(void) { return puts(0); }"
    raw = compile_library(tmp_path / "lib.so", source).read_bytes()
    damaged = tmp_path / "damaged.so"

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=20))
    def read(changes: list[tuple[int, int]]) -> None:
        changed = bytearray(raw)
        for position, value in changes:
            changed[position] = value
        damaged.write_bytes(changed)
        for reader in (read_shared_object, undefined_symbols):
            with contextlib.suppress(NotReadable):
                reader(damaged)

    read()


def test_the_cache_of_the_dynamic_linker_is_read() -> None:
    text = """2 libs found in cache
\tlibz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1
\tlibz.so.1 (libc6) => /lib/i386-linux-gnu/libz.so.1
"""
    assert system_libraries(text) == {"libz.so.1": Path("/lib/x86_64-linux-gnu/libz.so.1")}


@needs_compiler
def test_the_library_path_goes_before_the_system(
    compile_library: Callable[..., Path], tmp_path: Path
) -> None:
    needing = read_shared_object(compile_library(tmp_path / "a.so", "int x;"))
    mine = compile_library(tmp_path / "lib" / "libc.so.6", "int x;")
    system = {"libc.so.6": Path("/lib/libc.so.6")}
    variables = {"LD_LIBRARY_PATH": f"{mine.parent}:"}
    found = LibrarySearch(Path("/none"), variables, system).find("libc.so.6", needing)
    assert found == mine
    own = replace(needing, folders=(tmp_path / "none",))
    assert LibrarySearch(Path("/none"), {}, system).find("libc.so.6", own) == system["libc.so.6"]


@needs_compiler
def test_what_was_found_is_kept_until_a_library_or_a_folder_changes(
    stack: Site, compile_library: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    link_xformers(stack, compile_library, "int torch_gone(void); int f() { return torch_gone(); }")
    first = stack.findings("native")
    with monkeypatch.context() as patch:
        patch.delattr("grpoenv.checks.native._package")  # looking anew would need it
        assert stack.findings("native") == first
    link_xformers(stack, compile_library, "int f() { return 1; }")
    assert stack.findings("native") == []


@needs_compiler
def test_a_library_that_appears_where_it_was_looked_for_is_seen(
    stack: Site, compile_library: Callable[..., Path], tmp_path: Path
) -> None:
    source, soname = "int other() { return 1; }", "-Wl,-soname,libother.so"
    other = compile_library(tmp_path / "other" / "libother.so", source, soname)
    beside = stack.folder / "xformers" / "lib"
    beside.mkdir(parents=True)
    link_xformers(
        stack, compile_library, "int f() { return 1; }", str(other), "-Wl,-rpath,$ORIGIN/lib"
    )
    (finding,) = stack.findings("native")
    assert "there is no" in finding.message
    shutil.copy(other, beside / other.name)
    assert stack.findings("native") == []


@needs_compiler
def test_a_glibc_that_is_too_old_is_told_by_the_probe(
    stack: Site, compile_library: Callable[..., Path]
) -> None:
    lib = stack.folder / "torch" / "lib"
    script = lib / "newer.map"
    script.write_text("GLIBC_2.32 { global: newer; };\n")
    options = (f"-Wl,--version-script={script}", "-Wl,-soname,libc.so.6", "-nostdlib")
    compile_library(lib / "libnewer.so", "int newer(void) { return 0; }", *options)
    wants = "int newer(void); int f() { return newer(); }"
    link_xformers(stack, compile_library, wants, "-nostdlib", "-lnewer")
    (lib / "libnewer.so").unlink()
    assert stack.findings_for(stack.probe(libc="glibc 2.35"), "native") == []
    (finding,) = stack.findings_for(stack.probe(libc="glibc 2.28"), "native")
    assert "it needs GLIBC_2.32, and this is glibc 2.28;" in finding.message
