"""Over-used openings and phrases are lowered to their share, and which rows stay does not depend on their order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from align.jsonl import read_rows, write_rows
from align.manifest import read_data_manifest
from align.rows import SFTRow
from data_builders.quality.builder import QualityConfig, build
from tests.data_builders.quality.made_rows import dialog, random_rows, sentence, shuffled


def balanced(rows: list[SFTRow], folder: Path, **settings: object) -> list[SFTRow]:
    folder.mkdir(exist_ok=True)
    write_rows(folder / "in.jsonl", rows)
    balance = {"min_rows": 5, "max_opening_ratio": 0.1, "max_phrase_ratio": 0.05, **settings}
    config = QualityConfig(path=folder / "in.jsonl", balance=balance, duplicates={"near": False}, rules={"rules": []})
    return read_rows(build(config, folder / "out") / "rows.jsonl", SFTRow)


def planted() -> list[SFTRow]:
    draw = random.Random(0)
    rows = random_rows(200, seed=0, words=(8, 12))
    sorry = [dialog(f"sorry-{n}", sentence(draw, 8), f"I'm sorry, but {sentence(draw, 10)}") for n in range(60)]
    helps = [dialog(f"helps-{n}", sentence(draw, 8), f"{sentence(draw, 9)} I hope this helps!") for n in range(40)]
    starts = [dialog(f"starts-{n}", sentence(draw, 8), f"Here you go {sentence(draw, 9)}") for n in range(50)]
    return [*rows, *sorry, *helps, *starts, *(dialog(f"yes-{n}", sentence(draw, 8), "Yes.") for n in range(50))]


@pytest.mark.slow
def test_shares_are_lowered_to_their_limits_and_no_further(tmp_path: Path) -> None:
    rows = planted()
    kept = balanced(rows, tmp_path)
    names = [row.id.split("-")[0] for row in kept]
    total = len(kept)
    assert names.count("sorry") == int(0.05 * total), "a phrase, which has the lower limit of the two"
    assert names.count("helps") == int(0.05 * total)
    assert names.count("starts") == int(0.1 * total), "an opening that was found by counting"
    assert names.count("row") == 200
    assert names.count("yes") == 50, "short answers have no opening"
    manifest = read_data_manifest(tmp_path / "out/rows.jsonl")
    assert set(manifest["counts"]["dropped"]) == {
        "over-used phrase: i m sorry",
        "over-used opening: i m sorry",
        "over-used phrase: i hope this helps",
        "over-used opening: here you go",
    }
    shares = manifest["steps"]["balance"]["over-used phrase: i m sorry"]
    assert shares["before"] == 60 / 400
    assert shares["after"] <= 0.05


@pytest.mark.slow
def test_which_rows_stay_does_not_depend_on_their_order(tmp_path: Path) -> None:
    rows = planted()
    one, other = balanced(rows, tmp_path / "a"), balanced(shuffled(rows, 1), tmp_path / "b")
    assert {row.id for row in one} == {row.id for row in other}
    assert {row.id for row in balanced(rows, tmp_path / "c", seed=1)} != {row.id for row in one}


@pytest.mark.slow
def test_few_rows_are_never_over_used(tmp_path: Path) -> None:
    rows = planted()
    assert len(balanced(rows, tmp_path, min_rows=60)) == len(rows)
