"""Do to a run what happens to long runs and what attackers do, and write down in how many cases it did what it should.

    make torture                                # all of it
    make torture ARGS="--only kills damage"     # these rows; the others keep their results
    make torture ARGS="--seed 7"                # other moments, places and sizes
    make torture ARGS="--short"                 # few cases of each, into runs/torture/: does it run

Each row is a program of its own, here or among the tests, and runs under a time limit, one after the other. Results go
to docs/results/torture.json and into the table of docs/results/torture.md, with their seeds.

A program in this folder prints a line of JSON for each of its tests: `test`, its name; `tried`, how many cases there
were; `failures`, a text for each that failed. Of tests that pytest runs, each that was not skipped is a case.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from align.files import whole_file  # noqa: E402
from align.reporting import duration  # noqa: E402
from tests.bench.tables import table  # noqa: E402

HERE = "tests/torture"
DOCS = ROOT / "docs" / "results"
Json = dict[str, Any]

_MARKED = re.compile(r"(<!-- table torture -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    """For --only."""
    test: str
    goal: str
    least: int
    """Cases that there must be."""
    program: str
    """A file, of this folder or of tests."""
    words: tuple[str, ...] = ()
    """More words of the command. For a file of tests: of pytest."""
    short: tuple[str, ...] = ()
    """In their place with --short. None where there is one case."""
    by_pytest: bool = False
    limit_seconds: int = 900

    def command(self, seed: int, *, short: bool) -> list[str]:
        words = self.short if short else self.words
        if not self.by_pytest:
            return [sys.executable, self.program, "--seed", str(seed), *words]
        return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", self.program, *words]


ROWS = (
    Row(
        "kills",
        "SIGKILL in saves, in deletions and at random moments of SFT, reward models and DPO, with 1 and 2 processes: "
        "the same bytes in the end, no other files",
        goal="50 of 50",
        least=50,
        program=f"{HERE}/kills.py",
        words=("--kills", "50"),
        short=("--kills", "3"),
        limit_seconds=1500,
    ),
    Row(
        "damage",
        "Flips, cuts and deletions over every file of a checkpoint: found, named, the one before is used, no traceback",
        goal="200 of 200",
        least=200,
        program=f"{HERE}/damage.py",
        words=("--cases", "200"),
        short=("--cases", "10", "--kinds", "sft"),
        limit_seconds=1500,
    ),
    Row(
        "sampling",
        "Sampling that is killed, with 1 and 2 processes: no candidate is lost or doubled, the same bytes",
        goal="20 of 20",
        least=20,
        program=f"{HERE}/sampling.py",
        words=("--kills", "20"),
        short=("--kills", "2"),
    ),
    Row(
        "stops",
        "SIGTERM at random moments of every part of a run: it ends in time, sealed or with nothing begun",
        goal="20 of 20",
        least=20,
        program=f"{HERE}/stops.py",
        words=("--stops", "20", "--sizes", "0", "--seconds", "0"),
        short=("--stops", "2", "--sizes", "0", "--seconds", "0"),
    ),
    Row(
        "disk",
        "A disk of 20 sizes that becomes full in a save: the last checkpoint is whole, one clear message",
        goal="20 of 20",
        least=20,
        program=f"{HERE}/stops.py",
        words=("--stops", "0", "--sizes", "20", "--seconds", "0"),
        short=("--stops", "0", "--sizes", "1", "--seconds", "0"),
    ),
    Row(
        "time",
        "Effective training time of a ten-minute run that is killed every two minutes",
        goal="at least 90%",
        least=1,
        program=f"{HERE}/stops.py",
        words=("--stops", "0", "--sizes", "0", "--seconds", "600", "--every", "120"),
        short=("--stops", "0", "--sizes", "0", "--seconds", "200", "--every", "90"),
        limit_seconds=1200,
    ),
    Row(
        "restarts",
        "A process of two that is killed under `accelerate launch --max_restarts`: the run comes back, the same bytes",
        goal="1 of 1",
        least=1,
        program=f"{HERE}/restarts.py",
    ),
    Row(
        "guards",
        "Injected NaN, spikes and flips are found, named with their step, repaired or stopped; no alarm in clean steps",
        goal="30 of 30; 0 in 1,000 steps",
        least=30,
        program=f"{HERE}/guards.py",
        words=("--faults", "30", "--steps", "1000"),
        short=("--faults", "5", "--steps", "40"),
    ),
    Row(
        "hub",
        "Refusals, silence, lost answers and wrong contents of the Hub: a push is complete and never seen in part",
        goal="all, of at least 60",
        least=60,
        program="tests/align/publish/test_push.py",
        words=("-k", "after_a_fault"),
        short=("-k", "after_a_fault and commit"),
        by_pytest=True,
    ),
    Row(
        "addresses",
        "Forbidden addresses, redirects, names that change what they mean: refused before anything is sent",
        goal="all, of at least 25",
        least=25,
        program="tests/align/test_addresses.py",
        words=("-k", "forbidden or refused or redirects or checked or proxies"),
        short=("-k", "redirects"),
        by_pytest=True,
    ),
    Row(
        "malformed",
        "Malformed inputs: one message with file, line and how to fix it, an exit code, nothing written",
        goal="all, of at least 200",
        least=200,
        program=f"{HERE}/malformed.py",
        words=("-k", "one_message"),
        short=("-k", "one_message and asset"),
        by_pytest=True,
    ),
    Row(
        "typed",
        "Typed control tokens stay text, in 100,000 dialogs over all protocols and syntaxes; a foreign ZeRO-3 state "
        "runs no code",
        goal="all",
        least=10,
        program=f"{HERE}/security.py",
        short=("-k", "foreign"),
        by_pytest=True,
        limit_seconds=1500,
    ),
)


def main() -> int:
    arguments = _arguments()
    target = ROOT / "runs" / "torture" if arguments.short else DOCS
    rows = [row for row in ROWS if not arguments.only or row.name in arguments.only]
    began = time.monotonic()
    results = {}
    for number, row in enumerate(rows, start=1):
        print(f"{number:2}/{len(rows)}  {row.name}, seed {arguments.seed}", end="", flush=True)
        result = results[row.name] = measured(row, arguments.seed, short=arguments.short)
        print(f"  {found_in(result)}  {duration(result['seconds'])}", flush=True)
        for failure in result["failures"]:
            print(f"       {failure}", flush=True)
        _write(target, results)
    missed = [row.name for row in rows if not is_reached(row, results[row.name], short=arguments.short)]
    print(f"{len(rows) - len(missed)} of {len(rows)} as they should be, {duration(time.monotonic() - began)}: {target}")
    if missed:
        print(
            f"not so: {', '.join(missed)}. Again: make torture ARGS='--seed {arguments.seed} --only {' '.join(missed)}'"
        )
    return 1 if missed else 0


def _arguments() -> argparse.Namespace:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, metavar="ROW", help=f"these rows: {', '.join(names)}")
    parser.add_argument("--short", action="store_true", help="few cases of each, into runs/torture/")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def measured(row: Row, seed: int, *, short: bool) -> Json:
    """Run a row. Returns its tests as they were reported, all failures, the seconds, and the seed."""
    began = time.monotonic()
    tests, failures = _run(row, seed, short=short)
    return {
        "tests": tests,
        "tried": sum(test["tried"] for test in tests),
        "failures": [*failures, *(failure for test in tests for failure in test["failures"])],
        "seconds": round(time.monotonic() - began),
        "seed": seed,
        "measured_on": time.strftime("%Y-%m-%d"),
    }


def _run(row: Row, seed: int, *, short: bool) -> tuple[list[Json], list[str]]:
    """Tests of a row, and what failed in its program as a whole."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORTURE_SEED": str(seed),
    }
    with tempfile.TemporaryDirectory(prefix="align-torture-") as name:
        log, report = Path(name) / "log", Path(name) / "report.xml"
        command = row.command(seed, short=short)
        if row.by_pytest:
            command += [f"--junitxml={report}", f"--basetemp={name}/tests"]
        with log.open("w", encoding="utf-8") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
            try:
                code = process.wait(row.limit_seconds)
            except subprocess.TimeoutExpired:
                _end(process)
                return [], [f"not done after {row.limit_seconds} s: {_end_of(log)}"]
        tests = _of_pytest(report, row) if row.by_pytest else _of_program(log)
        if code != 0 and not any(test["failures"] for test in tests):
            return tests, [f"exit code {code}: {_end_of(log)}"]
        return tests, []


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and all that it has started."""
    family = psutil.Process(process.pid)
    for member in [family, *family.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-1000:] if log.exists() else ""


def _of_program(log: Path) -> list[Json]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [json.loads(line) for line in lines if line.startswith('{"test": ')]
    return [{"tried": 0 if "left out" in test else test.get("cases", 1), "failures": [], **test} for test in found]


def _of_pytest(report: Path, row: Row) -> list[Json]:
    if not report.exists():
        return []
    cases = ElementTree.parse(report).getroot().findall(".//testcase")
    ran = [case for case in cases if case.find("skipped") is None]
    failures = [
        f"{case.get('name')}: {(problem.get('message') or '')[:500]}"
        for case in ran
        for kind in ("failure", "error")
        for problem in case.findall(kind)
    ]
    return [{"test": row.name, "tried": len(ran), "failures": failures}]


def is_reached(row: Row, result: Json, *, short: bool) -> bool:
    """Whether a row has its goal: nothing failed, and there were as many cases as there must be."""
    return not result["failures"] and result["tried"] >= (1 if short else row.least)


def found_in(result: Json) -> str:
    """What a row has found, in a few words."""
    if result["failures"] and not result["tried"]:
        return "failed"
    said = [_said(test) for test in result["tests"]]
    return (
        "; ".join([*said, *(["and then it failed"] if len(result["failures"]) > _failures(result) else [])]) or "none"
    )


def _failures(result: Json) -> int:
    return sum(len(test["failures"]) for test in result["tests"])


def _said(test: Json) -> str:
    """`19 of 20`; a ratio that was measured; or how often there was an alarm in clean steps."""
    failed = len(test["failures"])
    if "left out" in test:
        return f"left out: {test['left out']}"
    if "ratio" in test:
        return f"{test['ratio']:.1%}, {test['kills']} kills"
    if "steps" in test:
        return f"{failed} in {test['steps']:,} steps"
    return f"{max(test['tried'] - failed, 0):,} of {test['tried']:,}"


def filled(page: str, results: Json) -> str:
    """The page with its table written again."""
    lines = []
    for row in ROWS:
        result = results.get(row.name)
        cells = ["-"] * 4
        if result is not None:
            found = found_in(result)
            is_good = is_reached(row, result, short=False)
            cells = [found if is_good else f"**{found}**", duration(result["seconds"]), str(result["seed"]),
                     result["measured_on"]]  # fmt: skip
        lines.append([row.test, row.goal, *cells])
    text = table(["test", "goal", "found", "time", "seed", "measured on"], lines)
    return _MARKED.sub(lambda marked: f"{marked[1]}{text}\n{marked[2]}", page)


def _write(target: Path, results: Json) -> None:
    """torture.json and the page. Rows that did not run keep what was found before."""
    target.mkdir(parents=True, exist_ok=True)
    path = target / "torture.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    merged = {row.name: {**before, **results}[row.name] for row in ROWS if row.name in {**before, **results}}
    with whole_file(path) as handle:
        json.dump(merged, handle, indent=1)
    page = filled((DOCS / "torture.md").read_text(encoding="utf-8"), merged)
    with whole_file(target / "torture.md") as handle:
        handle.write(page)


if __name__ == "__main__":
    sys.exit(main())
