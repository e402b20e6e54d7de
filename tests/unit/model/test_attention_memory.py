"""What attention keeps for backward, and what its dropout does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from timerxl.model import TimerXLConfig, TimerXLForClassification, attention_timerxl

VARIABLES, PATCHES, PATCH = 4, 40, 4
TOKENS, HEADS = VARIABLES * PATCHES, 4
# One sample's float32 scores: larger than anything else that the model below keeps.
SCORES_BYTES = 4 * HEADS * TOKENS * TOKENS


def tiny_model(**fields: Any) -> TimerXLForClassification:
    torch.manual_seed(0)
    config = TimerXLConfig(
        patch_length=PATCH,
        context_length=PATCH * PATCHES,
        num_variables=VARIABLES,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        hidden_dropout=0.0,
        **fields,
    )
    return TimerXLForClassification(config).train()


def series(patches: int = PATCHES) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, patches * PATCH, VARIABLES, generator=generator)


def step(model: TimerXLForClassification, seed: int = 5) -> list[Tensor]:
    """Logits and all gradients of a short training step."""
    model.zero_grad()
    torch.manual_seed(seed)
    outputs = model(series(4), labels=torch.tensor([0, 1]))
    outputs.loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    return [outputs.logits.detach(), *gradients]


def largest_saved(model: TimerXLForClassification) -> int:
    """Bytes of the largest storage that a training forward keeps for backward."""
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    largest = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal largest
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            largest = max(largest, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(series(), labels=torch.tensor([0, 1])).loss
    loss.backward()
    return largest


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_no_score_matrix_is_kept_for_backward(dropout: float, pooling: str) -> None:
    assert largest_saved(tiny_model(attention_dropout=dropout, pooling=pooling)) < SCORES_BYTES


def test_eager_attention_keeps_the_score_matrix() -> None:
    """The check above sees what it looks for."""
    model = tiny_model(attention_dropout=0.0)
    model.set_attn_implementation("eager")
    assert largest_saved(model) >= 2 * SCORES_BYTES


def test_dropped_attention_repeats_its_mask_in_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputing the attention in backward gives the gradients of keeping everything."""
    model = tiny_model(attention_dropout=0.5)
    recomputed = step(model)
    monkeypatch.setattr(attention_timerxl, "checkpoint", lambda run, *args, **options: run(*args))
    kept = step(model)
    assert all(torch.equal(a, b) for a, b in zip(recomputed, kept, strict=True))
    assert not torch.equal(step(model, seed=6)[0], kept[0])


def test_attention_dropout_is_for_training_only() -> None:
    model = tiny_model(attention_dropout=0.0).eval()
    plain = model(series()).logits
    model.config.attention_dropout = 0.5
    assert torch.equal(model(series()).logits, plain)
