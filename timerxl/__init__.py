"""timerxl: train, check and use Timer-XL rain classifiers on weather series.

The model classes and the Forecaster are imported on first use, so that ``import timerxl.config``
stays quick and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    name: "timerxl.model"
    for name in (
        "TimerXLConfig",
        "TimerXLFeatureExtractor",
        "TimerXLForClassification",
        "TimerXLForPrediction",
        "TimerXLModel",
    )
} | {"Forecaster": "timerxl.forecaster"}

if TYPE_CHECKING:
    from timerxl.forecaster import Forecaster
    from timerxl.model import (
        TimerXLConfig,
        TimerXLFeatureExtractor,
        TimerXLForClassification,
        TimerXLForPrediction,
        TimerXLModel,
    )

__all__ = [
    "Forecaster",
    "TimerXLConfig",
    "TimerXLFeatureExtractor",
    "TimerXLForClassification",
    "TimerXLForPrediction",
    "TimerXLModel",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'timerxl' has no attribute {name!r}")
