"""docs/colab.ipynb, run cell by cell in a real kernel: cut off, lost, and brought back.

The commands run in a Python that has no matplotlib_inline, as on Colab: there every kernel tells
its children to draw with it. Colab itself, Drive and the installation are what is not here: their
cells are run once with programs that only note how they were called.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import pandas as pd
import pytest
from hub_server import Hub, running_hub
from nbclient import NotebookClient
from nbformat import NotebookNode
from settings import ONE_LABEL

from timerxl import Forecaster
from timerxl.config import load_recipe

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "colab.ipynb"
INLINE = "module://matplotlib_inline.backend_inline"
STEPS = 180  # far more than are made before the first copy is seen
TINY = (
    f"{ONE_LABEL} "
    "data.synthetic.start=2024-06-01 data.train_fraction=0.35 data.validation_fraction=0.35 "
    "model.patch_length=8 model.context_length=16 model.hidden_size=16 model.intermediate_size=32 "
    f"model.num_hidden_layers=1 train.batch_size=16 train.max_steps={STEPS} train.patience=1000 "
    "eval.fitted_baselines=false eval.num_resamples=0 eval.max_windows=40 eval.every_steps=0 "
    "monitors.collapse=off train.trackers=[]"
).split()
# In the kernel: what its own environment holds, and what it has imported.
LOOK = """
import importlib.metadata, sys
held = sorted((d.name, d.version) for d in importlib.metadata.distributions())
print(hash(tuple(held)), sorted({"torch", "timerxl", "transformers"} & set(sys.modules)))
"""


def read() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


class Runtime:
    """A runtime whose disk can be lost, with a Drive that stays."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.output_dir, self.drive = folder / "content" / "run", folder / "drive"
        self.python = folder / "venv" / "bin" / "python"
        self.forecasts = self.drive / "forecasts.csv"
        for path in (self.output_dir.parent, self.drive, folder / "home"):
            path.mkdir()
        # The packages of this environment, but none that only a notebook has.
        venv.create(folder / "venv", symlinks=True)
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        site = folder / "venv" / "lib" / version / "site-packages"
        paths = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
        (site / "packages.pth").write_text("\n".join(paths))
        (site / "sitecustomize.py").write_text(
            "import sys\nsys.modules['matplotlib_inline'] = None"
        )
        self.environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self.environment |= {
            "HOME": str(folder / "home"),
            "MPLBACKEND": INLINE,
            "COLAB_RELEASE_TAG": "release-colab",
            "OMP_NUM_THREADS": "1",
        }

    def execute(
        self, until: str = "end", without: str = "", interrupt: bool = False, **values: Any
    ) -> dict[str, Any]:
        """Run the cells up to one of them, with parameters put behind ours as papermill does.

        Returns the cells by their id, with their outputs. ``interrupt`` presses stop as soon as
        Drive holds a whole copy.
        """
        parameters = {
            "ON_COLAB": False,
            "FOLDER": str(ROOT),
            "PYTHON": str(self.python),
            "RECIPE": "quickstart",
            "OUTPUT_DIR": str(self.output_dir),
            "MIRROR": str(self.drive / "run"),
            "FORECASTS": str(self.forecasts),
            "OVERRIDES": TINY,
        } | values
        notebook = read()
        ids = [cell.id for cell in notebook.cells]
        notebook.cells = [c for c in notebook.cells[: ids.index(until) + 1] if c.id != without]
        given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        cell = nbformat.v4.new_code_cell
        notebook.cells.insert(ids.index("parameters") + 1, cell(given, id="given"))
        notebook.cells.insert(0, cell(LOOK, id="before"))
        notebook.cells.append(cell(LOOK, id="after"))
        client = NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": str(self.folder / "content")}},
        )
        if interrupt:

            def press_stop() -> None:
                while not any("sha256" in p.read_text() for p in self.manifests()):
                    time.sleep(0.01)
                os.killpg(client.km.provisioner.pgid, signal.SIGINT)  # as Jupyter does

            def start(cell: NotebookNode, cell_index: int) -> None:
                if cell.id == "train":
                    threading.Thread(target=press_stop, daemon=True).start()

            client.on_cell_start = start
        client.execute(env=self.environment)  # an error in a cell is raised
        return {cell.id: cell for cell in notebook.cells}

    def manifests(self) -> list[Path]:
        return list(self.drive.glob("run/slot-*/manifest.json"))

    def status(self) -> Any:
        return json.loads((self.output_dir / "status.json").read_text())

    def lose(self) -> None:
        shutil.rmtree(self.output_dir.parent)
        self.output_dir.parent.mkdir()


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    found = Runtime(tmp_path)
    # Where the kernel is looked for: this environment alone.
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", found.environment["HOME"])
    return found


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as found:
        yield found


def printed(cell: NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def shown(cell: NotebookNode, kind: str) -> list[str]:
    """What a cell displays in one format."""
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


def page_in(cell: NotebookNode) -> str:
    (frame,) = shown(cell, "text/html")
    found = re.search(r'<iframe srcdoc="([^"]*)"', frame)
    assert found, frame[:200]
    return html.unescape(found[1])


def table_in(cell: NotebookNode) -> dict[str, list[str]]:
    """The columns of the one data frame that a cell shows."""
    (found,) = shown(cell, "text/html")
    table = ElementTree.fromstring(found[found.index("<table") : found.index("</table>") + 8])
    rows = [["".join(field.itertext()) for field in row] for row in table.iter("tr")]
    return {name: [row[at] for row in rows[1:]] for at, name in enumerate(rows[0])}


def check_untouched(cells: dict[str, Any]) -> None:
    """The kernel has imported nothing of ours, and its packages are what they were."""
    assert printed(cells["before"]).endswith(" []\n")
    assert printed(cells["after"]) == printed(cells["before"])


@pytest.mark.slow
def test_cut_off_and_brought_back(runtime: Runtime, hub: Hub) -> None:
    drawing = subprocess.run(
        [runtime.python, "-c", "import matplotlib.pyplot as p; p.figure()"],
        env=runtime.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "matplotlib_inline" in drawing.stderr  # what a command of the notebook must live with

    cells = runtime.execute(until="report", interrupt=True)
    cut = runtime.status()
    assert cut["code"] == 130
    step = int(re.findall(r"interrupted by SIGINT after step (\d+)", cut["reason"])[0])
    assert 0 < step < STEPS
    assert f"exit code 130: {cut['reason']}\n" in printed(cells["train"])
    assert "Traceback" not in printed(cells["train"])  # the command hears of it once
    assert "Peak memory of each GPU" in printed(cells["plan"])
    assert page_in(cells["report"]) == (runtime.output_dir / "report" / "index.html").read_text()
    check_untouched(cells)

    runtime.lose()
    runtime.environment |= hub.environment
    cells = runtime.execute(without="plan", REPO_ID="ana/rain")
    said = printed(cells["train"])
    assert "is filled" in said
    assert f"going on after step {step} from" in said
    assert said.endswith("exit code 0: finished\n")
    assert runtime.status() == {"code": 0, "reason": "finished"}

    events = [json.loads(line) for line in (runtime.output_dir / "metrics.jsonl").open()]
    validation = [event for event in events if event["event"] == "validation"]
    assert validation[0]["step"] <= step < validation[-1]["step"] == STEPS
    table, last = table_in(cells["scores"]), validation[-10:]
    assert list(map(int, table["step"])) == [event["step"] for event in last]
    for name in ("roc_auc", "predicted_rain_share"):
        in_file = [event[name] for event in last]
        assert list(map(float, table[name])) == pytest.approx(in_file, abs=1e-6)
    assert len(shown(cells["scores"], "image/png")) == 1

    page = page_in(cells["report"])
    assert "<svg" in page
    assert "FINISHED" in page

    model = runtime.output_dir / "model"
    published = hub.repositories["ana/rain"]
    assert published.private
    weights = (model / "model.safetensors").read_bytes()
    assert published.files()["model.safetensors"] == weights

    expected = Forecaster.from_pretrained(model).predict(None, at="latest")
    written, forecast = pd.read_csv(runtime.forecasts), table_in(cells["forecast"])
    assert list(written["region"]) == list(expected["region"]) == forecast["region"]
    assert list(map(str, written["rain"])) == list(map(str, expected["rain"])) == forecast["rain"]
    assert list(written["probability"]) == pytest.approx(list(expected["probability"]), abs=1e-6)
    probability = list(map(float, forecast["probability"]))
    assert probability == pytest.approx(list(written["probability"]), abs=1e-6)
    check_untouched(cells)


# The two calls of google.colab's drive that the notebook makes.
DRIVE = """
def mount(path):
    with open({noted!r}, "a") as file:
        file.write(f"drive.mount {{path}}\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["550.54.15", "580.82.07"])
def test_the_cells_that_only_colab_runs(runtime: Runtime, driver: str) -> None:
    """What is installed where, and that a second time only what is missing is."""
    tools, noted = runtime.folder / "tools", runtime.folder / "noted.txt"
    toolkit = runtime.folder / "content" / "timerxl"
    python = str(toolkit / ".venv" / "bin" / "python")
    bodies = {
        "nvidia-smi": f"echo {driver}",
        "git": 'mkdir -p "$3"',
        "pip": "",
        "uv": f'[ "$1" = pip ] || install -D {tools / "python"} {python}',
        "make": "",
        "python": "",
    }
    tools.mkdir()
    for name, body in bodies.items():
        note = f'echo "{name} $*" "$UV_CONSTRAINT" "$PYTHONPATH" >> {noted}'
        (tools / name).write_text(f"#!/bin/bash\n{note}\n{body}\n")
        (tools / name).chmod(0o755)
    colab = runtime.folder / "env" / "google" / "colab"
    colab.mkdir(parents=True)
    (colab / "drive.py").write_text(DRIVE.format(noted=str(noted)))
    runtime.environment |= {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(runtime.folder / "env"),
        "UV_CONSTRAINT": "/backend-container/containers/requirements.constraints",
    }
    given = {"ON_COLAB": True, "FOLDER": str(toolkit), "PYTHON": python, "REPOSITORY": "ADDRESS"}

    def calls() -> list[str]:
        noted.unlink(missing_ok=True)
        runtime.execute(until="drive", **given)
        return [line.rstrip() for line in noted.read_text().splitlines()]

    first = calls()
    assert first[0].startswith("nvidia-smi --query-gpu=driver_version")
    assert first[1].startswith(f"git clone ADDRESS {toolkit}")
    older = (
        f"uv pip install --python {python} --torch-backend cu126 --constraint constraints.txt torch"
    )
    # By name and argument, and nothing of the kernel's environment behind it.
    assert first[2:] == [
        "pip install --quiet uv",
        "uv venv --python 3.11 --seed .venv",
        *([older] if driver.startswith("550") else []),
        "make install",
        "python -c import torch; print(torch.__version__, torch.cuda.get_device_name())",
        "drive.mount /content/drive",
    ]
    if driver.startswith("550"):
        assert calls() == [call for call in first if not call.startswith(("git clone", "uv venv"))]


def test_it_is_committed_clean() -> None:
    notebook = read()
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"]
    assert [c.id for c in code if c.outputs or c.execution_count is not None] == []
    given = re.search(r'^RECIPE = "(\w+)"', code[0].source, re.M)
    assert given
    load_recipe(given[1])
    links = [
        link for cell in notebook.cells for link in re.findall(r"\]\((\w+\.md)\)", cell.source)
    ]
    assert links
    assert [link for link in links if not (NOTEBOOK.parent / link).is_file()] == []
