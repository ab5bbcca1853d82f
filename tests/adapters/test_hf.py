"""``hf`` against transformers itself: small random checkpoints of many architectures, and their heads."""

import json
import logging
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from evalgpt import Detail, Document, Task, UsageError, evaluate
from evalgpt.adapters.kernels.tiled import Head, scores_from_logits

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

from support.hf_models import (  # noqa: E402
    ARCHITECTURES,
    SIZE,
    VOCABULARY,
    build,
    change_llama,
    check_losses,
    draw_windows,
    forbid,
    own_logits,
    save,
)

pytestmark = [pytest.mark.numeric, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_tiled_head_gives_the_losses_of_the_models_own_logits(name, tmp_path, monkeypatch):
    reference = save(tmp_path, *ARCHITECTURES[name])
    model = build(tmp_path)
    windows = draw_windows()
    check_losses(model, reference, windows)
    assert model.config["scoring"] == "tiled head"
    assert model.vocab_size == VOCABULARY
    monkeypatch.setattr(model, "logits", forbid)  # the check is over: the body alone runs now
    check_losses(model, reference, windows)
    detailed = model.score(windows, Detail(entropy=True, top=3))
    for window, scores in zip(windows, detailed, strict=True):
        targets = torch.tensor(window.ids[window.start :])
        expected = scores_from_logits(own_logits(reference, window), targets, Detail(entropy=True, top=3))
        torch.testing.assert_close(torch.from_numpy(scores.entropy).double(), expected.entropy, atol=2e-5, rtol=0)
        assert torch.equal(torch.from_numpy(scores.top_ids), expected.top_ids)


def test_cohere_scales_its_logits(tmp_path):
    save(tmp_path, *ARCHITECTURES["cohere"])
    assert build(tmp_path).head().scale == 0.3


def test_granite_divides_its_logits(tmp_path):
    save(tmp_path, *ARCHITECTURES["granite"])
    assert build(tmp_path).head().scale == 0.25


def test_gemma_caps_its_logits_softly(tmp_path):
    save(tmp_path, *ARCHITECTURES["gemma2"])
    assert build(tmp_path).head().softcap == 3.0


def test_phi_has_a_bias_in_its_head(tmp_path):
    save(tmp_path, *ARCHITECTURES["phi"])
    assert build(tmp_path).head().bias.shape == (VOCABULARY,)


@pytest.mark.parametrize("name", ["cohere", "granite", "gemma2", "phi"])
def test_a_head_that_left_something_out_would_be_found(name, tmp_path, monkeypatch):
    reference = save(tmp_path, *ARCHITECTURES[name])
    bare = lambda module, *_: Head(module.get_output_embeddings().weight)  # noqa: E731
    monkeypatch.setattr("evalgpt.adapters.huggingface.model._head", bare)
    model = build(tmp_path)
    check_losses(model, reference, draw_windows())
    assert model.config["scoring"].startswith("full logits: body and head differ from the model's own logits by ")


CHANGES = {
    "a ramp over the vocabulary": lambda logits: logits + torch.linspace(0, 1e-3, VOCABULARY),
    "a ramp over the positions": lambda logits: logits * (1 + 0.01 * torch.arange(logits.shape[1])[:, None]),
    "one token's bonus": lambda logits: logits + 1e-3 * (torch.arange(VOCABULARY) == 7),
    "a forbidden token": lambda logits: logits.masked_fill(torch.arange(VOCABULARY) == 7, -math.inf),
    "a token at the lowest number": lambda logits: logits.masked_fill(torch.arange(VOCABULARY) == 7, -3.4e38),
    "an axis": lambda logits: logits.roll(1, 2),
}
"""What a model may do to its logits that no configuration shows."""


@pytest.mark.parametrize("change", CHANGES)
def test_a_head_that_no_configuration_shows_runs_on_full_logits(change, tmp_path, monkeypatch):
    change_llama(monkeypatch, CHANGES[change])
    reference = save(tmp_path)
    model = build(tmp_path)
    check_losses(model, reference, draw_windows(forbidden=[7]))
    assert model.config["scoring"].startswith("full logits: body and head differ from the model's own logits by ")


def test_a_body_that_does_not_run_alone_runs_on_full_logits(tmp_path, monkeypatch):
    body = transformers.LlamaModel.forward

    def alone(self, *args, position_ids=None, **kwargs):
        if position_ids is None:
            raise ValueError("give position_ids")
        return body(self, *args, position_ids=position_ids, **kwargs)

    whole = transformers.LlamaForCausalLM.forward

    def together(self, input_ids, **kwargs):
        return whole(self, input_ids, position_ids=torch.arange(input_ids.shape[1])[None] + 3, **kwargs)

    monkeypatch.setattr(transformers.LlamaModel, "forward", alone)
    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", together)
    reference = save(tmp_path)
    model = build(tmp_path)
    check_losses(model, reference, draw_windows())
    assert model.config["scoring"] == "full logits: the body alone does not run (ValueError)"


def test_a_model_that_hides_its_output_matrix_runs_on_full_logits(tmp_path, monkeypatch):
    reference = save(tmp_path)
    monkeypatch.setattr(transformers.LlamaForCausalLM, "get_output_embeddings", lambda self: None)
    model = build(tmp_path)
    check_losses(model, reference, draw_windows())
    assert model.vocab_size == VOCABULARY
    assert model.config["scoring"] == "full logits: the model does not show its output matrix"


def test_full_logits_on_request(tmp_path, monkeypatch):
    reference = save(tmp_path)
    model = build(tmp_path, tiled="false")
    monkeypatch.setattr(model, "hidden", forbid)
    check_losses(model, reference, draw_windows())
    assert model.config["scoring"] == "full logits: asked for with tiled=false"


def test_divergence_is_of_the_models_own_logits(tmp_path, monkeypatch):
    change_llama(monkeypatch, CHANGES["a ramp over the positions"])
    p, q = save(tmp_path / "p", *ARCHITECTURES["gpt2"]), save(tmp_path / "q")
    models = build(tmp_path / "p"), build(tmp_path / "q")  # neither has scored anything
    windows = draw_windows()
    for window, (kl, _) in zip(windows, models[0].divergence(models[1], windows), strict=True):
        log_p, log_q = (own_logits(reference, window).log_softmax(1) for reference in (p, q))
        expected = (log_p.exp() * (log_p - log_q)).sum(1)
        torch.testing.assert_close(torch.from_numpy(kl), expected, atol=1e-5, rtol=0)
    assert models[0].config["scoring"] == "tiled head"
    assert models[1].config["scoring"].startswith("full logits: body and head differ")


def test_transformers_says_nothing(tmp_path, capfd):
    """Mamba warns of its slow kernels, an unused weight is reported in a table, and bars run along."""
    save(tmp_path, *ARCHITECTURES["mamba"])
    state = load_file(tmp_path / "model.safetensors")
    save_file({**state, "extra": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    said = []
    handler = logging.Handler()
    handler.emit = said.append
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    type(logger).warning_once.cache_clear()
    capfd.readouterr()
    try:
        model = build(tmp_path)
        model.score(draw_windows())
    finally:
        logger.removeHandler(handler)
    assert model.config["unused_weights"] == "extra"
    assert [record.getMessage() for record in said] == []
    assert capfd.readouterr().err == ""


class Text(Task):
    name = "text"

    def __init__(self, text):
        self.text = text

    def documents(self):
        yield Document("a", self.text)


def test_the_report_says_what_was_run_and_how(tmp_path):
    save(tmp_path, *ARCHITECTURES["gemma2"])
    info = evaluate(build(tmp_path), Text("every effort moves you")).model
    assert (info.config["architecture"], info.config["scoring"]) == ("Gemma2ForCausalLM", "tiled head")
    assert (info.config["prefix"], info.prefix) == ("BOS", "<s>")
    assert info.config["final_logit_softcapping"] == 3.0
    assert "unused_weights" not in info.config


def test_weights_that_the_model_does_not_use_are_told(tmp_path):
    save(tmp_path, "Llama", {**SIZE, "attention_bias": True})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "attention_bias": False}))
    unused = build(tmp_path).config["unused_weights"]
    assert unused.startswith("model.layers.0.self_attn.k_proj.bias, ")
    assert unused.endswith(" and 4 more")


def test_the_fingerprint_is_of_weights_and_configuration(tmp_path):
    save(tmp_path, *ARCHITECTURES["granite"])
    before = build(tmp_path).fingerprint
    assert build(tmp_path).fingerprint == before
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "logits_scaling": 5.0}))
    assert build(tmp_path).fingerprint != before
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = load_file(tmp_path / "model.safetensors")
    state["model.norm.weight"][0] += 1
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert build(tmp_path).fingerprint != before


def test_bfloat16_stays_near(tmp_path):
    reference = save(tmp_path, *ARCHITECTURES["phi"])
    model = build(tmp_path, dtype="bfloat16")
    assert (model.dtype, model.module.dtype) == ("bfloat16", torch.bfloat16)
    check_losses(model, reference, draw_windows(), atol=0.1)
    assert model.config["scoring"] == "tiled head"


def test_dtype_is_float32_unless_the_checkpoints_own_is_asked_for(tmp_path):
    reference = save(tmp_path, *ARCHITECTURES["gpt2"], dtype=torch.bfloat16).float()
    assert build(tmp_path, dtype="auto").dtype == "bfloat16"
    model = build(tmp_path)
    assert model.dtype == "float32"
    check_losses(model, reference, draw_windows())


def test_the_context_length_is_the_models_or_shorter(tmp_path):
    save(tmp_path)
    assert build(tmp_path).context_length == 64
    assert build(tmp_path, context_length=16).context_length == 16
    with pytest.raises(UsageError, match="context_length 0 is out of range; accepted: 1 to 64"):
        build(tmp_path, context_length=0)


def test_a_table_of_positions_is_not_exceeded(tmp_path):
    save(tmp_path, *ARCHITECTURES["gpt2"])
    with pytest.raises(UsageError, match="context_length 65 is out of range; accepted: 1 to 64"):
        build(tmp_path, context_length=65)


@pytest.mark.parametrize("name", ["bloom", "mamba"])
def test_a_model_without_a_limit_gets_2048(name, tmp_path):
    save(tmp_path, *ARCHITECTURES[name])
    assert build(tmp_path).context_length == 2048
    assert build(tmp_path, context_length=5000).context_length == 5000


def test_a_replaced_activation_is_in_the_report(tmp_path):
    save(tmp_path, *ARCHITECTURES["gpt2"])
    model = build(tmp_path)
    replaced = model.config["replaced_activations"]
    assert (replaced["module"], replaced["modules"]) == ("NewGELUActivation", model.config["n_layer"])
    assert not any(type(m).__name__ == "NewGELUActivation" for m in model.module.modules())
    (tmp_path / "llama").mkdir()
    save(tmp_path / "llama", *ARCHITECTURES["llama"])
    assert "replaced_activations" not in build(tmp_path / "llama").config
