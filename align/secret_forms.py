"""What a secret looks like: known forms of keys, and the values that this process was given in its environment.

`align/config.py` refuses configs and command lines with a secret in them, since both are written to manifests and logs;
`align/publish/secrets.py` scans files before they are published.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote_to_bytes

_KEY = rb"(?<![A-Za-z0-9])"  # not \b: in `\nhf_...` inside JSON the letter n comes before the key
_RANDOM = rb"(?=[A-Za-z_-]*(?:[0-9]|[A-Za-z]{24}))"
"""What follows holds a digit, or 24 letters on end: a key, and not words as in `sk-learn-based-estimators`."""
_SECRETS: dict[str, tuple[tuple[bytes, ...], re.Pattern[bytes]]] = {
    "a Hugging Face token": ((b"hf_", b"api_org_"), re.compile(_KEY + rb"(?:hf|api_org)_[A-Za-z0-9]{20,}")),
    "an API key": (
        (b"sk-", b"k_live_", b"k_test_"),
        re.compile(_KEY + rb"(?:sk-" + _RANDOM + rb"[A-Za-z0-9_-]{20,}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,})"),
    ),
    "an AWS key": ((b"akia", b"asia"), re.compile(_KEY + rb"(?:AKIA|ASIA)[0-9A-Z]{16}(?![A-Za-z0-9])")),
    "an AWS secret": (
        (b"aws",),
        re.compile(rb"(?i)aws.{0,20}secret.{0,30}?[\"'=:\s][A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])"),
    ),
    "a GitHub token": (
        (b"ghp_", b"gho_", b"ghu_", b"ghr_", b"ghs_", b"github_pat_"),
        re.compile(_KEY + rb"(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})"),
    ),
    "a GitLab token": ((b"gl",), re.compile(_KEY + rb"gl[a-z]{2,5}-" + _RANDOM + rb"[A-Za-z0-9_-]{20,}")),
    "a Google key": ((b"aiza",), re.compile(_KEY + rb"AIza[0-9A-Za-z_-]{35}")),
    "a Google token": ((b"ya29.",), re.compile(_KEY + rb"ya29\.[0-9A-Za-z_-]{20,}")),
    "a Slack token": ((b"xox", b"xapp-"), re.compile(_KEY + rb"(?:xox[a-np-z]|xapp)-[A-Za-z0-9-]{10,}")),
    "a Slack address": (
        (b"hooks.slack.com",),
        re.compile(rb"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/]{20,}"),
    ),
    "an npm or PyPI token": (
        (b"npm_", b"pypi-"),
        re.compile(_KEY + rb"(?:npm_[A-Za-z0-9]{30,}|pypi-" + _RANDOM + rb"[A-Za-z0-9_-]{40,})"),
    ),
    "an Azure key": (
        (b"accountkey=", b"sig="),
        re.compile(rb"(?i)AccountKey=[A-Za-z0-9/+]{40,}|[?&]sig=[A-Za-z0-9%/+]{40,}"),
    ),
    "a Google secret": ((b"gocspx-",), re.compile(_KEY + rb"GOCSPX-[A-Za-z0-9_-]{20,}")),
    "an access token": (
        (b"dckr_pat_", b"dop_v1_", b"dapi", b"sg.", b"shpat_", b"lin_api_"),
        re.compile(
            _KEY + rb"(?:dckr_pat_[A-Za-z0-9_-]{20,}|do[opr]_v1_[0-9a-f]{40,}|dapi[0-9a-f]{32}(?![A-Za-z0-9])"
            rb"|SG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}|shpat_[0-9a-f]{32}|lin_api_[A-Za-z0-9]{32,})"
        ),
    ),
    "a password of netrc": (
        (b"machine",),
        re.compile(rb"machine\s+\S{1,200}\s+login\s+\S{1,200}\s+password\s+\S"),
    ),
    "a JSON web token": (
        (b"eyj",),
        re.compile(_KEY + rb"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    ),
    "a password in an address": (
        (b"://",),
        re.compile(rb"://[^\s/:@\"'<>{}]{0,200}:[^\s/:@\"'<>{}]{1,200}@[A-Za-z0-9\[]"),
    ),
    "a bearer token": (
        (b"authorization",),
        re.compile(rb"(?i)authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{16,}"),
    ),
    "a private key": ((b"private key-----",), re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    "a PuTTY key": ((b"putty-user-key-file-",), re.compile(rb"PuTTY-User-Key-File-\d")),
}
"""What it is -> texts of which one must be there, in lower case, and its pattern. The texts are looked for first: that
takes milliseconds in a tokenizer of 20 MB, where all the patterns would take a minute."""
_SECRET_VARIABLE = re.compile(
    r"SECRET|TOKEN(?!IZ)|PASSW(OR)?D|PASSPHRASE|CREDENTIAL|(?<!MON)(?<!TUR)KEY(?!BOARD|MAP|RING|WORD)"
    r"|(^|_)(PASS|PWD|AUTH)(_|\d*$)",
    re.IGNORECASE,
)
"""Names that have such a word anywhere: MYTOKEN and AWS_SECRET_ACCESS_KEY, but not TOKENIZERS_PARALLELISM."""
_NO_SECRETS = frozenset({"PWD", "OLDPWD"})
_LEAST_CHARACTERS = 8
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_PERCENT = re.compile(rb"%[0-9A-Fa-f]{2}")
_NAMED_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b", b"f": b"\f"}
_LAYERS = 3  # JSON inside of JSON inside of JSON


def secrets_of_environment() -> dict[str, str]:
    """What it is -> value, of every variable that holds a secret: AWS_SECRET_ACCESS_KEY does, SSH_AUTH_SOCK a path."""
    return {
        f"the value of {name}": value
        for name, value in os.environ.items()
        if name not in _NO_SECRETS
        and len(value) >= _LEAST_CHARACTERS
        and _SECRET_VARIABLE.search(name)
        and not (Path(value).is_absolute() and os.path.exists(value))
    }


def secrets_in(text: bytes, values: Mapping[str, str]) -> list[str]:
    """What the secrets in a text are, such as `an API key` or `the value of HF_TOKEN`.

    The text may spell them in escapes: `hf\\u005f...`, `hf%5F...`.
    values: as `secrets_of_environment` returns them.
    """
    found: dict[str, None] = {}
    for content in _forms(text):
        lowered = content.lower()
        for what, (marks, pattern) in _SECRETS.items():
            if any(mark in lowered for mark in marks) and pattern.search(content):
                found[what] = None
        found |= {what: None for what, value in values.items() if value.encode() in content}
    return list(found)


def _forms(content: bytes) -> Iterator[bytes]:
    """The content, what it is with an address's escapes resolved, and with one, two and three layers of JSON's."""
    yield content
    if _PERCENT.search(content):
        yield unquote_to_bytes(content)
    for _ in range(_LAYERS):
        resolved = _ESCAPE.sub(_resolved, content)
        if resolved == content:
            return
        content = resolved
        yield content


def _resolved(found: re.Match[bytes]) -> bytes:
    if found[1]:
        return chr(int(found[1], 16)).encode("utf-8", "surrogatepass")
    return _NAMED_ESCAPES.get(found[2], found[2])
