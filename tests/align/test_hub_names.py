"""Names on the Hub, addresses of the Hub, and the existing path that a misspelled one may mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.hub_names import hub_name_in, is_hub_name, similar_path


@pytest.mark.parametrize(
    "text, expected",
    [
        ("https://huggingface.co/me/model", ("me/model", None)),
        ("https:/huggingface.co/me/model", ("me/model", None)),
        ("https://hf.co/datasets/me/rows/tree/v1", ("me/rows", "v1")),
        ("https://huggingface.co/me/model/resolve/main/config.json", ("me/model", "main")),
        ("hf://datasets/me/rows/train.jsonl", ("me/rows", None)),
        ("me/model@v1.0", ("me/model", "v1.0")),
        ("me/model", None),
        ("runs/a/b", None),
        ("https://example.com/me/model", None),
        ("s3://bucket/rows.jsonl", None),
    ],
)
def test_an_address_of_the_hub_has_a_name_and_a_revision(text: str, expected: tuple[str, str | None] | None) -> None:
    assert hub_name_in(text) == expected


def test_a_path_with_one_misspelled_part_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("runs/round-1/dpo", "runs/round-1/sft"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("kp.yaml", "sft.yaml", "rows.jsonl"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for wrong, right in (
        ("runs/round1/dpo", "runs/round-1/dpo"),
        ("run/round-1/sft", "runs/round-1/sft"),
        ("sft.yml", "sft.yaml"),
        ("rowss.jsonl", "rows.jsonl"),
        (tmp_path / "runs" / "round_1", tmp_path / "runs" / "round-1"),
    ):
        assert similar_path(Path(wrong)) == Path(right)
    for path in ("nope.yaml", "runs/round-1/reward", "runs/round1/reward", "sft.yaml", "sft.yaml/x", "other/model"):
        assert similar_path(Path(path)) is None, "no guess is better than a wrong one"


def test_a_name_on_the_hub_is_neither_a_file_of_data_nor_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("me/model")
    assert not is_hub_name("me/rows.jsonl")
    assert not is_hub_name("a/b/c")
    (tmp_path / "me" / "model").mkdir(parents=True)
    assert not is_hub_name("me/model")
