"""Measure the form of the code: lines, files, names, and the files on the way of a window.

    python benchmarks/size.py [--tree FOLDER ...] [--no-walks]

One table, with a column for each checkout. Nothing of the checkout is imported for the table. The
walks run its code in a process of their own, on a CPU, within a minute:

- from file to logits: a generated CSV is read, cut into windows, and one batch goes through a tiny
  model;
- from the command line to the optimizer: ``--config transfer train.batch_size=8`` with a tiny
  network, from ``main()`` of launch/train.py until the optimizer is made;
- of that, the way of the settings alone: the files entered before the first of training/, and those
  whose calls are still open when the optimizer is made. Data, model and run folder are left out.

How a walk is counted: an entry is a call into a file of timerxl/ or launch/ from any other file.
Files stand in the order of their first entry; code that runs because a file is imported is not
counted. The walk comes back to a file when it enters it again after it has entered another file
for the first time. Calls from file to file and back while no new file appears count once.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MAX_MODULES = 15
MAX_FUNCTION_LINES = 80
TRAINING = "timerxl/training/"
TINY = (
    "model.hidden_size=16 model.intermediate_size=16 model.num_hidden_layers=1 "
    "model.num_attention_heads=2 model.context_length=192 train.zero_stage=0"
).split()


@dataclass
class Source:
    """One file of the product."""

    path: str  # relative to the checkout
    module: str  # dotted; a package has the name of its folder
    text: str
    tree: ast.Module = field(init=False)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.text)

    @property
    def is_package(self) -> bool:
        return self.path.endswith("/__init__.py")


def read_sources(tree: Path) -> list[Source]:
    """Read timerxl/ and the scripts of launch/."""
    found = []
    for path in sorted([*tree.glob("timerxl/**/*.py"), *tree.glob("launch/*.py")]):
        relative = path.relative_to(tree)
        dotted = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        found.append(Source(relative.as_posix(), dotted, path.read_text(encoding="utf-8")))
    return found


def importers(sources: list[Source]) -> dict[str, set[str]]:
    """Map each module to the files that import it; imports inside functions count too."""
    known = {source.module for source in sources}
    found: dict[str, set[str]] = {source.module: set() for source in sources}
    for source in sources:
        package = source.module.split(".")
        package = package if source.is_package else package[:-1]
        for node in ast.walk(source.tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                stem = ".".join([*base, *([node.module] if node.module else [])])
                names = [f"{stem}.{alias.name}" for alias in node.names]
            for name in names:
                module = name if name in known else name.rpartition(".")[0]
                if module in known and module != source.module:
                    found[module].add(source.path)
    return found


def functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def names_used(tree: ast.AST) -> Counter[str]:
    """Count how often each name or attribute is read."""
    return Counter(
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)
    )


def names_called(tree: ast.AST) -> Counter[str]:
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return Counter(
        func.id if isinstance(func, ast.Name) else func.attr
        for func in called
        if isinstance(func, ast.Name | ast.Attribute)
    )


def is_dataclass(node: ast.ClassDef) -> bool:
    marks = [mark.func if isinstance(mark, ast.Call) else mark for mark in node.decorator_list]
    return any(ast.unparse(mark).rpartition(".")[2] == "dataclass" for mark in marks)


def build_places(node: ast.ClassDef, calls: Counter[str]) -> int:
    """Count the places that build the class: its name is called, or ``cls`` in its own methods."""
    return calls[node.name] + names_called(node)["cls"]


def twice(names: list[tuple[str, str]]) -> list[str]:
    """Name what stands in more than one file, from pairs of name and path."""
    count = Counter(name for name, _ in names)
    places = {name: sorted(path for n, path in names if n == name) for name in count}
    return [f"{name}: {', '.join(places[name])}" for name in sorted(count) if count[name] > 1]


def measure(tree: Path) -> dict[str, int | list[str]]:
    """Measure one checkout: a number, or the list whose length is the number."""
    sources = read_sources(tree)
    found_importers = importers(sources)
    modules = [source for source in sources if not source.is_package]
    inside = [source for source in modules if source.path.startswith("timerxl/")]
    folders = Counter(os.path.dirname(source.path) for source in inside)
    classes = [
        (node, source.path)
        for source in sources
        for node in source.tree.body
        if isinstance(node, ast.ClassDef)
    ]
    dataclasses = [(node, path) for node, path in classes if is_dataclass(node)]
    calls: Counter[str] = Counter()
    for source in sources:
        calls.update(names_called(source.tree))
    helpers, long_functions = [], []
    for source in sources:
        used = names_used(source.tree)
        for node in functions(source):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if source.path.startswith(TRAINING) and lines > MAX_FUNCTION_LINES:
                long_functions.append(f"{source.path}: {node.name}, {lines} lines")
            is_private = node.name.startswith("_") and not node.name.endswith("__")
            if is_private and used[node.name] == 1:
                helpers.append(f"{source.path}: {node.name}")
    tests = sorted(tree.glob("tests/**/*.py"))
    return {
        "product lines": sum(len(source.text.splitlines()) for source in sources),
        "product files": len(sources),
        "test lines": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in tests),
        f"folders with more than {MAX_MODULES} modules": [
            f"{folder}: {count}" for folder, count in folders.items() if count > MAX_MODULES
        ],
        "modules with one importer": [
            f"{source.path}: {next(iter(found_importers[source.module]))}"
            for source in inside
            if len(found_importers[source.module]) == 1
        ],
        "module names that exist twice": twice(
            [(os.path.basename(source.path), source.path) for source in inside]
        ),
        "class names that exist twice": twice([(node.name, path) for node, path in classes]),
        f"functions above {MAX_FUNCTION_LINES} lines in training/": long_functions,
        "dataclasses": len(dataclasses),
        "dataclasses built in one place": [
            f"{path}: {node.name}" for node, path in dataclasses if build_places(node, calls) == 1
        ],
        "functions": sum(1 for source in sources for _ in functions(source)),
        "private functions used in one place": helpers,
    }


class Walk:
    """Record which files of a checkout are entered, and in which order."""

    def __init__(self, tree: Path) -> None:
        self._folders = tuple(f"{tree.resolve()}/{name}/" for name in ("timerxl", "launch"))
        self._start = len(f"{tree.resolve()}/")
        self._entered_at: dict[str, int] = {}  # how many files were known at the last entry
        self.visits: dict[str, int] = {}

    def _is_ours(self, frame: FrameType) -> bool:
        return frame.f_code.co_filename.startswith(self._folders)

    def _during_import(self, frame: FrameType | None) -> bool:
        while frame is not None:
            # The body of a module or class has no fast local variables; a function has.
            if self._is_ours(frame) and not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
                return True
            frame = frame.f_back
        return False

    def _called(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or not self._is_ours(frame):
            return
        path = frame.f_code.co_filename[self._start :]
        caller = frame.f_back
        if caller is not None and caller.f_code.co_filename == frame.f_code.co_filename:
            return
        if self._entered_at.get(path) == len(self.visits) or self._during_import(frame):
            return
        self.visits[path] = self.visits.get(path, 0) + 1
        self._entered_at[path] = len(self.visits)

    def open_files(self) -> set[str]:
        """Find the files with a call that has not returned yet."""
        frame: FrameType | None = sys._getframe()
        found = set()
        while frame is not None:
            if self._is_ours(frame):
                found.add(frame.f_code.co_filename[self._start :])
            frame = frame.f_back
        return found

    @contextmanager
    def recording(self) -> Iterator[None]:
        sys.setprofile(self._called)
        try:
            yield
        finally:
            sys.setprofile(None)


def find(tree: Path, *names: str) -> Callable[..., Any]:
    """Import the function or class with the first of these names, in whichever module it lies."""
    for name in names:
        for source in read_sources(tree):
            if any(getattr(node, "name", None) == name for node in source.tree.body):
                found: Callable[..., Any] = getattr(importlib.import_module(source.module), name)
                return found
    raise SystemExit(f"{tree}: found none of {', '.join(names)}")


def write_rain(path: Path) -> None:
    """Write 400 days of a made-up station, one row every 12 hours."""
    import numpy as np
    import pandas as pd

    draw = np.random.default_rng(0)
    times = pd.date_range("2022-01-01", periods=800, freq="12h")
    rain = np.where(draw.random(len(times)) < 0.4, draw.gamma(1.0, 4.0, len(times)), 0.0)
    columns = {"timestamp": times, "region": "made_up", "t2m": draw.normal(290, 5, len(times))}
    pd.DataFrame(columns | {"precipitation": rain.round(2)}).to_csv(path, index=False)


def walk_to_logits(tree: Path, folder: Path) -> dict[str, int]:
    """Record the files from a table to the logits of one batch."""
    import torch

    load_series, build_windows = find(tree, "load_series"), find(tree, "build_windows")
    settings, network = find(tree, "TimerXLConfig"), find(tree, "TimerXLForClassification")
    table = folder / "rain.csv"
    write_rain(table)
    overrides = [f"data.path={table}", "data.precipitation_unit=mm"]
    config = find(tree, "load_recipe")("quickstart", overrides)
    walk = Walk(tree)
    with walk.recording():
        windows = build_windows(load_series(config.data), config.data, config.model.context_length)
        batch = windows.batch("train", [0, 1])
    features = batch["past_values"].shape[-1]
    model = network(
        settings(
            patch_length=config.model.patch_length,
            context_length=config.model.context_length,
            num_variables=features,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    ).eval()
    with torch.no_grad(), walk.recording():
        logits = model(past_values=batch["past_values"]).logits
    assert logits.shape == (2, 2)
    return walk.visits


def walk_to_optimizer(tree: Path, folder: Path, finish: Callable[[dict[str, int]], None],
                      settings_alone: bool) -> None:  # fmt: skip
    """Record the files from main() of launch/train.py to the first optimizer, then finish."""
    import torch

    walk = Walk(tree)

    def reached(*args: object, **kwargs: object) -> None:
        sys.setprofile(None)
        visits = walk.visits
        if settings_alone:
            paths, still_open = list(visits), walk.open_files()
            first = next(i for i, path in enumerate(paths) if path.startswith(TRAINING))
            visits = {p: 1 for i, p in enumerate(paths) if i < first or p in still_open}
        finish(visits)
        os._exit(0)  # the run itself is not wanted

    torch.optim.Optimizer.__init__ = reached  # type: ignore[method-assign, assignment]
    overrides = ["train.batch_size=8", *TINY, f"output_dir={folder / 'run'}"]
    sys.argv = ["launch/train.py", "--config", "transfer", *overrides]
    main = importlib.import_module("launch.train").main
    with walk.recording():
        code = main()
    raise SystemExit(f"{tree}: main() returned {code} before an optimizer was made")


def walk_here(kind: str, tree: Path, folder: Path) -> None:
    """Walk in this process; the visits are written into the folder."""

    def finish(visits: dict[str, int]) -> None:
        (folder / "visits.json").write_text(json.dumps(visits), encoding="utf-8")

    sys.path[:] = [str(tree), *(p for p in sys.path if Path(p).resolve() != ROOT / "benchmarks")]
    if kind == "logits":
        finish(walk_to_logits(tree, folder))
    else:
        walk_to_optimizer(tree, folder, finish, settings_alone=kind == "settings")


def walk_apart(kind: str, tree: Path) -> dict[str, int] | str:
    """Walk in a process of its own; what went wrong where nothing came back."""
    unset = ("ACCELERATE_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONPATH")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(unset)}
    environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # the checkout stays as it is
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log = Path(folder, "log.txt")
        words = [sys.executable, str(Path(__file__).resolve()), "--walk", kind, "--folder", folder]
        with open(log, "w", encoding="utf-8") as output:
            subprocess.run(
                [*words, "--tree", str(tree)],
                cwd=tree, env=environment, stdout=output, stderr=output, timeout=300, check=False,
            )  # fmt: skip
        if not Path(folder, "visits.json").is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            told = [line for line in lines if line.startswith("error: ")] or lines
            return "not measured: " + "".join(told[-1:])
        visits: dict[str, int] = json.loads(Path(folder, "visits.json").read_text())
        return visits


def room(path: str) -> str:
    """``timerxl/data/tables/x.py`` -> ``data``; a file of timerxl/ itself -> its name."""
    parts = path.removesuffix(".py").split("/")
    return parts[1] if parts[0] == "timerxl" else parts[0]


def walk_lines(visits: dict[str, int] | str) -> list[str]:
    """Describe a walk: its count, then each file with how often it is entered."""
    if isinstance(visits, str):
        return [visits]
    back = [path for path, count in visits.items() if count > 1]
    rooms = Counter(room(path) for path in visits)
    by_room = ", ".join(f"{name} {count}" for name, count in rooms.most_common())
    lines = [f"{len(visits)} files ({by_room}); comes back to {len(back)}"]
    for place, (path, count) in enumerate(visits.items(), start=1):
        lines.append(f"{place:3}. {path}" + (f"  ({count} times)" if count > 1 else ""))
    return lines


WALKS = {
    "logits": "From file to logits",
    "optimizer": "From --config transfer train.batch_size=8 to the optimizer",
    "settings": "Of that, the way of the settings alone",
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the form of the code.")
    parser.add_argument("--tree", nargs="+", type=Path, default=[ROOT], help="checkouts")
    parser.add_argument("--no-walks", action="store_true", help="the table alone")
    parser.add_argument("--names", action="store_true", help="also name what is counted")
    parser.add_argument("--walk", choices=WALKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    trees = [tree.resolve() for tree in arguments.tree]
    for tree in trees:
        if not (tree / "timerxl").is_dir():
            parser.error(f"{tree} has no folder timerxl/: name the root of a checkout")
    if arguments.walk:
        walk_here(arguments.walk, trees[0], arguments.folder)
        return 0
    tables = [measure(tree) for tree in trees]
    walks = {
        kind: [] if arguments.no_walks else [walk_apart(kind, tree) for tree in trees]
        for kind in WALKS
    }
    print("| | " + " | ".join(tree.name for tree in trees) + " |")
    print("|---" * (len(trees) + 1) + "|")
    for row in tables[0]:
        numbers = [table[row] for table in tables]
        cells = [f"{n if isinstance(n, int) else len(n):,}" for n in numbers]
        print(f"| {row} | " + " | ".join(cells) + " |")
    for kind, title in WALKS.items():
        if walks[kind]:
            cells = [walk_lines(visits)[0] for visits in walks[kind]]
            print(f"| {title.lower()} | " + " | ".join(cells) + " |")
    for kind, title in WALKS.items():
        for tree, visits in zip(trees, walks[kind], strict=bool(walks[kind])):
            print(f"\n{title}, {tree.name}: " + "\n".join(walk_lines(visits)))
    if arguments.names:
        for tree, table in zip(trees, tables, strict=True):
            for row, value in table.items():
                if isinstance(value, list) and value:
                    print(f"\n{tree.name}, {row}:\n  " + "\n  ".join(value))
    return 0


if __name__ == "__main__":
    sys.exit(main())
