"""benchmarks/step_speed.py: a step has as many labels as the settings ask for, and runs."""

from __future__ import annotations

import pytest

from benchmarks.step_speed import recipe_stepper

SMALL = (
    "model.patch_length=8 model.context_length=24 model.hidden_size=16 model.intermediate_size=16 "
    "model.num_hidden_layers=1 train.batch_size=2"
).split()


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ("data.labels=last loss.next_patch_weight=0 data.regions_together=none", 2),
        ("data.labels=every_patch data.regions_together=none", 2 * 3),
        ("data.labels=every_patch data.regions_together=all", 2 * 3 * 5),
        ("data.labels=every_patch data.regions_together=2", 2 * 3 * 5),
    ],
)
def test_labels_of_a_step_are_counted(settings: str, labels: int) -> None:
    step, found = recipe_stepper("quickstart", [*SMALL, *settings.split()])
    assert found == labels
    step()
