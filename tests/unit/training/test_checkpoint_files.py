"""Checkpoints are whole or not there: what is damaged is named, what is old goes last."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timerxl.training.checkpoint import storage as checkpoint_files
from timerxl.training.checkpoint.storage import (
    StorageFailed,
    checkpoint_name,
    find_checkpoints,
    find_problem,
    fresh_folder,
    prune,
    publish,
    record_files,
)

SHARD = "optimizer-00000-of-00001.safetensors"
FILES = (SHARD, "model.safetensors", "rng-00000.safetensors", "trainer_state.json")


def save(root: Path, step: int, mark: str = "", after: Callable[[Path], object] = id) -> Path:
    """A small checkpoint by hand; ``after`` sees it between the record and the publication."""
    folder = root / checkpoint_name(step)
    fresh = fresh_folder(folder)
    fresh.mkdir(parents=True)
    for name in FILES:
        content = {"progress": {"step": step}, "step": step, "mark": f"{name} {mark}"}
        (fresh / name).write_text(json.dumps(content))
    records = record_files(fresh, list(FILES))
    after(fresh)
    publish(folder, step, records)
    return folder


def test_the_manifest_names_size_and_hash_of_every_file(tmp_path: Path) -> None:
    folder = save(tmp_path, 1200)
    assert folder.name == "step_00001200"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["step"] == 1200
    assert {path.name for path in folder.iterdir()} == {*FILES, "manifest.json"}
    expected = {}
    for name in FILES:
        content = (folder / name).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        expected[name] = {"size": len(content), "sha256": sha256}
    assert manifest["files"] == expected
    assert find_problem(folder) is None


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_the_disk_has_it_all_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        done.append(f"rename to {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    folder = save(tmp_path, 12)
    named = done.index(f"rename to {folder.name}")
    for name in (*FILES, "manifest.json", fresh_folder(folder).name):
        assert f"sync {name}" in done[:named], name
    assert f"sync {tmp_path.name}" in done[named:]


def test_newest_first_by_number_and_nothing_else(tmp_path: Path) -> None:
    assert find_checkpoints(tmp_path / "none") == []
    steps = [9, 100_000_000, 12, 99_999_999]
    for step in steps:
        save(tmp_path, step)
    for name in (".step_00000013.new", ".step_00000012.old", "step_13", "step_00000014.bak"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_00000015").write_text("no folder")
    found = find_checkpoints(tmp_path)
    assert [step for step, _ in found] == sorted(steps, reverse=True)
    assert all(path.name == checkpoint_name(step) for step, path in found)


def truncate(path: Path, count: int = 1) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def flip(path: Path, place: int = 11) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def of_another_run(path: Path) -> None:
    other = save(path.parent.parent / "other", 12, mark="of another run")
    shutil.copyfile(other / path.name, path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda f: truncate(f / SHARD), f"{SHARD} has .* bytes, expected"),
    "longer": (lambda f: (f / SHARD).open("a").write("x"), f"{SHARD} has .* bytes"),
    "flipped weights": (lambda f: flip(f / "model.safetensors"), "model.safetensors is damaged"),
    "flipped state": (lambda f: flip(f / "trainer_state.json"), "trainer_state.json is damaged"),
    "file missing": (lambda f: (f / FILES[2]).unlink(), f"{FILES[2]} can't be read"),
    "a folder": (lambda f: ((f / SHARD).unlink(), (f / SHARD).mkdir()), SHARD),
    "manifest missing": (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
    "manifest cut": (lambda f: truncate(f / "manifest.json", 5), "manifest.json can't be read"),
    "manifest empty": (lambda f: (f / "manifest.json").write_text("{}"), "manifest.json names no"),
    "another run": (lambda f: of_another_run(f / SHARD), f"{SHARD} (is damaged|has .* bytes)"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found_and_the_file_named(tmp_path: Path, case: str) -> None:
    spoil, words = DAMAGE[case]
    folder = save(tmp_path, 12, mark="of this  run.")  # as long as that of the other
    assert find_problem(folder) is None
    spoil(folder)
    problem = find_problem(folder)
    assert problem is not None
    assert re.match(words, problem), problem  # the folder is named by whoever passes it over


def test_a_folder_renamed_to_another_step(tmp_path: Path) -> None:
    folder = save(tmp_path, 12)
    moved = folder.rename(tmp_path / checkpoint_name(24))
    problem = find_problem(moved)
    assert problem is not None
    assert "step 12" in problem
    # A copy under a name that is no step's is what somebody put by: that is no damage.
    assert find_problem(moved.rename(tmp_path / "kept")) is None


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("sample"), 12)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_flipped_bit_is_found(sample: Path, data: Any) -> None:
    name = data.draw(st.sampled_from([*FILES, "manifest.json", "manifest.json"]))
    path = sample / name
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    try:
        path.write_bytes(changed)
        problem = find_problem(sample)
        if name != "manifest.json":
            assert problem is not None
            assert name in problem
        elif problem is None:  # a bit of the white space between two words: the same content
            assert json.loads(changed) == json.loads(content)
    finally:
        path.write_bytes(content)


def test_ranks_divide_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path, 12)
    read: list[str] = []
    record = checkpoint_files.file_record

    def noted(path: Path) -> dict[str, Any]:
        read.append(path.name)
        return record(path)

    monkeypatch.setattr(checkpoint_files, "file_record", noted)
    assert [find_problem(folder, rank, 3) for rank in range(3)] == [None] * 3
    assert sorted(read) == sorted(FILES)
    flip(folder / SHARD)
    found = [find_problem(folder, rank, 3) for rank in range(3)]
    assert [SHARD in (problem or "") for problem in found].count(True) == 1


@pytest.mark.parametrize("keep_last", [1, 2, 3])
def test_old_ones_go_only_behind_the_verified(tmp_path: Path, keep_last: int) -> None:
    for step in (6, 12, 18, 24):
        save(tmp_path, step)
    verified = tmp_path / checkpoint_name(18)
    assert prune(tmp_path, keep_last, tmp_path / checkpoint_name(19)) == []
    gone = prune(tmp_path, keep_last, verified)
    # 24 is newer than what was verified (its own check is still to come, or failed): it stays.
    expected = [24, 18, 12, 6][: keep_last + 1]
    assert [step for step, _ in find_checkpoints(tmp_path)] == expected
    assert sorted(path.name for path in gone) == [
        checkpoint_name(step) for step in (6, 12, 18, 24) if step not in expected
    ]


def test_what_may_be_damaged_is_not_counted_as_kept(tmp_path: Path) -> None:
    """Two are to be kept: the verified one and the newest that is known to be whole, not 12."""
    whole = [save(tmp_path, step) for step in (3, 6)]
    flip(save(tmp_path, 12) / SHARD)
    prune(tmp_path, 2, save(tmp_path, 18), whole)
    assert [step for step, _ in find_checkpoints(tmp_path)] == [18, 6]


def test_what_reads_back_wrong_is_not_published(tmp_path: Path) -> None:
    before = save(tmp_path, 6)
    with pytest.raises(StorageFailed, match=r"reads back wrong: model.safetensors"):
        save(tmp_path, 12, after=lambda fresh: flip(fresh / "model.safetensors"))
    assert find_checkpoints(tmp_path) == [(6, before)]
    with pytest.raises(StorageFailed, match="reads back wrong"):
        save(tmp_path, 6, mark="again", after=lambda fresh: truncate(fresh / SHARD))
    assert find_problem(before) is None
