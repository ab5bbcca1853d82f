"""Products by oneDNN: the same numbers as torch's, in whatever way a model asks for them."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn import functional as F

from evalgpt import UsageError, Window
from evalgpt.adapters import products
from evalgpt.adapters.products import FEWEST, PIECE, SMALLEST, inference, kind
from evalgpt.adapters.tiled import Head, tiled_scores
from evalgpt.cli import cli
from evalgpt.plugins import load_plugins

pytestmark = pytest.mark.skipif(products._onednn() is None, reason="needs a build of torch with oneDNN")

ROWS, INNER, OUTER = 160, 96, 160
assert ROWS * INNER * OUTER >= SMALLEST


@pytest.fixture(autouse=True)
def onednn(monkeypatch):
    monkeypatch.setenv(products.SETTING, "onednn")


@pytest.fixture
def calls(monkeypatch):
    """The shapes [.., k] x [n, k] that oneDNN multiplied."""
    found = []
    multiply = products._multiply

    def counted(x, weight, bias=None):
        found.append((*x.shape, len(weight)))
        return multiply(x, weight, bias)

    monkeypatch.setattr(products, "_multiply", counted)
    return found


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, ROWS // 2, INNER), (OUTER, INNER), (OUTER,))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def near(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 1e-6 * INNER


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("strided", [True, False])
def test_linear_is_the_product_of_float64(calls, bias, transposed, strided):
    x, weight, b = tensors()
    if transposed:
        weight = weight.T.contiguous().T
    if strided:
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    b = b if bias else None
    expected = F.linear(x.double(), weight.double(), None if b is None else b.double())
    with products.products():
        near(F.linear(x, weight, b), expected)
    assert calls == [(*x.shape, OUTER)]


@pytest.mark.parametrize("strides", ["rows", "columns", "neither"])
def test_long_sums_are_made_of_pieces(strides):
    generator = torch.Generator().manual_seed(3)
    x, weight = (torch.randn(rows, 3 * PIECE - 1, generator=generator, dtype=torch.float64) for rows in (100, 90))
    of_float64 = x @ weight.T
    x, weight = x.float(), weight.float()
    if strides == "columns":
        weight = weight.T.contiguous().T
    elif strides == "neither":
        weight = torch.stack([weight, weight], 2)[:, :, 0]
    with products.products():
        found = F.linear(x, weight)
    whole = products._onednn().default(x, weight.contiguous(), None, "none", [], "")
    assert (found - of_float64).abs().mean() < 0.8 * (whole - of_float64).abs().mean()


def test_layers_of_a_model_are_taken(calls):
    x, weight, b = tensors()
    layer = nn.Linear(INNER, OUTER)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(b)
    flat = x.flatten(0, 1)
    expected = layer.double()(x.double()).detach()
    layer.float()
    with inference():
        near(layer(x), expected)
        near(torch.addmm(b, flat, weight.T.contiguous()), expected.flatten(0, 1))
    assert len(calls) == 2


def test_what_does_not_suit_is_left_to_torch(calls):
    x, weight, b = tensors()
    flat = x.flatten(0, 1)
    cases = [
        (flat.double(), weight.double(), b.double()),
        (flat.bfloat16(), weight.bfloat16(), b.bfloat16()),
        (flat[:20], weight, b),  # little to multiply
        (flat[: FEWEST - 1], torch.randn(SMALLEST // INNER, INNER), None),  # few rows
        (flat[:0], weight, b),
        (flat, weight, b[:1]),
        (flat[0], torch.randn(SMALLEST // INNER, INNER), None),
    ]
    plain = [F.linear(*given) for given in cases]
    with inference():
        for given, expected in zip(cases, plain, strict=True):
            assert torch.equal(F.linear(*given), expected)
        near(torch.addmm(flat @ weight.T, flat, weight.T), 2 * F.linear(flat.double(), weight.double()))
        near(torch.addmm(b, flat, weight.T, beta=0), F.linear(flat.double(), weight.double()))
        with pytest.raises(RuntimeError, match="shapes"):
            F.linear(flat, weight[:, 1:])
    assert calls == []


@pytest.mark.parametrize("transposed", [True, False])
def test_gradients_are_those_of_float64(calls, transposed):
    def gradients(dtype):
        x, weight, b = (t.requires_grad_() for t in tensors(dtype))
        with products.products():
            out = torch.addmm(b, x.flatten(0, 1), weight.T) if transposed else F.linear(x, weight, b)
        (out.flatten(0, -2) * torch.linspace(-1, 1, ROWS, dtype=dtype)[:, None]).sum().backward()
        return x.grad, weight.grad, b.grad

    for found, expected in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        assert (found - expected).abs().max() < 1e-6 * ROWS
    assert len(calls) == 3


def test_scores_of_both_are_within_rounding_of_float64(calls, monkeypatch):
    generator = torch.Generator().manual_seed(2)
    hidden, weight = (torch.randn(n, 64, generator=generator) * size for n, size in ((300, 1), (2500, 0.2)))
    targets = torch.randint(2500, (300,), generator=generator)
    expected = F.cross_entropy(hidden.double() @ weight.double().T, targets, reduction="none")
    for way in ("onednn", "torch"):
        monkeypatch.setenv(products.SETTING, way)
        with inference():
            found = tiled_scores(hidden, Head(weight), targets).nll
        assert (found - expected).abs().max() < 1e-5
    assert calls == [(300, 64, 1024)] * 2 + [(300, 64, 452)]


def test_a_model_scores_alike_and_says_with_what(calls, monkeypatch):
    spec = "scratch:n_layers=2,emb_dim=96,n_heads=4,vocab_size=3000,context_length=128"
    windows = [Window(tuple(range(start, start + 129)), 1) for start in (0, 500)]
    scores, facts, names = [], [], []
    for way in ("torch", "onednn"):
        monkeypatch.setenv(products.SETTING, way)
        model = load_plugins().model(spec, device="cpu")
        scores.append(torch.tensor([s.nll.tolist() for s in model.score(windows)]))
        facts.append(model.runtime["products"])
        names.append(model.cache_id)
        if way == "torch":
            assert calls == []
    assert calls
    assert (scores[0] - scores[1]).abs().max() < 1e-5
    assert facts == ["torch", "onednn"]
    assert names[0] != names[1]  # the cache keeps them apart


def test_the_environment_chooses_and_is_checked(monkeypatch):
    assert kind() == "onednn"
    monkeypatch.setenv(products.SETTING, "torch")
    assert kind() == "torch"
    monkeypatch.setenv(products.SETTING, "mkl")
    with pytest.raises(UsageError, match="EVALGPT_PRODUCTS must be torch or onednn, not 'mkl'"):
        kind()
    result = CliRunner().invoke(cli, ["run", "-m", "scratch:n_layers=1,emb_dim=16,n_heads=1", "-t", "pairs"])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "EVALGPT_PRODUCTS" in result.output


@pytest.mark.parametrize(
    ("maker", "width", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\n", "AVX512", "onednn"),
        ("vendor_id\t: AuthenticAMD\n", "AVX2", "torch"),
        ("vendor_id\t: GenuineIntel\n", "AVX512", "torch"),
    ],
)
def test_by_default_the_processor_chooses(monkeypatch, maker, width, expected):
    monkeypatch.delenv(products.SETTING)
    monkeypatch.setattr(products, "_maker", lambda: maker)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: width)
    products._wider_than_mkl.cache_clear()
    try:
        assert kind() == expected
    finally:
        products._wider_than_mkl.cache_clear()


def test_without_onednn_torch_multiplies(monkeypatch):
    monkeypatch.setattr(products, "_onednn", lambda: None)
    assert kind() == "torch"
    x, weight, b = tensors()
    expected = F.linear(x, weight, b)
    with products.products():
        assert torch.equal(F.linear(x, weight, b), expected)


def test_the_report_names_it(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    args = ["run", "-m", "scratch:n_layers=1,emb_dim=16,n_heads=1", "-t", "pairs", "-o", str(path), "--no-cache"]
    assert CliRunner().invoke(cli, args).exit_code == 0
    assert json.loads(path.read_text())["evaluations"][0]["model"]["runtime"]["products"] == "onednn"
