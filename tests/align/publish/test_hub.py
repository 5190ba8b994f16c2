"""Publishing to a fake Hub: what is sent, what is never sent, and what happens when it fails."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from align.assets import starting_checkpoint
from align.config import load_config
from align.errors import CheckpointError, PublishError, RowError
from align.files import fingerprints_in
from align.manifest import SEAL, verify_folder, write_folder_manifest
from align.publish import hub
from align.publish.facts import CardFacts, DataFile, Evaluation, card_facts
from align.publish.hub import publish, upload
from align.publish.licences import SOURCES, card_licence, licence_of_source
from align.publish.lineage import Lineage, Step
from align.publish.markdown import cell
from align.publish.model_card import model_card
from align.publish.names import shown_path, without_paths
from align.publish.secrets import refuse_secrets
from align.publish.staging import published_files
from align.settings import HubConfig
from data_builders.packaged import PACKAGES
from data_builders.questions.importers import BOOLQ
from recipes.publish import PublishRecipe
from tests.published import card_of, made, rows_of, trained
from tests.writable_hub import Client

ROOT = Path(__file__).parents[3]

TOKEN = "hf_" + "a1B2" * 8


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "sft"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    notes = {"stage": "sft", "steps": 9, "processes": 2, "config": {"training": {"learning_rate": 1e-5}}}
    write_folder_manifest(folder, list(folder.iterdir()), notes)
    (folder / "training_args.bin").write_bytes(TOKEN.encode())
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "notes.txt").write_text(f"my token is {TOKEN}")
    inner = folder / "checkpoint-3"
    inner.mkdir()
    (inner / "model.safetensors").write_bytes(b"older weights")
    (inner / "config.json").write_text("{}")
    return folder


PUSH = HubConfig(repo="me/model", push=True)


def test_only_listed_files_of_the_folder_itself_go(api: Client, checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").symlink_to("/etc/hostname")
    assert upload(checkpoint, PUSH, api=api)
    assert set(api.sent) == {"MANIFEST.json", "README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert api.sent["model.safetensors"] == b"weights"
    assert api.hub.model().private
    assert not any(TOKEN.encode() in content for content in api.sent.values())


def test_a_dry_run_says_what_would_go_and_sends_nothing(
    api: Client, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not upload(checkpoint, HubConfig(repo="me/model"), api=api)
    assert api.hub.requests == []
    out = capsys.readouterr().out
    names = [line.split()[0] for line in out.splitlines()[1:-2]]
    assert names == sorted(file.name for file in published_files(checkpoint))
    assert out.startswith("would go to the branch sft of the model me/model (private if it has to be made):")
    total = sum(file.stat().st_size for file in published_files(checkpoint))
    assert f"{total / 1000:.1f} kB" in out.splitlines()[-2]
    assert out.splitlines()[-1] == "nothing was sent; hub.push=true sends it"


@pytest.mark.parametrize(
    "text, secret",
    [
        (f'{{"token": "{TOKEN}"}}', "a Hugging Face token"),
        ("sk-proj-" + "x" * 30, "an API key"),
        ("AKIA" + "A1B2C3D4E5F6G7H8", "an AWS key"),
        ("ghp_" + "z" * 36, "a GitHub token"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        ("my-own-password-1", "the value of SOME_API_KEY"),
        ("wJalr/XUtnFEMI+K7MDENG", "the value of AWS_SECRET_ACCESS_KEY"),
        (r"wJalr\/XUtnFEMI+K7MDENG", "the value of AWS_SECRET_ACCESS_KEY"),
        ("opensesame2", "the value of PGPASSWORD"),
        ("AIza" + "Sy" + "D_4-" * 8 + "a", "a Google key"),
        ("xoxb-" + "123456789012-abcdef", "a Slack token"),
        ("https://hooks.slack.com/services/" + "T0000/B0000/" + "x" * 24, "a Slack address"),
        ("glpat-" + "a1B2c3D4e5" * 2, "a GitLab token"),
        ("eyJ" + "hbGciOiJIUzI1" + ".eyJ" + "zdWIiOiIxMjM0" + ".c2lnbmF0dXJl", "a JSON web token"),
        ("https://ann:" + "pa55word@example.org/data", "a password in an address"),
        ("postgresql://:" + "pa55word@db:5432/x", "a password in an address"),
        ("Authorization: Bearer " + "abcdef0123456789abcdef", "a bearer token"),
        ("pypi-" + "AgEIcHlwaS5vcmc" * 4, "an npm or PyPI token"),
        ("https://x.blob.core.windows.net/a?sv=1&sig=" + "aB3%2F" * 9, "an Azure key"),
        ("GOCSPX" + "-" + "a1B2c3D4" * 4, "a Google secret"),
        ("dapi" + "0123456789abcdef" * 2, "an access token"),
        ("SG." + "a1B2c3D4e5" * 2 + "x.Y" + "a1B2c3D4e5" * 4, "an access token"),
        ("machine example.org login ann password pa55", "a password of netrc"),
        ("PuTTY-User-Key-File-" + "3: ssh-ed25519", "a PuTTY key"),
        ("https://x.org/?t=hf%5F" + "a1B2" * 8, "a Hugging Face token"),
        (r"https:\/\/ann:" + "pa55word@example.org", "a password in an address"),
        (json.dumps({"note": f"first line\n{TOKEN}"}), "a Hugging Face token"),
        (json.dumps({"note": json.dumps({"inner": f"\t{TOKEN}"})}), "a Hugging Face token"),
        ('{"note": "hf\\u005f' + "a1B2" * 8 + '"}', "a Hugging Face token"),
        ('{"note": "\\u0068f_' + "a1B2" * 8 + '"}', "a Hugging Face token"),
    ],
)
def test_a_secret_in_a_text_file_is_refused(
    api: Client, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, text: str, secret: str
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "my-own-password-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalr/XUtnFEMI+K7MDENG")
    monkeypatch.setenv("PGPASSWORD", "opensesame2")
    (checkpoint / "tokenizer_config.json").write_text(text)
    with pytest.raises(
        PublishError, match=f"tokenizer_config.json: holds {secret}, which must not be published. Remove"
    ) as caught:
        upload(checkpoint, PUSH, api=api)
    assert text not in str(caught.value)
    assert api.hub.requests == []


def test_ordinary_text_holds_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    words = [
        "hf_",
        "sk-",
        "hf_hub",
        "AKIA",
        "-----BEGIN",
        "sk-learn",
        "xoxb",
        "AIza",
        "eyJ",
        "https://",
        "a:b@c",
        "://",
    ]
    words += [
        "sk-learn-based-estimator-for-classification",
        "<sk-loading-spinner-component-name>",
        "xoxo-love-and-kisses",
    ]
    words += ["glass-ceiling-and-other-things-in", "pypi-package-with-a-very-long-name-that-goes-on-and-on"]
    words += ["machine learning login page with a password field", "dapi", "SG.", "%20and%20", "100%"]
    words += ["http://example.org:80/a@b", "https://user@example.org", "Authorization: Bearer", "password1234"]
    file.write_text(json.dumps({"vocab": words}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_KEY", "password")  # a common word is in every vocabulary
        patch.setenv("TOKENIZERS_PARALLELISM", "https://")  # no secret by its name
        patch.setenv("SSH_AUTH_SOCK", str(tmp_path))  # a path by its value
        refuse_secrets([file])


@pytest.mark.slow
def test_the_real_tokenizer_holds_no_secret() -> None:
    folder = starting_checkpoint()
    files = published_files(folder)
    assert {"tokenizer.json", "model.safetensors"} <= {file.name for file in files}
    refuse_secrets(files)


def test_a_secret_in_the_metadata_of_weights_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, file, metadata={"made": f"with {TOKEN}"})
    with pytest.raises(PublishError, match=r"model.safetensors: holds a Hugging Face token"):
        refuse_secrets([file])


def test_a_folder_that_is_not_whole_does_not_go(api: Client, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"flipped")
    with pytest.raises(CheckpointError, match=r"model.safetensors: does not have the content"):
        upload(checkpoint, PUSH, api=api)
    assert api.hub.requests == []


def test_without_a_token_it_says_so(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(PublishError, match=r"me/model: requires a token in HF_TOKEN, found none. Set HF_TOKEN to"):
        upload(checkpoint, PUSH)


# The facts of a card


def test_base_model_and_licence_are_found_by_following_the_manifests(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "sft.jsonl", "tasks/office", "llamafactory/glaive_toolcall_en_demo/call")
    sft = trained(tmp_path / "sft", "meta-llama/Llama-3.1-8B", rows)
    dpo = trained(tmp_path / "dpo", sft, rows, "dpo")
    head, body = card_of(dpo)
    assert head["base_model"] == "meta-llama/Llama-3.1-8B"
    assert head["base_model_relation"] == "finetune"
    assert head["license"] == "llama3.1"
    assert head["library_name"] == "transformers"
    assert head["tags"] == ["align", "dpo", "qwen2"]
    assert "Base model: [meta-llama/Llama-3.1-8B](https://huggingface.co/meta-llama/Llama-3.1-8B)" in body
    assert "llamafactory/glaive\\_toolcall\\_en\\_demo: apache-2.0; tasks: apache-2.0" in body
    packaged = trained(tmp_path / "packaged", starting_checkpoint(), rows)
    head, _ = card_of(packaged)
    assert (head["base_model"], head["license"]) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")


def test_the_type_of_the_weights_is_said_if_it_is_not_that_of_training(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "sft.jsonl", "tasks/office")
    folder = trained(tmp_path / "sft", "meta-llama/Llama-3.1-8B", rows)
    assert "Weights:" not in card_of(folder)[1]
    config = verify_folder(folder)["config"]
    config["training"]["save_dtype"] = "bfloat16"
    rounded = made(tmp_path / "rounded", {"stage": "sft", "steps": 9, "config": config})
    assert "- Weights: stored as bfloat16, after training in another type" in card_of(rounded)[1]


def test_a_local_start_is_said_to_be_unknown_and_never_named_by_its_place(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "sft.jsonl", "tasks/office")
    start = tmp_path / "ann" / "secret" / "base" / "model"
    start.mkdir(parents=True)
    (start / "config.json").write_text("{}")
    head, body = card_of(trained(tmp_path / "sft", start, rows))
    assert "base_model" not in head
    assert head["license"] == "unknown"
    assert "Base model: unknown; training began from a local checkpoint, base/model" in body
    assert str(tmp_path) not in body
    snapshot = "/home/ann/.cache/huggingface/hub/models--Qwen--Qwen2-0.5B/snapshots/ab12"
    head, _ = card_of(trained(tmp_path / "cached", snapshot, rows))
    assert head["base_model"] == "Qwen/Qwen2-0.5B"
    assert head["license"] == "unknown"


@pytest.mark.parametrize("form", ["list", "names"])
def test_an_average_shows_its_members_and_their_hyper_parameters(tmp_path: Path, form: str) -> None:
    rows = rows_of(tmp_path / "r" / "sft.jsonl", "tasks/office")
    run = tmp_path / "r"
    members = [trained(run / name, "meta-llama/Llama-3.1-8B", rows, name) for name in ("sft", "dpo")]
    averaged: Any = {str(folder): 0.5 for folder in members}
    if form == "list":
        config = json.loads((members[0] / SEAL).read_text())["config"]
        averaged = [{"checkpoint": "r/sft", "weight": 0.25, "config": config}, {"checkpoint": "r/dpo", "weight": 0.75}]
    head, body = card_of(made(run / "average", {"averaged": averaged}))
    assert (head["base_model"], head["base_model_relation"]) == ("meta-llama/Llama-3.1-8B", "merge")
    assert head["license"] == "llama3.1"
    assert "r/sft" in body
    assert ("Averaged: r/dpo, weight 0.75" if form == "list" else "r/dpo, weight 0.5") in body
    assert ('"learning_rate": 1e-05' in body) == (form == "list")
    assert str(tmp_path) not in body


def test_an_adapter_is_labelled_for_peft_and_sent_with_its_bases_hub_name(api: Client, tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "sft.jsonl", "tasks/office")
    place = str(tmp_path / "models--Qwen--Qwen2-0.5B" / "snapshots" / "ab12")
    adapter = json.dumps({"base_model_name_or_path": place, "r": 8})
    folder = trained(tmp_path / "lora", place, rows, adapter_config__json=adapter)
    head, body = card_of(folder)
    assert (head["library_name"], head["base_model_relation"]) == ("peft", "adapter")
    assert "AutoPeftModelForCausalLM" in body
    assert upload(folder, PUSH, api=api)
    sent = json.loads(api.sent["adapter_config.json"])
    assert sent == {"base_model_name_or_path": "Qwen/Qwen2-0.5B", "r": 8}
    downloaded = tmp_path / "downloaded"
    downloaded.mkdir()
    for name, content in api.sent.items():
        (downloaded / name).write_bytes(content)
    verify_folder(downloaded)
    start = made(tmp_path / "start", {})
    nowhere = trained(
        tmp_path / "other", start, rows, adapter_config__json=json.dumps({"base_model_name_or_path": str(start)})
    )
    with pytest.raises(PublishError, match=r"adapter_config.json: names its base model as .*Publish the base first"):
        upload(nowhere, PUSH, api=api)


def test_an_adapter_over_a_model_that_was_trained_here_is_not_sent_as_one_of_its_base(
    api: Client, tmp_path: Path
) -> None:
    """Its lineage leads to a Hub model of the same shapes, over which it would compute something else."""
    rows = rows_of(tmp_path / "sft.jsonl", "tasks/office")
    whole = trained(tmp_path / "models" / "sft", "Qwen/Qwen2-0.5B", rows)
    adapter = json.dumps({"base_model_name_or_path": str(whole), "revision": "abc", "r": 8})
    folder = trained(tmp_path / "lora", whole, rows, adapter_config__json=adapter)
    manifest = json.loads((folder / SEAL).read_text())
    base = {"weights": "12" * 32, "path": "../models/sft"}
    lora = {"rank": 8, "alpha": 16, "use_dora": True, "use_rslora": True}
    config = {**manifest["config"], "model": {**manifest["config"]["model"], "lora": lora}}
    write_folder_manifest(
        folder, [folder / name for name in manifest["files"]], {**manifest, "base": base, "config": config}
    )
    with pytest.raises(PublishError, match=r"adapter_config.json: names its base model as .*Publish the base first"):
        upload(folder, PUSH, api=api)
    assert upload(folder, HubConfig(repo="me/lora", push=True, base_model="me/sft"), api=api)
    sent = json.loads(api.sent["adapter_config.json"])
    assert (sent["base_model_name_or_path"], sent["revision"]) == ("me/sft", None)
    assert json.loads(api.sent[SEAL])["base"] == {"weights": "12" * 32}, "not where this machine has it"
    assert "Adapter: DoRA of rank 8, alpha 16 (scaled by alpha / sqrt(rank), rsLoRA)" in api.sent["README.md"].decode()
    assert not any(str(tmp_path).encode() in content for content in api.sent.values())


def test_no_path_of_this_machine_is_sent(api: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = rows_of(tmp_path / "data" / "my rows" / "sft.jsonl", "tasks/office")
    folder = trained(tmp_path / "run" / "sft", "/home/ann/models/base", rows)
    manifest = verify_folder(folder)
    command = f"python recipes/sft.py {tmp_path}/x.yaml training.output_dir=/home/ann/runs/sft hub={{a: ~/b/c}}"
    assert upload(folder, PUSH, command=command, api=api)
    for name in ("README.md", "MANIFEST.json"):
        text = api.sent[name].decode()
        assert str(tmp_path) not in text, name
        assert "/home/ann" not in text, name
        assert "~/b" not in text, name
    sent = json.loads(api.sent["MANIFEST.json"])
    assert sent["config"]["data"]["path"] == "data/my rows/sft.jsonl"
    assert sent["config"]["model"]["path"] == "models/base"
    assert sent["files"] == manifest["files"]
    assert json.loads((folder / "MANIFEST.json").read_text()) == manifest, "the checkpoint itself is left as it is"


def test_a_card_shows_the_evaluations_of_this_model_and_of_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("align"), "propagate", True)
    rows = rows_of(tmp_path / "sft.jsonl", "tasks/office")
    folder, other = (trained(tmp_path / name, "meta-llama/Llama-3.1-8B", rows) for name in ("sft", "other"))
    shutil.rmtree(other)
    (other).mkdir()
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    for name, model in (("factuality", folder), ("tool_use", other)):
        result = {"name": name, "model": str(model), "scores": {"right": score}}
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    head, body = card_of(folder, evaluations=[tmp_path / "factuality.json", tmp_path / "tool_use.json"])
    assert "| factuality | right | 50.0% |" in body
    assert "tool\\_use" not in body
    assert "tool_use.json is of the model" in caplog.text
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5
    with pytest.raises(RowError, match=r"sft.jsonl: is not the result of an evaluation"):
        card_of(folder, evaluations=[rows])


# Licences


def test_prompts_that_forbid_commercial_use_are_never_published_as_apache(tmp_path: Path) -> None:
    sampled = rows_of(tmp_path / "sft.jsonl", "round-1/llamafactory/alpaca_en_demo", "tasks/office", counted=False)
    folder = trained(tmp_path / "sft", starting_checkpoint(), sampled)
    head, body = card_of(folder)
    assert head["license"] == "cc-by-nc-4.0"
    assert "llamafactory/alpaca\\_en\\_demo: cc-by-nc-4.0; tasks: apache-2.0" in body
    with pytest.raises(PublishError, match=r"license: states apache-2.0, but the model was made from cc-by-nc-4.0"):
        card_of(folder, license="apache-2.0")
    assert card_of(folder, license="other")[0]["license"] == "other"


@pytest.mark.parametrize(
    "bases, data, declared, shown",
    [
        (["apache-2.0"], ["mit", "cc-by-4.0"], "", "apache-2.0"),
        (["apache-2.0"], ["cc-by-nc-4.0", "cc-by-sa-3.0"], "", "other"),
        (["apache-2.0"], ["cc-by-sa-3.0", "mit"], "", "cc-by-sa-3.0"),
        (["apache-2.0"], ["unknown"], "", "unknown"),
        (["apache-2.0"], ["unknown", "cc-by-nc-4.0"], "", "other"),
        (["llama3.1"], ["apache-2.0"], "", "llama3.1"),
        (["llama3.1"], ["cc-by-nc-4.0"], "", "other"),
        (["unknown"], [], "", "unknown"),
        ([], [], "", "unknown"),
        (["apache-2.0"], ["unknown"], "apache-2.0", "apache-2.0"),
        (["llama3.1"], ["unknown"], "llama3.1", "llama3.1"),
        (["llama3.1"], ["cc-by-nc-4.0"], "cc-by-nc-4.0", "cc-by-nc-4.0"),
    ],
)
def test_the_strictest_licence_is_shown(bases: list[str], data: list[str], declared: str, shown: str) -> None:
    assert card_licence(bases, data, declared) == shown


def test_a_stated_licence_is_an_identifier_of_the_hub() -> None:
    assert card_licence(["unknown"], [], "Apache-2.0") == "apache-2.0"
    assert card_licence(["unknown"], [], "cc-by-nc-sa-4.0") == "cc-by-nc-sa-4.0"
    for stated in ("my own licence", "proprietary:\nx", "Llama 3.1"):
        with pytest.raises(PublishError, match=r"no identifier of the Hub. State one of https://.*, or `other`"):
            card_licence(["unknown"], [], stated)


@pytest.mark.parametrize(
    "path, shown",
    [
        ("/home/ann/model", "model"),
        ("/home/ann", "~"),
        ("/Users/ann/runs/sft", "runs/sft"),
        ("/ro" + "ot/ckpt", "ckpt"),
        ("/data/ann/secret/base/model", "base/model"),
        ("~/runs/sft", "runs/sft"),
        ("~", "~"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
    ],
)
def test_the_name_of_a_home_folder_is_never_shown(path: str, shown: str) -> None:
    assert shown_path(path) == shown
    assert without_paths({"at": f"see file://{path}/x/y"}) != {"at": f"see file://{path}/x/y"} or path[0] not in "/~"


def test_data_named_by_a_pattern_are_listed_file_by_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows_of(tmp_path / f"{name}.jsonl", "tasks/office")
    folder = trained(tmp_path / "sft", "meta-llama/Llama-3.1-8B", tmp_path / "*.jsonl")
    facts = card_facts(folder, verify_folder(folder), PUSH)
    assert [(Path(file.name).name, file.licences) for file in facts.data] == [
        ("a.jsonl", {"tasks": "apache-2.0"}),
        ("b.jsonl", {"tasks": "apache-2.0"}),
    ]


def test_a_llama_model_is_never_published_as_apache() -> None:
    with pytest.raises(PublishError, match=r"license: states apache-2.0, but the model was made from llama3.1"):
        card_licence(["llama3.1"], ["mit"], "apache-2.0")
    with pytest.raises(PublishError, match=r"states llama3.1, but the model was made from cc-by-nc-4.0 and llama3.1"):
        card_licence(["llama3.1"], ["cc-by-nc-4.0"], "llama3.1")


def test_every_packaged_source_has_a_licence_and_rows_keep_their_source() -> None:
    for source in (*PACKAGES, BOOLQ):
        assert source in SOURCES
    assert licence_of_source("round-2/knowledge-probe/known/nq-open") == "cc-by-sa-3.0"
    assert licence_of_source("glaive_toolcall_en_demo/call") == "apache-2.0"
    assert licence_of_source("round-1/my-own/rows") == "unknown"
    assert licence_of_source("round-1/my-own/rows", {"my-own": "cc0-1.0"}) == "cc0-1.0"
    assert licence_of_source("nq-opened") == "unknown"


# What a failed push says


def test_a_failed_push_gives_the_command_that_makes_the_same_push(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    rows = rows_of(tmp_path / "sft.jsonl", "my/rows")
    folder = trained(tmp_path / "round 2" / "sft", "me/base", rows)
    warnings: list[str] = []
    monkeypatch.setattr(hub.log, "warning", lambda text, *values: warnings.append(text % values))
    stated = HubConfig(
        repo="me/model",
        push=True,
        private=False,
        tag="1.0",
        branch="b",
        update_main=True,
        license="mit",
        languages=("en", "no"),
        licences={"my/rows": "mit"},
    )
    assert publish(folder, stated) is False
    said, _, command = warnings[0].partition(" Try again with: ")
    assert said == "not published: me/model: requires a token in HF_TOKEN, found none. Set HF_TOKEN to a write token."
    _, script, config, *settings = shlex.split(command)
    assert script == "recipes/publish.py"
    again = load_config(PublishRecipe, ROOT / config, settings)
    assert (again.checkpoint, again.hub) == (folder, stated)
    note = json.loads((folder / hub.UNPUBLISHED).read_text())
    assert note == {"settings": settings, "why": said.removeprefix("not published: ")}
    assert hub.UNPUBLISHED not in {*verify_folder(folder)["files"], *fingerprints_in(folder)}, (
        "no part of the checkpoint"
    )
    assert publish(folder, PUSH) is False
    assert warnings[1].endswith(f"'checkpoint={folder}' hub.repo=me/model hub.push=true"), "nothing but what is set"


def test_the_note_of_a_failed_push_is_there_until_a_push_succeeds(
    api: Client, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    note = checkpoint / hub.UNPUBLISHED
    weights = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(b"flipped")
    assert publish(checkpoint, HubConfig(repo="me/model")) is False
    assert not note.exists(), "nothing was to be pushed"
    (checkpoint / "model.safetensors").write_bytes(weights)
    assert publish(checkpoint, PUSH) is False
    assert note.exists()
    assert upload(checkpoint, HubConfig(repo="me/model"), api=api) is False, "a list of what would go"
    assert note.exists()
    assert upload(checkpoint, PUSH, api=api) is True
    assert not note.exists()


def test_the_default_config_states_nothing_that_is_wrong_for_others() -> None:
    values = yaml.safe_load((ROOT / "recipes" / "configs" / "publish" / "default.yaml").read_text(encoding="utf-8"))
    assert values.keys() == {"checkpoint", "hub"}


def test_a_failed_push_never_fails_a_training(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"flipped")
    warnings: list[str] = []
    monkeypatch.setattr(hub.log, "warning", lambda text, *values: warnings.append(text % values))
    assert publish(checkpoint, PUSH) is False
    assert "model.safetensors: does not have the content" in warnings[0]
    monkeypatch.setattr(hub, "verify_folder", lambda folder: 1 / 0)
    assert publish(checkpoint, PUSH) is False
    assert warnings[1].startswith("not published: ZeroDivisionError: division by zero. Try again with: python recipes")


# The text of a card


def test_the_card_holds_what_is_known_and_its_head_is_what_the_hub_reads() -> None:
    facts = CardFacts(
        title="model",
        repo="me/model",
        lineage=Lineage(bases=["owner/base"], datasets=["owner/rows"]),
        licences=(("owner/base", "apache-2.0"), ("nq-open", "cc-by-sa-3.0")),
        license="other",
        data=(DataFile("mix/sft.jsonl", 12, {"duplicate": 3}, {"nq-open": "cc-by-sa-3.0"}),),
        languages=("en", "de"),
        model_type="llama",
        has_chat_template=True,
        evaluations=(Evaluation("factuality", {"wrong": {"value": 0.19, "low": 0.14, "high": 0.25, "n": 300}}),),
        command="python recipes/sft.py x.yaml",
    )
    made_by = {"align": "0.1.0", "torch": "2.13.0"}
    manifest = {"stage": "sft", "steps": 9, "processes": 2, "config": {"a": "```"}, "made_by": made_by}
    card = ModelCard(model_card(manifest, facts))
    assert card.data.base_model == "owner/base"
    assert card.data.license == "other"
    assert card.data.license_name == "see-card"
    assert card.data.datasets == ["owner/rows"]
    assert card.data.language == ["en", "de"]
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.tags == ["align", "sft", "llama"]
    assert card.data.to_dict()["base_model_relation"] == "finetune"
    [result] = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("factuality", "wrong", 0.19)
    body = card.text
    for part in ("9, on 2 process(es)", "torch 2.13.0", "python recipes/sft.py x.yaml", "## Limits"):
        assert part in body
    assert "| mix/sft.jsonl | 12 | 3 duplicate | nq-open: cc-by-sa-3.0 |" in body
    assert "| factuality | wrong | 19.0% | 14.0% to 25.0% | 300 |" in body
    assert "It was evaluated on the sets named above and on nothing else." in body
    assert 'AutoModelForCausalLM.from_pretrained("me/model")' in body
    assert "add_generation_prompt=True" in body
    assert "````json" in body, "a fence inside does not end the block"


def test_the_usage_example_runs(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = CardFacts(repo=str(tiny_checkpoint), has_chat_template=True)
    code = model_card({"stage": "sft"}, facts).split("```python\n")[1].split("```")[0]
    exec(compile(code.replace("max_new_tokens=200", "max_new_tokens=3"), "card", "exec"), {})
    assert capsys.readouterr().out


def test_a_card_claims_nothing_that_is_not_known() -> None:
    card = model_card({"averaged": {"a": 0.5, "b": 0.5}, "made_by": {"align": "0.1.0"}}, CardFacts())
    head = yaml.safe_load(card.split("---\n", 2)[1])
    assert "license" not in head
    assert "base_model" not in head
    assert "model-index" not in head
    assert "Not evaluated." in card
    assert "evaluated on the sets named above" not in card
    assert "Averaged: a, weight 0.5" in card
    assert "Base model: unknown" in card
    assert yaml.safe_load(model_card({"stage": "reward"}, CardFacts()).split("---\n", 2)[1])["pipeline_tag"] == (
        "text-classification"
    )


def test_nothing_in_a_card_is_markup_that_it_was_given() -> None:
    bad = "<script>x</script> ![i](https://evil.example/i.png) [l](javascript:x) www.evil.example **b**"
    facts = CardFacts(
        title=bad,
        lineage=Lineage(unknown=[bad], unknown_writers=[bad], steps=[Step(bad, bad, {"training": {bad: bad}}, True)]),
        licences=((bad, bad),),
        data=(DataFile(bad, 1, {bad: 1}, {bad: bad}),),
        evaluations=(Evaluation(bad, {bad: {"value": bad, "n": bad}}),),
    )
    manifest = {"stage": bad, "steps": bad, "processes": bad, "averaged": {bad: bad}, "made_by": {bad: bad}}
    body = model_card(manifest, facts).split("---\n", 2)[2]
    assert "<script" not in body
    assert "![" not in body.replace("\\!\\[", "")
    assert "](" not in body.replace("\\](", "")
    assert "://" not in body
    assert "www.evil" not in body


def test_a_cell_stays_in_its_table() -> None:
    assert cell("a|b\n<script>&") == "a\\|b &lt;script&gt;&amp;"
