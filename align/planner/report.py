"""Plans as a table for a terminal or a page, and the error for stages that do not fit."""

from __future__ import annotations

from collections.abc import Sequence

from align.errors import AlignError
from align.planner.plan import GIB, StagePlan
from align.reporting import duration


def table(plans: Sequence[StagePlan]) -> str:
    """One block for each stage that has a model in memory; the others in one line."""
    blocks = ["\n".join(_block(plan)) for plan in plans if plan.sized]
    idle = [plan.label for plan in plans if not plan.sized]
    if idle:
        blocks.append(f"without a model on a device, or with one on a server: {', '.join(idle)}")
    return "\n\n".join(blocks)


def markdown(plans: Sequence[StagePlan]) -> str:
    """A row for each stage that has a model in memory."""
    rows = [
        "| stage | shape | processes | memory | of that states, gathered, activations | checkpoint | a save "
        "| tokens/s | time | filled |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for plan in plans:
        if not plan.sized:
            continue
        memory = plan.memory
        states = sum(memory.get(name, 0) for name in ("weights", "second shard", "gradients", "optimizer"))
        others = (states, memory.get("gathered weights", 0), memory.get("activations", 0) + memory.get("logits", 0))
        parts = ", ".join(f"{value / GIB:.1f}" for value in others)
        if "KV cache" in memory:
            parts = f"{states / GIB:.1f}, cache {memory['KV cache'] / GIB:.1f}"
        cells = [
            plan.label,
            plan.shape,
            plan.where,
            f"{plan.needed / GIB:.1f} of {plan.limit / GIB:.0f} GiB",
            parts,
            _gb(plan.checkpoint) if plan.checkpoint else "",
            duration(plan.save_seconds) if plan.checkpoint else "",
            f"{plan.tokens_per_second:,.0f}" if plan.tokens_per_second else "",
            duration(plan.hours * 3600) if plan.hours else "",
            f"{plan.filled:.0%}" if plan.filled is not None else "",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def require_fit(plans: Sequence[StagePlan]) -> None:
    """Raise AlignError if a stage does not fit, with settings for each that would."""
    over = [plan for plan in plans if plan.sized and not plan.fits]
    if not over:
        return
    ways = [f"{plan.label}: {'; or '.join(plan.changes) or 'no change that is known here is enough'}" for plan in over]
    what = f"{len(over)} of {sum(plan.sized for plan in plans)} stages with a model do not fit"
    raise AlignError("plan", what, "Change one setting of each. " + ". ".join(ways))


def _block(plan: StagePlan) -> list[str]:
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in plan.memory.items())
    lines = [
        f"{plan.label} ({plan.recipe}, {plan.shape}, {plan.where})",
        f"  memory      {plan.needed / GIB:.1f} of {plan.limit / GIB:.1f} GiB, {verdict}: {parts}",
    ]
    if plan.host:
        lines.append(f"  host        {plan.host / GIB:.1f} of {plan.host_limit / GIB:.1f} GiB on each node")
    if plan.checkpoint:
        saved = (
            f"{_gb(plan.checkpoint)} a checkpoint, {duration(plan.save_seconds)} for a save, {_gb(plan.disk)} at most"
        )
        lines.append(f"  disk        {saved}")
    if plan.steps:
        lines.append(f"  steps       {plan.steps:,} of {plan.step_seconds:.2g} s, rows {plan.filled:.0%} full")
    if plan.tokens_per_second:
        lines.append(f"  speed       {plan.tokens_per_second:,.0f} tokens/s, {duration(plan.hours * 3600)}")
    lines += [f"  warning     {text}" for text in plan.warnings]
    lines += [f"  change      {text}" for text in plan.changes]
    return lines


def _gb(size: int) -> str:
    return f"{size / 1e9:,.0f} GB" if size >= 1e10 else f"{size / 1e9:.2g} GB"
