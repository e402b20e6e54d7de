"""What the fork server of processes.py imports: all that the commands would import one by one."""

from __future__ import annotations

from importlib import import_module

from timerxl.command_line import quiet_libraries

quiet_libraries()
for name in (
    "accelerate.commands.accelerate_cli",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # with torch.compile, which ZeRO brings
    "torch.distributed.run",
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
