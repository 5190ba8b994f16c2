"""Does pruning pay? SFT of the 135M model on equal tokens of a raw pool and of the same pool after the quality gates.

    python tests/bench/pruned_mix.py                      # on two cores; prints the table at the end
    python tests/bench/pruned_mix.py --planted 0          # the packaged rows alone, without planted defects

The pool is what a merge of sets would give: the answered instructions of LLaMA-Factory's Alpaca demo set, and its
preference pairs with both answers as dialogs, of which the rejected ones are worse. The ratio `--planted` of its rows
are defects as they are seen in real sets: copies and near copies of other rows, and answers that are cut off, empty,
loud, repetitive, in another language, with boilerplate or an over-used opening, or that go on as the user.

The raw mix is a random draw of the pool, the pruned mix a random draw of what the builder `quality` keeps of it, each
of `--tokens` tokens. Both train with `recipes/configs/sft/rehearsal.yaml` and are evaluated as in the rehearsal: the
pruned mix minus the raw mix, on the same questions. The log-probability of held-out answers of the Alpaca set is
compared in the same way.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from align.jsonl import read_rows, write_rows
from align.rows import Message, Messages, SFTRow
from data_builders import packaged

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".assets/SmolLM2-135M-Instruct"
HELDOUT = 100
RAW, PRUNED = "raw", "pruned"
SETS = {
    "instructions": ("instructions.heldout.jsonl", "instructions.rows"),
    "maths": ("maths.heldout.jsonl", "maths.problems"),
    "questions": ("questions.heldout.jsonl", "factuality.questions"),
}
"""Builder's folder -> its held-out file, and the evaluation's setting that reads it."""
EVALUATIONS = ("factuality", "instructions", "maths", "benchmarks")
GERMAN = "Das ist eine gute Frage, auf die es mehrere Antworten gibt. Wir sehen uns zuerst die wichtigsten Punkte an."


def row(name: str, source: str, prompt: Messages, answer: str) -> SFTRow:
    return SFTRow(id=name, source=source, messages=(*prompt, Message(role="assistant", content=answer)))


def packaged_rows() -> tuple[list[SFTRow], list[SFTRow]]:
    """The rows of the pool, and held-out rows that no row of the pool shares its instruction with."""
    asked = [
        row(f"alpaca-{number}", packaged.ALPACA, (Message(role="user", content=instruction),), answer)
        for number, (instruction, answer) in enumerate(packaged.answered_instructions())
    ]
    random.Random(0).shuffle(asked)
    pairs = [
        row(f"pair-{number}-{kind}", packaged.GENERAL, pair.prompt, answer)
        for number, pair in enumerate(packaged.general_pairs())
        for kind, answer in (("chosen", pair.chosen), ("rejected", pair.rejected))
    ]
    short = [each for each in pairs if sum(len(message.content) for message in each.messages) <= 1200]
    return asked[HELDOUT:] + short, asked[:HELDOUT]


def cut(answer: str, draw: random.Random) -> str:
    """The first part of an answer, which ends in the middle of a sentence."""
    words = answer.split()
    return " ".join(words[: max(8, len(words) // 2)]) + " and"


DEFECTS: dict[str, Callable[[str, random.Random], str]] = {
    "cut off": cut,
    "empty": lambda answer, draw: "...",
    "loud": lambda answer, draw: f"I apologize!!!!!! {answer} {'😀' * 17}",
    "repetitive": lambda answer, draw: "\n".join([answer.split(".")[0].ljust(20, ".")] * 6),
    "another language": lambda answer, draw: GERMAN,
    "boilerplate": lambda answer, draw: f"{answer}\nClick here to subscribe to our newsletter.\nShare this:",
    "role mix-up": lambda answer, draw: f"{answer}\nUser: And what else?\nAssistant: {answer}",
    "opening": lambda answer, draw: f"I'm sorry, but as an AI language model I can only say this: {answer}",
}


def planted(rows: list[SFTRow], ratio: float) -> list[SFTRow]:
    """The rows, of which some are worse, and copies: `ratio` of all rows that are returned, half of them copies."""
    draw = random.Random(1)
    count = round(len(rows) * ratio / (1 - ratio / 2) / 2)
    pool = []
    for number, each in enumerate(rows):
        if number < count:
            name = list(DEFECTS)[number % len(DEFECTS)]
            answer = DEFECTS[name](each.messages[-1].content, draw)
            each = row(f"{each.id}-{name.replace(' ', '-')}", each.source, each.messages[:-1], answer)
        pool.append(each)
    for number, each in enumerate(draw.sample(rows[count:], count)):
        words = each.messages[-1].content.split()
        if number % 2 and len(words) >= 30:
            words[draw.randrange(len(words))] = "indeed"
        pool.append(row(f"{each.id}-again", each.source, each.messages[:-1], " ".join(words)))
    return pool


def is_planted(each: SFTRow) -> bool:
    return each.id.endswith(("-again", *(f"-{name.replace(' ', '-')}" for name in DEFECTS)))


def mix_of(rows: list[SFTRow], tokens: int, tokenizer: Any) -> list[SFTRow]:
    """Rows in a random order until they have that many tokens; the last one may exceed it."""
    order = sorted(rows, key=lambda each: each.id)
    random.Random(2).shuffle(order)
    mix, left = [], tokens
    for each in order:
        if left <= 0:
            return mix
        mix.append(each)
        left -= sum(len(tokenizer(message.content)["input_ids"]) + 5 for message in each.messages)
    raise SystemExit(f"{len(rows)} rows have {tokens - left} tokens only: lower --tokens")


def recipe(name: str, config: str, *values: str) -> None:
    """Run a recipe as a user does."""
    command = [sys.executable, f"recipes/{name}.py", f"recipes/configs/{config}", *values]
    print("$", " ".join(command[1:]), flush=True)
    subprocess.run(command, check=True, cwd=ROOT)


def evaluation_sets(folder: Path) -> dict[str, Path]:
    """The held-out files of the rehearsal, by their folders."""
    recipe("build_data", "data/instructions.yaml", f"output={folder}/instructions")
    recipe("build_data", "data/maths.yaml", f"output={folder}/maths")
    recipe("build_data", "data/rehearsal.yaml", f"output={folder}/questions")
    return {name: folder / name / file for name, (file, _) in SETS.items()}


def pruned(folder: Path, sets: dict[str, Path]) -> list[SFTRow]:
    """What the gates keep of the pool."""
    heldout = ",".join(map(str, [*sets.values(), folder / "heldout.jsonl"]))
    values = [f"quality.path={folder}/pool.jsonl", f"quality.evaluation=[{heldout}]", f"output={folder}/quality"]
    recipe("build_data", "data/quality.yaml", *values, "quality.semantic.enabled=true")
    return read_rows(folder / "quality/rows.jsonl", SFTRow)


def trained(folder: Path, name: str, rows: list[SFTRow]) -> Path:
    """A checkpoint of SFT on the rows."""
    write_rows(folder / f"{name}.jsonl", rows)
    output = folder / name / "sft"
    values = [f"model.path={MODEL}", f"data.path={folder}/{name}.jsonl", f"training.output_dir={output}"]
    recipe("sft", "sft/rehearsal.yaml", *values)
    return output


def evaluated(folder: Path, name: str, checkpoint: Path, sets: dict[str, Path], baseline: Path | None) -> Path:
    """The folder with the evaluations of a checkpoint, compared with those in the folder `baseline`."""
    output = folder / name / "eval"
    values = [f"model.path={checkpoint}", f"output_dir={output}", "tool_use=null"]
    values += [f"{setting}={sets[name]}" for name, (_, setting) in SETS.items()]
    if baseline is not None:
        values += [f"{name}.baseline={baseline}/{name}.json" for name in EVALUATIONS]
    recipe("run_eval", "run_eval/rehearsal.yaml", *values)
    return output


def logps_per_token(checkpoint: Path, rows: list[SFTRow]) -> list[float]:
    """Nats per token of each row's answer, given its prompt."""
    from align.judges.judge import ScoreRequest
    from align.judges.likelihood import LikelihoodJudge
    from align.settings import ModelConfig

    judge = LikelihoodJudge.from_settings(ModelConfig(path=checkpoint, dtype="float32"), 2048)
    requests = [ScoreRequest(each.messages[:-1], (each.messages[-1:],), each.tools) for each in rows]
    counts = judge.token_counts(requests)
    return [score / count for (score,), (count,) in zip(judge.score_many(requests), counts, strict=True)]


def lines(raw: Path, pruned: Path, heldout: dict[str, list[float]]) -> Iterator[str]:
    """The table: each score of both models, and their paired difference with its 95% interval."""
    yield "| score | raw | pruned | pruned minus raw (95%) | n |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name in EVALUATIONS:
        before, after = (json.loads((folder / f"{name}.json").read_text()) for folder in (raw, pruned))
        for metric, found in after["differences"].items():
            values = [each["scores"].get(metric, {}).get("value") for each in (before, after)]
            shown = ["-" if value is None else f"{100 * value:.1f}%" for value in values]
            change = f"{100 * found['value']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
            yield f"| {name}: {metric} | {shown[0]} | {shown[1]} | {change} | {found['n']} |"
    gains = [after - before for before, after in zip(heldout[RAW], heldout[PRUNED], strict=True)]
    means = [statistics.mean(heldout[name]) for name in (RAW, PRUNED)]
    half = 1.96 * statistics.stdev(gains) / len(gains) ** 0.5
    gain = statistics.mean(gains)
    interval = f"{gain:+.4f} ({gain - half:+.4f} to {gain + half:+.4f})"
    yield f"| held-out answers, nats per token | {means[0]:.4f} | {means[1]:.4f} | {interval} | {len(gains)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/pruned_mix"))
    parser.add_argument("--tokens", type=int, default=60_000, help="of each mix")
    parser.add_argument("--planted", type=float, default=0.4, help="ratio of the rows of the pool, from 0 to 1")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows, heldout = packaged_rows()
    pool = planted(rows, arguments.planted)
    write_rows(folder / "pool.jsonl", pool)
    write_rows(folder / "heldout.jsonl", heldout)
    sets = evaluation_sets(folder)
    mixes = {RAW: mix_of(pool, arguments.tokens, tokenizer)}
    kept = pruned(folder, sets)
    mixes[PRUNED] = mix_of(kept, arguments.tokens, tokenizer)
    checkpoints = {name: trained(folder, name, mix) for name, mix in mixes.items()}
    raw = evaluated(folder, RAW, checkpoints[RAW], sets, None)
    found = evaluated(folder, PRUNED, checkpoints[PRUNED], sets, raw)
    logps = {name: logps_per_token(checkpoint, heldout) for name, checkpoint in checkpoints.items()}
    bad = {name: sum(is_planted(each) for each in mix) for name, mix in mixes.items()}
    rows_of = ", ".join(f"{name} {len(mix)} rows, {bad[name]} of them planted" for name, mix in mixes.items())
    print(f"\npool {len(pool)} rows, kept {len(kept)} by the gates; {rows_of}\n")
    print("\n".join(lines(raw, found, logps)))


if __name__ == "__main__":
    main()
