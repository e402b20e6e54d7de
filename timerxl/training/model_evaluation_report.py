"""What ``launch/evaluate.py`` prints for a person."""

from __future__ import annotations

from typing import Any

from timerxl.command_line import say
from timerxl.evaluation.tables import comparison_table, print_table, score_table, strata_table


def print_report(found: dict[str, Any]) -> None:
    """The tables of every event and stratum in ``found``, as ``verify`` returns it."""
    kind = "SYNTHETIC data" if found["is_synthetic"] else str(found["data"].get("path"))
    say(f"Model {found['model']} on {kind}, {found['split']} split.")
    say(f"Label: {found['label']['text']}")
    for event in found["events"]:
        threshold = event["rain_threshold_mm"]
        name = "the trained event" if threshold is None else f"rain of {threshold:g} mm or more"
        if not event["is_trained_event"]:
            name += " (not what the model was trained for; threshold and calibration chosen anew)"
        caption = (
            f"{event['num_windows']:,} windows, {event['rain_share']:.1%} with the event; decision "
            f"thresholds from validation (Timer-XL: {event['thresholds']['model']:.3f})."
        )
        print_table(comparison_table(event["scores"], f"Event: {name}", caption))
        print_table(score_table(event, f"Timer-XL score by score: {name}"))
    for by, strata in found["strata"].items():
        print_table(strata_table(strata, by))
    if "enso" in found["strata"]:
        say(
            "ENSO phases: NOAA's rule of five overlapping seasons at or beyond ±0.5 K, unlagged "
            "and with hindsight; for looking back, not as a feature."
        )
