"""A run under watch: events go to metrics.jsonl and to the monitors, and a stop is agreed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from timerxl.command_line import EXIT_STOPPED, ForeseenError
from timerxl.config import RunConfig
from timerxl.data.windows import WeatherWindows
from timerxl.files import write_json
from timerxl.training.monitors.rules import Verdict, Watcher, explodes, usual_norm
from timerxl.training.processes.distributed import agree
from timerxl.training.tracking import MetricsLog

VERDICT_FILE = "verdict.json"


class RunStopped(ForeseenError):
    """A monitor ended the run; the message is one paragraph, ``verdict`` its reason."""

    exit_code = EXIT_STOPPED

    def __init__(self, verdict: Verdict, checkpoint: str):
        super().__init__(f"stopped by the monitor {verdict.sentence()} Checkpoint: {checkpoint}.")
        self.verdict = verdict


@dataclass
class MonitorRunner:
    """Write events, log verdicts, and decide together with all ranks whether to stop.

    The main process alone watches: memory and time differ from rank to rank.
    """

    config: RunConfig
    accelerator: Accelerator
    metrics: MetricsLog
    say: Callable[[str], None]
    watcher: Watcher = field(init=False)
    stop: Verdict | None = None

    def __post_init__(self) -> None:
        self.watcher = Watcher(self.config.monitors)

    def event(self, name: str, **values: Any) -> None:
        """Write an event and show it to the monitors; call on any rank."""
        if not self.accelerator.is_main_process:
            return
        self.metrics.write(name, **values)
        for verdict in self.watcher.see({"event": name, **values}):
            stops = self.watcher.stops(verdict)
            action = "stop" if stops else "warn"
            self.metrics.write("verdict", **verdict.to_dict(), action=action)
            self.say(f"{'STOP' if stops else 'warning'}: {verdict.sentence()}")
            if stops and self.stop is None:
                self.stop = verdict
            self.write()

    def replay(self, path: Path) -> dict[str, Any]:
        """Show the monitors what metrics.jsonl holds already; nothing is said or stopped again.

        Returns the last event of a training step.
        """
        last: dict[str, Any] = {}
        if self.accelerator.is_main_process and path.is_file():
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    event = json.loads(line)  # whole: RunFolder.open took out the others
                    self.watcher.see(event)
                    last = event if event["event"] == "train" else last
        return last

    def explodes(self, grad_norm: float | None) -> bool:
        """Whether the monitors should see this step, due or not."""
        usual = usual_norm(self.watcher.history.steps)
        return usual is not None and explodes(grad_norm, usual)

    def compare_with_expectations(self, scores: dict[str, Any], epoch: float) -> None:
        """Log where validation leaves the bands of the recipe at the end of this epoch."""
        for expected in self.config.expectations:
            if abs(epoch - expected.epoch) > 1e-9:
                continue
            for name in ("loss", "accuracy", "f1"):
                band = getattr(expected, name)
                if band is None or name not in scores or band[0] <= scores[name] <= band[1]:
                    continue
                found = {"epoch": epoch, "score": name, "value": scores[name]}
                self.event("expectation", **found, low=band[0], high=band[1])
                self.say(
                    f"not as expected at epoch {epoch:g}: validation {name} {scores[name]:.4g}, "
                    f"expected {band[0]:g} to {band[1]:g}."
                )

    def agreed_stop(self) -> Verdict | None:
        """Return the verdict that ends the run, the same on every rank; all of them call this."""
        self.stop = agree(self.accelerator, self.stop)
        return self.stop

    def write(self) -> None:
        """Write verdict.json: what was found so far, and what ended the run."""
        if not self.accelerator.is_main_process:
            return
        found = [
            verdict.to_dict() | {"action": "stop" if self.watcher.stops(verdict) else "warn"}
            for verdict in self.watcher.verdicts
        ]
        stopped = self.stop.to_dict() if self.stop is not None else None
        path = Path(self.config.output_dir) / VERDICT_FILE
        write_json(path, {"stopped_by": stopped, "verdicts": found})


def describe_batch(windows: WeatherWindows, rows: np.ndarray) -> str:
    """Describe training windows by the rows at which they end: their regions and issue times,
    short enough for a sentence."""
    series = windows.series
    times = np.sort(series.timestamps[rows]).astype("datetime64[h]")
    regions = [series.regions[i] for i in np.unique(series.region_index[rows])]
    shown = ", ".join(regions[:5]) + (", ..." if len(regions) > 5 else "")
    return f"{len(rows)} windows of {shown}, issued {times[0]} to {times[-1]}"
