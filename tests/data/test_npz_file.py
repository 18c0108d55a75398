"""Rows of .npz arrays, read without loading the arrays."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxqat.core.errors import DataError
from onnxqat.data.npz_file import NpzFile
from tests.support.datasets import write_npz

COMPRESSIONS = {
    "stored": zipfile.ZIP_STORED,
    "deflated": zipfile.ZIP_DEFLATED,
    "lzma": zipfile.ZIP_LZMA,
}


@pytest.mark.parametrize("compression", COMPRESSIONS.values(), ids=COMPRESSIONS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rows_in_any_order_along_any_axis_equal_numpys_own(
    tmp_path: Path, compression: int, order: str, axis: int
) -> None:
    array = np.asarray(np.random.default_rng(0).normal(size=(7, 5, 6)), order=order)  # type: ignore[call-overload]
    file = NpzFile(write_npz(tmp_path / "a.npz", compression=compression, x=array))
    indices = np.array([4, 0, 1, 2, 4, 3])
    np.testing.assert_array_equal(
        file.members["x"].rows(indices, axis=axis), array.take(indices, axis)
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 49), min_size=1, max_size=60))
def test_any_list_of_rows_is_read_as_listed(
    tmp_path_factory: pytest.TempPathFactory, indices: list[int]
) -> None:
    array = np.arange(150, dtype=np.int16).reshape(50, 3)
    file = NpzFile(write_npz(tmp_path_factory.mktemp("npz") / "a.npz", x=array))
    np.testing.assert_array_equal(file.members["x"].rows(np.array(indices)), array[indices])


def test_a_scalar_array_is_read_whole(tmp_path: Path) -> None:
    file = NpzFile(write_npz(tmp_path / "a.npz", rate=np.array(16000, np.int64)))
    assert file.members["rate"].whole() == 16000


def test_a_file_that_numpy_compressed_reads_the_same(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (100, 9), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", x=array)
    rows = NpzFile(tmp_path / "a.npz").members["x"].rows(np.arange(20, 40))
    np.testing.assert_array_equal(rows, array[20:40])


def test_a_compressed_array_is_decompressed_only_as_far_as_it_is_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 1 << 18), np.uint8)
    path = write_npz(tmp_path / "a.npz", compression=zipfile.ZIP_DEFLATED, x=noise)
    damaged = bytearray(path.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 64] = bytes(64)
    path.write_bytes(damaged)
    member = NpzFile(path).members["x"]
    np.testing.assert_array_equal(member.rows(np.arange(4)), noise[:4])
    with pytest.raises(DataError, match="cannot be read as an"):
        member.rows(np.array([63]))


def test_pickled_objects_are_refused_and_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"no": "numbers"}], dtype=object))
    with pytest.raises(DataError, match="array 'x' holds object, not numbers"):
        NpzFile(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"not a zip archive", b"PK\x03\x04 and no more"])
def test_a_file_that_is_no_npz_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz' cannot be read"):
        NpzFile(tmp_path / "a.npz")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", x=np.zeros((100, 100)))
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(DataError, match=r"a\.npz' cannot be read"):
        NpzFile(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        NpzFile(tmp_path / "none.npz")
