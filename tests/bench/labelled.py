"""How often the topics and the semantic duplicates of the builder `quality` are right, on rows labelled by hand.

python tests/bench/labelled.py paraphrases    # pairs that say the same and pairs that do not, by threshold
python tests/bench/labelled.py packaged       # questions of packaged sets; --show prints the pairs
python tests/bench/labelled.py topics         # instructions of the Alpaca demo set, and the classifier's own seed
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import yaml
from packaged_pairs import report

from align.assets import path_of, sentence_encoder
from align.models.embeddings import SentenceEncoder
from data_builders.quality.paraphrases import compared, numbers_in, says_other
from data_builders.quality.settings import TopicConfig
from data_builders.quality.topic import PACKAGED, ClassifierTagger, confusion, read_seed

LABELS = Path(__file__).parents[1] / "data_builders/quality"


def encoder() -> SentenceEncoder:
    return SentenceEncoder(sentence_encoder(), key="encoder", max_tokens=256)


def paraphrases() -> list[str]:
    """For several thresholds: labelled pairs that are found, and wrongly taken for duplicates, by part of the file."""
    lines = (LABELS / "paraphrases.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    one, other = (encoder().embed(["\n".join(pair[side]) for pair in pairs]) for side in ("one", "other"))
    cosines = (one * other).sum(1)
    open_ = [
        numbers_in(pair["one"][0]) == numbers_in(pair["other"][0])
        and not says_other(compared(*pair["one"]), compared(*pair["other"]))
        for pair in pairs
    ]
    parts = sorted({pair["part"] for pair in pairs})
    lines = ["| similarity |" + "".join(f" {part}: found | wrong | wrong by the encoder alone |" for part in parts)]
    lines.append("| ---: |" + " ---: | ---: | ---: |" * len(parts))
    for threshold in (0.7, 0.75, 0.775, 0.8, 0.85):
        line = f"| {threshold} |"
        for part in parts:
            cells: dict[
                bool, tuple[int, int, int]
            ] = {}  # same? -> taken for duplicates, pairs, and by the encoder alone
            for same in (True, False):
                own = [place for place, pair in enumerate(pairs) if (pair["part"], pair["same"]) == (part, same)]
                near = [place for place in own if cosines[place] >= threshold]
                cells[same] = sum(open_[place] for place in near), len(own), len(near)
            line += f" {cells[True][0]} of {cells[True][1]} | {cells[False][0]} of {cells[False][1]} |"
            line += f" {cells[False][2]} |"
        lines.append(line)
    return lines


def topics() -> list[str]:
    """The confusion of coarse topics on labelled instructions, and the accuracies on them and on the seed."""
    seed = read_seed(PACKAGED)
    tagger = ClassifierTagger(seed, encoder(), TopicConfig().l2)
    records = json.loads((path_of("llamafactory") / "data/alpaca_en_demo.json").read_text(encoding="utf-8"))
    listed = yaml.safe_load((LABELS / "alpaca_topics.yaml").read_text(encoding="utf-8"))
    labelled = [(place, fine) for fine, places in listed.items() for place in places]
    coarse = {fine: name for name, fine in seed.topics}
    found = [seed.topics[one or 0] for one in tagger.topics([records[place]["instruction"] for place, _ in labelled])]
    counts = Counter((coarse[fine], name) for (_, fine), (name, _) in zip(labelled, found, strict=True))
    names = list(dict.fromkeys(coarse.values()))
    lines = [f"| label | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    lines += [f"| {label} | {' | '.join(str(counts[label, name] or '') for name in names)} |" for label in names]
    right = sum(counts[name, name] for name in names)
    fine_right = sum(fine == one for (_, fine), (_, one) in zip(labelled, found, strict=True))
    lines.append(f"{right} coarse and {fine_right} fine topics of {len(labelled)} instructions are right.")
    own = confusion(seed, tagger.held_out())
    return [*lines, f"Of the seed: {own['coarse_accuracy']:.1%} coarse and {own['fine_accuracy']:.1%} fine topics."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("paraphrases", "packaged", "topics"))
    parser.add_argument("--show", action="store_true", help="packaged: print each pair, its label and its texts")
    arguments = parser.parse_args()
    tables = {"paraphrases": paraphrases, "packaged": lambda: report(encoder(), arguments.show), "topics": topics}
    print("\n".join(tables[arguments.what]()))


if __name__ == "__main__":
    main()
