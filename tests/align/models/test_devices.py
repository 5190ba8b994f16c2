"""Every model that scores or samples is on the accelerator if there is one, and cuDNN is kept out of its attention.

No GPU is needed: torch is made to report one, each `.to` of a model is recorded and moves nothing, and every forward
pass is checked against the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from align import precision
from align.errors import CheckpointError
from align.jsonl import write_rows
from align.judges.judge import ScoreRequest
from align.models.loading import load_generator, load_policy, load_reward_model, load_tokenizer
from align.rows import Message, PreferenceRow, PromptRow, QuestionRow
from align.settings import ModelConfig, SamplingConfig

PROMPT = (Message(role="user", content="What is the capital of France?"),)
SAID = tuple((Message(role="assistant", content=text),) for text in ("Paris.", "It is Rome."))
SAMPLING = SamplingConfig(temperature=0, max_completion_tokens=4, dtype="bfloat16", batch_size=4)


class Moves:
    """Which models were moved to the reported GPU, with their dtypes, and which modules ran."""

    def __init__(self) -> None:
        self.moved: list[tuple[str, torch.dtype]] = []
        self.there: set[int] = set()
        self.kept: list[PreTrainedModel] = []  # so that no id is used twice
        self.ran: set[str] = set()

    def to(self, model: PreTrainedModel, device: object) -> PreTrainedModel:
        assert str(device) == "cuda"
        if id(model) not in self.there:  # it stays on the CPU, so it may be asked again
            self.moved.append((type(model).__name__, model.dtype))
        self.there |= {id(module) for module in model.modules()}
        self.kept.append(model)
        return model

    def check(self, module: torch.nn.Module, _: object) -> None:
        if isinstance(module, PreTrainedModel):
            assert id(module) in self.there, f"{type(module).__name__} runs on the CPU of a machine with a GPU"
            assert not torch.backends.cuda.cudnn_sdp_enabled(), "cuDNN would build a plan for each packed row"
            self.ran.add(type(module).__name__)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moves]:
    moves = Moves()
    precision.decide.cache_clear()  # what it says of this machine holds for the process
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU for tests")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(PreTrainedModel, "to", lambda model, device: moves.to(model, device))
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(moves.check)
    yield moves
    precision.decide.cache_clear()
    hook.remove()
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.fixture
def reward_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    load_reward_model(ModelConfig(path=tiny_checkpoint), fresh_head=True).model.save_pretrained(tmp_path / "reward")
    load_tokenizer(tiny_checkpoint)[0].save_pretrained(tmp_path / "reward")
    return tmp_path / "reward"


@pytest.mark.slow
def test_rejection_sampling_samples_and_scores_there(
    tiny_checkpoint: Path, reward_checkpoint: Path, tmp_path: Path, gpu: Moves
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
    assert gpu.moved == [
        ("LlamaForCausalLM", torch.bfloat16),
        ("LlamaForSequenceClassification", torch.bfloat16),
    ], "each in its configured dtype"
    assert gpu.ran >= {"LlamaForCausalLM", "LlamaModel"}


@pytest.mark.slow
def test_evaluations_answer_and_score_there(
    tiny_checkpoint: Path, reward_checkpoint: Path, tmp_path: Path, gpu: Moves
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
    assert set(gpu.moved) == {
        ("LlamaForCausalLM", torch.bfloat16),  # the generator and the likelihood judge
        ("LlamaForSequenceClassification", torch.float32),
    }
    assert len(gpu.moved) >= 3


@pytest.mark.slow
def test_builders_and_the_raters_page_sample_there(tiny_checkpoint: Path, gpu: Moves) -> None:
    from align.generation.engine import EngineCache
    from data_builders.annotation.answers import load_models

    engines = [
        EngineCache().engine(tiny_checkpoint, "auto", SAMPLING),
        *load_models({"a": ModelConfig(path=tiny_checkpoint)}, SAMPLING).values(),
    ]
    for engine in engines:
        engine.generate([engine.prompt_ids(PROMPT)], [[0]])
    assert gpu.moved == [("LlamaForCausalLM", torch.bfloat16)] * 2


@pytest.mark.slow
def test_a_model_that_someone_left_on_the_cpu_is_moved_by_its_judge_and_its_backend(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, gpu: Moves
) -> None:
    from align.generation.local import LocalBackend
    from align.judges.likelihood import LikelihoodJudge

    _, protocol = load_tokenizer(tiny_checkpoint)
    with monkeypatch.context() as without:
        without.setattr(torch.cuda, "is_available", lambda: False)
        policy, generator = load_policy(ModelConfig(path=tiny_checkpoint)), load_generator(tiny_checkpoint, "float32")
    assert gpu.moved == []
    LikelihoodJudge(policy, protocol, 512).score_many([ScoreRequest(PROMPT, SAID)])
    LocalBackend(generator, protocol, SAMPLING)
    assert gpu.moved == [("LlamaForCausalLM", torch.float32)] * 2


def test_training_keeps_cudnn_out_of_packed_rows(tiny_checkpoint: Path, gpu: Moves) -> None:
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
    from align.judges.likelihood import LikelihoodJudge
    from align.judges.reward_model import RewardModelJudge

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
