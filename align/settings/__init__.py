"""The sections of a config that more than one recipe or stage reads, by subject.

They are apart from the code that reads them so that `--help` and a bad config are answered without importing torch.
A value that the paper on Llama 3 (arXiv:2407.21783) gives is the default, and the setting names the section. "Llama 2"
is arXiv:2307.09288. `--help` explains both. Import names from here: `from align.settings import ModelConfig`.
"""

from align.settings.guards import AlarmsConfig, GuardsConfig
from align.settings.hub import HubConfig
from align.settings.model import ChatName, EnvironmentConfig, LoRAConfig, ModelConfig
from align.settings.objectives import DPOConfig, RewardConfig, SFTConfig
from align.settings.paths import INPUT, OUTPUT, InputPath, OutputPath, paths_of
from align.settings.sampling import (
    BACKENDS,
    SamplingConfig,
    SamplingServerConfig,
    VLLMConfig,
    backend_module,
    unused_backends,
)
from align.settings.sources import BadRows, InputSource, InputSources, Reading, RoundSelection, Source
from align.settings.training import EVAL_METRICS, PreferenceDataConfig, TrainingConfig, TreeDataConfig, check_validation

__all__ = [
    "BACKENDS",
    "EVAL_METRICS",
    "INPUT",
    "OUTPUT",
    "AlarmsConfig",
    "BadRows",
    "ChatName",
    "DPOConfig",
    "EnvironmentConfig",
    "GuardsConfig",
    "HubConfig",
    "InputPath",
    "InputSource",
    "InputSources",
    "LoRAConfig",
    "ModelConfig",
    "OutputPath",
    "PreferenceDataConfig",
    "Reading",
    "RewardConfig",
    "RoundSelection",
    "SFTConfig",
    "SamplingConfig",
    "SamplingServerConfig",
    "Source",
    "TrainingConfig",
    "TreeDataConfig",
    "VLLMConfig",
    "backend_module",
    "check_validation",
    "paths_of",
    "unused_backends",
]
