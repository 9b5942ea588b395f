"""Become another program, within limits that the kernel enforces: ``_limited.py BYTES PROGRAM …``.

No file grows beyond BYTES, nothing dumps its core, and the program ends with the one that started
it. It stands alone: it is run by its path, by the interpreter of grpoenv.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the limits and become the program."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before this one asked to be told
            sys.exit(1)
    size = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
