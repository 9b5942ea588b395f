"""The matrix: strict loading, and its agreement with the locks."""

from pathlib import Path

import pytest
import tomlkit

from depot import PYTHON, Depot
from grpoenv._data import data_paths
from grpoenv.errors import InputError
from grpoenv.matrix_file import load_matrix
from grpoenv.matrix_lint import lint


@pytest.fixture
def filled(depot: Depot) -> Depot:
    depot.stack("one", [depot.wheel("trl", "1.0"), depot.wheel("torch", "2.0")])
    return depot


def fails_with(depot: Depot, old: str, new: str) -> str:
    """Replace ``old`` in the matrix and return the message of loading it."""
    text = depot.data.matrix.read_text()
    assert old in text
    depot.data.matrix.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_matrix(depot.data.matrix)
    assert caught.value.path == depot.data.matrix
    return caught.value.message.removeprefix(str(depot.data.matrix))


def line_of(depot: Depot, start: str) -> int:
    lines = depot.data.matrix.read_text().split("\n")
    return next(number for number, line in enumerate(lines, 1) if line.startswith(start))


def test_the_committed_matrix_loads_and_agrees_with_its_locks() -> None:
    data = data_paths()
    matrix = load_matrix(data.matrix)
    assert lint(matrix, data.locks) == []
    assert {"trl-1.16", "unsloth-2025.3.14"} <= {stack.id for stack in matrix.stacks}


def test_every_image_has_a_stack_that_keeps_its_torch_triton_and_numpy() -> None:
    data = data_paths()
    images = {path.stem for path in (data.locks / "images").glob("*.txt")}
    kept = {stack.image: stack.keeps for stack in load_matrix(data.matrix).stacks if stack.image}
    assert kept.keys() == images
    assert all({"torch", "triton", "numpy"} <= set(keeps) for keeps in kept.values())


def test_a_duplicate_key_is_refused(filled: Depot) -> None:
    message = fails_with(filled, 'runtime = "trl"', 'runtime = "trl"\nruntime = "trl"')
    assert "is no TOML" in message and '"runtime"' in message


def test_an_unknown_key_is_named_with_its_line(filled: Depot) -> None:
    message = fails_with(filled, 'summary = "a stack"', 'sumary = "a stack"')
    # summary is asked for first, so its absence is what is reported
    assert message == f":{line_of(filled, '[[stack]]')}: stack[0].summary: is missing"
    message = fails_with(filled, 'sumary = "a stack"', 'summary = "a stack"\nsumary = "x"')
    assert message == f":{line_of(filled, 'sumary')}: stack[0].sumary: is not a known key"


def test_a_version_that_is_none_is_named_with_its_line(filled: Depot) -> None:
    message = fails_with(filled, '"torch" = "2.0"', '"torch" = "two"')
    assert message == (
        f":{line_of(filled, chr(34) + 'torch')}: stack[0].versions.torch: 'two' is no version"
    )


def test_a_stack_without_evidence_is_refused(filled: Depot) -> None:
    text = filled.data.matrix.read_text()
    evidence = text[text.index("[[stack.target.evidence]]") :]
    message = fails_with(filled, evidence, "")
    assert message == (
        f":{line_of(filled, '[[stack.target]]')}: stack[0].target[0].evidence: is missing: "
        "a claim without a recorded run is no evidence"
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("schema = 1", "schema = 2", "is 2; this grpoenv reads schema 1"),
        ("schema = 1", "schema = true", "expected a whole number, found True"),
        ('runtime = "trl"', 'runtime = "axolotl"', "expected one of unsloth, trl"),
        ('lock = "one/lock.txt"', 'lock = "../../etc/passwd.txt"', "below the folder of locks"),
        ('id = "one"', 'id = "One\\u001b[31m"', "expected a name of a-z"),
        ("date = 2026-11-23", 'date = "today"', "expected a date such as 2026-11-23"),
        ('level = "resolved"', 'level = "proven"', "expected one of resolved, linked"),
        ("requires = []", 'requires = ["x @ file:///x"]', "neither an address nor a marker"),
    ],
)
def test_bad_values_say_what_was_expected(filled: Depot, old: str, new: str, words: str) -> None:
    assert words in fails_with(filled, old, new)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"schema = 1\n\0\n", ":2: holds a NUL byte"),
        (b"\xef\xbb\xbfschema = 1\n", ":1: starts with a byte-order mark"),
        (b"schema = 1\n# \xff\n", ":2: is not UTF-8: byte 0xff"),
        (b"schema = \n", "is no TOML"),
        (b"x = " + b"[" * 5000, "is no TOML"),
        (b"#" * (50 * 1024 * 1024), "is larger than the 8,388,608 bytes"),
    ],
)
def test_a_file_that_is_no_matrix_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "compat-matrix.toml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_matrix(path)
    assert words in caught.value.message


def test_a_matrix_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_matrix(tmp_path / "none.toml")
    assert (
        caught.value.message == f"{tmp_path}/none.toml: cannot be read: No such file or directory"
    )


def test_a_lock_without_a_stack_and_a_stack_without_a_lock_are_errors(filled: Depot) -> None:
    stray = filled.data.locks / "stray.txt"
    (filled.data.locks / "one" / "lock.txt").rename(stray)
    errors = [error.message for error in lint(filled.matrix(), filled.data.locks)]
    assert errors == [
        f"{filled.data.matrix}: stack one, Python {PYTHON}: "
        + "names lock one/lock.txt, which is not there",
        f"{stray}: belongs to no stack of the matrix",
    ]


def test_a_version_changed_by_hand_is_caught(filled: Depot) -> None:
    text = filled.data.matrix.read_text()
    filled.data.matrix.write_text(text.replace('"torch" = "2.0"', '"torch" = "2.1"'))
    (error,) = lint(filled.matrix(), filled.data.locks)
    assert error.message.endswith("versions.torch is 2.1, and the lock has 2.0")


def test_a_lock_changed_by_hand_is_caught(filled: Depot) -> None:
    lock = filled.data.locks / "one" / "lock.txt"
    lock.write_text(lock.read_text().replace("torch==2.0 ", "torch==2.0.1 "))
    messages = " ".join(error.message for error in lint(filled.matrix(), filled.data.locks))
    assert "is not the file whose sha256 the matrix has" in messages
    assert "versions.torch is 2.0, and the lock has 2.0.1" in messages


def test_comments_and_order_survive_a_rewrite() -> None:
    text = data_paths().matrix.read_text()
    assert tomlkit.dumps(tomlkit.parse(text)) == text
