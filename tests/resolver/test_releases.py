"""The file of all releases: read strictly, written in one order."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.utils import NormalizedName

from grpoenv.errors import InputError
from grpoenv.releases import Outcome, Release, Releases, read_releases, releases_text
from grpoenv.releases_lint import lint_releases

UNSLOTH = NormalizedName("unsloth")
SOUND = Outcome("2025-03-16", {"unsloth": "2025.3.14", "torch": "2.6.0"}, "linked")
ROTTEN = Outcome(
    "2026-11-26",
    {"unsloth": "2025.3.14", "torch": "2.15.0"},
    "import",
    exception="ImportError",
    symbol="transformers.processing_utils.to_py_obj",
    culprit="unsloth-zoo 2025.3.12 with transformers 5.23.0",
    at="unsloth_zoo-2025.3.12-py3-none-any.whl/unsloth_zoo/a.py:3",
)
ROW = Release(UNSLOTH, "2025.3.14", "2025-03-16", day=SOUND, today=ROTTEN)
FILE = Releases("3.11", "x86_64-manylinux_2_28", "2026-11-26", (ROW,))


def sealed(line: str) -> str:
    """Seal a line again, as the program would."""
    text = line.rpartition(',"digest":"')[0]
    return f'{text},"digest":"{hashlib.sha256(text.encode()).hexdigest()[:16]}"}}'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "compat-releases.jsonl"
    path.write_text(text)
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_releases(written(tmp_path, releases_text(FILE))) == FILE


def test_the_order_of_the_rows_changes_no_byte() -> None:
    rows = [replace(ROW, version=version) for version in ("2025.10.1", "2025.9.1", "2025.10.1rc1")]
    rows += [replace(ROW, package=NormalizedName("trl"), version="0.15.0")]
    text = releases_text(replace(FILE, rows=tuple(rows)))
    assert text == releases_text(replace(FILE, rows=tuple(reversed(rows))))
    order = [line.split('"')[7] for line in text.splitlines()[1:]]
    assert order == ["2025.9.1", "2025.10.1rc1", "2025.10.1", "0.15.0"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema":1', '"schema":2', ":1: has the schema 2; this grpoenv reads 1"),
        ('"yanked"', '"jerked"', ":2: is no release: jerked is not a known key"),
        ('"verdict":"linked"', '"verdict":"fine"', ":2: is no release: 'fine' is no verdict"),
        ('"torch":"2.6.0"', '"torch":2.6', ":2: is no release: expected a text, found 2.6"),
        ('"package":"unsloth"', '"package":"peft"', ":2: is no release: 'peft' is none of"),
        ('"tried":[],', "", ":2: is no release: 'tried'"),
    ],
)
def test_what_is_not_of_the_schema_is_named(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    head, row = releases_text(FILE).replace(old, new, 1).splitlines()
    path = written(tmp_path, f"{head}\n{sealed(row)}\n")
    with pytest.raises(InputError) as caught:
        read_releases(path)
    assert message in caught.value.message


def test_a_version_changed_by_hand_is_found_out(tmp_path: Path) -> None:
    path = written(tmp_path, releases_text(FILE).replace('"torch":"2.6.0"', '"torch":"2.6.1"'))
    with pytest.raises(InputError, match=r":2: is no release: unsloth 2025\.3\.14 was changed by"):
        read_releases(path)


def test_a_release_is_there_once(tmp_path: Path) -> None:
    path = written(tmp_path, releases_text(replace(FILE, rows=(ROW, ROW))))
    with pytest.raises(InputError, match=r":3: unsloth 2025\.3\.14 is there twice"):
        read_releases(path)


def test_the_row_of_a_release_is_the_newest_set_that_links() -> None:
    later = replace(SOUND, as_of="2025-03-30")
    assert ROW.row == SOUND
    assert replace(ROW, tried=(later,)).row == later
    assert replace(ROW, today=replace(later, as_of="2026-11-26")).row.as_of == "2026-11-26"  # type: ignore[union-attr]


def test_a_release_without_a_set_that_links_says_why() -> None:
    broken = replace(ROW, day=replace(ROTTEN, as_of="2025-03-16"))
    assert broken.row is None
    assert broken.unusable == (
        "ImportError: transformers.processing_utils.to_py_obj "
        "(unsloth-zoo 2025.3.12 with transformers 5.23.0)"
    )
    assert ROW.unusable == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (replace(ROW, uploaded="2025-03-15"), "was uploaded on 2025-03-15, and its day is 2025-03"),
        (replace(ROW, today=SOUND), "has an outcome of 2025-03-16, and today is 2026-11-26"),
        (replace(ROW, tried=(SOUND,)), "was tried on days that are not in order"),
        (replace(ROW, version="2025.3.15"), "as of 2025-03-16 is about unsloth 2025.3.14"),
        (replace(ROW, day=replace(SOUND, symbol="a", verdict="conflict")), "does not say why"),
        (replace(ROW, day=replace(SOUND, versions={})), "is linked, and has a failure or no set"),
        (replace(ROW, today=replace(ROTTEN, at="")), "does not say what is missing where"),
        (
            replace(ROW, today=replace(ROTTEN, culprit="torch 2.14.0 with transformers 5.23.0")),
            "blames torch 2.14.0, and has torch 2.15.0",
        ),
    ],
)
def test_lint_finds_a_release_that_contradicts_itself(
    tmp_path: Path, row: Release, message: str
) -> None:
    path = tmp_path / "compat-releases.jsonl"
    assert lint_releases(FILE, path) == []
    errors = lint_releases(replace(FILE, rows=(row,)), path)
    assert any(message in error.message for error in errors), errors
