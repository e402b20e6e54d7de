"""launch/cluster/ against docs/scaling.md: each script is run with stand-ins for Slurm's commands
and for accelerate, so that launch line, signals and codes are those that a cluster would see."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import launch_command_parser
from cluster_stage import (
    ADDRESS,
    CLAIM,
    CLUSTER,
    CONTAINER,
    JOB,
    MACHINES,
    POD,
    POD_ENV,
    REPLICAS,
    SBATCH,
    SCRIPTS,
    SKY,
    Stage,
)

from timerxl.config import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PLACEHOLDER = "CHANGE_ME"
DIRECTIVES = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", SBATCH, re.M))


def documented(folder: str, rank: int) -> list[str]:
    """Words of the line for several machines in docs/scaling.md, for this run's folder."""
    lines = (ROOT / "docs" / "scaling.md").read_text().splitlines()
    (line,) = [one for one in lines if "--machine_rank RANK" in one]
    line = line.replace("RANK", str(rank)).replace("ADDRESS", ADDRESS)
    return shlex.split(line.replace("/shared/runs/transfer", folder))


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCRIPTS)
def test_bash_reads_the_script(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "script.sh"
    path.write_text(SCRIPTS[kind])
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--shell=bash", "--exclude=SC1091", path], check=True)


def placeholders(value: Any, key: str = "") -> set[str]:
    """Keys whose values are to be filled in; scripts only ask whether they were."""
    if isinstance(value, dict):
        if set(value) == {"name", "value"}:
            return placeholders(value["value"], value["name"])
        return set().union(*(placeholders(inner, name) for name, inner in value.items()))
    if isinstance(value, list):
        return set().union(*(placeholders(inner, key) for inner in value))
    return {key} if PLACEHOLDER in str(value) and value not in SCRIPTS.values() else set()


def test_what_is_to_be_filled_in_is_listed() -> None:
    found = {
        "slurm.sbatch": set(re.findall(rf"^export (\w+)=.*{PLACEHOLDER}", SBATCH, re.M)),
        "skypilot.yaml": placeholders(SKY),
        "pytorchjob.yaml": placeholders([CLAIM, JOB]),
    }
    assert {path.name for path in CLUSTER.iterdir()} == set(found)
    for name, keys in found.items():
        text = (CLUSTER / name).read_text()
        (listed,) = re.findall(rf"^# {PLACEHOLDER}: (.*)\.$", text, re.M)
        assert keys == set(listed.split(", ")), name
        assert max(map(len, text.splitlines())) <= 100, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCRIPTS)
def test_nothing_starts_before_it_is_filled_in(kind: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, kind)
    process = stage.start({"code": 0}, DATA=f"/{PLACEHOLDER}/rain.parquet")
    assert "set DATA and OUTPUT_DIR" in process.communicate(timeout=30)[0]
    assert process.returncode == 2
    assert not (tmp_path / "argv.0").exists()


def test_slurm_is_asked_for_what_the_script_counts_on() -> None:
    before_commands = re.split(r"^(?!#|\s*$)", SBATCH, maxsplit=1, flags=re.M)[0]
    assert before_commands.count("#SBATCH --") == SBATCH.count("#SBATCH --")  # later ones are lost
    assert DIRECTIVES["ntasks-per-node"] == "1"  # a launcher a machine
    assert DIRECTIVES["open-mode"] == "append"
    assert {"requeue", "exclusive"} <= set(DIRECTIVES)
    target, seconds = DIRECTIVES["signal"].split("@")
    assert (
        target == "B:USR1"
    )  # to the shell alone: srun would hand USR1 to a launcher that dies of it
    (patience,) = re.findall(r"^export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=(\d+)$", SBATCH, re.M)
    assert int(seconds) >= int(patience) + 60  # Slurm's clock and the end of the script
    options = re.search(r"^srun (.*) bash", SBATCH, re.M)
    assert options is not None
    assert "--kill-on-bad-exit=0" in options[1]
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in options[1]


def test_skypilot_recovers_what_can_go_on() -> None:
    assert set(SKY) == {
        *("name", "workdir", "num_nodes", "resources", "envs", "file_mounts", "setup", "run")
    }
    recovery = SKY["resources"]["job_recovery"]
    assert SKY["resources"]["use_spot"] is True
    assert recovery == {"recover_on_exit_codes": [143], "max_restarts_on_errors": 0}
    (mount,) = [at for at in SKY["file_mounts"] if SKY["envs"]["OUTPUT_DIR"].startswith(f"{at}/")]
    # MOUNT can't append, COPY uploads nothing; and a cached bucket is one machine's.
    assert SKY["file_mounts"][mount]["mode"] == "MOUNT_CACHED"
    assert SKY["num_nodes"] == 1
    assert (ROOT / SKY["workdir"] / "Makefile").is_file()


def test_pods_share_storage_and_end_in_peace() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert REPLICAS["Worker"]["template"] == REPLICAS["Master"]["template"]
    assert {spec["restartPolicy"] for spec in REPLICAS.values()} == {"ExitCode"}
    assert REPLICAS["Master"]["replicas"] == 1
    machines = sum(spec["replicas"] for spec in REPLICAS.values())
    gpus = CONTAINER["resources"]["limits"]["nvidia.com/gpu"]
    assert POD_ENV["NUM_MACHINES"] == str(machines)
    assert POD_ENV["NUM_PROCESSES"] == str(machines * gpus)
    patience = int(POD_ENV["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    assert POD["terminationGracePeriodSeconds"] >= patience + 60
    mounts = {item["mountPath"]: item["name"] for item in CONTAINER["volumeMounts"]}
    volumes = {item.pop("name"): item for item in map(dict, POD["volumes"])}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    claim = volumes[mounts["/" + POD_ENV["OUTPUT_DIR"].split("/")[1]]]["persistentVolumeClaim"]
    assert claim["claimName"] == CLAIM["metadata"]["name"]
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]
    assert CONTAINER["name"] == "pytorch"  # the operator reads this container's exit code
    assert CONTAINER["command"] == ["bash", "-c"]
    assert "$$" not in SCRIPTS["pod"]  # Kubernetes would make it one $


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCRIPTS)
def test_every_machine_starts_the_documented_line(kind: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, kind)
    scripts = 1 if kind == "slurm" else MACHINES  # srun brings the other machine in
    for process in [stage.start({"code": 0, "exit": 0}, rank) for rank in range(scripts)]:
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 0, said
    for rank in range(MACHINES):
        found = stage.argv(rank)
        assert ["accelerate", *found] == documented(str(stage.run), rank)
        given = launch_command_parser().parse_args(found[1:])
        assert (ROOT / given.config_file).is_file()
        assert (ROOT / given.training_script).is_file()
        config, recipe, *overrides = given.training_script_args
        assert config == "--config"
        assert load_recipe(recipe, overrides).train.resume == "auto"
        assert f"output_dir={stage.run}" in overrides  # the same folder on every machine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("play", "before", "ends", "again"),
    [
        ({"code": 0, "exit": 0}, None, 0, False),
        ({"begins": False, "exit": 0}, 0, 0, False),  # finished long ago
        ({"code": 3}, None, 3, False),
        ({"code": 130}, None, 130, False),
        ({"code": 143}, None, 143, True),
        ({"begins": False}, 143, 1, False),  # it never came to write: the 143 is of another start
        ({"begins": True}, 143, 1, False),  # killed in the midst of it
    ],
)
def test_slurm_starts_again_what_saved(
    play: dict[str, Any], before: int | None, ends: int, again: bool, tmp_path: Path
) -> None:
    stage = Stage(tmp_path, "slurm")
    if before is not None:
        stage.status(before)
    process = stage.start(play)
    said = process.communicate(timeout=60)[0]
    assert (process.returncode, stage.was_requeued()) == (ends, again), said
    assert stage.calls("scancel") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("play", "more", "again"),
    [
        ({"begins": True}, {"PREEMPTED": "2026-11-23T10:00:00"}, True),
        ({"code": 3}, {"PREEMPTED": "2026-11-23T10:00:00"}, False),
        ({"code": 143}, {"SLURM_RESTART_COUNT": "99"}, True),
        ({"code": 143}, {"SLURM_RESTART_COUNT": "100"}, False),
    ],
)
def test_slurm_preemptions_count_and_end_some_day(
    play: dict[str, Any], more: dict[str, str], again: bool, tmp_path: Path
) -> None:
    stage = Stage(tmp_path, "slurm")
    stage.start(play, **more).communicate(timeout=60)
    assert stage.was_requeued() is again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "number", "again"),
    [
        (143, signal.SIGUSR1, True),
        (None, signal.SIGUSR1, True),  # time was up before it could say so
        (0, signal.SIGUSR1, False),
        (3, signal.SIGUSR1, False),
        (143, signal.SIGTERM, False),  # Slurm ends the job itself: scancel must stay scancel
    ],
)
def test_slurm_signals_reach_the_launchers(
    code: int | None, number: signal.Signals, again: bool, tmp_path: Path
) -> None:
    stage = Stage(tmp_path, "slurm")
    process = stage.start({"code": code, "waits": True})
    for rank in range(MACHINES):
        stage.argv(rank)
    process.send_signal(number)
    if number == signal.SIGTERM:  # then Slurm signals the tasks too
        for task in (tmp_path / "tasks").read_text().split():
            os.kill(int(task), signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert {path.name for path in tmp_path.glob("heard.*")} == {"heard.0", "heard.1"}, said
    assert stage.was_requeued() is again, said
    assert process.returncode == (1 if code is None else code)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sky", "pod"])
@pytest.mark.parametrize(
    ("play", "before", "ends"),
    [
        ({"code": 0, "exit": 0}, None, 0),
        ({"begins": False, "exit": 0}, 0, 0),
        ({"code": 3}, None, 3),
        ({"code": 143}, None, 143),
        ({"begins": False}, 143, 1),
        ({"begins": True}, None, 1),
    ],
)
def test_the_code_of_the_run_gets_out(
    kind: str, play: dict[str, Any], before: int | None, ends: int, tmp_path: Path
) -> None:
    stage = Stage(tmp_path, kind)
    if before is not None:
        stage.status(before)
    process = stage.start(play)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == ends, said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sky", "pod"])
@pytest.mark.parametrize("code", [143, None])
def test_sigterm_at_the_shell_reaches_the_launcher(
    kind: str, code: int | None, tmp_path: Path
) -> None:
    stage = Stage(tmp_path, kind)
    process = stage.start({"code": code, "waits": True})
    stage.argv(0)
    process.terminate()
    process.communicate(timeout=60)
    assert (tmp_path / "heard.0").exists()
    assert process.returncode == 143  # also where it was stopped too early to say so


@pytest.mark.slow
def test_a_pod_waits_for_what_rank_0_writes(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "pod")
    worker = stage.start({"begins": False}, rank=1, STATUS_SECONDS="0.1")
    stage.argv(1)
    time.sleep(0.5)
    assert worker.poll() is None
    stage.status(143)
    worker.communicate(timeout=60)
    assert worker.returncode == 143
