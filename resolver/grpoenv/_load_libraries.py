"""Import torch, then load each library named on the command line; print the errors as JSON.

Runs in the target interpreter. A torch that cannot be imported ends it with its own traceback.
"""

import ctypes
import importlib
import importlib.util
import json
import os
import sys


def load(paths: "list[str]") -> "dict[str, str]":
    """Return the error of each of ``paths`` that cannot be loaded."""
    if importlib.util.find_spec("torch"):
        importlib.import_module("torch")
    errors = {}
    for path in paths:
        try:
            ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL)
        except OSError as error:
            errors[path] = str(error)
    return errors


if __name__ == "__main__":
    print(json.dumps(load(sys.argv[1:])))
