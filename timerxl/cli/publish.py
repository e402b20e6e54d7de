"""A run to the Hugging Face Hub: python launch/publish.py --run runs/small --repo-id user/name.

One commit with the best model, what it needs to run anywhere, the run's scores and a model card.
Only what timerxl/hub/allowed.py lists is published. --dry-run FOLDER writes exactly these files,
sends nothing, and prints each file with its keys and what was left out. The run's folder stays as
it is. Prints the address. Exit code 0 when done, 1 when the upload failed, 2 on bad input (no such
run, one that must not be published, a wrong name), 130, 143, 129 after Ctrl-C, SIGTERM, SIGHUP.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from timerxl.command_line import (
    EXIT_FAILED,
    EXIT_OK,
    CommandParser,
    quiet_libraries,
    run_command,
    say,
    unwinding_on_signals,
)
from timerxl.config import InputError

if TYPE_CHECKING:  # slow to import: a wrong argument is refused before
    from timerxl.hub.package import Package


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = CommandParser(description=__doc__)
    add = arguments.add_argument
    add("--run", required=True, type=Path, help="a run folder, as runs/quickstart, or an ensemble")
    add("--repo-id", required=True, help="user/name on the hub; made if it isn't there")
    add("--private", action="store_true", help="a private repository; a public one is refused")
    add("--revision", metavar="BRANCH", help="a branch other than main; made if it isn't there")
    add(
        "--data-licence",
        metavar="TEXT",
        help="licence of the data, for the card; else hub.data_licence",
    )
    add("--force", action="store_true", help="also a run that was stopped; its card says so")
    add("--dry-run", type=Path, metavar="FOLDER", help="write the files there, send nothing")
    add("--timeout", type=float, metavar="SECONDS", help="end the upload after so long")
    return arguments


def check_dry_run(folder: Path, run: Path) -> None:
    """A new or empty folder, and not in the run's."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--dry-run {folder} is there already; name a new or an empty folder.")
    if folder.resolve().is_relative_to(run.resolve()):
        raise InputError(f"--dry-run {folder} lies in the run's folder, which stays as it is.")


def dry_run(folder: Path, fill: Callable[[Path], Package]) -> int:
    """Fill a folder beside ``folder`` and rename it: all of the package is there, or nothing."""
    from timerxl.hub.staging import Place, sweep

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)
        with Place(folder.parent) as place:
            package = fill(place.folder / "package")
            size = f"{len(package.files)} files, {package.num_bytes:,} bytes"
            package.folder.replace(folder)
    except OSError as error:
        raise InputError(f"--dry-run {folder} can't be written: {error}") from error
    say(*contents(package, folder))
    say(f"{size} in {folder}; nothing was sent.", file=sys.stderr)
    return EXIT_OK


def contents(package: Package, folder: Path) -> list[str]:
    """Every file with its size, below it the keys with the kinds of their values; then what of the
    run was left out, because it is not on the list or of another kind."""
    lines = []
    for name in package.files:
        lines.append(f"{name}  {(folder / name).stat().st_size:,} bytes")
        if name in package.listings:
            lines += [f"    {line}" for line in package.listings[name].lines()]
    for name, listing in package.listings.items():
        if listing.num_left:
            read = "" if name in package.files else " (read for the card and the page)"
            lines.append(f"left out of {name}{read}:")
            lines += [f"    {line}" for line in listing.left_lines()]
    return lines


def run(given: argparse.Namespace) -> int:
    """Stage, then write or send."""
    if given.timeout is not None and not given.timeout > 0:
        raise InputError(f"--timeout is {given.timeout:g}; expected seconds above 0.")
    if given.dry_run is not None:
        check_dry_run(given.dry_run, given.run)
    from timerxl.hub.package import stage
    from timerxl.hub.push import PushFailed, Target, push
    from timerxl.hub.record import read_record
    from timerxl.hub.staging import Place, sweep

    target = Target(given.repo_id, given.private, given.revision)
    record = read_record(given.run, given.force)
    options = (target.repo_id, target.revision, given.data_licence)
    if given.dry_run is not None:
        return dry_run(given.dry_run, lambda folder: stage(record, folder, *options))
    sweep(Path(tempfile.gettempdir()))
    with Place(Path(tempfile.gettempdir())) as place:
        package = stage(record, place.folder / "package", *options)
        size = f"{len(package.files)} files, {package.num_bytes:,} bytes"
        if package.num_left:
            say(
                f"{package.num_left:,} values of the run are not on the list of what is published "
                "and are left out; --dry-run FOLDER shows where they stand.",
                file=sys.stderr,
            )
        say(f"sending {size} to {target.repo_id} ...", file=sys.stderr)
        try:
            done = push(package, target, f"Publish {record.name}", given.timeout, place)
        except (PushFailed, SystemExit) as error:
            again = target.command(given.run, given.force, given.data_licence)
            is_failure = isinstance(error, PushFailed)
            said = str(error) if is_failure else "interrupted before the upload was done."
            when = "When that is mended, run again" if is_failure else "To send it, run again"
            say(
                f"error: {said}",
                f"{given.run} is as it was. {when}:",
                f"  {again}",
                file=sys.stderr,
            )
            if is_failure:
                return EXIT_FAILED
            raise
    for name in done.removed:
        say(f"removed from {target.repo_id}: {name}", file=sys.stderr)
    for note in done.notes:
        say(f"note of the hub: {note}", file=sys.stderr)
    say(done.url)
    return EXIT_OK


def main(arguments: list[str] | None = None) -> int:
    quiet_libraries()
    given = parser().parse_args(arguments)
    with unwinding_on_signals():
        return run_command(lambda: run(given))
