"""Intervals for ratios of sums: exact cases, a plain-Python cluster formula, known long-run variances, coverage."""

import math
import statistics
from statistics import NormalDist

import numpy as np
import pytest

from evalgpt.report.statistics import Estimate, ratio_estimate, t_half_width, t_two_sided


def one_document(numerator, denominator=None, **options):
    n = len(numerator)
    return ratio_estimate(numerator, np.ones(n) if denominator is None else denominator, np.zeros(n, int), **options)


def singles(numerator, **options):
    """Every entry a document of its own."""
    return ratio_estimate(numerator, np.ones(len(numerator)), np.arange(len(numerator)), **options)


def autoregressive(phi, shape, rng):
    """Stationary AR(1) of variance 1 along the first axis. Its long-run variance is (1 + phi) / (1 - phi)."""
    x = rng.standard_normal(shape)
    x[1:] *= math.sqrt(1 - phi * phi)
    for t in range(1, len(x)):
        x[t] += phi * x[t - 1]
    return x


# Worked by hand


def test_documents_of_one_token_give_the_classical_interval():
    x = np.arange(1.0, 21.0)
    found = singles(x)
    error = statistics.stdev(x) / math.sqrt(20)
    assert found.value == 10.5
    assert found.standard_error == pytest.approx(error, rel=1e-12)
    assert found.degrees_of_freedom == pytest.approx(19, rel=1e-9)
    assert (found.method, found.units, found.block_length, found.level) == ("clusters", 20, 1.0, 0.95)
    assert found.high - 10.5 == pytest.approx(2.0930240544 * error, rel=1e-9)
    assert 10.5 - found.low == pytest.approx(found.high - 10.5, rel=1e-12)


def test_five_documents():
    """Five documents of four tokens, sums 4, 8, 12, 16, 20 of 60: value 3, residual sums -8, -4, 0, 4, 8."""
    found = ratio_estimate(np.repeat([1.0, 2, 3, 4, 5], 4), np.ones(20), np.repeat(range(5), 4))
    assert found.value == 3
    assert found.standard_error == pytest.approx(math.sqrt(160 * 5 / 4) / 20, rel=1e-12)
    assert found.degrees_of_freedom == pytest.approx(4, rel=1e-9)
    assert found.p_value == pytest.approx(t_two_sided(3 / found.standard_error, 4), rel=1e-9)


def test_cosines_find_their_own_frequency():
    """cos(pi 2 (t + 1/2) / n) projects on the second cosine alone, with sum n / 2: variance of the sum n^2 / 8."""
    n = 100
    found = one_document(np.cos(2 * np.pi * (np.arange(n) + 0.5) / n))
    assert found.value == pytest.approx(0, abs=1e-15)
    assert found.standard_error == pytest.approx(math.sqrt(1 / 8), rel=1e-12)
    assert (found.method, found.units, found.block_length, found.degrees_of_freedom) == ("cosines", 100, 25.0, 4.0)


@pytest.mark.parametrize(("n", "count"), [(20, 4), (2000, 4), (5000, 6), (5145, 6), (20_000, 12), (1_000_000, 16)])
def test_the_number_of_cosines_depends_on_the_length_alone(n, count):
    found = one_document(np.arange(n) % 7)
    assert found.degrees_of_freedom == count
    assert found.block_length == n / count


@pytest.mark.parametrize("n", [97, 100, 1001])
def test_cosines_equal_their_definition(n):
    rng = np.random.default_rng(n)
    num, den = rng.exponential(3, n), rng.integers(1, 9, n).astype(float)
    found = one_document(num, den)
    residual = num - num.sum() / den.sum() * den
    projections = [
        sum(r * math.cos(math.pi * j * (t + 0.5) / n) for t, r in enumerate(residual.tolist())) for j in (1, 2, 3, 4)
    ]
    expected = math.sqrt(2 * sum(p * p for p in projections) / 4) / den.sum()
    assert found.value == num.sum() / den.sum()
    assert found.standard_error == pytest.approx(expected, rel=1e-10)


# The t distribution


def test_t_against_closed_forms():
    for t in (1e-6, 0.3, 1.0, 2.5, 40.0, 1e4):
        assert t_two_sided(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), rel=1e-8)
        root = math.sqrt(2 + t * t)
        assert t_two_sided(-t, 2) == pytest.approx(2 / (root * (root + t)), rel=1e-10)
    assert t_two_sided(0, 5) == 1
    assert t_two_sided(math.inf, 5) == 0


def test_t_against_tables():
    table = {1: 12.7062047362, 4: 2.7764451052, 6: 2.4469118511, 16: 2.1199052992, 120: 1.9799304051}
    for freedom, q in table.items():
        assert t_half_width(0.95, freedom) == pytest.approx(q, rel=1e-9)
    assert t_half_width(0.99, 10) == pytest.approx(3.1692726726, rel=1e-9)
    assert t_half_width(0.95, 1e7) == pytest.approx(1.9599642218, rel=1e-9)
    assert t_half_width(0.95, 999_999.0) == pytest.approx(1.9599663, rel=1e-7)


def test_t_as_reports_written_before_have_it():
    """Their intervals came from a continued fraction and Newton's method."""
    quantiles = {
        1.37: (0.8951423547888246, 6.885073156641693, 120.88600872386831),
        3.8: (0.7444471416921706, 2.835035879321202, 9.159376787566346),
        16.0: (0.6901322538098247, 2.119905299221254, 4.014996327184056),
        55.5: (0.6789359733156792, 2.003639051056375, 3.474640795220756),
        12_345.6: (0.6745096229678741, 1.9601561582630707, 3.291315016209624),
    }
    tails = {
        1.37: (0.9329600803547182, 0.23869542645709804, 0.011742166088300804),
        16.0: (0.9215866094515479, 0.06277196351460337, 9.569033625490018e-13),
        55.5: (0.9207046793704554, 0.050403314530853546, 4.853860819227477e-27),
        12_345.6: (0.9203459491734715, 0.045522131219011594, 1.3344400997925653e-87),
    }
    for freedom, found in quantiles.items():
        assert [t_half_width(level, freedom) for level in (0.5, 0.95, 0.999)] == pytest.approx(found, rel=1e-9)
    for freedom, found in tails.items():
        assert [t_two_sided(t, freedom) for t in (0.1, 2.0, 20.0)] == pytest.approx(found, rel=1e-9)


def test_t_where_it_is_nearly_normal_and_far_out():
    assert t_half_width(0.95, math.inf) == pytest.approx(NormalDist().inv_cdf(0.975), rel=1e-12)
    assert t_two_sided(6.0, math.inf) == pytest.approx(2 * NormalDist().cdf(-6), rel=1e-9)
    assert t_half_width(1 - 1e-9, 1) == pytest.approx(1 / math.tan(math.pi * 1e-9 / 2), rel=1e-6)


@pytest.mark.parametrize("freedom", [1.0, 1.37, 3.8, 55.5, 12_345.6])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.999])
def test_t_quantile_and_tail_are_inverse(freedom, level):
    assert t_two_sided(t_half_width(level, freedom), freedom) == pytest.approx(1 - level, rel=1e-7)


# Clusters against plain Python


def plain_clusters(num, den, doc):
    """(value, standard error, degrees of freedom) from the definitions, with the matrix written out."""
    groups = sorted(set(doc))
    value = sum(num) / sum(den)
    sums = [sum(a - value * b for a, b, d in zip(num, den, doc, strict=True) if d == g) for g in groups]
    share = [sum(b for b, d in zip(den, doc, strict=True) if d == g) / sum(den) for g in groups]
    scale = [1 / (1 - w) for w in share]
    variance = sum(s * e * e for s, e in zip(scale, sums, strict=True))
    squares = sum(w * w for w in share)
    # Weighted least squares for E e^2 = effect (w^2 (1 - 2w) + w^2 sum w^2) + noise w (1 - w), weights 1 / w^2.
    rows = [(w * (1 - 2 * w + squares), 1 - w, e * e / w) for w, e in zip(share, sums, strict=True)]
    aa, ab, bb = (sum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    ay, by = (sum(r[i] * r[2] for r in rows) for i in (0, 1))
    effect, noise = max((ay * bb - by * ab) / (aa * bb - ab * ab), 0), max((by * aa - ay * ab) / (aa * bb - ab * ab), 0)
    model = [effect * w * w + noise * w for w in share]
    size = range(len(groups))
    centre = [[float(i == j) - share[i] for j in size] for i in size]  # residual sums = centre @ sums
    form = [[sum(scale[k] * centre[k][i] * centre[k][j] for k in size) for j in size] for i in size]
    trace = sum(form[i][i] * model[i] for i in size)
    trace2 = sum(form[i][j] ** 2 * model[i] * model[j] for i in size for j in size)
    return value, math.sqrt(variance) / sum(den), trace * trace / trace2


@pytest.mark.parametrize("seed", range(8))
def test_clusters_equal_the_plain_formula(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 40, size=rng.integers(8, 20))
    doc = np.repeat(np.arange(len(sizes)), sizes)
    num = rng.exponential(3, len(doc)) + rng.standard_normal(len(sizes))[doc]
    den = rng.integers(1, 9, len(doc)).astype(float)
    found = ratio_estimate(num, den, doc)
    value, error, freedom = plain_clusters(num.tolist(), den.tolist(), doc.tolist())
    assert found.method == "clusters"
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.standard_error == pytest.approx(error, rel=1e-10)
    assert found.degrees_of_freedom == pytest.approx(freedom, rel=1e-6)
    assert 1 <= found.degrees_of_freedom <= len(sizes) - 1


def test_unequal_documents_have_fewer_degrees_of_freedom():
    rng = np.random.default_rng(0)
    sizes = np.array([500] + [100] * 19)
    doc = np.repeat(np.arange(20), sizes)
    found = ratio_estimate(rng.exponential(3, len(doc)) + rng.standard_normal(20)[doc], np.ones(len(doc)), doc)
    assert found.method == "clusters"
    assert found.degrees_of_freedom < 15


def test_too_few_effective_documents_leave_the_token_sequence():
    x = np.random.default_rng(0).exponential(3, 4000)
    ones = np.ones(4000)
    assert ratio_estimate(x, ones, np.repeat(range(2), 2000)).method == "cosines"
    assert ratio_estimate(x, ones, np.repeat(range(3), [1000, 1000, 2000])).method == "clusters"
    dominated = np.repeat(range(101), [3000] + [10] * 100)
    assert ratio_estimate(x, ones, dominated) == one_document(x)


def test_a_document_without_denominator_counts_in_the_numerator():
    rng = np.random.default_rng(0)
    doc = np.repeat(np.arange(10), 20)
    den = np.where(doc == 4, 0.0, 1.0)
    found = ratio_estimate(rng.exponential(3, 200), den, doc)
    assert found.units == 10
    assert found.standard_error > 0
    assert math.isfinite(found.degrees_of_freedom)


# Known long-run variances


def test_independent_data_give_the_classical_standard_error():
    """The mean of the estimated variances over 400 sequences is sigma^2 / n, within four Monte-Carlo errors."""
    x = np.random.default_rng(1).exponential(3, (400, 2000))
    ratio = np.mean([one_document(row).standard_error ** 2 for row in x]) / (9 / 2000)
    assert ratio == pytest.approx(1, abs=4 * math.sqrt(2 / 4 / 400))


@pytest.mark.parametrize("time", [2, 5, 20, 50])
def test_correlated_data_give_the_long_run_variance(time):
    """AR(1) of autocorrelation time ``time``: the variance of the mean is that many times the independent one."""
    phi = (time - 1) / (time + 1)
    x = autoregressive(phi, (5000, 400), np.random.default_rng(time))
    ratio = np.mean([one_document(column).standard_error ** 2 for column in x.T]) * 5000
    assert ratio == pytest.approx(time, rel=4 * math.sqrt(2 / 6 / 400) + 0.02)


# Invariances


@pytest.mark.parametrize("documents", [1, 30])
def test_scaling_and_numbering(documents):
    rng = np.random.default_rng(3)
    num, den = rng.exponential(3, 3000), rng.integers(1, 9, 3000).astype(float)
    doc = np.sort(rng.integers(0, documents, 3000))
    base = ratio_estimate(num, den, doc)
    assert ratio_estimate(num, den, doc * 7 - 1000) == base
    scaled = ratio_estimate(num / math.log(2), den, doc)
    for field in ("value", "standard_error", "low", "high"):
        assert getattr(scaled, field) == pytest.approx(getattr(base, field) / math.log(2), rel=1e-10)
    assert scaled.p_value == pytest.approx(base.p_value, rel=1e-6)
    shifted = ratio_estimate(num + 5 * den, den, doc)
    assert shifted.value == pytest.approx(base.value + 5, rel=1e-12)
    assert shifted.standard_error == pytest.approx(base.standard_error, rel=1e-9)
    swapped = ratio_estimate(-num, den, doc)
    assert (swapped.low, swapped.high) == pytest.approx((-base.high, -base.low), rel=1e-12)


def test_reading_backwards_changes_nothing():
    x = autoregressive(0.8, 1234, np.random.default_rng(0))
    assert one_document(x[::-1]).standard_error == pytest.approx(one_document(x).standard_error, rel=1e-10)


def test_the_order_of_documents_does_not_matter():
    rng = np.random.default_rng(0)
    parts = [rng.exponential(3, n) for n in rng.integers(5, 60, 12)]
    found = [
        ratio_estimate(np.concatenate(p), np.ones(sum(map(len, p))), np.repeat(range(12), [len(q) for q in p]))
        for p in (parts, parts[::-1])
    ]
    assert found[0].standard_error == pytest.approx(found[1].standard_error, rel=1e-10)
    assert found[0].degrees_of_freedom == pytest.approx(found[1].degrees_of_freedom, rel=1e-8)


def test_level_and_p_value_agree():
    x = np.random.default_rng(0).standard_normal(500) + 0.1
    found = one_document(x)
    at_p = one_document(x, level=1 - found.p_value)
    assert at_p.low == pytest.approx(0, abs=1e-9)
    assert one_document(x, level=0.5).high < found.high < one_document(x, level=0.99).high


def test_float32_and_lists_are_taken():
    x = np.random.default_rng(0).exponential(3, 50).astype(np.float32)
    assert ratio_estimate(x, [1] * 50, [0] * 50) == one_document(x.astype(np.float64))


# Degenerate inputs


@pytest.mark.parametrize("count", [1, 2, 19])
@pytest.mark.parametrize("estimate", [one_document, singles])
def test_too_few_entries_get_a_value_and_no_interval(count, estimate):
    found = estimate([3.0] * count)
    assert found == Estimate(3.0, None, None, None, 0.95, None, "none", 0.0, count, 0.0)


@pytest.mark.parametrize("estimate", [one_document, singles])
@pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.1, 0.0), (10.824905014889433, 0.0)])
def test_equal_losses_give_an_interval_of_no_width(estimate, value, p_value):
    found = estimate(np.full(1001, value))
    assert found.standard_error == 0
    assert found.low == found.high == found.value == pytest.approx(value, rel=1e-12)
    assert found.p_value == p_value


def test_equal_bits_per_byte_give_an_interval_of_no_width():
    sizes = np.random.default_rng(0).integers(1, 9, 1000).astype(float)
    assert one_document(8 * sizes / 3, sizes).standard_error == 0


def test_tiny_differences_are_not_taken_for_equal():
    x = 1e-9 * np.random.default_rng(0).standard_normal(1000)
    assert one_document(x).standard_error == pytest.approx(1e-9 / math.sqrt(1000), rel=1)
    assert one_document(3 + x).standard_error > 0


@pytest.mark.parametrize("bad", [[math.inf], [math.nan], [math.inf, -math.inf]])
def test_a_loss_that_is_not_finite_gets_no_interval(bad):
    found = one_document([1.0] * 50 + bad)
    assert (found.method, found.standard_error, found.p_value) == ("none", None, None)
    assert not math.isfinite(found.value)


@pytest.mark.parametrize(
    ("numerator", "denominator", "document", "level", "message"),
    [
        ([], [], [], 0.95, "vectors"),
        ([1, 2], [1], [0, 0], 0.95, "vectors"),
        ([1, 2], [1, 1], [0], 0.95, "vectors"),
        ([[1]], [[1]], [[0]], 0.95, "vectors"),
        ([1, 2], [0, 0], [0, 0], 0.95, "denominators"),
        ([1, 2], [3, -1], [0, 0], 0.95, "denominators"),
        ([1, 2], [1, math.nan], [0, 0], 0.95, "denominators"),
        ([1, 2], [1, math.inf], [0, 0], 0.95, "denominators"),
        ([1, 2], [1, 1], [1, 0], 0.95, "decrease"),
        ([1, 2], [1, 1], [0, 0], 1.0, "level"),
        ([1, 2], [1, 1], [0, 0], 0, "level"),
    ],
)
def test_what_is_refused(numerator, denominator, document, level, message):
    with pytest.raises(ValueError, match=message):
        ratio_estimate(numerator, denominator, document, level)


# Coverage: bench/coverage.py measures it; here only that nothing is far off


@pytest.mark.parametrize("time", [1, 20])
def test_intervals_of_one_document_hold(time):
    x = np.exp(autoregressive((time - 1) / (time + 1), (5000, 500), np.random.default_rng(time)))
    found = [one_document(column) for column in x.T]
    holds = np.mean([e.low <= math.exp(0.5) <= e.high for e in found])
    assert 0.92 <= holds <= 0.98
    wrong = np.mean([one_document(a - b).p_value < 0.05 for a, b in zip(x.T[::2], x.T[1::2], strict=True)])
    assert 0.01 <= wrong <= 0.10


@pytest.mark.parametrize("documents", [6, 50])
def test_intervals_of_many_documents_hold(documents):
    rng = np.random.default_rng(documents)
    held = []
    for _ in range(500):
        doc = np.repeat(np.arange(documents), rng.integers(20, 200, documents))
        x = rng.exponential(3, len(doc)) + 0.5 * rng.standard_normal(documents)[doc]
        found = ratio_estimate(x, np.ones(len(doc)), doc)
        held.append(found.low <= 3 <= found.high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_a_million_tokens():
    x = np.random.default_rng(0).exponential(3, 1_000_000)
    ones = np.ones(len(x))
    assert one_document(x).standard_error == pytest.approx(0.003, rel=0.8)
    assert singles(x).standard_error == pytest.approx(0.003, rel=0.01)
    assert ratio_estimate(x, ones, np.arange(len(x)) // 20).units == 50_000
