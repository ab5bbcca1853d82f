"""``gpt2`` against transformers' GPT2LMHeadModel on the same random weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.gpt2_checkpoints import save

from evalgpt import EvaluationError, UsageError, Window
from evalgpt.core.plugins import load_plugins

pytestmark = [pytest.mark.numeric, pytest.mark.slow]


SHAPES = {"small": (12, 72), "medium": (16, 64), "large": (20, 80), "xl": (25, 100)}
"""Heads of the four sizes, and a width that they divide."""


def build(folder, **options):
    return load_plugins().model(f"gpt2:{folder}", device="cpu", **options)


def agree(model, reference, length):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.vocab_size, (length + 1,), generator=generator)
    with torch.inference_mode():
        theirs = reference(ids[None, :-1]).logits[0]
        ours = model.module(ids[None, :-1])[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    expected = torch.nn.functional.cross_entropy(theirs.double(), ids[1:], reduction="none")
    nll = torch.from_numpy(model.score([Window(ids.tolist(), 1)])[0].nll)
    torch.testing.assert_close(nll.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SHAPES)
def test_small_shapes_of_all_four_sizes_are_transformers(tmp_path, size):
    heads, width = SHAPES[size]
    reference = save(tmp_path, heads, width)
    model = build(tmp_path)
    agree(model, reference, 48)
    assert model.context_length == 48
    assert model.config["n_heads"] == heads


@pytest.mark.slow_model
def test_the_full_shape_of_124m_is_transformers(tmp_path):
    reference = save(tmp_path, 12, 768, 12, positions=1024)
    (tmp_path / "config.json").unlink()  # the published widths need none
    model = build(tmp_path)
    agree(model, reference, 1024)
    assert model.config["parameters"] == 124439808
    assert model.context_length == 1024
    assert model.prefix_id == 50256


@pytest.mark.parametrize("form", ["bare names", "torch", "old buffers", "untied"])
def test_the_forms_in_which_checkpoints_come(tmp_path, form):
    reference = save(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    assert all(name.startswith("transformer.") for name in state)
    file.unlink()
    if form == "bare names":
        save_file({name.removeprefix("transformer."): tensor for name, tensor in state.items()}, file)
    elif form == "torch":
        torch.save({**state, "lm_head.weight": state["transformer.wte.weight"]}, tmp_path / "pytorch_model.bin")
    elif form == "old buffers":
        mask = torch.tril(torch.ones(48, 48))[None, None]
        save_file(
            {**state, "transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}, file
        )
    else:
        reference.lm_head.weight = torch.nn.Parameter(torch.randn_like(reference.lm_head.weight) * 0.02)
        save_file({**state, "lm_head.weight": reference.lm_head.weight.detach()}, file)
    model = build(tmp_path)
    agree(model, reference, 40)
    assert (model.module.out_head.weight is model.module.tok_emb.weight) == (form != "untied")


def test_sharded_checkpoints_and_a_missing_shard(tmp_path):
    reference = save(tmp_path)
    reference.save_pretrained(tmp_path, max_shard_size="2MB")
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    agree(build(tmp_path), reference, 40)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[-1]
    shard.unlink()
    with pytest.raises(EvaluationError, match=rf"lacks {shard.name}, which model.safetensors.index.json names"):
        build(tmp_path)


def test_the_fingerprint_is_of_the_weights_not_of_the_dtype(tmp_path):
    save(tmp_path)
    before = build(tmp_path).fingerprint
    assert build(tmp_path, dtype="bfloat16").fingerprint == before
    state = load_file(tmp_path / "model.safetensors")
    state["transformer.h.0.ln_1.weight"][0] += 1
    save_file(state, tmp_path / "model.safetensors")
    assert build(tmp_path).fingerprint != before


def test_a_checkpoint_of_something_else_is_told(tmp_path):
    with pytest.raises(UsageError, match="holds no weights"):
        build(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(EvaluationError, match="is not a GPT-2 checkpoint"):
        build(tmp_path)
    save(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["transformer.h.1.mlp.c_fc.bias"]
    state["transformer.extra"] = torch.zeros(2)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(EvaluationError, match=r"missing: trf_blocks.1.ff.layers.0.bias; unexpected: extra"):
        build(tmp_path)


def test_a_variant_that_the_gpt_does_not_compute_is_refused(tmp_path):
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "activation_function": "relu"}))
    with pytest.raises(EvaluationError, match="activation_function = relu; load it with hf:"):
        build(tmp_path)


def test_unknown_heads_are_asked_for(tmp_path):
    save(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UsageError, match="n_head that divides the width 32"):
        build(tmp_path)


def test_an_unknown_size_is_refused():
    with pytest.raises(UsageError, match="knows small, medium, large, xl or a folder"):
        load_plugins().model("gpt2:huge")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{bad", "config.json is not JSON"),
        ("config.json", "[]", "config.json is not a JSON object"),
        ("model.safetensors.index.json", "{}", "has no weight_map"),
    ],
)
def test_json_that_is_not_what_it_should_be_is_named(tmp_path, name, content, message):
    save(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(EvaluationError, match=message):
        build(tmp_path)
