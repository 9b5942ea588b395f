"""Which hosted notebook this is, if any."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HOSTS", "Host", "find_host"]

HOSTS = ("kaggle", "colab", "vertex", "plain")


@dataclass(frozen=True)
class Host:
    """The kind of host, one of HOSTS; ``release`` is the image's tag and ``reason`` the sign."""

    kind: str
    release: str
    reason: str


def find_host(environment: Mapping[str, str] = os.environ, *, root: Path = Path("/")) -> Host:
    """Tell Kaggle from Colab from Colab Enterprise (Vertex) from a plain machine, in this order.

    Kaggle goes first because its image is built from Colab's and carries ``COLAB_RELEASE_TAG``;
    Colab Enterprise sets that too, and is another product.
    """
    release = environment.get("COLAB_RELEASE_TAG", "")
    if "KAGGLE_KERNEL_RUN_TYPE" in environment:
        return Host("kaggle", release, "KAGGLE_KERNEL_RUN_TYPE is set")
    if "KAGGLE_URL_BASE" in environment and (root / "kaggle" / "input").is_dir():
        return Host("kaggle", release, "KAGGLE_URL_BASE is set and /kaggle/input is there")
    if environment.get("VERTEX_PRODUCT") == "COLAB_ENTERPRISE":
        return Host("vertex", release, "VERTEX_PRODUCT is COLAB_ENTERPRISE")
    if release:
        return Host("colab", release, "COLAB_RELEASE_TAG is set")
    return Host("plain", "", "no sign of a hosted notebook")
