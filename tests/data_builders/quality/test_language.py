"""Answers in another language than their prompt are dropped, unless the prompt asks for it."""

from __future__ import annotations

import pytest

from data_builders.quality.language import SameLanguage
from data_builders.quality.settings import LanguageConfig
from tests.data_builders.quality.made_rows import dialog

TEXTS = {
    "de": "Die Hauptstadt liegt an einem großen Fluss, und viele Menschen besuchen sie jedes Jahr im Sommer.",
    "en": "The capital lies on a large river, and many people visit it every year during the summer.",
    "es": "La capital está situada junto a un gran río y muchas personas la visitan cada año en verano.",
    "fr": "La capitale se trouve près d'un grand fleuve et beaucoup de gens la visitent chaque été.",
    "hi": "राजधानी एक बड़ी नदी के किनारे है और हर साल गर्मियों में बहुत से लोग उसे देखने आते हैं।",
    "it": "La capitale si trova su un grande fiume e molte persone la visitano ogni anno durante l'estate.",
    "pt": "A capital fica junto a um grande rio e muitas pessoas visitam-na todos os anos durante o verão.",
    "th": "เมืองหลวงตั้งอยู่ริมแม่น้ำสายใหญ่และมีผู้คนจำนวนมากมาเยี่ยมชมทุกปีในฤดูร้อน",
}


@pytest.fixture(scope="module")
def step() -> SameLanguage:
    pytest.importorskip("py3langid")
    return SameLanguage(LanguageConfig(enabled=True))


@pytest.mark.slow
def test_all_pairs_of_the_eight_languages(step: SameLanguage) -> None:
    rows = [dialog(f"{one} {other}", TEXTS[one], TEXTS[other]) for one in TEXTS for other in TEXTS]
    drops = step.examine(rows).drops
    kept = {row.id for place, row in enumerate(rows) if place not in drops}
    assert kept == {f"{name} {name}" for name in TEXTS}
    assert {drop.reason for drop in drops.values()} == {"another language than the prompt"}


@pytest.mark.slow
def test_a_prompt_may_ask_for_another_language(step: SameLanguage) -> None:
    rows = [
        dialog("a", f"Translate into French: {TEXTS['en']}", TEXTS["fr"]),
        dialog("b", f"Antworte auf Englisch. {TEXTS['de']}", TEXTS["en"]),
        dialog("code", TEXTS["de"], "```python\nfor word in words:\n    print(word)\n```"),
        dialog("short", TEXTS["de"], "Paris"),
    ]
    assert not step.examine(rows).drops
