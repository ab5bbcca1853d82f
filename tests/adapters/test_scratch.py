"""The model ``scratch``: its fields, its tokenizer, and a reader's own checkpoints."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import evalgpt
from evalgpt import EvaluationError, UsageError, Window
from evalgpt.adapters.gpt import tokenizer as gpt2_bpe
from evalgpt.adapters.gpt.model import GPTConfig, GPTModel
from evalgpt.adapters.gpt.tokenizer import GPT2Tokenizer
from evalgpt.core.plugins import load_plugins

pytestmark = pytest.mark.numeric

FIELDS = "emb_dim=16,n_heads=2,n_layers=2,context_length=32"
CONFIG = GPTConfig(emb_dim=16, n_heads=2, n_layers=2, context_length=32)


def build(spec):
    return load_plugins().model(spec, device="cpu")


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(9)
    return GPTModel(CONFIG).state_dict()


def nll_of(model):
    return model.score([Window([16833, 3626, 6100, 345], 1)])[0].nll


@pytest.mark.parametrize(
    "form", ["pth", "safetensors", "with the optimizer", "with the course's mask", "in half precision"]
)
def test_a_readers_checkpoint_loads(tmp_path, state, form):
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "with the optimizer":
        torch.save({"model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}}, path)
    elif form == "with the course's mask":
        torch.save({**state, "trf_blocks.0.att.mask": torch.triu(torch.ones(32, 32), 1)}, path)
    elif form == "in half precision":
        torch.save({name: tensor.bfloat16() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    model = build(f"scratch:weights={path},{FIELDS}")
    reference = GPTModel(CONFIG).eval()
    kept = {n: t.bfloat16().float() for n, t in state.items()} if form == "in half precision" else state
    reference.load_state_dict(kept)
    with torch.inference_mode():
        logits = reference(torch.tensor([[16833, 3626, 6100]]))[0].double()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([3626, 6100, 345]), reduction="none")
    np.testing.assert_allclose(nll_of(model), expected, atol=1e-5)
    assert model.config["weights"] == str(path)
    assert "seed" not in model.config


def test_the_same_weights_have_one_fingerprint_whatever_the_file(tmp_path, state):
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "b.safetensors")
    prints = {build(f"scratch:weights={tmp_path / name},{FIELDS}").fingerprint for name in ("a.pth", "b.safetensors")}
    assert len(prints) == 1
    assert build(f"scratch:{FIELDS},seed=9").fingerprint in prints
    assert build(f"scratch:{FIELDS},seed=10").fingerprint not in prints


def test_a_checkpoint_that_does_not_fit_is_told_tensor_by_tensor(tmp_path, state):
    wrong = {**state, "extra.weight": torch.zeros(3), "final_norm.scale": torch.ones(17)}
    del wrong["final_norm.shift"]
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(EvaluationError) as error:
        build(f"scratch:weights={tmp_path / 'wrong.pth'},{FIELDS}")
    assert (
        "missing: final_norm.shift; unexpected: extra.weight; mis-shaped: final_norm.scale is 17, expected 16"
        in str(error.value)
    )


def test_the_error_says_which_fields_the_checkpoint_has(tmp_path, state):
    torch.save(state, tmp_path / "small.pth")
    with pytest.raises(EvaluationError) as error:
        build(f"scratch:weights={tmp_path / 'small.pth'}")
    fields = "vocab_size=50257,emb_dim=16,context_length=32,n_layers=2,qkv_bias=false"
    assert f"by its shapes the checkpoint has {fields}" in str(error.value)
    build(f"scratch:weights={tmp_path / 'small.pth'},{fields},n_heads=2")


def test_every_field_can_be_given():
    model = build(f"scratch:124M,{FIELDS},seed=7,drop_rate=0.5,qkv_bias=true,vocab_size=50300")
    assert dict(model.config) == {
        "vocab_size": 50300,
        "context_length": 32,
        "emb_dim": 16,
        "n_heads": 2,
        "n_layers": 2,
        "drop_rate": 0.5,
        "qkv_bias": True,
        "seed": 7,
        "parameters": sum(p.numel() for p in model.module.parameters()),
    }
    assert np.array_equal(nll_of(model), nll_of(model))  # dropout is off


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scratch:125M", "known: 124M, 355M, 774M, 1558M"),
        ("scratch:n_layers=0", "n_layers must be at least 1"),
        ("scratch:n_heads=5", "emb_dim 768 is not a multiple of n_heads 5"),
        ("scratch:drop_rate=2", "drop_rate must be from 0 to 1"),
        ("scratch:seed=-1", "seed must be from 0"),
        ("scratch:dtype=int8", "accepted: float32, bfloat16, float16, float64"),
        ("scratch:weights=nowhere.pth", "there is no weights file nowhere.pth"),
    ],
)
def test_fields_out_of_range_are_refused(spec, message):
    with pytest.raises(UsageError, match=message):
        build(spec)


@pytest.mark.parametrize(("device", "message"), [("tpu", "accepted: auto, cpu"), ("cuda:99", "it has cpu")])
def test_a_device_that_is_not_there_is_refused(device, message):
    with pytest.raises(UsageError, match=message):
        load_plugins().model(f"scratch:{FIELDS}", device=device)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), ("bfloat16", 0.1), ("float16", 0.02)])
def test_other_dtypes_stay_near_float32(dtype, tolerance):
    reference = nll_of(build(f"scratch:{FIELDS}"))
    model = load_plugins().model(f"scratch:{FIELDS}", device="cpu", dtype=dtype)
    assert model.dtype == dtype
    np.testing.assert_allclose(nll_of(model), reference, atol=tolerance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu():
    task = "story"
    cpu = evalgpt.evaluate(f"scratch:{FIELDS}", task, device="cpu")
    cuda = evalgpt.evaluate(f"scratch:{FIELDS}", task, device="cuda")
    assert cuda.model.device.startswith("cuda")
    assert cuda.model.fingerprint == cpu.model.fingerprint
    assert cuda.metrics.loss == pytest.approx(cpu.metrics.loss, abs=1e-5)


@given(st.text())
def test_the_tokenizer_gives_back_the_text_and_covers_its_bytes(text):
    tokenizer = GPT2Tokenizer()
    encoding = tokenizer.encode(text)
    assert tokenizer.decode(encoding.ids) == text
    assert len(encoding.byte_spans) == len(encoding.ids)
    edges = [0, *(end for _, end in encoding.byte_spans)]
    assert edges[-1] == len(text.encode())
    assert [start for start, _ in encoding.byte_spans] == edges[:-1]


def test_a_special_token_in_a_text_is_text():
    encoding = GPT2Tokenizer().encode("<|endoftext|>")
    assert gpt2_bpe.END_OF_TEXT not in encoding.ids
    assert len(encoding.ids) > 1


def test_tables_that_are_not_gpt2s_are_refused(tmp_path):
    for name in gpt2_bpe.HASHES:
        (tmp_path / name).write_text("{}")
    with pytest.raises(EvaluationError, match="are not GPT-2's"):
        gpt2_bpe._from_tables(tmp_path)
