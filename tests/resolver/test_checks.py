"""Each check on environments made for it: sound, broken, and not to be determined."""

from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from depot import NO_GPU, Depot
from grpoenv._data import data_paths
from grpoenv.checks import CHECKS, Finding, Severity
from grpoenv.gpu import Answer, Gpu
from grpoenv.installed_stack import write_installed_stack
from grpoenv.linker.keys import required_keys
from grpoenv.matrix import Matrix
from grpoenv.matrix_file import load_matrix
from grpoenv.private_cache import user_cache_folder
from grpoenv.verify import Verdict, verify
from site_packages import Site

DRIVER = Gpu(Answer.YES, "NVML", "550.54", (12, 4))


def run(site: Site, check: str, matrix: Matrix | None = None, gpu: Gpu = NO_GPU) -> list[Finding]:
    verdict = verdict_of(site, matrix or Matrix(Path("none")), gpu)
    return [finding for finding in verdict.findings if finding.check == check]


def verdict_of(site: Site, matrix: Matrix, gpu: Gpu = NO_GPU) -> Verdict:
    return verify(site.probe(gpu), matrix, data_paths())


def test_a_sound_environment_has_no_problems(site: Site) -> None:
    site.put("trl", "1.0", requires=["torch>=2"]).put("torch", "2.6.0")
    assert verdict_of(site, Matrix(Path("none"))).problems == ()


def test_an_empty_environment_is_a_problem_not_a_pass(site: Site) -> None:
    (finding,) = run(site, "stack")
    assert (finding.severity, finding.message) == (
        Severity.PROBLEM,
        "neither of them is installed",
    )


def test_a_requirement_that_is_not_met_names_both_sides(site: Site) -> None:
    site.put("trl", "1.0", requires=["transformers>=5", "peft ; extra == 'peft'"])
    site.put("transformers", "4.49.0")
    (finding,) = run(site, "requirements")
    assert (finding.severity, finding.culprit) == (Severity.PROBLEM, "transformers 4.49.0")
    assert finding.message == "trl 1.0 needs transformers>=5"


def test_missing_requirements_are_listed_together(site: Site) -> None:
    site.put("trl", "1.0", requires=["transformers>=5", "accelerate"])
    (finding,) = run(site, "requirements")
    assert finding.message == (
        "2 of its requirements are not installed: transformers>=5, accelerate"
    )


def test_an_environment_without_a_trainer_is_a_warning(site: Site) -> None:
    site.put("torch", "2.6.0")
    (finding,) = run(site, "stack")
    assert finding.severity is Severity.WARNING


def test_an_extra_that_a_requirement_asks_for_is_followed(site: Site) -> None:
    site.put("torch", "2.14", requires=["cuda-toolkit[cublas]==13.0"])
    site.put(
        "cuda-toolkit", "13.0", requires=["cublas==13.1 ; extra == 'cublas'", "x ; extra=='y'"]
    )
    site.put("cublas", "12.0")
    (finding,) = run(site, "requirements")
    assert (finding.severity, finding.message) == (
        Severity.PROBLEM,
        "cuda-toolkit 13.0 needs cublas==13.1",
    )
    assert finding.chain == ("torch 2.14", "cuda-toolkit 13.0", "cublas 12.0")


def test_extras_that_ask_for_each_other_come_to_an_end(site: Site) -> None:
    site.put("trl", "1", requires=["a[x]"])
    site.put("a", "1", requires=["b[x] ; extra == 'x'"])
    site.put("b", "1", requires=["a[y] ; extra == 'x'", "missing ; extra == 'z'"])
    assert run(site, "requirements") == []


def test_conflicts_of_packages_that_are_none_of_ours_are_notes(site: Site) -> None:
    site.put("tensorflow", "2", requires=["protobuf>=5"]).put("protobuf", "3.20.3")
    (finding,) = run(site, "requirements")
    assert finding.severity is Severity.NOTE


def test_markers_are_evaluated_for_the_target_not_for_us(site: Site) -> None:
    site.put("trl", "1.0", requires=["tomli ; python_version < '3.11'", "x ; python_version>'3'"])
    (finding,) = run(site, "requirements")
    assert finding.message == "1 of its requirements are not installed: x"


def test_a_missing_file_is_found(site: Site) -> None:
    site.put("torch", "2.6.0", files={"torch/lib.so": "x" * 100})
    (site.folder / "torch" / "lib.so").unlink()
    (finding,) = run(site, "files")
    assert finding.culprit == "torch 2.6.0"
    assert finding.message == (
        "1 of its files are missing or changed in size, first "
        f"{site.folder / 'torch' / 'lib.so'} (no such file or directory)"
    )


def test_a_file_of_another_size_is_found(site: Site) -> None:
    site.put("torch", "2.6.0", files={"torch/lib.so": "x" * 100})
    (site.folder / "torch" / "lib.so").write_text("x" * 99)
    (finding,) = run(site, "files")
    assert "(99 bytes, recorded 100)" in finding.message


def test_a_package_without_its_record_is_found(site: Site) -> None:
    site.put("torch", "2.6.0")
    (site.folder / "torch-2.6.0.dist-info" / "RECORD").unlink()
    (finding,) = run(site, "files")
    assert finding.message.startswith("has no RECORD")


def test_a_half_removed_older_copy_is_found(site: Site) -> None:
    site.put("torch", "2.5.0").put("torch", "2.6.0")
    messages = [finding.message for finding in run(site, "files")]
    assert "is there a second time, as 2.5.0: that copy was removed only in part" in messages


IMPORTS = "from unsloth_zoo.rl_replacements import RL_REPLACEMENTS\n"
UNSLOTH = IMPORTS + 'A = RL_REPLACEMENTS["grpo_compute_loss_slow"]\n'


def put_pair(site: Site, unsloth: str, zoo: str) -> None:
    site.put("unsloth", "2025.3.15", files={"unsloth/__init__.py": unsloth})
    zoo_files = {"unsloth_zoo/__init__.py": "", "unsloth_zoo/rl_replacements.py": zoo}
    site.put("unsloth_zoo", "2025.3.9", files=zoo_files)


def linkage_of(site: Site) -> list[Finding]:
    return [f for f in run(site, "linkage") if f.severity is not Severity.NOTE]


def test_the_seed_break_is_named_with_key_versions_and_line(site: Site) -> None:
    put_pair(site, UNSLOTH, 'RL_REPLACEMENTS = dict()\nRL_REPLACEMENTS["x"] = 1\n')
    (finding,) = linkage_of(site)
    assert finding.severity is Severity.PROBLEM
    assert finding.culprit == "unsloth 2025.3.15 with unsloth-zoo 2025.3.9"
    assert finding.message == (
        "KeyError: unsloth_zoo.rl_replacements.RL_REPLACEMENTS['grpo_compute_loss_slow']: "
        "import unsloth fails, because unsloth 2025.3.15 reads it and "
        f"{site.folder}/unsloth_zoo/rl_replacements.py does not define it"
    )
    assert finding.evidence == f"{site.folder}/unsloth/__init__.py:2"


def test_a_key_that_is_defined_is_no_finding(site: Site) -> None:
    put_pair(site, UNSLOTH, 'RL_REPLACEMENTS = {"grpo_compute_loss_slow": 1}\n')
    assert linkage_of(site) == []


def test_a_zoo_that_does_not_parse_is_undetermined(site: Site) -> None:
    put_pair(site, UNSLOTH, "def (:\n")
    (finding,) = linkage_of(site)
    assert finding.severity is Severity.UNDETERMINED


def test_what_only_an_option_reaches_is_a_warning(site: Site) -> None:
    put_pair(site, "import os\nif os.environ.get('X'):\n    from unsloth_zoo import gone\n", "")
    (finding,) = linkage_of(site)
    assert finding.severity is Severity.WARNING


def test_a_package_that_is_not_there_is_named_once_and_left_to_its_declared_range(
    site: Site,
) -> None:
    source = "import torch\nimport trl\nimport torch.nn\nfrom trl.trainer import x\n"
    site.put("unsloth", "2026.1.1", files={"unsloth/__init__.py": source}, requires=["trl"])
    (finding,) = linkage_of(site)
    assert finding.culprit == "unsloth 2026.1.1"
    assert finding.message == (
        "ModuleNotFoundError: torch: import unsloth fails, because unsloth 2026.1.1 imports it and "
        "torch is not installed (1 more place)"
    )
    assert finding.evidence.endswith("unsloth/__init__.py:1")


def test_what_no_range_declares_and_is_not_there_is_named_where_its_module_has_its_name(
    site: Site,
) -> None:
    source = "import requests\nimport yaml\n"
    site.put("unsloth", "2026.1.1", files={"unsloth/__init__.py": source})
    (finding,) = linkage_of(site)
    assert finding.severity is Severity.PROBLEM
    assert finding.message.endswith(
        "because unsloth 2026.1.1 imports it and requests is not installed"
    )
    site.put("requests", "2.32.5", files={"requests/__init__.py": ""})
    assert linkage_of(site) == []


def test_a_linkage_is_kept_until_a_source_changes(site: Site) -> None:
    put_pair(site, UNSLOTH, 'RL_REPLACEMENTS = {"grpo_compute_loss_slow": 1}\n')
    first = run(site, "linkage")
    (kept,) = (user_cache_folder()).glob("linkage-*.json")
    before = kept.stat().st_mtime_ns
    assert run(site, "linkage") == first
    assert kept.stat().st_mtime_ns == before
    (site.folder / "unsloth_zoo" / "rl_replacements.py").write_text("RL_REPLACEMENTS = {}\n")
    (finding,) = linkage_of(site)
    assert finding.severity is Severity.PROBLEM


def test_a_kept_linkage_that_was_spoilt_is_made_again(site: Site) -> None:
    put_pair(site, UNSLOTH, 'RL_REPLACEMENTS = {"grpo_compute_loss_slow": 1}\n')
    first = run(site, "linkage")
    (kept,) = (user_cache_folder()).glob("linkage-*.json")
    kept.write_text('{"key": 1}')
    assert run(site, "linkage") == first


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ('x = RL_REPLACEMENTS["a"]', {"a"}),
        ('def f():\n    return RL_REPLACEMENTS["a"]', {"a"}),
        ('x = RL_REPLACEMENTS.get("a")', set()),
        ('try:\n    x = RL_REPLACEMENTS["a"]\nexcept KeyError:\n    x = None', set()),
        ('try:\n    x = RL_REPLACEMENTS["a"]\nexcept OSError:\n    x = None', {"a"}),
        ('RL_REPLACEMENTS["a"] = 1', set()),
        ("x = RL_REPLACEMENTS[name]", set()),
        ('x = OTHER["a"]', set()),
    ],
)
def test_the_keys_that_a_source_requires(source: str, keys: set[str]) -> None:
    assert required_keys(source, "RL_REPLACEMENTS") == keys


def test_a_known_break_is_reported_with_its_reference(site: Site) -> None:
    put_pair(site, "", "")
    (finding,) = run(site, "breaks", load_matrix(data_paths().matrix))
    assert "KeyError: 'grpo_compute_loss_slow'" in finding.message
    assert "https://github.com/unslothai/unsloth/issues/2015" in finding.evidence
    assert finding.remedy.startswith("grpoenv install --python /env/bin/python --stack unsloth")


def test_a_known_break_is_evidence_of_what_the_linker_finds_itself(site: Site) -> None:
    put_pair(site, UNSLOTH, "RL_REPLACEMENTS = dict()\n")
    verdict = verdict_of(site, load_matrix(data_paths().matrix))
    (finding,) = (one for one in verdict.problems if one.check in ("breaks", "linkage"))
    assert finding.evidence == (
        f"{site.folder}/unsloth/__init__.py:2; break unsloth-2015, seen 2026-11-23, "
        "https://github.com/unslothai/unsloth/issues/2015"
    )


@pytest.mark.parametrize(
    ("version_py", "gpu", "severity", "words"),
    [
        ("cuda: str | None = '12.4'\n", DRIVER, None, ""),
        ("cuda = '11.8'\n", DRIVER, None, ""),
        ("cuda: Optional[str] = '13.0'\n", DRIVER, Severity.PROBLEM, "is built for CUDA 13.0"),
        ("cuda = None\n", DRIVER, Severity.PROBLEM, "is a build without CUDA"),
        ("", DRIVER, Severity.UNDETERMINED, "names no CUDA version"),
        ("cuda = None\n", NO_GPU, Severity.NOTE, "no NVIDIA driver is loaded"),
        ("cuda = None\n", Gpu(Answer.UNKNOWN, "hung"), Severity.UNDETERMINED, "hung"),
    ],
)
def test_torch_is_held_against_the_driver(
    site: Site, version_py: str, gpu: Gpu, severity: Severity | None, words: str
) -> None:
    site.put("torch", "2.6.0", files={"torch/version.py": version_py})
    found = run(site, "driver", gpu=gpu)
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    assert all(words in finding.message for finding in found)


@pytest.fixture
def installed(depot: Depot, site: Site) -> tuple[Depot, Site]:
    """An environment that grpoenv installed as the one stack of a depot."""
    pins = [depot.wheel("trl", "1.0"), depot.wheel("tqdm", "4")]
    depot.stack("one", pins, python="3.11")
    text = depot.data.matrix.read_text().replace('"tqdm" = "4"\n', "")
    depot.data.matrix.write_text(text)
    site.put("trl", "1.0").put("tqdm", "4")
    (site.folder / ".grpoenv").mkdir()
    stack = depot.matrix().stacks[0]
    write_installed_stack(site.probe().interpreter, stack, stack.targets[0])
    return depot, site


def drift(installed: tuple[Depot, Site]) -> tuple[list[Finding], Verdict]:
    depot, site = installed
    verdict = verify(site.probe(), depot.matrix(), depot.data)
    return [finding for finding in verdict.findings if finding.check == "stack"], verdict


def remove(site: Site, name: str) -> None:
    import shutil

    for path in site.folder.glob(f"{canonicalize_name(name)}*"):
        shutil.rmtree(path)


def test_the_installed_stack_is_known_and_sound(installed: tuple[Depot, Site]) -> None:
    found, verdict = drift(installed)
    assert (found, verdict.stack) == ([], "one")


def test_another_version_of_a_main_package_is_a_problem(installed: tuple[Depot, Site]) -> None:
    remove(installed[1], "trl")
    installed[1].put("trl", "1.1")
    (finding,), verdict = drift(installed)
    assert (finding.severity, finding.culprit) == (Severity.PROBLEM, "trl 1.1")
    assert finding.message == "is installed, and stack one was tested with 1.0"
    assert verdict.problems[0].remedy.endswith("--stack one")


def test_another_version_of_a_lesser_package_is_a_warning(installed: tuple[Depot, Site]) -> None:
    remove(installed[1], "tqdm")
    installed[1].put("tqdm", "5")
    (finding,), verdict = drift(installed)
    assert finding.severity is Severity.WARNING
    assert verdict.problems == ()


def test_a_package_that_is_gone_is_a_problem(installed: tuple[Depot, Site]) -> None:
    remove(installed[1], "tqdm")
    (finding,), _ = drift(installed)
    assert (finding.severity, finding.culprit) == (Severity.PROBLEM, "tqdm")


def test_a_record_that_cannot_be_read_counts_as_none(installed: tuple[Depot, Site]) -> None:
    (installed[1].folder / ".grpoenv" / "stack.json").write_text("{")
    (finding,), verdict = drift(installed)
    assert finding.severity is Severity.NOTE
    assert verdict.stack == ""


def test_every_check_says_what_it_proves_where_that_can_be_seen_and_how_long_it_may_take() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.proves and check.evidence for check in CHECKS)
    assert all(0 < check.seconds <= (300 if check.deep else 10) for check in CHECKS)


@pytest.mark.parametrize(
    ("marker", "missing"),
    [
        ('extra == "more"', False),
        ('python_version > "3" and extra == "more"', False),
        ('(python_version > "3") and (extra == "more")', False),
        ('extra == "more" or python_version > "3"', True),
        ('python_version > "3" or extra == "more"', True),
        ('extra != "more"', True),
        ('extra == "more" and python_version > "3"', False),
        ('python_version > "3"', True),
    ],
)
def test_a_marker_with_an_extra_is_decided_as_it_stands(
    site: Site, marker: str, missing: bool
) -> None:
    site.put("trl", "1.16.0", requires=[f"lacking; {marker}"])
    problems = [f for f in run(site, "requirements") if f.severity is Severity.PROBLEM]
    assert bool(problems) is missing
