"""The plots of docs/results/bench/, out of results.json. The one file that needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from align.files import whole_file

Json = dict[str, Any]
COLORS = {"trl": "#b5563c", "trl best": "#d99a4e", "trl compact": "#7a8f6a", "rows": "#b5563c", "ours": "#2f5d8a"}
COLORS |= {"trl padded": "#d99a4e", "trl packed": "#c9b458", "trl packed compact": "#7a8f6a"}


def draw(results: Json, folder: Path) -> list[Path]:
    """Every plot for which there are results, as SVG; returns the files."""
    cases = results["cases"]
    drawn = []
    for name, plot in (("ratios", _ratios), ("sweep", _sweep), ("growth", _growth), ("memory", _memory)):
        figure = Figure(figsize=(7.5, 4.2))
        axes = figure.subplots()
        if plot(axes, cases):
            axes.spines[["top", "right"]].set_visible(False)
            path = folder / f"{name}.svg"
            # The salt and the missing date: the same results give the same file.
            with whole_file(path, "wb") as handle, matplotlib.rc_context({"svg.hashsalt": "bench"}):
                figure.savefig(handle, format="svg", bbox_inches="tight", metadata={"Date": None})
            drawn.append(path)
    return drawn


def _ratios(axes: Any, cases: dict[str, Json]) -> bool:
    """How many times longer than ours each arm takes, by case, with quartiles."""
    groups = ("dpo", "sft", "reward", "scoring")
    found = {name: case["ratios"] for name, case in cases.items() if case["group"] in groups and "ratios" in case}
    shown: set[str] = set()
    line = 0
    places, labels = [], []
    for name, ratios in reversed(found.items()):
        first = line
        for arm in reversed([ratio for ratio in ratios if ratio.endswith(" / ours")]):
            value, peer = ratios[arm], arm.removesuffix(" / ours")
            errors = [[value["median"] - value["low"]], [value["high"] - value["median"]]]
            axes.barh(line, value["median"], xerr=errors, color=COLORS[peer], label=None if peer in shown else peer)
            shown.add(peer)
            line += 1
        places.append((first + line - 1) / 2)
        labels.append(name)
        line += 1
    axes.figure.set_figheight(max(3.0, 0.22 * line))
    axes.set_yticks(places, labels)
    axes.axvline(1, color="#555", linewidth=0.8)
    axes.set_xlabel("times longer than ours (median, quartiles)")
    if shown:
        axes.legend(frameon=False)
    return bool(found)


def _sweep(axes: Any, cases: dict[str, Json]) -> bool:
    """The ratio against prompt over completion."""
    found = [case for case in cases.values() if case["group"] == "sweep" and "ratios" in case]
    points = [(case["settings"]["prompt"] / case["settings"]["completion"], case["ratios"]) for case in found]
    for arm in ("trl", "trl best", "trl compact"):
        values = [ratios[f"{arm} / ours"]["median"] for _, ratios in points]
        axes.plot([share for share, _ in points], values, "o-", color=COLORS[arm], label=arm)
    axes.set_xscale("log")
    axes.axhline(1, color="#555", linewidth=0.8)
    axes.set_xlabel("prompt tokens / completion tokens")
    axes.set_ylabel("times longer than ours")
    axes.legend(frameon=False)
    return bool(points)


def _growth(axes: Any, cases: dict[str, Json]) -> bool:
    """Seconds of a step against the tokens of one row."""
    found = {name: case for name, case in cases.items() if case["group"] == "growth" and "slope" in case}
    for name, case in found.items():
        tokens = sorted(map(int, case["seconds"]))
        seconds = [case["seconds"][str(count)]["median"] for count in tokens]
        axes.plot(tokens, seconds, "o-", label=f"{name.removeprefix('growth, ')}: slope {case['slope']:.2f}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("tokens in one packed row")
    axes.set_ylabel("seconds of a DPO step")
    if found:
        axes.legend(frameon=False)
    return bool(found)


def _memory(axes: Any, cases: dict[str, Json]) -> bool:
    """Peak memory of a DPO step, by arm: what was used before it, and what it took."""
    found = [case for case in cases.values() if case["group"] == "memory" and "peak_bytes" in case][::-1]
    for line, case in enumerate(found):
        before, above = case["before_bytes"] / 2**30, case["above_bytes"] / 2**30
        axes.barh(line, before, color="#cccccc", label="before the step" if line == 0 else None)
        axes.barh(line, above, left=before, color=COLORS[case["arm"]])
    axes.set_yticks(range(len(found)), [case["arm"] for case in found])
    axes.set_xlabel("GiB of the process at its peak (grey: before the step)")
    return bool(found)
