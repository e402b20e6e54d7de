"""The documentation: the site builds without a broken link, and every file it names is there."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.size import Source, read_sources
from docs import draw_imports

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
FOLDERS = "timerxl|launch|tests|benchmarks|docs|accelerate_configs|ds_configs"
ROOMS = "data|evaluation|hub|model|planner|report|training"
# runs/..., s3://bucket/... and a page's own address are no files of the checkout.
PATH = re.compile(rf"(?<![\w/.:-])(?:{FOLDERS})/[\w./-]*\w")
MODULE_PATH = re.compile(rf"(?<![\w/.:-])(?:{ROOMS})/[\w/]+\.py\b")
DOTTED = re.compile(r"(?<![\w/.-])timerxl(?:\.[A-Za-z_]\w*)+")
NEED_PACKAGES = ("mkdocs", "material", "mkdocstrings_handlers.python")


@functools.cache
def product() -> dict[str, Source]:
    return {source.module: source for source in read_sources(ROOT)}


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def missing_paths(text: str) -> list[str]:
    """Paths in the text that are not in the checkout; a room's path may leave out timerxl/."""
    named = PATH.findall(text) + [f"timerxl/{path}" for path in MODULE_PATH.findall(text)]
    return sorted({path for path in named if not (ROOT / path).exists()})


def missing_names(text: str) -> list[str]:
    """Dotted names in the text that no module of timerxl has."""
    modules = product()

    def is_there(name: str) -> bool:
        if name in modules:
            return True
        module, _, last = name.rpartition(".")
        if module not in modules:  # a member of a class, or nothing
            return bool(module) and is_there(module)
        return any(
            last == (getattr(node, "name", None) or getattr(node, "id", None) or "")
            or (isinstance(node, ast.Constant) and node.value == last)  # loaded on first use
            or (isinstance(node, ast.alias) and last == (node.asname or node.name))
            for node in ast.walk(modules[module].tree)
        )

    return sorted({name for name in DOTTED.findall(text) if not is_there(name)})


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_is_there(document: str) -> None:
    assert missing_paths(text_of(document)) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_name_of_the_code_in_a_document_is_there(document: str) -> None:
    assert missing_names(text_of(document)) == []


def test_a_path_or_name_that_is_gone_is_seen() -> None:
    text = "`timerxl/data/gone.py`, planner/gone.py, `timerxl.gone`, `timerxl.config.gone`"
    assert missing_paths(text) == ["timerxl/data/gone.py", "timerxl/planner/gone.py"]
    assert missing_names(text) == ["timerxl.config.gone", "timerxl.gone"]
    there = "timerxl/config.py, `timerxl.config.RunConfig`, timerxl.Forecaster, s3://data/x.py"
    assert missing_paths(there + ", runs/small/model/code.py, /data/rain.py") == []
    assert missing_names(there) == []


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = text_of("README.md")
    assert len(text.splitlines()) <= 200
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert "docs/images/report.png" in links
    assert [link for link in links if not (ROOT / link).is_file()] == []
    pages = {link for link in links if link.endswith((".md", ".ipynb"))}
    written = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert written - pages == {"docs/index.md"}  # the site's own first page


def test_every_page_of_the_code_names_a_room_that_is_there() -> None:
    pages = sorted((ROOT / "docs" / "api").glob("*.md"))
    named = [name for page in pages for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)]
    assert len(named) == len(pages)
    assert set(named) <= product().keys()
    assert set(ROOMS.split("|")) <= {name.removeprefix("timerxl.") for name in named}


def test_the_table_of_imports_is_that_of_the_code() -> None:
    """If not: python docs/draw_imports.py"""
    found = draw_imports.between(text_of("docs/architecture.md"), "imports")
    assert found == draw_imports.table(draw_imports.room_imports(ROOT))


def test_imports_are_read_off_a_made_up_tree(tmp_path: Path) -> None:
    files = {
        "timerxl/__init__.py": "from timerxl.top import x",
        "timerxl/base.py": "",
        "timerxl/base_checks.py": "from timerxl import base",
        "timerxl/data/__init__.py": "",
        "timerxl/data/deep/__init__.py": "",
        "timerxl/data/deep/one.py": "from ...base import x\nfrom ..two import y",
        "timerxl/data/two.py": "def f():\n    import timerxl.base_checks",
        "timerxl/top.py": "from timerxl.data.deep import one",
        "launch/go.py": "from timerxl.top import x\nfrom timerxl.data import two",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    imports = draw_imports.room_imports(tmp_path)
    assert imports == {
        "foundation": set(),
        "data": {"foundation"},
        "top": {"data"},
        "launch": {"top", "data"},
    }
    assert draw_imports.layers(imports) == [["launch"], ["top"], ["data"], ["foundation"]]
    assert draw_imports.direct(imports)["launch"] == {"top"}
    with pytest.raises(SystemExit, match="import each other: data, foundation"):
        draw_imports.layers(imports | {"foundation": {"data"}})


@pytest.mark.slow
def test_make_docs_builds_strictly() -> None:
    planned = subprocess.run(
        ["make", "--dry-run", "docs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert "mkdocs build --strict" in planned


class Loaded(HTMLParser):
    """What a page loads by itself: scripts, styles, pictures and frames, not its links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in {"script", "img", "iframe", "source", "video"} and given.get("src"):
            self.found.append(str(given["src"]))
        if tag == "link" and given.get("rel") != "canonical" and given.get("href"):
            self.found.append(str(given["href"]))


def has_package(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(
    not all(has_package(name) for name in NEED_PACKAGES),
    reason="the extra is not installed: pip install -c constraints.txt -e '.[docs]'",
)
def test_the_site_builds_and_loads_nothing_from_a_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "architecture.html", "data.html"} <= {page.name for page in pages}
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert loaded.found
        assert [link for link in loaded.found if re.match(r"(https?:)?//", link)] == [], page.name
    assert "build_windows" in (tmp_path / "site" / "api" / "data.html").read_text(encoding="utf-8")


def test_every_place_in_the_table_of_places_is_there() -> None:
    table = text_of("docs/architecture.md").partition("## Where to look")[2].partition("\n## ")[0]
    found = re.findall(r"`([a-z0-9_/]+\.(?:py|yaml|md\.jinja))(?:: (\w+))?`", table)
    assert len(found) >= 20
    for path, name in found:
        text = (ROOT / "timerxl" / path).read_text(encoding="utf-8")
        assert not name or re.search(rf"^(def|class) {name}\b", text, re.M), (path, name)
