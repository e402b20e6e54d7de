"""What a GPU's kernels keep for backward where a CPU's keep something else, for tracing.

A trace with fake tensors runs on the CPU's operators. Three of them differ on a GPU in what they
hold on to: dropout keeps a mask of one byte (a CPU's four), attention is one fused kernel that
keeps its inputs, its output and one number per row, and under autocast a LayerNorm works in fp32.
Attention's backward works in a buffer of its own, and cuBLAS keeps one.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

EFFICIENT_ATTENTION = "timerxl_efficient_attention_on_paper"
_ROWS_ALIGNMENT = 32  # the kernel pads its numbers per row to this
_MASK_ALIGNMENT = 16  # and the rows of a mask's gradient to this
# Of the GPU that is traced for, and the workspace that attention's backward holds right now.
CAPABILITY: ContextVar[tuple[int, int]] = ContextVar("capability", default=(8, 0))
LIVE_WORKSPACE: ContextVar[int] = ContextVar("live_workspace", default=0)


def cublas_workspace(capability: tuple[int, int]) -> int:
    """Bytes that torch allocates for cuBLAS once a process, cuBLASLt sharing them.

    2 x 4 MiB and 8 x 16 KiB, from Hopper on 32 MiB (ATen/cuda/CublasHandlePool.cpp).
    """
    return 32 * 2**20 if capability >= (9, 0) else 2 * 4096 * 1024 + 8 * 16 * 1024


def _backward_blocks(
    channels: int, half: bool, capability: tuple[int, int]
) -> tuple[int, int, bool]:
    """(queries, keys) of a block, and whether the gradients of key and value stay in registers.

    In the order in which mem_eff_attention/kernels/cutlassB.h offers its kernels; blocks of 128
    need more shared memory than T4 and the GeForce generations have.
    """
    large = capability in ((7, 0), (8, 0)) or 9 <= capability[0] < 12
    if not half:
        return (128 if large and channels > 64 and capability >= (8, 0) else 64), 64, False
    if channels <= 64:
        return 64, 64, True
    if channels <= 96 and capability in ((8, 6), (8, 9)):
        return 128, 64, True
    if channels <= 128 and large:
        return 128, (128 if capability >= (8, 0) else 64), True
    return (128 if large else 64), 64, False


def attention_workspace(
    batch: int,
    heads: int,
    queries: int,
    keys: int,
    channels: int,
    value_channels: int,
    half: bool,
    capability: tuple[int, int],
) -> int:
    """Bytes of fp32 accumulators in the backward pass of memory-efficient attention.

    Per sample and head: a padded block of the query's gradient for every block of queries and of
    channels, and, where they don't stay in registers, a block of the key's and the value's
    gradient per split of the keys (``workspace_size`` in mem_eff_attention/kernel_backward.h).
    """
    widest = max(channels, value_channels)
    block_queries, block_keys, in_registers = _backward_blocks(widest, half, capability)
    for_query = -(-queries // block_queries) * -(-channels // block_keys)
    for_query *= block_queries * block_keys + 4  # a lock and a counter, padded to 16 bytes
    splits = 0
    if not in_registers:
        splits = max(1, min(-(-keys // block_keys), 200 // (batch * heads)))
    padded = sum(-(-one // block_queries) * block_queries for one in (channels, value_channels))
    for_key_and_value = splits * block_keys * padded
    return batch * heads * (for_query + for_key_and_value) * 4


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
        grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        batch, heads, queries, channels = query.shape
        size = attention_workspace(
            batch,
            heads,
            queries,
            key.shape[2],
            channels,
            value.shape[3],
            query.dtype != torch.float32,
            CAPABILITY.get(),
        )
        full = None
        if ctx.needs_input_grad[3]:
            # In rows filled up to a multiple of 16, then summed over what the mask is shared by.
            rows, columns = bias.shape[-2:]
            padded = -(-columns // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
            full = query.new_empty(*query.shape[:2], rows, padded)[..., :columns]
        token = LIVE_WORKSPACE.set(size)
        workspace = query.new_empty(size, dtype=torch.uint8)
        del workspace
        LIVE_WORKSPACE.reset(token)
        return *grads, None if full is None else full.sum_to_size(bias.shape)


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
