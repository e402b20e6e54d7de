"""The upload, by the real client against a hub on this machine: one commit, or a clear sentence."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from hub_contents import Fault, File, Hub
from spoiled_runs import sums

from timerxl.config import InputError
from timerxl.hub.package import Package
from timerxl.hub.push import PushFailed, Target, environment
from timerxl.hub.push import push as push_package

TARGET = Target("ana/rain")


def push(package: Package, target: Target = TARGET, limit: float = 60.0) -> str:
    return push_package(package, target, "a message", limit).commit


def failed(package: Package, target: Target = TARGET, limit: float = 60.0) -> PushFailed:
    """Fails, leaving the package as it was and saying no token."""
    before = sums(package.folder)
    with pytest.raises(PushFailed) as caught:
        push(package, target, limit)
    assert sums(package.folder) == before
    assert (os.environ.get("HF_TOKEN") or "hf_none") not in str(caught.value)
    return caught.value


def contents(package: Package) -> dict[str, bytes]:
    return {name: (package.folder / name).read_bytes() for name in package.files}


@pytest.mark.slow
@pytest.mark.usefixtures("cold_upload")
def test_one_commit_with_these_very_files(hub: Hub, package: Package) -> None:
    done = push_package(package, TARGET, "Publish it")
    repository = hub.repositories["ana/rain"]
    assert [(oid, message) for oid, message, _ in repository.commits()] == [
        (done.commit, "Publish it")
    ]
    assert done.url == f"{hub.endpoint}/ana/rain/commit/{done.commit}"
    assert done.removed == done.notes == ()
    assert repository.files() == contents(package)
    assert not repository.private
    assert hub.calls("validate-yaml") == 1
    # Again: nothing is sent twice, and there is no empty commit.
    large = hub.calls("PUT /lfs/upload")
    assert push(package) == done.commit
    assert len(repository.commits()) == 1
    assert hub.calls("PUT /lfs/upload") == large == 1


@pytest.mark.slow
def test_a_private_repository(hub: Hub, package: Package) -> None:
    target = Target("ana/rain", private=True)
    push(package, target)
    repository = hub.repositories["ana/rain"]
    assert repository.private
    assert push(package, target) == repository.commits()[-1][0]
    repository.private = False
    error = failed(package, target)
    assert error.kind == "public"
    assert "--private would not change that" in str(error)


@pytest.mark.slow
def test_a_branch(hub: Hub, package: Package) -> None:
    push(package)
    target = Target("ana/rain", revision="try/two")
    push(package, target)
    push(package, target)
    repository = hub.repositories["ana/rain"]
    assert len(repository.commits("main")) == len(repository.commits("try/two")) == 1
    assert repository.files("try/two") == contents(package)


@pytest.mark.slow
def test_files_of_an_earlier_publication_go(hub: Hub, package: Package, tmp_path: Path) -> None:
    push(package)
    repository = hub.repositories["ana/rain"]
    theirs = repository.branches["main"][-1][2]
    repository.commit("main", "mine", theirs | {"LICENSE": File(b"mine", False)})
    fewer = Package(
        Path(shutil.copytree(package.folder, tmp_path / "fewer")),
        tuple(n for n in package.files if n not in ("results.json", "report/index.html")),
    )
    done = push_package(fewer, TARGET, "fewer")
    assert set(done.removed) == {"results.json", "report/index.html"}
    assert repository.files() == contents(fewer) | {"LICENSE": b"mine"}
    assert len(repository.commits()) == 3


@pytest.mark.slow
def test_what_a_gitignore_leaves_out_is_said(hub: Hub, package: Package) -> None:
    push(package)
    repository = hub.repositories["ana/rain"]
    repository.commit("main", "", {".gitignore": File(b"metrics.jsonl results.json", False)})
    error = failed(package)
    assert error.kind == "incomplete"
    assert "without metrics.jsonl, results.json" in str(error)


CREATE, COMMIT, UPLOAD = "POST /api/repos/create", "POST .*/commit/main", "PUT /lfs/upload"
BATCH, PREUPLOAD = "objects/batch", "POST .*/preupload"
NO, FULL = "You don't have the rights to write here", "Private repository storage limit reached"
GONE, SAFE = {"X-Error-Code": "RepoNotFound"}, "uploading 'model.safetensors'"
TRIPPED = "Your storage patterns tripped our internal systems!"
FAULTS: dict[str, tuple[Fault, str, list[str]]] = {
    "token refused": (Fault(CREATE, 401), "token", ["refuses the token (401)", "settings/tokens"]),
    "token expired midway": (Fault(COMMIT, 401, "expired"), "token", ["(401)"]),
    "no right to write": (Fault("POST /api", 403, NO), "rights", ["no right to write", NO]),
    "not found": (Fault(PREUPLOAD, 404, "", GONE), "repository", ["no such repository (404)"]),
    "quota": (Fault(COMMIT, 403, FULL, {"X-Error-Message": FULL}), "quota", ["no room", FULL]),
    "tripped": (Fault(BATCH, 403, TRIPPED), "quota", ["no room", "storage patterns"]),
    "too large": (Fault(UPLOAD, 413, "Payload Too Large"), "quota", ["model.safetensors", "413"]),
    "no space": (Fault(COMMIT, 507, "Insufficient Storage"), "quota", ["no room", "507"]),
    "payment": (Fault(CREATE, 402, "Payment required"), "quota", ["no room", "402"]),
    "server error at the start": (Fault(CREATE, 500, "oops"), "server", ["trouble (500)", "oops"]),
    "server error at the end": (Fault(COMMIT, 503, "busy"), "server", ["trouble (503)"]),
    "server error in the upload": (Fault(UPLOAD, 500), "server", ["model.safetensors", "(500)"]),
    "too many requests": (Fault(PREUPLOAD, 429, "slow down"), "busy", ["(429)"]),
    "no hub": (Fault(CREATE, 200, as_page=True), "server", ["not as a hub does"]),
    "died in the upload": (Fault(UPLOAD, after_bytes=4_000), "broken", [SAFE, "to", "broke"]),
    "died in the commit": (Fault(COMMIT, after_bytes=500), "broken", ["broke"]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", FAULTS)
def test_a_failure_is_said(case: str, hub: Hub, package: Package) -> None:
    fault, kind, named = FAULTS[case]
    hub.faults.append(fault)
    begun = time.monotonic()
    error = failed(package)
    assert (error.kind, time.monotonic() - begun < 30) == (kind, True), error
    for words in named:
        assert words in str(error)
    assert "Signature" not in str(error)
    assert len(hub.received) < 40
    assert all(repository.commits() == [] for repository in hub.repositories.values())
    if "died" in case or case == "server error at the end":
        # When that is mended, the same again does it; what arrived is not sent again.
        hub.faults.clear()
        push(package)
        assert hub.repositories["ana/rain"].files() == contents(package)
        assert len(hub.large) == 1


PASSING = {
    "create": (Fault(CREATE, 502, "bad gateway", times=2), CREATE, 3),
    "upload": (Fault(UPLOAD, after_bytes=4_000, times=2), UPLOAD, 3),
    "commit": (Fault(COMMIT, 500, times=1), COMMIT, 2),
    "busy": (Fault(PREUPLOAD, 503, "", {"Retry-After": "0"}, times=1), PREUPLOAD, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", PASSING)
def test_a_passing_fault_is_got_over(case: str, hub: Hub, package: Package) -> None:
    fault, call, times = PASSING[case]
    hub.faults.append(fault)
    push(package)
    assert hub.calls(call) == times
    assert len(hub.repositories["ana/rain"].commits()) == 1
    assert hub.repositories["ana/rain"].files() == contents(package)


@pytest.mark.slow
def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub: Hub, package: Package) -> None:
    hub.faults.append(Fault(COMMIT, done_first=True, times=1))
    commit = push(package)
    commits = hub.repositories["ana/rain"].commits()
    assert [oid for oid, _, _ in commits] == [commit]
    assert hub.repositories["ana/rain"].files() == contents(package)


@pytest.mark.slow
def test_a_slow_hub_is_waited_for_but_not_for_ever(hub: Hub, package: Package) -> None:
    hub.faults.append(Fault(UPLOAD, seconds=20.0))
    begun = time.monotonic()
    error = failed(package, limit=2.5)
    assert time.monotonic() - begun < 10
    assert error.kind == "timeout"
    assert "not done in 2 s" in str(error)
    hub.faults[:] = [Fault(UPLOAD, seconds=1.0, times=1)]
    push(package)
    assert hub.repositories["ana/rain"].files() == contents(package)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "kind", "words"),
    [
        ("HF_ENDPOINT", "http://127.0.0.1:9", "network", "http://127.0.0.1:9 can't be reached"),
        ("HF_TOKEN", "", "no token", "set HF_TOKEN"),
        ("HF_HUB_OFFLINE", "1", "offline", "unset it"),
    ],
)
def test_no_way_to_the_hub(
    hub: Hub,
    package: Package,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    kind: str,
    words: str,
) -> None:
    monkeypatch.setenv(variable, value)
    error = failed(package)
    assert error.kind == kind
    assert words in str(error)
    assert hub.received == []


@pytest.mark.slow
@pytest.mark.parametrize("where", [CREATE, UPLOAD, COMMIT, "validate-yaml"])
def test_what_a_server_says_is_cut_and_plain(hub: Hub, package: Package, where: str) -> None:
    """A million characters, colours, a forged line, tokens, addresses that are signed."""
    said = f"{hub.token} may not, nor hf_abcdefghij "
    said += "\x1b[2J\x1b]0;title\x07no\u202e \rerror: mine " + "http://a.b/?sig=1 " * 60_000
    hub.faults.append(Fault(where, 403, said))
    begun = time.monotonic()
    error = str(failed(package))
    assert time.monotonic() - begun < 20
    assert len(error) < 900
    assert error.isprintable()
    assert "sig=1" not in error
    assert "hf_" not in error


@pytest.mark.slow
@pytest.mark.usefixtures("cold_upload")
@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        (
            "os.write(2, b'no space left, hf_abcdefghij'); os._exit(7)",
            "other",
            "the upload ended with code 7: no space left, [token]",
        ),
        ("os.kill(os.getpid(), 15)", "signal", "the upload was ended from outside, by SIGTERM."),
        (
            "os.kill(os.getpid(), 9)",
            "signal",
            "the upload was ended from outside, by SIGKILL (is the memory full?).",
        ),
    ],
)
def test_an_upload_that_ends_otherwise(
    hub: Hub, package: Package, tmp_path: Path, end: str, kind: str, words: str
) -> None:
    fault = f"import os\nassert os.getsid(0) == os.getpid()\n{end}\n"
    (tmp_path / "fast" / "sitecustomize.py").write_text(fault)
    error = failed(package)
    assert (error.kind, str(error)) == (kind, words)


@pytest.mark.parametrize("name", ["rain", "a/b/c", "ana/", "ana/pe ru", "ana/-x", ""])
def test_a_wrong_name(name: str) -> None:
    with pytest.raises(InputError, match=f"repo id {name}"):
        Target(name)


@pytest.mark.parametrize("branch", ["", "a b", "a..b", "-x", "/x", "x/"])
def test_a_wrong_branch(branch: str) -> None:
    with pytest.raises(InputError, match="expected the name of a branch"):
        Target("ana/rain", revision=branch)


def test_what_to_run_later() -> None:
    target = Target("ana/rain", private=True, revision="v2")
    command = target.command(Path("my runs/x"), force=True, data_licence="CC BY")
    assert command == (
        "python launch/publish.py --run 'my runs/x' --repo-id ana/rain --private --revision v2 "
        "--data-licence 'CC BY' --force"
    )


def test_lfs_unless_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_XET", raising=False)
    assert environment()["HF_HUB_DISABLE_XET"] == "1"
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "0")
    assert environment()["HF_HUB_DISABLE_XET"] == "0"
