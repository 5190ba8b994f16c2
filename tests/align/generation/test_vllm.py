"""The backend of vLLM: the same tests over a double, and over vLLM itself where it is installed.

The double takes the arguments in `ARGUMENTS` alone and computes with transformers. Where vLLM is installed, or its
source is on the path, `ARGUMENTS` is compared with its signatures. `make test` has no vLLM; docs/backends.md says how
these tests were run with its build for CPUs.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from align.errors import AlignError, CheckpointError, ConfigError, RowError
from align.generation import vllm as backend_file
from align.generation.engine import EngineCache, GenerationEngine
from align.generation.local import LocalBackend
from align.generation.vllm import VLLMBackend, VLLMWeights, load_vllm
from align.harmless import changes_no_result
from align.models.loading import load_generator
from align.settings import SamplingConfig, VLLMConfig

EOS = 2
PROMPTS = [[5, 6, 7, 8], [9, 10, 11], [5, 6, 7, 8, 12, 13], list(range(20, 60))]
GREEDY = SamplingConfig(
    backend="vllm",
    temperature=0,
    max_completion_tokens=8,
    dtype="float32",
    vllm=VLLMConfig(enforce_eager=True),
)

ARGUMENTS = {
    "LLM": {
        *("model", "skip_tokenizer_init", "generation_config", "dtype", "max_model_len", "max_num_seqs"),
        *("tensor_parallel_size", "gpu_memory_utilization", "enforce_eager", "enable_prefix_caching", "seed"),
        *("disable_log_stats",),
    },
    "generate": {"prompts", "sampling_params", "use_tqdm"},
    "SamplingParams": {
        *("seed", "temperature", "top_p", "max_tokens", "stop_token_ids", "ignore_eos", "detokenize"),
    },
    "TokensPrompt": {"prompt_token_ids"},
    "CompletionOutput": {"token_ids", "finish_reason"},
}
"""What is passed to vLLM, and what is read from its answers."""


class DoubleLLM:
    """`vllm.LLM` as far as it is used: it completes token ids, and ends as vLLM's scheduler does (`check_stop`)."""

    started: int = 0

    def __init__(self, **arguments: Any) -> None:
        assert arguments.keys() <= ARGUMENTS["LLM"], arguments.keys() - ARGUMENTS["LLM"]
        assert arguments["skip_tokenizer_init"]
        type(self).started += 1
        self.arguments = arguments
        self.model = AutoModelForCausalLM.from_pretrained(
            arguments["model"], dtype=getattr(torch, arguments["dtype"])
        ).eval()
        positions = arguments["max_model_len"] or self.model.config.max_position_embeddings
        self.eos = None if arguments["generation_config"] == "vllm" else self.model.generation_config.eos_token_id
        self.is_running = True
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=positions), engine_core=SimpleNamespace(shutdown=self._shut_down)
        )

    def _shut_down(self) -> None:
        self.is_running = False

    @torch.inference_mode()
    def generate(self, prompts: list[dict[str, list[int]]], sampling_params: list[Any], *, use_tqdm: bool) -> list[Any]:
        assert self.is_running
        assert not use_tqdm
        assert len(prompts) == len(sampling_params)
        return [
            SimpleNamespace(outputs=[self._one(prompt["prompt_token_ids"], parameters)])
            for prompt, parameters in zip(prompts, sampling_params, strict=True)
        ]

    def _one(self, prompt: list[int], parameters: Any) -> SimpleNamespace:
        generator = torch.Generator().manual_seed(parameters.seed)
        ids: list[int] = []
        reason = None
        while reason is None:
            logits_V = self.model(torch.tensor([[*prompt, *ids]])).logits[0, -1].float()
            token = int(logits_V.argmax())
            if parameters.temperature:
                probabilities_V = torch.softmax(logits_V / parameters.temperature, -1)
                sorted_V, order_V = probabilities_V.sort(descending=True)
                sorted_V[sorted_V.cumsum(-1) - sorted_V >= parameters.top_p] = 0
                token = int(order_V[torch.multinomial(sorted_V, 1, generator=generator)])
            ids.append(token)
            if token in parameters.stop_token_ids or (token == self.eos and not parameters.ignore_eos):
                reason = "stop"
            elif (
                len(ids) == parameters.max_tokens
                or len(prompt) + len(ids) == self.llm_engine.model_config.max_model_len
            ):
                reason = "length"
        return SimpleNamespace(token_ids=ids, finish_reason=reason)


def double_parameters(**arguments: Any) -> SimpleNamespace:
    assert arguments.keys() <= ARGUMENTS["SamplingParams"], arguments.keys() - ARGUMENTS["SamplingParams"]
    assert not arguments["detokenize"], "there is no tokenizer"
    return SimpleNamespace(**arguments)


DOUBLE = SimpleNamespace(LLM=DoubleLLM, SamplingParams=double_parameters, __version__="0.0.double")
SPEC = importlib.util.find_spec("vllm")
IS_INSTALLED = SPEC is not None and any(Path(SPEC.submodule_search_locations[0]).glob("_C*.so"))  # not its source alone


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logits that differ from token to token, and heads of 32: vLLM's kernels for CPUs have none of 16."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "head_dim": 32}
    config = LlamaConfig(
        vocab_size=501,
        num_hidden_layers=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.3,
        **shape,
    )
    folder = tmp_path_factory.mktemp("vllm")
    model = LlamaForCausalLM(config)
    likeliest = int(model(torch.tensor([PROMPTS[0]])).logits[0, -1].argmax())
    model.config.eos_token_id = likeliest
    model.generation_config = GenerationConfig(eos_token_id=likeliest, top_k=3, do_sample=True)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["double", "vllm"])
def weights(checkpoint: Path, request: pytest.FixtureRequest) -> Iterator[VLLMWeights]:
    if request.param == "vllm" and not IS_INSTALLED:
        pytest.skip("vLLM is not installed")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "double":
            patch.setitem(sys.modules, "vllm", DOUBLE)  # type: ignore[arg-type]
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield load_vllm(checkpoint, GREEDY)


def protocol(*stop_ids: int) -> Any:
    return SimpleNamespace(stop_ids=stop_ids, identity=("test",), pad_id=0)


def test_greedy_completions_are_those_of_the_local_backend_stop_token_included(
    weights: VLLMWeights, checkpoint: Path
) -> None:
    model = load_generator(checkpoint, "float32")
    local = SamplingConfig(**{**GREEDY.model_dump(), "backend": "local", "vllm": None})
    seeds = [[0]] * len(PROMPTS)
    whole = VLLMBackend(weights, protocol(), GREEDY).complete(PROMPTS, seeds)
    assert [[made.finished for made in group] for group in whole] == [[False]] * len(PROMPTS)
    stop = whole[0][0].ids[2]
    found = VLLMBackend(weights, protocol(stop), GREEDY).complete(PROMPTS, seeds)
    expected = LocalBackend(model, protocol(stop), local).complete(PROMPTS, seeds)
    assert [[(made.ids, made.finished) for made in group] for group in found] == [
        [(made.ids, made.finished) for made in group] for group in expected
    ]
    assert found[0][0].finished
    assert found[0][0].ids[-1] == stop
    last = GREEDY.model_copy(update={"max_completion_tokens": 3})
    [[at_the_limit]] = VLLMBackend(weights, protocol(stop), last).complete(PROMPTS[:1], [[0]])
    assert at_the_limit == found[0][0], "a stop token at the limit ends the completion"


def test_a_completion_depends_on_its_prompt_its_seed_and_its_temperature(weights: VLLMWeights) -> None:
    sampling = GREEDY.model_copy(update={"temperature": 1.0, "top_p": 0.95, "vllm": None})
    backend = VLLMBackend(weights, protocol(EOS), sampling)
    large = 2**48 - 1  # seeds of candidates have 48 bits
    first, second = backend.complete(PROMPTS[:2], [[1, 2, large], [1]])
    assert len({made.ids for made in first}) == 3
    assert backend.complete([PROMPTS[3], PROMPTS[0]], [[7, 8], [large, 1]])[1] == [first[2], first[0]]
    assert backend.complete([PROMPTS[1]], [[1]]) == [second]
    greedy = VLLMBackend(weights, protocol(EOS), sampling.model_copy(update={"temperature": 0.0}))
    [expected] = greedy.complete(PROMPTS[:1], [[1]])
    mixed = backend.complete(PROMPTS[:1], [[1, 5, 2]], [[1.0, 0.0, 1.0]])
    assert mixed == [[first[0], *expected, first[1]]]
    assert backend.complete(PROMPTS[:2], [[], [1]]) == [[], second]
    assert backend.complete(PROMPTS[:1], [[]]) == [[]]


@pytest.mark.slow
def test_samples_have_the_probabilities_of_temperature_and_top_p(weights: VLLMWeights, checkpoint: Path) -> None:
    """Neither top_k 3 nor another default of generation_config.json is applied."""
    sampling = GREEDY.model_copy(
        update={"temperature": 0.7, "top_p": 0.9, "max_completion_tokens": 1, "batch_size": 64}
    )
    logits = AutoModelForCausalLM.from_pretrained(checkpoint)(torch.tensor([PROMPTS[0]])).logits[0, -1]
    kept: dict[int, float] = {}
    probabilities = torch.softmax(logits.detach() / 0.7, -1).tolist()
    for token in logits.argsort(descending=True).tolist():
        kept[token] = probabilities[token]
        if sum(kept.values()) >= 0.9:
            break
    assert len(kept) > 6
    times = 300
    [made] = VLLMBackend(weights, protocol(), sampling).complete(PROMPTS[:1], [list(range(times))])
    found = Counter(one.ids[0] for one in made)
    assert found.keys() <= kept.keys()
    for token, weight in list(kept.items())[:3]:
        share = weight / sum(kept.values())
        assert abs(found[token] - times * share) < 4 * math.sqrt(times * share * (1 - share))


def test_the_eos_token_of_the_checkpoint_ends_nothing_unless_the_protocol_stops_there(
    weights: VLLMWeights, checkpoint: Path
) -> None:
    eos = GenerationConfig.from_pretrained(checkpoint).eos_token_id
    [[made]] = VLLMBackend(weights, protocol(EOS), GREEDY).complete(PROMPTS[:1], [[0]])
    assert made.ids[0] == eos
    assert len(made.ids) > 1
    [[made]] = VLLMBackend(weights, protocol(EOS, eos), GREEDY).complete(PROMPTS[:1], [[0]])
    assert (made.ids, made.finished) == ((eos,), True)


def test_prompts_that_leave_no_space_are_refused(weights: VLLMWeights) -> None:
    backend = VLLMBackend(weights, protocol(EOS), GREEDY)
    assert backend.max_prompt_tokens == 128 - 8
    [[made]] = backend.complete([[7] * 120], [[0]])
    assert made.finished or len(made.ids) == 8
    with pytest.raises(RowError, match="prompt 1: has 121 tokens; at most 120 leave space"):
        backend.complete([[7], [7] * 121], [[0], [0]])
    with pytest.raises(RowError, match="prompt 0: has no tokens"):
        backend.complete([[]], [[0]])
    with pytest.raises(ConfigError, match=r"128 leaves no space for a prompt: vLLM runs with 128 tokens"):
        VLLMBackend(weights, protocol(), GREEDY.model_copy(update={"max_completion_tokens": 128}))
    with pytest.raises(ConfigError, match=r"sampling\.temperature: is 0\.005, and vLLM would sample with 0\.01"):
        VLLMBackend(weights, protocol(), GREEDY.model_copy(update={"temperature": 0.005}))


# The double alone


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> type[DoubleLLM]:
    monkeypatch.setitem(sys.modules, "vllm", DOUBLE)  # type: ignore[arg-type]
    monkeypatch.setattr(DoubleLLM, "started", 0)
    return DoubleLLM


@pytest.mark.slow
def test_engines_share_one_vllm_which_ends_with_the_last_of_them(
    tiny_checkpoint: Path, double: type[DoubleLLM]
) -> None:
    engines = EngineCache()
    greedy = engines.engine(tiny_checkpoint, "auto", GREEDY)
    other = engines.engine(tiny_checkpoint, "auto", GREEDY.model_copy(update={"temperature": 1.0, "top_p": 0.5}))
    assert double.started == 1
    assert isinstance(greedy.backend, VLLMBackend)
    llm = greedy.backend._weights.llm
    assert other.generate([[5, 6]], [[0, 1]])
    greedy.close()
    assert llm.is_running
    engines.close()
    assert not llm.is_running
    engine = GenerationEngine.load(tiny_checkpoint, GREEDY)
    assert engine.code_modules[0] == "align.generation.vllm"
    assert set(engine.unused_code) == {"align.generation.local", "align.generation.server"}
    llm = engine.backend._weights.llm  # type: ignore[attr-defined]
    assert llm.arguments["enable_prefix_caching"]
    assert llm.arguments["max_num_seqs"] == GREEDY.batch_size
    engine.close()
    assert not llm.is_running, "the memory is free for the reward model"


@pytest.mark.slow
def test_identity_names_weights_version_protocol_and_sampling(
    checkpoint: Path, tmp_path: Path, double: type[DoubleLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    def identity(folder: Path = checkpoint, stop: int = EOS, **settings: Any) -> dict[str, str]:
        sampling = GREEDY.model_copy(update=settings)
        return VLLMBackend(load_vllm(folder, sampling), protocol(stop), sampling).identity

    before = identity()
    assert before["sampling"] == "backend vllm, temperature 0.0, top_p 1.0, max_completion_tokens 8, dtype float32"
    assert identity(batch_size=3, vllm=VLLMConfig(gpu_memory_utilization=0.5)) == before
    assert identity(top_p=0.5)["sampling"] != before["sampling"]
    assert identity(vllm=VLLMConfig(max_model_len=64))["sampling"] != before["sampling"]
    assert identity(stop=3)["protocol"] != before["protocol"]
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.save_pretrained(tmp_path / "other")
    assert identity(tmp_path / "other")["model"] != before["model"]
    monkeypatch.setattr(DOUBLE, "__version__", "0.0.other")
    assert identity()["model"] != before["model"]


def test_a_reason_other_than_a_stop_token_or_the_limit_is_an_error(checkpoint: Path, double: type[DoubleLLM]) -> None:
    weights = load_vllm(checkpoint, GREEDY)
    aborted = SimpleNamespace(token_ids=[5], finish_reason="abort")
    weights.llm.generate = lambda *_, **__: [SimpleNamespace(outputs=[aborted])]
    with pytest.raises(AlignError, match="vLLM ended a completion of 1 tokens with the reason 'abort'"):
        VLLMBackend(weights, protocol(EOS), GREEDY).complete([[5]], [[0]])


def test_what_cannot_start_is_refused_with_what_to_do(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # type: ignore[arg-type]
    message = r"sampling\.backend: the library vllm is required, but not installed\. Install the extra: .*\[vllm\]'"
    with pytest.raises(ConfigError, match=message):
        GenerationEngine.load(tiny_checkpoint, GREEDY)

    class Full:
        def __init__(self, **_: Any) -> None:
            raise RuntimeError("Engine core initialization failed.\nSee root cause above.")

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Full, __version__="1"))  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"vLLM 1 could not start with .* \(RuntimeError: Engine core .*lower sampling"
    ):
        load_vllm(tiny_checkpoint, GREEDY)
    (tmp_path / "adapter_config.json").write_text(
        f'{{"base_model_name_or_path": "{tiny_checkpoint}", "peft_type": "LORA"}}'
    )
    monkeypatch.setattr(backend_file, "open_adapter", lambda *_: "an adapter")
    with pytest.raises(CheckpointError, match=r"is an adapter, which the backend vllm does not load\. Merge it"):
        load_vllm(tmp_path, GREEDY)


@pytest.mark.parametrize(
    "rank, visible, gpus, expected",
    [
        ("2", None, 2, "4,5"),
        ("1", "1,3,5,7", 2, "5,7"),
        ("3", None, 1, "3"),
        (None, "0,1", 2, "0,1"),
        (None, None, 2, None),
    ],
)
def test_a_process_of_a_launcher_gives_vllm_its_own_gpus_and_no_process_group(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, visible: str | None, gpus: int, expected: str | None
) -> None:
    import os

    for name in ("LOCAL_RANK", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    launched = {"LOCAL_RANK": rank, "CUDA_VISIBLE_DEVICES": visible, "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x"}
    for name, value in launched.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with backend_file._environment(gpus):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected
        assert not {"LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID"} & os.environ.keys()
        assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert {name: os.environ.get(name) for name in launched} == launched
    assert chosen == ([] if rank is None else [int(rank) * gpus]), (
        "the place of the reward model, among the visible GPUs"
    )
    assert "VLLM_WORKER_MULTIPROC_METHOD" not in os.environ


def test_more_processes_than_groups_of_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    message = r"is 2, and of the 5 GPUs of this machine 1 are left for process 2\. Start at most 2 processes"
    with pytest.raises(ConfigError, match=message), backend_file._environment(2):
        pass


@pytest.mark.parametrize(
    "values, message",
    [
        ({"vllm": {}}, r"sampling\.vllm is given, which the backend local does not read"),
        ({"backend": "vllm", "threads": 2}, r"sampling\.threads is 2, which the backend vllm does not read"),
        ({"backend": "vllm", "vllm": {"gpu_memory_utilization": 1.5}}, "less than or equal to 1"),
    ],
)
def test_settings_that_contradict_the_backend_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SamplingConfig(**values)


def test_settings_of_vllm_that_change_no_completion_change_no_key() -> None:
    kept = {name for name in VLLMConfig.model_fields if not changes_no_result(f"judge.sampling.vllm.{name}")}
    assert kept == {"max_model_len"}


# The real signatures


def _names(file: Path, owner: str, method: str | None = None) -> set[str]:
    """The parameters of a method, or the annotated fields of a class, read from a source file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == owner)
    if method is None:
        return {node.target.id for node in found.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    (function,) = (node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == method)
    return {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}


def test_the_real_package_has_every_argument_and_field_that_is_used() -> None:
    if SPEC is None:
        pytest.skip("vLLM's source is not on the path")
    source = Path(SPEC.submodule_search_locations[0])
    engine_arguments = _names(source / "engine/arg_utils.py", "EngineArgs")
    assert _names(source / "entrypoints/llm.py", "LLM", "__init__") | engine_arguments >= ARGUMENTS["LLM"]
    assert _names(source / "entrypoints/llm.py", "LLM", "generate") >= ARGUMENTS["generate"]
    assert _names(source / "sampling_params.py", "SamplingParams") >= ARGUMENTS["SamplingParams"]
    assert _names(source / "inputs/llm.py", "TokensPrompt") >= ARGUMENTS["TokensPrompt"]
    assert _names(source / "outputs.py", "CompletionOutput") >= ARGUMENTS["CompletionOutput"]
    assert "shutdown" in (source / "v1/engine/core_client.py").read_text(encoding="utf-8")
