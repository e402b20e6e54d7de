"""Timer-XL on transformers; this package imports torch, transformers, numpy and itself alone."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTimeSeriesPrediction,
)

from .configuration_timerxl import TimerXLConfig
from .feature_extraction_timerxl import TimerXLFeatureExtractor
from .modeling_timerxl import (
    TimerXLForClassification,
    TimerXLForPrediction,
    TimerXLModel,
)

AutoConfig.register(TimerXLConfig.model_type, TimerXLConfig, exist_ok=True)
AutoFeatureExtractor.register(TimerXLConfig, TimerXLFeatureExtractor, exist_ok=True)
AutoModel.register(TimerXLConfig, TimerXLModel, exist_ok=True)
AutoModelForSequenceClassification.register(TimerXLConfig, TimerXLForClassification, exist_ok=True)
AutoModelForTimeSeriesPrediction.register(TimerXLConfig, TimerXLForPrediction, exist_ok=True)

# What save_pretrained writes can then be loaded with trust_remote_code where timerxl is absent.
TimerXLConfig.register_for_auto_class()
TimerXLFeatureExtractor.register_for_auto_class()
TimerXLModel.register_for_auto_class("AutoModel")
TimerXLForClassification.register_for_auto_class("AutoModelForSequenceClassification")
TimerXLForPrediction.register_for_auto_class("AutoModelForTimeSeriesPrediction")

__all__ = [
    "TimerXLConfig",
    "TimerXLFeatureExtractor",
    "TimerXLForClassification",
    "TimerXLForPrediction",
    "TimerXLModel",
]
