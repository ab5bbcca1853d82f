"""Scores of windows, kept between runs: a run that was killed goes on, and no window is scored twice.

One SQLite file in the user's cache. A window's key is a hash of its ids, of where scoring starts, of the model's
fingerprint, tokenizer, dtype and kind of device, and of the versions that compute. Only models that say what else
their scores depend on (:attr:`evalgpt.core.Model.cache_id`) are kept: a plugin whose code is being changed has a
fingerprint that does not.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import Model, UsageError, Window
from evalgpt.core.answers import least_loss

__all__ = ["Info", "Memory", "ScoreCache", "default_path", "identity"]


ENGINE = 5
"""Raised whenever the engine or a shipped adapter computes other digits than before."""

LIMIT_MIB = 1024
"""The size that the file is cut back to, the longest unused first; ``EVALGPT_CACHE_LIMIT`` sets another, in MiB."""

WAIT_SECONDS = 10.0
"""How long to wait for another run that writes."""

ASKED = 500
"""Keys in one question; SQLite takes at least 999."""

TABLE = (
    "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, nll BLOB NOT NULL, day INTEGER NOT NULL) WITHOUT ROWID"
)


@dataclass(frozen=True, slots=True)
class Info:
    """What is kept: where, how many windows, how many bytes, and the limit in bytes."""

    path: Path
    windows: int
    bytes: int
    limit: int


def identity(model: Model, versions: Mapping[str, str]) -> str | None:
    """What a score of ``model`` depends on besides its window; None where the adapter does not say."""
    if model.cache_id is None:
        return None
    computing = {name: versions.get(name) for name in ("evalgpt", "torch", "transformers", "platform")}
    facts = {
        "engine": ENGINE,
        "adapter": [model.cache_id, type(model).__module__, type(model).__qualname__],
        "fingerprint": model.fingerprint,
        "tokenizer": dict(model.tokenizer),
        "dtype": model.dtype,
        "device": model.device.split(":")[0],
        **computing,
    }
    return json.dumps(facts, sort_keys=True, default=str)


@dataclass(frozen=True, slots=True)
class Memory:
    """A cache as one model sees it; ``least`` is the lowest loss that its rounding explains."""

    cache: ScoreCache
    who: str
    least: float = -1e-3

    def recall(self, windows: Sequence[Window]) -> list[NDArray[np.float32] | None]:
        """The losses of each window, None where they are not kept, or are not what a model may have answered."""
        keys = [self.cache.key(self.who, window) for window in windows]
        kept = self.cache.get(keys)
        found = [kept.get(key) for key in keys]
        return [
            nll if nll is not None and _plausible(nll, len(window.ids) - window.start, self.least) else None
            for nll, window in zip(found, windows, strict=True)
        ]

    def keep(self, windows: Sequence[Window], losses: Sequence[NDArray[np.float32]]) -> None:
        """Keep the losses of ``windows``."""
        self.cache.put({self.cache.key(self.who, w): nll for w, nll in zip(windows, losses, strict=True)})


class ScoreCache:
    """The losses of windows by key. A file that cannot be read or written costs the cache, never the run: ``problem``
    then says why, and nothing is found or kept any more."""

    def __init__(self, path: Path | None = None, limit: int | None = None) -> None:
        self.path = path or default_path()
        self.limit = _limit() if limit is None else limit
        self.problem: str | None = None
        self._database: sqlite3.Connection | None = None
        self._today = int(time.time() // 86400)
        self._added = 0
        self._cut = False

    def __enter__(self) -> Self:
        with self._caring():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = _open(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        database = self._database
        if database is None:
            return
        try:
            with self._caring():
                database.commit()
                self._trim(database)
        finally:  # whatever interrupts it: Python 3.13 warns of a connection that is only forgotten
            database.close()
            self._database = None

    def of(self, model: Model, versions: Mapping[str, str]) -> Memory | None:
        """This cache for ``model``; None where its scores are not to be kept."""
        who = identity(model, versions)
        return None if who is None else Memory(self, who, least_loss(model.dtype))

    def key(self, who: str, window: Window) -> bytes:
        """The key of ``window``, scored by a model of that :func:`identity`."""
        digest = hashlib.sha256(f"{len(who)} {who} {window.start} ".encode())
        digest.update(np.asarray(window.ids, dtype=np.int64).tobytes())
        return digest.digest()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """The losses (float32, nats) of those of ``keys`` that are kept."""
        found: dict[bytes, NDArray[np.float32]] = {}
        for at in range(0, len(keys), ASKED):
            part = keys[at : at + ASKED]
            with self._caring():
                if self._database is None:
                    break
                marks = ",".join("?" * len(part))
                rows = self._database.execute(f"SELECT key, nll, day FROM scores WHERE key IN ({marks})", part)  # noqa: S608
                old = []
                for key, packed, day in rows:
                    nll = _unpacked(packed)
                    if nll is not None:
                        found[key] = nll
                    if day != self._today:
                        old.append((self._today, key))
                if old:
                    self._database.executemany("UPDATE scores SET day = ? WHERE key = ?", old)
                    self._database.commit()
        return found

    def put(self, scores: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Keep losses; a kill loses none that were put."""
        with self._caring():
            if self._database is None:
                return
            rows = [(key, _packed(nll), self._today) for key, nll in scores.items()]
            self._database.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", rows)
            self._database.commit()  # at once: an open transaction would keep other runs waiting
            self._added += sum(len(packed) for _, packed, _ in rows)
            if self._added > self.limit // 8:  # a long text alone may be more than the limit
                self._added = 0
                self._cut |= self._delete_surplus(self._database)

    def info(self) -> Info:
        """What is kept now."""
        with self._usable():
            if not self.path.exists():
                return Info(self.path, 0, 0, self.limit)
            with closing(_open(self.path)) as database:
                (windows,) = database.execute("SELECT count(*) FROM scores").fetchone()
                return Info(self.path, int(windows), _size(database), self.limit)

    def clear(self) -> Info:
        """Delete everything; what was kept before.

        Raises:
            UsageError: the file cannot be deleted.
        """
        try:
            before = self.info()
        except UsageError:  # not a database: it goes all the same
            before = Info(self.path, 0, 0, self.limit)
        with self._usable():
            if not self.path.parent.is_dir():
                return before
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        return before

    @contextmanager
    def _caring(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self.problem = f"scores are not kept in {self.path}: {error}"
            if self._database is not None:
                self._database.close()
            self._database = None

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise UsageError(
                f"the cache {self.path} cannot be used ({error}); delete it, or set EVALGPT_CACHE"
            ) from None

    def _trim(self, database: sqlite3.Connection) -> None:
        """Cut the file back with what is in it."""
        if self._delete_surplus(database) or self._cut:
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _delete_surplus(self, database: sqlite3.Connection) -> bool:
        """Cut back to four fifths of the limit, the longest unused first; whether there was too much. The file stays as
        large, and what is written next takes the room."""
        size = _size(database)
        if size <= self.limit:
            return False
        (windows,) = database.execute("SELECT count(*) FROM scores").fetchone()
        surplus = int(windows * (1 - 0.8 * self.limit / size)) + 1
        database.execute("DELETE FROM scores WHERE key IN (SELECT key FROM scores ORDER BY day LIMIT ?)", (surplus,))
        database.commit()
        return True


def default_path() -> Path:
    """``scores.sqlite`` in ``$EVALGPT_CACHE``, else in the user's cache."""
    from platformdirs import user_cache_path

    folder = os.environ.get("EVALGPT_CACHE")
    try:
        return (Path(folder).expanduser() if folder else user_cache_path("evalgpt")) / "scores.sqlite"
    except RuntimeError:
        raise UsageError(f"EVALGPT_CACHE is {folder!r}, and there is no such user; give a folder") from None


def _limit() -> int:
    given = os.environ.get("EVALGPT_CACHE_LIMIT", str(LIMIT_MIB))
    if not (given.isascii() and given.isdecimal() and len(given) <= 15):
        raise UsageError(f"EVALGPT_CACHE_LIMIT must be a whole number of MiB below 10**15, not {given[:30]!r}")
    return int(given) << 20


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=WAIT_SECONDS)
    try:
        database.execute("PRAGMA journal_mode=WAL")  # a second run reads while the first one writes
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute(TABLE)
        database.commit()
    except BaseException:
        database.close()
        raise
    return database


def _packed(nll: NDArray[np.float32]) -> bytes:
    """The losses with a checksum behind them."""
    data = nll.astype("<f4").tobytes()
    return data + zlib.crc32(data).to_bytes(4, "little")


def _plausible(nll: NDArray[np.float32], count: int, least: float) -> bool:
    return len(nll) == count and bool(np.isfinite(nll).all()) and (not count or float(nll.min()) >= least)


def _unpacked(packed: object) -> NDArray[np.float32] | None:
    """The losses; None where they are not those that were kept: SQLite lets any column hold any type."""
    if not isinstance(packed, bytes):
        return None
    data, check = packed[:-4], packed[-4:]
    if len(data) % 4 or zlib.crc32(data).to_bytes(4, "little") != check:
        return None
    return np.frombuffer(data, dtype="<f4")


def _size(database: sqlite3.Connection) -> int:
    pages, free, size = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size
