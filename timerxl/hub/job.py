"""A copy of a run, staged and sent: python -m timerxl.hub.job < order.json.

Reading, hashing and drawing up the card would hold up a training in whose process they run.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from timerxl.hub.upload import Refused, answer_with, card_there, upload, with_retries


def publish(order: dict[str, Any]) -> dict[str, Any]:
    """Stage the run in ``order["copy"]`` beside it and upload that.

    With ``order["only_over"]`` nothing is done unless the card on the hub says this. Raises
    Refused.
    """
    mark = order["only_over"]
    if mark and mark not in with_retries(lambda: card_there(order)):
        raise Refused("nothing there", f"{order['repo_id']} holds no model of a run under way.")
    # Slow to import, and for nothing until here.
    from timerxl.config import InputError
    from timerxl.hub.package import OPTIONAL, Wording, stage
    from timerxl.hub.record import read_record

    copy, run = Path(order["copy"]), Path(order["run"])
    try:
        record = read_record(copy, order["force"], under_way=True, named=run)
        package = stage(record, copy.parent / "package", Wording(order["repo_id"]))
    except InputError as error:
        raise Refused("input", str(error).replace(str(copy), str(run))) from error
    what = f"model of step {record.step}"
    outcome = f", {record.outcome}" if record.outcome in ("stopped", "failed") else ""
    order = order | {
        "folder": str(package.folder),
        "files": list(package.files),
        "optional": list(OPTIONAL),
        "message": f"{what.capitalize()} of {record.name}{outcome}",
    }
    return with_retries(lambda: upload(order)) | {"what": what}


def main() -> int:
    os.nice(10)  # the training comes first
    order = json.load(sys.stdin)
    return answer_with(order, lambda: publish(order))


if __name__ == "__main__":
    sys.exit(main())
