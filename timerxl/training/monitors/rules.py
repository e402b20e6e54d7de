"""Signs of a bad run: pure functions of the numbers so far, each a Verdict or nothing.

They look at the latest entry of a :class:`History` and, where the rule needs them, at those before.
The limits are the recipe's ``monitors:`` section. No torch here: the same lines watch a run and
replay a log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from timerxl.config import MonitorsConfig
from timerxl.training.monitors.history import History, Scores, StepNumbers

INFO, SUSPECTED, CERTAIN = "info", "suspected", "certain"
SEVERITIES = (INFO, SUSPECTED, CERTAIN)
SOME_RANKING = 0.6  # ROC-AUC from which moving the threshold helps
NO_RANKING = 0.05  # distance of ROC-AUC from 0.5 that may be none,
RANK_STD_ERRORS = 2.0  # and is none within this many of its standard errors
RANKS_NOTHING = "the forecasts rank nothing"
CONSECUTIVE_CHECKS = 3
STD_ERRORS = 3.0  # many evaluations of many runs are looked at: two would be passed by chance
EXPLODING = 100.0  # times the median gradient norm
SLOW_EPOCHS = 3
# fp16's loss scale halves at each skip: from 2^16 it is soon at 1, where DeepSpeed raises. We stop
# before that.
MOST_SKIPPED = 15


@dataclass(frozen=True)
class Verdict:
    """What a monitor says: which sign, how sure, on which numbers, and what to do.

    ``severity``: ``certain`` where the rule is met beyond doubt (only this stops a run),
    ``suspected`` where it is met but may have another cause, ``info`` for what is no fault.
    ``evidence`` holds the numbers the rule was met with.
    """

    name: str
    severity: str
    epoch: float | None
    step: int | None
    evidence: dict[str, Any]
    explanation: str
    remedy: str

    def sentence(self) -> str:
        """One paragraph for a terminal."""
        where = []
        if self.epoch is not None:
            where.append(f"epoch {self.epoch:.3g}")
        if self.step is not None:
            where.append(f"step {self.step}")
        when = f" at {', '.join(where)}" if where else ""
        return f"{self.name} ({self.severity}){when}: {self.explanation} {self.remedy}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verdict_at(
    name: str,
    severity: str,
    at: Scores | StepNumbers | None,
    evidence: Mapping[str, Any],
    explanation: str,
    remedy: str,
) -> Verdict:
    """Return a verdict on this evaluation or step."""
    epoch, step = (None, None) if at is None else (at.epoch, at.step)
    return Verdict(name, severity, epoch, step, dict(evidence), explanation, remedy)


def collapse(history: History, limits: MonitorsConfig) -> Verdict | None:
    """(Nearly) one class on validation, accuracy at the base rate, or no ranking at all.

    Certain at the second full evaluation in a row, or at the third in a row with the checks between
    evaluations, counted once the grace steps are over.
    """
    latest = history.latest
    if latest is None or (reason := collapsed(latest)) is None:
        return None
    names = "accuracy rain_share predicted_rain_share roc_auc logit_spread num_windows".split()
    evidence = {name: of for name in names if (of := getattr(latest, name)) is not None}
    if (floor := latest.always_rain_f1) is not None:
        evidence["always_rain_f1"] = floor
    auc = latest.roc_auc
    if auc is not None and auc > SOME_RANKING:
        threshold = latest.best_threshold
        where = f" A threshold of {threshold:.3f} separates best." if threshold else ""
        return verdict_at(
            "collapse",
            SUSPECTED,
            latest,
            evidence | ({"best_threshold": threshold} if threshold else {}),
            f"{reason}, but the ranking works (ROC-AUC {auc:.3f}): the threshold of 0.5 is "
            f"misplaced, not the model.{where}",
            "Move the threshold: eval.threshold=auto takes the best one on validation.",
        )
    grace = history.grace_steps
    past = [one for one in history.evaluations if one.step is None or one.step >= grace]
    recent = past[-CONSECUTIVE_CHECKS:]
    full = [one for one in past if not one.is_sample][-2:]
    often = len(recent) == CONSECUTIVE_CHECKS and all(map(collapsed, recent))
    twice = not latest.is_sample and len(full) == 2 and all(map(collapsed, full))
    ranking = "" if auc is None or "ROC-AUC" in reason else f" ROC-AUC {auc:.3f}: {_ranks(latest)}."
    if past[-1:] != [latest]:
        ranking += f" The first {grace} steps are a time of grace: no certainty yet."
    return verdict_at(
        "collapse",
        CERTAIN if often or twice else SUSPECTED,
        latest,
        evidence,
        f"{reason}.{ranking}",
        "Lower optim.lr, use loss.alpha=auto, and check labels and features with "
        "launch/prepare_data.py --audit.",
    )


def collapsed(scores: Scores) -> str | None:
    """Return why these scores are those of a collapsed model, or None."""
    share, base, accuracy = scores.predicted_rain_share, scores.rain_share, scores.accuracy
    if share is not None and scores.says_one_class:
        says = "rain" if share > 0.5 else "no rain"
        at = "" if base is None else f" while {base:.1%} of the windows have rain"
        return f'"{says}" for {max(share, 1 - share):.1%} of the windows{at}'
    if share is None and base is not None and accuracy is not None:
        tolerance = scores.accuracy_tolerance
        for which, part in (("larger", max(base, 1 - base)), ("smaller", min(base, 1 - base))):
            if abs(accuracy - part) <= tolerance and scores.share_is_assumed:
                if not (count := scores.num_windows):
                    return f"accuracy {accuracy:.2%} does not change, as if one class were forecast"
                return (
                    f"{round(accuracy * count):,} of {count:,} windows are right ({accuracy:.2%}) "
                    "in two epochs in a row, as if one class alone were forecast"
                )
            if abs(accuracy - part) <= tolerance:
                return f"accuracy {accuracy:.2%} is exactly the share of the {which} class"
    if _ranks(scores) == RANKS_NOTHING:
        windows = f" on {scores.num_windows:,} windows" if scores.num_windows else ""
        return f"no skill: ROC-AUC {scores.roc_auc:.3f}{windows}, the forecasts rank nothing"
    return None


def _ranks(scores: Scores) -> str | None:
    """Say what a ROC-AUC of SOME_RANKING or less means, as a clause; None where it is not known."""
    if scores.roc_auc is None:
        return None
    distance, error = scores.roc_auc - 0.5, scores.roc_auc_std_error
    within = NO_RANKING if error is None else min(NO_RANKING, RANK_STD_ERRORS * error)
    if abs(distance) < within:
        return RANKS_NOTHING
    if distance < 0:
        return "the forecasts rank the wrong way, as if the labels were inverted"
    return "the forecasts rank a little"


def stagnation(history: History, limits: MonitorsConfig) -> Verdict | None:
    """Accuracy and ROC-AUC the same in N full evaluations: the weights no longer matter."""
    count = limits.num_evaluations
    last = history.full[-count:]
    if len(last) < count or _is_check(history):
        return None
    accuracies = [scores.accuracy for scores in last]
    if None in accuracies:
        return None
    if _spread(accuracies) > last[-1].accuracy_tolerance:
        return None
    if any((s.accuracy_rounding or 0.0) > 5e-5 and not s.is_unchanged for s in last):
        return None  # so few digits hide small changes
    ranks = [scores.roc_auc for scores in last]
    if None not in ranks and _spread(ranks) > 1e-5:
        return None
    return verdict_at(
        "stagnation",
        CERTAIN,
        last[-1],
        {"accuracy": accuracies[-1], "evaluations": count},
        f"validation accuracy is {accuracies[-1]:.2%} in {count} evaluations in a row.",
        "The model no longer learns: look at optim.lr, at grad_norm in metrics.jsonl, and whether "
        "it has collapsed.",
    )


def oscillation(history: History, limits: MonitorsConfig) -> Verdict | None:
    """A jump of more than ``points`` between two full evaluations; a rise to a new best is none,
    unless it follows such a drop."""
    full = history.full
    if len(full) < 2 or _is_check(history):
        return None
    before, latest = full[-2], full[-1]
    if before.accuracy is None or latest.accuracy is None:
        return None
    jump = _points_apart(latest.accuracy, before.accuracy)
    known = [scores.accuracy for scores in full[:-1] if scores.accuracy is not None]
    dropped = any(_points_apart(a, b) > limits.points for a, b in pairwise(known))
    new_best = jump > 0 and latest.accuracy > max(known)
    if abs(jump) <= limits.points or (new_best and not dropped):
        return None
    error = _difference_error(before, latest)
    evidence = {"accuracy_before": before.accuracy, "accuracy": latest.accuracy, "points": jump}
    return verdict_at(
        "oscillation",
        _beyond(jump, error, latest),
        latest,
        evidence | _points(error),
        f"validation accuracy jumped by {jump:+.1f} points since the evaluation before "
        f"({before.accuracy:.2%} to {latest.accuracy:.2%}{_plus_minus(error)}).",
        "Lower optim.lr, or enlarge the batch with train.accumulation_steps.",
    )


def divergence(history: History, limits: MonitorsConfig) -> Verdict | None:
    """Validation and holdout (a log: test) more than ``points`` of accuracy apart.

    Only suspected where balanced accuracy agrees, or where validation shows a collapse: accuracy
    then follows the two class shares.
    """
    latest = history.full[-1] if history.full else None
    if latest is None or _is_check(history) or (other := history.elsewhere(latest)) is None:
        return None
    name, scores = other
    if latest.accuracy is None or scores.accuracy is None:
        return None
    gap = _points_apart(latest.accuracy, scores.accuracy)
    if abs(gap) <= limits.points:
        return None
    error = _difference_error(latest, scores)
    evidence: dict[str, object] = {
        "validation_accuracy": latest.accuracy,
        f"{name}_accuracy": scores.accuracy,
    }
    evidence |= {"points": gap} | _points(error)
    severity, balanced = _beyond(gap, error, latest), ""
    if latest.balanced_accuracy is not None and scores.balanced_accuracy is not None:
        fair = _points_apart(latest.balanced_accuracy, scores.balanced_accuracy)
        evidence["balanced_points"] = fair
        balanced = f"; balanced accuracy: {fair:+.1f} points"
        if abs(fair) <= limits.points:
            severity = SUSPECTED
    for key, found in (("validation", latest), (name, scores)):
        if found.rain_share is not None:
            evidence[f"{key}_rain_share"] = found.rain_share
    remedy = (
        "The periods differ or the model learned one of them by heart: more dropout, a smaller "
        "model, and a look at the audit."
    )
    if collapsed(latest) is not None:
        severity = SUSPECTED
        balanced += "; the model has collapsed, so both are class shares"
        remedy = "Mend the collapse first; the gap is that of the two periods' shares of rain."
    return verdict_at(
        "divergence",
        severity,
        latest,
        evidence,
        f"validation accuracy is {latest.accuracy:.2%}, {name} {scores.accuracy:.2%}: {gap:+.1f} "
        f"points apart{_plus_minus(error)}{balanced}.",
        remedy,
    )


def overfitting(history: History, limits: MonitorsConfig) -> Verdict | None:
    """Training loss falling while validation loss rises, N evaluations in a row."""
    last = history.full[-(limits.num_evaluations + 1) :]
    if len(last) <= limits.num_evaluations or _is_check(history):
        return None
    pairs = list(pairwise(last))
    rising = all(_less(a.loss, b.loss) for a, b in pairs)
    falling = all(_less(b.train_loss, a.train_loss) for a, b in pairs)
    if not (rising and falling):
        return None
    evidence = {
        "validation_loss": [scores.loss for scores in last],
        "train_loss": [scores.train_loss for scores in last],
    }
    return verdict_at(
        "overfitting",
        CERTAIN,
        last[-1],
        evidence,
        f"validation loss rose {limits.num_evaluations} times in a row ({last[0].loss:.4g} to "
        f"{last[-1].loss:.4g}) while training loss fell.",
        "The best model is kept; stop here, or train a smaller model with more dropout.",
    )


def _is_check(history: History) -> bool:
    return history.latest is not None and history.latest.is_sample


def _spread(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known)


def _less(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and a < b


def _points_apart(a: float, b: float) -> float:
    """Return a difference in points; 0.75 and 0.70 are 5 apart, not 5.000000000000004."""
    return round(100 * (a - b), 9)


def _difference_error(a: Scores, b: Scores) -> float | None:
    """Return the standard error of the difference of two accuracies, in points."""
    if a.std_error is None or b.std_error is None:
        return None
    return 100 * math.hypot(a.std_error, b.std_error)


def _beyond(points: float, error: float | None, at: Scores) -> str:
    """Return certain where a difference is more than three standard errors, else suspected.

    Where none is known it is certain for a log, whose user's rule is all there is, and suspected
    for a run, whose blocks of time were too few to tell.
    """
    if error is None:
        return CERTAIN if at.step is None else SUSPECTED
    return CERTAIN if abs(points) > STD_ERRORS * error else SUSPECTED


def _points(error: float | None) -> dict[str, object]:
    return {} if error is None else {"std_error_points": error}


def _plus_minus(error: float | None) -> str:
    return "" if error is None else f", standard error {error:.1f}"


def nonfinite(history: History, limits: MonitorsConfig) -> Verdict | None:
    """A loss or gradient norm that is NaN or infinite, or a norm far above those before it."""
    if not history.steps:
        return None
    now = history.steps[-1]
    evidence: dict[str, object] = {"loss": now.loss, "grad_norm": now.grad_norm}
    where = f" ({now.batch})" if now.batch else ""
    at = f"epoch {now.epoch:g}" if now.step is None else f"step {now.step}"
    kept = f" The newest checkpoint is {now.checkpoint}." if now.checkpoint else ""
    for name in ("batch", "checkpoint"):
        evidence |= {name: found} if (found := getattr(now, name)) else {}
    if now.skipped >= MOST_SKIPPED:
        return verdict_at(
            "nonfinite",
            CERTAIN,
            now,
            evidence | {"skipped_updates": now.skipped},
            f"fp16 has left out {now.skipped} updates in a row up to {at}: the "
            f"gradients are no numbers at any scale of the loss, and nothing is learned.{kept}",
            "Lower optim.lr, look for extreme values in the series, or use train.precision=fp32.",
        )
    for name, value in (("loss", now.loss), ("gradient norm", now.grad_norm)):
        if value is not None and not math.isfinite(value):
            return verdict_at(
                "nonfinite",
                CERTAIN,
                now,
                evidence,
                f"the {name} is {value} at {at}{where}.{kept}",
                "Lower optim.lr, or look for extreme values in these windows of the series.",
            )
    usual = usual_norm(history.steps[:-1])
    is_early = now.step is not None and now.step < history.grace_steps
    if usual is None or is_early or not explodes(now.grad_norm, usual):
        return None
    norm = float(now.grad_norm or 0.0)
    return verdict_at(
        "nonfinite",
        SUSPECTED,
        now,
        evidence | {"median_grad_norm": usual},
        f"the gradient norm exploded to {norm:.3g} at {at}, "
        f"{norm / usual:.0f} times its median{where}.{kept}",
        "It was clipped; if it comes again, lower optim.lr or look at these windows.",
    )


def usual_norm(steps: Sequence[StepNumbers]) -> float | None:
    """Return the median gradient norm of the 50 newest of these steps; None where under 20 are
    known."""
    norms = [step.grad_norm for step in steps[-50:] if step.grad_norm is not None]
    finite = [norm for norm in norms if math.isfinite(norm)]
    return max(median(finite), 1e-12) if len(finite) >= 20 else None


def explodes(norm: float | None, usual: float) -> bool:
    """Whether a gradient norm is far above the usual one."""
    return norm is not None and norm > EXPLODING * usual


def memory(history: History, limits: MonitorsConfig) -> Verdict | None:
    """Peak memory above ``memory_cap_gb`` (10^9 bytes)."""
    peak, cap = history.peak_memory_gb, limits.memory_cap_gb
    if peak is None or cap is None or peak <= cap:
        return None
    return verdict_at(
        "memory",
        CERTAIN,
        history.latest,
        {"peak_memory_gb": peak, "memory_cap_gb": cap},
        f"peak memory is {peak:.1f} GB, above the cap of {cap:g} GB.",
        f"python launch/plan.py --config RECIPE --fit {cap:g}GB finds settings that fit.",
    )


def slow(history: History, limits: MonitorsConfig) -> Verdict | None:
    """An epoch that will take ``slow_factor`` times what the plan said; certain the third time
    in a row, since a device may be shared for a while."""
    planned, recent = history.planned_epoch_seconds, history.epoch_seconds[-SLOW_EPOCHS:]
    if not planned or not recent or recent[-1] <= limits.slow_factor * planned:
        return None
    took = recent[-1]
    stays = len(recent) == SLOW_EPOCHS and min(recent) > limits.slow_factor * planned
    return verdict_at(
        "slow",
        CERTAIN if stays else SUSPECTED,
        history.latest,
        {"epoch_seconds": took, "planned_epoch_seconds": planned},
        f"an epoch takes {took / 60:.1f} minutes, {took / planned:.1f} times the planned "
        f"{planned / 60:.1f}.",
        "Is the device shared, throttled, or waiting for data (loading_seconds)?",
    )


def dead_input(history: History, limits: MonitorsConfig) -> Verdict | None:
    """A feature that never varies in training, or gradients of exactly zero ten steps long."""
    norms = [s.grad_norm for s in history.steps[-10:]]
    if len(norms) == 10 and all(norm == 0.0 for norm in norms):
        return verdict_at(
            "dead_input",
            CERTAIN,
            history.latest,
            {"grad_norm": 0.0, "steps": 10},
            "the gradient norm has been exactly zero for ten logged steps: nothing is learned.",
            "Is everything frozen, or are all inputs or activations dead?",
        )
    if not history.dead_features:
        return None
    names = ", ".join(history.dead_features)
    return verdict_at(
        "dead_input",
        SUSPECTED,
        history.latest,
        {"features": list(history.dead_features)},
        f"never varying in the training windows: {names}.",
        "Leave them out of data.features, or find out why they are constant.",
    )


def target(history: History, limits: MonitorsConfig) -> Verdict | None:
    """F1 above ``target_f1``, validation and holdout within ``target_points``."""
    latest = history.latest
    if latest is None or latest.is_sample or limits.target_f1 is None or latest.f1 is None:
        return None
    other = history.elsewhere(latest)
    if latest.f1 <= limits.target_f1 or other is None or other[1].accuracy is None:
        return None
    gap = round(100 * ((latest.accuracy or math.nan) - other[1].accuracy), 9)
    if not abs(gap) <= limits.target_points:
        return None
    floor = latest.always_rain_f1
    if latest.says_one_class or (floor is not None and latest.f1 <= floor):
        return None  # no success: saying "rain" to everything gets as much
    beside = "" if floor is None else f"; always-rain has {floor:.3f}"
    return verdict_at(
        "target",
        INFO,
        latest,
        {"f1": latest.f1, "target_f1": limits.target_f1, "points": gap, "always_rain_f1": floor},
        f"F1 {latest.f1:.3f} is above the target of {limits.target_f1:g}{beside}; validation and "
        f"{other[0]} are {abs(gap):.1f} points apart.",
        "",
    )


Monitor = Callable[[History, MonitorsConfig], Verdict | None]
MONITORS: dict[str, Monitor] = {
    "collapse": collapse,
    "stagnation": stagnation,
    "oscillation": oscillation,
    "divergence": divergence,
    "overfitting": overfitting,
    "nonfinite": nonfinite,
    "memory": memory,
    "slow": slow,
    "dead_input": dead_input,
    "target": target,
}
# Event -> the monitors that read it.
READ_BY = {
    "start": ["dead_input"],
    "train": ["nonfinite", "dead_input"],
    "check": ["collapse"],
    "validation": "collapse stagnation oscillation divergence overfitting target".split(),
    "cost": ["memory", "slow"],
}


@dataclass
class Watcher:
    """The monitors over a stream of events: those of a live run, or of its metrics.jsonl again.

    Both go through these lines, so that ``launch/diagnose.py`` says what the run itself said.
    ``repeat`` False says each (name, severity) once, as in a run; True every time, as in a replay.
    ``holdout`` and ``test_every_epoch`` events must come before the ``validation`` of their step.
    """

    limits: MonitorsConfig
    repeat: bool = False
    history: History = field(default_factory=History)
    verdicts: list[Verdict] = field(default_factory=list)

    def see(self, event: Mapping[str, Any]) -> list[Verdict]:
        """Record an event and return the verdicts that it brings."""
        self.history.add(event)
        found = []
        for name in READ_BY.get(str(event.get("event")), []):
            if getattr(self.limits, name) == "off":
                continue
            verdict = MONITORS[name](self.history, self.limits)
            if verdict is None:
                continue
            said = {(one.name, one.severity) for one in self.verdicts}
            if self.repeat or (verdict.name, verdict.severity) not in said:
                found.append(verdict)
        self.verdicts += found
        return found

    def stops(self, verdict: Verdict) -> bool:
        """Whether the recipe lets this verdict end the run: it is certain, or the target."""
        action = getattr(self.limits, verdict.name)
        return action == "stop" and (verdict.severity == CERTAIN or verdict.name == "target")
