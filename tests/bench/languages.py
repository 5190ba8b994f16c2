"""How often the verifier `language` errs, on translated messages of Django and Django REST framework.

    pip install --target /tmp/messages --no-deps "django==5.2.*" "djangorestframework==3.18.*"
    python tests/bench/languages.py /tmp/messages

Each message is judged for its own language, in which it must pass, and for the seven others, in which it must fail.
Placeholders, tags and quotation marks are taken out. A message in English is the source of a German translation.
"""

from __future__ import annotations

import re
import sys
import time
from itertools import pairwise
from pathlib import Path

from align.judges.verifiers.language import LanguageVerifier
from align.rows import Message

LANGUAGES = ("de", "en", "es", "fr", "hi", "it", "pt", "th")
FOLDERS = {"en": ("de",), "pt": ("pt", "pt_BR")}
LENGTHS = (20, 40, 80, 10_000)
_ENTRY = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n?)+)', re.MULTILINE)
_NOT_PROSE = re.compile(r"%\(\w+\)[sd]|%[sd]|\{\w*\}|<[^>]+>|[“”\"«»„]")


def messages(folder: Path) -> dict[str, list[str]]:
    """Language -> its messages of at least 20 characters and two words."""
    found: dict[str, list[str]] = {}
    for language in LANGUAGES:
        texts = set()
        for name in FOLDERS.get(language, (language,)):
            for file in folder.rglob(f"locale/{name}/LC_MESSAGES/*.po"):
                for block in file.read_text(encoding="utf-8").split("\n\n"):
                    entry = _ENTRY.search(block)
                    if entry is None or "#, fuzzy" in block or "msgid_plural" in block:
                        continue
                    source, translation = (_joined(text) for text in entry.groups())
                    if source and source != translation:
                        text = " ".join(_NOT_PROSE.sub("", source if language == "en" else translation).split())
                        if len(text) >= LENGTHS[0] and " " in text:
                            texts.add(text)
        found[language] = sorted(texts)
    return found


def _joined(text: str) -> str:
    return "".join(re.findall(r'"(.*)"', text)).replace('\\"', '"').replace("\\n", " ")


def main() -> None:
    found, verifier = messages(Path(sys.argv[1])), LanguageVerifier()
    assert all(found.values()), "the folder has no messages of some language"
    entries = {language: verifier.read({"language": language}) for language in LANGUAGES}
    print("| characters | messages | right language fails | other language passes | ms each |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for least, most in pairwise(LENGTHS):
        own = other = count = 0
        began = time.perf_counter()
        for language, texts in found.items():
            for text in texts:
                if not least <= len(text) < most:
                    continue
                count += 1
                said = (Message(role="assistant", content=text),)
                for expected, entry in entries.items():
                    fails = verifier.failure(said, entry) is not None
                    own += fails and expected == language
                    other += not fails and expected != language
        each = 1000 * (time.perf_counter() - began) / count / len(LANGUAGES)
        name = f"{least} to {most - 1}" if most < LENGTHS[-1] else f"from {least}"
        print(f"| {name} | {count} | {own / count:.1%} | {other / count / (len(LANGUAGES) - 1):.1%} | {each:.1f} |")


if __name__ == "__main__":
    main()
