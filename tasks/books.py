"""Whole books by name: ``verdict``, the course's short story, and ``story``, which comes with evalgpt."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from evalgpt.core import Document, EvaluationError, Task, UsageError
from evalgpt.core.hooks import Register, hookimpl
from evalgpt.tasks.reading import read_text

__all__ = ["Book", "make_story", "make_verdict"]


VERDICT_FILE = "the-verdict.txt"

VERDICT_SHA256 = "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f"

VERDICT_URL = "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/ch02/01_main-chapter-code/the-verdict.txt"

STORY_SHA256 = "e84649e707f33e7d5fa0db3fc3abc6ee5ff722890fe945727dddd99dd6924bfa"


class Book(Task):
    """One text, read as the from-scratch course reads its book unless another protocol is asked for."""

    default_protocol = "book"

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def documents(self) -> Iterator[Document]:
        yield Document(self.name, self.text)


def make_verdict(argument: str | None) -> Task:
    """The Verdict (Edith Wharton, 1908), 20,479 characters; from $EVALGPT_DATA, the user cache or the internet."""
    _no_argument("verdict", argument)
    path = _local_verdict() or _download_verdict()
    return Book("verdict", _checked(read_text(path), VERDICT_SHA256, str(path)))


def make_story(argument: str | None) -> Task:
    """Ten Millimetres at Sülm, a short story of 23,582 characters written for evalgpt (CC0); needs no network."""
    _no_argument("story", argument)
    path = resources.files("evalgpt.tasks") / "story.txt"
    return Book("story", _checked(path.read_bytes().decode(), STORY_SHA256, "story.txt"))


def _no_argument(name: str, argument: str | None) -> None:
    if argument is not None:
        raise UsageError(f"task {name!r} takes no argument; for a file of your own use text:{argument}")


def _checked(text: str, sha256: str, where: str) -> str:
    if hashlib.sha256(text.encode()).hexdigest() != sha256:
        raise EvaluationError(
            f"{where} is another text than the one published numbers are for (SHA-256 differs); "
            f"remove it, or score it as it is with text:{where}"
        )
    return text


def _local_verdict() -> Path | None:
    folder = os.environ.get("EVALGPT_DATA")
    candidates = [Path(folder) / VERDICT_FILE] if folder else []
    return next((path for path in [*candidates, _cache() / VERDICT_FILE] if path.is_file()), None)


def _cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("evalgpt", appauthor=False))


def _download_verdict() -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")  # else it announces the download on standard error
    try:
        return Path(
            pooch.retrieve(
                VERDICT_URL,
                known_hash=f"sha256:{VERDICT_SHA256}",
                fname=VERDICT_FILE,
                path=_cache(),
                downloader=pooch.HTTPDownloader(timeout=15),
            )
        )
    except Exception as error:  # requests, the file system and pooch's own ValueError for another hash
        raise EvaluationError(
            f"The Verdict is not on this machine and could not be downloaded ({type(error).__name__}); put "
            f"{VERDICT_FILE} in a folder and set EVALGPT_DATA to it, or connect to the internet once (it is then "
            f"kept in {_cache()})"
        ) from error


@hookimpl
def register_tasks(register: Register) -> None:
    register("verdict", make_verdict)
    register("story", make_story)
