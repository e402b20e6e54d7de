"""Commands in processes of their own that need not import everything again.

To import torch, accelerate and DeepSpeed takes longer than the small runs of the tests. The
standard library's fork server imports them once; a command is a fork of it: a real process with its
own signals, environment, output and exit code. A launcher's ranks and a command's uploads are forks
too: the launcher's agent is the real one. Tests whose subject is the start itself (an environment,
an installation) start Python anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import io
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants

import timerxl.hub.push

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node"]
ACCELERATE = [str(BIN / "accelerate"), "launch"]
FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(["preloaded"])


class Forked:
    """Do what ``subprocess.Popen`` does, for ``python script ...``, torchrun and accelerate, the
    latter two also behind ``nsenter``.

    ``stdout`` and ``stderr`` are paths (or opened files, whose names count); None is this process's
    own, and ``subprocess.STDOUT`` the other one's.
    """

    def __init__(
        self,
        words: Sequence[object],
        *,
        cwd: Path | str = ROOT,
        env: Mapping[str, str] | None = None,
        stdout: Any = None,
        stderr: Any = None,
        stdin: Any = None,
        context: Any = FORK_SERVER,
        **_: Any,  # the session is always a new one
    ) -> None:
        if context is FORK_SERVER:
            _ensure_server()
        output = _path_of(stdout)
        errors = output if stderr == subprocess.STDOUT else _path_of(stderr)
        variables = dict(env or os.environ)
        pipe = stdin if isinstance(stdin, tuple) else None  # of ForkedUpload; DEVNULL is none
        given = ([str(word) for word in words], str(cwd), variables, output, errors, pipe)
        self.args = words
        self._process = context.Process(target=_become, args=given)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        found: int | None = self._process.exitcode
        return found

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.returncode
        if code is None:
            raise subprocess.TimeoutExpired(list(map(str, self.args)), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        # As in Popen: it may have ended, and the server that reaps it not yet said so.
        with contextlib.suppress(ProcessLookupError):
            if self.returncode is None:
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def kill_all(self) -> None:
        """End the process and every rank that it started, stopped ones too."""
        import psutil

        if self.returncode is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for rank in psutil.Process(self.pid).children(recursive=True):
                    rank.kill()
            self.kill()
        self.wait(30)


class ForkedUpload(Forked):
    """An upload of timerxl.hub.push as a fork of the process that orders it, whose end it watches.

    A new Python spends seconds on imports before its first byte.
    """

    def __init__(self, words: Sequence[str], *, env: Mapping[str, str], **_: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._told = [Path(self._folder.name, name) for name in ("output", "errors")]
        for path in self._told:
            path.touch()
        pipe = os.pipe()
        super().__init__(
            words,
            cwd=os.getcwd(),
            env=env,
            stdin=pipe,
            stdout=self._told[0],
            stderr=self._told[1],
            context=multiprocessing.get_context("fork"),
        )
        os.close(pipe[0])
        self._order = pipe[1]

    def communicate(self, order: str, timeout: float) -> tuple[str, str]:
        os.write(self._order, f"{order}\n".encode())
        self.wait(timeout)
        os.close(self._order)
        output, errors = (path.read_text(encoding="utf-8") for path in self._told)
        return output, errors

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + 1
        self._process.join(timeout)
        while self.returncode is None and time.monotonic() < deadline:
            time.sleep(0.001)  # another thread has seen the end and is about to note it
        return super().wait(0)


def run(
    words: Sequence[object],
    *,
    cwd: Path | str = ROOT,
    env: Mapping[str, str] | None = None,
    timeout: float = 240,
    **_: Any,
) -> subprocess.CompletedProcess[str]:
    """Do what ``subprocess.run`` does with captured text."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = Forked(words, cwd=cwd, env=env, stdout=output, stderr=errors)
        try:
            code = process.wait(timeout)
        finally:
            process.kill_all()
        told = [path.read_text(encoding="utf-8") for path in (output, errors)]
    return subprocess.CompletedProcess(list(map(str, words)), code, *told)


@functools.cache
def help_of(script: str) -> str:
    """What ``--help`` of a script of launch/ prints."""
    done = run([sys.executable, script, "--help"])
    assert done.returncode == 0, done.stderr
    return done.stdout


def last_line_without_timerxl(code: str, *words: object, cwd: Path) -> str:
    """Run ``python -c code words`` where timerxl can't be found and hubs are offline; return the
    last line that it prints."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(cwd / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


# Put in the place of a module's ``subprocess``.
UPLOADS_BY_FORKS = SimpleNamespace(
    Popen=ForkedUpload, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired
)
BY_FORKS = SimpleNamespace(
    Popen=Forked,
    run=run,
    STDOUT=subprocess.STDOUT,
    DEVNULL=subprocess.DEVNULL,
    TimeoutExpired=subprocess.TimeoutExpired,
)


def _path_of(stream: Any) -> str | None:
    if stream is None or stream == subprocess.DEVNULL:
        return stream and os.devnull
    return str(stream if isinstance(stream, str | Path) else stream.name)


def _ensure_server() -> None:
    """Start the server where it does not run yet; it looks for ``preloaded`` on its own path."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), before or ""])
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _become(
    words: list[str],
    cwd: str,
    env: dict[str, str],
    output: str | None,
    errors: str | None,
    pipe: tuple[int, int] | None,
) -> None:
    """Be this command from now on."""
    is_known = pipe is not None or "preloaded" in sys.modules
    assert is_known, "the server could not import tests/preloaded.py"
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    # What was read from the server's environment when it imported these.
    importlib.reload(huggingface_hub.constants)
    tempfile.tempdir = None
    for number in (signal.SIGHUP, signal.SIGTERM):  # the suite may run under nohup
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, path in ((1, output), (2, errors)):
        if path is not None:
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(opened, descriptor)
            os.close(opened)
    if pipe is not None:
        os.close(pipe[1])
        warnings.resetwarnings()  # pytest's; Python's own are these
        for kind in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        sys.stdin = io.StringIO(os.fdopen(pipe[0]).readline())
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    for folder in filter(None, env.get("PYTHONPATH", "").split(os.pathsep)):
        if (custom := Path(folder, "sitecustomize.py")).is_file():
            runpy.run_path(str(custom))  # as Python does at its start
    timerxl.hub.push.subprocess = UPLOADS_BY_FORKS  # type: ignore[assignment]
    # An upload gives way to the training; where cores are few a test would wait for minutes.
    os.nice = lambda increment: 0
    if words[0] == "nsenter":
        words = _enter(words)
    program, *arguments = words
    if Path(program).name in ("torchrun", "accelerate"):
        _launch(words)
        return
    sys.argv = [word for word in arguments if word not in ("-u", "-P")]
    if sys.argv[0] == "-m":
        sys.argv = sys.argv[1:]
        sys.modules.pop(sys.argv[0], None)
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))  # as Python does
    runpy.run_path(sys.argv[0], run_name="__main__")


def _enter(words: list[str]) -> list[str]:
    """Enter the namespaces that nsenter would; the command behind it."""
    libc = ctypes.CDLL(None, use_errno=True)
    target = words[words.index("--target") + 1]
    kinds = [kind for kind in ("user", "net") if f"--{kind}" in words]
    opened = [os.open(f"/proc/{target}/ns/{kind}", os.O_RDONLY) for kind in kinds]
    for descriptor in opened:
        if libc.setns(descriptor, 0):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(descriptor)
    return words[words.index("--") + 1 :]


def _launch(words: list[str]) -> None:
    """Run the launcher, which forks its ranks."""
    from accelerate.commands import accelerate_cli
    from accelerate.commands import launch as accelerate_launch
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    def start(words: Sequence[str], env: dict[str, str]) -> Forked:
        return Forked(words, cwd=os.getcwd(), env=env, context=multiprocessing.get_context("fork"))

    subprocess_handler.SubprocessHandler._popen = lambda self, words, env: start(words, env)  # type: ignore[method-assign,assignment]
    accelerate_launch.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
        Popen=start, CalledProcessError=subprocess.CalledProcessError
    )
    sys.argv = words
    (torchrun if Path(words[0]).name == "torchrun" else accelerate_cli).main()
