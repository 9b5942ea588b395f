"""What is around an environment: the kernel, the working folder, the script, caches, file contents."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from grpoenv.checks import Environment, Severity, Use
from grpoenv.checks.process import findings_for
from grpoenv.checks.script import read_script
from grpoenv.child import Answered, Failed, ask
from grpoenv.errors import InputError
from grpoenv.matrix import Matrix
from site_packages import Site

HEAD = '"""\n2025.7.1\n{unsloth}\n4.53.0\n0.19.0\n__UNSLOTH_VERSIONING__\n"""\n'


def put_unsloth(site: Site, *, compares: bool) -> Site:
    text = "__UNSLOTH_VERSIONING__" * (2 if compares else 1)
    site.put("unsloth", "2025.8.1").put("transformers", "4.53.0").put("trl", "0.19.0")
    return site.put("unsloth-zoo", "2025.7.1", files={"unsloth_zoo/compiler.py": f"# {text}\n"})


def generated(folder: Path, unsloth: str) -> Path:
    cache = folder / "unsloth_compiled_cache"
    cache.mkdir()
    (cache / "UnslothGRPOTrainer.py").write_text(HEAD.format(unsloth=unsloth) if unsloth else "x\n")
    (cache / "moe_utils.py").write_text("no stamp, and none is expected\n")
    return cache


@pytest.mark.parametrize(("compares", "severity"), [(True, "warning"), (False, "problem")])
def test_trainers_generated_for_other_versions_are_found(
    site: Site, tmp_path: Path, compares: bool, severity: str
) -> None:
    cache = generated(tmp_path, "2025.7.9")
    (finding,) = put_unsloth(site, compares=compares).findings("compiled-cache", use=Use(tmp_path))
    assert (finding.severity.value, finding.culprit) == (severity, str(cache))
    assert "made by unsloth 2025.7.9, and unsloth-zoo 2025.7.1, unsloth 2025.8.1" in finding.message
    assert finding.remedy == f"rm -r {cache}"


def test_trainers_of_the_installed_versions_are_no_finding(site: Site, tmp_path: Path) -> None:
    generated(tmp_path, "2025.8.1")
    assert put_unsloth(site, compares=True).findings("compiled-cache", use=Use(tmp_path)) == []


def test_trainers_without_a_stamp_are_of_an_old_unsloth(site: Site, tmp_path: Path) -> None:
    generated(tmp_path, "")
    (finding,) = put_unsloth(site, compares=True).findings("compiled-cache", use=Use(tmp_path))
    assert "an unsloth that did not yet note its versions" in finding.message


def check_script(site: Site, path: Path, text: str) -> list[tuple[str, int, str]]:
    path.write_text(text)
    found = site.put("unsloth", "2026.1").findings("script", use=Use(scripts=(path,)))
    return [(f.severity.value, f.line, f.message.split(":")[0]) for f in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import unsloth\nimport trl\n", []),
        ("import trl\n", []),
        ("import trl\nimport unsloth\n", [("problem", 1, "imports trl before unsloth (train.py")]),
        (
            "from peft import x\nif 1:\n    import transformers.utils\nfrom unsloth import y\n",
            [
                ("problem", 1, "imports peft before unsloth (train.py"),
                ("problem", 3, "imports transformers before unsloth (train.py"),
            ],
        ),
        ("import accelerate\nimport unsloth\n", [("warning", 1, "imports accelerate before un")]),
        ("def f():\n    import trl\nimport unsloth\n", []),
        ("if TYPE_CHECKING:\n    import trl\nimport unsloth\n", []),
        ("from .trl import x\nimport unsloth\n", []),
        ("import grpoenv_runtime as g\ng.heal()\nimport unsloth\n", []),
        (
            "from grpoenv_runtime import heal\nimport unsloth\nheal()\n",
            [("problem", 3, "calls grpoenv_runtime.heal() after unsloth is imported (train.py")],
        ),
        ("import (\n", [("undetermined", 0, "does not parse")]),
        ("x = '" + "(" * 5000, [("undetermined", 0, "does not parse")]),
    ],
)
def test_the_order_of_imports(
    site: Site, tmp_path: Path, text: str, found: list[tuple[str, int, str]]
) -> None:
    seen = check_script(site, tmp_path / "train.py", text)
    assert [(s, line, m[: len(f[2])]) for (s, line, m), f in zip(seen, found, strict=True)] == found


def test_a_notebook_is_read_cell_by_cell_without_its_magics(site: Site, tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["import trl"]},
        {"cell_type": "code", "source": ["%%capture\n", "!pip install trl \\\n", "   unsloth\n"]},
        {"cell_type": "code", "source": ["%%bash\n", "import nothing\n"]},
        {"cell_type": "code", "source": "files = !ls\ntrl?\nif 1:\n  !ls\nfrom trl import X"},
        {"cell_type": "code", "source": ["from unsloth import FastLanguageModel"]},
    ]
    path = tmp_path / "train.ipynb"
    found = check_script(site, path, json.dumps({"cells": cells}))
    assert found == [("problem", 5, "imports trl before unsloth (train.ipynb, cell 4, line 1)")]


def test_a_notebook_that_is_none_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "train.ipynb"
    path.write_text("{}")
    with pytest.raises(InputError, match=r"is no notebook: KeyError\('cells'\)"):
        read_script(path)


def test_a_script_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file or directory"):
        read_script(tmp_path / "none.py")


TRL = {
    "trl/trainer/grpo_config.py": "class GRPOConfig(_BaseConfig):\n    beta: float = 0.0\n",
    "trl/trainer/base_config.py": "class _BaseConfig(TrainingArguments):\n    bf16: bool = 1\n",
}
TRANSFORMERS = {
    "transformers/training_args.py": (
        "class TrainingArguments:\n    max_steps: int = 0\n    x: ClassVar[int] = 0\n"
    ),
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("GRPOConfig(beta=0.1, bf16=True, max_steps=3, **more)", None),
        ("trl.GRPOConfig(beta=0.1,\n  max_step=3)", ("problem", "(it has 'max_steps')")),
        ("GRPOConfig(x=1)", ("problem", "gives GRPOConfig the keyword 'x', which trl 1.16.0 does")),
        ("import unsloth\nGRPOConfig(x=1)", ("warning", "'x', which")),
        ("SFTConfig(x=1)", None),
        ("GRPOConfig(", None),
    ],
)
def test_the_keywords_of_the_config(
    site: Site, tmp_path: Path, text: str, found: tuple[str, str] | None
) -> None:
    path = tmp_path / "train.py"
    path.write_text(text)
    site.put("trl", "1.16.0", files=TRL).put("transformers", "5.0", files=TRANSFORMERS)
    seen = site.findings("script-config", use=Use(scripts=(path,)))
    assert [finding.severity.value for finding in seen] == ([found[0]] if found else [])
    assert all(found[1] in finding.message for finding in seen if found)


def test_a_keyword_that_the_config_does_not_have_is_told_once(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("from trl import GRPOConfig\nGRPOConfig(x=1)")
    config = (
        "from dataclasses import dataclass\n@dataclass\nclass GRPOConfig:\n    beta: float = 0.0\n"
    )
    top = {"trl/__init__.py": "from .trainer.grpo_config import GRPOConfig"}
    site.put("trl", "1.16.0", files={**top, "trl/trainer/grpo_config.py": config})
    use = Use(scripts=(path,))
    assert (
        len([*site.findings("script-config", use=use), *site.findings("script-names", use=use)])
        == 1
    )


def test_a_config_that_cannot_be_read_in_full_is_a_note(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("GRPOConfig(x=1)")
    site.put("trl", "1.16.0", files=TRL)
    (finding,) = site.findings("script-config", use=Use(scripts=(path,)))
    assert (finding.severity, finding.message) == (
        Severity.NOTE,
        "its GRPOConfig cannot be read in full",
    )


@pytest.mark.parametrize(
    ("variables", "cached", "found"),
    [
        ({}, [], None),
        ({"HF_HUB_OFFLINE": "0"}, [], None),
        ({"HF_HUB_OFFLINE": "1"}, [], "forbids downloads, and no model and no data set is in"),
        ({"TRANSFORMERS_OFFLINE": "yes"}, [], "forbids downloads, and no model is in the cache"),
        ({"HF_DATASETS_OFFLINE": "1"}, ["models--a--b"], "forbids downloads, and no data set is"),
        ({"HF_HUB_OFFLINE": "1"}, ["models--a--b", "datasets--c--d"], None),
    ],
)
def test_offline_with_an_empty_cache_is_a_warning(
    site: Site, tmp_path: Path, variables: dict[str, str], cached: list[str], found: str | None
) -> None:
    for name in cached:
        (tmp_path / "hf" / "hub" / name).mkdir(parents=True)
    use = Use(variables={**variables, "HF_HOME": str(tmp_path / "hf")})
    messages = [finding.message for finding in site.findings("offline", use=use)]
    assert len(messages) == (found is not None)
    assert not found or messages[0].startswith(found)


def test_a_file_changed_to_the_same_size_is_found_by_its_hash(site: Site) -> None:
    site.put("trl", "1", files={"trl/a.py": "a = 1\n"}).put("other", "1", files={"o.py": "1"})
    assert site.findings("hashes", use=Use(deep=True)) == []
    (site.folder / "trl" / "a.py").write_text("a = 2\n")
    (site.folder / "o.py").write_text("2")
    assert site.findings("files") == []
    (finding,) = site.findings("hashes", use=Use(deep=True))
    assert finding.message == (
        f"1 of its files are not what was installed, first {site.folder / 'trl' / 'a.py'}"
    )


def kernel(tmp_path: Path, site: Site, *lines: str, started: float) -> Path:
    """Return a /proc with the process 7, which started then and has ``lines`` mapped."""
    proc = tmp_path / "proc"
    (proc / "7").mkdir(parents=True)
    maps = [f"7f00-7f01 r-xp 00000000 08:01 99 {site.folder}/{line}\n" for line in lines]
    (proc / "7" / "maps").write_text("".join(maps))
    (proc / "stat").write_text(f"cpu 1\nbtime {int(started)}\n")
    (proc / "7" / "stat").write_text("7 (py) k (x)) S 1 " + " ".join(["0"] * 17) + " 0 0 0\n")
    return proc


def stale(site: Site, proc: Path, *loaded: str) -> list[tuple[str, str]]:
    from grpoenv.distributions import distributions

    probe = replace(site.probe(), loaded=loaded)
    environment = Environment(probe, distributions([site.folder]), Matrix(Path("none")))
    return [(f.culprit, f.evidence) for f in findings_for(environment, 7, proc)]


def test_a_kernel_that_runs_on_deleted_files_is_found(site: Site, tmp_path: Path) -> None:
    site.put("numpy", "2.5.2").put("torch", "2.9.1")
    lines = ["numpy/core/a.so (deleted)", "numpy/linalg/b.so (deleted)", "torch/_C.so"]
    proc = kernel(tmp_path, site, *lines, started=time.time() + 10)
    (found,) = stale(site, proc, "torch")
    assert found == (
        "numpy 2.5.2",
        f"2 libraries, {site.folder}/numpy/core/a.so (deleted); process 7",
    )


def test_a_package_installed_after_the_kernel_loaded_it_is_found(
    site: Site, tmp_path: Path
) -> None:
    site.put("torch", "2.9.1").put("numpy", "2.0.2")
    proc = kernel(tmp_path, site, "torch/_C.so", "numpy/a.so", started=1_000_000)
    info = site.folder / "numpy-2.0.2.dist-info"
    os.utime(info, (999_000, 999_000))
    ((culprit, evidence),) = stale(site, proc, "torch", "numpy")
    assert culprit == "torch 2.9.1"
    assert evidence.endswith("s younger than the kernel; process 7")


def test_a_memory_map_that_cannot_be_read_is_undetermined(site: Site, tmp_path: Path) -> None:
    ((culprit, evidence),) = stale(site, tmp_path / "none")
    assert (culprit, evidence) == ("the notebook kernel", f"{tmp_path}/none/7/maps")


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("print('x'); print('{\"a\": 1}')", Answered(0, {"a": 1}, 'x / {"a": 1}')),
        ("print('[1]'); exit(3)", Answered(3, {}, "[1]")),
        ("import os; os.kill(os.getpid(), 11)", Failed("ended by SIGSEGV")),
        ("import time; time.sleep(60)", Failed("no answer within 1.5 s")),
    ],
)
def test_a_child_always_comes_to_an_end(code: str, answer: Answered | Failed) -> None:
    assert ask(sys.executable, ["-c", code], timeout_s=1.5) == answer


def test_a_child_that_cannot_be_started_is_an_answer() -> None:
    found = ask("/none/python", [], timeout_s=1)
    assert found == Failed("/none/python cannot be run: No such file or directory")
