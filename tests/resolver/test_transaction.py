"""Changes to an environment are all or nothing, also when they are killed half-way."""

import hashlib
import os
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from depot import make_probe, make_wheel
from grpoenv.distributions import distributions
from grpoenv.errors import OperationError
from grpoenv.probe import Interpreter
from grpoenv.transaction import locked, open_journal, recover, state_folder


class Env:
    """A folder laid out as a virtual environment with packages ``old`` and ``other``."""

    def __init__(self, root: Path) -> None:
        self.root = root / "env"
        self.site = self.root / "lib" / "site-packages"
        self.bin = self.root / "bin"
        self.site.mkdir(parents=True)
        self.bin.mkdir()
        self.wheels = root
        for name in ("old", "other"):
            self.put(name, "1", files={f"{name}/sub/data.txt": "data"})
        (self.site / "loose.pth").write_text("# by hand")
        (self.site / "link").symlink_to("other")

    def put(self, name: str, version: str, files: dict[str, str] | None = None) -> None:
        with zipfile.ZipFile(make_wheel(self.wheels, name, version, files)) as wheel:
            for member in wheel.namelist():  # installers put new files in place of old ones
                (self.site / member).unlink(missing_ok=True)
            wheel.extractall(self.site)

    @property
    def interpreter(self) -> Interpreter:
        site, root = str(self.site), str(self.root)
        values = {
            **vars(make_probe().interpreter),
            **dict.fromkeys(("purelib", "platlib"), site),
            **dict.fromkeys(("prefix", "data"), root),
            "scripts": str(self.bin),
            "site_folders": (site,),
        }
        return Interpreter(**values)

    def open(self, *names: str):  # type: ignore[no-untyped-def]
        return open_journal(self.interpreter, distributions([self.site]), names)  # type: ignore[arg-type]

    def picture(self) -> dict[str, str]:
        """Every file with its content, links with their target, empty folders too."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            relative = path.relative_to(self.root)
            if ".grpoenv" in relative.parts:
                continue
            if path.is_symlink():
                found[str(relative)] = f"-> {path.readlink()}"
            elif path.is_file():
                found[str(relative)] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(relative)] = "folder"
        return found


@pytest.fixture
def env(tmp_path: Path) -> Env:
    return Env(tmp_path)


def remove_old(env: Env) -> None:
    for path in env.site.glob("old*"):
        shutil.rmtree(path)


def install_new(env: Env) -> None:
    env.put("old", "2", files={"old/new.txt": "new", "old/sub/data.txt": "changed"})
    (env.bin / "old-script").write_text("#!")


def leave_pieces(env: Env) -> None:
    (env.site / "old").mkdir(exist_ok=True)
    (env.site / "old" / "new.txt").write_text("no RECORD lists this yet")


def change_in_place(env: Env) -> None:
    path = env.site / "old" / "__init__.py"
    path.unlink()
    path.write_text("same name, another file")


STEPS: list[Callable[[Env], None]] = [remove_old, install_new, leave_pieces, change_in_place]


@pytest.mark.parametrize("steps", [STEPS[:n] for n in range(len(STEPS))], ids=len)
def test_rolling_back_restores_every_file(env: Env, steps: list[Callable[[Env], None]]) -> None:
    before = env.picture()
    journal = env.open("old", "new")
    for step in steps:
        step(env)
    journal.roll_back()
    assert env.picture() == before
    assert not (state_folder(env.interpreter) / "journal").exists()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(STEPS), max_size=6))
def test_recovery_after_a_kill_restores_every_file(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Callable[[Env], None]]
) -> None:
    env = Env(tmp_path_factory.mktemp("env"))
    before = env.picture()
    env.open("old", "new")
    for step in steps:
        if step is not change_in_place or (env.site / "old" / "__init__.py").exists():
            step(env)
    assert recover(env.interpreter) == ["new", "old"]
    assert env.picture() == before
    assert recover(env.interpreter) == []


def test_rolling_back_twice_over_a_kill_in_between_is_safe(env: Env) -> None:
    before = env.picture()
    journal = env.open("old")
    remove_old(env)
    install_new(env)
    journal._remove_new(set())  # killed here: everything removed, nothing put back
    recover(env.interpreter)
    missing = before.keys() - env.picture().keys()
    assert {name for name in missing if name.startswith("lib/site-packages/old")} == set()


def test_what_was_committed_stays(env: Env) -> None:
    journal = env.open("old")
    remove_old(env)
    install_new(env)
    after = env.picture()
    journal.commit()
    assert recover(env.interpreter) == []
    assert env.picture() == after


def test_a_package_that_another_tool_installs_meanwhile_is_left_alone(env: Env) -> None:
    env.open("old")
    remove_old(env)
    env.put("foreign", "1")
    recover(env.interpreter)
    assert (env.site / "foreign" / "__init__.py").exists()
    assert (env.site / "old" / "__init__.py").exists()


def test_a_journal_that_was_never_finished_changes_nothing(env: Env) -> None:
    before = env.picture()
    draft = state_folder(env.interpreter) / "journal.draft"
    draft.mkdir(parents=True)
    (draft / "saved.json").write_text("[")
    assert recover(env.interpreter) == []
    assert env.picture() == before
    assert not draft.exists()


def test_data_files_of_a_new_package_are_removed_again(env: Env) -> None:
    (env.root / "share" / "man").mkdir(parents=True)
    (env.root / "share" / "man" / "mine.1").write_text("by hand")
    before = env.picture()
    journal = env.open("old")
    install_new(env)
    (env.root / "share" / "man" / "new.1").write_text("of the new package")
    journal.roll_back()
    assert env.picture() == before


def test_an_interrupt_does_not_stop_the_way_back(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    before = env.picture()
    journal = env.open("old")
    remove_old(env)
    restore = journal._restore

    def interrupted(saved: list[tuple[Path, Path]]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        restore(saved)

    monkeypatch.setattr(journal, "_restore", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    journal.roll_back()
    assert env.picture() == before
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("file", ["plan.json", "saved.json", "before.z"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", None], ids=["empty", "cut", "wrong", "gone"]
)
def test_a_journal_that_cannot_be_read_says_what_to_do(
    env: Env, file: str, content: bytes | None
) -> None:
    env.open("old")
    before = env.picture()
    path = state_folder(env.interpreter) / "journal" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OperationError, match=r"its journal .* cannot be read") as caught:
        recover(env.interpreter)
    assert "make the environment anew" in caught.value.remedy
    assert env.picture() == before


def test_saved_files_are_links_and_cost_no_space(env: Env) -> None:
    env.open("old")
    saved = state_folder(env.interpreter) / "journal" / "saved"
    inodes = {path.stat().st_ino for path in saved.iterdir()}
    assert (env.site / "old" / "__init__.py").stat().st_ino in inodes


def test_where_links_cannot_be_made_files_are_copied(
    env: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError("no links on this file system")

    monkeypatch.setattr(os, "link", refuse)
    before = env.picture()
    journal = env.open("old")
    remove_old(env)
    journal.roll_back()
    assert env.picture() == before


def test_a_record_that_names_a_file_outside_is_refused_before_anything_changes(
    env: Env, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("x")
    record = env.site / "old-1.dist-info" / "RECORD"
    record.write_text(record.read_text() + "../../../precious,,\n")
    before = env.picture()
    with pytest.raises(OperationError) as caught:
        env.open("old")
    assert caught.value.message == (
        f"RECORD of old 1 names {tmp_path}/precious, which is outside the environment"
    )
    assert env.picture() == before
    assert recover(env.interpreter) == []


def test_a_linked_folder_that_leads_outside_is_refused(env: Env, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.move(env.site / "old", outside)
    (env.site / "old").symlink_to(outside)
    with pytest.raises(OperationError, match="which is outside the environment"):
        env.open("old")


def test_a_package_of_the_system_is_refused(env: Env) -> None:
    shutil.rmtree(env.site / "old-1.dist-info")
    (env.site / "old-1.egg-info").write_text("Name: old\nVersion: 1\n")
    with pytest.raises(OperationError, match=r"old 1 has no RECORD .* neither replaced nor put"):
        env.open("old")


def test_a_second_grpoenv_is_refused(env: Env) -> None:
    with (
        locked(env.interpreter),
        pytest.raises(OperationError, match="another grpoenv is changing this environment"),
        locked(env.interpreter, timeout_s=0.01),
    ):
        raise AssertionError("two hold the lock")
    with locked(env.interpreter, timeout_s=0.01):
        pass
