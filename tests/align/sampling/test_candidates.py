"""Candidates in units: killed and resumed equals not killed, nothing sampled twice, no folder mixes two runs."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align.config import load_config
from align.errors import RowError, StageError
from align.generation.backend import Completion
from align.generation.engine import GenerationEngine
from align.jsonl import read_rows, write_rows
from align.judges.judge import ScoreRequest
from align.manifest import read_data_manifest
from align.rows import Candidate, Message, Messages, PreferenceRow, PromptRow, SFTRow, row_id
from align.sampling import work_units
from align.sampling.candidates import candidate_seed, fitting_prompts, sample_candidates
from align.sampling.scoring import score_candidates, units_by_prompt
from align.sampling.selection import best_of
from align.sampling.steering import steered
from align.settings import BACKENDS
from align.text import words_of
from tests.fakes import FakeBackend
from tests.processes import TORCHRUN, Started, run

ROOT = Path(__file__).parents[3]


class Letters:
    """A protocol whose tokens are letters."""

    def encode(self, messages: Sequence[Message], tools: str = "", *, open_assistant: bool = False) -> SimpleNamespace:
        return SimpleNamespace(ids=[ord(letter) for message in messages for letter in message.content])

    def parse(self, ids: Sequence[int]) -> Message:
        return Message(role="assistant", content=" ".join(map(str, ids)))


class Counting(FakeBackend):
    """A backend that answers with its prompt's length and the seed."""

    def __init__(self, weights: str = "one", stop_after: int | None = None) -> None:
        super().__init__(Letters(), name=weights, max_prompt_tokens=30, stop_after=stop_after)  # type: ignore[arg-type]

    @property
    def asked_seeds(self) -> list[int]:
        return [seed for own in self.seeds for seed in own]

    def completion(self, prompt: Sequence[int], seed: int, place: int) -> Completion:
        return Completion((len(prompt), seed), seed % 3 > 0)


class Lengths:
    """A judge that likes long completions."""

    identity = {"judge": "lengths"}  # noqa: RUF012

    def __init__(self) -> None:
        self.requests = 0

    def score(self, prompt: Messages, completions: Sequence[Messages], tools: str = "") -> list[float]:
        return self.score_many([ScoreRequest(prompt, completions, tools)])[0]

    def score_many(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        self.requests += len(requests)
        return [[float(len(done[0].content)) for done in request.completions] for request in requests]


def prompt_rows(count: int) -> list[PromptRow]:
    said = [Message(role="user", content=f"Say {'x' * n}") for n in range(count)]
    return [PromptRow(id=f"p{n}", source="test", prompt=(message,)) for n, message in enumerate(said)]


def sample(folder: Path, backend: Counting, rows: list[PromptRow] | None = None, **changed: Any) -> list[Candidate]:
    settings = {"k": 3, "seed": 5, "unit_size": 2, **changed}
    return list(sample_candidates(rows or prompt_rows(7), backend.engine, folder=folder, **settings).rows())


def score(candidates: Sequence[Candidate], judge: Lengths, folder: Path) -> list[Candidate]:
    units = units_by_prompt(lambda: candidates, 3)
    return list(score_candidates(units, judge, folder=folder, unit_size=3).rows())


@pytest.mark.slow
def test_each_candidate_has_its_own_seed_and_an_id_from_it(tmp_path: Path) -> None:
    found = sample(tmp_path, Counting())
    assert [(candidate.prompt_id, candidate.index) for candidate in found] == [
        (f"p{n}", index) for n in range(7) for index in range(3)
    ]
    assert len({candidate.seed for candidate in found}) == 21
    for candidate in found:
        assert candidate.seed == candidate_seed(5, candidate.prompt_id, candidate.index) < 2**53
        assert candidate.id == row_id(candidate.prompt_id, candidate.index, candidate.seed)
        assert candidate.finished == (candidate.seed % 3 > 0)
        assert candidate.score is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"unit-{n:05}.jsonl" for n in range(4)] + ["units.json"]
    code = json.loads((tmp_path / "units.json").read_text())["code"]
    assert "align/generation/engine.py" in code
    assert not {f"align/generation/{name}.py" for name in BACKENDS} & code.keys(), (
        "this engine has a backend of its own"
    )


def test_a_sampled_nul_becomes_a_character_that_rows_may_hold(tmp_path: Path) -> None:
    class Broken(Letters):
        def parse(self, ids: Sequence[int]) -> Message:
            return Message(role="assistant", content="a\0b")

    engine = GenerationEngine(Counting(), Broken())  # type: ignore[arg-type]
    [[made]] = sample_candidates(prompt_rows(1), engine, k=1, seed=0, folder=tmp_path / "units", unit_size=1)
    assert made.completion[0].content == "a\ufffdb"
    write_rows(tmp_path / "candidates.jsonl", [made])
    assert read_rows(tmp_path / "candidates.jsonl", Candidate) == [made]


def test_a_candidate_is_the_same_whichever_other_prompts_are_sampled(tmp_path: Path) -> None:
    all_of_them = {candidate.id: candidate for candidate in sample(tmp_path / "all", Counting())}
    few = sample(tmp_path / "few", Counting(), rows=prompt_rows(7)[3:5], unit_size=5)
    assert all(all_of_them[candidate.id] == candidate for candidate in few)


def test_candidates_record_the_temperature_that_they_were_sampled_at(tmp_path: Path) -> None:
    backend = Counting()
    found = sample(tmp_path / "ranged", backend, temperatures=(0.5, 0.75, 1.0))
    assert backend.temperatures == [[0.5, 0.75, 1.0]] * 7
    assert [candidate.temperature for candidate in found] == [0.5, 0.75, 1.0] * 7
    plain = sample(tmp_path / "plain", Counting())
    assert [candidate.seed for candidate in found] == [candidate.seed for candidate in plain]
    assert "temperatures" not in json.loads((tmp_path / "plain" / "units.json").read_text())
    with pytest.raises(StageError, match="temperatures was "):
        sample(tmp_path / "ranged", Counting(), temperatures=(0.5, 0.75, 1.1))


@pytest.mark.parametrize("keep", [False, True])
def test_steered_candidates_record_their_system_prompt_and_may_be_without_it(tmp_path: Path, keep: bool) -> None:
    prompts = [row.model_copy(update={"source": f"set/{row.id}"}) for row in prompt_rows(2)]
    asked = steered(prompts, {"set/p1": "Be brief."})
    backend = Counting()
    found = sample(tmp_path, backend, asked.rows, steering=asked.system_prompts, keep_steering=keep)
    assert [chr(prompt[0]) for prompt in backend.prompts] == ["S", "B"], "the model sees the system prompt"
    assert [candidate.steering for candidate in found] == [""] * 3 + ["Be brief."] * 3
    assert [candidate.prompt for candidate in found[2:4]] == [
        prompts[0].prompt,
        (asked.rows if keep else prompts)[1].prompt,
    ]
    [first, second] = best_of([one.model_copy(update={"score": 1.0, "finished": True}) for one in found]).rows
    assert (first.messages[0].role, second.messages[0].role) == ("user", "system" if keep else "user")
    with pytest.raises(StageError, match="steering was"):
        sample(tmp_path, Counting(), asked.rows, steering=asked.system_prompts, keep_steering=not keep)


def test_candidates_are_without_the_examples_that_steered_them(tmp_path: Path) -> None:
    examples = (Message(role="user", content="1 + 1?"), Message(role="assistant", content="Answer: 2"))
    prompts = prompt_rows(1)
    asked = steered(prompts, {}, examples)
    backend = Counting()
    found = sample(tmp_path, backend, asked.rows, steering=asked.system_prompts)
    assert "".join(map(chr, backend.prompts[0])) == f"1 + 1?Answer: 2{prompts[0].prompt[0].content}"
    assert {candidate.prompt for candidate in found} == {prompts[0].prompt}
    assert {candidate.steering for candidate in found} == {"user: 1 + 1?\n\nassistant: Answer: 2"}


def test_finished_units_are_read_and_not_sampled_again(tmp_path: Path) -> None:
    expected = sample(tmp_path / "whole", Counting())
    interrupted = Counting(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        sample(tmp_path / "parts", interrupted)
    (tmp_path / "parts" / ".unit-00002.jsonl.x.part").write_text('{"half')
    resumed = Counting()
    assert sample(tmp_path / "parts", resumed) == expected
    assert sorted(interrupted.asked_seeds + resumed.asked_seeds) == sorted(candidate.seed for candidate in expected)
    assert not list((tmp_path / "parts").glob(".*"))
    again = Counting()
    assert sample(tmp_path / "parts", again) == expected
    assert again.asked_seeds == []


@pytest.mark.parametrize(
    "changed, named",
    [
        ({"k": 4}, "k was 3 there, is 4 now"),
        ({"seed": 6}, "seed was 5 there, is 6 now"),
        ({"unit_size": 3}, "unit_s"),
    ],
)
def test_a_folder_of_another_run_is_refused_with_what_differs(
    tmp_path: Path, changed: dict[str, int], named: str
) -> None:
    sample(tmp_path, Counting())
    with pytest.raises(StageError, match=rf"units\.json: {named}.*Name another folder, or delete this one"):
        sample(tmp_path, Counting(), **changed)


def test_other_rows_or_weights_are_refused_too(tmp_path: Path) -> None:
    sample(tmp_path, Counting())
    with pytest.raises(StageError, match="rows was"):
        sample(tmp_path, Counting(), rows=prompt_rows(6))
    with pytest.raises(StageError, match="model was one there, is two now"):
        sample(tmp_path, Counting(weights="two"))
    (tmp_path / "units.json").unlink()
    with pytest.raises(StageError, match=r"has units of another job \(unit-00000.jsonl\), and no units\.json"):
        sample(tmp_path, Counting(weights="two"))


@pytest.mark.parametrize("text", [None, b'{"k": 3, "se', b"\xff\xfe{}", b"[]", b"", b"[" * 100_000])
def test_a_lost_or_damaged_claim_is_written_again_from_what_the_units_say(tmp_path: Path, text: bytes | None) -> None:
    expected = sample(tmp_path, Counting())
    claim = tmp_path / "units.json"
    before = claim.read_bytes()
    claim.unlink() if text is None else claim.write_bytes(text)
    again = Counting()
    assert sample(tmp_path, again) == expected
    assert again.asked_seeds == []
    assert claim.read_bytes() == before


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def damage(kind: str, unit: Path, other: Path) -> None:
    """Changes `unit` as a disk, a person or a wrong copy may."""
    lines = lines_of(unit)
    if kind == "cut off":
        unit.write_bytes(unit.read_bytes()[:-20])
    elif kind == "a bit flipped":
        content = bytearray(unit.read_bytes())
        content[-30] ^= 4
        unit.write_bytes(content)
    elif kind == "a candidate missing":
        unit.write_text("".join(lines[:-1]), encoding="utf-8")
    elif kind == "a candidate more":
        unit.write_text("".join([*lines, lines[-1]]), encoding="utf-8")
    elif kind == "an edited text":
        unit.write_text("".join(lines).replace("Say", "Sing", 1), encoding="utf-8")
    elif kind == "another unit's content":
        unit.write_bytes(other.read_bytes())
    elif kind == "two swapped":
        unit.write_bytes(other.read_bytes()), other.write_text("".join(lines), encoding="utf-8")
    elif kind == "no header":
        unit.write_text("".join(lines[1:]), encoding="utf-8")
    elif kind == "another count":
        unit.write_text("".join([lines[0].replace('"rows": 6', '"rows": 5'), *lines[1:]]), encoding="utf-8")
    else:
        unit.write_bytes(b"" if kind == "empty" else b"\xff\xfe\x00not text")


@pytest.mark.parametrize(
    "kind",
    [
        "cut off",
        "a bit flipped",
        "a candidate missing",
        "a candidate more",
        "an edited text",
        "another unit's content",
        "two swapped",
        "no header",
        "another count",
        "empty",
        "no text",
    ],
)
def test_a_damaged_unit_is_made_again_and_no_other(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("align"), "propagate", True)
    expected = sample(tmp_path, Counting())
    damage(kind, tmp_path / "unit-00001.jsonl", tmp_path / "unit-00002.jsonl")
    again = Counting()
    assert sample(tmp_path, again) == expected
    remade = {"p2", "p3", "p4", "p5"} if kind == "two swapped" else {"p2", "p3"}
    assert again.asked_seeds == [candidate.seed for candidate in expected if candidate.prompt_id in remade]
    assert "unit-00001.jsonl" in caplog.text
    assert "the unit is made again" in caplog.text
    third = Counting()
    assert sample(tmp_path, third) == expected
    assert third.asked_seeds == []


def test_an_edited_score_is_scored_again(tmp_path: Path) -> None:
    candidates = sample(tmp_path / "units", Counting())
    expected = score(candidates, Lengths(), tmp_path / "scores")
    unit = tmp_path / "scores" / "unit-00000.jsonl"
    unit.write_text(re.sub(r'"score":[\d.]+', '"score":99.0', unit.read_text(encoding="utf-8")), encoding="utf-8")
    judge = Lengths()
    assert score(candidates, judge, tmp_path / "scores") == expected
    assert judge.requests == 3


def test_units_that_other_code_made_are_refused_with_the_files_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(tmp_path, Counting())
    code_of = work_units.code_of
    monkeypatch.setattr(
        work_units, "code_of", lambda *names, **how: {**code_of(*names, **how), "align/chat/protocol.py": "other"}
    )
    with pytest.raises(StageError, match=r"were made by other code \(changed: align/chat/protocol.py\)"):
        sample(tmp_path, Counting())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_ends_the_run_with_the_candidates_name(tmp_path: Path, value: float) -> None:
    class Broken(Lengths):
        def score_many(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
            return [[value] * len(request.completions) for request in requests]

    candidates = sample(tmp_path / "units", Counting())
    with pytest.raises(RowError, match=rf"candidate \w+ of prompt p0: the judge gave it the score {value}, exp"):
        score(candidates, Broken(), tmp_path / "scores")
    assert not list((tmp_path / "scores").glob("unit-*"))


def test_a_prompt_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RowError, match="prompt p0: occurs 2 times"):
        sample(tmp_path, Counting(), rows=[*prompt_rows(2), prompt_rows(1)[0]])


def test_prompts_without_room_are_dropped_and_counted() -> None:
    rows = prompt_rows(40)
    kept, dropped = fitting_prompts(rows, Counting().engine)
    assert kept == rows[:27]
    assert dropped == {"prompt too long": 13}
    with pytest.raises(RowError, match="prompts: none of 13 leaves space for a completion"):
        fitting_prompts(rows[27:], Counting().engine)


def test_scores_come_in_order_and_are_not_asked_for_twice(tmp_path: Path) -> None:
    candidates = sample(tmp_path / "units", Counting())
    plain = [one.model_copy(update={"score": float(len(one.completion[0].content))}) for one in candidates]
    judge = Lengths()
    assert score(candidates, judge, tmp_path / "scores") == plain
    assert score(candidates, judge, tmp_path / "scores") == plain
    assert judge.requests == 7
    passed = [candidate.model_copy(update={"passed": ("language",)}) for candidate in candidates]
    again = score(passed, judge, tmp_path / "scores")
    assert {candidate.passed for candidate in again} == {("language",)}, "a verifier was switched on since"
    assert [candidate.score for candidate in again] == [candidate.score for candidate in plain]
    assert judge.requests == 7
    with pytest.raises(StageError, match="candidates was"):
        score(candidates[3:], judge, tmp_path / "scores")


def test_candidates_that_failed_are_not_scored_and_keep_their_units(tmp_path: Path) -> None:
    candidates = sample(tmp_path / "units", Counting())
    bad = {"p0", "p1", "p2", "p4"}  # all three prompts of the first unit, and one of the second
    made = [
        one.model_copy(update={"failed": ("x",), "score": 9.0} if one.prompt_id in bad else {}) for one in candidates
    ]
    judge = Lengths()
    found = score(made, judge, tmp_path / "scores")
    assert [one.id for one in found] == [one.id for one in candidates]
    assert [one.id for one in found if one.score is None] == [one.id for one in candidates if one.prompt_id in bad]
    assert judge.requests == 3
    rows = [len(lines_of(tmp_path / "scores" / f"unit-{number:05}.jsonl")) - 1 for number in range(3)]
    assert rows == [0, 6, 3]


def test_candidates_of_a_file_are_read_once_in_ascending_order(tmp_path: Path) -> None:
    candidates, reads = sample(tmp_path, Counting()), 0

    def read() -> list[Candidate]:
        nonlocal reads
        reads += 1
        return candidates

    units = units_by_prompt(read, 3)
    assert [len(unit) for unit in units] == [9, 9, 3]
    assert reads == 2, "once to count the units"
    assert [one.prompt_id for one in units[1][::3]] == ["p3", "p4", "p5"]
    assert units[2] == candidates[18:]
    assert reads == 3


@pytest.fixture(scope="module")
def rejection_config(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of the recipe over a tiny generator and reward model, and its prompts."""
    from align.models.loading import load_reward_model
    from align.settings import ModelConfig

    folder = tmp_path_factory.mktemp("rejection")
    reward = load_reward_model(ModelConfig(path=tiny_checkpoint), fresh_head=True)
    reward.model.save_pretrained(folder / "reward")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "reward" / name).write_bytes((tiny_checkpoint / name).read_bytes())
    long = PromptRow(id="long", source="test", prompt=(Message(role="user", content="0 " * 3000),))
    write_rows(folder / "prompts.jsonl", [*prompt_rows(14), long])
    config = folder / "config.yaml"
    config.write_text(
        f"""
model: {{path: {tiny_checkpoint}}}
reward_model: {{path: {folder / "reward"}}}
prompts: {folder / "prompts.jsonl"}
k: 4
seed: 3
sampling: {{max_completion_tokens: 150, batch_size: 8, dtype: float32, threads: 1}}
unit_size: 2
pairs: {{min_gap: 0.0}}
output_dir: overridden
""",
        encoding="utf-8",
    )
    return config


def command(config: Path, output: Path) -> list[str]:
    return [sys.executable, str(ROOT / "recipes" / "rejection_sample.py"), str(config), f"output_dir={output}"]


def run_here(config: Path, output: Path, *overrides: str) -> None:
    """The recipe in this process."""
    name = "rejection_sample"
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    recipe = sys.modules[name] = importlib.util.module_from_spec(spec)  # pydantic looks annotations up there
    spec.loader.exec_module(recipe)
    recipe.run(load_config(recipe.RejectionSampleRecipe, config, [f"output_dir={output}", *overrides]))
    del sys.modules[name]


def files_of(folder: Path) -> dict[str, bytes]:
    """Rows as they are on disk; manifests without their config, which names the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name.endswith(".manifest.json"):
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found[path.name] = json.dumps([manifest["blake3"], manifest["counts"], manifest["inputs"]]).encode()
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def whole(rejection_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process leaves that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    run_here(rejection_config, folder)
    return folder


@pytest.mark.slow
def test_two_processes_of_a_launcher_leave_the_files_of_one(
    rejection_config: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    run([*TORCHRUN, *command(rejection_config, folder)[1:]])
    assert files_of(folder) == files_of(whole)


@pytest.mark.slow
def test_killed_again_and_again_and_resumed_equals_one_run(rejection_config: Path, whole: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"

    kept: dict[Path, int] = {}
    kills = 0
    for least in (2, 9):  # units on disk, of 7 sampled and 7 scored
        process = Started(command(rejection_config, parts))
        process.wait_for(lambda least=least: len(list(parts.rglob("unit-*.jsonl"))) >= least)
        process.kill()
        kills += process.poll() == -signal.SIGKILL
        assert all(path.stat().st_mtime_ns == made for path, made in kept.items()), "a finished unit was made again"
        kept = {path: path.stat().st_mtime_ns for path in parts.rglob("unit-*.jsonl")}
    assert kills == 2
    run(command(rejection_config, parts))
    assert all(path.stat().st_mtime_ns == made for path, made in kept.items())

    expected, got = files_of(whole), files_of(parts)
    assert got.keys() == expected.keys()
    assert got == expected
    candidates = read_rows(parts / "candidates.jsonl", Candidate)
    assert len(candidates) == 14 * 4
    assert all(candidate.score is not None for candidate in candidates)
    counts = json.loads((parts / "candidates.jsonl.manifest.json").read_text(encoding="utf-8"))["counts"]
    assert counts.pop("samples")["repeated"] <= 1
    assert counts == {"rows": 56, "dropped": {"prompt too long": 1}, "sources": {"test": 56}}

    best = {candidate.id: candidate for candidate in candidates}
    sft = read_rows(parts / "sft.jsonl", SFTRow)
    assert sft
    for row in sft:
        group = [candidate for candidate in candidates if candidate.prompt_id == best[row.id].prompt_id]
        assert best[row.id].score == max(candidate.score for candidate in group if candidate.finished)
    assert read_rows(parts / "preferences.jsonl", PreferenceRow)


@pytest.mark.slow
def test_answers_that_repeat_an_evaluation_prompt_are_not_written(
    rejection_config: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "out")  # its units are read, so that nothing is sampled again
    row = max(read_rows(whole / "sft.jsonl", SFTRow), key=lambda row: len(words_of(row.messages[-1].content)))
    (tmp_path / "held.jsonl").write_text(json.dumps({"prompt": row.messages[-1].content}) + "\n")
    run_here(rejection_config, tmp_path / "out", f"evaluation=[{tmp_path / 'held.jsonl'}]")
    ids = [row.id for row in read_rows(whole / "sft.jsonl", SFTRow)]
    assert [row.id for row in read_rows(tmp_path / "out/sft.jsonl", SFTRow)] == [one for one in ids if one != row.id]
    counts = read_data_manifest(tmp_path / "out/sft.jsonl")["counts"]
    before = read_data_manifest(whole / "sft.jsonl")["counts"]
    assert sum(counts["dropped"].values()) == sum(before["dropped"].values()) + 1
    assert (tmp_path / "out/candidates.jsonl").read_bytes() == (whole / "candidates.jsonl").read_bytes()


@pytest.mark.slow
def test_prompts_of_an_evaluation_are_not_sampled(rejection_config: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "prompts.jsonl", prompt_rows(3))
    write_rows(tmp_path / "held.jsonl", prompt_rows(2)[1:])
    run_here(
        rejection_config,
        tmp_path / "out",
        f"prompts={tmp_path / 'prompts.jsonl'}",
        f"evaluation=[{tmp_path / 'held.jsonl'}]",
        "k=1",
        "pairs.enabled=false",
    )
    assert {row.prompt_id for row in read_rows(tmp_path / "out/candidates.jsonl", Candidate)} == {"p0", "p2"}
    counts = read_data_manifest(tmp_path / "out/candidates.jsonl")["counts"]
    assert counts["dropped"] == {"matches an evaluation prompt": 1}


@pytest.mark.slow
def test_the_generator_is_gone_before_the_reward_model_loads(
    rejection_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    from align.models import loading

    generators = []
    load_generator, load_reward_model = loading.load_generator, loading.load_reward_model

    def remembered(*args: object) -> object:
        model = load_generator(*args)  # type: ignore[arg-type]
        generators.append(weakref.ref(model))
        return model

    def checked(*args: object) -> object:
        assert [generator() for generator in generators] == [None]
        return load_reward_model(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "load_generator", remembered)
    monkeypatch.setattr(loading, "load_reward_model", checked)
    run_here(rejection_config, tmp_path, "k=1")
    assert len(generators) == 1
