"""Windows gathered on the device are those of the DataLoader, in its order."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from scipy.stats import chi2

from timerxl.config import InputError, RunConfig, load_recipe
from timerxl.data.readers import load_series
from timerxl.data.windows import WeatherWindows, build_windows
from timerxl.model import TimerXLForClassification
from timerxl.training import dataloader
from timerxl.training.assembly import model_config
from timerxl.training.dataloader import (
    BatchPlan,
    Shuffle,
    iter_global_batches,
    loader,
    place_data,
)
from timerxl.training.evaluator import forecast
from timerxl.training.precision import SettingChoice

CONFIG = load_recipe(
    "quickstart",
    (
        "data.labels=last data.regions_together=none loss.next_patch_weight=0 "
        "data.synthetic.start=2024-06-01 data.train_fraction=0.35 data.validation_fraction=0.35 "
        "data.static_features=true model.patch_length=8 model.context_length=16 "
        "model.hidden_size=16 model.intermediate_size=32 model.num_hidden_layers=1 "
        "train.batch_size=7 train.accumulation_steps=2"
    ).split(),
)


@pytest.fixture(scope="module")
def windows() -> WeatherWindows:
    return build_windows(load_series(CONFIG.data), CONFIG.data, CONFIG.model.context_length)


@pytest.fixture(scope="module")
def resident(windows: WeatherWindows) -> WeatherWindows:
    return dataclasses.replace(windows, on_device=windows.transform.to(torch.device("cpu")))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_same_batches_in_the_same_order(
    windows: WeatherWindows, resident: WeatherWindows
) -> None:
    batches = [[5, 0, 3], [1], list(range(60, 20, -1))]
    loaded = list(loader(windows, "validation", batches, 0, False))
    gathered = list(loader(resident, "validation", batches, 4, True))  # no worker, no pinning
    assert [len(batch["labels"]) for batch in gathered] == [3, 1, 40]
    assert all(map(equal, gathered, loaded))
    assert {"past_values", "labels", "static_real_features"} < set(gathered[0])


def test_the_same_steps(windows: WeatherWindows, resident: WeatherWindows) -> None:
    plan = BatchPlan(len(windows.issue_rows("train")), 7, 2, 1, 0, seed=3)
    numbers = range(plan.steps_per_epoch - 3, plan.steps_per_epoch + 2)  # over an epoch's end
    taken = 0
    for one, other in zip(
        iter_global_batches(CONFIG, windows, plan, 0.3, numbers, False),
        iter_global_batches(CONFIG, resident, plan, 0.3, numbers, False),
        strict=True,
    ):
        (group, loaded, weight, samples), (same, gathered, same_weight, same_samples) = one, other
        assert (group, weight) == (same, same_weight)
        np.testing.assert_array_equal(samples, same_samples)
        for _ in group:
            batch = next(gathered)
            assert equal(batch, next(loaded))
            batch["labels"][:] = -100  # as a step marks what does not count: of its own copy
            taken += 1
    assert taken == 2 * len(numbers)
    assert (resident.transform.label >= -1).all()


def test_the_same_forecasts(
    windows: WeatherWindows, resident: WeatherWindows, accelerator: Accelerator
) -> None:
    settings = model_config(
        CONFIG, len(windows.series.feature_names), len(windows.static_feature_names), 0.5
    )
    model = TimerXLForClassification(settings)
    positions = np.arange(3, 60, 2)
    found = [forecast(accelerator, model, w, "test", positions, 8) for w in (windows, resident)]
    np.testing.assert_array_equal(found[0].logits, found[1].logits)
    np.testing.assert_array_equal(found[0].label, found[1].label)


@pytest.mark.parametrize(
    ("requested", "planned", "expected", "said"),
    [
        ("auto", None, False, "stays in the host's memory: no GPU"),
        ("true", None, True, "lies on cpu"),
        ("false", None, False, "train.data_on_device=False"),
        ("auto", SettingChoice("true", "it fits"), True, "it fits"),
        ("auto", SettingChoice("false", "it does not fit"), False, "it does not fit"),
    ],
)
def test_where_it_lies_is_said(
    windows: WeatherWindows,
    accelerator: Accelerator,
    requested: str,
    planned: SettingChoice | None,
    expected: bool,
    said: str,
) -> None:
    config = load_recipe("quickstart", [f"train.data_on_device={requested}", "train.num_workers=3"])
    own, lines = dataclasses.replace(windows), []
    place_data(config, own, accelerator, planned, lines.append)
    assert (own.on_device is not None) == expected
    assert said in lines[0]
    size = 4 * windows.values.numel() + 4 * windows.static.numel() + 8 * len(windows.label)
    assert f"({size / 2**30:.3g} GiB)" in lines[0]
    # Workers that have nothing to do are named.
    assert [line for line in lines if "num_workers=3 is not followed" in line] == lines[1:]
    assert len(lines) == 1 + expected


def test_a_whole_run_is_the_same(train_tiny: Any, tmp_path: Any) -> None:
    runs = [
        train_tiny(tmp_path / place, "train.max_steps=6", f"train.data_on_device={place}")
        for place in ("false", "true")
    ]
    losses, same = ([event["loss"] for event in run.events("train")] for run in runs)
    assert losses == same
    assert len(losses) == 6
    assert runs[0].returned["test"] == runs[1].returned["test"]


@pytest.mark.parametrize("value", ["gpu", "2", "null"])
def test_other_words_are_refused(value: str) -> None:
    with pytest.raises(InputError, match=r"train\.data_on_device"):
        load_recipe("quickstart", [f"train.data_on_device={value}"])


def test_the_setting_is_read_as_given() -> None:
    def read(*overrides: str) -> RunConfig:
        return load_recipe("quickstart", list(overrides))

    assert read().train.data_on_device == "auto"
    assert read("train.data_on_device=true").train.data_on_device is True
    assert read("train.data_on_device=False").train.data_on_device is False


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 65, 1_000, 4_097, 50_000])
def test_an_order_computed_on_demand_has_every_sample_once(count: int) -> None:
    order = Shuffle(count, np.random.default_rng(count))
    whole = order[:]
    assert len(order) == count
    assert sorted(whole.tolist()) == list(range(count))
    parts = [order[start : start + 7] for start in range(0, count, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    again = Shuffle(count, np.random.default_rng(count))[:]
    np.testing.assert_array_equal(again, whole)
    if count > 10:
        other = Shuffle(count, np.random.default_rng(count + 1))[:]
        assert (other == whole).mean() < 0.1


def test_an_order_computed_on_demand_is_uniform() -> None:
    count, bins, orders = 5_000, 10, 40
    table, steps = np.zeros((bins, bins)), []
    for seed in range(orders):
        whole = Shuffle(count, np.random.default_rng(seed))[:]
        np.add.at(table, (np.arange(count) * bins // count, whole * bins // count), 1)
        steps.append(np.corrcoef(whole[:-1], whole[1:])[0, 1])
    # Of independent uniform orders: 81 degrees of freedom, and correlations of deviation 0.014.
    expected = count * orders / bins**2
    statistic = ((table - expected) ** 2 / expected).sum()
    assert chi2.sf(statistic, (bins - 1) ** 2) > 1e-3
    assert abs(np.mean(steps)) < 4 / np.sqrt(count * orders)
    assert 0.7 < np.std(steps) * np.sqrt(count) < 1.3


def test_very_many_samples_are_taken_once_in_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = BatchPlan(1_003, 4, 2, 2, 0, 5)
    drawn = plan.order(0)
    monkeypatch.setattr(dataloader, "MOST_SHUFFLED", 1_002)
    order = plan.order(0)
    assert isinstance(order, Shuffle)
    steps = [samples for samples, _ in plan.groups(order, range(plan.steps_per_epoch))]
    assert sorted(np.concatenate(steps).tolist()) == sorted(drawn[:].tolist())
    assert [len(of) for of in steps] == [16] * 62 + [11]
    assert (plan.order(1)[:] != order[:]).mean() > 0.9
