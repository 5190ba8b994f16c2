"""Which prompts are steered by which system prompt, and which temperature each candidate has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from align.errors import RowError
from align.jsonl import read_rows, write_rows
from align.rows import Candidate, Message, PromptRow, SFTRow
from align.sampling.steering import SteeringExamplesConfig, messages_of, steered
from align.sampling.temperatures import TemperatureRange, candidate_temperatures
from align.settings import ModelConfig, SamplingConfig

BRIEF, STEPS, RIGOROUS = "Be brief.", "Reason in steps.", "Be rigorous."


def prompt(name: str, source: str, *messages: Message) -> PromptRow:
    return PromptRow(id=name, source=source, prompt=messages or (Message(role="user", content="Hello"),))


def test_the_longest_matching_source_steers() -> None:
    sources = ["maths", "maths/word-problems", "maths/proofs", "maths/proofs/algebra", "mathsets", "chat"]
    rows = [prompt(source, source) for source in sources]
    found = steered(rows, {"maths": STEPS, "maths/proofs": RIGOROUS})
    assert found.system_prompts == {
        "maths": (STEPS, 1),
        "maths/word-problems": (STEPS, 1),
        "maths/proofs": (RIGOROUS, 1),
        "maths/proofs/algebra": (RIGOROUS, 1),
    }
    assert found.counts == {"maths": 2, "maths/proofs": 2}
    assert [row.id for row in found.rows] == sources
    assert found.rows[0].prompt == (Message(role="system", content=STEPS), *rows[0].prompt)
    assert found.rows[4:] == rows[4:]
    assert steered(rows, {"chat": BRIEF, "*": STEPS}).system_prompts["mathsets"].text == STEPS
    assert steered(rows, {"chat": BRIEF, "*": STEPS}).system_prompts["chat"].text == BRIEF
    assert steered(rows, {}).rows == rows


def test_a_prompt_keeps_its_own_system_message() -> None:
    own = prompt("a", "chat", Message(role="system", content="Pirate."), Message(role="user", content="Hello"))
    found = steered([own, prompt("b", "chat")], {"chat": BRIEF})
    assert found.rows[0] == own
    assert found.system_prompts == {"b": (BRIEF, 1)}
    assert found.counts == {"chat": 1, "own system prompt": 1}


def test_examples_come_between_the_system_prompt_and_the_prompt() -> None:
    examples = (Message(role="user", content="1 + 1?"), Message(role="assistant", content="Answer: 2"))
    rows = [prompt("a", "maths/sums"), prompt("b", "chat")]
    both = steered(rows, {"maths": STEPS}, examples, ("maths",))
    examples = (examples[0], Message(role="assistant", content="Answer: 2", trained=False))  # never a target
    assert both.rows[0].prompt == (Message(role="system", content=STEPS), *examples, *rows[0].prompt)
    assert both.system_prompts == {"a": ("system: Reason in steps.\n\nuser: 1 + 1?\n\nassistant: Answer: 2", 3)}
    assert both.rows[1] == rows[1]
    alone = steered(rows, {}, examples)
    assert [row.prompt for row in alone.rows] == [(*examples, *row.prompt) for row in rows]
    assert alone.counts == {"examples": 2}
    with pytest.raises(RowError, match="steering: no prompt has the source code"):
        steered(rows, {}, examples, ("maths", "code"))
    with pytest.raises(RowError, match="steering_examples: an example has a system message"):
        steered(rows, {}, [Message(role="system", content="Pirate."), *examples])


def test_a_prompt_that_an_example_answers_is_left_out() -> None:
    examples = (Message(role="user", content="1 + 1?"), Message(role="assistant", content="Answer: 2"))
    rows = [prompt("a", "maths", Message(role="user", content=" 1 + 1? ")), prompt("b", "maths"), prompt("c", "chat")]
    found = steered(rows, {}, examples, ("maths",))
    assert [row.id for row in found.rows] == ["b", "c"]
    assert found.dropped == {"is a worked example": 1}
    assert found.counts == {"examples": 1}
    other = [row.model_copy(update={"source": "chat"}) for row in rows]
    assert len(steered(other, {"chat": BRIEF}, examples, ("*",)).rows) == 2
    offering = SFTRow(id="e", source="made", messages=examples, tools='[{"name": "f", "description": "F."}]')
    with pytest.raises(RowError, match="steering_examples: example e: offers functions"):
        messages_of([offering])


@pytest.mark.slow
def test_the_recipe_samples_after_the_examples_and_its_rows_are_without_them(
    tiny_checkpoint: Path, tiny_reward_checkpoint: Path, tmp_path: Path
) -> None:
    from recipes.rejection_sample import RejectionSampleRecipe, run

    dialog = (Message(role="user", content="1 + 1?"), Message(role="assistant", content="Answer: 2"))
    write_rows(tmp_path / "examples.jsonl", [SFTRow(id="e", source="made", messages=dialog)])
    write_rows(tmp_path / "prompts.jsonl", [prompt("a", "maths/sums"), prompt("b", "chat")])

    def candidates(name: str, **settings: Any) -> list[Candidate]:
        recipe = RejectionSampleRecipe(
            model=ModelConfig(path=tiny_checkpoint),
            reward_model=ModelConfig(path=tiny_reward_checkpoint),
            prompts=tmp_path / "prompts.jsonl",
            k=2,
            sampling=SamplingConfig(max_completion_tokens=6, dtype="float32", threads=1),
            output_dir=tmp_path / name,
            **settings,
        )
        return read_rows(run(recipe) / "candidates.jsonl", Candidate)

    plain = candidates("plain")
    examples = SteeringExamplesConfig(path=tmp_path / "examples.jsonl", sources=("maths",))
    shown = candidates("shown", steering_examples=examples)
    assert [one.prompt for one in shown] == [one.prompt for one in plain]
    assert [one.steering for one in shown] == ["user: 1 + 1?\n\nassistant: Answer: 2"] * 2 + [""] * 2
    assert [one.completion for one in shown[:2]] != [one.completion for one in plain[:2]]
    assert [one.completion for one in shown[2:]] == [one.completion for one in plain[2:]]


def test_an_entry_without_prompts_is_an_error() -> None:
    with pytest.raises(RowError, match="steering: no prompt has the source code; sources of the prompts: chat, maths"):
        steered([prompt("a", "maths"), prompt("b", "chat")], {"chat": BRIEF, "code": STEPS})


def test_temperatures_are_spread_over_the_candidates_and_change_with_the_round() -> None:
    from recipes.rejection_sample import RejectionSampleRecipe

    ranges = [TemperatureRange(lowest=0.4, highest=0.4, from_round=3), TemperatureRange(lowest=0.6, highest=1.0)]
    assert candidate_temperatures(ranges, 5, None) == (0.6, 0.7, 0.8, 0.9, 1.0)
    assert candidate_temperatures(ranges, 1, 2) == (0.6,)
    assert candidate_temperatures(ranges, 2, 3) == candidate_temperatures(ranges, 2, 7) == (0.4, 0.4)
    assert candidate_temperatures(ranges[:1], 2, 2) is None
    with pytest.raises(ValidationError, match="two temperatures begin with round 0"):
        RejectionSampleRecipe(
            model=ModelConfig(path=Path("m")),
            reward_model=ModelConfig(path=Path("r")),
            prompts=Path("p.jsonl"),
            output_dir=Path("o"),
            temperatures=(ranges[1], TemperatureRange(lowest=0.1, highest=0.2)),
        )
    with pytest.raises(ValidationError, match=r"lowest is 1, above highest, which is 0\.5"):
        TemperatureRange(lowest=1.0, highest=0.5)
