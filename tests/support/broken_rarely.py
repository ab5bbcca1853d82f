"""Adapters that are wrong in rare places, written before it was known which checks see them."""

import dataclasses
import math
import random

import numpy as np
import torch
from support.broken_lengths import Long
from support.broken_models import but, patched
from support.sound_models import BOS, Sound, sha256

from evalgpt import Encoding

__all__ = ["RARE"]


class LongCutOnTheLeft(Long):
    """Feeds the newest 1500 tokens of windows that are longer."""

    def logits(self, ids, scale):
        cut = max(len(ids) - 1500, 0)
        return torch.cat([torch.zeros(cut, self.vocab_size), super().logits(ids[cut:], scale)])


class BatchSplitWrongly(Sound):
    """Splits batches of more than 32 windows, and answers the last part twice."""

    def score(self, windows, detail=None):
        if len(windows) <= 32:
            return super().score(windows, detail)
        first, rest = super().score(windows[:32], detail), super().score(windows[32:], detail)
        return [*first[: 32 - min(len(rest), 1)], *rest, *rest[: min(len(rest), 1)]][: len(windows)]


class HugeBatchSplitWrongly(Sound):
    """Turns the answers of batches of more than 100 windows."""

    def score(self, windows, detail=None):
        scores = super().score(windows, detail)
        return scores if len(windows) <= 100 else [*scores[1:], scores[0]]


class LongestWindowCut(Sound):
    """Computes one position less for the longest window of a batch of several, and repeats a loss."""

    def score(self, windows, detail=None):
        scores = super().score(windows, detail)
        longest = max(range(len(windows)), key=lambda k: len(windows[k].ids))
        nll = scores[longest].nll
        if len(windows) > 1 and len(nll) > 1:
            scores[longest] = dataclasses.replace(scores[longest], nll=np.append(nll[:-1], nll[-2]))
        return scores


class RepeatsScoredOnce(Sound):
    """Scores equal windows of a batch once, and gives the answers back in the order of the first ones."""

    def score(self, windows, detail=None):
        kept = list({(tuple(w.ids), w.start): w for w in windows}.values())
        scores = super().score(kept, detail)
        if len(kept) == len(windows):
            return scores
        sizes = {len(w.ids) - w.start: s for w, s in zip(kept, scores, strict=True)}
        return [sizes[len(w.ids) - w.start] for w in windows]


class CachedByTooLittle(Sound):
    """Keeps results by the window's length, its first and its last four ids."""

    def __init__(self, seed):
        super().__init__(seed)
        self.kept = {}

    def score(self, windows, detail=None):
        keys = [(len(w.ids), w.start, tuple(w.ids[:1]), tuple(w.ids[-4:]), detail) for w in windows]
        for key, scores in zip(keys, super().score(windows, detail), strict=True):
            self.kept.setdefault(key, scores)
        return [self.kept[key] for key in keys]


class CachedByBothEnds(CachedByTooLittle):
    """Keeps results by the window's length, its first and its last eight ids."""

    def score(self, windows, detail=None):
        keys = [(len(w.ids), w.start, tuple(w.ids[:8]), tuple(w.ids[-8:]), detail) for w in windows]
        for key, scores in zip(keys, Sound.score(self, windows, detail), strict=True):
            self.kept.setdefault(key, scores)
        return [self.kept[key] for key in keys]


class CachedBySum(CachedByTooLittle):
    """Keeps results by the sum of the ids: a hash that does not know their order."""

    def score(self, windows, detail=None):
        keys = [(len(w.ids), w.start, sum(w.ids[: w.start]), tuple(w.ids[w.start :]), detail) for w in windows]
        for key, scores in zip(keys, Sound.score(self, windows, detail), strict=True):
            self.kept.setdefault(key, scores)
        return [self.kept[key] for key in keys]


class EncodeLearns(Sound):
    """Gives each new word, in order of appearance, one of the spare ids for its first byte."""

    def __init__(self, seed):
        super().__init__(seed)
        self.calls = 0

    def encode(self, text):
        self.calls += 1
        encoding = super().encode(text)
        ids = list(encoding.ids)
        if self.calls > 60 and ids:
            ids[0] = ids[0] ^ 1
        return Encoding(ids, encoding.byte_spans)


class VocabularyGrows(Sound):
    """Gives bytes their ids in the order in which they first come."""

    def __init__(self, seed):
        super().__init__(seed)
        self.given = {}

    def tokens(self, text):
        return [self.given.setdefault(byte, len(self.given)) for byte in text.encode()]

    def spans(self, text, ids):
        return [(k, k + 1) for k in range(len(ids))]

    def spelling(self, i):
        return bytes([{own: byte for byte, own in self.given.items()}.get(i, 255)])


PIECE = 8192
"""Characters that the next two encode at a time."""


class PiecesLoseSpaces(Sound):
    """Encodes long texts in pieces, and strips each but the first."""

    def tokens(self, text):
        pieces = [text[at : at + PIECE] for at in range(PIECE - 2, len(text), PIECE)]
        return list((text[: PIECE - 2] + "".join(piece.lstrip() for piece in pieces)).encode())


class PiecesCountFromZero(Sound):
    """Encodes long texts in pieces, and counts the bytes of each from its own beginning."""

    def spans(self, text, ids):
        return [(k % PIECE, k % PIECE + 1) for k in range(len(ids))] if len(ids) > PIECE else super().spans(text, ids)


class LeavesStateBehind(Sound):
    """Changes what the process shares and does not change it back: ``leave`` says what."""

    def score(self, windows, detail=None):
        scores = super().score(windows, detail)
        self.leave()
        return scores


def swapped(a, b):
    """Two tokens are swapped in next_logits alone."""
    order = list(range(260))
    order[a], order[b] = b, a
    return but("Swaps two.", next_logits=lambda self, *given: Sound.next_logits(self, *given)[:, order])


class TouchesRandomNumbers(Sound):
    """Seeds the global generators when it scores, as if to be repeatable."""

    def score(self, windows, detail=None):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        return super().score(windows, detail)


class ChangesDefaultDtype(Sound):
    """Leaves torch's default dtype at float64."""

    def score(self, windows, detail=None):
        scores = super().score(windows, detail)
        torch.set_default_dtype(torch.float64)
        return scores


class OneCallInTen(Sound):
    """Answers one call in ten with noise of a hundredth of a nat."""

    calls = 0

    def score(self, windows, detail=None):
        self.calls += 1
        scores = super().score(windows, detail)
        if self.calls % 10:
            return scores
        return [dataclasses.replace(s, nll=s.nll + np.float32(0.01)) for s in scores]


class FingerprintWithoutBuffers(Sound):
    """Hashes parameters; a buffer that is added to logits differs from model to model."""

    def build(self, seed):
        net = super().build(0)
        net.register_buffer("shift", torch.linspace(-1, 1, self.vocab_size) * (1 + seed % 7))
        return net

    def logits(self, ids, real):
        return super().logits(ids, real) + self.net.shift

    def identity(self):
        return sha256(*(part for name, tensor in self.net.named_parameters() for part in (name, tensor.detach())))


RARE = {
    "long-cut-on-the-left": LongCutOnTheLeft,
    "position-off-beyond-half": but(
        "Positions beyond half the context are one too small.",
        positions=lambda self, real: (p := Sound.positions(self, real)) - (p >= 24).long(),
    ),
    "batch-split-wrongly": BatchSplitWrongly,
    "huge-batch-split-wrongly": HugeBatchSplitWrongly,
    "longest-window-cut": LongestWindowCut,
    "full-window-last-wrong": patched(
        "The last loss of a window that fills the context is that of the token before.",
        lambda window, nll: np.append(nll[:-1], nll[-2]) if len(window.ids) == 49 and len(nll) > 1 else nll,
    ),
    "repeats-scored-once": RepeatsScoredOnce,
    "cached-by-too-little": CachedByTooLittle,
    "cached-by-sum": CachedBySum,
    "cached-by-both-ends": CachedByBothEnds,
    "vocabulary-grows": VocabularyGrows,
    "pieces-lose-spaces": PiecesLoseSpaces,
    "pieces-count-from-zero": PiecesCountFromZero,
    "grad-mode-left-off": type("Left", (LeavesStateBehind,), {"leave": lambda self: torch.set_grad_enabled(False)}),
    "numpy-errors-ignored": type("Left", (LeavesStateBehind,), {"leave": lambda self: np.seterr(all="ignore")}),
    "deterministic-left-on": type(
        "Left", (LeavesStateBehind,), {"leave": lambda self: torch.set_deterministic_debug_mode("error")}
    ),
    "logits-swap-two-rare": swapped(30, 200),
    "logits-swap-neighbours": swapped(150, 151),
    "encode-learns": EncodeLearns,
    "spans-of-utf-16": but(
        "Counts two units for characters beyond U+FFFF, three for the rest of what is not ASCII.",
        spans=lambda self, text, ids: (
            [(k, k + 1) for c in text for k in [0] for _ in c.encode()]
            if any(ord(c) > 0xFFFF for c in text)
            else Sound.spans(self, text, ids)
        ),
    ),
    "logits-permuted": but(
        "Two tokens are swapped in next_logits alone.",
        next_logits=lambda self, *given: Sound.next_logits(self, *given)[:, [1, 0, *range(2, 260)]],
    ),
    "logits-reversed-vocabulary": but(
        "The vocabulary of next_logits is turned round.",
        next_logits=lambda self, *given: Sound.next_logits(self, *given)[:, ::-1].copy(),
    ),
    "touches-random-numbers": TouchesRandomNumbers,
    "changes-default-dtype": ChangesDefaultDtype,
    "one-call-in-ten": OneCallInTen,
    "fingerprint-without-buffers": FingerprintWithoutBuffers,
    "token-zero-is-padding": but(
        "Masks token 0 wherever it stands, as padding.",
        pad=lambda self, rows: (
            (found := Sound.pad(self, rows))[0],
            found[1] & ((found[0] != 0) | (found[0].cumsum(-1) == 0)),
        ),
    ),
    "prefix-masked": but(
        "Masks the BOS token's column: the first token is read without it.",
        mask=lambda self, real: Sound.mask(self, real),
        fed=lambda self, window: [0 if i == BOS else i for i in window.ids[:-1]],
    ),
    "eos-scored-as-certain": patched(
        "Gives the prefix token no loss, as a label that is ignored.",
        lambda window, nll: [0.0 if t == BOS else x for t, x in zip(window.ids[window.start :], nll, strict=True)],
    ),
    "ignore-index-zero": patched(
        "Gives token 0 no loss, as a padding label.",
        lambda window, nll: [0.0 if t == 0 else x for t, x in zip(window.ids[window.start :], nll, strict=True)],
    ),
    "loss-capped": patched("Caps losses at 7 nats.", lambda window, nll: np.minimum(nll, 7)),
    "decode-same-for-two": but(
        "Decodes ids beyond the byte range as text of its neighbour.",
        decode=lambda self, ids: Sound.decode(self, [i if i != 259 else 258 for i in ids]),
    ),
    "impossible-instead-of-unlikely": patched(
        "Writes infinity for losses above 7 nats.", lambda window, nll: np.where(nll > 7, math.inf, nll)
    ),
}
