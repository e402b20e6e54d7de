"""Parquet at the door: what a table will take in memory is counted before it is read.

A few bytes of Parquet can stand for any number of values: runs, dictionaries and compressed pages.
R rows.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from timerxl.config import InputError
from timerxl.data.audit_findings import listed
from timerxl.data.table_text import MOST_COLUMNS
from timerxl.untrusted import check_memory

_BYTES_PER_VALUE = 40  # of Arrow, pandas, float64 and the series, some of them at once
_TIMES_AS_TEXT = 3  # text as Arrow, in the frame and as names


def read_parquet(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """A Parquet file as pandas reads it, and sentences on columns that are left out.

    Raises InputError where there is no memory for it: by the counts in its footer, then by the
    length of its text as it stands there. Pages are read one after the other: one that is
    larger than its footer says can take 2 GB, not more.
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
        pages = max((group.total_byte_size for group in groups), default=0)
        check_memory(values * _BYTES_PER_VALUE + pages, f"{path} ({footer.num_rows:,} rows of it)")
    nested = [field.name for field in schema if pa.types.is_nested(field.type)]
    text = [field.name for field in schema if _is_text(field.type)]
    _check_text(path, text)
    notes = []
    if nested:
        notes.append(f"columns of lists or records are left out: {listed(nested)}.")
    columns = [name for name in schema.names if name not in set(nested)] if nested else None
    return pd.read_parquet(path, columns=columns), notes


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _check_text(path: Path, names: list[str]) -> None:
    """A long word that stands once in a dictionary is written out in every row."""
    total = 0
    with pq.ParquetFile(path, read_dictionary=names) as file:
        for group in range(file.num_row_groups) if names else ():
            for name in names:
                column = file.read_row_group(group, columns=[name], use_threads=False)[0]
                for chunk in column.chunks:
                    lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
                    total += pc.sum(lengths).as_py() or 0
            check_memory(_TIMES_AS_TEXT * total, f"the text of {path}")
