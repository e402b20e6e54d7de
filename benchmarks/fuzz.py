"""Damaged and hostile inputs for every command: none may hang, crash, half-write or be executed.

    python benchmarks/fuzz.py [--inputs 300] [--seed 0] [--only KIND [--case N]] [--keep FOLDER]

Every input goes to the command that reads it, in a process forked off this warm one, with a time
limit and a limit of memory. Allowed is success, or a documented exit code with one message
"error: ..."; what was written must be whole. Exit code 1 where anything else was seen.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

from benchmarks import fuzz_seeds
from benchmarks.attack_stage import SECRETS, end_all, living, status_size
from benchmarks.fuzz_case import Case
from benchmarks.fuzz_inputs import KINDS, make_case
from benchmarks.fuzz_judge import Outcome, faults, snapshot
from benchmarks.fuzz_seeds import Seeds, train_arguments
from timerxl.command_line import quiet_libraries

MEMORY_BYTES = 10 * 2**30  # of addresses: an input must not take the machine's memory
FILE_BYTES = 2 * 2**30  # nor its disk
COMMANDS = "convert diagnose evaluate plan predict prepare_data publish report train".split()
_SLOW = (
    "accelerate datasets h5netcdf sklearn.ensemble tensorboard timerxl.data.era5.prepare "
    "timerxl.data.audit.auditor timerxl.data.forecast_file timerxl.forecaster "
    "timerxl.hub.package timerxl.hub.push timerxl.model.convert_openltm timerxl.planner.plan "
    "timerxl.planner.plan_text timerxl.report.compare timerxl.report.page "
    "timerxl.report.figures timerxl.training.run timerxl.training.final_evaluation"
).split()


def warm_up() -> None:
    """Everything slow is imported here, once, and not in every child."""
    quiet_libraries()
    for name in [*(f"timerxl.cli.{name}" for name in COMMANDS), *_SLOW]:
        importlib.import_module(name)


def launch(command: str, arguments: list[str]) -> int:
    """``launch/COMMAND.py ARGUMENTS`` in this process."""
    sys.argv = [f"{command}.py", *arguments]
    code: int = importlib.import_module(f"timerxl.cli.{command}").main()
    return code


def in_child(
    action: Callable[[], int], folder: Path, seconds: float, free_bytes: int | None = None
) -> Outcome:
    """Run ``action`` in a forked process as a command's main; it and its children end in time."""
    started, deadline = time.monotonic(), time.monotonic() + seconds
    sys.stdout.flush()
    sys.stderr.flush()
    names = {1: folder / ".stdout", 2: folder / ".stderr"}
    child = os.fork()
    if child == 0:
        _be_child(action, folder, names, free_bytes)
    code: int | None = None
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.01)
    alive = [] if code is None else living(str(folder), child)
    end_all(alive)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if code is None:
        os.waitpid(child, 0)
    stdout, stderr = (path.read_text(errors="replace") for path in names.values())
    for path in names.values():
        path.unlink()
    return Outcome(code, stdout, stderr, time.monotonic() - started, len(alive))


def _be_child(
    action: Callable[[], int], folder: Path, names: dict[int, Path], free_bytes: int | None
) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        used = status_size(os.getpid(), "VmSize")
        most = MEMORY_BYTES if free_bytes is None else used + free_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        os.environ.update(SECRETS, TIMERXL_ATTACK=str(folder))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, path in names.items():
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.chdir(folder)
        code = action()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def make_seeds(folder: Path) -> Seeds:
    """The valid inputs; raises RuntimeError where one of them is refused."""
    seeds = Seeds(folder)
    (folder / "prepared").mkdir()

    def step(name: str, action: Callable[[], object]) -> None:
        found = in_child(lambda: int(bool(action()) and False), folder, 120)
        if found.code != 0:
            raise RuntimeError(f"no seed {name}: {found.stderr[-3000:]}")

    def run(command: str, arguments: list[str]) -> None:
        found = in_child(lambda: launch(command, arguments), folder, 120)
        if found.code != 0:
            raise RuntimeError(f"no seed of {command}: {found.stdout}{found.stderr[-3000:]}")

    step("tables", lambda: fuzz_seeds.make_tables(folder))
    step("openltm", lambda: fuzz_seeds.make_openltm(folder))
    step("era5", lambda: fuzz_seeds.make_era5(folder))
    run("train", train_arguments(seeds.path("table.csv"), seeds.path("run")))
    shutil.rmtree(folder / "prepared")
    run("prepare_data", [str(seeds.path("table.csv")), "--output", str(folder / "prepared")])
    shutil.copytree(seeds.path("run"), seeds.path("cut_off"))
    fuzz_seeds.cut_off(seeds.path("cut_off"))
    return seeds


@dataclass
class Tally:
    """Of one kind."""

    refused: int = 0
    accepted: int = 0
    codes: Counter[int | None] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0


def run_case(case: Case, folder: Path) -> tuple[Outcome, list[str]]:
    """The outcome, and what is wrong with it."""
    before = snapshot(folder)
    action = lambda: launch(case.command, case.arguments)  # noqa: E731
    outcome = in_child(action, folder, case.seconds, case.free_bytes)
    return outcome, faults(case, outcome, before, folder)


def fuzz(
    seeds: Seeds, folder: Path, wanted: list[tuple[str, int]], seed: int, keep: Path | None
) -> dict[str, Tally]:
    """Every (kind, number) of ``wanted``; a line for every fault, as it is found."""
    tallies = {kind: Tally() for kind, _ in wanted}
    for kind, number in wanted:
        place = folder / f"{kind}-{number}"
        case = make_case(kind, number, seed, seeds, place)
        outcome, wrong = run_case(case, place)
        tally = tallies[kind]
        tally.codes[outcome.code] += 1
        tally.slowest = max(tally.slowest, outcome.seconds)
        if wrong:
            tally.faults += wrong
            print(f"FAULT {kind} {number}: {case.command}, {case.what}: {'; '.join(wrong)}")
            print(f"  again: python benchmarks/fuzz.py --only {kind} --case {number} --seed {seed}")
        elif outcome.code in (0, None):  # done, or at work on what takes hours
            tally.accepted += 1
        else:
            tally.refused += 1
        if len(wanted) == 1:
            print(f"{case.command} {' '.join(text[:300] for text in case.arguments)}")
            print(f"{case.what}: code {outcome.code} after {outcome.seconds:.1f} s")
            print(outcome.stdout[-1500:] + outcome.stderr[-4000:])
        if keep is not None and (wrong or len(wanted) == 1):
            shutil.copytree(
                place, keep / place.name, symlinks=True, dirs_exist_ok=True, ignore=_pipes
            )
        shutil.rmtree(place)
    return tallies


def _pipes(folder: str, names: list[str]) -> list[str]:
    """What copytree can't copy."""
    return [name for name in names if Path(folder, name).is_fifo()]


@contextmanager
def workplace() -> Iterator[tuple[Seeds, Path]]:
    """Valid inputs and room for the damaged ones, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="timerxl-fuzz-") as folder:
        (place := Path(folder, "seeds")).mkdir()
        yield make_seeds(place), Path(folder)


def print_table(tallies: dict[str, Tally]) -> None:
    print(f"{'kind':10}{'inputs':>8}{'refused':>9}{'accepted':>10}{'faults':>8}{'slowest':>10}")
    rows = [
        (k, t.codes.total(), t.refused, t.accepted, len(t.faults), t.slowest)
        for k, t in tallies.items()
    ]
    rows.append(
        (
            "all",
            *(sum(column) for column in list(zip(*rows, strict=True))[1:5]),
            max(row[5] for row in rows),
        )
    )
    for kind, inputs, refused, accepted, wrong, slowest in rows:
        print(f"{kind:10}{inputs:8}{refused:9}{accepted:10}{wrong:8}{slowest:8.1f} s")
    codes = sum((tally.codes for tally in tallies.values()), Counter())
    print("exit codes: " + ", ".join(f"{code}: {n}" for code, n in sorted(codes.items(), key=str)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(KINDS))
    parser.add_argument("--case", type=int, help="with --only: this one, with all it says")
    parser.add_argument("--keep", type=Path, help="copy the folders of faults there")
    given = parser.parse_args()
    kinds = [given.only] if given.only else list(KINDS)
    wanted = [(kinds[i % len(kinds)], i // len(kinds)) for i in range(given.inputs)]
    if given.case is not None:
        wanted = [(given.only or parser.error("--case needs --only KIND"), given.case)]
    started = time.monotonic()
    warm_up()
    from benchmarks.machine import machine_line

    print(machine_line(), flush=True)
    with workplace() as (seeds, folder):
        tallies = fuzz(seeds, folder, wanted, given.seed, given.keep)
    print_table(tallies)
    print(f"seed {given.seed}, {time.monotonic() - started:.0f} s in all")
    return int(any(tally.faults for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
