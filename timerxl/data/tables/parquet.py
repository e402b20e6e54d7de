"""Parquet tables to frames, refused before they take more memory than there is."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from timerxl.config import InputError
from timerxl.data.tables.text import MOST_COLUMNS
from timerxl.untrusted import check_memory, listed, plain

_BYTES_PER_VALUE = 40  # of Arrow, pandas, float64 and the series, some of them at once
_BATCH_ROWS = 2**17
_TIMES_AS_TEXT = 3  # text as Arrow, in the frame and as names


def read_parquet(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read a Parquet file as pandas does, with sentences on columns that are left out.

    Raises InputError where there is no memory for it: by the counts in its footer (pyarrow reads
    no more values than these), by what its pages unpack to, and by the length of its text as it
    stands in every row.
    """
    with pq.ParquetFile(path) as file:
        schema, footer = file.schema_arrow, file.metadata
        if len(schema) > MOST_COLUMNS:
            raise InputError(f"{path} has {len(schema):,} columns; expected {MOST_COLUMNS:,}.")
        groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
        values = sum(
            max(group.column(index).num_values, group.num_rows)
            for group in groups
            for index in range(group.num_columns)
        )
    pages = max((_page_bytes(path, group) for group in groups), default=0)
    check_memory(values * _BYTES_PER_VALUE + pages, f"{path} ({footer.num_rows:,} rows of it)")
    nested = [
        one.name
        for one in schema
        if pa.types.is_nested(one.type) or pa.types.is_fixed_size_binary(one.type)
    ]
    text = [one.name for one in schema if _is_any(one.type, *_TEXT)]
    _check_text(path, text)
    notes = []
    if nested:
        notes.append(f"columns of lists, records or raw bytes are left out: {listed(nested)}.")
    columns = [name for name in schema.names if name not in set(nested)] if nested else None
    frame, raw = pd.read_parquet(path, columns=columns), []
    for name in [one.name for one in schema if _is_any(one.type, *_BYTES)]:
        if name not in frame.columns:
            continue
        try:  # some writers don't say that their text is text
            frame[name] = frame[name].astype(object).map(bytes.decode, na_action="ignore")
        except UnicodeDecodeError:
            raw.append(name)
    if raw:
        notes.append(f"columns of bytes that are no UTF-8 text are left out: {listed(raw)}.")
    return frame.drop(columns=raw), notes


def is_by_region(path: Path, region_column: str) -> bool:
    """Tell by the schema of a Parquet file whether :func:`regions_of` can read it."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
    described = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    has_index = any(isinstance(one, str) for one in described.get("index_columns", []))
    plain = all(
        not pa.types.is_nested(one.type)
        and not pa.types.is_fixed_size_binary(one.type)
        and not _is_any(one.type, *_BYTES)
        for one in schema
    )
    at = schema.get_field_index(region_column)
    is_text = at >= 0 and _is_any(schema.field(at).type, *_TEXT)
    return plain and is_text and not has_index and len(schema) <= MOST_COLUMNS


def regions_of(path: Path, region_column: str) -> Iterator[pd.DataFrame]:
    """Yield the rows of one region after the other, as :func:`read_parquet` reads them.

    No more than a region and a piece of a row group is in memory. Raises RegionsInterleaved where a
    region comes again, or a row names none, and InputError where there is no memory for one.
    """
    seen: set[Any] = set()
    current: Any = None
    pending: list[pa.RecordBatch] = []
    rows = 0
    text = [one.name for one in pq.read_schema(path) if _is_any(one.type, *_TEXT)]
    with pq.ParquetFile(path) as file, pq.ParquetFile(path, read_dictionary=text) as counted:
        width = len(file.schema_arrow)
        for index in range(file.num_row_groups):
            group = file.metadata.row_group(index)
            check_memory(_page_bytes(path, group), f"{path} (row group {index})")
            size = _TIMES_AS_TEXT * _text_bytes(counted, index, text)
            check_memory(size, f"the text of {path} (row group {index})")
            batches = file.iter_batches(_BATCH_ROWS, row_groups=[index], use_threads=False)
            for batch in batches:
                names = batch.column(batch.schema.get_field_index(region_column))
                if pa.types.is_dictionary(names.type):
                    names = names.dictionary_decode()
                runs = pc.run_end_encode(names)
                start = 0
                for name, end in zip(
                    runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True
                ):
                    if pending and name != current:
                        yield pa.Table.from_batches(pending).to_pandas()
                        pending, rows = [], 0
                    if not pending:
                        if name is None or name in seen:
                            raise RegionsInterleaved
                        seen.add(name)
                        current = name
                    rows += end - start
                    check_memory(rows * width * _BYTES_PER_VALUE, f"region {plain(name, 80)}")
                    pending.append(batch.slice(start, end - start))
                    start = end
    if pending:
        yield pa.Table.from_batches(pending).to_pandas()


class RegionsInterleaved(Exception):
    """The rows of a region don't stand together: the table must be read as a whole."""


def _page_bytes(path: Path, group: pq.RowGroupMetaData) -> int:
    """What the pages of a row group unpack to by their own headers; a footer may say anything.

    A page is unpacked into as many bytes as its header says, or refused.
    """
    total = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for index in range(group.num_columns):
            column = group.column(index)
            at = column.data_page_offset
            if column.has_dictionary_page:
                at = min(at, column.dictionary_page_offset)
            end = min(at + column.total_compressed_size, len(data))
            while 0 <= at < end:
                numbers, at = _struct(data, at)
                total += numbers.get(2, 0)  # uncompressed_page_size
                at += max(numbers.get(3, 0), 0)  # compressed_page_size
    return total


def _struct(data: mmap.mmap, at: int, level: int = 0) -> tuple[dict[int, int], int]:
    """({field: its number} of a struct in Thrift's compact protocol, where it ends).

    Raises ValueError for what no header of a page holds.
    """
    numbers: dict[int, int] = {}
    field = 0
    while at < len(data) and (head := data[at]):
        at += 1
        kind = head & 15
        if head >> 4:
            field += head >> 4
        else:
            field, at = _varint(data, at)
            field = field >> 1
        if kind in (1, 2):  # true, false
            continue
        if kind == 3:
            at += 1
        elif kind in (4, 5, 6):
            number, at = _varint(data, at)
            numbers[field] = number >> 1 ^ -(number & 1)
        elif kind == 8:
            length, at = _varint(data, at)
            at += length
        elif kind == 12 and level < 4:
            _, at = _struct(data, at, level + 1)
        else:
            raise ValueError(f"the header of a page holds a field of kind {kind}")
    return numbers, at + 1


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    number = 0
    for place in range(10):
        if at >= len(data):
            break
        number |= (data[at] & 127) << 7 * place
        at += 1
        if not data[at - 1] & 128:
            return number, at
    raise ValueError("the header of a page is cut short")


def _is_any(kind: pa.DataType, *kinds: str) -> bool:
    """Whether a type, or that of a dictionary's values, is one of pyarrow's ``kinds``."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(getattr(pa.types, f"is_{name}")(kind) for name in kinds)


_BYTES = ("binary", "large_binary", "binary_view")
_TEXT = ("string", "large_string", "string_view", *_BYTES)


def _check_text(path: Path, names: list[str]) -> None:
    """A long word that stands once in a dictionary is written out in every row."""
    total = 0
    with pq.ParquetFile(path, read_dictionary=names) as file:
        for group in range(file.num_row_groups) if names else ():
            total += _text_bytes(file, group, names)
            check_memory(_TIMES_AS_TEXT * total, f"the text of {path}")


def _text_bytes(file: pq.ParquetFile, group: int, names: list[str]) -> int:
    """The bytes of the text columns of a row group as they stand in every row; ``file`` is opened
    with ``read_dictionary=names``."""
    total = 0
    for name in names:
        column = file.read_row_group(group, columns=[name], use_threads=False)[0]
        for chunk in column.chunks:
            lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
            total += pc.sum(lengths).as_py() or 0
    return total
