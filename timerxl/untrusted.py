"""What comes from outside: text, files and numbers that anybody may have written.

Every door (recipes, overrides, run folders, checkpoints, models, tables, archives) goes through
here. Sizes, depth, links, characters and bounds end in an InputError that names the file; what is
said about them is one printable line.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
import re
import resource
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import IO, Any, Union, get_args, get_origin, get_type_hints

import psutil
import yaml

from timerxl.config_checks import InputError

MOST_YAML_CHARACTERS = 500_000  # a recipe has 2,000; PyYAML reads 100,000 a second
MOST_JSON_BYTES = 16 * 2**20  # a table of results with a thousand regions has 3 MB
MOST_VALUES = 100_000  # with every alias of YAML written out
MOST_LEVELS = 100
MOST_YAML_LEVELS = 20  # a library that merges them calls itself several times a level
MOST_PACKED = 200  # times its bytes: weather packs 2 to 50 times, a decompression bomb 1,000
_SMALL_UNPACKED_BYTES = 64 * 2**20  # may be packed any number of times
MOST_REFERENCES, MOST_TEXT = 8, 4_096  # of ${key} in a recipe: in a row, and characters made
REFERENCE = re.compile(r"\$\{([a-z]\w*(?:\.[a-z]\w*)*)\}", re.ASCII)
MOST_QUOTED = 16  # characters of a text where something else belongs: it may be a secret
MOST_SHOWN = 2_000  # characters of one line for a terminal, a log or status.json
_CGROUPS = (  # (limit, use) of a container, version 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
_WORDS = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "a mapping of keys to values",
    None: "null",
}


@dataclass(frozen=True)
class Between:
    """The shape of a number from ``low`` to ``high``, both included (see :func:`schema_error`)."""

    low: float
    high: float


@dataclass(frozen=True)
class Text:
    """The shape of a text of 1 to ``most`` characters (see :func:`schema_error`)."""

    most: int


def plain(text: object, most: int = MOST_SHOWN) -> str:
    """``text`` as one printable line of at most ``most`` characters, for terminals and logs.

    Control characters (colours, titles, "clear the screen", line ends) and characters that turn
    the direction of writing become their escapes: what a stranger's file calls itself can neither
    steer a terminal nor look like a line of ours.
    """
    shown = str(text)
    if (length := len(shown)) > most:
        shown = f"{shown[:most]}... ({length:,} characters)"
    if shown.isprintable():
        return shown
    return "".join(_plain_sign(sign) for sign in shown)


def listed(names: list[str], most: int = 6) -> str:
    """``a, b and 3 more``; names of a table may be of any length, and are cut."""
    shown = ", ".join(plain(name, 200) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _plain_sign(sign: str) -> str:
    if sign.isprintable():
        return sign
    return " " if unicodedata.category(sign) == "Zs" else repr(sign)[1:-1]


def check_own_files(folder: Path, names: Iterable[str], written_in_place: Iterable[str]) -> None:
    """Raise InputError where something under ``folder`` leads out of it; nothing is changed.

    Below each of ``names`` (files or folders in ``folder``; those that are not there are skipped)
    only folders and regular files may lie. Files of ``written_in_place`` may have no second name
    (hard link) either: what is appended or cut there would be so elsewhere.
    """
    alone = set(written_in_place)
    for name in names:
        for path in _everything_at(folder / name):
            try:
                found = path.lstat()
            except OSError:  # not there, or nowhere: whoever opens it will say so
                continue
            is_file = stat.S_ISREG(found.st_mode)
            if not is_file and not stat.S_ISDIR(found.st_mode):
                raise InputError(_not_ours(path, _kind(found)))
            top = path.relative_to(folder).parts[0]
            if is_file and top in alone and found.st_nlink > 1:
                raise InputError(_not_ours(path, f"has {found.st_nlink} names (hard links)"))


def open_own(path: Path, mode: str) -> IO[Any]:
    """Open a file of our own to write it: as open(path, mode), in UTF-8 where it is text.

    Raises InputError, before anything is cut or written, where the name is a link, a pipe or a
    device, or where the file has a second name (hard link).
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe would be waited for
    flags |= os.O_RDWR if "+" in mode else os.O_WRONLY
    flags |= os.O_APPEND if "a" in mode else 0
    flags |= 0 if "r" in mode else os.O_CREAT
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        with contextlib.suppress(OSError):
            if not stat.S_ISREG((found := path.lstat()).st_mode):
                raise InputError(_not_ours(path, _kind(found))) from error
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(_not_ours(path, _kind(found)))
        if found.st_nlink > 1:
            raise InputError(_not_ours(path, f"has {found.st_nlink} names (hard links)"))
        if "w" in mode:
            os.ftruncate(descriptor, 0)
        return os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8")
    except BaseException:
        os.close(descriptor)
        raise


def link_problem(path: Path) -> str | None:
    """Why a name in a stranger's folder is no regular file of that folder, as a clause; or None."""
    try:
        found = path.lstat()
    except OSError as error:
        return f"can't be read: {error.strerror or error}"
    return None if stat.S_ISREG(found.st_mode) else _kind(found)


def check_model_files(folder: Path, names: Iterable[str]) -> None:
    """Raise InputError where one of these files of a model folder is a link that leads out of it.

    A snapshot in the hub's cache is made of links to the blobs beside it; these are taken.
    """
    home = Path(os.path.realpath(folder))  # of a link to itself too
    # Also a folder within a snapshot, as an ensemble's members are.
    snapshots = [one for one in (home, home.parent) if one.parent.name == "snapshots"]
    homes = {home, *(one.parent.parent / "blobs" for one in snapshots)}
    for path in (folder / name for name in names):
        if path.exists() and Path(os.path.realpath(path)).parent not in homes:
            raise InputError(
                f"{plain(path)} is a link that leads out of its folder; expected the file itself. "
                "Put a copy there, if it belongs to the model."
            )


def check_room(num_bytes: int, folder: Path, what: str) -> None:
    """Raise InputError where ``what`` needs more than 90 % of the free space of ``folder``'s disk,
    before a byte of it is written."""
    free = shutil.disk_usage(folder).free
    if num_bytes > 0.9 * free:
        raise InputError(
            f"{plain(what)} takes {num_bytes / 1e9:,.2f} GB, and {free / 1e9:,.2f} GB are free in "
            f"{folder}; make room there (TMPDIR chooses the folder of temporary files)."
        )


def check_memory(num_bytes: int, what: str) -> None:
    """Raise InputError where ``what`` needs more than 90 % of the memory that is free here."""
    if num_bytes > 0.9 * (free := free_memory()):
        raise InputError(
            f"{plain(what)} takes {num_bytes / 1e9:,.2f} GB of memory, and {free / 1e9:,.2f} GB "
            "are free here; take a part of it, or a machine with more."
        )


def check_packing(packed: int, unpacked: int, what: str) -> None:
    """Raise InputError where far more bytes come out of an archive than weather packs to."""
    if unpacked > max(MOST_PACKED * packed, _SMALL_UNPACKED_BYTES):
        raise InputError(
            f"{plain(what)} unpacks {packed:,} bytes to {unpacked:,} or more; expected at most "
            f"{MOST_PACKED} times as many. Unpack it first, if that is right."
        )


def check_members(path: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    """Raise InputError for a ZIP whose ``members`` unpack to far too much, by what it declares.

    zipfile gives no more bytes than declared, of members that are stored or deflated; the other
    methods it unpacks in pieces of any size.
    """
    members = list(members)
    check_packing(path.stat().st_size, sum(m.file_size for m in members), path.name)
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{plain(path.name)} packs {plain(member.filename, 80)} by method "
                f"{member.compress_type}; only stored (0) and deflated (8) members are read: "
                "unpack it first."
            )


def free_memory() -> int:
    """Bytes of memory that a program can take here: what the kernel calls available, within the
    limits of this process and of its container (cgroup)."""
    limits = [psutil.virtual_memory().available]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft - psutil.Process().memory_info().vms)
    for most, used in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(most).read_text()) - int(Path(used).read_text()))
    return max(min(limits), 0)


def _everything_at(path: Path) -> Iterator[Path]:
    """``path`` and what lies below it, without following links."""
    yield path
    if not path.is_symlink() and path.is_dir():
        for parent, folders, files in os.walk(path):
            yield from (Path(parent, name) for name in (*folders, *files))


def _kind(found: os.stat_result) -> str:
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe"}
    return f"is {kinds.get(stat.S_IFMT(found.st_mode), 'a device or a socket')}"


def _not_ours(path: Path, found: str) -> str:
    return (
        f"{plain(path)} {found}; expected a regular file or folder of the run's own, so nothing "
        "was changed. Take it away, or choose another folder."
    )


def read_json(path: Path) -> Any:
    """What a JSON file holds; InputError where it can't be read."""
    try:
        content = json.loads(read_text(path, MOST_JSON_BYTES), parse_int=_whole)
        # Half a surrogate pair is JSON, but no text that could be written or printed.
        json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read as JSON: {reason(error)}") from error
    if _levels(content) > MOST_LEVELS:
        raise InputError(f"{path} can't be read as JSON: it nests more than {MOST_LEVELS} levels.")
    return content


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; InputError where it can't be read, or holds more than plain values.

    Tags that would make Python objects are refused by PyYAML's safe loader.
    """
    text = read_yaml_text(path)
    try:
        content = yaml.safe_load(text)
        json.dumps(content, ensure_ascii=False, default=str, skipkeys=True).encode()
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError) as error:
        raise InputError(f"{path} can't be read as YAML: {reason(error)}") from error
    return content


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file that :func:`check_yaml` finds no fault with."""
    try:
        text = read_text(path)
        check_yaml(text)
    except ValueError as error:
        raise InputError(f"{path} can't be read as YAML: {reason(error)}") from error
    return text


def check_yaml(text: str) -> None:
    """Raise ValueError for what is no YAML, or too much of it (aliases can double at every line).

    Nothing is made of it yet.
    """
    if len(text) > MOST_YAML_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters, expected {MOST_YAML_CHARACTERS:,}.")
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        values, levels = (0, 0) if node is None else _written_out(node, {})
    except yaml.YAMLError as error:
        raise ValueError(reason(error)) from error
    except RecursionError:
        values, levels = 0, math.inf
    if values > MOST_VALUES or levels > MOST_YAML_LEVELS:
        raise ValueError(
            f"expected at most {MOST_VALUES:,} values in {MOST_YAML_LEVELS} levels, aliases "
            "written out."
        )


def check_references(text: str, known: list[str]) -> None:
    """:func:`check_reference` of every key and value of a YAML text."""
    for value in _scalars(yaml.compose(text, yaml.SafeLoader)):
        check_reference(value, known)


def check_reference(value: str, known: list[str]) -> None:
    """Raise ValueError where a value refers to anything but a ``known`` key: ``${recipe}``.

    Resolvers (``${oc.env:HOME}``) are refused: a stranger's recipe would read this machine with
    them, and what it reads would stand in the files of the run. So is what is nested or escaped.
    """
    for name in REFERENCE.findall(value):
        if name not in known:
            raise ValueError(f"{plain(value, 80)!r} refers to {name}, which is no key.")
    if "${" in REFERENCE.sub("", value) or "\\${" in value:
        raise ValueError(
            f"{plain(value, 80)!r} is more than a plain reference; only other keys can be "
            "referred to, as in runs/${recipe}, and nothing of the environment."
        )


def resolve_references(values: dict[str, Any]) -> dict[str, Any]:
    """Those of ``values`` (dotted key -> scalar or list) that refer to others, with these put in.

    Every key is made once, whatever refers to it. Raises ValueError where a reference leads in a
    circle, through more than MOST_REFERENCES keys, to a list, to a text of more than MOST_TEXT
    characters, of which none is made, or to one that would be a reference again.
    """
    made: dict[str, Any] = {}

    def value_of(key: str, through: tuple[str, ...]) -> Any:
        if key in through or len(through) > MOST_REFERENCES:
            raise ValueError(
                f"{through[0]} refers to itself, or through more than {MOST_REFERENCES} keys."
            )
        if key not in made:
            if through and isinstance(values[key], list | dict):
                raise ValueError(f"{through[0]} refers to {key}, which is no single value.")
            made[key] = filled(values[key], (*through, key))
        return made[key]

    def filled(value: Any, through: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [filled(item, through) for item in value]
        if isinstance(value, dict):
            return {key: filled(item, through) for key, item in value.items()}
        if not isinstance(value, str) or "${" not in value:
            return value
        pieces, size = REFERENCE.split(value), 0  # every second one is a key
        for index, piece in enumerate(pieces):
            pieces[index] = value_of(piece, through) if index % 2 else piece
            size += len(str(pieces[index]))
            if size > MOST_TEXT:
                raise ValueError(
                    f"{through[-1]} has more than {MOST_TEXT:,} characters when resolved."
                )
        if "${" in (text := "".join(map(str, pieces))):  # put together from parts
            raise ValueError(f"{through[-1]} is {plain(text, 80)!r}; expected a text without ${{.")
        # A reference alone keeps the kind of value that it refers to.
        return pieces[1] if REFERENCE.fullmatch(value) else text

    return {key: new for key in values if (new := value_of(key, ())) != values[key]}


def _scalars(node: yaml.Node | None) -> Iterator[str]:
    """Every key and every value of a YAML document, an alias once."""
    seen, waiting = set(), [node]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield node.value
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]


def check_overrides(overrides: list[str], known: list[str]) -> None:
    """Raise InputError for an override that is no key=value, of no ``known`` key, no YAML, or that
    refers to anything but a key."""
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise InputError(f"override {override[:80]!r} is not of the form key=value.")
        if not any(leaf == key or leaf.startswith(f"{key}.") for leaf in known):
            raise unknown_key(key, "the overrides", known)
        try:
            check_yaml(value)
            check_references(value, known)
        except ValueError as error:
            raise InputError(
                f"{override[:80]!r} in the overrides can't be read: {error}"
            ) from error


def check_texts(values: dict[str, Any]) -> None:
    """Raise InputError for a null character in a text or a list: no file name can hold it."""
    for key, value in values.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and "\0" in text:
                raise InputError(f"{key} is {plain(text, 80)}, with a null character; take it out.")


def unknown_key(key: str, source: str, known: list[str]) -> InputError:
    """The error for a dotted key of ``source`` that is none, with the one that may be meant."""
    near = difflib.get_close_matches(key[:80], known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "see timerxl/config.py for all keys."
    return InputError(f"unknown key {key[:80]} in {source}; {hint}")


def reason(error: BaseException) -> str:
    """What a library says, in one printable line."""
    return plain(" ".join(str(error)[:3000].split())[:300]) or type(error).__name__


def schema_error(content: Any, shape: Any, name: str = "") -> str | None:
    """Where a value is not of the ``shape`` asked for, as a clause; None where all is well.

    A shape is int, float (any finite number), str, bool, list, dict or None; ``object`` for
    anything; a range of whole numbers; Between(low, high) for a number; Text(most) for a text that
    is not empty; a tuple of shapes, any of which will do; [shape] for a list of such; {key: shape}
    for a mapping with these keys and any others, where "key?" may be missing.
    """
    where = name or "it"
    if isinstance(shape, tuple):
        found = [schema_error(content, one, name) for one in shape]
        return None if None in found else f"{where} is {_shown(content)}; expected {_words(shape)}"
    if isinstance(shape, dict) and isinstance(content, dict):
        for key, wanted in shape.items():
            plain = key.removesuffix("?")
            if plain not in content:
                if key == plain:
                    return f"{where} has no {plain}"
            elif found_there := schema_error(content[plain], wanted, f"{name}.{plain}".lstrip(".")):
                return found_there
        return None
    if isinstance(shape, list) and isinstance(content, list):
        misfits = (schema_error(item, shape[0], f"{where}[{i}]") for i, item in enumerate(content))
        return next((one for one in misfits if one is not None), None)
    if _fits(content, shape):
        return None
    return f"{where} is {_shown(content)}; expected {_words(shape)}"


def shape_of(cls: type) -> dict[str, Any]:
    """The shape of a configuration's dataclass, as asdict writes it; any key may be missing."""
    return {f"{key}?": _shape_of_hint(hint) for key, hint in get_type_hints(cls).items()}


def _shape_of_hint(hint: Any) -> Any:
    if is_dataclass(hint):
        return shape_of(hint) if isinstance(hint, type) else dict
    origin, parts = get_origin(hint), tuple(_shape_of_hint(part) for part in get_args(hint))
    if origin is list:
        return [parts[0]]
    if origin is Union:
        return parts
    return None if hint is type(None) else hint


def _fits(content: Any, shape: Any) -> bool:
    """Of a shape without parts."""
    if shape is object:
        return True
    if shape is None:
        return content is None
    if isinstance(content, bool) or shape is bool:
        return isinstance(content, bool) and shape is bool
    if isinstance(shape, range):
        return isinstance(content, int) and content in shape
    if isinstance(shape, Between):
        return isinstance(content, int | float) and shape.low <= content <= shape.high
    if isinstance(shape, Text):
        return isinstance(content, str) and 1 <= len(content) <= shape.most
    if shape is float:
        return isinstance(content, int | float) and abs(content) < 1e300
    return isinstance(shape, type) and isinstance(content, shape)


def _words(shape: Any) -> str:
    if isinstance(shape, tuple):
        return " or ".join(_words(one) for one in shape)
    if isinstance(shape, range):
        return f"a whole number from {shape.start} to {shape.stop - 1}"
    if isinstance(shape, Between):
        return f"a number from {shape.low:g} to {shape.high:g}"
    if isinstance(shape, Text):
        return f"a text of 1 to {shape.most:,} characters"
    if isinstance(shape, list):
        return "a list"
    return _WORDS[dict if isinstance(shape, dict) else shape]


def _shown(content: Any) -> str:
    """A value of a stranger's file, short and printable."""
    if isinstance(content, dict | list):
        kind = "mapping" if isinstance(content, dict) else "list"
        return f"a {kind} of {len(content)}"
    if isinstance(content, int) and abs(content) > 10**30:
        return "a number of more than 30 digits"
    if isinstance(content, str) and len(content) > MOST_QUOTED:
        return f"a text of {len(content):,} characters"
    return ascii(content)


def _whole(digits: str) -> int:
    """No file of ours counts so far, and what does can't even become a float."""
    if len(digits) > 30:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def is_file(path: Path) -> bool:
    """As Path.is_file, which raises OSError for a name that is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_text(path: Path, most_bytes: int = 4 * MOST_YAML_CHARACTERS) -> str:
    """Of a regular file in UTF-8: a pipe would be waited for, a device read without end.

    Raises ValueError with the reason where it can't be read, or has more than ``most_bytes``.
    """
    try:
        if not is_file(path):
            raise ValueError("it is no file.")
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            size = path.stat().st_size
            raise ValueError(f"it has {size:,} bytes, expected at most {most_bytes:,}.")
        return content.decode("utf-8")
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def _levels(content: Any) -> int:
    """How deep lists and mappings stand in each other, without going down by recursion."""
    levels, level = 0, [content] if isinstance(content, dict | list) else []
    while level:
        levels += 1
        parts = [item.values() if isinstance(item, dict) else item for item in level]
        level = [part for inner in parts for part in inner if isinstance(part, dict | list)]
    return levels


def _written_out(node: yaml.Node, known: dict[int, tuple[float, float]]) -> tuple[float, float]:
    """(values, levels) of a node with its aliases written out; infinite where it holds itself."""
    if id(node) not in known:
        known[id(node)] = (math.inf, math.inf)
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        sizes = [_written_out(part, known) for part in parts]
        values = 1 + sum(size[0] for size in sizes)
        known[id(node)] = (values, 1 + max((size[1] for size in sizes), default=0))
    return known[id(node)]


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": 1}} -> {"train.lr": 1}."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
