"""The command line: exit codes, JSON, and that it works where everything else is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from depot import NO_GPU, PYTHON, Depot, make_probe
from grpoenv import cli
from grpoenv._data import data_paths
from grpoenv.cli import main
from grpoenv.gpu import Answer, Gpu
from grpoenv.probe import probe_to_json
from grpoenv.update import BackgroundCheck
from grpoenv.update_result import NewerRelease, NotDetermined, UpdateResult, UpToDate

BLOCKED = [
    "torch",
    "triton",
    "transformers",
    "trl",
    "unsloth",
    "unsloth_zoo",
    "numpy",
    "grpoenv_runtime",
    "grpoenv_kernels",
]
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
from grpoenv.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def stocked(depot: Depot) -> Depot:
    depot.stack("trl-1.0", [depot.wheel("trl", "1.0")])
    return depot


def options(depot: Depot, *words: str) -> list[str]:
    return [*words, "--matrix", str(depot.data.matrix)]


def output(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["install", "--help"], 0),
        pytest.param(
            ["install", "--dry-run", "--stack", "trl"],
            0,
            marks=pytest.mark.skipif(PYTHON == "3.10", reason="trl 1.16 needs Python 3.11"),
        ),
        (["update", "--help"], 0),
        (["check"], 2),
        (["verify"], 1),
        (["probe"], 0),
        (["probe", "--json"], 0),
        (["matrix", "show"], 0),
        (["matrix", "show", "--json"], 0),
        (["matrix", "lint"], 0),
        (["matrix", "lock", "no-such-stack"], 2),
        ([], 2),
        (["fly"], 2),
    ],
)
def test_every_verb_works_with_the_whole_stack_absent_or_broken(
    words: list[str], code: int, venv: Path
) -> None:
    if words == ["verify"]:
        words = ["verify", "--python", str(venv)]
    command = [sys.executable, "-c", BLOCKER, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_the_blocker_of_the_test_above_does_block() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER.replace("from grpoenv.cli import main", "import torch")],
        capture_output=True,
        text=True,
    )
    assert "ImportError: blocked: torch" in done.stderr


def test_install_then_verify_then_install_again(
    stocked: Depot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = tmp_path / "new"
    assert main(options(stocked, "install", "--venv", str(venv), "--json")) == 0
    first = output(capsys)
    assert (first["schema"], first["verb"], first["exit"]) == (1, "install", 0)
    assert first["plan"]["changes"][0]["name"] == "trl"  # type: ignore[index]
    python = str(venv / "bin" / "python")
    assert main(options(stocked, "verify", "--python", python, "--json")) == 0
    assert output(capsys)["verdict"]["sound"] is True  # type: ignore[index]
    assert main(options(stocked, "install", "--venv", str(venv), "--json")) == 0
    assert output(capsys)["plan"]["changes"] == []  # type: ignore[index]


def test_an_environment_that_was_made_for_nothing_is_removed_again(
    stocked: Depot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stocked.wheels / "trl-1.0-py3-none-any.whl").unlink()
    assert main(options(stocked, "install", "--venv", str(tmp_path / "new"))) == 4
    assert not (tmp_path / "new").exists()
    assert "what to do:" in capsys.readouterr().err


def test_a_folder_that_is_no_environment_is_not_touched(
    stocked: Depot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious.txt").write_text("x")
    assert main(options(stocked, "install", "--venv", str(tmp_path))) == 2
    assert (tmp_path / "precious.txt").exists()
    assert "is there and is no virtual environment" in capsys.readouterr().err


def test_a_dry_run_makes_nothing(
    stocked: Depot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = tmp_path / "new"
    assert main(options(stocked, "install", "--dry-run", "--venv", str(venv))) == 0
    assert "  + trl 1.0" in capsys.readouterr().out
    assert not venv.exists()


def test_a_saved_probe_is_planned_for(
    stocked: Depot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "probe.json"
    path.write_text(json.dumps(probe_to_json(make_probe({"trl": "0.9"}, python=f"{PYTHON}.1"))))
    assert main(options(stocked, "install", "--dry-run", "--probe", str(path))) == 0
    assert "  ~ trl 0.9 → 1.0" in capsys.readouterr().out
    assert main(options(stocked, "install", "--probe", str(path))) == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["install", "--dry-run", "--pin", "trl==9"], 1, "trl-1.0: it has trl 1.0, not 9"),
        (["install", "--dry-run", "--pin", "trl"], 2, "--pin 'trl' is not of the form"),
        (["install", "--dry-run", "--with", "../x"], 2, "--with"),
        (["install", "--dry-run", "--stack", "axolotl"], 2, "neither a runtime nor a stack"),
        (["install", "--dry-run", "--python", "/bin/true"], 2, "is no Python interpreter"),
        (["verify", "--python", "/does/not/exist"], 2, "is no Python interpreter"),
    ],
)
def test_errors_have_their_exit_code_in_words_and_in_json(
    stocked: Depot, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(stocked, *words)) == code
    assert message in capsys.readouterr().err
    assert main(options(stocked, *words, "--json")) == code
    answer = output(capsys)
    assert answer["exit"] == code
    assert message in answer["error"]["message"]  # type: ignore[index]


def test_what_cannot_be_determined_exits_with_3(
    stocked: Depot, venv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stocked.stack("with-torch", [stocked.wheel("trl", "2.0"), stocked.wheel("torch", "2.6.0")])
    assert main(options(stocked, "install", "--stack", "trl", "--python", str(venv))) == 0
    hung = Gpu(Answer.UNKNOWN, "the NVIDIA driver did not answer within 3 s")
    monkeypatch.setattr("grpoenv.machine.find_gpu", lambda: hung)
    assert main(options(stocked, "verify", "--python", str(venv))) == 3
    assert "did not answer within 3 s" in capsys.readouterr().out


def test_a_finding_comes_with_one_command_that_mends_it(
    stocked: Depot, venv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(stocked, "install", "--python", str(venv))) == 0
    (module,) = venv.parent.parent.glob("lib/*/site-packages/trl-1.0.dist-info/METADATA")
    module.unlink()
    capsys.readouterr()
    assert main(options(stocked, "verify", "--python", str(venv), "--json")) == 1
    finding = output(capsys)["verdict"]["findings"][0]  # type: ignore[index]
    assert finding["severity"] == "problem"
    assert finding["culprit"] == "trl 1.0"
    assert finding["remedy"].endswith(f"install --python {venv} --stack trl-1.0")


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (UpToDate("0.1.0"), 0, "grpoenv 0.1.0, the newest"),
        (NewerRelease("0.1.0", "0.2.0"), 0, "grpoenv 0.2.0 is available (this is 0.1.0)"),
        (NotDetermined("UV_OFFLINE is set"), 3, "is not known: UV_OFFLINE is set"),
    ],
)
def test_update_tells_of_a_newer_grpoenv_and_the_best_stack(
    stocked: Depot,
    venv: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: UpdateResult,
    code: int,
    words: str,
) -> None:
    monkeypatch.setattr("grpoenv.update.check_now", lambda: answer)
    monkeypatch.setattr("grpoenv.machine.find_gpu", lambda: NO_GPU)
    assert main(options(stocked, "update", "--python", str(venv))) == code
    shown = capsys.readouterr().out
    assert words in shown
    assert "stack none installed; best tested: trl-1.0" in shown
    assert main(options(stocked, "update", "--python", str(venv), "--json")) == code
    assert output(capsys)["stack"] == {"installed": None, "best": "trl-1.0"}


def test_what_an_earlier_run_found_is_shown_after_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = BackgroundCheck(earlier=NewerRelease("0.1.0", "0.2.0"))
    monkeypatch.setattr(cli, "start_background_check", lambda **_: found)
    assert main(["matrix", "lint"]) == 0
    assert "grpoenv 0.2.0 is available" in capsys.readouterr().err


def test_a_terminated_install_says_that_all_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("grpoenv.machine.probe_machine", interrupted)
    assert main(["probe"]) == 4
    assert "interrupted; the environment is as it was" in capsys.readouterr().err


def test_the_images_can_be_planned_for_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    freeze = data_paths().locks / "images" / "colab-2026-08.txt"
    assert main(["probe", "--freeze", str(freeze), "--json"]) == 0
    path = tmp_path / "probe.json"
    path.write_text(capsys.readouterr().out)
    assert main(["install", "--dry-run", "--probe", str(path), "--json"]) == 0
    plan = output(capsys)["plan"]
    assert plan["stack"] == "colab-2026-08"  # type: ignore[index]
    assert plan["torch"] == "kept"  # type: ignore[index]
