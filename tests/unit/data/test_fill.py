"""Filling forward against a naive walk over the rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from timerxl.data.series import fill_forward


def naive_fill(
    values: list[float], region: list[int], hour: list[int], longest: int
) -> list[float]:
    """Walk from each hole's first row to its end within the stretch; then decide."""
    answer = list(values)
    row = 0
    while row < len(values):
        if not np.isnan(values[row]):
            row += 1
            continue
        end = row
        while (
            end + 1 < len(values)
            and np.isnan(values[end + 1])
            and region[end + 1] == region[end]
            and hour[end + 1] == hour[end] + 1
        ):
            end += 1
        follows = row > 0 and region[row - 1] == region[row] and hour[row - 1] == hour[row] - 1
        if follows and end - row + 1 <= longest:
            for i in range(row, end + 1):
                answer[i] = values[row - 1]
        row = end + 1
    return answer


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(0, 4))
def test_fill_forward_equals_a_naive_walk(data: st.DataObject, longest: int) -> None:
    rows = data.draw(st.integers(1, 30))
    values = data.draw(
        st.lists(st.sampled_from([np.nan, np.nan, 1.0, 2.0, 3.0]), min_size=rows, max_size=rows)
    )
    region, hour = [0], [0]
    for jump in data.draw(
        st.lists(st.sampled_from("....gr"), min_size=rows - 1, max_size=rows - 1)
    ):
        region.append(region[-1] + (jump == "r"))
        hour.append(0 if jump == "r" else hour[-1] + (3 if jump == "g" else 1))
    times = np.datetime64("2020-01-01", "s") + np.array(hour) * np.timedelta64(3600, "s")
    column = np.array(values)
    filled, counts = fill_forward(
        np.stack([column, np.zeros(rows)], 1), np.array(region), times, longest + 0.5, 1.0
    )
    expected = naive_fill(values, region, hour, longest)
    np.testing.assert_array_equal(filled[:, 0], expected)
    assert counts.tolist() == [int(np.isnan(values).sum() - np.isnan(expected).sum()), 0]
    assert np.isnan(column).sum() == np.isnan(values).sum()  # the input is left alone
