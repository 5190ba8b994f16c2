"""The one way to the Hugging Face Hub: `hub:` of a recipe and recipes/publish.py come here and make the same card.

Only listed files go, after a scan for secrets. The token comes from the environment variable HF_TOKEN and is never
printed. How files get there is `align/publish/push.py`, what the card says is `align/publish/model_card.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

import align
from align.config import dump
from align.errors import AlignError, PublishError, first_line
from align.files import whole_file
from align.manifest import verify_folder
from align.publish.data_card import rows_to_publish, stage_rows
from align.publish.facts import CardFacts, card_facts
from align.publish.licences import NOTICES
from align.publish.model_card import model_card
from align.publish.push import Target, push_folder
from align.publish.secrets import refuse_secrets
from align.publish.staging import CARD, is_of_a_checkpoint, stage_checkpoint
from align.reporting import logger
from align.settings import HubConfig

log = logger(__name__)

UNPUBLISHED = ".unpublished"
"""The note of a failed push in a checkpoint's folder: JSON, without the ending, because an average copies *.json files
of its first member. Hidden, so it is no part of the checkpoint."""

_ROUND = re.compile(r"round-\d+")


def publish(checkpoint: Path, hub: HubConfig) -> bool:
    """Push a finished checkpoint, or print what would go. Returns whether it is on the Hub.

    Never raises: a training that is done stays done. A push that fails is a warning with the command that tries again
    and makes the same card, and leaves the note UNPUBLISHED, by which rounds repeat it.
    """
    try:
        return upload(checkpoint, hub)
    except Exception as error:  # whatever it is, the checkpoint is finished
        said = str(error) if isinstance(error, AlignError) else f"{type(error).__name__}: {first_line(error)}."
        log.warning("not published: %s Try again with: %s", said, retry_command(checkpoint, hub))
        if hub.push:
            with contextlib.suppress(OSError), whole_file(checkpoint / UNPUBLISHED) as note:
                json.dump({"settings": retry_settings(checkpoint, hub), "why": said}, note, indent=1)
        return False


def upload(
    checkpoint: Path,
    hub: HubConfig,
    *,
    data: Iterable[Path] = (),
    evaluations: Iterable[Path] = (),
    command: str = "",
    api: Any = None,
) -> bool:
    """As `publish`, and raises what goes wrong.

    Idempotent: what the Hub has already is not sent again.
    data, evaluations, command: what the card says beyond what is found by itself; see `card_facts`.
    api: a `huggingface_hub.HfApi`; made from HF_TOKEN where None.
    Raises CheckpointError when the folder is not whole, PublishError when it holds a secret, when it is an adapter of
    a base that is not on the Hub, when there is no token, or when the Hub does not take it.
    """
    manifest = verify_folder(checkpoint)
    branch = hub.branch or branch_of(checkpoint, str(manifest.get("stage") or "model"))
    facts = card_facts(checkpoint, manifest, hub, branch=branch, data=data, evaluations=evaluations, command=command)
    _warn_of_name(hub.repo, facts)
    card = model_card(manifest, facts)
    with whole_file(checkpoint / CARD) as handle:
        handle.write(card)
    message = f"{manifest.get('stage', 'checkpoint')}, made by align {manifest['made_by']['align']}"
    target = Target(hub.repo, branch, hub.tag, private=hub.private, update_main=hub.update_main)
    with tempfile.TemporaryDirectory(prefix="align-publish-") as folder:
        stage_checkpoint(checkpoint, manifest, card, facts, Path(folder))
        sent = send(Path(folder), hub, target, message, is_of_a_checkpoint, api)
    if sent:
        (checkpoint / UNPUBLISHED).unlink(missing_ok=True)
    return sent


def upload_rows(rows: Path, hub: HubConfig, *, command: str = "", api: Any = None) -> bool:
    """Push a file of rows, or a folder of them, as a data set; or print what would go. Returns whether it is there.

    Raises PublishError as `upload`, and for rows that are not those of their manifest.
    """
    files = rows_to_publish(rows)
    branch = hub.branch or branch_of(rows, "data")
    target = Target(hub.repo, branch, hub.tag, "dataset", private=hub.private, update_main=hub.update_main)
    with tempfile.TemporaryDirectory(prefix="align-publish-") as folder:
        stage_rows(files, hub, Path(folder), branch=branch, command=command)
        # Other files stay: a data set may have some that this project did not make.
        return send(Path(folder), hub, target, f"rows, by align {align.__version__}", lambda name: False, api)


def send(
    folder: Path, hub: HubConfig, target: Target, message: str, is_ours: Callable[[str], bool], api: Any = None
) -> bool:
    """Scan the files of a folder for secrets, and push them or list them. Returns whether they are on the Hub."""
    files = sorted(folder.iterdir())
    refuse_secrets(files)
    if not hub.push:
        print(listing(files, target))
        return False
    if api is None:
        token = os.environ.get("HF_TOKEN", "").strip()
        if not token:
            raise PublishError(hub.repo, "requires a token in HF_TOKEN, found none", "Set HF_TOKEN to a write token")
        from huggingface_hub import HfApi

        api = HfApi(token=token)
    pushed = push_folder(api, folder, target, message, is_ours=is_ours)
    main = "main has it too" if target.update_main else "main is as it was (hub.update_main=true changes it)"
    log.info(
        "published as %s: tag %s, branch %s, commit %s; %s", hub.repo, pushed.tag, target.branch, pushed.commit, main
    )
    return True


def _warn_of_name(repo: str, facts: CardFacts) -> None:
    """Say so if a licence asks for a name that the repository does not have: Llama-x, and not my-llama."""
    name = re.sub(r"[\W_]+", " ", repo.rpartition("/")[2]).lower()
    for licence in sorted({licence for _, licence in facts.licences if licence in NOTICES}):
        beginning = NOTICES[licence][1]
        if not name.startswith(beginning.lower()):
            text = (
                "%s: the licence %s, which applies here, asks for a name that begins with %s; choose another hub.repo"
            )
            log.warning(text, repo, licence, beginning)


def branch_of(path: Path, otherwise: str) -> str:
    """`round-2` for what is in a folder of this name, the innermost one if there are several."""
    rounds = [part for part in path.resolve().parts if _ROUND.fullmatch(part)]
    return rounds[-1] if rounds else otherwise


def listing(files: Iterable[Path], target: Target) -> str:
    """What a push would send, for a person."""
    sizes = {file.name: file.stat().st_size for file in files}
    width = max(map(len, sizes), default=0)
    private = "private" if target.private else "public"
    where = "the branch " + target.branch + (" and to main" if target.update_main else "")
    lines = [f"would go to {where} of the {target.kind} {target.repo} ({private} if it has to be made):"]
    lines += [f"  {name:<{width}}  {_size(size):>10}" for name, size in sizes.items()]
    lines.append(f"  {'total':<{width}}  {_size(sum(sizes.values())):>10}")
    lines.append("nothing was sent; hub.push=true sends it")
    return "\n".join(lines)


def retry_command(checkpoint: Path, hub: HubConfig) -> str:
    """The command that publishes a checkpoint with the same settings."""
    words = ("python", "recipes/publish.py", "recipes/configs/publish/default.yaml")
    return shlex.join([*words, *retry_settings(checkpoint, hub)])


def retry_settings(checkpoint: Path, hub: HubConfig) -> list[str]:
    """The settings of recipes/publish.py that publish a checkpoint in the same way, as key=value."""
    settings = [f"checkpoint={checkpoint}", f"hub.repo={hub.repo}", "hub.push=true"]
    defaults = HubConfig(repo=hub.repo, push=True)
    for name, value in dump(hub).items():
        if name not in ("repo", "push") and value != dump(defaults)[name]:
            plain = isinstance(value, str) and yaml.safe_load(value) == value  # 1.0 would be read as a number
            settings.append(f"hub.{name}={value if plain else json.dumps(value)}")
    return settings


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
