"""Settings that may change between two starts of one run, because no value of the steps already done depends on them.

Training reads this list when it resumes (`align/trainers/resuming.py`), and the rounds when they compare a finished
stage with its config (`align/rounds/plan.py`).
"""

from __future__ import annotations

_OUTPUT = {
    *("training.output_dir", "training.log_steps", "training.save_steps", "training.save_minutes"),
    *("training.keep_checkpoints", "training.keep_optimizer", "training.report_to", "training.run_name"),
    *("training.project", "training.threads", "data.encode_processes"),
    *("training.watchdog_minutes", "training.slow_rank_factor"),
    *("training.checks", "training.proofs"),  # the last is an earlier name of training.checks
    "training.guards.probe_steps",
    *("dpo.reference_cache", "dpo.reference_shard_steps"),
}
"""What is written, where and how often; how fast; and what is checked."""

_MEASUREMENT = {"data.eval_path", "data.eval_limit", "training.eval_steps", "training.eval_on_start"}
"""When the model is evaluated, and on which rows. `data.eval_ratio` is missing: it takes rows from training."""

_RESULT = {
    *("training.metric_for_best_model", "training.load_best_model_at_end", "training.save_dtype"),
    *("training.early_stopping_patience", "training.early_stopping_threshold"),
    *("training.guards.spike_threshold", "training.guards.spike_window", "training.guards.spike_warmup"),
    "training.guards.max_rollbacks",
}
"""When a run ends, which of its steps is the result, and how that is stored."""

_ROUNDING = {"data.token_budget", "training.sequence_parallel"}
"""How rows are packed: the same gradients in another order of sums. A run that has run out of memory needs a smaller
one, and must be able to go on with it. Rows that are dropped for it are noticed as other rows."""


_SERVERS = {"base_urls", "concurrency", "timeout_seconds", "retries", "api_key_variable"}
"""Settings of a section `sampling.server`: which servers sample, and how they are asked."""
_VLLM = {"tensor_parallel_size", "gpu_memory_utilization", "enforce_eager"}
"""Settings of a section `sampling.vllm` that change completions by rounding only."""


def changes_no_result(key: str) -> bool:
    """Whether the files of a finished run are the same for every value of this setting, metrics aside.

    key: dotted, such as training.threads. `hub` says only where a finished model is uploaded, `alarms` (also its input
    `alarms.former`) only when samples are warned of or refused.
    """
    section, _, name = key.rpartition(".")
    return (
        key in _OUTPUT
        or key.partition(".")[0] == "hub"
        or key.startswith(("training.guards.alarms.", "alarms."))
        or (section.endswith("sampling.server") and name in _SERVERS)
        or (section.endswith("sampling.vllm") and name in _VLLM)
    )


def changes_no_model(key: str) -> bool:
    """Whether the finished model is the same for every value of this setting."""
    return changes_no_result(key) or key in _MEASUREMENT or key.startswith("data.eval_path.")


def may_change(key: str) -> bool:
    """Whether an unfinished run may be resumed with another value of this setting."""
    return changes_no_model(key) or key in _RESULT or key in _ROUNDING
