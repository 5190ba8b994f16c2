"""Several sources become one file, with weights, limits, and no duplicate and no evaluation prompt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from align.errors import RowError
from align.jsonl import read_rows, write_rows
from align.manifest import read_data_manifest, write_data_manifest
from align.rows import Message, SFTRow
from data_builders.quality.mix import MixSource, SFTMixConfig, build


def row(name: str, text: str, source: str) -> SFTRow:
    messages = (Message(role="user", content=text), Message(role="assistant", content=f"About {text}"))
    return SFTRow(id=name, source=source, messages=messages)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for source in ("one", "two"):
        rows = [row(f"{source}-{n}", f"What is {source} {n} then?", source) for n in range(10)]
        rows.append(row("shared", "What do both of them say?", source))
        found[source] = tmp_path / f"{source}.jsonl"
        write_rows(found[source], rows)
    return found


def mix(files: dict[str, Path], out: Path, evaluation: tuple[Path, ...] = (), **settings: dict) -> tuple[list, dict]:
    sources = {name: MixSource(path=path, **settings.get(name, {})) for name, path in files.items()}
    folder = build(SFTMixConfig(sources=sources, evaluation=evaluation), out)
    return read_rows(folder / "sft.jsonl", SFTRow), read_data_manifest(folder / "sft.jsonl")


def test_of_rows_that_say_the_same_the_first_sources_is_kept(files: dict[str, Path], tmp_path: Path) -> None:
    rows, manifest = mix(files, tmp_path / "out")
    assert len(rows) == 21
    assert manifest["counts"]["dropped"] == {"duplicate": 1}
    assert manifest["mix"] == {"one": 11, "two": 10}
    assert manifest["counts"]["read"] == 22


def test_weights_repeat_and_thin_out_and_limits_come_first(files: dict[str, Path], tmp_path: Path) -> None:
    rows, manifest = mix(files, tmp_path / "out", one={"weight": 2.5, "limit": 4}, two={"weight": 0.5})
    by_source = Counter(each.source for each in rows)
    assert by_source == {"one": 10, "two": 5}
    copies = Counter(each.messages[0].content for each in rows if each.source == "one")
    assert sorted(copies.values()) == [2, 2, 3, 3]
    counts = manifest["counts"]
    assert counts["copies"] == 6
    assert counts["dropped"] == {"down-weighted": 5, "duplicate": 1, "over the limit": 7}
    assert counts["read"] == 22 == counts["rows"] - 6 + sum(counts["dropped"].values())


def test_evaluation_prompts_are_kept_out(files: dict[str, Path], tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation.jsonl"
    write_rows(evaluation, [row("e", "what is TWO 3 then", "held out")])
    rows, manifest = mix(files, tmp_path / "out", evaluation=(evaluation,))
    assert "What is two 3 then?" not in {each.messages[0].content for each in rows}
    assert manifest["counts"]["dropped"]["matches an evaluation prompt"] == 1


def test_the_order_is_seeded_and_mixed(files: dict[str, Path], tmp_path: Path) -> None:
    first, _ = mix(files, tmp_path / "first")
    second, _ = mix(files, tmp_path / "second")
    assert first == second
    assert [each.source for each in first] != sorted(each.source for each in first)


def test_an_empty_source_is_no_mistake_if_a_stage_wrote_it_so(files: dict[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(RowError, match=r"empty\.jsonl: holds no rows"):
        mix({**files, "empty": empty}, tmp_path / "out")
    write_data_manifest(empty, config={}, counts={"rows": 0})
    rows, _ = mix({**files, "empty": empty}, tmp_path / "out")
    assert len(rows) == 21
    with pytest.raises(RowError, match=r"none\.jsonl: cannot be read"):
        mix({**files, "none": tmp_path / "none.jsonl"}, tmp_path / "out")


def test_a_weight_that_the_mix_would_undo_is_refused() -> None:
    source = {"path": "a.jsonl", "weight": 2}
    for path in (source, ["b.jsonl", source]):
        with pytest.raises(ValidationError, match=r"weight 2 is set inside path.*Set weight next to path"):
            MixSource.model_validate({"path": path})
    assert MixSource.model_validate({"path": {"path": "a.jsonl"}, "weight": 2}).weight == 2
