"""Ways to damage a table of weather: CSV and Parquet."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fuzz_damage import INFINITY, NAN, Payload, damage_bytes, damage_text, damage_tree


def damage_csv(random: Random, text: str) -> bytes:
    """Ragged rows, odd quotes, mixed time zones, times twice, words among numbers, and so on."""
    if random.random() < 0.15:
        return damage_text(random, text)
    head, *rows = [line.split(",") for line in text.splitlines()]
    row, column = random.randrange(len(rows)), random.randrange(len(head))
    cells = ("", "x", "nan", "inf", "-inf", "1e400", "-1", "1e30", '"', "'", "=1+1", "NULL", "1,5")
    times = ("2023-01-01T00:00:00+05:00", "2023-13-45", "01/02/2023", "0001-01-01", "9999-12-31")
    times += ("1e9", "2023-06-01", "2262-04-12", "-5000-01-01", "2023-03-01T06:30:00.5Z", "now")
    kind = random.randrange(14)
    if kind < 3:
        rows[row][column] = random.choice(cells)
    elif kind < 6:
        rows[row][0] = random.choice(times)
    elif kind == 6:
        for each in random.choice((rows, rows[row:], rows[::7])):
            each[column] = random.choice((*cells, *times))
    elif kind == 7:
        rows[row] = random.choice((rows[row][:2], rows[row] * 3, []))
    elif kind == 8:
        head[column] = random.choice((head[0], "", "target", "precipitation", "\x1b[31m", "a\x00"))
    elif kind == 9:
        rows.insert(row, rows[random.randrange(len(rows))])
    elif kind == 10:
        rows = random.choice(
            ([], rows[:1], rows[:3], rows[::-1], rows[::2], random.sample(rows, 9))
        )
    elif kind == 11:
        rows[row][1] = random.choice(("", "other", '"', "7", "a\rb"))
    elif kind == 12:
        head, rows = head[:2], [each[:2] for each in rows]
    else:
        head, rows = [*head, "deep"], [[*each, "[" * 50] for each in rows]
    separator = random.choice((",", ",", ",", ",", ";", "\t"))
    return "\n".join(separator.join(line) for line in [head, *rows]).encode()


def damage_parquet(random: Random, data: bytes, marker: Path) -> bytes:
    """A cut footer, flipped bytes, or a whole file with types that no table of weather has."""
    kind = random.randrange(12)
    if kind < 4:
        return damage_bytes(random, data)
    if kind == 4:  # the footer's length
        wrong = random.choice((0, 1, 2**31 - 1, 2**32 - 1, len(data)))
        return data[:-8] + wrong.to_bytes(4, "little") + data[-4:]
    table = pq.read_table(io.BytesIO(data))
    count = table.num_rows
    column = random.randrange(table.num_columns)
    name = table.column_names[column]
    odd: tuple[Any, ...] = (
        *(pa.array([[1.0, None]] * count), pa.array([{"a": 1}] * count), pa.nulls(count)),
        *(pa.array([b"\xff"] * count), pa.array(["x"] * count).dictionary_encode()),
        *(pa.array([True] * count), pa.array([2**63 - 1] * count), pa.array([NAN] * count)),
        *(pa.array([1] * count, pa.decimal256(60)), pa.array([INFINITY] * count)),
        *(pa.array([0] * count, pa.time64("ns")), pa.array([1] * count, pa.duration("s"))),
        *(pa.array([2**52] * count, pa.timestamp("ms")), pa.array([1] * count, pa.date32())),
        *(pa.array(range(count), pa.timestamp("ns", "Asia/Tokyo")), pa.array([1] * count)),
    )
    if kind < 9:
        table = table.set_column(
            column, random.choice((name, name, "timestamp", "")), random.choice(odd)
        )
    elif kind == 9:
        table = random.choice((table.slice(0, 0), table.slice(0, 1), table.select([]), table[::-1]))
    elif kind == 10:
        wild = damage_tree(random, {"index_columns": ["x"], "columns": [{"name": "x"}], "c": 1})
        table = table.replace_schema_metadata({"pandas": json.dumps(wild, ensure_ascii=True)})
    else:
        field = pa.field(name, table.schema.field(column).type).with_metadata(
            {
                "ARROW:extension:name": random.choice(("arrow.py_extension_type", "pandas.period")),
                "ARROW:extension:metadata": pickle.dumps(Payload(marker)),
            }
        )
        table = table.cast(table.schema.set(column, field))
    found = io.BytesIO()
    pq.write_table(table, found)
    return found.getvalue()
