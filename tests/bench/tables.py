"""Fill the tables of docs/results/benchmark.md, between `<!-- table NAME -->` and `<!-- end -->`, from results.json.

A case that was refused or failed is in its table with the reason, and one that was not run with a dash: a number is
printed only where it was measured behind the gate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

Json = dict[str, Any]

AIMED: dict[str, dict[str, float]] = {  # table -> ratio -> what we aim at
    "dpo 475-284": {"trl / ours": 5.0, "trl compact / ours": 3.0},
    "dpo 96-256": {"trl / ours": 3.5, "trl compact / ours": 2.5},
    "sft": {"trl / ours": 2.0, "trl packed compact / ours": 1.2},
    "scoring": {"rows / ours": 2.5},
    "preparation": {"trl / ours": 4.0},
}
WORK_RATIO, MACHINE_RATIO, HEAD_SHARE, SLOPE = 0.95, 0.75, 1 / 50, 1.1

_MARKED = re.compile(r"(<!-- table ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, results: Json) -> str:
    """The page with every marked table written again. A name that is not known is an error."""
    return _MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]](results)}\n{found[3]}", page)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a dash in each cell where there are no lines."""
    body = lines or [["-"] * len(head)]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def _machine(results: Json) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    units = f" ({', '.join(machine['matrix_units'])})" if machine["matrix_units"] else ""
    return (
        f"Measured on {machine['date']} by `{results['command']}` on {machine['cores']} cores of {machine['processor']}"
        f"{units}, {machine['system']}, Python {machine['python']}, {versions}."
    )


def _training(groups: Sequence[str], ratios: Sequence[tuple[str, str]]) -> Callable[[Json], str]:
    """A table of ratios: a line for each case of the groups, a column for each (ratio, heading)."""

    def made(results: Json) -> str:
        lines = []
        for name, case in _of(results, *groups):
            aims = AIMED.get(groups[0], AIMED.get(f"{groups[0]} {_shape(case)}", {}))
            if _reason(case):
                cells = [_reason(case), *["-"] * (len(ratios) - 1)]
            else:
                cells = [_ratio(case, ratio, aims.get(ratio)) for ratio, _ in ratios]
            lines.append([name, *cells])
        return table(["", *(heading for _, heading in ratios)], lines)

    return made


def _limits(results: Json) -> str:
    lines = []
    for name, case in _of(results, "dpo", "sft", "reward", "scoring"):
        if _reason(case):
            continue
        arms = case["limits"]["arms"]
        peers = [arm for arm in ("trl compact", "trl packed compact", "trl best", "rows") if arm in arms]
        mine = arms["ours"]
        cells = [f"{mine[key]:.2f}" for key in ("work_ratio", "machine_ratio", "share_of_the_possible")]
        theirs = arms[peers[0]]["share_of_the_possible"]
        lines.append([name, *cells, f"{theirs:.2f} ({peers[0]})"])
    head = ["", f"work ratio (aimed at {WORK_RATIO})", f"machine ratio (aimed at {MACHINE_RATIO})"]
    return table([*head, "of the possible speed", "the best peer"], lines)


def _gates(results: Json) -> str:
    lines = []
    for name, case in _of(results, "dpo", "sweep", "sft", "reward"):
        if "refused" in case:
            lines.append([name, case["refused"], "-", "-", "-", "-"])
        elif not _reason(case):
            gate = case["gate"]
            arms = {arm: apart for arm, apart in gate["arms"].items() if arm != gate["held_to"]}
            mine, peers = arms.pop("ours"), list(arms.values())
            others = [f"{max((apart[key] for apart in peers), default=0.0):.1e}" for key in ("loss", "gradient")]
            lines.append(
                [name, gate["held_to"], f"{mine['loss']:.1e} / {mine['gradient']:.1e}", " / ".join(others),
                 f"{gate['bounds']['loss']:g} / {gate['bounds']['gradient']:g}", _farthest(gate.get("timed"))]
            )  # fmt: skip
    head = ["compared with", "ours", "the peers' arms", "bound", "losses of timed steps: ours / the peers'"]
    return table(["loss / gradients apart", *head], lines)


def _farthest(timed: Json | None) -> str:
    """How far the loss of any timed step was off."""
    if timed is None:
        return "-"
    peers = [apart for arm, steps in timed.items() if arm != "ours" for apart in steps]
    return f"{max(timed['ours']):.1e} / {max(peers, default=0.0):.1e}"


def _memory(results: Json) -> str:
    lines = [
        [name, _reason(case), "-"]
        if _reason(case)
        else [name, _megabytes(case["peak_bytes"]), _megabytes(case["above_bytes"])]
        for name, case in _of(results, "memory")
    ]  # fmt: skip
    return table(["", "VmHWM", "above the memory before the step"], lines)


def _head(results: Json) -> str:
    found = _of(results, "head")
    whole = next((case["above_bytes"] for _, case in found if case.get("arm") == "logits"), None)
    lines = []
    for name, case in found:
        if _reason(case):
            lines.append([name, _reason(case), "-"])
        else:
            share = f"1/{whole / max(1, case['above_bytes']):.0f}" if whole else "-"
            lines.append([name, _megabytes(case["above_bytes"]), share])
    return table(["", "peak above inputs and gradients", f"of all logits (aimed at 1/{1 / HEAD_SHARE:.0f})"], lines)


def _preparation(results: Json) -> str:
    lines = []
    for name, case in _of(results, "preparation"):
        if _reason(case):
            lines.append([name, _reason(case), "-", "-"])
            continue
        rates = [f"{case['arms'][arm]['rows_per_second']['median']:,.0f}" for arm in ("trl", "ours")]
        lines.append([name, *rates, _ratio(case, "trl / ours", AIMED["preparation"]["trl / ours"])])
    return table(["rows a second", "TRL", "ours", "ratio"], lines)


def _rows(results: Json) -> str:
    lines = [
        [f"{case['rows']:,}", _megabytes(case["file_bytes"]), _megabytes(case["above_bytes"])]
        for _, case in [*_of(results, "rows"), *_of(results, "million")]
        if not _reason(case)
    ]
    return table(["rows prepared (ours)", "file", "peak above the memory before (goal: flat)"], lines)


def _startup(results: Json) -> str:
    lines = [
        [name, f"{arm['seconds']['median']:.2f} s"]
        for _, case in _of(results, "startup")
        for name, arm in case.get("arms", {}).items()
    ]
    return table(["", "until it answers"], lines)


def _growth(results: Json) -> str:
    lines = [
        [name, f"{case['slope']:.2f}", f"{case['larger']['slope']:.2f} (from {case['larger']['from_tokens']:,})"]
        for name, case in _of(results, "growth")
        if not _reason(case)
    ]
    return table([f"slope (aimed at {SLOPE} at most)", "256 to 8,192 tokens", "the larger ones"], lines)


DPO_RATIOS = [
    ("trl / ours", "TRL as it comes"),
    ("trl / ours with its reference's forward pass", "the same, ours paying its reference's pass"),
    ("trl best / ours", "TRL at its best settings"),
    ("trl compact / ours", "the same, label positions only"),
    ("trl compact / ours, both with the optimizer's step", "and with the optimizer's step"),
]
SFT_RATIOS = [
    ("trl / ours", "TRL padded, as it comes"),
    ("trl padded / ours", "padded, no checkpointing"),
    ("trl packed / ours", "packed"),
    ("trl packed compact / ours", "packed, label positions only"),
]
REWARD_RATIOS = [("trl / ours", "TRL as it comes"), ("trl best / ours", "no checkpointing")]

TABLES: dict[str, Callable[[Json], str]] = {
    "machine": _machine,
    "dpo": _training(["dpo"], DPO_RATIOS),
    "sweep": _training(["sweep"], DPO_RATIOS[:4]),
    "sft": _training(["sft"], SFT_RATIOS),
    "reward": _training(["reward"], REWARD_RATIOS),
    "scoring": _training(["scoring"], [("rows / ours", "a row for each completion, padded, best batch size")]),
    "limits": _limits,
    "gates": _gates,
    "memory": _memory,
    "head": _head,
    "preparation": _preparation,
    "rows": _rows,
    "startup": _startup,
    "growth": _growth,
}


def _of(results: Json, *groups: str) -> list[tuple[str, Json]]:
    return [(name, case) for name, case in results["cases"].items() if case["group"] in groups]


def _shape(case: Json) -> str:
    return f"{case['settings'].get('prompt')}-{case['settings'].get('completion')}"


def _reason(case: Json) -> str:
    return next((f"{word}: {case[word]}" for word in ("refused", "failed") if word in case), "")


def _ratio(case: Json, name: str, aimed: float | None) -> str:
    found = case["ratios"].get(name)
    if found is None:
        return "-"
    aim = f", aimed at {aimed:g}" if aimed else ""
    return f"**{found['median']:.2f}** ({found['low']:.2f} to {found['high']:.2f}{aim})"


def _megabytes(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"
