"""What a folder holds besides a plain model: adapters, unused weights, wrapped names, shards, odd lengths, GGUF."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evalgpt import EvaluationError, UsageError, Window, evaluate

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

from support.hf_models import BARE, SIZE, build, check_losses, draw_windows, save, save_tokenizer  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def rename(folder, change):
    state = load_file(folder / "model.safetensors")
    save_file({change(name): tensor for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})


def configure(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# adapters


def save_adapter(folder, base=None):
    """A LoRA adapter of the attention, in ``folder``; the reference with it applied."""
    peft = pytest.importorskip("peft", reason="needs the extra lora")
    base = base or folder
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.5)
    model.save_pretrained(folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(base)}))
    return model.merge_and_unload().eval()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's, of transformers' names
@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_is_loaded_with_peft(tmp_path, alone):
    plain = save(tmp_path / "base")
    folder = tmp_path / ("adapter" if alone else "base")
    reference = save_adapter(folder, tmp_path / "base")
    model = build(folder)
    check_losses(model, reference, draw_windows())
    assert model.config["adapter"] == "LORA"
    assert not torch.equal(*(m.model.layers[0].self_attn.q_proj.weight for m in (plain, reference)))
    if alone:
        assert model.fingerprint != build(tmp_path / "base").fingerprint


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_is_refused_without_peft(tmp_path, monkeypatch, whole):
    if whole:
        save(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "base"}')
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "peft" else found(name, *more))
    with pytest.raises(EvaluationError, match=r"LORA adapter \(adapter_config.json\), which needs peft"):
        build(tmp_path)


def test_an_adapter_without_its_base_model_names_it(tmp_path, monkeypatch):
    pytest.importorskip("peft", reason="needs the extra lora")
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "moved")}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(EvaluationError, match=r"one of the model .*moved: there is no folder .*moved"):
        build(tmp_path)


# weights


def test_unused_weights_are_told(tmp_path):
    save(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    extra = {"model.layers.0.self_attn.q_proj.bias": torch.ones(32), "model.rotary_emb.inv_freq": torch.ones(4)}
    save_file(state | extra, tmp_path / "model.safetensors", {"format": "pt"})
    model = build(tmp_path)
    (warning,) = model.warnings
    assert "1 weights" in warning
    assert "model.layers.0.self_attn.q_proj.bias" in warning
    names = [verdict.name for verdict in evaluate(model, "pairs").verdicts]
    assert "model_warning" in names


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "model.", "_forward_module.", "module.module.", "_orig_mod.module.model."]
)
@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_names_of_wrappers_are_taken_off(tmp_path, prefix, kind):
    sizes = {"GPT2": {**BARE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, "Llama": SIZE}
    reference = save(tmp_path, kind, sizes[kind])
    rename(tmp_path, lambda name: prefix + name)
    model = build(tmp_path)
    check_losses(model, reference, draw_windows())
    assert not model.warnings


def test_names_within_names_are_taken_off(tmp_path):
    reference = save(tmp_path)
    rename(tmp_path, lambda name: name.replace("layers.1.", "layers.1._orig_mod."))
    check_losses(build(tmp_path), reference, draw_windows())


def test_shards_without_their_index_are_refused(tmp_path):
    save(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    build(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(EvaluationError, match=r"shards without their index: put model.safetensors.index.json"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_hidden_layers": 10**7}, "10000000 layers"),
        ({"hidden_size": 10**9}, "embedding of 320 x 1000000000"),
        ({"vocab_size": 10**12}, "embedding of 1000000000000 x 32"),
    ],
)
def test_a_configuration_beyond_its_checkpoint_is_refused_at_once(tmp_path, values, says):
    save(tmp_path)
    configure(tmp_path, **values)
    with pytest.raises(EvaluationError, match=says):
        build(tmp_path)


def test_experts_are_computed_in_float64(tmp_path):
    size = {**SIZE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_key_value_heads": 2}
    save(tmp_path, "Qwen3Moe", {**size, "head_dim": 8, "decoder_sparse_step": 1})
    windows = draw_windows()
    wide, narrow = (build(tmp_path, dtype=dtype).score(windows) for dtype in ("float64", "float32"))
    for a, b in zip(wide, narrow, strict=True):
        np.testing.assert_allclose(a.nll, b.nll, atol=1e-4)


# lengths


def test_positions_behind_a_padding_index(tmp_path):
    size = {**SIZE, "max_position_embeddings": 66, "is_decoder": True, "type_vocab_size": 1}
    save(tmp_path, "Roberta", size)
    model = build(tmp_path)
    assert model.context_length == 64
    ids = [2 + i % 200 for i in range(65)]
    assert np.isfinite(model.score([Window(ids, 1)])[0].nll).all()
    with pytest.raises(UsageError, match="accepted: 1 to 64"):
        build(tmp_path, context_length=65)


def test_a_number_that_stands_for_no_limit_is_no_length(tmp_path):
    save(tmp_path)
    configure(tmp_path, max_position_embeddings=10**30)
    assert build(tmp_path).context_length == 2048
    assert build(tmp_path, context_length=3000).context_length == 3000


def test_computed_positions_go_further_on_request_and_say_so(tmp_path):
    save(tmp_path)
    model = build(tmp_path, context_length=100)
    assert model.context_length == 100
    assert "made for 64" in model.warnings[0]
    assert not build(tmp_path, context_length=64).warnings


# tokenizers


def test_an_added_token_without_an_embedding_is_measured_where_no_text_has_it(tmp_path):
    from support.hf_models import byte_level

    tokenizer = byte_level()
    tokenizer.add_special_tokens([f"<pad{i}>" for i in range(40)])
    reference = save(tmp_path)
    save_tokenizer(tmp_path, tokenizer, bos_token="<s>", pad_token="<pad39>")
    model = build(tmp_path)
    check_losses(model, reference, draw_windows())
    assert not model.warnings
    save_tokenizer(tmp_path, tokenizer, bos_token="<pad39>")
    with pytest.raises(EvaluationError, match="BOS of the tokenizer"):
        build(tmp_path)


def test_rows_that_pad_the_embedding_are_no_tokens(tmp_path):
    save(tmp_path)
    model = build(tmp_path)
    assert model.unused_ids[-1] == 319
    assert set(model.unused_ids).isdisjoint(model.encode("every effort moves you").ids)


# GGUF

gguf = pytest.importorskip("gguf", reason="needs the extra hf")


def save_gguf(folder, tensors=(), **metadata):
    """A Llama of random weights as GGUF, and the same as transformers' class."""
    from support.hf_models import byte_level

    folder.mkdir(exist_ok=True)
    reference = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZE, "num_key_value_heads": 4})).eval()
    torch.manual_seed(0)
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama")
    writer.add_name("t")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(320)
    for key, value in metadata.items():
        name = "llama." + key.replace("__", ".")
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(name, value)
    vocabulary = sorted(byte_level().get_vocab().items(), key=lambda pair: pair[1])
    words = [token for token, _ in vocabulary] + [f"<unused{i}>" for i in range(320 - len(vocabulary))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, *[1] * 318])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(byte_level().to_str())["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    names["lm_head.weight"] = "output.weight"
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    parts |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    parts |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for i in range(2):
        names |= {f"model.layers.{i}.{a}.weight": f"blk.{i}.{b}.weight" for a, b in parts.items()}
    for name, tensor in reference.state_dict().items():
        array = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:  # llama.cpp keeps the two halves of a head interleaved
            array = array.reshape(4, 2, 4, 32).swapaxes(1, 2).reshape(32, 32)
        writer.add_tensor(names[name], np.ascontiguousarray(array))
    for name, array in tensors:
        writer.add_tensor(name, np.asarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return reference


def test_a_plain_gguf_file_is_its_model(tmp_path):
    reference = save_gguf(tmp_path, rope__scaling__type="none", tensors=[("rope_freqs.weight", [1.0] * 4)])
    check_losses(build(tmp_path, gguf="m.gguf"), reference, draw_windows())


def test_linear_scaling_in_a_gguf_file_is_applied(tmp_path):
    reference = save_gguf(tmp_path, rope__scaling__type="linear", rope__scaling__factor=4.0)
    parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    config = transformers.LlamaConfig(**{**SIZE, "num_key_value_heads": 4}, rope_parameters=parameters)
    scaled = transformers.LlamaForCausalLM(config).eval()
    scaled.load_state_dict(reference.state_dict())
    model = build(tmp_path, gguf="m.gguf")
    check_losses(model, scaled, draw_windows())
    with pytest.raises(AssertionError):  # the scaling shows
        check_losses(model, reference, draw_windows())


@pytest.mark.parametrize(
    ("metadata", "tensors", "says"),
    [
        ({"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0}, [], "llama.rope.scaling.type = yarn"),
        ({"attention__sliding_window": 16}, [], "llama.attention.sliding_window = 16"),
        ({"logit_scale": 0.5}, [], "llama.logit_scale = 0.5"),
        ({"attention__of_next_year": 3}, [], "llama.attention.of_next_year = 3"),
        ({"rope__dimension_count_": 4}, [], "llama.rope.dimension_count_ = 4"),
        ({}, [("rope_freqs.weight", [1.0, 2.0, 4.0, 8.0])], "tensors rope_freqs.weight"),
        ({}, [("blk.0.attn_sinks.weight", [1.0] * 4)], "tensors blk.0.attn_sinks.weight"),
    ],
)
def test_what_transformers_drops_of_a_gguf_file_is_refused_by_name(tmp_path, metadata, tensors, says):
    save_gguf(tmp_path, tensors, **metadata)
    with pytest.raises(EvaluationError, match=says):
        build(tmp_path, gguf="m.gguf")


def check_keys(folder, architecture, **values):
    """Check a file of metadata alone, as llama.cpp's converter writes it, against transformers' configuration."""
    from evalgpt.adapters.huggingface.gguf import GGUF

    writer = gguf.GGUFWriter(folder / "keys.gguf", architecture)
    for key, value in values.items():
        add = {bool: writer.add_bool, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(f"{architecture}.{key.replace('__', '.')}", value)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    GGUF(folder / "keys.gguf").check_metadata(
        lambda: transformers.AutoConfig.from_pretrained(folder, gguf_file="keys.gguf")
    )


HEADS_256 = {"attention__head_count": 8, "attention__key_length": 256, "attention__value_length": 256}
QWEN3 = {"embedding_length": 1024, "attention__head_count": 16, "attention__head_count_kv": 8}
GEMMA2 = {"embedding_length": 2304, **HEADS_256, "attention__sliding_window": 4096, "attn_logit_softcapping": 50.0}
GEMMA3 = {"embedding_length": 1152, **HEADS_256, "attention__sliding_window": 512, "rope__freq_base": 1e6}
BLOOM = {"embedding_length": 64, "attention__head_count": 4}
STABLELM = {"embedding_length": 64, "attention__head_count": 4, "attention__head_count_kv": 4}


@pytest.mark.parametrize(
    ("architecture", "values"),
    [
        ("qwen3", {**QWEN3, "attention__key_length": 128, "attention__value_length": 128}),
        ("qwen3moe", {**QWEN3, "attention__value_length": 128, "attention__key_length": 128}),
        ("gemma2", {**GEMMA2, "final_logit_softcapping": 30.0}),
        ("gemma3", {**GEMMA3, "rope__freq_base_swa": 10000.0}),
        ("bloom", {**BLOOM, "context_length": 2048, "feed_forward_length": 256, "attention__head_count_kv": 4}),
        (
            "stablelm",
            {**STABLELM, "use_parallel_residual": True, "rope__freq_base": 10000.0},
        ),  # it has no tensor ffn_norm
    ],
)
def test_keys_that_repeat_what_transformers_takes_anyway_are_no_fault(tmp_path, architecture, values):
    check_keys(tmp_path, architecture, **values)


@pytest.mark.parametrize(
    ("architecture", "values", "says"),
    [
        ("qwen3", {**QWEN3, "attention__value_length": 96}, "value_length = 96"),
        ("gemma2", {**GEMMA2, "final_logit_softcapping": 20.0}, "final_logit_softcapping = 20"),
        ("gemma2", {**GEMMA2, "final_logit_softcapping": 0.0}, "final_logit_softcapping = 0"),
        ("gemma3", {**GEMMA3, "rope__freq_base_swa": 20000.0}, "freq_base_swa = 20000"),
        ("bloom", {**BLOOM, "feed_forward_length": 128}, "feed_forward_length = 128"),
        ("stablelm", {**STABLELM, "use_parallel_residual": False}, "use_parallel_residual = False"),
        ("stablelm", {**STABLELM, "rope__freq_base": 5e5}, "freq_base = 500000"),
    ],
)
def test_keys_that_differ_from_what_transformers_takes_are_refused(tmp_path, architecture, values, says):
    with pytest.raises(EvaluationError, match=says):
        check_keys(tmp_path, architecture, **values)
