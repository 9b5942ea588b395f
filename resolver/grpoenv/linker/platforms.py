"""The machine that the linked code would run on."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import Version

__all__ = ["Platform"]


@dataclass(frozen=True)
class Platform:
    """The machine that the code would run on; the default is Linux with an NVIDIA GPU."""

    python: tuple[int, int, int] = (3, 11, 0)
    sys_platform: str = "linux"
    system: str = "Linux"
    os_name: str = "posix"
    machine: str = "x86_64"
    device: str = "cuda"
    torch_without_cuda: bool = False

    @classmethod
    def named(cls, python: str, system: str, machine: str) -> Platform:
        """Return the platform of a Python version (``"3.11.7"``) on a system (``"Linux"``)."""
        release = (*Version(python).release, 0, 0)[:3]
        return cls(
            python=(release[0], release[1], release[2]),
            sys_platform={"Linux": "linux", "Darwin": "darwin", "Windows": "win32"}.get(
                system, system.lower()
            ),
            system=system,
            os_name="nt" if system == "Windows" else "posix",
            machine=machine,
        )
