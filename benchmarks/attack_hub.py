"""Rows 5 and 10, and uploads by a recipe: a hub on this machine that hangs, or keeps everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hub_contents import Fault, Hub
from hub_server import running_hub
from safetensors.numpy import load_file, save_file

from benchmarks.attack_files import train
from benchmarks.attack_recipes import _recipe
from benchmarks.attack_stage import SECRETS, Stage, attack, end_all, living

# Instead of the seconds that the library waits between two tries.
NO_WAITING = "import time\nreal = time.sleep\ntime.sleep = lambda s: real(min(s, 0.05))\n"
REPO = "ana/rain"


@contextmanager
def hub_of(stage: Stage) -> Iterator[tuple[Hub, dict[str, str]]]:
    """A hub, and the variables with which a command finds it."""
    # A client that is killed leaves a broken pipe: that is what is asked for.
    ThreadingHTTPServer.handle_error = lambda *_: None  # type: ignore[method-assign]
    fast = stage.folder / "fast"
    fast.mkdir(exist_ok=True)
    (fast / "sitecustomize.py").write_text(NO_WAITING)
    with running_hub() as hub:
        yield hub, hub.environment | {"PYTHONPATH": str(fast)}


def uploaded(hub: Hub) -> bytes:
    """Everything that came, and everything that is there: names, messages, contents."""
    parts = [f"{call} {head}".replace(hub.token, "").encode() for call, head, _ in hub.received]
    for name, repository in hub.repositories.items():
        parts.append(name.encode())
        for commits in repository.branches.values():
            for _, message, tree in commits:
                parts.append(message.encode())
                parts += [path.encode() + b" " + file.content for path, file in tree.items()]
    return b"\n".join(parts + [body for _, _, body in hub.received])


# --- row 2: uploads by a recipe


@attack(2, "hub.push and hub.repo_id of a recipe by path", overrides=())
@attack(2, "hub.repo_id of a recipe, hub.push by override", overrides=("hub.push=true",))
@attack(2, "hub.push of a recipe, hub.repo_id by override", overrides=(f"hub.repo_id={REPO}",))
def pushed(stage: Stage, overrides: tuple[str, ...]) -> list[str]:
    """Only what both stand on the command line may be sent."""
    told = {"hub.push", "hub.repo_id"} == {one.partition("=")[0] for one in overrides}
    push = "" if "hub.push=true" in overrides else "push: true, "
    repo = "" if any("repo_id" in one for one in overrides) else f"repo_id: {REPO}, "
    recipe = _recipe(stage, f"hub: {{{push}{repo}data_licence: CC BY 4.0}}\ntrain: {{epochs: 1}}")
    output = stage.work / "output" / "run"
    with hub_of(stage) as (hub, variables):
        given = ("--config", recipe, *overrides, f"output_dir={output}")
        stage.run("train", *given, fresh=True, environment=variables, cpu_seconds=40)
        sent = hub.calls("POST /api/repos/create")
    return stage.harms() + (["the run went to a stranger's repository"] if sent > told else [])


@attack(2, "config.yaml of a stranger's run, taken as a recipe, pushes")
def pushed_by_a_run(stage: Stage) -> list[str]:
    run = stage.copy("run")
    path = run / "config.yaml"
    text = path.read_text().replace("push: false", "push: true")
    path.write_text(text.replace("repo_id: null", f"repo_id: {REPO}"))
    output = stage.work / "output" / "run"
    with hub_of(stage) as (hub, variables):
        given = ("--config", path, f"output_dir={output}")
        stage.run("train", *given, fresh=True, environment=variables, cpu_seconds=40)
        sent = hub.calls("POST /api/repos/create")
    return stage.harms() + (["the run went to a stranger's repository"] if sent else [])


@attack(2, "honest: a push that the command line asks for")
def honest_push(stage: Stage) -> list[str]:
    more = ("hub.push=true", f"hub.repo_id={REPO}", "hub.data_licence=CC BY 4.0")
    with hub_of(stage) as (hub, variables):
        stage.run("train", *train(stage, *more), fresh=True, environment=variables, cpu_seconds=40)
        is_there = REPO in hub.repositories and bool(hub.repositories[REPO].commits())
    return stage.harms() + ([] if is_there else [f"nothing came: {stage.ended[-1].text[-200:]}"])


# --- row 5: signals

CREATE, PREUPLOAD = "POST /api/repos/create", "POST .*/preupload"
BATCH, UPLOAD, COMMIT = "objects/batch", "PUT /lfs/upload", "POST .*/commit/main"


@attack(5, "SIGTERM while the weights are sent", where=UPLOAD, signals=[signal.SIGTERM])
@attack(5, "SIGTERM before the repository is there", where=CREATE, signals=[signal.SIGTERM])
@attack(5, "SIGTERM while the hub is asked", where=PREUPLOAD, signals=[signal.SIGTERM])
@attack(5, "SIGTERM while the commit is made", where=COMMIT, signals=[signal.SIGTERM])
@attack(5, "SIGTERM twice", where=UPLOAD, signals=[signal.SIGTERM, signal.SIGTERM])
@attack(5, "SIGINT to the command alone", where=UPLOAD, signals=[signal.SIGINT])
@attack(5, "SIGINT, then SIGTERM", where=BATCH, signals=[signal.SIGINT, signal.SIGTERM])
@attack(5, "SIGHUP of a terminal that is closed", where=UPLOAD, signals=[signal.SIGHUP])
@attack(5, "SIGTERM while the package is made", where=None, signals=[signal.SIGTERM])
def hanging(stage: Stage, where: str | None, signals: list[signal.Signals]) -> list[str]:
    run = stage.copy("run")
    arguments = ("--run", run, "--repo-id", REPO, "--data-licence", "CC BY 4.0")
    return _signalled(stage, "publish", arguments, where, signals)


@attack(5, "SIGTERM to a training that pushes", where=UPLOAD, signals=[signal.SIGTERM])
@attack(5, "SIGINT to a training that pushes", where=COMMIT, signals=[signal.SIGINT])
@attack(5, "SIGHUP to a training that pushes", where=CREATE, signals=[signal.SIGHUP])
def training(stage: Stage, where: str, signals: list[signal.Signals]) -> list[str]:
    more = ("hub.push=true", f"hub.repo_id={REPO}", "train.epochs=100000", "train.patience=100000")
    more += ("monitors.collapse=off", "eval.every_steps=0")
    arguments = tuple(train(stage, *more, steps=1_000_000))
    return _signalled(stage, "train", arguments, where, signals)


def _signalled(
    stage: Stage,
    command: str,
    arguments: tuple[object, ...],
    where: str | None,
    signals: list[signal.Signals],
) -> list[str]:
    """Send ``signals`` once the hub hangs at ``where``; what is left five seconds after the end."""
    harm: list[str] = []
    with hub_of(stage) as (hub, variables):
        fault = Fault(where or "nowhere", seconds=90.0)
        hub.faults.append(fault)
        program = [sys.executable, str(stage.tree / "launch" / f"{command}.py")]
        with (stage.folder / "printed").open("w+") as printed:
            process = subprocess.Popen(
                [*program, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=printed,
                stderr=subprocess.STDOUT, cwd=stage.work, start_new_session=True,
                env=stage.environment(variables),
            )  # fmt: skip
            tmp = stage.folder / "tmp"
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                if fault.times < 1_000 or (where is None and any(tmp.glob(".timerxl-hub-*"))):
                    break
                time.sleep(0.05)
            else:
                harm.append("the upload never began")
            time.sleep(0.3)
            for number in signals:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)
                time.sleep(0.2)
            try:
                code: int | None = process.wait(40)
            except subprocess.TimeoutExpired:
                code = None
                harm.append("not ended 40 s after the signal")
            until = time.monotonic() + 5
            while (alive := living(str(stage.folder), process.pid)) and time.monotonic() < until:
                time.sleep(0.1)
            if alive:
                harm.append(f"{len(alive)} processes live on after the command ({code})")
            end_all(alive)
            process.wait()
            printed.seek(0)
            text = printed.read()
        # Nobody need catch SIGHUP, and the next start sweeps; but nothing may live on.
        is_caught = signal.SIGHUP not in signals
        left = [path.name for path in tmp.iterdir() if path.name.startswith(".timerxl")]
        left += [path.name for path in stage.work.rglob(".timerxl*")]
        if left and is_caught:
            harm.append(f"left behind: {', '.join(left[:3])}")
        if is_caught and code is not None and code not in [128 + number for number in signals]:
            harm.append(f"exit code {code}, expected one of {[128 + n for n in signals]}")
        if "Traceback" in text:
            harm.append(f"a traceback: {text.strip().splitlines()[-1][:150]}")
        if stage.verbose:
            print(f"    {command} code {code}\n{text[-2000:]!r}", flush=True)
    return harm + stage.harms()


@attack(5, "honest: a run is published")
def honest_publish(stage: Stage) -> list[str]:
    arguments = ("--run", stage.copy("run"), "--repo-id", REPO, "--data-licence", "CC BY 4.0")
    with hub_of(stage) as (hub, variables):
        stage.run("publish", *arguments, fresh=True, environment=variables, cpu_seconds=40)
        is_there = REPO in hub.repositories and bool(hub.repositories[REPO].commits())
    left = [path.name for path in (stage.folder / "tmp").glob(".timerxl*")]
    found = [f"left behind: {left}"] * bool(left)
    return stage.harms() + found + ([] if is_there else ["nothing came"])


# --- row 10: secrets

# Planted into every text of a run; each is private, and none of them in the environment.
PLANTED = {
    "kernel": "Linux-6.18.44-fc-v669-canary-x86_64",
    "host": "login7.canary.example.org",
    "GitLab": "glpat-Qq3CanaryCanary12345",
    "Google": "AIzaSyD-CanaryCanaryCanaryCanaryCanary12",
    "PyPI": "pypi-AgEIcHlwaS5vcmcCanaryCanary",
    "AWS": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYCANARYKEY1",
    "Slack": "https://hooks.slack.com/services/T0CANARY/B0CANARY/abcdefCANARY",
    "bucket": "s3://canary-private-bucket/runs/one",
    "bucket of Google": "gs://canary-private-gs/runs",
    "path with spaces": "/srv/Canary Private Folder/secret plans/rain.csv",
    "path of Windows": "C:\\Users\\Canary Person\\Documents\\rain.csv",
    "address": "canary.person@example.org",
    "address of a server": "10.77.12.34",
    "database": "postgresql://canary:hunter2canary@db/x",
}


PARTS = (
    ("GitLab", "Google", "PyPI", "AWS", "Slack"),
    ("bucket", "bucket of Google", "path with spaces", "path of Windows"),
    ("kernel", "host", "address", "address of a server", "database"),
)


def _planted_json(text: str, secret: str) -> str:
    """Every text of a JSON value becomes ``secret`` where that is no identifier, and more keys."""
    tree = json.loads(text)

    def change(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: change(value) for key, value in node.items()} | {"note": secret}
        if isinstance(node, list):
            return [change(item) for item in node]
        return node

    return json.dumps(change(tree))


def _in_environment(run: Path, secret: str) -> None:
    path = run / "environment.json"
    found = json.loads(path.read_text())
    for key in ("system", "device", "command", "host", "user"):
        found[key] = secret
    path.write_text(json.dumps(found))


def _in_environment_versions(run: Path, secret: str) -> None:
    path = run / "environment.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({key: secret for key in found} | {"processes": 1}))


def _in_config(run: Path, secret: str) -> None:
    path = run / "config.yaml"
    import yaml

    found = yaml.safe_load(path.read_text())
    found["recipe"] = found["output_dir"] = secret
    found["train"] |= {"mirror": secret, "resume": secret, "trackers": [secret]}
    found["model"]["pretrained"] = secret
    found["data"] |= {"path": secret, "oni_path": secret}
    path.write_text(yaml.safe_dump(found))


def _more_config(run: Path, secret: str) -> None:
    with (run / "config.yaml").open("a") as file:
        file.write(f"note: {json.dumps(secret)}\n{json.dumps(secret)}: 1\n")


def _in_metrics(run: Path, secret: str) -> None:
    path = run / "metrics.jsonl"
    lines = [json.dumps(json.loads(line) | {"note": secret}) for line in path.open()]
    lines.append(json.dumps({"event": secret, "step": 4, "message": secret}))
    lines.append(json.dumps({"event": "plan", "summary": secret, secret: secret}))
    verdict = {"name": "slow", "severity": "suspected", "step": 4, "explanation": secret}
    lines.append(json.dumps({"event": "verdict", **verdict, "remedy": secret}))
    path.write_text("\n".join(lines) + "\n")


def _in_verdict(run: Path, secret: str) -> None:
    path = run / "verdict.json"
    found = json.loads(path.read_text())
    found["verdicts"][0] |= {"explanation": secret, "remedy": secret, "note": secret}
    path.write_text(json.dumps(found))


def _in_results(run: Path, secret: str) -> None:
    path = run / "results.json"
    path.write_text(_planted_json(path.read_text(), secret))


def _in_results_texts(run: Path, secret: str) -> None:
    path = run / "results.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"stop_reason": secret, "threshold_score": secret}))


def _in_preprocessing(run: Path, secret: str) -> None:
    path = run / "model" / "preprocessing.json"
    path.write_text(_planted_json(path.read_text(), secret))


def _in_source(run: Path, secret: str) -> None:
    path = run / "model" / "preprocessing.json"
    found = json.loads(path.read_text())
    found["source"]["path"] = found["data"]["path"] = secret
    found["data"]["oni_path"] = None
    found["source"]["skipped_columns"] = {"x": secret, secret: "y"}
    found["source"]["records"]["t2m"]["unit"] = {
        "value": "K",
        "known_by": "file",
        "evidence": secret,
    }
    path.write_text(json.dumps(found))


def _in_model_config(run: Path, secret: str) -> None:
    path = run / "model" / "config.json"
    found = json.loads(path.read_text())
    more = {"_name_or_path": secret, "note": secret, "task_specific_params": {secret: secret}}
    path.write_text(json.dumps(found | more))


def _in_weights(run: Path, secret: str) -> None:
    """The metadata of the weights are text, too; preprocessing.json knows their new hash."""
    from timerxl.training.checkpoint.storage import file_record

    path = run / "model" / "model.safetensors"
    save_file(load_file(path), path, {"format": "pt", "note": secret})
    saved = run / "model" / "preprocessing.json"
    found = json.loads(saved.read_text())
    saved.write_text(json.dumps(found | {"weights": file_record(path)}))


def _in_code(run: Path, secret: str) -> None:
    path = run / "model" / "attention_timerxl.py"
    path.write_text(f"# {secret}\n{path.read_text()}")


def _in_page(run: Path, secret: str) -> None:
    path = run / "report" / "index.html"
    note = f"<p>{secret}</p><!-- {secret} --><script>// {secret}</script></body>"
    path.write_text(path.read_text().replace("</body>", note))


def _in_other_files(run: Path, secret: str) -> None:
    for name in ("notes.txt", "model/README.md", "model/notes.txt", "report/notes.html", ".env"):
        (run / name).write_text(secret)
    (run / "audit.json").write_text(json.dumps({"lines": [secret]}))
    (run / "status.json").write_text(json.dumps({"code": 0, "reason": secret}))


PLACES: dict[str, Callable[[Path, str], None]] = {
    "environment.json": _in_environment,
    "the versions of environment.json": _in_environment_versions,
    "config.yaml": _in_config,
    "more keys of config.yaml": _more_config,
    "metrics.jsonl": _in_metrics,
    "verdict.json": _in_verdict,
    "more keys of results.json": _in_results,
    "texts of results.json": _in_results_texts,
    "more keys of preprocessing.json": _in_preprocessing,
    "the source in preprocessing.json": _in_source,
    "config.json of the model": _in_model_config,
    "the metadata of the weights": _in_weights,
    "a comment in the model's code": _in_code,
    "the page": _in_page,
    "other files of the run": _in_other_files,
}


def planted(stage: Stage, place: Callable[[Path, str], None]) -> list[str]:
    """In three parts, as one that is refused would hide the others."""
    found: list[str] = []
    for number, names in enumerate(PARTS):
        run, output = stage.copy("run", f"run-{number}"), stage.work / f"package-{number}"
        place(run, " ; ".join(PLANTED[name] for name in names))
        given = ("--run", run, "--repo-id", "a/b", "--data-licence", "CC BY 4.0")
        ended = stage.run("publish", *given, "--dry-run", output)
        written = {p.name: p.read_bytes() for p in output.rglob("*") if p.is_file()}
        for name in names:
            for secret in {PLANTED[name], json.dumps(PLANTED[name])[1:-1]}:
                where = [file for file, content in written.items() if secret.encode() in content]
                where += ["the terminal"] * (number == 0 and secret in ended.text)
                if where:
                    found.append(f"{name} in {', '.join(where)}")
    return stage.harms() + found


for _title, _place in PLACES.items():
    attack(10, f"secrets in {_title}", place=_place)(planted)


@attack(10, "all at once, to a hub")
def planted_and_sent(stage: Stage) -> list[str]:
    run = stage.copy("run")
    for number, place in enumerate(PLACES.values()):
        place(run, list(PLANTED.values())[number % len(PLANTED)])
    with hub_of(stage) as (hub, variables):
        arguments = ("--run", run, "--repo-id", REPO, "--data-licence", "CC BY 4.0")
        stage.run("publish", *arguments, fresh=True, environment=variables, cpu_seconds=40)
        sent = uploaded(hub)
    known = PLANTED | SECRETS
    return stage.harms() + [f"{k} was sent" for k, v in known.items() if v.encode() in sent]


@attack(10, "secrets of the environment in every text", variable="AWS_SECRET_ACCESS_KEY")
@attack(10, "a secret that no pattern knows in every text", variable="DATABASE")
@attack(10, "a token of GitLab in every text", variable="CI_JOB")
def environment_secret(stage: Stage, variable: str) -> list[str]:
    run, output = stage.copy("run"), stage.work / "package"
    for place in PLACES.values():
        if place is not _more_config:
            place(run, SECRETS[variable])
    given = ("--run", run, "--repo-id", "a/b", "--dry-run", output)
    stage.run("publish", *given)
    return stage.harms(folders=(output,) if output.exists() else ())


@attack(10, "a message of a million characters in every file", text="x" * 1_000_000)
@attack(10, "100,000 lines in every text", text="a b\n" * 100_000)
def endless(stage: Stage, text: str) -> list[str]:
    """What is printed is cut; what is published stays small."""
    harm: list[str] = []
    for number, (title, place) in enumerate(PLACES.items()):
        run, output = stage.copy("run", f"run-{number}"), stage.work / f"package-{number}"
        place(run, text)
        stage.run("publish", "--run", run, "--repo-id", "a/b", "--dry-run", output)
        size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        if size > 1_000_000:
            harm.append(f"a package of {size / 1e6:.1f} MB from {title}")
    return stage.harms() + harm


@attack(10, "honest: the scores of a run are published")
def honest_scores(stage: Stage) -> list[str]:
    run, output = stage.copy("run"), stage.work / "package"
    given = ("--run", run, "--repo-id", "a/b", "--data-licence", "CC BY 4.0")
    stage.run("publish", *given, "--dry-run", output)
    card = (output / "README.md").read_text() if output.exists() else ""
    score = json.loads((run / "results.json").read_text())["test"]["roc_auc"]
    is_told = f"{score:.3f}" in card and "CC BY 4.0" in card
    return stage.harms() + ([] if is_told else ["the card lacks the score or the licence"])
