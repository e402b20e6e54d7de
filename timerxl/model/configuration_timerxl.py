"""Configuration of Timer-XL (Liu et al. 2024, "Timer-XL: Long-Context Transformers for Unified
Time Series Forecasting"), with the fields that the classifier built on it needs."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class TimerXLConfig(PreTrainedConfig):
    """What a Timer-XL model is made of.

    Args:
        patch_length: time steps per patch; one patch of one variable is one token.
        context_length: time steps the model was trained on. Any multiple of ``patch_length`` is
            accepted in ``forward``.
        num_variables: number of variables C. Needed (and then fixed) with ``pooling="last"`` or
            ``variable_embedding``; otherwise only a record of the training data.
        num_regions: number of regions G that stand side by side in one window, each with
            ``num_variables`` variables; None where a window is of one region.
        region_neighbours: for each of the G regions the places of the k others whose variables it
            sees beside its own, the nearest first; None where each sees all.
        region_mixing: where a region meets those that it sees: in ``attention``, or in the
            ``classifier``, whose hidden layer takes the other regions' pooled states too, while
            attention stays within the region.
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, hidden_act:
            as in any transformer; ``hidden_act`` is ``relu`` or ``gelu``.
        hidden_dropout, attention_dropout: probabilities, active in training only.
        rope_theta: base of the rotary embedding on the first half of every head's channels.
        variable_bias_mode: how fused attention on a GPU takes the same-variable bias, with equal
            results: ``folded`` into extra channels of query and key, or as an additive ``mask``.
        covariate: only the last variable looks at the others (all of their past and future);
            every other variable sees its own past alone.
        instance_norm: standardise every window and variable by its own mean and deviation.
        pooling: ``mean`` averages patches and variables as OpenLTM's classifier does; ``last``
            gives the classifier the last patch of every variable, side by side.
        variable_embedding: add one learned, zero-initialised vector per variable to its tokens.
        num_static_real_features: width S of the optional input ``static_real_features`` [B, S].
        classifier_hidden_size: width of the classifier's hidden layer.
        next_patch_head: give the classifier a head that forecasts the next patch of every variable;
            it serves training alone (``next_patch_weight`` of ``forward``).
        loss_name: ``cross_entropy``, ``weighted_cross_entropy`` or ``focal``.
        loss_alpha: weight of class 1 (rain); class 0 weighs ``1 - loss_alpha``.
        loss_gamma: focusing exponent of the focal loss (Lin et al. 2017).
    """

    model_type = "timer_xl"
    keys_to_ignore_at_inference = ["hidden_states", "attentions"]
    attribute_map = {"num_input_channels": "num_variables"}  # as other time-series models call it

    patch_length: int = 96
    context_length: int = 1440
    num_variables: int | None = None
    num_regions: int | None = None
    region_neighbours: list[list[int]] | None = None
    region_mixing: str = "attention"
    hidden_size: int = 1024
    intermediate_size: int = 2048
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    hidden_act: str = "relu"
    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    rope_theta: float | int = 10000.0
    layer_norm_eps: float = 1e-5
    variable_bias_mode: str = "folded"
    covariate: bool = False
    instance_norm: bool = False
    pooling: str = "mean"
    variable_embedding: bool = False
    num_static_real_features: int = 0
    classifier_hidden_size: int = 128
    next_patch_head: bool = False
    loss_name: str = "cross_entropy"
    loss_alpha: float | int = 0.5
    loss_gamma: float | int = 2.0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in ("patch_length", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more.")
        head_size, odd = divmod(self.hidden_size, self.num_attention_heads)
        if odd or head_size % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size} over num_attention_heads "
                f"{self.num_attention_heads} must be a multiple of 4: rotary pairs take the first "
                "half of every head."
            )
        if self.hidden_act not in ("relu", "gelu"):
            raise ValueError(f"hidden_act is {self.hidden_act!r}; expected 'relu' or 'gelu'.")
        if self.variable_bias_mode not in ("folded", "mask"):
            raise ValueError(
                f"variable_bias_mode is {self.variable_bias_mode!r}; expected 'folded' or 'mask'."
            )
        if self.pooling not in ("mean", "last"):
            raise ValueError(f"pooling is {self.pooling!r}; expected 'mean' or 'last'.")
        if self.needs_fixed_variables and self.num_variables is None:
            raise ValueError(
                "pooling='last' and variable_embedding=True tell variables apart by their place: "
                "set num_variables to the number of variables in the data."
            )

        if self.num_regions is not None:
            if type(self.num_regions) is not int or self.num_regions < 1:
                raise ValueError(f"num_regions is {self.num_regions!r:.80}; expected 1 or more.")
            for name in ("covariate", "instance_norm"):
                if getattr(self, name):
                    raise ValueError(f"num_regions does not go with {name}; set one of them.")
            if not self.variable_embedding:
                raise ValueError(
                    "num_regions needs variable_embedding=True: variables and regions are told "
                    "apart by their embeddings."
                )

        if self.region_mixing not in ("attention", "classifier"):
            raise ValueError(
                f"region_mixing is {self.region_mixing!r}; expected 'attention' or 'classifier'."
            )
        if self.region_neighbours is not None and (problem := self._neighbours_problem()):
            raise ValueError(f"region_neighbours {problem}.")

    def _neighbours_problem(self) -> str | None:
        """What is wrong with ``region_neighbours``, as a clause; None if nothing is."""
        near, count = self.region_neighbours or [], self.num_regions or 0
        if len(near) != count or len({len(of) for of in near}) != 1:
            return f"does not name equally many neighbours for each of {count} regions"
        for region, of in enumerate(near):
            if not of or not all(type(one) is int and 0 <= one < count for one in of):
                return f"of region {region} is not a list of regions from 0 to {count - 1}"
            if len({region, *of}) <= len(of):
                return f"of region {region} holds a region twice, or itself"
        return None

    @property
    def mixes_in_classifier(self) -> bool:
        """True where regions stand side by side and meet in the classifier alone."""
        return self.num_regions is not None and self.region_mixing == "classifier"

    @property
    def has_window_per_region(self) -> bool:
        """True where attention reads a window for each region, not one of all regions."""
        return self.mixes_in_classifier or self.region_neighbours is not None

    @property
    def regions_in_window(self) -> int:
        """Regions whose tokens attend to each other: 1, 1 + k with k neighbours, or all G."""
        if self.mixes_in_classifier:
            return 1
        if self.region_neighbours is not None:
            return 1 + len(self.region_neighbours[0])
        return self.num_regions or 1

    @property
    def needs_fixed_variables(self) -> bool:
        """True where the number of variables C is part of the model's shape."""
        return self.variable_embedding or self.pooling == "last"


__all__ = ["TimerXLConfig"]
