"""Timer-XL for Hugging Face transformers: backbone, next-patch forecaster, classifier.

Shape legend: B batch, T time steps, C variables, P patch length, N = T/P patches, L = C*N tokens
(variable-major), H heads, D hidden size, S static features, K classes, M patches with a label. With
G regions in a window C stands for the variables of one, and L = G*C*N. With k neighbours each
region looks at W = 1 + k of them, its own first: a sample is then G windows of W*C*N tokens. Where
regions meet in the classifier alone, W = 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, logging

from .attention_timerxl import TokenLayout, eager_attention_forward, timer_attention, token_layout
from .configuration_timerxl import TimerXLConfig

logger = logging.get_logger(__name__)
IGNORE_INDEX = -100
LOSS_NAMES = ("cross_entropy", "weighted_cross_entropy", "focal")


@dataclass
class TimerXLModelOutput(ModelOutput):
    """last_hidden_state [B, L, D], or [B, C, D] where only the last patches were asked for.

    ``hidden_states``: the embedding and each layer; ``attentions``: [B, H, L, L] of each layer.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class TimerXLClassificationOutput(ModelOutput):
    """loss scalar (fp32), logits [B, K], or [B, M, K] at ``label_positions``.

    ``next_patch_loss``: the part of the loss that is the next patch's, before its weight.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    next_patch_loss: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class TimerXLPredictionOutput(ModelOutput):
    """loss scalar (fp32), prediction_outputs [B, T, C]: patch n holds the forecast of n + 1."""

    loss: Tensor | None = None
    prediction_outputs: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def sample_weights(labels: Tensor, name: str, alpha: float) -> Tensor:
    """What every label adds to the loss's normaliser, in the labels' shape; 0 where it is -100.

    Class-weighted cross-entropy is divided by the sum of the weights (as torch's
    ``CrossEntropyLoss(weight=...)``), cross-entropy and focal loss by the number of labels.
    """
    counted = (labels != IGNORE_INDEX).float()
    if name == "weighted_cross_entropy":
        return counted * torch.where(labels == 1, alpha, 1.0 - alpha)
    return counted


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    name: str = "cross_entropy",
    alpha: float = 0.5,
    gamma: float = 2.0,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Sum of the labels' losses over ``normalizer``.

    logits [..., 2], labels [...] (0, 1, or -100 for "not counted"). ``normalizer`` is the sum of
    :func:`sample_weights` over the GLOBAL batch where this batch is a part of one; None takes
    this batch alone. Focal loss: alpha_t (1 - p_t)^gamma CE with alpha for class 1 and 1 - alpha
    for class 0 (Lin et al. 2017, eq. 5).
    """
    logits, labels = logits.float().flatten(0, -2), labels.flatten()
    losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE_INDEX)
    if name not in LOSS_NAMES:
        raise ValueError(f"loss_name is {name!r}; expected one of {', '.join(LOSS_NAMES)}.")
    if name != "cross_entropy":
        losses = losses * torch.where(labels == 1, alpha, 1.0 - alpha)
    if name == "focal":
        # 1 - p_t from the other class's probability: exact where p_t rounds to one.
        other = 1 - labels.clamp(min=0)
        miss = torch.softmax(logits, dim=-1).gather(1, other[:, None])[:, 0]
        # Clamped for gamma below one, whose derivative at zero is infinite.
        losses = losses * miss.clamp(min=torch.finfo(miss.dtype).tiny) ** gamma
    if normalizer is None:
        normalizer = sample_weights(labels, name, alpha).sum().clamp(min=1e-12)
    return losses.sum() / normalizer


def flops_per_sample(
    config: TimerXLConfig,
    *,
    head: str,
    sequence_length: int | None = None,
    num_variables: int | None = None,
    training: bool = True,
    checkpointing: bool = False,
    label_patches: int | None = None,
) -> int:
    """Count floating-point operations of one window, attention and skipped work included.

    Two per multiply-add of every matrix product that runs; element-wise work is left out. A
    training step costs three forward passes, and one more of the layers under gradient
    checkpointing (Kaplan et al. 2020, section 2.1, with the attention products counted in full).

    Args:
        head: class name of the model; each pools and projects in its own way.
        sequence_length, num_variables: T and C (of one region); by default those of the
            configuration.
        label_patches: M, the patches at which the classifier answers; None is the last one alone.
    """
    patches = (sequence_length or config.context_length) // config.patch_length
    variables = num_variables or config.num_variables
    if variables is None:
        raise ValueError("pass num_variables: the configuration does not fix it.")
    own, variables = variables * (config.num_regions or 1), variables * config.regions_in_window
    windows = (config.num_regions or 1) if config.has_window_per_region else 1
    tokens, size = variables * patches, config.hidden_size
    in_layers = 0
    skips = (
        head == "TimerXLForClassification" and config.pooling == "last" and label_patches is None
    )
    for index in range(config.num_hidden_layers):
        # With pooling="last" only the last patches ask in the last layer.
        asking = variables if skips and index == config.num_hidden_layers - 1 else tokens
        in_layers += 4 * tokens * size**2 + 4 * asking * size**2  # k, v; q, output
        in_layers += 4 * asking * tokens * size  # scores and weighted values
        in_layers += 4 * asking * size * config.intermediate_size
    in_layers *= windows
    total = in_layers + 2 * windows * tokens * config.patch_length * size
    total += _head_flops(config, head, own, own * patches, label_patches)
    if not training:
        return total
    return 3 * total + (in_layers if checkpointing else 0)


def _head_flops(
    config: TimerXLConfig, head: str, variables: int, tokens: int, label_patches: int | None
) -> int:
    size, patch = config.hidden_size, config.patch_length
    if head == "TimerXLForPrediction":
        return 2 * tokens * size * patch
    if head != "TimerXLForClassification":
        return 0
    regions = config.num_regions or 1
    pooled = patch if config.pooling == "mean" else variables // regions * size
    width, labels = config.classifier_hidden_size, config.num_labels or 0
    projected = size * patch if config.pooling == "mean" else 0
    answer = projected + (pooled + config.num_static_real_features) * width + width * labels
    if config.mixes_in_classifier:
        answer += pooled * width + (0 if config.region_neighbours else regions * width)
    # The head of the next patch runs in training alone.
    forecast = tokens * size * patch if label_patches and config.next_patch_head else 0
    return 2 * (answer * regions * (label_patches or 1) + forecast)


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
        self,
        queries: Tensor,
        hidden_states: Tensor,
        batch_size: int,
        layout: TokenLayout,
        output_attentions: bool = False,
        is_hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """queries [B*Q, D] attend to hidden_states [B*L, D]; returns [B*Q, D] and the weights.

        ``is_hidden`` [B, L]: tokens that nothing attends to.
        """
        way = "eager" if output_attentions else self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(way, eager_attention_forward)

        def by_head(states: Tensor) -> Tensor:  # [B*L, D] -> [B, L, H, d]
            return states.view(batch_size, -1, self.num_heads, states.shape[-1] // self.num_heads)

        out, weights = timer_attention(
            self,
            by_head(self.q_proj(queries)),
            by_head(self.k_proj(hidden_states)),
            by_head(self.v_proj(hidden_states)),
            self.variable_bias.weight,
            layout,
            attend,
            self.config.attention_dropout,
            self.config.variable_bias_mode,
            is_hidden,
        )
        return self.o_proj(out.flatten(2).flatten(0, 1)), weights if output_attentions else None


class _Places:
    """Indices int64 [G, K] on the device that asks, copied there once; no part of the state."""

    def __init__(self, rows: list[list[int]]) -> None:
        self._rows = rows
        self._held: Tensor | None = None

    def on(self, device: torch.device) -> Tensor:
        if self._held is None or self._held.device != device:
            # Outside inference mode, whose tensors a later training step could not keep.
            with torch.inference_mode(False):
                self._held = torch.tensor(self._rows, dtype=torch.long).to(device)
        return self._held


class VariableEmbedding(nn.Embedding):
    """One vector per variable, or region; a class of its own, so that it can start at zero."""


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
        self.activation = ACT2FN[config.hidden_act]
        if isinstance(self.activation, nn.ReLU):
            self.activation.inplace = True

    def _drop(self, states: Tensor) -> Tensor:
        return F.dropout(states, self.dropout, self.training)

    def forward(
        self,
        hidden_states: Tensor,
        layout: TokenLayout,
        output_attentions: bool = False,
        is_hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """[B, L, D] -> [B, Q, D], Q the query tokens of ``layout``; and the weights if asked."""
        batch_size = hidden_states.shape[0]
        states = layout.per_variable_tail(hidden_states, dim=1).flatten(0, 1)
        # Rows stay flat and sums and relu are made in place: nothing reads a linear layer's own
        # output in backward, and a view would cost autograd a copy for every in-place step.
        attended, weights = self.self_attn(
            states, hidden_states.flatten(0, 1), batch_size, layout, output_attentions, is_hidden
        )
        states = self.norm1(self._drop(attended).add_(states))
        inner = self.activation(self.linear1(states))
        # OpenLTM drops after the activation and after the second projection.
        fed = self._drop(self.linear2(self._drop(inner)))
        return self.norm2(fed.add_(states)).unflatten(0, (batch_size, -1)), weights


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
        """torch's own defaults, as OpenLTM trains from; embeddings of variables and regions, and
        the weights of other regions, start at zero."""
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, VariableEmbedding | RegionMixing):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)

    def flops_per_sample(
        self,
        sequence_length: int | None = None,
        num_variables: int | None = None,
        training: bool = True,
        label_patches: int | None = None,
    ) -> int:
        """Floating-point operations of one window; see :func:`flops_per_sample`."""
        return flops_per_sample(
            self.config,
            head=type(self).__name__,
            sequence_length=sequence_length,
            num_variables=num_variables,
            training=training,
            checkpointing=self.is_activation_checkpointing,
            label_patches=label_patches,
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
        self.region_embedding = None
        if config.num_regions is not None:
            self.region_embedding = VariableEmbedding(config.num_regions, config.hidden_size)
        self.layers = nn.ModuleList(TimerXLLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._layouts: dict[Any, TokenLayout] = {}
        near = config.region_neighbours or []
        if config.mixes_in_classifier:
            near = [[]] * (config.num_regions or 0)
        # [G, W]: each region and those whose tokens it attends to.
        self._seen = _Places([[region, *of] for region, of in enumerate(near)])
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
        if config.num_regions is not None:
            expected = config.num_regions * (config.num_variables or 0)
            if variables != expected:
                raise ValueError(
                    f"past_values has {variables} variables; this model was built for "
                    f"{config.num_regions} regions of {config.num_variables} variables, side by "
                    f"side: {expected}. Fill a missing region with zeros, and say so in "
                    "past_observed_mask."
                )
        elif config.needs_fixed_variables and variables != config.num_variables:
            raise ValueError(
                f"past_values has {variables} variables; this model was built for num_variables="
                f"{config.num_variables}. Give those, in the order of training, or build a model "
                f"with num_variables={variables}."
            )

    def _hidden(self, observed: Tensor | None, shape: torch.Size) -> Tensor | None:
        """[B, L] tokens not to be looked at: a step of theirs is missing in ``observed``."""
        if observed is None:
            return None
        regions, (batch, steps, variables) = self.config.num_regions, shape
        if regions is None or observed.shape != (batch, steps, regions):
            raise ValueError(
                f"past_observed_mask has shape {list(observed.shape)}; expected [B, T, G] = "
                f"{[batch, steps, regions]}, for a model with num_regions."
            )
        return self._tokens_hidden(observed, variables // regions)

    def _neighbourhoods(
        self, past_values: Tensor, observed: Tensor | None, seen: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Cut [B, T, G*C] into each region's window, its own variables first: [B*G, T, W*C], and
        which of its tokens [B*G, W*C*N] are not to be looked at."""
        regions, width = seen.shape

        def chosen(of_regions: Tensor) -> Tensor:  # [B, T, G, X] -> [B*G, T, W*X]
            picked = of_regions.index_select(2, seen.flatten())
            picked = picked.unflatten(2, (regions, width)).flatten(3)
            return picked.transpose(1, 2).flatten(0, 1)

        values = chosen(past_values.unflatten(2, (regions, -1)))
        if observed is None:
            return values, None
        variables = past_values.shape[2] // regions
        return values, self._tokens_hidden(chosen(observed.bool()[..., None]), variables)

    def observed_patches(self, observed: Tensor) -> Tensor:
        """bool [B, N, W]: which patches are observed at all steps, of ``observed`` [B, T, W]."""
        return observed.bool().unflatten(1, (-1, self.config.patch_length)).all(2)

    def _tokens_hidden(self, observed: Tensor, variables: int) -> Tensor:
        """[B, L] of ``observed`` [B, T, W], regions of so many variables each."""
        whole = self.observed_patches(observed)
        by_token = whole.transpose(1, 2).repeat_interleave(variables, dim=1)
        return ~by_token.flatten(1)

    def forward(
        self,
        past_values: Tensor,
        output_hidden_states: bool | None = None,
        last_patch_only: bool = False,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        past_observed_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> TimerXLModelOutput | tuple[Any, ...]:
        """past_values [B, T, C], or [B, T, G*C] region by region; T a multiple of ``patch_length``.

        ``past_observed_mask`` bool [B, T, G]: nothing attends to a patch with a step that is not
        observed, so that the other regions' states are those of a window without it.

        With ``last_patch_only`` the last layer computes the last patch of every variable alone
        (exactly: no other output is read) and the result is [B, C, D]. ``output_attentions``
        returns the weights [B, H, L, L] of each layer; a fused kernel has none, so that eager
        attention is taken for this call. With ``region_neighbours``, or where regions meet in the
        classifier (W = 1), the result is of the regions' own tokens, as without; ``hidden_states``
        and ``attentions`` are of the B*G windows, region by region, of W*C*N tokens each. Raises
        ValueError where T or C does not fit.
        """
        self._check(past_values)
        is_hidden = self._hidden(past_observed_mask, past_values.shape)
        seen = None
        if self.config.has_window_per_region:
            seen = self._seen.on(past_values.device)
            past_values, is_hidden = self._neighbourhoods(past_values, past_observed_mask, seen)
        variables = past_values.shape[2]
        patches = past_values.shape[1] // self.config.patch_length
        tokens = past_values.transpose(1, 2).unflatten(2, (patches, -1))  # [B, C, N, P]
        hidden = self.embedding(tokens.to(self.embedding.weight.dtype))
        if self.variable_embedding is not None:
            by_variable = self.variable_embedding.weight
            if self.region_embedding is not None:
                of_region = self.region_embedding.weight
                if seen is not None:
                    of_region = self.region_embedding(seen)  # [G, W, D]
                by_variable = (by_variable + of_region[..., None, :]).flatten(-3, -2)
            by_variable = by_variable[..., None, :].to(hidden.dtype)
            if seen is not None:  # [G, W*C, 1, D], the same for every sample
                hidden = (hidden.unflatten(0, (-1, len(seen))) + by_variable).flatten(0, 1)
            else:
                hidden = hidden + by_variable
        hidden = hidden.flatten(1, 2)  # [B, L, D]
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        collected = [hidden] if output_hidden_states else None
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_attentions and self.config._attn_implementation != "eager":
            logger.warning_once(
                f"{self.config._attn_implementation} attention returns no weights: eager attention "
                "is taken with output_attentions=True (slower, and more memory)."
            )
        attentions: list[Tensor] = []
        layout = self._layout(variables, patches, past_values.device)
        for index, layer in enumerate(self.layers):
            if last_patch_only and index == len(self.layers) - 1 and not output_attentions:
                layout = layout.last_patches()
            hidden, weights = layer(hidden, layout, bool(output_attentions), is_hidden)
            if output_attentions:
                attentions.append(weights)
            if collected is not None:
                collected.append(hidden)
        if last_patch_only and output_attentions:  # the weights are of all tokens
            hidden = layout.last_patches().per_variable_tail(hidden, dim=1)
        if seen is not None:  # of each window its own region's tokens, as if they stood together
            own = hidden.unflatten(1, (seen.shape[1], -1))[:, 0]
            hidden = own.unflatten(0, (-1, len(seen))).flatten(1, 2)
        hidden = self.norm(hidden)
        output = TimerXLModelOutput(
            hidden,
            tuple(collected) if collected is not None else None,
            tuple(attentions) if output_attentions else None,
        )
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
        loss_normalizer: Tensor | float | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> TimerXLPredictionOutput | tuple[Any, ...]:
        """past_values [B, T, C], labels [B, T, C]: the series one patch later.

        The loss is the mean squared error of the labels, those that are NaN left out.
        ``loss_normalizer``: the number of patches with labels in the GLOBAL batch where this batch
        is a part of one; None takes this batch alone.
        """
        values = past_values
        if self.config.instance_norm and past_values.ndim == 3:
            mean = past_values.mean(1, keepdim=True)
            scale = (past_values.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
            values = (past_values - mean) / scale
        outputs = self.timer_xl(
            values,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        steps, variables = past_values.shape[1:]
        patches = self.head(outputs.last_hidden_state)  # [B, L, P]
        forecast = patches.reshape(len(patches), variables, steps).transpose(1, 2)
        if self.config.instance_norm:
            forecast = forecast * scale + mean
        loss = None
        if labels is not None:
            counted = ~labels.isnan()
            errors = torch.where(counted, forecast.float() - labels.float(), 0.0)
            if loss_normalizer is None:
                loss = errors.square().sum() / counted.sum().clamp(min=1)
            else:
                each = self.config.patch_length * variables
                loss = errors.square().sum() / (loss_normalizer * each)
        output = TimerXLPredictionOutput(loss, forecast, outputs.hidden_states, outputs.attentions)
        return output.to_tuple() if return_dict is False else output


class RegionMixing(nn.Module):
    """What the classifier's hidden layer takes of the regions that one sees.

    Every hidden unit weighs each of them by a number of its own, zero at first:
    out[g] = sum over h of weight[g, h] * dense(states[h]); h is any of the G regions, g itself
    included, or one of the K neighbours of g.
    """

    def __init__(self, config: TimerXLConfig, pooled: int):
        super().__init__()
        regions, width = config.num_regions or 0, config.classifier_hidden_size
        near = config.region_neighbours
        self._near = None if near is None else _Places(near)
        seen = regions if near is None else len(near[0])
        self.dense = nn.Linear(pooled, width, bias=False)
        self.weight = nn.Parameter(torch.zeros(regions, seen, width))

    def forward(self, states: Tensor, observed: Tensor | None) -> Tensor:
        """states [..., G, X] to [..., G, width]; ``observed`` bool [..., G]: others give zero."""
        given = self.dense(states)
        if observed is not None:
            given = given.masked_fill(~observed[..., None], 0.0)
        if self._near is None:
            return torch.einsum("...hd,ghd->...gd", given, self.weight)
        near = self._near.on(given.device)  # [G, K]
        given = given.index_select(-2, near.flatten()).unflatten(-2, near.shape)
        return (given * self.weight).sum(-2)


class TimerXLForClassification(TimerXLPreTrainedModel):
    """Classifier on the backbone; see ``pooling`` in :class:`TimerXLConfig`.

    Attention is causal over patches, so that the classifier may answer after every patch of a
    window, of which it then knows no more than a window that ends there.
    """

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
        self.region_mixing = RegionMixing(config, pooled) if config.mixes_in_classifier else None
        self.next_patch = None
        if config.next_patch_head:
            self.next_patch = nn.Linear(config.hidden_size, config.patch_length)
        self.post_init()

    def _pool_last(
        self, past_values: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor | None, Any, Any]:
        """Pool the tokens of each window for its last patch: [B, pooled], or [B, G, pooled].

        The tokens themselves, [B, L, D], are given up here: nothing reads them again.
        """
        if self.config.instance_norm and past_values.ndim == 3:
            mean = past_values.mean(1, keepdim=True)
            variance = past_values.var(1, keepdim=True, unbiased=False)
            past_values = (past_values - mean) / (variance + 1e-6).sqrt().clamp(min=1e-5)
        last = self.config.pooling == "last"
        outputs = self.timer_xl(past_values, last_patch_only=last, **options)
        states, seen = outputs.last_hidden_state, (outputs.hidden_states, outputs.attentions)
        if self.config.num_regions is not None:
            states = states.unflatten(1, (self.config.num_regions, -1))
        if self.head is None:
            return states.flatten(-2), None, *seen
        # The head is linear, so the mean over tokens may come first: the same at 1/L of the cost.
        return self.head(states.mean(-2)), None, *seen

    def _pool_at(
        self, past_values: Tensor, positions: Tensor, forecasts: bool, **options: Any
    ) -> tuple[Tensor, Tensor | None, Any, Any]:
        """Pool the tokens up to each of M patches, [B, M, pooled], or [B, M, G, pooled]; forecast
        the next patches.

        The forecasts are [B, C, N - 1, P], of the patches 1 to N - 1, or None if not asked for.
        """
        config = self.config
        if config.instance_norm or config.covariate:
            which = "instance_norm" if config.instance_norm else "covariate"
            raise ValueError(
                f"label_positions with {which}: a label at an early patch would see the patches "
                f"after it; set {which}=False, or leave label_positions out."
            )
        outputs = self.timer_xl(past_values, **options)
        variables = past_values.shape[2]
        grid = outputs.last_hidden_state.unflatten(1, (variables, -1)).transpose(1, 2)  # B N C D
        if config.num_regions is not None:
            grid = grid.unflatten(2, (config.num_regions, -1))  # B N G C D
        if self.head is None:
            pooled = grid.index_select(1, positions).flatten(-2)
        else:
            count = torch.arange(1, grid.shape[1] + 1, device=grid.device, dtype=grid.dtype)
            means = grid.mean(-2).transpose(1, -2).cumsum(-2) / count[:, None]
            pooled = self.head(means.transpose(1, -2).index_select(1, positions))
        following = None
        if forecasts and self.next_patch is not None:
            # Of the last patches too, which is cheaper than a copy of the tokens without them.
            following = self.next_patch(outputs.last_hidden_state)
            following = following.unflatten(1, (variables, -1))[:, :, :-1]
        return pooled, following, outputs.hidden_states, outputs.attentions

    def _regions_observed(self, observed: Tensor | None, positions: Tensor | None) -> Tensor | None:
        """bool [B, G], or [B, M, G] at patches: whether what a region's state is pooled from is
        observed, of [B, T, G] steps."""
        if observed is None:
            return None
        whole = self.timer_xl.observed_patches(observed)  # [B, N, G]
        if self.config.pooling == "mean":  # of all patches up to there
            whole = whole.int().cumprod(1).bool()
        return whole[:, -1] if positions is None else whole.index_select(1, positions)

    def _join_static(self, pooled: Tensor, static: Tensor | None) -> Tensor:
        expected = self.config.num_static_real_features
        found = 0 if static is None else static.shape[-1]
        if found != expected:
            raise ValueError(
                f"static_real_features has {found} columns; this model was built for "
                f"num_static_real_features={expected}."
            )
        return pooled if static is None else torch.cat([pooled, static.to(pooled.dtype)], dim=-1)

    def _next_patch_loss(
        self,
        following: Tensor,
        past_values: Tensor,
        observed: Tensor | None,
        labels: Tensor,
        normalizer: Any,
    ) -> Tensor:
        """Huber loss (delta 1) of the next patches, [B, C, N - 1, P], against the window itself.

        A mean over variables and steps, summed over the windows that have a label that counts, over
        ``normalizer``, their number in the global batch. A patch that is not observed is no
        target, and what follows it is not forecast.
        """
        counted = (labels != IGNORE_INDEX).flatten(1).any(1).float()
        patches = past_values.transpose(1, 2).unflatten(2, (-1, self.config.patch_length))
        losses = F.huber_loss(following.float(), patches[:, :, 1:].float(), reduction="none")
        hidden = self.timer_xl._hidden(observed, past_values.shape)
        if hidden is not None:
            seen = ~hidden.unflatten(1, (past_values.shape[2], -1))  # [B, G*C, N]
            losses = losses * (seen[:, :, 1:] & seen[:, :, :-1])[..., None]
        if normalizer is None:
            normalizer = counted.sum().clamp(min=1)
        return (losses.mean((1, 2, 3)) * counted).sum() / normalizer

    def forward(
        self,
        past_values: Tensor,
        labels: Tensor | None = None,
        static_real_features: Tensor | None = None,
        loss_normalizer: Tensor | float | None = None,
        next_patch_weight: float = 0.0,
        next_patch_normalizer: Tensor | float | None = None,
        past_observed_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> TimerXLClassificationOutput | tuple[Any, ...]:
        """past_values [B, T, C], labels [B] (-100: not counted), static_real_features [B, S].

        With the keyword ``label_positions`` (int64 [M], patches from 0) the classifier answers
        after each of these patches: labels [B, M], static_real_features [B, M, S], logits
        [B, M, K].

        A model with ``num_regions`` takes past_values [B, T, G*C], the regions side by side, and
        answers for each: labels [B, G] or [B, M, G], static_real_features [B, G, S] or
        [B, M, G, S], logits [B, G, K] or [B, M, G, K]. ``past_observed_mask`` (bool [B, T, G]) says
        where a region has values; the others' answers are those of a window without the rest.

        ``loss_normalizer``: the sum of label weights over the global batch (see
        ``sample_weights``); by default this batch's own. ``next_patch_weight`` times the mean
        Huber loss of the next patches is added to the loss where labels and their positions are
        given; ``next_patch_normalizer`` is the number of windows of the global batch. Raises
        ValueError where positions are given to a model whose early patches know the later ones.
        """
        # Not in the signature: transformers' Trainer takes every argument named so for a label that
        # its batches must bring, and would find none.
        label_positions = kwargs.pop("label_positions", None)
        options = {
            "output_hidden_states": output_hidden_states,
            "output_attentions": output_attentions,
            "past_observed_mask": past_observed_mask,
        }
        if label_positions is None:
            found = self._pool_last(past_values, **options)
        else:
            forecasts = labels is not None and next_patch_weight > 0
            found = self._pool_at(past_values, label_positions, forecasts, **options)
        pooled, following, hidden_states, attentions = found
        pooled = self.classifier_norm(pooled)
        inner = self.classifier_dense(self._join_static(pooled, static_real_features))
        if self.region_mixing is not None:
            observed = self._regions_observed(past_observed_mask, label_positions)
            inner = inner + self.region_mixing(pooled, observed)
        inner = F.gelu(inner)
        inner = F.dropout(inner, self.config.hidden_dropout, self.training)
        logits = self.classifier_out(inner)
        loss = next_patch_loss = None
        if labels is not None:
            loss = classification_loss(
                logits,
                labels,
                name=self.config.loss_name,
                alpha=self.config.loss_alpha,
                gamma=self.config.loss_gamma,
                normalizer=loss_normalizer,
            )
            if following is not None:
                next_patch_loss = self._next_patch_loss(
                    following, past_values, past_observed_mask, labels, next_patch_normalizer
                )
                loss = loss + next_patch_weight * next_patch_loss
        output = TimerXLClassificationOutput(
            loss, logits, next_patch_loss, hidden_states, attentions
        )
        return output.to_tuple() if return_dict is False else output


__all__ = [
    "TimerXLForClassification",
    "TimerXLForPrediction",
    "TimerXLModel",
    "TimerXLPreTrainedModel",
]
