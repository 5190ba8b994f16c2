"""The folder of a run that is written here by hand, so that every number in it is known."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from align.manifest import write_data_manifest
from align.rounds.ledger import Ledger
from eval.reports.page import page
from eval.reports.rounds import Report, read_report

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)> | [a](http://b) \"&"


def score(value: float, low: float, high: float, n: int = 50) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n}


def evaluation(
    name: str, scores: dict[str, Any], answers: dict[str, tuple[str, str]], differences: dict[str, Any] | None = None
) -> str:
    rows = [
        {"id": key, "prompt": f"What is {key}? {EVIL}", "answer": answer, "verdict": verdict, "expected": ["Rome"]}
        | {"topic": "countries", "relation": "capital"}
        for key, (answer, verdict) in answers.items()
    ]
    points = [[0.5, 0.1, 2.0], [1.0, 0.4, 1.0]]
    counts = {"risk_coverage": {"propensity": {"points": points}, "no_answer": 0}} if name == "factuality" else {}
    found = {"name": name, "model": "m", "scores": scores, "counts": counts, "seconds": 1.0, "rows": rows}
    return json.dumps(found | ({"differences": differences} if differences else {}))


def card(round_number: int) -> dict[str, Any]:
    """A data card as the builder `quality` writes it: 100 rows read, of which 20, 4 and 1 were dropped."""
    rules = {"gate": "rules", "in": 100, "dropped": {"empty answer": 20, EVIL: 4}, "out": 76}
    sets = {"gate": "decontamination", "in": 76, "dropped": {"overlaps an evaluation prompt": 1}, "out": 75}
    example = {"where": "a:1", "id": "loud", "source": EVIL, "gate": "", "reason": "", "detail": "", "cause": ""}
    source = {"licence": "cc-by-4.0", "terms": "names the authors", "carrier": "", "carrier_licence": ""}
    dropped = {"rules": rules["dropped"], "decontamination": sets["dropped"]}
    return {
        "inputs": ["a.jsonl"],
        "evaluation": [f"held out {round_number}", EVIL],
        "gates": [rules, sets],
        "licences": {"cc-by-4.0": {"terms": "names the authors", "sources": [EVIL]}},
        "sources": {EVIL: {**source, "read": 100, "kept": 75, "dropped": dropped}},
        "examples": {
            "kept": [{**example, "text": EVIL}],
            "dropped": [{**example, "gate": "rules", "reason": "empty answer", "detail": EVIL, "text": "{}"}],
        },
    }


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds: data, an evaluation before, SFT and an evaluation in each round. Tests only read it."""
    run = tmp_path_factory.mktemp("report") / "run"
    ledger = Ledger(run / "ledger.sqlite")
    run_id = ledger.begin_run(f"python recipes/rounds.py {EVIL}")

    def stage(
        name: str,
        round_number: int | None,
        made: Path,
        status: str = "finished",
        read: tuple[Path, ...] = (),
        config: dict[str, Any] | None = None,
    ) -> None:
        label = name if round_number is None else f"round-{round_number}/{name}"
        record = ledger.begin_stage(
            run_id,
            label=label,
            name=name,
            round_number=round_number,
            recipe=name,
            key="k",
            command=f"python recipes/{name}.py",
            config=config or {},
            inputs={str(place): {"path": str(path), "blake3": ""} for place, path in enumerate(read)},
        )
        ledger.end_stage(record, status, {"out": {"path": str(made), "blake3": f"hash of {label}"}})  # type: ignore[arg-type]

    rows = run / "data" / "preferences.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_text("{}\n")
    write_data_manifest(rows, config={}, counts={"read": 533, "rows": 512, "dropped": {"duplicate": 19, EVIL: 2}})
    agreement = {"comparisons": 533, "judged_by_several": 40, "sides": 0.61, "grades": None, "ties": [1, 2]}
    bias = {"all": {"rows": 512, "chosen_longer": 0.57}}
    levels = {EVIL: {"rows": 512, "share": 1.0}}
    found = {"agreement": agreement, "length_bias": bias, "levels": levels}
    (rows.parent / "preferences.report.json").write_text(json.dumps(found))
    stage("data", None, rows.parent)
    questions = {f"q{n}": (f"It is {n} {EVIL}", "wrong") for n in range(20)}
    before = run / "eval-start"
    before.mkdir()
    (before / "factuality.json").write_text(evaluation("factuality", {"wrong": score(0.68, 0.6, 0.75)}, questions))
    stage("eval-start", None, before)
    for round_number, wrong in ((1, 0.31), (2, 0.19)):
        folder = run / f"round-{round_number}"
        probe = folder / "probe"
        probe.mkdir(parents=True)
        probed = {"known": 3 - round_number, "unknown": 5, "unsure": 1, "uninformative": round_number}
        (probe / "map.json").write_text(json.dumps({"all": probed, "relations": {"capital": probed, EVIL: probed}}))
        stage("probe", round_number, probe)
        sft = folder / "sft"
        sft.mkdir(parents=True)
        lines = [{"step": step, "loss": 3 / step, "accuracy": float("nan")} for step in range(1, 9)]
        if round_number == 2:
            lines += [{"step": 4, "eval_loss": 2.0}, {"step": 6, "eval_loss": None}, {"step": 8, "eval_loss": 1.5}]
        (sft / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        starts = [
            {"start": 1, "event": "begin", "time": 100.0, "step": None, "trained": 0.0, "seconds": {}},
            {"start": 1, "event": "end", "time": 160.0, "step": 8, "trained": 45.0, "seconds": {"saving": 10.0}},
        ]
        (sft / "starts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in starts))
        stage("sft", round_number, sft, read=(rows, Path("outside") / EVIL))
        passed = folder / "quality"
        passed.mkdir()
        (passed / "card.json").write_text(json.dumps(card(round_number)))
        stage("quality", round_number, passed)
        made = folder / "eval"
        made.mkdir()
        answers = {key: ("I do not know.", "abstained") if key == "q3" else old for key, old in questions.items()}
        scores = {"wrong": score(wrong, wrong - 0.05, wrong + 0.06), "known_kept": score(0.88, 0.8, 0.94)}
        changes = {"wrong": score(wrong - 0.68, wrong - 0.75, wrong - 0.6)}
        (made / "factuality.json").write_text(evaluation("factuality", scores, answers, changes))
        accuracy = {"accuracy": score(0.67, 0.61, 0.73)}
        (made / "reward_accuracy.json").write_text(evaluation("reward_accuracy", accuracy, {}))
        stage("eval", round_number, made, read=(sft,))
    average = run / "round-2" / "average"
    average.mkdir()
    trials = [
        {"weights": weights, "objective": right, "scores": {"factuality.right": score(right, right - 0.1, right + 0.1)}}
        for weights, right in (([1, 0], 0.3), ([0, 1], 0.25), ([0.5, 0.5], 0.35))
    ]
    settings = {"score": {"factuality.right": 1.0}, "method": "greedy", "max_evaluations": 16}
    members = [{"checkpoint": "round-2/dpo"}, {"checkpoint": EVIL}]
    search = {"settings": settings, "checkpoints": members, "trials": trials, "weights": [0.5, 0.5]}
    search["evaluation"] = {"limit": None, "factuality": {"questions": "data/questions.dev.jsonl"}}
    (average / "MANIFEST.json").write_text(json.dumps({"search": search}))
    stage("average", 2, average, read=(run / "round-2" / "sft",))
    dev = run / "dev"  # by it the best model was chosen: no column has its scores
    dev.mkdir()
    (dev / "factuality.json").write_text(evaluation("factuality", {"wrong": score(0.01, 0.0, 0.02)}, {}))
    stage("dev", 2, dev, config={"development": True})
    stage("publish", None, run / "nowhere", "failed")
    for after, made, why in (
        (1, "sft", "round 1 scores 0.3"),
        (2, "sft", "too early"),
        (2, "other", f"it stays {EVIL}"),
    ):
        ledger.record_choice(run_id, "best", after, made, why)
    ledger.close()
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.execute("UPDATE stages SET ended = started + 60")
    return run


@pytest.fixture(scope="session")
def report(run_dir: Path) -> Report:
    return read_report(run_dir, samples=4)


@pytest.fixture(scope="session")
def evil() -> str:
    """The text that every row of the run has in its prompts and answers."""
    return EVIL


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real headless Chromium."""
    pytest.importorskip("playwright", reason="browser tests require pip install -e '.[dev]'")
    program = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
    if program is None:
        pytest.skip("Chromium is not installed: make system-packages")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def shown(report: Report) -> str:
    """The page as HTML."""
    return page(report)
