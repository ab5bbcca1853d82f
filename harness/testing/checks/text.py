"""Checks of what is not a score: attributes, the tokenizer, the fingerprint."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence, Sized
from typing import Any

import numpy as np

from evalgpt.core import Encoding, SharesPrefixes, Window
from evalgpt.testing.subject import CheckFailed, CheckSkipped, Subject, check_sizes, gap

__all__ = [
    "check_attributes",
    "check_byte_spans",
    "check_decode_every_id",
    "check_encode_ids",
    "check_encode_whole",
    "check_fingerprint_follows_weights",
    "check_fingerprint_stable",
    "check_no_special_tokens",
    "check_round_trip",
    "check_special_text",
]


TEXTS = (
    "Every effort moves you.",
    "I really like chocolate, and so does she.",
    "  two spaces, a tab\tand two lines\n\nwith trailing space \n",
    "Größe, naïve café, Ωmega, Москва",
    "emoji 😀 and a family 👨‍👩‍👧, 日本語のテキスト",
    "def f(x):\n    return x[1:] if x else None  # 3.14159",
    "CamelCase UPPER lower 0123456789 !?&%$#@",
    "a",
)
"""White space, case, several scripts, characters of one to four bytes, code."""

EVERY = 1 << 20
"""Ids that are decoded one by one; of a larger vocabulary so many are, evenly spread."""

PLAIN = ("apple trees grow", "Moon light shines", "quick foxes run", "zebra stripes", "seven days")
"""Texts that begin and end differently."""


def check_attributes(subject: Subject) -> None:
    """Name, fingerprint, sizes and special tokens are there, of their types and in range."""
    model = subject.model
    check_sizes(model)
    for key in ("adds_bos", "equal_lengths"):
        if not isinstance(getattr(model, key), bool):
            raise CheckFailed(f"{key} must be True or False, not {getattr(model, key)!r}")
    if isinstance(model, SharesPrefixes) and not (type(model.shared_tokens) is int and model.shared_tokens >= 0):
        raise CheckFailed(f"shared_tokens must be a whole number from 0 up, not {model.shared_tokens!r}")
    if model.adds_bos and model.prefix_id is None:
        raise CheckFailed("adds_bos is true, and prefix_id does not say which token that is")
    for key in ("config", "tokenizer", "runtime"):
        try:
            json.dumps(dict(getattr(model, key)), default=str)
        except (TypeError, ValueError) as error:
            raise CheckFailed(f"{key} must be a mapping that JSON can hold ({error})") from error


def check_encode_ids(subject: Subject) -> None:
    """encode() gives ids of the vocabulary, the same each time, and none for no text."""
    for text in TEXTS:
        ids = _ids(subject, text)
        if _ids(subject, text) != ids:
            raise CheckFailed(f"encode({text!r}) gives other ids the second time; is dropout on in the tokenizer?")
    if _ids(subject, ""):
        raise CheckFailed("encode('') must give no ids; special tokens are the protocol's to add")


def check_round_trip(subject: Subject) -> None:
    """decode(encode(text)) is the text."""
    for text in TEXTS:
        back = subject.decode(_ids(subject, text))
        if back != text:
            raise CheckFailed(
                f"{text!r} came back as {back!r}: does the tokenizer change case, white space or Unicode form, or drop "
                f"what it does not know? If it is meant to, bits per byte count bytes the model never saw; expect this "
                f"failure and say so"
            )


def check_encode_whole(subject: Subject) -> None:
    """encode() gives all of a long text, also beyond the context length."""
    text = _long_text(subject)
    words = text.count(" ") + 1
    ids = _ids(subject, text)
    if len(ids) < words:
        raise CheckFailed(
            f"a text of {words} words has {len(ids)} tokens: is it truncated, as at the tokenizer's model_max_length? "
            f"Cutting a text into windows is the protocol's business"
        )
    begin = text[:60]
    if subject.decode(_ids(subject, begin)) != begin:
        return  # round_trip says so
    back = subject.decode(ids)
    if back != text:
        at = next((k for k, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
        raise CheckFailed(
            f"a text of {words} words comes back as another from character {at} on, {back[at : at + 20]!r} for "
            f"{text[at : at + 20]!r}, and its beginning does not: is a long text encoded in pieces that lose or add "
            f"something where they meet?"
        )


def _long_text(subject: Subject) -> str:
    """Words of one letter, more of them than may be fed at once and than tokenizers take in one piece.

    Every other character is a space, at odd places in the first half and at even ones in the second, so that wherever
    pieces begin, some begin and some end with one.
    """
    words = min(max(2 * subject.model.context_length + 64, 16_000), 40_000)
    letters = [chr(ord("a") + 7 * i % 26) for i in range(words)]
    letters[words // 2] *= 2
    return " ".join(letters)


def check_no_special_tokens(subject: Subject) -> None:
    """encode() adds no BOS, EOS or other token of its own."""
    found = [_ids(subject, text) for text in PLAIN]
    prefix = subject.model.prefix_id
    for text, ids in zip(PLAIN, found, strict=True):
        if prefix is not None and ids and prefix in (ids[0], ids[-1]):
            where = "before" if ids[0] == prefix else "behind"
            raise CheckFailed(
                f"encode() puts token {prefix} (prefix_id) {where} {text!r}: a protocol that puts it there too doubles "
                f"it; encode without special tokens, and set adds_bos where that is the tokenizer's habit"
            )
    for where, at in (("before", 0), ("behind", -1)):
        common = {ids[at] for ids in found if ids}
        if len(common) == 1 and all(len(ids) > 1 for ids in found):
            token = subject.decode(list(common))
            if token.strip() and not any(token.strip() in text for text in PLAIN):
                raise CheckFailed(
                    f"encode() puts the token {token!r} {where} every text; encode without special tokens"
                )


def check_special_text(subject: Subject) -> None:
    """Text that spells the prefix token is text, not that token."""
    prefix = subject.model.prefix_id
    if prefix is None:
        raise CheckSkipped("the model has no prefix token")
    spelled = subject.decode([prefix])
    if not spelled.strip():
        raise CheckSkipped("decode() gives no text for the prefix token")
    if prefix in _ids(subject, f"before{spelled}behind"):
        raise CheckFailed(
            f"the text {spelled!r} becomes token {prefix}: whoever writes a text could reset the context; encode "
            f"special tokens as the text they are"
        )


def check_byte_spans(subject: Subject) -> None:
    """Byte spans are in order, within the text, cover all of it, and each holds its token's text."""
    if all(subject.encode(text).byte_spans is None for text in TEXTS):
        raise CheckSkipped("the tokenizer cannot tell where its tokens lie")
    for text in TEXTS:
        encoding = subject.encode(text)
        if encoding.byte_spans is None:
            continue
        _check_spans(subject, text, encoding, encoding.byte_spans)
    text = _long_text(subject)
    encoding = subject.encode(text)
    if encoding.byte_spans is not None and len(encoding.byte_spans):
        spans = np.asarray(encoding.byte_spans)
        joined = spans[1:, 0] <= np.maximum.accumulate(spans[:, 1])[:-1]
        if len(spans) != len(encoding.ids) or (np.diff(spans[:, 0]) < 0).any() or not joined.all():
            raise CheckFailed(
                "the byte spans of a long text are not in order, or leave out bytes: is it encoded in pieces, and are "
                "spans counted from the beginning of each?"
            )
        if spans[0, 0] != 0 or spans[-1, 1] != len(text):
            raise CheckFailed(
                f"the byte spans of a text of {len(text)} bytes go from {spans[0, 0]} to {spans[-1, 1]}: are they "
                f"counted from the beginning of a piece?"
            )


def _check_spans(subject: Subject, text: str, encoding: Encoding, spans: Sequence[tuple[int, int]]) -> None:
    data = text.encode()
    if not isinstance(spans, Sized):
        raise CheckFailed(f"byte spans are of type {type(spans).__name__}; a sequence of pairs is wanted, or None")
    if len(spans) != len(encoding.ids):
        raise CheckFailed(f"{len(spans)} byte spans for {len(encoding.ids)} tokens of {text!r}")
    reached = 0
    for number, span in enumerate(spans):
        if not isinstance(span, Sequence | np.ndarray) or len(span) != 2 or not all(map(_whole, span)):
            raise CheckFailed(
                f"byte span {number} of {text!r} is {span!r}; a pair of whole numbers (start, end) is wanted"
            )
        start, end = span
        if not 0 <= start <= end <= len(data):
            raise CheckFailed(
                f"token {number} of {text!r} lies at bytes {start} to {end}, outside its {len(data)} bytes: positions "
                f"in UTF-8 bytes are wanted, counted from the text's beginning"
            )
        if start > reached or (number and start < spans[number - 1][0]):
            raise CheckFailed(f"the byte spans of {text!r} leave out bytes {reached} to {start}, or are not in order")
        reached = max(reached, end)
        _check_one_span(subject, encoding, number, data[start:end])
    if reached < len(data):
        raise CheckFailed(
            f"the byte spans of {text!r} end at {reached}, its UTF-8 bytes at {len(data)}: are characters counted?"
        )


def _check_one_span(subject: Subject, encoding: Encoding, number: int, piece: bytes) -> None:
    own: str | None
    try:
        own = piece.decode().strip()
    except UnicodeDecodeError:
        own = None
    token = subject.decode([encoding.ids[number]]).strip()
    if own is None:
        if "\ufffd" not in token:
            raise CheckFailed(f"token {number} is a part of a character and decodes as {token!r}; U+FFFD is wanted")
        return
    if "\ufffd" not in token and own and token and token != own:
        raise CheckFailed(f"token {number} is {token!r}, and the bytes at its span are {own!r}")


def check_fingerprint_stable(subject: Subject) -> None:
    """Built again, the model has the same fingerprint, the same losses and the same ids of a text."""
    again = Subject(subject.build, seed=subject.seed, tolerance=subject.tolerance)
    first = again.model.fingerprint
    if again.model.fingerprint != subject.model.fingerprint:
        raise CheckFailed(
            "built a second time, the model has another fingerprint: are weights drawn without a seed, or does the "
            "fingerprint hold an address or a time?"
        )
    window = Window(subject.draw(subject.length(12), "fingerprint"), 1)
    apart = gap(subject.nll(window)[0], again.nll(window)[0])
    if not apart <= subject.allowed:
        raise CheckFailed(
            f"built a second time, the model has the same fingerprint and losses that differ by {apart:.4g} nats: the "
            f"fingerprint must cover every weight"
        )
    # Texts in another order: ids that are given out as words come are others then.
    own = {text: _ids(subject, text) for text in TEXTS}
    wrong = next((text for text in reversed(TEXTS) if _ids(again, text) != own[text]), None)
    if wrong is not None:
        raise CheckFailed(
            f"built a second time, the model has the same fingerprint, and encode({wrong!r}) gives other ids: does "
            f"encode() depend on the texts before, as a vocabulary that grows? Losses of equal ids are then of other "
            f"texts"
        )
    if again.model.fingerprint != first:
        raise CheckFailed("the fingerprint changes when the model is used: does scoring write into a buffer it covers?")


def check_fingerprint_follows_weights(subject: Subject) -> None:
    """A model with other weights has another fingerprint."""
    if subject.other is None:
        raise CheckSkipped("needs a second model of this kind with other weights (--other SPEC, or other=)")
    other = subject.other()
    window = Window(subject.draw(subject.length(24), "other"), 1)
    losses, others = subject.nll(window)[0], Subject(lambda: other).nll(window)[0]
    if gap(losses, others) <= subject.allowed:
        raise CheckSkipped("the second model scores as the first does, so its weights are the same in effect")
    if other.fingerprint == subject.model.fingerprint:
        raise CheckFailed(
            f"a model with other weights has the same fingerprint, {other.fingerprint[:40]!r}: reports of the two "
            f"could not be told apart; hash the weights themselves"
        )


def check_decode_every_id(subject: Subject) -> None:
    """decode() takes every id of the vocabulary, but for those that unused_ids names."""
    model = subject.model
    size = model.vocab_size
    unused: Any = model.unused_ids
    if not isinstance(unused, Collection):
        raise CheckFailed(f"unused_ids must be a collection of ids, not {unused!r}")
    wrong = next((i for i in unused if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < size), None)
    if wrong is not None:
        raise CheckFailed(f"unused_ids holds {wrong!r}; ids of the vocabulary are wanted, 0 to {size - 1}")
    for text in TEXTS:
        used = next((i for i in _ids(subject, text) if i in unused), None)
        if used is not None:
            raise CheckFailed(f"unused_ids holds {used}, which encode({text!r}) gives: generate would never pick it")
    for i in range(size) if size <= EVERY else np.linspace(0, size - 1, EVERY, dtype=np.int64).tolist():
        if i in unused:
            continue
        try:
            text = model.decode([i])
        except Exception as error:  # a tokenizer's own, whatever it is
            raise CheckFailed(
                f"decode([{i}]) raises {type(error).__name__}: {error}; an id that is no token, as of a padded "
                f"embedding, belongs into unused_ids: generate leaves it out, and it is shown as <id {i}>"
            ) from error
        if not isinstance(text, str):
            raise CheckFailed(f"decode([{i}]) returns {type(text).__name__}; a str is wanted")


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _ids(subject: Subject, text: str) -> list[int]:
    return [int(i) for i in subject.encode(text).ids]
