"""The default GRPO run: what happens after the imports, and the trainer that unsloth writes."""

from __future__ import annotations

from grpoenv.linker.execute import Interpreter

__all__ = ["follow_default_run"]


def follow_default_run(interpreter: Interpreter) -> None:
    """Follow what a GRPO run does with its default options."""
