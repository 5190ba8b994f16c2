"""The files of a checkpoint that other software reads: stop tokens, padding, chat template.

transformers, vLLM, TGI and SGLang take these from the folder. A base model's files name the end of a document, and a
model trained on dialogs ends its turns with the protocol's terminator, so without this it never stops when served.

    generation_config.json   eos_token_id: the protocol's stop ids and those that were there; pad_token_id. Sampling
                             defaults (temperature, top_p, ...) stay as they are.
    config.json              the same, and problem_type "regression" for a reward model
    tokenizer_config.json    eos_token: the terminator of an assistant's turn; pad_token
    chat_template.jinja      the protocol's template

Reward models. What is read where, in a row that ends with a terminator, as the chat template writes it:

    transformers   `*ForSequenceClassification` takes the last token that is not config.pad_token_id; without a pad id
                   it takes the last token, and refuses batches above one row (5.23, modeling_layers.py)
    TRL            sets config.pad_token_id to the tokenizer's pad token, else to its eos token (1.16,
                   reward_trainer.py, grpo_trainer.py), and then reads through the same class
    vLLM           takes the last token of each row and pads nothing (LastPool); it returns the sigmoid of the score
                   unless problem_type is "regression"; so does the text-classification pipeline of transformers

So all three read the score at the terminator, where it is trained, if the pad token is no terminator.

An adapter's folder gets the same tokenizer and generation_config.json. But transformers and vLLM take the generation
settings of the base when they load an adapter: pass `GenerationConfig.from_pretrained(adapter)`, or merge it first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from align.chat import adopt_template, protocol_of_template
from align.chat.protocol import ChatProtocol
from align.files import whole_file

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
ADAPTER_CONFIG = "adapter_config.json"


def write_serving_files(folder: Path, protocol: ChatProtocol) -> list[Path]:
    """Save the protocol's tokenizer to `folder`, and set the stop ids, the padding and the template in its files.

    Returns the files written.

    folder: where a model or an adapter has just been saved; call it before the folder is sealed.
    """
    config = _read(folder / CONFIG)
    pad = protocol.padding(_text_config(config).get("vocab_size"))
    tokenizer = protocol.tokenizer
    adopt_template(tokenizer, protocol)
    tokenizer.eos_token = protocol.eos_token
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    saved = tokenizer.save_pretrained(folder)
    return [*map(Path, saved), *_write_token_ids(folder, protocol.stop_ids, pad)]


def write_serving_files_of_average(folder: Path, inputs: Sequence[Path]) -> list[Path]:
    """The same for the average of `inputs`, whose first has given `folder` its config and tokenizer files.

    The protocol is that of the first input with a template of ours: a base model may be among the inputs, and may be
    the first. Where no input has one, its files stay, but generation stops at every id at which an input stops.
    """
    protocol = next(filter(None, map(_protocol_of, inputs)), None)
    written = [] if protocol is None else write_serving_files(folder, protocol)
    return written + _write_token_ids(folder, _merged(*map(generation_stop_ids, inputs)), None)


def _protocol_of(folder: Path) -> ChatProtocol | None:
    """The protocol by which a folder's tokenizer was saved; None for one whose template is not ours."""
    if not (folder / "tokenizer_config.json").exists():
        return None
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)  # nosec B615  # a folder
    return protocol_of_template(tokenizer)


def _write_token_ids(folder: Path, stop_ids: Iterable[int], pad: int | None) -> list[Path]:
    """Put the ids into config.json, its text_config and generation_config.json; the last is made for a generator."""
    config = _read(folder / CONFIG)
    stops = _merged(stop_ids, generation_stop_ids(folder))
    ids: dict[str, Any] = ({"eos_token_id": stops} if stops else {}) | ({} if pad is None else {"pad_token_id": pad})
    written = []
    if ids and config:
        config.update(ids)
        if "text_config" in config:
            config["text_config"].update(ids)
        if _is_scorer(config) and config.get("problem_type") is None:
            config["problem_type"] = "regression"
        written.append(_write(folder / CONFIG, config))
    generation = _read(folder / GENERATION_CONFIG)
    if ids and (generation or _generates(folder, config)):
        generation.pop("_from_model_config", None)  # it no longer says what config.json says
        if config.get("bos_token_id") is not None:
            generation.setdefault("bos_token_id", config["bos_token_id"])
        written.append(_write(folder / GENERATION_CONFIG, generation | ids))
    return written


def generation_stop_ids(folder: Path) -> list[int]:
    """The ids at which a folder's files say that generation stops."""
    config = _read(folder / CONFIG)
    found = (each.get("eos_token_id") for each in (_read(folder / GENERATION_CONFIG), config, _text_config(config)))
    return _merged(*([each] if isinstance(each, int) else each for each in found if each is not None))


def _merged(*lists: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(each for ids in lists for each in ids))


def _generates(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a folder without generation_config.json holds a language model or an adapter of one."""
    if config:
        return any(name.endswith(("CausalLM", "ConditionalGeneration")) for name in config.get("architectures") or ())
    return _read(folder / ADAPTER_CONFIG).get("task_type") == "CAUSAL_LM"


def _is_scorer(config: dict[str, Any]) -> bool:
    classes = config.get("architectures") or ()
    return any(name.endswith("SequenceClassification") for name in classes) and len(config.get("id2label", ())) == 1


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("text_config") or config


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _write(file: Path, content: dict[str, Any]) -> Path:
    with whole_file(file) as handle:
        handle.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return file
