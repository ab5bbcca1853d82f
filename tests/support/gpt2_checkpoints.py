"""Small GPT-2 checkpoints, as transformers saves them."""

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra hf")


def save(folder, heads=4, width=32, layers=3, vocabulary=50257, positions=48):
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=positions, n_embd=width, n_layer=layers, n_head=heads
    )
    torch.manual_seed(heads)
    model = transformers.GPT2LMHeadModel(config).eval()
    for name, parameter in model.named_parameters():  # biases and norms are drawn as 0 and 1, which hides mistakes
        if "ln_" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.2)
    model.save_pretrained(folder)
    return model
