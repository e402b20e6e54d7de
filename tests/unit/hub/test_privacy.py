"""Paths lose their folders; tokens and hosts go; everything else stays as it was."""

from __future__ import annotations

import platform
import random
import socket
import time
from pathlib import Path

import pytest
from spoiled_runs import SECRET, home

from timerxl.hub.allowed import GIVEN_TEXT, REFUSED, SENTENCE
from timerxl.hub.privacy import HOST, KERNEL, REMOVED, Scrubber, as_yaml, file_name, secrets_here


@pytest.fixture
def scrubber() -> Scrubber:
    config = {"data": {"path": home("my data", "rain.parquet")}, "output_dir": "runs/first"}
    return Scrubber.of(Path("runs/first"), [config], ["s3cret-value"])


MADE = "aB3dE5fG7h" * 9  # as a program makes keys
KEYS = [
    f"glpat-{MADE[:20]}",
    f"AIza{MADE[:35]}",
    f"ya29.{MADE[:60]}",
    f"pypi-AgEIcHlwaS5vcmc{MADE}",
    f"npm_{MADE[:36]}",
    f"ghp_{MADE[:36]}",
    f"github_pat_{MADE[:60]}",
    f"xoxb-123456789012-123456789012-{MADE[:24]}",
    f"sk_live_{MADE[:24]}",
    f"sk-{MADE[:48]}",
    f"sk-proj-{MADE}",
    f"sk-ant-api03-{MADE}",
    f"hf_{MADE[:34]}",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    f"-----BEGIN RSA {'PRIVATE'} KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIE+/a\nb==\n"
    f"-----END RSA {'PRIVATE'} KEY-----",
]
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize("key", KEYS)
def test_a_key_goes_wherever_it_stands(scrubber: Scrubber, key: str) -> None:
    for form in ("{}", "with {} here", "key={}", '"{}"', "https://x.org/{}", "<td>{}</td>"):
        text = form.format(key)
        assert scrubber.text(text) == form.format(REMOVED)
    assert scrubber.value({"a": [key]}) == {"a": [REMOVED]}


def test_a_private_key_without_an_end_takes_the_rest(scrubber: Scrubber) -> None:
    begun = f"-----BEGIN {'PRIVATE'} KEY-----\\nMIIEvQIBADANBg"
    assert scrubber.text(f"key {begun} and so on") == f"key {REMOVED}"


@pytest.mark.parametrize(
    "form",
    [
        "aws_secret_access_key = {}",
        "AWS_SECRET_ACCESS_KEY={}",
        '"secretAccessKey": "{}"',
        "the secret key is {}",
        "secret {}",
        "AccountKey={}",
        "password: {}",
        "token={}",
    ],
)
def test_what_follows_a_word_for_keys_goes(scrubber: Scrubber, form: str) -> None:
    assert scrubber.text(form.format(AWS_SECRET)) == form.format(REMOVED)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("s3://my-bucket/dir/x.csv is", "x.csv is"),
        ("gs://my-bucket", REMOVED),
        ("hf://datasets/me/repo/x.csv", "x.csv"),
        ("hf://me/repo", REMOVED),
        ("az://box/x.csv, then", "x.csv, then"),
        ("abfs://box@acct.dfs.core.windows.net/x.csv", "x.csv"),
        ("abfss://box@acct.dfs.core.windows.net", REMOVED),
        ("https://box.s3.eu-west-1.amazonaws.com/k/x.csv?X-Amz-Signature=abc", "x.csv"),
        ("https://minio.internal:9000/box/x.csv", "x.csv"),
        ("http://10.0.0.5/my/x.csv.", "x.csv."),
        ("http://node7/my/x.csv", "x.csv"),
        (f"file://{home('rain.csv')}", "rain.csv"),
        ("https://ana:pw@x.org/y", "https://x.org/y"),
        ("runs/first is done", "first is done"),
        (f"{home('my data', 'rain.parquet')}, then", "rain.parquet, then"),
        ("with s3cret-value.", f"with {REMOVED}."),
        ("Authorization: Bearer abcdefghijklmnop", f"Authorization: {REMOVED}"),
        ("Linux-6.8.0-45-generic-x86_64-with-glibc2.39", "Linux"),
        ("Linux 5.15.0-1055-aws on", "Linux on"),
        ("kernel 6.8.0-45-generic", f"kernel {REMOVED}"),
        ("5.14.0-362.el9.x86_64", REMOVED),
        ("5.15.167.4-microsoft-standard-WSL2", REMOVED),
        ("macOS-14.2-arm64-arm-64bit", "macOS"),
        ("Windows-10-10.0.19045-SP0", "Windows"),
    ],
)
def test_places_and_machines_go(scrubber: Scrubber, text: str, left: str) -> None:
    assert scrubber.text(text) == left
    assert scrubber.value({"a": [text, 1, None]}) == {"a": [left, 1, None]}
    assert scrubber.text(left) == left


@pytest.mark.parametrize(
    "text",
    [
        "P(rain | region, month) in (t, t + 24 h], mm/h, 1/2 and/or 3",
        "https://arxiv.org/abs/2410.04803",
        "samples/s, W/m**2, m s**-1, 2014-01-01T06:00:00",
        "costa_norte/lima <b>bold</b> 12 / 4",
        "hf_token, hf_hub and tokens_per_s are names",
        "Beijing/Aotizhongxin, Lima / Callao",
        "kg m-2 s-1, W/m2, m/s, mm/h, 9/10, 24 h/48 h",
        "2024-06-01/2024-07-01, 10:00/12:00, precision/recall",
        "ROC-AUC 0.812 (0.801 to 0.823)",
        "tokens_per_s: 123456.789, num_tokens=1234567890123456",
        "Basic meteorological variables. Basic Configuration here.",
        "torch 2.13.0+cpu, transformers 5.0.0rc1, Python 3.11.7 on Linux",
        "windows 10.5 h long. Windows of 1440 steps",
        "commit a94a8fe5ccb19ba61c4c0873d391e987982fbbd3",
        "tp@850, mean of t2m and d2m",
        "token sequence-of-length-1440-Patches, the secret of all-these-Numbers-2024-06-01",
        "[it](https://huggingface.co/user/rain/blob/main/README.md), https://doi.org/10.1145/11.2.",
        "sk-learn-like-things-of-this-kind and pypi-like names",
    ],
)
def test_ordinary_text_stays(scrubber: Scrubber, text: str) -> None:
    assert scrubber.text(text) == text


def test_the_code_that_is_published_stays(scrubber: Scrubber) -> None:
    for path in sorted((Path(__file__).parents[3] / "timerxl" / "model").glob("*.py")):
        text = path.read_text()
        assert scrubber.text(text) == text


UNITS = (
    f"a|-|/|\\|~|/home/|{home()} |{home()} b|{home('a b')}/|/a|eyJ-|eyJabcdefghijk.|pypi-|glpat-|://a@|a@|a-a|a."
    "|-----BEGIN PRIVATE KEY-----|http://|s3://|6.8.0-a.|secret=|secret |password=|C:\\|C:/|\\a"
    "|1.1.1-|Bearer |Basic a|a b |//a/|n7:/|a.csv |SG.|sk-|Q~|x/|a.csv/|https://a?|+|%|data:a|<script>"
).split("|")


def test_a_long_text_takes_no_long_time(scrubber: Scrubber) -> None:
    """In proportion to its length: of 300,000 characters at most 0.6 s, whatever they are."""
    dice = random.Random(0)
    texts = [unit * (300_000 // len(unit)) for unit in UNITS]
    texts.append("".join(dice.choice(UNITS) for _ in range(100_000)))
    for text in texts:
        begun = time.process_time()
        scrubber.text(text)
        assert time.process_time() - begun < 0.6, text[:20]


def test_the_kernel_of_this_machine_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.1.58+")
    assert Scrubber.of(Path("run"), [], []).text("on 6.1.58+ here") == f"on {KERNEL} here"
    monkeypatch.setattr(platform, "release", lambda: "4.4.0")  # might be a library's version
    assert Scrubber.of(Path("run"), [], []).text("torch 4.4.0") == "torch 4.4.0"


def test_a_secret_in_use_goes_also_within_a_word_and_escaped() -> None:
    secret = 'p"w/1 &2345'
    scrubber = Scrubber.of(Path("run"), [], [secret])
    for form in (secret, 'p\\"w/1 &2345', "p&quot;w/1 &amp;2345", "p%22w/1%20%262345"):
        assert scrubber.text(f"x{form}y") == f"x{REMOVED}y"


PATHS = [
    home("x", "rain.csv"),
    f"({home('my data', 'rain.parquet')})",
    home(),
    "~/weather/rain.csv",
    "~/rain.csv",
    r"C:\Users\ana\rain.csv",
    r"'C:\Users\Me and You'",
    r"C:\\Users\\Me\\x.csv",
    "C:/Users/Me and You/x.csv",
    r"\\server\My Share\x.csv",
    "//server/share/x.csv",
    "file:///rain/data",
    "/mnt/disk1/rain.csv",
    "/data/rain/test",  # words of ours
    "node7:/export/data/x.csv",
    "s3://bucket/x.csv",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_text_that_names_a_folder_is_left_out(path: str) -> None:
    for text in (path, f"the test of {path}", f"data.path={path}, rain"):
        assert SENTENCE.take(text, frozenset()) is REFUSED
        assert GIVEN_TEXT.take(text, frozenset()) is REFUSED


def test_a_licence_is_published_without_addresses_of_mail() -> None:
    licence = "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), ask {} / ODbL"
    for address in ("ana@uni.pe", "git@x.org:me/hidden.git", "ana@node7"):
        taken = GIVEN_TEXT.take(licence.format(address), frozenset())
        assert taken == licence.format(REMOVED)


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
    lines = {"SSH_PRIVATE_KEY": "-----BEGIN X-----\nb3BlbnNzaC1rZXktdjEAAAA1\n-----END X-----"}
    assert "b3BlbnNzaC1rZXktdjEAAAA1" in secrets_here(lines, None)
    assert secrets_here({"SSH_KEY": str(Path(__file__).absolute())}, None) == []  # a path
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
