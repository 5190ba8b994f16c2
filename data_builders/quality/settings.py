"""The settings of the quality pipeline's gates. Each is read by the file that is named for it.

They are apart from the code, so that a config is checked without the libraries that the gates need.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from align.config import Section
from align.formats.benchmark_sets import PinnedSet
from align.settings import InputPath, ModelConfig, SamplingConfig

RuleName = Literal[
    "empty",
    "control_tokens",
    "roles",
    "truncated",
    "boilerplate",
    "emoji",
    "exclamation",
    "markdown",
    "repetition",
]


class RulesConfig(Section):
    """Which cleaning rules apply, and their limits."""

    rules: tuple[RuleName, ...] = get_args(RuleName)
    """The rules to apply. empty: no prompt, no answer, or a placeholder. control_tokens: markup of a chat template.
    roles: the answer goes on as the user. truncated: the answer breaks off. boilerplate: remains of a web page or of a
    chat window. emoji and exclamation: too many of them. markdown: a code block, bold text or link that is not closed.
    repetition: the same line or sentence again and again."""
    emojis: int = Field(5, ge=0)
    """An answer may have this many emojis, or two for each 100 words, whichever is more."""
    exclamation_marks: int = Field(5, ge=0)
    """An answer may have this many exclamation marks, or five for each 100 words, whichever is more; and no three in a
    row. Code is left out."""
    repeated_lines: int = Field(4, ge=2)
    """An answer with a line or sentence of 20 characters or more that occurs this often is dropped."""


class LanguageConfig(Section):
    """The check that an answer has the language of its prompt."""

    enabled: bool = False
    """Requires the extra `language`."""
    min_confidence: float = Field(0.9, ge=0.5, le=1)
    """A row is dropped only if both languages are identified with this confidence, from 0 to 1."""

    def libraries(self) -> dict[str, str]:
        return {"py3langid": "language"} if self.enabled else {}


class DuplicatesConfig(Section):
    """Which rows count as duplicates of earlier ones."""

    exact: bool = True
    """Drop rows with the same content as an earlier row, after normalization: case, punctuation and spaces do not
    count; roles, calls and tools do."""
    near: bool = True
    """Drop rows with nearly the same words as an earlier row. Requires the extra `quality`."""
    similarity: float = Field(0.7, ge=0.5, le=1)
    """The lowest Jaccard similarity of near duplicates, from 0 to 1: shared word n-grams over all word n-grams of the
    two rows. Rows of 300 words with one word in 16 changed have 0.7."""
    target_similarity: float = Field(0.5, ge=0, le=1)
    """The lowest similarity of their answers alone. Without it, two questions about one long passage would be
    duplicates. Rows whose tool calls or tools differ are none in any case."""
    ngram_words: int = Field(3, ge=1, le=10)
    """Words in an n-gram."""

    def libraries(self) -> dict[str, str]:
        return {"rensa": "quality"} if self.near else {}


class GradesConfig(Section):
    """Which rows models mark as high quality: the top ratio by reward, or the highest grade of a judge."""

    reward_model: ModelConfig | None = None
    """A reward model. null: the judge alone decides."""
    judge: ModelConfig | None = None
    """A model that grades dialogs, decoding greedily. null: the reward model alone decides. If both are null, no row is
    dropped."""
    top_ratio: float = Field(0.25, gt=0, lt=1)
    """The ratio of a source's rows, from 0 to 1, that have a high reward (Llama 3, section 4.2.3)."""
    token_budget: int = Field(8192, gt=0)
    """Tokens in one forward pass of the reward model."""
    sampling: SamplingConfig = SamplingConfig()
    """How the judge is run: backend, batches, device. Temperature and number of tokens are set by the gate."""

    @property
    def enabled(self) -> bool:
        """Whether there is a model to ask."""
        return self.reward_model is not None or self.judge is not None


class EncoderConfig(Section):
    """The sentence encoder of a gate, with mean pooling."""

    encoder: InputPath | None = None
    """Folder or Hub name of a sentence encoder with mean pooling. null: all-MiniLM-L6-v2, out of a pinned package."""
    encoder_revision: str | None = None
    """Branch, tag or commit of the encoder on the Hub. null: the main branch."""
    max_tokens: int = Field(256, gt=0)
    """Tokens of a text that are read; all-MiniLM-L6-v2 was trained with up to 256."""
    batch_size: int = Field(64, gt=0)
    """Texts that are encoded at once."""


class TopicConfig(EncoderConfig):
    """Which topic rows are about, coarse and fine, by a classifier over sentence embeddings or by a model."""

    enabled: bool = False
    """Tag each row with a topic. No row is dropped."""
    tagger: ModelConfig | None = None
    """A model that names the topic, decoding greedily. null: a linear classifier over the embedding of what the user
    says, trained on `seed`."""
    seed: InputPath | None = None
    """YAML file of labelled prompts: coarse topic -> fine topic -> prompts, at least two for each fine topic. null: the
    510 English prompts of data_builders/quality/topic_seed.yaml, with 13 coarse and 51 fine topics. With a tagger, it
    chooses among these topics."""
    l2: float = Field(3e-4, gt=0)
    """Weight of the classifier's penalty: loss = mean cross entropy + l2 / 2 * sum of the squared weights."""
    sampling: SamplingConfig = SamplingConfig()
    """How the tagger is run: backend, batches, device. Temperature and number of tokens are set by the gate."""


class DifficultyConfig(EncoderConfig):
    """What users intend and how difficult dialogs are, by a model. The encoder merges tags that mean the same."""

    model: ModelConfig | None = None
    """The model that is asked, decoding greedily. null: rows get no such tags. No row is dropped."""
    intentions: bool = True
    """Have it name each intention of the user with a tag (InsTag, arXiv:2308.07074): more intentions, more complex."""
    grade: bool = True
    """Have it grade the difficulty of the dialog with 1, 2 or 3."""
    min_tag_rows: int = Field(20, ge=1)
    """Tags of fewer rows are left out."""
    tag_similarity: float = Field(0.9, gt=0, le=1)
    """Tags whose embeddings have at least this cosine similarity are one tag: the one with more rows."""
    sampling: SamplingConfig = SamplingConfig()
    """How the model is run: backend, batches, device. Temperature and number of tokens are set by the gate."""

    @property
    def enabled(self) -> bool:
        """Whether there is a model to ask, and something to ask it."""
        return self.model is not None and (self.intentions or self.grade)


class SemanticConfig(EncoderConfig):
    """Which rows say the same in other words. Requires the extra `quality`."""

    enabled: bool = False
    """Drop rows whose dialog has nearly the embedding of a better row. Costs more than all other gates together."""
    similarity: float = Field(0.775, ge=0, le=1)
    """The lowest cosine similarity of duplicates. Good values depend on the encoder; docs/data_quality.md has what
    all-MiniLM-L6-v2 finds."""
    cluster_rows: int = Field(1000, ge=1)
    """Rows in a cluster, on average. Only rows of one cluster are compared."""
    seed: int = Field(1, ge=1)
    """Seed of the clusters."""

    def libraries(self) -> dict[str, str]:
        return {"faiss": "quality"} if self.enabled else {}


PHRASES = (
    "I'm sorry",
    "I am sorry",
    "I apologize",
    "my apologies",
    "as an AI",
    "as a language model",
    "I hope this helps",
    "feel free to",
    "great question",
    "it is important to note",
    "it's important to note",
    "delve into",
)


class BalanceConfig(Section):
    """Limits of the share of openings and phrases in the answers."""

    enabled: bool = True
    """Lower the share of openings and phrases that are over-used."""
    opening_words: int = Field(3, ge=1, le=10)
    """How many first words of an answer are its opening. Answers with fewer than 8 words have none."""
    max_opening_ratio: float = Field(0.05, gt=0, lt=1)
    """The highest ratio of rows with the same opening, from 0 to 1."""
    phrases: tuple[str, ...] = Field(PHRASES, max_length=64)
    """Phrases that are counted anywhere in an answer; case and punctuation do not count. At most 64."""
    max_phrase_ratio: float = Field(0.02, gt=0, lt=1)
    """The highest ratio of rows with the same phrase, from 0 to 1."""
    min_rows: int = Field(50, ge=1)
    """What fewer rows share is not over-used, whatever its ratio: of 20 rows, one has a ratio of 0.05."""
    seed: int = 0
    """Seed of the choice of rows."""


class DecontaminationConfig(Section):
    """Which evaluation examples must not be trained on, and what counts as a repeat of one."""

    enabled: bool = True
    """Drop rows that repeat examples of the evaluation sets: as a whole, in part, inside another text, with one word
    changed, or in the answer. false: only rows that the builder itself holds out are kept out."""
    benchmarks: tuple[PinnedSet, ...] = get_args(PinnedSet)
    """Bundled benchmarks that rows are compared with, in addition to the sets in `evaluation`. The log says if their
    package is not on this machine (`python -m align.assets` fetches it)."""
    min_ratio: float = Field(0.5, gt=0, le=1)
    """The lowest ratio, from 0 to 1, of the words of an evaluation prompt that a row has in shared 8-grams to be
    dropped (Llama 3, section 5.1.4, chooses it for each benchmark). Lower: more leaks and more false drops."""


class RayConfig(Section):
    """Work on a cluster of Ray. Requires the extra `ray`; all nodes have to see the rows and the output folder."""

    address: str | None = None
    """Address of a running cluster, such as `auto` or ray://head:10001. null: that of the environment variable
    RAY_ADDRESS; without it, Ray is started on this machine."""
    workers: int = Field(2, ge=1)
    """Processes that work on shards at the same time."""
    cpus_per_worker: float = Field(1, gt=0)
    """Cores that Ray sets aside for each of them."""
    gpus_per_worker: float = Field(0, ge=0)
    """GPUs that Ray sets aside for each of them, for gates with a model; 0.5 puts two workers on one."""
