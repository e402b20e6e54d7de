"""What a GPU's kernels keep for backward where a CPU's keep something else, for tracing.

A trace with fake tensors runs on the CPU's operators. Three of them differ on a GPU in what they
hold on to: dropout keeps a mask of one byte (a CPU's four), attention is one fused kernel that
keeps its inputs, its output and one number per row, and under autocast a LayerNorm works in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

EFFICIENT_ATTENTION = "timerxl_efficient_attention_on_paper"
_ROWS_ALIGNMENT = 32  # the kernel pads its numbers per row to this
_MASK_ALIGNMENT = 16  # and the rows of a mask's gradient to this


class _EfficientAttention(torch.autograd.Function):
    """Memory of ``aten::_scaled_dot_product_efficient_attention``, the one fused kernel that takes
    a mask on every GPU: [B, H, Q, d] in, [B, H, Q, d] out; no [B, H, Q, L] tensor, and dropout
    from a seed instead of a mask. The numbers are never computed."""

    @staticmethod
    def forward(ctx, query, key, value, bias):  # type: ignore[no-untyped-def]
        batch, heads, rows, _ = query.shape
        out = query.new_empty(batch, rows, heads, value.shape[-1]).transpose(1, 2)
        padded = -(-rows // _ROWS_ALIGNMENT) * _ROWS_ALIGNMENT
        logsumexp = query.new_empty(batch, heads, padded, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, bias, out, logsumexp)
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        query, key, value, bias = ctx.saved_tensors[:4]
        grad_bias = None
        if ctx.needs_input_grad[3]:
            # In rows filled up to a multiple of 16, then summed over what the mask is shared by.
            rows, columns = bias.shape[-2:]
            padded = -(-columns // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
            full = query.new_empty(*query.shape[:2], rows, padded)[..., :columns]
            grad_bias = full.sum_to_size(bias.shape)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), grad_bias


def efficient_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Stands where transformers' ``sdpa_attention_forward`` would call the fused kernel."""
    bias = attention_mask
    if bias.dtype == torch.bool:
        # It becomes an additive one of the query's format, shared by batch and heads.
        bias = torch.zeros_like(attention_mask, dtype=query.dtype)
    out = _EfficientAttention.apply(query, key, value, bias)
    return out.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(EFFICIENT_ATTENTION, efficient_attention)


class CudaKernels(TorchFunctionMode):
    """While active, dropout and LayerNorm allocate what they allocate on a GPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func is F.layer_norm and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **kwargs)


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0.0:
        return input
    return torch.native_dropout(input, p, True)[0]
