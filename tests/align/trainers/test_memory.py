"""Running out of memory: real errors of torch's allocator become one message with the present settings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from align.errors import AlignError, CheckpointError
from align.generation.local import LocalBackend
from align.judges.judge import ScoreRequest
from align.judges.reward_model import RewardModelJudge
from align.models.loading import load_generator, load_policy, load_reward_model, load_tokenizer
from align.rows import Message
from align.settings import LoRAConfig, ModelConfig, SamplingConfig, TrainingConfig
from align.trainers.memory import StepMemory, memory_errors
from align.tree.pack import RunPlan


def too_much(*arguments: Any, **settings: Any) -> Any:
    """What no machine has: the error is the allocator's own."""
    return torch.empty(2**52, dtype=torch.uint8)


def step_memory(**changes: Any) -> StepMemory:
    model = ModelConfig(path=Path("m"), **{k: changes.pop(k) for k in list(changes) if k in ModelConfig.model_fields})
    training = TrainingConfig(output_dir=Path("out"), optimizer=changes.pop("optimizer", "adamw_torch_fused"))
    settings = {"token_budget": 8192, "longest_row": 3900, "precision": "bf16", "on_gpu": True, "sharded": False}
    return StepMemory(model, training, **(settings | changes))


def message_of(memory: StepMemory, error: BaseException | None = None) -> str:
    def step() -> None:
        with memory_errors(lambda: 3, memory):
            if error is not None:
                raise error
            too_much()

    with pytest.raises(AlignError) as raised:
        step()
    return str(raised.value)


def test_a_step_on_a_cpu_names_the_present_settings() -> None:
    message = message_of(step_memory(on_gpu=False, precision="fp32"))
    assert message.startswith("memory: out of memory on the CPU in step 3 ([enforce fail at")
    assert "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4503599627370496 bytes" in message
    assert (
        "Now: data.token_budget 8192, longest row 3900 tokens, training.batch_size 64, model.gradient_checkpointing "
        "false, model.lora null, precision fp32, not sharded. Lower data.token_budget (now 8192), down to 3900; the "
        "result stays the same; or set model.gradient_checkpointing=true (about a third slower); or train an adapter "
        "(model.lora={}); or use an optimizer with smaller states (training.optimizer=adafactor); or use a machine "
        "with more memory. training.batch_size does not change the memory of a step."
    ) in message


@pytest.mark.parametrize(
    "changes, suggested, not_suggested",
    [
        ({}, "recipes/launch/zero3.yaml", "training.precision"),
        ({"gradient_checkpointing": True}, "model.lora={}", "gradient_checkpointing=true"),
        ({"longest_row": 8192}, "leave out the longest rows (data.token_budget, now 8192", "stays the same"),
        ({"longest_row": 9000}, "with data.over_budget=drop)", "stays the same"),
        ({"precision": "fp32"}, "set training.precision=bf16", "more memory"),
        ({"lora": LoRAConfig()}, "model.quantization=nf4", "model.lora={}"),
        ({"lora": LoRAConfig(), "quantization": "nf4"}, "zero3.yaml", "quantization=nf4"),
        ({"sharded": True}, "start more processes", "zero3.yaml"),
        ({"optimizer": "adafactor"}, "model.lora={}", "training.optimizer"),
    ],
)
def test_only_what_is_not_set_is_suggested(changes: dict[str, Any], suggested: str, not_suggested: str) -> None:
    memory = step_memory(**changes)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...\nmore")
    message = message_of(memory, error)
    assert message.startswith("memory: out of memory on the GPU in step 3 (CUDA out of memory. Tried to allocate 20")
    assert suggested in message
    advice = "; ".join(memory.advice())
    assert suggested in advice
    assert not_suggested not in advice


def test_the_longest_row_may_be_a_held_out_one() -> None:
    """It is evaluated in the same block: the budget cannot be lowered below it."""

    def longest(trained: list[int], held_out: list[int] | None) -> int:
        validation = None if held_out is None else SimpleNamespace(plan=plan_of(held_out))
        trainer = SimpleNamespace(
            **{"start": ModelConfig(path=Path("m")), "training": TrainingConfig(output_dir=Path("out"))},
            **{"plan": plan_of(trained), "validation": validation, "is_deepspeed_enabled": False},
            **{"model": SimpleNamespace(precision="fp32"), "args": SimpleNamespace(device=torch.device("cpu"))},
        )
        return StepMemory.of(cast(Any, trainer)).longest_row

    def plan_of(sizes: list[int]) -> RunPlan:
        return RunPlan(sizes, batch_size=2, token_budget=64, epochs=1, max_steps=None, seed=0, processes=1, process=0)

    assert longest([5, 9, 7], None) == 9
    assert longest([5, 9, 7], [4, 31]) == 31
    assert longest([5, 9, 7], [4, 3]) == 9


def test_other_errors_stay_what_they_are() -> None:
    for error in (NotImplementedError("ours"), RuntimeError("shapes do not match"), CheckpointError("a", "b", "c")):
        with pytest.raises(type(error)) as raised, memory_errors(lambda: 1, step_memory()):
            raise error
        assert raised.value is error


def test_a_training_step_sampling_scoring_and_loading_name_their_settings(
    tmp_path: Path, tiny_checkpoint: Path, tiny_reward_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaModel

    from align.models import loading

    _, protocol = load_tokenizer(tiny_checkpoint)
    backend = LocalBackend(load_generator(tiny_checkpoint, "float32"), protocol, SamplingConfig(batch_size=8))
    judge = RewardModelJudge(load_reward_model(ModelConfig(path=tiny_reward_checkpoint)), protocol, 512)
    ask = ScoreRequest((Message(role="user", content="2 + 2?"),), [(Message(role="assistant", content="4"),)])
    with monkeypatch.context() as patch:
        patch.setattr(LlamaModel, "forward", too_much)
        with pytest.raises(AlignError) as raised:
            backend.complete([[5, 6, 7]], [[1, 2]])
        message = str(raised.value)
        assert message.startswith("sampling: out of memory while completions were sampled (")
        assert "Lower sampling.batch_size (now 8) or sampling.max_completion_tokens (now 256); the long" in message
        with pytest.raises(AlignError, match=r"^scoring: out of memory while .*Lower token_budget \(now 512; the"):
            judge.score_many([ask])
    with monkeypatch.context() as patch:
        patch.setattr(loading, "quietly_loaded", too_much)
        expected = r"out of memory while its 0\.1M parameters were loaded, 0\.0 GB in float32 .* Set sampling\.dtype"
        with pytest.raises(AlignError, match=expected):
            load_generator(tiny_checkpoint, "float32")
        with pytest.raises(AlignError, match=r"Train an adapter over weights in 4 bits \(model\.lora=\{\} model\."):
            load_policy(ModelConfig(path=tiny_checkpoint))
