"""benchmarks/size.py counts what it says, on a made-up checkout."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.size import Walk, measure, walk_apart, walk_lines

FILES = {
    "timerxl/__init__.py": "from timerxl.top import run\n",
    "timerxl/top.py": """
from timerxl.data.plan import Plan
from timerxl.data import plan

def run():
    return _alone() + _shared() + _shared()

def _alone():
    return Plan(1)

def _shared():
    return 0
""",
    "timerxl/data/__init__.py": "",
    "timerxl/data/plan.py": """
from dataclasses import dataclass

@dataclass
class Plan:
    number: int

    def work(self): ...

@dataclass(frozen=True)
class Often:
    number: int

    @classmethod
    def made(cls):
        return cls(1)

    def work(self): ...
""",
    "timerxl/training/__init__.py": "",
    "timerxl/training/plan.py": "from ..data.plan import Often\n\nclass Plan:\n    pass\n\n"
    + "def long():\n"
    + "    x = 1\n" * 80
    + "\ndef short():\n"
    + "    x = 1\n" * 79
    + "\nOften(2)\n",
    "launch/train.py": "def main():\n    from timerxl import top, training\n"
    "    import timerxl.training.plan\n",
    "tests/test_it.py": "one\ntwo\n",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_every_row_counts_the_made_up_checkout(checkout: Path) -> None:
    found = measure(checkout)
    texts = [text for name, text in FILES.items() if not name.startswith("tests/")]
    assert found["product lines"] == sum(len(text.splitlines()) for text in texts)
    assert found["product files"] == 7
    assert found["test lines"] == 2
    assert found["folders with more than 15 modules"] == []
    # top is imported by the package and by launch/, data.plan by top and training.plan.
    assert found["modules with one importer"] == ["timerxl/training/plan.py: launch/train.py"]
    both = "timerxl/data/plan.py, timerxl/training/plan.py"
    assert found["module names that exist twice"] == [f"plan.py: {both}"]
    assert found["class names that exist twice"] == [f"Plan: {both}"]  # both methods `work` are not
    assert found["functions above 80 lines in training/"] == [
        "timerxl/training/plan.py: long, 81 lines"
    ]
    assert found["dataclasses"] == 2
    assert found["dataclasses built in one place"] == ["timerxl/data/plan.py: Plan"]
    assert found["private functions used in one place"] == ["timerxl/top.py: _alone"]
    assert found["functions"] == 9


def test_a_sixteenth_module_makes_a_folder_too_full(checkout: Path) -> None:
    for number in range(14):
        (checkout / f"timerxl/data/m{number}.py").write_text("")
    assert measure(checkout)["folders with more than 15 modules"] == []
    (checkout / "timerxl/data/m14.py").write_text("")
    assert measure(checkout)["folders with more than 15 modules"] == ["timerxl/data: 16"]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"made_up_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_walk_comes_back_where_new_files_lie_between(tmp_path: Path) -> None:
    (tmp_path / "timerxl/data").mkdir(parents=True)
    files = {
        "timerxl/data/helper.py": "def help():\n    return _own()\n\ndef _own():\n    return 1\n",
        "timerxl/late.py": "class Made:\n    made = [x for x in (1, 2)]\n\ndef work(helper):\n"
        "    return helper.help()\n",
        "timerxl/first.py": "def run(helper, load):\n    [helper.help() for _ in range(3)]\n"
        "    late = load()\n    late.work(helper)\n    return helper.help()\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    helper, first = (load(tmp_path / "timerxl" / name) for name in ("data/helper.py", "first.py"))
    walk = Walk(tmp_path)
    with walk.recording():
        first.run(helper, lambda: load(tmp_path / "timerxl/late.py"))
    # Three calls with nothing new between them are one entry; importing late.py is none.
    assert walk.visits == {
        "timerxl/first.py": 1,
        "timerxl/data/helper.py": 2,
        "timerxl/late.py": 1,
    }
    assert list(walk.visits) == ["timerxl/first.py", "timerxl/data/helper.py", "timerxl/late.py"]
    assert walk_lines(walk.visits) == [
        "3 files (first 1, data 1, late 1); comes back to 1",
        "  1. timerxl/first.py",
        "  2. timerxl/data/helper.py  (2 times)",
        "  3. timerxl/late.py",
    ]


def test_a_checkout_that_cannot_be_walked_says_why(tmp_path: Path) -> None:
    (tmp_path / "timerxl").mkdir()
    (tmp_path / "timerxl/__init__.py").write_text("")
    told = walk_apart("logits", tmp_path)
    assert isinstance(told, str)
    assert told.endswith("found none of load_series")
    assert [path.name for path in tmp_path.rglob("*")] == ["timerxl", "__init__.py"]


def test_a_walk_that_failed_says_why() -> None:
    assert walk_lines("not measured: found none of load_series") == [
        "not measured: found none of load_series"
    ]
