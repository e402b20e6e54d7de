"""An OpenLTM console log as events: every kind of line, what surrounds it, what is missing."""

from __future__ import annotations

import re
from typing import Any

import pytest

from timerxl.config import MonitorsConfig
from timerxl.training.monitors.openltm_log import BaseRate, LoggedRun, LogReader
from timerxl.training.monitors.rules import Watcher

# The user's two runs, as the console showed them.
COLLAPSED = """\
Epoch 1 cost time: 3897.7179651260376 (64.96 min)
Val Accuracy: 69.05% (4160/6025)
Test Accuracy: 63.34% (3817/6026)
Vali Loss: 0.0392924, Test Loss: 0.0413758

Epoch 2 cost time: 3881.464823484421 (64.69 min)
Val Accuracy: 69.05% (4160/6025)  # ⚠️ IDÉNTICO A ÉPOCA 1
Test Accuracy: 63.34% (3817/6026)  # ⚠️ IDÉNTICO A ÉPOCA 1
Vali Loss: 0.0394477, Test Loss: 0.0413155
EarlyStopping counter: 1 out of 8
"""
# The same as OpenLTM's own lines have it: accuracies without a name, the losses in the summary.
AS_PRINTED = """\
Epoch: 1 cost time: 3897.7179651260376
   Accuracy: 69.05% (4160/6025)
   Accuracy: 63.34% (3817/6026)
Epoch: 1, Steps: 2103 | Train Loss: 0.0401 Vali Loss: 0.0392924 Test Loss: 0.0413758
Validation loss decreased (inf --> 0.039292).
lr = 0.0000498633
\titers: 100, epoch: 2 | loss: 0.0398112 | acc: 66.67%
Epoch: 2 cost time: 3881.464823484421
   Accuracy: 69.05% (4160/6025)
   Accuracy: 63.34% (3817/6026)
Epoch: 2, Steps: 2103 | Train Loss: 0.0399 Vali Loss: 0.0394477 Test Loss: 0.0413155
EarlyStopping counter: 1 out of 8
"""


def read(text: str) -> tuple[list[LoggedRun], list[str]]:
    reader = LogReader()
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        reader.take(line, number)
    return reader.finish(), reader.notes


def only(text: str) -> LoggedRun:
    """The one run of a log that is wholly understood."""
    (run,), notes = read(text)
    assert notes == []
    return run


def events(text: str, base_rate: BaseRate | None = None) -> list[dict[str, Any]]:
    return list(only(text).events(base_rate))


def signs(run: LoggedRun, base_rate: BaseRate | None = None) -> list[tuple[str, str, Any]]:
    watcher = Watcher(MonitorsConfig(), repeat=True)
    for event in run.events(base_rate):
        watcher.see(event)
    return [(v.name, v.severity, v.epoch) for v in watcher.verdicts]


def test_the_events_of_an_epoch() -> None:
    test, validation, *_ = events(COLLAPSED)
    assert test == {
        "event": "test_every_epoch",
        "epoch": 1,
        "loss": 0.0413758,
        "accuracy": 3817 / 6026,
        "num_windows": 6026,
        "rain_share": 3817 / 6026,
        "rain_share_source": "identical counts",
        "share_is_assumed": True,
    }
    assert validation == {
        "event": "validation",
        "epoch": 1,
        "loss": 0.0392924,
        "accuracy": 4160 / 6025,
        "num_windows": 6025,
        "rain_share": 4160 / 6025,
        "rain_share_source": "identical counts",
        "share_is_assumed": True,
        "train_loss": None,
        "seconds": 3897.7179651260376,
    }
    assert [event["event"] for event in events(COLLAPSED)] == ["test_every_epoch", "validation"] * 2
    assert only(COLLAPSED).epochs[1].stopping == (1, 8)


def test_openltm_s_own_lines_say_the_same() -> None:
    named, printed = events(COLLAPSED), events(AS_PRINTED)
    losses = [event.pop("train_loss") for event in printed if event["event"] == "validation"]
    assert losses == [0.0401, 0.0399]
    for event in named:
        event.pop("train_loss", None)
    assert printed == named
    assert signs(only(AS_PRINTED)) == signs(only(COLLAPSED))
    train = "Train Accuracy: 71.43% (5/7)\n"
    assert events(AS_PRINTED.replace("   Acc", train + "   Acc")) == events(AS_PRINTED)


COLLAPSE = [("collapse", "suspected", 1), ("collapse", "certain", 2)]


def test_a_collapse_is_suspected_at_once_and_certain_at_the_second_epoch() -> None:
    found = signs(only(COLLAPSED))
    assert [sign for sign in found if sign[0] == "collapse"] == COLLAPSE
    assert {sign[:2] for sign in found} - {sign[:2] for sign in COLLAPSE} == {
        ("divergence", "suspected")
    }


def decorated(text: str, between: str, before: str = "", after: str = "", end: str = "\n") -> str:
    lines = [f"{before}{line}{after}" for line in text.splitlines() if line]
    return "".join(f"{between}{line}{end}" for line in lines)


NOISE = "\titers: 100, epoch: 1 | loss: 0.0398112 | acc: 68.75%\n\tspeed: 1.85s/iter; left: 9s\n"


@pytest.mark.parametrize(
    "text",
    [
        COLLAPSED.replace("\n", "\r\n"),
        decorated(COLLAPSED, between=NOISE * 300),
        decorated(COLLAPSED, "", before="\x1b[32m✅ ", after="\x1b[0m 🎉"),
        decorated(COLLAPSED, "", before="2025-10-13 04:46:34,123 INFO run.py: "),
        decorated(COLLAPSED, "", before='      "', after='\\n",'),  # cells of a notebook
        decorated(COLLAPSED, between="\r 50%|██▌  | 1/2 [00:01<00:01]\r100%|█████| 2/2 [00:02]"),
        decorated(COLLAPSED, between="100%|█████| 2/2 [00:02<00:00,  1.85s/it]\r"),
        COLLAPSED.replace("Accuracy:", "\x1b[1mAccuracy\x1b[0m:").replace("Val ", "VALI "),
        COLLAPSED.replace("Val ", "Validation ").replace("Epoch ", "Epoch: "),
        COLLAPSED + COLLAPSED[COLLAPSED.index("Val", 300) :],  # printed twice
        COLLAPSED + "✅ Accuracy: 63.34%\n📈 Precision: 0.6334\nTrain Accuracy: 71.43% (5/7)\n",
    ],
)
def test_what_surrounds_the_lines_does_not_disturb(text: str) -> None:
    assert events(text) == events(COLLAPSED)


def test_an_epoch_that_does_not_grow_is_a_new_run() -> None:
    runs, notes = read(COLLAPSED + AS_PRINTED + COLLAPSED[COLLAPSED.index("Epoch 2") :])
    assert notes == []
    assert [[epoch.number for epoch in run.epochs] for run in runs] == [[1, 2], [1, 2], [2]]
    gap = COLLAPSED.replace("Epoch 2", "Epoch 7")
    assert [[epoch.number for epoch in run.epochs] for run in read(gap)[0]] == [[1, 7]]


def test_a_summary_alone_names_an_epoch() -> None:
    lines = "Epoch: {0}, Steps: 9 | Train Loss: 0.{1} Vali Loss: 0.{0} Test Loss: 0.9\n"
    text = "".join(lines.format(n, 9 - n) for n in (1, 2, 3, 4))
    assert [(e.number, e.loss["train"]) for e in only(text).epochs] == [
        (1, 0.8),
        (2, 0.7),
        (3, 0.6),
        (4, 0.5),
    ]
    assert signs(only(text)) == [("overfitting", "certain", 4)]
    assert [len(run.epochs) for run in read(text + text)[0]] == [4, 4]
    twice = "".join(lines.format(1, loss) for loss in (8, 7))
    assert [run.epochs[0].loss["train"] for run in read(twice)[0]] == [0.8, 0.7]
    # Accuracies come before the summary that names their epoch.
    text = "".join(line for line in AS_PRINTED.splitlines(True) if "cost time" not in line)
    assert signs(only(text)) == signs(only(COLLAPSED))


def with_counts(*epochs: tuple[int, int]) -> str:
    """Epochs with these right answers of 1,000 in validation and of 1,000 in test."""
    return "".join(
        f"Epoch: {n} cost time: 9\n"
        f"Val Accuracy: {validation / 10:.2f}% ({validation}/1000)\n"
        f"Test Accuracy: {test / 10:.2f}% ({test}/1000)\n"
        for n, (validation, test) in enumerate(epochs, start=1)
    )


@pytest.mark.parametrize(
    ("epochs", "collapsed"),
    [
        ([(700, 650), (700, 650)], [("suspected", 1), ("certain", 2)]),
        ([(700, 650), (700, 651)], []),  # the counts of both must be the same
        ([(700, 650), (701, 650)], []),
        ([(700, 650), (720, 640), (700, 650)], []),  # and in two epochs in a row
        # All epochs of the run with that count, once it has been found.
        (
            [(700, 640), (720, 640), (700, 650), (700, 650)],
            [("suspected", 1), ("suspected", 3), ("certain", 4)],
        ),
        ([(300, 350), (300, 350)], [("suspected", 1), ("certain", 2)]),  # always the smaller class
    ],
)
def test_the_share_of_the_larger_class_from_identical_counts(
    epochs: list[tuple[int, int]], collapsed: list[tuple[str, int]]
) -> None:
    found = signs(only(with_counts(*epochs)))
    assert [sign[1:] for sign in found if sign[0] == "collapse"] == collapsed


def test_validation_alone_is_not_enough() -> None:
    text = "".join(line for line in COLLAPSED.splitlines(True) if "Test Acc" not in line)
    assert shares(text) == [(None, None)] * 2


def test_percent_alone_is_no_count() -> None:
    text = re.sub(r" \(\d+/\d+\)", "", COLLAPSED)
    assert [event["accuracy"] for event in events(text)] == pytest.approx([0.6334, 0.6905] * 2)
    assert not any("num_windows" in event or "rain_share" in event for event in events(text))
    # With the base rate given, half of the last digit decides.
    assert signs(only(text), BaseRate(0.69046))[0] == COLLAPSE[0]
    assert "collapse" not in {sign[0] for sign in signs(only(text), BaseRate(0.6904))}


def shares(text: str, base_rate: BaseRate | None = None) -> list[tuple[Any, Any]]:
    found = [event for event in events(text, base_rate) if event["event"] == "validation"]
    return [(event.get("rain_share"), event.get("rain_share_source")) for event in found]


def test_a_class_distribution_counts_where_it_adds_up() -> None:
    line = "[VAL]   Class distribution: No Rain={}, Rain={}   # 28% / 72% ⚠️\n"
    text = with_counts((700, 650), (700, 650))
    fitting, users = line.format(290, 710), line.format(2490, 6415)
    assert shares(fitting + text) == [(0.71, "class distribution")] * 2
    assert shares(text + fitting) == [(0.71, "class distribution")] * 2
    assert shares(users + text) == [(0.7, "identical counts")] * 2
    assert shares(fitting + users + text) == [(0.71, "class distribution")] * 2
    later = fitting + line.format(280, 720)  # as when a run is taken up again
    assert shares(later + text) == [(0.72, "class distribution")] * 2
    assert shares(fitting.replace("VAL", "TRAIN") + text) == [(0.7, "identical counts")] * 2
    assert shares(fitting + text, BaseRate(0.72)) == [(0.72, "given")] * 2
    # What comes before the epochs of a run is that run's.
    runs, _ = read(fitting + text + line.format(400, 600) + text)
    found = [next(event for event in run.events() if "train_loss" in event) for run in runs]
    assert [event["rain_share"] for event in found] == [0.71, 0.6]
    test = next(iter(only("[TEST] Class distribution: No Rain=350, Rain=650\n" + text).events()))
    assert (test["rain_share"], test["rain_share_source"]) == (0.65, "class distribution")


@pytest.mark.parametrize(
    ("given", "rounding", "used"),
    [
        (0.7, 0.005, 0.704),  # the counts that repeat go first,
        (0.3, 0.005, 0.296),  # of whichever class,
        (0.698, 0.0005, 0.698),  # then the first that fits,
        (0.69, 0.005, 0.69),  # and what fits none stays as it is
        (0.7, 0.0, 0.7),
    ],
)
def test_a_rounded_base_rate_is_sharpened_by_the_counts(
    given: float, rounding: float, used: float
) -> None:
    text = with_counts((698, 650), (702, 650), (704, 650), (704, 650))
    assert shares(text, BaseRate(given, rounding)) == [(pytest.approx(used), "given")] * 4


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("Val Accuracy: 69.05% (4160/60", "line 1 is not understood: "),  # cut off
        ("Val Accuracy: 69.", "line 1 is not understood: "),
        ("Val Accuracy: 69.05% (4860/6025)", "line 1 is not understood: "),  # 80.66 %
        ("Val Accuracy: 169.05%", "line 1 is not understood: "),
        ("Val Accuracy: 0.00% (0/0)", "line 1 is not understood: "),
        ("Val Accuracy: 110.00% (11/10)", "line 1 is not understood: "),
        ("Val Accuracy: 100.00% (100001/100000)", "line 1 is not understood: "),
        ("Vali Loss: 0.0x", "line 1 is not understood: "),
        ("Epoch 1 cost time: ", "line 1 is not understood: "),
        ("Val Accuracy: 69.05% (4160/6025)", "line 1 has scores, but no line names their epoch"),
        ("Vali Loss: 0.03", "line 1 has scores, but no line names their epoch"),
    ],
)
def test_damaged_lines_are_named(line: str, note: str) -> None:
    runs, notes = read(line)
    assert runs == []
    assert [text[: len(note)] for text in notes] == [note]
    assert notes[0].endswith("left out.")
    assert read(COLLAPSED + COLLAPSED.replace("Epoch 1", "Epoch 3", 1))[1] == []


def test_scores_whose_epoch_is_lost_go_to_no_other() -> None:
    lines = with_counts((750, 700), (650, 600), (760, 710)).splitlines(True)
    for damage in ("Epach: 2\n", "Epoch: 2 cost time: xx\n"):
        runs, notes = read("".join([*lines[:3], damage, *lines[4:]]))
        assert [e.number for run in runs for e in run.epochs] == [1, 3]
        assert [e.counts("validation") for e in runs[0].epochs] == [(750, 1000), (760, 1000)]
        assert "line 5 has scores, but no line names their epoch; left out." in notes


def test_the_same_scores_again_are_not_those_of_the_epoch_before() -> None:
    lines = with_counts((700, 650), (700, 650)).splitlines(True)
    _, notes = read("".join([*lines[:3], "Epoch: 2 cost time: xx\n", *lines[4:]]))
    assert "line 5 has scores, but no line names their epoch; left out." in notes


def test_more_than_two_nameless_accuracies_are_not_guessed_at() -> None:
    """Two processes print two each, and nothing says whose is which."""
    line = "   Accuracy: 69.05% (4160/6025)\n"
    runs, notes = read(AS_PRINTED.replace(line, line * 2))
    assert [epoch.accuracy for epoch in runs[0].epochs] == [{}, {}]
    assert len(notes) == 2
    assert "epoch 1 has 3 accuracies without a name" in notes[0]
    assert [event["loss"] for event in runs[0].events()][:2] == [0.0413758, 0.0392924]


def test_many_damaged_lines_are_counted() -> None:
    _, notes = read("Val Accuracy: ?\n" * 1000)
    assert len(notes) == 6
    assert notes[-1] == "1000 lines or parts in all were left out so."


def test_an_excerpt_holds_nothing_that_a_terminal_obeys() -> None:
    _, (note,) = read("\x1b]0;title\x07\x1b[2J\x1b(B\x9bVal Accuracy: \x08\x07 none" + "x" * 500)
    assert note.isprintable()
    assert len(note) < 130
