"""Measure everything, or a part, and write docs/results/bench/ and the tables of docs/results/benchmark.md.

    make bench                          # all of it
    make bench ARGS="--only dpo sft"    # these groups; the others keep their results
    make bench ARGS="--only million"    # memory of preparing a million rows: half an hour more
    make bench ARGS="--quick"           # tiny models and few steps into runs/bench/quick/: does it run, not how fast

Each case runs in a fresh process, one after the other, under a time limit, and leaves one JSON file that appears whole
or not at all; an interrupted run goes on with the cases that are missing. A changed line under align/ or here, or
another version of a library, makes a case count as missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cases import Case, all_cases

from align.files import fingerprint as content_of
from align.files import fingerprint_of, whole_file
from align.reporting import duration

ROOT = Path(__file__).parents[2]
WORK = ROOT / "runs" / "bench"
DOCS = ROOT / "docs" / "results"
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "datasets")
NOT_MEASURED = ("refused", "failed")


def main() -> int:
    arguments = _arguments()
    work = WORK / "quick" if arguments.quick else WORK
    if arguments.case:
        return _one(arguments.case, work, arguments.quick)
    cases = [case for case in all_cases() if (case.group in arguments.only if arguments.only else not case.on_demand)]
    began = time.monotonic()
    results = {}
    for number, case in enumerate(cases, start=1):
        shown = case.quickly() if arguments.quick else case
        found = _measured_before(shown, work)
        if found is None:
            print(f"{number:3}/{len(cases)}  {case.name}", end="", flush=True)
            start = time.monotonic()
            found = _in_a_process(shown, work, arguments.quick)
            print(f"  {duration(time.monotonic() - start)}  {_in_a_line(found)}", flush=True)
        else:
            print(f"{number:3}/{len(cases)}  {case.name}  measured before  {_in_a_line(found)}", flush=True)
        results[case.name] = found
    target = work / "docs" if arguments.quick else DOCS
    _publish(results, target, cases)
    for case in cases:
        _partial(case, work).unlink(missing_ok=True)  # this run is over: the next one measures again
    bad = [name for name, found in results.items() if any(word in found for word in NOT_MEASURED)]
    print(f"{len(results) - len(bad)} of {len(results)} cases measured, {duration(time.monotonic() - began)}: {target}")
    return 1 if bad else 0


def _arguments() -> argparse.Namespace:
    groups = list(dict.fromkeys(case.group for case in all_cases()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=groups, metavar="GROUP", help=f"these groups: {', '.join(groups)}")
    parser.add_argument("--quick", action="store_true", help="tiny models, few steps, into runs/bench/quick/")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # what the process of one case is started with
    return parser.parse_args()


def _one(name: str, work: Path, quick: bool) -> int:
    """In the process of one case: measure, and write the file."""
    from gates import GateError

    (case,) = [case for case in all_cases() if case.name == name]
    case = case.quickly() if quick else case
    models = work / "models"
    models.mkdir(parents=True, exist_ok=True)
    try:
        found = case.measure(models)
    except GateError as error:
        found = {"refused": str(error)}
    _write(case, work, found)
    return 0


def _in_a_process(case: Case, work: Path, quick: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, "--case", case.name, *(["--quick"] if quick else [])]
    work.mkdir(parents=True, exist_ok=True)
    log = work / f"{_file_name(case)}.log"
    # Where memory is the question, the allocator gives every block back at once: the peak is what was really held.
    exact = {"MALLOC_MMAP_THRESHOLD_": "65536"} if case.group in ("head", "memory") else {}
    environment = {**os.environ, **exact, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with log.open("w", encoding="utf-8") as handle:
        try:
            done = subprocess.run(
                command, stdout=handle, stderr=handle, check=False, timeout=case.limit_seconds, env=environment
            )
        except subprocess.TimeoutExpired:
            return _record(case, {"failed": f"not done after {case.limit_seconds} s"})
    found = _measured_before(case, work)
    if done.returncode or found is None:
        return _record(case, {"failed": f"exit code {done.returncode}; see {log.relative_to(ROOT)}"})
    log.unlink()
    return found


def _key(case: Case) -> str:
    """Changes with whatever the numbers depend on: settings, our code, the libraries."""
    code = [content_of(ROOT / "align"), *(content_of(file) for file in sorted(Path(__file__).parent.glob("*.py")))]
    return fingerprint_of(case.function, sorted(case.settings.items()), *code, *_versions().items())


def _partial(case: Case, work: Path) -> Path:
    return work / f"{_file_name(case)}.json"


def _file_name(case: Case) -> str:
    return case.name.replace(" ", "-").replace(",", "")


def _write(case: Case, work: Path, found: dict[str, Any]) -> None:
    with whole_file(_partial(case, work)) as handle:
        json.dump({"key": _key(case), "result": _record(case, found)}, handle, indent=1)


def _record(case: Case, found: dict[str, Any]) -> dict[str, Any]:
    return {"group": case.group, "settings": case.settings, **found, "measured_on": time.strftime("%Y-%m-%d")}


def _measured_before(case: Case, work: Path) -> dict[str, Any] | None:
    path = _partial(case, work)
    if not path.exists():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    return stored["result"] if stored["key"] == _key(case) else None


def _publish(results: dict[str, Any], target: Path, cases: list[Case]) -> None:
    """results.json, plots and tables. Cases that were not asked for keep what was measured before."""
    import plots
    import tables

    path = target / "bench" / "results.json"
    before = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else {}
    order = [case.name for case in all_cases()]
    merged = {name: found for name, found in {**before, **results}.items() if name in order}
    merged = {name: merged[name] for name in order if name in merged}
    found = {"machine": _machine(), "command": " ".join(["make bench", *_given()]), "cases": merged}
    with whole_file(path) as handle:
        json.dump(found, handle, indent=1)
    plots.draw(found, target / "bench")
    page = target / "benchmark.md"
    text = (DOCS / "benchmark.md").read_text(encoding="utf-8")
    with whole_file(page) as handle:
        handle.write(tables.filled(text, found))


def _given() -> list[str]:
    return [f'ARGS="{" ".join(sys.argv[1:])}"'] if sys.argv[1:] else []


def _machine() -> dict[str, Any]:
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return {
        "processor": named[0] if named else platform.processor(),
        "matrix_units": sorted({"avx512f", "avx512_bf16", "amx_bf16"} & set(flags)),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": _versions(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def _in_a_line(found: dict[str, Any]) -> str:
    for word in NOT_MEASURED:
        if word in found:
            return f"{word}: {found[word]}"
    ratios = {name: value for name, value in found.get("ratios", {}).items() if "," not in name}
    if ratios:
        return "  ".join(f"{name} {value['median']:.2f}" for name, value in ratios.items())
    for word, unit in (("above_bytes", "bytes"), ("slope", "slope")):
        if word in found:
            return f"{found[word]:,.2f} {unit}"
    return "measured"


if __name__ == "__main__":
    sys.exit(main())
