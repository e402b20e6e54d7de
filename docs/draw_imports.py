"""Draw which room of the code imports which, from its own import lines, into docs/architecture.md.

    python docs/draw_imports.py            # docs/images/imports.svg and the table of imports
    python docs/draw_imports.py --walks    # also the walks of benchmarks/size.py, half a minute
    python docs/draw_imports.py --check    # write nothing; exit code 1 where the table is stale

A room is a folder of timerxl/, launch/, or a file of timerxl/ that imports a room. The other files
of timerxl/ are the foundation. The text goes between the markers of its kind.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.size import WALKS, importers, read_sources, room, walk_apart

PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "imports.svg"
FOUNDATION = "foundation"


def room_imports(tree: Path) -> dict[str, set[str]]:
    """Map each room to the rooms that it imports."""
    sources = read_sources(tree)
    found: dict[str, set[str]] = {
        room(source.path): set() for source in sources if source.module != "timerxl"
    }
    for module, paths in importers(sources).items():
        target = module.split(".")[1] if module.startswith("timerxl.") else ""
        for path in paths:
            origin = room(path)
            if target in found and origin in found and origin != target:
                found[origin].add(target)
    # A folder is a room; a file is one if it imports a room.
    rooms = {name for name in found if name == "launch" or (tree / "timerxl" / name).is_dir()}
    while more := {name for name in found.keys() - rooms if found[name] & rooms}:
        rooms |= more
    joined: dict[str, set[str]] = {}
    for name, targets in found.items():
        own = name if name in rooms else FOUNDATION
        joined.setdefault(own, set()).update(
            target if target in rooms else FOUNDATION for target in targets
        )
    return {name: targets - {name} for name, targets in joined.items()}


def reached(imports: dict[str, set[str]], name: str) -> set[str]:
    return imports[name].union(*(reached(imports, target) for target in imports[name]))


def layers(imports: dict[str, set[str]]) -> list[list[str]]:
    """Sort rooms from the top down; each stands below all that import it, as high as it can."""
    done: list[list[str]] = []
    left = dict(imports)
    while left:
        free = left.keys() - set().union(*left.values())
        if not free:
            raise SystemExit(f"these rooms import each other: {', '.join(sorted(left))}")
        done.append(sorted(free))
        left = {name: targets for name, targets in left.items() if name not in free}
    return done


def direct(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out each import of a room that another imported room imports as well."""

    return {
        name: {t for t in targets if not any(t in reached(imports, other) for other in targets)}
        for name, targets in imports.items()
    }


def table(imports: dict[str, set[str]]) -> str:
    """Write the imports as a table, from the top room down."""
    rows = ["| room | imports |", "|---|---|"]
    for layer in layers(imports):
        rows += [f"| {name} | {', '.join(sorted(imports[name])) or '-'} |" for name in layer]
    return "\n".join(rows)


def draw(imports: dict[str, set[str]], path: Path) -> None:
    """Draw the rooms above the foundation in layers, an arrow for each direct import."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "timerxl"  # the same picture from the same code
    imports = {n: targets - {FOUNDATION} for n, targets in imports.items() if n != FOUNDATION}
    rows = layers(imports)
    places = {}
    for depth, row in enumerate(rows):
        # The room that reaches most stands in the middle, the others beside it in turn.
        by_reach = sorted(row, key=lambda name: (-len(reached(imports, name)), name))
        sides = [1, -1] if len(row) == 2 else [-1, 1]
        for index, name in enumerate(by_reach):
            places[name] = (1.9 * sides[index % 2 - 1] * ((index + 1) // 2), float(-depth))
    figure, axes = pyplot.subplots(figsize=(6, 0.85 * len(rows) + 0.4))
    for origin, targets in direct(imports).items():
        for target in targets:
            (x0, y0), (x1, y1) = places[origin], places[target]
            axes.annotate(
                "", xy=(x1, y1 + 0.22), xytext=(x0, y0 - 0.22),
                arrowprops={"arrowstyle": "->", "color": "#59636b"},
            )  # fmt: skip
    for name, (x, y) in places.items():
        axes.text(
            x, y, name, ha="center", va="center", fontsize=11, color="#1b1b1b",
            bbox={"boxstyle": "round,pad=0.4", "facecolor": "#e8eef3", "edgecolor": "#0072b2"},
        )  # fmt: skip
    axes.set_xlim(-3, 3)
    axes.set_ylim(0.5 - len(rows), 0.5)
    axes.axis("off")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def rooms_of_walk(visits: dict[str, int] | str) -> str:
    """Name the rooms of a walk in the order of their files, each stretch once."""
    if isinstance(visits, str):
        raise SystemExit(visits)
    stretches: list[tuple[str, int]] = []
    for path in visits:
        name = room(path)
        last, count = stretches[-1] if stretches else ("", 0)
        if name == last:
            stretches[-1] = (name, count + 1)
        else:
            stretches.append((name, 1))
    return " → ".join(f"{name} ({count})" if count > 1 else name for name, count in stretches)


def walks(tree: Path) -> str:
    """Describe the walks, with the command and the date."""
    lines = [f"`python docs/draw_imports.py --walks`, {date.today()}; files of a room in brackets:"]
    for kind, title in WALKS.items():
        visits = walk_apart(kind, tree)
        lines.append(f"- **{title}**, {len(visits)} files: {rooms_of_walk(visits)}")
    return "\n\n".join([lines[0], "\n".join(lines[1:])])


def between(page: str, kind: str, text: str | None = None) -> str:
    """Read what stands between two markers, or put ``text`` there and return the whole page."""
    start, end = f"<!-- {kind}: made by docs/draw_imports.py -->\n\n", f"\n\n<!-- end of {kind} -->"
    head, _, rest = page.partition(start)
    body, found, tail = rest.partition(end)
    if not found:
        raise SystemExit(f"docs/architecture.md has no markers for {kind}")
    return body if text is None else head + start + text + end + tail


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw which room imports which.")
    parser.add_argument("--walks", action="store_true", help="also the walks")
    parser.add_argument("--check", action="store_true", help="exit code 1 where the table is stale")
    arguments = parser.parse_args()
    imports = room_imports(ROOT)
    page = PAGE.read_text(encoding="utf-8")
    if arguments.check:
        is_fresh = between(page, "imports") == table(imports)
        print("docs/architecture.md is up to date" if is_fresh else table(imports))
        return 0 if is_fresh else 1
    page = between(page, "imports", table(imports))
    if arguments.walks:
        page = between(page, "walks", walks(ROOT))
    PAGE.write_text(page, encoding="utf-8")
    draw(imports, PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
