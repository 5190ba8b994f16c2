"""Models that score or sample are on the accelerator if there is one, with their inputs, and without cuDNN attention.

No GPU is needed: `tests/accelerator.py` computes on the CPU and refuses tensors that are on the wrong device.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from align import precision
from align.errors import CheckError, CheckpointError
from align.generation.engine import EngineCache, GenerationEngine
from align.jsonl import write_rows
from align.judges.judge import ScoreRequest
from align.judges.likelihood import LikelihoodJudge
from align.judges.reward_model import RewardModelJudge
from align.models.loading import load_generator, load_policy, load_reward_model, load_tokenizer
from align.rows import Message, PreferenceRow, PromptRow, QuestionRow
from align.settings import ModelConfig, SamplingConfig
from tests.accelerator import accelerator

ROOT = Path(__file__).parents[3]
PROMPT = (Message(role="user", content="What is the capital of France?"),)
SAID = tuple((Message(role="assistant", content=text),) for text in ("Paris.", "It is Rome."))
SAMPLING = SamplingConfig(temperature=0, max_completion_tokens=4, dtype="bfloat16", batch_size=4)

Ran = set[tuple[str, torch.dtype]]
"""The models that computed on the accelerator: class and dtype. A model that computes on the CPU is an error."""


@contextmanager
def watched() -> Iterator[Ran]:
    """A machine with a GPU, on which a model that computes on the CPU is an error."""
    ran: Ran = set()

    def check(module: torch.nn.Module, _: object) -> None:
        if isinstance(module, PreTrainedModel):
            assert module.device.type == "cuda", f"{type(module).__name__} runs on the CPU of a machine with a GPU"
            assert not torch.backends.cuda.cudnn_sdp_enabled(), "cuDNN would build a plan for each packed row"
            ran.add((type(module).__name__, module.dtype))

    precision.decide.cache_clear()  # what it says of this machine holds for the process
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(check)
    try:
        with accelerator():
            yield ran
    finally:
        hook.remove()
        torch.backends.cuda.enable_cudnn_sdp(before)
        precision.decide.cache_clear()


@pytest.fixture
def gpu() -> Iterator[Ran]:
    with watched() as ran:
        yield ran


# Where models are loaded

LOADERS = {"load_generator", "load_policy", "load_reward_model", "load_encoder", "quietly_loaded"}
LIBRARIES = {"AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification", "LlamaForCausalLM", "PeftModel"}
OTHER_LIBRARIES = {"pipeline", "SentenceTransformer", "CrossEncoder", "LLM", "AsyncLLM"}

SAMPLE_OR_SCORE = {
    "align/generation/engine.py": {"load_generator"},
    "align/generation/vllm.py": {"LLM"},  # vLLM chooses its devices itself; tests/align/generation/test_vllm.py
    "align/judges/reward_model.py": {"load_reward_model"},
    "align/judges/likelihood.py": {"load_policy"},
    "align/models/embeddings.py": {"load_encoder"},
}
"""Each has a test on the accelerator below, except vLLM."""

TRAIN_OR_CONVERT = {
    "recipes/sft.py": {"load_policy"},  # transformers' Trainer moves what it trains
    "recipes/dpo.py": {"load_policy"},
    "recipes/reward.py": {"load_reward_model"},
    "align/models/loading.py": {"quietly_loaded", *LIBRARIES - {"LlamaForCausalLM", "PeftModel"}},  # the loaders
    "align/models/adapters.py": {"PeftModel"},  # in the loaders
    "align/models/comparison.py": {"PeftModel"},  # compares weights
    "align/models/fitting.py": {"AutoModelForCausalLM", "AutoModelForSequenceClassification"},
    "align/models/merging.py": {  # merges and compares weights on the CPU
        *("load_policy", "load_reward_model", "quietly_loaded"),
        *("AutoModelForCausalLM", "AutoModelForSequenceClassification"),
    },
    "align/models/support.py": {"AutoModelForCausalLM"},  # builds it without weights
    "align/trainers/activations.py": {  # the same, to count memory
        *("AutoModelForCausalLM", "AutoModelForSequenceClassification"),
    },
    "align/assets.py": {"AutoModelForCausalLM", "LlamaForCausalLM"},  # converts a pinned file
}


@pytest.mark.slow
def test_models_are_loaded_in_known_places_only() -> None:
    """Builders, evaluations and recipes get a model that samples from `GenerationEngine`, and scores from a judge.

    So the tests below prove of all entries of their catalogs that no model is left on the CPU. A new place has to be
    listed here, and to get a test of its own if it samples or scores.
    """
    found: dict[str, set[str]] = {}
    files = [file for folder in ("align", "data_builders", "eval", "recipes") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 150, "the walk found too few files"
    loaders = LOADERS | LIBRARIES | OTHER_LIBRARIES
    for file in files:
        text = file.read_text(encoding="utf-8")
        if not any(name in text for name in loaders):
            continue
        nodes = list(ast.walk(ast.parse(text)))
        names = {_name(node) for node in nodes if isinstance(node, ast.Name | ast.Attribute)} - {"pipeline"}
        # transformers' `pipeline` is called; other code gives the name to an object.
        names |= {_name(node.func) for node in nodes if isinstance(node, ast.Call)} & {"pipeline"}
        if names & loaders:
            found[file.relative_to(ROOT).as_posix()] = names & loaders
    assert found == SAMPLE_OR_SCORE | TRAIN_OR_CONVERT


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


@pytest.fixture
def reward_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    load_reward_model(ModelConfig(path=tiny_checkpoint), fresh_head=True).model.save_pretrained(tmp_path / "reward")
    load_tokenizer(tiny_checkpoint)[0].save_pretrained(tmp_path / "reward")
    return tmp_path / "reward"


@pytest.mark.slow
def test_rejection_sampling_samples_and_scores_there(
    tiny_checkpoint: Path, reward_checkpoint: Path, tmp_path: Path, gpu: Ran
) -> None:
    from recipes import rejection_sample

    write_rows(tmp_path / "prompts.jsonl", [PromptRow(id="p", source="t", prompt=PROMPT)])
    recipe = rejection_sample.RejectionSampleRecipe(
        model=ModelConfig(path=tiny_checkpoint),
        reward_model=ModelConfig(path=reward_checkpoint, dtype="bfloat16"),
        prompts=tmp_path / "prompts.jsonl",
        k=2,
        sampling=SAMPLING,
        output_dir=tmp_path / "out",
    )
    rejection_sample.run(recipe)
    kinds = ("LlamaForCausalLM", "LlamaForSequenceClassification", "LlamaModel")
    assert gpu == {(kind, torch.bfloat16) for kind in kinds}, "each in its configured dtype"
    assert len((tmp_path / "out" / "candidates.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_evaluations_answer_and_score_there(
    tiny_checkpoint: Path, reward_checkpoint: Path, tmp_path: Path, gpu: Ran
) -> None:
    from eval.catalog import run_evaluations
    from eval.confidence import ConfidenceConfig
    from eval.factuality import FactualityConfig
    from eval.reward_accuracy import RewardAccuracyConfig

    questions = [QuestionRow(id="q", source="t", prompt=PROMPT, entity="e", relation="r", answers=("Paris",))]
    write_rows(tmp_path / "questions.jsonl", questions)
    write_rows(tmp_path / "pairs.jsonl", [PreferenceRow(id="p", source="t", prompt=PROMPT, completions=SAID)])
    run_evaluations(
        {
            "factuality": FactualityConfig(questions=tmp_path / "questions.jsonl", confidence=ConfidenceConfig()),
            "reward_accuracy": RewardAccuracyConfig(pairs=tmp_path / "pairs.jsonl"),
        },
        model=ModelConfig(path=tiny_checkpoint, dtype="bfloat16"),
        reward_model=ModelConfig(path=reward_checkpoint),
        sampling=SAMPLING,
        token_budget=512,
        limit=None,
        output_dir=tmp_path / "out",
    )
    assert gpu == {
        ("LlamaForCausalLM", torch.bfloat16),  # the generator
        ("LlamaModel", torch.bfloat16),  # below it, and in the likelihood judge
        ("LlamaForSequenceClassification", torch.float32),
        ("LlamaModel", torch.float32),
    }


@pytest.mark.slow
def test_the_probe_samples_and_asks_its_judge_there(tiny_checkpoint: Path, tmp_path: Path, gpu: Ran) -> None:
    from data_builders.knowledge_probe.builder import KnowledgeProbeConfig, build

    questions = [QuestionRow(id="q", source="t", prompt=PROMPT, entity="e", relation="r", answers=("Paris",))]
    write_rows(tmp_path / "questions.jsonl", questions)
    config = KnowledgeProbeConfig(
        model=tiny_checkpoint,
        judge="model",
        questions=tmp_path / "questions.jsonl",
        samples=2,
        sampling=SAMPLING.model_copy(update={"temperature": 1.0}),
    )
    build(config, tmp_path / "out")
    assert gpu == {("LlamaForCausalLM", torch.bfloat16), ("LlamaModel", torch.bfloat16)}
    assert list((tmp_path / "out" / "judge-units").glob("unit-*")), "the judge was asked"


@pytest.mark.slow
def test_every_way_to_an_engine_or_a_judge_computes_there_what_it_computes_on_the_cpu(
    tiny_checkpoint: Path, tiny_reward_checkpoint: Path
) -> None:
    from data_builders.annotation.answers import load_models
    from data_builders.preferences.near_duplicates import NearDuplicatesConfig, embeddings

    sampled = SamplingConfig(max_completion_tokens=4, dtype="float32", batch_size=4, top_p=0.9)

    def computed() -> tuple[list[object], torch.Tensor]:
        config = ModelConfig(path=tiny_checkpoint)
        engines = [
            GenerationEngine.from_settings(config, sampled),
            EngineCache().engine(tiny_checkpoint, "auto", sampled),
            *load_models({"a": config}, sampled).values(),
        ]
        ids = engines[0].prompt_ids(PROMPT)
        said = [engine.generate([ids, ids[:5]], [[0, 1], [2, 3, 4]]) for engine in engines]
        judges = (
            RewardModelJudge.from_settings(ModelConfig(path=tiny_reward_checkpoint), 64),
            LikelihoodJudge.from_settings(config, 64),
        )
        scores = [judge.score_many([ScoreRequest(PROMPT, SAID)] * 3) for judge in judges]
        vectors = embeddings(["Paris.", "It is Rome."], NearDuplicatesConfig(encoder=tiny_checkpoint))
        return said, torch.cat([torch.tensor(scores).flatten(), torch.as_tensor(vectors).flatten()])

    expected, numbers = computed()
    with watched() as ran:
        found, close = computed()
    assert {name for name, _ in ran} == {"LlamaForCausalLM", "LlamaForSequenceClassification", "LlamaModel"}
    assert found == expected
    torch.testing.assert_close(close, numbers)


@pytest.mark.slow
def test_a_model_that_someone_left_on_the_cpu_is_moved_by_its_judge_and_its_backend(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, gpu: Ran
) -> None:
    from align.generation.local import LocalBackend

    _, protocol = load_tokenizer(tiny_checkpoint)
    with monkeypatch.context() as without:
        without.setattr(torch.cuda, "is_available", lambda: False)
        policy, generator = load_policy(ModelConfig(path=tiny_checkpoint)), load_generator(tiny_checkpoint, "float32")
    assert {policy.model.device.type, generator.device.type} == {"cpu"}
    judge, backend = LikelihoodJudge(policy, protocol, 512), LocalBackend(generator, protocol, SAMPLING)
    judge.score_many([ScoreRequest(PROMPT, SAID)])
    backend.complete([[5, 6]], [[0]])
    assert gpu == {("LlamaForCausalLM", torch.float32), ("LlamaModel", torch.float32)}
    for model, job, work in (
        (judge.model.model, "scoring", lambda: judge.score_many([ScoreRequest(PROMPT, SAID)])),
        (generator, "sampling", lambda: backend.complete([[5, 6]], [[0]])),
    ):
        model.to("cpu")
        with pytest.raises(CheckError, match=f"{job}: the model is on cpu, but this process has an accelerator .cuda"):
            work()


def test_training_keeps_cudnn_out_of_packed_rows(tiny_checkpoint: Path, gpu: Ran) -> None:
    assert torch.backends.cuda.cudnn_sdp_enabled()
    load_policy(ModelConfig(path=tiny_checkpoint))
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_without_a_gpu_nothing_is_moved_and_no_kernel_is_chosen(tiny_checkpoint: Path) -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    model = load_generator(tiny_checkpoint, "float32")
    assert model.device.type == "cpu"
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["reward", "likelihood"])
def test_a_score_that_is_no_finite_number_is_an_error_that_names_the_model(
    kind: str, value: float, tiny_checkpoint: Path
) -> None:
    _, protocol = load_tokenizer(tiny_checkpoint)
    config = ModelConfig(path=tiny_checkpoint)
    judge = (
        RewardModelJudge(load_reward_model(config, fresh_head=True), protocol, 512)
        if kind == "reward"
        else LikelihoodJudge(load_policy(config), protocol, 512)
    )
    with torch.no_grad():
        judge.model.model.base_model.norm.weight[0] = value
    with pytest.raises(CheckpointError, match=rf"{tiny_checkpoint}: gave the score (nan|-?inf) to a completion"):
        judge.score_many([ScoreRequest(PROMPT, SAID)])


@pytest.mark.parametrize("rank, gpus, chosen", [("3", 4, [3]), ("5", 4, [1]), (None, 4, []), ("1", 1, [])])
def test_a_process_of_a_launcher_computes_on_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, gpus: int, chosen: list[int]
) -> None:
    from align.models.devices import use_own_gpu

    found: list[int] = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    use_own_gpu()
    assert found == chosen
