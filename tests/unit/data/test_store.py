"""A store gives the very windows that memory gives, is made once, and is made anew when it must."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from timerxl.config import InputError, RunConfig, load_recipe
from timerxl.data import series as series_module
from timerxl.data import store as store_module
from timerxl.data.preprocessing import Preprocessing, fit_scaling
from timerxl.data.readers import load_series, read_table, sha256_of
from timerxl.data.series import Arrays
from timerxl.data.store import open_saved_windows, open_windows
from timerxl.data.windows import WeatherWindows
from timerxl.training.dataloader import BatchPlan, iter_global_batches

HOURS, REGIONS = 400, 4
ROOT = Path(__file__).parents[3]


def write_series(folder: Path, **changes: Any) -> Path:
    """A series.parquet of hourly regions of unequal length with holes, gaps and a late start."""
    rng = np.random.default_rng(3)
    frames = []
    for number in range(REGIONS):
        hours = HOURS - 30 * number
        times = pd.date_range("2020-01-01", periods=hours, freq="h", unit="s")
        rain = np.where(rng.random(hours) < 0.2, np.round(rng.exponential(1.0, hours), 2), 0.0)
        columns = {"tp": rain - 0.001 * (rng.random(hours) < 0.01)}
        columns |= {name: rng.normal(280, 9, hours) for name in ("t2m", "sp", "u10")}
        frame = pd.DataFrame({name: of.astype(np.float32) for name, of in columns.items()})
        frame.insert(0, "timestamp", times)
        frame.insert(0, "region", f"place {number}")
        frame.loc[rng.choice(hours, 6), "t2m"] = np.nan  # short holes, filled
        if number == 1:
            frame.loc[200:212, "sp"] = np.nan  # a long one, left
            frame = frame.drop(index=range(300, 309))  # a gap in time
        if number == 2:
            frame.loc[50, "tp"] = np.nan
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    if changes.get("interleaved"):
        table = table.sort_values("timestamp", kind="stable")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "series.parquet"
    table.to_parquet(path, index=False, row_group_size=changes.get("row_group_size", 150))
    describe(path)
    return path


def describe(path: Path) -> None:
    rain = {"column": "tp", "unit": "mm", "is_sparse": False, "hours_present_per_day": 24.0}
    content = {"format": 1, "sha256": sha256_of(path), "is_synthetic": False, "precipitation": rain}
    path.with_name("series.json").write_text(json.dumps(content))


def recipe(path: Path | None, cache: Path | None, *overrides: str) -> RunConfig:
    return load_recipe(
        "quickstart",
        [
            f"data.path={'null' if path is None else path}",
            f"data.cache_dir={'null' if cache is None else cache}",
            *([] if path is None else ["data.precipitation_column=tp"]),
            *("data.label_horizon_hours=6", "model.context_length=24", "model.patch_length=8"),
            "data.regions_together=none",
            *overrides,
        ],
    )


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, whose borders fall anywhere."""
    for function in (series_module.blocks, series_module.WeatherSeries.parts):
        monkeypatch.setattr(function, "__defaults__", (37,))


def assert_equal(found: WeatherWindows, expected: WeatherWindows) -> None:
    """Bit for bit, batches included."""
    for name in series_module.ROW_ARRAYS:
        np.testing.assert_array_equal(getattr(found.series, name), getattr(expected.series, name))
    for name in ("label", "rained_before", "neighbours"):
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_array_equal(one, other, strict=other is not None)
    assert list(found.rows) == list(expected.rows)
    assert found.preprocessing() == expected.preprocessing()
    assert found.notes == expected.notes
    assert found.context_days == expected.context_days
    assert found.class_shares() == expected.class_shares()
    assert found.dead_features == expected.dead_features
    assert found.fingerprint == expected.fingerprint
    for split in found.rows:
        np.testing.assert_array_equal(found.rows[split], expected.rows[split], strict=True)
        positions = np.arange(0, len(found.rows[split]), 7)
        batches = [w.batch(split, positions) for w in (found, expected)]
        batches += [w.splits[split][positions.tolist()] for w in (found, expected)]
        for batch in batches[:-1]:
            assert batch.keys() == batches[-1].keys()
            for key, tensor in batches[-1].items():
                assert batch[key].dtype == tensor.dtype
                assert batch[key].numpy().tobytes() == tensor.numpy().tobytes()


CASES: dict[str, list[str]] = {
    "as it is": ["data.labels=last", "data.static_features=false"],
    "static features, holdout": ["data.labels=last", "data.holdout_fraction=0.2"],
    "strides": ["data.window_stride_hours=6", "data.train_stride_hours=2"],
    "a share of the labels": ["data.label_fraction=0.4"],
    "one column": ["data.features=[tp]", "data.labels=last"],
    "cut by rows": ["data.split=rows", "data.labels=last", "loss.next_patch_weight=0"],
    "all regions together": ["data.regions_together=all"],
    "two neighbours": ["data.regions_together=2"],
    "next patch": [
        *("train.task=next_patch", "loss.next_patch_weight=0"),
        "train.metric_for_best_model=loss",
    ],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["series.parquet", "synthetic"])
def test_the_store_gives_the_windows_of_memory(
    case: str, kind: str, tmp_path: Path, small_blocks: None
) -> None:
    path = write_series(tmp_path) if kind == "series.parquet" else None
    given = [*CASES[case]]
    if path is None:
        given = [one for one in given if one != "data.features=[tp]"]
        given += ["data.synthetic.end=2014-06-01", "data.label_horizon_hours=24"]
    expected, audit = open_windows(recipe(path, None, *given), pytest.fail)
    config, said = recipe(path, tmp_path / "cache", *given), []
    first, audit_of_first = open_windows(config, said.append)
    assert len(said) == 1
    assert "kept as" in said[0]
    again, audit_of_again = open_windows(config, pytest.fail)
    for found in (first, again):
        assert_equal(found, expected)
        assert (
            found.values.data_ptr() == found.transform.values.data_ptr()
            or "grid" in str(type(found.transform)).lower()
        )
    assert audit == audit_of_first == audit_of_again
    # An epoch of training, as two processes take it.
    for rank in (0, 1):
        orders = []
        for windows in (expected, again):
            state = type("State", (), {"num_processes": 2, "process_index": rank})()
            plan = BatchPlan.of(config, windows, state)  # type: ignore[arg-type]
            steps = iter_global_batches(config, windows, plan, 0.3, range(0, 3), pin=False)
            orders.append(
                [
                    (samples.tolist(), weight, [next(batches) for _ in group])
                    for group, batches, weight, samples in steps
                ]
            )
        for one, other in zip(*orders, strict=True):
            assert one[:2] == other[:2]
            for mine, its in zip(one[2], other[2], strict=True):
                assert mine.keys() == its.keys()
                for key in mine:
                    assert mine[key].numpy().tobytes() == its[key].numpy().tobytes()


def test_a_table_is_read_by_region_as_it_is_as_a_whole(tmp_path: Path) -> None:
    config = recipe(write_series(tmp_path), None).data
    whole = read_table(config)
    (tmp_path / "arrays").mkdir()
    by_region = load_series(config, Arrays(tmp_path / "arrays"))
    assert isinstance(by_region.values.base, np.memmap)  # it was read that way
    for name in series_module.ROW_ARRAYS:
        one, other = getattr(by_region, name), getattr(whole, name)
        assert (one is None) == (other is None)
        if other is not None:
            assert one.tobytes() == other.tobytes()
    assert by_region.notes == whole.notes
    assert any("just below zero" in note for note in whole.notes)
    assert any("filled forward" in note for note in whole.notes)
    assert by_region.source == whole.source
    assert by_region.regions == whole.regions == [f"place {n}" for n in range(REGIONS)]


@pytest.mark.parametrize("case", ["interleaved", "one row", "another step", "text in one region"])
def test_what_can_t_be_read_by_region_is_read_as_a_whole(case: str, tmp_path: Path) -> None:
    path = write_series(tmp_path, interleaved=case == "interleaved")
    table = pd.read_parquet(path)
    if case == "one row":
        table = pd.concat([table, table[:1].assign(region="short")])
    if case == "another step":
        table = table[(table["region"] != "place 3") | (table["timestamp"].dt.hour % 2 == 0)]
    table.to_parquet(path, index=False)
    describe(path)
    config = recipe(path, None).data
    (tmp_path / "arrays").mkdir()

    def read(arrays: Arrays | None) -> Any:
        try:
            return load_series(config, arrays)
        except InputError as error:
            return str(error)

    whole, found = read(None), read(Arrays(tmp_path / "arrays"))
    if isinstance(whole, str):
        assert "regions differ in their step" in whole
        assert found == whole
    else:
        assert found.values.tobytes() == whole.values.tobytes()
        assert found.notes == whole.notes


def test_a_long_word_in_every_row_is_refused_before_it_is_written_out(tmp_path: Path) -> None:
    path = write_series(tmp_path)
    table = pa.Table.from_pandas(pd.read_parquet(path), preserve_index=False)
    word = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(len(table), dtype=np.int32)), pa.array(["x" * 2**30])
    )
    pq.write_table(table.append_column("word", word), path, row_group_size=10**6)
    describe(path)
    (tmp_path / "arrays").mkdir()
    with pytest.raises(InputError, match=r"the text of .* \(row group 0\)"):
        load_series(recipe(path, None).data, Arrays(tmp_path / "arrays"))


def test_a_column_without_a_value_is_refused_by_region_too(tmp_path: Path) -> None:
    path = write_series(tmp_path)
    table = pd.read_parquet(path)
    for column, gone in (("sp", table["region"] == "place 0"), ("sp", table["region"] != "")):
        table.loc[gone, column] = np.nan
        table.to_parquet(path, index=False)
        describe(path)
        config = recipe(path, None, "data.label_horizon_hours=6").data
        (tmp_path / "arrays").mkdir(exist_ok=True)
        if gone.all():
            with pytest.raises(InputError, match="column sp is missing in every row"):
                load_series(config, Arrays(tmp_path / "arrays"))
        else:  # in one region alone it may be
            assert np.isnan(load_series(config, Arrays(tmp_path / "arrays")).values).any()


@pytest.mark.parametrize("columns", [2, 3, 7, 16])
def test_scaling_is_numpy_s_to_the_bit_whatever_the_blocks(
    columns: int, small_blocks: None
) -> None:
    rng = np.random.default_rng(columns)
    values = rng.normal(280, 30, (1_000, columns)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    config = recipe(None, None, "data.synthetic.end=2014-03-01", "data.label_horizon_hours=24").data
    series = load_series(config)
    count = len(values)
    series = replace(
        series,
        feature_names=[f"f{i}" for i in range(columns)],
        regions=["a"],
        values=values,
        region_index=np.zeros(count, dtype=np.int64),
        timestamps=np.arange(count).astype("datetime64[h]").astype("datetime64[s]"),
        precipitation_mm=np.zeros(count),
        ready_label=None,
        true_probability=None,
        precipitation_feature=None,
    )
    rows = np.flatnonzero(rng.random(count) < 0.7)
    scaling, _ = fit_scaling(series, rows, log1p_precipitation=False)
    doubles = values[rows].astype(np.float64)
    assert scaling["mean"] == np.nanmean(doubles, axis=0).tolist()
    assert scaling["std"] == np.nanstd(doubles, axis=0).tolist()


def stores(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_the_key_follows_content_settings_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, path = tmp_path / "cache", write_series(tmp_path / "a")
    open_windows(recipe(path, cache), lambda sentence: None)
    copied = Path(shutil.copytree(path.parent, tmp_path / "b")) / path.name
    windows, _ = open_windows(recipe(copied, cache), pytest.fail)  # the same table elsewhere
    assert windows.series.source["path"] == str(copied)
    assert windows.definition["data"]["path"] == str(copied)
    assert "cache_dir" not in windows.definition["data"]
    for count, override in enumerate(
        ("data.rain_threshold_mm=1", "model.context_length=32", "data.labels=last"), 2
    ):
        open_windows(recipe(path, cache, override), lambda sentence: None)
        assert len(stores(cache)) == count
    table = pd.read_parquet(path)
    table.loc[5, "t2m"] += 1
    table.to_parquet(path, index=False)
    describe(path)
    found, _ = open_windows(recipe(path, cache), lambda sentence: None)
    assert found.series.values[5, 1] == table.loc[5, "t2m"]
    assert len(stores(cache)) == 5
    monkeypatch.setattr(store_module, "_code", lambda: "another")
    open_windows(recipe(path, cache), lambda sentence: None)
    assert len(stores(cache)) == 6


def test_a_saved_model_s_windows_come_from_a_store_too(tmp_path: Path) -> None:
    cache, path = tmp_path / "cache", write_series(tmp_path)
    windows, _ = open_windows(recipe(path, None, "data.labels=last"), pytest.fail)
    content = json.loads(json.dumps(windows.preprocessing()))
    content["data"]["cache_dir"] = str(tmp_path / "elsewhere")  # in a stranger's file
    saved = Preprocessing(tmp_path, content)
    config = recipe(path, None)
    config.data = saved.data_config(str(path))
    assert config.data.cache_dir == "auto"
    config.data.cache_dir = None
    expected, _ = open_windows(config, pytest.fail, saved)
    config.data.cache_dir = str(cache)
    for _ in range(2):
        found = open_saved_windows(config.data, saved, lambda sentence: None)
        assert_equal(found, expected)
    assert len(stores(cache)) == 1
    assert found.tiling is None


def test_auto_keeps_large_tables_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    config = recipe(write_series(tmp_path), None)
    config.data.cache_dir = "auto"
    open_windows(config, pytest.fail)
    assert not (tmp_path / "home").exists()
    monkeypatch.setattr(store_module, "LEAST_AUTO_BYTES", 1)
    open_windows(config, lambda sentence: None)
    assert len(stores(tmp_path / "home" / "timerxl")) == 1


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 8)


def spoil(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 20)
        file.write(b"\xff" * 4)


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "cut": ("scaled.npy", cut, "bytes of"),
    "changed": ("label.npy", spoil, "has changed"),
    "gone": ("rows.train.npy", Path.unlink, "can't be read"),
    "its description cut": ("meta.json", cut, "meta.json has changed"),
    "its description gone": ("meta.json", Path.unlink, "can't be read"),
    "its description no text": ("meta.json", lambda path: path.write_bytes(b"\xff"), "can't be"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_store_is_made_anew_and_said(case: str, tmp_path: Path) -> None:
    config = recipe(write_series(tmp_path), tmp_path / "cache")
    expected, _ = open_windows(config, lambda sentence: None)
    (store,) = stores(tmp_path / "cache")
    name, damage, why = DAMAGE[case]
    values = expected.values.numpy().tobytes()
    damage(store / name)
    said: list[str] = []
    found, _ = open_windows(config, said.append)
    assert ["is damaged" in one for one in said] == [True, False]
    assert why in said[0]
    assert found.values.numpy().tobytes() == values
    open_windows(config, pytest.fail)


def test_an_array_may_be_written_to_and_the_store_stays(tmp_path: Path) -> None:
    config = recipe(write_series(tmp_path), tmp_path / "cache")
    windows, _ = open_windows(config, lambda sentence: None)
    before = windows.values[0, 0].item()
    windows.values[0, 0] = 1e9
    again, _ = open_windows(config, pytest.fail)
    assert again.values[0, 0].item() == before


def test_windows_travel_to_workers_by_their_place(tmp_path: Path) -> None:
    config = recipe(write_series(tmp_path), tmp_path / "cache")
    windows, _ = open_windows(config, lambda sentence: None)
    sent = pickle.dumps(windows.transform)
    assert len(sent) < 1_000
    rows = torch.from_numpy(windows.rows["test"][:5])
    found, expected = pickle.loads(sent).windows(rows), windows.transform.windows(rows)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


BUILDER = """
import sys, time
from pathlib import Path
from tests.unit.data.test_store import recipe, wait_for
from timerxl.data import store
make, mark = store._make, sys.argv[3]
def held(*given):
    found = make(*given)
    Path(mark + ".made").touch()
    wait_for(Path(mark + ".go"))
    return found
def log(sentence):
    if "waiting for it" in sentence:
        Path(mark + ".waits").touch()
store._make = held
windows, _ = store.open_windows(recipe(Path(sys.argv[1]), Path(sys.argv[2])), log)
print(windows.fingerprint)
"""


def start(path: Path, cache: Path, mark: Path) -> subprocess.Popen[str]:
    """A process that makes the store, but for its last steps, which wait for ``mark``.go."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BUILDER, str(path), str(cache), str(mark)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)


def test_of_two_builders_one_builds(tmp_path: Path) -> None:
    path, cache = write_series(tmp_path), tmp_path / "cache"
    first = start(path, cache, tmp_path / "one")
    wait_for(tmp_path / "one.made")
    second = start(path, cache, tmp_path / "two")
    wait_for(tmp_path / "two.waits")
    (tmp_path / "one.go").touch()
    outputs = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert len(outputs[0]) == 65
    assert outputs[0] == outputs[1]
    assert not (tmp_path / "two.made").exists()
    assert list(cache.glob("*.building")) == []


def test_a_killed_builder_leaves_nothing_that_counts(tmp_path: Path) -> None:
    path, cache = write_series(tmp_path), tmp_path / "cache"
    killed = start(path, cache, tmp_path / "one")
    wait_for(tmp_path / "one.made")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(list(cache.glob("*.building"))) == 1
    assert [one for one in stores(cache) if one.suffix != ".building"] == []
    said: list[str] = []
    windows, _ = open_windows(recipe(path, cache), said.append)
    assert ["kept as" in one for one in said] == [True]
    assert list(cache.glob("*.building")) == []
    expected, _ = open_windows(recipe(path, None), pytest.fail)
    assert_equal(windows, expected)


def test_the_lock_is_let_go(tmp_path: Path) -> None:
    path, cache = write_series(tmp_path), tmp_path / "cache"
    windows, _ = open_windows(recipe(path, cache), lambda sentence: None)
    (lock,) = cache.glob("*.lock")
    with filelock.FileLock(lock).acquire(timeout=0):  # the windows live on
        assert windows.rows


def test_a_missing_file_of_another_feature_is_named(tmp_path: Path) -> None:
    config = recipe(write_series(tmp_path), tmp_path / "cache", "data.oni_path=nowhere.txt")
    with pytest.raises(InputError, match=r"nowhere\.txt"):
        open_windows(config, pytest.fail)


def test_a_builder_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = write_series(tmp_path), tmp_path / "cache"
    with pytest.raises(InputError, match="needs 4096 rows in a row"):
        open_windows(recipe(path, cache, "model.context_length=4096"), pytest.fail)
    assert stores(cache) == []

    def stopped(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "_write", stopped)
    with pytest.raises(KeyboardInterrupt):
        open_windows(recipe(path, cache), pytest.fail)
    assert stores(cache) == []


FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.unit.data.test_store import recipe
from timerxl.data.store import open_saved_windows, open_windows
config = recipe(Path(sys.argv[1]), Path(sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # no file can grow beyond it
open_windows(config, print)
"""


def test_a_full_disk_is_an_error_where_the_folder_was_named(tmp_path: Path) -> None:
    path, cache = write_series(tmp_path), tmp_path / "cache"
    command = [sys.executable, "-c", FULL_DISK, str(path), str(cache)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "InputError: data.cache_dir: no store can be kept in" in done.stderr
    assert "File too large" in done.stderr
    assert "data.cache_dir=null" in done.stderr
    assert stores(cache) == []


def test_a_full_disk_is_said_where_it_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(store_module, "LEAST_AUTO_BYTES", 1)
    monkeypatch.setattr(os, "posix_fallocate", full)
    config, said = recipe(write_series(tmp_path), None), []
    expected, _ = open_windows(config, pytest.fail)
    config.data.cache_dir = "auto"
    found, _ = open_windows(config, said.append)
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert "in its own memory" in said[0]
    assert_equal(found, expected)
    assert stores(tmp_path / "timerxl") == []


def test_a_folder_that_can_t_be_written(tmp_path: Path) -> None:
    path = write_series(tmp_path)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"no store can be kept in .*file"):
        open_windows(recipe(path, tmp_path / "file"), pytest.fail)


def test_a_store_is_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(write_series(tmp_path), tmp_path / "cache")
    expected, _ = open_windows(config, lambda sentence: None)

    def refuse(*given: Any, **options: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(store_module, "write_json", refuse)
    found, _ = open_windows(config, pytest.fail)
    assert_equal(found, expected)
    other = recipe(tmp_path / "series.parquet", tmp_path / "cache", "data.rain_threshold_mm=2")
    with pytest.raises(InputError, match="Read-only file system"):
        open_windows(other, pytest.fail)
