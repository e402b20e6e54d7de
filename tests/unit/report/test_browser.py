"""The page in a real browser, on a phone and on a desk, by day and by night."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from timerxl.report.compare import write_comparison
from timerxl.report.page import write_report

sys.path.append(str(Path(__file__).resolve().parents[2]))
from chromium import CHROMIUM, Browser

pytestmark = pytest.mark.slow

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, no google-chrome in PATH")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


PAGES = ("healthy", "stopped", "running", "comparison")
Pages = dict[str, Path]


@pytest.fixture(scope="module")
def pages(
    healthy: Path, stopped: Path, running: Path, tmp_path_factory: pytest.TempPathFactory
) -> Pages:
    output = tmp_path_factory.mktemp("pages") / "comparison.html"
    written = {folder.name: write_report(folder) for folder in (healthy, stopped, running)}
    return written | {"comparison": write_comparison([healthy, stopped], output)}


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_whole_and_fits(
    browser: Browser, pages: Pages, name: str, width: int, scheme: str
) -> None:
    browser.open(pages[name], width, scheme)
    browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.complaints() == []
    assert browser.requested() == [pages[name].resolve().as_uri()]
    page_width = browser.value("document.documentElement.scrollWidth")
    assert page_width <= browser.value("document.documentElement.clientWidth") <= width
    drawn = browser.value(
        "[...document.querySelectorAll('figure')].map(f => [f.id, f.querySelector('svg')"
        ".getBBox().width, f.querySelector('svg').getAttribute('aria-label').length])"
    )
    assert [figure[0] for figure in drawn] == [
        *("curve-loss", "curve-roc_auc", "curve-mcc", "curve-f1", "curve-accuracy"),
        "curve-predicted_rain_share",
        *(FINAL if name == "healthy" else ()),
    ]
    assert all(width > 200 and words > 30 for _, width, words in drawn)


SCROLLS = """
[...document.querySelectorAll('%s')].filter(box => box.scrollWidth > box.clientWidth + 1)
  .map(box => box.getAttribute('aria-label'))
"""


@needs_browser
def test_runs_with_long_names_are_compared_on_a_desk_without_scrolling(
    browser: Browser, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    series = "data.path=/data/senamhi/stations/precipitation_11_years.parquet"
    first = make_run(tmp_path / "transfer_long_dropout_03_seed_1", "healthy", series)
    other = make_run(tmp_path / "transfer_long_dropout_03_seed_2", "stopped", series)
    page = write_comparison([first, other], tmp_path / "comparison.html")
    browser.open(page, 1400)
    assert browser.value(SCROLLS % ".wide") == []
    assert "precipitation_11_years" in browser.value("document.querySelector('#runs').innerText")


@needs_browser
@pytest.mark.parametrize("name", ["healthy", "comparison"])
def test_settings_are_read_on_a_phone_without_scrolling(
    browser: Browser, pages: Pages, name: str, healthy: Path, make_run: Any, tmp_path: Path
) -> None:
    page = pages[name]
    if name == "comparison":
        other = make_run(tmp_path / "other", "stopped", "data.train_stride_hours=36")
        text = (other / "config.yaml").read_text()
        start = text.index("expectations:")
        (other / "config.yaml").write_text(text[:start] + "expectations: []\n")
        page = write_comparison([healthy, other], tmp_path / "comparison.html")
    browser.open(page, 400)
    browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert '{"epoch": 5' in browser.value("document.querySelector('table.wrap').innerText")
    assert browser.value(SCROLLS % ".wide:has(.wrap)") == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_shade_tells_that_a_table_goes_on(browser: Browser, pages: Pages, scheme: str) -> None:
    """At the right edge of its box, until the last column has come."""
    browser.open(pages["healthy"], 400, scheme)
    box = "document.querySelector('#scores .wide')"
    edge = f"(({{left, bottom, width}}) => [left + width, bottom + scrollY])({box}"
    right, bottom = browser.value(f"{edge}.getBoundingClientRect())")
    # The padding below the last row's small print holds no letters.
    strip = {"x": right - 3, "y": bottom - 7, "width": 2, "height": 2, "scale": 1}
    brightness = []
    for left in (0, 10_000):
        browser.value(f"{box}.scrollLeft = {left}")
        told = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=strip)
        pixels = imread(io.BytesIO(base64.b64decode(told["data"])))
        brightness.append(float(pixels[..., :3].mean()))
    assert abs(brightness[0] - brightness[1]) > 0.15
    paper = 1.0 if scheme == "light" else 0.1
    assert brightness[1] == pytest.approx(paper, abs=0.02)


FINAL = (
    *("confusion", "reliability", "roc", "precision-recall"),
    *("region-roc_auc", "region-mcc", "season-roc_auc", "season-mcc"),
)


@needs_browser
def test_letters_of_a_picture_can_be_read_on_a_phone(browser: Browser, pages: Pages) -> None:
    browser.open(pages["healthy"], 400)
    heights = browser.value(
        "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
    )
    assert len(heights) > 100
    assert min(heights) > 9


@needs_browser
def test_words_and_paper_stand_apart(browser: Browser, pages: Pages) -> None:
    """Every colour of text has a contrast of 4.5 or more, by day and by night (WCAG 2.2, 1.4.3)."""
    for scheme in ("light", "dark"):
        browser.open(pages["stopped"], 1400, scheme)
        found = browser.value(CONTRASTS)
        assert len(found) > 5
        assert [entry for entry in found if entry[1] < 4.5] == [], scheme


CONTRASTS = """
(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((c) => {
      const s = c / 255;
      return s <= 0.03928 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!colour.endsWith(', 0)')) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = {};
  for (const node of document.querySelectorAll('body *')) {
    if (![...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    if (['SCRIPT', 'STYLE'].includes(node.tagName)) continue;
    const style = getComputedStyle(node), under = paper(node);
    const ink = node.closest('svg') ? style.fill : style.color;
    const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
    found[ink + ' on ' + under] = (a + 0.05) / (b + 0.05);
  }
  return Object.entries(found);
})()
"""


@needs_browser
def test_a_table_is_sorted_by_click_and_by_key(browser: Browser, pages: Pages) -> None:
    browser.open(pages["healthy"], 1400)
    column = (
        "[...document.querySelector('#scores table').tBodies[0].rows]"
        ".map(r => Number(r.cells[1].dataset.value))"
    )
    before = browser.value(column)
    button = "document.querySelectorAll('#scores table button')[1]"
    browser.value(f"{button}.click()")
    assert browser.value(column) == sorted(before) != before
    browser.value(f"{button}.focus()")
    browser.press("Enter", 13)
    assert browser.value(column) == sorted(before, reverse=True)
    assert browser.value(f"{button}.closest('th').getAttribute('aria-sort')") == "descending"
    first = "document.querySelectorAll('#scores table button')[0]"
    browser.value(f"{first}.click()")
    names = browser.value(
        "[...document.querySelector('#scores table').tBodies[0].rows]"
        ".map(r => r.cells[0].innerText)"
    )
    assert names == sorted(names, key=str.lower)
    assert browser.value(f"{button}.closest('th').getAttribute('aria-sort')") is None
    assert browser.complaints() == []


@needs_browser
def test_a_script_from_a_file_does_not_run(
    browser: Browser, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    evil = "</pre><script>document.title='taken'</script><img src=x onerror=\"document.title='x'\">"
    folder = make_run(tmp_path / "run", "stopped")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text + f"note: {json.dumps(evil)}\n")
    (folder / "environment.json").write_text(json.dumps({evil: evil}))
    browser.open(write_report(folder), 1400)
    assert browser.value("document.title").startswith("quickstart: STOPPED by collapse")
    assert browser.value("document.querySelectorAll('img, script').length") == 1
    assert browser.complaints() == []
    # Were something not escaped, the policy of the page would still keep it from running.
    browser.value("document.body.insertAdjacentHTML('beforeend', '<b onclick=\"x()\">b</b>')")
    browser.value("document.querySelector('body > b').click()")
    assert "Content Security Policy" in " ".join(browser.complaints())
