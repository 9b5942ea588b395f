"""How a collected breakage is read, and when a finding is taken to report it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import NormalizedName

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from incident_environments import Parties, parties, platform_of
from incident_rows import Incident, parse_stated, read_incidents
from incident_verdicts import matching

ROW = {
    "id": "x-1",
    "date": "2025-07-29",
    "class": "missing-name",
    "check": "static symbol check",
    "how": "static symbol check: names",
    "exception": "ImportError: cannot import name 'Gone' from 'trl.trainer.utils'",
    "pair": "unsloth/trl",
    "repo": "unslothai/unsloth",
    "environment": {"python": "3.11.2", "packages": {"trl": "0.20.0"}, "platform": "colab"},
}


def incident(tmp_path: Path, **changes: Any) -> Incident:
    path = tmp_path / "incidents.jsonl"
    path.write_text(json.dumps({**ROW, **changes}) + "\n\n")
    (row,) = read_incidents(path)
    return row


@pytest.mark.parametrize(
    ("text", "specifier", "rest"),
    [
        ("2.5.1+cu124", "==2.5.1", ("cu124", "")),
        ("2.9.x", "==2.9.*", ("", "")),
        ("0.19", "==0.19.*", ("", "")),
        (">=5.4.0", ">=5.4.0", ("", "")),
        ("2.5 to 2.7", "<2.8,>=2.5", ("", "")),
        ("before 2026.3.14", "<2026.3.14", ("", "")),
        ("2.3.0+cu121 before", "", ("", "")),
        ("0.25.0 (main)", "==0.25.0", ("", "")),
        ("5.0.0.dev0", "==5.0.0", ("", "")),
        ("2.8.0a0+5228.nv25.06", "==2.8.0a0", ("5228.nv25.6", "")),
        ("2.0.2 loaded, 2.5.2 on disk", "==2.5.2", ("", "2.0.2")),
        ("whatever was newest", "", ("", "")),
    ],
)
def test_what_is_written_of_a_version_is_kept_no_closer_than_it_was_meant(
    text: str, specifier: str, rest: tuple[str, str]
) -> None:
    stated = parse_stated(text)
    assert (str(stated.specifier), (stated.label, stated.loaded)) == (specifier, rest)


def test_a_branch_has_no_version() -> None:
    assert parse_stated("git main (2025-03-14)").branch


def test_a_row_names_its_symbol_its_import_and_its_sides(tmp_path: Path) -> None:
    row = incident(tmp_path)
    assert (row.symbol, row.import_line) == ("Gone", "from trl.trainer.utils import Gone")
    assert parties(row) == Parties((NormalizedName("unsloth"),), (NormalizedName("trl"),))
    keyword = incident(
        tmp_path, exception="TypeError: GRPOConfig got an unexpected keyword argument (a and b)"
    ).keyword
    assert keyword == ("GRPOConfig", "a")


def test_a_consumer_that_is_nowhere_published_is_a_script(tmp_path: Path) -> None:
    sides = parties(incident(tmp_path, pair="verl or recipe/transformers", repo="a/recipe"))
    assert (sides.script, sides.consumers) == (True, ())
    sides = parties(incident(tmp_path, pair="verl or recipe/transformers", repo="b/verl"))
    assert (sides.script, sides.consumers) == (False, (NormalizedName("verl"),))


def test_a_glibc_that_was_too_old_is_one_before_the_one_asked_for(tmp_path: Path) -> None:
    row = incident(tmp_path, exception="version `GLIBC_2.32' not found (required by x)")
    assert platform_of(row) == "x86_64-manylinux_2_31"


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"severity": "note"}, False),
        ({"check": "driver"}, False),
        ({"culprit": "unsloth 1 with transformers 5"}, False),
        ({"culprit": "unsloth-zoo 1 with trl 0.20.0"}, True),
        ({"culprit": "trl 0.20.0 with vllm 1"}, False),
        ({"message": "ImportError: trl.trainer.utils.Other"}, False),
    ],
)
def test_a_finding_counts_with_the_right_class_culprit_and_name(
    tmp_path: Path, changes: dict[str, str], counts: bool
) -> None:
    finding = {
        "severity": "problem",
        "check": "linkage",
        "culprit": "unsloth 1 with trl 0.20.0",
        "message": "ImportError: trl.trainer.utils.Gone: import unsloth fails",
        **changes,
    }
    row = incident(tmp_path)
    assert (matching(row, parties(row), [finding]) is not None) == counts


@pytest.mark.parametrize(
    ("severity", "exception", "counts"),
    [
        ("problem", "IndexError: list index out of range", True),
        ("warning", "IndexError: list index out of range", False),
        ("warning", "TypeError: UnslothTrainer.log() takes 2 positional arguments", True),
        ("warning", "the range is trl>=0.21 and trl is 0.20.0", True),
        ("warning", "with trl-0.20.0", False),
    ],
)
def test_a_warning_counts_where_it_has_something_of_what_the_row_quotes(
    tmp_path: Path, severity: str, exception: str, counts: bool
) -> None:
    finding = {
        "severity": severity,
        "check": "linkage",
        "culprit": "unsloth 1 with trl 0.20.0",
        "message": "TypeError: trl.Trainer.log: fails if an option leads there: finds 0.20.0",
    }
    row = incident(tmp_path, exception=exception)
    assert row.symbol == ""
    assert (matching(row, parties(row), [finding]) is not None) == counts


def test_a_row_may_name_the_type_of_a_model(tmp_path: Path) -> None:
    told = "F.from_pretrained('org/Model-1B'): the model type `new_1` is not in its registry."
    row = incident(tmp_path, exception="ValueError: not supported", cause=told)
    assert (row.model_type, row.model) == ("new_1", "org/Model-1B")
    assert incident(tmp_path, exception="No module named 'trl.gone'").import_line == (
        "import trl.gone"
    )


def test_a_line_that_is_no_incident_is_named(tmp_path: Path) -> None:
    path = tmp_path / "incidents.jsonl"
    path.write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match=r"incidents\.jsonl:1 is no incident: KeyError"):
        read_incidents(path)
