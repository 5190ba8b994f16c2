"""How likely a text is after another one, by the model that is evaluated: the scoring of multiple-choice benchmarks.

Texts are split into tokens as lm-eval does (EleutherAI's lm-evaluation-harness, `TemplateLM` and `HFLM` of version
0.4), so that log-probabilities are the same. They are computed by the project's own exact scoring: the choices of one
question are the branches of one tree, and their context is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from align.errors import RowError
from align.reporting import Progress

if TYPE_CHECKING:
    from align.judges.likelihood import Continuation, LikelihoodJudge

CHUNK = 512
"""Texts that are scored between two steps of the progress bar."""


class TextLikelihood:
    """Log-probabilities of texts by one model."""

    def __init__(self, judge: LikelihoodJudge) -> None:
        from align.chat.rendering import Renderer

        self.judge = judge
        self.tokenizer = judge.protocol.tokenizer
        settings = judge.protocol.saved_settings
        self._renderer = Renderer(self.tokenizer, settings.get("chat_template_kwargs") or {}, settings.get("chat_date"))
        positions = int(judge.model.config.get_text_config().max_position_embeddings)
        limit = judge.model.limit
        self.max_tokens = positions if limit is None else min(positions, limit.tokens)
        self.truncated = 0
        """Texts so far whose context was cut at its beginning, because the model cannot read all of it."""

    def logps(self, pairs: Sequence[tuple[str, str]], note: str = "") -> list[float]:
        """The log-probability of each text after its context, in nats.

        pairs: (context, text). note: for the progress bar.
        """
        progress = Progress("benchmarks", total=len(pairs))
        found: list[float] = []
        for first in range(0, len(pairs), CHUNK):
            chunk = [self.encoded(context, text) for context, text in pairs[first : first + CHUNK]]
            found += self.judge.continuation_logps(chunk)
            progress.advance(len(chunk), note=note)
        return found

    def encoded(self, context: str, text: str) -> Continuation:
        """Token ids of a context, and of a text after it.

        White space at the context's end becomes the beginning of the text, since most tokenizers put a space and the
        word after it into one token. The ids of the text are those of both together, without as many as the context
        alone has. Example: the context "Answer: " and the text "Rome" are encoded as "Answer:" -> [A, :] and
        "Answer: Rome" -> [A, :, Rome'], where Rome' is " Rome"; the text's ids are [Rome'].

        An empty context is the token that begins a document. The beginning of a context that is too long for the model
        is cut off, and counted.
        """
        from align.judges.likelihood import Continuation

        if context:
            spaces = len(context) - len(context.rstrip())
            if spaces:
                context, text = context[:-spaces], context[-spaces:] + text
            context_ids = self._ids(context)
            ids = self._ids(context + text)[len(context_ids) :]
        else:
            beginning, ids = self._beginning_id(), self._ids(text, special=False)
            context_ids = [beginning]
            if ids[:1] == context_ids:
                ids = ids[1:]
        if not ids or not context_ids or len(ids) >= self.max_tokens:
            what = f"has {len(ids)} tokens after a context of {len(context_ids)}, and the model reads {self.max_tokens}"
            raise RowError(f"the choice {text[:60]!r}", what, "Leave the question out")
        left = self.max_tokens - len(ids)
        if len(context_ids) > left:
            self.truncated += 1
            context_ids = context_ids[-left:]
        return Continuation(tuple(context_ids), tuple(ids))

    def as_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """A dialog in the model's chat template, up to the header of the answer."""
        from align.rows import Message

        dialog = [Message.model_validate(message) for message in messages]
        return self._renderer.render(dialog, open_assistant=True).text

    def _ids(self, text: str, *, special: bool | None = None) -> list[int]:
        """special: add the tokens that the tokenizer puts around a text. None: unless the text begins with one."""
        if special is None:
            special = not text.startswith(self.tokenizer.decode([self._beginning_id()]))
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=special)
        return found

    def _beginning_id(self) -> int:
        first, last = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return int(first if first is not None else last)
