"""The same model under the Trainer of transformers: python examples/trainer.py.

Trains on the built-in SYNTHETIC series and prints the validation ROC-AUC beside that of a
climatology. The model is a plain PreTrainedModel and the splits are datasets, so all of the
Trainer's options work; the data, the model and the climatology are those of minimal.py.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from minimal import INPUTS, build_model, climatology, load_windows
from sklearn.metrics import roc_auc_score
from transformers import EvalPrediction, Trainer, TrainingArguments, set_seed


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The model's inputs of a batch; a window also holds its row, which the model doesn't take."""
    return {key: torch.stack([sample[key] for sample in samples]) for key in INPUTS}


def scores(prediction: EvalPrediction) -> dict[str, float]:
    """ROC-AUC of the logits [N, 2]."""
    logits = torch.as_tensor(prediction.predictions)
    return {"roc_auc": roc_auc_score(prediction.label_ids, logits.softmax(-1)[:, 1])}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--max-steps", type=int, default=60, help="end after so many steps")
    parser.add_argument("--context-length", type=int, default=56, help="steps of 12 hours")
    parser.add_argument("--output", help="folder of the Trainer's files (default: none are kept)")
    given = parser.parse_args(arguments)

    set_seed(0)
    windows = load_windows(given.context_length)
    with tempfile.TemporaryDirectory() as nowhere:
        trainer = Trainer(
            model=build_model(windows),
            args=TrainingArguments(
                output_dir=given.output or nowhere,
                num_train_epochs=given.epochs,
                max_steps=given.max_steps,
                per_device_train_batch_size=64,
                learning_rate=1e-3,
                logging_steps=20,
                save_strategy="epoch" if given.output else "no",
                remove_unused_columns=False,  # the windows are made from the column "row"
                report_to="none",
            ),
            data_collator=collate,
            train_dataset=windows.splits["train"],
            eval_dataset=windows.splits["validation"],
            compute_metrics=scores,
        )
        trainer.train()
        score = trainer.evaluate()["eval_roc_auc"]
    reference = roc_auc_score(windows.labels_of("validation"), climatology(windows, "validation"))
    print(f"validation ROC-AUC: {score:.3f}, climatology {reference:.3f} (SYNTHETIC)")


if __name__ == "__main__":
    main()
