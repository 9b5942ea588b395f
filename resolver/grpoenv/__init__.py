"""Environment manager and compatibility checker for GRPO fine-tuning.

This package never imports torch, triton or any package of the stack that it manages: it has to
work in the environment that is broken.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
