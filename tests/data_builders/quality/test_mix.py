"""Several sources become one file, with weights, limits, and no duplicate and no evaluation prompt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from align.errors import RowError
from align.jsonl import read_rows, write_rows
from align.manifest import read_data_manifest, write_data_manifest
from align.rows import Message, SFTRow, ToolCall
from data_builders.quality.composition import PAPER, Composition
from data_builders.quality.mix import MixSource, SFTMixConfig, build
from data_builders.row_set import RowSet


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


def mix(
    files: dict[str, Path],
    out: Path,
    evaluation: tuple[Path, ...] = (),
    rows: int | None = None,
    **settings: dict,
) -> tuple[list, dict]:
    sources = {name: MixSource(path=path, **settings.get(name, {})) for name, path in files.items()}
    folder = build(SFTMixConfig(sources=sources, evaluation=evaluation, rows=rows), out)
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


def test_the_stream_is_what_rows_in_memory_give(files: dict[str, Path], tmp_path: Path) -> None:
    """The same rows in the same order as `RowSet` gives, which has all of them in memory."""
    rows, manifest = mix(files, tmp_path / "out", one={"weight": 2.5, "limit": 7}, two={"weight": 0.3})
    expected: RowSet[SFTRow] = RowSet()
    for name, weight, limit in (("one", 2.5, 7), ("two", 0.3, None)):
        part = RowSet(read_rows(files[name], SFTRow))
        part.drop_where(lambda row, name=name: name == "two" and row.id == "shared", "duplicate")
        part.limit(limit, 0)
        part.apply_weight(weight, 0)
        expected.add(part)
    expected.shuffle(0)
    assert rows == expected.rows
    assert manifest["counts"] == expected.counts


def test_shares_are_met_by_repeating_and_thinning_out(files: dict[str, Path], tmp_path: Path) -> None:
    """11 and 10 rows that are left; 75% and 25% of 28 rows."""
    settings = {"one": {"share": 0.75}, "two": {"share": 0.25}}
    rows, manifest = mix(files, tmp_path / "out", rows=28, **settings)
    assert manifest["mix"] == {"one": 21, "two": 7}
    assert manifest["epochs"] == {"one": round(21 / 11, 4), "two": 0.7}
    times = Counter(each.messages[0].content for each in rows if each.source == "one")
    assert sorted(times.values()) == [1, *[2] * 10]
    assert len({each.id for each in rows}) == 28
    counts = manifest["counts"]
    assert counts["dropped"] == {"down-weighted": 3, "duplicate": 1}
    assert counts["read"] == counts["rows"] - counts["copies"] + sum(counts["dropped"].values()) == 22
    _, manifest = mix(files, tmp_path / "all", **settings)
    assert manifest["mix"] == {"one": 16, "two": 5}, "15.75 and 5.25 of all 21 rows"


def test_a_share_that_repeats_rows_too_often_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    settings = {"one": {"share": 0.9}, "two": {"share": 0.1}}
    with pytest.raises(RowError, match=r"one: a share of 0\.9 of 100 rows is 8\.2 epochs of its 11 rows.*max_epochs"):
        mix(files, tmp_path / "out", rows=100, **settings)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "one, two, rows, message",
    [
        ({"share": 0.5}, {}, None, r"sources\.two has no share"),
        ({"share": 0.5}, {"share": 0.6}, None, r"add up to 1\.1"),
        ({"share": 0.5}, {"share": 0.5, "weight": 2}, None, r"sources\.two has a share and a weight"),
        ({}, {}, 10, r"rows is set, but no source has a share"),
    ],
)
def test_shares_that_contradict_each_other_are_refused(one: dict, two: dict, rows: int | None, message: str) -> None:
    sources = {"one": {"path": "a.jsonl", **one}, "two": {"path": "b.jsonl", **two}}
    with pytest.raises(ValidationError, match=message):
        SFTMixConfig.model_validate({"sources": sources, "rows": rows})


def test_the_share_of_a_source_without_rows_goes_to_the_others(files: dict[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    write_data_manifest(empty, config={}, counts={"rows": 0})
    shares = {"one": {"share": 0.4}, "two": {"share": 0.4}, "empty": {"share": 0.2}}
    _, manifest = mix({**files, "empty": empty}, tmp_path / "out", rows=20, **shares)
    assert manifest["mix"] == {"one": 10, "two": 10, "empty": 0}


def test_the_table_has_the_columns_of_table_7_next_to_the_papers(files: dict[str, Path], tmp_path: Path) -> None:
    """Lengths in words, counted by hand: ten rows have 5 and 6, and the one that both sources have has 6 and 7."""
    category = {"category": "exam-like"}
    mix(files, tmp_path / "out", one={"weight": 2, **category}, two={"limit": 5})
    text = (tmp_path / "out" / "composition.md").read_text()
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in text.splitlines()}
    assert lines["one"] == ["81.48%", "2.0", "11.2", "5.1", "6.1 |"]
    assert lines["Llama 3 (tokens): exam-like"] == ["8.14%", "2.3", "297.8", "124.4", "173.4 |"]
    assert lines["Llama 3 (tokens): total"] == ["100.00%", "4.7", "846.1", "535.7", "310.4 |"]


def test_the_papers_table_adds_up() -> None:
    """Its shares are 100%, tokens are context and final response, and totals are weighted means, all up to rounding:
    half of the last digit of a share, 0.005%, is 2 tokens of the 38,000 of long contexts."""
    parts = [figures for name, figures in PAPER.items() if name != "total"]
    assert sum(part.share for part in parts) == pytest.approx(1, abs=1e-4)
    for column, rounding in (("turns", 0.06), ("length", 2.2), ("context", 2.2), ("final", 0.3)):
        mean = sum(part.share * getattr(part, column) for part in parts)
        assert mean == pytest.approx(getattr(PAPER["total"], column), abs=rounding)
    assert all(part.length == pytest.approx(part.context + part.final, abs=0.25) for part in PAPER.values())


def test_lengths_are_those_of_the_tokenizer_with_calls_and_tools(tiny_checkpoint: Path, chatml_tokenizer) -> None:
    tools = '[{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]'
    messages = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="What is 2 + 2?"),
        Message(role="assistant", tool_calls=(ToolCall(name="add", arguments='{"a": 2}'),)),
        Message(role="tool", content="4"),
        Message(role="assistant", content="It is 4."),
    )
    found = Composition(tiny_checkpoint)
    found.add("tools", SFTRow(id="1", source="s", messages=messages, tools=tools))

    def count(*texts: str) -> int:
        return sum(len(chatml_tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)

    context = count(tools, "Be brief.", "What is 2 + 2?", 'add {"a": 2}', "4")
    assert found.figures()["tools"] == (1.0, 4.0, context + count("It is 4."), context, count("It is 4."))
