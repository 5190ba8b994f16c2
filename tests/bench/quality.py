"""The quality pipeline at scale: time, memory, two processes against one, and what it finds of planted defects.

    python tests/bench/quality.py make --rows 20000        # writes the rows into --folder
    python tests/bench/quality.py run --processes 2        # runs the pipeline on them; prints one JSON line
    python tests/bench/quality.py check                    # recall and false drops of each kind of plant
    python tests/bench/quality.py leaks                    # planted leaks of all bundled benchmarks, by kind
    python tests/bench/quality.py scaling                  # two processes against one; with --ray also two of Ray
    python tests/bench/quality.py parts                    # what each part costs: normalization, MinHash, every gate
    python tests/bench/quality.py encoder --rows 1000      # the gate of paraphrases against a bare loop of its encoder

Rows are about 300 words of a Zipf-like vocabulary, each with the same seed for any number of rows. Of every 100 rows
two are exact copies, two near copies with a Jaccard of at least 0.7, one repeats a benchmark question, and one has a
defect that a rule finds. `run` measures wall and CPU seconds, and the peak memory of each process from the outside.

A million rows (2.2 GB, and 8 GB of shards while it runs):

    python tests/bench/quality.py make --rows 1000000 --folder runs/bench/million
    python tests/bench/quality.py run --processes 2 --folder runs/bench/million
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from align.files import fingerprint, whole_file
from align.formats.benchmark_sets import Question, pinned_questions
from align.text import word_ngrams
from data_builders.quality.settings import DecontaminationConfig

ROOT = Path(__file__).parents[2]
ORIGINAL, COPY, NEAR, LEAK, FAULT = "original", "copy", "near", "leak", "fault"
LEAKS = ("exact", "spacing", "a text before it", "its first 60%", "one word changed", "embedded", "in the answer")
FAULTS = (
    lambda text: f"I apologize!!!!!! {text}",
    lambda text: f"{text} {'😀' * 17}",
    lambda text: f"{text}<|eot_id|>",
    lambda text: f"{text}\nUser: And then?",
    lambda text: "...",
)


def vocabulary() -> tuple[list[str], list[float]]:
    """30,000 made-up words, and their cumulative weights: the n-th has the weight 1 / (n + 10)."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlucmfwypvbgkqjxz", k=draw.randint(2, 10))) for _ in range(30_000)]
    return words, list(accumulate(1 / (n + 10) for n in range(len(words))))


class Maker:
    """Makes rows, each from its own seed."""

    def __init__(self) -> None:
        self.words, self.weights = vocabulary()
        names = DecontaminationConfig().benchmarks
        self.questions = [question for name in names for question in pinned_questions(name, Counter())]
        self.questions = [question for question in self.questions if len(question.bare.split()) >= 8]

    def text(self, draw: random.Random, count: int) -> str:
        words = draw.choices(self.words, cum_weights=self.weights, k=count)
        return " ".join(f"{word.capitalize()}" if n % 15 == 0 else word for n, word in enumerate(words)) + "."

    def original(self, number: int) -> tuple[str, str]:
        draw = random.Random(f"row {number}")
        return self.text(draw, draw.randint(20, 80)), self.text(draw, draw.randint(150, 350))

    def changed(self, text: str, draw: random.Random, every: int) -> str:
        words = text.split()
        for place in draw.sample(range(len(words)), len(words) // every):
            words[place] = draw.choice(self.words)
        return " ".join(words)

    def row(self, number: int) -> dict[str, Any]:
        """The row of a number: of every 100, the last six are plants."""
        kind = {94: COPY, 95: COPY, 96: NEAR, 97: NEAR, 98: LEAK, 99: FAULT}.get(number % 100, ORIGINAL)
        draw = random.Random(f"plant {number}")
        name = f"{kind}-{number}"
        if kind in (COPY, NEAR):
            other = draw.randrange(number // 100) * 100 + draw.randrange(94) if number >= 100 else number % 100 - 94
            name += f"-of-{other}"
            prompt, answer = self.original(other)
            if kind == COPY:
                prompt = prompt.upper()
            else:
                prompt, answer = (self.changed(text, draw, 20) for text in (prompt, answer))
        else:
            prompt, answer = self.original(number)
        if kind == LEAK:
            prompt = f"{prompt} {draw.choice(self.questions).bare}"
        elif kind == FAULT:
            answer = draw.choice(FAULTS)(answer)
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        return {"id": name, "source": kind, "messages": messages}


def make(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the rows, streamed."""
    maker = Maker()
    with whole_file(arguments.folder / "rows.jsonl") as handle:
        for number in range(arguments.rows):
            handle.write(json.dumps(maker.row(number)) + "\n")
    return {"rows": arguments.rows, "bytes": (arguments.folder / "rows.jsonl").stat().st_size}


def output_of(arguments: argparse.Namespace) -> Path:
    return Path(arguments.folder / f"out-{'ray-' if arguments.ray else ''}{arguments.processes}")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the builder as a user does, and watch the memory of its processes."""
    output = output_of(arguments)
    shutil.rmtree(output, ignore_errors=True)  # shards of an earlier run would not be made again
    values = [f"quality.path={arguments.folder / 'rows.jsonl'}", f"quality.processes={arguments.processes}"]
    values += [f"quality.ray={{workers: {arguments.processes}}}"] if arguments.ray else []
    values += [f"output={output}", "quality.language.enabled=false", f"quality.shard_rows={arguments.shard_rows}"]
    command = [sys.executable, "recipes/build_data.py", "recipes/configs/data/quality.yaml", *values]
    began = time.monotonic()
    process = psutil.Popen(command, cwd=ROOT)
    peak, each, cpu = 0, Counter[int](), Counter[int]()
    while process.poll() is None:
        try:
            tree = [process, *process.children(recursive=True)]
            sizes = {one.pid: one.memory_full_info().pss for one in tree}
            cpu.update({one.pid: max(0, sum(one.cpu_times()[:2]) - cpu[one.pid]) for one in tree})
        except psutil.Error:
            continue
        peak = max(peak, sum(sizes.values()))
        for pid, size in sizes.items():
            each[pid] = max(each[pid], size)
        time.sleep(0.5)
    seconds = time.monotonic() - began
    counts = json.loads((output / "rows.jsonl.manifest.json").read_text(encoding="utf-8"))["counts"]
    return {
        "rows": counts["read"],
        "processes": arguments.processes,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(cpu.values()), 1),
        "rows_per_second": round(counts["read"] / seconds),
        "peak_mb": round(peak / 1e6),
        "peak_mb_of_a_process": round(max(each.values()) / 1e6),
        "gates": {gate["gate"]: gate["in"] - gate["out"] for gate in counts["gates"]},
    }


def check(arguments: argparse.Namespace) -> dict[str, Any]:
    """Recall of each kind of plant, and the ratio of originals that were dropped."""
    import pyarrow.parquet as pq

    maker = Maker()
    table = pq.read_table(output_of(arguments) / "decisions.parquet")
    gates = dict(zip(*(table.column(name).to_pylist() for name in ("id", "gate")), strict=True))
    found: dict[str, list[bool]] = {kind: [] for kind in (ORIGINAL, COPY, NEAR, LEAK, FAULT)}
    for name, gate in gates.items():
        kind, _, rest = name.partition("-")
        if kind in (COPY, NEAR):
            number, other = (int(part) for part in rest.split("-of-"))
            whole = f"{ORIGINAL}-{other}"
            if gates.get(whole):  # the original was dropped itself, so nothing is repeated
                continue
            if kind == NEAR and _similarity(maker.row(number), maker.original(other)) < 0.7:
                continue
        found[kind].append(bool(gate))
    shares = {kind: round(sum(flags) / max(len(flags), 1), 5) for kind, flags in found.items()}
    return {"dropped_ratio": shares, "rows": {kind: len(flags) for kind, flags in found.items()}}


def leaks(arguments: argparse.Namespace) -> dict[str, Any]:
    """Planted leaks of the bundled benchmarks' questions of at least six words, and false drops."""
    from align.rows import Message, PromptRow, SFTRow
    from data_builders import packaged
    from data_builders.quality.decontamination import Decontamination

    maker, against = Maker(), Decontamination.of([], DecontaminationConfig())
    draw = random.Random(1)
    questions = draw.sample([each for each in maker.questions if len(each.bare.split()) >= 6], arguments.questions)

    def planted(kind: str, question: Question) -> tuple[str, str]:
        text, filler = question.bare, maker.text(draw, 40)
        words = text.split()
        cut = " ".join(words[: max(5, round(0.6 * len(words)))])
        place = draw.randrange(len(words))
        one = " ".join([*words[:place], draw.choice(maker.words), *words[place + 1 :]])
        return {
            "exact": (text, filler),
            "spacing": (f"  {text.upper().replace(' ', '   ')} !", filler),
            "a text before it": (f"Please answer this: {text}", filler),
            "its first 60%": (cut, filler),
            "one word changed": (one, filler),
            "embedded": (f"{filler} {text} {filler}", filler),
            "in the answer": (filler, f"{filler} {text} {question.choices[question.right]}"),
        }[kind]

    found = {}
    for kind in LEAKS:
        rows = []
        for number, question in enumerate(questions):
            texts = zip(("user", "assistant"), planted(kind, question), strict=True)
            messages = tuple(Message(role=role, content=text) for role, text in texts)  # type: ignore[arg-type]
            rows.append(SFTRow(id=str(number), source="planted", messages=messages))
        found[kind] = round(len(against.drops(rows)) / len(rows), 4)
    texts = [*packaged.instructions(), *(pair.prompt[-1].content for pair in packaged.general_pairs())]
    clean = [
        PromptRow(id=str(number), source="clean", prompt=(Message(role="user", content=text),))
        for number, text in enumerate(texts)
    ]
    return {"found": found, "false_drops": f"{len(against.drops(clean))} of {len(clean)}"}


def scaling(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same rows with one process and with two, and with --ray with two workers of Ray; all write the same bytes."""
    settings = [{"processes": 1, "ray": False}, {"processes": 2, "ray": False}]
    settings += [{"processes": 2, "ray": True}] if arguments.ray else []
    found = []
    for each in settings:
        varied = argparse.Namespace(**(vars(arguments) | each))
        found.append(each | run(varied) | {"blake3": fingerprint(output_of(varied) / "rows.jsonl")[:16]})
    assert len({each["blake3"] for each in found}) == 1, found
    faster = {f"{'ray' if each['ray'] else 'processes'} 2": found[0]["seconds"] / each["seconds"] for each in found[1:]}
    return {"runs": found, "times_as_fast_as_one": {name: round(value, 2) for name, value in faster.items()}}


def parts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a core for 1000 rows: reading, normalization, hashes and MinHash alone, then every gate in turn.

    A gate uses what the gates before it have normalized already, as in the pipeline.
    """
    import rensa

    import align.text
    from align.jsonl import row_from
    from align.ngrams import shingle_sets, word_hashes
    from align.rows import SFTRow
    from data_builders.quality.builder import QualityConfig, steps_of
    from data_builders.quality.duplicates import _HASHES, _SEED
    from data_builders.quality.texts import texts_of

    with (arguments.folder / "rows.jsonl").open("rb") as handle:
        lines = [line for line, _ in zip(handle, range(4096), strict=False)]
    steps = steps_of(QualityConfig(path=arguments.folder / "rows.jsonl"), arguments.folder / "parts")
    digests = rensa.RMinHash.digest_matrix_from_flat_token_hashes
    spent: Counter[str] = Counter()

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        spent[name] += time.process_time() - began
        return result

    for start in range(0, len(lines), 512):
        batch = lines[start : start + 512]
        rows = timed("reading", lambda batch=batch: [row_from(line, SFTRow, "rows", ())[0] for line in batch])
        texts = [text for row in rows for text in texts_of(row)]
        align.text._RECENT.clear()
        timed("normalization alone", lambda texts=texts: [align.text.normalize(text) for text in texts])
        words = timed("hashes of words alone", lambda texts=texts: word_hashes(texts))
        values, starts = shingle_sets(words, 3)
        limits = starts.astype("uint64")
        timed("MinHash alone", lambda v=values, s=limits: digests(v, s, _HASHES, _SEED))
        align.text._RECENT.clear()
        for step in steps:
            timed(step.name, lambda step=step, rows=rows: step.examine(rows))
    return {name: round(1e6 * seconds / len(lines), 1) for name, seconds in spent.items()}


def encoder(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows a second of the gate of paraphrases, from JSON to a file with vectors, and of a bare loop of its encoder
    over the same batches of texts.
    """
    import torch

    from align.rows import SFTRow
    from data_builders.quality.semantic import SemanticDuplicates
    from data_builders.quality.settings import SemanticConfig
    from data_builders.quality.shards import ShardFiles
    from data_builders.quality.texts import whole_text

    with (arguments.folder / "rows.jsonl").open(encoding="utf-8") as handle:
        lines = [line for line, _ in zip(handle, range(arguments.rows), strict=False)]
    step = SemanticDuplicates(SemanticConfig(enabled=True))
    loaded, size = step._encoder, step._config.batch_size
    texts = sorted((whole_text(SFTRow.model_validate_json(line)) for line in lines), key=len)
    files = ShardFiles(arguments.folder / "encoder", "work", 1)
    files.folder.mkdir(parents=True, exist_ok=True)

    def ours() -> None:
        def made(_: int) -> pa.Table:
            return pa.table(step.examine([SFTRow.model_validate_json(line) for line in lines]).columns)

        files.make(0, made)

    def bare() -> None:
        options = {"padding": True, "truncation": True, "max_length": step._config.max_tokens, "return_tensors": "pt"}
        with torch.inference_mode():
            for start in range(0, len(texts), size):
                inputs = loaded._tokenizer(texts[start : start + size], **options)
                states = loaded._encoder(**inputs).last_hidden_state
                mask = inputs["attention_mask"].unsqueeze(-1)
                torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()

    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(3):
        for name, work in (("bare", bare), ("ours", ours)):
            began = time.monotonic()
            work()
            seconds[name].append(time.monotonic() - began)
    best = {name: min(times) for name, times in seconds.items()}
    rates = {f"{name}_rows_per_second": round(len(lines) / value, 1) for name, value in best.items()}
    return {**rates, "ratio": round(best["bare"] / best["ours"], 3)}


def _similarity(row: dict[str, Any], original: tuple[str, str]) -> float:
    first = set(word_ngrams("\n".join(message["content"] for message in row["messages"]), 3))
    second = set(word_ngrams("\n".join(original), 3))
    return len(first & second) / len(first | second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {each.__name__: each for each in (make, run, check, leaks, scaling, parts, encoder)}
    parser.add_argument("what", choices=commands)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/quality"))
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shard-rows", type=int, default=4096)
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--ray", action="store_true", help="share the work through Ray; requires the extra ray")
    arguments = parser.parse_args()
    print(json.dumps(commands[arguments.what](arguments)))


if __name__ == "__main__":
    main()
