"""Products by oneDNN: the same numbers as torch's, in whatever way a model asks for them."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn import functional as F

from evalgpt import UsageError, Window
from evalgpt.adapters import products
from evalgpt.adapters.base import TorchModel
from evalgpt.adapters.products import FEWEST, LOGIT_PIECE, MANY, PIECE, SMALLEST, inference, kind
from evalgpt.adapters.tiled import Head, tiled_scores
from evalgpt.cli import cli
from evalgpt.plugins import load_plugins

pytestmark = pytest.mark.skipif(products._onednn() is None, reason="needs a build of torch with oneDNN")

ROWS, INNER, OUTER = 160, 96, 704
assert INNER * OUTER >= SMALLEST


CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def choose(monkeypatch):
    """Chooses who multiplies: oneDNN, unless the test asks for another."""

    def chosen(way):
        kind.cache_clear()
        monkeypatch.setenv(products.SETTING, way) if way else monkeypatch.delenv(products.SETTING)

    chosen("onednn")
    yield chosen
    kind.cache_clear()


@pytest.fixture
def calls(monkeypatch):
    """The shapes [.., k] x [n, k] that oneDNN multiplied."""
    found = []
    summed = products._summed

    def counted(xs, weight, bias):
        xs = list(xs)
        found.append((*xs[0].shape[:-1], *weight.T.shape))
        return summed(xs, weight, bias)

    monkeypatch.setattr(products, "_summed", counted)
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
    with products.products(CPU):
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
    with products.products(CPU):
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
    with inference(CPU):
        near(layer(x), expected)
        near(torch.addmm(b, flat, weight.T.contiguous()), expected.flatten(0, 1))
    assert len(calls) == 2


def test_what_does_not_suit_is_left_to_torch(calls):
    x, weight, b = tensors()
    flat = x.flatten(0, 1)
    long = torch.randn(MANY - 1, PIECE + 1)
    cases = [
        (flat.double(), weight.double(), b.double()),
        (flat.bfloat16(), weight.bfloat16(), b.bfloat16()),
        (flat, weight[:600], b[:600]),  # a small weight
        (flat[: FEWEST - 1], torch.randn(OUTER, INNER), None),  # few rows
        (long, torch.randn(100, PIECE + 1), None),  # few rows for pieces of the weights
        (flat[:0], weight, b),
        (flat, weight, b[:1]),
        (flat[0], torch.randn(OUTER, INNER), None),
        (flat, weight.to_sparse_coo(), None),
    ]
    plain = [F.linear(*given) for given in cases]
    sums = flat @ weight.T
    with torch.no_grad(), products.products(CPU):  # inference mode knows no sparse tensors
        for given, expected in zip(cases, plain, strict=True):
            assert torch.equal(F.linear(*given), expected)
        near(torch.addmm(sums, flat, weight.T), 2 * F.linear(flat.double(), weight.double()))
        near(torch.addmm(b, flat, weight.T, beta=0), F.linear(flat.double(), weight.double()))
        near(torch.addmm(b, flat.to_sparse_coo(), weight.T), F.linear(flat.double(), weight.double(), b.double()))
        with pytest.raises(RuntimeError, match="shapes"):
            F.linear(flat, weight[:, 1:])
        with pytest.raises(RuntimeError, match="matri"):
            torch.addmm(b, x, weight.T)
        with torch.autocast("cpu", torch.bfloat16):
            assert F.linear(flat, weight).dtype == torch.bfloat16
    assert calls == []


@pytest.mark.parametrize("rows", [ROWS, FEWEST])
def test_gelu_and_product_are_one(calls, rows):
    x, weight, b = tensors()
    x = x.flatten(0, 1)[:rows]
    expected = F.gelu(F.linear(x.double(), weight.double(), b.double()), approximate="tanh")
    near(products.gelu_linear(x, weight, b), expected)
    with products.products(CPU):
        near(products.gelu_linear(x, weight, b), expected)
        long = torch.randn(ROWS, PIECE + 1), torch.randn(100, PIECE + 1) / 30, torch.randn(100)
        near(
            products.gelu_linear(*long),
            F.gelu(F.linear(*(t.double() for t in long)), approximate="tanh"),
        )
    assert calls == [(ROWS, PIECE + 1, 100)]


def test_gelu_has_gradients():
    def gradients(dtype):
        given = [t.requires_grad_() for t in tensors(dtype)]
        with products.products(CPU):
            (
                products.gelu_linear(*given).flatten(0, -2) * torch.linspace(-1, 1, ROWS, dtype=dtype)[:, None]
            ).sum().backward()
        return [t.grad for t in given]

    for found, expected in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        assert (found - expected).abs().max() < 1e-6 * ROWS


def test_a_bias_may_be_a_view():
    x, weight, _ = tensors()
    wide = torch.linspace(-1, 1, 2 * OUTER).view(OUTER, 2)
    for b in (wide[:, 0], wide[3, :1].expand(OUTER)):
        with products.products(CPU):
            found = F.linear(x, weight, b), torch.addmm(b, x.flatten(0, 1), weight.T)
        for one in found:
            near(one.view(2, -1, OUTER), F.linear(x.double(), weight.double(), b.double()))


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize(
    "wanted", [(True, True, True), (True, False, False), (False, True, False), (False, False, True)]
)
def test_gradients_are_those_of_float64(calls, transposed, wanted):
    def gradients(dtype):
        given = [t.requires_grad_(needed) for t, needed in zip(tensors(dtype), wanted, strict=True)]
        x, weight, b = given
        with products.products(CPU):
            out = torch.addmm(b, x.flatten(0, 1), weight.T) if transposed else F.linear(x, weight, b)
        (out.flatten(0, -2) * torch.linspace(-1, 1, ROWS, dtype=dtype)[:, None]).sum().backward()
        return [t.grad for t in given]

    for found, expected, needed in zip(gradients(torch.float32), gradients(torch.float64), wanted, strict=True):
        assert (found is not None) is (expected is not None) is needed
        assert found is None or (found - expected).abs().max() < 1e-6 * ROWS
    assert len(calls) == 1 + wanted[0] + wanted[1]


def test_scores_of_both_are_within_rounding_of_float64(calls, choose):
    generator = torch.Generator().manual_seed(2)
    hidden, weight = (torch.randn(n, 160, generator=generator) * size for n, size in ((300, 1), (2500, 0.1)))
    targets = torch.randint(2500, (300,), generator=generator)
    expected = F.cross_entropy(hidden.double() @ weight.double().T, targets, reduction="none")
    for way in ("onednn", "torch"):
        choose(way)
        with inference(CPU):
            found = tiled_scores(hidden, Head(weight), targets).nll
        assert (found - expected).abs().max() < 1e-5
    assert calls == [(300, 160, 512)] * 4 + [(300, 160, 452)]


def test_logits_round_no_more_than_torchs():
    generator = torch.Generator().manual_seed(4)
    hidden, weight = (torch.randn(n, 4 * LOGIT_PIECE, generator=generator) for n in (200, 512))
    hidden[:, 3] *= 40  # a state that outweighs the others, as real models have them
    exact = hidden.double() @ weight.double().T
    out = torch.empty(200, 512)
    with products.products(CPU):
        found = products.against(hidden)(weight, out)
    of_torch = products.against(hidden)(weight, out)
    assert of_torch.data_ptr() == out.data_ptr()
    assert (found - exact).abs().mean() < 1.05 * (of_torch - exact).abs().mean()


def test_a_model_scores_alike_and_says_with_what(calls, choose):
    spec = "scratch:n_layers=2,emb_dim=192,n_heads=4,vocab_size=3000,context_length=128"
    windows = [Window(tuple(range(start, start + 129)), 1) for start in (0, 500)]
    scores, facts, names = [], [], []
    for way in ("torch", "onednn"):
        choose(way)
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


def test_the_environment_chooses_once_and_is_checked(choose, monkeypatch):
    assert kind() == "onednn"
    choose("torch")
    assert kind() == "torch"
    monkeypatch.setenv(products.SETTING, "onednn")  # what a report says of a model that was built stays true
    assert kind() == "torch"
    choose("mkl")
    with pytest.raises(UsageError, match="EVALGPT_PRODUCTS must be torch or onednn, not 'mkl'"):
        kind()
    result = CliRunner().invoke(cli, ["run", "-m", "scratch:n_layers=1,emb_dim=16,n_heads=1", "-t", "pairs"])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "EVALGPT_PRODUCTS" in result.output


@pytest.mark.parametrize(
    ("maker", "width", "mkl", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\n", "AVX512", True, "onednn"),
        ("vendor_id\t: AuthenticAMD\n", "AVX2", True, "torch"),
        ("vendor_id\t: AuthenticAMD\n", "AVX512", False, "torch"),
        ("vendor_id\t: GenuineIntel\n", "AVX512", True, "torch"),
    ],
)
def test_by_default_the_processor_chooses(choose, monkeypatch, maker, width, mkl, expected):
    monkeypatch.setattr(products, "_maker", lambda: maker)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: width)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    choose(None)
    assert kind() == expected


def test_without_onednn_torch_multiplies(choose, monkeypatch):
    monkeypatch.setattr(products, "_onednn", lambda: None)
    with pytest.raises(UsageError, match="asks for onednn, and this build of torch has none"):
        choose("onednn") or kind()
    choose(None)
    assert kind() == "torch"
    x, weight, b = tensors()
    expected = F.linear(x, weight, b)
    with products.products(CPU):
        assert torch.equal(F.linear(x, weight, b), expected)


def test_the_report_names_it(tmp_path):
    path = tmp_path / "report.json"
    args = ["run", "-m", "scratch:n_layers=1,emb_dim=16,n_heads=1", "-t", "pairs", "-o", str(path), "--no-cache"]
    assert CliRunner().invoke(cli, args).exit_code == 0
    assert json.loads(path.read_text())["evaluations"][0]["model"]["runtime"]["products"] == "onednn"


def test_a_model_of_ones_own_says_it_too():
    class Mine(TorchModel):
        encode = decode = None

    assert Mine().runtime["products"] == "onednn"
