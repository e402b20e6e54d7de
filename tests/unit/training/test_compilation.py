"""train.compile and the launcher's own compilation: who decides, what is refused, and runs that
are compiled, not compiled, and one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import TorchDynamoPlugin
from safetensors.torch import load_file, save_file

from timerxl.config import InputError, RunConfig
from timerxl.model import TimerXLConfig, TimerXLForClassification
from timerxl.model.convert_openltm import load_saved
from timerxl.training import assembly as compilation
from timerxl.training.assembly import (
    CompilerFacts,
    bare_model,
    check_compiler,
    compile_layers,
    compiler_facts,
    launcher_backend,
)

pytestmark = pytest.mark.slow

DISABLED = ["TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"]


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*DISABLED, "ACCELERATE_DYNAMO_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")  # Inductor takes a minute
    torch._dynamo.reset()
    settings: Any = torch._dynamo.config
    # What a run changes of them is put back.
    with settings.patch(
        recompile_limit=settings.recompile_limit, optimize_ddp=settings.optimize_ddp
    ):
        yield
    torch._dynamo.reset()


def asking() -> RunConfig:
    config = RunConfig()
    config.train.compile = True
    return config


def model() -> TimerXLForClassification:
    torch.manual_seed(0)
    return TimerXLForClassification(
        TimerXLConfig(
            patch_length=4,
            context_length=8,
            num_variables=2,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            hidden_dropout=0.0,
            attention_dropout=0.0,
        )
    )


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"ACCELERATE_DYNAMO_BACKEND": "no"}, None),
        ({"ACCELERATE_DYNAMO_BACKEND": "NO"}, None),
        ({"ACCELERATE_DYNAMO_BACKEND": "AOT_EAGER"}, "aot_eager"),
    ],
)
def test_the_launcher_s_backend(environment: dict[str, str], expected: str | None) -> None:
    assert launcher_backend(environment) == expected


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        (CompilerFacts(on_gpu=False, has_compiler=True, has_triton=False), None),
        (CompilerFacts(on_gpu=False, has_compiler=False, has_triton=True), r"needs g\+\+"),
        (CompilerFacts(on_gpu=True, has_compiler=True, has_triton=True), None),
        (CompilerFacts(True, True, True, has_headers=False), "needs Python's headers"),
        (CompilerFacts(False, True, True, has_headers=False), None),
        (CompilerFacts(on_gpu=True, has_compiler=True, has_triton=False), "needs triton"),
        (CompilerFacts(on_gpu=True, has_compiler=False, has_triton=True), "needs a C compiler"),
    ],
)
def test_a_machine_that_can_t_compile_is_told_so(facts: CompilerFacts, named: str | None) -> None:
    if named is None:
        check_compiler(asking(), {}, lambda: facts)
        return
    with pytest.raises(InputError, match=f"^train.compile=true {named}.*train.compile=false.$"):
        check_compiler(asking(), {}, lambda: facts)
    # Where Inductor has nothing to do, nobody asks for its compiler.
    check_compiler(RunConfig(), {}, lambda: facts)
    check_compiler(asking(), {"ACCELERATE_DYNAMO_BACKEND": "EAGER"}, lambda: facts)
    for name in DISABLED:
        check_compiler(asking(), {name: "1"}, lambda: facts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for the CPU's compiler")
def test_the_compiler_of_this_machine(tmp_path: Path) -> None:
    from torch._inductor import config

    fake = tmp_path / "c++"
    fake.write_text("#!/bin/sh\necho 1.0\n")
    fake.chmod(0o755)
    for name, found in ((str(fake), True), (str(tmp_path / "none"), False)):
        with config.patch({"cpp.cxx": (None, name)}):
            assert compiler_facts().has_compiler is found


def is_compiled(module: torch.nn.Module) -> bool:
    return module._compiled_call_impl is not None


def test_layers_alone_are_compiled_and_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    whole = model()
    names = list(whole.state_dict())
    compile_layers(asking(), whole, said.append)
    compiled = [name for name, module in whole.named_modules() if is_compiled(module)]
    assert compiled == ["timer_xl.layers.0", "timer_xl.layers.1"]
    assert list(whole.state_dict()) == names
    assert [line.partition(":")[0] for line in said] == ["each of 2 layers is compiled (aot_eager)"]

    for environment, config, expected in [
        ({}, RunConfig(), []),
        ({DISABLED[0]: "1"}, asking(), [f"note: {DISABLED[0]} or"]),
        ({DISABLED[1]: "1"}, asking(), [f"note: {DISABLED[0]} or"]),
        ({"ACCELERATE_DYNAMO_BACKEND": "EAGER"}, RunConfig(), ["the launcher compiles the model"]),
        (
            {"ACCELERATE_DYNAMO_BACKEND": "EAGER"},
            asking(),
            ["note: train.compile=true is not followed: the launcher chose eager.", "the launcher"],
        ),
    ]:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            said.clear()
            left = model()
            compile_layers(config, left, said.append)
            assert not any(map(is_compiled, left.modules()))
            assert len(said) == len(expected)
            assert all(line.startswith(start) for line, start in zip(said, expected, strict=True))


@pytest.mark.parametrize("regional", [False, True])
def test_the_bare_model_of_what_accelerate_compiled(
    regional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    plugin = TorchDynamoPlugin(backend="eager", use_regional_compilation=regional)
    accelerator, whole = Accelerator(dynamo_plugin=plugin), model()
    wrapped = accelerator.prepare(whole)
    assert any("_orig_mod" in key for key in wrapped.state_dict())
    for _ in range(2):  # accelerate's own unwrap_model changes what it unwraps
        assert bare_model(accelerator, wrapped) is whole
    values = torch.randn(3, 8, 2)
    with torch.no_grad():
        for parameter in bare_model(accelerator, wrapped).parameters():
            parameter.zero_()
        assert float(wrapped(past_values=values).logits.abs().sum()) == 0.0


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
def test_names_of_a_wrapper_are_refused(prefix: str, tmp_path: Path) -> None:
    """transformers would take random weights with a warning."""
    model().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    refused = rf"{len(weights)} tensors are named like {prefix}.*: saved from a model still wrapped"
    save_file({prefix + k: v for k, v in weights.items()}, file, {"format": "pt"})
    for load in (load_saved, TimerXLForClassification.from_pretrained):
        with pytest.raises(ValueError, match=refused):
            load(tmp_path)
    if prefix == "_orig_mod.":  # of accelerate's regional compilation
        inner = {k.replace("layers.0.", "layers.0._orig_mod."): v for k, v in weights.items()}
        save_file(inner, file, {"format": "pt"})
        with pytest.raises(ValueError, match="still wrapped"):
            TimerXLForClassification.from_pretrained(tmp_path)
    save_file(weights, file, {"format": "pt"})
    found, info = TimerXLForClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert found.state_dict().keys() == weights.keys()


# 12 steps an epoch.
SHORT = ("train.max_steps=14", "model.hidden_dropout=0", "train.checkpoint_every_steps=6")


def losses(run: Any) -> list[float]:
    return [event["loss"] for event in run.events("train")]


@pytest.fixture(scope="module")
def plain(train_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train_tiny(tmp_path_factory.mktemp("plain") / "run", *SHORT)


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return {}


@pytest.fixture
def compiled(
    kept: dict[str, Any], train_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A compiled run, made once, in a test that has chosen the backend; with checkpointing."""
    if not kept:
        folder = tmp_path_factory.mktemp("compiled") / "run"
        overrides = ["train.compile=true", "train.gradient_checkpointing=true"]
        kept["run"] = train_tiny(folder, *SHORT, *overrides)
    return kept["run"]


def test_a_compiled_run_follows_the_trajectory(plain: Any, compiled: Any) -> None:
    """With checkpointing; without it in runs below."""
    found = compiled
    assert losses(found) == pytest.approx(losses(plain), rel=1e-5)
    assert len(losses(found)) == 14
    for split in ("validation", "test"):
        assert found.returned[split] == pytest.approx(plain.returned[split], rel=1e-4, abs=1e-5)
    assert found.returned["compile_seconds"] > plain.returned["compile_seconds"]
    for folder in (found.folder / "model", found.folder / "checkpoints" / "step_00000014"):
        names = load_file(folder / "model.safetensors").keys()
        assert names == load_file(plain.folder / "model" / "model.safetensors").keys()
    # A step that compiles is not slower in the record than the others by what compiling took.
    rates = [event["samples_per_s"] for event in found.events("train")]
    spent = sum(64 / rate for rate in rates)
    assert spent < found.returned["compile_seconds"]


Way = tuple[dict[str, str], str]  # environment, override
OURS: Way = ({}, "train.compile=true")
WHOLE = ({"ACCELERATE_DYNAMO_BACKEND": "AOT_EAGER"}, "train.compile=false")
REGIONS = (WHOLE[0] | {"ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "true"}, WHOLE[1])
NOTHING: Way = ({}, "train.compile=false")


@pytest.mark.parametrize(
    ("first", "then"),
    [(OURS, NOTHING), (NOTHING, WHOLE), (REGIONS, OURS)],
    ids=["layers, not", "not, launcher", "regions, layers"],
)
def test_a_run_goes_on_compiled_or_not(
    first: Way,
    then: Way,
    plain: Any,
    request: pytest.FixtureRequest,
    train_tiny: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train(way: Way, folder: Path, *overrides: str) -> Any:
        torch._dynamo.reset()
        before = compilation.compile_seconds()
        with monkeypatch.context() as patch:
            for name, value in way[0].items():
                patch.setenv(name, value)
            found = train_tiny(folder, *SHORT, way[1], *overrides)
        assert (compilation.compile_seconds() > before) == (way is not NOTHING)
        return found

    if first is REGIONS:
        begun = train(first, tmp_path / "first")
    else:
        begun = plain if first is NOTHING else request.getfixturevalue("compiled")
    checkpoint = sorted((begun.folder / "checkpoints").iterdir())[0]
    assert json.loads((checkpoint / "trainer_state.json").read_text())["step"] == 12
    resumed = train(then, tmp_path / "then", f"train.resume={checkpoint}")
    (event,) = resumed.events("resume")
    assert event["step"] == 12
    assert losses(resumed) == pytest.approx(losses(plain), rel=1e-5)  # the first twelve are kept
    assert resumed.returned["test"] == pytest.approx(plain.returned["test"], rel=1e-4, abs=1e-5)
