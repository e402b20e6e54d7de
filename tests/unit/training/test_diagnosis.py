"""A run's metrics.jsonl again: its own limits, damage named and passed over, large files."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from timerxl.config import InputError, load_recipe, to_yaml
from timerxl.training.monitors.openltm_log import BaseRate
from timerxl.training.monitors.replay import Diagnosis, diagnose

ROOT = Path(__file__).resolve().parents[3]
START = {"event": "start", "grace_steps": 5, "dead_features": []}
LOG = "Epoch: 1 cost time: 9\nVal Accuracy: 70.00% (700/1000)\nTest Accuracy: 70.00% (700/1000)\n"


def validation(epoch: int, accuracy: float, **values: Any) -> dict[str, Any]:
    return {
        "event": "validation",
        "step": 100 * epoch,
        "epoch": float(epoch),
        "accuracy": accuracy,
        "num_windows": 10_000,
        "accuracy_std_error": 0.005,
        **values,
    }


def train(step: int, loss: Any = 0.6, **values: Any) -> dict[str, Any]:
    return {"event": "train", "step": step, "epoch": step / 100, "loss": loss, **values}


UNSTEADY = [START, train(1), validation(1, 0.80), validation(2, 0.72), train(201)]
DROP = [("oscillation", "certain", 2.0)]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "metrics.jsonl"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def signs(found: Diagnosis) -> list[tuple[str, str, float | None]]:
    return [(f.verdict.name, f.verdict.severity, f.verdict.epoch) for f in found.findings]


def test_a_file_and_its_folder(tmp_path: Path) -> None:
    path = write(tmp_path, text_of(UNSTEADY))
    for given in (path, tmp_path, path.rename(tmp_path / "metrics.jsonl")):
        found = diagnose(given)
        assert (found.kind, found.num_runs, found.num_evaluations) == ("metrics.jsonl", 1, 2)
        assert (signs(found), found.notes) == (DROP, [])
    other = tmp_path / "log.txt"  # the name says nothing, the content does
    other.write_text(text_of(UNSTEADY))
    assert signs(diagnose(other)) == DROP
    (row,) = found.to_list()
    assert list(row) == ["name", "epoch", "severity", "evidence"]
    assert row["evidence"]["step"] == 200
    assert not {"times", "run"} & row["evidence"].keys()
    assert row["evidence"]["points"] == pytest.approx(-8)


def test_a_real_run_hears_what_it_was_told(finished: Any) -> None:
    found = diagnose(finished.folder)
    told = json.loads((finished.folder / "verdict.json").read_text())["verdicts"]
    first: dict[tuple[str, str], int | None] = {}
    for finding in found.findings:
        verdict = finding.verdict
        first.setdefault((verdict.name, verdict.severity), verdict.step)
    assert first == {(one["name"], one["severity"]): one["step"] for one in told}
    assert found.num_evaluations == len(finished.events("validation"))
    assert found.notes == []


def test_the_limits_are_those_of_the_run(tmp_path: Path) -> None:
    write(tmp_path, text_of(UNSTEADY))
    config = tmp_path / "config.yaml"
    for override, expected in (
        ("monitors.points=7.9", DROP),
        ("monitors.points=8", []),
        ("monitors.oscillation=off", []),
    ):
        config.write_text(to_yaml(load_recipe("quickstart", [override])))
        found = diagnose(tmp_path)
        assert (signs(found), found.notes) == (expected, [])
    for text in ("monitors: {points: many}", "monitors: {point: 8}", ":\n\t{", "a: b"):
        config.write_text(text)
        found = diagnose(tmp_path)
        assert signs(found) == DROP
        (note,) = found.notes
        assert note.startswith("default limits of the monitors, because ")


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (text_of(UNSTEADY)[:-9], "line 5: no event of ours (the last one is cut off); left out"),
        (
            text_of(UNSTEADY[:3]) + "ga{r\n" + text_of(UNSTEADY[3:]),
            "line 4: no event of ours; left",
        ),
        ("\n\nxx\n" + text_of(UNSTEADY), "line 3: no event of ours; left out, the rest is used."),
        ('{"a": [1, 2\n[1]\n{}\n{"event": 3}\n' + text_of(UNSTEADY), "lines 1, 2, 3, 4: no event"),
        ("?\n" * 99 + text_of(UNSTEADY), "lines 1, 2, 3, 4, 5 and 94 more: no event of ours"),
        ("[" * 99_999 + "\n" + text_of(UNSTEADY), "line 1: no event"),
        ('{"event":' * 99_999 + "\n" + text_of(UNSTEADY), "line 1: no event"),
        (
            '{"event": "train", "step": 1' + "0" * 9999 + "}\n" + text_of(UNSTEADY),
            "line 1: no event",
        ),
    ],
)
def test_damaged_lines_are_named_and_the_rest_is_used(tmp_path: Path, text: str, note: str) -> None:
    found = diagnose(write(tmp_path, text))
    assert signs(found) == DROP
    assert [one[: len(note)] for one in found.notes] == [note]


@pytest.mark.parametrize(
    ("event", "note"),
    [
        (validation(3, 0.72) | {"accuracy": "high"}, "line 6: accuracy is 'high'"),
        (validation(3, 1.5), "line 6: accuracy is 1.5"),
        (validation(3, -0.1), "line 6: accuracy is -0.1"),
        (validation(3, 0.72, rain_share=-1), "line 6: rain_share is -1"),
        (validation(3, 0.72, num_windows=-5), "line 6: num_windows is -5"),
        (validation(3, 0.72, roc_auc=[0.5]), "line 6: roc_auc is [0.5]"),
        (validation(3, 0.72, loss=True), "line 6: loss is True"),
        (validation(3, 0.72, loss=10**400), "line 6: loss is 1000"),
        (validation(3, 0.72) | {"epoch": {"a": 1}}, "line 6: epoch is {'a': 1}"),
        (validation(3, 0.72) | {"step": float("inf")}, "line 6: step is inf"),
        (train(300, "?"), "line 6: loss is '?'"),
        ({"event": "train", "loss": 0.5}, "line 6: train without its step and loss is left out"),
        (train(300) | {"step": None}, "line 6: train without its step"),
        ({"event": "train", "step": 300}, "line 6: train without its step and loss is left out"),
        ({"event": "holdout", "accuracy": 0.1}, "line 6: holdout without its step is left out"),
        ({"event": "start", "dead_features": [3]}, "line 6: dead_features is [3]"),
        ({"event": "start", "grace_steps": "5"}, "line 6: grace_steps is '5'"),
        ({"event": "cost", "step": 3, "peak_memory_gb": "9"}, "line 6: peak_memory_gb is '9'"),
        ({"event": "plan", "epoch_seconds": {}}, "line 6: epoch_seconds is {}"),
    ],
)
def test_values_that_no_monitor_can_read(tmp_path: Path, event: dict[str, Any], note: str) -> None:
    found = diagnose(write(tmp_path, text_of([*UNSTEADY, event])))
    assert signs(found)[:1] == DROP
    assert {name for name, _, _ in signs(found)} == {"oscillation"}
    assert found.notes[0][: len(note)] == note


def test_what_json_has_for_numbers_that_are_none(tmp_path: Path) -> None:
    text = text_of([START, validation(1, 0.8, roc_auc=float("nan"), best_threshold=None)])
    found = diagnose(write(tmp_path, text + text_of([train(2, float("inf")), train(3, None)])))
    assert (signs(found), found.notes) == ([("nonfinite", "certain", 0.02)], [])
    assert found.findings[0].times == 2


def test_what_steps_and_costs_repeat_is_kept_once(tmp_path: Path) -> None:
    start = START | {"dead_features": ["oni"]}
    steps = [train(n, grad_norm=0.0) for n in range(50)]
    found = diagnose(write(tmp_path, text_of([start, *steps])))
    assert [(f.verdict.name, f.verdict.severity, f.times) for f in found.findings] == [
        ("dead_input", "suspected", 10),  # at the start and at the nine steps after it
        ("dead_input", "certain", 41),
    ]
    tracemalloc.start()
    path = write(tmp_path, text_of([start, *(train(n) for n in range(5000))]))
    assert [f.times for f in diagnose(path).findings] == [5001]
    assert tracemalloc.get_traced_memory()[1] < 2_500_000  # with the events that were written
    tracemalloc.stop()
    # Evaluations are all kept.
    flat = [validation(n, 0.75) for n in range(1, 6)]
    assert signs(diagnose(write(tmp_path, text_of(flat)))) == [
        ("stagnation", "certain", float(n)) for n in (3, 4, 5)
    ]


def test_several_runs_in_a_file(tmp_path: Path) -> None:
    found = diagnose(write(tmp_path, text_of([*UNSTEADY, *UNSTEADY])))
    assert (found.num_runs, signs(found)) == (2, DROP * 2)
    assert [row["evidence"]["run"] for row in found.to_list()] == [1, 2]
    assert diagnose(write(tmp_path, text_of([START, START, *UNSTEADY]))).num_runs == 1


def test_what_only_the_run_itself_could_see_is_taken_over(tmp_path: Path) -> None:
    """A gradient norm of NaN is null in the file, as is one that DeepSpeed does not tell."""
    said = {
        "event": "verdict",
        "name": "nonfinite",
        "severity": "certain",
        "epoch": 0.07,
        "step": 7,
        "evidence": {"loss": 0.6, "grad_norm": None, "batch": "3 windows"},
        "explanation": "the gradient norm is nan at step 7 (3 windows).",
        "remedy": "Lower optim.lr.",
        "action": "stop",
    }
    found = diagnose(write(tmp_path, text_of([train(7, grad_norm=None), said])))
    assert signs(found) == [("nonfinite", "certain", 0.07)]
    assert found.notes[0].startswith("nonfinite (certain) is what the run itself said")
    # What the numbers show is not said twice, and what is damaged is not taken over.
    assert len(diagnose(write(tmp_path, text_of([train(7, None), said]))).findings) == 1
    for key, value in (
        ("name", "bad"),
        ("severity", 3),
        ("evidence", {"a": {}}),
        ("evidence", [1]),
        ("remedy", None),
        ("epoch", "x"),
        ("name", ["nonfinite"]),
    ):
        assert diagnose(write(tmp_path, text_of([train(7), said | {key: value}]))).findings == []
    del said["step"]
    assert diagnose(write(tmp_path, text_of([train(7), said]))).findings == []


def test_a_base_rate_where_the_file_has_none(tmp_path: Path) -> None:
    path = write(tmp_path, text_of([validation(n, 0.7) for n in (1, 2)]))
    assert signs(diagnose(path)) == []
    found = diagnose(path, BaseRate(0.7))
    assert signs(found) == [("collapse", "suspected", 1.0), ("collapse", "certain", 2.0)]
    assert found.findings[0].verdict.evidence["rain_share_source"] == "given"
    path = write(tmp_path, text_of([validation(1, 0.7, rain_share=0.6)]))
    found = diagnose(path, BaseRate(0.7))
    assert signs(found) == []
    assert found.notes == ["the log holds the share of rain: --base-rate is not used."]


@pytest.mark.parametrize(
    "content",
    [
        ("\ufeff" + LOG).encode("utf-16-le"),
        ("\ufeff" + LOG).encode("utf-16-be"),
        ("\ufeff" + LOG).encode(),
        ("época\n" + LOG).encode("latin-1"),
        b"\x00" * 20 + b"\n" + LOG.encode() + b"\xff\xfe\xc3\x28",
        b'{"event": 1}\n{"event": "other"}\n{"a": 2}\n' + LOG.encode(),
        LOG.encode() + text_of(UNSTEADY).encode(),
    ],
)
def test_a_console_log_in_any_encoding(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(content)
    found = diagnose(path)
    assert (found.kind, found.num_evaluations) == ("OpenLTM console log", 1)


def test_lines_are_numbered_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(LOG.encode() + b"1%\r2%\r\n3%\r4%\nVal Accuracy: 70.0")
    assert diagnose(path).notes[-1].startswith("line 6 is not understood: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected metrics.jsonl"),
        (b" \n\n", "holds no event and no epoch; expected"),
        (b"hello\n" * 99, "holds no event and no epoch; expected"),
        (b'{"event": "other", "step": 1}\n', "holds no event and no epoch; expected"),
        (b"Val Accuracy: 69.05% (4160/6025)\n", "holds scores, but no line that names an epoch"),
        (bytes(range(256)) * 99, "is a binary file; expected"),
        (LOG.encode("utf-16-le")[2:], "is a binary file; expected"),
        (b"PK\x03\x04" + b"\x00\x01" * 999, "is a binary file; expected"),
    ],
)
def test_a_file_with_nothing_to_replay(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        diagnose(path)
    text = str(refused.value)
    assert text.startswith(f"{path} {message}")
    assert text.endswith("; give one of these.")
    assert "\n" not in text


def test_a_path_with_nothing_to_replay(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path, "is a folder without metrics.jsonl"),
        (tmp_path / "none", "does not exist"),
        (Path("/dev/null"), "is no regular file"),
        (tmp_path / ("a" * 5000), "can't be read (File name too long)"),
    ):
        with pytest.raises(InputError, match="give one of these") as refused:
            diagnose(path)
        assert str(refused.value).startswith(f"{path} {message}; expected metrics.jsonl")


@pytest.mark.parametrize("kind", ["noise", "one line", "events"])
def test_a_large_file_is_not_read_into_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "large"
    with path.open("w") as file:
        file.write(text_of(UNSTEADY) if kind == "events" else LOG)
        for _ in range(60):
            noise = "\titers: 100, epoch: 1 | loss: 0.0398112 | acc: 68.75%\n" * 4000
            file.write(noise.replace("\n", " ") if kind == "one line" else noise)
    assert path.stat().st_size > 12_000_000
    tracemalloc.start()
    found = diagnose(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.num_evaluations == (2 if kind == "events" else 1)
    assert peak < (4_000_000 if kind == "one line" else 1_500_000)


@pytest.mark.slow
def test_torch_stays_out() -> None:
    code = "import sys, timerxl.training.monitors.replay; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
