"""Correct models of different natures, written by hand against the public interface: what a check must let pass."""

import dataclasses
import hashlib
import math
import re
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from evalgpt import Encoding, Model, TokenScores

BOS = 256
LAYERS, HEADS, WIDTH, DROPOUT = 2, 2, 32, 0.1


def sha256(*parts):
    """One digest over arrays, tensors and strings."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
    return f"sha256:{digest.hexdigest()}"


class BytesModel(Model):
    """Tokens are UTF-8 bytes, 256 is BOS, the next ids have no use."""

    name = "bytes"
    context_length = 48
    vocab_size = 260
    prefix_id = BOS
    device = "cpu"
    dtype = "float32"

    def __init__(self, seed):
        self.config = {"seed": seed}
        self.tokenizer = {"name": "bytes"}

    def encode(self, text):
        ids = self.tokens(text)
        return Encoding(ids, self.spans(text, ids))

    def tokens(self, text):
        return list(text.encode())

    def spans(self, text, ids):
        return list(pairwise(np.cumsum([0, *(len(self.spelling(i)) for i in ids)]).tolist()))

    def decode(self, ids):
        return b"".join(self.spelling(i) for i in ids).decode(errors="replace")

    def spelling(self, i):
        """The bytes that token ``i`` stands for."""
        return bytes([i]) if i < BOS else b"<bos>" if i == BOS else f"<unused{i}>".encode()


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a norm."""

    def __init__(self):
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x, bias):
        batch, length, _ = x.shape
        parts = self.query_key_value(self.before_attention(x)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        weights = (query @ key.mT / math.sqrt(WIDTH // HEADS) + bias[:, None]).softmax(-1)
        x = x + self.dropout(self.out((weights @ value).transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(x))


class TinyGPT(nn.Module):
    """A GPT with learned absolute positions and torch's default initial weights."""

    def __init__(self, vocabulary, length):
        super().__init__()
        self.token = nn.Embedding(vocabulary, WIDTH)
        self.position = nn.Embedding(length, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)

    def forward(self, ids, bias, positions):
        x = self.dropout(self.token(ids) + self.position(positions))
        for block in self.blocks:
            x = block(x, bias)
        return self.head(self.norm(x))


class Sound(BytesModel):
    """A GPT that pads on the left. Every step of a score is a method of its own."""

    blocked = torch.finfo(torch.float32).min

    def __init__(self, seed):
        super().__init__(seed)
        self.net = self.build(seed)
        self.fingerprint = self.identity()

    def build(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.network().eval()

    def network(self):
        return TinyGPT(self.vocab_size, self.context_length)

    def identity(self):
        return sha256(*(part for name, tensor in self.net.state_dict().items() for part in (name, tensor)))

    def score(self, windows, detail=None):
        ids, real = self.pad([self.fed(window) for window in windows])
        with torch.inference_mode():
            log_probs = self.log_probs(self.logits(ids, real))
        rows = [part[self.scored(window, ids.shape[1])] for part, window in zip(log_probs, windows, strict=True)]
        targets = [torch.tensor(self.targets(window)) for window in windows]
        return [self.result(row, target, detail) for row, target in zip(rows, targets, strict=True)]

    def fed(self, window):
        return list(window.ids[:-1])

    def targets(self, window):
        return list(window.ids[window.start :])

    def scored(self, window, width):
        """The positions, of ``width`` padded ones, that predict the window's targets."""
        return slice(width - (len(window.ids) - window.start), width)

    def pad(self, rows):
        """Ids [B, T], and which of them are real."""
        width = max(map(len, rows))
        ids = torch.tensor([self.filled(row, width, 0) for row in rows])
        real = torch.tensor([self.filled([True] * len(row), width, False) for row in rows])
        return ids, real

    def filled(self, row, width, filler):
        return [filler] * (width - len(row)) + row

    def logits(self, ids, real):
        mask = self.mask(real)
        return self.net(ids, torch.zeros(mask.shape).masked_fill(~mask, self.blocked), self.positions(real))

    def mask(self, real):
        """Which positions [B, T, T] each one attends to."""
        return real[:, None, :] & self.causal(real.shape[1])

    def causal(self, length):
        return torch.ones(length, length, dtype=torch.bool).tril()

    def positions(self, real):
        return (real.cumsum(-1) - 1).clamp(min=0)

    def log_probs(self, logits):
        return F.log_softmax(logits, -1)

    def next_logits(self, ids, count=1):
        row = torch.tensor([list(ids)])
        with torch.inference_mode():
            return self.logits(row, torch.ones_like(row, dtype=torch.bool))[0, -count:].numpy()

    def result(self, log_probs, targets, detail):
        nll = self.nll(log_probs, targets).numpy()
        if detail is None:
            return TokenScores(nll)
        rank = self.rank(log_probs, targets).numpy() if detail.rank else None
        entropy = self.entropy(log_probs).numpy() if detail.entropy else None
        if not detail.top:
            return TokenScores(nll, rank, entropy)
        top_logprobs, top_ids = self.top(log_probs, detail.top)
        return TokenScores(nll, rank, entropy, top_ids.numpy(), top_logprobs.numpy())

    def nll(self, log_probs, targets):
        return -log_probs.gather(1, targets[:, None])[:, 0]

    def rank(self, log_probs, targets):
        return (log_probs > log_probs.gather(1, targets[:, None])).sum(-1)

    def entropy(self, log_probs):
        return torch.special.entr(log_probs.exp()).sum(-1)

    def top(self, log_probs, k):
        return log_probs.topk(k)


class PadsRight(Sound):
    """Padding stands after the text, where a causal model does not look."""

    def filled(self, row, width, filler):
        return row + [filler] * (width - len(row))

    def scored(self, window, width):
        return slice(window.start - 1, len(window.ids) - 1)


class OneByOne(Sound):
    """No batch, no padding."""

    def score(self, windows, detail=None):
        return [super(OneByOne, self).score([window], detail)[0] for window in windows]


class NoPrefix(Sound):
    """No token stands before a text."""

    prefix_id = None


class NoSpans(Sound):
    """The tokenizer cannot tell where its tokens lie."""

    def spans(self, text, ids):
        return None


class NllOnly(Sound):
    """Gives no detail, whatever is asked, and no logits."""

    next_logits = None

    def score(self, windows, detail=None):
        return super().score(windows)


class SmallContext(Sound):
    """Seven tokens at once, some of them pairs of bytes, after a BOS that the tokenizer adds by habit."""

    context_length = 7
    vocab_size = 300
    adds_bos = True
    pairs = tuple(a + b for a in "aeinost " for b in "rndt ")

    def __init__(self, seed):
        super().__init__(seed)
        self.tokenizer = {"name": "pairs of bytes"}

    def tokens(self, text):
        pairs = [pair.encode() for pair in self.pairs]
        pieces = re.findall(b"|".join([*pairs, b"."]), text.encode(), re.DOTALL)
        return [260 + pairs.index(piece) if piece in pairs else piece[0] for piece in pieces]

    def spelling(self, i):
        return self.pairs[i - 260].encode() if i >= 260 else super().spelling(i)


class Peaked(Sound):
    """As sure of itself as a trained model is: logits of standard deviation 8."""

    def logits(self, ids, real):
        return 14 * super().logits(ids, real)


class TinyGRU(nn.Module):
    """A recurrent network, which has no positions and no limit."""

    def __init__(self, vocabulary):
        super().__init__()
        self.token = nn.Embedding(vocabulary, WIDTH)
        self.cell = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, vocabulary)

    def forward(self, ids):
        return self.head(self.cell(self.token(ids))[0])


class Recurrent(PadsRight):
    """Reads tokens one after another; could go on for ever."""

    context_length = 64

    def network(self):
        return TinyGRU(self.vocab_size)

    def logits(self, ids, real):
        return self.net(ids)


class Counts(BytesModel):
    """Predicts from a float64 table [V, V] or [1, V] of probabilities, a row for each last token."""

    def __init__(self, seed):
        super().__init__(seed)
        table = self.table(np.random.default_rng(seed))
        self.log_table = np.log(table / table.sum(-1, keepdims=True))
        self.fingerprint = sha256(self.log_table)

    def score(self, windows, detail=None):
        return [self.result(np.array(w.ids[w.start - 1 :]), detail) for w in windows]

    def next_logits(self, ids, count=1):
        return self.log_table[np.array(ids[-count:]) % len(self.log_table)].astype(np.float32)

    def result(self, ids, detail):
        log_probs = self.log_table[ids[:-1] % len(self.log_table)]
        true = np.take_along_axis(log_probs, ids[1:, None], 1)
        nll = -true[:, 0].astype(np.float32)
        if detail is None:
            return TokenScores(nll)
        rank = (log_probs > true).sum(-1) if detail.rank else None
        entropy = -(np.exp(log_probs) * log_probs).sum(-1).astype(np.float32) if detail.entropy else None
        if not detail.top:
            return TokenScores(nll, rank, entropy)
        top_ids = np.argsort(-log_probs, 1, kind="stable")[:, : detail.top]
        return TokenScores(nll, rank, entropy, top_ids, np.take_along_axis(log_probs, top_ids, 1).astype(np.float32))


class Unigram(Counts):
    """Counts of single tokens; the context has no effect."""

    def table(self, rng):
        return rng.integers(1, 1000, (1, self.vocab_size))


class Bigram(Counts):
    """Counts of pairs; only the last token has an effect."""

    def table(self, rng):
        return rng.integers(1, 1000, (self.vocab_size, self.vocab_size))


class Uniform(Counts):
    """All tokens are alike, whatever the seed, and so is the fingerprint."""

    def table(self, rng):
        return np.ones((1, self.vocab_size))


class FromLogits(Counts):
    """A table of logits, normalised in float64."""

    def __init__(self, seed):
        super().__init__(seed)
        logits = self.logits(np.random.default_rng(seed))
        self.log_table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        self.fingerprint = sha256(self.log_table)
        self.own = logits.astype(np.float32)

    def table(self, rng):
        return np.ones((1, self.vocab_size))

    def next_logits(self, ids, count=1):
        return self.own[np.array(ids[-count:]) % len(self.own)]


class Integers(FromLogits):
    """Logits are whole numbers, which half precision holds; float32 claimed."""

    def logits(self, rng):
        return rng.integers(-20, 21, (self.vocab_size, self.vocab_size)).astype(np.float64)


class Quarters(FromLogits):
    """Logits are multiples of 1/4, as of a table of scores."""

    def logits(self, rng):
        return rng.integers(-60, 61, (self.vocab_size, self.vocab_size)) / 4


class Backoff(Counts):
    """Counts with most pairs unseen: equal losses of many tokens."""

    def table(self, rng):
        return rng.poisson(0.2, (self.vocab_size, self.vocab_size)) + 0.01


class InBfloat16(Sound):
    """Computes in bfloat16 and says so."""

    dtype = "bfloat16"

    def logits(self, ids, real):
        return super().logits(ids, real).bfloat16().float()


class InFloat64(Sound):
    """Computes in float64 and says so."""

    dtype = "float64"

    def network(self):
        return super().network().double()

    def next_logits(self, ids, count=1):
        return super().next_logits(ids, count).astype(np.float32)

    def result(self, log_probs, targets, detail):
        found = super().result(log_probs, targets, detail)
        parts = {key: getattr(found, key) for key in ("nll", "entropy", "top_logprobs")}
        return dataclasses.replace(found, **{k: None if v is None else v.astype(np.float32) for k, v in parts.items()})


SOUND = {
    "sound": Sound,
    "pads-right": PadsRight,
    "one-by-one": OneByOne,
    "no-prefix": NoPrefix,
    "no-spans": NoSpans,
    "nll-only": NllOnly,
    "small-context": SmallContext,
    "unigram": Unigram,
    "bigram": Bigram,
    "peaked": Peaked,
    "uniform": Uniform,
    "recurrent": Recurrent,
    "integers": Integers,
    "quarters": Quarters,
    "backoff": Backoff,
    "in-bfloat16": InBfloat16,
    "in-float64": InFloat64,
}
