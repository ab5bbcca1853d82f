"""The ledger's sums and the metrics' definitions, against plain Python."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import BytesModel

from evalgpt import Document, Encoding, Row, Scored
from evalgpt.core.plugins import load_plugins
from evalgpt.report.metrics import ledger, measure, token_means
from evalgpt.scoring.batching import BatchSize, Scorer
from evalgpt.scoring.engine import score_documents

SPECS = ("exact", "exact:prefix=none", "lm-eval", "hf-strided", "llama.cpp", "book", "book:stride=2")


def rows_of(spec, texts, **options):
    model = BytesModel(context_length=8, **options)
    protocol = load_plugins().protocol(spec).bind(model)
    return score_documents(
        Scorer(model, BatchSize(50)), [Document(str(i), t) for i, t in enumerate(texts)], protocol
    ).rows


@given(st.sampled_from(SPECS), st.lists(st.text("abc dé", min_size=20, max_size=60), min_size=1, max_size=4))
def test_the_ledger_accounts_for_every_token(spec, texts):
    rows = rows_of(spec, texts)
    found = ledger(rows)
    assert found.tokens == sum(len(row.ids) for row in rows)
    assert found.tokens == found.given + found.scored + found.head + found.inside + found.tail
    times = [0] * found.tokens
    lengths = []
    at = 0
    for row in rows:
        for window in row.windows:
            for i in range(window.size):
                times[at + window.first + i] += 1
                lengths.append(window.context + i)
        at += len(row.ids)
    assert found.scored == sum(1 for n in times if n)
    assert found.twice == sum(1 for n in times if n > 1)
    assert found.scores == sum(times) == len(lengths)
    assert (found.context.smallest, found.context.largest) == (min(lengths), max(lengths))
    assert found.context.median == np.median(lengths)
    assert found.context.mean == pytest.approx(np.mean(lengths))
    for low, high, count in found.context.histogram:
        assert count == sum(low <= n <= high for n in lengths)
    assert sum(count for *_, count in found.context.histogram) == len(lengths)


@given(st.sampled_from(SPECS), st.text("ab \n", min_size=20, max_size=80))
def test_metrics_are_their_definitions(spec, text):
    rows = rows_of(spec, [text])
    found = measure(rows)
    nll = [float(x) for row in rows for x in row.nll]
    assert found.loss == pytest.approx(math.fsum(nll) / len(nll), abs=1e-12)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.bits_per_token == pytest.approx(found.loss / math.log(2))
    means = np.concatenate([token_means(row) for row in rows])
    once = float(np.nansum(means))
    assert found.bytes == int((~np.isnan(means)).sum())  # a token of this model is a byte
    assert found.bits_per_byte == pytest.approx(once / found.bytes / math.log(2))
    assert found.byte_perplexity == pytest.approx(2**found.bits_per_byte)
    words = 0
    for row in rows:
        scored = ~np.isnan(token_means(row))  # a character of this text is a byte, and so a token
        for i, character in enumerate(row.text):
            words += bool(not character.isspace() and (i == 0 or row.text[i - 1].isspace()) and scored[i])
    assert found.words == words
    assert found.word_perplexity is None or found.word_perplexity == pytest.approx(math.exp(once / words))


def test_bytes_of_a_whole_text_are_known_without_spans_and_of_a_part_are_not():
    assert measure(rows_of("exact", ["héllo wörld"], spans=False)).bytes == 13
    partly = measure(rows_of("exact:prefix=none", ["héllo wörld"], spans=False))
    assert (partly.bytes, partly.bits_per_byte, partly.word_perplexity) == (None, None, None)


def row(nll, text="ab"):
    return Row(
        Document("d", text), "", text, 0, list(text.encode()), None, 0, [Scored(0, len(nll), 1)], np.float32(nll)
    )


def test_sums_are_taken_in_float64():
    # In float32 sums, one big loss would swallow the small ones added to it.
    many = [row([1e8, 0.0])] + [row([0.25, 0.25]) for _ in range(100)]
    assert measure(many).nll == 1e8 + 50


def test_a_perplexity_beyond_a_float_is_none():
    found = measure([row([1e30, 1e30])])
    assert found.perplexity is None
    assert found.loss == pytest.approx(1e30)


def test_token_means_average_what_was_scored_twice():
    scored = Row(
        Document("d", "abc"),
        "",
        "abc",
        0,
        [1, 2, 3],
        None,
        0,
        [Scored(1, 2, 1), Scored(2, 1, 1)],
        np.float32([1, 2, 4]),
    )
    means = token_means(scored)
    assert np.isnan(means[0])
    assert means[1:].tolist() == [1.0, 3.0]


def test_a_token_that_reaches_out_of_the_context_counts_for_its_part_of_the_text():
    document = Document("d", "efgh", context="abc")
    ids, spans = [1, 2, 3, 4], [(0, 2), (2, 4), (4, 6), (6, 7)]
    scored = Row(document, "", "efgh", 0, ids, spans, 1, [Scored(1, 3, 1)], np.float32([1, 1, 1]))
    assert (measure([scored]).bytes, measure([scored]).words) == (4, 1)


@pytest.mark.parametrize("spec", ["exact", "exact:prefix=none", "lm-eval"])
def test_a_context_that_merges_into_the_first_token_is_no_trouble(spec):
    class Merging(BytesModel):
        def encode(self, text):
            first = min(5, len(text))
            return Encoding([7, *text.encode()[first:]], [(0, first), *((i, i + 1) for i in range(first, len(text)))])

    model = Merging()
    protocol = load_plugins().protocol(spec).bind(model)
    rows = score_documents(Scorer(model, BatchSize(64)), [Document("d", "y effort", context="ever")], protocol).rows
    assert measure(rows).bytes == (8 if spec == "exact" else 7)


def test_words_cut_by_a_window_count_once():
    text = "word " * 30
    whole, half = measure(rows_of("exact", [text])), measure(rows_of("llama.cpp", [text]))
    assert whole.words == 30
    assert half.words < 20
