"""OpenLTM's Timer-XL files: the names of their tensors beside ours, read strictly and unexecuted.

What is peculiar to these files stays here: names, feed-forward layers stored as 1x1 convolutions,
the ``module.`` that DDP puts in front. Files come from strangers: only ``weights_only`` and
safetensors read them.
"""

from __future__ import annotations

import mmap
import pickletools  # nosec B403 - it lists opcodes and unpickles nothing
import re
import warnings
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

# The one table, used in both directions: OpenLTM's name, ours, the shapes of its tensors there.
# D hidden, P patch, O output patch, F feed-forward, H heads, W classifier width, K labels.
_MODULES = (
    ("embedding", "timer_xl.embedding", {"weight": "D P", "bias": "D"}),
    ("blocks.norm", "timer_xl.norm", {"weight": "D", "bias": "D"}),
    ("head", "head", {"weight": "O D", "bias": "O"}),
)
CLASSIFIER_MODULES = (
    ("classifier.0", "classifier_norm", {"weight": "O", "bias": "O"}),
    ("classifier.1", "classifier_dense", {"weight": "W O", "bias": "W"}),
    ("classifier.4", "classifier_out", {"weight": "K W", "bias": "K"}),
)
_LAYER = (
    ("attention.inner_attention.attn_bias.emb", "self_attn.variable_bias", {"weight": "2 H"}),
    ("attention.query_projection", "self_attn.q_proj", {"weight": "D D", "bias": "D"}),
    ("attention.key_projection", "self_attn.k_proj", {"weight": "D D", "bias": "D"}),
    ("attention.value_projection", "self_attn.v_proj", {"weight": "D D", "bias": "D"}),
    ("attention.out_projection", "self_attn.o_proj", {"weight": "D D", "bias": "D"}),
    ("conv1", "linear1", {"weight": "F D 1", "bias": "F"}),
    ("conv2", "linear2", {"weight": "D F 1", "bias": "D"}),
    ("norm1", "norm1", {"weight": "D", "bias": "D"}),
    ("norm2", "norm2", {"weight": "D", "bias": "D"}),
)
_LAYER_KEY = re.compile(r"blocks\.attn_layers\.(0|[1-9]\d{0,2})\.")
_MOST_OPERATIONS = 1_000_000  # of pickles: a tensor takes 20
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def key_table(layers: int, classifier: bool) -> dict[str, tuple[str, str]]:
    """OpenLTM's tensor name -> (our name, its shape at OpenLTM in letters)."""
    rows = list(_MODULES)
    for index in range(layers):
        theirs, ours = f"blocks.attn_layers.{index}.", f"timer_xl.layers.{index}."
        rows += [(theirs + a, ours + b, parts) for a, b, parts in _LAYER]
    rows += CLASSIFIER_MODULES if classifier else ()
    return {
        f"{theirs}.{part}": (f"{ours}.{part}", shape)
        for theirs, ours, parts in rows
        for part, shape in parts.items()
    }


def raise_for(source: object, problems: list[str]) -> None:
    """ValueError naming the source and up to ten problems, if there are any."""
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"{source} does not fit: {'; '.join(problems[:10])}{more}.")


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        starts_as_zip = file.read(4) == b"PK\x03\x04"
    if starts_as_zip or zipfile.is_zipfile(path):  # torch.load does not compare the checksums
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # torch stores its members as they are: a few packed bytes can become any number.
            if packed := [one for one in members if one.compress_type != zipfile.ZIP_STORED]:
                raise ValueError(f"{packed[0].filename[:80]} is compressed; torch stores it as is")
            if (declared := sum(one.file_size for one in members)) > size:
                raise ValueError(f"its members declare {declared:,} bytes, the file has {size:,}")
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} does not match")
            for one in members:
                if one.filename.endswith(".pkl"):
                    with archive.open(one) as pickled:
                        _count_operations(pickled, 1)
    elif size:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            _count_operations(mapped, 5)  # torch's old format is a row of five pickles
    with warnings.catch_warnings():
        # A pickle that torch did not write: it is refused below, or holds tensors alone.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        return torch.load(path, map_location="cpu", weights_only=True)


def _count_operations(file: Any, pickles: int) -> None:
    """ValueError where pickles take more steps to read than any model's; nothing is unpickled.

    torch takes half a microsecond for each, and a file can hold one in every byte.
    """
    count = 0
    try:
        for _ in range(pickles):
            for _ in pickletools.genops(file):
                count += 1
                if count > _MOST_OPERATIONS:
                    break
    except (ValueError, IndexError, OverflowError, MemoryError):
        return  # no pickle, or a damaged one: torch.load says what it misses
    if count > _MOST_OPERATIONS:
        raise ValueError(f"its pickle takes more than {_MOST_OPERATIONS:,} steps")


def _reason(error: Exception) -> str:
    """The reader's own words in one line, without torch's advice to switch weights_only off."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and "weights_only" not in line]
    return (kept[0] if kept else type(error).__name__).split(". ")[0][:200]


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Name -> shape of every tensor of a .safetensors file, of which the header alone is read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # as in read_tensors
        raise ValueError(
            f"{path} can't be read as a checkpoint of plain tensors: it is damaged. The reader "
            f"says: {_reason(error)}"
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a .pth or .safetensors file, on the CPU; ValueError for anything else."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; expected a checkpoint file.")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected a checkpoint file.")
    try:
        state = _load(path)
    except Exception as error:  # whatever a damaged or hostile file makes the readers raise
        raise ValueError(
            f"{path} can't be read as a checkpoint of plain tensors: it is damaged, or holds code, "
            f"which is never run. The reader says: {_reason(error)}"
        ) from error
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{path} holds {type(state).__name__}; expected names and tensors.")
    others = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f"{path}: {str(others[0])[:80]!r} is a {type(state[others[0]]).__name__}, no tensor; "
            "expected the bare state dict, as torch.save(model.state_dict(), path) writes it."
        )
    return {str(key): value for key, value in state.items()}


def why_unusable(tensor: Tensor) -> str | None:
    """Why a tensor can't be a weight, or None."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in _FLOATS:
        return f"is {tensor.dtype} ({tensor.layout}), not plain floating point"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "has a shape larger than its data"
    if tensor.numel() == 0:
        return "is empty"
    if not torch.isfinite(tensor).all():
        return "holds NaN or Inf"
    return None


def _sizes(state: Mapping[str, Tensor], table: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    """Letter -> size, by majority: one mis-shaped tensor does not put the blame on the others."""
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for key, (_, shape) in table.items():
        letters = shape.split()
        if key in state and state[key].ndim == len(letters):
            for letter, size in zip(letters, state[key].shape, strict=True):
                votes[letter][size] += 1
    sizes = {letter: counter.most_common(1)[0][0] for letter, counter in votes.items()}
    return sizes | {"1": 1, "2": 2}


def table_and_sizes(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, tuple[str, str]], dict[str, int]]:
    """The rows of the table that these tensors call for, and what their letters stand for.

    ``layers`` is added to the letters: one more than the highest index found.
    """
    layers = max((int(m[1]) for m in map(_LAYER_KEY.match, state) if m), default=-1) + 1
    classifier = any(key.startswith("classifier.") for key in state)
    table = key_table(layers, classifier)
    return table, _sizes(state, table) | {"layers": layers}


def read_openltm(path: str | Path) -> dict[str, Tensor]:
    """Read and check an OpenLTM Timer-XL checkpoint (.pth or .safetensors), without executing it.

    Returns OpenLTM's names, without DDP's ``module.``, and its tensors as they are. Raises
    ValueError, naming the tensors, where one is missing, unknown, there twice, not finite or of a
    shape that contradicts the others.
    """
    path = Path(path)
    raw = read_tensors(path)
    state: dict[str, Tensor] = {}
    problems: list[str] = []
    for key, tensor in raw.items():
        name = re.sub(r"^(module\.)+", "", key)
        if name in state:
            problems.append(f"{key[:80]} repeats {name[:80]}")
        state[name] = tensor
    if any(key.startswith(("timer_xl.", "layers.")) for key in state):
        raise ValueError(f"{path} holds timerxl's own tensors; give the folder it lies in.")
    if not any(key.startswith(("embedding.", "blocks.", "head.")) for key in state):
        raise ValueError(
            f"{path} holds no OpenLTM Timer-XL: found tensors such as {next(iter(state))[:80]!r}; "
            "expected embedding.weight, blocks.attn_layers.0.conv1.weight and so on."
        )
    table, sizes = table_and_sizes(state)
    if sizes["layers"] == 0:
        problems.append("no layer (blocks.attn_layers.0.*) is there")
    problems += [f"{key} is missing" for key in table if key not in state]
    unknown = [ascii(key[:80])[1:-1] for key in state if key not in table]
    problems += [f"{name} is not a tensor of Timer-XL" for name in unknown]
    for key, (_, shape) in table.items():
        if key not in state:
            continue
        found, expected = list(state[key].shape), [sizes.get(letter) for letter in shape.split()]
        if found != expected:
            problems.append(f"{key} has shape {found}, expected {expected}")
        elif reason := why_unusable(state[key]):
            problems.append(f"{key} {reason}")
    raise_for(path, problems)
    if sizes["O"] != sizes["P"]:
        raise ValueError(
            f"{path} forecasts patches of {sizes['O']} steps from patches of {sizes['P']}; "
            "expected both to be the same."
        )
    return state
