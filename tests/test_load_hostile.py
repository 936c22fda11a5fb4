"""Files from strangers: one clear LoadError, nothing executed, no memory taken; or a network."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import struct
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import hessarray as ha
from hessarray.errors import LoadError

resource: Any
try:
    import resource
except ImportError:  # Windows
    resource = None

ARCHITECTURE = "hessarray.architecture"
FORMATS = (".npz", ".safetensors")
MB = 1 << 20
Members = Mapping[str, bytes] | list[tuple[str, bytes]]


def _memory() -> int:
    """The most that this process ever took, in bytes (Linux) or less."""
    if resource is None:
        return 0
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


@contextmanager
def one_sentence(path: Path, message: str) -> Iterator[None]:
    """LoadError in one short line that begins with the file; quick, and without much memory."""
    start, before = time.perf_counter(), _memory()
    tracemalloc.start()
    try:
        with pytest.raises(LoadError) as caught:
            yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert text.startswith(str(path))
    assert len(text.splitlines()) == 1
    assert len(text) < len(str(path)) + 400
    assert text.isprintable()
    caught.match(message)
    assert caught.value.__cause__ is None
    assert peak < 32 * MB + 4 * path.stat().st_size
    assert _memory() - before < 300 * MB
    assert time.perf_counter() - start < 10.0


# ---- files by hand -------------------------------------------------------------------------------


def header(shape: Any, descr: Any = "<f8", fortran: bool = False) -> bytes:
    return repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode("latin1")


def npy(text: bytes, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = text + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def array(a: Any, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(a), allow_pickle=pickled)
    return file.getvalue()


def npz(path: Path, members: Members, method: int = zipfile.ZIP_STORED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # zipfile minds duplicate names
        for name, data in members.items() if isinstance(members, Mapping) else members:
            archive.writestr(name, data)
    return path


def lie(path: Path, member: int = -1, **fields: int) -> Path:
    """Overwrite fields of a member's entry in the archive's directory."""
    offsets = {"flags": (8, "<H"), "method": (10, "<H"), "compressed": (20, "<I")}
    offsets |= {"size": (24, "<I"), "start": (42, "<I")}
    data = bytearray(path.read_bytes())
    at, entries = data.find(b"PK\x01\x02"), []
    while at >= 0:
        entries.append(at)
        at = data.find(b"PK\x01\x02", at + 4)
    for name, value in fields.items():
        offset, code = offsets[name]
        struct.pack_into(code, data, entries[member] + offset, value)
    path.write_bytes(data)
    return path


def tensors(path: Path, head: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: list[Any], start: int, end: int, dtype: str = "F64") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def good() -> dict[str, np.ndarray]:
    return {"W0": np.ones((3, 2)), "b0": np.ones(2)}


def with_tensor(member: bytes, name: str = "W1") -> dict[str, bytes]:
    return {**{f"{k}.npy": array(a) for k, a in good().items()}, f"{name}.npy": member}


# ---- npz -----------------------------------------------------------------------------------------


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["W1", ARCHITECTURE])
def test_pickles_are_never_opened(place: str, tmp_path: Path) -> None:
    bomb, mark = Bomb(tmp_path / "executed"), tmp_path / "executed"
    path = npz(tmp_path / "bad.npz", with_tensor(array(np.array([bomb, None]), True), place))
    with np.load(path, allow_pickle=True) as file:
        file[place]
    mark.rmdir()  # the payload works, where somebody opens it
    with one_sentence(path, "holds Python objects|the architecture is no text"):
        ha.load(path, act="tanh")
    assert not mark.exists()
    for data in (pickle.dumps(bomb), array(np.array(bomb), True)):
        for suffix in FORMATS:
            (tmp_path / f"raw{suffix}").write_bytes(data)
            with one_sentence(tmp_path / f"raw{suffix}", "not a readable"):
                ha.load(tmp_path / f"raw{suffix}", act="tanh")
        npz(tmp_path / "inside.npz", with_tensor(data))
        with one_sentence(tmp_path / "inside.npz", "'W1' (is not readable|holds Python objects)"):
            ha.load(tmp_path / "inside.npz", act="tanh")
    assert not mark.exists()


UNREADABLE = r"tensor 'W1' is not readable \(.+\)"
BAD_MEMBERS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", UNREADABLE),
    "no npy": (b"hello", UNREADABLE),
    "magic alone": (b"\x93NUMPY\x01\x00", UNREADABLE),
    "no header": (npy(b""), UNREADABLE),
    "truncated header": (array(np.ones(9))[:40], UNREADABLE),
    "truncated data": (
        array(np.ones((9, 9)))[:-1],
        r"'W1' of shape \(9, 9\) and dtype",
    ),
    "trailing bytes": (
        array(np.ones((9, 9))) + b"x",
        r"'W1' of shape \(9, 9\) .* fit its member of \d+ b",
    ),
    "version 2": (npy(header((1,)), bytes(8), (2, 0)), r"npy version \(2, 0\)"),
    "version 3": (npy(header((1,)), bytes(8), (3, 0)), r"npy version \(3, 0\)"),
    "version 9": (npy(header((1,)), bytes(8), (9, 9)), UNREADABLE),
    "1e12 entries": (npy(header((10**12,))), r"'W1' of shape \(1000000000000,\) and dtype"),
    "1e12 entries, square": (npy(header((10**6, 10**6))), "does not fit its member of"),
    "product overflows": (npy(header((2**32, 2**32))), "does not fit its member of"),
    "dimension overflows": (npy(header((2**70, 1))), "'W1' of shape"),
    "product overflows to 8": (npy(header((2**63, 2, 1))), "'W1' of shape"),
    "negative": (npy(header((-1,)), bytes(8)), "'W1'"),
    "negative twice": (npy(header((-1, -1)), bytes(8)), r"'W1' has the negative shape \(-1, -1\)"),
    "zero": (npy(header((0, 3))), r"'W1' of shape \(0, 3\) is no matrix"),
    "zero times much": (npy(header((0, 10**30))), "'W1'"),
    "rank 9": (npy(header((1,) * 9), bytes(8)), "'W1' has 9 axes, at most 8 are expected"),
    "rank 1000 without data": (npy(header((1,) * 1000)), r"'W1' of shape \(1, 1, .*\.\.\.\) and"),
    "wide records": (
        npy(header((1,), [(f"field{i}", "<f8") for i in range(400)]), bytes(3200)),
        "'W1' has dtype void25600",
    ),
    "wide records without data": (
        npy(header((1,), [(f"field{i}", "<f8") for i in range(400)])),
        r"'W1' of shape \(1,\) and dtype '\|V3200' does not fit",
    ),
    "long dimension": (npy(header((-(10**2000), 1))), "tensor 'W1'|not a readable"),
    "rank 1000": (npy(header((1,) * 1000), bytes(8)), "'W1' has 1000 axes"),
    "bool dimensions": (npy(header((True, True)), bytes(8)), "tensor 'W1'"),
    "float dimensions": (npy(header((1.0, 1)), bytes(8)), "'W1' is not readable .*shape is not"),
    "list as shape": (npy(header([1, 1]), bytes(8)), "'W1' is not readable .*shape is not"),
    "int64": (array(np.ones((2, 1), "int64")), "'W1' has dtype int64, float32 or float64 is exp"),
    "bool": (array(np.ones((2, 1), "bool")), "'W1' has dtype bool"),
    "float16": (array(np.ones((2, 1), "float16")), "'W1' has dtype float16"),
    "longdouble": (array(np.ones((2, 1), "longdouble")), "'W1' has dtype (longdouble|float)"),
    "complex": (array(np.ones((2, 1), "complex128")), "'W1' has dtype complex128"),
    "text": (array(np.array(["a"])), "'W1' has dtype str32"),
    "empty text": (npy(header((1,), "<U0")), "'W1' has dtype str"),
    "dates": (array(np.zeros(1, "M8[s]")), "'W1' has dtype datetime64"),
    "structured": (array(np.zeros(1, [("a", "f8"), ("b", "f8")])), "'W1' has dtype void128"),
    "subarrays": (npy(header((2,), ("<f8", (2, 2))), bytes(64)), "'W1'"),
    "subarrays of 1e12": (npy(header((2,), ("<f8", (10**6, 10**6)))), UNREADABLE),
    "code as dtype": (npy(header((1,), "__import__('os')")), UNREADABLE),
    "code as header": (npy(b"__import__('os').mkdir('executed')"), UNREADABLE),
    "deep header": (npy(b"(" * 9000 + b")" * 9000), UNREADABLE),
    "deep signs": (npy(b"-" * 9000 + b"1"), UNREADABLE),
    "deep dtype": (npy(header((1,), "X").replace(b"'X'", b"[" * 90 + b"]" * 90)), UNREADABLE),
    "long header": (npy(header((1,)) + b" " * 20000), UNREADABLE),
    "long numbers": (npy(header((1,)).replace(b"1", b"1" * 9000)), "tensor 'W1'"),
    "Python 2 header": (npy(header((1,)).replace(b"1", b"1L"), bytes(8)), "tensor 'W1'"),
    "other keys": (npy(b"{'descr': '<f8', 'shape': (1,)}"), UNREADABLE),
    "no dictionary": (npy(b"[1, 2]"), UNREADABLE),
    "binary header": (npy(bytes(range(128, 256))), UNREADABLE),
    "null bytes": (npy(b"\x00" * 50), UNREADABLE),
}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", BAD_MEMBERS)
def test_bad_npy(name: str, method: int, tmp_path: Path) -> None:
    member, message = BAD_MEMBERS[name]
    path = npz(tmp_path / "bad.npz", with_tensor(member), method)
    with one_sentence(path, message):
        ha.load(path, act="tanh")
    assert list(tmp_path.iterdir()) == [path]


BAD_NAMES: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "other member": ([("readme.txt", b"hi")], r"'readme\.txt' is no \.npy member"),
    "folder": ([("folder/", b"")], "'folder/' is no .npy member"),
    "folder by another name": ([("W1.npy/", b"")], r"'W1\.npy/' is no \.npy member"),
    "hidden": ([(".npy", array(1.0))], r"'\.npy' is no \.npy member"),
    "twice": ([("W0.npy", array(np.ones((3, 2))))], "tensor 'W0' appears twice"),
    "architecture twice": (
        [(f"{ARCHITECTURE}.npy", array("[]")), (f"{ARCHITECTURE}.npy", array("[]"))],
        f"'{ARCHITECTURE}' appears twice",
    ),
    "upwards": ([("../../W1.npy", array(1.0))], r"'\.\./\.\./W1\.npy' is no \.npy member"),
    "upwards within": ([("a/../../W1.npy", array(1.0))], "is no .npy member"),
    "absolute": ([("/tmp/W1.npy", array(1.0))], "'/tmp/W1.npy' is no .npy member"),
    "line feed": ([("W\n1.npy", array(np.ones((2, 2, 2))))], r"tensor 'W\\n1' of shape"),
    "terminal codes": ([("\x1b[31mW1.npy", array(np.ones((2, 2, 2))))], r"tensor '\\x1b\[31mW1'"),
    "long": ([("W" * 60000 + ".npy", array(np.ones((2, 2, 2))))], r"tensor 'W+\.\.\.W+' of shape"),
    "long and numbered": ([("1" * 60000 + ".npy", array(np.ones((2, 1))))], "tell no order"),
    "long and punctuated": ([("_" * 60000 + ".npy", array(np.ones((2, 1))))], "tell no order"),
    "superscript": ([("W².npy", array(np.ones((2, 1))))], "tell no order|takes"),
    "attribute": ([("__class__.npy", array(np.ones((2, 1))))], "tell no order"),
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(name: str, tmp_path: Path) -> None:
    members, message = BAD_NAMES[name]
    (tmp_path / "a" / "b").mkdir(parents=True)
    usual = [(f"{k}.npy", array(a)) for k, a in good().items()]
    path = npz(tmp_path / "a" / "b" / "bad.npz", usual + members)
    with one_sentence(path, message):
        ha.load(path, act="tanh")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_truncated_anywhere(tmp_path: Path) -> None:
    net = ha.Network(ha.Dense(3, 2, act="tanh"), ha.Quadratic(2, 1), seed=0)
    for suffix in FORMATS:
        path = tmp_path / f"net{suffix}"
        net.save(path)
        data = path.read_bytes()
        for length in [*range(0, len(data), 37), len(data) - 1]:
            path.write_bytes(data[:length])
            with pytest.raises(LoadError, match=f"not a readable {suffix[1:]} file"):
                ha.load(path)
        path.write_bytes(data + b"x")
        if suffix == ".safetensors":
            with pytest.raises(LoadError, match="not a readable safetensors file"):
                ha.load(path)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"x", id="letter"),
        pytest.param(b"PK", id="begin of a zip"),
        pytest.param(b"PK\x05\x06" + bytes(18), id="empty zip"),
        pytest.param(bytes(9000), id="zeros"),
    ],
)
def test_something_else(data: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(data)
    with one_sentence(path, "not a readable|no weight matrix"):
        ha.load(path, act="tanh")


def test_the_one_format_named_as_the_other(tmp_path: Path) -> None:
    safetensors.numpy.save_file(good(), tmp_path / "net.npz")
    npz(tmp_path / "net.safetensors", with_tensor(array(1.0)))
    for suffix in FORMATS:
        with one_sentence(tmp_path / f"net{suffix}", f"not a readable {suffix[1:]} file"):
            ha.load(tmp_path / f"net{suffix}", act="tanh")


# ---- sizes ---------------------------------------------------------------------------------------


def test_max_bytes(tmp_path: Path) -> None:
    total = sum(a.nbytes for a in good().values())
    np.savez(tmp_path / "net.npz", **good())  # type: ignore[arg-type]
    safetensors.numpy.save_file(good(), tmp_path / "net.safetensors")
    for suffix in FORMATS:
        path = tmp_path / f"net{suffix}"
        assert len(ha.load(path, act="tanh", max_bytes=total)) == 1
        with one_sentence(path, f"the tensors take {total} bytes, max_bytes is {total - 1}"):
            ha.load(path, act="tanh", max_bytes=total - 1)


def test_zip_bomb_beyond_max_bytes(tmp_path: Path) -> None:
    zeros = npy(header((256 * MB // 8,)), bytes(256 * MB))
    path = npz(tmp_path / "bomb.npz", with_tensor(zeros), zipfile.ZIP_DEFLATED)
    del zeros
    assert path.stat().st_size < MB
    with one_sentence(path, r"the tensors take 268,\d+,\d+ bytes, max_bytes is 1,048,576"):
        ha.load(path, act="tanh", max_bytes=MB)


@pytest.mark.parametrize("place", ["W1", ARCHITECTURE])
def test_zip_bomb_behind_a_small_header(place: str, tmp_path: Path) -> None:
    member = npy(header((2, 1) if place == "W1" else (), "<f8" if place == "W1" else "<U2"))
    path = npz(tmp_path / "bomb.npz", with_tensor(member + bytes(64 * MB), place), 8)
    with one_sentence(path, r"does not fit its member of 67,\d+,\d+ bytes"):
        ha.load(path, act="tanh")
    lie(path, size=len(member) + (16 if place == "W1" else 8))
    with one_sentence(path, r"is not readable \(Bad CRC"):
        ha.load(path, act="tanh")


def test_header_of_gigabytes(tmp_path: Path) -> None:
    """Version 2 has 32 bits for the length of its header, and NumPy reads it before it looks."""
    head = b"\x93NUMPY\x02\x00" + struct.pack("<I", 64 * MB) + b" " * (64 * MB)
    path = npz(tmp_path / "bomb.npz", with_tensor(head), zipfile.ZIP_DEFLATED)
    with one_sentence(path, r"npy version \(2, 0\)"):
        ha.load(path, act="tanh")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_sizes_that_the_directory_promises(method: int, tmp_path: Path) -> None:
    """The header and the archive's directory agree on 3.2 GB; the file has 200 bytes."""
    member = npy(header((400_000_000,)))
    path = npz(tmp_path / "bad.npz", with_tensor(member), method)
    lie(path, size=len(member) + 3_200_000_000)
    with one_sentence(path, r"does not fit its member of \d[\d,]* bytes"):
        ha.load(path, act="tanh")
    lie(path, compressed=len(member) + 3_200_000_000)
    with one_sentence(path, "the members overlap|is not readable"):
        ha.load(path, act="tanh")


def test_members_that_overlap(tmp_path: Path) -> None:
    """Many directory entries for one stretch of data: small file, large sum."""
    zeros = npy(header((MB // 8,)), bytes(MB))
    path = npz(tmp_path / "bad.npz", [("W0.npy", zeros), ("W1.npy", array(1.0))])
    lie(path, start=0, size=len(zeros), compressed=len(zeros))
    with one_sentence(path, "the members overlap|is not readable"):
        ha.load(path, act="tanh")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(method: int, tmp_path: Path) -> None:
    path = npz(tmp_path / "bad.npz", with_tensor(array(np.ones((2, 1)))), method)
    with one_sentence(path, f"compression method {method}"):
        ha.load(path, act="tanh")


def test_encrypted_and_unknown_methods(tmp_path: Path) -> None:
    path = npz(tmp_path / "bad.npz", with_tensor(array(np.ones((2, 1)))))
    lie(path, flags=1)
    with one_sentence(path, "'W1' is not readable .*encrypted"):
        ha.load(path, act="tanh")
    lie(path, flags=0, method=77)
    with one_sentence(path, "'W1' is not readable .*compression method 77"):
        ha.load(path, act="tanh")


def test_too_many_tensors(tmp_path: Path) -> None:
    count = 100_001
    path = npz(tmp_path / "many.npz", {"0.npy": b""})
    data = path.read_bytes()
    first = data.index(b"PK\x01\x02")  # one member, as many times in the directory
    directory = data[first : data.index(b"PK\x05\x06")] * count
    end = struct.pack(
        "<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, len(directory), first
    )
    locator = struct.pack("<IIQI", 0x07064B50, 0, first + len(directory), 1)
    last = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(data[:first] + directory + end + locator + last)
    head = {f"W{i}": entry([0], 0, 0) for i in range(count)}
    tensors(tmp_path / "many.safetensors", head)
    for suffix in FORMATS:
        start = time.perf_counter()
        with pytest.raises(LoadError, match="100001 tensors are more than 100000"):
            ha.load(tmp_path / f"many{suffix}", act="tanh")
        assert time.perf_counter() - start < 10.0


# ---- safetensors ---------------------------------------------------------------------------------

BAD_HEADERS: dict[str, tuple[Any, bytes, int | None, str]] = {
    "length of 2^63": ({}, b"", 2**63, "not a readable"),
    "length of 90 MB": ({}, b"", 90_000_000, "not a readable"),
    "length too small": ({"W0": entry([1, 1], 0, 8)}, bytes(8), 10, "not a readable"),
    "no JSON": (b"{'W0'", b"", None, "not a readable"),
    "deep JSON": (b"[" * 5000, b"", None, "not a readable"),
    "deep metadata": (b'{"__metadata__":' + b"[" * 5000, b"", None, "not a readable"),
    "metadata no text": ({"__metadata__": {ARCHITECTURE: []}}, b"", None, "not a readable"),
    "no UTF-8": (b'{"\xff\xfe": 1}', b"", None, "not a readable"),
    "offsets beyond": ({"W0": entry([1, 1], 0, 800)}, bytes(8), None, "not a readable"),
    "offsets backwards": ({"W0": entry([1, 1], 8, 0)}, bytes(8), None, "not a readable"),
    "offsets negative": ({"W0": entry([1, 1], -8, 0)}, bytes(8), None, "not a readable"),
    "offsets overlap": (
        {"W0": entry([1, 1], 0, 8), "W1": entry([1, 1], 0, 8)},
        bytes(8),
        None,
        "not a readable",
    ),
    "a hole": (
        {"W0": entry([1, 1], 0, 8), "W1": entry([1, 1], 16, 24)},
        bytes(24),
        None,
        "not a readable",
    ),
    "trailing bytes": ({"W0": entry([1, 1], 0, 8)}, bytes(9), None, "not a readable"),
    "truncated data": ({"W0": entry([1, 1], 0, 8)}, bytes(7), None, "not a readable"),
    "shape and size differ": ({"W0": entry([2, 2], 0, 8)}, bytes(8), None, "not a readable"),
    "1e12 entries": ({"W0": entry([10**12], 0, 8)}, bytes(8), None, "not a readable"),
    "product overflows": ({"W0": entry([2**61, 8], 0, 0)}, b"", None, "not a readable"),
    "negative dimension": ({"W0": entry([-1], 0, 8)}, bytes(8), None, "not a readable"),
    "fractional dimension": ({"W0": entry([1.5], 0, 8)}, bytes(8), None, "not a readable"),
    "zero dimension": ({"W0": entry([0, 3], 0, 0)}, b"", None, r"'W0' of shape \(0, 3\) is no"),
    "rank 9": ({"W0": entry([1] * 9, 0, 8)}, bytes(8), None, "'W0' has 9 axes"),
    "float16": ({"W0": entry([1, 1], 0, 2, "F16")}, bytes(2), None, "'W0' has dtype F16, float32"),
    "bfloat16": ({"W0": entry([1, 1], 0, 2, "BF16")}, bytes(2), None, "'W0' has dtype BF16"),
    "int64": ({"W0": entry([1, 1], 0, 8, "I64")}, bytes(8), None, "'W0' has dtype I64"),
    "bool": ({"W0": entry([1, 1], 0, 1, "BOOL")}, bytes(1), None, "'W0' has dtype BOOL"),
    "float8": ({"W0": entry([1, 1], 0, 1, "F8_E5M2")}, bytes(1), None, "F8_E5M2|not a readable"),
    "unknown dtype": ({"W0": entry([1, 1], 0, 8, "F99")}, bytes(8), None, "not a readable"),
    "dtype no text": ({"W0": entry([1, 1], 0, 8, None)}, bytes(8), None, "not a readable"),  # type: ignore[arg-type]
    "tensor no entry": ({"W0": 3}, b"", None, "not a readable"),
    "line feed": ({"W\n": entry([1, 1, 1], 0, 8)}, bytes(8), None, r"tensor 'W\\n' of shape"),
    "surrogate": (b'{"\\ud800": 1}', b"", None, "not a readable"),
    "long": ({"W" * 10**6: entry([1], 0, 8)}, bytes(8), None, "there is no weight matrix"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_bad_safetensors(name: str, tmp_path: Path) -> None:
    head, data, length, message = BAD_HEADERS[name]
    path = tensors(tmp_path / "bad.safetensors", head, data, length)
    with one_sentence(path, message):
        ha.load(path, act="tanh")


# ---- architectures -------------------------------------------------------------------------------

DENSE: dict[str, Any] = {
    "layer": "Dense",
    "in_features": 3,
    "out_features": 2,
    "act": ["tanh", []],
    "bias": True,
}
PARAMETERS = {"0.K": np.ones((3, 2)), "0.b": np.ones(2)}


def described(path: Path, text: Any, arrays: Mapping[str, Any] = PARAMETERS) -> Path:
    text = text if isinstance(text, str) else json.dumps(text)
    if path.suffix == ".npz":
        members = {f"{k}.npy": array(a) for k, a in arrays.items()}
        return npz(path, {**members, f"{ARCHITECTURE}.npy": array(text)})
    safetensors.numpy.save_file(dict(arrays), path, {ARCHITECTURE: text})
    return path


def dense(**changes: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in {**DENSE, **changes}.items() if v is not ...}]


def layer(kind: str, **given: Any) -> list[dict[str, Any]]:
    return [{"layer": kind, **given}]


def within(depth: int, inner: str) -> str:
    return '[{"layer":"Network","layers":' * depth + inner + "}]" * depth


ACT = {"act": ["tanh", []], "bias": True}
BAD_ARCHITECTURES: dict[str, tuple[Any, str]] = {
    "no JSON": ("[{", "the architecture is no JSON"),
    "empty text": ("", "the architecture is no JSON|no text"),
    "deep lists": ("[" * 100_000, "the architecture is no JSON"),
    "deep dictionaries": ('{"a":' * 100_000, "the architecture is no JSON"),
    "deep networks": (within(25, "[]"), "networks are nested more than 20 deep"),
    "deeper networks": (within(900, "[]"), "nested more than 20 deep|is no JSON"),
    "long number": ("[" + "1" * 5000 + "]", "no JSON|entry 0 of the architecture is no layer"),
    "number": (3, "the architecture is no list of layers"),
    "text": ('"Dense"', "the architecture is no list of layers"),
    "null": ("null", "the architecture is no list of layers"),
    "dictionary": (DENSE, "the architecture is no list of layers"),
    "empty": ([], "the architecture is no list of layers"),
    "numbers": ([1, 2], "entry 0 of the architecture is no layer"),
    "lists": ([[DENSE]], "entry 0 of the architecture is no layer"),
    "no kind": (dense(layer=...), "entry 0 of the architecture is no layer"),
    "kind no text": (dense(layer=["Dense"]), "entry 0 of the architecture is no layer"),
    "unknown layer": (
        dense(layer="Conv2d"),
        r"layer 0 is 'Conv2d', supported are Dense, ",
    ),
    "layer by path": (dense(layer="os.system"), "layer 0 is 'os.system', supported are"),
    "layer by attribute": (dense(layer="__class__"), "layer 0 is '__class__', supported are"),
    "base class": (dense(layer="Layer"), "layer 0 is 'Layer', supported are"),
    "long kind": (dense(layer="D" * 10**6), r"layer 0 is 'D+\.\.\.D+', supported are"),
    "line feed": (dense(layer="De\nnse"), r"layer 0 is 'De\\nnse', supported are"),
    "surrogate": (dense(layer="\ud800"), r"layer 0 is '\\ud800', supported are"),
    "extra key": (
        dense(seed=0),
        r"layer 0 \(Dense\) needs exactly act, bias, in_features",
    ),
    "dtype": (dense(dtype="O"), r"layer 0 \(Dense\) needs exactly act"),
    "attribute key": (dense(__class__="Dense"), r"layer 0 \(Dense\) needs exactly act"),
    "missing key": (dense(bias=...), r"layer 0 \(Dense\) needs exactly act"),
    "network without layers": (layer("Network"), r"layer 0 \(Network\) needs exactly layers"),
    "network with more": (
        layer("Network", layers=[DENSE], seed=0),
        r"layer 0 \(Network\) needs exactly layers",
    ),
    "empty network": (layer("Network", layers=[]), "network 0 is no list of layers"),
    "bool width": (dense(in_features=True), r"layer 0 \(Dense\) has in_features=True, a whole num"),
    "negative width": (dense(out_features=-2), r"\(Dense\) has out_features=-2, a whole number"),
    "zero width": (dense(in_features=0), r"\(Dense\) has in_features=0, a whole number from 1 to"),
    "float width": (dense(in_features=3.0), r"\(Dense\) has in_features=3\.0, a whole number"),
    "text width": (dense(in_features="3"), r"\(Dense\) has in_features='3', a whole number"),
    "null width": (dense(in_features=None), r"\(Dense\) has in_features=None, a whole number"),
    "large width": (dense(in_features=10**12), r"\(Dense\) has in_features=1000000000000, a whole"),
    "astronomic width": (dense(in_features=10**400), r"\(Dense\) has in_features=1\d*\.\.\.\d+, a"),
    "largest width": (
        dense(in_features=2**31 - 1, out_features=2**31 - 1),
        r"tensor '0\.K' has shape \(3, 2\), \(2147483647, 2147483647\) is expected",
    ),
    "bias no bool": (dense(bias="yes"), r"layer 0 \(Dense\) has bias='yes', true or false"),
    "bias a number": (dense(bias=1), r"layer 0 \(Dense\) has bias=1, true or false"),
    "no bias": (dense(bias=False), r"tensor '0\.b' belongs to no layer of the architecture"),
    "missing tensor": (dense() * 2, "layer 1|tensor '1.K' is missing"),
    "wrong shape": (
        dense(out_features=3),
        r"'0\.K' has shape \(3, 2\), \(3, 3\) is expected",
    ),
    "transposed": (
        dense(in_features=2, out_features=3),
        r"tensor '0\.K' has shape \(3, 2\), \(2, 3\) is expected",
    ),
    "NaN h": (
        layer("Residual", width=3, h=math.nan, **ACT),
        r"layer 0 \(Residual\) has h=nan, a finite number is expected",
    ),
    "infinite h": (layer("Residual", width=3, h=math.inf, **ACT), "has h=inf, a finite number"),
    "long h": (layer("Residual", width=3, h=10**400, **ACT), r"has h=1\d+\.\.\.\d+, a finite"),
    "text h": (layer("Residual", width=3, h="1", **ACT), "has h='1', a finite number"),
    "bool h": (layer("Residual", width=3, h=True, **ACT), "has h=True, a finite number"),
    "null h": (layer("Residual", width=3, h=None, **ACT), "has h=None, a finite number"),
    "rank": (layer("Quadratic", in_features=3, rank=-1), r"has rank=-1, a whole number from 0"),
    "float rank": (layer("Quadratic", in_features=3, rank=2.0), r"has rank=2\.0, a whole number"),
    "null rank": (layer("Quadratic", in_features=3, rank=None), "has rank=None, a whole number"),
    "convex, zero": (
        layer("InputConvexQuadratic", input_dim=3, in_features=0, rank=1),
        "has in_features=0, a whole number from 1",
    ),
    "convex, negative": (
        layer("InputConvex", input_dim=5, in_features=-2, out_features=2, **ACT),
        "has in_features=-2, a whole number from 1",
    ),
    "convex, no x": (
        layer("InputConvex", input_dim=None, in_features=3, out_features=2, **ACT),
        "has input_dim=None, a whole number",
    ),
}
BAD_ACTIVATIONS: dict[str, tuple[Any, str]] = {
    "unknown": (["tanhh", []], r"layer 0 \(Dense\): no activation is called 'tanhh': did you mean"),
    "attribute": (["__class__", []], "no activation is called '__class__'"),
    "import": (["os.system", ["true"]], "activation 'os.system' with parameters"),
    "text": ("tanh", r"has act='tanh', \[name, parameters\] is expected"),
    "two letters": ("ab", r"has act='ab', \[name, parameters\] is expected"),
    "dictionary": ({"a": 1, "b": 2}, r"\[name, parameters\] is expected"),
    "null": (None, r"has act=None, \[name, parameters\] is expected"),
    "one": (["tanh"], r"has act=\['tanh'\], \[name, parameters\] is expected"),
    "three": (["tanh", [], []], r"\[name, parameters\] is expected"),
    "name no text": ([3, []], r"\[name, parameters\] is expected"),
    "name a list": ([["tanh"], []], r"\[name, parameters\] is expected"),
    "parameters of none": (["tanh", [1.0]], r"'tanh' with parameters \[1\.0\], at most 0 numbers"),
    "parameters no list": (
        ["softplus", 1.0],
        r"'softplus' with parameters 1\.0, at most 3",
    ),
    "parameters as text": (["softplus", "12"], "'softplus' with parameters '12', at most 3"),
    "parameters as dictionary": (["softplus", {"beta": 1.0}], "at most 3 numbers are expected"),
    "too many": (["elu", [1.0, 2.0]], r"'elu' with parameters \[1\.0, 2\.0\], at most 1 numbers"),
    "strings": (["softplus", ["1.0"]], r"'softplus' with parameters \['1\.0'\], at most 3 numbers"),
    "bools": (["softplus", [True]], r"'softplus' with parameters \[True\], at most 3 numbers"),
    "nulls": (["softplus", [1.0, None]], "'softplus' with parameters"),
    "nested": (
        ["softplus", [[1.0]]],
        r"'softplus' with parameters \[\[1\.0\]\], at most 3",
    ),
    "nan": (["softplus", [math.nan]], r"'softplus' with parameters \[nan\], at most 3"),
    "nan threshold": (["softplus", [1.0, math.nan]], r"'softplus' with parameters \[1\.0, nan\]"),
    "negative": (["celu", [-1.0]], r"layer 0 \(Dense\): celu got alpha=-1\.0"),
    "long": (["softplus", [10**400]], r"layer 0 \(Dense\): int too large to convert to float"),
    "wrong order": (["hardtanh", [1.0, -1.0]], "hardtanh got min_val=1.0 and max_val=-1.0"),
    "text for gelu": (["gelu", ["tanh"]], "'gelu' with parameters"),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", BAD_ARCHITECTURES)
def test_bad_architecture(name: str, suffix: str, tmp_path: Path) -> None:
    text, message = BAD_ARCHITECTURES[name]
    path = described(tmp_path / f"bad{suffix}", text)
    with one_sentence(path, message):
        ha.load(path)


@pytest.mark.parametrize("name", BAD_ACTIVATIONS)
def test_bad_activation(name: str, tmp_path: Path) -> None:
    act, message = BAD_ACTIVATIONS[name]
    path = described(tmp_path / "bad.npz", dense(act=act))
    with one_sentence(path, message):
        ha.load(path)


@pytest.mark.parametrize("name", ["alpha", "negative_slope"])
def test_nan_parameters_of_activations(name: str, tmp_path: Path) -> None:
    """Where the activation itself takes any number, the file's NaN must not go unseen."""
    act = {"alpha": "elu", "negative_slope": "leaky_relu"}[name]
    path = described(tmp_path / "bad.npz", dense(act=[act, [math.nan]]))
    with one_sentence(path, rf"activation '{act}' with parameters \[nan\]"):
        ha.load(path)


def test_registered_code_is_not_called_with_numbers_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    monkeypatch.setitem(ha.activations.ACTIVATIONS, "mine", called.append)
    monkeypatch.setitem(ha.activations._KEYS, "mine", "mine")
    path = described(tmp_path / "bad.npz", dense(act=["mine", [1.0]]))
    with one_sentence(path, r"activation 'mine' with parameters \[1\.0\], at most 0 numbers"):
        ha.load(path)
    assert not called


@pytest.mark.parametrize("suffix", FORMATS)
def test_tensors_of_an_architecture(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bad{suffix}"
    bad: list[tuple[dict[str, np.ndarray], str]] = [
        ({"1.K": np.ones(1)}, r"tensor '0\.K' is missing, \(3, 2\) is expected"),
        ({"0.b": np.ones(2)}, r"tensor '0\.K' is missing"),
        ({"0.K": np.ones((3, 2))}, r"tensor '0\.b' is missing, \(2,\) is expected"),
        ({**PARAMETERS, "0.b": np.ones((2, 1))}, r"'0\.b' has shape \(2, 1\), \(2,\) is expected"),
        ({**PARAMETERS, "1.K": np.ones(1)}, r"tensor '1\.K' belongs to no layer"),
        ({**PARAMETERS, "0.act": np.ones(1)}, r"tensor '0\.act' belongs to no layer"),
        ({**PARAMETERS, "0.__class__": np.ones(1)}, r"tensor '0\.__class__' belongs to no layer"),
        ({**PARAMETERS, "0.K.b": np.ones(1)}, r"tensor '0\.K\.b' belongs to no layer"),
    ]
    for arrays, message in bad:
        described(path, dense(), arrays)
        with one_sentence(path, message):
            ha.load(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_layers_that_do_not_fit(suffix: str, tmp_path: Path) -> None:
    arrays = {f"{i}.{k}": a for i in (0, 1) for k, a in (("K", np.ones((3, 2))), ("b", np.ones(2)))}
    path = described(tmp_path / f"bad{suffix}", dense() * 2, arrays)
    with one_sentence(path, r"the architecture: layer 1 \(Dense\) expects 3 features, "):
        ha.load(path)
    inner = {f"0.{k}": a for k, a in arrays.items()}
    path = described(path, layer("Network", layers=dense() * 2), inner)
    with one_sentence(path, r"network 0: layer 1 \(Dense\) expects 3 features"):
        ha.load(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_architecture_of_many_bytes(suffix: str, tmp_path: Path) -> None:
    text = json.dumps(dense())
    path = tmp_path / f"bad{suffix}"
    described(path, text + " " * 2_000_000)  # 8 MB in npz, which has four bytes a letter
    assert len(ha.load(path)) == 1
    described(path, text + " " * 10_000_000)
    with one_sentence(path, "the architecture takes more than 10,000,000 bytes"):
        ha.load(path)


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(array(np.array(["[]", "[]"])), id="two texts"),
        pytest.param(array(np.array(b"[]")), id="bytes"),
        pytest.param(array(3.0), id="number"),
        pytest.param(npy(header((), "<U500000000")), id="2 GB"),
        pytest.param(npy(header((), "<U1"), b"\xff\xff\xff\xff"), id="no letter"),
        pytest.param(npy(header((), ">U1"), b"\x00\x11\x00\x00"), id="no letter, big-endian"),
    ],
)
def test_architecture_that_is_no_text(member: bytes, tmp_path: Path) -> None:
    members = {f"{k}.npy": array(a) for k, a in PARAMETERS.items()}
    path = npz(tmp_path / "bad.npz", {**members, f"{ARCHITECTURE}.npy": member})
    with one_sentence(path, "the architecture is no text|takes more than|not a readable npz"):
        ha.load(path)


def test_architecture_without_tensors_takes_no_memory(tmp_path: Path) -> None:
    """Widths of a million cost nothing where the weights are not in the file."""
    entries = layer("Dense", in_features=10**6, out_features=10**6, **ACT) * 20
    path = described(tmp_path / "bad.npz", entries, {})
    with one_sentence(path, r"tensor '0\.K' is missing, \(1000000, 1000000\) is expected"):
        ha.load(path)


def test_a_bad_file_gives_an_error_and_no_warning_beside_it(tmp_path: Path) -> None:
    arrays = {**PARAMETERS, "0.b": np.full(2, np.nan), "1.b": np.ones(1)}
    path = described(tmp_path / "bad.npz", dense(), arrays)
    with one_sentence(path, "belongs to no layer"):
        ha.load(path)


# ---- damage at random ----------------------------------------------------------------------------


def everything() -> ha.Network:
    return ha.Network(
        ha.Network(ha.Dense(3, 4, act="tanh"), ha.Residual(4, h=0.5, act="gelu")),
        ha.InputConvex(4, None, 3, act=ha.activation("softplus", beta=2.0, threshold=15.0)),
        ha.InputConvex(4, 3, 2, bias=False),
        ha.Dense(6, 5, act="elu", bias=False),
        ha.InputConvexQuadratic(2, 3, 2),
        seed=0,
    )


def survive(path: Path, **options: Any) -> bool:
    """LoadError, or a network that computes something; anything else is raised."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            net = ha.load(path, max_bytes=MB, **options)
        except LoadError as caught:
            text = str(caught)
            assert text.startswith(str(path))
            assert text.isprintable()
            return False
        assert net.value(np.ones((2, net.in_features))).shape == (2, net.out_features)
        return True


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, set, left out, put in, moved or cut off."""
    out = bytearray(data)
    kind = rng.integers(6)
    at, length = int(rng.integers(len(out))), int(rng.integers(1, 40))
    if kind == 0:
        for i in rng.integers(len(out), size=rng.integers(1, 9)):
            out[i] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        for i in rng.integers(len(out), size=rng.integers(1, 9)):
            out[i] = int(rng.choice([0, 255, 32, 34, 48, 57, 91, 93, 123, 125]))
    elif kind == 2:
        del out[at : at + length]
    elif kind == 3:
        out[at:at] = rng.bytes(length)
    elif kind == 4:
        out[at:at] = out[: int(rng.integers(len(out)))][-length:]
    else:
        del out[at:]
    return bytes(out)


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {k: archive.read(k) for k in archive.namelist()}


SOURCES: dict[str, Callable[[Path], Any]] = {
    ".npz": lambda p: everything().save(p),
    ".safetensors": lambda p: everything().save(p),
    "pairs.npz": lambda p: np.savez_compressed(p, **good()),  # type: ignore[arg-type]
    "pairs.safetensors": lambda p: safetensors.numpy.save_file(good(), p),
}


@pytest.mark.parametrize("name", SOURCES)
def test_random_damage(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{name}"
    SOURCES[name](path)
    act = {} if name in FORMATS else {"act": "tanh"}
    assert survive(path, **act)
    data = path.read_bytes()
    rng = np.random.default_rng(len(name))
    outcomes = []
    for _ in range(300):
        path.write_bytes(damaged(data, rng))
        outcomes.append(survive(path, **act))
    assert not all(outcomes)


@pytest.mark.parametrize("part", ["text", "member"])
def test_random_damage_behind_a_checksum(part: str, tmp_path: Path) -> None:
    """Damage with a checksum that fits: of the architecture's text, and of a header or data."""
    path = tmp_path / "net.npz"
    everything().save(path)
    members = contents(path)
    text = str(np.load(io.BytesIO(members[f"{ARCHITECTURE}.npy"])))
    rng = np.random.default_rng(5)
    outcomes = []
    for _ in range(300):
        twin = dict(members)
        if part == "text":
            changed = damaged(text.encode(), rng).decode("utf-8", "replace")
            twin[f"{ARCHITECTURE}.npy"] = array(changed)
        else:
            name = str(rng.choice(list(twin)))
            head = twin[name][:128]
            twin[name] = damaged(head, rng) + twin[name][128:]
        npz(path, twin)
        outcomes.append(survive(path))
    assert not all(outcomes)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(tree, (dict, list)):
        for k in tree if isinstance(tree, dict) else range(len(tree)):
            yield from _places(tree[k], (*path, k))


def _put(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = _put(tree[path[0]], path[1:], value)
    return copy


ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    3,
    1e308,
    math.nan,
    math.inf,
    2**31,
    10**400,
    "",
    "Dense",
    "__class__",
]
ODD += [[], {}, [[]], ["tanh", []], ["softplus", [1.0, 2.0]], {"layer": "Dense"}, [DENSE], DENSE]


def test_every_place_of_an_architecture_with_every_odd_value(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    everything().save(path)
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, framework="np") as file:
        tree = json.loads(file.metadata()[ARCHITECTURE])
    outcomes = []
    for place in _places(tree):
        for value in ODD:
            described(path, _put(tree, place, value), arrays)
            outcomes.append(survive(path))
    assert len(outcomes) > 1000
    assert 0 < sum(outcomes) < 0.1 * len(outcomes)  # another activation, say, makes a network
