"""Verifies candidates by what their prompts require, before the best ones are selected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from align.errors import RowError
from align.judges.verifiers.catalog import VerifierName, load_verifier
from align.rows import Candidate, PromptRow, VerifiedPromptRow


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

    def verify(self, candidates: Iterable[Candidate]) -> tuple[list[Candidate], dict[str, dict[str, Any]]]:
        """The candidates with what they passed and failed, in their order, and counts for the manifest.

        Counts: `{"maths": {"passed": 30, "failed": {"wrong answer": 8, "no answer": 2}}}`.
        """
        passed, failed = Counter[str](), {name: Counter[str]() for name in self._verifiers}
        verified = []
        for candidate in candidates:
            failures, passes = [], []
            for name, entry in self._entries.get(candidate.prompt_id, {}).items():
                failure = self._verifiers[name].failure(candidate.completion, entry, candidate.tools)
                if failure is None:
                    passed[name] += 1
                    passes.append(name)
                else:
                    failed[name][failure.reason] += 1
                    failures.append(f"{name}: {failure.reason}")
            verified.append(candidate.model_copy(update={"failed": tuple(failures), "passed": tuple(passes)}))
        return verified, {
            name: {"passed": passed[name], "failed": dict(failed[name].most_common())} for name in self._verifiers
        }

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
                entry = verifier.default_entry(row.tools)
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


def _without_entries(row: PromptRow) -> PromptRow:
    if not isinstance(row, VerifiedPromptRow):
        return row
    return PromptRow(**{name: getattr(row, name) for name in PromptRow.model_fields})
