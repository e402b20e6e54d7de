"""What the fork server of processes.py imports: all that the commands would import one by one."""

from __future__ import annotations

from importlib import import_module

from timerxl.command_line import quiet_libraries
from timerxl.hub.known_words import is_known_sentence

quiet_libraries()
for name in (
    "accelerate.commands.accelerate_cli",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # with torch.compile, which ZeRO brings
    "torch.distributed.run",
    "matplotlib.backends.backend_svg",
    "timerxl.data.era5.prepare",
    "timerxl.forecaster",
    "timerxl.hub.package",
    "timerxl.hub.record",
    "timerxl.hub.upload",
    "timerxl.planner.plan_text",
    "timerxl.report.figures",
    "timerxl.report.page",
    "timerxl.training.final_evaluation",
    "timerxl.training.run",
):
    import_module(name)
is_known_sentence("the loss", frozenset())  # reads the words of forty modules, once for all forks
