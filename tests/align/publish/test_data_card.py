"""Rows on the Hub: what is sent, with which card, and without the names of raters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from align.config import load_config
from align.errors import ConfigError, PublishError
from align.files import fingerprint
from align.jsonl import write_rows
from align.manifest import data_manifest_path, read_data_manifest, write_data_manifest
from align.publish.hub import upload_rows
from align.rows import Message, PreferenceRow
from align.settings import HubConfig
from recipes.publish import PublishRecipe, run
from tests.published import rows_of
from tests.writable_hub import Client

ROOT = Path(__file__).parents[3]
PUSH = HubConfig(repo="me/rows", push=True, update_main=True)


def preferences(path: Path, *raters: tuple[str, ...]) -> Path:
    said = [(Message(role="assistant", content=text),) for text in ("Paris.", "Rome.")]
    asked = (Message(role="user", content="The capital of France?"),)
    rows = [
        PreferenceRow(id=f"p{n}", source="people", prompt=asked, completions=tuple(said), raters=names)
        for n, names in enumerate(raters)
    ]
    write_rows(path, rows)
    counts = {"rows": len(rows), "sources": {"people": len(rows)}, "by_rater": {"Ann Smith": 2}}
    write_data_manifest(path, config={"path": str(path.parent / "raw.jsonl"), "k": "Ann Smith"}, counts=counts)
    return path


def test_rows_go_with_manifests_and_a_card_that_load_dataset_reads(api: Client, tmp_path: Path) -> None:
    rows_of(tmp_path / "sft.jsonl", "llamafactory/alpaca_en_demo", "tasks/office")
    rows_of(tmp_path / "sft.heldout.jsonl", "tasks/office")
    (tmp_path / "notes.txt").write_text("not sent")
    (tmp_path / "raw.jsonl").write_text("{}\n")  # no manifest: no rows of a builder
    assert upload_rows(tmp_path, PUSH, command="python recipes/build_data.py x.yaml", api=api)
    (repo,) = api.hub.repos.values()
    assert api.hub.repos.keys() == {("datasets", "me/rows")}
    names = {"README.md"} | {f"{stem}.jsonl{end}" for stem in ("sft", "sft.heldout") for end in ("", ".manifest.json")}
    assert repo.files("main").keys() == repo.files("data").keys() == api.sent.keys() == names
    assert api.sent["sft.jsonl"] == (tmp_path / "sft.jsonl").read_bytes()
    card = DatasetCard(api.sent["README.md"].decode())
    assert card.data.to_dict()["configs"] == [
        {"config_name": "sft.heldout", "data_files": "sft.heldout.jsonl"},
        {"config_name": "sft", "data_files": "sft.jsonl"},
    ]
    assert (card.data.license, card.data.size_categories) == ("cc-by-nc-4.0", "n<1K")
    for part in ("**Not for commercial use**", "| sft.jsonl | id, source, messages |", "build_data.py x.yaml"):
        assert part in card.text, part
    assert str(tmp_path) not in "".join(content.decode() for content in api.sent.values())


def test_names_of_raters_are_numbers_in_rows_manifest_and_card(api: Client, tmp_path: Path) -> None:
    path = preferences(tmp_path / "preferences.jsonl", ("Ann Smith", "Bob"), ("Bob",), ())
    assert upload_rows(path, PUSH.model_copy(update={"license": "cc0-1.0"}), api=api)
    assert not any(name in content for name in (b"Ann", b"Bob") for content in api.sent.values())
    rows = [json.loads(line) for line in api.sent["preferences.jsonl"].splitlines()]
    assert [row.get("raters", []) for row in rows] == [["rater-1", "rater-2"], ["rater-2"], []]
    assert json.loads(path.read_text().splitlines()[0])["raters"] == ["Ann Smith", "Bob"], "the rows here stay"
    downloaded = tmp_path / "downloaded"
    downloaded.mkdir()
    for name, content in api.sent.items():
        (downloaded / name).write_bytes(content)
    manifest = read_data_manifest(downloaded / "preferences.jsonl")
    assert manifest["counts"]["by_rater"] == {"rater-1": 2}
    assert manifest["blake3"] == fingerprint(downloaded / "preferences.jsonl"), "a download can be verified"
    assert "The names of 2 raters are replaced by numbers." in api.sent["README.md"].decode()


def test_rows_that_were_changed_and_a_folder_without_rows_are_refused(api: Client, tmp_path: Path) -> None:
    path = rows_of(tmp_path / "sft.jsonl", "tasks/office")
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(PublishError, match=r"sft.jsonl: is not the file that its manifest describes"):
        upload_rows(path, PUSH, api=api)
    data_manifest_path(path).unlink()
    with pytest.raises(PublishError, match=r"holds no JSONL file of rows with a manifest"):
        upload_rows(tmp_path, PUSH, api=api)
    assert api.hub.requests == []


def test_a_secret_far_down_in_rows_is_found(api: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("align.publish.secrets._BLOCK_BYTES", 200)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "nothing"}\n' * 100 + json.dumps({"text": "\nhf_" + "a1B2" * 8}) + "\n")
    with pytest.raises(PublishError, match=r"rows.jsonl: holds a Hugging Face token"):
        upload_rows(path, PUSH, api=api)
    assert api.hub.requests == []


def test_a_llama_models_rows_bring_its_licence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rows_of(tmp_path / "sft.jsonl", "tasks/office", counted=False)
    config = {"model": {"path": "meta-llama/Llama-3.1-8B-Instruct"}, "reward_model": {"path": "x/y"}, "k": 8}
    write_data_manifest(path, config=config, counts={"rows": 1, "sources": {"tasks/office": 1}})
    with pytest.raises(PublishError, match=r"states apache-2.0, but the model was made from llama3.1"):
        upload_rows(path, HubConfig(repo="me/rows", license="apache-2.0"))
    assert upload_rows(path, HubConfig(repo="me/rows")) is False
    assert "would go to the branch data of the dataset me/rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    "values, said",
    [
        ([], "expected either checkpoint or rows, found none"),
        (["checkpoint=a", "rows=b"], "expected either checkpoint or rows, found both"),
        (["rows=b", "data=[c]"], "rows are published without data and evaluations"),
    ],
)
def test_a_checkpoint_or_rows_are_published(tmp_path: Path, values: list[str], said: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("hub: {repo: me/x}\n")
    with pytest.raises(ConfigError, match=said):
        load_config(PublishRecipe, config, values)


def test_the_recipe_publishes_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "round-3").mkdir()
    path = rows_of(tmp_path / "round-3" / "sft.jsonl", "tasks/office")
    recipe = load_config(PublishRecipe, ROOT / "recipes" / "configs" / "publish" / "rows.yaml", [f"rows={path}"])
    assert run(recipe) is False
    printed = capsys.readouterr().out
    assert "would go to the branch round-3 of the dataset me/rehearsal-rows" in printed
    assert "sft.jsonl.manifest.json" in printed
