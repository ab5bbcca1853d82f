"""Batches: a failed one is halved, what is done stays done, and a good size is found while scoring."""

import numpy as np
import pytest
from click.testing import CliRunner
from support.models import BytesModel

import evalgpt
from evalgpt import EvaluationError, UsageError
from evalgpt.cli import cli
from evalgpt.scoring.batching import AUTO, BatchSize, Scorer, make_batches
from evalgpt.views.wording.evaluation import sentences

pytestmark = pytest.mark.numeric

TINY = "scratch:emb_dim=16,n_heads=1,n_layers=1,context_length=32"


class Text(evalgpt.Task):
    name = "text"

    def documents(self):
        yield evalgpt.Document("one", "Every effort moves you, and I really like chocolate. " * 8)


class Small(BytesModel):
    """A machine whose memory ends at ``room`` tokens."""

    def __init__(self, room, error=None):
        super().__init__(context_length=16)
        self.room = room
        self.error = error or MemoryError()
        self.refused = []

    def score(self, windows, detail=None):
        tokens = len(windows) * max(len(w.ids) - 1 for w in windows)
        if tokens > self.room:
            self.refused.append(tokens)
            raise self.error
        return super().score(windows, detail)


class OutOfMemoryError(RuntimeError):
    """torch.cuda's, by its name."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
    ],
    ids=["python", "cuda", "cpu", "mps"],
)
def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered(error):
    model = Small(70, error)
    found = evalgpt.evaluate(model, Text(), batch_tokens=400)
    whole = evalgpt.evaluate(BytesModel(context_length=16), Text(), batch_tokens=400)
    assert found.metrics == whole.metrics
    assert found.batch_tokens <= 70
    assert len(model.refused) <= 4  # 400, 200, 100 at the most: not one failure a batch
    assert (found.timing.failed_batch_tokens, whole.timing.failed_batch_tokens) == (min(model.refused), 0)
    assert any(f" {min(model.refused)} tokens did not fit" in line for line in sentences(found))
    assert not any("did not fit" in line for line in sentences(whole))
    assert found.notes == whole.notes == []


def test_a_window_that_does_not_fit_is_told_what_would():
    with pytest.raises(
        EvaluationError,
        match=r"a single window of 16 tokens does not fit the memory of unknown, in document 'one', .*; give a",
    ):
        evalgpt.evaluate(Small(10), Text(), batch_tokens=400)


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(evalgpt.EvaluationError, match="index out of range") as raised:
        evalgpt.evaluate(Small(10, RuntimeError("index out of range in self")), Text())
    assert isinstance(raised.value.__cause__, RuntimeError)


def grown(speed, batches=40):
    """The size found when a batch of n tokens runs at ``speed(n)`` tokens per second."""
    size = BatchSize.of(BytesModel(), AUTO)
    for _ in range(batches):
        size.took(size.tokens, size.tokens / speed(size.tokens))
    return size


def test_auto_stops_doubling_where_it_does_not_pay():
    assert grown(lambda n: min(n, 4096)).tokens == 4096
    assert grown(lambda n: 1000.0).tokens == 256
    assert grown(lambda n: float(n)).tokens == 1 << 18
    assert not grown(lambda n: 1000.0).growing


def test_auto_is_not_misled_by_a_slow_first_batch_or_a_short_last_one():
    size = BatchSize.of(BytesModel(), AUTO)
    size.took(256, 10.0)  # the first call of a process warms up
    size.took(256, 256 / 1000)
    size.took(10, 10.0)  # a rest is no measure
    for _ in range(2):
        size.took(512, 512 / 1001)
    assert size.tokens == 256
    assert not size.growing


def test_auto_stops_where_memory_ends():
    size = grown(lambda n: float(n), batches=6)
    size.shrink(size.tokens)
    size.took(size.tokens, 1e-9)
    size.took(size.tokens, 1e-9)
    assert size.tokens == 1024
    assert not size.growing


def test_auto_from_python_and_from_the_command_line():
    found = evalgpt.evaluate(BytesModel(context_length=16), Text(), batch_tokens=AUTO)
    assert found.metrics == evalgpt.evaluate(BytesModel(context_length=16), Text()).metrics
    assert CliRunner().invoke(cli, ["run", "-m", TINY, "-t", "pairs", "--batch-tokens", "auto"]).exit_code == 0


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_bad_sizes_are_told(value):
    result = CliRunner().invoke(cli, ["run", "-m", TINY, "-t", "pairs", "--batch-tokens", value])
    assert result.exit_code == 2
    assert "neither a whole number from 1 up nor auto" in result.stderr
    with pytest.raises(UsageError, match="at least 1, not -1"):
        BatchSize.of(BytesModel(), -1)


def test_the_scorer_counts_what_it_computes():
    scorer = Scorer(BytesModel(), BatchSize(64))
    losses = scorer.score([evalgpt.Window([1, 2, 3, 4], 2), evalgpt.Window([5, 6], 1)])
    assert [scores.nll.dtype for scores in losses] == [np.float32, np.float32]
    assert (scorer.work.scores, scorer.work.fed_tokens) == (3, 4)


class SmallForTrees(BytesModel):
    """Memory for ``room`` nodes of a tree of the windows."""

    shared_tokens = 2048

    def __init__(self, room):
        super().__init__(context_length=64)
        self.room = room
        self.refused, self.nodes = [], []

    def score(self, windows, detail=None):
        nodes = len({tuple(w.ids[:end]) for w in windows for end in range(1, len(w.ids))})
        if nodes > self.room:
            self.refused.append(nodes)
            raise MemoryError
        self.nodes.append(nodes)
        return super().score(windows, detail)


def test_a_tree_that_does_not_fit_is_halved_by_what_it_holds():
    shared = [7] * 40
    windows = [evalgpt.Window([*shared, i, j, 0], 42) for i in range(16) for j in range(4)]
    size = BatchSize(200)
    model = SmallForTrees(90)
    scorer = Scorer(model, size)
    (all_of_them,) = make_batches(windows, size, model)
    losses = scorer.score([windows[i] for i in all_of_them])
    assert len(losses) == 64
    assert scorer.work.scores == 64
    (refused,) = model.refused  # the next ones fit, although as rows they would be many times as large
    assert size.failed == refused > 90
    assert size.tokens == refused // 2
    assert len(model.nodes) <= 4
    assert max(model.nodes) <= refused // 2


def test_the_speed_of_a_tree_is_that_of_its_nodes():
    size = BatchSize(48, growing=True)
    scorer = Scorer(SmallForTrees(1000), size)
    windows = [evalgpt.Window([*[7] * 40, i], 40) for i in range(8)]
    for _ in range(4):
        scorer.score(windows)  # 40 nodes, eight rows of 40
    assert size.tokens >= 96
    size = BatchSize(200, growing=True)
    scorer = Scorer(SmallForTrees(1000), size)
    for _ in range(4):
        scorer.score(windows)
    assert size.tokens == 200  # too few to tell
