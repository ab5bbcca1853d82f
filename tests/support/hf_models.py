"""Small random checkpoints of many architectures, and the losses that transformers itself gives them."""

import json

import pytest
import torch

from evalgpt import Window
from evalgpt.core.plugins import load_plugins

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

VOCABULARY = 320
SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
GROUPED = {**SIZE, "num_key_value_heads": 2, "head_dim": 8}
BARE = {key: SIZE[key] for key in ("vocab_size", "hidden_size", "bos_token_id", "eos_token_id", "pad_token_id")}

ARCHITECTURES = {
    "gpt2": ("GPT2", {**BARE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "gpt-neox": ("GPTNeoX", SIZE),
    "llama": ("Llama", {**SIZE, "tie_word_embeddings": False}),
    "llama, tied": ("Llama", {**SIZE, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {**SIZE, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3", GROUPED),
    "gemma2": (
        "Gemma2",
        {**GROUPED, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0, "sliding_window": 8},
    ),
    "cohere": ("Cohere", {**SIZE, "logit_scale": 0.3}),
    "granite": ("Granite", {**SIZE, "logits_scaling": 4.0}),
    "opt": ("OPT", {**SIZE, "ffn_dim": 48, "word_embed_proj_dim": 24}),
    "bloom": ("Bloom", {**BARE, "n_layer": 2, "n_head": 4}),
    "phi": ("Phi", SIZE),
    "mamba": ("Mamba", {**BARE, "num_hidden_layers": 2, "state_size": 4}),
}
"""Those whose scores the tiled head must give, with what it has to honour."""


def byte_level():
    """A byte-level BPE with 300 tokens, which spells every text; 0 is <s> and 1 is </s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["every effort moves you. I really like chocolate. Größe 😀 "] * 3, trainer)
    return tokenizer


def save_tokenizer(folder, tokenizer=None, **settings):
    (tokenizer or byte_level()).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **(settings or {"bos_token": "<s>"})}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def save(folder, kind="Llama", size=SIZE, head="ForCausalLM", dtype=torch.float32, **how):
    """Save a model of transformers' class ``kind``, every weight drawn anew: no bias is 0, no norm 1."""
    config = getattr(transformers, f"{kind}Config")(**size)
    model = getattr(transformers, f"{kind}{'LMHeadModel' if kind == 'GPT2' else head}")(config).eval().to(dtype)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    model.save_pretrained(folder, **how)
    save_tokenizer(folder)
    return model


def build(folder, **options):
    keys = "".join(f",{key}={value}" for key, value in options.items())
    return load_plugins().model(f"hf:{folder}{keys}", device="cpu")


def draw_windows(forbidden=()):
    """Three windows of different lengths, of which the first is scored whole."""
    generator = torch.Generator().manual_seed(1)
    allowed = [i for i in range(VOCABULARY) if i not in forbidden]
    drawn = [[allowed[i] for i in torch.randint(len(allowed), (n,), generator=generator)] for n in (49, 20, 31)]
    return [Window(drawn[0], 1), Window(drawn[1], 5), Window(drawn[2], 17)]


@torch.inference_mode()
def own_logits(reference, window):
    """The logits [n, V] that the model itself gives for the window's scored tokens, alone in its batch."""
    return reference(torch.tensor([window.ids[:-1]]), use_cache=False).logits[0, window.start - 1 :].double()


def check_losses(model, reference, windows, atol=1e-5):
    for window, scores in zip(windows, model.score(windows), strict=True):
        targets = torch.tensor(window.ids[window.start :])
        expected = torch.nn.functional.cross_entropy(own_logits(reference, window), targets, reduction="none")
        torch.testing.assert_close(torch.from_numpy(scores.nll).double(), expected, atol=atol, rtol=0)


def forbid(*_, **__):
    raise AssertionError("this must not be called")


def change_llama(monkeypatch, change):
    forward = transformers.LlamaForCausalLM.forward

    def changed(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits = change(output.logits)
        return output

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", changed)
