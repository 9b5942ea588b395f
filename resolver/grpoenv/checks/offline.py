"""Offline switches against the caches that they make everything depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from grpoenv.checks.interface import Check, Environment, Finding, Severity

__all__ = ["CHECK", "hub_cache"]

_MODELS = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_DATASETS = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
_TRUE = ("1", "ON", "YES", "TRUE")
"""What huggingface_hub takes for true (``constants.ENV_VARS_TRUE_VALUES``)."""


def hub_cache(variables: Mapping[str, str], home: Path) -> Path:
    """Return the folder in which huggingface_hub keeps what it has downloaded."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if variables.get(name):
            return Path(variables[name]).expanduser()
    return _hf_home(variables, home) / "hub"


def _hf_home(variables: Mapping[str, str], home: Path) -> Path:
    if variables.get("HF_HOME"):
        return Path(variables["HF_HOME"]).expanduser()
    return Path(variables.get("XDG_CACHE_HOME") or home / ".cache").expanduser() / "huggingface"


def _run(environment: Environment) -> Iterator[Finding]:
    variables = environment.use.variables
    home = Path(variables.get("HOME") or Path.home())
    cache = hub_cache(variables, home)
    yield from _missing(variables, _MODELS, "models--", "model", cache)
    prepared = Path(
        variables.get("HF_DATASETS_CACHE") or _hf_home(variables, home) / "datasets"
    ).expanduser()
    if not _holds(prepared, ""):
        yield from _missing(variables, _DATASETS, "datasets--", "data set", cache)


def _missing(
    variables: Mapping[str, str], switches: tuple[str, ...], prefix: str, what: str, cache: Path
) -> Iterator[Finding]:
    on = [name for name in switches if variables.get(name, "").upper() in _TRUE]
    if on and not _holds(cache, prefix):
        yield Finding(
            Severity.WARNING,
            f"{on[0]}={variables[on[0]]}",
            f"forbids downloads, and no {what} is in the cache: only a {what} in a folder of your "
            "own can be loaded",
            str(cache),
            remedy=f"unset {' '.join(on)}",
        )


def _holds(folder: Path, prefix: str) -> bool:
    try:
        return any(entry.name.startswith(prefix) for entry in folder.iterdir())
    except OSError:
        return False


CHECK = Check(
    "offline",
    "what is switched offline finds what it needs in its cache",
    _run,
    evidence="HF_HUB_OFFLINE and its like, and the folders of the caches",
    seconds=0.1,
)
