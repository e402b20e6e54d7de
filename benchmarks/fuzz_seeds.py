"""The valid inputs that are damaged: small enough for seconds, all SYNTHETIC."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

TRAIN = (
    "data.path={data} data.train_fraction=0.5 data.validation_fraction=0.25 model.patch_length=8 "
    "model.context_length=16 model.hidden_size=16 model.intermediate_size=32 "
    "model.num_hidden_layers=1 model.num_attention_heads=2 model.pooling=mean "
    "model.variable_embedding=false data.regions_together=none train.batch_size=16 "
    "train.max_steps=4 train.log_every_steps=1 train.checkpoint_every_steps=2 train.trackers=[] "
    "eval.fitted_baselines=false "
    "eval.num_resamples=0 eval.max_windows=64 eval.every_steps=2 eval.check_windows=16"
)


@dataclass(frozen=True)
class Seeds:
    """Where the valid inputs lie."""

    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name


def train_arguments(data: Path, output: Path, *more: str) -> list[str]:
    """The command line of a training run of four steps."""
    given = TRAIN.format(data=data).split()
    return ["--config", "quickstart", *given, *more, f"output_dir={output}"]


def make_tables(folder: Path) -> None:
    """table.csv and table.parquet: 200 days of SYNTHETIC weather in two regions."""
    import pandas as pd

    from timerxl.config import DataConfig, SyntheticConfig
    from timerxl.data.synthetic import load_synthetic

    series = load_synthetic(
        DataConfig(synthetic=SyntheticConfig(start="2023-01-01", end="2023-07-19"))
    )
    table = pd.DataFrame(
        {
            "timestamp": series.timestamps,
            "region": [series.regions[index] for index in series.region_index],
            **{name: series.values[:, i] for i, name in enumerate(series.feature_names)},
        }
    )
    table["precipitation"] = series.precipitation_mm
    columns = ["timestamp", "region", *series.feature_names[:5], "precipitation"]
    kept = table["region"].isin(series.regions[-2:])
    table = table.loc[kept, [name for name in columns if name != "tp"]]
    table.to_csv(folder / "table.csv", index=False, date_format="%Y-%m-%dT%H:%M:%S")
    table.to_parquet(folder / "table.parquet", index=False)


def make_openltm(folder: Path) -> None:
    """openltm.pth and openltm.safetensors, of the size of the run's model."""
    import torch
    from safetensors.torch import save_file

    from timerxl.model import TimerXLConfig
    from timerxl.model.convert_openltm import export_openltm
    from timerxl.model.modeling_timerxl import TimerXLForPrediction

    settings = TimerXLConfig(
        patch_length=8, context_length=16, hidden_size=16, intermediate_size=32,
        num_hidden_layers=1, num_attention_heads=2,
    )  # fmt: skip
    state = export_openltm(TimerXLForPrediction(settings))
    torch.save(state, folder / "openltm.pth")
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "openltm.safetensors")


def make_era5(folder: Path) -> None:
    """era5.nc: two days of hourly rain on a few cells, as the Climate Data Store delivers it."""
    import numpy as np
    import xarray

    hours = np.arange(1, 49) * np.timedelta64(1, "h") + np.datetime64("2023-01-01", "ns")
    latitude, longitude = np.arange(0.0, -16.0, -0.5), np.arange(-80.0, -70.0, 0.5)
    size = (len(hours), len(latitude), len(longitude))
    rain = np.random.default_rng(0).gamma(0.1, 1e-3, size).astype(np.float32)
    attributes = {"units": "m", "GRIB_stepType": "accum"}
    dims = ("valid_time", "latitude", "longitude")
    coordinates = {
        "valid_time": hours,
        "latitude": ("latitude", latitude, {"units": "degrees_north"}),
        "longitude": ("longitude", longitude, {"units": "degrees_east"}),
    }
    dataset = xarray.Dataset({"tp": (dims, rain, attributes)}, coordinates)
    dataset.to_netcdf(folder / "era5.nc", engine="h5netcdf")


def cut_off(run: Path) -> None:
    """A finished run as it would stand had it been killed after its second step."""
    steps = sorted((run / "checkpoints").iterdir())
    for folder in steps[1:]:
        shutil.rmtree(folder)
    for name in ("results.json", "forecasts.parquet", "verdict.json"):
        (run / name).unlink(missing_ok=True)
    (run / "status.json").write_text('{"code": 1, "reason": "running"}\n')
