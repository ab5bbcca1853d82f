"""Which tokens are scored, and from which context: one file per protocol, each registering itself."""

from __future__ import annotations

from evalgpt.core.protocol import Piece, Protocol, Tokens

__all__ = ["Piece", "Protocol", "Tokens"]
