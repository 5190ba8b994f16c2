"""A sample of the malformed inputs of `tests/torture/malformed.py`: a message, an exit code, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.malformed import CASES, Case, check

SAMPLE = CASES[::9]


@pytest.mark.slow
@pytest.mark.parametrize("case", SAMPLE, ids=[f"{case.kind}-{case.name}" for case in SAMPLE])
def test_a_malformed_input_is_one_message(
    case: Case, tmp_path: Path, tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check(case, tmp_path, tiny_checkpoint, lambda: capfd.readouterr().err)


def test_the_sample_has_every_kind() -> None:
    assert {case.kind for case in SAMPLE} == {case.kind for case in CASES}
    assert len(CASES) >= 200
