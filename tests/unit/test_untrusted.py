"""Names, files, references and numbers of strangers: what gets through, and what does not."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from timerxl import untrusted
from timerxl.config import InputError, load_recipe
from timerxl.untrusted import (
    MOST_SHOWN,
    Between,
    check_memory,
    check_own_files,
    check_room,
    free_memory,
    open_own,
    plain,
    read_json,
    schema_error,
)

SECRET = "correct-horse-battery-4711"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("São Paulo, 上海, 25 °C", "São Paulo, 上海, 25 °C"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x1b[2J\x9b31m", r"\x1b[2J\x9b31m"),
        ("a\nerror: forged\r\t", r"a\nerror: forged\r\t"),
        ("a\u202eb\u2028c\u200b", r"a\u202eb\u2028c\u200b"),
        ("a\u00a0b", "a b"),
        ("\ud800", r"\ud800"),
        (7, "7"),
    ],
)
def test_what_is_shown_is_one_printable_line(text: object, expected: str) -> None:
    assert plain(text) == expected
    assert plain(text).isprintable()


def test_what_is_shown_is_cut() -> None:
    assert plain("a" * 10**6) == "a" * MOST_SHOWN + "... (1,000,000 characters)"
    assert len(plain("\n" * 10**6)) < 3 * MOST_SHOWN


def lie(kind: str, name: Path, canary: Path) -> None:
    """Put something under ``name`` that leads to ``canary``, or is no file."""
    name.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        name.symlink_to(canary)
    elif kind == "dangling":
        name.symlink_to(canary.with_name("not-there"))
    elif kind == "hard link":
        os.link(canary, name)
    elif kind == "pipe":
        os.mkfifo(name)
    elif kind == "folder link":
        name.symlink_to(canary.parent)


@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "pipe", "folder link"])
@pytest.mark.parametrize("mode", ["w", "a", "a+", "wb", "r+b"])
def test_no_file_is_opened_through_another_name(tmp_path: Path, kind: str, mode: str) -> None:
    canary = tmp_path / "out" / "canary"
    canary.parent.mkdir()
    canary.write_text("sings")
    lie(kind, tmp_path / "in" / "file", canary)
    with pytest.raises((InputError, FileNotFoundError), match=r"in/file"):
        open_own(tmp_path / "in" / "file", mode)
    assert canary.read_text() == "sings"
    assert os.listdir(canary.parent) == ["canary"]


def test_a_file_of_our_own_is_opened_as_open_does(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for mode, text in (("w", "ab"), ("a", "cd"), ("w", "x"), ("a+", "y")):
        with open_own(path, mode) as file:
            file.write(text)
    assert path.read_text() == "xy"
    with open_own(path, "r+b") as file:
        assert file.read() == b"xy"
        file.truncate(1)
    assert path.read_text() == "x"


@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "pipe", "folder link"])
@pytest.mark.parametrize("name", ["grows", "folder/deep/file"])
def test_what_leads_out_of_a_folder_is_found(tmp_path: Path, kind: str, name: str) -> None:
    canary, folder = tmp_path / "out" / "canary", tmp_path / "in"
    canary.parent.mkdir()
    canary.write_text("sings")
    lie(kind, folder / name, canary)
    lie("link", folder / "not ours", canary)
    with pytest.raises(InputError, match=rf"in/{name} (is a|has 2 names).*nothing was changed"):
        check_own_files(folder, ["missing", "grows", "folder"], ["grows", "folder"])
    check_own_files(folder, ["missing"], [])


def test_a_second_name_is_no_harm_where_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    os.link(tmp_path / "a", tmp_path / "b")
    check_own_files(tmp_path, ["a", "b"], [])
    with pytest.raises(InputError, match=r"b has 2 names \(hard links\)"):
        check_own_files(tmp_path, ["a", "b"], ["b"])


@pytest.mark.parametrize(
    ("content", "fits"),
    [(0, True), (1.0, True), (-0.1, False), (1e299, False), (True, False), (float("nan"), False)],
)
def test_a_number_is_bounded_by_its_meaning(content: Any, fits: bool) -> None:
    assert (schema_error({"p": content}, {"p": Between(0, 1)}) is None) is fits


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(20 * 10**9)  # sparse: it takes no room
    started = time.monotonic()
    with pytest.raises(InputError, match=r"20,000,000,000 bytes, expected at most 16,777,216"):
        read_json(path)
    assert time.monotonic() - started < 5


def test_room_and_memory_are_asked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 < free_memory() < 2**50
    check_room(1, tmp_path, "x")
    check_memory(1, "x")
    with pytest.raises(InputError, match=r"x takes 1,125,899.91 GB, and \d"):
        check_room(2**50, tmp_path, "x")
    monkeypatch.setattr(untrusted, "free_memory", lambda: 10**9)
    check_memory(8 * 10**8, "x")
    with pytest.raises(InputError, match=r"takes 0.95 GB of memory, and 1.00 GB are free"):
        check_memory(95 * 10**7, "x")


def recipe(tmp_path: Path, text: str, name: str = "theirs") -> str:
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    return str(path)


RESOLVERS = (
    "${oc.env:MY_SECRET}",
    "CC BY ${oc.env:MY_SECRET,}",
    "${oc.env:${recipe}}",
    "${oc.decode:${oc.env:MY_SECRET}}",
    "${oc.select:seed}",
    "${oc.create:{a:1}}",
    "${oc.dict.values:data}",
    "${oc.deprecated:seed}",
    "${ recipe }",
    "${.push}",
    "${..seed}",
    "${data[path]}",
    "${${recipe}}",
    "\\\\${recipe}",
    "${recipe",
    "${}",
)


@pytest.mark.parametrize("value", RESOLVERS)
def test_a_recipe_reads_nothing_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MY_SECRET", SECRET)
    escaped = value.replace("${", "\\x24{")  # YAML's own escapes say the same
    for text in (
        f'hub: {{data_licence: "{value}"}}',
        f'hub: {{data_licence: "{escaped}"}}',
        f'data: {{features: [a, "{value}"]}}',
        f'"{value}": 1',
        f'expectations: [{{epoch: "{value}"}}]',
    ):
        with pytest.raises(InputError) as refused:
            load_recipe(recipe(tmp_path, text))
        assert SECRET not in str(refused.value)
    for key in ("hub.data_licence", "output_dir", "data.features"):
        with pytest.raises(InputError) as refused:
            load_recipe("quickstart", [f'{key}="{value}"'])
        assert SECRET not in str(refused.value)


def test_a_resolver_can_not_be_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", SECRET)
    parts = "recipe: '{oc.env:MY_SECRET}'\nhub: {data_licence: '$${recipe}'}"
    with pytest.raises(InputError, match=r"hub\.data_licence is .* expected a text without"):
        load_recipe(recipe(tmp_path, parts))
    with pytest.raises(InputError, match="more than a plain reference"):
        load_recipe(recipe(tmp_path, "seed: 1", "${oc.env:MY_SECRET}"))


def test_plain_references_are_followed(tmp_path: Path) -> None:
    text = (
        "output_dir: runs/${recipe}-${seed}\nseed: 3\n"
        "model: {hidden_size: 64, intermediate_size: '${model.hidden_size}'}\n"
        "hub: {data_licence: 'see ${output_dir}'}"
    )
    config = load_recipe(recipe(tmp_path, text))
    assert config.output_dir == "runs/theirs-3"
    assert config.model.intermediate_size == 64
    assert config.hub.data_licence == "see runs/theirs-3"


TEXTS = (
    "recipe output_dir data.timestamp_column data.region_column data.precipitation_column "
    "data.path data.label_column data.oni_path hub.data_licence"
).split()


@pytest.mark.parametrize("width", [2, 3, 10, 100])
@pytest.mark.parametrize("depth", [2, 5, 8])
def test_references_can_not_be_doubled_into_a_bomb(width: int, depth: int) -> None:
    overrides = [
        f"{key}={('${' + TEXTS[i + 1] + '}') * width}" for i, key in enumerate(TEXTS[:depth])
    ]
    overrides.append(f"{TEXTS[depth]}={'x' * 20}")
    started = time.monotonic()
    if 20 * width**depth <= 4096:
        assert load_recipe("quickstart", overrides).recipe == "x" * (20 * width**depth)
    else:
        with pytest.raises(InputError, match=r"more than 4,096 characters when resolved"):
            load_recipe("quickstart", overrides)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("base", ["", "x"])
def test_references_to_nothing_multiply_no_work(base: str) -> None:
    """A hundred of each, eight deep: what they make is short, and each is made once."""
    overrides = [
        f"{key}={('${' + TEXTS[i + 1] + '}') * (100 if not base else 1)}"
        for i, key in enumerate(TEXTS[:8])
    ]
    overrides.append(f"{TEXTS[8]}='{base}'")
    started = time.monotonic()
    assert load_recipe("quickstart", overrides).recipe == base
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["recipe=${recipe}"], "refers to itself"),
        (["recipe=${data.path}", "data.path=${recipe}"], "refers to itself"),
        (["recipe=${data.features}", "data.features=[a]"], "refers to data.features"),
        (["recipe=${data}"], "refers to data, which is no key"),
        (["recipe=${no.such}"], "refers to no.such, which is no key"),
        (["recipe=" + "${oc.decode:" * 300 + "1" + "}" * 300], "more than a plain reference"),
        (["output_dir=" + "${recipe}" * 10_000], "more than 4,096 characters"),
    ],
)
def test_references_that_lead_nowhere_are_one_sentence(overrides: list[str], message: str) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match=message) as refused:
        load_recipe("quickstart", overrides)
    assert time.monotonic() - started < 2
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("text", "confirmed"),
    [
        ("hub: {push: true, repo_id: a/b}", ["hub.push=true", "hub.repo_id=a/b"]),
        ("hub: {repo_id: a/b}", ["hub.repo_id=me/mine"]),
        ("train: {mirror: 's3://bucket/x'}", ["train.mirror=s3://bucket/x"]),
        ("train: {mirror: 'simplecache::s3://b'}", ["train.mirror=null"]),
    ],
)
def test_a_recipe_by_path_sends_nothing_by_itself(
    tmp_path: Path, text: str, confirmed: list[str]
) -> None:
    path = recipe(tmp_path, text)
    for count in range(len(confirmed)):
        with pytest.raises(InputError, match=r"theirs\.yaml sets \w+\.\w+: .*to the command"):
            load_recipe(path, confirmed[:count])
    load_recipe(path, confirmed)
    named = [word.replace("me/mine", "me/${recipe}") for word in confirmed]
    load_recipe(path, named)  # a reference on the command line is a word of it, too


def test_a_mirror_in_a_folder_is_no_sending(tmp_path: Path) -> None:
    text = f"train: {{mirror: {tmp_path}/far}}"
    assert load_recipe(recipe(tmp_path, text)).train.mirror == f"{tmp_path}/far"
