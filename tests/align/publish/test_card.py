"""What a card says: the models and rows that a checkpoint was made from, the terms of both, and the paper's recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from align.config import dump
from align.manifest import SEAL, verify_folder, write_data_manifest
from align.publish import hub
from align.publish.facts import CardFacts, DataFile, Evaluation, card_facts
from align.publish.hub import publish
from align.publish.licences import most_restrictive_first, terms_of
from align.publish.lineage import Lineage, Step, lineage_of
from align.publish.markdown import cell, fenced, table
from align.publish.model_card import model_card
from align.publish.parity import KNOBS, NOT_STATED, parity
from align.settings import DPOConfig, HubConfig, RewardConfig, SFTConfig, TrainingConfig
from recipes.publish import PublishRecipe, run
from recipes.rejection_sample import RejectionSampleRecipe
from tests.published import card_of, made, rows_of, trained

BASE = "meta-llama/Llama-3.1-8B"


class Rounds:
    """Two rounds as the recipes leave them: candidates, their mix, SFT, DPO, a reward model and an average."""

    def __init__(self, folder: Path, start: str = BASE) -> None:
        self.folder = folder
        self.prompts = rows_of(folder / "data" / "prompts.jsonl", "llamafactory/alpaca_en_demo")
        self.heldout = rows_of(folder / "data" / "heldout.jsonl", "never/trained-on")
        best: Path | str = "Qwen/Qwen3-8B"
        for number in (1, 2):
            here = folder / f"round-{number}"
            pairs = rows_of(here / "preferences.jsonl", "people/pairs")
            reward = trained(here / "reward", start, pairs, "reward")
            candidates = self.rows(
                here / "candidates" / "sft.jsonl",
                f"round-{number}/llamafactory/alpaca_en_demo",
                model={"path": str(best), "dtype": "float32", "chat": "auto"},
                reward_model={"path": str(reward)},
                prompts=str(self.prompts),
                k=4,
            )
            sources = {"candidates": {"path": [str(candidates)]}}
            mix = self.rows(here / "mix" / "sft.jsonl", "tasks/office", sources=sources, evaluation=[str(self.heldout)])
            sft = trained(here / "sft", start, mix)
            dpo = trained(here / "dpo", sft, pairs, "dpo")
            members = [
                {"checkpoint": f"round-{number}/{each.name}", "weight": 0.5, **self.note(each)} for each in (dpo, sft)
            ]
            best = made(here / "average", {"stage": "average", "averaged": members})
        self.last = Path(best)

    @staticmethod
    def rows(path: Path, source: str, **config: Any) -> Path:
        path.parent.mkdir(parents=True)
        rows_of(path, source, counted=False)
        write_data_manifest(path, config=config, counts={"rows": 1, "sources": {source: 1}})
        return path

    @staticmethod
    def note(checkpoint: Path) -> dict[str, Any]:
        """What an average records of a member: without this machine's part of paths."""
        manifest = json.loads((checkpoint / SEAL).read_text())
        config = manifest["config"]
        short = {"/".join(Path(config["model"]["path"]).parts[-2:]), config["model"]["path"]}
        path = min(short, key=len)
        return {"stage": manifest["stage"], "config": {**config, "model": {"path": path}}, "steps": 9}


def two_rounds(folder: Path) -> Rounds:
    for name in ("data", "round-1", "round-2"):
        (folder / "run" / name).mkdir(parents=True)
    return Rounds(folder / "run")


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Rounds:
    """For tests that change nothing."""
    return two_rounds(tmp_path_factory.mktemp("rounds"))


def lineage(checkpoint: Path) -> Lineage:
    return lineage_of(checkpoint, verify_folder(checkpoint))


# What it was made from


def test_every_round_and_every_model_that_wrote_or_ranked_rows_is_found(rounds: Rounds) -> None:
    found = lineage(rounds.last)
    assert found.bases == [BASE]
    assert found.unknown == []
    assert sorted(found.writers) == ["Qwen/Qwen3-8B", BASE], "round 1 was sampled from another model"
    assert sorted(path.name for path in found.data) == ["preferences.jsonl", "sft.jsonl"]
    steps = {(step.stage, step.round): step for step in found.steps}
    assert {stage for stage, number in steps if number == 1} == {
        *("average", "dpo", "sft", "reward", "rejection_sample", "sft_mix", "rows")
    }
    assert {key for key, step in steps.items() if step.of_weights} == {("average", 2), ("dpo", 2), ("sft", 2)}
    assert steps["average", 2].members == ("dpo", "sft")
    assert not any("heldout" in step.name for step in found.steps)


def test_rows_that_were_only_evaluated_on_give_no_licence(rounds: Rounds) -> None:
    _, body = card_of(rounds.last)
    assert "never/trained-on" not in body
    assert "people/pairs" in body


def test_a_shortened_path_is_no_name_on_the_hub(tmp_path: Path) -> None:
    """An average records `base/model` of /data/base/model, which reads like owner/name."""
    start = tmp_path / "base" / "model"
    start.mkdir(parents=True)
    (start / "config.json").write_text("{}")
    rows = rows_of(tmp_path / "sft.jsonl", "tasks/office")
    member = trained(tmp_path / "run" / "sft", start, rows)
    note = {"checkpoint": "run/sft", "weight": 1.0, **Rounds.note(member)}
    average = made(tmp_path / "run" / "average", {"averaged": [note]})
    assert note["config"]["model"]["path"] == "base/model"
    assert (lineage(average).bases, lineage(average).unknown) == ([], ["base/model"])
    elsewhere = made(tmp_path / "other" / "place" / "x" / "y" / "average", {"averaged": [note]})
    assert (lineage(elsewhere).bases, lineage(elsewhere).unknown) == ([], ["base/model"])


def test_both_doors_make_the_same_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rounds = two_rounds(tmp_path)
    evaluated = rounds.folder / "round-2" / "eval"
    evaluated.mkdir()
    scores = {"wrong": {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9}}
    (evaluated / "factuality.json").write_text(
        json.dumps({"name": "factuality", "model": str(rounds.last), "scores": scores})
    )
    hub = HubConfig(repo="me/llama-x", languages=("en",), licences={"people/pairs": "cc0-1.0"})
    assert publish(rounds.last, hub) is False
    card = (rounds.last / "README.md").read_text()
    (rounds.last / "README.md").unlink()
    assert run(PublishRecipe(checkpoint=rounds.last, hub=hub)) is False
    assert (rounds.last / "README.md").read_text() == card
    for part in ("factuality", "20.0%", "people/pairs: cc0-1.0", "round-1/reward", "Compared with Llama 3"):
        assert part in card, part
    assert 'revision="round-2"' in card, "main does not have it"
    assert "branch round-2" in capsys.readouterr().out
    publish(rounds.last, hub.model_copy(update={"update_main": True}))
    assert "revision=" not in (rounds.last / "README.md").read_text()


def test_evaluations_next_to_a_checkpoint_are_found_and_those_of_others_are_not(tmp_path: Path) -> None:
    rounds = two_rounds(tmp_path)
    here = rounds.folder / "round-2"
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    for folder, name, model in (
        ("eval", "factuality", rounds.last),
        ("eval-dev", "factuality", rounds.last),
        ("eval", "maths", rounds.folder / "round-1" / "average"),
        ("sft", "factuality", rounds.last),  # a checkpoint is no folder of results
        ("mix", "other", None),
    ):
        (here / folder).mkdir(exist_ok=True)
        record = {"name": name, "model": str(model), "scores": {"right": score}} if model else {"name": name}
        (here / folder / f"{name}.json").write_text(json.dumps(record))
    facts = card_facts(rounds.last, verify_folder(rounds.last), HubConfig(repo="me/x"))
    assert [each.name for each in facts.evaluations] == ["factuality (eval)", "factuality (eval-dev)"]


def test_no_path_of_the_machine_is_in_a_card(rounds: Rounds) -> None:
    head, body = card_of(rounds.last)
    above = rounds.folder.parent
    assert str(above) not in body + json.dumps(head)
    assert above.name not in body


# Licences


def test_licences_come_the_most_restrictive_first() -> None:
    ordered = ["cc-by-nc-4.0", "cc-by-nd-4.0", "unknown", "llama3.1", "cc-by-sa-4.0", "mit", "cc0-1.0"]
    for shuffled in (ordered[::-1], sorted(ordered), ordered[3:] + ordered[:3]):
        assert list(most_restrictive_first((name, name) for name in shuffled)) == ordered
    assert terms_of("cc-by-nc-sa-4.0").text == "no commercial use, derivatives under the same licence"
    assert terms_of("cc-by-nc-nd-4.0").text == "no commercial use, no derivatives"
    assert most_restrictive_first([("b", "mit"), ("a", "mit"), ("b", "mit")]) == {"mit": ["b", "a"]}


def test_a_card_begins_with_what_a_licence_demands_and_what_forbids_commercial_use(
    rounds: Rounds, tmp_path: Path
) -> None:
    head, body = card_of(rounds.last)
    before = body.partition("## Usage")[0]
    assert "Built with Llama" in before
    assert "**Not for commercial use**" not in before, "alpaca's rows are mixed as the source tasks here"
    assert head["license"] == "other"
    nc = trained(tmp_path / "nc", BASE, rounds.folder / "round-2" / "candidates" / "sft.jsonl")
    before = card_of(nc)[1].partition("## Usage")[0]
    assert "**Not for commercial use**, because of llamafactory/alpaca\\_en\\_demo (cc-by-nc-4.0)." in before


def test_rows_that_a_llama_model_wrote_bring_its_licence(tmp_path: Path) -> None:
    """Of a model that is no Llama itself: the community licence covers models that were trained on Llama's output."""
    (tmp_path / "candidates").mkdir()
    rows = tmp_path / "candidates" / "sft.jsonl"
    rows_of(rows, "tasks/office", counted=False)
    config = {"model": {"path": BASE}, "reward_model": {"path": "google/gemma-2b"}, "k": 4}
    write_data_manifest(rows, config=config, counts={"rows": 1, "sources": {"tasks/office": 1}})
    head, body = card_of(trained(tmp_path / "sft", "HuggingFaceTB/SmolLM2-135M", rows))
    assert head["license"] == "llama3.1"
    assert "Built with Llama" in body
    assert f"Rows were written by models that began from: {BASE}" in body
    assert "gemma" not in body, "a model that only ranks rows writes none"


@pytest.mark.parametrize("repo, warned", [("me/my-llama", True), ("me/Llama-3.1-x", False), ("me/llama_x", False)])
def test_a_name_that_the_licence_of_llama_forbids_is_warned_of(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch, repo: str, warned: bool
) -> None:
    said: list[str] = []
    monkeypatch.setattr(hub.log, "warning", lambda text, *values: said.append(text % values))
    hub._warn_of_name(repo, card_facts(rounds.last, verify_folder(rounds.last), HubConfig(repo=repo)))
    expected = (
        f"{repo}: the licence llama3.1, which applies here, asks for a name that begins with Llama; choose another"
    )
    assert [text.startswith(expected) for text in said] == [True] * warned


# The recipe of the paper

PAPER = {  # arXiv:2407.21783, read again from the paper's sections 4.1 to 4.3 and 5.2
    ("rounds", "rounds"): ("6", "4.1.6"),
    ("reward", "starts from"): ("the pre-trained model", "4.1.2"),
    ("reward", "margin in the loss"): ("none", "4.1.2"),
    ("reward", "ranking"): ("edited > chosen > rejected", "4.1.2"),
    ("reward", "levels of preference"): ("significantly better and better", "4.2.1"),
    ("rejection sampling", "samples per prompt"): ("10 to 30", "4.2.2"),
    ("sft", "starts from"): ("the pre-trained model", "4.1"),
    ("sft", "learning rate"): ("1e-5", "4.1.3"),
    ("sft", "steps"): ("8,500 to 9,000", "4.1.3"),
    ("dpo", "learning rate"): ("1e-5", "4.1.4"),
    ("dpo", "beta"): ("0.1", "4.1.4"),
    ("dpo", "coefficient of the NLL"): ("0.2", "4.1.4"),
    ("dpo", "header and end tokens masked"): ("yes", "4.1.4"),
    ("dpo", "steps"): ("fewer than SFT", "4.3.4"),
    ("average", "averaged"): ("reward, SFT and DPO models, by stage", "4.1.5"),
    ("knowledge probe", "who judges the answers"): ("Llama 3", "4.3.6"),
    ("decontamination", "evaluation prompts in SFT rows"): ("dropped at an exact match", "5.2"),
}
SILENT = {"batch size", "schedule", "weight decay", "normalization of the NLL", "temperature", "members", "epochs"}
"""What the paper does not state."""


def test_the_table_has_the_numbers_of_the_paper_and_invents_none() -> None:
    stated = {(knob.stage, knob.name): (knob.paper, knob.section) for knob in KNOBS}
    assert len(stated) == len(KNOBS), "one line for each knob"
    assert {key: stated[key] for key in PAPER} == PAPER
    assert {knob.name for knob in KNOBS if knob.agrees is None} >= SILENT
    for knob in KNOBS:
        assert (knob.agrees is None) == (knob.paper == ""), knob.name


def paper_run(**changes: Any) -> Lineage:
    """The lineage of a run with the toolkit's defaults, and where they leave it open with the paper's values."""
    training = dump(TrainingConfig(output_dir=Path("x")))
    levels = {"levels": ["significantly better", "better"]}

    def step(stage: str, objective: Any, start: str, steps: int, **more: Any) -> Step:
        config = {"model": {"path": start}, "training": training, "data": levels, stage: dump(objective)}
        return Step(stage, f"round-6/{stage}", config | changes.get(stage, {}), True, 6, steps, **more)

    sampled = {name: field.default for name, field in RejectionSampleRecipe.model_fields.items()}
    sampled |= {"k": 16, "steering": {"*": "Be brief."}, "sampling": {"temperature": 0.8}}
    steps = [step("reward", RewardConfig(), BASE, 900), step("sft", SFTConfig(), BASE, 8700)]
    steps += [step("dpo", DPOConfig(), "round-6/sft", 2000)]
    steps += [Step("average", f"round-6/{of}-average", {}, True, 6, None, (of, of)) for of in ("reward", "sft", "dpo")]
    steps.append(Step("rejection_sample", "round-6/candidates", sampled | changes.get("sampling", {}), False, 6))
    steps.append(Step("sft_mix", "round-6/mix", {"evaluation": changes.get("evaluation", ["mmlu.jsonl"])}, False, 6))
    steps.append(Step("knowledge_probe", "round-6/probe", {"judge": "model", "samples": 5}, False, 6))
    return Lineage(steps=steps)


def test_the_defaults_are_those_of_the_paper_but_for_the_exact_mask() -> None:
    lines = parity(paper_run())
    assert len(lines) == len(KNOBS)
    assert [line.name for line in lines if line.verdict == "changed"] == ["responses in one row"]
    assert {line.name for line in lines if line.verdict == NOT_STATED} >= SILENT


@pytest.mark.parametrize(
    "changes, name, shown",
    [
        ({"dpo": {"dpo": {"beta": 0.05}}}, "beta", "0.05"),
        ({"dpo": {"dpo": {"nll_coefficient": 0.0}}}, "coefficient of the NLL", "0"),
        ({"dpo": {"dpo": {"mask_format_tokens": False}}}, "header and end tokens masked", "no"),
        ({"dpo": {"dpo": {"loss": "ipo"}}}, "loss", "ipo"),
        ({"dpo": {"model": {"path": "runs/other"}}}, "starts from", "another model: runs/other"),
        ({"sft": {"training": {"learning_rate": 2e-5}}}, "learning rate", "2e-05"),
        ({"sft": {"sft": {"train_on": "all"}}}, "target", "all"),
        (
            {"sft": {"model": {"path": f"{BASE}-Instruct"}}},
            "starts from",
            f"post-trained: {BASE}-Instruct",
        ),
        ({"reward": {"reward": {"margins": {"better": 0.67}}}}, "margin in the loss", "better: 0.67"),
        ({"reward": {"data": {"levels": ["slightly better"]}}}, "levels of preference", "slightly better"),
        ({"sampling": {"k": 4}}, "samples per prompt", "4"),
        ({"sampling": {"steering": {}}}, "steering by system prompts", "none"),
        ({"evaluation": []}, "evaluation prompts in SFT rows", "not checked"),
    ],
)
def test_a_changed_knob_is_said_to_be_changed(changes: dict[str, Any], name: str, shown: str) -> None:
    found = [line for line in parity(paper_run(**changes)) if line.verdict == "changed"]
    assert (name, shown) in [(line.name, line.ours) for line in found]
    assert len(found) <= 2, "this one and the exact mask"


def test_values_of_several_members_are_all_shown() -> None:
    lineage = paper_run()
    other = Step("dpo", "round-6/dpo-2", {"dpo": {"beta": 0.05}}, True, 6, 2000)
    lineage.steps.append(other)
    (beta,) = (line for line in parity(lineage) if line.name == "beta")
    assert (beta.ours, beta.verdict) == ("0.1, 0.05", "changed")


def test_the_effective_training_time_of_a_stage_is_in_its_card(tmp_path: Path) -> None:
    sft = trained(tmp_path / "round-1" / "sft", BASE, rows_of(tmp_path / "sft.jsonl", "tasks/office"))
    nothing = {"start": 1, "event": "begin", "time": 0.0, "step": None, "trained": 0.0, "seconds": {}}
    starts = [
        *(nothing, nothing | {"event": "saved", "time": 60.0, "step": 5, "trained": 50.0}),
        *(nothing | {"start": 2, "time": 70.0}, nothing | {"start": 2, "event": "train", "time": 75.0, "step": 5}),
        nothing | {"start": 2, "event": "end", "time": 100.0, "step": 8, "trained": 20.0, "outcome": "finished"},
    ]
    (sft / "starts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in starts))
    dpo = trained(tmp_path / "round-1" / "dpo", sft, rows_of(tmp_path / "dpo.jsonl", "people/pairs"), "dpo")
    said = card_of(dpo)[1].partition("Effective training time")[2].partition("\n")[0]
    assert said.endswith("round-1/sft 70% of 1 min 40 s in 2 starts.")
    assert "dpo" not in said, "nothing is known of it"


def test_stages_that_a_model_did_not_go_through_are_left_out(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "sft.jsonl", "tasks/office")
    lines = parity(lineage(trained(tmp_path / "sft", BASE, rows)))
    assert {line.stage for line in lines} == {"sft", "average"}
    assert [line.ours for line in lines if line.stage == "average"] == ["nothing"]


def test_the_card_in_the_documentation_is_one_that_the_code_makes() -> None:
    page = (Path(__file__).parents[3] / "docs" / "publishing.md").read_text(encoding="utf-8")
    card = ModelCard(page.partition("````markdown\n")[2].partition("\n````")[0])
    assert card.data.to_dict()["base_model_relation"] == "merge"
    made_by = (
        "## Usage|## Evaluation|## How it was made|## Training|## Data|## Licence|## Compared with Llama 3|## Limits"
    )
    assert re.findall("(?m)^## .*$", card.text) == [*made_by.split("|"), "## Settings"]
    table = card.text.partition("## Compared with Llama 3")[2].partition("## Limits")[0]
    lines = [tuple(cell.strip() for cell in line.strip("| ").split("|")) for line in table.splitlines() if "| " in line]
    known = {(knob.stage, knob.name): (knob.paper or "-", knob.section) for knob in KNOBS}
    assert len(lines) > 20
    for stage, name, paper, section, _, _ in lines[2:]:
        assert known[stage, name] == (paper, section)


# Text


def test_intervals_are_in_the_hubs_own_metadata_and_in_the_text() -> None:
    score = {"value": 0.19, "low": 0.14, "high": 0.25, "n": 300}
    change = {"wrong": {"value": -0.1, "low": -0.2, "high": 0.01, "n": 300}}
    evaluations = (Evaluation("factuality", {"wrong": score, "text": {"value": "good"}}, change),)
    card = ModelCard(model_card({"stage": "sft"}, CardFacts(title="m", evaluations=evaluations)))
    [result] = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("wrong", 0.19)
    assert result.metric_args == {"confidence": 0.95, "low": 0.14, "high": 0.25, "n": 300}
    assert "| factuality | wrong | 19.0% | 14.0% to 25.0% | 300 | -10.0 (-20.0 to +1.0) |" in card.text
    assert "| factuality | text | good | - | - | - |" in card.text


INJECTIONS = [
    "a\n---\nlicense: mit\n---\n",
    "x: {y: [",
    "</table><script>alert(1)</script>",
    "| a | b |\n|---|---|",
    "![i](https://evil.example/i.png)",
    "[l](javascript:alert(1))",
    "$\\href{https://evil.example}{x}$",
    "`code` **b** ~~s~~ <https://evil.example> ann@evil.example",
    "left\u202eright\u0000\u2028line\ud800",
    "```\n# heading",
]


@pytest.mark.parametrize("bad", INJECTIONS)
def test_no_field_from_data_becomes_markup_or_metadata(bad: str) -> None:
    config: dict[str, Any] = {"training": {"learning_rate": bad}}
    facts = CardFacts(
        title=bad,
        repo="me/model",
        lineage=Lineage(
            unknown=[bad],
            unknown_writers=[bad],
            datasets=["me/rows"],
            steps=[
                Step("sft", bad, {"training": {"learning_rate": bad}, "sft": {bad: bad}, "model": {"path": bad}}, True)
            ],
        ),
        licences=((bad, bad), (bad, "cc-by-nc-4.0")),
        license="other",
        data=(DataFile(bad, 1, {bad: 1}, {bad: bad}),),
        model_type=bad,
        evaluations=(Evaluation(bad, {bad: {"value": 0.5, "low": 0.1, "high": 0.9, "n": 3}}, {bad: {}}),),
        command=bad,
    )
    config = {"training": {"save_dtype": bad}, "model": {"lora": {"rank": bad, "alpha": bad}}}
    manifest = {"stage": bad, "steps": bad, "processes": bad, "config": config, "made_by": {bad: bad}}
    manifest |= {"averaged": [{"checkpoint": bad, "weight": bad, "config": {bad: bad}}], "merged": {"adapter": bad}}
    trial = {"weights": [1.0], "objective": 0.5, "scores": {bad: {"value": 0.5}}}
    settings = {"score": {bad: 1.0}, "method": bad, "max_evaluations": bad}
    manifest["search"] = {"settings": settings, "checkpoints": [{"checkpoint": bad}], "trials": [trial], "weights": [1]}
    text = model_card(manifest, facts)
    assert text.encode()
    head = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert head.keys() == {
        *("library_name", "license", "license_name", "license_link", "pipeline_tag", "tags", "datasets", "model-index")
    }
    assert ModelCard(text).data.license == "other"
    body = text[text.index("\n---\n") + 5 :]
    escaped = body.replace("\\](", "")
    outside = "\n".join(escaped.split("```")[::2]) if bad != "```\n# heading" else escaped.split("## Usage")[0]
    for live in ("<script", "](javascript", "![i](", "<https", "**b**", "~~s~~", "`code`", "ann@", "\u202e", "\u2028"):
        assert live not in outside
    assert "](" not in outside.replace("[Llama 3](https://arxiv.org/abs/2407.21783)", ""), "the one link is ours"


def test_a_fence_and_a_table_hold_whatever_is_in_them() -> None:
    assert fenced("a\n````\nb", "json") == ["`````json", "a\n````\nb", "`````"]
    assert table(("a", "b"), [("x|y", 1), ("\n", None)], numbers=(1,)) == [
        "| a | b |",
        "| --- | ---: |",
        "| x\\|y | 1 |",
        "|   | None |",
    ]
    assert cell("a\u202eb") == "a\ufffdb"
