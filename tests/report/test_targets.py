"""Nobody's file is lost: what a command may write over, and what killed runs leave."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from evalgpt.cli import cli
from evalgpt.core import UsageError
from evalgpt.report.files import TEMPORARY, check_writable, remove_leftovers
from evalgpt.report.targets import Targets, document_at, document_kind

MODEL = "scratch:n_layers=1,n_heads=1,emb_dim=8,context_length=16"
RUN = ["run", "-q", "--no-cache", "-m", MODEL]


def evalgpt(*args):
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("evalgpt: error: ")
    assert all(word in result.stderr for word in words), result.stderr


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("Every effort moves you forward.")
    Path("rows.jsonl").write_text('{"text": "Every effort moves you."}\n{"text": "It does so."}\n')
    return tmp_path


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("spec", ["text:rows.jsonl", "text:*.jsonl", "text:.", "text:./rows.jsonl,field=text"])
@pytest.mark.parametrize("how", ["itself", "link", "hard link"])
def test_an_input_is_never_replaced(here, spec, how, overwrite):
    before = Path("rows.jsonl").read_bytes()
    target = Path("rows.jsonl")
    if how != "itself":
        target = here / "other.json"
        target.symlink_to("rows.jsonl") if how == "link" else target.hardlink_to("rows.jsonl")
    refused(evalgpt(*RUN, "-t", spec, "-o", target, *overwrite), str(target))
    assert Path("rows.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1}',
        b'{"schema": "mine/1"}',
        b'{"schema": "evalgpt.report/1"}\n{"schema": "evalgpt.report/1"}\n',
        b'{"schema": "evalgpt.comparison/1", "comparisons": []}',
        b'{"schema": "evalgpt.report/1", "a": ' + b"[" * 100_000,
        b"\x00\xff" * 100,
        b"PK\x03\x04",
    ],
)
def test_what_is_no_report_is_never_replaced(here, content):
    Path("x.json").write_bytes(content)
    refused(evalgpt(*RUN, "-t", "text:a.txt", "-o", "x.json", "--overwrite"), "x.json")
    assert Path("x.json").read_bytes() == content


def test_a_report_is_replaced_by_its_own_command_or_on_request(here):
    first = [*RUN, "-t", "text:a.txt", "-o", "r.json"]
    other = [*RUN, "-t", "text:rows.jsonl", "-o", "r.json"]
    for command in (first, first):
        assert evalgpt(*command).exit_code == 0
    kept = Path("r.json").read_bytes()
    refused(evalgpt(*other), "a report of `", "a.txt", "--overwrite")
    assert Path("r.json").read_bytes() == kept
    for command in ([*other, "--overwrite"], other):
        assert evalgpt(*command).exit_code == 0


def test_flags_for_the_terminal_do_not_make_another_command(here):
    rest = ["--no-cache", "-m", MODEL, "-t", "text:a.txt", "-o", "r.json"]
    for flags in (["-q"], [], ["--quiet", "--debug"]):
        assert evalgpt("run", *flags, *rest).exit_code == 0
    refused(evalgpt("run", "--context", "8", *rest), "--overwrite")


def test_a_page_of_other_files_is_kept(here):
    pytest.importorskip("jinja2", reason="a page needs evalgpt's extra html")
    for name in ("a--b.json", "b.json"):
        assert evalgpt(*RUN, "-t", "text:a.txt", "-o", name).exit_code == 0
    both = ["html", "a--b.json", "b.json", "-o", "p.html"]
    assert evalgpt(*both).exit_code == 0
    kept = Path("p.html").read_bytes()
    assert b"a--b" not in kept.splitlines()[2]  # it would end the comment
    refused(evalgpt("html", "b.json", "-o", "p.html"), "html a--b.json b.json", "--overwrite")
    assert Path("p.html").read_bytes() == kept
    assert evalgpt(*both, "--title", "Again").exit_code == 0  # of the same files
    assert evalgpt("html", "b.json", "-o", "p.html", "--overwrite").exit_code == 0
    Path("p.html").write_bytes(b"".join(kept.splitlines(keepends=True)[:2]))  # of a version that did not say
    refused(evalgpt(*both), "--overwrite")


def test_a_report_with_a_byte_order_mark_is_read_and_known(here):
    assert evalgpt(*RUN, "-t", "text:a.txt", "-o", "r.json").exit_code == 0
    data = Path("r.json").read_bytes()
    Path("r.json").write_bytes(b"\xef\xbb\xbf" + data)
    assert evalgpt("show", "r.json").exit_code == 0
    assert evalgpt("html", "r.json").exit_code == 0
    assert document_at("r.json").what == "a report"


def test_a_target_and_another_of_the_command_are_two_files(here):
    models = ["-m", MODEL, "-m", f"{MODEL},seed=7", "-t", "text:a.txt"]
    Path("l.json").symlink_to("c.json")
    refused(evalgpt("compare", *models, "-o", "c.json", "--save-report", "l.json"), "c.json")
    assert not Path("c.json").exists()


def test_exports_replace_nothing_of_the_users(here):
    assert evalgpt(*RUN, "-t", "text:a.txt", "-o", "r.json").exit_code == 0
    for form, name in (("markdown", "README.md"), ("csv", "t.csv"), ("lm-eval", "l.json"), ("inspect", "i.json")):
        export = ["export", "r.json", "--to", form, "-o", name]
        for content in ("---\nlicense: mit\n---\n", '{\n  "results": {}}', '{\n  "version": 2, "eval": {}}'):
            Path(name).write_text(content)
            refused(evalgpt(*export, "--overwrite"), name)
            Path(name).unlink()
        for _ in range(2):  # the same bytes are not in the way
            assert evalgpt(*export).exit_code == 0
        edited = Path(name).read_bytes() + b"\n"
        Path(name).write_bytes(edited)
        refused(evalgpt(*export), name, "--overwrite")
        assert Path(name).read_bytes() == edited
        assert evalgpt(*export, "--overwrite").exit_code == 0


def test_two_reports_never_share_a_detail_file(here):
    detail = ["--detail", "npz"]
    for _ in range(2):
        assert evalgpt(*RUN, "-t", "text:a.txt", *detail, "-o", "r.json").exit_code == 0
    refused(evalgpt(*RUN, "-t", "text:a.txt", *detail, "-o", "r", "--overwrite"), "r.detail.npz")
    Path("r.json").unlink()
    refused(evalgpt(*RUN, "-t", "text:a.txt", *detail, "-o", "r.json"), "a detail file", "--overwrite")
    with zipfile.ZipFile("r.detail.npz", "w") as file:
        file.writestr("mine.npy", b"")
    refused(evalgpt(*RUN, "-t", "text:a.txt", *detail, "-o", "r.json", "--overwrite"), "r.detail.npz")


def test_a_folder_that_is_no_training_run_is_refused(here):
    Path("run").mkdir()
    Path("run/best.safetensors").write_bytes(b"mine")
    train = ["train", "-m", MODEL, "-t", "story", "-o", "run", "--steps", "1", "--overwrite"]
    refused(evalgpt(*train), "best.safetensors")
    assert Path("run/best.safetensors").read_bytes() == b"mine"


@pytest.mark.skipif(os.name == "nt", reason="locks of folders are POSIX's")
def test_leftovers_go_and_files_of_the_living_stay(tmp_path):
    script = (
        "import sys, time, pathlib; from evalgpt.report.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as name:\n"
        "    pathlib.Path(name).write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    running = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "x")], stdout=subprocess.PIPE)
    try:
        running.stdout.readline()
        mine = tmp_path / f"{TEMPORARY}mine"
        mine.write_text("a file of the user's")
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.glob(f"{TEMPORARY}*/written"))) == 1, "its writer lives"
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
        running.stdout.close()
    assert len(list(tmp_path.glob(f"{TEMPORARY}*/written"))) == 1
    check_writable(str(tmp_path / "y.json"))
    assert list(tmp_path.iterdir()) == [mine]


def test_python_m_runs_nothing_from_the_current_folder(here):
    """But what Python itself imports before it comes to evalgpt."""
    Path("probe").mkdir()
    Path("probe/__init__.py").write_text("import sys; print(*sys.modules)")
    Path("probe/__main__.py").write_text("")
    loaded = subprocess.run([sys.executable, "-m", "probe"], capture_output=True, text=True, check=True).stdout
    before = {name.partition(".")[0] for name in loaded.split()}
    others = {"click", "msgspec", "numpy", "pluggy", "rich", "safetensors", "tiktoken", "torch", "regex"}
    for name in (sys.stdlib_module_names | others) - before:
        Path(f"{name}.py").write_text(f"raise SystemExit('ran {name}')")
    done = subprocess.run([sys.executable, "-m", "evalgpt", "models"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_equal_runs_give_equal_bytes(here):
    """Whatever order Python's sets and safetensors' tables are in; a report's time, and its own name, apart."""
    Path("book.txt").write_text("every effort moves you " * 50)
    book, report = f"text:{here / 'book.txt'}", str(here / "1" / "r.json")
    commands = (
        [*RUN, "-t", f"text:{here / 'a.txt'}", "--detail", "npz", "-o", "r.json"],
        ["export", report, "--to", "csv", "-o", "r.csv"],
        ["export", report, "--to", "markdown", "-o", "r.md"],
        ["html", report, "-o", "r.html"],
        ["train", "-m", MODEL, "-t", book, "-o", "run", "--steps", "2", "--context", "8", "--sample", "", "-q"],
    )
    script = (
        "import json, sys; from evalgpt.cli import cli\n"
        "for given in json.loads(sys.argv[1]): cli(given, prog_name='evalgpt', standalone_mode=False)"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        Path(seed).mkdir()
        command = [sys.executable, "-c", script, json.dumps(commands)]
        done = subprocess.run(command, cwd=seed, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for name in ("r.detail.npz", "r.csv", "r.md", "r.html", "run/best.safetensors", "run/last.safetensors"):
        assert Path("1", name).read_bytes() == Path("2", name).read_bytes(), name
    one, two = (json.loads(Path(seed, "r.json").read_bytes()) for seed in "12")
    for report in (one, two):
        report["run"]["id"] = report["run"]["created"] = None
        report["evaluations"][0]["timing"] = None
    assert json.dumps(one) == json.dumps(two)


def test_a_spec_names_files_beside_its_argument(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "m.json").write_text("{}")
    (tmp_path / "hard.json").hardlink_to(model / "m.json")
    targets = Targets(specs=[f"hf:{model},gguf=m.json"])
    with pytest.raises(UsageError, match="reads"):
        targets.check(str(tmp_path / "hard.json"), document_kind("report"))


def test_what_standard_input_comes_from_is_not_replaced(tmp_path):
    """Also with --overwrite: `evalgpt run -t text:- -o r.json < r.json`."""
    target = tmp_path / "r.json"
    target.write_text('{"schema": "evalgpt.report/1"}')
    code = (
        "import sys; from evalgpt.report.targets import Targets, document_kind\n"
        "Targets(overwrite=True, specs=['text:-']).check(sys.argv[1], document_kind('report'))"
    )
    for name, refused in ((target, True), (tmp_path / "other", False)):
        name.write_bytes(target.read_bytes())
        with name.open("rb") as given:
            ran = subprocess.run(
                [sys.executable, "-c", code, str(target)], stdin=given, capture_output=True, check=False
            )
        assert (b"UsageError" in ran.stderr) == refused, ran.stderr


@pytest.mark.parametrize("name", ["", "new/"])
def test_a_target_without_a_name_of_a_file_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        Targets().check(name, document_kind("report"))
    assert list(tmp_path.iterdir()) == []
