"""What keys, addresses of storage, kernels and paths look like, and a text without them.

Every pattern is read in time proportional to the text: repetitions are bounded, or no part of what
they read can begin a match again.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

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
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@\"'<>]+@")
_ADDRESS = re.compile(
    r"(?<![\w.+-])[\w.+-]+@[A-Za-z][\w-]*(?:\.[\w-]+)*(?::[\w~][\w./~-]{0,300}\w)?"
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

_END = r"\s\"'<>|:;,*?()\[\]{}\\/&"
_PART = rf"[^{_END}]+"
DATA_FILE = (
    r"parquet|csv|nc|zip|json|jsonl|ya?ml|pth?|bin|ckpt|safetensors|txt|html?|gz|log|npy|npz|h5"
)
# A folder's name of several words, as "My Data"; a file's name ends it.
_WORDS = (
    rf"(?!{_PART}\.(?:{DATA_FILE})[ ])(?:[^\s\"'<>|;*?\[\]{{}}\\/]+[ ]){{1,3}}"
    r"[^\s\"'<>|;*?\[\]{}\\/]+"
)
_FILE_OF_WORDS = rf"(?:{_PART}[ ]){{1,3}}?[^{_END}.]+\.(?:{DATA_FILE})\b"
_LAST = rf"((?!{_PART}\.(?:{DATA_FILE})\b){_FILE_OF_WORDS}|{_PART})"
_BEFORE = r"(?<![\w.~/<\\)\]}%+*-])"
_ROOT = (
    r"(?:~\w*|/(?:home|Users|root|mnt|media|data\d?|scratch|work|workspace|content|kaggle|opt|"
    r"srv|tmp|var|private|Volumes|gpfs|lustre|beegfs|nfs|net|projects?|storage|shared?|export|etc|usr|run))/"
)
_PATHS = tuple(
    (hint, re.compile(pattern), left)
    for hint, pattern, left in (
        # Of a machine: node7:/export/x.csv.
        (":/", r"(?<![\w.@-])[A-Za-z][\w-]{0,60}\d[\w.-]{0,60}:(?=/[\w.-]{1,200}/)", ""),
        ("file://", rf"file://(?:{_PART})?/(?:{_PART}/)*({_PART})", r"\1"),
        # A home folder alone: its name is the user's.
        (
            ":",
            rf"(?<!\w)[A-Za-z]:[\\/]{{1,4}}Users[\\/]{{1,4}}{_PART}(?:[ ]{_PART}){{0,3}}?"
            r"[\\/]{0,4}(?=[\"'<>|,;\n]|$)",
            "~",
        ),
        (
            ":",
            rf"(?<!\w)[A-Za-z]:[\\/]{{1,4}}(?:(?:{_PART}|{_WORDS})[\\/]{{1,4}})*{_LAST}",
            r"\1",
        ),
        (
            "\\\\",
            rf"\\\\{_PART}(?:\\{{1,4}}(?:{_PART}|{_WORDS})(?=\\))*\\{{1,4}}{_LAST}",
            r"\1",
        ),
        ("/", rf"{_BEFORE}/(?:home|Users)/{_PART}/?(?![^\s\"'<>|:;,*?()\[\]{{}}&])", "~"),
        # Below the folders that machines have, names of several words too.
        ("/", rf"{_BEFORE}{_ROOT}(?:(?:{_PART}|{_WORDS})/)*{_LAST}", r"\1"),
        # Of a server.
        ("//", rf"(?<![\w:/<\"'=(])//{_PART}/(?:{_PART}/)*({_PART})", r"\1"),
        # From the root or the home folder, through at least one folder.
        ("/", rf"{_BEFORE}(?:~\w*/|/(?!/))(?:{_PART}/)+({_PART})", r"\1"),
        ("~", rf"(?<![\w.])~\w*/({_PART})", r"\1"),
    )
)


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
    """``text`` without folders, buckets, hosts, kernels and addresses; files keep their name."""
    text = without_buckets(text)
    for hint, pattern, left in _PATHS:
        if hint in text:
            text = pattern.sub(left, text)
    text = _CREDENTIALS.sub("", text) if "://" in text else text
    return _ADDRESS.sub(REMOVED, text) if "@" in text else text


def without_buckets(text: str) -> str:
    """``text`` without addresses of storage or of machines in a network, and without kernels."""
    if "://" in text:
        text = _URL.sub(_without_host, text)
    for pattern in _KERNELS:
        text = pattern.sub(lambda found: found[1] if found.re.groups else REMOVED, text)
    return text


def _without_host(found: re.Match[str]) -> str:
    """An address in the World Wide Web stays, without what signs it; of others the last name."""
    scheme, rest = found[1].lower(), found[2].rstrip(".:!?")
    after = found[2][len(rest) :]
    if scheme == "file":
        return found[0]
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
