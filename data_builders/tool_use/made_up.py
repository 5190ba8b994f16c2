"""Results for functions that stand in for a service, such as a shop's catalog: made up, and always the same.

A file of functions may import this module; the functions below are helpers there, not tools of the file.
"""

from __future__ import annotations

from collections.abc import Sequence

from align.files import fingerprint_of


def made_up(low: int, high: int, *parts: object) -> int:
    """A whole number from low to high that depends on the parts alone: the same parts always give the same number."""
    return low + int(fingerprint_of(*parts)[:12], 16) % (high - low + 1)


def made_up_choice(options: Sequence[str], *parts: object) -> str:
    """One of the options, chosen by the parts alone."""
    return options[made_up(0, len(options) - 1, *parts)]
