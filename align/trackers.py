"""The trackers that `training.report_to` may name, and what each of them needs.

The names are those of transformers. They are listed here because importing transformers' list takes seconds, and a
config must be answered at once; a test compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Literal, NamedTuple

from align.errors import ConfigError
from align.optional import install, is_installed

TrackerName = Literal[
    "azure_ml",
    "clearml",
    "codecarbon",
    "comet_ml",
    "dagshub",
    "dvclive",
    "flyte",
    "kubeflow",
    "mlflow",
    "neptune",
    "swanlab",
    "tensorboard",
    "trackio",
    "wandb",
]


class Tracker(NamedTuple):
    """What a tracker needs, and how it takes a project's and a run's name."""

    modules: tuple[str, ...]
    """Top-level modules that must be installed."""
    packages: str = ""
    """What pip installs for them; empty if an extra of the tracker's name does it."""
    project: str = ""
    """The environment variable with the name of the project; empty if transformers passes `training.project` on, or if
    the tracker has no projects."""
    run: str = ""
    """The same for the name of the run."""


TRACKERS: dict[str, Tracker] = {
    "azure_ml": Tracker(("azureml",), "azureml-core"),
    "clearml": Tracker(("clearml",), "clearml", "CLEARML_PROJECT", "CLEARML_TASK"),
    "codecarbon": Tracker(("codecarbon",), "codecarbon", "CODECARBON_PROJECT_NAME"),
    "comet_ml": Tracker(("comet_ml",), "comet-ml", "COMET_PROJECT_NAME"),
    "dagshub": Tracker(("dagshub", "mlflow"), "dagshub mlflow", "MLFLOW_EXPERIMENT_NAME"),
    "dvclive": Tracker(("dvclive",), "dvclive", "", "DVC_EXP_NAME"),
    "flyte": Tracker(("flytekit",), "flytekit"),
    "kubeflow": Tracker(()),
    "mlflow": Tracker(("mlflow",), "", "MLFLOW_EXPERIMENT_NAME"),
    "neptune": Tracker(("neptune",), "neptune", "NEPTUNE_PROJECT"),
    "swanlab": Tracker(("swanlab",), "swanlab", "SWANLAB_PROJECT"),
    "tensorboard": Tracker(("tensorboard",)),
    "trackio": Tracker(("trackio",)),
    "wandb": Tracker(("wandb",), "", "WANDB_PROJECT"),
}

KUBEFLOW = "KUBEFLOW_TRAINER_SERVER_URL"
"""Set by Kubeflow in the containers of its jobs; without it there is no place to report to."""


def require_trackers(names: Iterable[str], key: str) -> None:
    """Raise ConfigError for the first tracker that is not installed, with the command that installs it."""
    for name in names:
        tracker = TRACKERS[name]
        if name == "kubeflow" and not os.environ.get(KUBEFLOW):
            what = f"the tracker kubeflow requires the environment variable {KUBEFLOW}, which is missing"
            raise ConfigError(key, what, "It works inside a job of Kubeflow's trainer only: name another tracker")
        if not all(map(is_installed, tracker.modules)):
            how = f"Install it: pip install {tracker.packages}" if tracker.packages else install(name)
            raise ConfigError(key, f"the tracker {name} is not installed", how)
