"""docs/scaling.md and docs/colab.md: their commands are there to be run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import processes
import pytest
from accelerate.commands.launch import launch_command_parser

from timerxl.config import load_recipe

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("scaling", "colab")}
COMMANDS = [
    (name, match[1].replace("$rank", "0").replace("RANK", "0"))
    for name, text in TEXTS.items()
    for match in re.finditer(r"^\s*((?:accelerate launch|python launch/).*?)(?: &)?$", text, re.M)
] + [("scaling", found) for found in re.findall(r"`(python launch/plan[^`]*)`", TEXTS["scaling"])]


def test_the_documents_have_commands() -> None:
    found = [command for _, command in COMMANDS]
    assert sum(command.startswith("accelerate launch") for command in found) == 5
    for name, script in (("scaling", "train"), ("scaling", "plan"), ("colab", "plan")):
        assert any(doc == name and f"launch/{script}.py" in command for doc, command in COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_a_command_is_there_to_be_run(name: str, command: str) -> None:
    words = shlex.split(command)
    script = next(word for word in words if word.startswith("launch/"))
    if words[0] == "accelerate":
        given = launch_command_parser().parse_args(words[2:])
        for path in (given.config_file, given.deepspeed_config_file):
            assert path is None or (ROOT / path).is_file()
        if given.num_machines and given.num_machines > 1:
            assert given.main_process_ip
            assert given.num_processes % given.num_machines == 0
    if "--config" in words:
        recipe = words[words.index("--config") + 1]
        load_recipe(recipe, [word for word in words if re.match(r"[a-z_.]+=", word)])
    helped = processes.help_of(script)
    for option in words[words.index(script) + 1 :]:
        assert not option.startswith("--") or re.search(rf"{option}(?![\w-])", helped), option


def test_paths_in_the_documents_are_there() -> None:
    for name, text in TEXTS.items():
        found = re.findall(r"(?:accelerate_configs|ds_configs|launch|tests|docs)/[\w./-]*\w", text)
        found += [f"docs/{path}" for path in re.findall(r"\]\((\w+\.(?:md|ipynb))\)", text)]
        assert found
        assert [path for path in found if not (ROOT / path).exists()] == [], name
