"""Windows that begin alike: drawn together, computed once, scored as ever."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import BytesModel

import evalgpt
from evalgpt import Window
from evalgpt.batching import SHARED, BatchSize, draw
from evalgpt.plugins import load_plugins

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

TINY = "scratch:emb_dim=48,n_heads=3,n_layers=3,context_length=96,qkv_bias=true"


def options(prefix=60, number=8, vocabulary=320, longest=20):
    """Windows of one beginning and continuations of different lengths."""
    generator = np.random.default_rng(1)
    begin = generator.integers(2, vocabulary, prefix).tolist()
    ends = [generator.integers(2, vocabulary, 3 + k % longest).tolist() for k in range(number)]
    return [Window([*begin, *end], prefix - (k % 3)) for k, end in enumerate(ends)]


def alone(model, windows):
    return np.concatenate([model.score([window])[0].nll for window in windows])


def together(model, windows):
    return np.concatenate([scores.nll for scores in model.score(windows)])


def counting(model, monkeypatch):
    """Count calls of hidden_shared that gave states."""
    calls = []
    shared = type(model).hidden_shared

    def counted(self, prefix, rest):
        states = shared(self, prefix, rest)
        if states is not None:
            calls.append((len(prefix), tuple(rest.shape)))
        return states

    monkeypatch.setattr(type(model), "hidden_shared", counted)
    return calls


@pytest.mark.usefixtures("one_thread")
def test_scratch_computes_the_common_part_once(monkeypatch):
    model = load_plugins().model(TINY, device="cpu")
    calls = counting(model, monkeypatch)
    windows = options()
    np.testing.assert_allclose(together(model, windows), alone(model, windows), atol=1e-5, rtol=0)
    assert calls == [(60, (8, 9))]  # the longest end has 10 ids, of which 9 are fed


@pytest.mark.usefixtures("one_thread")
def test_scratch_is_near_float64():
    single, double = (load_plugins().model(TINY, device="cpu", dtype=d) for d in ("float32", "float64"))
    windows = options()
    np.testing.assert_allclose(together(single, windows), alone(double, windows), atol=1e-5, rtol=0)
    np.testing.assert_allclose(together(double, windows), alone(double, windows), atol=1e-6, rtol=0)


@pytest.mark.usefixtures("one_thread")
def test_every_architecture_gives_the_same_by_its_cache_or_without(tmp_path, architecture, monkeypatch):
    from hf_models import ARCHITECTURES, build, save

    save(tmp_path, *ARCHITECTURES[architecture])
    model = build(tmp_path)
    windows = options(prefix=40, longest=12)
    expected = alone(model, windows)
    calls = counting(model, monkeypatch)
    for _ in range(2):
        np.testing.assert_allclose(together(model, windows), expected, atol=2e-5, rtol=0)
    assert (len(calls) == 2) is (architecture not in NO_SHARING)


NO_SHARING = {"mamba"}
"""A state space has no keys to share."""


def pytest_generate_tests(metafunc):
    if "architecture" in metafunc.fixturenames:
        hf_models = pytest.importorskip("hf_models", reason="needs the extra hf")
        metafunc.parametrize("architecture", hf_models.ARCHITECTURES)


@pytest.mark.usefixtures("one_thread")
def test_a_cache_that_gives_other_states_is_not_used(tmp_path, monkeypatch):
    from hf_models import build, save

    save(tmp_path)
    body = transformers.LlamaModel.forward

    def wrong(self, *args, past_key_values=None, **kwargs):
        return body(self, *args, past_key_values=past_key_values if len(kwargs["input_ids"]) == 1 else None, **kwargs)

    monkeypatch.setattr(transformers.LlamaModel, "forward", wrong)
    model = build(tmp_path)
    assert not model.shares_prefixes
    windows = options(prefix=40, longest=12)
    np.testing.assert_allclose(together(model, windows), alone(model, windows), atol=2e-5, rtol=0)


@pytest.mark.usefixtures("one_thread")
def test_positions_that_depend_on_the_length_are_not_shared(tmp_path):
    from hf_models import GROUPED, build, save

    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 10000.0}
    size = {**GROUPED, "rope_parameters": {**rope, "original_max_position_embeddings": 64}}
    save(tmp_path, "Phi3", {**size, "original_max_position_embeddings": 64, "max_position_embeddings": 256})
    model = build(tmp_path)
    assert not model.shares_prefixes
    windows = options(prefix=80, longest=12)  # all beyond 64, where the model changes its positions
    np.testing.assert_allclose(together(model, windows), alone(model, windows), atol=2e-5, rtol=0)


def test_little_in_common_is_not_worth_it(monkeypatch):
    model = load_plugins().model(TINY, device="cpu")
    calls = counting(model, monkeypatch)
    windows = [Window([1] * 10 + [k] * 70, 1) for k in range(2, 5)]
    together(model, windows)
    together(model, options(number=1))
    assert calls == []


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 80), st.integers(0, 5)).map(lambda t: [t[0]] * t[1] + [9, t[2]]),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 300),
)
def test_each_window_is_drawn_once_and_groups_are_kept_together(texts, bound):
    windows = [Window(ids, 1) for ids in texts]
    made = list(draw(windows, BatchSize(bound), True))
    assert sorted(i for batch in made for i in batch) == list(range(len(windows)))
    for batch in made:
        begins = {tuple(windows[i].ids[:SHARED]) for i in batch if len(windows[i].ids) > SHARED}
        sizes = [len(windows[i].ids) - 1 for i in batch]
        if len(batch) > 1 and len(begins) == 1 and min(sizes) >= SHARED:
            ids = [windows[i].ids for i in batch]
            common = next((k for k, c in enumerate(zip(*ids, strict=False)) if len(set(c)) > 1), min(map(len, ids)))
            assert common >= SHARED
        elif len(batch) > 1:
            assert len(batch) * max(sizes) <= bound


def test_the_options_of_a_question_are_scored_together():
    class Questions(evalgpt.Task):
        name = "questions"

        def documents(self):
            for number in range(4):
                context = f"Question {number}: which of these is the right answer to a long question? " * 2
                for option in ("yes", "no", "perhaps not today"):
                    yield evalgpt.Document(f"{number} {option}", option, context=context, group=str(number))

    model = BytesModel(context_length=400)
    model.shares_prefixes = True
    evalgpt.evaluate(model, Questions(), "lm-eval", batch_tokens=400)
    for batch in model.batches:
        assert len({tuple(window.ids[:SHARED]) for window in batch}) == 1
    assert len(model.batches) == 4
    model.batches.clear()
    model.shares_prefixes = False  # then what is alike saves nothing, and batches keep to their size
    evalgpt.evaluate(model, Questions(), "lm-eval", batch_tokens=400)
    assert all(len(batch) * max(len(w.ids) - 1 for w in batch) <= 400 for batch in model.batches)


def test_scores_of_a_task_do_not_depend_on_sharing(monkeypatch):
    class Pairs(evalgpt.Task):
        name = "pairs"

        def documents(self):
            context = "every effort moves you, and some of it further than the rest of it would have gone alone " * 2
            for number, text in enumerate((" forward", " and me", " nowhere at all", " on")):
                yield evalgpt.Document(str(number), text, context=context)

    model = load_plugins().model(TINY, device="cpu")
    shared = evalgpt.evaluate(model, Pairs(), "exact")
    monkeypatch.setattr(type(model), "hidden_shared", lambda *_: None)
    plain = evalgpt.evaluate(model, Pairs(), "exact")
    assert shared.metrics.loss == pytest.approx(plain.metrics.loss, abs=1e-6)
    assert (
        torch.tensor([row.loss for row in shared.rows]).sub(torch.tensor([r.loss for r in plain.rows])).abs().max()
        < 1e-5
    )
