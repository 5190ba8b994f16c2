"""A plain SFT, then DPO with TRL, on the rows that the rehearsal starts from: what its rounds are compared with.

    python tests/bench/plain_trl.py runs/rehearsal/data runs/plain_trl --sft-epochs 1 --dpo-epochs 1
    python recipes/run_eval.py recipes/configs/run_eval/rehearsal.yaml model.path=runs/plain_trl/dpo ...

The script is what one would write without probe, reward model, rejection sampling and averaging:

    SFT   tool dialogs as they are, the chosen answer of every comparison, and each question and problem of both rounds
          with its reference answer
    DPO   every comparison of people, from the SFT model, whose copy is the reference

Instructions have no reference answer, so there is nothing to train on. Texts are those of the toolkit's own chat
protocol, so both are evaluated in the form that they were trained in. Learning rates, batch size and schedule are those
of the rehearsal; other settings are TRL's. The epochs set how much is computed: the script prints the minutes, to be
compared with those of the rounds' training stages in the report.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import datasets
import torch
import trl
from transformers import AutoModelForCausalLM

from align.config import parse_yaml
from align.jsonl import read_rows
from align.models.loading import load_tokenizer
from align.rows import Message, Messages, PreferenceRow, QuestionRow, SFTRow, VerifiedPromptRow, completion_start
from align.settings import Reading

Record = dict[str, str]


def main() -> None:
    arguments = _arguments()
    tokenizer, protocol = load_tokenizer(arguments.model)
    data: Path = arguments.data

    def text(prompt: Messages, completion: Messages, tools: str) -> Iterator[str]:
        """The prompt with the header of the answer, and the answer with its terminator."""
        start = len(protocol.encode(prompt, tools, open_assistant=True).ids)
        ids = protocol.encode((*prompt, *completion), tools).ids
        yield from (tokenizer.decode(part, skip_special_tokens=False) for part in (ids[:start], ids[start:]))

    dialogs: list[Record] = []
    for prompt, answer, tools in _answered(data):
        dialogs.append(dict(zip(("prompt", "completion"), text(prompt, answer, tools), strict=True)))
    pairs: list[Record] = []
    for row in read_rows(data / "preferences.jsonl", PreferenceRow, Reading()):
        prompt, chosen = text(row.prompt, row.chosen, row.tools)
        pairs.append(
            {"prompt": prompt, "chosen": chosen, "rejected": list(text(row.prompt, row.rejected, row.tools))[1]}
        )

    bf16 = arguments.precision == "bf16"
    rates = {name: _learning_rate(name) for name in ("sft", "dpo")}
    common: dict[str, Any] = {
        "per_device_train_batch_size": 1,  # times 8: with 4, the DPO of the longest pairs needs more than 23 GB
        "gradient_accumulation_steps": 8,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "bf16": bf16,
        "gradient_checkpointing": False,
        "max_length": None,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": not torch.cuda.is_available(),
        "seed": 0,
    }
    started = time.monotonic()
    policy = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    sft = trl.SFTConfig(
        str(arguments.output / "sft"), learning_rate=rates["sft"], num_train_epochs=arguments.sft_epochs, **common
    )
    trainer = trl.SFTTrainer(policy, sft, train_dataset=datasets.Dataset.from_list(dialogs), processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    policy = trainer.model
    dpo = trl.DPOConfig(
        str(arguments.output / "dpo"), learning_rate=rates["dpo"], num_train_epochs=arguments.dpo_epochs, **common
    )
    trainer = trl.DPOTrainer(
        policy, None, dpo, train_dataset=datasets.Dataset.from_list(pairs), processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model()
    tokenizer.save_pretrained(dpo.output_dir)
    minutes = (time.monotonic() - started) / 60
    print(json.dumps({"sft_rows": len(dialogs), "dpo_pairs": len(pairs), "minutes": round(minutes, 1)}))


def _answered(data: Path) -> Iterator[tuple[Messages, Messages, str]]:
    """Prompt, answer and functions of every row that has a reference answer."""
    reading = Reading()
    for row in read_rows(data / "tools.jsonl", SFTRow, reading):
        start = completion_start(row.messages, "all")
        yield row.messages[:start], row.messages[start:], row.tools
    for row in read_rows(data / "preferences.jsonl", PreferenceRow, reading):
        yield row.prompt, row.chosen, row.tools
    for path in _of_rounds(data, "questions"):
        for row in read_rows(path, QuestionRow, reading):
            yield row.prompt, _assistant(row.answers[0]), row.tools
    for path in _of_rounds(data.parent / "maths", "maths"):
        for row in read_rows(path, VerifiedPromptRow, reading):
            yield row.prompt, _assistant(f"Answer: {json.loads(row.verify)['maths']}"), row.tools


def _of_rounds(data: Path, name: str) -> Iterable[Path]:
    return sorted(data.glob(f"{name}.round-*.jsonl"))


def _learning_rate(recipe: str) -> float:
    """Of the rehearsal's stage."""
    config = parse_yaml((Path("recipes/configs") / recipe / "rehearsal.yaml").read_text(), recipe)[0]
    return float(config["training"]["learning_rate"])


def _assistant(text: str) -> Messages:
    return (Message(role="assistant", content=text),)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of the rehearsal's data")
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", type=Path, default=Path(".assets/SmolLM2-135M-Instruct"))
    parser.add_argument("--sft-epochs", type=float, default=1)
    parser.add_argument("--dpo-epochs", type=float, default=1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    return parser.parse_args()


if __name__ == "__main__":
    main()
