"""Modules of the standard library that are not everywhere: by platform, and by Python."""

from __future__ import annotations

__all__ = ["lacks_standard_module"]

_POSIX_ONLY = frozenset(
    ("fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
)
"""The "Unix Specific Services" of the library reference."""
_REMOVED = {
    **dict.fromkeys(("asynchat", "asyncore", "imp", "smtpd"), (3, 12)),
    **dict.fromkeys(("aifc", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr"), (3, 13)),
    **dict.fromkeys(("mailcap", "msilib", "nis", "nntplib", "ossaudiodev", "pipes"), (3, 13)),
    **dict.fromkeys(("sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib", "lib2to3"), (3, 13)),
}
"""By the Python that has them no more ("What's New"). setuptools brings distutils back."""


def lacks_standard_module(name: str, python: tuple[int, int, int], *, windows: bool) -> bool:
    """Tell whether ``name`` is a module of the standard library that is certainly not there."""
    return (windows and name in _POSIX_ONLY) or python >= _REMOVED.get(name, (99,))
