"""Adapters whose losses, detail or precision are not those of the model's own logits, one bug each."""

import dataclasses
import math

import torch
from support.broken_models import but
from support.sound_models import Sound
from torch.nn import functional as F

__all__ = ["DISTORTED", "ROUNDED"]


def distorts(doc, change):
    """Losses and detail from ``change(logits)``, normalised; next_logits as the model gives them."""
    return but(doc, log_probs=lambda self, logits: F.log_softmax(change(logits), -1))


def smoothed(logits, share):
    size = logits.shape[-1]
    return torch.log((1 - share) * logits.softmax(-1) + share / size)


def top_k(logits, k):
    return logits.masked_fill(logits < logits.topk(k).values[..., -1:], -math.inf)


class RepetitionPenalty(Sound):
    """Makes tokens of the context less likely, in losses alone."""

    def logits(self, ids, real):
        logits = super().logits(ids, real)
        if not self.penalised:
            return logits
        for end in range(ids.shape[1]):
            seen = torch.zeros(logits[:, end].shape, dtype=torch.bool).scatter(1, ids[:, : end + 1], real[:, : end + 1])
            logits[:, end] = torch.where(seen, logits[:, end] - 0.2, logits[:, end])
        return logits

    penalised = True

    def next_logits(self, ids, count=1):
        self.penalised = False
        try:
            return super().next_logits(ids, count)
        finally:
            self.penalised = True


class DetailAtTemperature(Sound):
    """Rank, entropy and top are those of a temperature, losses are not; its detail is consistent in itself."""

    def result(self, log_probs, targets, detail):
        other = super().result(F.log_softmax(log_probs / 0.8, -1), targets, detail)
        return dataclasses.replace(other, nll=self.nll(log_probs, targets).numpy())


class LogitsRemember(Sound):
    """Adds something of the call before to the logits that generation uses."""

    last = 0.0

    def next_logits(self, ids, count=1):
        logits = super().next_logits(ids, count).copy()
        logits[:, 0] += self.last
        self.last = float(logits[-1, 1])
        return logits


DISTORTED = {
    "temperature": distorts("Divides logits by 1.01.", lambda logits: logits / 1.01),
    "temperature-in-logits-alone": but(
        "Samples at a temperature, and gives those logits for the model's own.",
        next_logits=lambda self, *ids: Sound.next_logits(self, *ids) / 0.7,
    ),
    "label-smoothing": distorts("Smooths labels by 1 %.", lambda logits: smoothed(logits, 0.01)),
    "mixed-with-uniform": distorts("Mixes a tenth of uniform in.", lambda logits: smoothed(logits, 0.1)),
    "top-k-mask": distorts("Masks all but the 250 likeliest.", lambda logits: top_k(logits, 250)),
    "logit-bias": distorts("Bans a token.", lambda logits: logits - 100 * (torch.arange(260) == 65)),
    "repetition-penalty": RepetitionPenalty,
    "logits-clipped": distorts("Clips logits.", lambda logits: logits.clamp(-0.8, 0.8)),
    "detail-at-temperature": DetailAtTemperature,
    "logits-of-the-token-before": but(
        "Gives the logits before the last id.",
        next_logits=lambda self, ids, count=1: Sound.next_logits(self, [*ids[:1], *ids], count + 1)[:-1],
    ),
    "logits-count-from-the-front": but(
        "Takes the first positions, not the last.",
        next_logits=lambda self, ids, count=1: Sound.next_logits(self, ids, len(ids))[:count],
    ),
    "logits-of-the-last-alone": but(
        "Ignores count.", next_logits=lambda self, ids, count=1: Sound.next_logits(self, ids, 1)
    ),
    "logits-remember": LogitsRemember,
}

BRAIN, HALF = torch.bfloat16, torch.float16


def rounds(doc, half, scale=1, **attributes):
    """A subclass of Sound whose logits are rounded to ``dtype``, with a log-softmax in float32 of them."""
    logits = lambda self, *given: (scale * Sound.logits(self, *given)).to(half).float()  # noqa: E731
    return but(doc, logits=logits, **attributes)


def rounds_losses(doc, dtype):
    """A subclass of Sound whose losses come from rounded logits, and next_logits from others."""
    return but(doc, log_probs=lambda self, logits: F.log_softmax(logits.to(dtype).float(), -1))


ROUNDED = {
    "logits-in-bfloat16": rounds("Runs the head in bfloat16.", BRAIN),
    "logits-in-float16": rounds("Runs the head in float16.", HALF),
    "large-logits-in-float16": rounds("Runs the head in float16.", HALF, 14),
    "logits-in-bfloat16-dtype-unknown": rounds("Names no dtype.", BRAIN, dtype="unknown"),
    "losses-of-bfloat16-logits": rounds_losses("A server that gives losses alone.", BRAIN),
    "losses-of-float16-logits": rounds_losses("A server that gives losses alone.", HALF),
    "nll-rounded-to-four-decimals": but(
        "A server's JSON.", nll=lambda self, *rows: Sound.nll(self, *rows).round(decimals=4)
    ),
    "float64-claimed": but("Computes in float32 and says float64.", dtype="float64"),
}
for name in ("losses-of-bfloat16-logits", "losses-of-float16-logits"):
    ROUNDED[name].next_logits = None
