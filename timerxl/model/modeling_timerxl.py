"""Timer-XL for Hugging Face transformers: backbone, next-patch forecaster, classifier.

Shape legend: B batch, T time steps, C variables, P patch length, N = T/P patches, L = C*N tokens
(variable-major), H heads, D hidden size, S static features, K labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .attention_timerxl import TokenLayout, token_layout
from .configuration_timerxl import TimerXLConfig
from .flops_timerxl import flops_per_sample
from .layers_timerxl import TimerXLLayer, VariableEmbedding
from .losses_timerxl import classification_loss
from .outputs_timerxl import (
    TimerXLClassificationOutput,
    TimerXLModelOutput,
    TimerXLPredictionOutput,
)


def refuse_wrapped(keys: Iterable[str]) -> None:
    """Raise ValueError where names of tensors are those of a compiled or distributed wrapper."""
    wrapped = [key for key in keys if "_orig_mod." in key or key.startswith("module.")]
    if wrapped:
        raise ValueError(
            f"{len(wrapped)} tensors are named like {wrapped[0][:80]}: saved from a model still "
            "wrapped by torch.compile (_orig_mod.) or a distributed engine (module.); save the "
            "unwrapped one (accelerate: unwrap_model(model, keep_torch_compile=False))."
        )


class TimerXLPreTrainedModel(PreTrainedModel):
    config_class = TimerXLConfig
    config: TimerXLConfig
    base_model_prefix = "timer_xl"
    main_input_name = "past_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["TimerXLLayer"]
    # The loss is normalised by the caller's loss_normalizer, not by Trainer's token count.
    accepts_loss_kwargs = False

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As transformers' own; raises ValueError for the weights of a model still wrapped, whose
        names fit nowhere: transformers would take random weights instead, with a warning."""
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        refuse_wrapped(loaded[1]["unexpected_keys"])
        return loaded if output_loading_info else loaded[0]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """torch's own defaults, as OpenLTM trains from; the variable embedding starts at zero."""
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, VariableEmbedding):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)

    def flops_per_sample(
        self,
        sequence_length: int | None = None,
        num_variables: int | None = None,
        training: bool = True,
    ) -> int:
        """Floating-point operations of one sample; see :func:`flops_timerxl.flops_per_sample`."""
        return flops_per_sample(
            self.config,
            head=type(self).__name__,
            sequence_length=sequence_length,
            num_variables=num_variables,
            training=training,
            checkpointing=self.is_activation_checkpointing,
        )


class TimerXLModel(TimerXLPreTrainedModel):
    """Backbone: patches of every variable to hidden states."""

    def __init__(self, config: TimerXLConfig):
        super().__init__(config)
        self.embedding = nn.Linear(config.patch_length, config.hidden_size)
        self.variable_embedding = None
        if config.variable_embedding:
            variables = config.num_variables or 0  # the configuration has checked it
            self.variable_embedding = VariableEmbedding(variables, config.hidden_size)
        self.layers = nn.ModuleList(TimerXLLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._layouts: dict[Any, TokenLayout] = {}
        self.post_init()

    def _layout(self, num_variables: int, num_patches: int, device: torch.device) -> TokenLayout:
        key = (num_variables, num_patches, device)
        if key not in self._layouts:
            config = self.config
            # One shape at a time: the mask of a long context is megabytes.
            # Made outside inference mode, whose tensors a later training step could not keep.
            with torch.inference_mode(False):
                layout = token_layout(
                    num_variables,
                    num_patches,
                    config.hidden_size // config.num_attention_heads,
                    covariate=config.covariate,
                    rope_theta=config.rope_theta,
                    device=device,
                )
            self._layouts = {key: layout}
        return self._layouts[key]

    def _check(self, past_values: Tensor) -> None:
        config = self.config
        if past_values.ndim != 3:
            shape = list(past_values.shape)
            raise ValueError(f"past_values has shape {shape}; expected [B, T, C].")
        steps, variables = past_values.shape[1:]
        if steps == 0 or steps % config.patch_length:
            raise ValueError(
                f"past_values has {steps} time steps; expected a multiple of patch_length "
                f"{config.patch_length}: give {steps // config.patch_length * config.patch_length} "
                f"or {(steps // config.patch_length + 1) * config.patch_length}."
            )
        if config.needs_fixed_variables and variables != config.num_variables:
            raise ValueError(
                f"past_values has {variables} variables; this model was built for num_variables="
                f"{config.num_variables}. Give those, in the order of training, or build a model "
                f"with num_variables={variables}."
            )

    def forward(
        self,
        past_values: Tensor,
        output_hidden_states: bool | None = None,
        last_patch_only: bool = False,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> TimerXLModelOutput | tuple[Any, ...]:
        """past_values [B, T, C]; T a multiple of ``patch_length``.

        With ``last_patch_only`` the last layer computes the last patch of every variable alone
        (exactly: no other output is read) and the result is [B, C, D]. Raises ValueError where
        T or C does not fit.
        """
        self._check(past_values)
        variables = past_values.shape[2]
        patches = past_values.shape[1] // self.config.patch_length
        tokens = past_values.transpose(1, 2).unflatten(2, (patches, -1))  # [B, C, N, P]
        hidden = self.embedding(tokens.to(self.embedding.weight.dtype))
        if self.variable_embedding is not None:
            hidden = hidden + self.variable_embedding.weight[:, None, :].to(hidden.dtype)
        hidden = hidden.flatten(1, 2)  # [B, L, D]
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        collected = [hidden] if output_hidden_states else None
        layout = self._layout(variables, patches, past_values.device)
        for index, layer in enumerate(self.layers):
            if last_patch_only and index == len(self.layers) - 1:
                layout = layout.last_patches()
            hidden = layer(hidden, layout)
            if collected is not None:
                collected.append(hidden)
        hidden = self.norm(hidden)
        output = TimerXLModelOutput(hidden, tuple(collected) if collected is not None else None)
        return output.to_tuple() if return_dict is False else output


class TimerXLForPrediction(TimerXLPreTrainedModel):
    """OpenLTM's forecaster: every patch predicts the next one of its variable."""

    def __init__(self, config: TimerXLConfig):
        super().__init__(config)
        self.timer_xl = TimerXLModel(config)
        self.head = nn.Linear(config.hidden_size, config.patch_length)
        self.post_init()

    def forward(
        self,
        past_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> TimerXLPredictionOutput | tuple[Any, ...]:
        """past_values [B, T, C], labels [B, T, C]: the series one patch later (squared error)."""
        values = past_values
        if self.config.instance_norm and past_values.ndim == 3:
            mean = past_values.mean(1, keepdim=True)
            scale = (past_values.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
            values = (past_values - mean) / scale
        outputs = self.timer_xl(values, output_hidden_states=output_hidden_states)
        steps, variables = past_values.shape[1:]
        patches = self.head(outputs.last_hidden_state)  # [B, L, P]
        forecast = patches.reshape(len(patches), variables, steps).transpose(1, 2)
        if self.config.instance_norm:
            forecast = forecast * scale + mean
        loss = None
        if labels is not None:
            loss = F.mse_loss(forecast.float(), labels.float())
        output = TimerXLPredictionOutput(loss, forecast, outputs.hidden_states)
        return output.to_tuple() if return_dict is False else output


class TimerXLForClassification(TimerXLPreTrainedModel):
    """Classifier on the backbone; see ``pooling`` in :class:`TimerXLConfig`."""

    def __init__(self, config: TimerXLConfig):
        super().__init__(config)
        self.timer_xl = TimerXLModel(config)
        pooled = config.hidden_size * (config.num_variables or 1)
        self.head = None
        if config.pooling == "mean":
            pooled = config.patch_length
            self.head = nn.Linear(config.hidden_size, pooled)
        num_labels: int = config.num_labels  # type: ignore[assignment]
        width = config.classifier_hidden_size
        self.classifier_norm = nn.LayerNorm(pooled, eps=config.layer_norm_eps)
        self.classifier_dense = nn.Linear(pooled + config.num_static_real_features, width)
        self.classifier_out = nn.Linear(width, num_labels)
        self.post_init()

    def _pool(self, past_values: Tensor, output_hidden_states: bool | None) -> tuple[Tensor, Any]:
        if self.config.instance_norm and past_values.ndim == 3:
            mean = past_values.mean(1, keepdim=True)
            variance = past_values.var(1, keepdim=True, unbiased=False)
            past_values = (past_values - mean) / (variance + 1e-6).sqrt().clamp(min=1e-5)
        last = self.config.pooling == "last"
        outputs = self.timer_xl(
            past_values, output_hidden_states=output_hidden_states, last_patch_only=last
        )
        if self.head is None:
            return outputs.last_hidden_state.flatten(1), outputs.hidden_states
        # The head is linear, so the mean over tokens may come first: the same at 1/L of the cost.
        return self.head(outputs.last_hidden_state.mean(1)), outputs.hidden_states

    def _join_static(self, pooled: Tensor, static: Tensor | None) -> Tensor:
        expected = self.config.num_static_real_features
        found = 0 if static is None else static.shape[-1]
        if found != expected:
            raise ValueError(
                f"static_real_features has {found} columns; this model was built for "
                f"num_static_real_features={expected}."
            )
        return pooled if static is None else torch.cat([pooled, static.to(pooled.dtype)], dim=-1)

    def forward(
        self,
        past_values: Tensor,
        labels: Tensor | None = None,
        static_real_features: Tensor | None = None,
        loss_normalizer: Tensor | float | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> TimerXLClassificationOutput | tuple[Any, ...]:
        """past_values [B, T, C], labels [B] (-100: not counted), static_real_features [B, S].

        ``loss_normalizer``: the sum of sample weights over the global batch (see
        ``losses_timerxl.sample_weights``); by default this batch's own.
        """
        pooled, hidden_states = self._pool(past_values, output_hidden_states)
        features = self._join_static(self.classifier_norm(pooled), static_real_features)
        inner = F.gelu(self.classifier_dense(features))
        inner = F.dropout(inner, self.config.hidden_dropout, self.training)
        logits = self.classifier_out(inner)
        loss = None
        if labels is not None:
            loss = classification_loss(
                logits,
                labels,
                name=self.config.loss_name,
                alpha=self.config.loss_alpha,
                gamma=self.config.loss_gamma,
                normalizer=loss_normalizer,
            )
        output = TimerXLClassificationOutput(loss, logits, hidden_states)
        return output.to_tuple() if return_dict is False else output


__all__ = [
    "TimerXLForClassification",
    "TimerXLForPrediction",
    "TimerXLModel",
    "TimerXLPreTrainedModel",
]
