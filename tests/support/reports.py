"""Reports of small runs."""

import json

import pytest
from click.testing import CliRunner

from evalgpt.cli import cli

SMALL = "scratch:n_layers=1,emb_dim=32,n_heads=2,context_length=64"


def run(folder, name, *args):
    path = folder / name
    result = CliRunner().invoke(cli, ["run", "-q", "--no-cache", "-m", SMALL, *args, "-o", str(path)])
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="session")
def reports(tmp_path_factory):
    """Splits, minimal pairs in two paradigms, lm-eval's counts, a part of a text, a text too short for an interval."""
    folder = tmp_path_factory.mktemp("reports")
    (folder / "pairs").mkdir()
    pairs = [{"sentence_good": f"Cat {i} sleeps.", "sentence_bad": f"Cat {i} sleep."} for i in range(3)]
    for name in ("one", "two"):
        (folder / "pairs" / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return {
        "mixed": run(folder, "mixed.json", "-t", "pairs", "-t", "story", "-t", f"minimal-pairs:{folder / 'pairs'}"),
        "lm-eval": run(folder, "lm-eval.json", "-t", "story", "-p", "lm-eval"),
        "part": run(folder, "part.json", "-t", "story", "-p", "lm-eval", "--precision", "2%"),
        "two": run(folder, "two.json", "-m", f"{SMALL},seed=7", "-t", "pairs"),
    }
