"""Tokenizers of transformers: no special token added or read from a text, and byte spans where they can be known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from evalgpt.adapters.hub import explained
from evalgpt.adapters.huggingface.loading import quiet
from evalgpt.core import Encoding, EvaluationError

__all__ = ["HFTokenizer"]


class HFTokenizer:
    """A tokenizer from a folder or the hub.

    ``prefix_id`` is its BOS, else its EOS, else None, and ``prefix_kind`` says which; ``adds_bos`` whether it puts BOS
    before a text by itself.
    """

    def __init__(self, path: str, arguments: dict[str, Any]) -> None:
        from transformers import AutoTokenizer

        self.path = path
        with quiet(path), explained(path):
            self._tokenizer = AutoTokenizer.from_pretrained(path, **arguments)
        if not self._tokenizer("a").input_ids:  # transformers makes an empty one where there are no files
            raise EvaluationError(f"{path} holds no tokenizer (tokenizer.json and its like): put the model's own there")
        self._tokenizer.model_max_length = 10**30  # a whole book is tokenized at once; windows come later
        self._bytes = _byte_alphabet(self._tokenizer)
        self._added = set(self._tokenizer.get_added_vocab())
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        self.prefix_id: int | None = eos if bos is None else bos
        self.prefix_kind = "BOS" if bos is not None else "EOS" if eos is not None else "none"
        self.adds_bos = bos is not None and self._tokenizer("a").input_ids[:1] == [bos]

    @property
    def identity(self) -> dict[str, object]:
        """Name, size, and a hash over the vocabulary and the merges where there are any."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        content = backend.to_str() if backend else json.dumps(self._tokenizer.get_vocab(), sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()
        return {"name": type(self._tokenizer).__name__, "vocab_size": len(self._tokenizer), "sha256": digest}

    def eos_ids(self, generation: Any) -> tuple[int, ...]:
        """The tokens that end a text: the generation configuration's, which may be several, and the tokenizer's EOS."""
        own = getattr(generation, "eos_token_id", None)
        ids = [*(own if isinstance(own, list) else [own]), self._tokenizer.eos_token_id]
        return tuple(sorted({i for i in ids if isinstance(i, int)}))

    def unused_ids(self, vocabulary: int) -> Sequence[int]:
        """Ids of the model's ``vocabulary`` that are no token, as where an embedding is padded to a round size."""
        known = set(self._tokenizer.get_vocab().values())
        unused = [i for i in range(vocabulary) if i not in known]
        tail = range(vocabulary - len(unused), vocabulary)
        return tail if unused == list(tail) else unused

    def check(self, embeddings: int) -> list[str]:
        """What a reader must know of ids without an embedding in the model; texts that use one are refused later.

        Raises:
            EvaluationError: the prefix is such an id.
        """
        ids = self._tokenizer.get_vocab()
        if self.prefix_id is not None and self.prefix_id >= embeddings:
            raise EvaluationError(
                f"the {self.prefix_kind} of the tokenizer in {self.path} is {self.prefix_id}, and the model has "
                f"embeddings for 0 to {embeddings - 1}: they do not belong together"
            )
        beyond = sorted(i for token, i in ids.items() if i >= embeddings and token not in self._added)
        if not beyond:
            return []
        return [
            f"{len(beyond)} of {len(ids)} tokens of its tokenizer have no embedding (ids up to {beyond[-1]}, "
            f"embeddings for 0 to {embeddings - 1}): is it another model's?"
        ]

    def encode(self, text: str) -> Encoding:
        fast = bool(self._tokenizer.is_fast)
        encoded = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=fast, verbose=False
        )
        ids: list[int] = encoded["input_ids"]
        if not fast:
            return Encoding(ids, None)
        return Encoding(ids, self._exact_spans(ids, text) or _spans(encoded["offset_mapping"], text))

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        return text

    def _exact_spans(self, ids: list[int], text: str) -> list[tuple[int, int]] | None:
        """Spans of a byte-level BPE, whose tokens spell bytes (added ones as they are read); None if they do not spell
        the text."""
        if self._bytes is None:
            return None
        spans: list[tuple[int, int]] = []
        spelled = bytearray()
        for token in self._tokenizer.convert_ids_to_tokens(ids):
            begin = len(spelled)
            if token in self._added:
                spelled += token.encode()
            elif all(c in self._bytes for c in token):
                spelled += bytes(self._bytes[c] for c in token)
            else:
                return None
            spans.append((begin, len(spelled)))
        return spans if bytes(spelled) == text.encode() else None


def _byte_alphabet(tokenizer: Any) -> dict[str, int] | None:
    """GPT-2's mapping of bytes to printable characters, reversed, if the tokenizer decodes by it.

    Source: openai/gpt-2, src/encoder.py, bytes_to_unicode.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or "ByteLevel" not in repr(backend.decoder):
        return None
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def _spans(offsets: Sequence[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """Byte spans from character offsets.

    Tokens that share a character share its bytes. Characters that no token claims (a space that the tokenizer swallows)
    go to the token behind them, so that every byte of the text is some token's.
    """
    to_byte = [0]
    for character in text:
        to_byte.append(to_byte[-1] + len(character.encode()))
    spans: list[tuple[int, int]] = []
    covered = 0
    for start, end in offsets:
        start, end = min(to_byte[start], covered), max(to_byte[end], min(to_byte[start], covered))
        spans.append((start, end))
        covered = max(covered, end)
    if spans and covered < to_byte[-1]:
        spans[-1] = (spans[-1][0], to_byte[-1])
    return spans
