"""The rules that keep the rooms apart (docs/decisions/018), read off the source."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

import evalgpt
from evalgpt.core.plugins import BUILTIN, load_plugins

ROOT = Path(evalgpt.__file__).parent
STANDARD = {"__future__"} | set(sys.stdlib_module_names)

ROOMS = {
    "core": set(),
    "protocols": {"core"},
    "report": {"core"},
    "testing": {"core"},
    "scoring": {"core", "protocols", "report"},
    "studies": {"core", "protocols", "report", "scoring"},
    "views": {"core", "report", "studies"},
    "cli": {"core", "protocols", "report", "scoring", "studies", "testing", "views"},
}
"""What each room of the harness may import from the harness, besides itself."""

HEAVY = {"torch", "transformers", "tiktoken"}
PLUGINS = {"scratch", "gpt2", "hf"}
"""Modules of adapters/ that are loaded to list the models."""

MANY = {("hf.py", "make_hf"), ("scratch.py", "make_scratch")}
"""Functions with more than 6 parameters: factories of adapters, whose keywords are the keys of a spec."""


def imports(path):
    """Absolute names of every module that ``path`` imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_top(path):
    """Top-level packages that importing ``path`` imports at once, outside functions and TYPE_CHECKING."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def ours(path):
    """What ``path`` imports of evalgpt, by the name behind ``evalgpt.``"""
    return {name.split(".")[1] for name in imports(path) if name.startswith("evalgpt.")}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_those_below_it_alone(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        assert ours(path) <= {room, *ROOMS[room]}, path


def test_nothing_lies_at_the_top_of_the_harness():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}
    assert {path.name for path in ROOT.iterdir() if path.is_dir()} - {"__pycache__"} == {*ROOMS, "adapters", "tasks"}


@pytest.mark.parametrize("room", ROOMS)
def test_the_harness_never_imports_torch(room):
    for path in (ROOT / room).rglob("*.py"):
        assert not HEAVY & {name.split(".")[0] for name in imports(path)}, path


def test_core_needs_little():
    for path in (ROOT / "core").rglob("*.py"):
        assert set(at_top(path)) <= STANDARD | {"evalgpt", "msgspec", "numpy", "pluggy"}, path


@pytest.mark.parametrize("kind", ["adapters", "tasks"])
def test_adapters_and_tasks_import_core_and_their_own(kind):
    for path in (ROOT / kind).rglob("*.py"):
        assert ours(path) <= {"core", kind}, path


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_plugin_modules_load_no_torch(name):
    assert set(at_top(ROOT / "adapters" / f"{name}.py")) <= STANDARD | {"evalgpt"}


NUMBERS = {"perplexity_v1", "perplexity_v2", "perplexity_v3", "standard_error", "train_loss", "validation_loss"}
"""Numbers of other tools, which protocols alone know."""

NAMED = {
    "core/plugins.py": ({"scratch"}, "an example in an error message"),
    "core/protocol.py": ({"exact"}, "the default, for all who name it"),
    "cli/commands/train.py": ({"book"}, "the command's default: it trains as the course does"),
    "cli/commands/export.py": ({"lm-eval"}, "a file format of that name"),
    "views/export/formats.py": ({"lm-eval"}, "a file format of that name"),
    "views/export/lm_eval.py": (
        {"lm-eval"},
        "a file format that says under which protocol its numbers are the tool's own",
    ),
    "views/page/cells.py": ({"book"}, "a heading such as Book One"),
    "tasks/books.py": ({"book"}, "the task's default: it is the book of the course"),
    "tasks/pairs.py": ({"exact"}, "the task's default has an option"),
    "protocols/averages.py": ({"book"}, "a function's name in __all__"),
}
"""Who may know the name of a protocol, an adapter or a number outside its file, and why."""


def strings(path):
    """The strings in ``path`` but docstrings and the modules of ``BUILTIN``."""
    tree = ast.parse(path.read_text())
    left_out = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in left_out and isinstance(node.value, str):
            yield from {node.value} - set(BUILTIN)


def named_in(path, names):
    """Which of ``names`` stand in a string of ``path`` as words; scratch.py and lm-evaluation are others."""
    names = sorted(names, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w./-])({'|'.join(map(re.escape, names))})(?![\w-]|\.\w)")
    return {found[1] for text in strings(path) for found in pattern.finditer(text)}


def test_no_name_of_a_protocol_an_adapter_or_a_number_is_known_elsewhere():
    entries = load_plugins().entries
    shipped = {kind: {e.name for e in entries[kind].values() if e.plugin in BUILTIN} for kind in ("protocol", "model")}
    known = {}
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT)
        names = shipped["protocol"] | NUMBERS | (set() if place.parts[0] == "adapters" else shipped["model"])
        if place.parts[0] == "protocols":
            names -= NUMBERS | {path.stem.replace("_", "-"), path.stem.replace("_", ".")}
        if found := named_in(path, names):
            known[str(place)] = found
    assert known == {place: names for place, (names, _) in NAMED.items()}


def test_names_are_found_where_they_are(tmp_path):
    (tmp_path / "a.py").write_text("'''exact'''\nif name == 'hf-strided':\n    print(f'use {x} or book', 'book.txt')\n")
    assert named_in(tmp_path / "a.py", {"exact", "hf", "hf-strided", "book"}) == {"hf-strided", "book"}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 350


def parameters(function):
    """How many parameters ``function`` has, besides self or cls."""
    args = function.args
    names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"])) + (args.vararg is not None) + (args.kwarg is not None)


def test_a_function_has_at_most_six_parameters():
    bench = Path(__file__).parent.parent / "bench"
    many = {
        (path.name, node.name)
        for path in (*ROOT.rglob("*.py"), *bench.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and parameters(node) > 6
    }
    assert many == MANY


def test_the_table_of_commands_is_what_they_say_of_themselves():
    import importlib

    from evalgpt.cli.app import COMMANDS

    for name, (module, attribute, text) in COMMANDS.items():
        command = getattr(importlib.import_module(f"evalgpt.cli.commands.{module}"), attribute)
        assert command.name == name
        assert (command.help or "").split("\n\n")[0].replace("\n", " ") == text


def test_all_is_what_there_is():
    for name in evalgpt.__all__:
        assert getattr(evalgpt, name) is not None
    assert set(dir(evalgpt)) == set(evalgpt.__all__)
    assert evalgpt.__version__
    with pytest.raises(AttributeError, match="no attribute"):
        _ = evalgpt.nothing


def test_no_test_is_skipped_for_want_of_a_file_of_ours():
    """A helper that moved would skip, and not fail, what asks for it by importorskip."""
    tests = Path(__file__).parent
    ours = {path.stem for path in tests.rglob("*.py")}
    wrong = []
    for path in sorted(tests.rglob("*.py")):
        for name in re.findall(r"importorskip\(\"([\w.]+)", path.read_text()):
            there = (tests / f"{name.replace('.', '/')}.py").is_file()
            wrong += [(path.name, name)] if name.rpartition(".")[2] in ours and not there else []
    assert wrong == []


def test_a_folder_that_setup_cfg_does_not_list_is_named(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("installed", Path(__file__).parent.parent / ".ci/installed.py")
    installed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installed)
    (tmp_path / "adapters/mine").mkdir(parents=True)
    (tmp_path / "adapters/mine/model.py").touch()
    (tmp_path / "setup.cfg").write_text(
        "[options]\npackages =\n    evalgpt\npackage_dir =\n    evalgpt.adapters = adapters\n"
    )
    monkeypatch.setattr(installed, "ROOT", tmp_path)
    assert installed.differences() == [
        "adapters/mine/ is not installed: add the line evalgpt.adapters.mine to packages in setup.cfg"
    ]
    with (tmp_path / "setup.cfg").open("a") as file:
        file.write("    evalgpt = harness\n")
    config = (tmp_path / "setup.cfg").read_text()
    (tmp_path / "setup.cfg").write_text(config.replace("    evalgpt\n", "    evalgpt.adapters.mine\n"))
    assert installed.differences() == ["adapters/mine/ has no __init__.py"]
