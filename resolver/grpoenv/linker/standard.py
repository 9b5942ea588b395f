"""What of the standard library is not everywhere: by platform, and by Python ("What's New")."""

from __future__ import annotations

__all__ = ["ADDED", "REMOVED", "STANDARD", "lacks_standard_module", "lacks_standard_name"]

STANDARD = "python"
"""Who provides the standard library, where a package is named otherwise."""

_POSIX_ONLY = frozenset(
    ("fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
)
"""The "Unix Specific Services" of the library reference."""
_REMOVED_MODULES = {
    **dict.fromkeys(("asynchat", "asyncore", "imp", "smtpd"), (3, 12)),
    **dict.fromkeys(("aifc", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr"), (3, 13)),
    **dict.fromkeys(("mailcap", "msilib", "nis", "nntplib", "ossaudiodev", "pipes"), (3, 13)),
    **dict.fromkeys(("sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib", "lib2to3"), (3, 13)),
}
"""By the Python that has them no more. setuptools brings distutils back."""
_ADDED_MODULES = {"tomllib": (3, 11)}

_ADDED = """
3.11 asyncio: Barrier BrokenBarrierError Runner TaskGroup Timeout timeout timeout_at
3.11 contextlib: chdir
3.11 datetime: UTC
3.11 enum: EnumCheck EnumType FlagBoundary ReprEnum StrEnum global_enum member nonmember property verify
3.11 hashlib: file_digest
3.11 http: HTTPMethod
3.11 inspect: getmembers_static ismethodwrapper
3.11 logging: getLevelNamesMapping
3.11 math: cbrt exp2
3.11 operator: call
3.11 re: NOFLAG
3.11 sys: exception
3.11 typing: LiteralString Never NotRequired Required Self TypeVarTuple Unpack assert_never assert_type
3.11 typing: clear_overloads dataclass_transform get_overloads reveal_type
3.12 asyncio: create_eager_task_factory eager_task_factory
3.12 calendar: Day Month
3.12 collections.abc: Buffer
3.12 inspect: BufferFlags getasyncgenlocals getasyncgenstate markcoroutinefunction
3.12 itertools: batched
3.12 logging: getHandlerByName getHandlerNames
3.12 math: sumprod
3.12 random: binomialvariate
3.12 threading: setprofile_all_threads settrace_all_threads
3.12 types: get_original_bases
3.12 typing: TypeAliasType override
3.13 asyncio: EventLoop QueueShutDown
3.13 base64: z85decode z85encode
3.13 copy: replace
3.13 glob: translate
3.13 math: fma
3.13 pathlib: UnsupportedOperation
3.13 queue: ShutDown
3.13 re: PatternError
3.13 typing: NoDefault ReadOnly TypeIs get_protocol_members is_protocol
3.13 warnings: deprecated
"""
_REMOVED = """
3.11 asyncio: coroutine
3.11 binascii: a2b_hqx b2a_hqx rlecode_hqx rledecode_hqx
3.11 gettext: bind_textdomain_codeset ldgettext ldngettext lgettext lngettext
3.11 inspect: ArgSpec formatargspec getargspec
3.12 configparser: SafeConfigParser
3.12 importlib.abc: Finder
3.12 importlib.util: module_for_loader set_loader set_package
3.12 locale: format
3.12 pkgutil: ImpImporter ImpLoader
3.12 ssl: RAND_pseudo_bytes match_hostname wrap_socket
3.13 configparser: LegacyInterpolation
3.13 locale: resetlocale
3.13 re: template
3.13 unittest: findTestCases getTestCaseNames makeSuite
"""


def _table(text: str) -> dict[str, tuple[int, int]]:
    """Return the Python of each ``module.name`` of a table."""
    found: dict[str, tuple[int, int]] = {}
    for line in text.split("\n")[1:-1]:
        head, _, names = line.partition(": ")
        python, _, module = head.partition(" ")
        major, _, minor = python.partition(".")
        found |= {f"{module}.{name}": (int(major), int(minor)) for name in names.split()}
    return found


ADDED = _table(_ADDED)
"""Public names of the standard library, by the first Python that has them."""
REMOVED = _table(_REMOVED)
"""The same, by the first Python that has them no more."""


def lacks_standard_module(name: str, python: tuple[int, int, int], *, windows: bool) -> bool:
    """Tell whether ``name`` is a module of the standard library that is certainly not there."""
    if windows and name in _POSIX_ONLY:
        return True
    return python >= _REMOVED_MODULES.get(name, (99,)) or python < _ADDED_MODULES.get(name, (0,))


def lacks_standard_name(path: str, python: tuple[int, int, int]) -> bool:
    """Tell whether ``path``, ``module.name`` of the standard library, is in another Python only."""
    return python < ADDED.get(path, (0,)) or python >= REMOVED.get(path, (99,))
