"""Describe the interpreter that runs this file, as JSON on standard output.

Runs in the target interpreter, which may be any CPython from 3.8 on and may have nothing installed,
so it uses the standard library alone and none of grpoenv.
"""

import json
import os
import platform
import sys
import sysconfig


def describe() -> "dict[str, object]":
    """Return a dict of plain values about the running interpreter."""
    paths = sysconfig.get_paths()
    marker = os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    in_venv = sys.prefix != sys.base_prefix
    site_folders = [paths["purelib"], paths["platlib"]] + [
        entry for entry in sys.path if os.path.basename(entry) in ("site-packages", "dist-packages")
    ]
    return {
        "executable": sys.executable,
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "prefix": sys.prefix,
        "in_venv": in_venv,
        "purelib": paths["purelib"],
        "platlib": paths["platlib"],
        "scripts": paths["scripts"],
        "data": paths["data"],
        "site_folders": list(dict.fromkeys(site_folders)),
        "externally_managed": os.path.exists(marker) and not in_venv,
        "system": platform.system(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip(),
    }


if __name__ == "__main__":
    print(json.dumps(describe()))
