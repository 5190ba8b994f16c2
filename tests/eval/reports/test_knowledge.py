"""Models side by side, from results that are written here by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from align.config import load_config
from align.errors import RowError
from eval.intervals import share
from eval.reports.knowledge import compare, read_json, read_knowledge
from recipes.compare_knowledge import CompareKnowledgeRecipe, run

NAMES = {"r": "right", "w": "wrong", "a": "abstained"}


def evaluation(verdicts: str, relation: str = "capital") -> dict[str, Any]:
    """A factuality.json: question n has a surer answer than question n + 1."""
    rows = [
        {
            "id": str(place),
            "topic": "countries",
            "relation": "border" if place >= 4 else relation,
            "verdict": NAMES[letter],
            "forced_verdict": "wrong" if letter == "a" else NAMES[letter],
            "before": None,
            "scores": dict.fromkeys(("answer_mean", "answer_sum", "propensity"), -float(place)),
        }
        for place, letter in enumerate(verdicts)
    ]
    points = [[0.5, 0.0, -1.0], [1.0, 0.5, -9.0]]
    at = {"threshold": -1.0, "coverage": 0.5, "risk": 0.2, "wrong": 0.1, "known_kept": 0.9}
    curve = {"points": points, "at_known_kept": {"85%": at, "90%": None}}
    scores = {"auroc_answer_mean": share(8, 10)._asdict()}  # type: ignore[union-attr]
    return {
        "name": "factuality",
        "scores": scores,
        "counts": {"risk_coverage": {"answer_mean": curve, "propensity": curve, "no_answer": 0}},
        "rows": rows,
    }


UNTOUCHED, TRAINED = evaluation("rrwwrw"), evaluation("rawarw")


def test_each_model_is_followed_against_the_first_and_against_a_threshold_on_it() -> None:
    dev = evaluation("rrrwww")
    found = compare({"untouched": [UNTOUCHED], "trained": [TRAINED]}, dev=dev, known_kept=0.66)
    values = first_table(found.markdown)
    # Before, questions 0, 1 and 4 were right. The threshold keeps two of dev's three: scores of at least -1.
    assert values["untouched"] == ["50%", "50%", "0%", "100%", "0%", "0%"]
    assert values["trained"] == ["33%", "33%", "33%", "67%", "33%", "33%"]
    assert values["untouched, threshold on answer mean"] == ["33%", "0%", "67%", "67%", "33%", "100%"]
    assert "Threshold: answer mean of at least -1, chosen to keep 66% of the known dev questions." in found.markdown
    # Of the known 0, 1, 4 and the others 2, 3, 5, seven of nine pairs stand in the right order.
    assert "| untouched | answer mean | 78% (" in found.markdown
    # Answered down to question 4, two of five are wrong, and all that was known is kept.
    assert "33% / 83% | 33% / 83% |" in found.markdown


@pytest.mark.slow
def test_kinds_of_fact_that_nothing_was_trained_on_have_their_own_table_and_the_map() -> None:
    runs = [TRAINED, TRAINED]
    found = compare({"untouched": [UNTOUCHED], "trained": runs}, transfer_relations=("border",)).markdown
    main, _, transfer = found.partition("kinds of facts without training")
    # The first four: before right, right, wrong, wrong; after right, abstained, wrong, abstained.
    assert first_table(main)["trained"] == ["25%", "25%", "50%", "50%", "50%", "50%"]
    assert first_table(transfer)["trained"] == ["50%", "50%", "0%", "100%", "0%", "0%"]
    assert "| trained, 2 | 25% | 25% | 50% | 0% | 50% | 50% | 0% | 50% | 50% |" in transfer
    assert "| untouched | answer mean | 100% (" in found, "of the first four alone"
    assert "border" in found.partition("Knowledge map")[2]


SHARES = ("right", "wrong", "abstained", "known kept", "false refusals", "unknown refused")


def first_table(markdown: str, columns: tuple[str, ...] = SHARES) -> dict[str, list[str]]:
    """Name -> its values in these columns, without intervals."""
    lines = [line.removeprefix("| ").split(" | ") for line in markdown.splitlines()[:8] if "|" in line]
    places = [lines[0].index(column) for column in columns]
    return {name: [cells[place - 1].split(" ")[0] for place in places] for name, *cells in lines[2:]}


def test_scores_that_charge_for_wrong_answers_are_columns_with_paired_differences() -> None:
    found = compare({"untouched": [UNTOUCHED], "trained": [TRAINED, evaluation("rwwwrw")]}).markdown
    columns = ("right minus wrong", "attempt accuracy", "known kept", "known wrong", "false refusals")
    values = first_table(found, columns)
    assert values["untouched"] == ["0%", "50%", "100%", "0%", "0%"]
    # 2 right and 2 wrong of 6, then 2 right and 4 wrong; of the known 0, 1 and 4, question 1 is refused, then wrong.
    assert values["trained"] == ["-17%", "40%", "67%", "17%", "17%"]
    table = found.partition("## Differences from the first model")[2]
    head, _, line = [line for line in table.splitlines() if line.startswith("|")][:3]
    names = [cell.strip() for cell in head.split("|")]
    cells = dict(zip(names, [cell.strip() for cell in line.split("|")], strict=True))
    assert cells["right"].startswith("-17 (")
    assert cells["right minus wrong"].startswith("-17 (")
    assert cells["attempt accuracy"].startswith("-10 (")


def test_the_pictures_hold_a_line_for_each_model_and_a_bar_for_each_kind_of_fact() -> None:
    probed = {"relations": {"capital": {"known": 1, "unknown": 1, "unsure": 0}}}
    found = compare({"untouched": [UNTOUCHED], "trained": [TRAINED]}, probed=probed)
    assert found.plots.keys() == {"risk_coverage.svg", "knowledge_map.svg"}
    risk = "".join(ElementTree.fromstring(found.plots["risk_coverage.svg"]).itertext())
    assert "untouched, by propensity" in risk, "all three scores tell the same here, and the first is taken"
    assert "trained" in risk
    assert "wrong among answered" in risk, "the title"
    bars = "".join(ElementTree.fromstring(found.plots["knowledge_map.svg"]).itertext())
    assert "untouched, before" in bars
    assert "known, right" in bars


@pytest.mark.slow
def test_runs_of_one_training_are_pooled_with_intervals_over_questions() -> None:
    other = evaluation("rrwwww")
    found = compare({"untouched": [UNTOUCHED], "trained": [TRAINED, other]})
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in found.markdown.splitlines()}
    twice = compare({"untouched": [UNTOUCHED], "trained": [TRAINED, TRAINED]}).markdown
    # 2 of 6 right and 2 of 6; of what was known, 2 of 3 and 2 of 3.
    pooled = next(line for line in found.markdown.splitlines() if line.startswith("| trained |"))
    assert pooled.split(" | ")[1].startswith("33% (")
    assert pooled.split(" | ")[6].startswith("67% (")
    assert pooled.endswith("| 12 |")
    assert lines["trained, 1"].split(" | ")[1:3] == ["33%", "33%"]
    assert lines["trained, 2"].split(" | ")[1:3] == ["33%", "67%"]
    # The same run twice says no more than once: its interval is not that of twice as many questions.
    once = compare({"untouched": [UNTOUCHED], "trained": [TRAINED]}).markdown
    low, high = (_interval(text) for text in (once, twice))
    assert high[1] - high[0] >= 0.9 * (low[1] - low[0])


def _interval(markdown: str) -> tuple[float, float]:
    line = next(line for line in markdown.splitlines() if line.startswith("| trained |"))
    low, _, high = line.split(" | ")[1].partition("(")[2].rstrip(")").partition("-")
    return float(low), float(high)


@pytest.mark.slow
def test_consistent_knowledge_is_distinguished_from_a_single_right_answer(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    said = ["known", "known", "unknown", "unknown", "unsure", "uninformative"]
    answers.write_text("".join(json.dumps({"id": str(n), "knowledge": one}) + "\n" for n, one in enumerate(said)))
    found = compare(
        {"untouched": [UNTOUCHED], "trained": [TRAINED, evaluation("rrraaw")]},
        heldout_knowledge=read_knowledge(answers),
    ).markdown
    _, _, part = found.partition("## By what the untrained model knows, according to a probe of the same questions")
    assert "| known (n 2): right | known (n 2): abstained | unknown (n 2): right |" in part
    # Known are questions 0 and 1: right, abstained; right, right. Unknown 2 and 3; unsure 4: right, then abstained.
    assert [cell.split(" ")[0] for cell in part.splitlines()[5].split(" | ")[1:]] == [
        *("75%", "25%"),
        *("25%", "50%"),
        *("50%", "50%"),
    ]
    with pytest.raises(RowError, match="does not contain 5 of the 6 questions"):
        compare({"untouched": [UNTOUCHED]}, heldout_knowledge={"0": "known"})
    answers.write_text("{}\n")
    with pytest.raises(RowError, match=r"answers\.jsonl: is not the answers\.jsonl of a probe"):
        read_knowledge(answers)


def test_models_that_answered_other_questions_are_refused() -> None:
    with pytest.raises(
        RowError,
        match=r"trained: has 3 questions, but 3 of the 6 of the first model are missing\. Evaluate every model",
    ):
        compare({"untouched": [UNTOUCHED], "trained": [evaluation("rrw")]})


def test_the_recipe_writes_markdown_and_pictures(tmp_path: Path) -> None:
    for name, found in (("one", UNTOUCHED), ("two", TRAINED)):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    config = tmp_path / "compare.yaml"
    config.write_text(
        f"evaluations: {{untouched: {tmp_path}/one.json, trained: {tmp_path}/two.json}}\n"
        f"dev: {tmp_path}/one.json\noutput: {tmp_path}/out\n"
    )
    run(load_config(CompareKnowledgeRecipe, config))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "knowledge.md",
        "risk_coverage.svg",
        "knowledge_map.svg",
    }
    with pytest.raises(RowError, match=r"three\.json: cannot be read as JSON"):
        read_json(tmp_path / "three.json")
