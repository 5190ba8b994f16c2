"""Licences of known data sources and base models, what they ask for, and which one a card may show for them.

A licence is an identifier of the Hub (https://huggingface.co/docs/hub/repositories-licenses), "unknown" where none is
documented. The card shows the strictest one, and never a permissive one over data that forbids what it permits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from align.errors import PublishError

UNKNOWN = "unknown"
OTHER = "other"

SOURCES: dict[str, str] = {
    "nq-open": "cc-by-sa-3.0",
    "boolq": "cc-by-sa-3.0",
    "llamafactory/dpo_en_demo": UNKNOWN,  # neither its origin nor a licence is documented
    "llamafactory/glaive_toolcall_en_demo": "apache-2.0",
    "llamafactory/alpaca_en_demo": "cc-by-nc-4.0",  # as Stanford Alpaca: written by a GPT model, research only
    "llamafactory/wiki_demo": "cc-by-sa-4.0",
    "countryinfo": "mit",
    "mendeleev": "mit",
    "geonames": "cc-by-4.0",
    "asdiv": "cc-by-nc-4.0",
    "tasks": "apache-2.0",  # templates of this project
    "word-problems": "apache-2.0",  # the same
}
"""Source of a row, as `data_builders` writes it -> licence of its text."""

_BASES = (  # what a base model's name begins with -> its licence, as its publisher states it
    ("HuggingFaceTB/SmolLM2-", "apache-2.0"),
    ("HuggingFaceTB/SmolLM3-", "apache-2.0"),
    ("Qwen/Qwen3-", "apache-2.0"),
    ("google/gemma-", "gemma"),
    ("meta-llama/Llama-4-", "llama4"),
    ("meta-llama/Llama-3.3-", "llama3.3"),
    ("meta-llama/Llama-3.2-", "llama3.2"),
    ("meta-llama/Llama-3.1-", "llama3.1"),
    ("meta-llama/Meta-Llama-3.1-", "llama3.1"),
    ("meta-llama/Meta-Llama-3-", "llama3"),
    ("meta-llama/Llama-2-", "llama2"),
)

NOTICES: dict[str, tuple[str, str]] = {
    "llama3": ("Built with Meta Llama 3", "Llama 3"),
    "llama3.1": ("Built with Llama", "Llama"),
    "llama3.2": ("Built with Llama", "Llama"),
    "llama3.3": ("Built with Llama", "Llama"),
    "llama4": ("Built with Llama", "Llama"),
}
"""Licence -> the notice that it asks for, and how the name of a published model has to begin (section 1.b.i of the
Llama 3, 3.1, 3.2, 3.3 and 4 community licences). Both also apply to models trained on the output of a Llama model."""

_IDENTIFIER = re.compile(r"[a-z0-9]+(?:[.+-][a-z0-9]+)*")

PERMISSIVE = frozenset(
    {
        *("apache-2.0", "mit", "isc", "zlib", "unlicense", "cc0-1.0", "pddl", "odc-by", "bsl-1.0", "wtfpl"),
        *("bsd", "bsd-2-clause", "bsd-3-clause", "cdla-permissive-1.0", "cdla-permissive-2.0"),
        *("cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
    }
)
"""Licences under which a derived model may have any licence, with attribution at most."""


_NON_COMMERCIAL = re.compile(r"(^|-)nc(-|$)|noncommercial|research|apple-amlr")
_NO_DERIVATIVES = re.compile(r"(^|-)nd(-|$)")
_SAME_LICENCE = re.compile(r"(^|-)sa(-|$)|gpl|gfdl|odbl|sharing|osl|eupl|mpl|epl|ms-pl|lppl")
_NO_CONDITIONS = frozenset({"cc0-1.0", "pddl", "unlicense", "wtfpl"})


class Terms(NamedTuple):
    """What a licence asks for, in one line. The smaller the rank, the more it forbids."""

    rank: int
    text: str


def terms_of(licence: str) -> Terms:
    """The terms of a licence by its identifier, for an overview; the licence itself is what counts."""
    if _NON_COMMERCIAL.search(licence):
        share = ", derivatives under the same licence" if _SAME_LICENCE.search(licence) else ""
        share = ", no derivatives" if _NO_DERIVATIVES.search(licence) else share
        return Terms(0, "no commercial use" + share)
    if _NO_DERIVATIVES.search(licence):
        return Terms(1, "no derivatives")
    if licence == UNKNOWN:
        return Terms(2, "not known: nothing is permitted until its owner says so")
    if licence == OTHER or licence in NOTICES or (licence not in PERMISSIVE and not _SAME_LICENCE.search(licence)):
        return Terms(3, "terms of its own")
    if _SAME_LICENCE.search(licence):
        return Terms(4, "derivatives under the same licence")
    return Terms(6, "no conditions") if licence in _NO_CONDITIONS else Terms(5, "any use, with attribution")


def most_restrictive_first(uses: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Licence -> what has it, in the order of `terms_of`. uses: pairs of a name and its licence, in any order."""
    found: dict[str, list[str]] = {}
    for name, licence in uses:
        names = found.setdefault(licence, [])
        names += [name] * (name not in names)
    return dict(sorted(found.items(), key=lambda use: (terms_of(use[0]).rank, use[0])))


def licence_of_source(source: str, stated: Mapping[str, str] | None = None) -> str:
    """The licence of a row's source; "unknown" for one that is not in `stated` or SOURCES.

    A row keeps where it came from inside its source: `round-1/llamafactory/alpaca_en_demo` is a sampled answer to a
    prompt of `llamafactory/alpaca_en_demo`, and has its licence. `glaive_toolcall_en_demo/call` names the file alone.
    stated: source -> licence, from the user; looked at first.
    """
    return (_known_in(source, stated or {}) or _known_in(source, SOURCES) or ("", UNKNOWN))[1]


def source_name(source: str, stated: Mapping[str, str] | None = None) -> str:
    """The known source inside a row's source, or the row's source as it is."""
    return (_known_in(source, stated or {}) or _known_in(source, SOURCES) or (source, ""))[0]


def licence_of_base(name: str) -> str:
    """The licence of a base model on the Hub: from its card in the local cache, or from what is known; or "unknown"."""
    for beginning, licence in _BASES:
        if name.startswith(beginning):
            return licence
    from huggingface_hub import ModelCard, try_to_load_from_cache

    card = try_to_load_from_cache(name, "README.md")
    if isinstance(card, str):
        return licence_in_card(ModelCard.load(card, ignore_metadata_errors=True))
    return UNKNOWN


def licence_in_card(card: object) -> str:
    """The licence that a `huggingface_hub.ModelCard` states, or "unknown"."""
    licence = getattr(getattr(card, "data", None), "license", None)
    return licence if isinstance(licence, str) and licence else UNKNOWN


def card_licence(bases: Iterable[str], data: Iterable[str], declared: str = "") -> str:
    """The identifier that a card shows, from the licences of base models and data.

    apache-2.0 base, apache-2.0 and cc-by-4.0 data -> apache-2.0
    apache-2.0 base, cc-by-nc-4.0 data -> cc-by-nc-4.0, the only one that asks for more
    llama3.1 base, cc-by-nc-4.0 data -> other: several ask for more, and the card lists them
    apache-2.0 base, data of unknown licence -> unknown
    declared: what the user states. Raises PublishError for one that permits more than that of a base or of data, and
        for what cannot be an identifier.
    """
    bases, data = list(bases), list(data)
    strict = sorted({licence for licence in (*bases, *data) if licence not in PERMISSIVE | {UNKNOWN}})
    declared = declared.strip().lower()  # Apache-2.0 is how SPDX writes it; the Hub's identifiers are in lower case
    if declared:
        if not _IDENTIFIER.fullmatch(declared):
            how = "State one of https://huggingface.co/docs/hub/repositories-licenses, or `other`"
            raise PublishError("license", f"is {declared[:80]!r}, which is no identifier of the Hub", how)
        most = min(strict, key=lambda licence: terms_of(licence).rank, default=declared)
        if declared not in (OTHER, UNKNOWN) and terms_of(declared).rank > terms_of(most).rank:
            what = f"states {declared}, but the model was made from {' and '.join(strict)}"
            how = "State that licence, or `other`; leave license out to have it worked out"
            raise PublishError("license", what, how)
        return declared
    if UNKNOWN in (*bases, *data) or not bases:
        return OTHER if strict else UNKNOWN
    if not strict:
        return min(bases) if len(set(bases)) == 1 else OTHER
    return strict[0] if len(strict) == 1 else OTHER


def _known_in(source: str, known: Mapping[str, str]) -> tuple[str, str] | None:
    """The entry whose name is part of the source, at whole segments; the longest one where several are."""
    found = [
        (name, licence)
        for name, licence in known.items()
        if re.search(rf"(^|/){re.escape(name)}(/|$)", source)
        or ("/" in name and re.search(rf"(^|/){re.escape(name.rpartition('/')[2])}(/|$)", source))
    ]
    return max(found, key=lambda entry: len(entry[0]), default=None)
