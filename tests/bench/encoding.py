"""Rows to trees with Llama 3's vocabulary, in several processes, next to the bare tokenizer on the same texts.

    python tests/bench/encoding.py --rows 20000                  # rows of about 300 and of about 1,000 tokens
    python tests/bench/encoding.py --rows 1000000 --only short   # memory of a million rows; some minutes on two cores

Dialogs are those of alpaca_en_demo with 150 tokens or more, pairs those of dpo_en_demo, over and over with other
numbers in their texts. Seconds of the processor are those of all processes together, without their start, which is
measured with a few rows; they depend less on what else the machine does than seconds of the clock.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / ".assets" / "llamafactory-0.9.5" / "data"
VOCABULARY = ROOT / ".assets" / "llama-models-0.3.0" / "models" / "llama3" / "tokenizer.model"
CONTROL = ("begin_of_text", "end_of_text", "finetune_right_pad_id", "start_header_id", "end_header_id", "eom_id")
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
FEW = 64
BATCH = 1024
"""Texts in one call of the bare tokenizer."""


def save_tokenizer(folder: Path) -> None:
    """Llama 3's tokenizer as transformers has it, from Meta's tokenizer.model."""
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    names = [f"<|{name}|>" for name in (*CONTROL, "eot_id", "python_tag")]
    converted = TikTokenConverter(vocab_file=str(VOCABULARY), extra_special_tokens=names).converted()
    made = PreTrainedTokenizerFast(tokenizer_object=converted, bos_token=names[0], eos_token="<|eot_id|>")
    made.save_pretrained(folder)


def dialogs(count: int) -> Iterator[dict[str, Any]]:
    records = json.loads((DATA / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    records = [record for record in records if len(record["output"]) > 700]
    for number in range(count):
        record = records[number % len(records)]
        question = f"({number}) {record['instruction']}\n{record['input']}".rstrip()
        answer = record["output"].replace(" the ", f" the {number} ", 1)
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        yield {"id": f"d{number}", "source": "bench", "messages": messages}


def pairs(count: int) -> Iterator[dict[str, Any]]:
    records = json.loads((DATA / "dpo_en_demo.json").read_text(encoding="utf-8"))
    for number in range(count):
        record = records[number % len(records)]
        prompt = [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in record["conversations"]]
        prompt[0]["content"] = f"({number}) {prompt[0]['content']}"
        answers = [f"{record[side]['value']} ({number})" for side in ("chosen", "rejected")]
        completions = [[{"role": "assistant", "content": answer}] for answer in answers]
        yield {"id": f"p{number}", "source": "bench", "prompt": prompt, "completions": completions}


ROWS = {"short": dialogs, "long": pairs}


class Taken(NamedTuple):
    """What the work on some rows took."""

    rows: int
    tokens: int
    processor: float
    clock: float


def ours(kind: str, file: Path, tokenizer: Path, output: Path, processes: int) -> Taken:
    """Encode a file as a training run does, and read back how many tokens came out."""
    from transformers import PreTrainedTokenizerFast

    from align.chat import load_protocol
    from align.settings import PreferenceDataConfig, TrainingConfig, TreeDataConfig
    from align.trainers.data import preference_trees, sft_trees

    protocol = load_protocol(PreTrainedTokenizerFast.from_pretrained(tokenizer), "llama3")
    training = TrainingConfig(output_dir=output)
    limits = {"path": file, "token_budget": 2**20, "max_prompt_tokens": 2**20, "max_completion_tokens": 2**20}
    before, began = _processor(), time.perf_counter()
    if kind == "short":
        trees = sft_trees(TreeDataConfig(**limits, encode_processes=processes), training, protocol)
    else:
        trees = preference_trees(PreferenceDataConfig(**limits, encode_processes=processes), training, protocol)
    return Taken(len(trees), int(trees.tokens.sum()), _processor() - before, time.perf_counter() - began)


def bare(kind: str, file: Path, tokenizer: Path, processes: int) -> Taken:
    """The tokenizer's own batch call on the texts of a file, in as many processes."""
    texts = []
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            runs = [row["messages"]] if kind == "short" else [row["prompt"], *row["completions"]]
            texts += [message["content"] for run in runs for message in run]
    parts = [texts[number::processes] for number in range(processes)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        found = pool.starmap(_tokenized, [(part, str(tokenizer / "tokenizer.json")) for part in parts], chunksize=1)
    rows = sum(1 for _ in file.open(encoding="utf-8"))
    return Taken(rows, sum(each[0] for each in found), sum(each[1] for each in found), max(each[2] for each in found))


def _tokenized(texts: list[str], file: str) -> tuple[int, float, float]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    tokens, before, began = 0, time.process_time(), time.perf_counter()
    for first in range(0, len(texts), BATCH):
        found = tokenizer.encode_batch_fast(texts[first : first + BATCH], add_special_tokens=False)
        tokens += sum(len(encoding) for encoding in found)
    return tokens, time.process_time() - before, time.perf_counter() - began


def _processor() -> float:
    """Seconds of the processor of this process and of those that it has started and that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=list(ROWS), help="rows of this length only")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "bench" / "encoding")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=given.folder) as made:
        folder = Path(made)
        save_tokenizer(folder / "tokenizer")
        for kind in [given.only] if given.only else list(ROWS):
            for count, name in ((FEW, "few"), (given.rows, "all")):
                with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
                    lines.writelines(json.dumps(row) + "\n" for row in ROWS[kind](count))
            for number in range(2):  # the first call also reads this project's code, once for a process
                few = folder / f"few-{kind}-{number}"
                start = ours(kind, folder / "few.jsonl", folder / "tokenizer", few, given.processes)
            found = ours(kind, folder / "all.jsonl", folder / "tokenizer", folder / f"run-{kind}", given.processes)
            many = given.rows > 10**5  # too many texts to hold in memory
            other = None if many else bare(kind, folder / "all.jsonl", folder / "tokenizer", given.processes)
            _print(kind, given.processes, start, found, other)


def _print(kind: str, processes: int, start: Taken, found: Taken, other: Taken | None) -> None:
    rows, processor = found.rows - start.rows, found.processor - start.processor
    tokens = found.tokens - start.tokens
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    here, below = (resource.getrusage(who).ru_maxrss // 1024 for who in both)
    print(f"{kind}: {found.rows} rows, {found.tokens / found.rows:.0f} tokens a row, {processes} processes")
    print(f"  ours   {rows / processor:8,.0f} rows, {tokens / processor:10,.0f} tokens a second of one processor")
    print(f"         {found.rows / found.clock:8,.0f} rows a second of the clock, the start of the processes included")
    print(f"         start {start.processor:.1f} s of the processor; peak memory {here} MiB, {below} MiB in another")
    if other is not None:
        rate = other.tokens / other.processor
        print(f"  bare   {other.rows / other.processor:8,.0f} rows, {rate:10,.0f} tokens a second of one processor")
        print(f"  ours / bare, in rows: {rows / processor / (other.rows / other.processor):.2f}", flush=True)


if __name__ == "__main__":
    main()
