"""launch/publish.py: a dry run and a real one send the same, failures say what to run later."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import processes
import pytest
import yaml
from hub_contents import Fault, Hub
from spoiled_runs import as_stopped, plant, sent, sums

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "launch" / "publish.py"


@pytest.fixture(scope="module")
def publish() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launch_publish", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Command:
    """The command in this process, as a shell would see it."""

    def __init__(
        self,
        publish: ModuleType,
        run: Path,
        patch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.publish, self.run, self.patch, self.capsys = publish, run, patch, capsys

    def __call__(self, *words: object, repo_id: str = "ana/rain") -> tuple[int, str, str]:
        before = sums(self.run)
        given = [str(SCRIPT), "--run", str(self.run), "--repo-id", repo_id, *map(str, words)]
        self.patch.setattr(sys, "argv", given)
        self.capsys.readouterr()
        code = self.publish.main()
        captured = self.capsys.readouterr()
        assert sums(self.run) == before
        return code, captured.out, captured.err


@pytest.fixture
def command(
    publish: ModuleType,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    return Command(publish, run, monkeypatch, capsys)


def test_a_dry_run_writes_what_would_be_sent(hub: Hub, command: Command, tmp_path: Path) -> None:
    code, output, errors = command("--dry-run", tmp_path / "dry", "--data-licence", "CC0")
    assert code == 0
    assert "nothing was sent" in errors
    assert hub.received == []
    files = sums(tmp_path / "dry")
    listed = [line for line in output.splitlines() if re.match(r"\S.*\d bytes$", line)]
    sizes = {name: (tmp_path / "dry" / name).stat().st_size for name in sorted(files)}
    assert listed == [f"{name}  {size:,} bytes" for name, size in sizes.items()]
    assert "    optim: lr, weight_decay, max_grad_norm, layer_lr_decay (number of 0" in output

    code, output, errors = command("--data-licence", "CC0")
    assert code == 0, errors
    repository = hub.repositories["ana/rain"]
    assert output == f"{hub.endpoint}/ana/rain/commit/{repository.commits()[0][0]}\n"
    assert len(repository.commits()) == 1
    dry = {name: (tmp_path / "dry" / name).read_bytes() for name in files}
    assert repository.files() == dry


def test_nothing_private_is_sent_or_printed(
    hub: Hub, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the run, of its texts, and of the environment."""
    monkeypatch.setenv("WANDB_API_KEY", "f00dbabe" * 5)
    forbidden = [*plant(command.run), hub.token, "f00dbabe"]
    config = command.run / "config.yaml"
    config.write_text(config.read_text() + f"seen: {'f00dbabe' * 5}\n")
    code, output, errors = command()
    assert code == 0, errors
    everything = sent(hub)
    # What git would show, decoded: regular files travel in base64.
    everything += b"".join(hub.repositories["ana/rain"].files().values())
    assert b"rain.parquet" in everything
    for private in forbidden:
        assert private.encode() not in everything, private
        assert private not in output + errors, private
    files = hub.repositories["ana/rain"].files()
    assert len(files) == 14
    saved = json.loads(files["preprocessing.json"])
    settings = yaml.safe_load(files["training_config.yaml"])
    for path in (saved["data"]["path"], saved["source"]["path"], settings["data"]["path"]):
        assert path == "rain.parquet"
    assert not {"note", "seen"} & settings.keys()
    assert b"**memory** (suspected): Peak memory above" in files["README.md"]


@pytest.mark.parametrize(
    ("words", "repo_id", "named"),
    [
        ([], "rain", "expected user/name"),
        (["--revision", "a b"], "ana/rain", "expected the name of a branch"),
        (["--timeout", "0"], "ana/rain", "--timeout is 0"),
        (["--dry-run", "{run}/hub"], "ana/rain", "lies in the run's folder"),
        (["--dry-run", "{run}"], "ana/rain", "is there already"),
        (["--run", "nowhere"], "ana/rain", "there's no such folder"),
        (["--run", "{run}/model"], "ana/rain", "it holds no config.yaml"),
    ],
)
def test_bad_input(hub: Hub, command: Command, words: list[str], repo_id: str, named: str) -> None:
    code, output, errors = command(*(w.format(run=command.run) for w in words), repo_id=repo_id)
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    assert named in errors
    assert hub.received == []


def test_a_stopped_run(hub: Hub, command: Command) -> None:
    as_stopped(command.run)
    code, _, errors = command()
    assert code == 2
    assert "not published: it was stopped by the monitor collapse" in errors
    assert hub.received == []
    code, _, errors = command("--force")
    assert code == 0, errors
    card = hub.repositories["ana/rain"].files()["README.md"].decode()
    assert "**STOPPED BY A MONITOR.**" in card.split("\n## ")[0]


def test_as_a_script_from_elsewhere(hub: Hub, run: Path, tmp_path: Path) -> None:
    """Two at once: one that the hub refuses, one that it is too slow for."""
    before = sums(run)
    hub.faults.append(Fault("POST /api/models/ana/refused/preupload", 403, "read-only token"))
    hub.faults.append(Fault("POST /api/models/ana/slow/preupload", seconds=20.0))

    def publish(name: str, *words: str) -> subprocess.CompletedProcess[str]:
        given = ["--run", "rainy-run", "--repo-id", f"ana/{name}", *words]
        return processes.run([sys.executable, SCRIPT, *given], cwd=tmp_path)

    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(publish, "refused"), pool.submit(publish, "slow", "--timeout", "3")]
        refused, slow = (job.result() for job in jobs)
    assert refused.stderr.splitlines()[-3:] == [
        "error: the token has no right to write there (403): read-only token",
        "rainy-run is as it was. When that is mended, run again:",
        "  python launch/publish.py --run rainy-run --repo-id ana/refused",
    ]
    assert "error: the upload was not done in 3 s and was ended." in slow.stderr
    for done in (refused, slow):
        assert (done.returncode, done.stdout) == (1, "")
        assert hub.token not in done.stderr
        assert "Traceback" not in done.stderr
    assert sums(run) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fast", "rainy-run"]
