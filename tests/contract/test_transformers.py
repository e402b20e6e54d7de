"""What a transformers user may count on: Auto classes, remote code, Trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTimeSeriesPrediction,
    Trainer,
    TrainingArguments,
)

from timerxl.model import (
    TimerXLConfig,
    TimerXLForClassification,
    TimerXLForPrediction,
    TimerXLModel,
)

FIELDS: dict[str, Any] = {
    "patch_length": 4,
    "context_length": 16,
    "num_variables": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pooling": "last",
    "variable_embedding": True,
    "loss_name": "focal",
    "loss_alpha": 0.3,
}


def test_auto_classes_build_and_load_our_models(tmp_path: Path) -> None:
    config = AutoConfig.for_model("timer_xl", **FIELDS)
    assert type(config) is TimerXLConfig
    for auto, ours in [
        (AutoModel, TimerXLModel),
        (AutoModelForSequenceClassification, TimerXLForClassification),
        (AutoModelForTimeSeriesPrediction, TimerXLForPrediction),
    ]:
        model = auto.from_config(config)
        assert type(model) is ours
        model.save_pretrained(tmp_path / ours.__name__)
        loaded = auto.from_pretrained(tmp_path / ours.__name__)
        assert type(loaded) is ours
        assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
        for key, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor)


def test_a_forecasters_backbone_starts_a_classifier(tmp_path: Path) -> None:
    forecaster = TimerXLForPrediction(TimerXLConfig(**(FIELDS | {"pooling": "mean"})))
    forecaster.save_pretrained(tmp_path)
    classifier: Any = TimerXLForClassification  # output_loading_info returns a pair, untyped
    model, info = classifier.from_pretrained(tmp_path, output_loading_info=True)
    assert all(key.startswith("classifier_") for key in info["missing_keys"])
    assert len(info["missing_keys"]) == 6
    assert not info["unexpected_keys"]
    for name, tensor in forecaster.timer_xl.state_dict().items():
        assert torch.equal(model.timer_xl.state_dict()[name], tensor)


# Run in a process that cannot import timerxl: the folder alone must do.
STRANGER = """
import json, sys
sys.modules["timerxl"] = None
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
values = torch.arange(96.0).view(2, 16, 3).sin()
outputs = model(values, labels=torch.tensor([0, 1]))
print(json.dumps({
    "config": [type(config).__name__, config.loss_name],
    "model": type(model).__name__,
    "module": type(model).__module__,
    "logits": outputs.logits.tolist(),
    "loss": outputs.loss.item(),
    "timerxl": [name for name in sys.modules if name.startswith("timerxl")],
}))
"""


@pytest.mark.slow
def test_a_saved_folder_loads_where_timerxl_is_not_installed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TimerXLForClassification(TimerXLConfig(**FIELDS)).eval()
    model.save_pretrained(tmp_path / "model")
    found = json.loads(
        processes.last_line_without_timerxl(STRANGER, tmp_path / "model", cwd=tmp_path)
    )
    assert found["config"] == ["TimerXLConfig", "focal"]
    assert found["model"] == "TimerXLForClassification"
    assert found["module"].startswith("transformers_modules.")
    assert found["timerxl"] == ["timerxl"]  # the block itself
    values = torch.arange(96.0).view(2, 16, 3).sin()
    with torch.no_grad():
        expected = model(values, labels=torch.tensor([0, 1]))
    torch.testing.assert_close(torch.tensor(found["logits"]), expected.logits, rtol=0, atol=1e-6)
    assert found["loss"] == pytest.approx(float(expected.loss), abs=1e-6)


class Windows(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        return {"past_values": torch.randn(16, 3, generator=generator), "labels": index % 2}


def test_trainer_trains_evaluates_and_saves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TimerXLForClassification(TimerXLConfig(**FIELDS))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        activation_checkpointing=True,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Windows(), eval_dataset=Windows())
    result = trainer.train()
    assert result.global_step == 2
    assert 0 < result.training_loss < 10
    unchanged = [key for key, tensor in model.state_dict().items() if tensor.equal(before[key])]
    assert unchanged == []
    predicted: Any = trainer.predict(Windows())
    assert predicted.predictions.shape == (8, 2)
    model.eval()
    batch = torch.stack([Windows()[index]["past_values"] for index in range(8)])
    with torch.no_grad():
        expected = model(batch, labels=torch.arange(8) % 2)
    torch.testing.assert_close(
        torch.tensor(predicted.predictions), expected.logits, rtol=0, atol=1e-5
    )
    assert predicted.metrics["test_loss"] == pytest.approx(float(expected.loss), abs=1e-5)
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    torch.testing.assert_close(loaded(batch).logits.detach(), expected.logits, rtol=0, atol=1e-6)
