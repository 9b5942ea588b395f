"""``python -m grpoenv_kernels``: parity and speed of the kernels on this machine."""

from __future__ import annotations

import argparse
import json

import torch

from grpoenv_kernels.smoke import Smoke, run_smoke

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the check and return 0, or 1 if an error is larger than plain PyTorch's."""
    parser = argparse.ArgumentParser(prog="python -m grpoenv_kernels", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--parity", action="store_true", help="leave the timed runs out")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help=f"where to run (here: {default})")
    options = parser.parse_args(arguments)
    found = run_smoke(torch.device(options.device), timed=not options.parity)
    print(json.dumps(found.as_json(), indent=2) if options.json else _table(found))
    return 0 if found.holds else 1


def _table(found: Smoke) -> str:
    lines = [f"{found.device}, torch {torch.__version__}", ""]
    lines.append(f"{'error against float64':60} {'ours':>10} {'plain torch':>12}")
    for each in found.parity:
        verdict = "" if each.holds else "  TOO LARGE"
        what = f"{each.dtype} {each.head}: {each.what}"
        lines.append(f"{what:60} {each.ours:10.1e} {each.plain:12.1e}{verdict}")
    if not found.speed:
        return "\n".join(lines)
    rows, width, vocabulary = found.sizes
    lines += ["", f"{f'N {rows}, H {width}, V {vocabulary}':60} {'ms':>10} {'x floor':>12}"]
    for timed in found.speed:
        what = f"{timed.dtype} {timed.what}"
        lines.append(f"{what:60} {timed.milliseconds:10.1f} {timed.floor:12.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
