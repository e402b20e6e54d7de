"""The stage of one attack: canaries beside it, fake secrets, commands within limits, and a judge.

Judged is harm: a file outside changed, a secret given away, a process left alive, raw control
characters on the terminal, and seconds, memory and disk over their bounds. A refusal must be one
line "error: ..." with exit code 2, without a traceback.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GIB = 2**30
TICKS = os.sysconf("SC_CLK_TCK")
MOST_LINE = 4_000  # characters
CODES = (0, 1, 2, 3, 4)
# None of these looks like another; what may be published holds none of them.
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYcAnArY000001",
    "AWS_ACCESS_KEY_ID": "AKIAQCANARY000000002",
    "WANDB_API_KEY": "0cafe0cafe0cafe0cafe0cafe0cafe0cafe0cafe",
    "CI_JOB": "glpat-cAnArY0000000000003",
    "MAPS": "AIzaSyCaNaRy000000000000000000000000004",
    "TWINE": "pypi-AgEIcHlwaS5vcmcCaNaRy00000000000000005",
    "DATABASE": "postgres-cAnArY-hunter2-000006",
}
CANARY = "the canary of another folder, 4f1c"
MARKER = "EXECUTED"
_ERROR = re.compile(r"^(?:[\w.-]+: )?error: \S", re.M)
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)|^\w*(?:Error|Exception): ", re.M)
FORGED = re.compile(r"^[^\S\n]*(?:error|warning): FORGED", re.M)


@dataclass(frozen=True)
class Ended:
    """``code`` is None where the command was ended by us; ``over`` says which bounds it passed."""

    code: int | None
    stdout: str
    stderr: str
    cpu_seconds: float
    peak_bytes: int
    over: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return f"{self.stdout}\n{self.stderr}"


@dataclass
class Stage:
    """``work`` is the working folder, ``outside`` what no command may touch."""

    folder: Path
    seeds: Path
    tree: Path
    verbose: bool = False
    ended: list[Ended] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("work", "outside/archive", "outside/empty", "home", "tmp"):
            (self.folder / name).mkdir(parents=True)
        for name in ("letter.txt", "archive/one.txt", "archive/two.txt"):
            (self.outside / name).write_text(f"{CANARY} {name}\n")
        self._before = snapshot(self.outside)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def outside(self) -> Path:
        return self.folder / "outside"

    @property
    def letter(self) -> Path:
        """A canary."""
        return self.outside / "letter.txt"

    @property
    def table(self) -> Path:
        return self.seeds / "table.csv"

    def copy(self, seed: str, name: str | None = None) -> Path:
        """A copy of a valid input, to be spoiled."""
        target = self.work / (name or seed)
        if (self.seeds / seed).is_dir():
            return Path(shutil.copytree(self.seeds / seed, target))
        return Path(shutil.copyfile(self.seeds / seed, target))

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return path

    def environment(self, more: dict[str, str] | None = None) -> dict[str, str]:
        """Of a command: fake secrets, folders of this stage, and what names this attack."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_TOKEN")}
        ours = {
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "HF_HOME": str(self.folder / "home" / "hf"),
            "TIMERXL_ATTACK": str(self.folder),
        }
        return kept | SECRETS | ours | (more or {})

    def run(
        self,
        command: str,
        *arguments: object,
        fresh: bool = False,
        cpu_seconds: float = 15.0,
        peak_bytes: int = GIB,
        disk_bytes: int = 300_000_000,
        free_bytes: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> Ended:
        """``launch/COMMAND.py ARGUMENTS``, forked off this warm process, or ``fresh`` as a shell
        does it.

        ``free_bytes`` lets it have so much memory and no more (RLIMIT_AS).
        """
        outputs = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 - closed below
        given = [str(argument) for argument in arguments]
        variables = self.environment(environment)
        if fresh:
            program = [sys.executable, str(self.tree / "launch" / f"{command}.py"), *given]
            process = subprocess.Popen(
                program, stdin=subprocess.DEVNULL, stdout=outputs[0], stderr=outputs[1],
                cwd=self.work, env=variables, start_new_session=True,
            )  # fmt: skip
            pid, base = process.pid, int(0.7 * GIB)  # of imports alone
        else:
            base = status_size(os.getpid(), "VmRSS")
            sys.stdout.flush()
            sys.stderr.flush()
            if (pid := os.fork()) == 0:
                descriptors = [file.fileno() for file in outputs]
                self._be_command(command, given, variables, descriptors, free_bytes)
        bounds = (cpu_seconds, peak_bytes, disk_bytes)
        code, cpu, peak, over = self._watch(pid, base, bounds)
        if fresh:
            process.returncode = code  # waited for already
        alive = living(str(self.folder), pid)
        if alive and code is not None:
            over.append(f"{len(alive)} processes live on")
        end_all(alive)
        texts = []
        for file in outputs:
            file.seek(0)
            texts.append(file.read(20_000_000).decode(errors="backslashreplace"))
            file.close()
        found = Ended(code, texts[0], texts[1], cpu, peak, tuple(over))
        self.ended.append(found)
        if self.verbose:
            print(f"    {command} {' '.join(given)[:300]}\n    code {code}, {cpu:.1f} s of CPU, "
                  f"{peak / 1e6:.0f} MB\n{found.text[-3000:]!r}", flush=True)  # fmt: skip
        return found

    def _be_command(
        self,
        command: str,
        arguments: list[str],
        variables: dict[str, str],
        outputs: list[int],
        free_bytes: int | None,
    ) -> None:
        """Never returns."""
        code = 1
        try:
            os.setsid()
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            most = status_size(os.getpid(), "VmSize") + (free_bytes or 8 * GIB)
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * GIB, 2 * GIB))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for descriptor, file in enumerate(outputs, 1):
                os.dup2(file, descriptor)
            os.environ.clear()
            os.environ.update(variables)
            tempfile.tempdir = None
            os.chdir(self.work)
            sys.argv = [f"{command}.py", *arguments]
            code = importlib.import_module(f"timerxl.cli.{command}").main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _watch(
        self, pid: int, base: int, bounds: tuple[float, int, int]
    ) -> tuple[int | None, float, int, list[str]]:
        """Exit code, seconds of CPU, peak of memory above ``base``, and the bounds passed."""
        cpu_bound, peak_bound, disk_bound = bounds
        disk_bound += self._disk()
        deadline, over, peak, looks = time.monotonic() + 30 + 3 * cpu_bound, [], 0, 0
        while True:
            ended, status, used = os.wait4(pid, os.WNOHANG)
            cpu = used.ru_utime + used.ru_stime if ended else _cpu(pid)
            peak = max(peak, (0 if ended else status_size(pid, "VmHWM")) - base)
            looks += 1
            disk = self._disk() if ended or looks % 10 == 0 else 0
            if cpu > cpu_bound:
                over.append(f"{cpu:.1f} s of CPU, over {cpu_bound:g}")
            if peak > peak_bound:
                over.append(f"{peak / 1e6:,.0f} MB of memory, over {peak_bound / 1e6:,.0f}")
            if disk > disk_bound:
                over.append(f"{disk / 1e6:,.0f} MB on the disk, over {disk_bound / 1e6:,.0f}")
            if not ended and time.monotonic() > deadline:
                over.append(f"not done after {30 + 3 * cpu_bound:.0f} s")
            if ended:
                return os.waitstatus_to_exitcode(status), cpu, peak, over
            if over:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return None, cpu, peak, over
            time.sleep(0.02)

    def _disk(self) -> int:
        """Bytes on the disk of what this stage holds."""
        total = 0
        for top in ("tmp", "home", "work"):
            for root, _, files in os.walk(self.folder / top):
                for name in files:
                    with suppress(OSError):
                        total += os.lstat(os.path.join(root, name)).st_blocks * 512
        return total

    def harms(self, *, secrets: tuple[str, ...] = (), folders: tuple[Path, ...] = ()) -> list[str]:
        """What the commands run so far did that they must not.

        Secrets (those of the environment and ``secrets``) are looked for in what was printed and in
        ``folders``.
        """
        found = self.touched()
        for ended in self.ended:
            found += harms_of(ended)
            found += _secrets_in(ended.text.encode(), "printed", secrets)
        for path in sorted(self.folder.rglob(MARKER)):
            found.append(f"code of a file was executed ({path.name})")
        for folder in folders:
            found += secrets_in_folder(folder, secrets)
        return list(dict.fromkeys(found))

    def touched(self) -> list[str]:
        """Changes of what lies outside."""
        after = snapshot(self.outside)
        names = sorted(self._before.keys() | after.keys())
        changed = [name for name in names if self._before.get(name) != after.get(name)]
        return [f"outside changed: {', '.join(changed[:4])}"] if changed else []


def harms_of(ended: Ended) -> list[str]:
    """By how it ended and what it printed."""
    found = list(ended.over)
    said = len(_ERROR.findall(ended.stderr))
    if ended.code is not None and ended.code not in CODES:
        found.append(f"exit code {ended.code}")
    if _TRACEBACK.search(ended.text):
        found.append(f"a traceback: {''.join(ended.stderr.strip().splitlines()[-1:])[:150]}")
    if ended.code == 2 and said != 1:
        found.append(f"exit code 2 with {said} lines 'error: ...'")
    if odd := {sign for sign in ended.text if steers(sign)}:
        found.append(f"raw control characters: {sorted(map(repr, odd))[:4]}")
    if FORGED.search(ended.text.replace("\r", "\n")):
        found.append("a forged line")
    longest = max(map(len, ended.text.replace("\r", "\n").split("\n")))
    if longest > MOST_LINE:
        found.append(f"a line of {longest:,} characters")
    return found


def steers(sign: str) -> bool:
    """Of a terminal; tabs, line ends and the carriage returns of a progress bar are no harm."""
    if sign in "\n\t\r" or sign.isprintable():
        return False
    return unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp")


def _secrets_in(content: bytes, where: str, more: tuple[str, ...]) -> list[str]:
    known = [*SECRETS.items(), *((text[:12], text) for text in more)]
    return [f"{name} {where}" for name, value in known if value.encode() in content]


def secrets_in_folder(folder: Path, more: tuple[str, ...]) -> list[str]:
    """Secrets in the names and contents of the files below a folder."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        content = path.read_bytes() if path.is_file() else b""
        found += _secrets_in(name.encode("utf-8", "replace") + content, f"in {name}", more)
    return found


def snapshot(folder: Path) -> dict[str, str]:
    """Path -> what is there (kind, mode, contents), for all below a folder."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            mode = path.lstat().st_mode
            what = os.readlink(path) if stat.S_ISLNK(mode) else ""
            if stat.S_ISREG(mode):
                what = hashlib.sha256(path.read_bytes()).hexdigest()
            found[path.relative_to(folder).as_posix()] = f"{mode:o} {what}"
    return found


def living(mark: str, session: int) -> list[int]:
    """Processes of a session, or with ``mark`` in their environment; zombies are dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            if int(path.name) == os.getpid():
                continue
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            is_ours = int(fields[3]) == session or (
                f"TIMERXL_ATTACK={mark}\0".encode() in (path / "environ").read_bytes()
            )
            if is_ours and fields[0] not in "ZX":
                found.append(int(path.name))
    return found


def end_all(processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def status_size(pid: int, key: str) -> int:
    """A size of /proc/PID/status in bytes; 0 where the process is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return 0


def _cpu(pid: int) -> float:
    """Seconds of CPU of a process and of its children that it has waited for."""
    with suppress(OSError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(ticks) for ticks in fields[11:15]) / TICKS
    return 0.0


@dataclass(frozen=True)
class Attack:
    """``action`` gives the harm done, in words: an empty list is "held"."""

    row: int
    name: str
    action: Callable[[Stage], list[str]]


ATTACKS: list[Attack] = []


def attack(row: int, title: str, /, **options: Any) -> Callable[[Callable[..., list[str]]], Any]:
    """Add a function to :data:`ATTACKS`; ``options`` are given to it."""

    def add(action: Callable[..., list[str]]) -> Callable[..., list[str]]:
        ATTACKS.append(Attack(row, title, lambda stage: action(stage, **options)))
        return action

    return add
