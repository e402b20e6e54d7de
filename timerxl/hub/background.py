"""Each new best model of a run to the Hub, beside the training: never slower, never failing it."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_token

from timerxl.hub.package import Wording, stage
from timerxl.hub.push import PERMANENT, Push, PushFailed, Target
from timerxl.hub.record import FORECASTS, PAGE, WEIGHTS, read_record

_FILES = (
    *("config.yaml", "status.json", "verdict.json", "metrics.jsonl", "results.json"),
    *("environment.json", "audit.json", FORECASTS, str(PAGE)),
)


@dataclass
class _Job:
    """A copy of a run as it was when a model was the best; ``step`` names it."""

    run: Path
    copy: Path
    number: int


class BackgroundPush:
    """Pushes the newest best model in one background thread.

    A model that waits while a newer one comes is dropped. Failures become one sentence for ``log``,
    which may be called from that thread. Raises InputError at once where the target has no name
    that the Hub would take; nothing is raised later.
    """

    def __init__(
        self,
        repo_id: str,
        log: Callable[[str], None],
        private: bool = False,
        data_licence: str | None = None,
        limit_seconds: float | None = None,
    ):
        self.target = Target(repo_id, private)
        self.log, self.data_licence, self.limit_seconds = log, data_licence, limit_seconds
        self._changed = threading.Condition()
        self._waiting: _Job | None = None
        self._push: Push | None = None
        self._thread: threading.Thread | None = None
        self._closing = self._hopeless = self._ended = False
        self._run: Path | None = None
        self._number = self._arrived = 0
        if not get_token():
            log(f"hub: there is no token, so nothing can go to {repo_id}; set HF_TOKEN.")

    def new_best(self, run: Path) -> None:
        """Take a copy of the run's best model now and push it soon; returns at once."""
        if self._hopeless or self._closing:
            return
        self._run, self._number = run, self._number + 1
        try:
            job = _Job(run, _copy(run), self._number)
        except Exception as error:
            self.log(f"hub: this model is not pushed: {type(error).__name__}: {error}")
            return
        with self._changed:
            dropped, self._waiting = self._waiting, job
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hub", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if dropped is not None:
            shutil.rmtree(dropped.copy, ignore_errors=True)

    def close(self, timeout: float) -> bool:
        """Wait so many seconds for what is under way; True where the newest model arrived.

        Otherwise one sentence says what to run later. What is still under way then is ended.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(max(timeout, 0.0))
            if self._thread.is_alive():
                with self._changed:
                    waiting, self._waiting = self._waiting, None
                    push, self._ended = self._push, True
                if waiting is not None:
                    shutil.rmtree(waiting.copy, ignore_errors=True)
                if push is not None:
                    push.stop()
                self._thread.join(10.0)
        if self._arrived == self._number or self._run is None:
            return True
        self.log(
            f"hub: the newest model is not on {self.target.repo_id}. Run later: "
            f"{self.target.command(self._run, data_licence=self.data_licence)}"
        )
        return False

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None and not self._closing:
                    self._changed.wait()
                job, self._waiting = self._waiting, None
            if job is None:
                return
            try:
                self._send(job)
            finally:
                shutil.rmtree(job.copy, ignore_errors=True)

    def _send(self, job: _Job) -> None:
        """Stage and push one copy; every failure is a sentence."""
        if self._hopeless:
            return
        begun = time.monotonic()
        try:
            record = read_record(job.copy / "run", under_way=True, named=job.run)
            wording = Wording(self.target.repo_id, data_licence=self.data_licence)
            package = stage(record, job.copy / "package", wording)
            step = record.preprocessing.get("step") or record.preprocessing.get("best_step")
            message = f"Model of step {step} of {record.name}"
            push = Push(package, self.target, message, self.limit_seconds)
            with self._changed:
                if self._ended:
                    return
                self._push = push
            done = push()
        except PushFailed as error:
            if error.kind == "stopped":
                return  # close says it
            self._hopeless = error.kind in PERMANENT
            rest = " It is not tried again in this run." if self._hopeless else ""
            self.log(f"hub: the push to {self.target.repo_id} failed: {error}{rest}")
        except Exception as error:
            self.log(f"hub: this model is not pushed: {type(error).__name__}: {error}")
        else:
            self._arrived = job.number
            seconds = time.monotonic() - begun
            self.log(f"hub: model of step {step} pushed in {seconds:.0f} s: {done.url}")
        finally:
            with self._changed:
                self._push = None


def _copy(run: Path) -> Path:
    """A folder with ``run/``: weights by a second name where that can be, small files copied.

    The weights are written anew for every model and never changed in place.
    """
    try:  # on the same file system, where a second name costs nothing
        copy = Path(tempfile.mkdtemp(prefix=".timerxl-hub-", dir=run.absolute().parent))
    except OSError:
        copy = Path(tempfile.mkdtemp(prefix="timerxl-hub-"))
    try:
        shutil.copytree(run / "model", copy / "run" / "model", copy_function=_link_weights)
        for name in _FILES:
            if (run / name).is_file():
                (copy / "run" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run / name, copy / "run" / name)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    return copy


def _link_weights(source: str, target: str) -> str:
    if Path(source).name == WEIGHTS:
        try:
            os.link(source, target)
            return target
        except OSError:  # another file system
            pass
    return str(shutil.copyfile(source, target))
