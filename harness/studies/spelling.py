"""Tokens as text: what a single token spells, and what a model writes, token by token."""

from __future__ import annotations

from collections.abc import Sequence

from evalgpt.core import Encoding, Model
from evalgpt.core.answers import decode, unknown

__all__ = ["Speller", "spell", "spell_after"]


LONGEST = 8
"""Tokens that may spell one character together: UTF-8 has at most 4 bytes, and some tokenizers mark words apart."""


def spell(encoding: Encoding, text: str, model: Model) -> list[str]:
    """What each token of ``text`` spells; bytes that are no whole character are written ``\\xNN``."""
    if encoding.byte_spans is None:
        return spell_all(model, encoding.ids)
    data = text.encode()
    return [data[start:end].decode(errors="backslashreplace") for start, end in encoding.byte_spans]


def spell_all(model: Model, ids: Sequence[int]) -> list[str]:
    """What each of ``ids`` spells behind the one before it, as far as decoding tells."""
    return [spell_after(model, ids[at - 1] if at else None, token) for at, token in enumerate(ids)]


def spell_after(model: Model, before: int | None, token: int) -> str:
    """What ``token`` spells behind ``before``: some tokenizers leave out the space that begins a text."""
    if before is None:
        return decode(model, [token], shown=True)
    alone = decode(model, [token], shown=True)
    if alone == unknown(token):
        return alone
    head, both = decode(model, [before], shown=True), decode(model, [before, token])
    return both[len(head) :] if both.startswith(head) else alone


class Speller:
    """Text as it is written: call it with each new token; what belongs to an unfinished character is held back."""

    def __init__(self, model: Model, ids: Sequence[int]) -> None:
        self.model = model
        self.ids = list(ids)
        self.shown = len(self.ids)  # tokens whose text is out
        self.begin = max(self.shown - LONGEST, 0)  # what is decoded too: a text begins otherwise than it goes on

    def __call__(self, token: int) -> str:
        """The text that is certain now; empty inside a character."""
        self.ids.append(token)
        new = self._new()
        if new.endswith("\ufffd") and len(self.ids) - self.shown < LONGEST:
            return ""
        self.begin, self.shown = self.shown, len(self.ids)
        return new

    def rest(self) -> str:
        """What was held back, at the end of the text: bytes that never became a character, as U+FFFD."""
        new = self._new() if self.shown < len(self.ids) else ""
        self.shown = len(self.ids)
        return new

    def _new(self) -> str:
        before, after = (decode(self.model, self.ids[self.begin : end]) for end in (self.shown, len(self.ids)))
        return after[len(before) :]
