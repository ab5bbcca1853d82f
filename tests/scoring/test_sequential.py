"""Stopping early: published boundaries, exact ends, coverage at the stopped time and at all looks together."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgpt.report.statistics import t_half_width
from evalgpt.scoring import sequential
from evalgpt.scoring.sequential import Interval, Sequential, decided, half_width, order, precise_enough
from evalgpt.scoring.strata import BOUNDARY_LEVEL, design


def text(seed, count=300, spread=0.25, unequal=False):
    """Sums of losses and tokens of ``count`` windows, gamma distributed with skewness 1, the last window short."""
    rng = np.random.default_rng(seed)
    n = np.full(count, 512.0) if not unequal else np.ceil(512 * rng.lognormal(0, 0.5, count))
    n[-1] = 100
    return (3.2 + spread * (rng.gamma(4, size=count) - 4) / 2) * n, n


def looks(y, n, shuffled, **options):
    """The intervals of all looks."""
    found = Sequential(len(y), float(n.sum()), **options)
    for k in shuffled:
        if found.add(y[k], n[k]):
            yield found.interval()


# Boundaries


def test_obrien_fleming_like_boundaries_are_the_published_ones():
    """Five equal steps, 5 % two-sided: Lan and DeMets' function as tabulated by their program."""
    exits = sequential._Exits()
    z = 2.2414027276
    found = [exits.step(t, 2 * math.erfc(z / math.sqrt(2 * t))) for t in (0.2, 0.4, 0.6, 0.8, 1.0)]
    assert found == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)


@pytest.mark.parametrize(("steps", "critical"), [(1, 1.960), (2, 2.178), (5, 2.413), (10, 2.555), (20, 2.672)])
def test_pocock_boundaries_spend_five_percent(steps, critical):
    """Pocock's constants (Jennison and Turnbull 2000, table 2.1): that spending gives the constants back."""
    rng = np.random.default_rng(steps)
    walk = np.cumsum(rng.standard_normal((steps, 200_000)), axis=0) / np.sqrt(np.arange(1, steps + 1))[:, None]
    left = np.maximum.accumulate(np.abs(walk) > critical, axis=0).mean(1)
    assert left[-1] == pytest.approx(0.05, abs=0.002)
    exits = sequential._Exits()
    assert [exits.step(k, spent) for k, spent in enumerate(left, 1)] == pytest.approx([critical] * steps, abs=0.06)


def test_information_is_that_of_a_sample_without_replacement():
    """Standardised errors after m < n of N have correlation sqrt(u(m) / u(n)), u = n / (N - n)."""
    rng = np.random.default_rng(0)
    drawn = np.cumsum(rng.permuted(np.tile(rng.standard_normal(40), (40_000, 1)), axis=1), axis=1)
    for m, n in [(5, 10), (10, 30), (30, 38)]:
        u, v = m / (40 - m), n / (40 - n)
        assert np.corrcoef(drawn[:, m - 1] / m, drawn[:, n - 1] / n)[0, 1] == pytest.approx(math.sqrt(u / v), abs=0.02)


@pytest.mark.parametrize("count", [17, 30, 100, 3000])
@pytest.mark.parametrize("step", [1.1, 1.5])
def test_looks_grow_and_end_with_all_windows(count, step):
    found = sequential._schedule(count, step, 16)
    assert found[0] == 16
    assert found[-1] == count
    for m, n in itertools.pairwise(found[:-1]):
        assert n / (count - n) >= step * m / (count - m) * (1 - 1e-9)


# The interval


def test_the_first_interval_worked_by_hand():
    """16 of 32 equal windows, residuals +-1 and one more of the first: t with 15 degrees of freedom."""
    found = Sequential(32, 32.0)
    for k in range(16):
        found.add(5 + (-1) ** k, 1.0)
    critical = sequential._even(32, 16, 1 - 0.95)[0]
    error = math.sqrt((16 / 15 + 1 / 16) / 16 * (1 - 16 / 32))
    mean = 1 / 17
    skew = (8 * (-1 - mean) ** 3 + 9 * (1 - mean) ** 3) / 17 / (1 - mean**2) ** 1.5 * math.sqrt(17 * 16) / 15
    per = (0.25 + 1.5 * (critical**2 - 1) / 6) / math.sqrt(16 * 0.5)
    t = sequential.t_half_width(1 - math.erfc(critical / math.sqrt(2)), 15.0)
    interval = found.interval()
    assert (interval.estimate, interval.windows) == (5.0, 16)
    assert interval.high - 5 == pytest.approx((t + per * (2 * math.sqrt(6 / 17) + skew)) * error, rel=1e-9)
    assert 5 - interval.low == pytest.approx((t + per * (2 * math.sqrt(6 / 17) - skew)) * error, rel=1e-9)


def stratified(y, n, strata, count):
    """The interval at a first look after ``count`` windows."""
    found = Sequential(len(y), float(np.sum(n)), first=count, strata=strata)
    assert found.extend(np.asarray(y[:count], float), np.asarray(n[:count], float))
    return found.interval()


def leaving(looks, u, critical):
    """P(Brownian motion stays within c sqrt(u) at each of ``looks`` (u, c), and leaves at ``u``), by Simpson's rule."""
    normal, before, at, mass = NormalDist(), 0.0, np.zeros(1), np.ones(1)
    cdf = np.vectorize(normal.cdf)
    for time, c in looks:
        edge = c * math.sqrt(time)
        x = np.linspace(-edge, edge, 801)
        density = np.exp(-((x[:, None] - at) ** 2) / (2 * (time - before))) @ mass
        simpson = np.where(np.arange(801) % 2, 4.0, 2.0)
        simpson[[0, -1]] = 1
        mass = density / math.sqrt(2 * math.pi * (time - before)) * simpson * (x[1] - x[0]) / 3
        before, at = time, x
    edge, sigma = critical * math.sqrt(u), math.sqrt(u - before)
    return float(mass @ (cdf((at - edge) / sigma) + cdf((-edge - at) / sigma)))


@pytest.mark.parametrize("seed", range(3))
def test_a_stopped_interval_computed_again_from_its_definition(seed):
    """Strata, unequal weights and looks that spent before: sums over windows, one formula a line."""
    rng, total, precision = np.random.default_rng(seed), 300, 0.03 + 0.01 * seed
    weight, covariate = np.ceil(60 * rng.lognormal(0, 0.4, total)), rng.standard_normal(total)
    loss = (3 + 0.3 * covariate + 0.25 * (rng.gamma(4, size=total) - 4)) * weight
    drawn = design(covariate, seed, 0.05)
    found = Sequential(total, weight.sum(), BOUNDARY_LEVEL, half_width(precision), drawn.first, drawn.strata)
    steps, step = [], found._exits.step
    found._exits.step = lambda u, spend: steps.append((u, step(u, spend), spend)) or steps[-1][1]
    seen = next(
        k
        for k, i in enumerate(drawn.order, 1)
        if found.add(loss[i], weight[i]) and precise_enough(found.interval(), precision)
    )
    assert seen < total

    strata = [[i for i, s in zip(drawn.order[:seen], drawn.strata, strict=False) if s == h] for h in range(drawn.count)]
    sizes = np.bincount(drawn.strata)
    expand = {i: size / len(own) for own, size in zip(strata, sizes, strict=True) for i in own}
    ratio = sum(expand[i] * loss[i] for i in expand) / sum(expand[i] * weight[i] for i in expand)
    errors, freedoms, parts, residuals = [], [], [], []
    for own, size in zip(strata, sizes, strict=True):
        share = weight[own] / weight[own].sum()
        residual = loss[own] - ratio * weight[own]
        residual -= residual.mean()
        parts.append(size * (size - len(own)) / len(own))  # N squared over n, times the finite-population correction
        errors.append(parts[-1] * np.mean(residual**2 / (1 - share)))
        freedoms.append(1 / sum(share**2) - 1)
        residuals += residual.tolist()
    extreme = max(residuals, key=abs)
    error = math.sqrt(sum(errors) + extreme**2 * sum(parts) / seen) / weight.sum()
    freedom = sum(errors) ** 2 / sum(e**2 / f for e, f in zip(errors, freedoms, strict=True))
    x = np.array([*residuals, extreme]) - np.mean([*residuals, extreme])
    n = len(x)
    skew = abs(np.mean(x**3) / np.mean(x**2) ** 1.5 * math.sqrt(n * (n - 1)) / (n - 2)) + 2 * math.sqrt(6 / n)

    *before, (u, critical, spent) = steps
    assert u == seen / (total - seen)
    assert spent == pytest.approx(0.04)
    earlier = before[-1][2] if before else 0.0
    assert leaving([b[:2] for b in before], u, critical) == pytest.approx(0.04 - earlier, rel=1e-6)
    f = seen / total
    size = sum(expand[i] * weight[i] for i in expand) ** 2 / sum((expand[i] * weight[i]) ** 2 for i in expand)
    per = ((1 - f) / 2 + (2 - f) * (critical**2 - 1) / 6) / math.sqrt(size * (1 - f))
    half = (t_half_width(2 * NormalDist().cdf(critical) - 1, freedom) + per * skew) * error
    interval = found.interval()
    assert interval.estimate == pytest.approx(ratio, rel=1e-12)
    assert (interval.high - ratio, ratio - interval.low) == pytest.approx((half, half), rel=1e-9)


def test_strata_that_explain_everything_leave_no_error():
    strata = np.array([0, 0, 1, 1] * 10)
    found = stratified(5.0 + strata, np.ones(40), strata, 17)  # 9 of one and 8 of the other
    assert (found.estimate, found.low, found.high) == pytest.approx((5.5, 5.5, 5.5), abs=1e-12)


def test_the_error_of_strata_worked_by_hand():
    """Deviations of 1 in a stratum of 10 and of 3 in one of 30, 2 and 6 seen: Cochran's formula, one window added."""
    strata = np.array(([0] + [1] * 3) * 10)
    y = np.where(strata, 3.0, 1.0) * np.array([1] * 4 + [-1] * 4 + [1, 1, 1, -1] * 8)
    y[:8] = [1, 3, 3, 3, -1, -3, -3, -3]
    found = sequential._Seen.of(y[:8], np.ones(8), strata[:8], np.array([10, 30]))
    parts = [10 * 8 / 2, 30 * 24 / 6]
    expected = 2 / 1 * parts[0] + 9 * 6 / 5 * parts[1] + sequential.PSEUDO * 9 * sum(parts) / 8
    assert found.value == 0
    assert found.error(40.0) == pytest.approx(math.sqrt(expected) / 40, rel=1e-12)


def test_nothing_is_known_of_a_stratum_with_one_window():
    found = stratified(np.arange(40.0), np.ones(40), [1] * 19 + [0] * 21, 20)
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_windows_may_be_added_many_at_a_time():
    y, n = text(1, 100)
    one, many = Sequential(100, float(n.sum())), Sequential(100, float(n.sum()))
    at = 0
    while at < 100:
        end = many.next_look
        assert many.extend(y[at:end], n[at:end])
        assert [one.add(*pair) for pair in zip(y[at:end], n[at:end], strict=True)] == [False] * (end - at - 1) + [True]
        assert one.interval() == many.interval()
        at = end
    with pytest.raises(ValueError, match="has weight"):
        Sequential(100, float(n.sum())).extend(y[:17], n[:17])


@pytest.mark.parametrize("target", [None, 1e-9, 0.05])
@pytest.mark.parametrize("count", [1, 2, 16, 17, 40])
def test_the_end_is_the_exact_number(count, target):
    y, n = text(count, count)
    ends = [list(looks(y, n, order(count, seed), target=target))[-1] for seed in range(5)]
    value = math.fsum(y) / math.fsum(n)
    assert set(ends) == {Interval(value, value, value, count)}
    assert precise_enough(ends[0], 1e-12)


def test_nothing_is_known_before_the_first_look():
    found = Sequential(100, 100.0)
    assert not any(found.add(1.0, 1.0) for _ in range(15))
    assert (found.interval().low, found.interval().high) == (-math.inf, math.inf)
    assert decided(found.interval()) == 0
    assert not precise_enough(found.interval(), 0.5)
    assert found.add(1.0, 1.0)
    assert found.interval() == Interval(1.0, 1.0, 1.0, 16)


def test_skewness_widens_on_its_own_side():
    y, n = text(0, spread=1.0)
    up = next(looks(y, n, range(300)))
    assert up.high - up.estimate > 1.1 * (up.estimate - up.low)
    down = next(looks(-y, n, range(300)))
    assert (down.low, down.high) == pytest.approx((-up.high, -up.low), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(0.01, 100), st.floats(-5, 5))
def test_units_and_shifts(seed, of_y, of_n, shift):
    y, n = text(seed, 60, unequal=True)
    for a, b in zip(looks(y, n, range(60)), looks(of_y * (y + shift * n), of_n * n, range(60)), strict=True):
        for field in ("estimate", "low", "high"):
            assert getattr(b, field) == pytest.approx(of_y / of_n * (getattr(a, field) + shift), rel=1e-6, abs=1e-6)


def test_a_higher_level_is_wider():
    y, n = text(3)
    for a, b in zip(looks(y, n, range(300)), looks(y, n, range(300), level=0.999), strict=True):
        assert b.low <= a.low <= a.high <= b.high


def test_a_reached_target_stays():
    y, n = text(4)
    reached = [i for i in looks(y, n, order(300, 4), target=0.05) if i.high - i.low <= 0.1]
    assert len(reached) > 3
    assert len(set(reached[:-1])) == 1
    assert reached[-1].windows == 300


@pytest.mark.parametrize("bad", [math.inf, math.nan, -math.inf])
def test_a_loss_that_is_not_finite_is_never_precise(bad):
    y, n = text(5, 40)
    y[3] = bad
    for interval in looks(y, n, range(40)):
        assert not precise_enough(interval, 0.5)
        assert not math.isfinite(interval.estimate)


@pytest.mark.parametrize(
    "options",
    [
        {"windows": 0, "weight": 1},
        {"windows": 5, "weight": 0},
        {"windows": 5, "weight": math.nan},
        {"windows": 5, "weight": 1, "level": 1.0},
        {"windows": 5, "weight": 1, "target": 0.0},
        {"windows": 5, "weight": 1, "first": 1},
        {"windows": 5, "weight": 1, "strata": [0, 0]},
    ],
)
def test_what_is_refused(options):
    with pytest.raises(ValueError, match="no intervals"):
        Sequential(**options)


def test_windows_that_are_not_the_texts_are_refused():
    found = Sequential(2, 20.0)
    with pytest.raises(ValueError, match="weight -1"):
        found.add(1.0, -1.0)
    found.add(1.0, 10.0)
    with pytest.raises(ValueError, match="weigh"):
        found.add(1.0, 11.0)
    with pytest.raises(ValueError, match="window 3 of 2"):
        found.add(1.0, 1.0)


# The rules


def test_precision_is_of_the_perplexity():
    h = half_width(0.01)
    assert (math.exp(h) - math.exp(-h)) / 2 == pytest.approx(0.01, rel=1e-12)
    assert precise_enough(Interval(3.0, 3.0 - h, 3.0 + h, 50), 0.01)
    assert not precise_enough(Interval(3.0, 3.0 - h, 3.0 + 1.001 * h, 50), 0.01)
    assert not precise_enough(Interval(3.0, -math.inf, math.inf, 0), 0.01)


def test_a_sign_is_decided_where_zero_is_left_out():
    assert decided(Interval(0.2, 0.1, 0.3, 20)) == 1
    assert decided(Interval(-0.2, -0.3, -0.1, 20)) == -1
    assert decided(Interval(0.2, -0.1, 0.5, 20)) == 0
    assert decided(Interval(0.0, 0.0, 0.0, 20)) == 0


def test_equal_models_go_to_the_end():
    assert [decided(i) for i in looks(np.zeros(50), np.ones(50), range(50))][-1] == 0


def test_the_order_is_fixed_by_its_seed():
    assert order(10, 0) == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]
    assert order(10, 1) != order(10, 0)
    assert sorted(order(1000, 7)) == list(range(1000))


# Coverage: bench/stopping.py measures it; here only that nothing is far off


@pytest.mark.slow
@pytest.mark.parametrize("unequal", [False, True])
def test_stopped_intervals_hold_and_stop_in_time(unequal):
    holds, parts = [], []
    for seed in range(300):
        y, n = text(seed, unequal=unequal)
        for found in looks(y, n, order(300, seed), target=half_width(0.03)):
            if precise_enough(found, 0.03):
                break
        holds.append(found.low <= y.sum() / n.sum() <= found.high)
        parts.append(found.windows / 300)
    assert np.mean(holds) >= 0.92
    # One look at 1.96 known standard errors would need 47 %, or 54 % where windows are unequal.
    assert np.mean(parts) < 0.63


def test_all_looks_hold_together():
    missed = []
    for seed in range(400):
        y, n = text(seed)
        truth = math.fsum(y) / math.fsum(n)
        missed.append(not all(i.low <= truth <= i.high for i in looks(y, n, order(300, seed))))
    assert np.mean(missed) <= 0.08


@pytest.mark.parametrize("effect", [0.0, 0.01, 0.3])
def test_signs_are_seldom_wrong(effect):
    wrong, parts = [], []
    for seed in range(300):
        y, n = text(seed)
        y -= y.sum() / n.sum() * n
        y += effect * y.std() / n.mean() * n * (-1) ** seed
        for found in looks(y, n, order(300, seed)):
            if decided(found):
                break
        # Of equal models the rounded end has either sign.
        settled = decided(found) if abs(found.estimate) > 1e-12 else 0
        wrong.append(settled not in (0, np.sign(effect) * (-1) ** seed))
        parts.append(found.windows / 300)
    assert np.mean(wrong) <= 0.08
    if effect == 0.3:
        assert not any(wrong)
        assert np.mean(parts) < 0.35
