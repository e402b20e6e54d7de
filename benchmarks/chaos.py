"""Kill, starve and damage runs, resume them, and compare with one that was left alone.

    python benchmarks/chaos.py [--trials 20] [--seed 0] [--only NAME ...]

Real processes on CPU (gloo), SYNTHETIC data. Prints a table: scenario, trials, lost steps, replayed
samples, bit-identical, seconds to recover. Exit code 1 where one is not as it must be. Disk
scenarios need the right to mount a tmpfs; without it they are skipped, and said so.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from benchmarks.chaos_judge import ONE, STEPS, TWO, ZERO, Comparison, Mode, Run, compare
from benchmarks.machine import machine_line

CLOSE = 1e-5  # relative, of the loss of a step, where the number of processes changes
LAST_WORD = 30.0  # seconds within which a process must end after another died


@dataclass
class Row:
    """One line of the table; ``good`` False makes the whole run fail."""

    scenario: str
    trials: int
    lost: int
    replayed: int
    identical: str
    seconds: list[float]
    good: bool
    note: str = ""

    def text(self) -> str:
        waited = "–"
        if self.seconds:
            waited = f"{median(self.seconds):.0f} (at most {max(self.seconds):.0f})"
        cells = [self.scenario, self.trials, self.lost, self.replayed, self.identical, waited]
        return "| " + " | ".join(str(cell) for cell in [*cells, self.note]) + " |"


def row(scenario: str, pairs: list[tuple[Run, Comparison]], note: str = "") -> Row:
    """A line for runs that must be bit-identical."""
    same = sum(found.identical for _, found in pairs)
    lost = sum(found.lost_steps for _, found in pairs)
    replayed = sum(found.replayed_samples for _, found in pairs)
    seconds = [s for run, _ in pairs for s in run.seconds_to_recover()]
    differing = "; ".join(found.why for _, found in pairs if found.why)
    good = same == len(pairs) and not lost and not replayed
    told = "yes" if same == len(pairs) else f"{same} of {len(pairs)}"
    return Row(scenario, len(pairs), lost, replayed, told, seconds, good, note or differing)


class Chaos:
    """The scenarios, sharing one undisturbed run per launch mode."""

    def __init__(self, folder: Path, trials: int, seed: int):
        self.folder, self.trials, self.random = folder, trials, random.Random(seed)
        self._straight: dict[str, Run] = {}

    def straight(self, mode: Mode) -> Run:
        if mode.name not in self._straight:
            run = Run(self.folder / f"straight_{len(self._straight)}")
            if run.launch(mode) != 0:
                raise RuntimeError(f"the undisturbed run failed:\n{run.output[-3000:]}")
            self._straight[mode.name] = run
        return self._straight[mode.name]

    def new(self, name: str) -> Run:
        return Run(self.folder / f"{name}_{time.time_ns()}")

    def finish(self, run: Run, mode: Mode, *overrides: str) -> Run:
        if run.launch(mode, *overrides) != 0:
            raise RuntimeError(f"the resumed run failed:\n{run.output[-3000:]}")
        return run

    def killed(self, mode: Mode) -> Row:
        """SIGKILL at random steps and in the middle of saves, the first one among them."""
        straight = self.straight(mode)
        # Files that one rank syncs in one save; the first two trials die in the first save.
        points = ["file:2", "file:9"]
        while len(points) < self.trials:
            in_save = self.random.random() < 0.5
            count = self.random.randint(10, 100) if in_save else self.random.randint(1, STEPS)
            points.append(f"{'file' if in_save else 'step'}:{count}")
        pairs = []
        for point in points[: self.trials]:
            run, rank = self.new("killed"), self.random.randrange(mode.ranks)
            if point.startswith("file") and rank:
                # Other ranks write their random numbers and, under ZeRO, their shard: 9 saves.
                point = f"file:{self.random.randint(1, 17 if mode.zero else 8)}"
            code = run.launch(mode, kill=point, kill_rank=rank)
            died = any("killed" in entry for entry in run.entries())
            if not died or code == 0:
                raise RuntimeError(f"{point} on rank {rank} did not kill:\n{run.output[-2000:]}")
            pairs.append((self.finish(run, mode), compare(straight, run)))
            shutil.rmtree(run.folder)
        in_saves = sum(p.startswith("file") for p in points)
        return row(f"SIGKILL, {mode.name}", pairs, f"{in_saves} of them in the middle of a save")

    def one_of_two(self) -> Row:
        """One rank dies, the other must end soon, and torchrun brings both back."""
        mode = Mode("two", 2, max_restarts=3)
        straight, pairs, waits = self.straight(TWO), [], []
        for trial in range(max(1, self.trials // 5)):
            run, point = self.new("one_of_two"), f"step:{self.random.randint(8, STEPS)}"
            process = run.start(mode, kill=point, kill_rank=trial % 2)
            waits.append(run.last_word(process))
            if run.end(process) != 0:
                raise RuntimeError(f"torchrun did not bring both back:\n{run.output[-3000:]}")
            pairs.append((run, compare(straight, run)))
        found = row("one of two processes killed, torchrun --max-restarts", pairs)
        found.note = f"the other ended within {max(waits):.1f} s"
        found.good &= max(waits) < LAST_WORD
        return found

    def other_world(self, moves: tuple[tuple[int, int], ...] = ((2, 1), (2, 4), (1, 2))) -> Row:
        """ZeRO-2 saved by so many ranks goes on with another number of them."""
        gaps, pairs, still = [], [], "model.hidden_dropout=0"
        for before, after in moves:
            first, then = Mode(f"zero {before}", before, True), Mode(f"zero {after}", after, True)
            straight, run = self.new("straight"), self.new("world")
            self.finish(straight, first, still)
            run.launch(first, still, kill=f"step:{self.random.randint(9, 50)}")
            # The command stays the same: the toolkit fits the batch to the processes.
            self.finish(run, then, still, f"train.batch_size={16 // before}")
            pairs.append((run, compare(straight, run)))
            gaps.append(pairs[-1][1].loss_difference)
        shown = ", ".join(f"{before} to {after}" for before, after in moves)
        found = row(f"ZeRO-2 from {shown} processes", pairs)
        found.identical = f"no: losses within {max(gaps):.0e}"
        found.note = f"asked: within {CLOSE:.0e}"
        found.good = max(gaps) <= CLOSE and not found.lost and not found.replayed
        return found

    def damaged(self, *ways: str) -> Row:
        """The newest checkpoint is damaged in these ways: the one before is used, and said why."""
        straight, pairs, unnamed = self.straight(ONE), [], []
        for name in ways or DAMAGES:
            damage, named = DAMAGES[name]
            run = self.new("damaged")
            run.launch(ONE, kill=f"step:{STEPS - 10}")
            newest = max((run.folder / "checkpoints").glob("step_*"))
            damage(newest, straight)
            self.finish(run, ONE)
            if f"checkpoint {newest.name} is not used: {named}" not in run.output:
                unnamed.append(name)
            pairs.append((run, compare(straight, run)))
        found = row(f"newest checkpoint damaged: {', '.join(ways or DAMAGES)}", pairs)
        found.note = f"not named: {unnamed}" if unnamed else "each named, the one before used"
        found.good &= not unnamed
        return found

    def all_damaged(self) -> Row:
        """No whole checkpoint is left: a clean stop with code 4, and nothing is trained over."""
        run = self.new("all_damaged")
        run.launch(ONE, kill=f"step:{STEPS - 10}")
        for folder in (run.folder / "checkpoints").iterdir():
            flip(folder / "model.safetensors")
        code = run.launch(ONE)
        good = code == 4 and "no whole checkpoint" in run.output and run.status()["code"] == 4
        return Row("every checkpoint damaged", 1, 0, 0, "–", [], good, f"exit code {code}")

    def disk_full(self) -> Row:
        """A tmpfs too small for the next checkpoint; more room later."""
        with small_disk(self.folder / "disk", "1500k") as disk:
            if disk is None:
                return Row("disk full", 0, 0, 0, "–", [], True, "skipped: no right to mount")
            run = Run(disk / "run", log=self.folder / "disk.log")
            code = run.launch(ONE, "train.keep_last=100")
            told = "can't be written" in run.output and "GB are free" in run.output
            clean = not list((run.folder / "checkpoints").glob(".*")) and run.status()["code"] == 4
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            self.finish(run, ONE, "train.keep_last=2")
            found = row("disk full, then made larger", [(run, compare(self.straight(ONE), run))])
        found.note = f"exit code {code}, nothing half-written"
        found.good &= code == 4 and told and clean
        return found

    def read_only(self) -> Row:
        """The disk of a run that was cut off is mounted read-only, then writable again."""
        with small_disk(self.folder / "fixed", "64m") as disk:
            if disk is None:
                return Row("read-only disk", 0, 0, 0, "–", [], True, "skipped: no right to mount")
            run = Run(disk / "run", log=self.folder / "fixed.log")
            run.launch(ONE, kill="step:30")
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            code = run.launch(ONE)
            told = "Read-only file system" in run.output
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            self.finish(run, ONE)
            found = row("read-only disk, then writable", [(run, compare(self.straight(ONE), run))])
        found.note, found.good = f"exit code {code}", found.good and told and code == 4
        return found

    def locked(self) -> Row:
        """Two at once on one folder: the second is refused, the first is not disturbed."""
        straight, run = self.straight(ONE), self.new("locked")
        first = run.start(ONE)
        while not (run.folder / "config.yaml").exists():
            time.sleep(0.1)
        second = Run(run.folder, log=self.folder / "second.log")
        first.send_signal(signal.SIGSTOP)  # it must not be done before the second asks
        code = second.launch(ONE)
        first.send_signal(signal.SIGCONT)
        told = "is in use by process" in second.output
        run.end(first)
        found = row("two runs on one folder", [(run, compare(straight, run))])
        found.note = f"the second: exit code {code}"
        found.good &= code == 2 and told
        return found


def flip(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _foreign(folder: Path, straight: Run) -> None:
    """A shard of another run, sound in itself."""
    other = max((straight.folder / "checkpoints").glob("step_*"))
    shutil.copy(next(other.glob("optimizer-*")), next(folder.glob("optimizer-*")))


def _one(folder: Path, pattern: str) -> Path:
    return next(folder.glob(pattern))


# What is done to the newest checkpoint, and what must then be said of it.
DAMAGES: dict[str, tuple[Callable[[Path, Run], object], str]] = {
    "truncated": (lambda f, _: os.truncate(_one(f, "optimizer-*"), 1000), "optimizer-00000-of"),
    "a bit flipped": (lambda f, _: flip(f / "model.safetensors"), "model.safetensors is damaged"),
    "no manifest": (lambda f, _: (f / "manifest.json").unlink(), "manifest.json is missing"),
    "a file missing": (lambda f, _: (f / "rng-00000.safetensors").unlink(), "rng-00000"),
    "another run's shard": (_foreign, "optimizer-00000-of-00001.safetensors is damaged, or of"),
    "cut manifest": (lambda f, _: os.truncate(f / "manifest.json", 40), "manifest.json can't be"),
}


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path | None]:
    """A tmpfs of this size; None where mounting is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def scenarios(chaos: Chaos) -> dict[str, Callable[[], Row]]:
    """Name on the command line -> what makes one line of the table."""
    return {
        "one": lambda: chaos.killed(ONE),
        "two": lambda: chaos.killed(TWO),
        "zero": lambda: chaos.killed(ZERO),
        "restart": chaos.one_of_two,
        "world": chaos.other_world,
        "damaged": chaos.damaged,
        "all-damaged": chaos.all_damaged,
        "disk-full": chaos.disk_full,
        "read-only": chaos.read_only,
        "locked": chaos.locked,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=20, help="SIGKILLs per way of launching")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="some scenarios instead of all")
    given = parser.parse_args()
    print(machine_line())
    columns = "scenario, trials, lost steps, replayed samples, bit-identical, s to recover, "
    print(f"\n| {' | '.join(columns.split(', '))} |\n{'|---' * 7}|", flush=True)
    good = True
    with tempfile.TemporaryDirectory() as parent:
        chaos = Chaos(Path(parent), given.trials, given.seed)
        known = scenarios(chaos)
        for name in given.only or known:
            found = known[name]()
            print(found.text() + ("" if found.good else " FAILED"), flush=True)
            good &= found.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
