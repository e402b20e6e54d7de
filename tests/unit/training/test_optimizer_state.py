"""AdamW's state by name and in pieces, against torch's own optimizer.state_dict()."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from timerxl.config import OptimConfig
from timerxl.model import TimerXLConfig, TimerXLForClassification
from timerxl.training.assembly import build_optimizer, build_schedule
from timerxl.training.checkpoint.optimizer_state import OptimizerState, SavedState
from timerxl.training.checkpoint.storage import StorageFailed

PATTERN = "optimizer-*.safetensors"
SETTINGS = TimerXLConfig(
    patch_length=4,
    context_length=8,
    num_variables=3,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    pooling="last",
    variable_embedding=True,
)


class Training:
    """The real model with the real parameter groups; ``frozen`` and ``unused`` by part of name."""

    def __init__(self, decay: float = 1.0, frozen: str = "", unused: str = "", seed: int = 0):
        torch.manual_seed(seed)
        self.model = TimerXLForClassification(SETTINGS)
        self.unused = unused
        for name, parameter in self.model.named_parameters():
            if frozen and frozen in name:
                parameter.requires_grad_(False)
        config = OptimConfig(lr=1e-2, layer_lr_decay=decay)
        self.optimizer = build_optimizer(self.model, config)
        self.schedule = build_schedule(self.optimizer, config, total_steps=10)

    def steps(self, first: int, last: int) -> None:
        for number in range(first, last):
            x = torch.randn(6, 8, 3, generator=torch.Generator().manual_seed(number))
            loss = self.model(past_values=x, labels=torch.tensor([0, 1] * 3)).loss
            self.optimizer.zero_grad()
            loss.backward()
            for name, parameter in self.model.named_parameters():
                if self.unused and self.unused in name:
                    parameter.grad = None  # as of a part of the model that was not used yet
            self.optimizer.step()

    def weights(self) -> dict[str, torch.Tensor]:
        return {key: value.detach().clone() for key, value in self.model.state_dict().items()}

    def by_name(self) -> dict[str, dict[str, torch.Tensor]]:
        """torch's own state_dict(), its running numbers turned into names."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        order = [names[id(p)] for g in self.optimizer.param_groups for p in g["params"]]
        return {order[i]: one for i, one in self.optimizer.state_dict()["state"].items()}

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "optimizer-00000-of-00001.safetensors"
        OptimizerState(self.optimizer, self.model).write(path)
        return path

    def read(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(weights)
        OptimizerState(self.optimizer, self.model).read(SavedState(folder, PATTERN), weights)


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        assert found[name].keys() == one.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for kind, tensor in one.items():
            assert torch.equal(found[name][kind], tensor), (name, kind)
            assert found[name][kind].dtype == tensor.dtype == torch.float32


CASES = {
    "plain": {},
    "layer_lr_decay": {"decay": 0.7},
    "frozen": {"frozen": "layers.0"},
    "no gradient yet": {"unused": "classifier"},
    "all of it": {"decay": 0.5, "frozen": "embedding", "unused": "layers.1"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_new_optimizer_goes_on_as_the_old_one(tmp_path: Path, case: str) -> None:
    old = Training(**CASES[case])
    old.steps(0, 3)
    path, weights, expected = old.write(tmp_path), old.weights(), old.by_name()
    spoken_of = {name for name, p in old.model.named_parameters() if p.requires_grad}
    unused = CASES[case].get("unused")
    spoken_of -= {name for name in spoken_of if unused and str(unused) in name}
    assert expected.keys() == spoken_of
    # The file holds what torch's own state holds, by name and flat.
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {f"{k}/{name}" for name in expected for k in expected[name]}
        for name, one in expected.items():
            for kind, tensor in one.items():
                assert torch.equal(file.get_tensor(f"{kind}/{name}"), tensor.reshape(-1))

    new = Training(**CASES[case], seed=1)
    new.read(tmp_path, weights)
    assert_same(new.by_name(), expected)
    new.unused = old.unused = ""  # what had no gradient gets its first one now
    for one in (old, new):
        one.steps(3, 5)
    for name, tensor in old.weights().items():
        assert torch.equal(new.weights()[name], tensor), name
    assert_same(new.by_name(), old.by_name())


def test_state_follows_the_name_not_the_place(tmp_path: Path) -> None:
    """Other groups give other running numbers, by which torch's own load would mix things up."""
    old, new = Training(decay=1.0), Training(decay=0.5, seed=1)
    old.steps(0, 2)
    old.write(tmp_path)
    new.read(tmp_path, old.weights())
    assert_same(new.by_name(), old.by_name())
    rates = [group["lr"] for group in new.optimizer.param_groups]
    assert len(set(rates)) > 2  # its own groups and rates stay


def test_earlier_state_of_what_had_none_is_not_kept(tmp_path: Path) -> None:
    """A parameter without state in the checkpoint has none afterwards either."""
    old = Training(unused="classifier")
    old.steps(0, 2)
    old.write(tmp_path)
    new = Training(seed=1)
    new.steps(0, 1)
    new.read(tmp_path, old.weights())
    assert_same(new.by_name(), old.by_name())


def write_shards(
    folder: Path, values: dict[str, torch.Tensor], shards: list[dict[str, tuple[int, int]]]
) -> None:
    """Hand-made files: of every ``KIND/NAME`` in ``values`` the [start, end) that a shard owns."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, owned in enumerate(shards):
        tensors = {
            key: flat[slice(*owned[name])].clone() if kind != "step" else flat.clone()
            for key, flat in values.items()
            for kind, _, name in [key.partition("/")]
            if name in owned
        }
        ranges = {name: [start, end - start] for name, (start, end) in owned.items()}
        path = folder / f"optimizer-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, path, {"ranges": json.dumps(ranges)})


def cut(sizes: dict[str, int], marks: list[int]) -> list[dict[str, tuple[int, int]]]:
    """Parameters laid end to end and cut at ``marks``, as ZeRO does: what each rank owns."""
    edges = [0, *sorted(marks), sum(sizes.values())]
    shards: list[dict[str, tuple[int, int]]] = [{} for _ in edges[1:]]
    begin = 0
    for name, size in sizes.items():
        for owned, low, high in zip(shards, edges[:-1], edges[1:], strict=True):
            start, end = max(low - begin, 0), min(high - begin, size)
            if start < end:
                owned[name] = (start, end)
        begin += size
    return shards


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_what_several_ranks_wrote_reads_back_whole(tmp_path: Path, ranks: int) -> None:
    """Cut where it falls, inside of parameters; read by one process without ZeRO."""
    old = Training()
    old.steps(0, 3)
    expected = old.by_name()
    values = {
        f"{kind}/{name}": tensor.reshape(-1)
        for name, one in expected.items()
        for kind, tensor in one.items()
    }
    sizes = {name: one["exp_avg"].numel() for name, one in expected.items()}
    total = sum(sizes.values())
    shards = cut(sizes, [total * rank // ranks for rank in range(1, ranks)])
    inside = [name for owned in shards for name, (a, b) in owned.items() if b - a < sizes[name]]
    assert bool(inside) == (ranks > 1)
    write_shards(tmp_path, values, shards)
    new = Training(seed=1)
    new.read(tmp_path, old.weights())
    assert_same(new.by_name(), expected)


def test_master_copies_win_over_half_weights(tmp_path: Path) -> None:
    """From half-precision ZeRO to a run without it: the fp32 weights are the optimizer's."""
    old = Training()
    old.steps(0, 1)
    exact = old.weights()
    values = {f"master/{name}": exact[name].reshape(-1) for name, _ in old.model.named_parameters()}
    sizes = {key.partition("/")[2]: tensor.numel() for key, tensor in values.items()}
    write_shards(tmp_path, values, cut(sizes, [100, 333]))
    half = {name: tensor.bfloat16().float() for name, tensor in exact.items()}
    assert any(not torch.equal(half[name], exact[name]) for name in exact)
    new = Training(seed=1)
    new.read(tmp_path, half)
    for name, tensor in exact.items():
        assert torch.equal(new.weights()[name], tensor), name


sizes_and_marks = st.lists(st.integers(1, 9), min_size=1, max_size=4).flatmap(
    lambda sizes: st.tuples(
        st.just({f"p{i}": size for i, size in enumerate(sizes)}),
        st.lists(st.integers(0, sum(sizes)), max_size=4),
    )
)


@given(sizes_and_marks, st.data())
@settings(max_examples=60, deadline=None)
def test_any_pieces_give_any_range(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[dict[str, int], list[int]], data: Any
) -> None:
    sizes, marks = made
    folder = tmp_path_factory.mktemp("shards")
    values = {f"exp_avg/{name}": torch.rand(size) for name, size in sizes.items()}
    write_shards(folder, values, cut(sizes, marks))
    saved = SavedState(folder, PATTERN)
    for name, size in sizes.items():
        start = data.draw(st.integers(0, size), label=f"start of {name}")
        numel = data.draw(st.integers(0, size - start), label="numel")
        found = saved.read("exp_avg", name, start, numel)
        assert found is not None
        assert torch.equal(found, values[f"exp_avg/{name}"][start : start + numel])
    assert saved.read("exp_avg", "another", 0, 1) is None
    assert saved.read("exp_avg_sq", "p0", 0, 1) is None


@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=5),
    st.sampled_from(["missing", "double", "one missing and one double", "overlap"]),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_missing_or_double_pieces_are_refused(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], fault: str, data: Any
) -> None:
    """Also where as many elements are there twice as are missing."""
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    shards = [{"p": (end - length, end)} for end, length in zip(ends, lengths, strict=True)]
    bad = data.draw(st.integers(0, len(shards) - 1), label="bad shard")
    other = (bad + 1) % len(shards)
    if fault == "missing":
        shards[bad] = {}
    elif fault == "double":
        shards.append(shards[bad])
    elif fault == "overlap":
        shards[other] = {"p": (0, ends[-1])}
    else:
        width = min(lengths[bad], lengths[other])
        low, start = shards[other]["p"][0], shards[bad]["p"][0]
        shards[bad] = {"p": (low, low + width)}
        if lengths[bad] > width:
            shards.append({"p": (start + width, start + lengths[bad])})
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, {"exp_avg/p": torch.rand(ends[-1])}, shards)
    with pytest.raises(StorageFailed):
        SavedState(folder, PATTERN).read("exp_avg", "p", 0, ends[-1])


def test_a_missing_shard_that_holds_whole_parameters(tmp_path: Path) -> None:
    """Nothing of such a parameter is left that could be counted: it must not start anew."""
    sizes = {"a": 4, "b": 4}
    values = {f"{k}/{n}": torch.rand(4) for k in ("exp_avg", "exp_avg_sq") for n in sizes}
    write_shards(tmp_path, values, cut(sizes, [4]))
    (tmp_path / "optimizer-00001-of-00002.safetensors").unlink()
    with pytest.raises(StorageFailed):
        SavedState(tmp_path, PATTERN).read("exp_avg", "b", 0, 4)


@pytest.mark.parametrize("kind", ["step", "exp_avg", "exp_avg_sq"])
def test_half_a_state_is_refused(tmp_path: Path, kind: str) -> None:
    """AdamW would fail at its next step, or begin a moment anew."""
    old = Training()
    old.steps(0, 1)
    expected = old.by_name()
    sizes = {name: one["exp_avg"].numel() for name, one in expected.items()}
    values = {
        f"{k}/{name}": tensor.reshape(-1)
        for name, one in expected.items()
        for k, tensor in one.items()
        if k != kind
    }
    write_shards(tmp_path, values, cut(sizes, []))
    with pytest.raises(StorageFailed):
        Training(seed=1).read(tmp_path, old.weights())


@pytest.mark.parametrize("fault", ["none", "no safetensors", "no ranges", "a name too many"])
def test_files_that_are_no_state(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "optimizer-00000-of-00001.safetensors"
    if fault == "no safetensors":
        path.write_bytes(b"\x80\x04pickle")
    elif fault == "no ranges":
        save_file({"exp_avg/p": torch.zeros(3)}, path)
    elif fault == "a name too many":
        save_file({"exp_avg/q": torch.zeros(3)}, path, {"ranges": json.dumps({"p": [0, 3]})})
    with pytest.raises(StorageFailed, match=r"optimizer-.*safetensors"):
        SavedState(tmp_path, PATTERN)
