"""The last pass of rejection sampling over unit files that no model made: scoring, selection, and the files of rows.

    python tests/last_pass.py FOLDER PROMPTS K CHARACTERS    # prints the peak memory of the process, in MiB

What samples and what scores is replaced; the units, their keys, verification, selection and files are the real ones.
"""

from __future__ import annotations

import json
import random
import resource
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from align.judges.judge import ScoreRequest
from align.rows import Candidate, Message, Messages, PromptRow
from align.sampling.scoring import score_candidates
from align.sampling.verification import Verification
from align.sampling.work_units import run_units
from align.settings import ModelConfig
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from recipes.rejection_sample import RejectionSampleRecipe, _write_files


class Digits:
    """A judge: the last three digits of a completion."""

    identity = {"judge": "digits"}  # noqa: RUF012

    def score(self, prompt: Messages, completions: Sequence[Messages], tools: str = "") -> list[float]:
        return [float(messages[0].content[-3:]) for messages in completions]

    def score_many(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        return [self.score(*request) for request in requests]


def candidate(prompt: int, index: int, characters: int) -> Candidate:
    """A completion of about this many characters, in words of seven letters and digits, with a number at the end."""
    rng = random.Random(prompt * 1000 + index)
    letters = f"{rng.getrandbits(4 * characters):x}"
    words = [letters[place : place + 7] for place in range(0, len(letters), 7)]
    text = " ".join([*words, str(rng.randrange(100, 1000))])
    return Candidate(
        id=f"{prompt}-{index}",
        source=f"set-{prompt % 3}",
        prompt_id=f"p{prompt}",
        prompt=(Message(role="user", content=f"Say something about {prompt}."),),
        completion=(Message(role="assistant", content=text),),
        index=index,
        seed=rng.randrange(2**48),
        finished=rng.random() < 0.7,
    )


def write(folder: Path, prompts: int, k: int, characters: int, unit_size: int = 32, **settings: object) -> Path:
    """Make units of candidates, score them, and write the files of rows. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (named := folder / "input").write_text("What the manifests name as the inputs.\n")
    recipe = RejectionSampleRecipe(
        model=ModelConfig(path=named),
        reward_model=ModelConfig(path=named),
        prompts=named,
        k=k,
        unit_size=unit_size,
        output_dir=folder,
        **settings,  # type: ignore[arg-type]
    )

    def sample(first: int) -> tuple[list[Candidate], int]:
        unit = range(first, min(first + unit_size, prompts))
        return [candidate(prompt, index, characters) for prompt in unit for index in range(k)], len(unit) * k

    key = {"prompts": prompts, "k": k, "characters": characters, "unit_size": unit_size}
    firsts = range(0, prompts, unit_size)
    made = run_units(
        firsts, sample, Candidate, folder=folder / "units", key=key, label="candidates", things="candidates"
    )
    verification = Verification([PromptRow(id="p0", source="s", prompt=made[0][0].prompt)], ())
    scored = score_candidates(made, Digits(), folder=folder / "scores", unit_size=unit_size)
    verified = scored.map(verification.verify)
    evaluation = Decontamination(DecontaminationConfig())
    _write_files(recipe, verified, verification.counts(), evaluation, Counter(), Counter())
    return folder


def main() -> None:
    folder, prompts, k, characters = sys.argv[1:]
    write(Path(folder), int(prompts), int(k), int(characters))
    print(json.dumps({"peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


if __name__ == "__main__":
    main()
