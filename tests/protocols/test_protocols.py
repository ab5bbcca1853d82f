"""Every protocol against a naive implementation that shares nothing with it, on random N, L and S."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import naive_protocols as naive
from support.models import BytesModel, hashed_loss

from evalgpt import Document, EvaluationError, UsageError, Window
from evalgpt.core.plugins import load_plugins
from evalgpt.protocols.book import book
from evalgpt.protocols.exact import exact
from evalgpt.protocols.hf_strided import hf_strided
from evalgpt.protocols.llama_cpp import llama_cpp
from evalgpt.protocols.lm_eval import lm_eval
from evalgpt.scoring.batching import BatchSize, Scorer
from evalgpt.scoring.engine import score_documents

PREFIX = 999

lengths = st.integers(0, 60)
contexts = st.integers(1, 20)


@st.composite
def context_and_stride(draw, smallest=1):
    context = draw(st.integers(smallest, 20))
    return context, draw(st.integers(1, context))


def events(windows: list[Window]):
    """(window, position, tokens fed before) of every score, in window order."""
    return [
        (number, window.begin + at, tuple(window.ids[:at]))
        for number, window in enumerate(windows)
        for at in range(window.start, len(window.ids))
    ]


def text_ids(n: int) -> list[int]:
    return list(range(100, 100 + n))


@given(lengths, context_and_stride(), st.sampled_from([None, PREFIX]))
def test_exact_is_the_naive_one(n, context_stride, prefix):
    ids = text_ids(n)
    assert events(list(exact(ids, *context_stride, prefix))) == naive.exact(ids, *context_stride, prefix)


@given(lengths, context_and_stride(), st.sampled_from([None, PREFIX]))
def test_exact_scores_every_token_once_with_enough_context(n, context_stride, prefix):
    context, stride = context_stride
    scored = events(list(exact(text_ids(n), context, stride, prefix)))
    assert [position for _, position, _ in scored] == list(range(0 if prefix else 1, n))
    assert all(len(fed) >= context - stride + 1 for number, _, fed in scored if number > 0)
    assert all(len(fed) <= context for _, _, fed in scored)


@given(lengths, contexts)
def test_lm_eval_is_the_naive_one(n, context):
    assert events(list(lm_eval(text_ids(n), context, PREFIX))) == naive.lm_eval(text_ids(n), context, PREFIX)


@given(lengths, context_and_stride(smallest=2))
def test_hf_strided_is_the_naive_one(n, context_stride):
    ids = text_ids(n)
    assert events(list(hf_strided(ids, *context_stride))) == naive.hf_strided(ids, *context_stride)


@given(lengths, st.integers(3, 20), st.sampled_from([None, PREFIX]))
def test_llama_cpp_is_the_naive_one(n, context, bos):
    ids = text_ids(n)
    if n < 2 * context:
        with pytest.raises(EvaluationError, match="at least two chunks"):
            list(llama_cpp(ids, context, bos))
    else:
        assert events(list(llama_cpp(ids, context, bos))) == naive.llama_cpp(ids, context, bos)


@given(lengths, context_and_stride(), st.booleans())
def test_book_is_the_naive_one(n, context_stride, drop):
    ids = text_ids(n)
    assert events(list(book(ids, *context_stride, drop))) == naive.book(ids, *context_stride, drop)


def rows_of(spec: str, text: str, **model_options):
    model = BytesModel(context_length=64, **model_options)
    protocol = load_plugins().protocol(spec).bind(model)
    return protocol, score_documents(Scorer(model, BatchSize(100)), [Document("d", text)], protocol).rows


def losses_by_window(scored):
    windows: dict[int, list[float]] = {}
    for number, _, fed, target in scored:
        windows.setdefault(number, []).append(hashed_loss(fed, target))
    return list(windows.values())


@given(st.integers(2, 80), context_and_stride(smallest=2))
def test_hf_strided_averages_are_the_published_ones(n, context_stride):
    context, stride = context_stride
    text = "x" * n
    ids = list(text.encode())
    scored = [(w, p, fed, ids[p]) for w, p, fed in naive.hf_strided(ids, context, stride)]
    windows = list(zip(losses_by_window(scored), naive.hf_targets(ids, context, stride), strict=True))
    protocol, rows = rows_of(f"hf-strided:context={context},stride={stride}", text)
    ours = protocol.peer(rows)
    if all(target == 1 for _, target in windows):
        assert "perplexity_v3" not in ours
        return
    for name, theirs in zip(("v1", "v2", "v3"), naive.hf_averages(windows), strict=True):
        assert ours[f"perplexity_{name}"] == pytest.approx(theirs, rel=1e-6)


@given(st.integers(6, 90), st.booleans())
def test_llama_cpp_headline_is_its_definition(n, adds_bos):
    text = "".join(chr(97 + i % 26) for i in range(n))
    ids = [256, *text.encode()] if adds_bos else list(text.encode())
    events_ = naive.llama_cpp(ids, 3, 256 if adds_bos else None)
    perplexity, error = naive.llama_cpp_headline([hashed_loss(fed, ids[p]) for _, p, fed in events_])
    protocol, rows = rows_of("llama.cpp:context=3", text, adds_bos=adds_bos)
    ours = protocol.peer(rows)
    assert ours["perplexity"] == pytest.approx(perplexity, rel=1e-6)
    assert ours["standard_error"] == pytest.approx(error, rel=1e-5, abs=1e-5)
    assert [w.first for w in rows[0].windows] == sorted({p - adds_bos for _, p, _ in events_ if (p % 3) == 2})


@given(st.integers(20, 120), st.integers(1, 8))
def test_book_means_are_the_courses(n, context):
    text = "".join(chr(97 + i % 26) for i in range(n))
    cut = int(0.9 * n)
    protocol, rows = rows_of(f"book:context={context}", text)
    ours = protocol.peer(rows)
    for split, part, drop in (("train", text[:cut], True), ("validation", text[cut:], False)):
        ids = list(part.encode())
        windows = losses_by_window([(w, p, f, ids[p]) for w, p, f in naive.book(ids, context, context, drop)])
        if windows:
            expected = naive.book_mean_of_batch_means(windows)
            assert ours[f"{split}_loss"] == pytest.approx(expected, rel=1e-6)
        else:
            assert f"{split}_loss" not in ours


def test_book_says_that_it_dropped_an_odd_window():
    protocol, rows = rows_of("book:context=10", "a" * 40)
    assert [len(row.windows) for row in rows] == [2, 0]
    assert "odd number of windows" in protocol.notes(rows)[0]
    protocol, rows = rows_of("book:context=10", "a" * 30)
    assert protocol.notes(rows) == []


def test_lm_eval_counts_words_as_it_splits_them():
    text = " two words \n"
    protocol, rows = rows_of("lm-eval", text)
    nll = sum(hashed_loss((256, *text.encode()[:i]), text.encode()[i]) for i in range(len(text)))
    assert protocol.peer(rows)["word_perplexity"] == pytest.approx(np.exp(nll / 4), rel=1e-6)


@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_exact_scores_only_the_continuation_of_a_context(prefix):
    model = BytesModel()
    protocol = load_plugins().protocol(f"exact:prefix={prefix}").bind(model)
    document = Document("d", " moves you", context="every effort")
    (row,) = score_documents(Scorer(model, BatchSize(64)), [document], protocol).rows
    whole = list(b"every effort moves you")
    lead = (256,) if prefix == "auto" else ()
    expected = [hashed_loss((*lead, *whole[:i]), whole[i]) for i in range(12, len(whole))]
    assert row.nll.tolist() == expected


@given(st.integers(1, 10), st.integers(1, 40), context_and_stride())
def test_a_long_context_is_fed_and_never_scored(given_tokens, scored_tokens, context_stride):
    context, stride = context_stride
    model = BytesModel()
    protocol = load_plugins().protocol(f"exact:context={context},stride={stride}").bind(model)
    document = Document("d", "y" * scored_tokens, context="x" * given_tokens)
    (row,) = score_documents(Scorer(model, BatchSize(64)), [document], protocol).rows
    positions = [w.first + i for w in row.windows for i in range(w.size)]
    assert positions == list(range(given_tokens, given_tokens + scored_tokens))


def test_lm_eval_scores_a_continuation_without_a_prefix_and_cut_on_the_left():
    model = BytesModel(context_length=6)
    protocol = load_plugins().protocol("lm-eval").bind(model)
    (row,) = score_documents(Scorer(model, BatchSize(64)), [Document("d", "xyz", context="abcdefgh")], protocol).rows
    whole = list(b"abcdefghxyz")
    assert row.nll.tolist() == [hashed_loss(tuple(whole[4:i]), whole[i]) for i in range(8, 11)]
    with pytest.raises(EvaluationError, match="does not fit"):
        score_documents(Scorer(model, BatchSize(64)), [Document("d", "1234567", context="abc")], protocol)


@pytest.mark.parametrize("name", ["hf-strided", "llama.cpp", "book"])
def test_protocols_for_whole_texts_refuse_a_context(name):
    model = BytesModel()
    protocol = load_plugins().protocol(name).bind(model)
    with pytest.raises(UsageError, match="continuation"):
        score_documents(Scorer(model, BatchSize(64)), [Document("d", "b", context="a")], protocol)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("exact:context=33", "accepts 1 to 32"),
        ("exact:context=0", "accepts 1 to 32"),
        ("exact:stride=0", "accepts 1 to 32"),
        ("exact:context=8,stride=9", "accepts 1 to 8"),
        ("hf-strided:context=1", "accepts 2 to 32"),
        ("llama.cpp:context=2", "accepts 3 to 32"),
        ("book:stride=-1", "accepts 1 to 32"),
    ],
)
def test_a_context_or_stride_out_of_range_is_refused(spec, message):
    with pytest.raises(UsageError, match=message):
        load_plugins().protocol(spec).bind(BytesModel())


def test_lm_eval_needs_a_prefix():
    with pytest.raises(UsageError, match="neither"):
        load_plugins().protocol("lm-eval").bind(BytesModel(prefix_id=None))


def test_defaults_follow_the_model():
    model = BytesModel(context_length=1024)
    bound = {name: load_plugins().protocol(name).bind(model) for name in load_plugins().entries["protocol"]}
    assert {name: p.context for name, p in bound.items()} == {
        "exact": 1024,
        "lm-eval": 1024,
        "hf-strided": 1024,
        "llama.cpp": 512,
        "book": 256,
    }
    assert bound["exact"].settings() == {"context": 1024, "stride": 512, "prefix": "auto"}
    assert bound["book"].settings() == {"context": 256, "stride": 256}
    assert bound["lm-eval"].settings() == {"context": 1024}


def test_a_window_must_score_something():
    with pytest.raises(ValueError, match="cannot score"):
        Window([1, 2], 2)
    with pytest.raises(ValueError, match="cannot score"):
        Window([1, 2], 0)
