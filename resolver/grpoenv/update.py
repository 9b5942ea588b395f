"""The update check: is there a newer grpoenv? Asked at most once a day, shown on the next run.

`start_background_check` is for the start of a program: it reads one small file and, only when a
check is due, starts one daemon thread. It opens no socket, starts no process, never raises and
never delays the end of the program. `check_now` is for a user who asks.

What may happen, when, and how to stop it is all in `grpoenv.update_policy`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from grpoenv import __version__
from grpoenv.private_cache import exclusive, user_cache_folder
from grpoenv.update_policy import LIMITS, Step, next_step, opted_out, process_refusal
from grpoenv.update_state import UpdateState, read_state, write_state

if TYPE_CHECKING:  # dataclasses, made when there is something to tell: 1 ms each on a slow machine
    from grpoenv.update_result import NewerRelease, UpdateResult

__all__ = [
    "BackgroundCheck",
    "CheckContext",
    "check_now",
    "log_notice",
    "start_background_check",
]

_LOGGER = logging.getLogger("grpoenv.update")
_SHOWN = threading.Event()


class _ImportGuard:
    """Keeps `os.fork` away while the thread imports.

    A child forked in the middle of an import inherits a module lock that nobody will release.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registered = False
        self._held_for_fork = False

    def held(self) -> threading.Lock:
        """Return the lock to hold around imports."""
        return self._lock

    def register(self) -> None:
        """Make forks of this process wait, from the first call on."""
        if not self._registered:
            self._registered = True
            os.register_at_fork(
                before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child
            )

    def _before(self) -> None:
        self._held_for_fork = self._lock.acquire(timeout=LIMITS.fork_wait_s)

    def _in_parent(self) -> None:
        if self._held_for_fork:
            self._lock.release()

    def _in_child(self) -> None:
        self._lock = threading.Lock()


_IMPORT_GUARD = _ImportGuard()


def _ask_index(installed: str, environ: Mapping[str, str]) -> UpdateResult:
    # httpx and packaging cost 0.2 s to import: only ever on the check's own thread.
    with _IMPORT_GUARD.held():
        from grpoenv.update_network import ask_index
    return ask_index(installed, environ)


class CheckContext:
    """The world as the check sees it; the defaults are the real one.

    `query` gets the installed version and the environment, and may block up to the limits.
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str] = os.environ,
        cache_folder: Path | None = None,
        config_folder: Path | None = None,
        installed: str = __version__,
        prefix: str = sys.prefix,
        clock: Callable[[], float] = time.time,
        query: Callable[[str, Mapping[str, str]], UpdateResult] = _ask_index,
    ) -> None:
        self.environ = environ
        self.cache_folder = cache_folder or user_cache_folder()
        self.config_folder = config_folder
        self.installed = installed
        self.prefix = prefix
        self.clock = clock
        self.query = query


class BackgroundCheck:
    """What a run started with: the notice from an earlier run, and perhaps a check under way.

    `refused` says why nothing was started, None where nothing stood against it.
    """

    def __init__(self, earlier: NewerRelease | None = None, refused: str | None = None) -> None:
        self.earlier = earlier
        self.refused = refused
        self._thread: threading.Thread | None = None

    def wait(self, timeout_s: float = LIMITS.cli_wait_s) -> bool:
        """Give a check under way up to `timeout_s` to finish; return whether none is left."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()


def start_background_check(
    context: CheckContext | None = None, *, terminal: bool = True
) -> BackgroundCheck:
    """Look at the state file and start a check on a daemon thread if one is due.

    `terminal`: a command-line program passes whether it talks to one; without, nothing happens.
    Never raises.
    """
    environ = os.environ if context is None else context.environ
    refused = None if terminal else "not on a terminal"
    refused = refused or opted_out(environ) or process_refusal(environ)
    if refused is not None:
        return BackgroundCheck(refused=refused)
    context = context or CheckContext()
    state = read_state(context.cache_folder)
    check = BackgroundCheck(earlier=_earlier_result(state, context))
    if _step(state, context) != "rest":
        thread = threading.Thread(target=_run, args=(context,), name="grpoenv-update", daemon=True)
        try:
            _IMPORT_GUARD.register()
            thread.start()
        except RuntimeError:  # no thread to be had, or the interpreter is shutting down
            check.refused = "no thread could be started"
        else:
            check._thread = thread
    return check


def check_now(context: CheckContext | None = None) -> UpdateResult:
    """Ask the index now and return the answer; remember it for the next run. Never raises.

    Only the variables that mean "no network" refuse it. Returns within the sum of the limits even
    where the name service hangs.
    """
    from grpoenv.update_result import NotDetermined

    context = context or CheckContext()
    variable = opted_out(context.environ, explicit=True)
    if variable is not None:
        return NotDetermined(f"{variable} is set")
    _IMPORT_GUARD.register()
    answers: list[UpdateResult] = []
    thread = threading.Thread(
        target=lambda: answers.append(_answer(context)), name="grpoenv-update", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:
        return NotDetermined("no thread could be started")
    thread.join(LIMITS.index_question_s + LIMITS.total_s + LIMITS.fork_wait_s)
    if not answers:
        return NotDetermined("the index did not answer in time")
    _remember(answers[0], read_state(context.cache_folder), context)
    return answers[0]


def log_notice(check: BackgroundCheck) -> None:
    """Log what an earlier run found, once in this process, as a warning of `grpoenv.update`."""
    if check.earlier is not None and not _SHOWN.is_set():
        from grpoenv.update_result import notice

        _SHOWN.set()
        _LOGGER.warning("%s", notice(check.earlier))


def _step(state: UpdateState | None, context: CheckContext) -> Step:
    stamp_s = None if state is None else state.stamp_s
    failures = 0 if state is None else state.failures
    return next_step(stamp_s, failures, context.clock(), context.prefix)


def _earlier_result(state: UpdateState | None, context: CheckContext) -> NewerRelease | None:
    """Return what an earlier run found, unless it is old or about another installed version."""
    if state is None or state.newest is None or state.installed != context.installed:
        return None
    if context.clock() - state.stamp_s >= LIMITS.result_life_s:
        return None
    from grpoenv.update_result import NewerRelease

    return NewerRelease(state.installed, state.newest)


def _run(context: CheckContext) -> None:
    """Take the step that is due. The stamp goes before the request, so a killed run backs off."""
    refusal = _config_refusal(context)
    if refusal is not None:
        _LOGGER.debug("no update check: %s", refusal)
        return
    state = _claim(context)
    if state is not None:
        _remember(_answer(context), state, context)


def _claim(context: CheckContext) -> UpdateState | None:
    """Leave this run's stamp; return the state before it if this process may now ask."""
    now_s = context.clock()
    if read_state(context.cache_folder) is None:
        write_state(context.cache_folder, UpdateState(now_s, installed=context.installed))
        return None
    with exclusive(context.cache_folder) as alone:
        state = read_state(context.cache_folder)
        step = _step(state, context)
        if not alone or state is None or step == "rest":
            return None
        failures = state.failures + 1 if step == "ask" else state.failures
        stamped = UpdateState(now_s, failures, state.installed, state.newest)
        written = write_state(context.cache_folder, stamped)
    return state if written and step == "ask" else None


def _remember(result: UpdateResult, before: UpdateState | None, context: CheckContext) -> None:
    from grpoenv.update_result import NewerRelease, NotDetermined

    if isinstance(result, NotDetermined):
        before = before or UpdateState(0.0)
        state = UpdateState(context.clock(), before.failures + 1, before.installed, before.newest)
    else:
        newest = result.newest if isinstance(result, NewerRelease) else None
        state = UpdateState(context.clock(), 0, context.installed, newest)
    write_state(context.cache_folder, state)


def _answer(context: CheckContext) -> UpdateResult:
    from grpoenv.update_result import NotDetermined

    try:
        return context.query(context.installed, context.environ)
    except ImportError as error:
        return NotDetermined(f"{error.name or 'a package'} cannot be imported")
    except Exception as error:  # a check must not raise into, or print over, a training run
        _LOGGER.debug("the update check failed", exc_info=error)
        return NotDetermined(f"the check failed with {type(error).__name__}")


def _config_refusal(context: CheckContext) -> str | None:
    """Return why `config.toml` forbids the check; one that cannot be read forbids it too."""
    try:
        with _IMPORT_GUARD.held():
            import platformdirs
            import tomlkit
            from tomlkit.exceptions import TOMLKitError
    except ImportError as error:
        return f"{error.name or 'a package'} cannot be imported"
    folder = context.config_folder or platformdirs.user_config_path("grpoenv", appauthor=False)
    try:
        with (folder / "config.toml").open("rb") as file:
            content = file.read(LIMITS.config_bytes + 1)
        if len(content) > LIMITS.config_bytes:
            return "config.toml is too large"
        update = tomlkit.parse(content.decode()).unwrap().get("update", {})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, TOMLKitError) as error:
        return f"config.toml cannot be read ({type(error).__name__})"
    allowed = isinstance(update, dict) and update.get("check", True) is True
    return None if allowed else "update.check in config.toml"
