"""A checkpoint to the Hugging Face Hub: only listed files, after a scan for secrets, tried again when the line breaks.

The token comes from the environment variable HF_TOKEN and is never printed. What the card says is
`align/publish/model_card.py`.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from align.errors import AlignError, PublishError
from align.files import whole_file
from align.manifest import SEAL, verify_folder
from align.publish.model_card import CardFacts, model_card
from align.reporting import logger
from align.settings import HubConfig

log = logger(__name__)

CARD = "README.md"
ALLOWED_NAMES = frozenset(
    {
        "adapter_config.json",
        "added_tokens.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        CARD,
        SEAL,
    }
)
_BINARY = (".safetensors", ".model")
_SECRETS = {
    "a Hugging Face token": re.compile(rb"\bhf_[A-Za-z0-9]{20,}"),
    "an API key": re.compile(rb"\bsk-[A-Za-z0-9_-]{20,}"),
    "an AWS key": re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a GitHub token": re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
_SECRET_VARIABLE = re.compile(r"(TOKEN|API_KEY|SECRET|PASSWORD)$")
_HOPELESS = {400, 401, 403, 404, 409, 413, 422}  # answers that another try does not change
TRIES = 5
FIRST_WAIT_SECONDS = 2.0

T = TypeVar("T")


def publish(checkpoint: Path, hub: HubConfig, card: CardFacts | None = None) -> bool:
    """Push a finished checkpoint, or print what would go. Returns whether it stands on the Hub.

    Never raises for what a user can mend: a training that is done stays done. A push that fails is a warning with the
    command that tries again.
    """
    try:
        return upload(checkpoint, hub, card)
    except AlignError as error:
        log.warning("not published: %s Try again with: %s", error, _command(checkpoint, hub))
        return False


def upload(checkpoint: Path, hub: HubConfig, card: CardFacts | None = None, api: Any = None) -> bool:
    """As `publish`, and raises what goes wrong.

    Idempotent: the Hub takes a folder that it holds already as no change.
    api: a `huggingface_hub.HfApi`; made from HF_TOKEN where None.
    Raises CheckpointError when the folder is not whole, PublishError when it holds a secret, when there is no token, or
    when the Hub does not take it.
    """
    manifest = verify_folder(checkpoint)
    with whole_file(checkpoint / CARD) as handle:
        handle.write(model_card(manifest, card or CardFacts(title=hub.repo.rpartition("/")[2])))
    files = published_files(checkpoint)
    refuse_secrets(files)
    if not hub.push:
        print(listing(files, hub))
        return False
    token = os.environ.get("HF_TOKEN", "")
    if api is None:
        if not token:
            raise PublishError(hub.repo, "wanted a token in HF_TOKEN, found none", "Set HF_TOKEN to a write token")
        from huggingface_hub import HfApi

        api = HfApi(token=token)
    _tried(lambda: api.create_repo(hub.repo, private=hub.private, exist_ok=True), hub.repo, token)
    _tried(
        lambda: api.upload_folder(
            repo_id=hub.repo,
            folder_path=str(checkpoint),
            allow_patterns=[file.name for file in files],  # whole names: a pattern would reach into folders
            commit_message=f"{manifest.get('stage', 'checkpoint')}, made by align {manifest['made_by']['align']}",
        ),
        hub.repo,
        token,
    )
    log.info("published %s as %s", checkpoint, hub.repo)
    return True


def published_files(checkpoint: Path) -> list[Path]:
    """The files that may go, by name, from the folder itself and none below it. No links."""
    return sorted(
        file
        for file in checkpoint.iterdir()
        if file.is_file()
        and not file.is_symlink()
        and (file.name in ALLOWED_NAMES or re.fullmatch(r"(?:model|adapter_model)[\w.-]*\.safetensors", file.name))
    )


def refuse_secrets(files: Iterable[Path]) -> None:
    """Raise PublishError when a text file holds what looks like a secret, or one that the environment holds."""
    values = {
        f"the value of {name}": value.encode()
        for name, value in os.environ.items()
        if _SECRET_VARIABLE.search(name) and len(value) >= 8
    }
    for file in files:
        if file.suffix in _BINARY:
            continue
        content = file.read_bytes()
        found = [what for what, pattern in _SECRETS.items() if pattern.search(content)]
        found += [what for what, value in values.items() if value in content]
        if found:
            how = "Take it out of the file (and of the settings it came from), and revoke it if others saw it"
            raise PublishError(file, f"holds {found[0]}, which must not be published", how)


def listing(files: Iterable[Path], hub: HubConfig) -> str:
    """What a push would send, for a person."""
    sizes = {file.name: file.stat().st_size for file in files}
    width = max(map(len, sizes), default=0)
    kind = "private" if hub.private else "public"
    lines = [f"would go to {hub.repo} ({kind} if it has to be made):"]
    lines += [f"  {name:<{width}}  {_size(size):>10}" for name, size in sizes.items()]
    lines.append(f"  {'total':<{width}}  {_size(sum(sizes.values())):>10}")
    lines.append("nothing was sent; hub.push=true sends it")
    return "\n".join(lines)


def _tried(call: Callable[[], T], repo: str, token: str) -> T:
    seconds = FIRST_WAIT_SECONDS
    for number in range(1, TRIES + 1):
        try:
            return call()
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            told = f"{type(error).__name__}: {error}".split("\n")[0][:300]
            told = told.replace(token, "<token>") if token else told
            if status in _HOPELESS or number == TRIES:
                how = "Check HF_TOKEN and hub.repo" if status in _HOPELESS else "Try again once the Hub is in reach"
                # The cause is left out: its text and its request could hold the token.
                raise PublishError(repo, f"the Hub did not take it ({told})", how) from None
            log.warning("%s: try %d of %d failed (%s); again in %.0f s", repo, number, TRIES, told, seconds)
            time.sleep(seconds)
            seconds *= 2
    raise AssertionError("the last try returns or raises")


def _command(checkpoint: Path, hub: HubConfig) -> str:
    settings = [f"checkpoint={checkpoint}", f"hub.repo={hub.repo}", "hub.push=true"]
    return shlex.join(["python", "recipes/publish.py", "recipes/configs/publish/default.yaml", *settings])


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
