"""Hugging Face evaluate's metric ``perplexity``.

The metric is not in the package: ``evaluate.load`` downloads it from the hub. Where EVALGPT_EVALUATE_PERPLEXITY names a
folder ``perplexity`` with a copy of its ``perplexity.py``, that is what runs, through ``evaluate.load``. Elsewhere what
it does is written again here, and the table calls it transcribed: each text by itself, BOS in front if
add_start_token, its perplexity from the mean loss of its tokens, and the mean of those perplexities.

evalgpt does not have this average by name. It follows from the report: exp of each row's loss, under ``exact`` (with
BOS) or ``exact:prefix=none`` (without), of texts that fit into the model's context.
"""

import math
import os

import torch
from peers.parity import Comparison, Texts, one_thread, running, small_model, version, worst

import evalgpt

NEEDS = ("evaluate", "transformers")
COPY = "EVALGPT_EVALUATE_PERPLEXITY"

TEXTS = ("Every effort moves you.", "  I really like chocolate, don't you?\n", "Größe 😀 matters.", "short")


@one_thread()
def small(folder):
    path = small_model(folder / "model")
    found = []
    for start in (True, False):
        theirs = metric(str(path), start)
        protocol = "exact" if start else "exact:prefix=none"
        ours = evalgpt.evaluate(f"hf:{path}", Texts(*TEXTS), protocol, device="cpu")
        name = f"random Llama, add_start_token={start}"
        found += [
            row("mean_perplexity", name, theirs["mean_perplexity"], ours.metrics.mean_text_perplexity),
            row(
                "perplexities, worst text",
                name,
                *worst(theirs["perplexities"], [math.exp(row.loss) for row in ours.rows]),
            ),
        ]
    return found


def row(quantity, name, theirs, ours):
    peer = "evaluate" if COPY in os.environ else "evaluate (transcribed)"
    return Comparison(peer, version("evaluate"), quantity, name, float(theirs), ours)


def metric(path, start):
    with running():
        if COPY in os.environ:
            import evaluate

            how = {"model_id": path, "add_start_token": start, "batch_size": 2, "device": "cpu"}
            return evaluate.load(os.environ[COPY]).compute(predictions=list(TEXTS), **how)
        return transcribed(path, start)


@torch.no_grad()
def transcribed(path, start):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (c.from_pretrained(path) for c in (AutoModelForCausalLM, AutoTokenizer))
    perplexities = []
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        fed = torch.tensor([([tokenizer.bos_token_id] if start else []) + ids])
        logits = model(fed).logits[0, :-1]
        perplexities.append(float(torch.nn.functional.cross_entropy(logits, fed[0, 1:]).exp()))
    return {"perplexities": perplexities, "mean_perplexity": sum(perplexities) / len(perplexities)}
