"""Stand-ins for Slurm's commands and for accelerate, and a stage on which the scripts of
launch/cluster/ are started with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "launch" / "cluster"
SBATCH = (CLUSTER / "slurm.sbatch").read_text()
SKY: dict[str, Any] = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
CLAIM, JOB = list(yaml.safe_load_all((CLUSTER / "pytorchjob.yaml").read_text()))
REPLICAS: dict[str, Any] = JOB["spec"]["pytorchReplicaSpecs"]
POD: dict[str, Any] = REPLICAS["Master"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]
POD_ENV: dict[str, str] = {item["name"]: item["value"] for item in CONTAINER["env"]}
SCRIPTS = {"slurm": SBATCH, "sky": SKY["run"], "pod": CONTAINER["args"][0]}
ADDRESS, MACHINES, GPUS = "machine0", 2, 8  # what the documented line stands for

# PLAY says what the run does: {"code": of status.json or null, "waits": for SIGTERM, "exit": of the
# launcher, "begins": status.json says running first}. Rank 0 alone writes.
ACCELERATE = f"""#!{sys.executable} -IS
import json, os, pathlib, signal, sys, time
stage, play = pathlib.Path(os.environ["STAGE"]), json.loads(os.environ["PLAY"])
rank = sys.argv[sys.argv.index("--machine_rank") + 1]
status = pathlib.Path(os.environ["OUTPUT_DIR"]) / "status.json"
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
def write(code, reason):
    if rank == "0":
        fresh = status.with_name("fresh")
        fresh.write_text(json.dumps({{"code": code, "reason": reason}}))
        os.replace(fresh, status)
if play.get("begins", True):
    write(1, "running")
(stage / f"argv.{{rank}}").write_text(json.dumps(sys.argv[1:]))
until = time.monotonic() + 30
while play.get("waits") and not heard and time.monotonic() < until:
    time.sleep(0.02)
if heard:
    (stage / f"heard.{{rank}}").touch()
    time.sleep(0.3) # the save: whoever is killed meanwhile wrote nothing
if play.get("code") is not None:
    write(play["code"], "a reason\\nof two lines")
sys.exit(play["exit"])
"""
# One task a node, started without a shell between; SIGTERM at srun is SIGKILL at its tasks.
SRUN = """#!/bin/bash
printf '%s\\n' "$@" > "$STAGE/srun.options"
while [[ $1 == --* ]]; do shift; done
for node in 0 1; do SLURM_PROCID=$node "$@" & echo $! >> "$STAGE/tasks"; done
trap 'kill -KILL $(cat "$STAGE/tasks")' TERM
code=0
for task in $(cat "$STAGE/tasks"); do wait "$task" || code=$?; done
exit $code
"""
# A script asks one for the status up to sixty times: without site-packages it starts at once.
PYTHON = f"""#!/bin/bash
exec {sys.executable} -IS "$@"
"""
SCANCEL = """#!/bin/bash
echo "$@" >> "$STAGE/scancel.calls"
[[ $* == "--signal=TERM 77" ]] && kill -TERM $(cat "$STAGE/tasks")
"""
SCONTROL = """#!/bin/bash
echo "$@" >> "$STAGE/scontrol.calls"
case "$1 $2" in
    "show hostnames") printf 'machine0\\nmachine1\\n' ;;
    "show job") echo "JobId=77 JobState=RUNNING PreemptTime=${PREEMPTED:-None} Requeue=1" ;;
    "requeue 77") exit "${REQUEUE_EXIT:-0}" ;;
esac
"""
MACHINE: dict[str, Any] = {
    "slurm": lambda rank: {
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NUM_NODES": str(MACHINES),
        "SLURM_JOB_NODELIST": "machine[0-1]",
        "SLURM_GPUS_ON_NODE": str(GPUS),
        "SLURM_CPUS_PER_TASK": "64",
        "SLURM_PROCID": "0",  # of the batch step; every task has its own
    },
    "sky": lambda rank: {
        "SKYPILOT_NUM_NODES": str(MACHINES),
        "SKYPILOT_NUM_GPUS_PER_NODE": str(GPUS),
        "SKYPILOT_NODE_RANK": str(rank),
        "SKYPILOT_NODE_IPS": f"{ADDRESS}\nmachine1",
    },
    "pod": lambda rank: {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": ADDRESS},
}


class Stage:
    """A folder with the stand-ins, on which one of the three scripts is started."""

    def __init__(self, folder: Path, kind: str):
        self.folder, self.kind, self.run = folder, kind, folder / "shared" / "run"
        tools = folder / "bin"
        for path in (tools, self.run, folder / ".venv" / "bin"):
            path.mkdir(parents=True)
        (folder / ".venv" / "bin" / "activate").touch()
        commands = {"accelerate": ACCELERATE, "srun": SRUN, "scancel": SCANCEL}
        commands |= {"scontrol": SCONTROL, "python": PYTHON}
        for name, text in commands.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        self.path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def status(self, code: int) -> None:
        (self.run / "status.json").write_text(json.dumps({"code": code, "reason": "of before"}))

    def start(self, play: dict[str, Any], rank: int = 0, **more: str) -> subprocess.Popen[str]:
        environment = (
            os.environ | MACHINE[self.kind](rank) | (POD_ENV if self.kind == "pod" else {})
        )
        environment |= {"RECIPE": "transfer", "DATA": "/shared/rain.parquet"}
        environment |= {"OUTPUT_DIR": str(self.run), "STAGE": str(self.folder), "PATH": self.path}
        environment |= {"SLURM_SUBMIT_DIR": str(self.folder), "STATUS_SECONDS": "0.01"}
        environment |= {"PLAY": json.dumps({"exit": 1} | play)} | more
        return subprocess.Popen(
            ["bash", "-c", SCRIPTS[self.kind]],
            cwd=self.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def argv(self, rank: int) -> list[str]:
        path, until = self.folder / f"argv.{rank}", time.monotonic() + 30
        while not path.exists() or not path.read_text():
            assert time.monotonic() < until, "accelerate was never started"
            time.sleep(0.02)
        found: list[str] = json.loads(path.read_text())
        return found

    def calls(self, command: str) -> list[str]:
        path = self.folder / f"{command}.calls"
        return path.read_text().splitlines() if path.exists() else []

    def was_requeued(self) -> bool:
        return "requeue 77" in self.calls("scontrol")
