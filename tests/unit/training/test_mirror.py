"""Copies of a run in a second place: whole or not counted, never in the way, brought back."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from timerxl.config import InputError, RunConfig, load_recipe
from timerxl.training.checkpoint import mirror as module
from timerxl.training.checkpoint.mirror import Copy, Mirror, MirrorStore, open_mirror
from timerxl.training.checkpoint.storage import (
    StorageFailed,
    checkpoint_name,
    find_problem,
    fresh_folder,
    prune,
    publish,
    record_files,
)
from timerxl.training.processes.run_lock import RunLock
from timerxl.training.resume import RunEnded

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests"))
from mirror_store import SlowStore  # noqa: E402

FILES = {"model.safetensors": 20_000, "optimizer-00000-of-00001.safetensors": 40_000}


def save(run: Path, step: int) -> Path:
    """A checkpoint of random bytes, published as a run does."""
    folder = run / "checkpoints" / checkpoint_name(step)
    fresh = fresh_folder(folder)
    fresh.mkdir(parents=True)
    for name, size in FILES.items():
        (fresh / name).write_bytes(os.urandom(size))
    (fresh / "trainer_state.json").write_text(json.dumps({"step": step}))
    publish(folder, step, record_files(fresh, [*FILES, "trainer_state.json"]))
    return folder


def make_run(run: Path, *steps: int) -> Path:
    """A run's folder as far as a mirror reads it."""
    (run / "model").mkdir(parents=True)
    (run / "model" / "model.safetensors").write_bytes(os.urandom(30_000))
    (run / "tensorboard" / "deeper").mkdir(parents=True)
    (run / "tensorboard" / "deeper" / "events.out.1").write_bytes(b"event")
    (run / "config.yaml").write_text("seed: 0\n")
    (run / "metrics.jsonl").write_text('{"event": "start"}\n')
    (run / "status.json").write_text('{"code": 1, "reason": "running"}\n')
    (run / "run.lock").touch()
    for step in steps:
        save(run, step)
    return run


class Said(list[str]):
    def __call__(self, sentence: str) -> None:
        self.append(sentence)

    def about(self, words: str) -> list[str]:
        return [sentence for sentence in self if words in sentence]


def opened(run: Path, url: Any, said: Said | None = None, **train: Any) -> Mirror:
    """As a run's main process opens it, before anything else."""
    mirror = open_mirror(config_of(run, url, **train), Said() if said is None else said)
    assert mirror is not None
    return mirror


def config_of(run: Path, url: Any, **train: Any) -> RunConfig:
    given = [f"train.{key}={value}" for key, value in train.items()]
    return load_recipe("quickstart", [f"output_dir={run}", f"train.mirror={url}", *given])


def settle(mirror: Mirror) -> None:
    """Wait until what was taken is copied, or given up."""
    until = time.monotonic() + 30
    while mirror._waiting is not None or list((mirror.output_dir / ".mirror").glob("copy-*")):
        assert time.monotonic() < until
        time.sleep(0.005)


def contents(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*")
             if p.is_file()}  # fmt: skip
    return {k: v for k, v in found.items() if not k.startswith((".mirror", "run.lock"))}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """A storage that can't rename, and notes what is done to it."""
    SlowStore.done.clear()
    yield f"slow://{tmp_path / 'far'}"
    SlowStore.done.clear()


@pytest.mark.parametrize("kind", ["folder", "relative", "memory", "slow"])
def test_there_and_back(
    tmp_path: Path, kind: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    far = {"folder": tmp_path / "far", "relative": "far", "slow": store}
    url = far.get(kind, f"memory://{tmp_path.name}/far")
    run = make_run(tmp_path / "run", 7, 14)
    before = contents(run)
    mirror = opened(run, url)
    mirror.start()
    mirror.take()
    (run / "status.json").write_text('{"code": 0, "reason": "finished"}\n')
    (run / "forecasts.parquet").write_bytes(b"PAR1")
    mirror.end(patient=True)
    kept = before | contents(run)
    shutil.rmtree(run)
    said = Said()
    opened(run, url, said)
    older = {name for name in kept if name.startswith("checkpoints/step_00000007")}
    assert contents(run) == {name: kept[name] for name in kept.keys() - older}
    assert find_problem(run / "checkpoints" / checkpoint_name(14)) is None
    assert said.about("bringing the run after step 14")
    assert not list(tmp_path.glob(".run*"))


def test_the_manifest_is_marked_first_and_written_last(tmp_path: Path, store: str) -> None:
    run = make_run(tmp_path / "run", 7)
    mirror = opened(run, store)
    mirror.start()
    seen = []
    for step in (7, 14, 21, 28):
        if step > 7:
            save(run, step)
            prune(run / "checkpoints", 1, run / "checkpoints" / checkpoint_name(step))
        del SlowStore.done[:]
        mirror.take()
        settle(mirror)
        slots = {path.split("/far/")[1].split("/")[0] for _, path in SlowStore.done}
        assert len(slots) == 1  # the other slot is left alone
        names = [path.split("/slot-")[1][2:] for _, path in SlowStore.done]
        assert names[0] == names[-1] == "manifest.json"
        assert "manifest.json" not in names[1:-1]
        assert {what for what, _ in SlowStore.done} == {"write"}  # nothing for the trash
        seen.append((slots.pop(), "model/model.safetensors" in names))
    # The best model did not change: this process sends it once to each slot.
    assert seen == [("slot-0", True), ("slot-1", True), ("slot-0", False), ("slot-1", False)]
    mirror.end(patient=True)
    assert sorted(os.listdir(tmp_path / "far")) == ["README.txt", "slot-0", "slot-1"]


def test_what_a_slot_has_no_use_for_goes_after_the_manifest(tmp_path: Path, store: str) -> None:
    run = make_run(tmp_path / "run", 7)
    left = tmp_path / "far" / "slot-0" / "checkpoint" / "optimizer-00001-of-00002.safetensors"
    left.parent.mkdir(parents=True)
    left.touch()
    mirror = opened(run, store)
    mirror.start()
    mirror.take()
    settle(mirror)
    assert not left.exists()
    assert SlowStore.done[-2:] == [
        ("write", str(tmp_path / "far/slot-0/manifest.json")),
        ("delete", str(left)),
    ]


def test_taking_returns_at_once_and_only_the_newest_waits(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that needs seconds for a copy, checkpoints that come and are pruned meanwhile."""
    monkeypatch.setenv("MIRROR_SECONDS", "0.05")
    run = make_run(tmp_path / "run")
    mirror, said = opened(run, store, said := Said()), said
    mirror.start()
    seconds = []
    for step in range(1, 9):
        checkpoint = save(run, step)
        prune(run / "checkpoints", 1, checkpoint)
        started = time.perf_counter()
        mirror.take()
        seconds.append(time.perf_counter() - started)
        if step == 1:
            while not SlowStore.done[1:]:  # the first one is under way
                time.sleep(0.001)
    assert max(seconds) < 0.05, seconds
    assert len(list((run / ".mirror").glob("copy-*"))) == 2  # under way, and waiting
    settle(mirror)
    manifests = [p.split("/far/")[1] for _, p in SlowStore.done if p.endswith("manifest.json")]
    own = [path for path in manifests if "checkpoint" not in path]
    assert own == ["slot-0/manifest.json"] * 2 + ["slot-1/manifest.json"] * 2
    steps = {copy.slot: copy.step for copy in MirrorStore(store).copies()}
    assert steps == {0: 1, 1: 8}
    assert not said.about("warning")
    shutil.rmtree(run)
    opened(run, store)
    assert find_problem(run / "checkpoints" / checkpoint_name(8)) is None


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run = make_run(tmp_path / "run", 7)
    mirror = opened(run, tmp_path / "far")
    mirror.start()
    mirror.take()
    shutil.rmtree(run / "checkpoints")
    settle(mirror)
    assert [copy.step for copy in MirrorStore(str(tmp_path / "far")).copies()] == [7]


def test_curves_are_cut_where_they_stood(tmp_path: Path, store: str) -> None:
    run = make_run(tmp_path / "run", 7)
    before = (run / "metrics.jsonl").read_bytes()
    mirror = opened(run, store)
    mirror.start()
    with mirror._changed:  # the thread waits
        mirror.take()
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"event": "train", "st')
    settle(mirror)
    assert (tmp_path / "far" / "slot-0" / "metrics.jsonl").read_bytes() == before


def test_errors_are_said_once_and_do_not_count(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said = make_run(tmp_path / "run", 7), Said()
    mirror = opened(run, store, said)
    mirror.start()
    mirror.take()
    settle(mirror)
    for step in (14, 21):
        monkeypatch.setenv("MIRROR_ROOM", "10000")
        save(run, step)
        mirror.take()
        settle(mirror)
    (warning,) = said.about("warning")
    assert "No space left on device. The run goes on" in warning
    assert [c.step for c in MirrorStore(store).copies() if c.files is not None] == [7]
    monkeypatch.delenv("MIRROR_ROOM")
    save(run, 28)
    mirror.take()
    settle(mirror)
    assert said[-1].startswith("mirror: reached again, step 28 is at")
    assert [c.step for c in MirrorStore(store).copies() if c.files is not None] == [28, 7]
    monkeypatch.setenv("MIRROR_ROOM", "10000")
    save(run, 35)
    mirror.end(patient=True)
    assert "holds the run after step 28, not its end: OSError: No space" in said[-1]
    assert not list((run / ".mirror").glob("copy-*"))


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "manifest"])
def test_a_damaged_copy_is_not_used(tmp_path: Path, damage: str, store: str) -> None:
    run, said = make_run(tmp_path / "run", 7), Said()
    mirror = opened(run, store)
    mirror.start()
    mirror.take()
    settle(mirror)
    save(run, 14)
    mirror.take()
    settle(mirror)
    kept = contents(run)
    newest = tmp_path / "far" / "slot-1"
    file = newest / ("manifest.json" if damage == "manifest" else "checkpoint/model.safetensors")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content if damage == "flipped" else content[:1000])
    if damage == "gone":
        file.unlink()
    shutil.rmtree(run)
    again = opened(run, store, said)
    words = {"flipped": "model.safetensors is damaged", "short": "has 1,000 bytes, expected 20,000",
             "gone": "model.safetensors can't be read: FileNotFoundError"}  # fmt: skip
    assert damage == "manifest" or words[damage] in said.about("step 14 is not used")[0]
    at_seven = {name: kept[name] for name in kept if "step_00000014" not in name}
    assert contents(run) == at_seven
    # The next copy takes the damaged one's place, not that of the last good one.
    save(run, 15)
    again.start()
    again.take()
    settle(again)
    assert {copy.slot: copy.step for copy in MirrorStore(store).copies()} == {0: 7, 1: 15}


def test_nothing_but_damaged_copies(tmp_path: Path) -> None:
    """Trained over nothing: the folder stays empty, and it is said what to do."""
    run = make_run(tmp_path / "run", 7)
    mirror = opened(run, tmp_path / "far")
    mirror.start()
    mirror.end(patient=True)
    (tmp_path / "far" / "slot-0" / "model" / "model.safetensors").write_bytes(b"")
    shutil.rmtree(run)
    with pytest.raises(StorageFailed, match=r"no whole copy .* has 0 bytes, expected 30,000"):
        opened(run, tmp_path / "far")
    assert [path.name for path in run.iterdir()] == ["run.lock"]
    assert not list(tmp_path.glob(".run*"))
    opened(run, tmp_path / "far", resume="never")


@pytest.mark.parametrize(
    "name", ["../out", "/tmp/out", "model/../../out", "run.lock", "model//x", "checkpoint/\0"]
)
def test_a_manifest_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    place = MirrorStore(str(tmp_path / "far"))
    record = {"size": 0, "sha256": "e3b0"}
    copy = Copy(0, "a", "b", 1, 7, "now", {"config.yaml": record, name: record})
    path = place.path("slot-0", "manifest.json")
    place.write(path, iter([copy.to_json()]))
    assert place.copies() == []
    assert copy.files is not None
    copy.files.pop(name)
    place.write(path, iter([copy.to_json()]))
    assert place.copies() == [copy]


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b'{"format": 2}', b"\xff", b"null"])
def test_a_manifest_that_is_none(tmp_path: Path, content: bytes) -> None:
    place = MirrorStore(str(tmp_path / "far"))
    place.write(place.path("slot-1", "manifest.json"), iter([content]))
    assert place.copies() == []


def test_an_unfinished_slot_is_written_again(tmp_path: Path, store: str) -> None:
    """Cut off before its manifest: the whole one is kept, and what is there is not trusted."""
    run = make_run(tmp_path / "run", 7)
    mirror = opened(run, store)
    mirror.start()
    mirror.take()
    settle(mirror)
    save(run, 14)
    mirror.take()
    settle(mirror)
    place = MirrorStore(store)
    newest = place.copies()[0]
    place.write(place.path("slot-1", "manifest.json"),
                iter([module.replace(newest, files=None).to_json()]))  # fmt: skip
    shutil.rmtree(run)
    again = opened(run, store)
    assert (run / "checkpoints" / checkpoint_name(7)).is_dir()
    again.start()
    save(run, 14)
    del SlowStore.done[:]
    again.take()
    settle(again)
    assert all("/slot-1/" in path for _, path in SlowStore.done)
    copies = place.copies()
    assert [(copy.slot, copy.step, copy.number) for copy in copies] == [(1, 14, 3), (0, 7, 1)]


@pytest.mark.parametrize("gone", ["far", "far/slot-0", "far/slot-1"])
def test_a_mirror_that_is_emptied_meanwhile(tmp_path: Path, gone: str, store: str) -> None:
    """What this process put there before is sent again."""
    run = make_run(tmp_path / "run", 7)
    mirror = opened(run, store)
    mirror.start()
    for step in (7, 14):
        if step == 14:
            save(run, step)
        mirror.take()
        settle(mirror)
    shutil.rmtree(tmp_path / gone)
    mirror.end(patient=True)
    kept = contents(run)
    shutil.rmtree(run)
    opened(run, store)
    newest = {name: kept[name] for name in kept if "step_00000007" not in name}
    assert contents(run) == newest


def test_a_new_run_takes_an_old_ones_place(tmp_path: Path) -> None:
    """Newest is what was written last, also where it is of a lower step."""
    far, run, said = tmp_path / "far", make_run(tmp_path / "run"), Said()
    old = opened(run, far)
    old.start()
    for step in (700, 800):
        save(run, step)
        old.take()
        settle(old)
    run.rename(tmp_path / "run.1")
    assert not said
    new = opened(run, far, said, resume="never")
    assert not run.exists()
    make_run(run, 7)
    new.start()
    assert "holds another run (step 800, 20" in said[-1]
    new.take()
    settle(new)
    shutil.rmtree(run)
    opened(run, far)
    assert (run / "checkpoints" / checkpoint_name(7)).is_dir()
    # Damaged, it is not replaced by the copy of another run.
    (far / "slot-0" / "config.yaml").write_text("seed: 1\n")
    shutil.rmtree(run)
    with pytest.raises(StorageFailed, match=r"step 7 is not used: config\.yaml is damaged"):
        opened(run, far)


def test_a_run_that_is_there_is_not_touched(tmp_path: Path) -> None:
    far, run = tmp_path / "far", make_run(tmp_path / "run", 7)
    mirror = opened(run, far)
    mirror.start()
    mirror.end(patient=True)
    other = make_run(tmp_path / "other", 14)
    before, said = contents(other), Said()
    opened(other, far, said)
    assert contents(other) == before
    assert not said


def test_files_of_no_run_are_not_touched(tmp_path: Path) -> None:
    far, run = tmp_path / "far", make_run(tmp_path / "run", 7)
    mirror = opened(run, far)
    mirror.start()
    mirror.end(patient=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    opened(other, far)
    assert contents(other) == {"thesis.txt": b"mine"}


def test_two_processes_on_one_mirror(tmp_path: Path, store: str) -> None:
    """The one that began first sees the other's copy, and leaves the mirror to it."""
    said = Said()
    first = opened(make_run(tmp_path / "one", 7), store, said)
    first.start()
    first.take()
    settle(first)
    second = opened(make_run(tmp_path / "two", 3), store)
    second.start()
    second.take()
    settle(second)
    save(tmp_path / "one", 14)
    del SlowStore.done[:]
    first.take()
    settle(first)
    assert "another process writes to" in said[-1]
    assert "(step 3, 20" in said[-1]
    assert SlowStore.done == []
    first.end(patient=True)
    assert "another process writes to" in said[-1]


def test_the_folder_is_filled_by_one_process(tmp_path: Path) -> None:
    far, run = tmp_path / "far", make_run(tmp_path / "run", 7)
    mirror = opened(run, far)
    mirror.start()
    mirror.end(patient=True)
    shutil.rmtree(run)
    run.mkdir()
    lock = RunLock(run)
    lock.acquire()
    with pytest.raises(InputError, match="is in use by process"):
        opened(run, far)
    lock.release()
    opened(run, far)
    assert (run / "config.yaml").exists()


def test_other_ranks_wait_for_the_main_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far, run = tmp_path / "far", make_run(tmp_path / "run", 7)
    config = config_of(run, far)
    waiting = threading.Thread(target=open_mirror, args=(config, print))
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        patch.setenv("WORLD_SIZE", "2")
        assert open_mirror(config, print) is None  # a run is there
        shutil.move(run, tmp_path / "elsewhere")
        assert open_mirror(config, print) is None  # there is nothing to wait for
        mirror = Mirror(MirrorStore(str(far)), tmp_path / "elsewhere", print, [])
        mirror.start()
        mirror.end(patient=True)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
    opened(run, far)
    waiting.join(5)
    assert not waiting.is_alive()


def test_other_ranks_do_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines without shared storage go on to where the folder is compared."""
    far, run = tmp_path / "far", make_run(tmp_path / "run", 7)
    mirror = opened(run, far)
    mirror.start()
    mirror.end(patient=True)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(module, "FILL_SECONDS", 0.3)
    assert open_mirror(config_of(tmp_path / "here", far), print) is None


@pytest.mark.parametrize("patient", [True, False])
def test_the_end_waits_only_so_long(
    tmp_path: Path, store: str, patient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without patience a moment; with it, while bytes flow."""
    run, said = make_run(tmp_path / "run", 7), Said()
    mirror = opened(run, store, said)
    mirror.start()
    monkeypatch.setenv("MIRROR_SECONDS", "0.1")
    monkeypatch.setattr(module, "HURRY_SECONDS", 0.3)
    monkeypatch.setattr(module, "END_SECONDS", 0.3)
    monkeypatch.setattr(module, "STALL_SECONDS", 0.25)
    started = time.monotonic()
    mirror.end(patient)
    took = time.monotonic() - started
    if patient:
        assert took > 0.8  # eleven files and manifests
        assert said[-1] == f"mirror: {store} holds the end of this run (step 7)."
    else:
        assert took < 0.7
        assert "holds nothing of this run, not its end: it was not there after 0 s" in said[-1]
    assert not list((run / ".mirror").glob("copy-*"))


def test_a_stalled_mirror_is_not_waited_for(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said = make_run(tmp_path / "run", 7), Said()
    mirror = opened(run, store, said)
    mirror.start()
    monkeypatch.setenv("MIRROR_SECONDS", "3")
    monkeypatch.setattr(module, "END_SECONDS", 0.4)
    monkeypatch.setattr(module, "STALL_SECONDS", 0.2)
    started = time.monotonic()
    mirror.end(patient=True)
    assert time.monotonic() - started < 1.5
    assert "holds nothing of this run" in said[-1]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nowhere://x", "Protocol not known: nowhere"),
        ("gs://bucket/run", "Please install gcsfs"),
        ("https://user:word@example.org/x", "holds a user name or a password"),
        ("simplecache::ftp://token@example.org/x", "holds a user name or a password"),
        ("RUN/mirror", "lie in each other"),
        ("RUN", "lie in each other"),
        ("RUN/..", "lie in each other"),
        ("FILE/mirror", "can't be read and written: NotADirectoryError: Not a directory"),
    ],
)
def test_what_can_not_be_a_mirror_is_refused(tmp_path: Path, url: str, words: str) -> None:
    if url.startswith("gs") and "gcsfs" in sys.modules:
        pytest.skip("gcsfs is installed")
    (tmp_path / "file").touch()
    run = tmp_path / "run"
    given = url.replace("RUN", str(run)).replace("FILE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=words) as refused:
        opened(run, given)
    assert "word" not in str(refused.value).replace("password", "")
    assert not run.exists()


def test_a_run_that_goes_on_is_not_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mirror is gone at the start: said, and used again when it is back."""
    run, said, far = make_run(tmp_path / "run", 7), Said(), tmp_path / "disk" / "far"
    far.parent.touch()  # a file, where the disk is mounted else
    mirror = opened(run, far, said)
    mirror.start()
    assert "can't be used now: NotADirectoryError" in said[-1]
    mirror.take()
    settle(mirror)
    far.parent.unlink()
    mirror.take()
    settle(mirror)
    assert "reached again, step 7" in said[-1]
    assert fsspec.filesystem("file").exists(str(far / "slot-0" / "manifest.json"))


@pytest.mark.slow
def test_whole_runs(tmp_path: Path, train_tiny: Any, capsys: Any) -> None:
    """A finished run comes back finished; train.resume=never begins anew, and takes its place."""
    run, far = tmp_path / "run", f"memory://{tmp_path.name}/runs"
    short = (f"train.mirror={far}", "train.max_steps=8", "train.checkpoint_every_steps=3")
    train_tiny(run, *short)
    assert f"mirror: {far} holds the end of this run (step 8)." in capsys.readouterr().out
    before = contents(run)
    shutil.rmtree(run)
    with pytest.raises(RunEnded) as ended:
        train_tiny(run, *short)
    assert ended.value.code == 0
    assert contents(run).items() <= before.items()
    assert {"results.json", "forecasts.parquet", "model/model.safetensors"} <= contents(run).keys()
    old = {copy.run for copy in MirrorStore(far).copies()}
    assert len(old) == 1
    shutil.rmtree(run)
    capsys.readouterr()
    train_tiny(run, *short, "train.resume=never", "seed=1")
    said = capsys.readouterr().out
    assert "holds another run (step 8" in said
    assert "bringing" not in said
    new = {copy.run for copy in MirrorStore(far).copies()[:1]}
    assert not new & old
    # With other settings it is another experiment, as with any run's folder.
    shutil.rmtree(run)
    with pytest.raises(InputError, match="seed was 1, is 2"):
        train_tiny(run, *short, "seed=2")


def test_copies_beside_a_run(tmp_path: Path, train_tiny: Any, store: str) -> None:
    """One moment per checkpoint, its evaluation included, and the end; none is taken twice."""
    taken = []
    take = Mirror.take

    def noted(self: Mirror, is_final: bool = False) -> None:
        status = json.loads((self.output_dir / "status.json").read_text())
        taken.append((len(self.place.copies()), status["reason"], is_final))
        take(self, is_final)
        settle(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mirror, "take", noted)
        run = tmp_path / "run"
        given = (f"train.mirror={store}", "train.checkpoint_every_steps=5", "train.keep_last=1")
        train_tiny(run, *given, "train.max_steps=15")
    # 12 steps an epoch: before the first step there is nothing, then checkpoints at 5, 10, 12, 15.
    assert taken == [
        *[(number, "running", False) for number in (0, 0, 1, 2, 2)],
        (2, "finished", True),
    ]
    numbers = [(copy.number, copy.step) for copy in MirrorStore(store).copies()]
    assert numbers == [(5, 15), (4, 15)]
    assert contents(tmp_path / "far" / "slot-0")["status.json"] == contents(run)["status.json"]
