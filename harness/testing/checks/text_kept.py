"""The check that a tokenizer leaves the text as it is: no normalisation, nothing dropped, nothing put in its place."""

from __future__ import annotations

from evalgpt.core import UsageError
from evalgpt.testing.subject import CheckFailed, Subject

__all__ = ["check_text_kept"]


KINDS = {
    "compatibility characters (NFKC)": (
        ("ﬁne ﬂow", "fine flow"),
        ("① ② Ⅳ", "1 2 IV"),
        ("x² + y³", "x2 + y3"),
        ("ｗｉｄｅ １２", "wide 12"),
        ("½ cup", "1⁄2 cup"),
        ("㎏ and ™", "kg and TM"),
        ("ｶﾞ", "ガ"),
    ),
    "composed and decomposed characters (NFC, NFD)": (
        ("caf\u00e9 na\u00efve", "cafe\u0301 nai\u0308ve"),
        ("\uac01", "\u1100\u1161\u11a8"),
        ("\u212b \u2126", "\u00c5 \u03a9"),
        ("a\u0323\u0302", "a\u0302\u0323"),
    ),
    "accents": (("résumé Größe", "resume Grosse"), ("naïve", "naive")),
    "case": (("The CAT Sat", "the cat sat"), ("STRASSE", "straße"), ("İstanbul", "istanbul"), ("ΣΑΣ", "σας")),
    "line ends": (
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("one\rtwo", "one\ntwo"),
        ("one\x85two", "one\ntwo"),
        ("one\u2028two", "one\ntwo"),
        ("one\u2029two", "one\n\ntwo"),
        ("one\x0btwo\x0cthree", "one\ntwo\nthree"),
        ("one\n\n\n\ntwo", "one\n\ntwo"),
        ("one two\n", "one two"),
    ),
    "spaces": (
        ("one  two   three", "one two three"),
        (" one", "one"),
        ("one ", "one"),
        ("one \n two", "one\n two"),
        ("\u00a0one\u00a0two", " one two"),
        ("one\u2009two\u3000three\u202ffour", "one two three four"),
    ),
    "tabs": (("\tone\ttwo", "    one    two"), ("one\ttwo", "one two")),
    "spaces before punctuation": (("Hello , world ! It 's .", "Hello, world! It's."), ("do n't we", "don't we")),
    "zero-width characters": (
        ("one\u200btwo", "onetwo"),
        ("one\u200dtwo\u200cthree", "onetwothree"),
        ("soft\u00adhyphen", "softhyphen"),
        ("left\u200e\u202eright\u202c", "leftright"),
        ("word\u2060joiner", "wordjoiner"),
        ("❤\ufe0f", "❤"),
    ),
    "byte-order mark": (("\ufeffone", "one"), ("one\ufefftwo", "onetwo")),
    "NUL and control characters": (
        ("one\x00two", "onetwo"),
        ("one\x01\x1btwo", "onetwo"),
        ("one\x7ftwo", "onetwo"),
        ("one\ufffdtwo", "onetwo"),
        ("one\x00", "one"),
    ),
    "quotes and dashes": (
        ("“one” ‘two’", "\"one\" 'two'"),
        ("one–two—three", "one-two-three"),
        ("wait…", "wait..."),
        ("``one''", '"one"'),
    ),
    "characters beyond U+FFFF": (
        ("one 😀 two", "one 😁 two"),
        ("𝔘𝔫𝔦", "Uni"),
        ("𐍈𐌰 𠀀", "  "),
        ("😀", "\ufffd"),
        ("👍🏽", "👍"),
    ),
    "digits": (("٣ ३ ３", "3 3 3"), ("1,000", "1000")),
    "scripts": (("Москва", "Mockba"), ("日本語 ไทย עברית", "??? ??? ?????"), ("漢", "汉")),
}
"""Texts of each kind beside what a normaliser would make of them; each is tried, and so is its counterpart."""


def check_text_kept(subject: Subject) -> None:
    """Texts that differ in Unicode form, white space, line ends or case have different ids and decode to themselves."""
    same: dict[str, tuple[str, str]] = {}
    lost: dict[str, tuple[str, str]] = {}
    for kind, pairs in KINDS.items():
        for pair in pairs:
            ids = [_encoded(subject, kind, text) for text in pair]
            if ids[0] == ids[1]:
                same.setdefault(kind, pair)
            for text, own in zip(pair, ids, strict=True):
                back = subject.decode(own)
                if back == text:
                    continue
                found = same if _encoded(subject, kind, back) == own else lost
                found.setdefault(kind, (text, back))
    if same:
        kind, (one, other) = next(iter(same.items()))
        raise CheckFailed(
            f"the tokenizer normalises the text: {one!r} and {other!r} have the same ids (kinds: {', '.join(same)}). "
            f"Bits per byte then count bytes that the model never saw. Where it is meant to, expect this failure and "
            f"say why"
        )
    if lost:
        kind, (one, other) = next(iter(lost.items()))
        raise CheckFailed(
            f"decode() gives {other!r} for the ids of {one!r}, which are those of no other text tried (kinds: "
            f"{', '.join(lost)}): does decode() clean up spaces, skip tokens or replace characters?"
        )


def _encoded(subject: Subject, kind: str, text: str) -> list[int]:
    try:
        return [int(i) for i in subject.encode(text).ids]
    except (CheckFailed, UsageError):
        raise
    except Exception as error:  # a tokenizer's own, whatever it is
        raise CheckFailed(f"encode({text!r}) raises {type(error).__name__} ({kind}): {error}") from error
