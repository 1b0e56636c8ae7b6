"""Reads untrusted Parquet: only columns of numbers or text, up to a size limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mbarl_ros.demos.formats.common import MAX_BYTES, FormatError, check_downloaded

_ITEM = np.dtype(np.float64).itemsize


def read_numbers(paths: Sequence[Path], widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Columns [rows, width] float64 of files of the same layout, one file after the other.

    :param widths: column -> numbers in each row; 1 is also a column of plain numbers
    :raises FormatError: a column is missing, empty somewhere, not numbers or of another width, or
        they are too large together.
    """
    left = MAX_BYTES
    parts: dict[str, list[np.ndarray]] = {name: [] for name in widths}
    for path in paths:
        with _opened(path) as file:
            left -= _size(path, file, widths)
            if left < 0:
                raise FormatError(f'{path}: of one dataset {MAX_BYTES} bytes are read at most')
            # Threads would each reserve address space, which is limited.
            table = file.read(columns=list(widths), use_threads=False)
        for name, width in widths.items():
            place = f'{path}: column {name}'
            rows = [_rows(place, chunk, width) for chunk in table.column(name).chunks]
            parts[name] += rows
    return {
        name: np.concatenate([np.empty((0, widths[name])), *rows]) for name, rows in parts.items()
    }


def read_texts(path: Path) -> dict[str, list[object]]:
    """All columns of a small file.

    :raises FormatError: it is not small.
    """
    with _opened(path) as file:
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
        if size > MAX_BYTES >> 4 or file.metadata.num_rows > MAX_BYTES >> 12:
            raise FormatError(f'{path}: is too large for a list of tasks')
        return file.read(use_threads=False).to_pydict()


def _opened(path: Path) -> pq.ParquetFile:
    if not path.is_file():  # opening a pipe would block
        raise FormatError(f'{path}: no such file')
    check_downloaded(path)
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        text = ' '.join(str(error).split())[:200]
        raise FormatError(f'{path}: cannot be opened as Parquet: {text}') from error


def _size(path: Path, file: pq.ParquetFile, names: Mapping[str, int]) -> int:
    """Bytes that columns need in memory, according to the file."""
    missing = [name for name in names if name not in file.schema_arrow.names]
    if missing:
        raise FormatError(f'{path}: column {", ".join(missing)} is missing')
    size = 0
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            if any(f'{column.path_in_schema}.'.startswith(f'{name}.') for name in names):
                size += max(column.num_values * _ITEM, column.total_uncompressed_size)
    return size


def _rows(place: str, chunk: pa.Array, width: int) -> np.ndarray:
    """Rows [n, width] of a column of numbers or of lists of them."""
    n = len(chunk)
    if chunk.null_count:
        raise FormatError(f'{place}: is empty in {chunk.null_count} of {n} rows')
    if pa.types.is_fixed_size_list(chunk.type) or pa.types.is_list(chunk.type):
        chunk = chunk.flatten() if _all_wide(chunk, width) else chunk
    kind = chunk.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise FormatError(f'{place}: is {kind}, not {width} numbers in each row')
    if chunk.null_count or len(chunk) != n * width:
        raise FormatError(f'{place}: has not {width} numbers in each row')
    return chunk.to_numpy(zero_copy_only=False).astype(np.float64).reshape(n, width)


def _all_wide(chunk: pa.Array, width: int) -> bool:
    """Whether each list has this length."""
    if pa.types.is_fixed_size_list(chunk.type):
        return chunk.type.list_size == width
    return bool((np.diff(chunk.offsets.to_numpy()) == width).all())
