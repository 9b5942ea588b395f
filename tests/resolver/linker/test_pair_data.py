"""The committed verdicts on all pairs, and what the documents say of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from grpoenv.errors import InputError
from grpoenv.pair_verdicts import read_classification, write_classification

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results"
PAIRS = RESULTS / "pairs.json"


def asked(command: str, *files: Path) -> list[str]:
    program = ROOT / "benchmarks" / "pairs.py"
    done = subprocess.run(
        [sys.executable, str(program), command, *map(str, files)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def quoted(command: str) -> list[str]:
    """Return what results/README.md shows as the output of a command."""
    text = (RESULTS / "README.md").read_text("utf-8")
    _, _, rest = text.partition(f"$ python benchmarks/pairs.py {command} ")
    lines = rest.partition("```")[0].splitlines()[1:]
    shown = [line for line in lines if line != "…"]
    return shown[: next((n for n, line in enumerate(shown) if line.startswith("$")), None)]


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("summary", [PAIRS]),
        ("compare", [PAIRS, RESULTS / "pairs-executed.json"]),
        ("today", [PAIRS, RESULTS / "today.json"]),
    ],
)
def test_the_documented_figures_are_those_of_the_data(command: str, files: list[Path]) -> None:
    output = asked(command, *files)
    assert quoted(command)
    assert [line for line in quoted(command) if line not in output] == []


def test_the_readme_has_the_figures_of_the_data() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    of_all, admitted = asked("summary", PAIRS)[1:3]
    figures = re.findall(r"\d[\d,]*", of_all + admitted)
    assert len(figures) == 8
    assert [figure for figure in figures if figure not in readme] == []


def test_a_verdict_that_differs_from_an_executed_pair_is_an_error(tmp_path: Path) -> None:
    executed = (RESULTS / "pairs-executed.json").read_text("utf-8")
    wrong = tmp_path / "executed.json"
    wrong.write_text(executed.replace('"outcome":"fails"', '"outcome":"imports"', 1))
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "pairs.py", "compare", PAIRS, wrong],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.partition(": ")[0]) == (1, "differs")


@pytest.mark.parametrize("claimed", ["runs", "fails"])
def test_a_run_that_ends_otherwise_than_its_verdict_is_an_error(
    tmp_path: Path, claimed: str
) -> None:
    data = json.loads((RESULTS / "pairs-executed.json").read_text("utf-8"))
    by_the_pair = "unsloth/unsloth_zoo"
    steps = [row["grpo"] for row in data["pairs"] if "grpo" in row]
    if claimed == "runs":
        next(step for step in steps if step.get("fault") == by_the_pair)["outcome"] = "runs"
    else:
        ran = next(step for step in steps if step["outcome"] == "runs")
        ran.update(outcome="fails", fault=by_the_pair, exception="TypeError", message="f()")
    wrong = tmp_path / "executed.json"
    wrong.write_text(json.dumps(data))
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "pairs.py", "compare", PAIRS, wrong],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.count("differs: ")) == (1, 1)


def test_the_verdicts_are_written_as_they_were_read(tmp_path: Path) -> None:
    write_classification(read_classification(PAIRS), tmp_path / "pairs.json")
    assert (tmp_path / "pairs.json").read_bytes() == PAIRS.read_bytes()


FIRST_ROW = "[[-1,73],[0,14],[-1,94]],\n"


@pytest.mark.parametrize(
    ("found", "instead", "message"),
    [
        ('"schema": 2', '"schema": 9', "has the schema 9; this reads 2"),
        ('{\n"schema"', '[\n"schema"', "is no JSON"),
        ('"date"', '"day"', "no classification of pairs: KeyError('date')"),
        (FIRST_ROW, "[[0,99999999999999]],\n", "does not have the length 181"),
        (FIRST_ROW, "[[9999,181]],\n", "no classification of pairs: IndexError"),
        (FIRST_ROW, "", "219 releases and 218 rows of pairs"),
    ],
)
def test_a_file_that_is_no_classification_is_refused_in_words(
    tmp_path: Path, found: str, instead: str, message: str
) -> None:
    wrong = tmp_path / "pairs.json"
    text = PAIRS.read_text("utf-8")
    assert found in text
    wrong.write_text(text.replace(found, instead, 1))
    with pytest.raises(InputError, match=re.escape(message)):
        read_classification(wrong)


@pytest.mark.real
def test_every_published_pair_is_classified_as_the_data_says(tmp_path: Path) -> None:
    now = tmp_path / "pairs.json"
    asked("classify", now)
    asked("compare", now, RESULTS / "pairs-executed.json")
