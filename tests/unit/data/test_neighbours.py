"""Neighbours: nearest by distance or by rain, their rows, and what windows make of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.unit.data.test_windows import make_series
from timerxl.config import DataConfig, InputError, load_recipe
from timerxl.data.neighbours import (
    nearest_by_distance,
    nearest_by_rain,
    neighbour_rows,
    region_places,
)
from timerxl.data.preprocessing import Preprocessing, content_problem
from timerxl.data.windows import build_windows

CONTEXT = 20


def test_by_rain_the_most_correlated_comes_first() -> None:
    """Against corrcoef, pair by pair, over the times that both have."""
    rng = np.random.default_rng(5)
    regions, steps = 6, 300
    state = rng.normal(size=steps)
    index, times, labels = [], [], []
    for region in range(regions):
        kept = np.flatnonzero(rng.random(steps) < 0.8)
        index += [region] * len(kept)
        times += kept.tolist()
        noise = rng.normal(size=steps) * (0.3 + 0.5 * region)
        labels += (state + noise > 0.3)[kept].tolist() if region != 4 else [0] * len(kept)
    region, time, label = np.array(index), np.array(times), np.array(labels, float)
    stamps = np.datetime64("2020-01-01", "s") + time * np.timedelta64(6, "h")
    rows = np.flatnonzero(time < 200)
    label[time >= 200] = np.nan  # never looked at
    found = nearest_by_rain(region, stamps, label, rows, regions)
    for own in range(regions):
        alike = []
        for other in range(regions):
            of = [
                dict(
                    zip(
                        time[rows][region[rows] == one],
                        label[rows][region[rows] == one],
                        strict=True,
                    )
                )
                for one in (own, other)
            ]
            shared = sorted(set(of[0]) & set(of[1]))
            pair = np.array([[one[t] for t in shared] for one in of])
            constant = (pair.std(axis=1) == 0).any()
            alike.append(-np.inf if constant else np.corrcoef(pair)[0, 1])
        others = [one for one in np.argsort(-np.array(alike), kind="stable") if one != own]
        assert found[own].tolist() == others
    assert found[4].tolist() == [0, 1, 2, 3, 5]  # it never rained there: in their order


def test_by_distance_the_nearest_comes_first_across_the_date_line() -> None:
    def point(name: str, latitude: float, longitude: float) -> dict[str, object]:
        return {"name": name, "point": {"latitude": latitude, "longitude": longitude}, "cells": 1}

    box = {"north": 2.0, "south": -2.0, "west": 178.0, "east": -178.0}  # centred on 180
    prepared = {
        "regions": [
            {"name": "line", "box": box},
            point("east", 0.0, -175.0),
            point("west", 0.0, 174.0),
            point("far", 0.0, 0.0),
            point("twin", 0.0, 185.0),  # where east is
        ]
    }
    names = ["line", "east", "west", "far", "twin"]
    found = nearest_by_distance(prepared, names)
    assert [[names[one] for one in row] for row in found.tolist()] == [
        ["east", "twin", "west", "far"],
        ["twin", "line", "west", "far"],
        ["line", "east", "twin", "far"],
        ["west", "east", "twin", "line"],
        ["east", "line", "west", "far"],
    ]
    # At 60 degrees north a degree of longitude is half one of latitude.
    north = {"regions": [point("a", 60, 0), point("b", 60, 1.5), point("c", 61, 0)]}
    assert nearest_by_distance(north, ["a", "b", "c"])[0].tolist() == [1, 2]


@pytest.mark.parametrize(
    "prepared",
    [
        None,
        {},
        {"regions": [{"name": "a", "cells": None}, {"name": "b", "cells": None}]},
        {"regions": [{"name": "a", "point": {"latitude": 0.0, "longitude": 0.0}}]},
        {"regions": [{"name": n, "point": {"latitude": "0", "longitude": 0}} for n in "ab"]},
        {"regions": [{"name": n, "point": {"latitude": 91, "longitude": 0}} for n in "ab"]},
    ],
)
def test_without_a_place_for_each_region_there_is_no_distance(prepared: object) -> None:
    assert nearest_by_distance(prepared, ["a", "b"]) is None


def test_rows_of_neighbours_are_those_of_the_same_time() -> None:
    day = np.datetime64("2020-01-01", "s")
    stamps = day + np.array([0, 1, 2, 1, 2, 3, 2]) * np.timedelta64(1, "h")
    region = np.array([0, 0, 0, 1, 1, 1, -1])
    near = np.array([[1, 2], [0, 2], [1, 0]])
    found = neighbour_rows(region, stamps, near)
    assert found.tolist() == [[-1, -1], [3, -1], [4, -1], [1, -1], [2, -1], [-1, -1], [-1, -1]]
    assert region_places(["b", "x", "a"], ["a", "b"]).tolist() == [1, -1, 0]


def together(count: int | str) -> DataConfig:
    return DataConfig(static_features=True, regions_together=count)


def test_windows_choose_neighbours_say_and_keep_them(tmp_path: Path) -> None:
    series = make_series(regions=4)
    windows = build_windows(series, together(2), CONTEXT)
    rows = windows.issue_rows("train")
    expected = nearest_by_rain(series.region_index, series.timestamps, windows.label, rows, 4)
    np.testing.assert_array_equal(windows.neighbours, expected[:, :2])
    first = " with ".join(["R0", ", ".join(f"R{one}" for one in expected[0, :2])])
    assert any(f"each region sees its neighbours: {first}; R1 with" in n for n in windows.notes)
    content = windows.preprocessing()
    assert content["region_neighbours"]["R0"] == [f"R{one}" for one in expected[0, :2]]
    assert content_problem(content) is None
    # A later series, in which the rain would choose others, keeps those of training.
    saved = Preprocessing(tmp_path, content)
    label = np.roll(series.precipitation_mm, 7)
    other = dataclasses.replace(series, precipitation_mm=label)
    again = build_windows(other, together(2), CONTEXT, saved)
    np.testing.assert_array_equal(again.neighbours, windows.neighbours)
    assert again.preprocessing()["region_neighbours"] == content["region_neighbours"]


def test_series_json_s_places_are_taken_before_rain() -> None:
    places = [
        {"name": f"R{index}", "point": {"latitude": 0.0, "longitude": float(3**index)}}
        for index in range(4)
    ]
    source = {"path": "x.csv", "prepared": {"regions": places}}
    windows = build_windows(make_series(regions=4, source=source), together(1), CONTEXT)
    assert windows.neighbours.tolist() == [[1], [0], [1], [2]]


@pytest.mark.parametrize("count", [4, 5, 100])
def test_as_many_neighbours_as_regions_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=r"a region has 3 others.*data\.regions_together=all"):
        build_windows(make_series(regions=4), together(count), CONTEXT)


@pytest.mark.parametrize("value", ["0", "-1", "true", "two", "1.5"])
def test_other_values_of_the_setting_are_refused(value: str) -> None:
    with pytest.raises(InputError, match=r"data\.regions_together"):
        load_recipe("quickstart", [f"data.regions_together={value}"])
    assert load_recipe("quickstart", ["data.regions_together=2"]).data.regions_together == 2


@pytest.mark.parametrize(
    "near",
    [
        None,
        {"R0": ["R1"]},
        {"R0": ["R1"], "R1": ["R1"], "R2": ["R0"]},
        {"R0": ["R1"], "R1": ["R3"], "R2": ["R0"]},
        {"R0": ["R1"], "R1": ["R0", "R2"], "R2": ["R0"]},
        {"R0": ["R1"], "R1": "R0", "R2": ["R0"]},
        {"R0": ["R1"], "R1": [1], "R2": ["R0"]},
    ],
)
def test_saved_neighbours_that_are_none_are_refused(near: object) -> None:
    content = build_windows(make_series(), together(1), CONTEXT).preprocessing()
    assert content_problem(content) is None
    content["region_neighbours"] = near
    if near is None:
        del content["region_neighbours"]
    assert "region_neighbours" in str(content_problem(content))
