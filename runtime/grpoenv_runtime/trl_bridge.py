"""`patch_trl()`: put the runtime's log-probabilities under trl's ``GRPOTrainer``.

trl keeps its own loss, its own metrics and its own handling of images and micro-batches. What is
replaced is the one step that costs the memory: where the trainer's scoring method calls the model
and reduces ``(B, T, V)`` logits, the head scores the labels itself (:mod:`.scored_forward`). So
every loss type and option of the installed trl holds, in the meaning that this trl gives it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import Version
from torch import Tensor, nn

from grpoenv_kernels import TokenScores
from grpoenv_runtime.scored_forward import HeadRequest, causal_model, score_labels

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TrlPatch", "UnsupportedTrlError", "patch_trl"]

_MODULE = "trl.trainer.grpo_trainer"


class UnsupportedTrlError(RuntimeError):
    """The installed trl is not one that `patch_trl` was tested with; nothing was changed."""


class _Seam(NamedTuple):
    """Where a range of trl releases scores tokens.

    Attributes:
        method: the trainer's method that calls the model and reduces its logits.
        divides: it divides the logits by the temperature.

    """

    method: str
    divides: bool = True


_SEAMS: Mapping[str, _Seam] = {
    ">=0.15,<0.16": _Seam("_get_per_token_logps", divides=False),
    ">=0.16,<0.20": _Seam("_get_per_token_logps"),
    ">=0.20,<1.14": _Seam("_get_per_token_logps_and_entropies"),
    ">=1.14,<1.15": _Seam("_full_logits_logps"),
    ">=1.15,<1.17": _Seam("_get_per_token_logps_and_entropies"),
}
"""Read in the source of every release from 0.15.0 to 1.16.0; the tests run one of each range."""

_PARAMETERS = ("model", "input_ids", "attention_mask", "logits_to_keep")
_REDUCERS = ("selective_log_softmax", "entropy_from_logits", "selective_log_softmax_and_entropy")
"""What the scoring methods before trl 1.15 reduce logits with, as far as a release has it."""


@dataclass(frozen=True, eq=False)
class _ScoredLogits:
    """Stands for ``(B, T, V)`` logits in trl's scoring method: takes slices, knows the scores."""

    scores: TokenScores
    temperature: float

    def __getitem__(self, key: tuple[slice, ...]) -> _ScoredLogits:
        logps, entropies = self.scores
        cut = TokenScores(logps[key[:2]], None if entropies is None else entropies[key[:2]])
        return _ScoredLogits(cut, self.temperature)

    def __truediv__(self, temperature: float) -> _ScoredLogits:
        if temperature != self.temperature:
            raise RuntimeError(
                f"trl divides by {temperature}, but the scores are those at {self.temperature}"
            )
        return self

    div_ = __truediv__


@dataclass(frozen=True, eq=False)
class _ScoredOutput:
    """What trl's scoring method reads from the model's output; from 1.15 on all but ``logits``."""

    logits: _ScoredLogits
    log_probs: Tensor
    entropy: Tensor | None
    aux_loss: Tensor | None


def _scoring_model(trainer: Any, model: nn.Module, request: HeadRequest) -> Callable[..., Any]:
    """Return what is given to trl's scoring method in place of ``model``."""
    causal = causal_model(trainer.accelerator.unwrap_model(model))
    takes_keep = "logits_to_keep" in inspect.signature(type(causal).forward).parameters

    def call(
        *, labels: Tensor | None = None, fused_lm_head: bool = False, **inputs: Any
    ) -> _ScoredOutput:
        if fused_lm_head:  # trl 1.15 on, which leaves all of this to its own patched forward
            inputs["use_cache"] = False
            if takes_keep:
                inputs["logits_to_keep"] = request.keep + 1
        scores, outputs = score_labels(model, causal, inputs, request)
        entropies = scores.entropies
        return _ScoredOutput(
            logits=_ScoredLogits(scores, request.temperature),
            log_probs=scores.logps[:, :-1],
            entropy=None if entropies is None else entropies[:, :-1],
            aux_loss=getattr(outputs, "aux_loss", None),
        )

    return call


def _scoring_method(original: Callable[..., Any], seam: _Seam) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def score(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        given = bound.arguments
        request = HeadRequest(
            keep=given["logits_to_keep"],
            temperature=float(self.temperature) if seam.divides else 1.0,
            entropy=bool(given.get("compute_entropy", False)),
            entropy_gradient=bool(getattr(self, "_entropy_bonus_enabled", False)),
        )
        given["model"] = _scoring_model(self, given["model"], request)
        return original(*bound.args, **bound.kwargs)

    return score


def _reducer(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return trl's function ``name``, answering for scored logits from their scores."""

    def known(logits: _ScoredLogits) -> Any:
        logps, entropies = logits.scores
        if name == "selective_log_softmax":
            return logps
        # Taken anew, so that a caller under no_grad gets one without gradient.
        entropies = None if entropies is None else entropies[:]
        return entropies if name == "entropy_from_logits" else (logps, entropies)

    @functools.wraps(original)
    def reduce(logits: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(logits, _ScoredLogits):
            return known(logits)
        return original(logits, *args, **kwargs)

    return reduce


def _init_method(original: Callable[..., Any], module: ModuleType) -> Callable[..., Any]:
    """Return a constructor that admits LoRA on the head and refuses a second fast path."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        config = signature.bind(self, *args, **kwargs).arguments.get("args")
        # With this option trl casts the head for generation too, where an adapter would be lost.
        if getattr(config, "cast_lm_head_to_fp32", False):
            original(self, *args, **kwargs)
        else:
            with _adapters_on_head(module):
                original(self, *args, **kwargs)
        if hasattr(type(self), "compute_liger_loss") and (
            getattr(self, "use_liger_loss", False) or getattr(self, "use_liger_kernel", False)
        ):
            raise ValueError(
                "patch_trl() and Liger's GRPO loss exclude each other: set use_liger_loss=False "
                "(use_liger_kernel=False in newer trl), or train without patch_trl()"
            )

    return construct


@contextmanager
def _adapters_on_head(module: ModuleType) -> Iterator[None]:
    """Let trl's constructor take an adapter on the head for what it is here: scored and trained.

    trl from 1.15 on refuses one, since its own scoring would leave it out.
    """
    found = module.__dict__.get("BaseTunerLayer")
    if found is None:
        yield
        return
    module.__dict__["BaseTunerLayer"] = type("NoTunerLayer", (), {})
    try:
        yield
    finally:
        module.__dict__["BaseTunerLayer"] = found


class TrlPatch:
    """What `patch_trl` changed in trl; leaving it as a context, or :meth:`undo`, restores trl.

    Attributes:
        version: the trl that is patched.

    """

    def __init__(self, version: Version) -> None:
        self.version = version
        self._changed: list[tuple[Any, str, Any, Any]] = []

    def _replace(self, owner: Any, name: str, new: Any) -> None:
        self._changed.append((owner, name, owner.__dict__[name], new))
        setattr(owner, name, new)

    @property
    def active(self) -> bool:
        """Whether trl is patched by this."""
        return bool(self._changed)

    def undo(self) -> None:
        """Give trl back what it had; does nothing if that was done.

        Raises:
            RuntimeError: something else has replaced the same names since, so undoing this would
                undo that.

        """
        for owner, name, _, new in self._changed:
            if owner.__dict__[name] is not new:
                raise RuntimeError(
                    f"{owner.__name__}.{name} was replaced again after patch_trl(): undo that first"
                )
        while self._changed:
            owner, name, old, _ = self._changed.pop()
            setattr(owner, name, old)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.undo()


_current: TrlPatch | None = None


def patch_trl() -> TrlPatch:
    """Let trl's ``GRPOTrainer`` score tokens without ``(B, T, V)`` logits.

    For trl 0.15 to 1.16, any loss type, with full training, PEFT (LoRA also on the head), tied
    embeddings, mixtures of experts, and through DDP and FSDP. Trainers made before the call profit
    too. A second call while trl is patched returns the same patch. ::

        grpoenv_runtime.patch_trl()

        with grpoenv_runtime.patch_trl():
            trainer.train()

    Returns:
        The patch, to be undone by :meth:`TrlPatch.undo` or as a context manager.

    Raises:
        UnsupportedTrlError: trl is not installed, is outside of the tested range, or has been
            replaced by another package (unsloth). Nothing was changed.

    """
    global _current
    if _current is not None and _current.active:
        return _current
    version = _installed_version()
    seam = _seam_of(version)
    module = importlib.import_module(_MODULE)
    trainer: Any = module.GRPOTrainer
    _check(trainer, seam, version)
    patch = TrlPatch(version)
    patch._replace(trainer, seam.method, _scoring_method(trainer.__dict__[seam.method], seam))
    if seam.method == "_full_logits_logps":
        # trl 1.14 has a fused path of its own beside that method; all scoring goes through it here.
        patch._replace(trainer, "_get_per_token_logps_and_entropies", trainer._full_logits_logps)
    patch._replace(trainer, "__init__", _init_method(trainer.__dict__["__init__"], module))
    for name in _REDUCERS:
        if name in module.__dict__:
            patch._replace(module, name, _reducer(name, module.__dict__[name]))
    _current = patch
    return patch


def _installed_version() -> Version:
    try:
        return Version(importlib.metadata.version("trl"))
    except importlib.metadata.PackageNotFoundError:
        raise UnsupportedTrlError("trl is not installed: nothing to patch") from None


def _seam_of(version: Version) -> _Seam:
    for releases, seam in _SEAMS.items():
        if SpecifierSet(releases).contains(version.base_version):
            return seam
    raise UnsupportedTrlError(
        f"trl {version} is outside of the range that patch_trl() was tested with, 0.15 to 1.16: "
        "train without it, or install a trl of that range"
    )


def _check(trainer: Any, seam: _Seam, version: Version) -> None:
    if trainer.__module__ != _MODULE:
        raise UnsupportedTrlError(
            f"trl's GRPOTrainer was replaced by {trainer.__module__}.{trainer.__qualname__}, which "
            "brings its own scoring: use one of the two"
        )
    method = trainer.__dict__.get(seam.method)
    known = inspect.signature(method).parameters if method is not None else ()
    missing = [name for name in _PARAMETERS if name not in known]
    if missing:
        raise UnsupportedTrlError(
            f"GRPOTrainer.{seam.method} of trl {version} has no parameters {missing}: this is not "
            "the trl that was released under that version"
        )
