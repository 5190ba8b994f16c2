"""Counting, formatting, encoding and checking of text, and lists of words."""

from __future__ import annotations

import random
import re
import unicodedata
from typing import Literal

from data_builders.tool_use.dialogs.samplers import Sampler, Value, one_of, person, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task


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
_WORDS = ("apple", "lantern", "river", "carpet", "violet", "engine", "marble", "window", "orchid", "pepper", "harbor",
          "compass", "willow", "cabin", "noodle", "glacier", "meadow", "rocket", "anchor", "cinnamon")  # fmt: skip
_HEADLINES = ("Ten Ways to Bake Rye Bread", "Why Cats Don't Swim", "Moving to Norway: A Guide", "The Last Tram Home",
              "How We Built a Boat", "Café Culture in Porto", "Is Tea Better Than Coffee?", "A Walk Through Old Riga",
              "5 Mistakes New Gardeners Make", "What Bees Can Teach Us", "Rain, Rain & More Rain")  # fmt: skip
_WORDINGS = ("user birth date", "total order value", "max retry count", "last login time", "is account active",
             "shipping street name", "background color", "number of open files", "default page size")  # fmt: skip
_MESSAGES = ("meet me at noon", "the key is under the mat", "bring the red book", "Attack at dawn", "trust nobody",
             "Happy birthday Nora", "we leave on Friday", "call me later", "send 3 boats")  # fmt: skip


def _passage() -> Sampler:
    people, verbs = (
        ("The cat", "My sister", "Our teacher", "The old sailor", "A fox"),
        ("saw", "chased", "fed", "painted"),
    )

    def sample(rng: random.Random) -> Value:
        things = [rng.choice(("the dog", "the bird", "the moon", "a red boat", "the queen")) for _ in range(3)]
        text = f"{rng.choice(people)} {rng.choice(verbs)} {things[0]}, then {things[1]}, and at last {things[2]}."
        return Value(text, text)

    return sample


def _digits() -> Sampler:
    def sample(rng: random.Random) -> Value:
        groups = [f"{rng.randint(0, 9999):04d}" for _ in range(rng.choice((3, 4, 4)))]
        text = rng.choice((" ", "")).join(groups)
        return Value(text, text)

    return sample


def _code() -> Sampler:
    def sample(rng: random.Random) -> Value:
        text = f"{rng.choice(('', 'A', 'KX', 'Q'))}{rng.randint(3, 9999)}"
        return Value(text, text)

    return sample


TASKS = (
    Task(
        count_phrase,
        arguments={
            "passage": _passage(),
            "phrase": one_of("the", "dog", "moon", "a red boat", "then", "the bird", "the queen"),
        },
        queries=(
            'How often does "{phrase}" occur in "{passage}"?',
            'Count "{phrase}" in this text: {passage}',
            Query(
                'In the sentence "{passage}", how many times do I find "{phrase}" written exactly so, capitals and '
                "all?",
                fixed={"match_case": True},
            ),
            'I am checking an essay. It says: "{passage}" Please count the times "{phrase}" is used.',
        ),
        answers=("It occurs {result} times.", "I count {result}."),
        names=("phrase_frequency", "occurrences_in_text", "count_matches"),
        parameters={"passage": ("text", "body"), "phrase": ("term", "needle"), "match_case": ("case_sensitive",)},
    ),
    Task(
        shift_cipher,
        arguments={"message": one_of(*_MESSAGES), "shift": whole(1, 25), "direction": one_of("encode", "decode")},
        queries=(
            'Shift the letters of "{message}" by {shift}.',
            'Please {direction} "{message}" with a shift of {shift}.',
            "caesar, {shift} places, {direction}: {message}",
            Query(
                'My son got the secret note "{message}". The key is {shift}. What does it say when you move the '
                "letters back?",
                fixed={"direction": "decode"},
            ),
        ),
        answers=("The result is: {result}", "It reads: {result}"),
        names=("caesar_code", "rotate_letters", "secret_message"),
        parameters={"message": ("text", "note"), "shift": ("key", "places"), "direction": ("mode",)},
    ),
    Task(
        web_slug,
        arguments={"headline": one_of(*_HEADLINES), "separator": one_of("_", ".", "+")},
        queries=(
            'Make a slug out of "{headline}".',
            'I publish an article called "{headline}". How should the end of its address look?',
            'slug for "{headline}" with "{separator}" between the words',
            'Turn the title "{headline}" into something for a URL, please.',
        ),
        answers=("The slug is {result}.", "Use {result}."),
        names=("slugify_title", "url_name", "make_permalink"),
        parameters={"headline": ("title", "page_title"), "separator": ("joiner", "sep")},
    ),
    Task(
        mask_digits,
        arguments={"number": _digits(), "visible": whole(2, 6)},
        queries=(
            "Hide the number {number} for a receipt.",
            "Mask {number} so that only the last {visible} digits can be read.",
            "My customer's card is {number}; how do I print it without giving it away?",
            "number: {number}, digits shown: {visible}. Mask it.",
        ),
        answers=("Write {result}.", "Masked: {result}"),
        names=("redact_number", "hide_card_number", "obscure_digits"),
        parameters={"number": ("card_number", "digits"), "visible": ("keep_last", "shown")},
    ),
    Task(
        initials_of,
        arguments={"full_name": person()},
        queries=(
            "What are the initials of {full_name}?",
            Query("Initials with dots for {full_name}", fixed={"with_dots": True}),
            "I stitch initials on a shirt for {full_name}. Which letters?",
            Query("How does {full_name} sign with initials only, a dot after each?", fixed={"with_dots": True}),
        ),
        answers=("The initials are {result}.", "{result}"),
        names=("get_initials", "name_to_initials", "monogram"),
        parameters={"full_name": ("name", "person"), "with_dots": ("dotted",)},
    ),
    Task(
        arrange_words,
        arguments={"words": several(one_of(*_WORDS), 3, 6)},
        queries=(
            "Sort these alphabetically: {words}.",
            Query("Put {words} in order of length, shortest first.", fixed={"order_by": "length"}),
            Query("Z to A, please: {words}", fixed={"descending": True}),
            Query(
                "Arrange {words} by length and start with the longest.",
                fixed={"order_by": "length", "descending": True},
            ),
            "My spelling list has the words {words}. What is the order in a dictionary?",
        ),
        answers=("In order: {result}.", "Here they are: {result}."),
        names=("order_words", "sort_word_list", "words_in_order"),
        parameters={"words": ("items", "terms"), "order_by": ("criterion",), "descending": ("backwards", "reverse")},
    ),
    Task(
        longest_word,
        arguments={"candidates": several(one_of(*_WORDS), 3, 6)},
        queries=(
            "Which is the longest of {candidates}?",
            "longest word: {candidates}",
            "We play a word game and have found {candidates}. Which word scores for length?",
            "Please pick the word with the most letters from this list: {candidates}.",
        ),
        answers=('It is "{result}".', 'The longest one is "{result}".'),
        names=("find_longest", "word_with_most_letters", "pick_longest_word"),
        parameters={"candidates": ("word_list", "options")},
    ),
    Task(
        morse_code,
        arguments={"plain_text": one_of(*_MESSAGES, *_WORDS)},
        queries=(
            'How do I tap "{plain_text}" in Morse?',
            "morse: {plain_text}",
            'Translate "{plain_text}" into dots and dashes.',
            'For the scouts\' night walk I want to flash "{plain_text}" with a torch. What is the Morse code?',
        ),
        answers=("In Morse: {result}", "{result}"),
        names=("to_morse", "encode_morse", "text_to_dots_and_dashes"),
        parameters={"plain_text": ("text", "phrase")},
    ),
    Task(
        pad_code,
        arguments={
            "code": _code(),
            "width": whole(7, 12),
            "filler": one_of("X", "*", "#", "-", "9"),
            "side": one_of("left", "right"),
        },
        queries=(
            "Fill the code {code} up to {width} signs.",
            'Pad {code} on the {side} with "{filler}" to a width of {width}.',
            "Our label printer wants {width} characters. What do I enter for article {code}?",
            'code {code}, width {width}, filler "{filler}"',
        ),
        answers=("The code is {result}.", "Enter {result}."),
        names=("fill_to_width", "fixed_width_code", "zero_fill"),
        parameters={"code": ("value", "text"), "width": ("length",), "filler": ("fill_sign",), "side": ("end",)},
    ),
    Task(
        identifier_style,
        arguments={"wording": one_of(*_WORDINGS), "style": one_of("snake", "kebab", "camel", "pascal")},
        queries=(
            'Write "{wording}" in {style} case.',
            'What is the {style} style name of a variable for "{wording}"?',
            "{style}: {wording}",
            'Our code guide asks for {style} names. How do I call a field that holds "{wording}"?',
        ),
        answers=("Call it {result}.", "It becomes {result}."),
        names=("to_identifier", "variable_name_for", "convert_case"),
        parameters={"wording": ("words", "description"), "style": ("case", "convention")},
        slips={
            "style": (
                ("snake_case", "snake"),
                ("kebab-case", "kebab"),
                ("camelCase", "camel"),
                ("PascalCase", "pascal"),
            )
        },
    ),
    Task(
        number_in_base,
        arguments={
            "number": whole(5, 90000),
            "base": one_of(
                (2, "binary"), (8, "octal"), (16, "hexadecimal"), (3, "base 3"), (12, "base 12"), (36, "base 36")
            ),
        },
        queries=(
            "What is {number} in {base}?",
            "{number} -> {base}",
            "Please write the number {number} in {base}.",
            "For class I need {number} as {base}. What do I write?",
        ),
        answers=("It is {result}.", "Written that way it is {result}."),
        names=("to_base", "convert_radix", "write_in_base"),
        parameters={"number": ("value", "decimal_number"), "base": ("radix", "target_base")},
    ),
)

CHAINS = (
    Chain(
        longest_word,
        morse_code,
        feeds="plain_text",
        queries=(
            "Take the longest of {candidates} and give it to me in Morse.",
            "Which of {candidates} is longest? Write that word in dots and dashes.",
            "Morse code of the word with the most letters: {candidates}",
        ),
        between=('The longest is "{given}".', '"{given}" it is; now in Morse.'),
        answers=("In Morse: {result}", '"{given}" is {result}.'),
    ),
    Chain(
        longest_word,
        shift_cipher,
        feeds="message",
        queries=(
            "Find the longest of {candidates} and shift its letters by {shift}.",
            "I pick the longest word as password: {candidates}. Encode it with a shift of {shift}.",
            "longest of {candidates}, then caesar with key {shift}",
        ),
        between=('That is "{given}".', 'The longest word is "{given}". Now I shift it.'),
        answers=("The code is {result}.", '"{given}" becomes {result}.'),
    ),
    Chain(
        initials_of,
        pad_code,
        feeds="code",
        queries=(
            'Make a locker tag from the initials of {full_name}, filled up to {width} signs with "{filler}".',
            "Initials of {full_name}, padded to {width}, please.",
            'Take the initials of {full_name} and pad them on the {side} with "{filler}" until there are {width} '
            "signs.",
        ),
        between=("The initials are {given}.", "{given}; now I fill it up."),
        answers=("The tag is {result}.", "{given} becomes {result}."),
    ),
    Chain(
        number_in_base,
        pad_code,
        feeds="code",
        queries=(
            "Write {number} in {base} and pad it to {width} digits.",
            "{number} in {base}, filled up to {width} places",
            "I need {number} as {base} with a width of {width}, please.",
        ),
        between=("In that base it is {given}.", "That is {given}. Now the width."),
        answers=("It is {result}.", "{given}, filled up, is {result}."),
    ),
    Chain(
        initials_of,
        morse_code,
        feeds="plain_text",
        queries=(
            "How do I tap the initials of {full_name} in Morse?",
            "initials of {full_name} in dots and dashes",
            "Our scout {full_name} signs with initials, and in Morse code. What does that look like?",
        ),
        between=("The initials are {given}.", "{given}; now in Morse."),
        answers=("In Morse: {result}", "{given} is {result}."),
    ),
)
