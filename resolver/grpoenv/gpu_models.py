"""The compute capability of a GPU by its name, as shops, NVML and people write it."""

from __future__ import annotations

import re

__all__ = ["KNOWN_MODELS", "capability_of"]

KNOWN_MODELS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("K80",), (3, 7)),
    **dict.fromkeys(("M40", "M60", "GTX 980 TI", "GTX 980", "GTX 970", "GTX TITAN X"), (5, 2)),
    **dict.fromkeys(("P100",), (6, 0)),
    **dict.fromkeys(("P4", "P40", "P2000", "P4000", "P5000", "P6000", "TITAN XP"), (6, 1)),
    **dict.fromkeys(("GTX 1080 TI", "GTX 1080", "GTX 1070 TI", "GTX 1070", "GTX 1060"), (6, 1)),
    **dict.fromkeys(("GTX 1050 TI", "GTX 1050"), (6, 1)),
    **dict.fromkeys(("V100", "V100S", "TITAN V"), (7, 0)),
    **dict.fromkeys(("T4", "T4G", "RTX 4000", "RTX 5000", "RTX 8000", "TITAN RTX"), (7, 5)),
    **dict.fromkeys(("RTX 2080 TI", "RTX 2080 SUPER", "RTX 2080", "RTX 2070 SUPER"), (7, 5)),
    **dict.fromkeys(("RTX 2070", "RTX 2060 SUPER", "RTX 2060", "GTX 1660 TI"), (7, 5)),
    **dict.fromkeys(("GTX 1660 SUPER", "GTX 1660", "GTX 1650 TI", "GTX 1650"), (7, 5)),
    **dict.fromkeys(("A100", "A800", "A30"), (8, 0)),
    **dict.fromkeys(("A2", "A10", "A10G", "A16", "A40", "RTX A2000", "RTX A3000"), (8, 6)),
    **dict.fromkeys(("RTX A4000", "RTX A4500", "RTX A5000", "RTX A5500", "RTX A6000"), (8, 6)),
    **dict.fromkeys(("A2000", "A3000", "A4000", "A4500", "A5000", "A5500", "A6000"), (8, 6)),
    **dict.fromkeys(("RTX 3090 TI", "RTX 3090", "RTX 3080 TI", "RTX 3080"), (8, 6)),
    **dict.fromkeys(("RTX 3070 TI", "RTX 3070", "RTX 3060 TI", "RTX 3060"), (8, 6)),
    **dict.fromkeys(("RTX 3050 TI", "RTX 3050"), (8, 6)),
    **dict.fromkeys(("L4", "L20", "L40", "L40S", "RTX 6000 ADA", "RTX 5000 ADA"), (8, 9)),
    **dict.fromkeys(("RTX 4000 ADA", "RTX 4090 D", "RTX 4090", "RTX 4080 SUPER"), (8, 9)),
    **dict.fromkeys(("RTX 4080", "RTX 4070 TI SUPER", "RTX 4070 TI", "RTX 4070 SUPER"), (8, 9)),
    **dict.fromkeys(("RTX 4070", "RTX 4060 TI", "RTX 4060", "RTX 4050"), (8, 9)),
    **dict.fromkeys(("H20", "H100", "H200", "H800", "GH200"), (9, 0)),
    **dict.fromkeys(("B200", "GB200"), (10, 0)),
    **dict.fromkeys(("B300", "GB300"), (10, 3)),
    **dict.fromkeys(("RTX PRO 6000", "RTX PRO 5000", "RTX PRO 4500", "RTX PRO 4000"), (12, 0)),
    **dict.fromkeys(("RTX 5090 D", "RTX 5090", "RTX 5080", "RTX 5070 TI", "RTX 5070"), (12, 0)),
    **dict.fromkeys(("RTX 5060 TI", "RTX 5060", "RTX 5050"), (12, 0)),
}
"""NVIDIA's list of compute capabilities (2026-11). ``RTX 6000`` alone is three different GPUs."""

_COUNT = re.compile(r"^\d+ ?[xX] ?|\s[xX] ?\d+$")
_MAKER = re.compile(r"\b(NVIDIA|GEFORCE|TESLA|QUADRO)\b")
_BUILD = re.compile(r"[- ](PCIE|SXM\d?|NVL|LAPTOP|MAX-Q|GPU|GENERATION|BLACKWELL|\d+ ?GB|\(.*).*$")


def capability_of(name: str) -> tuple[int, int] | None:
    """Return the compute capability of the GPU that ``name`` names, None where it is not known.

    Makers, numbers of GPUs, memory sizes and form factors may stand around the model.
    """
    text = _MAKER.sub("", _COUNT.sub("", name.strip()).upper()).strip()
    model = _BUILD.sub("", " ".join(text.split()))
    return KNOWN_MODELS.get(model)
