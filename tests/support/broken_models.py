"""Adapters with one realistic bug each, all made from the sound one: what a check must catch."""

import dataclasses
import math
import re
import uuid
from itertools import pairwise

import numpy as np
import torch
from support.sound_models import BOS, SOUND, Sound, sha256
from torch.nn import functional as F

from evalgpt import Encoding, TokenScores

__all__ = ["BROKEN", "FIRST_SIXTEEN", "SOUND"]

CUT = 200
HALF = 24


def but(doc, **methods):
    """A subclass of Sound in which ``methods`` (or attributes) are others."""
    return type("Broken", (Sound,), {"__doc__": doc, "__module__": __name__, **methods})


def claims(doc, **attributes):
    """A subclass of Sound that is built as ever and then says something else of itself."""

    def __init__(self, seed):  # noqa: N807
        Sound.__init__(self, seed)
        vars(self).update(attributes)

    return but(doc, __init__=__init__)


def patched(doc, change):
    """A subclass of Sound whose losses of each window are ``change(window, nll)``."""

    def score(self, windows, detail=None):
        scores = Sound.score(self, windows, detail)
        pairs = zip(windows, scores, strict=True)
        return [dataclasses.replace(s, nll=np.asarray(change(w, s.nll), dtype=np.float32)) for w, s in pairs]

    return but(doc, score=score)


class LargeBatchTurned(Sound):
    """Puts the answers of a batch of more than 16 windows together from the wrong half on."""

    def score(self, windows, detail=None):
        scores = super().score(windows, detail)
        return scores if len(windows) <= 16 else [*scores[1:], scores[0]]


class LargeBatchLessPrecise(Sound):
    """Answers a batch of more than 16 windows a little less precisely: every loss moves by half a thousandth."""

    def score(self, windows, detail=None):
        scores = super().score(windows, detail)
        if len(windows) <= 16:
            return scores
        return [dataclasses.replace(one, nll=one.nll + np.float32(5e-4)) for one in scores]


class BatchOrderOfEqualsReversed(Sound):
    """Sorts by length, longest last, and restores the order as if the sort had been descending and turned round."""

    def score(self, windows, detail=None):
        def length(k):
            return len(windows[k].ids)

        order = sorted(range(len(windows)), key=length)
        scores = super().score([windows[k] for k in order], detail)
        back = sorted(range(len(windows)), key=length, reverse=True)[::-1]
        return [scores[back.index(k)] for k in range(len(windows))]


class CacheKept(Sound):
    """Keeps the key-value cache of the call before: its last tokens stand in front of the next windows."""

    past = ()

    def fed(self, window):
        return [*self.past, *window.ids[:-1]][-self.context_length :]

    def score(self, windows, detail=None):
        scores = super().score(windows, detail)
        self.past = tuple(windows[-1].ids[-4:])
        return scores


class RunningStatistic(Sound):
    """Centres the logits on a running mean that goes on learning while it scores."""

    mean = 0.0

    def log_probs(self, logits):
        self.mean = 0.9 * self.mean + 0.1 * logits.mean((0, 1))
        return super().log_probs(logits - self.mean)


class MemoForgetsContext(Sound):
    """Remembers results by the scored tokens alone, whatever came before them."""

    def __init__(self, seed):
        super().__init__(seed)
        self.memo = {}

    def score(self, windows, detail=None):
        keys = [(tuple(window.ids[window.start :]), detail) for window in windows]
        for key, scores in zip(keys, super().score(windows, detail), strict=True):
            self.memo.setdefault(key, scores)
        return [self.memo[key] for key in keys]


class BufferReused(Sound):
    """Returns views of one buffer, which the next call overwrites."""

    def __init__(self, seed):
        super().__init__(seed)
        self.buffer = np.zeros(1 << 16, np.float32)

    def score(self, windows, detail=None):
        scores = super().score(windows, detail)
        ends = np.cumsum([len(s.nll) for s in scores])
        self.buffer[: ends[-1]] = np.concatenate([s.nll for s in scores])
        return [dataclasses.replace(s, nll=self.buffer[e - len(s.nll) : e]) for s, e in zip(scores, ends, strict=True)]


class FingerprintMovesWithUse(Sound):
    """Hashes a buffer that counts calls together with the weights."""

    def score(self, windows, detail=None):
        self.fingerprint = sha256(self.fingerprint)
        return super().score(windows, detail)


class MutatesIds(Sound):
    """Masks the labels that are not scored in the caller's own list."""

    def targets(self, window):
        labels = window.ids if isinstance(window.ids, list) else list(window.ids)
        labels[: window.start] = [-100] * window.start
        return labels[window.start :]


class DetailMisaligned(Sound):
    """Takes rank, entropy and top from the position before."""

    def result(self, log_probs, targets, detail):
        other = super().result(log_probs.roll(1, 0), targets, detail)
        return dataclasses.replace(other, nll=self.nll(log_probs, targets).numpy())


class EncodeReadsSpecials(Sound):
    """Reads the text of BOS as the token."""

    def encode(self, text):
        ids, spans, begin = [], [], 0
        for piece in re.split("(<bos>)", text):
            new = [BOS] if piece == "<bos>" else list(piece.encode())
            ends = np.cumsum([begin, *(len(self.spelling(i)) for i in new)]).tolist()
            ids, spans, begin = ids + new, spans + list(pairwise(ends)), ends[-1]
        return Encoding(ids, spans)


MASKS = {
    "no-causal-mask": but("Attends to every token, later ones too.", mask=lambda self, real: real[:, None, :]),
    "causal-mask-off-by-one": but(
        "Each position sees the next token: the diagonal is off by one.",
        causal=lambda self, length: torch.ones(length, length, dtype=torch.bool).tril(1),
    ),
    "context-ignored": but(
        "Each position is fed a copy of its last token alone.",
        causal=lambda self, length: torch.eye(length, dtype=torch.bool),
        positions=lambda self, real: torch.zeros_like(real, dtype=torch.int64),
    ),
    "padding-attended-to": but("Forgets the attention mask.", mask=lambda self, real: self.causal(real.shape[1])[None]),
    "padding-makes-nan": but("Masks with -inf: a padded row attends to nothing, and 0/0 spreads.", blocked=-math.inf),
    "padding-scored": but(
        "Pads on the left and reads the results as if on the right.",
        scored=lambda self, window, width: slice(window.start - 1, len(window.ids) - 1),
    ),
    "positions-wrong-under-padding": but(
        "Counts positions from the first pad.", positions=lambda self, real: torch.arange(real.shape[1]).expand_as(real)
    ),
}

SHIFTS = {
    "targets-unshifted": but(
        "Feeds ids[:-1] and gathers its own input.",
        targets=lambda self, window: list(window.ids[window.start - 1 : -1]),
    ),
    "targets-already-read": but(
        "Feeds all ids, the newest that fit, and gathers the token that has just been read.",
        fed=lambda self, window: list(window.ids[-self.context_length :]),
    ),
    "shifted-twice": but(
        "Shifts logits that are shifted already: each token is predicted without the one before it.",
        log_probs=lambda self, logits: F.log_softmax(torch.cat([logits[:, :1], logits[:, :-1]], 1), -1),
    ),
    "shifted-twice-one-short": but(
        "Passes shifted labels to a loss that shifts again, which leaves one score fewer.",
        scored=lambda self, window, width: slice(width - (len(window.ids) - window.start), width - 1),
        targets=lambda self, window: list(window.ids[window.start + 1 :]),
    ),
    "start-off-by-one": but(
        "Begins at start + 1 and repeats the last score to fill up.",
        nll=lambda self, *rows: (part := Sound.nll(self, *rows))[
            torch.arange(len(part)).add(1).clamp(max=len(part) - 1)
        ],
    ),
    "start-ignored": but(
        "Scores every token after the first, wherever the window starts.",
        scored=lambda self, window, width: slice(width + 1 - len(window.ids), width),
        targets=lambda self, window: list(window.ids[1:]),
    ),
}

PROBABILITIES = {
    "dropout-left-on": but("Forgets eval().", build=lambda self, seed: Sound.build(self, seed).train()),
    "log-base-2": but("Reports bits.", log_probs=lambda self, logits: F.log_softmax(logits, -1) / math.log(2)),
    "raw-logits": but("Takes the logits for log-probabilities.", log_probs=lambda self, logits: logits),
    "softmax-over-batch": but("Normalizes over the batch.", log_probs=lambda self, logits: F.log_softmax(logits, 0)),
    "softmax-over-positions": but("Normalizes over time.", log_probs=lambda self, logits: F.log_softmax(logits, 1)),
    "temperature-in-numerator-only": but(
        "Divides the logits by a temperature, and not those of the normalizer.",
        log_probs=lambda self, logits: logits / 0.9 - logits.logsumexp(-1, keepdim=True),
    ),
    "normalizer-over-first-200": but(
        "Sums the normalizer over a part of the vocabulary.",
        log_probs=lambda self, logits: logits - logits[..., :CUT].logsumexp(-1, keepdim=True),
    ),
    "long-window-zeroed": patched(
        "Leaves the losses beyond the first 30 of a window unset.",
        lambda window, nll: np.where(np.arange(len(nll)) < 30, nll, 0),
    ),
    "long-window-seam": patched(
        "Computes the head in chunks of 16 rows, and repeats a row at each seam.",
        lambda window, nll: [nll[k - 1] if k and k % 16 == 0 else nll[k] for k in range(len(nll))],
    ),
    "long-window-scaled": patched(
        "Divides by another number of tokens where a window is longer than 25.",
        lambda window, nll: nll * (0.9 if len(window.ids) > 25 and window.start == 1 else 1),
    ),
    "large-batch-turned": LargeBatchTurned,
    "large-batch-less-precise": LargeBatchLessPrecise,
    "vocabulary-head-cut": but(
        "Loads 200 rows of the output matrix; the other tokens become impossible.",
        log_probs=lambda self, logits: F.log_softmax(logits.index_fill(-1, torch.arange(CUT, 260), -math.inf), -1),
    ),
    "vocabulary-ids-clamped": but(
        "Clamps ids to a vocabulary that is too small, instead of failing.",
        fed=lambda self, window: [min(i, CUT - 1) for i in window.ids[:-1]],
        targets=lambda self, window: [min(i, CUT - 1) for i in window.ids[window.start :]],
    ),
    "log-likelihoods": but("Forgets the minus.", nll=lambda self, *rows: -Sound.nll(self, *rows)),
    "averages": but(
        "Gives each token the window's mean.",
        nll=lambda self, log_probs, targets: Sound.nll(self, log_probs, targets).mean().repeat(len(targets)),
    ),
    "greedy-choice-scored": but("Ignores the targets.", nll=lambda self, log_probs, targets: -log_probs.amax(-1)),
    "nll-rounded": but("Rounds to two decimals.", nll=lambda self, *rows: Sound.nll(self, *rows).round(decimals=2)),
    "log-probs-in-float16": but(
        "Keeps log-probabilities in half precision.",
        log_probs=lambda self, logits: F.log_softmax(logits, -1).half().float(),
    ),
}

BATCHES_AND_STATE = {
    "batch-order-lost": but(
        "Sorts the batch by length and returns it so.",
        score=lambda self, windows, *detail: Sound.score(self, sorted(windows, key=lambda w: len(w.ids)), *detail),
    ),
    "batch-order-of-equals-reversed": BatchOrderOfEqualsReversed,
    "cache-kept": CacheKept,
    "running-statistic": RunningStatistic,
    "memo-forgets-context": MemoForgetsContext,
    "buffer-reused": BufferReused,
    "mutates-ids": MutatesIds,
    "returns-tensors": but(
        "Returns torch tensors.", result=lambda self, log_probs, targets, _: TokenScores(self.nll(log_probs, targets))
    ),
}

DETAILS = {
    "rank-from-one": but(
        "Counts the true token too.",
        rank=lambda self, log_probs, targets: (log_probs >= log_probs.gather(1, targets[:, None])).sum(-1),
    ),
    "entropy-in-bits": but("Entropy in bits.", entropy=lambda self, rows: Sound.entropy(self, rows) / math.log(2)),
    "top-unsorted": but(
        "Likeliest last.", top=lambda self, log_probs, k: [part.flip(-1) for part in log_probs.topk(k)]
    ),
    "top-not-logs": but("Probabilities without the log.", top=lambda self, log_probs, k: log_probs.exp().topk(k)),
    "detail-misaligned": DetailMisaligned,
}

LIMITS_AND_PREFIXES = {
    "limit-overstated": claims("Says 64 and fails beyond its real 48.", context_length=64),
    "limit-overstated-by-one": claims("Counts the target among what can be fed.", context_length=49),
    "limit-keeps-last-24": but(
        "Silently feeds the newest 24 tokens, and pads in place of the others.",
        filled=lambda self, row, width, filler: [filler] * (width - min(len(row), HALF)) + row[-HALF:],
    ),
    "limit-clamps-positions": but(
        "Gives every token after the 24th the same position.",
        positions=lambda self, real: Sound.positions(self, real).clamp(max=HALF - 1),
    ),
    "vocabulary-overstated": claims("Says 300 ids and has embeddings for 260.", vocab_size=300),
    "prefix-outside-vocabulary": claims("Gives a prefix that is no id of the model.", prefix_id=260),
    "bos-encoded": but("The tokenizer adds BOS by itself.", tokens=lambda self, text: [BOS, *text.encode()]),
    "bos-always-fed": but(
        "Puts BOS before every window, and drops what no longer fits.",
        fed=lambda self, window: [BOS, *window.ids[:-1]][-self.context_length :],
    ),
    "bos-fed-when-missing": but(
        "Puts BOS before every window that has none, and drops what no longer fits.",
        fed=lambda self, window: [*[BOS][: window.ids[0] != BOS], *window.ids[:-1]][-self.context_length :],
    ),
}

FINGERPRINTS = {
    "fingerprint-constant": but("The same for all weights.", identity=lambda self: "sha256:0"),
    "fingerprint-of-config": but(
        "Hashes the shape of the model alone.", identity=lambda self: sha256(f"{self.vocab_size} {self.context_length}")
    ),
    "fingerprint-random": but("Another at every build.", identity=lambda self: uuid.uuid4().hex),
    "fingerprint-salted": but(
        "Uses hash(), which Python salts anew in every process.",
        identity=lambda self: str(hash(Sound.identity(self))),
    ),
    "fingerprint-moves-with-use": FingerprintMovesWithUse,
    "weights-unseeded": but("Other weights at every build.", build=lambda self, seed: self.network().eval()),
    "weights-unseeded-fingerprint-of-seed": but(
        "Other weights at every build, under a fingerprint of the seed.",
        build=lambda self, seed: self.network().eval(),
        identity=lambda self: sha256(str(self.config)),
    ),
}

TEXTS = {
    "encode-lower-cases": but("Lower-cases the text.", tokens=lambda self, text: list(text.lower().encode())),
    "encode-strips": but("Strips white space from the ends.", tokens=lambda self, text: list(text.strip().encode())),
    "encode-truncates": but(
        "Stops at the context length.", tokens=lambda self, text: list(text.encode())[: self.context_length]
    ),
    "encode-adds-eos": but("Appends an end token.", tokens=lambda self, text: [*text.encode(), BOS]),
    "encode-reads-specials": EncodeReadsSpecials,
    "spans-of-characters": but(
        "Counts characters, not bytes.",
        spans=lambda self, text, ids: [(k, k + 1) for k, character in enumerate(text) for _ in character.encode()],
    ),
    "spans-shifted": but(
        "Counts from one.", spans=lambda self, text, ids: [(k + 1, k + 2) for k in range(len(text.encode()))]
    ),
    "decode-drops-spaces": but("Loses spaces.", decode=lambda self, ids: Sound.decode(self, ids).replace(" ", "")),
    "decode-strips": but("Strips the text.", decode=lambda self, ids: Sound.decode(self, ids).strip()),
    "decode-drops-invalid": but(
        "Drops bytes that are no UTF-8.",
        decode=lambda self, ids: b"".join(self.spelling(i) for i in ids).decode(errors="ignore"),
    ),
    "decode-knows-part-of-the-ids": but(
        "Pads the embedding beyond the tokenizer, whose table ends before.",
        spelling=lambda self, i: {k: Sound.spelling(self, k) for k in range(BOS + 1)}[i],
    ),
    "decode-token-by-token": but(
        "Decodes each token alone and joins.", decode=lambda self, ids: "".join(Sound.decode(self, [i]) for i in ids)
    ),
}

BROKEN = MASKS | SHIFTS | PROBABILITIES | BATCHES_AND_STATE | DETAILS | LIMITS_AND_PREFIXES | FINGERPRINTS | TEXTS

FIRST_SIXTEEN = (
    "no-causal-mask",
    "causal-mask-off-by-one",
    "targets-unshifted",
    "shifted-twice",
    "dropout-left-on",
    "padding-attended-to",
    "padding-scored",
    "positions-wrong-under-padding",
    "log-base-2",
    "raw-logits",
    "bos-always-fed",
    "batch-order-lost",
    "vocabulary-head-cut",
    "limit-overstated",
    "cache-kept",
    "fingerprint-constant",
)
