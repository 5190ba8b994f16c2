"""Prompts with checkable instructions, from the real demo sets: what is held out, and what each row requires."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from align.config import load_config
from align.errors import ConfigError
from align.files import fingerprint
from align.jsonl import read_rows
from align.judges.verifiers.instructions import InstructionsEntry, follows
from align.manifest import read_data_manifest
from align.rows import VerifiedPromptRow
from align.sampling.verification import Verification
from data_builders.instructions.builder import HELD_OUT_KINDS
from data_builders.instructions.kinds import ENDINGS, KINDS, Instruction, KindName, are_compatible, instruction, obeyed
from recipes.build_data import BuildDataRecipe, run

CONFIG = Path(__file__).resolve().parents[3] / "recipes/configs/data/instructions.yaml"
ALL_KINDS = [
    "instructions.kinds=[]",
    f"instructions.heldout_kinds=[{', '.join(HELD_OUT_KINDS)}]",
    "instructions.placements={message: 0.6, system: 0.2, earlier_turn: 0.2}",
    "instructions.two_ratio=0.25",
]
"""Settings with which the small config has all kinds, as without them."""
FILES = ("round-1", "round-2", "heldout", "seen")
PROMPT = "Describe the taste of coffee."

ANSWERS: dict[KindName, tuple[str, str]] = {
    "sentences": ("It is bitter.", "It is bitter. It is warm. It is good."),
    "paragraphs": ("", "It is bitter."),
    "bullets": ("- bitter\n- warm\n- good", "1. bitter\n2. warm\n3. good"),
    "lower_case": ("it is bitter.", "It is bitter."),
    "upper_case": ("IT IS BITTER.", "It is BITTER."),
    "ends_with": ("", "It is bitter."),
    "word_repeated": ("Coffee tastes of coffee. The taste, the taste! Describe: describe.", "Coffee: taste, describe."),
    "no_commas": ("It is bitter and warm.", "It is bitter, and warm."),
    "words": ("It is bitter.", "so " * 31),
    "numbered": ("1. bitter\n2. warm\n3. good", "- bitter\n- warm\n- good"),
    "starts_with": ("", "It is bitter."),
    "words_present": ("", "It is bitter."),
    "word_absent": ("It is bitter.", "Describe the coffee's taste."),
    "quoted": ('"It is bitter."', "It is bitter."),
    "json": ('{"taste": "bitter"}', "taste: bitter"),
    "language": ("", "It tastes bitter, and many people like it with milk."),
}  # fmt: skip
"""Kind -> an answer that follows every instruction of the kind for PROMPT ("" where it depends on the details), and one
that follows none."""

pytestmark = [pytest.mark.asset("llamafactory")]


def made_of(kind: KindName, prompt: str = PROMPT) -> list[Instruction]:
    found = [instruction(kind, prompt, random.Random(seed)) for seed in range(40)]
    assert None not in found
    return [one for one in found if one is not None]


def does_follow(text: str, one: Instruction) -> bool:
    (check,) = InstructionsEntry.model_validate({"checks": [one.check]}).checks
    return follows(text, check)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(load_config(BuildDataRecipe, CONFIG, [*ALL_KINDS, f"output={tmp_path_factory.mktemp('data')}"]))


@pytest.fixture(scope="module")
def rows(built: Path) -> dict[str, list[VerifiedPromptRow]]:
    return {name: read_rows(built / f"instructions.{name}.jsonl", VerifiedPromptRow) for name in FILES}


def texts_of(row: VerifiedPromptRow) -> list[str]:
    return [message.content for message in row.prompt if message.role != "assistant"]


def checks_of(row: VerifiedPromptRow) -> list[dict]:
    return row.required()["instructions"]["checks"]


def test_no_training_row_has_a_prompt_a_check_or_a_wording_that_is_held_out(
    rows: dict[str, list[VerifiedPromptRow]],
) -> None:
    prompts = {name: {row.id.partition("#")[0] for row in of_file} for name, of_file in rows.items()}
    for one, other in combinations(FILES[:3], 2):
        assert not prompts[one] & prompts[other]
    assert prompts["seen"] <= prompts["heldout"] | prompts["seen"]
    assert not prompts["seen"] & (prompts["round-1"] | prompts["round-2"])
    held_out = {check["kind"] for row in rows["heldout"] for check in checks_of(row)}
    assert len(held_out) == 6
    wordings = [word for kind in HELD_OUT_KINDS for word in KINDS[kind].wordings]
    patterns = [
        re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(word.replace("{{", "{").replace("}}", "}"))))
        for word in wordings
    ]
    for name in ("round-1", "round-2"):
        assert not held_out & {check["kind"] for row in rows[name] for check in checks_of(row)}
        texts = [text for row in rows[name] for text in texts_of(row)]
        assert not [text for text in texts if any(pattern.search(text) for pattern in patterns)]
    texts = [text for row in rows["heldout"] for text in texts_of(row)]
    assert sum(any(pattern.search(text) for pattern in patterns) for text in texts) >= len(rows["heldout"])


def test_kinds_and_placements_occur_about_equally_often(rows: dict[str, list[VerifiedPromptRow]]) -> None:
    for name, of_file in rows.items():
        first = Counter(row.id.partition(".")[2].partition("+")[0] for row in of_file)
        assert len(first) == (7 if name == "heldout" else 8)
        assert min(first.values()) >= 0.6 * max(first.values()), name
        places = Counter((row.prompt[0].role, len(row.prompt)) for row in of_file)
        assert places.keys() == {("user", 1), ("system", 2), ("user", 3)}
        assert 0.15 < sum("+" in row.id for row in of_file) / len(of_file) < 0.4


def test_each_row_is_verified_as_rejection_sampling_does_and_its_earlier_turn_follows_the_instructions(
    rows: dict[str, list[VerifiedPromptRow]],
) -> None:
    earlier = 0
    for of_file in rows.values():
        Verification(of_file, ["instructions"])  # raises for an entry that the verifier refuses
        for row in of_file:
            entry = InstructionsEntry.model_validate(row.required()["instructions"])
            assert row.prompt[-1].role == "user"
            for message in row.prompt:
                if message.role == "assistant":
                    earlier += 1
                    assert not message.trained
                    assert all(follows(message.content, check) for check in entry.checks), message.content
    assert earlier > 25


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_drops_are_counted(built: Path, tmp_path: Path) -> None:
    again = run(load_config(BuildDataRecipe, CONFIG, [*ALL_KINDS, f"output={tmp_path}"]))
    other = run(
        load_config(BuildDataRecipe, CONFIG, [*ALL_KINDS, f"output={tmp_path / 'other'}", "instructions.seed=1"])
    )
    for name in FILES:
        first, second, third = (folder / f"instructions.{name}.jsonl" for folder in (built, again, other))
        assert fingerprint(first) == fingerprint(second) != fingerprint(third)
    counts = read_data_manifest(built / "instructions.round-1.jsonl")["counts"]
    assert counts["dropped"]["asks for a form itself"] > 100
    assert counts["dropped"]["over max_characters"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_of_a_kind_agrees_with_its_wording(kind: KindName) -> None:
    if kind == "language":
        pytest.importorskip("py3langid")
    good, bad = ANSWERS[kind]
    found = made_of(kind)
    assert {one.text for one in found} != {found[0].text}, "several wordings"
    for one in found:
        assert "{count}" not in one.text
        assert not does_follow(bad, one), one
        assert not good or does_follow(good, one), one
        named = [one.check[name] for name in ("text", "word") if name in one.check]
        named += [*one.check.get("present", ()), *one.check.get("absent", ())]
        if kind in ("words", "bullets", "numbered", "paragraphs"):
            named += [str(one.check.get("at_most", one.check.get("at_least")))]
        assert all(text in one.text for text in named), "the wording names what is checked"


def test_an_earlier_answer_is_changed_so_that_it_follows() -> None:
    text = 'Coffee is bitter, warm and "good". Tea, on the other hand, is not. Neither is water. ' + "More of it. " * 12
    ruled = 0
    for one in (one for kind in KINDS for one in made_of(kind)):
        changed = obeyed(text, (one,))
        if changed is not None:
            ruled += 1
            assert does_follow(changed, one), (one, changed)
    assert ruled == 8 * 40
    lower = made_of("lower_case")[0]
    assert obeyed(text, (lower, made_of("json")[0])) is None
    both = (lower, made_of("no_commas")[0])
    assert all(does_follow(obeyed(text, both) or "", one) for one in both)


def test_no_two_kinds_share_a_wording() -> None:
    bare = [(re.sub(r"\{\w+\}", "", word), kind) for kind in KINDS for word in KINDS[kind].wordings]
    assert len({word for word, _ in bare}) == len(bare) > 50


def test_kinds_that_contradict_each_other_are_not_combined() -> None:
    for one, other in (
        ("quoted", "ends_with"),
        ("quoted", "starts_with"),
        ("lower_case", "starts_with"),
        ("lower_case", "upper_case"),
        ("sentences", "bullets"),
        ("words", "numbered"),
        ("json", "starts_with"),
        ("words_present", "word_absent"),
        ("sentences", "ends_with"),  # one sentence cannot say anything and end with "That is all."
        ("sentences", "starts_with"),
    ):
        assert not are_compatible(one, other)  # type: ignore[arg-type]
    assert are_compatible("lower_case", "sentences")
    assert are_compatible("ends_with", "no_commas")
    assert not any("," in text for text in ENDINGS)


def test_own_prompts_are_read_and_those_with_several_messages_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    own = [{"prompt": f"Tell me about river number {number}."} for number in range(60)]
    dialog = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "So?"},
    ]
    held = {"prompt": "Tell me about river number 7."}
    source.write_text("\n".join(map(json.dumps, [*own, {"prompt": dialog}, {"prompt": "Write a poem about rivers."}])))
    (tmp_path / "held.jsonl").write_text(json.dumps(held))
    config = load_config(
        BuildDataRecipe,
        CONFIG,
        [
            f"instructions.prompts={source}",
            f"instructions.evaluation=[{tmp_path / 'held.jsonl'}]",
            f"output={tmp_path / 'out'}",
            "instructions.rounds=1",
            "instructions.limit=64",
            "instructions.placements={earlier_turn: 1}",
        ],
    )
    folder = run(config)
    counts = read_data_manifest(folder / "instructions.round-1.jsonl")["counts"]
    assert counts["dropped"] == {
        "asks for a form itself": 1, "not a single user message": 1, "matches an evaluation prompt": 1,
    }  # fmt: skip
    made = read_rows(folder / "instructions.round-1.jsonl", VerifiedPromptRow)
    held_out = read_rows(folder / "instructions.heldout.jsonl", VerifiedPromptRow)
    assert len(made) + len({row.id.partition("#")[0] for row in held_out}) == 59
    greeted = [row for row in made if len(row.prompt) == 3]
    assert greeted
    assert all("Hello!" in row.prompt[0].content for row in greeted)


def test_prompts_that_another_build_has_held_out_are_dropped(tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text("\n".join(json.dumps({"prompt": f"Tell me about river number {n}."}) for n in range(60)))

    def held_out_and_trained(name: str, **more: object) -> tuple[Path, set[str], set[str]]:
        settings = {"prompts": source, "rounds": 1, "limit": "null", "heldout_limit": "null", **more}
        overrides = [f"instructions.{key}={value}" for key, value in settings.items()]
        folder = run(load_config(BuildDataRecipe, CONFIG, [*overrides, f"output={tmp_path / name}"]))
        files = [folder / f"instructions.{part}.jsonl" for part in ("heldout", "round-1")]
        held_out, trained = ({row.id.partition("#")[0] for row in read_rows(file, VerifiedPromptRow)} for file in files)
        return files[0], held_out, trained

    file, held_out, trained = held_out_and_trained("before")
    _, other, without = held_out_and_trained("after", seed=5, evaluation=f"[{file}]")
    assert held_out.isdisjoint(other | without)
    assert other | without == trained


@pytest.mark.slow
def test_the_rows_of_a_prompt_have_different_kinds(tmp_path: Path) -> None:
    """Six prompts and three kinds: the turn of the kinds comes to each prompt with the kind that it has already."""
    source = tmp_path / "prompts.jsonl"
    source.write_text("\n".join(json.dumps({"prompt": f"Tell me about river number {n}."}) for n in range(40)))
    settings = ["rounds=1", "rows_per_prompt=3", "limit=null", "kinds=[no_commas, bullets, lower_case]"]
    settings += [f"prompts={source}", "heldout_ratio=0.3", "heldout_rows_per_prompt=3"]
    for number in range(8):
        overrides = [f"instructions.{one}" for one in (*settings, f"seed={number}")]
        folder = run(load_config(BuildDataRecipe, CONFIG, [*overrides, f"output={tmp_path / str(number)}"]))
        made = read_rows(folder / "instructions.round-1.jsonl", VerifiedPromptRow)
        kinds = {name: set() for name in {row.id.partition("#")[0] for row in made}}  # type: dict[str, set[str]]
        for row in made:
            kinds[row.id.partition("#")[0]].add(row.id.rpartition(".")[2])
        assert len(made) == 3 * len(kinds)
        assert {len(own) for own in kinds.values()} == {3}
        if len(kinds) % 3 == 0:
            break
    else:
        pytest.fail("no split has a number of prompts that the number of kinds divides")


@pytest.mark.parametrize(
    "setting, message",
    [
        ("heldout_kinds=[upper_case]", "lower_case is in kinds and has the same check (case) as upper_case"),
        ("heldout_kinds=[lower_case]", "lower_case is in kinds and is in heldout_kinds"),
        ("heldout_kinds=[]", "heldout_kinds is empty"),
        ("placements={system: 0}", "expected ratios of at least 0, with one above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(BuildDataRecipe, CONFIG, ["instructions.kinds=[lower_case]", f"instructions.{setting}"])
    assert message in str(caught.value)


def test_a_check_takes_its_trained_namesakes_along() -> None:
    config = load_config(
        BuildDataRecipe, CONFIG, ["instructions.kinds=[]", "instructions.heldout_kinds=[upper_case]"]
    ).instructions
    assert {"upper_case", "lower_case"}.isdisjoint(config.trained_kinds)
    assert len(config.trained_kinds) == len(KINDS) - 3, "language has to be named"


def test_the_config_for_a_small_model_holds_out_kinds_with_other_checks() -> None:
    config = load_config(BuildDataRecipe, CONFIG).instructions
    assert len(config.trained_kinds) == len(config.heldout_kinds) == 5
