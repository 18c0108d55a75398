"""Rows of the arrays in an .npz file, by index, without loading the arrays.

An array that is stored is read where it lies in the file. A compressed one is decompressed once,
into a temporary file that has no name, and only as far as it is read. Neither is mapped into
memory, since mapped pages would count as memory of the process.
Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import lzma
import struct
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from onnxqat.core.errors import DataError
from onnxqat.data.batch import Array

_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, and the lengths of name and extra field, of a zip entry (APPNOTE.TXT, 4.3.7)."""
_BLOCK = 1 << 20
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError)
"""What reading a damaged or foreign archive raises."""


class _Bytes(Protocol):
    """Random access to the decompressed bytes of one archive member."""

    def read_into(self, start: int, target: memoryview) -> int: ...


class _Stored:
    """Bytes of a member that is not compressed, where they lie in the archive."""

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file, self._start = file, start

    def read_into(self, start: int, target: memoryview) -> int:
        self._file.seek(self._start + start)
        return _fill(self._file, target)


class _Spooled:
    """Bytes of a compressed member: decompressed into a temporary file as far as needed."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._filled = stream, 0
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the member

    def read_into(self, start: int, target: memoryview) -> int:
        self._decompress_to(start + len(target))
        self._spool.seek(start)
        return _fill(self._spool, target)

    def _decompress_to(self, end: int) -> None:
        self._spool.seek(self._filled)
        while self._filled < end and (block := self._stream.read(_BLOCK)):
            self._filled += self._spool.write(block)


def _fill(file: IO[bytes], target: memoryview) -> int:
    read: int = file.readinto(target)  # type: ignore[attr-defined]
    return read


class Member:
    """One array of an .npz: its shape and dtype, and its rows by index."""

    def __init__(self, name: str, data: _Bytes, header: _Header, lock: threading.Lock) -> None:
        self.name, self.shape, self.dtype = name, header.shape, header.dtype
        self._fortran, self._data_start = header.fortran, header.size
        self._data, self._lock = data, lock

    def rows(self, indices: NDArray[np.int64], *, axis: int = 0) -> Array:
        """The array's slices at `indices` along `axis`, in that order."""
        # A Fortran-ordered array is the transpose of a C-ordered one.
        shape = self.shape[::-1] if self._fortran else self.shape
        at = len(shape) - 1 - axis if self._fortran else axis
        taken = self._rows_c(shape, indices, at)
        return np.ascontiguousarray(taken.T) if self._fortran else taken

    def whole(self) -> Array:
        """The whole array."""
        if not self.shape:
            return self._rows_c((1,), np.zeros(1, np.int64), 0).reshape(())
        return self.rows(np.arange(self.shape[0]))

    def _rows_c(self, shape: tuple[int, ...], indices: NDArray[np.int64], axis: int) -> Array:
        """Slices of a C-ordered array: at each outer index, runs of adjacent rows in one read."""
        outer, count, row = shape[:axis], shape[axis], prod(shape[axis + 1 :])
        out = np.empty((prod(outer), len(indices), row), self.dtype)
        with self._lock:
            for o in range(prod(outer)):
                for first, last in _runs(indices):
                    start = (o * count + int(indices[first])) * row
                    self._read(start, out[o, first:last])
        return out.reshape(*outer, len(indices), *shape[axis + 1 :])

    def _read(self, start: int, target: Array) -> None:
        if target.size == 0:
            return
        view = target.reshape(-1).view(np.uint8).data
        try:
            read = self._data.read_into(self._data_start + start * self.dtype.itemsize, view)
        except _DAMAGE as error:
            raise _damaged(self.name, str(error)) from error
        if read != len(view):
            raise _damaged(self.name, "it ends early")


def _runs(indices: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of positions at which consecutive indices stand."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    edges = [0, *breaks.tolist(), len(indices)]
    return pairwise(edges)


class _Header:
    """The header of a .npy stream: shape, dtype, order, and its own length in bytes."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        read = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }.get(npy_format.read_magic(stream))
        if read is None:
            raise DataError(f"array '{name}' has an unknown .npy version", fix="save it again")
        shape, self.fortran, self.dtype = read(stream)
        self.shape: tuple[int, ...] = tuple(shape)
        self.size = stream.tell()
        if self.dtype.hasobject or self.dtype.names is not None:
            raise DataError(
                f"array '{name}' holds {self.dtype}, not numbers",
                fix="save plain arrays; pickled objects are never loaded",
            )


class NpzFile:
    """The arrays of an .npz file by name, none of them loaded.

    Raises:
        DataError: The file is missing, is no .npz, is damaged, or holds pickled objects.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._file = path.open("rb")
            self._zip = zipfile.ZipFile(self._file)
            self.members = {m.name: m for m in map(self._member, self._zip.infolist())}
        except FileNotFoundError as error:
            raise DataError(f"there is no file '{path}'", fix="check --data") from error
        except (*_DAMAGE, ValueError) as error:
            raise _damaged(str(path), str(error)) from error

    def close(self) -> None:
        """Let go of the file, and of the temporary files behind compressed arrays."""
        self.members = {}
        self._zip.close()
        self._file.close()

    def _member(self, info: zipfile.ZipInfo) -> Member:
        name = info.filename.removesuffix(".npy")
        with self._zip.open(info) as stream:
            header = _Header(stream, name)
        stored = info.compress_type == zipfile.ZIP_STORED
        data: _Bytes = (
            _Stored(self._file, self._start(info)) if stored else _Spooled(self._zip.open(info))
        )
        return Member(name, data, header, self._lock)

    def _start(self, info: zipfile.ZipInfo) -> int:
        self._file.seek(info.header_offset)
        signature, name, extra = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise zipfile.BadZipFile(f"no entry at byte {info.header_offset}")
        return info.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)


def _damaged(name: str, why: str) -> DataError:
    return DataError(
        f"'{name}' cannot be read as an .npz file: {why}",
        fix="write it with numpy.savez or numpy.savez_compressed",
    )


def describe(member: Any) -> str:
    """A member as an error message names it: dtype and shape."""
    return f"{member.dtype} {list(member.shape)}"
