"""Splits of rows into parts by a hash: which part a row is in does not depend on the other rows."""

from __future__ import annotations

from collections.abc import Sequence

from align.files import fingerprint_of
from align.rows import Messages
from align.text import normalize


def part_of(key: str, ratios: Sequence[float], seed: int) -> int:
    """Assign a key to a part of a split, by its hash. Returns the number of the part, counted from 0.

    ratios: the size of each part, from 0 to 1; what they leave over is one more part, the last.

    The part of a key does not depend on the other keys, so a held-out entity stays held out when the data grows.
    Example: with ratios (0.2, 0.1), a key whose hash is 0.25 as a number from 0 to 1 is past the first part (0 to 0.2)
    and inside the second (0.2 to 0.3): part 1.
    """
    place = int(fingerprint_of(seed, key)[:12], 16) / 16**12
    for part, ratio in enumerate(ratios):
        if place < ratio:
            return part
        place -= ratio
    return len(ratios)


def prompt_identity(prompt: Messages) -> str:
    """Return the text by which a split assigns a prompt: its first user message.

    All turns of a dialog share their first user message, so they are on the same side of a split.
    """
    users = [message.content for message in prompt if message.role == "user"]
    return normalize(users[0] if users else prompt[0].content)
