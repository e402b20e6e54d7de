"""launch/train.py: bad input ends with code 2, one line on stderr and nothing half-written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import processes
import pytest
from settings import ONE_LABEL

from timerxl.cli import train

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "launch" / "train.py"
TINY = (
    f"{ONE_LABEL} "
    "model.patch_length=4 model.context_length=8 model.hidden_size=16 model.intermediate_size=16 "
    "model.num_hidden_layers=1 train.max_steps=2 train.batch_size=32 train.trackers=[] "
    "eval.fitted_baselines=false eval.num_resamples=0"
).split()
# A launcher's variable: as if every core had a rank of its own, so that one thread is enough.
ONE_THREAD = {"LOCAL_WORLD_SIZE": str(len(os.sched_getaffinity(0)))}


def table() -> pd.DataFrame:
    """Two regions, 150 rows of 12 h each; it rains in about half of the days."""
    times = pd.date_range("2021-01-01", periods=150, freq="12h")
    rng = np.random.default_rng(0)
    parts = []
    for region in ("coast", "hills"):
        rain = np.where(rng.random(150) < 0.3, rng.gamma(2.0, 2.0, 150), 0.0)
        columns = {"precipitation": rain, "t2m": rng.normal(290, 5, 150)}
        parts.append(pd.DataFrame({"timestamp": times, "region": region, **columns}))
    return pd.concat(parts, ignore_index=True)


def files(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


class Command:
    """The command in this process, as a shell would see it."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capsys = patch, capsys
        for name, value in ONE_THREAD.items():
            patch.setenv(name, value)

    def __call__(self, *overrides: str, recipe: str = "quickstart") -> tuple[int, str]:
        self.capsys.readouterr()
        arguments = [str(SCRIPT), "--config", recipe, *TINY, *overrides]
        self.patch.setattr(sys, "argv", arguments)
        code = train.main()
        return code, self.capsys.readouterr().err

    def refused(self, *overrides: str, recipe: str = "quickstart") -> str:
        code, message = self(*overrides, recipe=recipe)
        assert code == 2
        assert message.startswith("error: ")
        assert 1 <= len(message.splitlines()) <= 2
        assert "Traceback" not in message
        return message.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def infinite(frame: pd.DataFrame) -> pd.DataFrame:
    frame.loc[17, "t2m"] = np.inf
    return frame


def duplicate(frame: pd.DataFrame) -> pd.DataFrame:
    frame.loc[10, "timestamp"] = frame.loc[9, "timestamp"]
    return frame


def unsorted(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame.iloc[:20][::-1], frame.iloc[20:]], ignore_index=True)


BAD_TABLES: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], list[str], list[str]]] = {
    "missing column": (
        lambda frame: frame.drop(columns="precipitation"),
        [],
        ["no column precipitation", "data.precipitation_column", "t2m"],
    ),
    "missing feature": (lambda f: f, ["data.features=[t2m,cape]"], ["cape"]),
    "infinite": (infinite, [], ["column t2m", "infinite", "coast", "2021-01-09T12:00"]),
    "all missing": (
        lambda frame: frame.assign(t2m=np.nan),
        ["data.features=[precipitation,t2m]"],
        ["column t2m is missing in every row"],
    ),
    "duplicate time": (duplicate, [], ["region coast", "2021-01-05T12:00", "twice"]),
    "unsorted": (unsorted, [], ["region coast", "after a later time", "sort"]),
    "text": (
        lambda frame: frame.assign(precipitation="wet"),
        [],
        ["column precipitation", "not numeric"],
    ),
    "one class": (
        lambda frame: frame.assign(precipitation=0.0),
        [],
        ["training labels are 0: nothing to learn", "data.rain_threshold_mm"],
    ),
    "too short": (
        lambda frame: frame,
        ["model.context_length=160"],
        ["model.context_length 160", "coast 150, hills 150"],
    ),
    "no rows": (lambda frame: frame.iloc[:0], [], ["holds no rows"]),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_refused_by_name(case: str, command: Command, tmp_path: Path) -> None:
    spoil, overrides, named = BAD_TABLES[case]
    path, output_dir = tmp_path / "rain.csv", tmp_path / "out" / "run"
    spoil(table()).to_csv(path, index=False)
    message = command.refused(f"data.path={path}", f"output_dir={output_dir}", *overrides)
    for words in named:
        assert words in message
    # The reason, for whom a launcher hides the exit code; and not one file of a run.
    assert list(files(output_dir)) == ["status.json"]
    status = json.loads((output_dir / "status.json").read_text())
    assert status == {"code": 2, "reason": message}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["data.path=nowhere.parquet"], "data.path nowhere.parquet is no file"),
        (["data.path=README.md"], "ends in '.md'; expected .parquet, .csv or another"),
        (["model.pretrained=nowhere"], "model.pretrained=nowhere"),
        (["model.freeze_backbone_epochs=1"], "model.freeze_backbone_epochs without"),
        (["model.num_variables=3"], "model.num_variables is 3 but the data have 27 features"),
    ],
)
def test_other_bad_input(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(ROOT)
    start = "data.synthetic.start=2024-06-01"
    message = command.refused(start, f"output_dir={tmp_path / 'run'}", *overrides)
    assert named in message
    assert list(files(tmp_path)) == ["run", "run/status.json"]


@pytest.mark.parametrize(
    ("recipe", "overrides", "named"),
    [
        ("quickstrat", [], ["unknown recipe 'quickstrat'", "quickstart", "transfer_long"]),
        ("quickstart", ["train.batchsize=3"], ["train.batchsize", "train.batch_size"]),
        ("quickstart", ["train.epochs=many"], ["train.epochs", "many"]),
        ("quickstart", ["optim.lr=-1"], ["optim.lr is -1", "above 0"]),
        ("quickstart", ["train.epochs"], ["'train.epochs' is not of the form key=value"]),
    ],
)
def test_a_bad_recipe_writes_nothing(
    command: Command, tmp_path: Path, recipe: str, overrides: list[str], named: list[str]
) -> None:
    message = command.refused(f"output_dir={tmp_path / 'run'}", *overrides, recipe=recipe)
    for words in named:
        assert words in message
    assert files(tmp_path) == {}


@pytest.mark.parametrize("name", ["taken", "taken/run"])
def test_an_output_folder_that_can_t_be_made(command: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / "taken").write_text("a file")
    # Said before the data are looked for.
    message = command.refused(f"output_dir={tmp_path / name}", "data.path=nowhere.csv")
    assert "output_dir" in message
    assert str(tmp_path / "taken") in message
    assert files(tmp_path) == {"taken": b"a file"}


def test_somebody_s_files_are_left_alone(command: Command, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    message = command.refused(f"output_dir={tmp_path}", "data.path=nowhere.csv")
    assert "holds files that are not a run's" in message
    assert files(tmp_path) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize(("action", "expected"), [("warn", 1), ("stop", 3)])
def test_training_that_fails_says_so(
    command: Command, tmp_path: Path, action: str, expected: int
) -> None:
    rain, output_dir = tmp_path / "rain.csv", tmp_path / "run"
    table().to_csv(rain, index=False)
    given = [f"data.path={rain}", f"output_dir={output_dir}", "optim.lr=1e30"]
    code, message = command(*given, f"monitors.nonfinite={action}")
    assert code == expected
    (line,) = [line for line in message.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in message
    status = json.loads((output_dir / "status.json").read_text())
    assert status == {"code": expected, "reason": line.removeprefix("error: ")}
    assert "the loss is" in line or "the gradient norm is" in line
    assert (output_dir / "report" / "index.html").is_file()


@pytest.mark.slow
def test_bad_input_after_a_finished_run(command: Command, tmp_path: Path) -> None:
    """A finished run stays as it is through a bad one, and is moved aside by the next good one."""
    rain, output_dir = tmp_path / "rain.csv", tmp_path / "run"
    table().to_csv(rain, index=False)
    assert command(f"data.path={rain}", f"output_dir={output_dir}")[0] == 0
    before = files(output_dir)
    assert before["status.json"] is not None
    assert json.loads(before["status.json"]) == {"code": 0, "reason": "finished"}
    assert {"config.yaml", "metrics.jsonl", "results.json", "model/config.json"} < before.keys()

    # As a script, and not from the repository's folder.
    bad = ["data.path=snow.csv", "output_dir=run", "train.resume=never"]
    words = [sys.executable, SCRIPT, "--config", "quickstart", *TINY, *bad]
    done = processes.run(words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: data.path snow.csv is no file")
    assert len(done.stderr.splitlines()) == 1
    assert files(output_dir) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rain.csv", "run"]

    anew = (f"data.path={rain}", f"output_dir={output_dir}", "seed=1", "train.resume=never")
    assert command(*anew)[0] == 0
    assert files(tmp_path / "run.1") == before
    assert "seed: 1" in (output_dir / "config.yaml").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rain.csv", "run", "run.1"]
