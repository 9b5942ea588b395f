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
    prepared = variables.get("HF_DATASETS_CACHE") or _hf_home(variables, home) / "datasets"
    wanted = [
        ("model", _MODELS, _holds(cache, "models--")),
        ("data set", _DATASETS, _holds(cache, "datasets--") or _holds(Path(prepared), "")),
    ]
    switches = {
        switch: None
        for _, names, there in wanted
        if not there
        for switch in names
        if variables.get(switch, "").upper() in _TRUE
    }
    absent = [what for what, names, there in wanted if not there and switches.keys() & set(names)]
    if absent:
        yield Finding(
            Severity.WARNING,
            ", ".join(f"{switch}={variables[switch]}" for switch in switches),
            f"forbids downloads, and no {' and no '.join(absent)} is in the cache: only what lies "
            "in a folder of your own can be loaded",
            str(cache),
            remedy=f"unset {' '.join(switches)}",
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
