"""What check and verify look at beyond two packages: scripts, shims, builds, what the stack needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from depot import Depot
from grpoenv.asked_target import asked_probe, parse_gpu
from grpoenv.checks import Severity, Use
from grpoenv.checks.requirements import marker_environment
from grpoenv.checks.script import cell_place
from grpoenv.gpu import Answer, Gpu, GpuDevice
from grpoenv.gpu_models import capability_of
from resolver.test_check import Answer as CheckAnswer
from resolver.test_check import check, findings, image
from site_packages import Site

T4 = Gpu(Answer.YES, "", "580.82.07", (13, 0), (GpuDevice("T4", (7, 5), 0),))
SHIM = "triton/backends/nvidia/driver.c"
SIZED = '#include <Python.h>\nint f() { return PyArg_ParseTuple(args, "ss#ii", &name); }\n'
TRL = {"trl/__init__.py": "class DPOConfig:\n    pass\n"}


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("T4 (capability 7.5)", (7, 5)),
        ("Tesla T4", (7, 5)),
        ("2x RTX A2000 12GB", (8, 6)),
        ("8x H20", (9, 0)),
        ("T4 x2", (7, 5)),
        ("GTX 1070", (6, 1)),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", (8, 9)),
        ("NVIDIA A100-SXM4-80GB", (8, 0)),
        ("RTX 6000", None),
        ("a toaster", None),
    ],
)
def test_a_gpu_is_known_by_the_name_that_people_give_it(
    name: str, capability: tuple[int, int] | None
) -> None:
    assert capability_of(name) == capability


def test_windows_has_its_own_wheels_and_markers() -> None:
    probe = asked_probe(python_version="3.12", platform="x86_64-windows")
    assert str(probe.tags()[0]) == "cp312-cp312-win_amd64"
    markers = marker_environment(probe)
    assert (markers["sys_platform"], markers["os_name"]) == ("win32", "nt")
    assert (markers["platform_system"], markers["python_version"]) == ("Windows", "3.12")


@pytest.mark.parametrize(
    ("text", "python", "found"),
    [
        (SIZED, "3.12.1", True),
        (f"#define PY_SSIZE_T_CLEAN\n{SIZED}", "3.12.1", False),
        (SIZED, "3.13.0", False),
        (SIZED.replace("#ii", "ii"), "3.12.1", False),
    ],
)
def test_a_shim_that_parses_sizes_has_to_say_so(
    site: Site, text: str, python: str, found: bool
) -> None:
    site.put("triton", "3.2.0", files={SHIM: text})
    probe = site.probe(T4)
    probe = replace(probe, interpreter=replace(probe.interpreter, version=python))
    seen = [f for f in site.findings_for(probe, "toolchain") if "PY_SSIZE_T_CLEAN" in f.message]
    assert [(f.severity, f.culprit) for f in seen] == [(Severity.PROBLEM, "triton 3.2.0")] * found


def test_a_damaged_package_that_the_stack_needs_is_a_problem_and_another_is_none(
    site: Site,
) -> None:
    site.put("trl", "1.16.0", requires=["protobuf"]).put("protobuf", "5").put("other", "1")
    for name in ("protobuf", "other"):
        (site.folder / name / "__init__.py").write_text("of another release\n")
    (finding,) = site.findings("files")
    assert (finding.severity, finding.culprit) == (Severity.PROBLEM, "protobuf 5")


def test_a_gpu_without_a_driver_version_shows_a_torch_without_cuda(site: Site) -> None:
    site.put("torch", "2.8.0", files={"torch/version.py": "cuda = None\n"})
    (finding,) = site.findings("driver", parse_gpu("RTX 5090", "") or T4)
    assert finding.severity is Severity.PROBLEM
    assert finding.message == "is a build without CUDA, and there is a GPU"


def script_findings(site: Site, path: Path, check: str, text: str) -> list[tuple[str, str]]:
    path.write_text(text)
    found = site.findings(check, use=Use(variables={}, scripts=(path,)))
    return [(f.severity.value, f.message.partition(": your")[0]) for f in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from trl import DPOConfig\n", []),
        ("from trl import GRPOConfig\n", [("problem", "ImportError: trl.GRPOConfig")]),
        (
            "import unsloth\nfrom trl import GRPOConfig\n",
            [("warning", "ImportError: trl.GRPOConfig")],
        ),
        ("from trl import (\n", []),
    ],
)
def test_what_a_script_takes_is_looked_up(
    site: Site, tmp_path: Path, text: str, found: list[tuple[str, str]]
) -> None:
    site.put("trl", "0.13.0", files=TRL)
    assert script_findings(site, tmp_path / "train.py", "script-names", text) == found


def test_the_cell_of_a_notebook_is_named(site: Site, tmp_path: Path) -> None:
    site.put("trl", "0.13.0", files=TRL)
    path = tmp_path / "train.ipynb"
    cells = [{"cell_type": "code", "source": text} for text in ("a = 1\nb = 2", "x\ntrl.Missing")]
    cells[1]["source"] = "import trl\ntrl.Missing"
    path.write_text(json.dumps({"cells": cells}))
    (finding,) = site.findings("script-names", use=Use(scripts=(path,)))
    assert finding.culprit == "train.ipynb, cell 2, line 2 with trl 0.13.0"
    assert cell_place(["a\nb", "c"], 3) == (1, ", cell 2, line 1")
    assert cell_place(["a\nb"], 2) == (2, ":2")


@pytest.mark.parametrize(
    ("version", "text", "found"),
    [
        ("4.0.0", "load_dataset('code.py')", 1),
        ("4.0.0", "datasets.load_dataset('a/b/code.py', split='train')", 1),
        ("4.0.0", "load_dataset('trl-lib/tldr')", 0),
        ("3.6.0", "load_dataset('code.py')", 0),
    ],
)
def test_a_data_set_script_is_not_run_from_datasets_4_on(
    site: Site, tmp_path: Path, version: str, text: str, found: int
) -> None:
    site.put("datasets", version)
    seen = script_findings(site, tmp_path / "train.py", "script-data", text)
    assert [severity for severity, _ in seen] == ["problem"] * found


def test_a_script_is_held_against_what_stands_on_the_stack_too(site: Site, tmp_path: Path) -> None:
    site.put("trl", "0.13.0", files=TRL)
    site.put("frame", "2.0", files={"frame/__init__.py": "kept = 1\n"}, requires=["trl"])
    site.put("other", "2.0", files={"other/__init__.py": "kept = 1\n"})
    text = "from frame import kept, gone\nfrom other import gone\n"
    seen = script_findings(site, tmp_path / "train.py", "script-names", text)
    assert [severity for severity, _ in seen] == ["problem"]
    assert "frame.gone" in seen[0][1]


TYPES = {
    "configuration_auto.py": "NAMES = OrderedDict([('llama', 'LlamaConfig')])\nD = {'a': 'B'}\n",
    "auto_mappings.py": 'NAMES.update({"gpt-sw3": "GPT2Config"})\n',
}


@pytest.mark.parametrize(
    ("config", "text", "found"),
    [
        ("qwen3_5", "AutoModel.from_pretrained('org/model')", 1),
        ("qwen3_5", "M = 'org/model'\nGRPOTrainer(model=M, args=a)", 1),
        ("qwen3_5", "M = 'org/model'\nM = 'b'\nAutoModel.from_pretrained(M)", 0),
        ("qwen3_5", "FastModel.from_pretrained(model_name='org/other')", 0),
        ("qwen3_5", "AutoConfig.register('qwen3_5', C)\nf.from_pretrained('org/model')", 0),
        ("qwen3_5", "print('org/model')", 0),
        ("llama", "AutoModel.from_pretrained('org/model')", 0),
        ("gpt-sw3", "AutoModel.from_pretrained('org/model')", 0),
        ("own", "AutoModel.from_pretrained('org/model')", 0),
        ("ministral3", "AutoModel.from_pretrained('org/model')", 0),
    ],
)
@pytest.mark.parametrize("place", ["cache", "folder"])
def test_a_model_of_a_type_that_transformers_does_not_have(
    site: Site, tmp_path: Path, config: str, text: str, found: int, place: str
) -> None:
    files = {f"transformers/models/auto/{name}": source for name, source in TYPES.items()}
    site.put("transformers", "4.57.6", files=files)
    patches = {"unsloth_zoo/patches.py": "CONFIG_MAPPING.register('ministral3', Config)\n"}
    site.put("unsloth_zoo", "2026.1.1", files=patches)
    kept = {
        "cache": tmp_path / "hub" / "models--org--model" / "snapshots" / "abc",
        "folder": tmp_path / "org" / "model",
    }[place]
    kept.mkdir(parents=True)
    own = {"auto_map": {}} if config == "own" else {}
    (kept / "config.json").write_text(json.dumps({"model_type": config, **own}))
    if place == "cache":
        (kept.parents[1] / "refs").mkdir()
        (kept.parents[1] / "refs" / "main").write_text("abc")
    script = tmp_path / "train.py"
    script.write_text(text)
    use = Use(scripts=(script,), variables={"HF_HUB_CACHE": str(tmp_path / "hub")})
    seen = site.findings("script-model", use=use)
    assert [one.severity for one in seen] == [Severity.PROBLEM] * found
    for one in seen:
        assert one.culprit == "transformers 4.57.6"
        line = text.count("\n") + 1
        words = f"'qwen3_5', which is that of org/model (train.py:{line})"
        assert words in one.message
        assert str(kept / "config.json") in one.evidence


@pytest.mark.parametrize(
    ("line", "variables", "found"),
    [
        ("import os\nos.system('pip install --upgrade unsloth_zoo')\n", {}, 1),
        ("import os\nos.system('ls')\nprint('pip install unsloth')\n", {}, 0),
        ("raise ImportError('pip install --upgrade unsloth_zoo')\n", {}, 0),
        (
            (
                "if os.environ.get('UNSLOTH_DISABLE_AUTO_UPDATES', '0') == '0':\n"
                "    subprocess.run(['pip install', 'unsloth_zoo'])\n"
            ),
            {"UNSLOTH_DISABLE_AUTO_UPDATES": "1"},
            0,
        ),
    ],
)
def test_a_package_that_installs_others_when_it_is_imported_is_a_warning(
    site: Site, line: str, variables: dict[str, str], found: int
) -> None:
    site.put("unsloth", "2025.3.9", files={"unsloth/__init__.py": line})
    seen = site.findings("self-update", use=Use(variables=variables))
    assert [f.severity for f in seen] == [Severity.WARNING] * found


@pytest.fixture
def stocked(depot: Depot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Depot:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    depot.stack("trl-1.0", [depot.wheel("trl", "1.0", files=TRL)])
    depot.wheel("torch", "2.5.1", files={"torch/version.py": "cuda = '12.4'\n"})
    build = {"version": {"torch": "2.6.0+cu124", "cuda": 1204}}
    depot.wheel("xformers", "0.0.29", files={"xformers/cpp_lib.json": json.dumps(build)})
    depot.wheel("unsloth", "2025.3.9", files={"unsloth/__init__.py": ""})
    return depot


def messages(answer: CheckAnswer, severity: str) -> list[str]:
    return [f"{row['culprit']}: {row['message']}" for row in findings(answer, severity)]


def test_check_sees_what_a_package_was_built_for(
    stocked: Depot, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = check(stocked, capsys, "torch", "xformers", "--no-deps", code=0)
    (warning,) = messages(answer, "warning")
    assert warning.startswith("xformers 0.0.29: was built for torch ==2.6.0, and this is torch 2.5")


def test_check_sees_what_an_image_s_own_packages_were_built_for(
    stocked: Depot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = image(tmp_path, "torch==2.5.1+cu118", "xformers==0.0.29")
    answer = check(stocked, capsys, *listed, code=0)
    (warning,) = messages(answer, "warning")
    assert "was built for torch ==2.6.0, and this is torch 2.5.1+cu118" in warning


def test_check_holds_the_gpu_against_its_floor(
    stocked: Depot, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("torch", "unsloth", "--no-deps", "--gpu", "GTX 1070", "--driver", "580.82.07")
    answer = check(stocked, capsys, *words, code=1)
    (problem,) = messages(answer, "problem")
    assert "is too old for unsloth 2025.3.9: they need 7.0" in problem


def test_check_looks_at_a_script(
    stocked: Depot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.py"
    path.write_text("from trl import GRPOConfig\n")
    answer = check(stocked, capsys, "trl", "--no-deps", "--script", str(path), code=1)
    (problem,) = messages(answer, "problem")
    assert problem.startswith("train.py:1 with trl 1.0: ImportError: trl.GRPOConfig: your script")


def test_check_follows_a_package_that_stands_on_the_stack(
    stocked: Depot, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"recipe/__init__.py": "from trl import GRPOConfig\n"}
    stocked.wheel("recipe", "1.0", files=files, requires=["trl"])
    answer = check(stocked, capsys, "recipe", code=1)
    (problem,) = messages(answer, "problem")
    assert problem.startswith("recipe 1.0 with trl 1.0: ImportError: trl.GRPOConfig: import recipe")
