"""The cache of scores: nothing is computed twice, nothing stale is found, and no trouble with it costs a run."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from support.models import BytesModel, hashed_loss

import evalgpt
from evalgpt import UsageError, Window
from evalgpt.cli import cli
from evalgpt.report import read_report
from evalgpt.scoring.cache import ScoreCache, default_path, identity

pytestmark = pytest.mark.numeric

VERSIONS = {"evalgpt": "1", "torch": "2", "platform": "here"}
MODEL = "scratch:emb_dim=32,n_heads=2,n_layers=1,context_length=32"


class Text(evalgpt.Task):
    name = "text"

    def documents(self):
        yield evalgpt.Document("one", "Every effort moves you, and I really like chocolate. " * 8)


def model(loss=hashed_loss, **facts):
    built = BytesModel(loss)
    built.cache_id = "bytes"
    for key, value in facts.items():
        setattr(built, key, value)
    return built


def measured(built, protocol="exact:context=16", **options):
    with ScoreCache() as cache:
        return evalgpt.evaluate(built, Text(), protocol, cache=cache, **options)


def without_timing(evaluation):
    return msgspec.to_builtins(msgspec.structs.replace(evaluation, timing=None))


def test_a_repeated_run_calls_no_model_and_gives_the_same():
    first, second = model(), model()
    a, b = measured(first), measured(second)
    assert first.batches
    assert not second.batches
    assert without_timing(a) == without_timing(b)
    assert a.timing.computed_scores == a.metrics.scores
    assert b.timing.computed_scores == 0


def test_another_protocol_with_the_same_windows_computes_the_rest():
    whole = evalgpt.evaluate(BytesModel(), Text(), "exact:context=16,stride=16")
    measured(model(), "exact:context=16,stride=16")
    again = model()
    found = measured(again, "lm-eval:context=16")  # the last, partial window alone differs
    assert found.timing.computed_scores == whole.metrics.scores % 16 > 0
    assert found.metrics == evalgpt.evaluate(BytesModel(), Text(), "lm-eval:context=16").metrics


@pytest.mark.parametrize(
    "other",
    [
        {"fingerprint": "b"},
        {"dtype": "bfloat16"},
        {"device": "cuda:1"},
        {"cache_id": "b"},
        {"tokenizer": {"name": "b"}},
    ],
    ids=lambda facts: next(iter(facts)),
)
def test_another_model_finds_nothing(other):
    measured(model())
    again = model(lambda c, t: 1.0, **other)
    assert measured(again).metrics.loss == 1.0


def test_the_second_gpu_is_a_gpu():
    assert identity(model(device="cuda:0"), VERSIONS) == identity(model(device="cuda:1"), VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_another_version_finds_nothing(version):
    assert identity(model(), VERSIONS) != identity(model(), {**VERSIONS, version: "9"})


def test_models_that_do_not_say_what_they_depend_on_are_not_kept():
    measured(BytesModel())
    assert ScoreCache().info().windows == 0
    assert measured(BytesModel(lambda c, t: 1.0)).metrics.loss == 1.0


def test_start_and_ids_are_in_the_key():
    cache = ScoreCache()
    keys = {cache.key("a", w) for w in (Window([1, 2, 3], 1), Window([1, 2, 3], 2), Window([1, 2, 4], 1))}
    assert len(keys | {cache.key("b", Window([1, 2, 3], 1))}) == 4
    assert cache.key("a", Window([1, 2, 3], 1, 7)) in keys  # where it lies in the document changes no score


def test_infinite_losses_are_not_kept():
    with pytest.raises(evalgpt.EvaluationError, match="infinite loss"):
        measured(model(lambda c, t: float("inf")))
    assert ScoreCache().info().windows == 0


def test_losses_come_back_to_the_bit():
    nll = np.array([1 / 3, 1e-30, 12345.678], dtype=np.float32)
    with ScoreCache() as cache:
        cache.put({b"k": nll})
        assert cache.get([b"k", b"none"])[b"k"].tobytes() == nll.tobytes()


def test_more_keys_than_one_question_takes():
    with ScoreCache() as cache:
        keys = [bytes([i % 256, i // 256]) for i in range(1700)]
        cache.put({key: np.float32([i]) for i, key in enumerate(keys)})
        found = cache.get(keys)
        assert [float(found[key][0]) for key in keys] == list(range(1700))


def test_the_longest_unused_go_first(tmp_path):
    path = tmp_path / "s.sqlite"
    with ScoreCache(path, limit=1 << 30) as cache:
        cache.put({b"old%d" % i: np.zeros(500, np.float32) for i in range(500)})
        cache.put({b"new%d" % i: np.zeros(500, np.float32) for i in range(500)})
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE scores SET day = 1")
    with ScoreCache(path, limit=3_200_000) as cache:
        assert len(cache.get([b"new%d" % i for i in range(500)])) == 500  # used today
    info = ScoreCache(path, limit=3_200_000).info()
    assert info.bytes <= 3_200_000
    assert path.stat().st_size <= 3_300_000
    with ScoreCache(path) as cache:
        assert len(cache.get([b"new%d" % i for i in range(500)])) == 500
        assert len(cache.get([b"old%d" % i for i in range(500)])) < 250


def test_the_limit_holds_while_a_run_writes(tmp_path):
    path = tmp_path / "s.sqlite"
    limit = 400_000
    generator = np.random.default_rng(1)
    with ScoreCache(path, limit=limit) as cache:
        for i in range(40):
            cache.put({b"%d" % i: generator.random(12_500).astype(np.float32)})  # 50 kB that do not pack
            assert cache.problem is None
        with closing(sqlite3.connect(path)) as database:
            ((pages,),) = database.execute("PRAGMA page_count")
            ((size,),) = database.execute("PRAGMA page_size")
        assert pages * size <= 1.5 * limit
        assert cache.get([b"%d" % i for i in range(40)])


@pytest.mark.parametrize("content", [b"this is no database, whatever its name says" * 100, b"\0" * 5000])
def test_a_file_that_is_none_costs_the_cache_and_not_the_run(content):
    default_path().parent.mkdir(parents=True)
    default_path().write_bytes(content)
    result = CliRunner().invoke(cli, ["run", "-m", MODEL, "-t", "pairs"])
    assert result.exit_code == 0
    assert "warning: scores are not kept in" in result.stderr
    result = CliRunner().invoke(cli, ["cache"])
    assert result.exit_code == 2
    assert "cannot be used" in result.stderr
    assert CliRunner().invoke(cli, ["cache", "clear"]).exit_code == 0
    assert "warning" not in CliRunner().invoke(cli, ["run", "-m", MODEL, "-t", "pairs"]).stderr


def test_a_folder_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVALGPT_CACHE", str(tmp_path / "file"))
    result = CliRunner().invoke(cli, ["run", "-m", MODEL, "-t", "pairs"])
    assert result.exit_code == 0
    assert "scores are not kept" in result.stderr


def test_a_locked_file_costs_the_cache_and_not_the_run(monkeypatch):
    measured(model())
    monkeypatch.setattr("evalgpt.scoring.cache.WAIT_SECONDS", 0.05)
    with closing(sqlite3.connect(default_path(), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with ScoreCache() as cache:
            found = evalgpt.evaluate(model(lambda c, t: 1.0, fingerprint="b"), Text(), cache=cache)
        assert found.metrics.loss == 1.0
        assert "locked" in cache.problem


def test_bad_limits_are_told(monkeypatch):
    monkeypatch.setenv("EVALGPT_CACHE_LIMIT", "lots")
    with pytest.raises(UsageError, match="whole number of MiB"):
        ScoreCache()


def test_the_commands_say_use_and_clear():
    run = ["run", "-m", MODEL, "-t", "pairs"]
    assert "0 windows, 0.0 MiB of 1024" in CliRunner().invoke(cli, ["cache"]).stdout
    assert "from the cache" not in CliRunner().invoke(cli, run).stdout
    assert "all losses from the cache" in CliRunner().invoke(cli, run).stdout
    assert "from the cache" not in CliRunner().invoke(cli, [*run, "--no-cache"]).stdout
    assert ": 2 windows, " in CliRunner().invoke(cli, ["cache", "info"]).stdout
    assert "2 windows, " in CliRunner().invoke(cli, ["cache", "clear"]).stdout
    assert ": 0 windows, " in CliRunner().invoke(cli, ["cache"]).stdout


def test_comparisons_use_it_too():
    CliRunner().invoke(cli, ["run", "-m", MODEL, "-t", "pairs"])
    CliRunner().invoke(cli, ["compare", "-m", MODEL, "-m", f"{MODEL},seed=7", "-t", "pairs"])
    assert ScoreCache().info().windows == 4


def test_verify_scores_anew(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    CliRunner().invoke(cli, ["run", "-m", MODEL, "-t", "pairs", "-o", str(path)])
    with closing(sqlite3.connect(default_path(), isolation_level=None)) as database:
        wrong = np.float32([1, 1, 1]).tobytes()
        database.execute("UPDATE scores SET nll = ?", (wrong,))
    assert CliRunner().invoke(cli, ["verify", str(path)]).exit_code == 0


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    text = tmp_path / "book.txt"
    text.write_text(" ".join(f"every effort number {i} moves you" for i in range(600)))
    plugin = Path(__file__).parent.parent / "support" / "numpy_plugin.py"
    command = ["run", f"--plugin={plugin}", "-m", "table", "-t", f"text:{text}", "-q", "--batch-tokens", "128", "-o"]
    slowly = ["table:pause=0.03" if part == "table" else part for part in command]  # it would take some ten seconds
    killed = subprocess.Popen(
        [sys.executable, "-m", "evalgpt", *slowly, str(tmp_path / "killed.json")],
        env={**os.environ, "PYTHONPATH": str(plugin.parent.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not default_path().exists() or ScoreCache().info().windows < 50):
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "killed before it was done"
    kept = ScoreCache().info().windows
    assert not (tmp_path / "killed.json").exists()
    assert CliRunner().invoke(cli, [*command, str(tmp_path / "resumed.json")]).exit_code == 0
    monkeypatch.setenv("EVALGPT_CACHE", str(tmp_path / "another"))
    assert CliRunner().invoke(cli, [*command, str(tmp_path / "whole.json")]).exit_code == 0
    resumed, whole = (read_report(str(tmp_path / name)).evaluations[0] for name in ("resumed.json", "whole.json"))
    assert 50 <= kept < len(whole.rows[0].tokenized.first)
    assert 0 < resumed.timing.computed_scores < whole.timing.computed_scores
    assert json.dumps(without_timing(resumed)) == json.dumps(without_timing(whole))


def test_a_damaged_row_is_computed_anew():
    whole = measured(model())
    for damage in ("substr(nll, 1, 4)", "substr(nll, 1, 7)", "x'00' || substr(nll, 2)", "nll || nll"):
        with closing(sqlite3.connect(default_path(), isolation_level=None)) as database:
            database.execute(f"UPDATE scores SET nll = {damage}")
        again = model()
        assert measured(again).metrics == whole.metrics
        assert again.batches


def test_a_subclass_of_a_shipped_adapter_finds_nothing_of_its_parents():
    from evalgpt.adapters.gpt.adapter import GPTAdapter

    parent = evalgpt.load_plugins().model(MODEL, device="cpu")
    assert parent.cache_id is not None

    class Halved(GPTAdapter):
        def hidden(self, ids):
            return super().hidden(ids) / 2

    child = object.__new__(Halved)
    vars(child).update(vars(parent))
    assert child.cache_id is None
    child.__class__ = GPTAdapter
    assert identity(child, VERSIONS) == identity(parent, VERSIONS)


def test_weights_that_were_changed_are_not_kept():
    import torch

    built = evalgpt.load_plugins().model(MODEL, device="cpu")
    first = measured(built, "exact")
    with torch.no_grad():
        built.module.out_head.weight.mul_(0.01)
    assert built.cache_id is None
    assert measured(built, "exact").metrics.loss != first.metrics.loss


def test_another_run_does_not_wait_for_one_that_is_busy_elsewhere():
    with ScoreCache() as one, ScoreCache() as other:
        one.put({b"a": np.float32([1.0])})
        other.put({b"b": np.float32([2.0])})  # one is loading its next model now
        assert set(one.get([b"a", b"b"])) == {b"a", b"b"}
        assert one.problem is other.problem is None


def test_home_is_the_home(monkeypatch):
    monkeypatch.setenv("EVALGPT_CACHE", "~/scores")
    assert "~" not in str(default_path())


def test_clear_where_there_is_no_folder(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVALGPT_CACHE", str(tmp_path / "file"))
    for action in ("info", "clear"):
        result = CliRunner().invoke(cli, ["cache", action])
        assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_a_cached_hf_report_is_the_fresh_one(tmp_path):
    hf_models = pytest.importorskip("support.hf_models", reason="needs the extra hf")
    hf_models.save(tmp_path)
    reports = [measured(hf_models.build(tmp_path), "exact") for _ in range(2)]
    assert reports[1].timing.computed_scores == 0
    assert without_timing(reports[0]) == without_timing(reports[1])
    assert reports[1].model.config["scoring"] == "tiled head"


ODD = {
    "a text": "3.5",
    "a number": 7,
    "empty": b"",
    "three bytes": b"abc",
    "NaN": "NaN",
    "below zero": "below",
}


@pytest.mark.parametrize("kind", ODD)
def test_a_row_of_another_kind_is_computed_again(kind):
    """SQLite lets any column hold any type, and a checksum says nothing of what was kept."""
    right = measured(model())
    value = ODD[kind]
    with closing(sqlite3.connect(default_path())) as database:
        rows = database.execute("SELECT key, nll FROM scores").fetchall()
        for key, packed in rows:
            count = len(packed) // 4 - 1
            if kind in ("NaN", "below zero"):
                data = np.full(count, np.nan if kind == "NaN" else -3.0, "<f4").tobytes()
                value = data + zlib.crc32(data).to_bytes(4, "little")
            database.execute("UPDATE scores SET nll = ?, day = 'today' WHERE key = ?", (value, key))
        database.commit()
    again = model()
    assert measured(again).metrics == right.metrics
    assert again.batches


@pytest.mark.parametrize(
    "table",
    ["CREATE TABLE scores (a, b)", "CREATE VIEW scores AS SELECT 1", "CREATE TABLE scores (key, nll, day, more)"],
)
def test_a_database_of_another_schema_costs_no_run(table):
    default_path().parent.mkdir(parents=True)
    with closing(sqlite3.connect(default_path())) as database:
        database.execute(table)
        database.commit()
    with ScoreCache() as cache:
        assert evalgpt.evaluate(model(), Text(), "exact:context=16", cache=cache).metrics == measured(model()).metrics
    assert cache.problem is not None


def test_a_folder_in_the_place_of_the_database_costs_no_run():
    default_path().mkdir(parents=True)
    with ScoreCache() as cache:
        evalgpt.evaluate(model(), Text(), "exact:context=16", cache=cache)
    assert "scores are not kept" in cache.problem


def test_a_user_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("EVALGPT_CACHE", "~nouser_of_evalgpt/cache")
    with pytest.raises(UsageError, match="no such user"):
        ScoreCache()


def test_an_interrupted_end_closes_the_file(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ScoreCache, "_trim", interrupted)
    cache = ScoreCache()
    with pytest.raises(KeyboardInterrupt), cache:
        database = cache._database
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        database.execute("SELECT 1")
