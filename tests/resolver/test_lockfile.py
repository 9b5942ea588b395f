"""Locks: what is accepted, what is refused, and that writing is the inverse of reading."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import canonicalize_name
from packaging.version import Version

from grpoenv._data import data_paths
from grpoenv.errors import InputError
from grpoenv.lockfile import CpuBuild, Lock, Pin, parse_lock, read_lock, render_lock

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
GOOD = f"""# a comment
torch==2.13.0 \\
    --hash={A} \\
    --hash={B}
    # size=500
    # cpu-build=2.13.0+cpu
    # cpu-hash={B}
    # cpu-size=100
triton==3.7.1 \\
    --hash={A}
    # size=9
    # only=cuda
"""


def test_a_lock_is_read_with_its_notes() -> None:
    lock = parse_lock(GOOD, path=Path("a.txt"))
    torch, triton = lock.pins.values()
    assert torch.cpu == CpuBuild(Version("2.13.0+cpu"), B, 100)
    assert (torch.hashes, torch.size_bytes, torch.cuda_only) == ((A, B), 500, False)
    assert triton.cuda_only


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("numpy==2.0.2\n", "a.txt:1: numpy==2.0.2 has no hash; a lock installs nothing unhashed"),
        (
            "numpy==2.0.2 \\\n    # size=1\n",
            "a.txt:2: expected a --hash=sha256:… line, found '# size=1'",
        ),
        (
            "--index-url https://example.org/simple\n",
            "a.txt:1: --index-url does not belong in a lock: it holds pins and hashes, no options",
        ),
        (
            "-r other.txt\n",
            "a.txt:1: -r does not belong in a lock: it holds pins and hashes, no options",
        ),
        ("numpy>=2\n", "a.txt:1: expected name==version, found 'numpy>=2'"),
        ("numpy @ file:///x\n", "a.txt:1: expected name==version, found 'numpy @ file:///x'"),
        (f"numpy==two \\\n    --hash={A}\n    # size=1\n", "a.txt:1: 'two' is no version"),
        (
            f"numpy==1 ; sys_platform=='linux' \\\n    --hash={A}\n",
            "a.txt:1: expected name==version, found \"numpy==1 ; sys_platform=='linux' \\\\\"",
        ),
        (f"numpy==1 \\\n    --hash={A}\n", "a.txt:1: numpy: bad or missing note: 'size'"),
        (
            f"numpy==1 \\\n    --hash={A}\n    # size=1\n    # shell=rm\n",
            "a.txt:1: numpy: unknown note 'shell'",
        ),
        (f"    --hash={A}\n", f"a.txt:1: '    --hash={A}' belongs to no pin"),
        ("", "a.txt:1: pins nothing"),
        (
            f"a==1 \\\n    --hash={A}\n    # size=1\nA==1 \\\n    --hash={A}\n    # size=1\n",
            "a.txt:4: a is pinned twice",
        ),
        (
            "numpy==1 \\\n    --hash=sha256:12\n",
            "a.txt:2: expected a --hash=sha256:… line, found '--hash=sha256:12'",
        ),
    ],
)
def test_anything_else_is_refused_with_file_and_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_lock(text, path=Path("a.txt"))
    assert caught.value.message == message


digests = st.integers(0, 2**256 - 1).map(lambda number: f"sha256:{number:064x}")
hashes = st.lists(digests, min_size=1, max_size=3)
pins = st.builds(
    Pin,
    name=st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,4})?", fullmatch=True).map(
        canonicalize_name
    ),
    version=st.tuples(
        st.lists(st.integers(0, 999), min_size=1, max_size=4), st.sampled_from(["", "+cu124"])
    ).map(lambda parts: Version(".".join(map(str, parts[0])) + parts[1])),
    hashes=hashes.map(tuple),
    size_bytes=st.integers(0, 2**40),
    cuda_only=st.booleans(),
)


@given(st.lists(pins, min_size=1, unique_by=lambda pin: pin.name))
def test_reading_what_was_written_gives_the_same_pins(written: list[Pin]) -> None:
    lock = parse_lock(render_lock(written, header="a\nb"), path=Path("a.txt"))
    assert lock == Lock({pin.name: pin for pin in written})
    assert render_lock(lock.pins.values()) == render_lock(written)


@given(st.text())
def test_any_text_is_a_lock_or_an_input_error(text: str) -> None:
    try:
        parse_lock(text, path=Path("a.txt"))
    except InputError as error:
        assert error.path == Path("a.txt")


def test_the_cuda_version_is_that_of_the_pinned_runtime_library() -> None:
    locks = data_paths().locks
    spring = read_lock(locks / "unsloth-2025.3.14" / "cp311-x86_64-manylinux_2_28.txt")
    newest = read_lock(locks / "unsloth-2026.10.7" / "cp311-x86_64-manylinux_2_28.txt")
    image = read_lock(locks / "colab-2025-04" / "cp311-x86_64-manylinux_2_35.txt")
    assert (spring.cuda(), newest.cuda(), image.cuda()) == ((12, 4), (13, 0), None)
