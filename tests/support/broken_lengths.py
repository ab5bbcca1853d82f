"""Adapters whose scores depend on the longest text of the batch, or of all so far, one way each."""

import torch
from support.sound_models import BytesModel, Sound, sha256
from torch.nn import functional as F

__all__ = ["BY_LENGTH", "SOUND_BY_LENGTH", "Long"]


class Long(BytesModel):
    """Sums embeddings that are weighted by the cosine of their position, and reads 2048 tokens in little time.

    ``scale(longest)`` is what positions are divided by: 1, or more beyond ``original`` tokens in the subclasses.
    """

    context_length = 2048
    original = 24

    def __init__(self, seed):
        super().__init__(seed)
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(self.vocab_size, 16, generator=generator)
        self.head = torch.randn(16, self.vocab_size, generator=generator)
        self.fingerprint = sha256(self.table, self.head)

    def scale(self, longest):
        return 1.0

    def lengths(self, windows):
        """The length by which each window's positions are scaled."""
        return [len(window.ids) - 1 for window in windows]

    def score(self, windows, detail=None):
        answers = []
        for window, length in zip(windows, self.lengths(windows), strict=True):
            logits = self.logits(window.ids[:-1], self.scale(length))[window.start - 1 :]
            targets = torch.tensor(window.ids[window.start :])
            answers.append(Sound.result(self, F.log_softmax(logits, -1), targets, detail))
        return answers

    def next_logits(self, ids, count=1):
        return self.logits(ids, self.scale(len(ids)))[-count:].numpy()

    def logits(self, ids, scale):
        angles = torch.arange(len(ids), dtype=torch.float64)[:, None] / scale * torch.linspace(1, 0.05, 16)
        states = (self.table[torch.tensor(list(ids))] * torch.cos(angles).float()).cumsum(0)
        states = states / torch.arange(1, len(ids) + 1).sqrt()[:, None]
        return states @ self.head / 4

    nll, rank, entropy, top = Sound.nll, Sound.rank, Sound.entropy, Sound.top


class Scaled(Long):
    """Divides positions by how much the window is longer than ``original``, and is given equal lengths alone."""

    equal_lengths = True

    def scale(self, longest):
        return max(longest / self.original, 1.0)


class ScaledBeyond1024(Scaled):
    """The same beyond 1024 tokens."""

    original = 1024


class LengthScaledPadding(Scaled):
    """Scales positions by the longest row of the batch."""

    equal_lengths = False

    def lengths(self, windows):
        return [max(len(window.ids) - 1 for window in windows)] * len(windows)


class LongestKept(Scaled):
    """Scales positions by the longest text so far: frequencies are computed anew for longer ones alone."""

    longest = 1

    def lengths(self, windows):
        lengths = []
        for window in windows:
            self.longest = max(self.longest, len(window.ids) - 1)
            lengths.append(self.longest)
        return lengths


class PaddingBeyond1024(LengthScaledPadding):
    """Scales positions by the longest row of the batch beyond 1024 tokens."""

    original = 1024


class KeptBeyond1024(LongestKept):
    """Scales positions by the longest text so far beyond 1024 tokens."""

    original = 1024


SOUND_BY_LENGTH = {"long": Long, "scaled": Scaled, "scaled-beyond-1024": ScaledBeyond1024}

BY_LENGTH = {
    "length-scaled-padding": LengthScaledPadding,
    "length-scaled-padding-1024": PaddingBeyond1024,
    "longest-kept": LongestKept,
    "longest-kept-1024": KeptBeyond1024,
}
