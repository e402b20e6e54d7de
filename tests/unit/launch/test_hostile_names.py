"""The real commands on names that would steer a terminal, or look like a line of ours."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import processes
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "assets" / "openltm_golden" / "forecast_03.pth"
# A title, "clear the screen", colours, C1 controls, a carriage return, a forged line, turned
# writing, Unicode's own line end, DEL, and rich's markup.
HOSTILE = (
    "\x1b]0;title\x07 \x1b[2J\x1b[31m \x9b31m \x85 \r \nerror: forged\n \u202egnp.\u202c \u2028"
    "error: forged\u2029 \x7f \x00 [red]x[/red] [link=http://example.org]y[/link]"
)
IN_A_PATH = HOSTILE.replace("/", "|").replace("\x00", "")[:120]
LONGEST = 2_100  # bytes of a line; rich's tables have up to 150 columns of three bytes
Said = Callable[..., tuple[int, str]]


def check(output: bytes, code: int, allowed: tuple[str, ...] = ()) -> str:
    """The output, which no terminal obeys and whose errors are ours."""
    text = output.decode()
    odd = {sign for sign in text if not sign.isprintable() and sign != "\n"}
    assert odd == set()
    lines = text.split("\n")
    assert max(len(line) for line in lines) < LONGEST
    assert [line for line in lines if line.startswith("error: forged")] == []
    errors = [line for line in lines if line.startswith("error:")]
    assert len(errors) == (1 if code == 2 else 0), errors
    return text


@pytest.fixture
def said(capfdbinary: pytest.CaptureFixture[bytes]) -> Said:
    """A command of launch/ in this process: its code, and all it said, which is checked."""

    def call(name: str, *words: object) -> tuple[int, str]:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        module = import_module(f"timerxl.cli.{name}")
        capfdbinary.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [name, *map(str, words)])
            code = int(module.main())
        told = capfdbinary.readouterr()
        check(told.err, 0 if code == 0 else 2)
        return code, check(told.out, 0) + check(told.err, code)

    return call


def series(names: list[str], column: str) -> pd.DataFrame:
    """Eight months, twelve-hourly, of one region for each name."""
    times = pd.date_range("2023-01-01", periods=480, freq="12h")
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame(
            {
                "timestamp": times,
                "region": name,
                "rain": np.where(rng.random(480) < 0.4, rng.gamma(1.0, 3.0, 480), 0.0),
                column: rng.normal(size=480),
                "plain": rng.normal(size=480),
            }
        )
        for name in names
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, a table, a recipe and a run, all of hostile names; what train said is checked."""
    folder = tmp_path_factory.mktemp("hostile") / IN_A_PATH
    folder.mkdir()
    table = folder / f"{IN_A_PATH}.parquet"
    series([HOSTILE, "error: forged", "[bold]b[/bold]"], HOSTILE).to_parquet(table)
    recipe = folder / f"{IN_A_PATH}.yaml"
    settings = {
        "output_dir": str(folder / "run"),
        "data": {
            "path": str(table),
            "precipitation_column": "rain",
            "precipitation_unit": "mm",
            "static_features": True,
        },
        "model": {
            "patch_length": 4,
            "context_length": 8,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        "train": {"max_steps": 4, "batch_size": 32, "trackers": []},
        "eval": {"num_resamples": 20, "fitted_baselines": False, "every_steps": 0},
    }
    recipe.write_text(json.dumps(settings))  # JSON is YAML
    words = [sys.executable, str(ROOT / "launch" / "train.py"), "--config", str(recipe)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    done = processes.run(words, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    told = check(done.stdout.encode(), 0)
    check(done.stderr.encode(), 0)
    assert r"\x1b]0;title\x07" in told
    return folder


@pytest.mark.slow
def test_predict(place: Path, said: Said) -> None:
    table = next(place.glob("*.parquet"))
    words = ("--model", place / "run" / "model", "--input", table, "--device", "cpu")
    code, told = said("predict", *words, "--by-variable")
    assert code == 0
    assert " error: forged" in told  # a region, which is called so
    code, told = said("predict", *words, "--at", HOSTILE.replace("\x00", ""))
    assert code == 2


@pytest.mark.slow
def test_the_text_of_a_label(place: Path, said: Said, tmp_path: Path) -> None:
    model = Path(shutil.copytree(place / "run" / "model", tmp_path / "model"))
    content = json.loads((model / "preprocessing.json").read_text())
    content["label"]["text"] = HOSTILE + "x" * 4_000
    (model / "preprocessing.json").write_text(json.dumps(content))
    table = next(place.glob("*.parquet"))
    code, told = said("predict", "--model", model, "--input", table, "--device", "cpu")
    assert code == 0
    assert r"event: \x1b]0;title\x07" in told


@pytest.mark.slow
def test_evaluate(place: Path, said: Said) -> None:
    table = next(place.glob("*.parquet"))
    words = ("--model", place / "run" / "model", "--data", table, "--resamples", 20)
    code, told = said("evaluate", *words, "--no-fitted-baselines", "--by", "region")
    assert code == 0
    assert "[bold]b[/bold]" in told  # no markup
    code, told = said("evaluate", *words, "--no-fitted-baselines", "--json")
    assert code == 0
    code, _ = said("evaluate", "--model", place / "run" / "model")
    assert code == 2  # it names the path that it was trained on


@pytest.mark.slow
def test_plan(place: Path, said: Said) -> None:
    recipe = next(place.glob("*.yaml"))
    code, told = said("plan", "--config", recipe, "--fit", "1GiB")
    assert code == 0
    assert "recipe \\x1b]0;title" in told
    code, _ = said("plan", "--config", recipe, "--json")
    assert code == 0
    assert said("plan", "--config", f"{recipe}x")[0] == 2


@pytest.mark.slow
def test_report_and_diagnose(place: Path, said: Said, tmp_path: Path) -> None:
    assert said("report", place / "run")[0] == 0
    assert said("diagnose", place / "run")[0] == 0
    log = tmp_path / IN_A_PATH
    log.write_text(f"Epoch 1 cost time: 1\nVal Accuracy: {HOSTILE} 69.05% (4160/6025)\n" * 3)
    assert said("diagnose", log)[0] in (0, 2)
    assert said("diagnose", place / "no" / "such")[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [False, True])
def test_audit(place: Path, said: Said, tmp_path: Path, as_json: bool) -> None:
    table = next(place.glob("*.parquet"))
    overrides = ("data.precipitation_column=rain", "data.precipitation_unit=mm")
    output = tmp_path / "audit"
    words = ("--audit", table, "--config", next(place.glob("*.yaml")), "--output", output)
    code, told = said("prepare_data", *words, *overrides, *(["--json"] if as_json else []))
    assert code == 0
    if as_json:
        assert json.loads(told)["counts"]
    for file in output.iterdir():  # what will be shown on a terminal some day
        check(file.read_bytes(), 0) if file.suffix != ".html" else None


def test_prepare(said: Said, tmp_path: Path) -> None:
    frame = series(["a"], "warmth").rename(columns={"plain": HOSTILE.replace("\x00", "")})
    table = tmp_path / f"{IN_A_PATH}.csv"
    frame.assign(region=HOSTILE.replace("\x00", "")).to_csv(table, index=False)
    words = (table, "--output", tmp_path / "out", "--precipitation-column", "rain")
    code, told = said("prepare_data", *words, "--precipitation-unit", "mm")
    assert code in (0, 2), told


def test_convert(said: Said, tmp_path: Path) -> None:
    code, told = said("convert", "--checkpoint", GOLDEN, "--output", tmp_path / IN_A_PATH)
    assert code == 0
    assert r"\x1b]0;title\x07" in told
    state = dict(torch.load(GOLDEN, weights_only=True))
    state[HOSTILE] = torch.zeros(1)
    torch.save(state, tmp_path / "odd.pth")
    words = ("--checkpoint", tmp_path / "odd.pth", "--output", tmp_path / "new")
    assert said("convert", *words)[0] == 2


def test_export_of_what_is_no_model(said: Said, tmp_path: Path) -> None:
    (tmp_path / IN_A_PATH).mkdir()
    words = ("--model", tmp_path / IN_A_PATH, "--output", tmp_path / "model.onnx")
    assert said("export", *words)[0] == 2


@pytest.mark.parametrize("name", ["predict", "evaluate", "plan", "report", "diagnose", "export"])
def test_an_argument_that_argparse_refuses(
    name: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    module = import_module(f"timerxl.cli.{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, "--\x1b[2J\nerror:forged\x9b31m\u202e"])
        with pytest.raises(SystemExit) as ended:
            module.main()
    assert ended.value.code == 2
    check(capfdbinary.readouterr().err, 0)


def test_a_name_of_a_million_signs(said: Said, tmp_path: Path) -> None:
    series(["x" * 10**6, "b"], "y" * 10**6).to_parquet(tmp_path / "t.parquet")
    overrides = (
        "model.patch_length=4 model.context_length=8 model.hidden_size=16 train.max_steps=2 "
        f"data.precipitation_unit=mm data.precipitation_column=rain output_dir={tmp_path}/run"
    ).split()
    words = ("--config", "quickstart", f"data.path={tmp_path}/t.parquet", *overrides)
    code, told = said("train", *words)
    assert code == 2
    assert "(1,000,00" in told or "1,000 characters" in told
