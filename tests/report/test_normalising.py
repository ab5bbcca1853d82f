"""Texts that a tokenizer changes before they are scored have a ``!`` line; decoders that are inexact raise none."""

import unicodedata

import pytest
from support.models import BytesModel

import evalgpt
from evalgpt import Encoding
from evalgpt.report.normalising import change_of

KNOWN = "abcdefghijklmnopqrstuvwxyz .\n"


class Texts(evalgpt.Task):
    name = "texts"

    def __init__(self, *texts, long=0):
        self.texts, self.long = texts, long

    def documents(self):
        for number, text in enumerate(self.texts):
            parts = (lambda text=text: [text[:5], text[5:]]) if self.long else None
            yield evalgpt.Document(f"d{number}", "" if self.long else text, parts=parts)


class Reader(BytesModel):
    """Encodes ``read(text)`` byte by byte, and decodes to ``written`` of it."""

    def __init__(self, read=str, written=str, *, spans=False):
        super().__init__(lambda context, target: 1 + (len(context) * 5 + target) % 11 / 4, spans=spans)
        self.read, self.written = read, written

    def encode(self, text):
        return Encoding(
            super().encode(self.read(text)).ids, [(0, 0)] * len(self.read(text).encode()) * self.spans or None
        )

    def decode(self, ids):
        return self.written(super().decode(ids))


def unknown(text):
    return "".join(c if c in KNOWN else "?" for c in text)


CHANGES = {
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    "nfkc": lambda text: unicodedata.normalize("NFKC", text),
    "case": str.lower,
    "line ends": lambda text: text.replace("\r\n", "\n"),
    "spaces": lambda text: " ".join(text.split(" ")).replace("  ", " "),
    "stripped": lambda text: text.rstrip("\n"),
    "unknown": unknown,
}
TEXT = {
    "nfc": "a cafe\u0301 by the river",
    "nfkc": "a \ufb01ne river",
    "case": "the River",
    "line ends": "one\r\ntwo",
    "spaces": "one  two",
    "stripped": "one two\n",
    "unknown": "a \u6f22 b",
}


def leading(text):
    return f" {text}"


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("written", [str, leading])
def test_a_changed_text_is_found(kind, written):
    model = Reader(CHANGES[kind], written)
    ids = model.encode(TEXT[kind]).ids
    change = change_of(model, TEXT[kind], ids)
    assert change is not None
    assert change[0] in ascii(TEXT[kind])
    assert all(part.isascii() for part in change)
    assert change_of(model, "one two", model.encode("one two").ids) is None


@pytest.mark.parametrize(
    ("read", "written"),
    [
        (str, str),
        (str, leading),
        (leading, str),
        (leading, lambda text: text.removeprefix(" ")),
        (str, lambda text: text.replace(" .", ".")),  # clean_up_tokenization_spaces
        (str, lambda text: " ".join(text)),
        (str, lambda text: text[::-1] + "!"),
        (lambda text: text.removeprefix(" "), str),
        (str, lambda text: 1 / 0),
        (str, lambda text: None),
    ],
)
@pytest.mark.parametrize("text", ["one two", " one", "one .", *TEXT.values(), "\U0010fffd", "\ufffd"])
def test_a_decoder_that_is_not_exact_raises_no_alarm(read, written, text):
    model = Reader(read, written)
    assert change_of(model, text, model.encode(text).ids) is None


@pytest.mark.parametrize("long", [0, 1], ids=["whole", "in parts"])
@pytest.mark.parametrize("spans", [False, True])
def test_the_verdict_counts_documents_and_shows_the_first(long, spans):
    texts = ["plain text here", TEXT["nfc"], "another one", TEXT["nfc"] + TEXT["nfc"]]
    found = evalgpt.evaluate(Reader(CHANGES["nfc"], spans=spans), Texts(*texts, long=long)).verdicts
    assert [verdict.name for verdict in found] == ["changed_text"]
    assert "2 of 4 documents" in found[0].message
    assert "first d1: " in found[0].message
    assert "e\\u0301" in found[0].message
    assert evalgpt.evaluate(Reader(spans=spans), Texts(*texts, long=long)).verdicts == []


def test_a_text_in_two_parts_is_one_document():
    """The protocol book cuts a text in two, each with a change in it."""
    text = TEXT["nfc"] * 12
    found = evalgpt.evaluate(Reader(CHANGES["nfc"]), Texts(text, "plain"), "book:context=8").verdicts
    assert ["1 of 2 documents" in v.message for v in found if v.name == "changed_text"] == [True]
