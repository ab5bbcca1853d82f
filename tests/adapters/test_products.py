"""Matrix products by oneDNN: the numbers of float64 within float32's rounding, for the adapters that ask for them.

Every bound is derived from the length and the magnitude of the sums, so that it holds on any processor. oneDNN is
forced where the build of torch has it; what holds for one processor's kernels alone is asserted there alone.
"""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.models import BytesModel
from torch import nn
from torch.nn import functional as F

from evalgpt import UsageError, Window
from evalgpt.adapters.base import TorchModel
from evalgpt.adapters.kernels import products
from evalgpt.adapters.kernels.products import (
    CHUNK,
    LOGIT_CHUNK,
    MIN_ROWS,
    MIN_ROWS_FOR_CHUNKS,
    MIN_WEIGHT_SIZE,
    inference,
    matmul_backend,
    onednn_matmul,
)
from evalgpt.adapters.kernels.tiled import Head, tiled_scores
from evalgpt.cli import cli
from evalgpt.core import Optimisation
from evalgpt.core.plugins import load_plugins

pytestmark = pytest.mark.numeric

ROWS, INNER, OUTER = 160, 96, 704
assert INNER * OUTER >= MIN_WEIGHT_SIZE

CPU = torch.device("cpu")
U = torch.finfo(torch.float32).eps / 2
"""The largest relative error of one rounding to float32."""


@pytest.fixture(autouse=True)
def choose(monkeypatch):
    """Chooses the backend by the environment; by the processor where the test does not ask."""

    def chosen(backend):
        matmul_backend.cache_clear()
        if backend is None:
            monkeypatch.delenv(products.SETTING, raising=False)
        else:
            monkeypatch.setenv(products.SETTING, backend)

    chosen(None)
    yield chosen
    matmul_backend.cache_clear()


@pytest.fixture
def onednn(choose):
    """Makes oneDNN the backend, whatever the processor."""
    if products._onednn_linear() is None:
        pytest.skip("needs a build of torch with oneDNN")
    choose("onednn")


@pytest.fixture
def calls(onednn, monkeypatch):
    """The shapes [.., k] x [n, k] that oneDNN multiplied, each with the longest of its chunks."""
    shapes = []
    original = products._matmul_chunks

    def counted(chunks, weight, bias):
        chunks = list(chunks)
        shapes.append(((*chunks[0].shape[:-1], *weight.T.shape), max(chunk.shape[-1] for chunk in chunks)))
        return original(chunks, weight, bias)

    monkeypatch.setattr(products, "_matmul_chunks", counted)
    return shapes


def tensors():
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, ROWS // 2, INNER), (OUTER, INNER), (OUTER,))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def exact(x, weight, bias=None):
    """x @ weight.T + bias in float64, and the largest error of sums in float32, in whatever order they are added."""
    x, weight = x.detach().double(), weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.detach().double()
    terms = weight.shape[1] + 1
    bound = terms * U / (1 - terms * U) * F.linear(x.abs(), weight.abs(), bias.abs())
    return F.linear(x, weight, bias), bound


def assert_product(result, x, weight, bias=None):
    value, bound = exact(x, weight, bias)
    assert result.dtype == torch.float32
    assert result.shape == value.shape
    assert ((result - value).abs() <= bound).all()


def chain_error(x, weight, length):
    """The root mean square of the rounding errors of x @ weight.T in float32 if each sum adds up to ``length`` products
    one after another, and then those sums.

    An addition that gives s is off by at most U * |s|, evenly spread, so with a variance of at most (U s)^2 / 3; so is
    a product, where it is rounded at all. That is a bound for kernels which add in several chains, which round less.
    Over numbers of all sizes the spread is nearer to 0.54 of it, which leaves a quarter of the root for chance.
    """
    terms = x.double()[:, None] * weight.double()
    chunks = terms.chunk(-(-terms.shape[-1] // length), -1)
    squares = terms.square().sum(-1) + sum(chunk.cumsum(-1).square().sum(-1) for chunk in chunks)
    joined = torch.stack([chunk.sum(-1) for chunk in chunks], -1).cumsum(-1)
    return U * float(((squares + joined[..., 1:].square().sum(-1)) / 3).mean().sqrt())


def root_mean_square(error):
    return float(error.square().mean().sqrt())


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
    with onednn_matmul(CPU):
        result = F.linear(x, weight, b)
    assert_product(result, x, weight, b)
    assert calls == [((*x.shape, OUTER), INNER)]


@pytest.mark.parametrize("strides", ["rows", "columns", "neither"])
def test_long_sums_are_cut_into_chunks(calls, strides):
    generator = torch.Generator().manual_seed(3)
    x, weight = (torch.randn(rows, 3 * CHUNK - 1, generator=generator) for rows in (MIN_ROWS_FOR_CHUNKS, 29))
    if strides == "columns":
        weight = weight.T.contiguous().T
    elif strides == "neither":
        weight = torch.stack([weight, weight], 2)[:, :, 0]
    with onednn_matmul(CPU):
        result = F.linear(x, weight)
    assert calls == [((MIN_ROWS_FOR_CHUNKS, 3 * CHUNK - 1, 29), CHUNK)]
    assert root_mean_square(result - exact(x, weight)[0]) < chain_error(x, weight, CHUNK)


def test_layers_of_a_model_are_taken(calls):
    x, weight, b = tensors()
    layer = nn.Linear(INNER, OUTER)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(b)
    flat = x.flatten(0, 1)
    with inference(CPU):
        assert_product(layer(x), x, weight, b)
        assert_product(torch.addmm(b, flat, weight.T.contiguous()), flat, weight, b)
    assert len(calls) == 2


def test_what_does_not_suit_is_left_to_torch(calls):
    x, weight, b = tensors()
    flat = x.flatten(0, 1)
    long = torch.randn(MIN_ROWS_FOR_CHUNKS - 1, CHUNK + 1)
    cases = [
        (flat.double(), weight.double(), b.double()),
        (flat.bfloat16(), weight.bfloat16(), b.bfloat16()),
        (flat, weight[:600], b[:600]),  # a small weight
        (flat[: MIN_ROWS - 1], torch.randn(OUTER, INNER), None),  # few rows
        (long, torch.randn(100, CHUNK + 1), None),  # few rows for pieces of the weights
        (flat[:0], weight, b),
        (flat, weight, b[:1]),
        (flat[0], torch.randn(OUTER, INNER), None),
        (flat, weight.to_sparse_coo(), None),
    ]
    plain = [F.linear(*given) for given in cases]
    value, bound = exact(flat, weight)
    sums = flat @ weight.T
    with torch.no_grad(), onednn_matmul(CPU):  # inference mode knows no sparse tensors
        for given, expected in zip(cases, plain, strict=True):
            assert torch.equal(F.linear(*given), expected)
        assert ((torch.addmm(sums, flat, weight.T) - 2 * value).abs() <= 2 * bound + 2 * U * value.abs()).all()
        assert_product(torch.addmm(b, flat, weight.T, beta=0), flat, weight)
        assert_product(torch.addmm(b, flat.to_sparse_coo(), weight.T), flat, weight, b)
        with pytest.raises(RuntimeError, match="shapes"):
            F.linear(flat, weight[:, 1:])
        with pytest.raises(RuntimeError, match="matri"):
            torch.addmm(b, x, weight.T)
        with torch.autocast("cpu", torch.bfloat16):
            assert F.linear(flat, weight).dtype == torch.bfloat16
    assert calls == []


def test_a_bias_may_be_a_view(onednn):
    x, weight, _ = tensors()
    wide = torch.linspace(-1, 1, 2 * OUTER).view(OUTER, 2)
    for b in (wide[:, 0], wide[3, :1].expand(OUTER)):
        with onednn_matmul(CPU):
            assert_product(F.linear(x, weight, b), x, weight, b)
            assert_product(torch.addmm(b, x.flatten(0, 1), weight.T), x.flatten(0, 1), weight, b)


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize(
    "wanted", [(True, True, True), (True, False, False), (False, True, False), (False, False, True)]
)
def test_gradients_are_those_of_float64(calls, transposed, wanted):
    x, weight, b = (t.requires_grad_(needed) for t, needed in zip(tensors(), wanted, strict=True))
    flat = x.flatten(0, 1)
    with onednn_matmul(CPU):
        out = torch.addmm(b, flat, weight.T) if transposed else F.linear(x, weight, b)
    upstream = torch.linspace(-1, 1, ROWS)[:, None].expand(ROWS, OUTER)
    out.flatten(0, -2).backward(upstream)
    assert [t.grad is not None for t in (x, weight, b)] == list(wanted)
    if wanted[0]:
        assert_product(x.grad.flatten(0, 1), upstream, weight.T)
    if wanted[1]:
        assert_product(weight.grad, upstream.T, flat.T)
    if wanted[2]:
        assert_product(b.grad[:, None], upstream.T, torch.ones(1, ROWS))
    assert len(calls) == 1 + wanted[0] + wanted[1]


def test_scores_of_both_are_within_rounding_of_float64(calls, choose):
    generator = torch.Generator().manual_seed(2)
    hidden, weight = (torch.randn(n, 160, generator=generator) * size for n, size in ((300, 1), (2500, 0.1)))
    targets = torch.randint(2500, (300,), generator=generator)
    expected = F.cross_entropy(hidden.double() @ weight.double().T, targets, reduction="none")
    for backend in ("onednn", "torch"):
        choose(backend)
        with inference(CPU):
            nll = tiled_scores(hidden, Head(weight), targets).nll
        assert (nll - expected).abs().max() < 1e-5
    assert calls == [((300, 160, 512), 160)] * 4 + [((300, 160, 452), 160)]


def test_a_walk_over_the_vocabulary_goes_through_the_mode_once(onednn, monkeypatch):
    """Each torch function inside the mode costs as much as a small tile, so more tiles must not mean more of them."""
    counted = []
    function = products._OneDNNMatmul.__torch_function__

    def count(self, func, types, args=(), kwargs=None):
        counted.append(func)
        return function(self, func, types, args, kwargs)

    monkeypatch.setattr(products._OneDNNMatmul, "__torch_function__", count)
    found = []
    for vocabulary in (600, 6000):
        hidden, weight = torch.ones(4, 8), torch.ones(vocabulary, 8)
        with inference(CPU):
            tiled_scores(hidden, Head(weight), torch.arange(4))
        found.append(list(counted))
        counted.clear()
    assert products.tile_matmul in found[0]
    assert found[0] == found[1]


def logits_of_both():
    """States, a tile of the unembedding, and their products by oneDNN and by torch."""
    generator = torch.Generator().manual_seed(4)
    hidden, weight = (torch.randn(n, 4 * LOGIT_CHUNK, generator=generator) for n in (64, 96))
    hidden[:, 3] *= 40  # a state that outweighs the others, as real models have them
    out = torch.empty(64, 96)
    with onednn_matmul(CPU):
        by_onednn = products.tile_matmul(hidden)(weight, out)
    by_torch = products.tile_matmul(hidden)(weight, out)
    assert by_torch.data_ptr() == out.data_ptr()
    return hidden, weight, by_onednn, by_torch


def test_logits_round_as_sums_of_short_chunks(calls):
    hidden, weight, by_onednn, _ = logits_of_both()
    assert calls == [((64, 4 * LOGIT_CHUNK, 96), LOGIT_CHUNK)]
    error = root_mean_square(by_onednn - exact(hidden, weight)[0])
    assert error < chain_error(hidden, weight, LOGIT_CHUNK)


def test_where_onednn_is_the_default_logits_round_no_more_than_mkls(choose):
    if matmul_backend() != "onednn":
        pytest.skip("holds against the kernels that MKL chooses on AMD's processors with AVX-512")
    choose("onednn")
    hidden, weight, by_onednn, by_torch = logits_of_both()
    value, _ = exact(hidden, weight)
    # Both add 192 products at a time. The roots of two means over 6144 errors differ by 2 % at most by chance.
    assert root_mean_square(by_onednn - value) < 1.02 * root_mean_square(by_torch - value)


def test_a_model_scores_alike_and_says_with_what(calls, choose):
    spec = "scratch:n_layers=2,emb_dim=192,n_heads=4,vocab_size=3000,context_length=128"
    windows = [Window(tuple(range(start, start + 129)), 1) for start in (0, 500)]
    scores, backends, names = [], [], []
    for backend in ("torch", "onednn"):
        choose(backend)
        model = load_plugins().model(spec, device="cpu")
        scores.append(torch.tensor([s.nll.tolist() for s in model.score(windows)]))
        backends.append(model.runtime["matmul_backend"])
        names.append(model.cache_id)
        if backend == "torch":
            assert calls == []
    assert calls
    assert (scores[0] - scores[1]).abs().max() < 1e-5
    assert backends == ["torch", "onednn"]
    assert names[0] != names[1]  # the cache keeps them apart


class Bigram(TorchModel):
    """A model of somebody else's: states of 160 numbers, OUTER logits, which makes one tile large enough for oneDNN."""

    name, fingerprint, context_length, vocab_size = "bigram", "bigram", 64, OUTER
    encode, decode = BytesModel.encode, BytesModel.decode

    def __init__(self):
        generator = torch.Generator().manual_seed(6)
        self.states, self.weight = (torch.randn(OUTER, 160, generator=generator) for _ in range(2))

    def hidden(self, ids):
        return self.states[ids]

    def unembedding(self):
        return self.weight


def test_a_model_that_does_not_ask_has_torchs_own_digits(calls, choose):
    windows = [Window(tuple(range(k, k + 50)), 1) for k in range(4)]
    model = Bigram()
    assert "matmul_backend" not in model.runtime
    by_torch = [s.nll for s in model.score(windows)]
    logits = model.next_logits(range(40), 40)
    assert np.array_equal(logits, F.linear(model.states[:40], model.weight).numpy())
    assert calls == []
    choose("torch")
    for one, other in zip(by_torch, Bigram().score(windows), strict=True):
        assert np.array_equal(one, other.nll)


def test_a_model_that_asks_gets_onednn_and_says_so(calls):
    model = Bigram()
    model.uses_onednn_matmul = True
    model.score([Window(tuple(range(50)), 1)])
    model.next_logits(range(40), 40)
    assert calls == [((49, 160, 512), 160), ((1, 40, 160, OUTER), 160)]
    assert model.runtime["matmul_backend"] == "onednn"


def test_a_divergence_has_torchs_digits_unless_both_models_ask(calls):
    models = Bigram(), Bigram()
    windows = [Window(tuple(range(50)), 1)]
    for asking in ((), (0,), (1,)):
        for k, model in enumerate(models):
            model.uses_onednn_matmul = k in asking
        models[0].divergence(models[1], windows)
        assert calls == []
    models[0].uses_onednn_matmul = models[1].uses_onednn_matmul = True
    ((kl, same),) = models[0].divergence(models[1], windows)
    assert calls
    assert abs(kl).max() < 1e-6
    assert same.all()


def test_other_dtypes_do_not_claim_a_backend(onednn):
    spec = "scratch:n_layers=1,emb_dim=16,n_heads=1"
    for dtype in ("float64", "bfloat16"):
        model = load_plugins().model(spec, device="cpu", dtype=dtype)
        assert "matmul_backend" not in model.runtime
    assert load_plugins().model(spec, device="cpu").runtime["matmul_backend"] == "onednn"


def test_training_multiplies_as_the_model_says(calls):
    model = load_plugins().model(
        "scratch:n_layers=1,emb_dim=256,n_heads=4,vocab_size=300,context_length=32", device="cpu"
    )
    trainer = model.trainer(Optimisation())
    rows = [[k % 7 for k in range(n, n + 33)] for n in range(2)]
    trainer.step([rows], 1e-3)
    assert calls
    calls.clear()
    model.uses_onednn_matmul = False
    trainer.step([rows], 1e-3)
    assert calls == []


def test_the_environment_chooses_once_and_is_checked(onednn, choose, monkeypatch):
    assert matmul_backend() == "onednn"
    choose("torch")
    assert matmul_backend() == "torch"
    monkeypatch.setenv(products.SETTING, "onednn")  # what a report says of a model that was built stays true
    assert matmul_backend() == "torch"


def test_an_unknown_backend_is_refused(choose):
    choose("mkl")
    with pytest.raises(UsageError, match="EVALGPT_PRODUCTS must be torch or onednn, not 'mkl'"):
        matmul_backend()
    result = CliRunner().invoke(cli, ["run", "-m", "scratch:n_layers=1,emb_dim=16,n_heads=1", "-t", "pairs"])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "EVALGPT_PRODUCTS" in result.output


AMD, INTEL = "vendor_id\t: AuthenticAMD\n", "vendor_id\t: GenuineIntel\n"


@pytest.mark.parametrize(
    ("vendor", "capability", "mkl", "operator", "expected"),
    [
        (AMD, "AVX512", True, True, "onednn"),
        (AMD, "AVX2", True, True, "torch"),
        (AMD, "DEFAULT", True, True, "torch"),
        (AMD, "AVX512", False, True, "torch"),
        (AMD, "AVX512", True, False, "torch"),
        (INTEL, "AVX512", True, True, "torch"),
        ("CPU implementer\t: 0x41\n", "DEFAULT", False, True, "torch"),
        ("CPU implementer\t: 0x41\n", "SVE256", False, False, "torch"),
        ("arm", "DEFAULT", False, False, "torch"),
    ],
)
def test_by_default_the_processor_chooses(choose, monkeypatch, vendor, capability, mkl, operator, expected):
    monkeypatch.setattr(products, "_cpu_vendor", lambda: vendor)
    monkeypatch.setattr(products, "_onednn_linear", lambda: object() if operator else None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    choose(None)
    assert matmul_backend() == expected


@pytest.mark.parametrize("lacking", ["library", "operator", "overload"])
def test_without_onednn_torch_multiplies(choose, monkeypatch, lacking):
    class Operators:
        """What ``torch.ops.mkldnn`` of another build of torch may hold."""

    if lacking == "library":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        monkeypatch.setattr(torch.ops, "mkldnn", Operators())
    if lacking == "overload":
        Operators._linear_pointwise = type("Operator", (), {"overloads": lambda self: ["default"]})()
    products._onednn_linear.cache_clear()
    try:
        choose("onednn")
        with pytest.raises(UsageError, match="asks for onednn, which this build of torch lacks"):
            matmul_backend()
        choose(None)
        assert matmul_backend() == "torch"
        x, weight, b = tensors()
        expected = F.linear(x, weight, b)
        with onednn_matmul(CPU):
            assert torch.equal(F.linear(x, weight, b), expected)
    finally:
        products._onednn_linear.cache_clear()


def test_the_report_names_it(tmp_path):
    path = tmp_path / "report.json"
    args = ["run", "-m", "scratch:n_layers=1,emb_dim=16,n_heads=1", "-t", "pairs", "-o", str(path), "--no-cache"]
    assert CliRunner().invoke(cli, [*args, "--device", "cpu"]).exit_code == 0
    runtime = json.loads(path.read_text())["evaluations"][0]["model"]["runtime"]
    assert runtime["matmul_backend"] == matmul_backend()
