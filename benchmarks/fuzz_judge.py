"""What a command may do with a damaged input, and the sentence for everything that it may not."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.attack_stage import FORGED, MOST_LINE, SECRETS, steers
from benchmarks.fuzz_case import INPUTS, MARKER, OUTPUT, Case
from timerxl.training.checkpoint.storage import CHECKPOINTS, find_checkpoints, find_problem

CODES = (0, 1, 2, 3, 4)
# "error: ..." as run_command says it, or argparse's "NAME.py: error: ..."
_ERROR = re.compile(r"^(?:[\w.-]+: )?error: \S", re.M)
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)|^\w*(?:Error|Exception): ", re.M)
_AT_WORK = re.compile(r"^plan: peak about .* of training an epoch", re.M)
_LEFT_OVER = re.compile(r"\.(?:new|old|tmp)$|\.partial-|^\.[^/]*\.\d+(?:\.\w+)?$")
MOST_BYTES = 200_000_000  # on the disk
MOST_READ = 100_000_000  # of a file; a sparse one is told by its size and time
_MAY_STAY = {"status.json", "run.lock"}  # of a run that was refused before it began


@dataclass(frozen=True)
class Outcome:
    """How a command ended; ``code`` is None where it had to be ended, negative after a signal.

    ``alive`` is how many processes it left.
    """

    code: int | None
    stdout: str
    stderr: str
    seconds: float
    alive: int = 0


def snapshot(folder: Path) -> dict[str, str]:
    """Path -> what is there, for all below a folder."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            mode = path.lstat().st_mode
            kind = "folder" if stat.S_ISDIR(mode) else "other"
            if stat.S_ISLNK(mode):
                kind = os.readlink(path)
            elif stat.S_ISREG(mode) and path.stat().st_size > MOST_READ:
                kind = f"{path.stat().st_size} bytes of {path.stat().st_mtime_ns}"
            elif stat.S_ISREG(mode):
                kind = hashlib.sha256(path.read_bytes()).hexdigest()
            found[path.relative_to(folder).as_posix()] = kind
    return found


def faults(case: Case, outcome: Outcome, before: dict[str, str], folder: Path) -> list[str]:
    """Everything wrong with how ``case`` ended in ``folder``, whose files were ``before``."""
    after = snapshot(folder)
    if outcome.code is None and case.command == "train" and _AT_WORK.search(outcome.stdout):
        return []  # what is left of the recipe asks for hours; the command said so and began
    found = _of_process(case, outcome)
    if (folder / MARKER).exists():
        found.append("code of a file was executed")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    kept = f"{OUTPUT}/" if case.output is not None else "\0"
    foreign = sorted(n for n in changed if n not in (MARKER, OUTPUT) and not n.startswith(kept))
    if foreign:
        found.append(f"inputs were changed: {', '.join(foreign[:5])}")
    left = [n for n in changed & after.keys() if _LEFT_OVER.search(Path(n).name)]
    if left:
        found.append(f"left half-written: {', '.join(sorted(left)[:5])}")
    if outcome.code == 2 and not left:
        touched = sorted(n for n in changed if Path(n).name not in _MAY_STAY and n.count("/") > 0)
        touched = [n for n in touched if after.get(n, "") != "folder" and n not in foreign]
        if touched:
            found.append(f"bad input, but the output was changed: {', '.join(touched[:5])}")
    new = [folder / name for name in changed & after.keys()]
    if (size := sum(path.lstat().st_blocks * 512 for path in new)) > MOST_BYTES:
        found.append(f"{size / 1e6:,.0f} MB were written")
    for path in new:
        is_own = path.is_file() and not path.is_symlink() and path.stat().st_size < MOST_READ
        if is_own and (secret := _secret_in(path.read_bytes())):
            found.append(f"{path.name} was written with the secret of {secret}")
    if case.output is not None and case.output.exists():
        # A log that goes on was damaged before.
        written = {n for n in changed & after.keys() if n not in before or ".jsonl" not in n}
        found += _unreadable(case, outcome, written, folder)
    return found


def _of_process(case: Case, outcome: Outcome) -> list[str]:
    """Exit code, time, message."""
    if outcome.code is None:
        return [f"not done after {outcome.seconds:.0f} s"]
    found = []
    if outcome.alive:
        found.append(f"{outcome.alive} processes live on")
    if odd := sorted({repr(sign) for sign in outcome.stdout + outcome.stderr if steers(sign)}):
        found.append(f"raw control characters: {', '.join(odd[:4])}")
    if secret := _secret_in((outcome.stdout + outcome.stderr).encode()):
        found.append(f"the secret of {secret} was printed")
    lines = (outcome.stdout + "\n" + outcome.stderr).replace("\r", "\n").split("\n")
    if (longest := max(map(len, lines))) > MOST_LINE and "--json" not in case.arguments:
        found.append(f"a line of {longest:,} characters")
    if FORGED.search("\n".join(lines)):
        found.append("a forged line")
    if outcome.code not in CODES:
        found.append(f"exit code {outcome.code}, expected one of {CODES}")
    text = outcome.stderr + "\n" + outcome.stdout
    if _TRACEBACK.search(text):
        found.append(f"a traceback: {outcome.stderr.strip().splitlines()[-1:] or ['']}")
    said = len(_ERROR.findall(outcome.stderr))
    if outcome.code == 0 and said:
        found.append("exit code 0 with an error on stderr")
    if outcome.code != 0 and said != 1:
        found.append(f"exit code {outcome.code} with {said} lines 'error: ...' on stderr")
    if outcome.code == 0 and "--json" in case.arguments:
        try:
            json.loads(outcome.stdout)
        except ValueError:
            found.append("stdout is no JSON, which --json promises")
    return found


def _secret_in(content: bytes) -> str | None:
    return next((name for name, value in SECRETS.items() if value.encode() in content), None)


def _unreadable(case: Case, outcome: Outcome, changed: set[str], folder: Path) -> list[str]:
    """What was written and does not load."""
    import pandas as pd

    found = []
    for name in sorted(changed):
        path = folder / name
        if not path.is_file() or path.is_symlink() or name.startswith(INPUTS):
            continue
        if path.stat().st_nlink > 1:  # a planted hard link, set aside; its target is unchanged
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".jsonl":
                for line in path.read_text(encoding="utf-8").splitlines():
                    json.loads(line)
            elif path.suffix in (".yaml", ".yml"):
                yaml.safe_load(path.read_text(encoding="utf-8"))
            elif path.suffix == ".parquet":
                pd.read_parquet(path)
            elif path.suffix == ".csv":
                pd.read_csv(path)
            elif path.suffix == ".html":
                if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
                    raise ValueError("the page has no end")
            elif path.suffix == ".pth":
                from timerxl.model.openltm_checkpoint import read_openltm

                read_openltm(path)
            elif path.name == "model.safetensors" and (path.parent / "config.json").is_file():
                from timerxl.model.convert_openltm import load_saved

                load_saved(path.parent)
        except Exception as error:  # the judge asks whether it loads, for whatever reason
            found.append(f"{name} was written and can't be read: {error}"[:300])
    for root in {Path(name).parent for name in changed if CHECKPOINTS in name}:
        if root.name == CHECKPOINTS:
            found += _broken_checkpoints(folder / root, changed)
    if case.command == "train" and outcome.code == 0:
        runs = [path.parent for path in (folder / OUTPUT).rglob("status.json")]
        if not any((run / "results.json").is_file() for run in runs):
            found.append("a run that ended with 0 holds no results.json")
    return found


def _broken_checkpoints(root: Path, changed: set[str]) -> list[str]:
    """Checkpoints that this run wrote and that are not whole."""
    found = []
    for _, path in find_checkpoints(root):
        new = any(f"/{path.name}/" in name for name in changed)
        if new and (problem := find_problem(path)):
            found.append(f"checkpoint {path.name} was written and is not whole: {problem}")
    return found
