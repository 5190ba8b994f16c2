"""Drops rows whose answer is in another language than the prompt, unless the prompt asks for one.

The language is identified by py3langid, as in rejection sampling (`align/judges/verifiers/language.py`); how often it
errs is in docs/concepts.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from align.judges.verifiers.language import identified
from align.optional import library
from align.rows import Row
from data_builders.quality.settings import LanguageConfig
from data_builders.quality.steps import Drop, Examined, Step
from data_builders.quality.texts import final_answer, prompt_of

# What a prompt says if its answer may be in another language: the languages' names in English and in their own, and the
# word "translate" in the eight languages of Llama 3.1.
_NAMES = (
    *("english", "german", "french", "spanish", "italian", "portuguese", "hindi", "thai", "chinese", "japanese"),
    *("korean", "russian", "arabic", "dutch", "polish", "turkish", "vietnamese", "indonesian", "czech", "greek"),
    *("hebrew", "hungarian", "romanian", "swedish", "ukrainian", "danish", "finnish", "persian", "latin", "mandarin"),
    *("deutsch", "français", "francais", "español", "espanol", "italiano", "português", "englisch"),
    *("französisch", "spanisch", "anglais", "allemand", "espagnol", "inglés", "ingles", "alemán", "francés", "inglese"),
    *("tedesco", "francese", "spagnolo", "inglês", "alemão", "हिन्दी", "हिंदी", "अंग्रेज़ी", "अंग्रेजी", "ไทย", "อังกฤษ"),
    *(
        "中文",
        "英文",
        "日本語",
        "한국어",
        "русск",
        "translat",
        "übersetz",
        "tradui",
        "traduc",
        "tradur",
        "traduz",
        "अनुवाद",
        "แปล",
    ),
)
_ASKS = re.compile("|".join(map(re.escape, _NAMES)), re.IGNORECASE)


class SameLanguage(Step):
    """Drops rows whose answer has another language than the last user message."""

    name = "language"

    def __init__(self, config: LanguageConfig) -> None:
        library("py3langid", "language", "quality.language.enabled")
        self._config = config

    def settings(self) -> dict[str, Any]:
        return self._config.model_dump()

    def examine(self, rows: Sequence[Row]) -> Examined:
        found = {place: drop for place, row in enumerate(rows) if (drop := self._fault(row)) is not None}
        return Examined(found)

    def _fault(self, row: Row) -> Drop | None:
        answer = final_answer(row)
        asked = [message.content for message in prompt_of(row) if message.role in ("user", "system")]
        if not answer or not asked or any(map(_ASKS.search, asked)):
            return None
        least = self._config.min_confidence
        prompt, reply = identified(asked[-1]), identified(answer)
        if prompt is None or reply is None or min(prompt.confidence, reply.confidence) < least:
            return None
        if prompt.language == reply.language:
            return None
        return Drop("another language than the prompt", f"{reply.language} for {prompt.language}")
