"""The verifiers by name. A verifier is imported only when a config names it.

To add one, write a module with a subclass of `Verifier`, and add its name to `VerifierName` and `VERIFIERS`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from align.judges.verifiers.verifier import Verifier

VerifierName = Literal["maths", "tool_call", "instructions", "answer", "language", "code"]

VERIFIERS: dict[VerifierName, str] = {
    "maths": "align.judges.verifiers.maths:MathsVerifier",
    "tool_call": "align.judges.verifiers.tool_call:ToolCallVerifier",
    "instructions": "align.judges.verifiers.instructions:InstructionsVerifier",
    "answer": "align.judges.verifiers.answer:AnswerVerifier",
    "language": "align.judges.verifiers.language:LanguageVerifier",
    "code": "align.judges.verifiers.code:CodeVerifier",
}
"""Name -> "module:Class"."""
LIBRARIES: dict[VerifierName, dict[str, str]] = {
    "maths": {"sympy": "tools"},
    "tool_call": {"jsonschema": "tools"},
    "language": {"py3langid": "language"},
}
"""Name -> the optional libraries that the verifier always needs: module -> extra."""


def load_verifier(name: VerifierName) -> Verifier[Any]:
    """The verifier of this name. Raises ConfigError if a library that it requires is not installed."""
    module, _, member = VERIFIERS[name].partition(":")
    found: Verifier[Any] = getattr(import_module(module), member)()
    return found
