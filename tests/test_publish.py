"""Publishing against a Hub that stands in at the border: what it is sent, what it is never sent, and when it fails."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from align.errors import CheckpointError, PublishError
from align.manifest import seal_folder
from align.publish import hub
from align.publish.hub import publish, published_files, refuse_secrets, upload
from align.publish.model_card import CardFacts, DataFile, cell, model_card
from align.settings import HubConfig

TOKEN = "hf_" + "a1B2" * 8


class StandIn:
    """The two calls of HfApi that are used, kept to their real signatures; a list of errors is raised first."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.sent: dict[str, bytes] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, "private": private, "exist_ok": exist_ok}))
        self._fail()

    def upload_folder(self, *, repo_id: str, folder_path: str, allow_patterns: list[str], commit_message: str) -> None:
        self.calls.append(("upload_folder", {"repo_id": repo_id, "commit_message": commit_message}))
        self._fail()
        for file in Path(folder_path).rglob("*"):
            name = file.relative_to(folder_path).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):  # as the Hub does
                self.sent[name] = file.read_bytes()

    def _fail(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


class HubError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status} for a request with Bearer {TOKEN}")
        self.response = SimpleNamespace(status_code=status)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "sft"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    notes = {"stage": "sft", "steps": 9, "processes": 2, "config": {"training": {"learning_rate": 1e-5}}}
    seal_folder(folder, list(folder.iterdir()), notes)
    (folder / "training_args.bin").write_bytes(TOKEN.encode())
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "notes.txt").write_text(f"my token is {TOKEN}")
    inner = folder / "checkpoint-3"
    inner.mkdir()
    (inner / "model.safetensors").write_bytes(b"older weights")
    (inner / "config.json").write_text("{}")
    return folder


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(hub.time, "sleep", waited.append)
    return waited


PUSH = HubConfig(repo="me/model", push=True)


def test_only_listed_files_of_the_folder_itself_go(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").symlink_to("/etc/hostname")
    api = StandIn()
    assert upload(checkpoint, PUSH, api=api)
    assert set(api.sent) == {"MANIFEST.json", "README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert api.sent["model.safetensors"] == b"weights"
    assert api.calls[0] == ("create_repo", {"repo_id": "me/model", "private": True, "exist_ok": True})
    assert not any(TOKEN.encode() in content for content in api.sent.values())


def test_a_dry_run_says_what_would_go_and_sends_nothing(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api = StandIn()
    assert not upload(checkpoint, HubConfig(repo="me/model"), api=api)
    assert api.calls == []
    out = capsys.readouterr().out
    names = [line.split()[0] for line in out.splitlines()[1:-2]]
    assert names == sorted(file.name for file in published_files(checkpoint))
    assert out.startswith("would go to me/model (private if it has to be made):")
    total = sum(file.stat().st_size for file in published_files(checkpoint))
    assert f"{total / 1000:.1f} kB" in out.splitlines()[-2]
    assert out.splitlines()[-1] == "nothing was sent; hub.push=true sends it"


@pytest.mark.parametrize(
    "text, told",
    [
        (f'{{"token": "{TOKEN}"}}', "a Hugging Face token"),
        ("sk-proj-" + "x" * 30, "an API key"),
        ("AKIA" + "A1B2C3D4E5F6G7H8", "an AWS key"),
        ("ghp_" + "z" * 36, "a GitHub token"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        ("my-own-password-1", "the value of SOME_API_KEY"),
    ],
)
def test_a_secret_in_a_text_file_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "my-own-password-1")
    (checkpoint / "tokenizer_config.json").write_text(text)
    api = StandIn()
    with pytest.raises(
        PublishError, match=f"tokenizer_config.json: holds {told}, which must not be published. Take"
    ) as caught:
        upload(checkpoint, PUSH, api=api)
    assert text not in str(caught.value)
    assert api.calls == []


def test_ordinary_text_holds_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"vocab": ["hf_", "sk-", "hf_hub", "AKIA", "-----BEGIN"]}))
    refuse_secrets([file])


def test_a_folder_that_is_not_whole_does_not_go(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"flipped")
    api = StandIn()
    with pytest.raises(CheckpointError, match=r"model.safetensors: does not have the content"):
        upload(checkpoint, PUSH, api=api)
    assert api.calls == []


def test_a_broken_line_is_tried_again_with_longer_waits(checkpoint: Path, waits: list[float]) -> None:
    api = StandIn(ConnectionError("reset"), HubError(503), HubError(429))
    assert upload(checkpoint, PUSH, api=api)
    assert waits == [2.0, 4.0, 8.0]
    assert "model.safetensors" in api.sent


def test_it_gives_up_in_the_end(checkpoint: Path, waits: list[float]) -> None:
    api = StandIn(*[ConnectionError("reset")] * 9)
    with pytest.raises(PublishError, match=r"the Hub did not take it \(ConnectionError: reset\). Try again once"):
        upload(checkpoint, PUSH, api=api)
    assert len(waits) == hub.TRIES - 1


def test_a_refusal_is_not_tried_again_and_the_token_is_not_told(
    checkpoint: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(PublishError, match=r"the Hub did not take it .*<token>.*Check HF_TOKEN and hub.repo") as caught:
        upload(checkpoint, PUSH, api=StandIn(HubError(403)))
    assert waits == []
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_without_a_token_it_says_so(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(PublishError, match=r"me/model: wanted a token in HF_TOKEN, found none. Set HF_TOKEN to"):
        upload(checkpoint, PUSH)


def test_a_failed_push_never_fails_a_training(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    told: list[str] = []
    monkeypatch.setattr(hub.log, "warning", lambda text, *values: told.append(text % values))
    assert publish(checkpoint, PUSH) is False
    settings = f"checkpoint={checkpoint} hub.repo=me/model hub.push=true"
    assert told[0].startswith("not published: me/model: wanted a token in HF_TOKEN")
    assert told[0].endswith(f"recipes/publish.py recipes/configs/publish/default.yaml {settings}")


def test_the_card_holds_what_is_known_and_its_head_is_yaml() -> None:
    facts = CardFacts(
        title="model",
        base_model="owner/base",
        license="apache-2.0",
        data=(DataFile("sft.jsonl", 12, {"duplicate": 3}, {"nq-open": "CC BY-SA 3.0 | see there"}),),
        evaluations={"factuality": {"wrong": {"value": 0.19, "low": 0.14, "high": 0.25, "n": 300}}},
        command="python recipes/sft.py x.yaml",
    )
    made_by = {"align": "0.1.0", "torch": "2.13.0"}
    manifest = {"stage": "sft", "steps": 9, "processes": 2, "config": {"a": "```"}, "made_by": made_by}
    card = model_card(manifest, facts)
    _, head, body = card.split("---\n", 2)
    parsed = yaml.safe_load(head)
    assert parsed["base_model"] == "owner/base"
    assert parsed["license"] == "apache-2.0"
    assert parsed["library_name"] == "transformers"
    assert parsed["pipeline_tag"] == "text-generation"
    assert "sft" in parsed["tags"]
    for told in ("9, on 2 process(es)", "torch 2.13.0", "python recipes/sft.py x.yaml", "## Limits"):
        assert told in body
    assert "| sft.jsonl | 12 | 3 duplicate | nq-open: CC BY-SA 3.0 \\| see there |" in body
    assert "| factuality | wrong | 19.0% | 14.0% to 25.0% | 300 |" in body
    assert "````json" in body, "a fence inside does not end the block"


def test_a_card_claims_nothing_that_is_not_known() -> None:
    card = model_card(
        {"averaged": [{"checkpoint": name, "weight": 0.5} for name in "ab"], "made_by": {"align": "0.1.0"}}, CardFacts()
    )
    head = yaml.safe_load(card.split("---\n", 2)[1])
    assert "license" not in head
    assert "base_model" not in head
    assert "Not evaluated." in card
    assert "Averaged: a (0.5)" in card
    assert "## Data" not in card
    assert yaml.safe_load(model_card({"stage": "reward"}, CardFacts()).split("---\n", 2)[1])["pipeline_tag"] == (
        "text-classification"
    )


def test_a_cell_stays_in_its_table() -> None:
    assert cell("a|b\n<script>&") == "a\\|b &lt;script&gt;&amp;"
