"""Small real attacks on every command: what a stranger's file, folder, recipe or server can do.

    python benchmarks/attacks.py [--row N ...] [--variants 12] [--name TEXT] [--tree FOLDER]
        [--verbose] [--keep FOLDER]

Ten rows, each a kind of attack; of its variants --variants are tried (0: all). A row "held" where
none of them did harm (a file outside changed, a secret given away, a process left alive, a terminal
steered, time, memory or disk without bound), and its honest inputs were taken. --tree attacks the
timerxl of another checkout. Nothing leaves this machine; canaries lie in the temporary folder
alone. Exit code 1 where a row fell.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
import traceback
import types
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
TITLES = {
    1: "links out of a run's folder",
    2: "secrets and uploads by a recipe",
    3: "strangers' models and checkpoints",
    4: "bombs of references and aliases",
    5: "signals while a hub hangs",
    6: "names that steer a terminal",
    7: "many regions and columns",
    8: "packed bombs",
    9: "edited files of a model",
    10: "secrets in a run that is published",
}
MODULES = "attack_files attack_recipes attack_hub attack_inputs".split()
LIBRARIES = "accelerate datasets h5netcdf sklearn.ensemble tensorboard".split()
WORKERS = 3  # on two cores: some attacks wait


def take_tree(tree: Path) -> None:
    """Import timerxl from ``tree``, and the benchmarks that lie beside this file."""
    others = [p for p in sys.path if Path(p).resolve() not in (HERE, HERE.parent)]
    sys.path[:] = [str(tree), *others, str(HERE.parent / "tests")]
    package = types.ModuleType("benchmarks")
    package.__path__ = [str(HERE)]
    sys.modules["benchmarks"] = package


def warm_up() -> None:
    """Import everything once, so that a command begins in milliseconds."""
    from timerxl.command_line import quiet_libraries

    quiet_libraries()
    import timerxl

    for module in pkgutil.walk_packages(timerxl.__path__, "timerxl."):
        importlib.import_module(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)
    for name in MODULES:
        importlib.import_module(f"benchmarks.{name}")


def spread(numbers: list[int], count: int) -> list[int]:
    """``count`` of the attacks, evenly over all of a row, and the last, which is an honest one."""
    if count < 1 or len(numbers) <= count:
        return numbers
    return [numbers[i * (len(numbers) - 1) // (count - 1)] for i in range(count)]


def carry_out(number: int, folder: str, seeds: str, tree: str, verbose: bool) -> list[str]:
    """The harm of one attack, in a worker."""
    from benchmarks.attack_stage import ATTACKS, Stage

    attack = ATTACKS[number]
    if verbose:
        print(f"row {attack.row}: {attack.name}", flush=True)
    try:
        return attack.action(Stage(Path(folder), Path(seeds), Path(tree), verbose))
    except Exception as error:  # of the attack itself, or of output that is not what it should be
        where = traceback.extract_tb(error.__traceback__)[-1]
        return [f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error}"]


def attack_all(
    chosen: list[int], folder: Path, seeds: Path, tree: Path, given: argparse.Namespace
) -> dict[int, list[str]]:
    """Row -> "variant: harm" of what fell; a line for each row as soon as it is over."""
    from benchmarks.attack_stage import ATTACKS

    fell: dict[int, list[str]] = {}
    with ProcessPoolExecutor(WORKERS, get_context("fork")) as pool:
        running: dict[int, list[tuple[int, Future[list[str]]]]] = {}
        for number in chosen:
            more = (str(folder / str(number)), str(seeds), str(tree), given.verbose)
            future = pool.submit(carry_out, number, *more)
            running.setdefault(ATTACKS[number].row, []).append((number, future))
        for row, futures in sorted(running.items()):
            fell[row] = []
            for number, future in futures:
                if harms := future.result():
                    fell[row].append(f"{ATTACKS[number].name}: {'; '.join(harms)}"[:600])
                if given.keep and harms:
                    shutil.copytree(
                        folder / str(number), given.keep / f"{row}-{number}", symlinks=True,
                        ignore=_pipes,
                    )  # fmt: skip
                shutil.rmtree(folder / str(number))
            count = f"{len(futures)} variants"
            state = f"fell: {len(fell[row])} of {count}" if fell[row] else f"held ({count})"
            print(f"{row:2}  {TITLES[row]:38}{state}", flush=True)
            for line in fell[row] if given.verbose else fell[row][: given.shown]:
                print(f"      {ascii(line)[1:-1]}", flush=True)
    return fell


def _pipes(folder: str, names: list[str]) -> list[str]:
    """What copytree can't copy."""
    return [name for name in names if Path(folder, name).is_fifo()]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", type=int, nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--variants", type=int, default=12, help="of each row; 0: all of them")
    parser.add_argument("--name", default="", help="only attacks whose name holds this text")
    parser.add_argument("--tree", type=Path, default=HERE.parent, help="the checkout to attack")
    parser.add_argument("--shown", type=int, default=3, help="lines of a row that fell")
    parser.add_argument("--verbose", action="store_true", help="every command and what it said")
    parser.add_argument("--keep", type=Path, help="copy the folders of what fell there")
    given = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's children would never see it
    started, tree = time.monotonic(), given.tree.resolve()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    take_tree(tree)
    warm_up()
    from benchmarks.attack_stage import ATTACKS
    from benchmarks.fuzz import make_seeds
    from benchmarks.machine import machine_line

    print(machine_line(), flush=True)
    chosen = [
        number
        for row in given.row
        for number in spread(
            [n for n, a in enumerate(ATTACKS) if a.row == row and given.name in a.name],
            given.variants,
        )
    ]
    with tempfile.TemporaryDirectory(prefix="timerxl-attacks-") as folder:
        (seeds := Path(folder, "seeds")).mkdir()
        make_seeds(seeds)
        fell = attack_all(chosen, Path(folder), seeds, tree, given)
    held = sum(not harms for harms in fell.values())
    print(f"{held} of {len(fell)} rows held, {time.monotonic() - started:.0f} s in all")
    return int(held < len(fell))


if __name__ == "__main__":
    sys.exit(main())
