"""Operations of a Timer-XL forward pass and training step, counted from the configuration."""

from __future__ import annotations

from .configuration_timerxl import TimerXLConfig


def flops_per_sample(
    config: TimerXLConfig,
    *,
    head: str,
    sequence_length: int | None = None,
    num_variables: int | None = None,
    training: bool = True,
    checkpointing: bool = False,
) -> int:
    """Floating-point operations of one sample, attention and skipped work included.

    Two per multiply-add of every matrix product that runs; element-wise work is left out. A
    training step costs three forward passes, and one more of the layers under gradient
    checkpointing (Kaplan et al. 2020, section 2.1, with the attention products counted in full).

    Args:
        head: class name of the model; each pools and projects in its own way.
        sequence_length, num_variables: T and C; by default those of the configuration.
    """
    patches = (sequence_length or config.context_length) // config.patch_length
    variables = num_variables or config.num_variables
    if variables is None:
        raise ValueError("pass num_variables: the configuration does not fix it.")
    tokens, size = variables * patches, config.hidden_size
    in_layers = 0
    skips = head == "TimerXLForClassification" and config.pooling == "last"
    for index in range(config.num_hidden_layers):
        # With pooling="last" only the last patches ask in the last layer.
        asking = variables if skips and index == config.num_hidden_layers - 1 else tokens
        in_layers += 4 * tokens * size**2 + 4 * asking * size**2  # k, v; q, output
        in_layers += 4 * asking * tokens * size  # scores and weighted values
        in_layers += 4 * asking * size * config.intermediate_size
    total = in_layers + 2 * tokens * config.patch_length * size
    total += _head_flops(config, head, variables, tokens)
    if not training:
        return total
    return 3 * total + (in_layers if checkpointing else 0)


def _head_flops(config: TimerXLConfig, head: str, variables: int, tokens: int) -> int:
    size, patch = config.hidden_size, config.patch_length
    if head == "TimerXLForPrediction":
        return 2 * tokens * size * patch
    if head != "TimerXLForClassification":
        return 0
    pooled = patch if config.pooling == "mean" else variables * size
    width, labels = config.classifier_hidden_size, config.num_labels or 0
    projected = size * patch if config.pooling == "mean" else 0
    return 2 * (projected + (pooled + config.num_static_real_features) * width + width * labels)
