"""Where a checkpoint goes on the Hugging Face Hub."""

from __future__ import annotations

from pydantic import Field, field_validator

from align.config import Section


class HubConfig(Section):
    """Where a checkpoint or data set goes on the Hugging Face Hub, and what its card cannot know.

    The token comes from the environment (HF_TOKEN) only.
    """

    repo: str = Field(pattern=r"^\w[\w.-]*/\w[\w.-]*$")
    """The repository, as owner/name."""
    push: bool = False
    """false: print which files would be uploaded. true: upload them."""
    private: bool = True
    """Whether the repository is private if it has to be created."""
    branch: str = Field("", pattern=r"^(\w[\w.-]*)?$")
    """The branch of the repository that is uploaded to. Empty: `round-2` for what is in a folder of this name,
    otherwise the stage, such as `dpo`; `data` for rows."""
    tag: str = Field("", pattern=r"^(\w[\w.-]*)?$")
    """The tag of the complete upload, such as `v1.0`; an existing one is never moved. Empty: the branch and eight
    digits of a hash of the content, such as `round-2-1f3c9a2b`."""
    update_main: bool = False
    """true: main gets the same files, in one commit, when the tag is made. false: main stays as it is."""
    base_model: str = Field("", pattern=r"^$|^[\w.-]+/[\w.-]+$")
    """The Hub name of the model that training began from. Empty: found by following the checkpoint's manifest."""
    license: str = ""
    """The Hub's identifier of the licence, such as apache-2.0 or llama3.1. Empty: the strictest licence of base model
    and data; `other` if several apply, `unknown` if one is not known. A licence that is more permissive than that of
    the base model or the data is refused."""
    languages: tuple[str, ...] = ()
    """Languages of the data, as ISO 639 codes such as en."""
    licences: dict[str, str] = Field(default_factory=dict)
    """Source of rows -> the Hub's identifier of its licence, for your own data."""

    @field_validator("branch")
    @classmethod
    def _main_is_not_uploaded_to(cls, value: str) -> str:
        if value == "main":
            raise ValueError("is main, which gets complete uploads only; leave branch out and set update_main: true")
        return value
