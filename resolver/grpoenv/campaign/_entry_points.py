"""Import the entry points of a stack, and tell what stood in the way: ``_entry_points.py NAME …``.

A name is a module, or ``module:name``. With ``--made-up-gpu`` first, torch is told of an A100 that
is not there (see ``_made_up_gpu``). It stands alone: it is run by its path, by the interpreter under
test. Prints one JSON object; of a failure the exception, and the files that led to it.
"""

import contextlib
import importlib
import json
import os
import sys
import traceback
from typing import Any


def main(names: list[str]) -> dict[str, Any]:
    """Import ``names`` in this order and say how it went."""
    made_up = names[0] == "--made-up-gpu"
    names = names[1:] if made_up else names
    # As a notebook has it: unsloth 2025.3.3 imports what it wrote there.
    sys.path.append(os.getcwd())
    try:
        with _made_up_gpu() if made_up else contextlib.nullcontext():
            for name in names:
                module, _, attribute = name.partition(":")
                found = importlib.import_module(module)
                if attribute:
                    getattr(found, attribute)
    except BaseException as error:  # noqa: BLE001 - whatever stops an import is the answer
        return describe(error)
    return {"imported": names}


def _made_up_gpu() -> contextlib.AbstractContextManager[None]:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    module = importlib.import_module("_made_up_gpu")
    sys.path.pop(0)
    made_up: contextlib.AbstractContextManager[None] = module.made_up_gpu()
    return made_up


def describe(error: BaseException) -> dict[str, Any]:
    """Return what is known of ``error``: its own text and that of the first one behind it."""
    first = error
    while first.__cause__ is not None or first.__context__ is not None:
        first = first.__cause__ or first.__context__  # type: ignore[assignment]
    frames = traceback.extract_tb(first.__traceback__)
    return {
        "error": _text(error),
        "first": _text(first),
        "kind": type(first).__name__,
        "module": getattr(first, "name", None),
        "owner": getattr(getattr(first, "obj", None), "__module__", None)
        or getattr(getattr(first, "obj", None), "__name__", None),
        "files": [frame.filename for frame in frames],
        "line": frames[-1].lineno if frames else None,
    }


def _text(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


if __name__ == "__main__":
    result = main(sys.argv[1:])
    if "error" in result:
        print("\n".join(result["files"]), file=sys.stderr)
    print("\n" + json.dumps(result))
    sys.stdout.flush()
    os._exit("error" in result)  # threads that an import has started have no say in it
