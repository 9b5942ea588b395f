"""Fused linear log-probabilities: tensors in, tensors out; knows nothing of trainers."""

__all__: list[str] = []
