"""Whether a run begins, goes on or is over already, decided before anything slow or written.

What may change between a checkpoint and the run that goes on from it is HARMLESS below; anything
else would make it another experiment, and is refused by name unless forced.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from timerxl.command_line import EXIT_OK, EXIT_STOPPED
from timerxl.config import InputError, RunConfig
from timerxl.data.preprocessing import PREPROCESSING
from timerxl.training.checkpoint.storage import (
    CHECKPOINTS,
    TRAINER_STATE,
    StorageFailed,
    find_checkpoints,
    find_problem,
    no_whole_checkpoint,
    read_trainer_state,
)
from timerxl.training.processes.run_lock import RUN_CONFIG
from timerxl.untrusted import flat, read_json, read_yaml

AUTO, NEVER = "auto", "never"
# Settings of place, output and batch layout: samples, updates and scores stay the same.
HARMLESS = set(
    "recipe output_dir data.path data.cache_dir model.variable_bias_mode train.num_workers "
    "train.data_on_device train.log_every_steps train.trackers train.gradient_checkpointing "
    "train.zero_stage train.offload_optimizer train.batch_size train.accumulation_steps "
    "train.compile train.checkpoint_every_steps train.checkpoint_every_minutes train.keep_last "
    "train.resume train.resume_force train.collective_timeout_minutes eval.batch_size "
    "eval.fitted_baselines train.mirror eval.num_resamples eval.block_days "
    "eval.test_every_epoch expectations".split()
)
HARMLESS_PARTS = ("monitors.", "hub.")
# What runs did before a setting was there that would make another experiment of them.
_BEFORE = {"train.ema": None}
_MISSING = object()


class RunEnded(RuntimeError):
    """The run in output_dir is over; ``code`` is how it ended. Nothing was changed."""

    def __init__(self, code: int, sentence: str):
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class Resumption:
    """``config`` is the recipe's, its batch fitted to the number of processes. ``candidates``:
    checkpoints to go on from, newest first; none is a fresh start. ``status`` is what status.json
    said then, ``choice`` what train.resume comes to; ``was_finished`` where more steps were asked
    of a finished run."""

    config: RunConfig
    candidates: list[Path] = field(default_factory=list)
    global_batch_size: int | None = None
    notes: list[str] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    choice: str = AUTO
    was_finished: bool = False


def read_status(output_dir: Path) -> dict[str, Any]:
    """Read status.json; {} where there is none that can be read."""
    return _json(output_dir / "status.json")


def plan_resume(config: RunConfig, world_size: int) -> Resumption:
    """Decide what ``train.resume`` means here; the batch is fitted to the checkpoint's global one.

    Reads only, and finds the same on every rank. Raises RunEnded where there is nothing to do,
    InputError where the run can't go on with these settings.
    """
    status, choice, notes = read_status(Path(config.output_dir)), config.train.resume, []
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if attempt and choice != AUTO and (Path(config.output_dir) / RUN_CONFIG).exists():
        notes = [f"restart {attempt} by the launcher: train.resume={choice} counts as auto now."]
        choice = AUTO
    found = _plan(config, choice, world_size, status)
    return replace(found, status=status, choice=choice, notes=notes + found.notes)


def _plan(config: RunConfig, choice: str, world_size: int, status: dict[str, Any]) -> Resumption:
    output_dir = Path(config.output_dir)
    if choice == NEVER:
        return Resumption(config)
    if choice != AUTO:
        return _from_path(config, Path(choice), world_size)
    if not (output_dir / RUN_CONFIG).exists():
        return Resumption(config)
    candidates = [path for _, path in find_checkpoints(output_dir / CHECKPOINTS)]
    if status.get("code") == EXIT_OK and (output_dir / "results.json").exists():
        if not (_is_longer(config) and config.train.resume_force and candidates):
            _refuse_finished(config)
        found = _resume_from(config, candidates, world_size)
        note = (
            f"the finished run {output_dir} goes on: the learning rate follows the longer schedule "
            "from here, and the test split, scored once already, is scored again at its end."
        )
        return replace(found, notes=[note, *found.notes], was_finished=True)
    _refuse_stopped(config, status, candidates)
    if not candidates:
        note = f"{output_dir} holds a run without a checkpoint: training starts anew."
        return Resumption(config, notes=[note])
    return _resume_from(config, candidates, world_size)


def _is_longer(config: RunConfig) -> bool:
    """Whether more steps are asked for than the finished run in output_dir was to make."""
    then, now = _yaml(Path(config.output_dir) / RUN_CONFIG).get("train", {}), config.train
    if now.max_steps is not None:
        done = _json(Path(config.output_dir) / "results.json").get("steps", 0)
        return now.max_steps > (then.get("max_steps") or done)
    return then.get("max_steps") is not None or now.epochs > then.get("epochs", now.epochs)


def _refuse_finished(config: RunConfig) -> None:
    """Raise RunEnded with these settings, InputError with others."""
    output_dir = config.output_dir
    saved = _yaml(Path(output_dir) / RUN_CONFIG)
    # Its data are not read again to be compared, so their path must be the same.
    harmless = HARMLESS - {"data.path"}
    changed = {
        key: f"{key} was {_short(then)}, is {_short(now)}"
        for key, (then, now) in changes(saved, asdict(config)).items()
        if key not in harmless and not key.startswith(HARMLESS_PARTS)
    }
    if not changed:
        raise RunEnded(
            EXIT_OK,
            f"{output_dir} holds this run, finished: nothing to do. train.resume=never trains "
            "anew and moves it aside.",
        )
    ways = f"model.pretrained={output_dir}/model with another output_dir begins from its best model"
    if _is_longer(config):
        ways += (
            ", with a schedule of its own; train.resume_force=true goes on from its last step, at "
            "the rate that the longer schedule has there"
        )
        stopped = str(_json(Path(output_dir) / "results.json").get("stop_reason", ""))
        if stopped.startswith("no better"):
            ways += f" (it ended for {stopped}: raise train.patience too)"
    raise InputError(
        f"{output_dir} holds a finished run with other settings: {'; '.join(changed.values())}. "
        f"{ways}; train.resume=never trains anew and moves it aside."
    )


def _refuse_stopped(config: RunConfig, status: dict[str, Any], candidates: list[Path]) -> None:
    """Raise RunEnded where a monitor ended the run and would end it again.

    The checkpoint of the stop says so too: status.json does not, where the main process was killed
    before it could write.
    """
    said = [_json(path / PREPROCESSING) for path in candidates[:1]]
    if status.get("code") == EXIT_STOPPED:
        said.insert(0, _json(Path(config.output_dir) / "verdict.json"))
    stopped = next((one["stopped_by"] for one in said if one.get("stopped_by")), None)
    if not isinstance(stopped, dict):
        return
    name = str(stopped.get("name"))
    if getattr(config.monitors, name, None) != "stop":
        return
    how = status.get("reason") if status.get("code") == EXIT_STOPPED else None
    raise RunEnded(
        EXIT_STOPPED,
        f"{config.output_dir} holds this run, {how or f'stopped by the monitor {name}.'} It would "
        f"be stopped again: monitors.{name}=warn goes on from there, train.resume=never trains "
        "anew.",
    )


def _from_path(config: RunConfig, folder: Path, world_size: int) -> Resumption:
    """Plan ``train.resume=PATH``: this checkpoint or none."""
    if not _is_folder(folder):
        raise InputError(
            f"train.resume={folder}: no such folder; expected auto, never or a checkpoint "
            "(RUN/checkpoints/step_XXXXXXXX)."
        )
    own = (Path(config.output_dir) / CHECKPOINTS).resolve()
    if folder.resolve().parent == own:
        newest = [path for _, path in find_checkpoints(own)][:1]
        if newest != [folder.resolve()]:
            has = f"has the newer {newest[0].name}" if newest else "has no checkpoint of that name"
            raise InputError(
                f"train.resume={folder}: this run {has}; to branch off, give another output_dir."
            )
    elif (Path(config.output_dir) / RUN_CONFIG).exists():
        raise InputError(
            f"train.resume={folder} is of another run than output_dir {config.output_dir}, which "
            "holds one; choose an empty folder."
        )
    return _resume_from(config, [folder], world_size)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def _resume_from(config: RunConfig, candidates: list[Path], world_size: int) -> Resumption:
    state, problems = None, []
    for folder in candidates:
        if (found := find_problem(folder, names=[TRAINER_STATE])) is not None:
            problems.append(f"{folder.name}: {found}.")
            continue
        try:
            state = read_trainer_state(folder)
            break
        except StorageFailed as error:
            problems.append(str(error))
    if state is None:
        raise no_whole_checkpoint(candidates[0].parent, problems)
    notes = _refuse_changes(state.get("config", {}), config, f"checkpoint {folder.name}")
    if "global_batch_size" not in state:
        raise StorageFailed(f"{folder / TRAINER_STATE} does not say its global batch.")
    total = int(state["global_batch_size"])
    fitted, note = fit_layout(config, state.get("config", {}), world_size, total)
    return Resumption(fitted, candidates, total, notes + ([note] if note else []))


def changes(saved: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (then, now) of every setting that both have and that differs; what an
    older run lacks counts as _BEFORE says."""
    before, after = _BEFORE | flat(saved), flat(now)
    return {
        key: (before[key], value)
        for key, value in after.items()
        if before.get(key, _MISSING) is not _MISSING
        and before[key] != value
        # mm was the default before auto was; the values themselves are compared, too.
        and not (key == "data.precipitation_unit" and (before[key], value) == ("mm", "auto"))
    }


def _refuse_changes(saved: dict[str, Any], config: RunConfig, what: str) -> list[str]:
    """Return notes on harmless changes; raise InputError on others, unless forced."""
    notes, harmful = [], []
    for key, (then, now) in changes(saved, asdict(config)).items():
        sentence = f"{key} was {_short(then)}, is {_short(now)}"
        if key in HARMLESS or key.startswith(HARMLESS_PARTS):
            if not key.startswith("train.resume"):
                notes.append(f"resume: {sentence} (harmless).")
        else:
            harmful.append(sentence)
    if harmful and not config.train.resume_force:
        raise InputError(
            f"{what} was made with other settings: {'; '.join(harmful)}. Give the old ones to go "
            "on; train.resume=never (the old run is moved aside) or another output_dir for a new "
            "run; train.resume_force=true to go on all the same."
        )
    return notes + [f"resume: {sentence} (forced)." for sentence in harmful]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def fit_layout(
    config: RunConfig, saved: dict[str, Any], world_size: int, global_batch_size: int
) -> tuple[RunConfig, str | None]:
    """Choose batch and accumulation so that the global batch stays; return what was changed, too.

    Raises InputError where this number of processes can't hold it, or the recipe asks for another.
    """
    train = config.train
    asked = train.batch_size * train.accumulation_steps
    if asked * world_size == global_batch_size:
        return config, None
    then = saved.get("train", {})
    if asked != then.get("batch_size", 0) * then.get("accumulation_steps", 0):
        raise InputError(
            f"train.batch_size x train.accumulation_steps x processes is {train.batch_size} x "
            f"{train.accumulation_steps} x {world_size} = {asked * world_size}, the run's global "
            f"batch is {global_batch_size}: it can't change within a run."
        )
    per_rank, rest = divmod(global_batch_size, world_size)
    if rest or not per_rank:
        raise InputError(
            f"the run's global batch of {global_batch_size} can't be shared by {world_size} "
            "processes; choose a number of processes that divides it."
        )
    batch = max(n for n in range(1, train.batch_size + 1) if per_rank % n == 0)
    steps = per_rank // batch
    fitted = replace(config, train=replace(train, batch_size=batch, accumulation_steps=steps))
    return fitted, (
        f"resume: {world_size} processes now; batch {train.batch_size} x "
        f"{train.accumulation_steps} accumulation becomes {batch} x {steps}, so that the global "
        f"batch stays {global_batch_size}."
    )


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run folder; {} where there is none that can be read."""
    try:
        content = read_json(path)
    except InputError:
        return {}
    return content if isinstance(content, dict) else {}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except InputError as error:
        raise InputError(f"{error} Choose another output_dir.") from error
    return content if isinstance(content, dict) else {}


_CODE = ("config.py", "data", "evaluation", "model", "training")


def code_fingerprint() -> str:
    """Hash (SHA-256) the code that makes samples, updates and scores."""
    package, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for part in _CODE:
        path = package / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def check_fingerprints(
    state: dict[str, Any], data: str, code: str, force: bool
) -> tuple[str | None, list[str]]:
    """Compare a checkpoint's fingerprints with today's; return (why the run can't go on, or None;
    notes)."""
    notes = []
    if state.get("code_fingerprint") != code:
        notes.append(
            "resume: the code of timerxl changed since the checkpoint; it goes on, but need not "
            "give the numbers that the old code would have given."
        )
    if state.get("data_fingerprint") == data:
        return None, notes
    if force:
        return None, [*notes, "resume: the data changed since the checkpoint (forced)."]
    problem = (
        "the data are not those of the checkpoint (values, labels, times or splits differ). Give "
        "the old data to go on; train.resume=never or another output_dir for a new run; "
        "train.resume_force=true to go on all the same."
    )
    return problem, notes
