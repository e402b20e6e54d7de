"""The page in a real browser: headless Chromium, spoken to through the pipe of its DevTools."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from timerxl.report.compare import write_comparison
from timerxl.report.page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, no google-chrome in PATH")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --remote-debugging-pipe"
).split()


class Browser:
    """One tab. ``events`` are what the page did since it was opened."""

    def __init__(self, profile: Path) -> None:
        here, there = os.pipe(), os.pipe()
        # DevTools reads commands from descriptor 3 and answers on 4: JSON, each with a zero byte.
        command = 'r=$1; w=$2; shift 2; eval "exec \\"\\$@\\" 3<&$r 4>&$w"'
        words = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", command, "bash", str(here[0]), str(there[1]), *words],
            pass_fds=(here[0], there[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(here[0])
        os.close(there[1])
        self._write, self._read = os.fdopen(here[1], "wb"), os.fdopen(there[0], "rb")
        self._rest, self._count, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], 60)
            part = os.read(self._read.fileno(), 1 << 20) if ready else b""
            if not part:
                raise EOFError("the browser has gone, or says nothing for a minute")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        found = json.loads(message)
        assert isinstance(found, dict)
        return found

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command and its answer; events on the way are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while (answer := self._next()).get("id") != self._count:
            self.events.append(answer)
        assert "error" not in answer, answer
        found = answer["result"]
        assert isinstance(found, dict)
        return found

    def wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next())

    def open(self, page: Path, width: int, scheme: str = "light") -> None:
        """Load the page at this width, by day or by night."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 700,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait_for("Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What a line of JavaScript gives."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def press(self, key: str, code: int) -> None:
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            given = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
            self.call("Input.dispatchKeyEvent", **given, **(text if kind == "keyDown" else {}))

    def complaints(self) -> list[str]:
        """Errors and warnings in the console, and exceptions."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(event) for event in self.events if event.get("method") in kinds]

    def requested(self) -> list[str]:
        """Every address that was asked for."""
        asked = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in asked]

    def screenshot(self, path: Path) -> None:
        told = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def close(self) -> None:
        try:
            self._session = ""
            self.call("Browser.close")
            self.process.wait(timeout=20)
        except (EOFError, BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        finally:
            self._write.close()
            self._read.close()


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
