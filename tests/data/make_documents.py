"""Write one of each document that evalgpt writes, into a new folder beside this file: what later versions must read.

    python tests/data/make_documents.py schema-2

Run it once, when a schema's number goes up, and leave the older folders as they are: test_stored_documents.py reads
them all. The texts are beginnings of the story that comes with evalgpt (CC0).
"""

import shutil
import sys
import tempfile
from contextlib import chdir
from importlib import resources
from pathlib import Path

from click.testing import CliRunner

from evalgpt.cli import cli

MODEL = "scratch:n_layers=1,emb_dim=8,n_heads=2,context_length=32"
OTHER = f"{MODEL},seed=7"
DOCUMENTS = {
    "report.json": ["run", "-m", MODEL, "-m", OTHER, "-t", "text:story.txt", "--detail", "npz", "--top", "2"],
    "pairs.json": ["run", "-m", MODEL, "-t", "pairs"],
    "book.json": ["run", "-m", MODEL, "-t", "text:story.txt", "-p", "book:context=4"],
    "strided.json": ["run", "-m", MODEL, "-t", "text:story.txt", "-p", "hf-strided:context=16,stride=8"],
    "comparison.json": ["compare", "report.json"],
    "difference.json": ["explain-difference", "report.json", "strided.json"],
    "check.json": ["check", MODEL, "--only", "shift", "--only", "causality", "--only", "normalised"],
    "explanation.json": ["explain", "Every effort moves you", "-m", MODEL],
    "generation.json": ["generate", "Every effort moves you", "-m", MODEL, "-n", "4"],
    "training.json": ["train", "-m", MODEL, "-t", "text:book.txt", "--epochs", "2", "--context", "4",
                      "--sample-tokens", "4", "--eval-every", "4"],
}  # fmt: skip
"""Files and the commands that write them; each is given ``-o``."""


def main(folder: Path) -> None:
    folder.mkdir()
    story = (resources.files("evalgpt.tasks") / "story.txt").read_bytes().decode()
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
        Path("story.txt").write_text(story[:160], encoding="utf-8")
        Path("book.txt").write_text(story[:240], encoding="utf-8")
        for name, command in DOCUMENTS.items():
            output = ["-o", "run"] if command[0] == "train" else ["-o", name]
            result = CliRunner().invoke(cli, [*command, *output], prog_name="evalgpt")
            if result.exit_code != 0:
                sys.exit(f"{name}: {result.stderr}")
        for path in (*DOCUMENTS, "report.detail.npz"):
            shutil.copy(Path("run" if path == "training.json" else ".") / path, folder / path)


if __name__ == "__main__":
    main(Path(__file__).parent / sys.argv[1])
