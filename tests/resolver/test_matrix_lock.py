"""How a stack is locked, with a uv that answers from a small table of releases."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from depot import PYTHON
from grpoenv import lock_recipe
from grpoenv._data import DataPaths
from grpoenv.errors import InputError
from grpoenv.lockfile import read_lock
from grpoenv.matrix_add import add_stack
from grpoenv.matrix_file import load_matrix
from grpoenv.matrix_lint import lint
from grpoenv.matrix_lock import lock_stacks
from grpoenv.uv import UvRun

TAG = f"cp{PYTHON.replace('.', '')}"
RELEASES = {
    "trl": ["1.0"],
    "torch": ["2.7", "2.6"],
    "pyarrow": ["21", "18"],
    "datasets": ["4.2", "4.0"],
    "nvidia-cublas-cu12": ["12.4"],
}


class FakeUv:
    """Answers ``uv pip compile``: pinned, else preferred, else newest; datasets 4.2 has a need."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, arguments: Sequence[str | Path], *, input_text: str) -> UvRun:
        words = [str(word) for word in arguments]
        self.calls.append(words)
        pinned = read(words[words.index("--constraints") + 1])
        excluded = Path(words[words.index("--excludes") + 1]).read_text().split()
        output = Path(words[words.index("-o") + 1])
        preferred = read(str(output))
        chosen = {
            name: pinned.get(name)
            or (preferred.get(name) in versions and preferred[name])
            or versions[0]
            for name, versions in RELEASES.items()
            if name not in excluded
        }
        if chosen["datasets"] == "4.0":  # as the image's, which this stack cannot use
            if "datasets" in pinned:
                return UvRun(1, "", "No solution found")
            chosen["datasets"] = "4.2"
        if "pyarrow" not in pinned:
            chosen["pyarrow"] = "21"
        output.write_text(pylock(chosen) if "pylock.toml" in words else freeze(chosen))
        return UvRun(0, "", "")


def read(path: str) -> dict[str, str]:
    text = Path(path).read_text() if Path(path).is_file() else ""
    return dict(line.split("==") for line in text.split("\n") if line)


def freeze(versions: dict[str, str]) -> str:
    return "".join(f"{name}=={version}\n" for name, version in versions.items())


def digest(file: str) -> str:
    return hashlib.sha256(file.encode()).hexdigest()


def pylock(versions: dict[str, str]) -> str:
    text = 'lock-version = "1.0"\n'
    for name, version in versions.items():
        stem = f"{name.replace('-', '_')}-{version}"
        tags = [f"{TAG}-{TAG}-manylinux_2_17_x86_64", f"{TAG}-{TAG}-manylinux_2_17_aarch64"]
        tags += [f"{TAG}-{TAG}-win_amd64", "cp39-cp39-manylinux_2_17_x86_64"]
        wheels = ", ".join(
            f'{{ url = "file:///{stem}-{tag}.whl", size = {len(tag)}, '
            f'hashes = {{ sha256 = "{digest(f"{stem}-{tag}.whl")}" }} }}'
            for tag in tags
        )
        text += f'[[packages]]\nname = "{name}"\nversion = "{version}"\nwheels = [{wheels}]\n'
    return text


RECIPE = f"""# a comment that stays
schema = 1

[[stack]]
id = "one"
runtime = "trl"
summary = "a stack"
requires = ["trl==1.0"]
as_of = 2026-01-01
IMAGE
[stack.versions]
trl = "0"

[[stack.target]]
python = "{PYTHON}"
platform = "x86_64-manylinux_2_17"
"""


@pytest.fixture
def uv(monkeypatch: pytest.MonkeyPatch) -> FakeUv:
    fake = FakeUv()
    monkeypatch.setattr(lock_recipe, "run_uv", fake)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    return fake


def data(tmp_path: Path, image: str = "") -> DataPaths:
    paths = DataPaths(tmp_path / "compat-matrix.toml", tmp_path / "lockfiles")
    (paths.locks / "images").mkdir(parents=True, exist_ok=True)
    (paths.locks / "images" / "colab-1.txt").write_text(
        "torch==2.6+cu124\ndatasets==4.0\npyarrow==18\n"
    )
    paths.matrix.write_text(RECIPE.replace("IMAGE\n", image))
    return paths


def test_a_recipe_becomes_a_row_with_lock_digest_versions_and_evidence(
    uv: FakeUv, tmp_path: Path
) -> None:
    paths = data(tmp_path)
    (path,) = lock_stacks(paths, ["one"]).paths
    matrix = load_matrix(paths.matrix)
    assert lint(matrix, paths.locks) == []
    (stack,) = matrix.stacks
    assert {str(name): str(version) for name, version in stack.versions.items()} == {
        "trl": "1.0",
        "torch": "2.7",
        "datasets": "4.2",
    }
    assert [str(row.level) for row in stack.targets[0].evidence] == ["resolved"]
    assert paths.matrix.read_text().startswith("# a comment that stays\n")
    assert path == paths.locks / "one" / f"{TAG}-x86_64-manylinux_2_17.txt"


def test_only_wheels_of_the_target_are_locked(uv: FakeUv, tmp_path: Path) -> None:
    (path,) = lock_stacks(data(tmp_path), ["one"]).paths
    pin = read_lock(path).pins[canonicalize_name("torch")]
    expected = digest(f"torch-2.7-{TAG}-{TAG}-manylinux_2_17_x86_64.whl")
    assert pin.hashes == (f"sha256:{expected}",)


def test_locking_again_gives_the_same_bytes(uv: FakeUv, tmp_path: Path) -> None:
    paths = data(tmp_path)
    (path,) = lock_stacks(paths, ["one"]).paths
    before = path.read_bytes(), paths.matrix.read_bytes()
    lock_stacks(paths, ["one"])
    assert (path.read_bytes(), paths.matrix.read_bytes()) == before


def test_the_day_and_grpoenvs_own_needs_are_part_of_the_question(
    uv: FakeUv, tmp_path: Path
) -> None:
    lock_stacks(data(tmp_path), ["one"])
    words = uv.calls[0]
    assert words[words.index("--exclude-newer") + 1] == "2026-01-01"
    assert words[words.index("--only-binary") + 1] == ":all:"


def test_an_image_keeps_what_it_can_and_its_cuda_libraries_out(uv: FakeUv, tmp_path: Path) -> None:
    paths = data(tmp_path, 'image = "colab-1"\nkeeps = ["torch"]\n')
    (path,) = lock_stacks(paths, ["one"]).paths
    locked = {str(name): str(pin.version) for name, pin in read_lock(path).pins.items()}
    assert locked == {"trl": "1.0", "torch": "2.6", "datasets": "4.2", "pyarrow": "18"}


def test_a_stack_that_is_not_there_is_named(uv: FakeUv, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no stack 'two'"):
        lock_stacks(data(tmp_path), ["two"])


def test_a_package_without_a_wheel_for_the_target_is_named_and_nothing_written(
    uv: FakeUv, tmp_path: Path
) -> None:
    paths = data(tmp_path)
    paths.matrix.write_text(lock_twice(paths, "riscv64-manylinux_2_39"))
    before = paths.matrix.read_text()
    refused = lock_stacks(paths, ["one"]).refused
    target = f"one, Python {PYTHON}, riscv64-manylinux_2_39"
    reason = f"trl 1.0 has no wheel for {PYTHON} on riscv64-manylinux_2_39"
    assert {name: error.message for name, error in refused.items()} == {target: reason}
    assert paths.matrix.read_text() == before


def lock_twice(paths: DataPaths, platform: str) -> str:
    """Return the matrix with its target locked, and another one to lock beside it."""
    lock_stacks(paths, ["one"])
    more = f'\n[[stack.target]]\npython = "{PYTHON}"\nplatform = "{platform}"\n'
    return paths.matrix.read_text() + more


def test_uvs_reason_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = UvRun(1, "", "Because only certifi<=2026.10.18 is available")
    monkeypatch.setattr(lock_recipe, "run_uv", lambda *_, **__: refusal)
    (error,) = lock_stacks(locked_data(tmp_path, monkeypatch), ["one"]).refused.values()
    assert error.message.endswith("only certifi<=2026.10.18 is available")


def locked_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataPaths:
    """Return data whose row was locked before, so that the file can be loaded."""
    with monkeypatch.context() as patch:
        patch.setattr(lock_recipe, "run_uv", FakeUv())
        paths = data(tmp_path)
        lock_stacks(paths, ["one"])
    return paths


def test_all_targets_are_those_that_uv_finds_the_set_for(uv: FakeUv, tmp_path: Path) -> None:
    locked = lock_stacks(data(tmp_path), ["one"], workers=4, all_targets=True)
    assert [path.name for path in locked.paths] == [
        f"{TAG}-x86_64-manylinux_2_17.txt",
        f"{TAG}-x86_64-manylinux_2_28.txt",
        f"{TAG}-aarch64-manylinux_2_28.txt",
        f"{TAG}-x86_64-pc-windows-msvc.txt",
    ]
    assert len(locked.refused) == 9  # three other Pythons, on three platforms each
    paths = data(tmp_path / "again")
    lock_stacks(paths, ["one"], workers=1, all_targets=True)
    assert paths.matrix.read_text() == (tmp_path / "compat-matrix.toml").read_text()


def test_every_other_lock_takes_the_main_versions_of_the_first(uv: FakeUv, tmp_path: Path) -> None:
    constraints = list[str]()

    def listening(arguments: Sequence[str | Path], *, input_text: str) -> UvRun:
        words = [str(word) for word in arguments]
        constraints.append(Path(words[words.index("--constraints") + 1]).read_text())
        return uv(arguments, input_text=input_text)

    paths = data(tmp_path)
    paths.matrix.write_text(lock_twice(paths, "aarch64-manylinux_2_17"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock_recipe, "run_uv", listening)
        lock_stacks(paths, ["one"])
    assert constraints[0] == ""
    assert constraints[2] == "trl==1.0\ntorch==2.7\ndatasets==4.2\n"
    assert lint(load_matrix(paths.matrix), paths.locks) == []


def test_what_a_platform_has_no_need_of_is_stated(uv: FakeUv, tmp_path: Path) -> None:
    def without_torch(arguments: Sequence[str | Path], *, input_text: str) -> UvRun:
        run = uv(arguments, input_text=input_text)
        words = [str(word) for word in arguments]
        if "aarch64-manylinux_2_17" in words and "pylock.toml" in words:
            output = Path(words[words.index("-o") + 1])
            output.write_text(
                re.sub(r'\[\[packages]]\nname = "torch"(\n(?!\[\[).+)+', "", output.read_text())
            )
        return run

    paths = data(tmp_path)
    paths.matrix.write_text(lock_twice(paths, "aarch64-manylinux_2_17"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock_recipe, "run_uv", without_torch)
        lock_stacks(paths, ["one"])
    matrix = load_matrix(paths.matrix)
    assert [target.lacks for target in matrix.stacks[0].targets] == [(), ("torch",)]
    assert lint(matrix, paths.locks) == []


def test_evidence_lasts_as_long_as_its_lock(uv: FakeUv, tmp_path: Path) -> None:
    paths = data(tmp_path)
    lock_stacks(paths, ["one"])
    text = paths.matrix.read_text()
    paths.matrix.write_text(text.replace('level = "resolved"', 'level = "trained"'))
    lock_stacks(paths, ["one"])
    assert str(load_matrix(paths.matrix).stacks[0].targets[0].level) == "trained"
    paths.matrix.write_text(
        paths.matrix.read_text().replace("sha256 = ", f'sha256 = "{"0" * 64}" # ')
    )
    lock_stacks(paths, ["one"])
    assert str(load_matrix(paths.matrix).stacks[0].targets[0].level) == "resolved"


def test_a_release_becomes_a_row_by_its_pin(uv: FakeUv, tmp_path: Path) -> None:
    paths = data(tmp_path)
    lock_stacks(paths, ["one"])
    id_, locked = add_stack(paths, "trl==1.0", PYTHON)
    assert (id_, locked.refused) == ("trl-1.0", {})
    matrix = load_matrix(paths.matrix)
    assert [stack.id for stack in matrix.stacks] == ["one", "trl-1.0"]
    assert lint(matrix, paths.locks) == []
    with pytest.raises(InputError, match=r"has the stack 'trl-1\.0' already"):
        add_stack(paths, "TRL==1.0", PYTHON)


def test_a_release_without_a_set_leaves_the_matrix_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = locked_data(tmp_path, monkeypatch)
    before = paths.matrix.read_bytes()
    refusal = UvRun(1, "", "Because only certifi<=2026.10.18 is available")
    monkeypatch.setattr(lock_recipe, "run_uv", lambda *_, **__: refusal)
    (error,) = add_stack(paths, "trl==1.0", PYTHON)[1].refused.values()
    assert error.message.endswith("only certifi<=2026.10.18 is available")
    assert paths.matrix.read_bytes() == before


@pytest.mark.parametrize(
    ("pin", "message"),
    [
        ("trl", "'trl' is not of the form PACKAGE==VERSION"),
        ("trl>=1", "'trl>=1' is not of the form PACKAGE==VERSION"),
        ("torch==2.7", "'torch==2.7' pins none of unsloth, trl"),
    ],
)
def test_a_pin_that_names_no_stack_is_refused(tmp_path: Path, pin: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        add_stack(data(tmp_path), pin, PYTHON)
