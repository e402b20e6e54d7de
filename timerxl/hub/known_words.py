"""Sentences that this package wrote: made of its own words, of numbers, and of the model's names.

A run's files hold sentences (why a monitor stopped it, what the audit found). Such a file may come
from anybody, and its sentences may quote other programs. So a sentence is published where every
word of it stands in the sentences of the modules below.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import timerxl
from timerxl.untrusted import plain

MOST_CHARACTERS = 1_500
_MODULES = (
    "data/audit/*.py data/windows.py data/preprocessing.py data/forecast_input.py "
    "training/monitors/rules.py training/monitors/history.py "
    "training/monitors/runner.py training/run.py training/trainer.py training/processes/signals.py "
    "training/precision.py training/dataloader.py "
    "evaluation/assess.py evaluation/strata.py evaluation/bootstrap.py evaluation/scores.py "
    "planner/plan.py planner/throughput.py planner/memory.py config.py config_checks.py"
).split()
_MORE = (
    "the loss is nan inf run finished running full disk fp32 fp16 bf16 rain is said for every "
    "window cpu host device days day hours minutes seconds h"
)
_NUMBER = r"[+-]?(?:\d{1,3}(?:,\d{3}){1,4}|\d{1,9})(?:\.\d{1,17})?(?:[eE][+-]?\d{1,3})?"
_TIME = r"\d{4}-\d\d-\d\d(?:T\d\d(?::\d\d){0,2})?|\d\d:\d\d(?::\d\d)?"
_VALUE = re.compile(rf"(?:{_NUMBER}|{_TIME})(?:(%|[A-Za-z]{{1,7}})?)", re.ASCII)
_CHECKPOINT = re.compile(r"(?:checkpoints/)?step_\d{1,12}", re.ASCII)
_FOLDER = re.compile(r"~?[/\\]{1,2}\w|[A-Za-z]{1,8}:[/\\]")
_AROUND = "()[]{},.;:!?\"'`|<>+-–*"


def is_known_sentence(text: str, names: frozenset[str]) -> bool:
    """Whether ``text`` is made of words of our sentences, numbers, times and ``names`` alone."""
    if len(text) > MOST_CHARACTERS or plain(text) != text:
        return False
    for name in sorted(names, key=lambda name: -len(name)):
        if name in text:
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", " ", text)
    return all(_is_known(part.strip(_AROUND)) for part in text.split())


def _is_known(token: str) -> bool:
    if not token or token.lower() in _words() or _CHECKPOINT.fullmatch(token):
        return True
    if _FOLDER.match(token):  # also one of known words
        return False
    if value := _VALUE.fullmatch(token):
        return not value[1] or value[1] == "%" or value[1].lower() in _words()
    if "=" in token:
        return all(_is_known(part.strip(_AROUND)) for part in token.split("=", 1))
    parts = [part for part in re.split(r"[^A-Za-z]+", token) if part]
    has_digits = re.search(r"\d", token) is not None
    return not has_digits and token.isascii() and all(part.lower() in _words() for part in parts)


@cache
def _words() -> frozenset[str]:
    """Every word of every text in the modules, docstrings left out."""
    found = set(_MORE.split())
    folder = Path(timerxl.__file__).parent
    for pattern in _MODULES:
        for path in sorted(folder.glob(pattern)):
            for text in _texts(ast.parse(path.read_text(encoding="utf-8"))):
                tokens = [token.strip(_AROUND) for token in text.split()]
                found |= {token.lower() for token in tokens}
                found |= {part.lower() for part in re.findall(r"[A-Za-z]+", text)}
    return frozenset(found)


def _texts(tree: ast.Module) -> list[str]:
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    ]
