"""What a run will cost, before it is run: python launch/plan.py --config NAME [key=value ...].

Memory per GPU and time per epoch of the real training step of the real model, in seconds, on a
machine without a GPU. Overrides are those of launch/train.py. --json prints one object and
nothing else on stdout. Exit code 0 when done, 2 on bad input.
"""

from __future__ import annotations

import argparse

from timerxl.command_line import CommandParser, quiet_libraries, run_command, say_json
from timerxl.config import InputError, load_recipe


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = CommandParser(description=__doc__)
    add = arguments.add_argument
    add("--config", help="a recipe's name, or the path of a YAML")
    add("--compare", help="recipes side by side, as transfer_long,transfer")
    add("--gpus", default="1", help="numbers of GPUs, as 1,2,4,8 (default 1)")
    add(
        "--device",
        action="append",
        help="t4,l4,a100 (default), more in docs/planning.md, cpu for this machine, or "
        "name=NAME,memory=24GiB,tflops_bf16=120",
    )
    add("--interconnect", help="between GPUs, as nvlink,100gbe (default pcie4)")
    add("--fit", metavar="SIZE", help="find settings that need at most SIZE, as 15GiB")
    add("--calibrate", action="store_true", help="measure a few steps on the device at hand")
    add("--json", action="store_true", help="one JSON object on stdout")
    add("overrides", nargs="*", metavar="key=value", help="dotted overrides")
    return arguments


def run(given: argparse.Namespace) -> int:
    """Plan and print."""
    recipes = [name for name in (given.compare or given.config or "").split(",") if name]
    if not recipes or (given.compare and given.config):
        raise InputError("give --config NAME or --compare NAME,NAME (one of the two).")
    configs = [load_recipe(name, given.overrides) for name in recipes]  # before the slow imports
    from timerxl.planner.plan import answer
    from timerxl.planner.plan_text import print_answer

    found = answer(
        configs,
        gpus=given.gpus,
        devices=given.device,
        interconnects=given.interconnect,
        fit=given.fit,
        measure=given.calibrate,
    )
    if given.json:
        say_json(found.to_dict())
    else:
        print_answer(found)
    return 0


def main(arguments: list[str] | None = None) -> int:
    quiet_libraries()
    given = parser().parse_intermixed_args(arguments)
    return run_command(lambda: run(given))
