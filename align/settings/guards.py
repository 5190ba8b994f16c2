"""What is watched while a run trains: spikes, silent data corruption, and values that drift."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from align.config import Section


class AlarmsConfig(Section):
    """Thresholds of the mean metrics of the last `window` log lines. null switches an alarm off."""

    action: Literal["warn", "stop"] = "warn"
    """warn: a warning in the log, `alarms/NAME` in metrics.jsonl and trackers, and a line in the summary of the run.
    stop: the run ends with an error; the same command resumes it from its last checkpoint."""
    window: int = Field(10, gt=0, le=10_000)
    """Log lines whose mean is compared with a threshold. There is no alarm before there are as many."""
    chosen_reward: float | None = Field(-10.0, allow_inf_nan=False)
    """DPO: alarm if `rewards/chosen` is lower. It is beta times the nats that the chosen completions have gained on the
    reference: with beta 0.1, -10 means that they have become e^100 times less likely."""
    margin: float | None = Field(100.0, gt=0, allow_inf_nan=False)
    """DPO and reward model: alarm if the mean margin between chosen and rejected is larger, in log-odds."""
    mean_reward: float | None = Field(100.0, gt=0, allow_inf_nan=False)
    """Reward model: alarm if the mean of its scores is further from 0."""
    empty_masks: float | None = Field(0.0, ge=0, le=1)
    """Alarm if a larger ratio of the rows has no token that is trained on."""


class GuardsConfig(Section):
    """What stops a faulty step. See docs/guards.md."""

    spike_threshold: float | None = Field(10.0, gt=0, allow_inf_nan=False)
    """A loss or gradient norm is a spike if its logarithm is more than this many robust standard deviations (1.4826
    times the median absolute deviation) over the median of the last spike_window steps. null: only values that are not
    finite count."""
    spike_window: int = Field(100, ge=10, le=100_000)
    """Steps whose losses and gradient norms are compared with."""
    spike_warmup: int = Field(20, ge=10, le=100_000)
    """No step counts as a spike before there are this many steps to compare it with."""
    max_rollbacks: int = Field(5, ge=0, le=1000)
    """How often the run returns to its last checkpoint and leaves out the rows of a faulty step, before it stops. 0: it
    stops at the first faulty step."""
    probe_steps: int | None = Field(100, gt=0, le=1_000_000_000)
    """Optimizer steps between two probes: a fixed batch is computed twice on every process, and all values must be the
    same. It takes the time of two forward passes. null: no probes."""
    alarms: AlarmsConfig = AlarmsConfig()
    """Metrics that should not get out of range."""
