"""Search: over a folder of documents by BM25, or the web by Brave's API, behind one interface.

The tool is called `brave_search`, whichever engine answers, because that is the name Llama was trained to call.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from align.files import fingerprint_of
from align.tools.reader import READERS, file_text
from align.tools.registry import Tool, tool_of
from align.tools.results import ToolError, ToolFailure, library
from align.tools.web import Service

PASSAGE_CHARACTERS = 800

_WORDS: dict[str, Any] = {"token_pattern": r"(?u)\b\w+\b", "stopwords": [], "show_progress": False}

BRAVE = Service(
    "Brave Search", "https://api.search.brave.com/res/v1/web/search", "BRAVE_API_KEY", "X-Subscription-Token"
)


@dataclass(frozen=True, slots=True)
class Hit:
    """One thing found."""

    title: str
    url: str
    """An address, or a document's path below its folder."""
    description: str
    """The passage that matched."""


class SearchEngine(Protocol):
    identity: str

    def search(self, query: str, count: int) -> list[Hit]:
        """At most `count` hits, best first."""
        ...


class FolderSearch:
    """BM25 over the passages of a folder's documents, of every kind that `align/tools/reader.py` reads.

    Score: sum over the query's words of idf * tf / (tf + k1 * (1 - b + b * length / mean length)), with idf =
        ln(1 + (N - n + 0.5) / (n + 0.5)) for N passages, n of which hold the word; k1 = 1.5, b = 0.75. Words are
        lower-cased runs of letters and digits; none is left out as too common.
    Edge: a passage without any of the words is no hit; equal scores keep the order of paths.
    Source: Robertson and Zaragoza 2009; the idf is Lucene's, which is never negative. The library is bm25s.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in READERS)
        self.passages: list[Hit] = []
        self.unread: dict[str, str] = {}
        """Documents that could not be read, with the reason."""
        for path in files:
            name = path.relative_to(folder).as_posix()
            try:
                text = file_text(path)
            except ToolFailure as failure:
                self.unread[name] = str(failure)
                continue
            self.passages += [Hit(path.stem, name, passage) for passage in passages_of(text)]
        if not self.passages:
            raise ToolError(
                folder,
                f"expected documents to search, found {len(files)} and no text in them",
                "Name a folder of documents",
            )
        bm25s = library("bm25s")
        words = bm25s.tokenize([hit.description for hit in self.passages], **_WORDS)
        self._index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        self._index.index(words, show_progress=False)
        self.identity = f"brave_search@bm25-{fingerprint_of(*self.passages)[:12]}"

    def search(self, query: str, count: int) -> list[Hit]:
        return [self.passages[place] for place, _ in self.scores(query)[:count]]

    def scores(self, query: str) -> list[tuple[int, float]]:
        """(place in `passages`, BM25 score) of every passage that holds one of the query's words, best first."""
        words = library("bm25s").tokenize([query], return_ids=False, **_WORDS)[0]
        words = [word for word in words if word in self._index.vocab_dict]
        if not words:
            return []
        found = self._index.get_scores(words)
        return sorted(
            ((int(place), float(found[place])) for place in found.nonzero()[0]), key=lambda hit: (-hit[1], hit[0])
        )


class BraveSearch:
    """The web by Brave's API; the key comes from BRAVE_API_KEY."""

    def __init__(self, service: Service = BRAVE) -> None:
        service.check_key()
        self.service = service
        self.identity = "brave_search@brave"

    def search(self, query: str, count: int) -> list[Hit]:
        answer = self.service.get({"q": query[:400], "count": str(count), "text_decorations": "false"})  # Brave's limit
        try:
            found = (json.loads(answer.text).get("web") or {}).get("results") or []
            return [Hit(item["title"], item["url"], item.get("description") or "") for item in found[:count]]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ToolFailure("network", f"{self.service.name} answered with something that is no result") from None


def search_tool(engine: SearchEngine, count: int = 3) -> Tool:
    """The tool `brave_search`, answering as Llama's own agent does: `{"query": ..., "top_k": [...]}`."""

    def brave_search(query: str) -> str:
        """Search for documents that answer a query.

        Args:
            query: What to look for.
        """
        if not query.strip():
            raise ToolFailure("refused", "the query is empty")
        hits = [asdict(hit) for hit in engine.search(query, count)]
        return json.dumps({"query": query, "top_k": hits}, ensure_ascii=False)

    return tool_of(brave_search, identity=engine.identity)


def passages_of(text: str, max_characters: int = PASSAGE_CHARACTERS) -> list[str]:
    """Text cut at blank lines, lines and words into passages of at most `max_characters`; short passages are joined."""
    passages: list[str] = []
    here = ""
    for piece in _pieces(text, ["\n\n", "\n", " "], max_characters):
        if here and len(here) + 2 + len(piece) > max_characters:
            passages.append(here)
            here = piece
        else:
            here = f"{here}\n\n{piece}" if here else piece
    return [*passages, here] if here else passages


def _pieces(text: str, cuts: list[str], max_characters: int) -> list[str]:
    text = text.strip()
    if len(text) <= max_characters:
        return [text] if text else []
    if not cuts:
        return [text[at : at + max_characters] for at in range(0, len(text), max_characters)]
    pieces: list[str] = []
    here = ""
    for part in text.split(cuts[0]):
        joined = f"{here}{cuts[0]}{part}" if here else part
        if len(joined) > max_characters:
            pieces += _pieces(here, cuts[1:], max_characters)
            here = part
        else:
            here = joined
    return pieces + _pieces(here, cuts[1:], max_characters)
