"""Where a package goes, its upload, and the upload of each new best model beside the training.

The second is never slower for the training, and never fails it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

import timerxl
from timerxl.command_line import EXIT_FAILED, EXIT_OK, EXIT_STOPPED
from timerxl.config import InputError
from timerxl.hub.card import STILL_TRAINING
from timerxl.hub.package import OPTIONAL, Package
from timerxl.hub.record import READ, WEIGHTS, needs_force
from timerxl.hub.staging import Place, sweep
from timerxl.untrusted import plain

END_SECONDS = 300.0  # to wait at the end for a push under way
HURRY_SECONDS = 3.0  # the same after a signal, which leaves no time, and without a disk
MOST_SAID, MOST_NOTES = 300, 20  # characters of a name or a note, and notes
BYTES_PER_SECOND, LEAST_SECONDS = 100_000, 300.0  # a slow line, and what a small upload may take
# The process that stages is to take nothing from the training.
_BESIDE = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
# After these nothing but the user can help: the next model of the same run would fail alike.
PERMANENT = {"no token", "token", "rights", "quota", "offline", "public", "repository"}
_BRANCH = re.compile(r"[A-Za-z0-9_][\w.-]*(?:/[\w.-]+)*")


@dataclass(frozen=True)
class Target:
    """Where to. ``private`` makes a new repository private; a public one is then refused."""

    repo_id: str
    private: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        """Raises InputError on names that the Hub would not take."""
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise InputError(f"repo id {self.repo_id}: {str(error).splitlines()[0]}") from error
        if self.repo_id.count("/") != 1:
            raise InputError(f"repo id {self.repo_id}: expected user/name.")
        if self.revision is not None and (
            not _BRANCH.fullmatch(self.revision) or ".." in self.revision
        ):
            raise InputError(f"revision {self.revision}: expected the name of a branch.")

    def order(self) -> dict[str, Any]:
        """As the uploading process takes it."""
        return {"repo_id": self.repo_id, "private": self.private, "revision": self.revision}

    def command(self, run: Path, force: bool = False, data_licence: str | None = None) -> str:
        """What to run later."""
        words = ["python", "launch/publish.py", "--run", str(run), "--repo-id", self.repo_id]
        words += ["--private"] if self.private else []
        words += ["--revision", self.revision] if self.revision else []
        words += ["--data-licence", data_licence] if data_licence else []
        words += ["--force"] if force else []
        return shlex.join(words)


class PushFailed(RuntimeError):
    """Nothing, or not everything, arrived. The message says why, ``kind`` in one word."""

    def __init__(self, kind: str, sentence: str):
        super().__init__(sentence)
        self.kind = kind


@dataclass(frozen=True)
class Pushed:
    """``removed``: files of an earlier publication that this one no longer has; ``notes``: what the
    hub had to say; ``what``: the model in words, where the process knows more than who asked."""

    url: str
    commit: str
    removed: tuple[str, ...]
    notes: tuple[str, ...]
    what: str = ""


def seconds_for(num_bytes: int) -> float:
    """How long an upload of this size may take."""
    return LEAST_SECONDS + num_bytes / BYTES_PER_SECOND


@dataclass
class UploadProcess:
    """timerxl.hub.upload with ``order`` on its stdin, in the folder of ``place``; another thread
    may end it with :meth:`stop`.

    It is a process and no thread (huggingface_hub's run_as_future), because a thread that waits for
    a server can't be ended, and reading, hashing and drawing up the card would hold up the
    training. It has a session of its own: a Ctrl-C in the terminal is for the one who ordered. It
    does not outlive that process, however it ends, and takes its place away then. ``variables`` are
    added to its environment.
    """

    order: dict[str, Any]
    limit_seconds: float
    place: Place | None = None
    variables: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = field(default=None, init=False)
    _stopped: threading.Event = field(default_factory=threading.Event, init=False)

    def __call__(self) -> Pushed:
        """Run it to its end; raises PushFailed."""
        # In a thread of its own: a signal's exception, which comes in the main thread, can't fall
        # between the start of the process and the line that remembers it.
        done: Future[Pushed] = Future()
        try:
            threading.Thread(target=self._run_into, args=(done,), daemon=True).start()
            return done.result()
        finally:
            self.stop()
            wait([done], timeout=10.0)

    def _run_into(self, done: Future[Pushed]) -> None:
        try:
            done.set_result(self._run())
        except BaseException as error:
            done.set_exception(error)

    def _run(self) -> Pushed:
        limit, is_late, place = self.limit_seconds, False, self.place
        locks = () if place is None or place.descriptor is None else (place.descriptor,)
        command = [str(os.getpid()), *([str(place.folder)] if place else [])]
        if self._stopped.is_set():
            raise PushFailed("stopped", "the upload was ended before it began.")
        # -P: no folder of the user's may hide a library.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "timerxl.hub.upload", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment() | self.variables,
            pass_fds=locks,  # no sweep takes the place before the process has ended
            start_new_session=True,
        )
        output, errors = "", ""
        try:
            if self._stopped.is_set():
                self._process.kill()
            order = json.dumps(self.order | {"limit_seconds": limit})
            output, errors = self._process.communicate(order, timeout=limit + 5)
        except subprocess.TimeoutExpired:
            is_late = True
        finally:
            self._end()
        if self._stopped.is_set():
            raise PushFailed("stopped", "the upload was ended before it was done.")
        code = -signal.SIGALRM if is_late else self._process.returncode
        return _answer(output, errors, code, limit)

    def stop(self) -> None:
        """End it now, if it still runs."""
        self._stopped.set()
        self._end()

    def _end(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()


def environment() -> dict[str, str]:
    """Large files go by LFS, whose waiting is bounded; HF_HUB_DISABLE_XET=0 in the environment
    chooses Xet all the same."""
    found = dict(os.environ)
    found.setdefault("HF_HUB_DISABLE_XET", "1")
    found["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    found["HF_HUB_VERBOSITY"] = "error"
    repository = str(Path(timerxl.__file__).resolve().parent.parent)
    paths = [repository, found.get("PYTHONPATH", "")]
    found["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return found


def _answer(output: str, errors: str, code: int, limit: float) -> Pushed:
    """What the process said, in plain words: a server may have a part in it."""
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError:
        answer = {}
    if "url" in answer:
        return Pushed(
            plain(answer["url"], MOST_SAID),
            plain(answer["commit"], MOST_SAID),
            tuple(plain(name, MOST_SAID) for name in answer["removed"]),
            tuple(plain(note, MOST_SAID) for note in answer["notes"][:MOST_NOTES]),
            plain(answer.get("what", ""), MOST_SAID),
        )
    if "error" in answer:
        raise PushFailed(answer["kind"], plain(answer["error"]))
    if code == -signal.SIGALRM:  # its own clock
        raise PushFailed("timeout", f"the upload was not done in {limit:,.0f} s and was ended.")
    if code < 0:
        raise PushFailed("signal", f"the upload was ended from outside, by {_signal(-code)}.")
    lines = [line for line in errors[-100_000:].splitlines() if line.strip()]
    said = re.sub(r"hf_[A-Za-z0-9]{6,}", "[token]", lines[-1]) if lines else "no word"
    raise PushFailed("other", f"the upload ended with code {code}: {plain(said[:300])}")


def _signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (is the memory full?)" if number == signal.SIGKILL else name


def push(
    package: Package,
    target: Target,
    message: str,
    limit_seconds: float | None = None,
    place: Place | None = None,
) -> Pushed:
    """Upload a staged package in one commit; ``place`` is where it is staged.

    Raises PushFailed. Nothing but the package is read.
    """
    order = {
        "folder": str(package.folder.absolute()),
        "files": list(package.files),
        "optional": list(OPTIONAL),
        "message": message,
        **target.order(),
    }
    return UploadProcess(order, limit_seconds or seconds_for(package.num_bytes), place)()


@dataclass
class _Job:
    """A copy of a run as it was when a model was the best, or (``corrects``) as it ended badly."""

    run: Path
    place: Place
    number: int
    corrects: bool


class BackgroundPush:
    """Pushes the newest best model, one at a time, each in a process of its own.

    A model that waits while a newer one comes is dropped. Failures become one sentence for ``log``,
    which may be called from another thread. Raises InputError at once where the target has no name
    that the Hub would take; nothing is raised later. Removes from ``run``'s folder of runs what an
    earlier process left there.
    """

    def __init__(
        self,
        run: Path,
        repo_id: str,
        log: Callable[[str], None],
        private: bool = False,
        limit_seconds: float | None = None,
    ):
        self.target = Target(repo_id, private)
        self.run, self.log, self.limit_seconds = run, log, limit_seconds
        self._changed = threading.Condition()
        self._waiting: _Job | None = None
        self._child: UploadProcess | None = None
        self._thread: threading.Thread | None = None
        # Python 3.11 takes a thread for ended whose join() a signal's exception cut short.
        self._worked = threading.Event()
        self._closing = self._hopeless = self._ended = False
        self._number = self._arrived = 0
        for folder in (run.absolute().parent, Path(tempfile.gettempdir())):
            sweep(folder)
        if not get_token():
            log(f"hub: there is no token, so nothing can go to {repo_id}; set HF_TOKEN.")

    def new_best(self, run: Path) -> None:
        """Take a copy of the run's best model now and push it soon; returns at once."""
        self._take(run, corrects=False)

    def end(self, code: int) -> bool:
        """The run is over with this exit code: send its last state, wait for what is under way.

        A good end is pushed with its scores. After a bad one nothing is sent that would not have
        been sent by itself, but a card on the hub that says "still training" is corrected. After a
        signal or without a disk there is no time for either.
        """
        in_order = code in (EXIT_OK, EXIT_STOPPED, EXIT_FAILED)
        if in_order and (self.run / "model").is_dir():
            self._take(self.run, corrects=code != EXIT_OK)
        return self.close(END_SECONDS if in_order else HURRY_SECONDS)

    def close(self, timeout: float) -> bool:
        """Wait so many seconds for what is under way; True where the newest model arrived.

        Otherwise one sentence says what to do later. What is still under way then is ended.
        """
        with self._changed:
            is_again, self._closing = self._closing, True
            self._changed.notify_all()
        if is_again:  # a signal may have ended the first time
            self._end_now()
            return self._arrived == self._number
        try:
            if self._thread is not None:
                self._worked.wait(max(timeout, 0.0))
        finally:  # also where a signal ends the waiting
            self._end_now()
        if self._arrived == self._number:
            return True
        self.log(f"hub: the newest model is not on {self.target.repo_id}. {self._later()}")
        return False

    def _end_now(self) -> None:
        """End the push under way, if there is one, and drop the model that waits behind it."""
        if self._thread is None or self._worked.is_set():
            return
        with self._changed:
            waiting, self._waiting = self._waiting, None
            child, self._ended = self._child, True
        if waiting is not None:
            waiting.place.remove()
        if child is not None:
            child.stop()
        self._worked.wait(10.0)

    def _later(self) -> str:
        force = needs_force(self.run)
        if force is None:
            return "It can be published when the run is finished: train on with the same command."
        return f"Run later: {self.target.command(self.run, force)}"

    def _take(self, run: Path, corrects: bool) -> None:
        if self._closing:
            return
        self._number += 1
        if self._hopeless:
            return
        try:
            job = _Job(run, _copy(run), self._number, corrects)
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
            dropped.place.remove()

    def _work(self) -> None:
        try:
            self._send_all()
        finally:
            self._worked.set()

    def _send_all(self) -> None:
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
                job.place.remove()

    def _send(self, job: _Job) -> None:
        """Push one copy; every failure is a sentence."""
        if self._hopeless:
            return
        begun = time.monotonic()
        try:
            child = self._order(job)
            with self._changed:
                if self._ended:
                    return
                self._child = child
            done = child()
        except PushFailed as error:
            if error.kind == "stopped":
                return  # close says it
            if error.kind == "nothing there":  # a bad end, and nothing to be corrected
                self._arrived = job.number
                if needs_force(job.run):
                    command = self.target.command(job.run, force=True)
                    self.log(f"hub: a stopped run is not sent by itself; to do it: {command}")
                return
            self._hopeless = error.kind in PERMANENT
            rest = " It is not tried again in this run." if self._hopeless else ""
            what = f"the push to {self.target.repo_id} failed"
            what = "this model is not pushed" if error.kind == "input" else what
            self.log(f"hub: {what}: {error}{rest}")
        except Exception as error:
            self.log(f"hub: this model is not pushed: {type(error).__name__}: {error}")
        else:
            self._arrived = job.number
            seconds = time.monotonic() - begun
            self.log(f"hub: {done.what} pushed in {seconds:.0f} s: {done.url}")
        finally:
            with self._changed:
                self._child = None

    def _order(self, job: _Job) -> UploadProcess:
        copy = job.place.folder / "run"
        order = {
            "copy": str(copy),
            "run": str(job.run),
            "force": job.corrects,
            "only_over": STILL_TRAINING if job.corrects else None,
            **self.target.order(),
        }
        limit = self.limit_seconds or seconds_for((copy / "model" / WEIGHTS).stat().st_size)
        return UploadProcess(order, limit, job.place, _BESIDE)


def _copy(run: Path) -> Place:
    """A place with ``run/``: weights by a second name where that can be, small files copied.

    The weights are written anew for every model and never changed in place.
    """
    try:  # on the same file system, where a second name costs nothing
        place = Place(run.absolute().parent)
    except OSError:
        place = Place(Path(tempfile.gettempdir()))
    copy = place.folder / "run"
    try:
        shutil.copytree(run / "model", copy / "model", copy_function=_link_weights)
        for name in READ:
            if (run / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run / name, copy / name)
    except BaseException:
        place.remove()
        raise
    return place


def _link_weights(source: str, target: str) -> str:
    if Path(source).name == WEIGHTS:
        try:
            os.link(source, target)
            return target
        except OSError:  # another file system
            pass
    return str(shutil.copyfile(source, target))
