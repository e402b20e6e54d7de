"""The scores of a rain forecast as a metric of the ``evaluate`` library, without the network.

Instantiate ``ForecastSkill()``, or ``evaluate.load("timerxl/evaluation/forecast_skill.py")`` from a
checkout (the package ``timerxl`` must be importable). Gather the forecasts yourself and compute on
one process; the module's own ``num_process`` mode is not needed.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from timerxl.evaluation.scores import checked_forecast, forecast_scores

_DESCRIPTION = "Skill of a yes/no rain forecast: does P(rain) rank, separate and fit?"
_INPUTS = """
Args:
    predictions: P(rain) of each window, from 0 to 1.
    references: 1 where it rained, 0 where it stayed dry.
    threshold: rain is predicted where P(rain) >= threshold (default 0.5).
    base_rate: share of rain in training, the reference of bss (default: that of references).
Returns:
    f1, macro_f1, precision, recall, accuracy, balanced_accuracy, mcc, hss, pss, ets, csi, pod,
    far, bias, sedi, predicted_rain_share, roc_auc, pr_auc, brier, bss and ece, each a float; NaN
    where a score is undefined.
Examples:
    >>> from timerxl.evaluation.forecast_skill import ForecastSkill
    >>> skill = ForecastSkill()
    >>> skill.compute(predictions=[0.9, 0.2, 0.6], references=[1, 0, 0])["recall"]
    1.0
"""
_CITATION = "Wilks (2011): Statistical Methods in the Atmospheric Sciences, 3rd edition, chapter 8."


class ForecastSkill(evaluate.Metric):
    """``compute(predictions=, references=, threshold=0.5)`` gives ``forecast_scores`` as a dict.

    Batches can be added one by one with ``add_batch``. Raises InputError (a ValueError) on
    predictions that aren't probabilities and on labels other than 0 and 1; such a batch is
    refused as a whole, and what was added before stays.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    # Checked on the way in: the int64 column would cut a label of 0.5 down to 0 without a word.
    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add P(rain) [n] and labels [n] of one batch."""
        probability, label = checked_forecast(predictions, references)
        super().add_batch(predictions=probability, references=label, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add P(rain) and the label of one window."""
        probability, label = checked_forecast([prediction], [reference])
        super().add(prediction=probability[0], reference=label[0], **kwargs)

    def _compute(
        self,
        predictions: list[float],
        references: list[int],
        threshold: float = 0.5,
        base_rate: float | None = None,
    ) -> dict[str, float]:
        return forecast_scores(predictions, references, threshold, base_rate)


def skill(
    probability: np.ndarray,
    label: np.ndarray,
    threshold: float = 0.5,
    base_rate: float | None = None,
) -> dict[str, float]:
    """Scores of the project's own ``evaluate`` metric; ``base_rate`` as in ``forecast_scores``."""
    scores = ForecastSkill().compute(
        predictions=probability, references=label, threshold=threshold, base_rate=base_rate
    )
    assert scores is not None
    return {key: float(value) for key, value in scores.items()}
