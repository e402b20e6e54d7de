"""Commands in processes of their own that need not import everything again.

To import torch, accelerate and DeepSpeed takes longer than the small runs of the tests. The
standard library's fork server imports them once; a command is a fork of it: a real process with its
own signals, environment, output and exit code. A launcher's ranks are forks too: its agent is the
real one. Tests whose subject is the start itself (an environment, an installation) start Python
anew.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants

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
        context: Any = FORK_SERVER,
        **_: Any,  # stdin is closed, the session is always a new one
    ) -> None:
        if context is FORK_SERVER:
            _ensure_server()
        output = _path_of(stdout)
        errors = output if stderr == subprocess.STDOUT else _path_of(stderr)
        given = ([str(word) for word in words], str(cwd), dict(env or os.environ), output, errors)
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
            for rank in psutil.Process(self.pid).children(recursive=True):
                rank.kill()
            self.kill()
        self.wait(30)


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
    words: list[str], cwd: str, env: dict[str, str], output: str | None, errors: str | None
) -> None:
    """Be this command from now on."""
    assert "preloaded" in sys.modules, "the server could not import tests/preloaded.py"
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    # What was read from the server's environment when it imported these.
    importlib.reload(huggingface_hub.constants)
    tempfile.tempdir = None
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the suite may run under nohup
    for descriptor, path in ((1, output), (2, errors)):
        if path is not None:
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(opened, descriptor)
            os.close(opened)
    if words[0] == "nsenter":
        words = _enter(words)
    program, *arguments = words
    if Path(program).name in ("torchrun", "accelerate"):
        _launch(words)
        return
    sys.argv = [word for word in arguments if word != "-u"]
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
