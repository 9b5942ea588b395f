"""GRPO losses, their registry and its self-test, for use in training scripts."""

__all__: list[str] = []
