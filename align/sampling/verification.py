"""Verifies candidates by what their prompts require, before the best ones are selected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from align.errors import RowError
from align.files import fingerprint_of
from align.hardware import cpus_of_process
from align.judges.verifiers.catalog import VerifierName, load_verifier
from align.rows import Candidate, PromptRow, VerifiedPromptRow
from align.sampling.work_units import run_units


class Verified(NamedTuple):
    """Candidates with what they passed and failed, in their order, and counts of each verifier for the manifest."""

    candidates: list[Candidate]
    counts: dict[str, dict[str, Any]]
    """`{"maths": {"passed": 30, "failed": {"wrong answer": 8, "no answer": 2}}}`."""


class Verification:
    """What is verified of the candidates of which prompt. Without verifiers, every candidate passes."""

    def __init__(self, rows: Sequence[PromptRow], names: Iterable[VerifierName]) -> None:
        """Read the prompts' entries, so that a wrong one is an error before anything is sampled.

        Raises RowError for an entry that its verifier refuses, for an entry of a verifier that is not in `names`, and
        for a verifier that no prompt uses. Raises ConfigError if a library is missing.
        """
        self._verifiers = {name: load_verifier(name) for name in names}
        self.prompts = [_without_entries(row) for row in rows]
        """The prompts alone: what is verified of a candidate does not change how it is sampled."""
        self._entries = {row.id: self._entries_of(row) for row in rows}
        used = {name for entries in self._entries.values() for name in entries}
        for name in self._verifiers:
            if name not in used:
                what = f"the verifier {name!r} is switched on, but no prompt has an entry for it"
                raise RowError("verifiers", what, "Add entries to the column verify, or remove the verifier")

    def verify_before_scoring(self, candidates: Iterable[Candidate]) -> Verified:
        """What the verifiers say that come before the reward model. A candidate that fails one is not scored."""
        return self._verify(candidates, [name for name, one in self._verifiers.items() if one.before_scoring])

    def verify_in_units(self, candidates: Sequence[Candidate], *, folder: Path, unit_size: int) -> Verified:
        """What the slow verifiers say, in units of work that processes divide and that survive a crash.

        Candidates of one prompt must be consecutive. Those that failed already are not verified.
        folder, unit_size: as for `score_candidates`. Without slow verifiers the folder is not made.
        """
        slow = [name for name, one in self._verifiers.items() if one.slow]
        to_verify = [candidate for candidate in candidates if not candidate.failed]
        if not slow or not to_verify:
            return Verified(list(candidates), {name: {"passed": 0, "failed": {}} for name in slow})
        groups = [list(group) for _, group in groupby(to_verify, key=lambda candidate: candidate.prompt_id)]

        def verify(unit: Sequence[list[Candidate]]) -> tuple[list[Candidate], int]:
            flat = [candidate for group in unit for candidate in group]
            # A slow check waits for a process of its own, so threads are enough to run several at a time.
            with ThreadPoolExecutor(cpus_of_process()) as pool:
                made = list(pool.map(lambda candidate: self._verified(candidate, slow), flat))
            return made, len(made)

        entries = {
            row_name: {name: entry.model_dump() for name, entry in entries.items() if name in slow}
            for row_name, entries in self._entries.items()
        }
        key = {
            "candidates": fingerprint_of(*(candidate.model_dump_json() for candidate in to_verify)),
            "entries": fingerprint_of(json.dumps(entries, sort_keys=True)),
            "verifiers": slow,
            "unit_size": unit_size,
        }
        made = run_units(
            [groups[first : first + unit_size] for first in range(0, len(groups), unit_size)],
            verify,
            Candidate,
            folder=folder,
            key=key,
            label="verification",
            things="candidates",
            code=[type(self._verifiers[name]).__module__ for name in slow],
        )
        by_id = {candidate.id: candidate for candidate in made}
        return Verified([by_id.get(candidate.id, candidate) for candidate in candidates], _counts(made, slow))

    def verify(self, candidates: Iterable[Candidate]) -> Verified:
        """What the other verifiers say: those that are neither slow nor before the reward model."""
        names = [name for name, one in self._verifiers.items() if not one.slow and not one.before_scoring]
        return self._verify(candidates, names)

    def _verify(self, candidates: Iterable[Candidate], names: Sequence[VerifierName]) -> Verified:
        verified = [self._verified(candidate, names) for candidate in candidates]
        return Verified(verified, _counts(verified, names))

    def _verified(self, candidate: Candidate, names: Sequence[VerifierName]) -> Candidate:
        """The candidate with what it passed and failed of these verifiers."""
        failed, passed = list(candidate.failed), list(candidate.passed)
        entries = self._entries.get(candidate.prompt_id, {})
        for name in names:
            if name in entries:
                failure = self._verifiers[name].failure(candidate.completion, entries[name], candidate.tools)
                if failure is None:
                    passed.append(name)
                else:
                    failed.append(f"{name}: {failure.reason}")
        return candidate.model_copy(update={"failed": tuple(failed), "passed": tuple(passed)})

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


def _counts(candidates: Iterable[Candidate], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of each verifier, how many candidates passed, and how many failed for each reason, most frequent first."""
    passed, failed = Counter[str](), {name: Counter[str]() for name in names}
    for candidate in candidates:
        passed.update(candidate.passed)
        for failure in candidate.failed:
            name, _, reason = failure.partition(": ")
            if name in failed:
                failed[name][reason] += 1
    return {name: {"passed": passed[name], "failed": dict(failed[name].most_common())} for name in names}


def _without_entries(row: PromptRow) -> PromptRow:
    if not isinstance(row, VerifiedPromptRow):
        return row
    return PromptRow(**{name: getattr(row, name) for name in PromptRow.model_fields})
