"""A classifier as an ONNX file: the network alone, compared with torch before it is written."""

from __future__ import annotations

import copy
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from timerxl.config import InputError
from timerxl.files import whole_file
from timerxl.model import TimerXLForClassification

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of a logit
_CHECKED_BATCHES = (1, 7)
_EXAMPLE_BATCH = 2  # not 1, which torch would take for a fixed size


class ExportFailed(RuntimeError):
    """The file that came out does not compute what the model does; it was not written."""


def check_libraries() -> None:
    """Raise InputError where the extra ``onnx`` is not installed."""
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise InputError(
            f"{', '.join(missing)} can't be imported, which the export needs: install the extra "
            "with pip install -c constraints.txt -e '.[onnx]'"
        )


class _Logits(nn.Module):
    """The model with tensors in and one tensor out, as a graph has them."""

    def __init__(self, model: TimerXLForClassification):
        super().__init__()
        self.model = model

    def forward(
        self,
        past_values: Tensor,
        static_real_features: Tensor | None = None,
        past_observed_mask: Tensor | None = None,
    ) -> Tensor:
        return self.model(
            past_values,
            static_real_features=static_real_features,
            past_observed_mask=past_observed_mask,
        ).logits


def write_onnx(
    model: TimerXLForClassification, output: Path, *, context_length: int, num_variables: int
) -> float:
    """Write ``model`` in fp32 to ``output``, whole or not at all; ``model`` stays as it is.

    Inputs of the file are ``past_values`` [batch, context_length, num_variables] and, where the
    model has them, ``static_real_features`` [batch, S]; its output is ``logits`` [batch, K]. A
    model of G regions side by side takes G times the variables, ``past_observed_mask`` (bool
    [batch, context_length, G]) and static features [batch, G, S], and answers [batch, G, K]. Only
    the batch is free: the lengths are fixed in the graph.

    Returns the largest difference of a logit between onnxruntime and torch, on random inputs in
    batches of 1 and 7. Raises ExportFailed where it exceeds ``TOLERANCE``.
    """
    own = copy.deepcopy(model).to("cpu", torch.float32).eval()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)

    def inputs(batch: int) -> dict[str, Tensor]:
        regions = own.config.num_regions
        window = (batch, context_length, num_variables * (regions or 1))
        found = {"past_values": torch.randn(window, generator=generator)}
        if width := own.config.num_static_real_features:
            static = (batch, width) if regions is None else (batch, regions, width)
            found["static_real_features"] = torch.randn(static, generator=generator)
        if regions is not None:  # one window in four misses the last region
            observed = torch.ones(batch, context_length, regions, dtype=torch.bool)
            observed[::4, :, -1] = False
            found["past_observed_mask"] = observed
        return found

    checked = [inputs(batch) for batch in _CHECKED_BATCHES]
    # With the attention that the model has. This also leaves the token layout in the model: to the
    # exporter its complex rotation is then a constant, which it takes; it can't compute one.
    with torch.no_grad():
        expected = [own(**given).logits.numpy() for given in checked]
    content = _graph(own, inputs(_EXAMPLE_BATCH))
    worst = _largest_difference(content, checked, expected)
    if not worst <= TOLERANCE:
        raise ExportFailed(
            f"onnxruntime's logits are {worst:.1e} off torch's, expected at most {TOLERANCE:g}; "
            f"{output} was not written. Compare the installed versions with constraints.txt."
        )
    with whole_file(output) as temporary:
        temporary.write_bytes(content)
    return worst


def _graph(model: TimerXLForClassification, example: dict[str, Tensor]) -> bytes:
    """The ONNX file's content; the exporter has no form for the fused kernel of the CPU."""
    model.set_attn_implementation("eager")
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        # Two inputs share one axis by intent; and a note on torch's own pickling.
        warnings.filterwarnings("ignore", message=".*The axis name: batch will not be used")
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        program = torch.onnx.export(
            _Logits(model).eval(),
            kwargs=example,
            dynamo=True,
            dynamic_shapes={name: {0: batch} for name in example},
            input_names=list(example),
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None  # so typed for the old exporter
    # torch notes for every node from which line of which file it comes: paths of this machine.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    return bytes(program.model_proto.SerializeToString())


def _largest_difference(
    content: bytes, checked: list[dict[str, Tensor]], expected: list[np.ndarray]
) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    worst = 0.0
    for given, logits in zip(checked, expected, strict=True):
        feed: dict[str, Any] = {name: tensor.numpy() for name, tensor in given.items()}
        (found,) = session.run(["logits"], feed)
        if found.shape != logits.shape:
            raise ExportFailed(
                f"onnxruntime's logits have shape {list(found.shape)}, expected "
                f"{list(logits.shape)}; nothing was written."
            )
        worst = float(np.maximum(worst, np.abs(found - logits).max()))  # NaN stays NaN
    return worst
