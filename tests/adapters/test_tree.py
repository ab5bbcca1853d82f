"""Windows that begin alike: drawn together, read as a tree, scored as ever."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.models import BytesModel

import evalgpt
from evalgpt import Window
from evalgpt.adapters.kernels.tree import LARGEST_TREE, build_prefix_tree
from evalgpt.core.plugins import load_plugins
from evalgpt.scoring.batching import ENOUGH, BatchSize, make_batches

pytestmark = [pytest.mark.numeric, pytest.mark.slow]


class Shares(BytesModel):
    shared_tokens = LARGEST_TREE


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
    """The numbers of nodes of the trees that a model reads."""
    calls = []
    read = type(model).hidden_tree

    def counted(self, ids, depth, seen):
        states = read(self, ids, depth, seen)
        if states is not None:
            calls.append(len(ids))
        return states

    monkeypatch.setattr(type(model), "hidden_tree", counted)
    return calls


texts_of_few_ids = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


@given(texts_of_few_ids)
def test_a_tree_holds_every_text_once(texts):
    tree = build_prefix_tree(texts)
    beginnings = {tuple(text[:k]) for text in texts for k in range(1, len(text) + 1)}
    saved = 1 - len(beginnings) / (len(texts) * max(map(len, texts)))
    if tree is None:
        assert saved < 0.2
        return
    assert saved >= 0.2 - 1e-9
    assert len(tree.ids) == len(beginnings)
    for text, path in zip(texts, tree.paths, strict=True):
        assert tree.ids[path].tolist() == list(text)
        assert tree.depth[path].tolist() == list(range(len(text)))
        for k, node in enumerate(path):
            assert tree.seen[node].nonzero()[:, 0].tolist() == sorted(path[: k + 1].tolist())


def test_a_tree_too_large_is_none():
    begin = list(range(LARGEST_TREE))
    assert build_prefix_tree([[*begin, 1], [*begin, 2]]) is None


def test_no_batch_is_larger_than_a_tree_may_be():
    texts = [[*range(60), k, k + 1] for k in range(3000)]
    for batch in make_batches([Window(ids, 1) for ids in texts], BatchSize(1 << 18), Shares()):
        assert build_prefix_tree([texts[i][:-1] for i in batch]) is not None


@pytest.mark.usefixtures("one_thread")
def test_scratch_computes_the_common_part_once(monkeypatch):
    model = load_plugins().model(TINY, device="cpu")
    calls = counting(model, monkeypatch)
    windows = options()
    np.testing.assert_allclose(together(model, windows), alone(model, windows), atol=1e-5, rtol=0)
    assert calls == [60 + sum(len(window.ids) - 61 for window in windows)]


@pytest.mark.usefixtures("one_thread")
def test_detail_of_a_tree_is_that_of_each_text():
    model = load_plugins().model(TINY, device="cpu")
    windows = [*options(), options()[0]]  # one of them twice
    detail = evalgpt.Detail(rank=True, entropy=True, top=3)
    for window, scores in zip(windows, model.score(windows, detail), strict=True):
        (expected,) = model.score([window], detail)
        np.testing.assert_array_equal(scores.rank, expected.rank)
        np.testing.assert_array_equal(scores.top_ids, expected.top_ids)
        np.testing.assert_allclose(scores.entropy, expected.entropy, atol=1e-5, rtol=0)
        np.testing.assert_allclose(scores.top_logprobs, expected.top_logprobs, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("one_thread")
def test_scratch_is_near_float64():
    single, double = (load_plugins().model(TINY, device="cpu", dtype=d) for d in ("float32", "float64"))
    windows = options()
    np.testing.assert_allclose(together(single, windows), alone(double, windows), atol=1e-5, rtol=0)
    np.testing.assert_allclose(together(double, windows), alone(double, windows), atol=1e-6, rtol=0)


@pytest.mark.usefixtures("one_thread")
def test_every_architecture_gives_the_same_as_a_tree_or_without(tmp_path, architecture, monkeypatch):
    from support.hf_models import ARCHITECTURES, build, save

    save(tmp_path, *ARCHITECTURES[architecture])
    model = build(tmp_path)
    windows = options(prefix=40, longest=12)
    expected = alone(model, windows)
    calls = counting(model, monkeypatch)
    for _ in range(2):
        np.testing.assert_allclose(together(model, windows), expected, atol=2e-5, rtol=0)
    assert (len(calls) == 2) is (architecture not in NO_SHARING)


NO_SHARING = {"bloom", "gemma2", "mamba"}
"""ALiBi takes its distances from a mask of its own; these windows are longer than the sliding one of this Gemma;
a state space reads one token after another."""


def pytest_generate_tests(metafunc):
    if "architecture" in metafunc.fixturenames:
        hf_models = pytest.importorskip("support.hf_models", reason="needs the extra hf")
        metafunc.parametrize("architecture", hf_models.ARCHITECTURES)


@pytest.mark.usefixtures("one_thread")
def test_a_mask_that_is_not_heeded_is_found_out(tmp_path, monkeypatch):
    from support.hf_models import build, save

    save(tmp_path)
    body = transformers.LlamaModel.forward

    def wrong(self, *args, attention_mask=None, **kwargs):
        return body(self, *args, **kwargs)

    monkeypatch.setattr(transformers.LlamaModel, "forward", wrong)
    model = build(tmp_path)
    assert not model.shares_prefixes
    windows = options(prefix=40, longest=12)
    np.testing.assert_allclose(together(model, windows), alone(model, windows), atol=2e-5, rtol=0)


@pytest.mark.usefixtures("one_thread")
def test_positions_that_depend_on_the_length_are_not_shared(tmp_path):
    from support.hf_models import GROUPED, build, save

    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 10000.0}
    size = {**GROUPED, "rope_parameters": {**rope, "original_max_position_embeddings": 64}}
    save(tmp_path, "Phi3", {**size, "original_max_position_embeddings": 64, "max_position_embeddings": 256})
    model = build(tmp_path)
    assert not model.shares_prefixes
    windows = options(prefix=80, longest=12)  # all beyond 64, where the model changes its positions
    np.testing.assert_allclose(together(model, windows), alone(model, windows), atol=2e-5, rtol=0)


@pytest.mark.usefixtures("one_thread")
def test_a_model_with_a_mask_of_its_own_reads_no_tree(tmp_path):
    from support.hf_models import BARE, build, save

    size = {**BARE, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "window_size": 256}
    save(tmp_path, "GPTNeo", {**size, "max_position_embeddings": 1024, "attention_types": [[["global", "local"], 1]]})
    model = build(tmp_path)
    assert not model.shares_prefixes
    windows = options(prefix=60, number=40)  # a tree of more tokens than the window
    np.testing.assert_allclose(together(model, windows), alone(model, windows), atol=2e-5, rtol=0)


def test_little_in_common_is_not_worth_it(monkeypatch):
    model = load_plugins().model(TINY, device="cpu")
    calls = counting(model, monkeypatch)
    windows = [Window([1] * 10 + [k] * 70, 1) for k in range(2, 5)]  # 20 of 237 tokens
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
def test_each_window_is_drawn_once_and_within_the_size(texts, bound):
    windows = [Window(ids, 1) for ids in texts]
    made = list(make_batches(windows, BatchSize(bound), Shares()))
    assert sorted(i for batch in made for i in batch) == list(range(len(windows)))
    for batch in made:
        fed = [tuple(windows[i].ids[:-1]) for i in batch]
        nodes = len({ids[:k] for ids in fed for k in range(1, len(ids) + 1)})
        assert len(batch) == 1 or min(nodes, len(batch) * max(map(len, fed))) <= bound


def test_what_begins_alike_is_drawn_together():
    texts = [[k % 7] * 50 + [k] for k in range(70)]
    for batch in make_batches([Window(ids, 1) for ids in texts], BatchSize(10_000), Shares()):
        assert len({texts[i][0] for i in batch}) <= -(-ENOUGH // 51) + 1


def test_the_options_of_a_question_are_scored_together():
    class Questions(evalgpt.Task):
        name = "questions"

        def documents(self):
            for number in range(4):
                context = f"Question {number}: which of these is the right answer to a long question? " * 5
                for option in ("yes", "no", "perhaps not today"):
                    yield evalgpt.Document(f"{number} {option}", option, context=context, group=str(number))

    model = Shares(context_length=400)
    evalgpt.evaluate(model, Questions(), "lm-eval", batch_tokens=400)
    for batch in model.batches:
        assert len({tuple(window.ids[:32]) for window in batch}) == 1
    assert len(model.batches) == 4
    model.batches.clear()
    model.shared_tokens = 0  # then what is alike saves nothing, and batches keep to their size
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
    monkeypatch.setattr(type(model), "hidden_tree", lambda *_: None)
    plain = evalgpt.evaluate(model, Pairs(), "exact")
    assert shared.metrics.loss == pytest.approx(plain.metrics.loss, abs=1e-6)
    assert (
        torch.tensor([row.loss for row in shared.rows]).sub(torch.tensor([r.loss for r in plain.rows])).abs().max()
        < 1e-5
    )
