"""Planted defects of every kind are found, and nothing else is dropped: a small form of tests/bench/defects.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.defects import KINDS, Texts, measured, table
from tests.data_builders.quality.made_rows import random_rows


@pytest.mark.slow
def test_planted_defects_are_dropped_for_their_reason_and_other_rows_are_kept(tmp_path: Path) -> None:
    rows = [Texts(*(message.content for message in row.messages)) for row in random_rows(20, seed=9, words=(20, 60))]
    settings = {"decontamination": {"enabled": False}, "balance": {"enabled": False}}
    found = measured(rows, tmp_path, each=6, **settings)
    missed = {name: found.planted[name] - found.found[name] for name in KINDS}
    # Words of no language have none to be identified, and the rules know neither where a sentence ends nor all pages.
    for name in ("another language", "cut off at any word", "other remains of a page"):
        assert missed.pop(name) > 0
    assert not any(missed.values()), missed
    assert found.planted[""] == 20
    assert not found.false_drops
    assert sum(found.dropped.values()) == sum(found.found.values()), "no plant is dropped for another reason"
    assert len(table(found)) == 2 + len(KINDS) + 1
