"""Console logs as people have them: other libraries, several processes, rounded, cut, encoded.

All numbers are invented; the lines are laid out as Time-Series-Library and OpenLTM print them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from timerxl.config import InputError, MonitorsConfig
from timerxl.training.monitors.history import History, Scores
from timerxl.training.monitors.openltm_log import BaseRate
from timerxl.training.monitors.replay import Diagnosis, diagnose
from timerxl.training.monitors.rules import stagnation

CASES = Path(__file__).resolve().parents[4] / "shared" / "data" / "cases" / "logs"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are absent")

Read = Callable[[str | bytes], Diagnosis]
Sign = tuple[int, str, str, float | None]
Pairs = Sequence[tuple[float, float]]

STUCK: Pairs = [(0.692, 0.683)] * 8
LEARNS: Pairs = [(0.692, 0.683), (0.715, 0.7), (0.731, 0.72), (0.731, 0.725), (0.744, 0.735)]
COLLAPSE = [(1, "collapse", "suspected", 1.0)] + [
    (1, "collapse", "certain", float(epoch)) for epoch in range(2, 9)
]
STAGNATION = [(1, "stagnation", "certain", float(epoch)) for epoch in range(3, 9)]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def call(text: str | bytes) -> Diagnosis:
        path = tmp_path / "console.log"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return diagnose(path)

    return call


def signs(found: Diagnosis) -> list[Sign]:
    """(run, name, severity, epoch) of every finding, the certain ones last."""
    rows = [(f.run, f.verdict.name, f.verdict.severity, f.verdict.epoch) for f in found.findings]
    return sorted(rows, key=lambda row: (row[0], row[1], row[2] == "certain", row[3] or 0))


def is_collapsed(found: Diagnosis) -> bool:
    """One run, suspected at epoch 1 and certain at all others, as the monitors do."""
    return found.num_runs == 1 and signs(found) == COLLAPSE + STAGNATION


def classification(
    accuracies: Pairs, shape: str = "{:.3f}", seed: int = 0, name: str = "rain_0"
) -> list[str]:
    """Lines of a classification run of Time-Series-Library."""
    dice = random.Random(seed)
    lines = ["Use GPU: cuda:0", f">>>>>>>start training : {name}>>>>>>>>>>>>>", "218", "204"]
    for epoch, (validation, test) in enumerate(accuracies, start=1):
        loss = 0.651 if accuracies is STUCK else 0.65 - 0.02 * epoch
        lines += [
            f"\titers: 100, epoch: {epoch} | loss: {dice.uniform(0.5, 0.7):.7f}",
            f"\tspeed: {dice.uniform(0.02, 0.03):.4f}s/iter; left time: 38.6828s",
            f"Epoch: {epoch} cost time: {dice.uniform(5, 6):.13f}",
            f"Epoch: {epoch}, Steps: 220 | Train Loss: {0.66 - 0.002 * epoch:.3f} "
            f"Vali Loss: {loss:.3f} Vali Acc: {shape.format(validation)} "
            f"Test Loss: {loss + 0.009:.3f} Test Acc: {shape.format(test)}",
            "Validation loss decreased (inf --> -0.692000).  Saving model ..."
            if epoch == 1
            else f"EarlyStopping counter: {epoch - 1} out of 10",
        ]
    return [*lines, f">>>>>>>testing : {name}<<<<<<<<<<<<", "accuracy:0.6833333333333333"]


def forecast(losses: Sequence[tuple[str, str, str]], with_train: bool = True) -> list[str]:
    """Lines of a forecasting run: train, validation and test loss of every epoch."""
    lines = [">>>>>>>start training : forecast_0>>>>>>>>>>>>>"]
    for epoch, (train, validation, test) in enumerate(losses, start=1):
        beside = f"Train Loss: {train} " if with_train else ""
        lines += [
            f"\titers: 100, epoch: {epoch} | loss: {train}",
            f"Epoch: {epoch} cost time: 71.81",
            f"Epoch: {epoch}, Steps: 123 | {beside}Vali Loss: {validation} Test Loss: {test}",
        ]
    return lines


def text(lines: Sequence[str], end: str = "\n") -> str:
    return "".join(line + end for line in lines)


def merged(processes: Sequence[Sequence[str]], dice: random.Random) -> list[str]:
    """The lines of each process in their order, in any order between processes."""
    left = [list(lines) for lines in processes]
    rows = []
    while any(left):
        rows.append(dice.choice([lines for lines in left if lines]).pop(0))
    return rows


# ---- Time-Series-Library


def test_an_accuracy_that_never_changes_is_a_collapse(read: Read) -> None:
    found = read(text(classification(STUCK)))
    assert is_collapsed(found)
    assert found.num_evaluations == 8
    first = found.findings[0].verdict
    assert first.explanation == "accuracy 69.20% does not change, as if one class were forecast."
    assert first.evidence["rain_share"] == 0.692
    assert first.evidence["always_rain_f1"] == pytest.approx(2 * 0.692 / 1.692)
    assert "epochs 1 to 8 have the same accuracy in validation, and the same in test" in str(
        found.notes
    )


@pytest.mark.parametrize(
    "accuracies",
    [
        LEARNS,
        [(0.6, 0.59), (0.7, 0.71), (0.78, 0.77), (0.78, 0.772), (0.78, 0.769)],  # a plateau,
        [(0.6, 0.6), (0.7, 0.7), (0.78, 0.78), (0.78, 0.78), (0.78, 0.78)],  # test is validation
        [(0.6, 0.59), (0.7, 0.71)] + [(0.78, 0.77)] * 4,  # near its end it changes by less
    ],
)
def test_a_healthy_run_is_not_called_bad(read: Read, accuracies: Pairs) -> None:
    for processes in (1, 2):
        lines = [line for line in classification(accuracies) for _ in range(processes)]
        found = read(text(lines))
        assert (found.num_runs, signs(found)) == (1, [])


def test_a_collapse_after_the_start(read: Read) -> None:
    lines = classification([(0.72, 0.71), (0.74, 0.73)] + [(0.692, 0.683)] * 3)
    assert [sign for sign in signs(read(text(lines))) if sign[1] == "collapse"] == [
        (1, "collapse", "suspected", 3.0),
        (1, "collapse", "certain", 4.0),
        (1, "collapse", "certain", 5.0),
    ]


@pytest.mark.parametrize(
    ("shape", "factor"),
    [
        ("{:.3f}", 1),
        ("{:.4f}", 1),
        ("{}", 1),
        ("{:.1f}", 100),
        ("{:.1f}%", 100),
        ("{:.2f} %", 100),
        ("{:.2f}", 1),  # two decimals are seen after more epochs
        ("{:.0f}%", 100),
    ],
)
def test_an_accuracy_is_a_share_or_percent(read: Read, shape: str, factor: float) -> None:
    lines = classification(STUCK)
    for value in (0.692, 0.683):
        printed = shape.format(value * factor)
        lines = [line.replace(f"Acc: {value}", f"Acc: {printed}") for line in lines]
    found = read(text(lines))
    assert is_collapsed(found)
    expected = 0.69 if shape in ("{:.2f}", "{:.0f}%") else 0.692
    assert found.findings[0].verdict.evidence["accuracy"] == pytest.approx(expected, abs=1e-9)


def test_few_digits_need_more_epochs(read: Read) -> None:
    for count, expected in ((3, False), (5, True)):
        lines = classification([(0.69, 0.68)] * count, shape="{:.2f}")
        assert any(sign[1] == "collapse" for sign in signs(read(text(lines)))) == expected
    assert signs(read(text(classification([(0.7, 0.6)] * 3, shape="{:.1f}")))) != []  # 10 points
    assert signs(read(text(classification([(0.7, 0.7)] * 30, shape="{:.1f}")))) == []


@pytest.mark.parametrize(
    "line",
    [
        "Epoch: {n} Steps: 220 | Train Loss: 0.65{n} Vali Loss: 0.651 Vali Acc: 0.692 "
        "Test Loss: 0.660 Test Acc: 0.683",
        "Epoch {n}/8 | Train Loss: 0.65{n} | Vali Loss: 0.651 | Vali Acc: 0.6920 | "
        "Test Acc: 0.6830 | Vali F1: 0.81{n}",
        " Epoch: {n}, cost time: 5.3{n} | Train Loss: 0.65{n}\tVali Loss: 0.651\tVali Acc: 0.692\t"
        "Test Loss: 0.660\tTest Acc: 0.683",
        "[epoch {n}/8, train loss: 0.65{n}, vali loss: 0.651, vali f1: 0.8{n}, vali acc: 0.692]",
        "Epoch: {n}, Steps: 220 | Train Loss: 0.65{n} Vali Loss: 0.651 Vali Acc: 0.692",
        "Epoch: {n}, | Train Loss: 0.65{n} Vali Loss: 0.651\n"
        "Epoch: {n}, | Train Acc: 0.70{n} Vali Acc: 0.692",
        "Epoch {n} - val_loss=0.651 - val_accuracy=0.692 - test_accuracy=0.683",
        "Epoch: {n} cost time: 5.3{n}\nAccuracy: 0.6920\nAccuracy: 0.6830\n"
        "Epoch: {n}, Steps: 220 | Vali Loss: 0.651 Test Loss: 0.660",
        # Two of scikit-learn's reports, of validation and of test.
        "Epoch: {n} cost time: 5.3{n}\n"
        "           1       0.69      1.00      0.82       141\n"
        "    accuracy                           0.69       204\n"
        "   macro avg       0.35      0.50      0.41       204\n"
        "    accuracy                           0.68       218\n"
        "Epoch: {n}, Steps: 220 | Vali Loss: 0.651 Test Loss: 0.660",
    ],
)
def test_forks_print_it_in_their_own_way(read: Read, line: str) -> None:
    assert is_collapsed(read(text([line.format(n=n) for n in range(1, 9)])))


def test_what_is_printed_at_the_end_is_no_epoch(read: Read) -> None:
    lines = [
        "Best epoch: 3, Vali Loss: 0.6, Vali Acc: 0.731",
        "loading best model of epoch 3 | Vali Acc: 0.731",
        "best_val_loss: inf",
        "Accuracy : 0.6833, Precision : 0.7, Recall : 0.7, F-score : 0.7",
    ]
    found = read(text([*classification(LEARNS), *lines]))
    assert (found.num_runs, found.num_evaluations, signs(found)) == (1, 5, [])


def test_test_is_judged_where_nothing_else_is_scored(read: Read) -> None:
    left_out = "Vali Loss: 0.651 Vali Acc: 0.692 "
    found = read(text([line.replace(left_out, "") for line in classification(STUCK)]))
    assert is_collapsed(found)
    assert found.findings[0].verdict.evidence["accuracy"] == 0.683
    assert found.notes[0].startswith("the log holds no validation: the scores of test are judged")


def test_always_right_is_no_collapse(read: Read) -> None:
    found = read(text(classification([(1.0, 1.0)] * 8)))
    assert (found.num_evaluations, signs(found)) == (8, [])


def test_losses_alone(read: Read) -> None:
    falling = [(f"{0.35 - n / 100:.7f}", f"{0.36 - n / 100:.7f}", "0.4") for n in range(5)]
    found = read(text(forecast(falling)))
    assert (found.num_runs, found.num_evaluations, signs(found)) == (1, 5, [])
    assert found.notes == [
        "the log holds no accuracy: only overfitting and losses that are NaN or infinite can be "
        "seen."
    ]
    rising = [(train, f"{0.36 + n / 100:.7f}", "0.4") for n, (train, _, _) in enumerate(falling)]
    assert signs(read(text(forecast(rising)))) == [
        (1, "overfitting", "certain", 4.0),
        (1, "overfitting", "certain", 5.0),
    ]


# ---- NaN


@pytest.mark.parametrize("value", ["nan", "NaN", "NAN", "-nan", "inf", "-inf", "Infinity"])
def test_a_loss_that_is_no_number_is_certain(read: Read, value: str) -> None:
    good = ("0.3441", "0.3000000", "0.3200000")
    for bad in ((value, value, value), ("0.3", value, "0.3"), ("0.3", "0.3", value)):
        found = read(text(forecast([good, bad, bad])))
        assert signs(found) == [(1, "nonfinite", "certain", 2.0)]
        assert found.findings[0].times == 2
    # OpenLTM prints no training loss, and only the steps may show it, also where the log ends.
    for lines in (
        forecast([good, (value, "0.3", "0.3")], with_train=False),
        forecast([good, (value, "0.3", "0.3")], with_train=False)[:-2],
    ):
        found = read(text(lines))
        assert signs(found) == [(1, "nonfinite", "certain", 2.0)]
        assert "(training step)" in found.findings[0].verdict.explanation
    assert signs(read(f"\titers: 100, epoch: 1 | loss: {value}\n")) == [
        (1, "nonfinite", "certain", 1.0)
    ]


def test_one_process_that_is_nan_is_enough(read: Read) -> None:
    good, bad = [("0.3", "0.3", "0.3")] * 2, [("0.3", "0.3", "0.3"), ("nan", "0.3", "0.3")]
    lines = [
        f"[rank{rank}]: {line}"
        for pair in zip(forecast(good), forecast(bad), strict=True)
        for rank, line in enumerate(pair)
    ]
    found = read(text(lines))
    assert (found.num_runs, signs(found)) == (1, [(1, "nonfinite", "certain", 2.0)])


# ---- several processes, several runs


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("prefix", ["", "[rank{}]: ", "[default{}]:", "{}: ", "[1,{}]<stdout>:"])
def test_processes_that_print_at_once_are_one_run(read: Read, count: int, prefix: str) -> None:
    processes = [
        [prefix.format(rank) + line for line in classification(STUCK, seed=rank)]
        for rank in range(count)
    ]
    side_by_side = [line for lines in zip(*processes, strict=True) for line in lines]
    for lines in (side_by_side, *(merged(processes, random.Random(seed)) for seed in range(5))):
        found = read(text(lines))
        assert is_collapsed(found)
        assert found.num_evaluations == 8
        assert f"{count} processes printed it; the numbers are of one." in found.notes


def test_the_same_line_again_and_prints_on_one_line(read: Read) -> None:
    lines = classification(STUCK)
    assert is_collapsed(read(text([line for line in lines for _ in range(2)])))
    glued = "".join(f"{line}{line}\n\n" for line in lines)
    assert is_collapsed(read(glued))
    bare = [line for line in lines if "Steps" in line]  # the summaries alone
    assert is_collapsed(read(text([line for line in bare for _ in range(2)])))


NAMED = [
    "Epoch {n} cost time: 860.08 (14.33 min)",
    "Val Accuracy: 69.05% (4160/6025)",
    "Test Accuracy: 66.34% (3998/6026)",
    "Vali Loss: 0.035{n}, Test Loss: 0.032{n}",
]
UNNAMED = [
    "Epoch: {n} cost time: 860.08",
    "   Accuracy: 69.05% (4160/6025)",
    "   Accuracy: 66.34% (3998/6026)",
    "Epoch: {n}, Steps: 2103 | Vali Loss: 0.035{n} Test Loss: 0.032{n}",
]


@pytest.mark.parametrize("lines", [NAMED, UNNAMED])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_accuracies_on_lines_of_their_own(read: Read, count: int, lines: list[str]) -> None:
    """Nothing but their order says whose they are; the processes wait for each other to train."""
    for seed in range(10):
        dice, rows = random.Random(seed), list[str]()
        for n in (1, 2, 3):
            rows += merged([[line.format(n=n) for line in lines]] * count, dice)
        found = read(text(rows))
        assert (found.num_runs, found.num_evaluations) == (1, 3)
        assert signs(found) == [*COLLAPSE[:3], STAGNATION[0]]
        assert found.findings[0].verdict.evidence["num_windows"] == 6025


def test_ranks_that_follow_each_other_are_one_run(read: Read) -> None:
    """As where each process writes when it ends."""
    two = [*classification(STUCK), *classification(LEARNS)]
    ranks = [[f"[rank{rank}]: {line}" for line in two] for rank in range(3)]
    found = read(text([line for lines in ranks for line in lines]))
    assert found.num_runs == 2
    assert [sign for sign in signs(found) if sign[0] == 1] == COLLAPSE + STAGNATION
    assert {sign[0] for sign in signs(found)} == {1}


def test_processes_that_score_differently(read: Read) -> None:
    processes = [classification([(0.692 + rank / 1000, 0.683)] * 8, seed=rank) for rank in range(4)]
    ranked = [[f"[rank{rank}]:{line}" for line in lines] for rank, lines in enumerate(processes)]
    found = read(text(merged(ranked, random.Random(0))))
    assert found.findings[0].verdict.evidence["accuracy"] == 0.692  # that of rank 0
    assert [sign for sign in signs(found) if sign[1] == "collapse"] == COLLAPSE
    found = read(text([line for lines in zip(*processes, strict=True) for line in lines]))
    assert found.num_runs == 1
    assert "they differ, and no rank stands before a line" in found.notes[0]


def test_only_the_main_process_prints_epochs(read: Read) -> None:
    """As OpenLTM does: all say that they start and stop, one says what it scored."""
    start, *rest = forecast([("0.3", "0.30", "0.3"), ("0.3", "0.31", "0.3")], with_train=False)
    lines = [start] * 4 + rest + ["EarlyStopping counter: 1 out of 3"] * 4
    assert read(text(lines)).num_runs == 1
    assert read(text(lines * 3)).num_runs == 3


def test_runs_one_after_the_other(read: Read) -> None:
    first, second = classification(STUCK), classification(LEARNS, name="rain_1")
    stopped = classification(STUCK, name="rain_2")[:-20]  # in the middle of an epoch
    for count in (1, 2):
        lines = [line for line in [*first, *second, *stopped] for _ in range(count)]
        found = read(text(lines))
        assert found.num_runs == 3
        assert {sign[0] for sign in signs(found)} == {1, 3}
        assert [sign for sign in signs(found) if sign[0] == 1] == COLLAPSE + STAGNATION
    no_marks = [line for line in [*first, *second, *first] if ">>>" not in line]
    assert read(text(no_marks)).num_runs == 3


# ---- what surrounds the lines


@pytest.mark.parametrize(
    "prefix",
    [
        "2025-10-13 04:46:34,123 - INFO - ",
        "[2025-10-13 04:46:34] ",
        "INFO:root:",
        "I1013 04:46:34.123 run.py:12] ",
        "(pid=123) ",
        "100%|█████| 2/2 [00:02<00:00,  1.85s/it]",
        "100%|█████| 2/2 [00:02<00:00,  1.85s/it]\r",
        "\x1b[32m",
    ],
)
def test_prefixes(read: Read, prefix: str) -> None:
    assert is_collapsed(read(text([prefix + line for line in classification(STUCK)])))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-8-sig", "训练开始"),
        ("utf-16", "训练开始"),
        ("gbk", "训练开始，请稍候"),
        ("big5", "開始訓練"),
        ("cp932", "学習を開始します"),
        ("latin-1", "época é"),
        ("cp1251", "Обучение начинается"),
    ],
)
def test_encodings_and_line_ends(read: Read, encoding: str, words: str, end: str) -> None:
    lines = [words * 9] * 40 + [words + " " + line for line in classification(STUCK)]
    assert is_collapsed(read(text(lines, end).encode(encoding)))


def test_utf_16_after_other_text(read: Read) -> None:
    """As PowerShell appends to a file that it did not begin."""
    lines, noise = classification(STUCK), text(["\tspeed: 0.0294s/iter; left time: 9s"] * 200)
    start, rest = text(lines[:24]), text(lines[24:], "\r\n")
    assert is_collapsed(read((noise + start).encode() + rest.encode("utf-16-le")))


# ---- cut off


def test_a_log_that_is_cut_anywhere_never_makes_a_healthy_run_bad(read: Read) -> None:
    whole = text(classification(LEARNS))
    for end in range(whole.index("Epoch: 1 cost time: 5") + 21, len(whole) + 1, 3):
        found = read(whole[:end])
        assert (found.num_runs, signs(found)) == (1, []), whole[:end][-60:]


def test_a_number_that_is_cut_is_left_out(read: Read) -> None:
    whole = text(classification(LEARNS))
    found = read(whole[: whole.index("Vali Acc: 0.744") + len("Vali Acc: 0.7")])
    assert "epoch 5: no validation accuracy; is the log cut off?" in found.notes
    found = read(whole[: whole.index("Vali Acc: 0.744") + len("Vali Acc: 0.744")])
    assert "epoch 5: no validation accuracy; is the log cut off?" not in found.notes


@pytest.mark.parametrize("content", [b"", "\ufeff".encode(), b"\r\n\r\n", b"Use GPU: cuda:0\n"])
def test_nothing_to_judge(read: Read, content: bytes) -> None:
    with pytest.raises(InputError, match="Time-Series-Library run"):
        read(content)


# ---- the base rate


def test_a_given_base_rate_is_compared_as_far_as_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_text(text(classification([(0.690, 0.7), (0.690, 0.71)])))
    for share, expected in ((4160 / 6025, True), (0.6906, False)):  # 69.046 % is printed as 0.690
        names = {sign[1] for sign in signs(diagnose(path, BaseRate(share)))}
        assert ("collapse" in names) == expected


# ---- the cases from public reports


@needs_cases
def test_the_classification_cases() -> None:
    for name in ("tsl_classification_collapsed.txt", "tsl_ddp_twice.txt"):
        found = diagnose(CASES / name)
        assert is_collapsed(found), name
        assert found.num_evaluations == 8


@needs_cases
def test_the_nan_cases() -> None:
    for name in ("openltm_two_runs_nan.txt", "openltm_two_runs_nan_crlf_gbk.txt"):
        found = diagnose(CASES / name)
        assert (found.num_runs, found.num_evaluations) == (2, 6)
        assert signs(found) == [(2, "nonfinite", "certain", 1.0)], name
        assert found.findings[0].times == 3


# ---- what the monitors make of rounded accuracies


@pytest.mark.parametrize(
    ("rounding", "is_unchanged", "expected"),
    [(None, False, True), (5e-5, False, True), (5e-4, False, False), (5e-4, True, True)],
)
def test_stagnation_is_not_seen_where_digits_may_hide_changes(
    rounding: float | None, is_unchanged: bool, expected: bool
) -> None:
    one = Scores(accuracy=0.692, accuracy_rounding=rounding, is_unchanged=is_unchanged)
    found = stagnation(History(evaluations=[one] * 3), MonitorsConfig())
    assert (found is not None) == expected


@pytest.mark.parametrize(
    ("scores", "tolerance"),
    [
        (Scores(), 5e-5),
        (Scores(num_windows=6025, accuracy_rounding=5e-4), 0.5 / 6025),
        (Scores(accuracy_rounding=5e-4), 5e-4),
        (Scores(accuracy_rounding=5e-3), 5e-4),  # coarser digits would fit any share
        (Scores(accuracy_rounding=5e-9), 5e-5),
    ],
)
def test_how_near_two_accuracies_are_the_same(scores: Scores, tolerance: float) -> None:
    assert scores.accuracy_tolerance == pytest.approx(tolerance, abs=1e-11)


def test_one_epoch_thousands_of_times_is_read_quickly(read: Read) -> None:
    started = time.perf_counter()
    assert read("Epoch: 1 cost time: 5.5" * 10_000).num_evaluations == 0
    assert time.perf_counter() - started < 20  # 1 s; with a search through all of them, minutes
