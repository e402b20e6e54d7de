"""The synthetic series against naive recomputation, a Monte Carlo run, and its promised skill."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from timerxl.config import InputError, SyntheticConfig
from timerxl.data.synthetic import (
    FEATURE_NAMES,
    REGIONS,
    SENSITIVITY,
    dry_probability,
    simulate_hidden,
    synthetic_series,
    synthetic_table,
)

CONFIGS = {
    "twelve_hourly": SyntheticConfig(),
    "hourly": SyntheticConfig(step_hours=1, start="2014-01-01", end="2018-12-31"),
}
SHORT = {"start": "2016-02-25", "end": "2016-03-20"}


@pytest.fixture(scope="module", params=list(CONFIGS))
def case(request: pytest.FixtureRequest) -> tuple[SyntheticConfig, pd.DataFrame]:
    config = CONFIGS[request.param]
    return config, synthetic_table(config)


def rained_before(table: pd.DataFrame, day_steps: int) -> np.ndarray:
    """Rain of at least 0.1 mm in (t - 24 h, t], out of tp alone; the first day counts as seen."""
    sums = table.groupby("region", sort=False)["tp"].rolling(day_steps, min_periods=1).sum()
    return (sums.to_numpy() * 1000 >= 0.1 - 1e-6).astype(int)


def time_split(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """First 70 % (less a day) and last 15 % of the time stamps, for all regions alike."""
    stamps = np.sort(table["timestamp"].unique())
    train_end = stamps[int(0.70 * len(stamps))] - np.timedelta64(24, "h")
    train = table["timestamp"] <= train_end
    test = table["timestamp"] >= stamps[int(0.85 * len(stamps))]
    return train.to_numpy(), test.to_numpy()


def test_rows_columns_and_time_stamps() -> None:
    table = synthetic_table(SyntheticConfig())
    assert len(FEATURE_NAMES) == 27
    assert "tp" in FEATURE_NAMES
    assert list(table.columns) == [
        "timestamp",
        "region",
        *FEATURE_NAMES,
        "rain_24h",
        "true_probability",
    ]
    assert list(table["region"].unique()) == list(REGIONS)
    expected = pd.date_range("2014-01-01T06", "2024-12-30T18", freq="12h")
    assert len(expected) == 8034
    for _, group in table.groupby("region", sort=False):
        assert np.array_equal(group["timestamp"].to_numpy(), expected.to_numpy())
    assert np.isfinite(table[FEATURE_NAMES].to_numpy()).all()


@pytest.mark.parametrize("step", [1, 3, 6, 8, 12, 24])
def test_every_step_ends_a_day_before_the_span(step: int) -> None:
    table = synthetic_table(SyntheticConfig(step_hours=step, **SHORT))
    stamps = table.loc[table["region"] == "selva", "timestamp"]
    offset = pd.Timedelta(6 if step == 12 else 0, "h")
    assert stamps.iloc[0] == pd.Timestamp(SHORT["start"]) + offset
    last_of_span = pd.Timestamp(SHORT["end"]) + pd.Timedelta(24 - step, "h")
    assert stamps.iloc[-1] == last_of_span + offset - pd.Timedelta(24, "h")
    assert (stamps.diff().dropna() == pd.Timedelta(step, "h")).all()


def test_units_and_physical_ranges(case: tuple[SyntheticConfig, pd.DataFrame]) -> None:
    _, table = case
    tp_mm = table["tp"].to_numpy() * 1000
    wet = tp_mm > 0
    assert tp_mm[wet].min() >= 0.1 - 1e-9
    assert (tp_mm[~wet] == 0).all()
    assert np.allclose(tp_mm * 100, np.round(tp_mm * 100), atol=1e-6)
    assert tp_mm.max() < 400
    assert (table["d2m"] < table["t2m"]).all()
    assert table["t2m"].between(255, 320).all()
    assert table["msl"].between(100000, 102600).all()
    assert (table["sp"] < table["msl"]).all()
    assert (table["cape"] >= 0).all()
    assert table["tcwv"].between(3, 90).all()
    assert table["relative_humidity"].between(0, 100).all()
    mountain = table.loc[table["region"] == "sierra_sur", "sp"].mean()
    assert 62000 < mountain < 70000  # standard atmosphere at 3,500 m: 658 hPa


def test_derived_features_look_only_backwards(case: tuple[SyntheticConfig, pd.DataFrame]) -> None:
    config, table = case
    day = 24 // config.step_hours
    one = table[table["region"] == "sierra_norte"].reset_index(drop=True)
    for row in (3 * day, 1000, len(one) - 1):
        last_day, last_three = one[row - day + 1 : row + 1], one[row - 3 * day + 1 : row + 1]
        now = one.loc[row]
        assert now["tp_sum_24h"] == pytest.approx(last_day["tp"].sum(), abs=1e-9)
        assert now["tp_sum_72h"] == pytest.approx(last_three["tp"].sum(), abs=1e-9)
        assert now["tp_lag_24h"] == one.loc[row - day, "tp"]
        assert now["tcwv_lag_24h"] == one.loc[row - day, "tcwv"]
        assert now["t2m_lag_24h"] == one.loc[row - day, "t2m"]
        assert now["tcwv_mean_72h"] == pytest.approx(last_three["tcwv"].mean())
        assert now["t2m_mean_72h"] == pytest.approx(last_three["t2m"].mean())
        assert now["msl_mean_72h"] == pytest.approx(last_three["msl"].mean())
        assert now["cape_mean_24h"] == pytest.approx(last_day["cape"].mean())
        assert now["msl_tendency_24h"] == pytest.approx(now["msl"] - one.loc[row - day, "msl"])
        assert now["wind_speed"] == pytest.approx((now["u10"] ** 2 + now["v10"] ** 2) ** 0.5)
        assert now["dewpoint_spread"] == pytest.approx(now["t2m"] - now["d2m"])
        hour = (now["timestamp"].hour - 5) % 24
        assert now["hour_cos"] == pytest.approx(np.cos(2 * np.pi * hour / 24))


def test_the_future_leaves_the_features_alone() -> None:
    """A longer span draws the same weather where the two overlap: no feature sees what follows."""
    short = synthetic_table(SyntheticConfig(**SHORT))
    longer = synthetic_table(SyntheticConfig(start=SHORT["start"], end="2016-04-30"))
    common = longer.merge(short[["timestamp", "region"]], on=["timestamp", "region"])
    pd.testing.assert_frame_equal(common[short.columns], short, rtol=1e-12)


def test_label_is_the_rain_of_the_next_day(case: tuple[SyntheticConfig, pd.DataFrame]) -> None:
    config, table = case
    day = 24 // config.step_hours
    for _, group in table.groupby("region", sort=False):
        tp = [round(value * 1e6) for value in group["tp"]]  # thousandths of a millimetre
        label = group["rain_24h"].tolist()
        for t in range(len(tp) - day):
            total = 0
            for k in range(1, day + 1):
                total += tp[t + k]
            assert label[t] == int(total >= 100), t


def test_last_labels_use_the_hidden_last_day() -> None:
    config = SyntheticConfig(step_hours=6, **SHORT)
    hidden = simulate_hidden(config)
    table = synthetic_table(config)
    assert hidden.timestamps[-1] - table["timestamp"].iloc[-1] == pd.Timedelta(24, "h")
    expected = (hidden.precipitation_mm[-4:].sum(axis=0) >= 0.1).astype(int)
    last = table.groupby("region", sort=False)["rain_24h"].last()
    assert last.tolist() == expected.tolist()


@pytest.mark.parametrize(("step", "horizon"), [(12, 24), (1, 24), (12, 48), (6, 6)])
def test_true_probability_agrees_with_simulation(step: int, horizon: int) -> None:
    """Naive forward runs from a fixed state: z by its own recursion, rain by its own draws."""
    config = SyntheticConfig(step_hours=step, **SHORT)
    hidden, table = simulate_hidden(config, horizon), synthetic_table(config, horizon)
    rng = np.random.default_rng(99)
    members, decay = 100_000, np.exp(-step / 48.0)
    for region, row in ((0, 3), (1, 17), (2, 30), (3, 21), (4, 8)):
        t = hidden.first_row + row
        z = np.full(members, hidden.state[t, region])
        dry = np.ones(members, dtype=bool)
        for k in range(1, horizon // step + 1):
            wet_share = 1 - np.exp(-np.exp(hidden.drive[t + k, region] + SENSITIVITY * z))
            dry &= rng.random(members) >= wet_share
            z = decay * z + np.sqrt(1 - decay**2) * rng.standard_normal(members)
        rows = table[table["region"] == REGIONS[region]]
        exact = rows["true_probability"].iloc[row]
        error = np.sqrt(max(exact * (1 - exact), 1e-6) / members)
        assert abs((1 - dry.mean()) - exact) < 4 * error, (region, exact, 1 - dry.mean())


def test_recursion_agrees_with_gauss_hermite() -> None:
    """Two steps by an independent quadrature of the one expectation that is left."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    drive = np.array([0.0, -1.0, 0.3])
    for z, decay in ((-3.0, 0.9), (0.2, 0.78), (2.5, 0.98)):
        after = decay * z + np.sqrt(1 - decay**2) * nodes
        second = np.exp(-np.exp(drive[2] + SENSITIVITY * after))
        expected = np.exp(-np.exp(drive[1] + SENSITIVITY * z)) * (weights @ second) / weights.sum()
        assert dry_probability(drive, np.array([z]), decay, 2)[0] == pytest.approx(
            expected, rel=1e-9
        )


def test_state_is_standard_normal_and_markov() -> None:
    state = simulate_hidden(SyntheticConfig()).state
    decay = np.exp(-12 / 48.0)
    # Standard errors allow for about len/4 independent values a region.
    assert np.abs(state.mean(axis=0)).max() < 0.12
    assert np.abs(state.std(axis=0) - 1).max() < 0.08
    innovations = (state[1:] - decay * state[:-1]) / np.sqrt(1 - decay**2)
    correlation = np.corrcoef(innovations[1:].T, innovations[:-1].T)
    assert np.abs(correlation[:5, 5:]).max() < 0.05  # none remembers its own or another's past
    between = correlation[:5, :5][np.triu_indices(5, 1)]
    assert np.abs(between - 0.35).max() < 0.05


def test_rain_shares_and_persistence(case: tuple[SyntheticConfig, pd.DataFrame]) -> None:
    config, table = case
    shares = table.groupby("region")["rain_24h"].mean()
    assert shares.between(0.3, 0.8).all(), shares
    assert 0.58 < table["rain_24h"].mean() < 0.67
    before = rained_before(table, 24 // config.step_hours)
    assert 0.25 < matthews_corrcoef(table["rain_24h"], before) < 0.45


def test_true_probability_is_calibrated(case: tuple[SyntheticConfig, pd.DataFrame]) -> None:
    """Labels a day apart share no rain, so each decile is held to a plain standard error."""
    _, table = case
    hour = table["timestamp"].dt.hour
    for start in sorted(hour.unique())[::12] if hour.nunique() > 2 else sorted(hour.unique()):
        daily = table[hour == start]
        decile = pd.qcut(daily["true_probability"], 10, labels=False)
        for _, group in daily.groupby(decile):
            p = group["true_probability"]
            error = np.sqrt((p * (1 - p)).sum()) / len(p)
            # 4: for 20 comparisons, and for regions whose innovations are correlated.
            assert abs(group["rain_24h"].mean() - p.mean()) < 4 * error


def test_skill_that_can_be_learnt(case: tuple[SyntheticConfig, pd.DataFrame]) -> None:
    config, table = case
    label, truth = table["rain_24h"].to_numpy(), table["true_probability"].to_numpy()
    assert 0.85 < roc_auc_score(label, truth) < 0.90
    for name in FEATURE_NAMES:
        assert 0.03 < roc_auc_score(label, table[name]) < 0.97, name

    train, test = time_split(table)
    before = rained_before(table, 24 // config.step_hours)
    months = table["timestamp"].dt.month
    past = pd.DataFrame(
        {"region": table["region"], "month": months, "before": before, "label": label}
    )
    keys = ["region", "month", "before"]
    counts = past[train].groupby(keys)["label"].agg(["sum", "count"]).reset_index()
    counts["p"] = (counts["sum"] + 1) / (counts["count"] + 2)
    climatology = past.merge(counts, on=keys, how="left")["p"].fillna(0.5).to_numpy()
    auc_climatology = roc_auc_score(label[test], climatology[test])
    auc_bayes = roc_auc_score(label[test], truth[test])
    assert auc_bayes - auc_climatology >= 0.06

    features = table[FEATURE_NAMES].copy()
    rain = ["tp", "tp_lag_24h", "tp_sum_24h", "tp_sum_72h"]
    features[rain] = np.log1p(features[rain] * 1000)
    regions = table["region"]
    lagged = [features.groupby(regions).shift(k) for k in range(5)]
    inputs = np.column_stack([*lagged, pd.get_dummies(regions)]).astype(np.float32)
    whole = np.isfinite(inputs).all(axis=1)
    rows = np.flatnonzero(train & whole)[:: max(1, 4 // config.step_hours)]  # hourly labels overlap
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    model.fit(inputs[rows], label[rows])
    auc_model = roc_auc_score(label[test], model.predict_proba(inputs[test])[:, 1])
    recovered = (auc_model - auc_climatology) / (auc_bayes - auc_climatology)
    assert 0.70 < recovered < 0.90, recovered


@pytest.mark.parametrize("step", [12, 3])
def test_same_seed_same_bits(step: int) -> None:
    first = synthetic_table(SyntheticConfig(step_hours=step, **SHORT))
    again = synthetic_table(SyntheticConfig(step_hours=step, **SHORT))
    other = synthetic_table(SyntheticConfig(step_hours=step, seed=1, **SHORT))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert not np.array_equal(first["tp"], other["tp"])
    assert not np.array_equal(first["oni"], other["oni"])


def test_series_mirrors_the_table() -> None:
    config = SyntheticConfig(seed=3, **SHORT)
    table, series = synthetic_table(config), synthetic_series(config)
    assert series.is_synthetic
    assert series.source["synthetic"] is True
    assert series.source["seed"] == 3
    assert series.source["rows"] == len(table)
    assert series.step_hours == 12
    assert series.precipitation_feature == "tp"
    assert series.feature_names == FEATURE_NAMES
    assert series.values.dtype == np.float32
    assert series.values.shape == (len(table), 27)
    assert [series.regions[i] for i in series.region_index] == table["region"].tolist()
    assert np.array_equal(series.timestamps, table["timestamp"].to_numpy())
    assert series.precipitation_mm is not None
    assert series.ready_label is not None
    assert np.allclose(series.precipitation_mm, table["tp"] * 1000, atol=1e-9)
    assert np.array_equal(series.precipitation_mm, np.round(series.precipitation_mm, 2))
    assert np.allclose(series.values[:, 0], series.precipitation_mm, rtol=1e-6)
    assert np.array_equal(series.ready_label, table["rain_24h"])
    assert np.array_equal(series.true_probability, table["true_probability"])
    assert "true_probability" not in series.feature_names
    assert "synthetic" in series.notes[0]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"step_hours": 5}, "step_hours is 5"),
        ({"step_hours": 48}, "step_hours is 48"),
        ({"start": "yesterday"}, "start is 'yesterday'"),
        ({"end": ""}, "end is ''"),
        ({"start": "2016-03-20"}, "at least two days"),
        ({"start": "2016-04-01"}, "at least two days"),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, object], key: str) -> None:
    with pytest.raises(InputError, match=key):
        synthetic_table(SyntheticConfig(**{**SHORT, **change}))  # type: ignore[arg-type]
