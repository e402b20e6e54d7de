"""Timer-XL's attention: which token sees which, the rotary embedding, and two ways to compute it.

Shapes: B batch, C variables, N patches, L = C*N tokens (variable-major: variable 0's patches in
time order, then variable 1's), H heads, d channels per head, M <= N query patches per variable
(N, or 1 where only the last patch is asked for), Q = C*M query tokens.

scores[h, i, j] = (q_i . k_j + bias[h, same variable?]) / sqrt(d), softmax over the visible j.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@dataclass
class TokenLayout:
    """What all layers and samples share for one (C, N): the backbone keeps the last one made.

    visible: bool [Q, L]; key_variable: int64 [L]; rotation: complex [L, 1, d/4].
    """

    num_variables: int
    num_patches: int
    query_patches: int
    visible: Tensor
    key_variable: Tensor
    rotation: Tensor

    @property
    def query_variable(self) -> Tensor:
        return self.per_variable_tail(self.key_variable)

    @property
    def same_variable(self) -> Tensor:
        """bool [Q, L]: query and key belong to one variable."""
        return self.query_variable[:, None] == self.key_variable

    @property
    def query_rotation(self) -> Tensor:
        return self.per_variable_tail(self.rotation)

    def per_variable_tail(self, tokens: Tensor, dim: int = 0) -> Tensor:
        """[..., L, ...] -> [..., Q, ...]: the last M patches of every variable."""
        if self.query_patches == self.num_patches:
            return tokens
        grid = tokens.unflatten(dim, (self.num_variables, self.num_patches))
        kept = grid.narrow(dim + 1, self.num_patches - self.query_patches, self.query_patches)
        return kept.flatten(dim, dim + 1)

    def last_patches(self) -> TokenLayout:
        """The same keys, asked only by the last patch of every variable."""
        last = replace(self, query_patches=1)
        return replace(last, visible=last.per_variable_tail(self.visible))


def token_layout(
    num_variables: int,
    num_patches: int,
    head_size: int,
    *,
    covariate: bool,
    rope_theta: float,
    device: torch.device | str,
) -> TokenLayout:
    """Who sees whom, and the rotary angles (position = index of the token in 0..L-1)."""
    variable = torch.arange(num_variables, device=device).repeat_interleave(num_patches)
    patch = torch.arange(num_patches, device=device).repeat(num_variables)
    past = patch[:, None] >= patch[None, :]
    same = variable[:, None] == variable[None, :]
    if covariate:
        asks_all = (variable == num_variables - 1)[:, None]
        visible = torch.where(asks_all, ~same | past, same & past)
    else:
        visible = past
    # The angles are the same whatever the model's dtype: half precision would blur far positions.
    rotary_pairs = head_size // 4
    exponents = torch.arange(rotary_pairs, device=device, dtype=torch.float32) / rotary_pairs
    frequency = 1.0 / rope_theta**exponents
    tokens = torch.arange(num_variables * num_patches, device=device, dtype=torch.float32)
    angles = torch.outer(tokens, frequency)
    rotation = torch.polar(torch.ones_like(angles), angles)[:, None, :]
    return TokenLayout(num_variables, num_patches, num_patches, visible, variable, rotation)


def rotate(states: Tensor, rotation: Tensor) -> Tensor:
    """Rotary embedding of [B, L, H, d]: interleaved pairs on the first d/2 channels of a head."""
    half = states.shape[-1] // 2
    wide = states if states.dtype == torch.float64 else states.float()
    pairs = torch.view_as_complex(wide[..., :half].unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * rotation).flatten(-2)
    return torch.cat([turned.to(states.dtype), states[..., half:]], dim=-1)


def _rotate_in_place(states: Tensor, rotation: Tensor) -> None:
    half = states[..., : states.shape[-1] // 2]
    wide = half if half.dtype in (torch.float32, torch.float64) else half.float()
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
    pairs.mul_(rotation)
    if wide is not half:
        half.copy_(torch.view_as_real(pairs).flatten(-2))


def eager_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """The readable reference; query [B, H, Q, d], key and value [B, H, L, d] -> [B, Q, H, d]."""
    scores = torch.matmul(query, key.transpose(2, 3))
    if position_bias is not None:
        scores = scores + position_bias
    scores = (scores * scaling).masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2), weights


def fold_bias(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, layout: TokenLayout
) -> tuple[Tensor, Tensor, Tensor]:
    """Put the same-variable bias into the dot product, exactly, without an [H, L, L] tensor.

    Softmax is invariant to a constant per query, so only bias[same] - bias[different] matters:
    the query carries it at its variable's place of C extra channels, the key carries a one there.
    Channels are filled up to a multiple of 8, which the fused GPU kernels ask for.
    """
    batch, heads, _, head_size = query.shape
    extra = -(-(head_size + layout.num_variables) // 8) * 8 - head_size
    difference = (bias[1] - bias[0]).to(query.dtype)
    hot_query = F.one_hot(layout.query_variable, extra).to(query.dtype)
    hot_key = F.one_hot(layout.key_variable, extra).to(query.dtype)
    asked = (difference[:, None, None] * hot_query).expand(batch, -1, -1, -1)
    offered = hot_key.expand(batch, heads, -1, -1)
    return (
        torch.cat([query, asked], dim=-1),
        torch.cat([key, offered], dim=-1),
        F.pad(value, (0, extra)),
    )


class FusedCPUAttention(torch.autograd.Function):
    """Rotary embedding, biased attention and its gradients on the CPU's flash kernel.

    Keeps q, k, v, the output and one number per row; never a [B, H, L, L] tensor. The kernel
    takes the bias as a mask [1, H, Q, L], rebuilt in backward, and returns no gradient for it:
    d(loss)/d(bias) is summed here over the small same-variable blocks (rows of softmax gradients
    add up to zero, so the different-variable bias gets the negative). Query and key are rotated
    in place: they are fresh outputs of linear layers, whose backward does not read them.
    """

    @staticmethod
    def forward(ctx, query, key, value, bias, layout):  # type: ignore[no-untyped-def]
        """query [B, Q, H, d], key and value [B, L, H, d], bias [2, H] -> [B, Q, H, d]."""
        _rotate_in_place(query, layout.query_rotation)
        _rotate_in_place(key, layout.rotation)
        scaling = query.shape[-1] ** -0.5
        mask = _biased_mask(bias, layout, scaling, query.dtype)
        q, k, v = (states.transpose(1, 2) for states in (query, key, value))
        out, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=mask, scale=scaling
        )
        ctx.save_for_backward(query, key, value, bias, out, logsumexp)
        ctx.layout, ctx.scaling = layout, scaling
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        query, key, value, bias, out, logsumexp = ctx.saved_tensors
        layout, scaling = ctx.layout, ctx.scaling
        q, k, v = (states.transpose(1, 2) for states in (query, key, value))
        mask = _biased_mask(bias, layout, scaling, query.dtype)
        grad_out = grad_out.transpose(1, 2)
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_out, q, k, v, out, logsumexp, 0.0, False, attn_mask=mask, scale=scaling
        )
        del mask
        dq, dk, dv = (grad.transpose(1, 2) for grad in grads)
        _rotate_in_place(dq, layout.query_rotation.conj())
        _rotate_in_place(dk, layout.rotation.conj())
        grad_bias = None
        if ctx.needs_input_grad[3]:
            grad_bias = _bias_gradient(q, k, v, bias, out, logsumexp, grad_out, layout, scaling)
        return dq, dk, dv, grad_bias, None


def _biased_mask(bias: Tensor, layout: TokenLayout, scaling: float, dtype: torch.dtype) -> Tensor:
    """[1, H, Q, L]: scaled bias where the key is visible, -inf elsewhere."""
    scaled = (bias * scaling).to(dtype)
    mask = torch.where(layout.same_variable, scaled[1][:, None, None], scaled[0][:, None, None])
    return mask.masked_fill_(~layout.visible, float("-inf"))[None]


def _bias_gradient(q, k, v, bias, out, logsumexp, grad_out, layout, scaling):  # type: ignore[no-untyped-def]
    """[2, H] from the same-variable blocks alone: C small [M, N] products instead of [Q, L]."""

    def by_variable(states: Tensor) -> Tensor:  # [B, H, C*n, d] -> [B, H, C, n, d]
        return states.unflatten(2, (layout.num_variables, -1)).float()

    rows = (layout.num_variables, layout.query_patches)
    scores = by_variable(q) @ by_variable(k).transpose(-1, -2) * scaling
    scores += (bias[1].float() * scaling)[:, None, None, None]
    weights = torch.exp(scores - logsumexp.float().unflatten(2, rows)[..., None])
    past = layout.visible.unflatten(0, rows)[0, :, : layout.num_patches]
    weights = weights.masked_fill(~past, 0.0)
    grad_weights = by_variable(grad_out) @ by_variable(v).transpose(-1, -2)
    row_sum = (grad_out.float() * out.float()).sum(-1).unflatten(2, rows)[..., None]
    same = (weights * (grad_weights - row_sum)).sum(dim=(0, 2, 3, 4)) * scaling
    return torch.stack([-same, same]).to(bias.dtype)


_HAS_CPU_KERNEL = hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")


def timer_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    layout: TokenLayout,
    attend: Callable[..., tuple[Tensor, Tensor | None]],
    dropout: float,
) -> Tensor:
    """Attention of unrotated query [B, Q, H, d] over key, value [B, L, H, d] -> [B, Q, H, d].

    ``query`` and ``key`` may be overwritten. bias [2, H]: row 0 for different variables, row 1
    for the same one. ``attend`` is a function of transformers' attention interface.
    """
    on_cpu = query.device.type == "cpu"
    dropout = dropout if module.training else 0.0
    is_sdpa = attend is ALL_ATTENTION_FUNCTIONS["sdpa"]
    if is_sdpa and on_cpu and dropout == 0.0 and _HAS_CPU_KERNEL:
        return FusedCPUAttention.apply(query, key, value, bias, layout)

    query = rotate(query, layout.query_rotation).transpose(1, 2)
    key = rotate(key, layout.rotation).transpose(1, 2)
    value = value.transpose(1, 2)
    arguments: dict[str, Any] = {
        "attention_mask": layout.visible[None, None],
        "scaling": 1.0 / math.sqrt(query.shape[-1]),
        "dropout": dropout,
    }
    if attend is eager_attention_forward:
        same = layout.same_variable.to(query.dtype)
        position_bias = bias[0][:, None, None] * (1 - same) + bias[1][:, None, None] * same
        arguments["position_bias"] = position_bias.to(query.dtype)
        return attend(module, query, key, value, **arguments)[0]

    head_size = query.shape[-1]

    def folded(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        inputs = fold_bias(query, key, value, bias, layout)
        return attend(module, *inputs, is_causal=False, **arguments)[0]

    if is_sdpa and on_cpu and dropout > 0.0 and torch.is_grad_enabled():
        # The CPU's kernel has no dropout: SDPA would keep several [B, H, L, L] tensors a layer.
        out = checkpoint(folded, query, key, value, bias, use_reentrant=False)
    else:
        out = folded(query, key, value, bias)
    return out[..., :head_size]
