"""Verifies candidates by what their prompts require, before the best ones are selected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from align.errors import RowError
from align.files import fingerprint_of_each
from align.hardware import cpus_of_process
from align.judges.verifiers.catalog import VerifierName, load_verifier
from align.rows import Candidate, PromptRow, VerifiedPromptRow
from align.sampling.work_units import Units, run_units


class VerdictCounts:
    """How many candidates passed each verifier, and how many failed for each reason, counted unit by unit."""

    def __init__(self, names: Iterable[str]) -> None:
        self._passed = Counter[str]()
        self._failed = {name: Counter[str]() for name in names}

    def add(self, candidates: Iterable[Candidate]) -> None:
        for candidate in candidates:
            self._passed.update(candidate.passed)
            for failure in candidate.failed:
                name, _, reason = failure.partition(": ")
                if name in self._failed:
                    self._failed[name][reason] += 1

    def by_verifier(self) -> dict[str, dict[str, Any]]:
        """For the manifest, most frequent reasons first:
        `{"maths": {"passed": 30, "failed": {"wrong answer": 8, "no answer": 2}}}`.
        """
        return {
            name: {"passed": self._passed[name], "failed": dict(failed.most_common())}
            for name, failed in self._failed.items()
        }


class Verification:
    """What is verified of the candidates of which prompt. Without verifiers, every candidate passes."""

    def __init__(self, rows: Sequence[PromptRow], names: Iterable[VerifierName]) -> None:
        """Read the prompts' entries, so that a wrong one is an error before anything is sampled.

        Raises RowError for an entry that its verifier refuses, for an entry of a verifier that is not in `names`, and
        for a verifier that no prompt uses. Raises ConfigError if a library is missing.
        """
        self._verifiers = {name: load_verifier(name) for name in names}
        self._early = [name for name, one in self._verifiers.items() if one.before_scoring]
        self._slow = [name for name, one in self._verifiers.items() if one.slow]
        self._last = [name for name, one in self._verifiers.items() if not one.slow and not one.before_scoring]
        self.prompts = [_without_entries(row) for row in rows]
        """The prompts alone: what is verified of a candidate does not change how it is sampled."""
        self._entries = {row.id: found for row in rows if (found := self._entries_of(row))}
        used = {name for entries in self._entries.values() for name in entries}
        for name in self._verifiers:
            if name not in used:
                what = f"the verifier {name!r} is switched on, but no prompt has an entry for it"
                raise RowError("verifiers", what, "Add entries to the column verify, or remove the verifier")

    def verify_before_scoring(self, candidates: Units[Candidate]) -> Units[Candidate]:
        """What the verifiers say that come before the reward model. A candidate that fails one is not scored.

        Each candidate is verified once, however often its unit is read: what is said of it is remembered.
        """
        if not self._early:
            return candidates
        remembered: dict[int, list[_Verdict]] = {}
        same: dict[_Verdict, _Verdict] = {}  # few verdicts differ, so that each one takes the memory of a reference

        def verified(number: int) -> list[Candidate]:
            unit = candidates[number]
            if number not in remembered:
                said = [self._verdict(candidate, self._early) for candidate in unit]
                remembered[number] = [same.setdefault(each, each) for each in said]
            return [_with_verdict(*each) for each in zip(unit, remembered[number], strict=True)]

        return Units(len(candidates), verified)

    def verify_in_units(self, candidates: Units[Candidate], *, folder: Path, unit_size: int) -> Units[Candidate]:
        """What the slow verifiers say, in units of work that processes divide and that survive a crash.

        Those that failed already are not verified. Without slow verifiers the folder is not made.
        folder, unit_size: as for `score_candidates`.
        """
        if not self._slow:
            return candidates

        def verify(unit: list[Candidate]) -> tuple[list[Candidate], int]:
            # A slow check waits for a process of its own, so threads are enough to run several at a time.
            with ThreadPoolExecutor(cpus_of_process()) as pool:
                to_verify = [candidate for candidate in unit if not candidate.failed]
                made = list(pool.map(lambda candidate: self._verified(candidate, self._slow), to_verify))
            return made, len(made)

        entries = (
            json.dumps([row_name, {name: own[name].model_dump() for name in self._slow if name in own}], sort_keys=True)
            for row_name, own in self._entries.items()
        )
        key = {
            "candidates": fingerprint_of_each(one.model_dump_json() for one in candidates.rows() if not one.failed),
            "entries": fingerprint_of_each(entries),
            "verifiers": self._slow,
            "unit_size": unit_size,
        }
        made = run_units(
            candidates,
            verify,
            Candidate,
            folder=folder,
            key=key,
            label="verification",
            things="candidates",
            code=[type(self._verifiers[name]).__module__ for name in self._slow],
        )

        def verified(number: int) -> list[Candidate]:
            by_id = {candidate.id: candidate for candidate in made[number]}
            return [by_id.get(candidate.id, candidate) for candidate in candidates[number]]

        return Units(len(candidates), verified)

    def verify(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """What the other verifiers say: those that are neither slow nor before the reward model."""
        return [self._verified(candidate, self._last) for candidate in candidates]

    def counts(self) -> VerdictCounts:
        """Counts of these verifiers, in their order of use, of no candidate yet."""
        return VerdictCounts(dict.fromkeys((*self._early, *self._slow, *self._last)))

    def _verified(self, candidate: Candidate, names: Sequence[VerifierName]) -> Candidate:
        """The candidate with what it passed and failed of these verifiers."""
        return _with_verdict(candidate, self._verdict(candidate, names))

    def _verdict(self, candidate: Candidate, names: Sequence[VerifierName]) -> _Verdict:
        failed, passed = [], []
        entries = self._entries.get(candidate.prompt_id, {})
        for name in names:
            if name in entries:
                failure = self._verifiers[name].failure(candidate.completion, entries[name], candidate.tools)
                if failure is None:
                    passed.append(name)
                else:
                    failed.append(f"{name}: {failure.reason}")
        return _Verdict(tuple(failed), tuple(passed))

    def _entries_of(self, row: PromptRow) -> dict[VerifierName, Any]:
        required = row.required() if isinstance(row, VerifiedPromptRow) else {}
        for name in required:
            if name not in self._verifiers:
                what = f"requires {name!r}, and the verifiers are {', '.join(self._verifiers) or 'none'}"
                how = f"Add {name} to the setting verifiers, or remove the entry"
                raise RowError(f"prompt {row.id}: verify", what, how)
        found: dict[VerifierName, Any] = {}
        for name, verifier in self._verifiers.items():
            if name not in required:
                entry = verifier.default_entry(row.tools, row.prompt)
                if entry is not None:
                    found[name] = entry
                continue
            try:
                found[name] = verifier.read(required[name])
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                place = ".".join(map(str, ("verify", name, *first["loc"])))
                what = first["msg"].removeprefix("Value error, ")
                how = f"See {verifier.entry.__name__} in align/judges/verifiers/"
                raise RowError(f"prompt {row.id}: {place}", what, how) from None
        return found


class _Verdict(NamedTuple):
    """What verifiers said of one candidate: see `Candidate.failed` and `Candidate.passed`."""

    failed: tuple[str, ...]
    passed: tuple[str, ...]


def _with_verdict(candidate: Candidate, said: _Verdict) -> Candidate:
    """The candidate with a verdict in addition to what was said of it before."""
    more = {"failed": (*candidate.failed, *said.failed), "passed": (*candidate.passed, *said.passed)}
    return candidate.model_copy(update=more)


def _without_entries(row: PromptRow) -> PromptRow:
    if not isinstance(row, VerifiedPromptRow):
        return row
    return PromptRow(**{name: getattr(row, name) for name in PromptRow.model_fields})
