"""Texts that begin alike as a tree, so that what they share is computed once.

Each token of each text is a node whose parent is the token before it; equal beginnings are one path. A transformer
reads all nodes at once if each sees its ancestors alone and stands at the position that its depth is. The same picture
serves speculative decoding (SpecInfer, Miao et al. 2023, arXiv:2305.09781, "tree attention").
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evalgpt.core import common_prefix_length

__all__ = ["LARGEST_TREE", "WORTH", "Tree", "build_prefix_tree"]


LARGEST_TREE = 2048
"""Nodes of the largest tree: which sees which is a matrix of their number squared."""

WORTH = 0.2
"""The share of a batch's tokens that a tree must save: attention with a mask costs more than without."""


@dataclass(frozen=True, slots=True)
class Tree:
    """N nodes: ``ids`` int64 [N]; ``depth`` int64 [N], the number of tokens before each; ``seen`` bool [N, N], its
    ancestors and itself. ``paths`` are the nodes int64 [T] of each text."""

    ids: Tensor
    depth: Tensor
    seen: Tensor
    paths: list[Tensor]


def build_prefix_tree(texts: Sequence[Sequence[int]]) -> Tree | None:
    """The tree of ``texts``; None where it would save too little, or be too large."""
    lists = [list(text) for text in texts]
    order = sorted(range(len(lists)), key=lists.__getitem__)
    common = [0, *(common_prefix_length(lists[a], lists[b]) for a, b in itertools.pairwise(order))]
    nodes = sum(map(len, lists)) - sum(common)
    if nodes > LARGEST_TREE or nodes > (1 - WORTH) * len(lists) * max(map(len, lists)):
        return None
    ids, depth = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    seen = np.zeros((nodes, nodes), np.bool_)
    paths = [np.empty(0, np.int64)] * len(texts)
    at, path = 0, np.empty(0, np.int64)
    for number, shared in zip(order, common, strict=True):
        text = lists[number]
        new = np.arange(at, at + len(text) - shared)
        ids[new], depth[new] = text[shared:], np.arange(shared, len(text))
        seen[new[:, None], path[:shared]] = True
        seen[new[:, None], new] = np.tri(len(new), dtype=np.bool_)
        paths[number] = path = np.concatenate([path[:shared], new])
        at += len(new)
    return Tree(
        torch.from_numpy(ids), torch.from_numpy(depth), torch.from_numpy(seen), [torch.from_numpy(p) for p in paths]
    )
