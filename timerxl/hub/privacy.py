"""What must not leave this machine: paths, names of hosts, tokens. Files keep their name alone."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from timerxl.config import InputError
from timerxl.hub.patterns import (
    DATA_FILE,
    REMOVED,
    without_buckets,
    without_keys,
    without_places,
)

HOST, KERNEL = "[host]", "[kernel]"
# Keys of config.yaml and preprocessing.json whose text is a path, whatever it looks like.
_PATH_KEYS = frozenset("path oni_path pretrained output_dir mirror file folder checkpoint".split())
_SECRET_KEY = re.compile(
    r"(^|_)(token|secret|password|passwd|passphrase|pwd|api_?key|access_key|account_key|private_key"
    r"|credentials?|authorization|connection_string|dsn|pat)(_|$)",
    re.I,
)
# In an environment a key is a secret.
_SECRET_VARIABLE = re.compile(rf"{_SECRET_KEY.pattern}|(^|_)(key|auth|sas)(_|$)", re.I)
_RELATIVE = re.compile(rf"(?<![\w./:~-])(?:[\w.-]+/)+([\w.-]+\.(?:{DATA_FILE}))\b")
# Of a page: program and style, whose slashes are no paths, and pictures written out as text.
_NO_WORDS = re.compile(
    r"(<script\b.*?</script>|<style\b.*?</style>|data:[\w/+.;-]+,[^\"')\s]*)", re.S
)


def file_name(path: str) -> str:
    """The last part of a path of any system."""
    return re.split(r"[\\/]+", path.rstrip("\\/"))[-1] or path


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text


@dataclass(frozen=True)
class Scrubber:
    """``known``: private string -> what may be said instead, the longest first. ``kept``: names
    that look private and stay, because the model can't be loaded or used without them."""

    known: tuple[tuple[str, str], ...]
    kept: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, run: Path, contents: list[Any], secrets: list[str], names: Iterable[str] = ()
    ) -> Scrubber:
        """For a run folder and what its files hold; ``secrets`` are tokens in use here.

        ``names`` are what the model calls its features, regions and columns: never rewritten.
        Raises InputError where one of them holds a token or a folder of this machine.
        """
        known: dict[str, str] = {}
        for folder in {Path.home(), Path.cwd(), Path.home().resolve()}:
            if len(str(folder)) > 3:
                known[str(folder)] = "~"
        for path in {str(run), str(run.absolute()), str(run.resolve())}:
            if _is_path(path):
                known[path] = run.absolute().name
        for content in contents:
            known |= {path: file_name(path) for path in _paths_in(content)}
        said = {name for content in contents for name in strings_in(content)}
        host = socket.gethostname()
        for name in {host, host.partition(".")[0]}:
            # A plain word tells nobody anything, and might be a region's name.
            if len(name) > 3 and re.search(r"[\d.-]", name) and name not in said:
                known[name] = HOST
        if re.search(r"\d[+-]", platform.release()):  # 4.4.0 might be a library's version
            known[platform.release()] = KERNEL
        known |= {secret: REMOVED for secret in secrets}
        found = cls(tuple(sorted(known.items(), key=lambda item: -len(item[0]))))
        kept = [name for name in names if found.value(name) != name]
        found._refuse_private(kept, secrets)
        return cls(found.known, tuple(sorted(kept, key=lambda name: -len(name))))

    def _refuse_private(self, names: list[str], secrets: list[str]) -> None:
        """Raise InputError on a name that nobody may read and that can't be taken out."""
        folders = tuple(item for item in self.known if os.path.isabs(item[0]))
        for name in names:
            if without_keys(name) != name or any(secret in name for secret in secrets):
                what, shown = "a token", "one that is not repeated here"
            elif Scrubber(folders).code(name) != name:
                what, shown = "a folder of this machine", repr(name)
            else:
                continue
            raise InputError(
                f"a feature, region or column of the model is named after {what} ({shown}). The "
                "model can't be used without its names, so they are not rewritten, and it is not "
                "published. Rename it in the table, and train again."
            )

    def text(self, text: str) -> str:
        """A sentence without what is private."""
        return self._around_names(
            text, lambda part: without_places(without_keys(self._known(part)))
        )

    def code(self, text: str) -> str:
        """The same for a program: a slash there need not be a path."""
        return self._around_names(
            text, lambda part: without_buckets(without_keys(self._known(part)))
        )

    def page(self, text: str) -> str:
        """The same for HTML."""
        parts = _NO_WORDS.split(text)
        return "".join(
            self.code(part) if index % 2 else self.text(part) for index, part in enumerate(parts)
        )

    def value(self, value: Any, key: str = "") -> Any:
        """What a JSON or YAML file holds, without what is private, of the same shape."""
        if isinstance(value, dict):
            return {self.text(str(k)): self.value(item, str(k)) for k, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, key) for item in value]
        if not isinstance(value, str):
            return value
        if _SECRET_KEY.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)):  # apiKey too
            return REMOVED
        if key in _PATH_KEYS:
            value = file_name(value)
        if value in self.kept:
            return value
        return self.text(_RELATIVE.sub(r"\1", self.text(value)))

    @cached_property
    def _names(self) -> re.Pattern[str] | None:
        """The kept names where they stand alone, not as a part of a path."""
        forms = {
            form for name in self.kept for form in (name, escape(name), json.dumps(name)[1:-1])
        }
        longest = "|".join(re.escape(form) for form in sorted(forms, key=lambda form: -len(form)))
        return re.compile(rf"(?<![\w/\\@.~-])({longest})(?![\w/\\@])") if forms else None

    def _around_names(self, text: str, scrub: Callable[[str], str]) -> str:
        """Scrub what stands between the kept names."""
        if self._names is None:
            return scrub(text)
        parts = self._names.split(text)
        return "".join(part if index % 2 else scrub(part) for index, part in enumerate(parts))

    def _known(self, text: str) -> str:
        for private, said in self.known:
            for form in {private, escape(private), json.dumps(private)[1:-1], quote(private)}:
                if form not in text:
                    continue
                if said == REMOVED:  # wherever it stands
                    text = text.replace(form, said)
                else:
                    # In a replacement a backslash would be read.
                    plainly = said.replace("\\", "/")
                    text = re.sub(rf"(?<![\w-]){re.escape(form)}(?![\w-])", plainly, text)
        return text


def secrets_here(environment: Mapping[str, str], token: str | None) -> list[str]:
    """Values of variables that are called a token, a secret, a password or a key; and the token.

    A short word (``TOKENIZERS_PARALLELISM=false``) is none.
    """
    found = {token} if token else set()
    for name, value in environment.items():
        if not _SECRET_VARIABLE.search(name):
            continue
        # Also each line of a file that was put into a variable.
        for secret in {value.strip(), *value.splitlines()}:
            is_long = len(secret) >= 20 or (len(secret) >= 8 and re.search(r"\d", secret))
            is_path = secret.startswith("-----") or os.path.exists(secret)
            if is_long and not is_path:  # nor the frame of a key
                found.add(secret)
    return sorted(found)


def as_yaml(content: Any) -> str:
    """As config.yaml is written, keys in their order, without comments."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _paths_in(content: Any, key: str = "") -> Iterator[str]:
    """Texts under the keys of paths, where they name a folder as well."""
    if isinstance(content, dict):
        for name, item in content.items():
            yield from _paths_in(item, str(name))
    elif isinstance(content, list):
        for item in content:
            yield from _paths_in(item, key)
    elif isinstance(content, str) and key in _PATH_KEYS and _is_path(content):
        yield content
        if not os.path.isabs(content):
            yield os.path.abspath(content)


def strings_in(content: Any) -> Iterator[str]:
    """Every key and every text of a JSON value."""
    if isinstance(content, dict):
        yield from map(str, content)
        content = list(content.values())
    if isinstance(content, list):
        for item in content:
            yield from strings_in(item)
    elif isinstance(content, str):
        yield content
