"""``grpoenv matrix show``: which rows it shows, in what order, and how they look."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from depot import Depot
from grpoenv.cli import main
from grpoenv.matrix import WINDOWS, Matrix
from grpoenv.report_matrix import print_matrix

BREAK = """
[[break]]
id = "{id}"
class = "missing-key"
summary = "a key is missing"
symptom = "KeyError: 'slow'"
[break.when]
unsloth = "{unsloth}"
unsloth-zoo = "==2025.3.9"
[[break.evidence]]
date = 2026-11-23
machine = "a test"
command = "pytest"
"""


@pytest.fixture
def filled(depot: Depot) -> Depot:
    torch = depot.wheel("torch", "2.6.0")
    depot.stack(
        "old",
        [depot.wheel("unsloth", "2025.3.9"), depot.wheel("trl", "0.15.2"), torch],
        runtime="unsloth",
        level="trained",
        python="3.11",
    )
    depot.stack("new", [depot.wheel("trl", "1.10.0")], level="imported", python="3.12")
    image = 'image = "colab-2026-08"\nkeeps = ["torch"]'
    depot.stack("image", [depot.wheel("trl", "1.9.0"), torch], python="3.12", extra=image)
    depot.breaks.append(BREAK.format(id="early", unsloth="<2025.3"))
    depot.breaks.append(BREAK.format(id="late", unsloth=">=2025.3"))
    depot.write()
    return depot


def shown(depot: Depot, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    command = ["matrix", "show", *words, "--json", "--matrix", str(depot.data.matrix)]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)
    return [row["id"] for row in [*rows["stacks"], *rows["breaks"]]]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ([], ["old", "new", "image", "early", "late"]),
        (["--runtime", "trl"], ["new", "image"]),
        (["--level", "imported"], ["old", "new"]),
        (["--level", "trained"], ["old"]),
        (["--python", "3.12"], ["new", "image"]),
        (["--image", "Colab"], ["image"]),
        (["--package", "torch"], ["old", "image"]),
        (["--package", "torch", "--package", "trl>=1"], ["image"]),
        (["--package", "trl>=1.9,<1.10"], ["image"]),
        (["--package", "unsloth_zoo"], ["early", "late"]),
        (["--package", "unsloth==2025.3.9"], ["old", "late"]),
        (["--package", "unsloth==2025.*"], ["old", "early", "late"]),
        (["torch 2.6"], ["old", "image"]),
        (["KEY", "early"], ["early"]),
        (["stack"], ["old", "new", "image"]),
        (["image"], ["image"]),
        (["no such words"], []),
        (["--sort", "id"], ["image", "new", "old", "early", "late"]),
        (["--sort", "level", "--reverse"], ["old", "new", "image", "early", "late"]),
        (["--sort", "trl", "--runtime", "trl"], ["image", "new"]),
        (["--sort", "torch", "--reverse"], ["old", "image", "new", "early", "late"]),
        (["--reverse", "--package", "trl"], ["image", "new", "old"]),
    ],
)
def test_rows_are_chosen_and_ordered(
    filled: Depot, capsys: pytest.CaptureFixture[str], words: list[str], ids: list[str]
) -> None:
    assert shown(filled, capsys, *words) == ids


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sort", "colour"], "--sort 'colour' is neither a key nor a package"),
        (["--package", "torch=2"], "--package: "),
    ],
)
def test_a_condition_that_means_nothing_is_wrong_usage(
    filled: Depot, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["matrix", "show", *words, "--matrix", str(filled.data.matrix)]) == 2
    assert message in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def text(matrix: Matrix, stream: io.StringIO) -> str:
    print_matrix(matrix, stream)
    return stream.getvalue()


def test_levels_have_colours_on_a_terminal_alone(
    filled: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32mtrained 3.11" in text(filled.matrix(), Terminal())
    assert "\x1b" not in text(filled.matrix(), io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in text(filled.matrix(), Terminal())


def test_rows_are_whole_lines_where_there_is_no_terminal(
    filled: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = text(filled.matrix(), io.StringIO()).splitlines()
    assert lines[1].split() == [
        "old",
        "2026-11-23",
        "trained",
        "3.11",
        "2025.3.9",
        "0.15.2",
        "2.6.0",
    ]
    assert lines[-1] == "3 stacks, 2 breaks"
    assert [line for line in lines if line != line.rstrip()] == []


def test_targets_of_other_platforms_are_named_by_platform(filled: Depot) -> None:
    matrix = filled.matrix()
    (target,) = matrix.stacks[1].targets
    platforms = ["x86_64-manylinux_2_28", "aarch64-manylinux_2_28", WINDOWS]
    targets = [
        replace(target, platform=platform, python=python)
        for platform in platforms
        for python in ("3.11", "3.12")
    ]
    stacks = (matrix.stacks[0], replace(matrix.stacks[1], targets=tuple(targets)))
    line = text(replace(matrix, stacks=stacks), io.StringIO()).splitlines()[2]
    assert "imported 3.11, 3.12 and aarch64 3.11, 3.12 and Windows 3.11, 3.12 " in line


def test_one_stack_alone_is_shown_with_its_evidence(
    filled: Depot, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "matrix",
                "show",
                "a stack",
                "--runtime",
                "unsloth",
                "--matrix",
                str(filled.data.matrix),
            ]
        )
        == 0
    )
    output = capsys.readouterr().out
    assert output.splitlines()[-3:-2] == ["  trained    2026-11-23, a test: pytest"]


def test_what_looks_like_markup_is_shown_as_it_is(filled: Depot) -> None:
    hostile = BREAK.format(id="odd", unsloth="<1").replace("a key is", "[red]:smile:[/] is")
    filled.breaks.append(hostile)
    filled.write()
    assert "[red]:smile:[/]" in text(filled.matrix(), io.StringIO())
