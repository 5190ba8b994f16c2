"""The names of trackers, and what a tracker that cannot work says."""

from __future__ import annotations

from typing import get_args

import pytest

from align import trackers
from align.errors import ConfigError
from align.trackers import KUBEFLOW, TRACKERS, TrackerName, require_trackers


def test_the_trackers_are_those_that_transformers_knows() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(get_args(TrackerName)) == TRACKERS.keys() == INTEGRATION_TO_CALLBACK.keys()


@pytest.mark.parametrize(
    "name, expected",
    [
        ("wandb", "the tracker wandb is not installed. Install the extra: pip install 'align-post-training[wandb]'."),
        ("comet_ml", "the tracker comet_ml is not installed. Install it: pip install comet-ml."),
        ("dagshub", "the tracker dagshub is not installed. Install it: pip install dagshub mlflow."),
        ("kubeflow", f"the tracker kubeflow requires the environment variable {KUBEFLOW}, which is missing."),
    ],
)
def test_a_tracker_that_cannot_work_says_what_is_missing(
    name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda module: module == "mlflow")
    monkeypatch.delenv(KUBEFLOW, raising=False)
    with pytest.raises(ConfigError) as caught:
        require_trackers(["mlflow", name], "training.report_to")
    assert str(caught.value).startswith(f"training.report_to: {expected}")
    monkeypatch.setattr(trackers, "is_installed", lambda module: True)
    monkeypatch.setenv(KUBEFLOW, "http://server")
    require_trackers([name], "training.report_to")
