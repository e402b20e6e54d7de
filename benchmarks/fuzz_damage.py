"""Ways to damage what a program reads: bytes, text, trees of values, safetensors, pickles.

Every function takes a seeded ``random.Random`` and gives bytes or a tree back; nothing is written.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

NAN, INFINITY = float("nan"), float("inf")
# What no reader of ours asks for, of every type; JSON and YAML can write it down.
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, "", " ", "x", "1", "nan", "auto", "\x1b[31m\x07", "\ud800", "a\x00b"),
    *("../../x", "/dev/zero", "${seed}", "${nothing.here}", "${oc.env:HOME}", "${", "é" * 300),
    *("a" * 100_000, -1, 0, 1, 3, 7, 2**31, 2**63, 10**30, 10**400, -(2**70)),
    *(0.5, -0.5, 1e-320, 1e308, -1e308, NAN, INFINITY, -INFINITY),
    *([], {}, [[]], [None], [1, "x"], {"a": None}, {"": {}}, [0] * 5000),
)
_BOMB = "\n".join(["b0: &b0 [x, x, x, x, x, x, x, x, x]"] + [
    f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]" for i in range(1, 12)
])  # fmt: skip


class Payload:
    """A pickle that would leave ``marker``, were it executed."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def damage_bytes(random: Random, data: bytes) -> bytes:
    """Bits flipped, a piece cut off, taken out, put in twice or overwritten, or nothing left."""
    kind = random.choice("flip flip cut cut drop repeat insert overwrite empty".split())
    start = random.randrange(len(data) + 1)
    end = min(len(data), start + random.choice((1, 4, 64, 4096)))
    if kind == "flip":
        changed = bytearray(data)
        for _ in range(random.choice((1, 1, 8, 100))):
            if changed:
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
        return bytes(changed)
    noise = random.choice((b"\x00" * 16, b"\xff" * 8, random.randbytes(40), b"\n", b'"', b"\xef"))
    return {
        "cut": data[:start],
        "drop": data[:start] + data[end:],
        "repeat": data[:end] + data[start:],
        "insert": data[:start] + noise + data[start:],
        "overwrite": data[:start] + noise + data[start + len(noise) :],
        "empty": b"",
    }[kind]


def damage_text(random: Random, text: str) -> bytes:
    """Other encodings, byte order marks, long and odd lines, or as :func:`damage_bytes`."""
    encodings: tuple[Callable[[str], bytes], ...] = (
        lambda t: b"\xef\xbb\xbf" + t.encode(),
        lambda t: t.encode("utf-16"),
        lambda t: t.encode("utf-32"),
        lambda t: t.replace("e", "é").encode("latin-1"),
        lambda t: t.replace("\n", "\r").encode(),
        lambda t: t.encode() + b"\x00" * 100,
        lambda t: ("[" * 100_000 + t).encode(),
        lambda t: (t + "\n" + "x" * 2_000_000).encode(),
    )
    if random.random() < 0.4:
        return random.choice(encodings)(text)
    return damage_bytes(random, text.encode())


def damage_tree(random: Random, tree: Any, times: int | None = None) -> Any:
    """A value replaced by a hostile one, of another type, gone, added, or wrapped deep."""
    root = [copy.deepcopy(tree)]
    for _ in range(times or random.choice((1, 1, 2, 4))):
        places = [(node, key) for node, key in _places(root)]
        node, key = random.choice(places)
        kind = random.choice("replace replace replace replace delete add wrap swap number".split())
        value = node[key]
        if kind == "delete" and node is not root:
            del node[key]
        elif kind == "add" and isinstance(value, dict):
            value[random.choice(("x", "", "__class__", "a.b", "1"))] = random.choice(HOSTILE)
        elif kind == "add" and isinstance(value, list):
            value.append(random.choice(HOSTILE))
        elif kind == "wrap":
            for _ in range(random.choice((1, 60))):
                value = [value] if random.random() < 0.5 else {"x": value}
            node[key] = value
        elif kind == "swap":
            node[key] = copy.deepcopy(random.choice(places)[0])
        elif kind == "number" and isinstance(value, int | float) and abs(value) < 1e300:
            node[key] = random.choice((-value, value + 1, value * 1000, value / 2, -1, str(value)))
        else:
            node[key] = copy.deepcopy(random.choice(HOSTILE))
    return root[0]


def _places(node: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a tree; a large list by its first entries."""
    found = []
    keys = list(node) if isinstance(node, dict) else range(min(len(node), 20))
    for key in keys:
        found.append((node, key))
        if isinstance(node[key], dict | list):
            found += _places(node[key])
    return found


def damage_json(random: Random, text: str) -> bytes:
    """JSON whose values, nesting, keys or bytes are not those of the file."""
    kind = random.random()
    if kind < 0.25:
        return damage_text(random, text)
    if kind < 0.32:
        deep = "[" * 100_000 + "]" * 100_000
        return text.replace(": ", f": {deep}, {json.dumps('twice')}: ", 1).encode()
    changed = json.dumps(damage_tree(random, json.loads(text)))
    if random.random() < 0.1:  # every key twice, the second time as something else
        changed = changed.rstrip("}") + ', "step": "x"' + "}" * changed[-9:].count("}")
    return changed.encode()


def damage_yaml(random: Random, text: str, dump: Callable[[Any], str], marker: Path) -> bytes:
    """YAML with hostile values, tags that would run code, aliases that grow, keys given twice."""
    import yaml

    tag = random.choice(("object/apply:os.system", "object/new:os.system", "name:os.system"))
    command = f"!!python/{tag} [\"touch '{marker}'\"]"
    line = random.choice(text.splitlines(keepends=True)).strip()
    odd: tuple[str, ...] = (
        *(f"{text}\nx: {command}\n", f"seed: {command}\n{text}", f"{text}\n{text}", f"- {line}"),
        *(f"{text}\n{_BOMB}\n", f"recipe: &a [*a]\n{text}", f"a: &a {{<<: *a}}\n{text}"),
        *(f"{text}\n...\n---\n{text}", f"%YAML 9.9\n---\n{text}", f"{text}\n\t{line}", "null", "7"),
        *(f"{text}\n? [a, b]\n: 1\n", f"{text}\n1: 2\n", f"{text}\n2020-01-01: x\n", f"@{text}"),
        *(f"{text}\n{{}}: 1\n", f"seed: 1_000:30\n{text}", f"seed: 0o17\n{text}", "- a\n- b\n"),
        *(f"{text}\nmodel: {'{x: ' * 3000}1{'}' * 3000}\n", f"seed: !!binary aGVsbG8=\n{text}"),
    )
    kind = random.random()
    if kind < 0.2:
        return damage_text(random, text)
    if kind < 0.5:
        return random.choice(odd).encode("utf-8", "surrogatepass")
    tree = damage_tree(random, yaml.safe_load(text))
    return dump(tree).encode("utf-8", "surrogatepass")


def split_safetensors(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join_safetensors(header: Any, body: bytes, length: int | None = None) -> bytes:
    """The inverse of :func:`split_safetensors`; ``length`` is what the file says of its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    said = len(text) if length is None else length
    return (said % 2**64).to_bytes(8, "little") + text + body


def damage_safetensors(random: Random, data: bytes) -> bytes:
    """A header that lies: lengths, offsets that overlap, other types, shapes, names, metadata."""
    header, body = split_safetensors(data)
    names = [name for name in header if name != "__metadata__"]
    entry = header[random.choice(names)]
    kind = random.choice(
        "bytes length shift dtype shape overlap body rename lose tree tree metadata nest".split()
    )
    if kind == "bytes":
        return damage_bytes(random, data)
    if kind == "length":
        wrong = random.choice((0, 1, 2**63, 2**64 - 1, len(data), len(data) - 8, 10**8))
        return join_safetensors(header, body, wrong)
    if kind == "nest":
        return join_safetensors(b'{"a":' + b"[" * 100_000, body)
    if kind == "body":  # the same header over other numbers
        odd = np.array([NAN, INFINITY, -1e38, 1e-45, 0.0], np.float32)
        return join_safetensors(header, np.resize(odd, len(body) // 4 + 1).tobytes()[: len(body)])
    if kind == "shift":
        by = random.choice((-4, 4, 10**6, 2**62))
        entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]
    elif kind == "dtype":
        entry["dtype"] = random.choice("I32 U32 F64 F16 BF16 I64 BOOL F8_E4M3 Q7 C64".split())
    elif kind == "shape":
        size = int(np.prod(entry["shape"]))
        shapes = ([size], [1, size], [size, 1], [], [2**40, 2**40], [-size], [0], [size // 2, 2])
        entry["shape"] = list(random.choice(shapes))
    elif kind == "overlap":
        other = header[random.choice(names)]
        entry |= {"data_offsets": other["data_offsets"], "shape": other["shape"]}
    elif kind == "rename":
        header[random.choice(("x", "", "\x1b[2J", "layers.0.x"))] = header.pop(random.choice(names))
    elif kind == "lose":
        return join_safetensors(header, body) if len(names) < 2 else _without(random, header, body)
    elif kind == "metadata":
        odd_values: tuple[Any, ...] = ("x", {"ranges": "[]"}, {"ranges": "{"}, {"ranges": 7}, {})
        header["__metadata__"] = random.choice(odd_values)
        if random.random() < 0.6:
            header["__metadata__"] = _other_ranges(random, split_safetensors(data)[0])
    else:
        header = damage_tree(random, header)
    return join_safetensors(header, body)


def _without(random: Random, header: dict[str, Any], body: bytes) -> bytes:
    """A valid file that has one tensor less."""
    gone = random.choice([name for name in header if name != "__metadata__"])
    start, end = header[gone]["data_offsets"]
    kept = copy.deepcopy(header)
    del kept[gone]
    for name, entry in kept.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - start) for offset in entry["data_offsets"]]
    return join_safetensors(kept, body[:start] + body[end:])


def _other_ranges(random: Random, header: dict[str, Any]) -> dict[str, str]:
    """What optimizer files say of their pieces, and is not so."""
    metadata = dict(header.get("__metadata__") or {"ranges": '{"a": [0, 1]}'})
    ranges = json.loads(metadata.get("ranges", '{"a": [0, 1]}'))
    return metadata | {"ranges": json.dumps(damage_tree(random, ranges))}


def hostile_pickle(random: Random, marker: Path, archive: bytes | None) -> bytes:
    """A pickle that touches ``marker``: bare, or in the place of a torch archive's own."""
    payload = pickle.dumps(random.choice((Payload(marker), {"embedding.weight": Payload(marker)})))
    if archive is None or random.random() < 0.4:
        return payload
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(found, "w") as new:
        for name in old.namelist():
            new.writestr(name, payload if name.endswith("data.pkl") else old.read(name))
    return found.getvalue()
