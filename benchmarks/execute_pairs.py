"""Execute pairs of unsloth and unsloth_zoo: import them, and make three GRPO steps with those that import.

    python benchmarks/execute_pairs.py PYTHON UNSLOTH:ZOO [UNSLOTH:ZOO ...]

PYTHON is the interpreter of an environment that has everything else, such as the one that
``uv pip install --exclude-newer DAY unsloth unsloth_zoo`` makes. The two releases under test are put
in front of it, each pair runs in a process of its own (`grpoenv.campaign._unsloth_grpo`), and a row
is printed for each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

from grpoenv.campaign import _unsloth_grpo

LIMIT_S = 3600
SWITCHES = {
    "UNSLOTH_COMPILE_DISABLE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "WANDB_DISABLED": "true",
    "CUDA_VISIBLE_DEVICES": "",
}


def main() -> None:
    """Execute the pairs of the command line and print a row for each."""
    parser = argparse.ArgumentParser(description="Import pairs and make three GRPO steps.")
    parser.add_argument("python", type=Path)
    parser.add_argument("pairs", nargs="+", metavar="UNSLOTH:ZOO")
    arguments = parser.parse_args()
    for pair in arguments.pairs:
        unsloth, _, zoo = pair.partition(":")
        outcome = executed(arguments.python.absolute(), unsloth, zoo)
        print(json.dumps({"unsloth": unsloth, "zoo": zoo, **outcome}), flush=True)


def executed(python: Path, unsloth: str, zoo: str) -> dict[str, object]:
    """Install a pair into a folder of its own and run the steps in front of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site, tools, work = (folder / part for part in ("site", "tools", "work"))
        wanted = [f"unsloth=={unsloth}", f"unsloth_zoo=={zoo}"]
        target = ["--no-deps", "--python", str(python), "--target", str(site)]
        subprocess.run(["uv", "pip", "install", "-q", *target, *wanted], check=True)
        work.mkdir()
        refuse(tools)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **SWITCHES, "PYTHONPATH": str(site), "PATH": path}
        done = subprocess.run(
            [python, _unsloth_grpo.__file__],
            check=False,
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        last = done.stdout.strip().rpartition("\n")[2]
        if done.returncode or not last.startswith("{"):
            return {"outcome": "crashes", "message": done.stderr.strip().rpartition("\n")[2]}
        return dict(json.loads(last))


def refuse(tools: Path) -> None:
    """Make ``pip`` and ``uv`` fail, so that unsloth cannot update itself."""
    tools.mkdir()
    for name in ("pip", "pip3", "uv"):
        (tools / name).write_text("#!/bin/sh\nexit 1\n")
        (tools / name).chmod(0o755)


if __name__ == "__main__":
    main()
