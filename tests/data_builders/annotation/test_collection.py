"""The stage `collect`: which models answer, when it ends, what it writes, and that a kill loses nothing."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the annotation page requires pip install -e '.[annotate]'")

from align.config import load_config
from align.errors import ConfigError, StageError
from align.jsonl import read_rows
from align.manifest import read_data_manifest
from align.rounds.driver import _PROGRESS as PROGRESS
from align.rounds.plan import recipe_class
from align.rows import Candidate, Message, PreferenceRow
from data_builders.annotation.collection import announce, draw_models
from data_builders.annotation.scripted_rater import ScriptedRater
from data_builders.annotation.server import Server
from data_builders.annotation.settings import RatingConfig, ScriptedRaterConfig, ServerConfig
from data_builders.annotation.store import Store
from data_builders.annotation.tasks import Task
from tests.processes import PYTHON, Started

ROOT = Path(__file__).parents[3]
SHORTER = {"rule": "shorter", "levels": {"better": 0.2}}


def collect_module() -> ModuleType:
    return sys.modules[recipe_class(ROOT / "recipes", "collect").__module__]


def written_config(folder: Path, model: Path, **settings: Any) -> Path:
    """A config for two models and 16 prompts. The tiny models end about half of their answers."""
    prompts = folder / "prompts.jsonl"
    lines = [{"id": f"p{number}", "source": "here", "prompt": f"Number {number}?"} for number in range(16)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {
        "prompts": str(prompts),
        "models": {name: {"path": str(model)} for name in ("one", "two")},
        "sampling": {"max_completion_tokens": 400, "dtype": "float32", "temperature": 2.0},
        "rating": {"max_turns": 1},
        "scripted_rater": SHORTER,
        "server": {"port": 0},
        "round": 2,
        "batch": "week-1",
        "unit_size": 8,
        "judgements": str(folder / "kept" / "round-2.sqlite"),
        "output_dir": str(folder / "collect"),
    }
    path = folder / "collect.yaml"
    path.write_text(json.dumps(config | settings))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The folder of a collection that a scripted rater has finished. Read it only."""
    folder = tmp_path_factory.mktemp("finished")
    assert run(written_config(folder, tiny_checkpoint)) == folder / "collect"
    return folder


@pytest.fixture
def collection(tmp_path: Path, tiny_checkpoint: Path) -> Callable[..., Path]:
    def make(**settings: Any) -> Path:
        return written_config(tmp_path, tiny_checkpoint, **settings)

    return make


@pytest.fixture
def answered(finished: Path, tmp_path: Path) -> Path:
    """A folder in which the models have answered, so that a test does not spend time on it, and no rater has judged."""
    for path in (finished / "collect").rglob("unit*"):
        target = tmp_path / path.relative_to(finished)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            shutil.copyfile(path, target)
    return tmp_path / "collect"


def run(config: Path) -> Path:
    module = collect_module()
    return module.run(load_config(module.CollectRecipe, config))


def judged(database: Path) -> list[tuple]:
    with sqlite3.connect(database) as db:
        return db.execute(
            "SELECT task.name, rater, grade FROM judgement JOIN turn ON turn.id = judgement.turn "
            "JOIN task ON task.id = turn.task WHERE judgement.withdrawn IS NULL ORDER BY place"
        ).fetchall()


@pytest.mark.slow
def test_a_batch_has_what_the_models_wrote_and_what_the_rater_preferred(finished: Path, tiny_checkpoint: Path) -> None:
    folder = finished / "collect"
    candidates = {
        (row.prompt_id, row.completion): row
        for name in ("one", "two")
        for row in read_rows(folder / f"answers.{name}.jsonl", Candidate)
    }
    rows = list(read_rows(folder / "preferences.jsonl", PreferenceRow))
    assert len(rows) >= 3
    for row in rows:
        pair = [candidates[row.id, completion] for completion in row.completions]
        assert row.seeds == tuple(candidate.seed for candidate in pair)
        assert all(candidate.finished and candidate.round == 2 for candidate in pair)
        assert len(row.chosen[-1].content) < len(row.rejected[-1].content), "the rule of the rater"
        assert (row.round, row.batch, row.raters, row.source) == (2, "week-1", ("scripted-rater",), "here")
        assert all(str(tiny_checkpoint).endswith(model) for model in row.models)
        gap = len(row.rejected[-1].content) - len(row.chosen[-1].content)
        assert row.level == ("better" if gap >= 20 else "marginally better")
    assert len({row.seed for row in candidates.values()}) == len(candidates) == 32
    counts = read_data_manifest(folder / "ratings.jsonl")["counts"]
    dropped = counts["dropped"]["prompt with finished candidates of fewer than two models"]
    assert counts["rows"] + dropped == 16
    assert counts["raters"] == {"scripted-rater": counts["rows"]}
    assert not (folder / "link.txt").exists()


def test_the_draw_of_models_depends_on_seed_and_prompt_only() -> None:
    drawn = [
        draw_models(names, 7, f"p{number}") for number in range(60) for names in (["a", "b", "c"], ["c", "b", "a"])
    ]
    assert drawn[::2] == drawn[1::2]
    assert {frozenset(pair) for pair in drawn} == {frozenset("ab"), frozenset("ac"), frozenset("bc")}
    assert {tuple(pair) for pair in drawn} >= {("a", "b"), ("b", "a")}
    assert drawn[::2] != [draw_models(["a", "b", "c"], 8, f"p{number}") for number in range(60)]


@pytest.mark.slow
def test_the_agreed_number_ends_it_and_so_does_the_file(
    collection: Callable[..., Path], answered: Path, tmp_path: Path
) -> None:
    run(collection(comparisons=2))
    assert len(judged(tmp_path / "kept" / "round-2.sqlite")) == 2
    ending = threading.Timer(0.5, (answered / "finish").touch)
    ending.start()
    run(collection(scripted_rater=None))  # no rater is there
    assert len((answered / "ratings.jsonl").read_text().splitlines()) == 2
    assert not (answered / "finish").exists(), "a later start would end at once"


@pytest.mark.slow
def test_killed_and_stopped_and_started_again_it_has_lost_nothing(
    collection: Callable[..., Path], answered: Path, tmp_path: Path
) -> None:
    """One unit of answers is missing; SIGKILL while a rater judges, then SIGTERM, then the same command to the end."""
    database = tmp_path / "kept" / "round-2.sqlite"
    next((answered / "units" / "two").glob("unit-*.jsonl")).unlink()
    units = {path: path.stat().st_mtime_ns for path in answered.rglob("unit-*.jsonl")}
    assert units
    config = collection(scripted_rater=SHORTER | {"pause_seconds": 0.3})
    first = Started([PYTHON, "recipes/collect.py", str(config)])
    first.wait_for(lambda: judgements(database) >= 1)
    first.kill()
    kept = judged(database)
    assert kept
    assert units.items() <= {path: path.stat().st_mtime_ns for path in answered.rglob("unit-*.jsonl")}.items()
    second = Started([PYTHON, "recipes/collect.py", str(config)])
    second.wait_for(lambda: judgements(database) > len(kept))
    second.terminate()
    assert second.wait() == 128 + signal.SIGTERM, second.output
    assert "Traceback" not in second.output
    shown_by_rounds = [line for line in second.output.splitlines() if PROGRESS.search(line) and "comparisons" in line]
    assert re.search(r"\b\d+/\d+  http://127\.0\.0\.1:\d+/", shown_by_rounds[0]), second.output
    assert "the page is closed; the same command continues, with all judgements" in second.output
    assert not (answered / "preferences.jsonl").exists()
    at_stop = judged(database)
    assert at_stop[: len(kept)] == kept
    run(collection())
    after = judged(database)
    assert after[: len(at_stop)] == at_stop
    assert len({name for name, *_ in after}) == len(after), "no comparison was made twice"
    assert len((answered / "ratings.jsonl").read_text().splitlines()) == len(after) > len(at_stop)


def judgements(database: Path) -> int:
    """Their number; 0 also before the tables are there."""
    if not database.exists():
        return 0
    with contextlib.suppress(sqlite3.OperationalError):
        return len(judged(database))
    return 0


@pytest.mark.parametrize("change, error", [
    ({"models": {"one": {"path": "x"}}}, r"models: .*at least 2 items"),
    ({"models": {"a/b": {"path": "x"}, "c": {"path": "y"}}}, r"models\.a/b.*: "),
    ({"judgements": "{output_dir}/r.sqlite"}, "judgements is inside output_dir, which is deleted when the stage"),
    ({"tools": {"interpreter": True}}, r"tools require rating\.max_turns above 1"),
    ({"tools": {}, "rating": {}}, "expected built_in, functions or interpreter, found no tool"),
    ({"scripted_rater": {"rule": "reward_model"}}, "reward_model is missing. Give it with the rule reward_model"),
    ({"scripted_rater": {"rule": "shorter", "name": "ann"}}, r"scripted_rater\.name: "),
])  # fmt: skip
def test_a_config_that_cannot_work_is_refused(
    collection: Callable[..., Path], tmp_path: Path, change: dict[str, Any], error: str
) -> None:
    if "judgements" in change:
        change = {"judgements": change["judgements"].format(output_dir=tmp_path / "collect")}
    with pytest.raises(ConfigError, match=error):
        load_config(recipe_class(ROOT / "recipes", "collect"), collection(**change))


@pytest.mark.slow
def test_a_rater_program_that_the_page_refuses_ends_the_stage(collection: Callable[..., Path]) -> None:
    config = collection(rating={"max_turns": 1, "raters": ["ann"]})
    with pytest.raises(
        StageError, match=r"scripted_rater: was refused by the page at /api/state \(409.*not one of the"
    ):
        run(config)


def test_a_token_is_in_no_log_and_a_generated_one_in_a_file_of_its_owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANNOTATE_TOKEN", raising=False)
    server = Server(ServerConfig(host="0.0.0.0", port=0))
    place = announce(server, tmp_path)
    assert server.token is not None
    assert (tmp_path / "link.txt").read_text() == f"{server.address}\n"
    assert (tmp_path / "link.txt").stat().st_mode & 0o777 == 0o600
    assert place == f"the link in {tmp_path / 'link.txt'}"
    assert server.token not in capsys.readouterr().out
    (tmp_path / "link.txt").unlink()
    monkeypatch.setenv("ANNOTATE_TOKEN", "a-token-that-stays-the-same")
    place = announce(Server(ServerConfig(host="0.0.0.0", port=0)), tmp_path)
    assert place.endswith("/ (with the token in ANNOTATE_TOKEN)")
    assert "stays-the-same" not in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def shown(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "text": text} for text in texts]


def test_the_rule_of_a_reward_model_is_its_score(tiny_reward_checkpoint: Path) -> None:
    """Against the scores of the same model by the judge, in both orders."""
    from align.judges.reward_model import RewardModelJudge
    from align.settings import ModelConfig

    model = ModelConfig(path=tiny_reward_checkpoint, dtype="float32")
    levels = {"better": 1e-3}
    config = ScriptedRaterConfig.model_validate({"reward_model": model, "levels": levels})
    rater = ScriptedRater(config)
    prompt, left, right = "Well?", "A short one.", "Quite another answer."
    first, second = RewardModelJudge.from_settings(model, 4096).score(
        (Message(role="user", content=prompt),),
        [(Message(role="assistant", content=text),) for text in (left, right)],
    )
    assert abs(first - second) > 1e-3
    dialog = [{"role": "user", "text": prompt}]
    expected = 3 if first > second else -3
    assert rater.grade({"dialog": dialog, "left": shown(left), "right": shown(right)}) == expected
    assert rater.grade({"dialog": dialog, "left": shown(right), "right": shown(left)}) == -expected
    assert rater.grade({"dialog": dialog, "left": shown(left), "right": shown(left)}) == 0


@pytest.mark.usefixtures("closed_stores")
def test_new_answers_replace_those_that_no_rater_has_opened(tmp_path: Path) -> None:
    """After the models were trained again: what was judged or opened stays, the rest is compared with new answers."""

    def tasks(version: str, *names: str) -> list[Task]:
        return [
            Task(
                name=name,
                source="here",
                prompt=(Message(role="user", content=name),),
                responses=tuple((Message(role="assistant", content=f"{version} {number}"),) for number in (1, 2)),  # type: ignore[arg-type]
                models=("a", "b"),
            )
            for name in names
        ]

    store = Store(tmp_path / "r.sqlite", RatingConfig())
    assert store.renew(tasks("old", "judged", "opened", "waiting", "gone")) == 4
    for _ in range(2):
        turn = store.current("ann")
        assert turn is not None
        if turn.prompt[0].content == "judged":
            store.judge("ann", turn.id, "judgement-1", 1, None)
    assert store.renew(tasks("new", "judged", "opened", "waiting", "added")) == 2
    with sqlite3.connect(tmp_path / "r.sqlite") as db:
        found = dict(db.execute("SELECT name, responses ->> '$[0][0].content' FROM task").fetchall())
    assert found == {"judged": "old 1", "opened": "old 1", "waiting": "new 1", "added": "new 1"}
    assert store.renew(tasks("new", "judged", "opened", "waiting", "added")) == 0


@pytest.mark.usefixtures("closed_stores")
def test_it_is_finished_when_enough_is_judged_and_no_dialog_is_open(tmp_path: Path) -> None:
    config = RatingConfig(raters_per_pair=2)
    store = Store(tmp_path / "r.sqlite", config, multi_turn=True, enough=1)
    responses = tuple((Message(role="assistant", content=text),) for text in ("yes", "no"))
    store.add(
        Task(name=name, source="x", prompt=(Message(role="user", content=name),), responses=responses)  # type: ignore[arg-type]
        for name in ("one", "two")
    )
    assert (store.comparisons, store.complete, store.is_finished) == (1, 0, False)
    turns = [store.current(rater) for rater in ("ann", "bob")]
    for turn in turns:
        assert turn is not None
        store.judge(turn.rater, turn.id, f"judgement-{turn.rater}", 1, None)
    assert (store.complete, store.is_finished) == (1, False), "both may still continue the dialog"
    for turn in turns:
        assert turn is not None
        store.leave(turn.rater, turn.id)
    assert store.is_finished
    assert store.current("ann") is None, "nothing more is given out"
    store.undo("bob", "judgement-bob")
    assert not store.is_finished
