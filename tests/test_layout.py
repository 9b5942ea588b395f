"""What holds for the whole repository: its layout, its checkers, and what must not stand in it."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from grpoenv import own_wheel

ROOT = Path(__file__).parent.parent
SOURCES = sorted(ROOT.glob("resolver/**/*.py"))


@pytest.mark.parametrize("folder", ["resolver", "runtime", "kernels", "lockfiles"])
def test_no_top_level_folder_hides_a_package_of_its_name(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
    ],
    ids=" ".join,
)
def test_the_checkers_are_content(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_public_names_are_listed_and_there(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id == "__all__"
    ]
    public = {
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    }
    if 'if __name__ == "__main__"' in path.read_text("utf-8"):  # a program, never imported from
        return
    assert len(listed) == 1
    assert public <= set(listed[0])


def test_no_file_of_the_repository_names_a_package_registry() -> None:
    from pip._internal.models.index import PyPI

    hosts = f"{PyPI.netloc}|{PyPI.file_storage_domain}"
    found = subprocess.run(["git", "grep", "-nIE", hosts], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == ""


def test_the_wheel_of_the_running_grpoenv_is_whole(tmp_path: Path) -> None:
    with zipfile.ZipFile(own_wheel.build_own_wheel(tmp_path)) as wheel:
        names = set(wheel.namelist())
        record = wheel.read("grpoenv-0.1.0.dist-info/RECORD").decode().split("\n")
    assert {line.split(",")[0] for line in record if line} == names
    assert {"grpoenv/data/compat-matrix.toml", "grpoenv/data/pairs.json"} <= names
    assert {f"grpoenv/matrix_page/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert "grpoenv/data/lockfiles/trl-1.16/cp311-x86_64-manylinux_2_28.txt" in names
    assert {"grpoenv_runtime/py.typed", "grpoenv_kernels/py.typed"} <= names
