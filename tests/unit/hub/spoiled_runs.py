"""Runs made to look stopped or private, and what tests of them compare."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hub_contents import Hub

from timerxl.hub.card import model_card
from timerxl.hub.record import read_record

SECRET = "hf_" + "aB3dE" * 7


def home(*parts: str) -> str:
    """A path of a machine; written so that the suite's own check finds none here."""
    return "/".join(["", "home", "ana", *parts])


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a JSON file by what ``change`` makes of it (None: changed in place)."""
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))


def rename_regions(saved: dict[str, Any], names: list[str]) -> None:
    """Other names for the first regions, wherever preprocessing.json has them."""
    new = dict(zip(saved["regions"], names, strict=False))
    saved["regions"] = [new.get(name, name) for name in saved["regions"]]
    of = saved["training_ranges"]["by_region"]
    saved["training_ranges"]["by_region"] = {new.get(name, name): of[name] for name in of}


def sums(folder: Path) -> dict[str, str]:
    """Every file of a folder with its SHA-256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sent(hub: Hub) -> bytes:
    """All that a hub was sent, but the header that is there to hold the token."""
    parts = []
    for call, head, body in hub.received:
        lines = [line for line in head.splitlines() if not line.lower().startswith("authorization")]
        parts += [call.encode(), "\n".join(lines).encode(), body]
    return b"\n".join(parts)


def as_stopped(run: Path, has_best: bool = False) -> None:
    """What a run looks like that a monitor ended (tests/distributed/test_stops.py makes real
    ones)."""
    verdict = {
        "name": "collapse",
        "severity": "certain",
        "epoch": 0.5,
        "step": 4,
        "evidence": {"share": 1.0},
        "explanation": "Rain is said for every window.",
        "remedy": "Lower optim.lr.",
    }
    reason = "stopped by the monitor collapse (certain) at step 4: Rain is said for every window."
    (run / "status.json").write_text(json.dumps({"code": 3, "reason": reason}))
    found = {"stopped_by": verdict, "verdicts": [verdict | {"action": "stop"}]}
    (run / "verdict.json").write_text(json.dumps(found))
    for name in ("results.json", "forecasts.parquet"):
        (run / name).unlink(missing_ok=True)
    keep = {"decision_threshold", "calibration", "best_step", "scores"}

    def unfinish(saved: dict[str, Any]) -> dict[str, Any]:
        left = {key: value for key, value in saved.items() if key not in keep}
        return left | {"step": 4, "validation": {"roc_auc": 0.5, "mcc": 0.0}}

    edit(run / "model" / "preprocessing.json", unfinish)
    checkpoint = run / "checkpoints" / "step_00000004"
    shutil.rmtree(checkpoint.parent)  # of the run to its end
    checkpoint.parent.mkdir()
    if has_best:
        shutil.copytree(run / "model", checkpoint)
    else:
        (run / "model").rename(checkpoint)


PLANTED = home("secret project", "rain.parquet")


def plant(run: Path) -> list[str]:
    """A token and a path wherever a run holds text; returns what must never be sent."""
    config = run / "config.yaml"
    text = config.read_text().replace("  path: null", f"  path: '{PLANTED}'", 1)
    config.write_text(text + f"note: see {home('notes', 'mine.txt')} with {SECRET}\n")
    said = f"could not read {PLANTED} with token {SECRET} as ana@node7.uni.pe"

    def preprocessing(content: dict[str, Any]) -> None:
        content["data"]["path"] = PLANTED
        content["source"] |= {"path": PLANTED, "synthetic": False, "said": said}
        content["is_synthetic"] = False

    edit(run / "model" / "preprocessing.json", preprocessing)
    edit(run / "model" / "config.json", lambda content: content | {"_name_or_path": PLANTED})
    edit(run / "results.json", lambda content: content | {"stop_reason": said, "hf_token": SECRET})
    edit(run / "environment.json", lambda content: content | {"command": said, "device": SECRET})
    edit(run / "audit.json", lambda content: {"lines": [said]})
    verdict = {"name": "memory", "severity": "suspected", "explanation": said, "remedy": PLANTED}
    edit(run / "verdict.json", lambda content: content | {"verdicts": [verdict]})
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": "verdict", **verdict}) + "\n")
        file.write(f'{{"event": "cut off", "said": "{said}')
    page = run / "report" / "index.html"
    page.write_text(page.read_text().replace("</p>", f"</p><p>{said}</p><script>1</script>"))
    for stray in ("notes.txt", ".env", "optimizer.bin", "my_timerxl_data.csv"):
        (run / "model" / stray).write_text(said)
        (run / stray).write_text(said)
    (run / "tensorboard").mkdir(exist_ok=True)
    (run / "tensorboard" / "events.out.tfevents.1.node7").write_text(said)
    return [SECRET, home(), "secret project", "node7", "notes.txt", "tfevents", str(run.parent)]


def card(run: Path, force: bool = False, **told: Any) -> str:
    return model_card(read_record(run, force), "ana/rain", **told)


def edit_all(run: Path, **data: Any) -> None:
    """As if the run had been trained with these settings of data."""
    config = run / "config.yaml"
    text = config.read_text()
    for key, value in data.items():
        text = re.sub(rf"(?m)^  {key}: .*$", f"  {key}: {value}", text, count=1)
    config.write_text(text)


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]
