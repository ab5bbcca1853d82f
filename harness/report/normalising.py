"""Texts that a tokenizer changes before they are scored: normalised, cut, or read as an unknown token.

``decode(encode(text))`` that differs from the text does not show it alone: some tokenizers put a space before a text,
or spaces between words, only when they decode. A text is changed where another text has the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from evalgpt.core import EvaluationError, Model
from evalgpt.core.answers import encode
from evalgpt.core.guard import calling

__all__ = ["change_of"]


CHARACTERS = 64
"""Characters that are looked at one by one, of those that a text has and what is decoded has not."""

UNKNOWN = "\U0010fffd\U00012000"
"""Characters that no tokenizer has a token for: one for private use, which some drop, and a sign of cuneiform."""

BEFORE, BEHIND = 8, 16
"""Characters of a text that are shown before and behind the place where it is changed."""


def change_of(model: Model, text: str, ids: Sequence[int]) -> tuple[str, str] | None:
    """Excerpts of ``text`` and of what the model reads in its place; None where its ``ids`` are of no other text.

    One space more or less at the beginning is no change. A model whose ``decode`` fails tells nothing.
    """
    try:
        with calling(model, "decode()"):
            back = model.decode(ids)
        if not isinstance(back, str) or back.removeprefix(" ") == text.removeprefix(" "):
            return None
        for other in dict.fromkeys([back, back.removeprefix(" "), f" {back}"]):
            if other.removeprefix(" ") != text.removeprefix(" ") and _ids(model, other) == list(ids):
                return _excerpts(text, other)
        for character in sorted(set(text) - set(back))[:CHARACTERS]:
            about = _about(text, text.index(character))
            others = [about.replace(character, other) for other in UNKNOWN if other != character]
            if any(_ids(model, other) == _ids(model, about) for other in others):
                return ascii(about), f"one with an unknown character for {character!a}"
    except EvaluationError:
        pass
    return None


def _ids(model: Model, text: str) -> list[int]:
    return list(encode(model, text, "what the tokenizer made of a text").ids) if text else []


def _excerpts(text: str, other: str) -> tuple[str, str]:
    shift = int(other[:1] == " " and text[:1] != " ")
    same = zip(text, other[shift:], strict=False)
    at = next((n for n, (a, b) in enumerate(same) if a != b), min(len(text), len(other) - shift))
    # In ASCII: two forms of one character look the same.
    return ascii(_about(text, at)), ascii(_about(other, at + shift))


def _about(text: str, at: int) -> str:
    return text[max(at - BEFORE, 0) : at + BEHIND]
