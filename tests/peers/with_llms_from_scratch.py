"""The course's package: its GPTModel, its loader with its shuffle, and its mean of batch means."""

import torch
from peers.parity import Comparison, Texts, one_thread, running, story, version

import evalgpt
from evalgpt.adapters.gpt.tokenizer import GPT2Tokenizer

PEER = "llms-from-scratch"
NEEDS = ("llms_from_scratch", "matplotlib")

SMALL = {"context_length": 64, "emb_dim": 32, "n_heads": 4, "n_layers": 2}
FULL = {"context_length": 256, "emb_dim": 768, "n_heads": 12, "n_layers": 12}


@one_thread()
def small(folder):
    """An even number of windows to train on, an odd one to validate: the shuffle drops none of the former."""
    text = story(4400)
    losses, module = theirs(SMALL, text)
    keys = ",".join(f"{key}={value}" for key, value in SMALL.items())
    drawn = ours(f"scratch:{keys},seed=123", text)
    torch.save(module.state_dict(), folder / "model.pth")
    loaded = ours(f"scratch:{keys},weights={folder / 'model.pth'}", text)
    return [
        *compared("small GPT, drawn from seed 123 by each", losses, drawn),
        *compared("small GPT, the package's checkpoint", losses, loaded),
    ]


@one_thread()
def on_the_verdict(path):
    """The 124M of the course, untrained, on The Verdict: the losses that the course prints."""
    text = path.read_text(encoding="utf-8")
    return compared("124M on The Verdict, drawn from seed 123 by each", theirs(FULL, text)[0], ours("scratch", text))


def theirs(config, text):
    """(train, validation) losses as the course's notebook calls for them, and the model."""
    with running():
        from llms_from_scratch.ch02 import create_dataloader_v1
        from llms_from_scratch.ch04 import GPTModel
        from llms_from_scratch.ch05 import calc_loss_loader

        use_our_tables()
        torch.manual_seed(123)
        model = GPTModel({"vocab_size": 50257, "drop_rate": 0.1, "qkv_bias": False, **config}).eval()
        cut = int(0.9 * len(text))
        length = config["context_length"]
        how = {"batch_size": 2, "max_length": length, "stride": length, "num_workers": 0}
        train = create_dataloader_v1(text[:cut], shuffle=True, drop_last=True, **how)
        validation = create_dataloader_v1(text[cut:], shuffle=False, drop_last=False, **how)
        if len(train.dataset) % 2:
            raise ValueError("the shuffle would drop a random window of an odd number")
        with torch.no_grad():
            return [calc_loss_loader(loader, model, torch.device("cpu")) for loader in (train, validation)], model


@one_thread()
def continued(config, prompt, count):
    """Ids of ``prompt`` and what the package's ``generate_text_simple`` writes behind it, and evalgpt's."""
    with running():
        from llms_from_scratch.ch04 import GPTModel, generate_text_simple

        torch.manual_seed(123)
        model = GPTModel({"vocab_size": 50257, "drop_rate": 0.1, "qkv_bias": False, **config}).eval()
        ids = torch.tensor([GPT2Tokenizer().encode(prompt).ids])
        theirs = generate_text_simple(model, ids, count, config["context_length"])[0].tolist()
    keys = ",".join(f"{key}={value}" for key, value in config.items())
    found = evalgpt.generate(f"scratch:{keys},seed=123", prompt, tokens=count, device="cpu")
    return theirs, [*found.fed_ids, *found.ids]


def use_our_tables():
    """Let tiktoken find GPT-2's encoding where it keeps those it has loaded; it would download the same tables."""
    from tiktoken import registry

    registry.ENCODINGS.setdefault("gpt2", GPT2Tokenizer()._encoding)


def ours(spec, text):
    found = evalgpt.evaluate(spec, Texts(text), "book", device="cpu").peer
    return [found["train_loss"], found["validation_loss"]]


def compared(name, theirs, ours):
    return [
        Comparison(PEER, version("llms-from-scratch"), f"{split} loss", name, a, b)
        for split, a, b in zip(("train", "validation"), theirs, ours, strict=True)
    ]
