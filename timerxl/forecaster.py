"""Use a trained model: from a folder or a hub's repository to forecasts, in two calls.

forecaster = Forecaster.from_pretrained("runs/quickstart/model")
forecasts = forecaster.predict("rain.parquet", at="2024-06-01T06")
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import expit  # type: ignore[import-untyped]
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from timerxl.config import InputError
from timerxl.data.forecast_file import BY_VARIABLE
from timerxl.data.forecast_input import ForecastInput, read_forecast_input
from timerxl.data.preprocessing import PREPROCESSING, Preprocessing, step_offsets
from timerxl.device import device_facts, refuse_unusable_gpu
from timerxl.ensemble import (
    ENSEMBLE,
    TREES,
    Ensemble,
    difference,
    is_ensemble,
    read_blend,
    read_members,
)
from timerxl.evaluation.blending import BlendedTrees
from timerxl.evaluation.calibration import Calibration
from timerxl.model import TimerXLForClassification
from timerxl.model.convert_openltm import WEIGHTS, load_saved
from timerxl.untrusted import check_memory, check_model_files, reason

transformers_logging.disable_progress_bar()  # for what takes milliseconds
PUBLISHED = ["config.json", "model.safetensors", PREPROCESSING]
PUBLISHED += [ENSEMBLE, TREES, *(f"member_*/{name}" for name in PUBLISHED)]
LATEST, ALL = "latest", "all"
COLUMNS = ("region", "issue_time", "valid_until", "probability", "probability_raw", "rain")
Moment = str | datetime.date | np.datetime64  # pandas' Timestamp is a date


class Forecaster:
    """A model with all it needs to forecast from a table.

    ``event`` says in one sentence what the probabilities are of; ``threshold`` is the raw
    probability from which the decision is rain, chosen on validation in training.
    """

    def __init__(
        self,
        model: TimerXLForClassification | Ensemble,
        saved: Preprocessing,
        trees: BlendedTrees | None = None,
    ):
        self.model, self.saved, self.trees = model.eval(), saved, trees
        content = saved.content
        self.event = str(content["label"]["text"])
        self.horizon_hours = float(content["label"]["horizon_hours"])
        self.context_length = saved.context_length
        self.is_synthetic = bool(content.get("is_synthetic"))
        threshold, line = content.get("decision_threshold"), content.get("calibration")
        self.threshold = 0.5 if threshold is None else float(threshold)
        self.calibration = Calibration() if line is None else Calibration.from_dict(line)

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo_id: str | Path,
        *,
        revision: str | None = None,
        device: str | None = None,
        token: str | bool | None = None,
    ) -> Forecaster:
        """Load a run's model folder or an ensemble's, or download one from the hub (safetensors and
        JSON alone).

        ``device`` is the first GPU where there is one, else the CPU. Raises InputError where the
        folder or repository is no model of ours, or the device can't be used; a GPU that is there
        and can't be used is never replaced by the CPU unless ``device`` says "cpu".
        """
        if device is None:
            refuse_unusable_gpu('device="cpu" (--device cpu) forecasts on the CPU on purpose')
            device = "cuda" if device_facts().has_gpu else "cpu"
        chosen = _device(device)
        folder = Path(path_or_repo_id)
        if not folder.is_dir():
            folder = _download(str(path_or_repo_id), revision, token)
        saved = Preprocessing.load(folder)
        model = load_model(folder, saved)
        model.to(chosen)  # type: ignore[arg-type]
        return cls(model, saved, load_trees(folder, saved))

    def predict(
        self,
        table: pd.DataFrame | str | Path | None,
        *,
        at: Moment | Iterable[Moment] | None = ALL,
        batch_size: int = 64,
        by_variable: bool = False,
        oni: str | Path | None = None,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Forecast from every region of a table (a frame, or the path of a Parquet or CSV file).

        ``at``: "all" (every time with a full context behind it), "latest" (the last time of every
        region), or times, in UTC where they name no zone: ISO text, datetimes or a list of them.
        None as ``table`` is the synthetic series of the model. With ``by_variable`` a column
        ``by_NAME`` for each variable of the series says by how much the log-odds of rain would
        fall, were it at its training mean all through the context (one more forward pass per
        variable). They don't add up to the log-odds. What is known at issue time (season, hour,
        region) goes to the model beside the series and is in none of them: ``by_season_sin`` is of
        the series' own column of that name. ``oni`` is NOAA's file (oni.ascii.txt), for a model
        that reads the Oceanic Niño Index.

        Returns a row per region and issue time: region, issue_time, valid_until, probability
        (calibrated), probability_raw, rain (the decision). ``attrs`` holds the event, the notes on
        the data and ``trained_on_synthetic``. Raises InputError, with numbers, where the table does
        not fit the model.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; expected 1 or more.")
        if by_variable and self.trees is not None:
            raise InputError(
                "by_variable (--by-variable): a network blended with boosted trees does not tell "
                "what a variable does; ask one of its members (member_0, ...)."
            )
        given = read_forecast_input(table, self.saved, None if oni is None else Path(oni))
        rows, size = self._rows(given, at), batch_size * given.transform.rows_per_window
        order = given.transform.order(rows)  # rows of one window side by side
        parts = [
            self._forecast(given, rows[order[start : start + size]], by_variable)
            for start in tqdm(range(0, len(rows), size), disable=not progress, unit="batch")
        ]
        back = np.argsort(order)
        columns = {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}
        series, raw = given.series, columns.pop("probability_raw")
        if self.trees is not None:
            raw = expit(self.trees.log_odds(raw, series, rows))
        issued = series.timestamps[rows]
        horizon = np.timedelta64(round(self.horizon_hours * 3600), "s")
        forecasts = pd.DataFrame(
            {
                "region": np.array(series.regions)[series.region_index[rows]],
                "issue_time": issued,
                "valid_until": issued + horizon,
                "probability": self.calibration.apply(raw),
                "probability_raw": raw,
                "rain": raw >= self.threshold,
                **columns,
            }
        )
        forecasts.attrs = {
            "event": self.event,
            "threshold": self.threshold,
            "notes": given.notes + self._issue_notes(issued),
            "trained_on_synthetic": self.is_synthetic,
        }
        return forecasts

    def columns(self, by_variable: bool = False) -> list[str]:
        """Names of the columns that :meth:`predict` returns, known before any forecast is made."""
        names = self.saved.content["feature_names"] if by_variable else []
        return [*COLUMNS, *(f"{BY_VARIABLE}{name}" for name in names)]

    def _rows(self, given: ForecastInput, at: Moment | Iterable[Moment] | None) -> np.ndarray:
        if at is None or (isinstance(at, str) and at == ALL):
            return given.all_rows()
        if isinstance(at, str) and at == LATEST:
            return given.latest_rows()
        return given.rows_at(_times(at))

    def _issue_notes(self, issued: np.ndarray) -> list[str]:
        """A sentence where training knew no window of these hours of the day."""
        known = (self.saved.content.get("training_ranges") or {}).get("issue_hours")
        hours = set(known or [])
        new = [] if known is None else [h for h in step_offsets(issued, 24.0) if h not in hours]
        if not new:
            return []
        return [
            f"forecasts are issued at {', '.join(f'{hour:g}' for hour in new)} h UTC; the windows "
            f"of training were issued at {', '.join(f'{hour:g}' for hour in known or [])} h only."
        ]

    @torch.no_grad()
    def _forecast(
        self, given: ForecastInput, rows: np.ndarray, by_variable: bool
    ) -> dict[str, np.ndarray]:
        batch = given.transform.windows(torch.from_numpy(rows))
        inputs: dict[str, torch.Tensor] = {
            key: batch[key].to(self.model.device)
            for key in ("past_values", "past_observed_mask", "static_real_features")
            if key in batch
        }

        def log_odds(**changed: torch.Tensor) -> np.ndarray:
            logits = self.model(**inputs | changed).logits.double()
            of_rows = given.transform.answers(logits, batch["row"]).cpu().numpy()
            return np.asarray(of_rows[:, 1] - of_rows[:, 0])

        odds = log_odds()
        if lost := int(np.count_nonzero(~np.isfinite(odds))):
            raise InputError(
                f"the model gives no probability for {lost} of {len(rows)} windows (NaN or "
                "infinite): its weights, its scaling or the table's values are out of all range."
            )
        with np.errstate(over="ignore"):  # exp(1000) is infinite, and the probability 0
            found = {"probability_raw": 1.0 / (1.0 + np.exp(-odds))}
        if by_variable:
            whole, names = inputs["past_values"], given.series.feature_names
            for column, name in enumerate(names):
                without = whole.clone()
                # Scaled: the mean over the training rows; in all regions of the window.
                without[:, :, column :: len(names)] = 0.0
                found[f"{BY_VARIABLE}{name}"] = odds - log_odds(past_values=without)
        return found


def load_model(folder: Path, saved: Preprocessing) -> TimerXLForClassification | Ensemble:
    """The classifier of a model folder, or all those of an ensemble's; see :func:`load_classifier`.

    Raises InputError, too, where members don't fit together or the ensemble's preprocessing.json.
    """
    if not is_ensemble(folder):
        return load_classifier(folder, saved)
    names = read_members(folder)
    parts = [Preprocessing.load(folder / name) for name in names]
    for name, part in zip(names, parts, strict=True):
        if problem := difference(saved.content, part.content):
            raise InputError(f"{folder}: {name} does not fit its {PREPROCESSING}: {problem}.")
    return Ensemble([load_classifier(part.folder, part) for part in parts])


def load_trees(folder: Path, saved: Preprocessing) -> BlendedTrees | None:
    """The boosted trees that an ensemble's folder is blended with; None without any.

    Raises InputError where they are damaged, or not of the regions of ``saved``.
    """
    blend = read_blend(folder) if is_ensemble(folder) else None
    return None if blend is None else BlendedTrees.load(folder / TREES, blend, saved)


def load_classifier(folder: Path, saved: Preprocessing) -> TimerXLForClassification:
    """The classifier of a model folder, strictly, as its preprocessing.json wants it.

    No code of the folder is run. Raises InputError where a file is damaged, a tensor is missing,
    unknown, mis-shaped or not finite, or where the two files are not of one model.
    """
    check_model_files(folder, (PREPROCESSING, *WEIGHTS))
    try:
        # The file's tensors, the model that takes them over, and room for what it computes.
        check_memory(3 * (folder / "model.safetensors").stat().st_size, f"the model in {folder}")
        model = load_saved(folder)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: {error}") from error
    if not isinstance(model, TimerXLForClassification):
        raise InputError(
            f"{folder} holds a forecaster of the next patch of weather (train.task=next_patch), "
            "which says nothing of rain. Train a classifier that starts from it: "
            f"--config NAME model.pretrained={folder}"
        )
    config, content = model.config, saved.content
    statics = len(content.get("static_feature_names", []))
    fits = {
        "of 2 classes": config.num_labels == 2,
        f"of {statics} static features": config.num_static_real_features == statics,
        f"of {len(content['feature_names'])} variables": (
            config.num_variables in (None, len(content["feature_names"]))
        ),
        f"of {len(saved.regions)} regions side by side"
        if saved.regions_together
        else "of one region at a time": (
            config.num_regions == (len(saved.regions) if saved.regions_together else None)
        ),
        "whose regions see the same neighbours": (
            config.region_neighbours
            == (None if (near := saved.neighbours) is None else near.tolist())
        ),
        f"with patches that divide {saved.context_length} steps": (
            saved.context_length % config.patch_length == 0
        ),
    }
    if wrong := [what for what, is_so in fits.items() if not is_so]:
        raise InputError(f"{folder} holds no model {' '.join(wrong)}, as its {PREPROCESSING} says.")
    tokens = saved.context_length // config.patch_length * len(content["feature_names"])
    tokens *= config.regions_in_window
    check_memory(tokens**2, f"attention among the {tokens:,} tokens of one window")
    return model


def _device(name: str) -> torch.device:
    """The device of that name, if a number can be put there and read back."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        count = torch.cuda.device_count()
        usable = ", ".join(["cpu", *(f"cuda:{index}" for index in range(count))])
        raise InputError(
            f"device {name} can't be used here ({reason(error)[:120]}); expected one of: {usable}."
        ) from error
    return device


def _times(at: Moment | Iterable[Moment]) -> list[np.datetime64]:
    """Distinct times in UTC, ascending."""
    wanted = "expected 'all', 'latest' or a time as 2024-06-01T06, or a list of times."
    try:
        given: list[Moment] = [at] if isinstance(at, Moment) else list(at)
    except TypeError as error:
        raise InputError(f"at={at}: {wanted}") from error
    if not given:
        raise InputError(f"at={at} names no time; {wanted}")
    times = set()
    for one in given:
        if not isinstance(one, Moment):  # a number would be taken for nanoseconds since 1970
            raise InputError(f"at={one}: {wanted}")
        time = pd.to_datetime(pd.Series([one]), utc=True, format="ISO8601", errors="coerce")
        if time.isna().any():
            raise InputError(f"at={one}: {wanted}")
        times.add(time.dt.tz_localize(None).to_numpy().astype("datetime64[s]")[0])
    return sorted(times)


def _download(repo_id: str, revision: str | None, token: str | bool | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(repo_id, revision=revision, token=token, allow_patterns=PUBLISHED)
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{repo_id} is no folder here, and as a repository of the hub it can't be had: {reason}"
        ) from error
