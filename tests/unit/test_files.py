"""Lines of JSON: damaged ones are known, long ones are bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from timerxl.files import read_json_lines


def test_damaged_long_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    long = b'{"x": "' + b"y" * 300 + b'"}'
    deep = b"[" * 90
    lines = [
        b'{"a": 1}',
        b"",
        b'{"a": ',
        b"[1]",
        b"7",
        long,
        deep,
        b"\xff\xfe",
        b'{"a": 2}',
        b'{"a"',
    ]
    path.write_bytes(b"\n".join(lines))
    found = list(read_json_lines(path, 10_000, 100))
    assert [number for number, _ in found] == [1, 3, 4, 5, 6, 7, 8, 9, 10]
    assert [(n, content) for n, content in found if content is not None] == [
        (1, {"a": 1}),
        (9, {"a": 2}),
    ]


def test_a_line_as_long_as_allowed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 12}\n{"a": 34}')
    assert [content for _, content in read_json_lines(path, 100, 10)] == [{"a": 12}, {"a": 34}]
    assert [content for _, content in read_json_lines(path, 100, 8)] == [None, None]


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 20)
    with pytest.raises(ValueError, match="it has 180 bytes, expected at most 100"):
        next(read_json_lines(path, 100, 100))
    with pytest.raises(ValueError, match="a line of more than 5 bytes"):
        next(read_json_lines(path, 1000, 5, refuse_long=True))
    assert path.stat().st_size == 180
