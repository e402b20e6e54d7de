"""One block of Timer-XL. Shapes: B batch, L = C*N tokens, Q asking tokens, H heads, D hidden."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention_timerxl import TokenLayout, eager_attention_forward, timer_attention
from .configuration_timerxl import TimerXLConfig


class TimerXLAttention(nn.Module):
    """Multi-head attention over all tokens of all variables."""

    def __init__(self, config: TimerXLConfig):
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.o_proj = nn.Linear(size, size)
        self.variable_bias = nn.Embedding(2, self.num_heads)

    def forward(
        self, asking: Tensor, hidden_states: Tensor, batch_size: int, layout: TokenLayout
    ) -> Tensor:
        """asking [B*Q, D] attends to hidden_states [B*L, D]; returns [B*Q, D]."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )

        def by_head(states: Tensor) -> Tensor:  # [B*L, D] -> [B, L, H, d]
            return states.view(batch_size, -1, self.num_heads, states.shape[-1] // self.num_heads)

        out = timer_attention(
            self,
            by_head(self.q_proj(asking)),
            by_head(self.k_proj(hidden_states)),
            by_head(self.v_proj(hidden_states)),
            self.variable_bias.weight,
            layout,
            attend,
            self.config.attention_dropout,
            self.config.variable_bias_mode,
        )
        return self.o_proj(out.flatten(2).flatten(0, 1))


class VariableEmbedding(nn.Embedding):
    """One vector per variable; a class of its own, so that it can start at zero."""


class TimerXLLayer(GradientCheckpointingLayer):
    """Post-norm block: attention, then feed-forward, each added and normalised."""

    def __init__(self, config: TimerXLConfig):
        super().__init__()
        self.self_attn = TimerXLAttention(config)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = config.hidden_dropout
        self.hidden_act = config.hidden_act

    def _drop(self, states: Tensor) -> Tensor:
        return F.dropout(states, self.dropout, self.training)

    def forward(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor:
        """[B, L, D] -> [B, Q, D], Q the tokens that ``layout`` lets ask."""
        batch_size = hidden_states.shape[0]
        states = layout.per_variable_tail(hidden_states, dim=1).flatten(0, 1)
        # Rows stay flat and sums and relu are made in place: nothing reads a linear layer's own
        # output in backward, and a view would cost autograd a copy for every in-place step.
        attended = self.self_attn(states, hidden_states.flatten(0, 1), batch_size, layout)
        states = self.norm1(self._drop(attended).add_(states))
        inner = self.linear1(states)
        inner = inner.relu_() if self.hidden_act == "relu" else F.gelu(inner)
        # OpenLTM drops after the activation and after the second projection.
        fed = self._drop(self.linear2(self._drop(inner)))
        return self.norm2(fed.add_(states)).unflatten(0, (batch_size, -1))
