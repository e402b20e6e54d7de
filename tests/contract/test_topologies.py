"""Topologies name ZeRO configurations that exist, and these hold the values that were measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig

REPO = Path(__file__).resolve().parents[2]
TOPOLOGIES = {path.stem: path for path in sorted((REPO / "accelerate_configs").glob("*.yaml"))}
ZERO = {path.stem: path for path in sorted((REPO / "ds_configs").glob("*.json"))}
ZERO2 = sorted(set(TOPOLOGIES) - {"single_gpu"})
# Beside deepspeed_config_file these make accelerate raise; alone, they would overrule the recipe.
PRECISION_AND_COUNTS = {
    "mixed_precision",
    "fp16",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "zero_stage",
    "offload_optimizer_device",
}


def topology(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(TOPOLOGIES[name].read_text())
    return loaded


def zero(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(ZERO[name].read_text())
    return loaded


def test_the_files_are_these() -> None:
    assert set(TOPOLOGIES) == {"single_gpu", "zero2", "zero2_cpu", "multi_node_zero2"}
    assert set(ZERO) == {"zero2_bf16", "zero2_fp16", "zero2_fp32"} | {
        f"zero2_{name}_offload" for name in ("bf16", "fp16", "fp32")
    }


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_accelerate_reads_the_topology(name: str) -> None:
    config = ClusterConfig.from_yaml_file(str(TOPOLOGIES[name]))  # an unknown key raises
    expected = {"single_gpu": "NO"}.get(name, "DEEPSPEED")
    assert config.distributed_type.value == expected
    # With use_cpu, accelerate drops DeepSpeed silently and trains in fp32.
    assert config.use_cpu is False
    machines, processes = {
        "single_gpu": (1, 1),
        "zero2": (1, 2),
        "zero2_cpu": (1, 2),
        "multi_node_zero2": (2, 16),
    }[name]
    assert (config.num_machines, config.num_processes) == (machines, processes)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_topology_leaves_precision_and_counts_alone(name: str) -> None:
    loaded = topology(name)
    assert not PRECISION_AND_COUNTS & (loaded.keys() | loaded.get("deepspeed_config", {}).keys())


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_topology_leaves_the_choice_of_gpus_alone(name: str) -> None:
    """accelerate overwrites CUDA_VISIBLE_DEVICES with gpu_ids: 3 would become 0."""
    assert topology(name).get("gpu_ids", "all") == "all"


@pytest.mark.parametrize("name", ZERO2)
def test_a_topology_names_a_zero_configuration_that_exists(name: str) -> None:
    named = topology(name)["deepspeed_config"]["deepspeed_config_file"]
    assert not Path(named).is_absolute()
    assert (REPO / named).is_file()


def test_nodes_start_without_ssh() -> None:
    loaded = topology("multi_node_zero2")
    assert loaded["deepspeed_config"]["deepspeed_multinode_launcher"] == "standard"
    assert loaded["rdzv_backend"] == "static"
    # The address is the user's own: none may stand here and be taken for a working default.
    assert "main_process_ip" not in loaded


@pytest.mark.parametrize("name", ZERO)
def test_counts_come_from_the_recipe(name: str) -> None:
    loaded = zero(name)
    counts = ["train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"]
    assert {loaded[key] for key in [*counts, "gradient_clipping"]} == {"auto"}
    assert not {"optimizer", "scheduler"} & loaded.keys()


@pytest.mark.parametrize("name", ZERO)
def test_zero2_holds_the_measured_values(name: str) -> None:
    loaded = zero(name)
    stage = loaded["zero_optimization"]
    assert stage["stage"] == 2
    # The default of 5e8 elements takes 1 GB, and OOMed 15 GB cards; the models here have 7e7.
    for bucket in ("reduce_bucket_size", "allgather_bucket_size"):
        assert 2e7 <= stage[bucket] <= 1e8
    assert stage["overlap_comm"] is False
    # Micro-batches summed in bf16 lose what is below 1/256 of the sum.
    assert loaded["data_types"] == {"grad_accum_dtype": "fp32"}


@pytest.mark.parametrize("name", ZERO)
def test_precision_and_offload_are_what_the_name_says(name: str) -> None:
    loaded = zero(name)
    on = {key for key in ("bf16", "fp16") if loaded.get(key, {}).get("enabled")}
    assert on == {name.split("_")[1]} - {"fp32"}
    offload = loaded["zero_optimization"].get("offload_optimizer", {}).get("device")
    assert offload == ("cpu" if name.endswith("offload") else None)
    # Else DeepSpeed swaps the optimizer for one that it must compile on the spot.
    assert loaded.get("zero_force_ds_cpu_optimizer", False) is False


def test_fp16_finds_its_loss_scale_itself() -> None:
    assert zero("zero2_fp16")["fp16"]["loss_scale"] == 0
