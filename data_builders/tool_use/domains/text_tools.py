"""Counting, formatting, encoding and checking of text, and lists of words."""

from __future__ import annotations

import random
import re
import unicodedata
from typing import Literal


def count_phrase(passage: str, phrase: str, match_case: bool = False) -> int:
    """Counts how often a whole word or phrase occurs in a passage.

    Args:
        passage: Text to look through.
        phrase: What to count.
        match_case: Whether capitals must agree. Default is false.
    """
    if not phrase:
        raise ValueError("phrase must not be empty")
    return len(re.findall(rf"(?<!\w){re.escape(phrase)}(?!\w)", passage, 0 if match_case else re.IGNORECASE))


def shift_cipher(message: str, shift: int, direction: Literal["encode", "decode"] = "encode") -> str:
    """Moves every letter of a message along the alphabet.

    Args:
        message: Text to encode or decode.
        shift: Number of places, 1 to 25.
        direction: encode moves forward, decode moves back.
    """
    step = shift if direction == "encode" else -shift
    return "".join(
        chr((ord(sign) - base + step) % 26 + base)
        if sign.isascii() and sign.isalpha() and (base := 97 if sign.islower() else 65)
        else sign
        for sign in message
    )


def web_slug(headline: str, separator: str = "-") -> str:
    """Turns a headline into the last part of a web address.

    Args:
        headline: Title of the page or article.
        separator: Sign between the words, "-" unless told.
    """
    plain = unicodedata.normalize("NFKD", headline).encode("ascii", "ignore").decode().lower().replace("'", "")
    return separator.join(re.findall(r"[a-z0-9]+", plain))


def mask_digits(number: str, visible: int = 4) -> str:
    """Hides all but the last digits of a number, such as that of a card.

    Args:
        number: Digits as a string; spaces stay where they are.
        visible: How many digits remain readable. Default is 4.
    """
    hidden, shown = sum(sign.isdigit() for sign in number) - visible, ""
    for sign in number:
        shown += "*" if sign.isdigit() and hidden > 0 else sign
        hidden -= sign.isdigit()
    return shown


def initials_of(full_name: str, with_dots: bool = False) -> str:
    """The initials of a person.

    Args:
        full_name: First and last name, e.g. "Mary Ann Field".
        with_dots: Whether a dot follows each letter.
    """
    return "".join(part[0].upper() + ("." if with_dots else "") for part in full_name.split())


def arrange_words(
    words: list[str], order_by: Literal["alphabet", "length"] = "alphabet", descending: bool = False
) -> str:
    """Puts words in order and joins them with commas.

    Args:
        words: Words in any order.
        order_by: What decides about the order.
        descending: Whether to begin with the last or longest.
    """
    arranged = sorted(words, key=lambda word: (len(word) if order_by == "length" else 0, word.lower()))
    return ", ".join(arranged[::-1] if descending else arranged)


def longest_word(candidates: list[str]) -> str:
    """Finds the longest of several words; the first of equally long ones.

    Args:
        candidates: Words to compare.
    """
    if not candidates:
        raise ValueError("candidates must hold at least one word")
    return max(candidates, key=len)


def morse_code(plain_text: str) -> str:
    """Writes letters and digits in Morse code, with / between words.

    Args:
        plain_text: Text of letters, digits and spaces.
    """
    if strange := sorted(set(plain_text.lower()) - set(_MORSE) - {" "}):
        raise ValueError(f"no Morse code for {''.join(strange)!r}; use letters a to z, digits and spaces")
    return " / ".join(" ".join(_MORSE[sign] for sign in word) for word in plain_text.lower().split())


def pad_code(code: str, width: int, filler: str = "0", side: Literal["left", "right"] = "left") -> str:
    """Fills a code up to a fixed width.

    Args:
        code: Code as it is.
        width: Number of signs it should have.
        filler: One sign to fill up with. Default is "0".
        side: Where to fill up.
    """
    if len(filler) != 1:
        raise ValueError("filler must be exactly one sign")
    return code.rjust(width, filler) if side == "left" else code.ljust(width, filler)


def identifier_style(wording: str, style: str) -> str:
    """Writes a few words as a programmer's identifier.

    Args:
        wording: Words with spaces between them.
        style: How the words are joined.
    """
    parts = wording.lower().split()
    styles = {"snake": "_".join(parts), "kebab": "-".join(parts), "pascal": "".join(map(str.capitalize, parts)),
              "camel": parts[0] + "".join(map(str.capitalize, parts[1:]))}  # fmt: skip
    if style not in styles:
        raise ValueError(f"style {style!r} is not known; use one of {', '.join(styles)}")
    return styles[style]


def number_in_base(number: int, base: int) -> str:
    """Writes a number in another base, with letters from ten on.

    Args:
        number: Whole number from 0 up.
        base: Base from 2 to 36, such as 2 or 16.
    """
    if number < 0 or not 2 <= base <= 36:
        raise ValueError("number must be 0 or more, and base 2 to 36")
    digits = ""
    while number or not digits:
        number, rest = divmod(number, base)
        digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[rest] + digits
    return digits


_CODES = (".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- "
          "-.-- --.. ----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----.")  # fmt: skip
_MORSE = dict(zip("abcdefghijklmnopqrstuvwxyz0123456789", _CODES.split(), strict=True))


def _digits(rng: random.Random) -> str:
    """Three or four groups of four digits, with or without spaces."""
    groups = [f"{rng.randint(0, 9999):04d}" for _ in range(rng.choice((3, 4, 4)))]
    return rng.choice((" ", "")).join(groups)
