"""The strided recipe of the transformers documentation, "Perplexity of fixed-length models".

It ships in no package, so its loop is written again here, from what it does: transformers' own model with labels, of
which -100 is left out, and each of the three averages that the page has shown over the years.
"""

import torch
from peers.parity import Comparison, Texts, one_thread, running, small_model, story, version

import evalgpt

PEER = "transformers' recipe (transcribed)"
NEEDS = ("transformers",)

STRIDES = (64, 32, 20)


@one_thread()
def small(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = story(1500)
    found = []
    for kind in ("GPT2", "Llama"):
        path = small_model(folder / kind, kind)
        with running():
            model, tokenizer = (c.from_pretrained(path) for c in (AutoModelForCausalLM, AutoTokenizer))
        for stride in STRIDES:
            ours = evalgpt.evaluate(
                f"hf:{path}", Texts(text), f"hf-strided:context=64,stride={stride}", device="cpu"
            ).peer
            with running():
                theirs = recipe(model, tokenizer(text, return_tensors="pt").input_ids, 64, stride)
            found += [
                Comparison(PEER, version("transformers"), f"perplexity {v}", name(kind, stride), theirs[v], ours[v_])
                for v, v_ in (("v1", "perplexity_v1"), ("v2", "perplexity_v2"), ("v3", "perplexity_v3"))
            ]
    return found


def name(kind, stride):
    return f"random {kind}, context 64, stride {stride}"


@torch.no_grad()
def recipe(model, ids, context, stride):
    """Perplexities of ``ids`` [1, N]: v1 weights windows by new tokens, v2 not at all, v3 by labels less one."""
    length = ids.shape[1]
    means, new, labelled = [], [], []
    seen = 0
    for begin in range(0, length, stride):
        end = min(begin + context, length)
        window = ids[:, begin:end]
        labels = window.clone()
        labels[:, : -(end - seen)] = -100
        means.append(model(window, labels=labels).loss.double())
        new.append(end - seen)
        labelled.append(int((labels != -100).sum()) - len(labels))
        seen = end
        if end == length:
            break
    mean = torch.stack(means)
    weigh = {"v1": torch.tensor(new), "v2": torch.ones(len(means)), "v3": torch.tensor(labelled)}
    return {key: float(torch.exp((mean * weight).sum() / weight.sum())) for key, weight in weigh.items()}
