"""Tokenizers that change the text, one way each."""

import unicodedata

from support.broken_models import but
from support.sound_models import Sound

__all__ = ["NORMALISING"]


def normalises(doc, change):
    """A subclass of Sound that encodes ``change(text)``, with spans of it."""

    def encode(self, text):
        return Sound.encode(self, change(text))

    return but(doc, encode=encode)


def form(name):
    return normalises(f"Brings the text into {name}.", lambda text: unicodedata.normalize(name, text))


def replaces(doc, old, new=""):
    return normalises(doc, lambda text: text.replace(old, new))


def restores(doc, change):
    """Encodes ``change(text)``; decode gives the text that was encoded last, whatever the ids."""

    def encode(self, text):
        encoding = Sound.encode(self, change(text))
        self.seen = {**getattr(self, "seen", {}), tuple(encoding.ids): text}
        return encoding

    return but(
        doc,
        encode=encode,
        decode=lambda self, ids: getattr(self, "seen", {}).get(tuple(ids)) or Sound.decode(self, ids),
    )


def decodes(doc, old, new=""):
    return but(doc, decode=lambda self, ids: Sound.decode(self, ids).replace(old, new))


NORMALISING = {
    "encode-nfkc": form("NFKC"),
    "encode-nfkd": form("NFKD"),
    "encode-nfc": form("NFC"),
    "encode-nfd": form("NFD"),
    "encode-strips-accents": normalises(
        "Drops what combines.",
        lambda text: "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)),
    ),
    "encode-universal-newlines": normalises(
        "Reads lines as Python's files do.", lambda text: text.replace("\r\n", "\n").replace("\r", "\n")
    ),
    "encode-crlf": replaces("Drops carriage returns before line feeds.", "\r\n", "\n"),
    "encode-next-line": replaces("Takes U+0085 for a line feed.", "\x85", "\n"),
    "encode-line-separator": replaces("Takes U+2028 for a line feed.", "\u2028", "\n"),
    "encode-splitlines": normalises("Splits and joins lines.", lambda text: "\n".join(text.splitlines())),
    "encode-collapses-spaces": normalises(
        "Collapses spaces.", lambda text: " ".join(part for part in text.split(" ") if part)
    ),
    "encode-expands-tabs": replaces("A tab is four spaces.", "\t", "    "),
    "encode-drops-zero-width": replaces("Drops U+200B.", "\u200b"),
    "encode-drops-joiners": replaces("Drops U+200D.", "\u200d"),
    "encode-drops-byte-order-mark": normalises("Drops a leading U+FEFF.", lambda text: text.removeprefix("\ufeff")),
    "encode-stops-at-nul": normalises("Ends at NUL, as C does.", lambda text: text.split("\0")[0]),
    "encode-drops-controls": normalises(
        "Drops control characters.",
        lambda text: "".join(c for c in text if c in "\n\r\t" or unicodedata.category(c) != "Cc"),
    ),
    "encode-casefolds": normalises("Folds case.", str.casefold),
    "encode-straightens-quotes": normalises(
        "Straight quotes for curly ones.", lambda text: text.translate({0x201C: '"', 0x201D: '"', 0x2019: "'"})
    ),
    "encode-plain-spaces": replaces("A no-break space is a space.", "\u00a0", " "),
    "encode-drops-astral": normalises(
        "Keeps the basic plane alone.", lambda text: "".join(c for c in text if ord(c) < 0x10000)
    ),
    "encode-replaces-astral": normalises(
        "Writes U+FFFD for what is beyond the basic plane.",
        lambda text: "".join(c if ord(c) < 0x10000 else "\ufffd" for c in text),
    ),
    "encode-ascii": normalises("Drops what is not ASCII.", lambda text: text.encode("ascii", "ignore").decode()),
    "encode-nfkc-restored": restores(
        "NFKC, and decode remembers the text.", lambda t: unicodedata.normalize("NFKC", t)
    ),
    "encode-newlines-restored": restores("One line end, and decode remembers.", lambda t: t.replace("\r\n", "\n")),
    "decode-nfc": but(
        "NFC on decoding.", decode=lambda self, ids: unicodedata.normalize("NFC", Sound.decode(self, ids))
    ),
    "decode-cleans-up": decodes("Joins punctuation, as transformers can.", " ,", ","),
    "decode-drops-carriage-returns": decodes("Drops \\r.", "\r"),
    "decode-drops-byte-order-mark": decodes("Drops U+FEFF.", "\ufeff"),
}
