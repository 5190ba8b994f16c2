"""Fixtures that several tests share: small tokenizers and a two-layer Llama made in the process, and dialogs at random.

torch and transformers are imported inside fixtures, so that tests that need neither start at once.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from align.rows import Message, ToolCall

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

os.environ.setdefault("ALIGN_PRECISION", "fp32")  # what `auto` means in tests, whatever machine they run on

MERELY_ADDED = "<|memo|>"
"""An added token of both tokenizers that is not special."""

CORPUS = [
    "The capital of France is Paris, and the river Seine runs through it. What is the capital of Italy? It is Rome.",
    "You are a helpful assistant. Please answer in one short sentence. I do not know that, and I will not guess.",
    'To call one, write a JSON object with its name and arguments {"name": "get_weather", "arguments": {"n": 1}}',
    '{"type": "object", "properties": {"n": {"type": "integer", "description": "How many"}}, "required": ["n"]}',
    "system user assistant tool ipython Environment: ipython\nTools: brave_search, wolfram_alpha\n\nToday Date: 2024",
    "Größe, naïve, Ελλάδα, москва, 東京は日本の首都です。 1234567890 + 42 = 1234567932; 3.14159\n\n- one\n- two\n",
    "<tools>\n</tools>\n<tool_call>\n</tool_call>\ndef is_prime(n):\n    return all(n % i for i in range(2, n))\n",
]


NEW_MODULES = 100
"""After this number of imports, objects are set aside from garbage collection again."""
_imported = 0


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect the tests without collecting garbage: imports make many objects and hardly any garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        _set_imported_objects_aside()


def _set_imported_objects_aside() -> None:
    """Leave what exists now out of garbage collections, if many modules were imported since the last call.

    A full collection visits every object: 0.3 s for the 400,000 of torch and transformers. A training asks for several
    (accelerate's `release_memory`), which would be half of the time of a test that trains a tiny model.
    """
    global _imported
    if len(sys.modules) - _imported >= NEW_MODULES:
        _imported = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that all workers of `make test`, which get whole files, end at about the same time.

    First come those that start several processes, then those with the most tests that are marked as slow. A file of a
    minute that is given out last would leave the other workers idle for a minute.
    """
    long = {item.path for item in items if any(map(item.get_closest_marker, ("engine", "install", "types")))}
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (not _forks(item.path), item.path not in long, -slow[item.path]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Files that use tests/processes.py go to one worker: each worker that has one starts a fork server."""
    from xdist.scheduler import LoadFileScheduling

    class FilesAndForks(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "processes" if _forks(config.rootpath / file) else file

    return FilesAndForks(config, log) if config.getoption("dist") == "loadfile" else None


@cache
def _forks(file: Path) -> bool:
    return "\nfrom tests.processes import" in file.read_text(encoding="utf-8")


def pytest_runtest_setup(item: pytest.Item) -> None:
    from align import assets

    _set_imported_objects_aside()

    for mark in item.iter_markers("asset"):
        name = mark.args[0]
        ready = assets.checkpoint_is_ready() if name == assets.MODEL else assets.is_ready(assets.asset_named(name))
        if not ready:
            pytest.skip(f"{name} is not here: `python -m align.assets` fetches it")


@pytest.fixture(scope="session")
def chatml_tokenizer() -> PreTrainedTokenizerFast:
    """About 500 ids; control tokens at 0 to 2 and in the model's own vocabulary, as SmolLM2 has them."""
    from tokenizers import pre_tokenizers

    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _trained(pre_tokenizers.ByteLevel(add_prefix_space=False), control)
    return _wrapped(tokenizer, bos_token=control[1], eos_token=control[2], pad_token=control[0])


@pytest.fixture(scope="session")
def llama3_tokenizer() -> PreTrainedTokenizerFast:
    """About 500 ids; Llama 3's pre-tokenizer, and its control tokens after the vocabulary, as Llama 3 has them."""
    from tokenizers import AddedToken, Regex, pre_tokenizers

    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = _trained(pre_tokenizers.Sequence([split, level]), [])
    names = ["begin_of_text", "end_of_text", "finetune_right_pad_id", "start_header_id", "end_header_id"]
    control = [f"<|{name}|>" for name in [*names, "eom_id", "eot_id", "python_tag"]]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return _wrapped(tokenizer, bos_token=control[0], eos_token="<|eot_id|>", pad_token=control[2])


@pytest.fixture(scope="session")
def tiny_llama_config(chatml_tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Two layers, hidden 64, 4 heads over 2 key-value heads, for the ChatML tokenizer."""
    return _config(chatml_tokenizer)


@pytest.fixture(scope="session")
def tiny_checkpoint(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a two-layer Llama and the ChatML tokenizer. Read it only: all tests share it."""
    return _saved(chatml_tokenizer, tmp_path_factory.mktemp("tiny-chatml"))


@pytest.fixture(scope="session")
def tiny_llama3_checkpoint(llama3_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the Llama 3 tokenizer."""
    return _saved(llama3_tokenizer, tmp_path_factory.mktemp("tiny-llama3"))


@pytest.fixture(scope="session")
def tiny_reward_checkpoint(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of the same shape, with a head of noise. Read it only."""
    return _saved(chatml_tokenizer, tmp_path_factory.mktemp("tiny-reward"), "LlamaForSequenceClassification")


@pytest.fixture(scope="session")
def largest_tensor() -> type:
    """A context manager whose `elements` is the most that any tensor held which was made inside it."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class LargestTensor(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, tuple | list) else [made]:
                if isinstance(tensor, torch.Tensor):
                    held = tensor.untyped_storage().nbytes() // tensor.element_size()
                    self.elements = max(self.elements, held)
            return made

    return LargestTensor


@pytest.fixture
def left_unfinished() -> Callable[[], AbstractContextManager[None]]:
    """A context manager: training in its block ends after the last step, as if killed before the model was written."""

    @contextmanager
    def unfinished() -> Iterator[None]:
        from align.trainers.checkpointing import Checkpointing

        class Killed(BaseException):
            pass

        def die(self) -> None:
            raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpointing, "finish", die)
            try:
                yield
            except Killed:
                return
        pytest.fail("the training was not killed")

    return unfinished


def _trained(pre_tokenizer, special_tokens: list[str]):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _wrapped(tokenizer, **special: str) -> PreTrainedTokenizerFast:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    from align.chat import load_protocol

    tokenizer.add_tokens([AddedToken(MERELY_ADDED, normalized=False, special=False)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    wrapped.chat_template = load_protocol(wrapped).chat_template
    return wrapped


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )


def _saved(tokenizer: PreTrainedTokenizerFast, folder: Path, kind: str = "LlamaForCausalLM") -> Path:
    import torch
    import transformers

    generator_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    config = _config(tokenizer)
    if kind.endswith("Classification"):
        config.num_labels = 1
    getattr(transformers, kind)(config).save_pretrained(folder)
    torch.random.set_rng_state(generator_state)
    tokenizer.save_pretrained(folder)
    return folder


class Dialog(NamedTuple):
    messages: tuple[Message, ...]
    tools: str


WORDS = [
    "Paris",
    "the",
    "gold price",
    "42",
    "naïve",
    "東京",
    "москва",
    "🙂🏽",
    "e\u0301",
    "a  b",
    "x\ty",
    "\u00a0",
    "it's",
    "''",
]
TYPED = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", MERELY_ADDED, "<|eot_id|>", "<|begin_of_text|>", "<|eom_id|>"]
TYPED += ["<|start_header_id|>system<|end_header_id|>\n\n", "<|python_tag|>", "<|im_end|>\n<|im_start|>system\n"]
FUNCTIONS = [
    {
        "name": "get_weather",
        "description": "Weather in a city, from <station> & co",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
    {"name": "größe", "description": "", "parameters": {"type": "object", "properties": {}}},
    {"name": "sum", "description": "Adds 数", "parameters": {"type": "object", "properties": {"n": {"type": "array"}}}},
]


@pytest.fixture(scope="session")
def make_dialog() -> Callable[..., Dialog]:
    """`make_dialog(rng, llama3=..., typed=..., ragged=..., tools=...)`: a dialog of any kind, drawn from `rng`.

    llama3: at most one call a message, some of them built-in. typed: contents may hold control tokens as text.
    ragged: contents may be empty or begin with spaces and line breaks. tools: functions may be offered.
    """
    return _dialog


def _dialog(
    rng: random.Random, *, llama3: bool = False, typed: bool = True, ragged: bool = True, tools: bool = True
) -> Dialog:
    def content() -> str:
        pool = WORDS + TYPED if typed else WORDS
        text = rng.choice(["", " ", "\n", ".\n\n"]).join(rng.choice(pool) for _ in range(rng.randint(1, 6)))
        if ragged:
            text = rng.choice(["", "", "", " ", "\n", "\n\n\n", "\t\n"]) + text + rng.choice(["", "", " ", "\n"])
            return "" if rng.random() < 0.05 else text
        return text.lstrip("\n") or "so"

    def value():
        return rng.choice([content(), rng.randint(-5, 99), 2.5, True, None, [1, "ü"], {"deep": [content()]}])

    def call(environment: bool) -> ToolCall:
        if llama3 and rng.random() < (0.8 if environment else 0.2):
            name = rng.choice(["brave_search", "wolfram_alpha", "code_interpreter"])
            key = "code" if name == "code_interpreter" else "query"
            return ToolCall(name=name, arguments={key: "print(" + content() + ")" if key == "code" else content()})
        arguments = {rng.choice("abcdef"): value() for _ in range(rng.randint(0, 3))}
        return ToolCall(name=rng.choice(FUNCTIONS)["name"], arguments=arguments)

    messages = []
    environment = rng.random() < 0.4
    if environment:
        lines = [
            "Environment: ipython",
            "Tools: brave_search, wolfram_alpha",
            "Today Date: 21 September 2024",
            "",
            content(),
        ]
        messages.append(Message(role="system", content="\n".join(lines)))
    elif rng.random() < 0.4:
        messages.append(Message(role="system", content=content()))
    for _ in range(rng.randint(1, 3)):
        messages.append(Message(role="user", content=content()))
        for _ in range(rng.choice([0, 0, 1, 2])):
            calls = [call(environment) for _ in range(1 if llama3 else rng.randint(1, 3))]
            said = content() if rng.random() < 0.3 and calls[0].name != "code_interpreter" else ""
            messages.append(Message(role="assistant", content=said, tool_calls=calls))
            messages += [Message(role="tool", content=content(), name=made.name) for made in calls]
        messages.append(Message(role="assistant", content=content()))
    offered = rng.sample(FUNCTIONS, rng.randint(1, 3)) if tools and rng.random() < 0.4 else []
    return Dialog(tuple(messages), json.dumps(offered, ensure_ascii=False) if offered else "")


@pytest.fixture
def closed_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every store of ratings that a test opens is closed behind it: the suite is one process."""
    from data_builders.annotation.store import Store

    made: list[Store] = []
    make = Store.__init__

    def noted(self: Store, *arguments: object, **settings: object) -> None:
        make(self, *arguments, **settings)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(Store, "__init__", noted)
    yield
    for store in made:
        store.close()
