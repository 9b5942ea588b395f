"""How a stack is locked, with a uv that answers from a small table of releases."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from depot import PYTHON
from grpoenv import matrix_lock
from grpoenv._data import DataPaths
from grpoenv.errors import InputError, OperationError
from grpoenv.lockfile import read_lock
from grpoenv.matrix_file import load_matrix
from grpoenv.matrix_lint import lint
from grpoenv.matrix_lock import lock_stack
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
    monkeypatch.setattr(matrix_lock, "run_uv", fake)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    return fake


def data(tmp_path: Path, image: str = "") -> DataPaths:
    paths = DataPaths(tmp_path / "compat-matrix.toml", tmp_path / "lockfiles")
    (paths.locks / "images").mkdir(parents=True)
    (paths.locks / "images" / "colab-1.txt").write_text(
        "torch==2.6+cu124\ndatasets==4.0\npyarrow==18\n"
    )
    paths.matrix.write_text(RECIPE.replace("IMAGE\n", image))
    return paths


def test_a_recipe_becomes_a_row_with_lock_digest_versions_and_evidence(
    uv: FakeUv, tmp_path: Path
) -> None:
    paths = data(tmp_path)
    (path,) = lock_stack(paths, "one")
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
    (path,) = lock_stack(data(tmp_path), "one")
    pin = read_lock(path).pins[canonicalize_name("torch")]
    expected = digest(f"torch-2.7-{TAG}-{TAG}-manylinux_2_17_x86_64.whl")
    assert pin.hashes == (f"sha256:{expected}",)


def test_locking_again_gives_the_same_bytes(uv: FakeUv, tmp_path: Path) -> None:
    paths = data(tmp_path)
    (path,) = lock_stack(paths, "one")
    before = path.read_bytes(), paths.matrix.read_bytes()
    lock_stack(paths, "one")
    assert (path.read_bytes(), paths.matrix.read_bytes()) == before


def test_the_day_and_grpoenvs_own_needs_are_part_of_the_question(
    uv: FakeUv, tmp_path: Path
) -> None:
    lock_stack(data(tmp_path), "one")
    words = uv.calls[0]
    assert words[words.index("--exclude-newer") + 1] == "2026-01-01"
    assert words[words.index("--only-binary") + 1] == ":all:"


def test_an_image_keeps_what_it_can_and_its_cuda_libraries_out(uv: FakeUv, tmp_path: Path) -> None:
    paths = data(tmp_path, 'image = "colab-1"\nkeeps = ["torch"]\n')
    (path,) = lock_stack(paths, "one")
    locked = {str(name): str(pin.version) for name, pin in read_lock(path).pins.items()}
    assert locked == {"trl": "1.0", "torch": "2.6", "datasets": "4.2", "pyarrow": "18"}


def test_a_stack_that_is_not_there_is_named(uv: FakeUv, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no stack 'two'"):
        lock_stack(data(tmp_path), "two")


def test_a_package_without_a_wheel_for_the_target_is_named(
    uv: FakeUv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = data(tmp_path)
    paths.matrix.write_text(paths.matrix.read_text().replace("x86_64-many", "riscv64-many"))
    with pytest.raises(OperationError, match=f"has no wheel for {PYTHON} on riscv64"):
        lock_stack(paths, "one")


def test_uvs_reason_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = UvRun(1, "", "Because only certifi<=2026.10.18 is available")
    monkeypatch.setattr(matrix_lock, "run_uv", lambda *_, **__: refusal)
    with pytest.raises(OperationError, match=r"only certifi<=2026\.10\.18 is available"):
        lock_stack(data(tmp_path), "one")
