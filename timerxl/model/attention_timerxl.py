"""Timer-XL's attention: which token sees which, the rotary embedding, and the ways to compute it.

Shapes: B batch, C variables, N patches, L = C*N tokens (variable-major: variable 0's patches in
time order, then variable 1's), H heads, d channels per head, M <= N query patches per variable
(N, or 1 where only the last patch is asked for), Q = C*M query tokens.

scores[h, i, j] = (q_i . k_j + bias[h, same variable?]) / sqrt(d), softmax over the visible j.
"""

from __future__ import annotations

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

    visible: bool [Q, L]; key_variable: int64 [L]; rotation: float32 [L, 1, d/4, 2], cosine and sine
    of every token's rotary angles.
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
    rotation = torch.view_as_real(torch.polar(torch.ones_like(angles), angles))[:, None]
    return TokenLayout(num_variables, num_patches, num_patches, visible, variable, rotation)


def rotate(states: Tensor, rotation: Tensor, channels: Tensor | None = None) -> Tensor:
    """Rotary embedding of [B, L, H, d]: interleaved pairs on the first d/2 channels of a head.

    ``channels`` [L, H or 1, e] are appended to every sample's heads: [B, L, H, d+e], one buffer.
    """
    if channels is None:
        channels = states.new_empty(states.shape[1], 1, 0)
    if not torch.compiler.is_compiling():
        return _Rotate.apply(states, channels, rotation)
    # Inductor writes the parts of a cat into one buffer by itself.
    half = _rotated_channels(rotation)
    channels = channels.expand(*states.shape[:-1], -1)
    return torch.cat([_turned(states[..., :half], rotation), states[..., half:], channels], dim=-1)


class _Rotate(torch.autograd.Function):
    """Rotated states and appended channels in one buffer; backward needs nothing of it."""

    @staticmethod
    def forward(ctx, states, channels, rotation):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(rotation)
        ctx.size, ctx.by_head = states.shape[-1], channels.shape[1] > 1
        out = states.new_empty(*states.shape[:-1], ctx.size + channels.shape[-1])
        _write_rotated(out, states, rotation)
        out[..., ctx.size :] = channels
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        (rotation,) = ctx.saved_tensors
        if grad_out.stride(-1) != 1:  # pairs must lie side by side
            grad_out = grad_out.contiguous()
        grad_states = grad_channels = None
        if ctx.needs_input_grad[0]:
            grad_states = grad_out.new_empty(*grad_out.shape[:-1], ctx.size)
            _write_rotated(grad_states, grad_out[..., : ctx.size], rotation, backwards=True)
        if ctx.needs_input_grad[1]:
            grad_channels = grad_out[..., ctx.size :].sum(0)
            if not ctx.by_head:
                grad_channels = grad_channels.sum(1, keepdim=True)
        return grad_states, grad_channels, None


def _write_rotated(out: Tensor, states: Tensor, rotation: Tensor, backwards: bool = False) -> None:
    """``states`` [B, L, H, d], rotated, into the first d channels of ``out`` [B, L, H, d+e]."""
    size, half = states.shape[-1], _rotated_channels(rotation)
    _turn(out[..., :half], states[..., :half], rotation, backwards)
    out[..., half:size] = states[..., half:]


def _rotated_channels(rotation: Tensor) -> int:
    """Half of a head's channels: the others tell nothing of the place."""
    return 2 * rotation.shape[-2]


def _turn(out: Tensor, half: Tensor, rotation: Tensor, backwards: bool = False) -> None:
    """Turn the pairs of ``half`` [B, L, H, d/2] by their angles; ``out`` may be ``half`` itself."""
    if torch.compiler.is_compiling():
        out.copy_(_turned(half, rotation, backwards))
        return
    by = torch.view_as_complex(rotation)
    by = by.conj() if backwards else by
    if half.dtype in (torch.float32, torch.float64):
        torch.mul(_as_complex(half), by, out=_as_complex(out))
    else:
        out.copy_(torch.view_as_real(_as_complex(half.float()).mul_(by)).flatten(-2))


def _as_complex(half: Tensor) -> Tensor:
    return torch.view_as_complex(half.unflatten(-1, (-1, 2)))


def _turned(half: Tensor, rotation: Tensor, backwards: bool = False) -> Tensor:
    """As :func:`_turn` in real numbers: Inductor does not fuse complex ones, which are faster
    where nothing is compiled."""
    wide = half if half.dtype == torch.float64 else half.float()
    even, odd = wide.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotation.unbind(-1)
    sin = -sin if backwards else sin
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(half.dtype)


def _rotate_in_place(states: Tensor, rotation: Tensor, backwards: bool = False) -> None:
    half = states[..., : _rotated_channels(rotation)]
    _turn(half, half, rotation, backwards)


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
    wide = torch.promote_types(query.dtype, torch.float32)
    weights = torch.softmax(scores, dim=-1, dtype=wide).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2), weights


def folded_inputs(
    query: Tensor, key: Tensor, bias: Tensor, layout: TokenLayout, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Put the same-variable bias into the dot product, exactly, without an [H, Q, L] tensor.

    Softmax is invariant to a constant per query, so only bias[same] - bias[different] matters:
    the query carries it at its variable's place of C extra channels, the key carries a one there.

    Unrotated query [B, Q, H, d] and key [B, L, H, d] -> both rotated with d+e channels, and the
    boolean mask [1, 1, Q, L].
    """
    extra = _filled(query.shape[-1] + layout.num_variables) - query.shape[-1]
    difference = (bias[1] - bias[0]).to(query.dtype)
    hot_query = F.one_hot(layout.query_variable, extra).to(query.dtype)
    hot_key = F.one_hot(layout.key_variable, extra).to(query.dtype)
    return (
        rotate(query, layout.query_rotation, difference[:, None] * hot_query[:, None]),
        rotate(key, layout.rotation, hot_key[:, None]),
        layout.visible[None, None],
    )


def masked_inputs(
    query: Tensor, key: Tensor, bias: Tensor, layout: TokenLayout, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same-variable bias as an additive mask [1, H, Q, L] with a gradient; heads stay d wide.

    Shapes as in :func:`folded_inputs`. Every layer keeps its mask for backward, where a GPU's
    memory-efficient kernel makes a gradient [B, H, Q, L] of it, one layer at a time: 127 MB in
    half precision for 12 samples, 8 heads and 810 tokens.
    """
    extra = _filled(query.shape[-1]) - query.shape[-1]
    nothing = query.new_zeros(1, 1, extra)
    return (
        rotate(query, layout.query_rotation, nothing.expand(query.shape[1], -1, -1)),
        rotate(key, layout.rotation, nothing.expand(key.shape[1], -1, -1)),
        _biased_mask(bias, layout, scaling, query.dtype),
    )


HIDDEN_SCORE = -30_000.0  # fp16 holds it; the exponential of what scaling leaves of it is 0


def hide(
    query: Tensor, key: Tensor, value: Tensor, is_hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give query, key and value [B, ., H, d] eight more channels that hide tokens [B, L] as keys.

    In the first of them a query holds a one, a hidden key HIDDEN_SCORE and any other key a zero. So
    no mask [B, H, Q, L] is needed, which would be as large as the scores.
    """
    query, key, value = (F.pad(states, (0, 8)) for states in (query, key, value))
    query[..., -8] = 1.0
    key[..., -8] = HIDDEN_SCORE * is_hidden[:, :, None].to(key.dtype)
    return query, key, value


def _filled(channels: int) -> int:
    """Up to a multiple of 8, which the fused GPU kernels ask for."""
    return -(-channels // 8) * 8


class FusedCPUAttention(torch.autograd.Function):
    """Rotary embedding, biased attention and its gradients on the CPU's flash kernel.

    Keeps q, k, v, the output and one number per row; never a [B, H, L, L] tensor. The kernel
    takes the bias as a mask [1, H, Q, L], rebuilt in backward, and returns no gradient for it:
    d(loss)/d(bias) is summed here over the small same-variable blocks (rows of softmax gradients
    add up to zero, so the different-variable bias gets the negative). Query and key are rotated
    in place: they are fresh outputs of linear layers, whose backward does not read them.
    """

    @staticmethod
    def forward(ctx, query, key, value, bias, layout, scaling):  # type: ignore[no-untyped-def]
        """query [B, Q, H, d], key and value [B, L, H, d], bias [2, H] -> [B, Q, H, d]."""
        _rotate_in_place(query, layout.query_rotation)
        _rotate_in_place(key, layout.rotation)
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
        _rotate_in_place(dq, layout.query_rotation, backwards=True)
        _rotate_in_place(dk, layout.rotation, backwards=True)
        grad_bias = None
        if ctx.needs_input_grad[3]:
            grad_bias = _bias_gradient(q, k, v, bias, out, logsumexp, grad_out, layout, scaling)
        return dq, dk, dv, grad_bias, None, None


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
    bias_mode: str = "folded",
    is_hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attention of unrotated query [B, Q, H, d] over key, value [B, L, H, d] -> [B, Q, H, d].

    ``is_hidden`` [B, L] marks tokens that no other may look at, whose weight is then exactly 0.

    Also returns the weights [B, H, Q, L] of eager attention; a fused kernel has none (None).

    ``query`` and ``key`` may be overwritten. bias [2, H]: row 0 for different variables, row 1
    for the same one. ``attend`` is a function of transformers' attention interface; ``bias_mode``
    says how a fused one takes the bias (``TimerXLConfig.variable_bias_mode``).
    """
    on_cpu = query.device.type == "cpu"
    dropout = dropout if module.training else 0.0
    is_sdpa = attend is ALL_ATTENTION_FUNCTIONS["sdpa"]
    head_size, scaling = value.shape[-1], query.shape[-1] ** -0.5
    if is_hidden is not None:
        query, key, value = hide(query, key, value, is_hidden)
    if is_sdpa and on_cpu and dropout == 0.0 and _HAS_CPU_KERNEL:
        out = FusedCPUAttention.apply(query, key, value, bias, layout, scaling)
        return out[..., :head_size], None

    arguments: dict[str, Any] = {"scaling": scaling, "dropout": dropout}
    if attend is eager_attention_forward:
        same = layout.same_variable.to(query.dtype)
        position_bias = bias[0][:, None, None] * (1 - same) + bias[1][:, None, None] * same
        out, weights = attend(
            module,
            rotate(query, layout.query_rotation).transpose(1, 2),
            rotate(key, layout.rotation).transpose(1, 2),
            value.transpose(1, 2),
            attention_mask=layout.visible[None, None],
            position_bias=position_bias.to(query.dtype),
            **arguments,
        )
        return out[..., :head_size], weights

    prepare = {"folded": folded_inputs, "mask": masked_inputs}[bias_mode]

    def fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        query, key, mask = prepare(query, key, bias, layout, scaling)
        if missing := _filled(value.shape[-1]) - value.shape[-1]:
            value = F.pad(value, (0, missing))
        states = (tokens.transpose(1, 2) for tokens in (query, key, value))
        return attend(module, *states, attention_mask=mask, is_causal=False, **arguments)[0]

    if is_sdpa and on_cpu and dropout > 0.0 and torch.is_grad_enabled():
        # The CPU's kernel has no dropout: SDPA would keep several [B, H, L, L] tensors a layer.
        out = checkpoint(fused, query, key, value, bias, use_reentrant=False)
    else:
        out = fused(query, key, value, bias)
    return out[..., :head_size], None
