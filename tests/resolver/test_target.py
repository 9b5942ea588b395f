"""Which interpreter is installed into, and looked at, where the user names none."""

import sys
from pathlib import Path

import pytest

from grpoenv.errors import InputError
from grpoenv.target import choose_python, existing_python, interpreter_of


def test_what_the_user_names_goes_first(tmp_path: Path, venv: Path) -> None:
    active = {"VIRTUAL_ENV": str(tmp_path / "active")}
    assert choose_python(Path("/x/python"), None, active) == (Path("/x/python"), None)
    assert choose_python(None, venv.parent.parent, active) == (venv, None)


def test_then_the_active_environment(venv: Path) -> None:
    active = {"VIRTUAL_ENV": str(venv.parent.parent)}
    assert choose_python(None, None, active) == (venv, None)
    assert existing_python(None, active) == venv


def test_then_the_environment_that_grpoenv_runs_in() -> None:
    assert choose_python(None, None, {}) == (Path(sys.executable), None)


def test_an_environment_made_for_a_tool_alone_is_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "pipx_metadata.json").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "tool"))
    monkeypatch.chdir(tmp_path)
    python, new_venv = choose_python(None, None, {})
    assert (python, new_venv) == (interpreter_of(Path(".venv")).absolute(), Path(".venv"))
    assert existing_python(None, {}) is None


@pytest.mark.parametrize("sign", ["COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"])
def test_on_a_hosted_notebook_it_is_the_running_interpreter(
    sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert choose_python(None, None, {sign: "x"}) == (Path(sys.executable), None)


def test_a_file_in_the_place_of_an_environment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is there and is no virtual environment"):
        choose_python(None, tmp_path / "file", {})
