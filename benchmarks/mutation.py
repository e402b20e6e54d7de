"""Sample mutants of chosen modules and count how many the tests kill.

    python benchmarks/mutation.py --modules GLOB ... --tests PATH ... [--sample 300] [--seed 0]
                                  [--tree FOLDER] [--seconds 60] [--out FILE]

The mutants are Cosmic Ray's (binary and comparison operators, constants, not, break, exceptions,
loops that do nothing). First the tests run once under coverage, which tells the tests that meet
each line. Then, for each mutant, the tests of its line run, fastest first, until one fails, in a
process forked from one that has imported torch already; at most --seconds of tests, as they took
in the first run, are tried. A mutant is killed if a test fails or hangs; it survives if all pass;
it is not covered if no test meets its line.

The sample draws a place of the source first and a mutation of that place second, so that an
operator with many replacements does not fill it. FOLDER is a checkout; its copy is mutated.
Needs ``pip install -e .[mutation]``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Mutant:
    """One change of one place: the operator's name and its occurrence in the file."""

    path: str
    line: int
    operator: str
    occurrence: int


def mutants_of(path: str, source: str) -> dict[tuple[int, int], list[Mutant]]:
    """Return all mutants of a file by place (line, column)."""
    provider = OperatorProvider()
    tree = get_ast(source)
    nodes = list(ast_nodes(tree))
    found: dict[tuple[int, int], list[Mutant]] = defaultdict(list)
    for name in provider:
        operator = provider[name]
        if operator.arguments():
            continue  # needs names of variables: not for a sample over many files
        places = [start for node in nodes for start, _ in operator().mutation_positions(node)]
        for occurrence, place in enumerate(places):
            found[place].append(Mutant(path, place[0], name, occurrence))
    return found


def copy_tree(tree: Path, folder: Path) -> None:
    """Copy the tracked files of a checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=tree, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (tree / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, folder / name)


def measure_coverage(
    folder: Path, tests: list[str], modules: list[str]
) -> tuple[dict[tuple[str, int], set[str]], dict[str, float], float]:
    """Run the tests once; return the tests by line, seconds by test, and branch coverage in %."""
    from coverage import Coverage, CoverageData

    config = folder / "mutation_coverage.ini"
    config.write_text("[run]\nbranch = True\ninclude =\n" + "".join(f"    {m}\n" for m in modules))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    command += ["--cov", "--cov-context=test", f"--cov-config={config}", "--cov-report="]
    command += ["--junitxml=mutation_junit.xml"]
    ended = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True)
    print((ended.stdout + ended.stderr).decode().strip().splitlines()[-1])
    seconds: dict[str, float] = {}
    for case in ElementTree.parse(folder / "mutation_junit.xml").iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        if not list(case.iter("skipped")) and not list(case.iter("failure")):
            seconds[f"{file}::{case.attrib['name']}"] = float(case.attrib["time"])
    data = CoverageData(str(folder / ".coverage"))
    data.read()
    covered: dict[tuple[str, int], set[str]] = defaultdict(set)
    for file in data.measured_files():
        name = str(Path(file).relative_to(folder))
        for line, contexts in data.contexts_by_lineno(file).items():
            met = {c.split("|")[0] for c in contexts if c}
            covered[name, line] |= {t for t in met if t in seconds}
    totals = Coverage(data_file=str(folder / ".coverage"), config_file=str(config))
    totals.load()
    with open(os.devnull, "w") as nowhere:
        percent = totals.report(file=nowhere, include=[str(folder / m) for m in modules])
    return covered, seconds, percent


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which the copy is imported and no bytecode is kept."""
    return dict(os.environ) | {
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }


def run_forked(folder: Path, tests: list[str], limit: float) -> bool:
    """Return whether a test fails (or none ends in time) in a fork of this process."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        os.environ.update(environment(folder))
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(folder))
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        import pytest

        code = 3
        try:
            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:cov", *tests]))
        finally:
            os._exit(code)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.05)
    os.killpg(child, 9)
    os.waitpid(child, 0)
    return True


def main() -> None:
    """Measure, sample, mutate, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--modules", nargs="+", required=True)
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mutation_")) / args.tree.resolve().name
    copy_tree(args.tree, folder)
    if (args.tree.resolve().parent / "shared").exists():
        (folder.parent / "shared").symlink_to(args.tree.resolve().parent / "shared")
    paths = sorted({str(p.relative_to(folder)) for m in args.modules for p in folder.glob(m)})
    covered, seconds, percent = measure_coverage(folder, args.tests, paths)
    print(f"{len(seconds)} tests, {len(paths)} modules, coverage with branches {percent:.1f} %")

    draw = random.Random(args.seed)
    places = {(p, at): group for p in paths for at, group in
              mutants_of(p, (folder / p).read_text()).items()}  # fmt: skip
    chosen = draw.sample(sorted(places), min(args.sample, len(places)))
    print(f"{len(places)} places, {len(chosen)} drawn")
    import accelerate  # noqa: F401  imported once, here: a fork then starts without seconds of imports
    import pandas  # noqa: F401
    import sklearn  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    rows = []
    for number, place in enumerate(chosen, 1):
        mutant = draw.choice(places[place])
        file = folder / mutant.path
        source = file.read_text()
        changed = mutate_code(source, OperatorProvider()[mutant.operator](), mutant.occurrence)
        tests = sorted(covered[mutant.path, mutant.line], key=seconds.__getitem__)
        if not tests:  # a line that runs at import, or goes over several lines: ask its neighbours
            near = [covered[mutant.path, mutant.line - k] for k in range(1, 4)]
            tests = sorted(next((t for t in near if t), set()), key=seconds.__getitem__)
        total, tried = 0.0, []
        for test in tests:
            total += seconds[test]
            if tried and total > args.seconds:
                break
            tried.append(test)
        if changed is None or changed == source or not tried:
            result = "not covered"
        else:
            file.write_text(changed)
            killed = run_forked(folder, tried, 60 + 5 * min(total, args.seconds))
            file.write_text(source)
            result = "killed" if killed else "survived"
        counts[result] += 1
        rows.append([mutant.path, mutant.line, mutant.operator, result, len(tried)])
        print(number, result, mutant.path, mutant.line, mutant.operator, len(tried), flush=True)
    print(", ".join(f"{v} {k}" for k, v in sorted(counts.items())))
    if args.out:
        args.out.write_text(json.dumps({"coverage": percent, "mutants": rows}, indent=1))
    shutil.rmtree(folder.parent)


if __name__ == "__main__":
    main()
