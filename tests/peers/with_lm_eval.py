"""lm-evaluation-harness: its HFLM, its tasks, its windows and its metrics, through ``simple_evaluate``."""

import json
import os
from dataclasses import replace
from pathlib import Path

from peers.parity import (
    TOLERANCE,
    Comparison,
    documents,
    jsonl,
    model_that_adds_bos,
    one_thread,
    running,
    small_model,
    smollm2_file,
    story,
    version,
    worst,
)

import evalgpt

PEER = "lm-eval"
NEEDS = ("lm_eval", "transformers")
METRICS = ("word_perplexity", "byte_perplexity", "bits_per_byte")

FLOAT32_SOFTMAX = 2e-5
BIASED = "lm-eval's default log_softmax is in float32, whose losses are 8.6e-6 nats a token too low on logits up to 40"
"""Measured in docs/precision.md; a word is a token and a quarter, so its perplexity is 1.1e-5 off."""

PARADIGMS = ("anaphor_number_agreement", "wh_island")
PAIRS = 12


def blimp():
    """The folder of BLiMP's paradigms, None where there is none."""
    folder = Path(os.environ.get("EVALGPT_DATA", ".")) / "blimp"
    return folder if all((folder / f"{name}.jsonl").is_file() for name in PARADIGMS) else None


@one_thread()
def small(folder):
    found = []
    for name, kind, tokens in (
        ("random Llama", "Llama", {}),
        ("random GPT-2 with EOS only", "GPT2", {"eos_token": "</s>"}),
    ):
        path = small_model(folder / name.replace(" ", "-"), kind, **tokens)
        found += rolling(folder / f"{name}.jsonl", name, lm(path), f"hf:{path}", documents())
    # A context of 48, of a model that could take 64
    found += rolling(
        folder / "shorter.jsonl",
        "random GPT-2, context 48",
        lm(path, max_length=48),
        f"hf:{path},context_length=48",
        documents(),
    )
    path = model_that_adds_bos(folder / "adds-bos")
    name = "random Llama whose tokenizer adds BOS"
    without = lm(path, add_bos_token=False)
    found += rolling(folder / "bos.jsonl", f"{name}, add_bos_token=False", without, f"hf:{path}", documents())
    found += rolling(
        folder / "default.jsonl",
        f"{name}, lm-eval's default",
        lm(path),
        f"hf:{path}",
        documents(),
        differs="lm-eval scores the BOS that the tokenizer puts before the text, after a prefix of its own",
    )
    if blimp() is not None:
        found += pairs(folder, "random Llama", lm(folder / "random-Llama"), f"hf:{folder / 'random-Llama'}")
        found += pairs(folder, f"{name}, add_bos_token=False", without, f"hf:{path}")
        found += [
            replace(row, differs="lm-eval feeds the BOS that the tokenizer puts before a context")
            for row in pairs(folder, f"{name}, lm-eval's default", lm(path), f"hf:{path}")
            if row.quantity == "BLiMP, one prefix: log-likelihood, worst choice"
        ]
    return found


@one_thread()
def with_smollm2(folder, model):
    """The same weights object on both sides; lm-eval makes its own tokenizer from the GGUF.

    Rolling is compared twice, with lm-eval's default float32 softmax and with its ``softmax_dtype=float64``.
    """
    from transformers import AutoTokenizer

    path = smollm2_file()
    with running():
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    found = []
    for dtype, tolerance, note in (("float32", FLOAT32_SOFTMAX, BIASED), ("float64", TOLERANCE, "")):
        peer = lm(model.module, tokenizer=tokenizer, max_length=512, softmax_dtype=dtype)
        found += rolling(
            folder / f"smollm2-{dtype}.jsonl",
            f"SmolLM2, context 512, softmax in {dtype}",
            peer,
            model,
            [story(3000)],
            protocol="lm-eval:context=512",
            tolerance=tolerance,
            note=note,
        )
    return found + (pairs(folder, "SmolLM2", peer, model) if blimp() is not None else [])


def lm(pretrained, **how):
    with running():
        from lm_eval.models.huggingface import HFLM

        where = str(pretrained) if isinstance(pretrained, Path) else pretrained
        return HFLM(pretrained=where, device="cpu", dtype="float32", batch_size=4, **how)


def rolling(path, name, peer, model, texts, protocol="lm-eval", **how):
    """A custom task of ``loglikelihood_rolling`` over a local file of texts."""
    jsonl(path, [{"text": text} for text in texts])
    task = {
        "output_type": "loglikelihood_rolling",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": metric} for metric in METRICS],
    }
    theirs = simple_evaluate(peer, path, task)["results"]["custom"]
    ours = evaluate(model, f"text:{path}", protocol).peer
    return [row(metric.replace("_", " "), name, theirs[f"{metric},none"], ours[metric], **how) for metric in METRICS]


def pairs(folder, name, peer, model):
    """BLiMP in three ways: the bare sentences, lm-eval's own task with its space in front, and BLiMP's one prefix."""
    records = [
        json.loads(line)
        for paradigm in PARADIGMS
        for line in (blimp() / f"{paradigm}.jsonl").read_text().splitlines()[:PAIRS]
    ]
    sentences = [{"good": r["sentence_good"], "bad": r["sentence_bad"], "context": ""} for r in records]
    prefixes = [
        {"good": r["one_prefix_word_good"], "bad": r["one_prefix_word_bad"], "context": r["one_prefix_prefix"]}
        for r in records
        if r["one_prefix_method"]
    ]
    stem = name.replace(" ", "-")
    found = []
    for what, chosen, space in (
        ("BLiMP, bare sentences", sentences, ""),
        ("BLiMP, lm-eval's own target_delimiter", sentences, " "),
        ("BLiMP, one prefix", prefixes, " "),
    ):
        number = len(found)
        theirs = multiple_choice(jsonl(folder / f"{stem}-theirs-{number}.jsonl", chosen), peer, space)
        spaced = [{**r, "good": space + r["good"], "bad": space + r["bad"]} for r in chosen]
        path = jsonl(folder / f"{stem}-ours-{number}.jsonl", spaced)
        ours = evaluate(model, f"minimal-pairs:{path},good=good,bad=bad", "lm-eval")
        likelihoods = [-r.loss * r.scores for r in ours.rows]
        found += [
            row(f"{what}: log-likelihood, worst choice", name, *worst(theirs["likelihoods"], likelihoods)),
            row(f"{what}: acc", name, theirs["acc"], ours.task_metrics["accuracy"]),
        ]
        if not space:  # a byte more in each choice of theirs otherwise
            found.append(row(f"{what}: acc_bytes", name, theirs["acc_bytes"], ours.task_metrics["accuracy_per_byte"]))
    return found


def multiple_choice(path, peer, delimiter):
    task = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_target": 0,
        "doc_to_choice": "{{[good, bad]}}",
        "target_delimiter": delimiter,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_bytes"}],
    }
    found = simple_evaluate(peer, path, task)
    samples = sorted(found["samples"]["custom"], key=lambda sample: sample["doc_id"])
    return {
        "likelihoods": [value for sample in samples for value, _ in sample["filtered_resps"]],
        "acc": found["results"]["custom"]["acc,none"],
        "acc_bytes": found["results"]["custom"]["acc_bytes,none"],
    }


def simple_evaluate(peer, path, task):
    with running():
        import lm_eval
        from lm_eval.tasks import TaskManager

        local = {
            "task": "custom",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(path.parent / "datasets")},
            "test_split": "test",
            "doc_to_text": "",
        }
        manager = TaskManager(include_defaults=False)  # reading its fourteen thousand tasks takes seconds
        return lm_eval.simple_evaluate(
            model=peer, tasks=[local | task], task_manager=manager, bootstrap_iters=0, log_samples=True
        )


def evaluate(model, task, protocol):
    device = "cpu" if isinstance(model, str) else None
    return evalgpt.evaluate(model, task, protocol, device=device)


def row(quantity, name, theirs, ours, **how):
    return Comparison(PEER, version("lm_eval"), quantity, name, theirs, ours, **how)
