"""Paths lose their folders; tokens and hosts go; everything else stays as it was."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from spoiled_runs import SECRET, home

from timerxl.hub.privacy import HOST, REMOVED, Scrubber, as_yaml, file_name, secrets_here


@pytest.fixture
def scrubber() -> Scrubber:
    config = {"data": {"path": home("my data", "rain.parquet")}, "output_dir": "runs/first"}
    return Scrubber.of(Path("runs/first"), [config], ["s3cret-value"])


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"read {home('x', 'rain.csv')}.", "read rain.csv."),
        (f"data.path={home('rain.csv')}, then", "data.path=rain.csv, then"),
        (f"({home('my data', 'rain.parquet')})", "(rain.parquet)"),
        ("see ~/weather/rain.csv", "see rain.csv"),
        ("~/rain.csv", "rain.csv"),
        (r"C:\Users\ana\rain.csv is", "rain.csv is"),
        (r"on \\server\share\rain.csv", "on rain.csv"),
        (f"file://{home('rain.csv')}", "rain.csv"),
        ("/mnt/disk1/rain.csv", "rain.csv"),
        ("runs/first is done", "first is done"),
        (f"token {SECRET}!", f"token {REMOVED}!"),
        ("with s3cret-value.", f"with {REMOVED}."),
        ("Authorization: Bearer abcdefghijklmnop", f"Authorization: {REMOVED}"),
        ("https://ana:pw@x.org/y", "https://x.org/y"),
        ("ssh ana@node7.uni.pe", f"ssh {REMOVED}"),
    ],
)
def test_what_is_private_goes(scrubber: Scrubber, text: str, left: str) -> None:
    assert scrubber.text(text) == left
    assert scrubber.text(left) == left


@pytest.mark.parametrize(
    "text",
    [
        "P(rain | region, month) in (t, t + 24 h], mm/h, 1/2 and/or 3",
        "https://arxiv.org/abs/2410.04803",
        "samples/s, W/m**2, m s**-1, 2014-01-01T06:00:00",
        "costa_norte/lima <b>bold</b> 12 / 4",
        "hf_token, hf_hub and tokens_per_s are names",
        "5 % of ~3 days",
    ],
)
def test_what_is_not_stays(scrubber: Scrubber, text: str) -> None:
    assert scrubber.text(text) == text
    assert scrubber.value({"note": text}) == {"note": text}


def test_values_keep_their_shape(scrubber: Scrubber) -> None:
    value = {
        "path": home("a b", "c.nc"),
        "pretrained": "weights/old/checkpoint.pth",
        "sources": [{"file": "era5/2014/tp.nc", "hours": 24}, "era5/2015/tp.nc"],
        "api_key": "whatever it is",
        "numbers": [1, 0.1, None, True],
        "region": "Lima/Callao",
    }
    assert scrubber.value(value) == {
        "path": "c.nc",
        "pretrained": "checkpoint.pth",
        "sources": [{"file": "tp.nc", "hours": 24}, "tp.nc"],
        "api_key": REMOVED,
        "numbers": [1, 0.1, None, True],
        "region": "Lima/Callao",
    }


def test_a_page_keeps_its_program_and_pictures(scrubber: Scrubber) -> None:
    picture = "data:image/png;base64,iVBOR/ab/cd+/ef/gh=="
    script = "<script>x.replace(/a/b/c)</script>"
    path = home("x", "rain.csv")
    page = f'{script}<td>{path}</td><img src="{picture}"><a href="#a">{SECRET}</a>'
    assert (
        scrubber.page(page)
        == f'{script}<td>rain.csv</td><img src="{picture}"><a href="#a">{REMOVED}</a>'
    )


def test_code_is_searched_for_tokens_only(scrubber: Scrubber) -> None:
    assert scrubber.code("a = b /c/d\nx = '/etc/y'") == "a = b /c/d\nx = '/etc/y'"
    assert REMOVED in scrubber.code(f"x = '{SECRET}'")


def test_a_host_goes_a_plain_word_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def scrub(host: str, text: str, region: str = "selva") -> str:
        monkeypatch.setattr(socket, "gethostname", lambda: host)
        return Scrubber.of(Path("run"), [{"regions": [region]}], []).text(text)

    assert scrub("gpu-17.uni.pe", "on gpu-17 and gpu-17.uni.pe") == f"on {HOST} and {HOST}"
    assert scrub("selva", "rain in selva") == "rain in selva"
    assert scrub("zone-1", "rain in zone-1", region="zone-1") == "rain in zone-1"


def test_secrets_of_the_environment() -> None:
    environment = {
        "TOKENIZERS_PARALLELISM": "false",
        "MY_TOKEN": "disabled",
        "WANDB_API_KEY": "0123456789abcdef",
        "DB_PASSWORD": "correcthorsebatterystaple",
        "PATH": "/usr/bin:/usr/local/bin1234567",
    }
    found = secrets_here(environment, SECRET)
    assert found == sorted(["0123456789abcdef", "correcthorsebatterystaple", SECRET])
    assert secrets_here({}, None) == []


def test_small_things() -> None:
    assert [file_name(p) for p in ("a/b/", "b", "c:\\a\\b", "/")] == ["b", "b", "b", "/"]
    assert as_yaml({"b": "off", "a": 5e-05}) == "b: 'off'\na: 5.0e-05\n"


def test_the_place_of_a_mirror_goes() -> None:
    """Of a bucket too, its name alone stays, wherever config.yaml or a log repeats it."""
    config = {"train": {"mirror": "s3://secret-project-bucket/runs/first"}}
    scrubber = Scrubber.of(Path("runs/first"), [config], [])
    said = f"mirror: {config['train']['mirror']} holds the end"
    assert scrubber.text(said) == "mirror: first holds the end"
