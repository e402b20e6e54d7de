"""AdamW's state by parameter name, whole or in ZeRO's shards, as safetensors.

Every rank writes the pieces it owns: ``KIND/NAME`` is one-dimensional, and the file's metadata says
which elements of the flattened parameter it holds. Whoever reads asks for a range of a parameter
and gets it from whatever pieces there are, so a state of two ranks fits one, or four, or a run
without ZeRO. Nothing is pickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from timerxl.training.checkpoint.storage import StorageFailed
from timerxl.untrusted import schema_error

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "master"  # ZeRO's fp32 copy of weights that the model holds in half precision
STEP = "step"
RANGES = "ranges"
_RANK = re.compile(r"-(\d+)-of-(\d+)\.")


@dataclass(frozen=True)
class Piece:
    """Elements ``start`` to ``start + numel`` of a parameter, and where this rank holds them.

    ``flat`` is the tensor whose key the optimizer's state has (the parameter itself, or ZeRO's
    partition of a group), ``offset`` the place of the piece in it.
    """

    name: str
    parameter: torch.nn.Parameter
    start: int
    numel: int
    flat: torch.Tensor
    offset: int

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """Return this piece of a tensor laid out as ``flat``, one-dimensional, sharing its
        memory."""
        return flat.view(-1).narrow(0, self.offset, self.numel)


class OptimizerState:
    """The torch optimizer behind accelerate's and DeepSpeed's wrappers, piece by piece."""

    def __init__(self, optimizer: Any, model: torch.nn.Module):
        while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
            if hasattr(optimizer, "single_partition_of_fp32_groups"):
                break
            optimizer = optimizer.optimizer
        self.zero = optimizer if hasattr(optimizer, "single_partition_of_fp32_groups") else None
        self.inner: torch.optim.Optimizer = optimizer.optimizer if self.zero else optimizer
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}

    def pieces(self) -> Iterator[Piece]:
        """Yield what this rank owns: under ZeRO its partition, otherwise everything."""
        if self.zero is None:
            for group in self.inner.param_groups:
                for p in group["params"]:
                    yield Piece(self.names[id(p)], p, 0, p.numel(), p, 0)
            return
        for index, flat in enumerate(self.zero.single_partition_of_fp32_groups):
            for p in self.zero.bit16_groups[index]:
                if (found := p._hp_mapping) is not None:
                    place, own = found.lp_fragment_address, found.hp_fragment_address
                    name = self.names[id(p)]
                    yield Piece(name, p, place.start, place.numel, flat, own.start)

    def write(self, path: Path) -> None:
        """Write this rank's pieces into one file."""
        tensors: dict[str, torch.Tensor] = {}
        ranges: dict[str, list[int]] = {}
        for piece in self.pieces():
            kept = self.inner.state.get(piece.flat, {})
            parts = {kind: piece.of(kept[kind]) for kind in MOMENTS if kind in kept}
            if STEP in kept:
                parts[STEP] = torch.as_tensor(float(kept[STEP])).view(1)
            if self.zero is not None and piece.parameter.dtype != torch.float32:
                parts[MASTER] = piece.of(piece.flat.detach())
            for kind, tensor in parts.items():
                tensors[f"{kind}/{piece.name}"] = tensor.detach().to("cpu", copy=True).contiguous()
            ranges[piece.name] = [piece.start, piece.numel]
        save_file(tensors, path, {RANGES: json.dumps(ranges)})

    @torch.no_grad()
    def read(self, saved: SavedState, weights: dict[str, torch.Tensor]) -> None:
        """Load this rank's part of the saved state; the model has its ``weights`` already.

        Under ZeRO the fp32 weights are the optimizer's; a run without it that goes on from
        half-precision ZeRO gets the master copies too.
        """
        flats: dict[int, dict[str, torch.Tensor]] = {}
        for piece in self.pieces():
            end = piece.start + piece.numel
            master = saved.read(MASTER, piece.name, piece.start, piece.numel)
            if master is None:
                master = weights[piece.name].view(-1)[piece.start : end]
            piece.of(piece.flat).copy_(master)
            if not saved.has_state(piece.name):
                continue
            for kind in MOMENTS:
                if (part := saved.read(kind, piece.name, piece.start, piece.numel)) is not None:
                    state = flats.setdefault(id(piece.flat), {})
                    if kind not in state:
                        state[kind] = torch.zeros_like(piece.flat, dtype=torch.float32)
                    piece.of(state[kind]).copy_(part)
                    state[STEP] = saved.step_of(piece.name)
        self._load(flats)

    def _load(self, flats: dict[int, dict[str, torch.Tensor]]) -> None:
        """Load through the optimizer's own load_state_dict, which places its tensors."""
        order = [p for group in self.inner.param_groups for p in group["params"]]
        if self.zero is not None:
            order = list(self.zero.single_partition_of_fp32_groups)
        state = {i: flats[id(flat)] for i, flat in enumerate(order) if id(flat) in flats}
        groups = self.inner.state_dict()["param_groups"]
        self.inner.load_state_dict({"state": state, "param_groups": groups})
        if self.zero is not None and state:
            # DeepSpeed links its pieces to the state once, after the first step of its own.
            self.zero._hp_optimizer_states_linked = False
            self.zero._lazy_init_hp_params_optimizer_state()


class SavedState:
    """The pieces of a checkpoint, from whatever number of ranks; files are opened, not loaded.

    Raises StorageFailed where a rank's file is missing or holds no pieces of an AdamW's state.
    """

    def __init__(self, folder: Path, pattern: str, names: Collection[str] | None = None):
        """``names``: the files that count, as the manifest has them; None for all."""
        self._pieces: dict[str, list[tuple[int, int, Any, str]]] = {}
        paths = sorted(p for p in folder.glob(pattern) if names is None or p.name in names)
        if not paths:
            raise StorageFailed(f"{folder} holds no {pattern}.")
        self._check_ranks(paths)
        for path in paths:
            try:
                self._open(path)
            except (SafetensorError, OSError, LookupError, ValueError, RecursionError) as error:
                raise StorageFailed(f"{path} can't be read: {error}") from error

    def _check_ranks(self, paths: list[Path]) -> None:
        """Check that the files of all ranks are there: ``-00001-of-00004`` needs three others.

        Of a parameter that only a missing file knows nothing would be left to be counted.
        """
        numbers = [_RANK.search(path.name) for path in paths]
        found = [(int(number[1]), int(number[2])) for number in numbers if number]
        if found and found != [(rank, len(paths)) for rank in range(len(paths))]:
            raise StorageFailed(
                f"{paths[0].parent} does not hold the files of all ranks once: "
                f"{', '.join(path.name for path in paths[:8])}."
            )

    def _open(self, path: Path) -> None:
        """Index a file's pieces; raise ValueError and others where it holds none."""
        if not path.is_file():
            raise ValueError("it is no file")
        file = safe_open(path, framework="pt")
        ranges = json.loads((file.metadata() or {})[RANGES])
        if problem := schema_error(ranges, dict) or schema_error(
            list(ranges.values()), [[range(2**53)]]
        ):
            raise ValueError(f"its {RANGES}: {problem}")
        for key in file.keys():  # noqa: SIM118 - a file of safetensors is no mapping
            kind, _, name = key.partition("/")
            start, numel = ranges[name]
            part = file.get_slice(key)
            if part.get_dtype() != "F32" or part.get_shape() != [1 if kind == STEP else numel]:
                found = f"{part.get_dtype()} {part.get_shape()}"
                raise ValueError(f"{ascii(key)[:80]} is {found}, not the {numel} numbers it says")
            self._pieces.setdefault(key, []).append((start, numel, file, key))

    def has_state(self, name: str) -> bool:
        """Whether a parameter was stepped; raise StorageFailed where only part of its state is
        there: AdamW would begin the rest anew."""
        kinds = (*MOMENTS, STEP)
        found = [kind for kind in kinds if f"{kind}/{name}" in self._pieces]
        if found and len(found) < len(kinds):
            raise StorageFailed(f"of the state of {name} only {' and '.join(found)} is there.")
        return bool(found)

    def read(self, kind: str, name: str, start: int, numel: int) -> torch.Tensor | None:
        """Read elements ``start`` to ``start + numel`` of the flattened tensor; None where none
        were saved. Raises StorageFailed where some are missing or there twice."""
        pieces = self._pieces.get(f"{kind}/{name}")
        if not pieces:
            return None
        found, end, edges = torch.empty(numel), start + numel, [start]
        for first, count, file, key in sorted(pieces, key=lambda piece: piece[:2]):
            low, high = max(first, start), min(first + count, end)
            if low < high:
                edges += [low, high]
                part = file.get_slice(key)[low - first : high - first]
                found[low - start : high - start] = part
        edges.append(end)
        if edges[::2] != edges[1::2]:  # where one piece ends, the next begins
            raise StorageFailed(
                f"{kind} of {name} is not whole: its pieces leave out, or hold twice, some of the "
                f"{numel:,} elements from {start:,} on; a rank's file is missing or there twice."
            )
        return found

    def step_of(self, name: str) -> torch.Tensor:
        """Read AdamW's count of steps for a parameter; raise StorageFailed where it is not a
        count."""
        file, key = self._pieces[f"{STEP}/{name}"][0][2:]
        count: torch.Tensor = file.get_tensor(key)[0]
        if not (1 <= count < 2**53 and count == count.round()):
            raise StorageFailed(f"{name} is said to have made {count.item()} steps.")
        return count
