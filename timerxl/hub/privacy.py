"""What must not leave this machine: paths, names of hosts, tokens. Files keep their name alone.

Every pattern is read in time proportional to the text: repetitions are bounded, or no part of what
they read can begin a match again.
"""

from __future__ import annotations

import json
import os
import platform
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import yaml

REMOVED = "[removed]"
# (text that must be there, pattern): a text without the first is not searched for the second.
_KEYS = tuple(
    (hint, re.compile(pattern))
    for hint, pattern in (
        ("hf_", r"\bhf_[A-Za-z0-9]{10,}"),  # Hugging Face
        ("api_org_", r"\bapi_org_[A-Za-z0-9]{10,}"),
        ("gh", r"gh[pousr]_[A-Za-z0-9]{20,}"),  # GitHub
        ("github_pat_", r"github_pat_\w{20,}"),
        ("gl", r"gl(?:pat|dt|rt|cbt|ptt|ft|soat|imt|agent|oas|ffct)-[\w.-]{10,}"),  # GitLab
        ("AIza", r"AIza[\w-]{20,}"),  # Google
        ("ya29.", r"ya29\.[\w-]{20,}"),
        ("GOCSPX-", r"GOCSPX-[\w-]{20,}"),
        ("pypi-", r"pypi-(?:AgE[\w-]{8,}|[A-Za-z0-9_]{16,}|[\w-]{50,})"),
        ("npm_", r"npm_[A-Za-z0-9]{20,}"),
        ("A", r"\bA(?:KIA|SIA|BIA|CCA|GPA|IDA|ROA|IPA|NPA|NVA|3T[A-Z0-9])[0-9A-Z]{16}\b"),  # AWS
        ("sk-", r"\bsk-(?:proj|ant|admin|svcacct|or|lf)-[\w-]{10,}"),  # OpenAI, Anthropic, ...
        ("sk-", r"\bsk-[A-Za-z0-9]{16,}"),
        ("k_", r"\b[sprw]k_(?:live|test|prod)_[A-Za-z0-9]{10,}"),  # Stripe
        ("whsec_", r"whsec_[A-Za-z0-9+/=]{16,}"),
        ("xox", r"\bxox[a-z](?:\.xox[a-z])?-[\w-]{10,}"),  # Slack
        ("xapp-", r"xapp-\d-[\w-]{10,}"),
        ("hooks.slack.com/", r"hooks\.slack\.com/[\w/+-]{10,}"),
        ("SG.", r"SG\.[\w-]{16,80}\.[\w-]{16,80}"),  # SendGrid
        ("do", r"\bdo[opr]_v1_[a-f0-9]{40,}"),  # DigitalOcean
        ("Q~", r"[\w.~-]{3}\dQ~[\w.~-]{31,34}"),  # Azure
        ("dapi", r"\bdapi[a-f0-9]{32}"),  # Databricks
        ("wandb_v1_", r"wandb_v1_\w{20,}"),
        ("hvs.", r"\bhvs\.[\w-]{20,}"),  # Vault
        ("r8_", r"\br8_[A-Za-z0-9]{30,}"),  # Replicate
        ("eyJ", r"(?<![\w-])eyJ[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]{5,})?"),  # JSON web tokens
        (
            "-----BEGIN ",
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?:[^-]|-(?!----))*"
            r"(?:-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----)?",
        ),
        ("Bearer ", r"\bBearer [\w.~+/=-]{12,}"),
        ("Basic ", r"\bBasic (?=.[\w.~+/-]{0,200}?[\dA-Z+/=])[\w.~+/=-]{12,}"),
    )
)
# After a word like these and "=" or ":", a value of the kind that a program makes.
_WORD = (
    r"(?:secret|access|api|private|account|shared|storage|client|auth|session|master|encryption)"
    r"(?:[_ -]?(?:access|secret|auth|session|account))?[_ -]?(?:key|token|secret|signature)"
    r"|secret|token|passphrase|credentials?|aws|key|sig"
)
_SAID = re.compile(
    rf"((?<![A-Za-z])({_WORD})[\"'\\]{{0,3}}(\s{{0,3}}(?:=>|:=|=|:|\bis\b)\s{{0,3}}|[ \t])"
    r"[\"'\\]{0,3})([A-Za-z0-9/+_.~%=-]{16,})",
    re.I,
)
_PASSWORD = re.compile(
    r"((?<![A-Za-z])(?:password|passwd|passphrase|pwd)[\"'\\]{0,3}\s{0,3}[=:]\s{0,3}[\"'\\]{0,3})"
    r"(?!\[removed\])([^\s\"'\\,;&<>()]{4,})",
    re.I,
)
# An account at a machine; with a path, as ssh and git write it.
ADDRESS = re.compile(
    r"(?<![\w.+-])[\w.+-]+@[A-Za-z][\w-]*(?:\.[\w-]+)*(?::[\w~][\w./~-]{0,300}\w)?"
)
_PATH = re.compile(
    r"(?<![\w.:/~])(?:~\w*/|/[^\s/]+/|//[^\s/]+/)|\\\\|(?<!\w)[A-Za-z]:[\\/]|file://|\w:/\w"
)
_URL = re.compile(
    r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]{1,20})://([^\s\"'<>|,;()\[\]{}`\\]+)"
)
_PRIVATE_HOST = re.compile(
    r"[^.]+|[\d.]+"  # a name in this network, an address
    r"|.+\.(?:internal|local|localdomain|lan|corp|intranet|home|private|svc|test)"
    r"|.*\b(?:amazonaws\.com|storage\.googleapis\.com|storage\.cloud\.google\.com|r2\.dev)"
    r"|.+\.(?:core\.windows\.net|cloudflarestorage\.com|digitaloceanspaces\.com|backblazeb2\.com)"
    r"|.+\.(?:aliyuncs\.com|myqcloud\.com|wasabisys\.com)"
)
_SIGNED = re.compile(r"(?:^|[&;])[\w.-]*(?:sig|token|key|secret|credential|amz|goog)[\w.-]*=", re.I)

_KERNEL_SUFFIX = (
    "generic|lowlatency|aws|azure|gcp|gke|gkeop|oracle|oem|cloud|microsoft|WSL2|kvm|linuxkit|tegra"
    "|raspi|lts|rt|pve|arch|amd64|arm64|x86_64|aarch64|el|fc|amzn"
)
_KERNELS = (
    re.compile(
        r"\b(Linux|Darwin|macOS|FreeBSD)[- ](?:Kernel Version )?\d{1,3}(?:\.\d{1,5}){1,3}"
        r"[\w.+-]{0,120}"
    ),
    re.compile(r"\b(Windows)-\d[\w.+-]{0,120}"),
    re.compile(
        r"(?<![\w.-])\d{1,2}(?:\.\d{1,3}){2,3}-(?:[\w.]{1,30}[.-]){0,4}?"
        rf"(?:{_KERNEL_SUFFIX})\d{{0,6}}(?![A-Za-z])[\w.+-]{{0,60}}"
    ),
)

# What no name and no text may hold, whoever gave it: tokens, kernels, places of storage.
_PRIVATE = re.compile(
    r"\b(hf_|api_org_|gh[pousr]_|github_pat_|glpat-|pypi-|npm_|sk-|xox[abprs]-)[\w-]{8,}"
    r"|\b(AKIA|ASIA|AIza|eyJ)[\w-]{10,}|\bPRIVATE KEY\b|\bBearer \S"
    r"|\b(s3|gs|gcs|az|abfss?|wasbs?|file|ssh|hf|r2|oci|memory)://|://[^/\s]*@"
    r"|\bLinux\W*\d|\bglibc|\bx86_64\b|\baarch64\b|\bSMP\b|\bDarwin\b|\bWindows-\d"
    r"|\b\d+\.\d+\.\d+[-+]\w"
)


def looks_private(text: str) -> bool:
    """Whether a name or a text holds what is a token, a kernel or a place of storage."""
    return _PRIVATE.search(text) is not None


def has_path(text: str) -> bool:
    """Whether a text names a folder of a machine."""
    return _PATH.search(text) is not None


def without_keys(text: str) -> str:
    """``text`` without tokens, passwords and private keys of known forms."""
    for hint, pattern in _KEYS:
        if hint in text:
            text = pattern.sub(REMOVED, text)
    text = _SAID.sub(lambda found: found[1] + REMOVED if _is_made(found) else found[0], text)
    return _PASSWORD.sub(rf"\g<1>{REMOVED}", text)


def _is_made(found: re.Match[str]) -> bool:
    """The value is of digits and of both cases, as no word and no number is, or hexadecimal."""
    _, word, between, value = found.groups()
    if between.isspace() and len(value) != 40:  # "secret" in prose, unless an AWS key follows
        return False
    if word.lower() not in ("key", "aws", "sig") and re.fullmatch("[0-9a-f]+|[0-9A-F]+", value):
        return bool(re.search("[0-9]", value) and re.search("[A-Fa-f]", value))
    mixed = all(re.search(kind, value) for kind in ("[0-9]", "[a-z]", "[A-Z]"))
    return mixed and len(value) >= 20


def without_places(text: str) -> str:
    """``text`` without addresses of storage or of machines in a network, and without kernels; of
    such an address the file's name stays."""
    if "://" in text:
        text = _URL.sub(_without_host, text)
    for pattern in _KERNELS:
        text = pattern.sub(lambda found: found[1] if found.re.groups else REMOVED, text)
    return text


def _without_host(found: re.Match[str]) -> str:
    """An address in the World Wide Web stays, without what signs it; of others the last name."""
    scheme, rest = found[1].lower(), found[2].rstrip(".:!?")
    after = found[2][len(rest) :]
    try:
        parts = urlsplit(f"https://{rest}")
        host, is_open = (parts.hostname or "").lower(), parts.port is None
    except ValueError:
        return REMOVED + after
    if scheme in ("http", "https") and is_open and not _PRIVATE_HOST.fullmatch(host):
        if parts.username is None and not _SIGNED.search(parts.query):
            return found[0]
        return f"{found[1]}://{host}{parts.path}{after}"
    *folders, name = parts.path.strip("/").split("/")
    if not name or (scheme == "hf" and "." not in name):
        return REMOVED + after
    return name + after


HOST, KERNEL = "[host]", "[kernel]"
_SECRET_VARIABLE = re.compile(
    r"(^|_)(token|secret|password|passwd|passphrase|pwd|api_?key|access_key|account_key|private_key"
    r"|credentials?|authorization|connection_string|dsn|pat|key|auth|sas)(_|$)",
    re.I,
)
# Keys of config.yaml and preprocessing.json whose text is a path, whatever it looks like.
_PATH_KEYS = frozenset(
    "path oni_path cache_dir pretrained output_dir mirror file folder checkpoint".split()
)


def file_name(path: str) -> str:
    """The last part of a path of any system."""
    return re.split(r"[\\/]+", path.rstrip("\\/"))[-1] or path


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text


@dataclass(frozen=True)
class Scrubber:
    """``known``: private string -> what may be said instead, the longest first."""

    known: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, run: Path, contents: list[Any], secrets: list[str]) -> Scrubber:
        """For a run folder and what its files hold; ``secrets`` are tokens in use here."""
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
            is_plain = len(name) <= 3 or not re.search(r"[\d.-]", name)
            if not is_plain and not any(name in one for one in said):
                known[name] = HOST
        if re.search(r"\d[+-]", platform.release()):  # 4.4.0 might be a library's version
            known[platform.release()] = KERNEL
        known |= {secret: REMOVED for secret in secrets}
        return cls(tuple(sorted(known.items(), key=lambda item: -len(item[0]))))

    def text(self, text: str) -> str:
        """A text without what is private. A slash need not be a path: programs are read, too."""
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
        return without_places(without_keys(text))

    def value(self, value: Any) -> Any:
        """What a JSON or YAML file holds, without what is private, of the same shape."""
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return self.text(value) if isinstance(value, str) else value


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
