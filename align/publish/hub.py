"""A checkpoint to the Hugging Face Hub: only listed files, after a scan for secrets, tried again when the line breaks.

The token comes from the environment variable HF_TOKEN and is never printed. What the card says is
`align/publish/model_card.py`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from align.errors import AlignError, PublishError
from align.files import fingerprint, whole_file
from align.hub_names import is_hub_name
from align.manifest import SEAL, verify_folder, write_manifest
from align.publish.facts import card_facts
from align.publish.licences import UNKNOWN
from align.publish.lineage import json_object
from align.publish.model_card import CardFacts, model_card
from align.publish.names import shown_path, without_paths
from align.publish.secrets import refuse_secrets
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
_NAMES_A_PATH = re.compile(r"(^|_)name_or_path$")
_HOPELESS = {400, 401, 403, 404, 409, 413, 422}  # answers that another try does not change
TRIES = 5
FIRST_WAIT_SECONDS = 2.0

T = TypeVar("T")


def publish(checkpoint: Path, hub: HubConfig) -> bool:
    """Push a finished checkpoint, or print what would go. Returns whether it is on the Hub.

    Never raises for what a user can fix: a training that is done stays done. A push that fails is a warning with the
    command that tries again, in which base model and licence are those of this checkpoint.
    """
    card = None
    try:
        card = card_facts(checkpoint, verify_folder(checkpoint), hub.repo)
        return upload(checkpoint, hub, card)
    except AlignError as error:
        log.warning("not published: %s Try again with: %s", error, _command(checkpoint, hub, card))
        return False


def upload(checkpoint: Path, hub: HubConfig, card: CardFacts | None = None, api: Any = None) -> bool:
    """As `publish`, and raises what goes wrong.

    Idempotent: the Hub takes a folder that it holds already as no change.
    card: what the card says; None for what `card_facts` finds.
    api: a `huggingface_hub.HfApi`; made from HF_TOKEN where None.
    Raises CheckpointError when the folder is not whole, PublishError when it holds a secret, when it is an adapter of
    a base that is not on the Hub, when there is no token, or when the Hub does not take it.
    """
    manifest = verify_folder(checkpoint)
    card = card or card_facts(checkpoint, manifest, hub.repo)
    with whole_file(checkpoint / CARD) as handle:
        handle.write(model_card(manifest, card))
    with tempfile.TemporaryDirectory(prefix="align-publish-") as rough:
        return _sent(_staged(checkpoint, manifest, card, Path(rough)), checkpoint, manifest, hub, api)


def _staged(checkpoint: Path, manifest: dict[str, Any], card: CardFacts, folder: Path) -> list[Path]:
    """The files as they are published, in `folder`: links to the checkpoint's, and new files where a path of this
    machine is in one. MANIFEST.json lists the hashes of the published files, so a download can be verified by it."""
    manifest = {**manifest, "files": {**manifest["files"]}}
    for file in published_files(checkpoint):
        copy = folder / file.name
        text = _without_places(file, card)
        if text is None:
            copy.symlink_to(file.resolve())
        else:
            copy.write_text(text, encoding="utf-8")
            if file.name in manifest["files"]:
                manifest["files"][file.name] = {"bytes": copy.stat().st_size, "blake3": fingerprint(copy)}
    (folder / SEAL).unlink()  # a link to the checkpoint's own
    if isinstance(manifest.get("base"), dict):  # of an adapter; where this machine has it is of no use elsewhere
        manifest["base"] = {key: value for key, value in manifest["base"].items() if key != "path"}
    write_manifest(folder, without_paths(manifest))
    return sorted(folder.iterdir())


def _without_places(file: Path, card: CardFacts) -> str | None:
    """A config's text with the places of models in it as the Hub names them; None where the file stays as it is."""
    if not file.name.endswith("config.json"):
        return None
    try:
        values = json.loads(file.read_bytes())
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    places = [key for key, value in values.items() if _NAMES_A_PATH.search(key) and value and isinstance(value, str)]
    if not places:
        return None
    for key in places:
        if key == "base_model_name_or_path":
            name = _published_base(file, values[key], card)
            if name != values[key] and "revision" in values:
                values["revision"] = None  # a revision of the other
            values[key] = name
        else:
            values[key] = shown_path(values[key])
    return json.dumps(values, indent=2, ensure_ascii=False)


def _published_base(file: Path, name: str, card: CardFacts) -> str:
    """The Hub name of an adapter's base. Raises PublishError where it has none.

    Training a model whole and then an adapter over it gives an adapter whose lineage leads to a model on the Hub that
    is not its base: over that one it would compute something else.
    """
    base = card.base_models[0] if len(card.base_models) == 1 else ""
    if base and card.base_is_stated:
        return base
    if is_hub_name(Path(name)):
        return name
    made_here = any(key in json_object(Path(name) / SEAL) for key in ("config", "averaged", "merged"))
    if base and not made_here:
        return base
    what = f"names its base model as {shown_path(name)}, a place that others cannot load it from"
    raise PublishError(file.name, what, "Publish the base first, and name it: base_model=owner/name")


def _sent(files: list[Path], checkpoint: Path, manifest: dict[str, Any], hub: HubConfig, api: Any) -> bool:
    """Scan the files, and send them or list them. Returns whether they were sent."""
    refuse_secrets(files)
    if not hub.push:
        print(listing(files, hub))
        return False
    token = os.environ.get("HF_TOKEN", "")
    if api is None:
        if not token:
            raise PublishError(hub.repo, "requires a token in HF_TOKEN, found none", "Set HF_TOKEN to a write token")
        from huggingface_hub import HfApi

        api = HfApi(token=token)
    _tried(lambda: api.create_repo(hub.repo, private=hub.private, exist_ok=True), hub.repo, token)
    _tried(
        lambda: api.upload_folder(
            repo_id=hub.repo,
            folder_path=str(files[0].parent),
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
            reason = f"{type(error).__name__}: {error}".split("\n")[0][:300]
            reason = reason.replace(token, "<token>") if token else reason
            if status in _HOPELESS or number == TRIES:
                how = "Check HF_TOKEN and hub.repo" if status in _HOPELESS else "Try again once the Hub is in reach"
                # The cause is left out: its text and its request could hold the token.
                raise PublishError(repo, f"the Hub did not accept it ({reason})", how) from None
            log.warning("%s: try %d of %d failed (%s); again in %.0f s", repo, number, TRIES, reason, seconds)
            time.sleep(seconds)
            seconds *= 2
    raise AssertionError("the last try returns or raises")


def _command(checkpoint: Path, hub: HubConfig, card: CardFacts | None) -> str:
    settings = [f"checkpoint={checkpoint}", f"hub.repo={hub.repo}", "hub.push=true"]
    settings += [] if hub.private else ["hub.private=false"]
    if card is not None and len(card.base_models) == 1:
        settings.append(f"base_model={card.base_models[0]}")
    if card is not None and card.license not in ("", UNKNOWN):
        settings.append(f"license={card.license}")
    return shlex.join(["python", "recipes/publish.py", "recipes/configs/publish/default.yaml", *settings])


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
