"""The optimizers that `training.optimizer` may name: what each stores, reads and requires. No torch is imported.

transformers makes them (`transformers.training_args.OptimizerNames`). A test compares the names here with that list.
"""

from __future__ import annotations

from typing import NamedTuple

from align.errors import ConfigError
from align.optional import install, is_installed

_BITSANDBYTES = "bitsandbytes"
_EXTRA = "qlora"
"""The extra that brings bitsandbytes."""


class OptimizerFacts(NamedTuple):
    """What this project has to know of an optimizer."""

    state_bytes: float
    """Stored for each trained weight. Used to estimate the size of a checkpoint before the first step."""
    betas: bool = False
    """Whether it reads adam_beta1 and adam_beta2."""
    epsilon: bool = False
    """Whether it reads adam_epsilon."""
    package: str = ""
    """The module that it is in, if it is not torch or transformers."""
    gpu: bool = False
    """Paged states are moved between GPU and CPU memory: without a GPU there is nothing to page."""
    sharded: bool = False
    """Whether it works under ZeRO-3, which gives it flat slices of weights instead of matrices."""
    factored: bool = False
    """One value for each row and column of a matrix is stored, instead of `state_bytes`."""


_BLOCKS = 4 / 256
"""8-bit states have a float32 scale for each block of 256 values."""

OPTIMIZERS: dict[str, OptimizerFacts] = {
    "adamw_torch_fused": OptimizerFacts(8, betas=True, epsilon=True, sharded=True),
    "adamw_torch": OptimizerFacts(8, betas=True, epsilon=True, sharded=True),
    "adafactor": OptimizerFacts(4, factored=True),
    "sgd": OptimizerFacts(0),
    "adagrad": OptimizerFacts(4),
    "rmsprop": OptimizerFacts(4),
    "adamw_8bit": OptimizerFacts(2 + 2 * _BLOCKS, betas=True, epsilon=True, package=_BITSANDBYTES),
    "adamw_bnb_8bit": OptimizerFacts(2 + 2 * _BLOCKS, betas=True, epsilon=True, package=_BITSANDBYTES),
    "paged_adamw_8bit": OptimizerFacts(2 + 2 * _BLOCKS, betas=True, epsilon=True, package=_BITSANDBYTES, gpu=True),
    "paged_adamw_32bit": OptimizerFacts(8, betas=True, epsilon=True, package=_BITSANDBYTES, gpu=True),
    "lion_8bit": OptimizerFacts(1 + _BLOCKS, betas=True, package=_BITSANDBYTES),
    "lion_32bit": OptimizerFacts(4, betas=True, package=_BITSANDBYTES),
    "paged_lion_8bit": OptimizerFacts(1 + _BLOCKS, betas=True, package=_BITSANDBYTES, gpu=True),
    "paged_lion_32bit": OptimizerFacts(4, betas=True, package=_BITSANDBYTES, gpu=True),
    "ademamix": OptimizerFacts(12, betas=True, epsilon=True, package=_BITSANDBYTES),
    "ademamix_8bit": OptimizerFacts(3 + 3 * _BLOCKS, betas=True, epsilon=True, package=_BITSANDBYTES),
    "paged_ademamix_32bit": OptimizerFacts(12, betas=True, epsilon=True, package=_BITSANDBYTES, gpu=True),
    "paged_ademamix_8bit": OptimizerFacts(3 + 3 * _BLOCKS, betas=True, epsilon=True, package=_BITSANDBYTES, gpu=True),
    "rmsprop_bnb": OptimizerFacts(4, package=_BITSANDBYTES),
    "rmsprop_bnb_8bit": OptimizerFacts(1 + _BLOCKS, package=_BITSANDBYTES),
    "rmsprop_bnb_32bit": OptimizerFacts(4, package=_BITSANDBYTES),
}
"""By the name that transformers has for it. The literal type of `training.optimizer` lists the same names."""

_LOW_RANK = "needs target modules and a rank, which are no settings here", "Use model.lora to train with less memory"
_IN_BACKWARD = (
    "updates the weights inside the backward pass, before the norm of the gradients is known",
    "Use adamw_8bit or model.lora to train with less memory",
)
_OWN_SCHEDULE = (
    "trains other weights than it saves, and has a schedule of its own",
    "Use adamw_torch_fused with training.schedule: constant",
)
_LOW_BITS = "keeps its states in tensors that a checkpoint cannot be read back from safely", "Use adamw_8bit"
_NOT_TESTED = "is from a package that is not tested here", "Use adamw_torch_fused"
_OTHER_DEVICE = "is for a kind of device that is not supported here", "Use adamw_torch_fused"

UNSUPPORTED: dict[str, tuple[str, str]] = {
    **{
        f"galore_{name}": _LOW_RANK
        for kind in ("adamw", "adamw_8bit", "adafactor")
        for name in (kind, f"{kind}_layerwise")
    },
    **dict.fromkeys(("apollo_adamw", "apollo_adamw_layerwise"), _LOW_RANK),
    **dict.fromkeys(("lomo", "adalomo"), _IN_BACKWARD),
    **dict.fromkeys(("schedule_free_radam", "schedule_free_adamw", "schedule_free_sgd"), _OWN_SCHEDULE),
    **dict.fromkeys(("adamw_torch_4bit", "adamw_torch_8bit"), _LOW_BITS),
    **dict.fromkeys(("adamw_anyprecision", "grokadamw", "stable_adamw"), _NOT_TESTED),
    **dict.fromkeys(("adamw_torch_xla", "adamw_torch_npu_fused"), _OTHER_DEVICE),
}
"""The other names of transformers -> why they cannot be used here, and what to use."""

KEY = "training.optimizer"


def require_supported(name: str) -> None:
    """Raise ConfigError for an optimizer that transformers has and that cannot be used here, or is not installed."""
    if name in UNSUPPORTED:
        why, how = UNSUPPORTED[name]
        raise ConfigError(KEY, f"{name} {why}", how)
    facts = OPTIMIZERS.get(name)
    if facts is not None and facts.package and not is_installed(facts.package):
        what = f"the optimizer {name} requires {facts.package}, which is not installed"
        raise ConfigError(KEY, what, install(_EXTRA))


def require_usable(name: str, *, gpu: bool, sharded: bool) -> None:
    """Raise ConfigError if the optimizer does not work on this machine or with this launcher.

    gpu: whether a GPU is visible. sharded: whether DeepSpeed shares weights and states among the processes.
    """
    facts = OPTIMIZERS[name]
    if facts.gpu and not gpu:
        what = f"{name} moves optimizer states between GPU and CPU memory, and no GPU is visible"
        unpaged = name.removeprefix("paged_")
        raise ConfigError(KEY, what, f"Use {unpaged if unpaged in OPTIMIZERS else 'adamw_torch_fused'}")
    if sharded and not facts.sharded:
        usable = " or ".join(each for each, other in OPTIMIZERS.items() if other.sharded)
        what = f"{name} does not work with DeepSpeed, which gives the optimizer flat slices of the weights"
        raise ConfigError(KEY, what, f"Use {usable}, whose states ZeRO-3 divides among the processes")
