"""Results on disk: made once for the same inputs, and again for others; the whole recipe on a tiny checkpoint."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from align.config import Section, load_config
from align.errors import CheckError
from align.generation.tool_loop import Trajectory
from align.jsonl import write_rows
from align.rows import Message, PreferenceRow, PromptRow, QuestionRow, SFTRow
from align.sampling.collapse import sample_figures
from align.settings import ModelConfig, SamplingConfig
from align.tree.encode import PromptTree
from eval import catalog, runner
from eval.catalog import EvalAlarmsConfig, run_evaluations
from eval.confidence import ConfidenceConfig
from eval.factuality import FactualityConfig
from eval.intervals import share
from eval.reward_accuracy import RewardAccuracyConfig
from eval.runner import Generator, Result, evaluated, limited, read_result, table
from eval.tool_use import ToolUseEvalConfig

ROOT = Path(__file__).parents[2]


def asked(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three files of rows."""
    said = [(Message(role="assistant", content=text),) for text in ("Paris", "Rome")]
    questions = [
        QuestionRow(id=f"q{n}", source="t", prompt=asked(f"Capital {n}?"), entity="e", relation="r", answers=("x",))
        for n in range(5)
    ]
    write_rows(tmp_path / "questions.jsonl", questions)
    write_rows(tmp_path / "tools.jsonl", [SFTRow(id="t", source="t", messages=(*asked("Hi"), *said[0]))])
    pairs = [PreferenceRow(id="p", source="t", prompt=asked("Hi"), completions=tuple(said))]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    return tmp_path


class Making:
    """An evaluation that counts how often it is made."""

    times = 0

    def __call__(self, units: Path) -> Result:
        self.times += 1
        units.mkdir(parents=True)
        (units / "unit-00000.jsonl").touch()
        row = {"id": "q", "prompt": "?", "answer": "!", "verdict": "right"}
        return Result({"right": share(1, 1), "of nothing": None}, {"rows": 1}, [row])


@pytest.mark.slow
def test_a_result_from_the_same_inputs_is_not_made_again(data: Path) -> None:
    make, out = Making(), data / "out"
    config = FactualityConfig(questions=data / "questions.jsonl")

    def result(**changed: object) -> dict:
        settings = {"factuality": config, "limit": None, "sampling": SamplingConfig(), **changed}
        return evaluated("factuality", out, Path("some/model"), settings, make)  # type: ignore[arg-type]

    first = result()
    assert result() == first == json.loads((out / "factuality.json").read_text(encoding="utf-8"))
    assert make.times == 1
    assert [path.name for path in out.iterdir()] == ["factuality.json"], "units are deleted when the result is written"
    assert first["scores"] == {"right": share(1, 1)._asdict()}  # type: ignore[union-attr]
    assert {"name", "model", "scores", "counts", "seconds", "key", "hardware", "dtypes", "rows"} == first.keys()
    assert first["dtypes"] == {"sampling": "auto"}, "as the settings have it; a recipe resolves auto before"
    result(sampling=SamplingConfig(batch_size=3, threads=1))
    assert make.times == 1, "speed settings are no part of the key"
    result(sampling=SamplingConfig(max_completion_tokens=3))
    result(limit=3)
    assert make.times == 3
    result()
    with (data / "questions.jsonl").open("a") as handle:
        handle.write("\n")
    result()
    assert make.times == 5, "another content of an input is another evaluation"
    (out / "factuality.json").write_text("{half")
    result()
    assert make.times == 6


@pytest.mark.slow
def test_a_result_that_other_code_made_is_made_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Making()
    config = FactualityConfig(questions=data / "questions.jsonl")

    def result() -> None:
        evaluated("factuality", data / "out", Path("some/model"), {"factuality": config}, make)

    result()
    result()
    assert make.times == 1
    code_of = runner.code_of
    assert {"eval/factuality.py", "align/generation/local.py"} <= code_of("eval.runner", "eval.factuality").keys()
    edited = {"align/generation/local.py": "other"}
    monkeypatch.setattr(runner, "code_of", lambda *names, **how: {**code_of(*names, **how), **edited})
    result()
    assert make.times == 2


def test_a_limit_keeps_order_and_depends_on_ids_only() -> None:
    shared = {"source": "t", "prompt": asked("?"), "entity": "", "relation": "", "answers": ("x",)}
    rows = [QuestionRow(id=str(n), **shared) for n in range(50)]  # type: ignore[arg-type]
    kept = limited(rows, 10)
    assert [row for row in rows if row in kept] == kept
    assert {row.id for row in limited(rows[::-1], 10)} == {row.id for row in kept}
    assert limited(rows, None) == limited(rows, 90) == rows


def test_the_table_shows_each_share_with_its_interval() -> None:
    assert table([{"name": "tool_use", "scores": {"parses": share(19, 100)._asdict()}}]).split() == (  # type: ignore[union-attr]
        ["tool", "use:", "parses", "19%", "(13-28,", "n", "100)"]
    )


@pytest.mark.slow
def test_all_evaluations_run_on_a_tiny_checkpoint_and_stand_afterwards(
    data: Path, tiny_checkpoint: Path, tiny_reward_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.models import loading

    model = ModelConfig(path=tiny_checkpoint)

    def run() -> list[dict]:
        return run_evaluations(
            {
                "factuality": FactualityConfig(questions=data / "questions.jsonl", confidence=ConfidenceConfig()),
                "tool_use": ToolUseEvalConfig(rows=data / "tools.jsonl"),
                "reward_accuracy": RewardAccuracyConfig(pairs=data / "pairs.jsonl"),
            },
            model=model,
            reward_model=ModelConfig(path=tiny_reward_checkpoint),
            sampling=SamplingConfig(temperature=0, max_completion_tokens=8, dtype="float32"),
            token_budget=512,
            limit=None,
            output_dir=data / "out",
        )

    results = run()
    assert [result["name"] for result in results] == ["factuality", "tool_use", "reward_accuracy"]
    assert [result["counts"]["rows"] for result in results] == [5, 1, 1]
    assert all(row["scores"]["propensity"] <= 0 for row in results[0]["rows"])
    monkeypatch.setattr(loading, "load_generator", None)
    monkeypatch.setattr(loading, "load_policy", None)
    monkeypatch.setattr(loading, "load_reward_model", None)
    assert run() == results, "results that stand are read without loading a model"
    assert [list(result.get("samples", {})) for result in results] == [["factuality"], ["tool use"], []]
    for result in results[:2]:
        figures = sample_figures([Answer(row) for row in result["rows"]], across_prompts=True)
        assert list(result["samples"].values()) == [figures | {"unfinished": 1.0}]


@pytest.mark.slow
def test_a_resumed_evaluation_computes_with_the_threads_of_one_that_was_left_alone(
    data: Path, tiny_checkpoint: Path, tiny_reward_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill only the reward model is left, and nothing has sampled in the process. Another number of threads
    rounds sums differently, which in bfloat16 changes which answer has the higher score."""
    import torch

    from align.judges.reward_model import RewardModelJudge

    used: list[int] = []
    score_trees = RewardModelJudge.score_trees

    def noting_threads(self: RewardModelJudge, wholes: Sequence[PromptTree]) -> list[list[float]]:
        used.append(torch.get_num_threads())
        return score_trees(self, wholes)

    def run() -> None:
        run_evaluations(
            {
                "factuality": FactualityConfig(questions=data / "questions.jsonl"),
                "reward_accuracy": RewardAccuracyConfig(pairs=data / "pairs.jsonl"),
            },
            model=ModelConfig(path=tiny_checkpoint),
            reward_model=ModelConfig(path=tiny_reward_checkpoint),
            sampling=SamplingConfig(temperature=0, max_completion_tokens=8, dtype="float32", threads=3),
            token_budget=512,
            limit=None,
            output_dir=data / "out",
        )

    monkeypatch.setattr(RewardModelJudge, "score_trees", noting_threads)
    before = torch.get_num_threads()
    run()
    (data / "out/reward_accuracy.json").unlink()
    run()
    assert len(used) >= 2
    assert set(used) == {3}
    assert torch.get_num_threads() == before


class Answer:
    """A row of a result, as a sample. Of 8 tokens, the answers of an untrained model are all unfinished."""

    finished = False

    def __init__(self, row: dict) -> None:
        self.prompt_id, self.completion = row["id"], (Message(role="assistant", content=row["answer"]),)


def test_alarms_are_judged_for_a_new_result_and_for_one_that_exists(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers that are all the same, with the length of a tenth of those of the model before."""
    monkeypatch.setattr(catalog, "evaluate_function", lambda name: answers_the_same)
    for name in ("before", "model"):
        (data / name).mkdir()
    (data / "before" / "tool_use.json").write_text(json.dumps({"samples": {"tool use": {"mean_characters": 30}}}))

    def run(**alarms: object) -> list[dict]:
        return run_evaluations(
            {"tool_use": ToolUseEvalConfig(rows=data / "tools.jsonl")},
            model=ModelConfig(path=data / "model"),
            reward_model=None,
            sampling=SamplingConfig(),
            token_budget=512,
            limit=None,
            output_dir=data / "out",
            alarms=EvalAlarmsConfig.model_validate(alarms),
        )

    with pytest.raises(CheckError, match=r"^tool_use: tool use: 95% of the answers repeat another one, and alarms"):
        run(action="stop")
    result = read_result(data / "out" / "tool_use.json")
    assert result["samples"]["tool use"] == {
        "repeated": 0.95,
        "nearly_empty": 0.0,
        "unfinished": 0.0,
        "mean_characters": 3.0,
    }
    with pytest.raises(CheckError, match="95% of the answers"):
        run(action="stop")  # of the result that exists
    with caplog.at_level(logging.WARNING):
        assert run(former=[str(data / "before")]) == [result]
    assert "95% of the answers repeat another one" in caplog.text
    assert "90% is what the answers have lost in length" in caplog.text
    caplog.clear()
    run(action="stop", repeated=None)
    assert not caplog.text


def answers_the_same(config: Section, generator: Generator, units: Path, limit: int | None) -> Result:
    said = (Message(role="assistant", content="Yes"),)
    row = PromptRow(id="p", source="t", prompt=asked("Is it?"))
    dialogs = [Trajectory(row, 0, (*asked("Is it?"), *said), "answered") for _ in range(20)]
    generator._samples["tool use"] = [runner._Dialog.of(dialog) for dialog in dialogs]
    return Result({"right": share(1, 1)}, {"rows": 1}, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected an evaluation .*found none"),
        ("factuality: {questions: q.jsonl}", "expected a model for factuality, found none"),
        ("reward_accuracy: {pairs: p.jsonl}", "expected a reward_model for reward_accuracy, found none"),
    ],
)
def test_a_config_without_what_it_needs_is_refused(data: Path, text: str, message: str) -> None:
    config = data / "config.yaml"
    config.write_text(f"output_dir: {data}\n{text}\n")
    ran = subprocess.run(
        [sys.executable, str(ROOT / "recipes" / "run_eval.py"), str(config)], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2
    assert re.search(message, ran.stderr), ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["run_eval", "rejection_sample"])
def test_help_and_a_bad_config_load_no_torch(recipe: str) -> None:
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path('recipes/{recipe}.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'tokenizers') if name in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stderr.strip() == "[]"


@pytest.mark.slow
def test_evaluation_is_greedy_unless_set_otherwise() -> None:
    spec = importlib.util.spec_from_file_location("run_eval", ROOT / "recipes" / "run_eval.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["run_eval"] = importlib.util.module_from_spec(spec)  # pydantic looks annotations up there
    spec.loader.exec_module(module)
    for name in ("rehearsal", "llama3.1-8b"):
        config = ROOT / "recipes" / "configs" / "run_eval" / f"{name}.yaml"
        assert load_config(module.RunEvalRecipe, config).sampling.temperature == 0
        assert load_config(module.RunEvalRecipe, config, ["sampling.temperature=0.5"]).sampling.temperature == 0.5
    del sys.modules["run_eval"]
