"""The rules that keep the layers apart (docs/decisions/001), read off the source."""

import ast
from pathlib import Path

import pytest

import evalgpt

ROOT = Path(evalgpt.__file__).parent
STANDARD = {"__future__"} | set(__import__("sys").stdlib_module_names)

ALLOWED = {
    "core": set(),
    "hooks": set(),
    "specs": {"core", "hooks"},
    "environment": set(),
    "verdicts": {"core", "metrics"},
    "conformance": {"core"},
    "checks_score": {"conformance", "core"},
    "checks_text": {"conformance", "core"},
    "checks_distribution": {"conformance", "core"},
    "testing": {"checks_distribution", "checks_score", "checks_text", "conformance", "core"},
    "peers": {"core"},
    "windows": {"core"},
    "protocols": {"core", "hooks", "peers", "windows"},
    "statistics": set(),
    "metrics": {"core", "statistics"},
    "files": {"core"},
    "report": {"core", "files", "metrics", "verdicts"},
    "compare": {"core", "metrics", "report", "statistics", "verdicts"},
    "cache": {"core"},
    "batching": {"cache", "core"},
    "engine": {"batching", "core", "protocols"},
    "detail": {"core", "files", "report"},
    "divergence": {"batching", "compare", "core", "engine", "protocols"},
    "plugins": {"core", "hooks", "specs", "protocols"},
    "api": {
        "batching",
        "cache",
        "core",
        "detail",
        "engine",
        "environment",
        "metrics",
        "plugins",
        "protocols",
        "report",
        "sampling",
        "specs",
        "verdicts",
    },
    "contexts": {"metrics", "report"},
    "difference": {"compare", "contexts", "core", "report"},
    "verify": {"api", "batching", "conformance", "core", "engine", "protocols", "report", "sampling"},
    "sequential": {"statistics"},
    "sampling": {"batching", "compare", "conformance", "core", "engine", "report", "sequential"},
    "progress": {"engine", "specs"},
    "render": {"metrics", "report", "specs"},
    "options": {"cache", "core", "plugins", "progress", "protocols", "specs"},
    "render_compare": {"compare", "render", "specs", "statistics"},
    "run_compare": {
        *(
            "api",
            "batching",
            "cache",
            "compare",
            "core",
            "divergence",
            "engine",
            "files",
            "options",
            "plugins",
            "progress",
            "protocols",
            "render_compare",
            "report",
            "sampling",
        )
    },
    "run": {
        "api",
        "cache",
        "core",
        "detail",
        "files",
        "options",
        "plugins",
        "progress",
        "protocols",
        "render",
        "report",
        "specs",
    },
    "run_check": {"core", "files", "plugins", "progress", "render", "report", "specs", "testing"},
    "run_difference": {"core", "difference", "files", "render", "report"},
    "run_verify": {"core", "plugins", "progress", "protocols", "render", "report", "specs", "verify"},
    "export_base": {"core", "metrics", "report"},
    "export_csv": {"export_base", "metrics", "report", "specs"},
    "export_inspect": {"export_base", "metrics", "report"},
    "export_lm_eval": {"core", "export_base", "metrics", "report"},
    "export_markdown": {"export_base", "metrics", "render", "report", "specs"},
    "run_export": {
        *("core", "export_base", "export_csv", "export_inspect", "export_lm_eval", "export_markdown"),
        *("files", "report", "specs"),
    },
    "shell": {"core", "plugins", "specs"},
    "cli": {
        *(
            "cache",
            "compare",
            "difference",
            "plugins",
            "render",
            "report",
            "run",
            "run_check",
            "run_compare",
            "run_difference",
            "run_export",
            "run_verify",
            "shell",
            "specs",
            "testing",
        )
    },
    "__main__": {"cli"},
    "__init__": {"api", "core", "hooks", "plugins", "report"},
}
"""What each module of the harness may import from the harness."""

SHARED_ADAPTERS = {"base", "checkpoint", "gpt", "gpt2_bpe", "gpt_adapter", "hf_loading", "hf_tokenizer", "tiled"}
MODEL_FILES = {"scratch": {"scratch_weights"}, "gpt2": {"gpt2_weights"}, "hf": {"hf_model"}}
"""A plugin whose model needs torch keeps it in a file of its own, which it alone imports."""


def imports(path):
    """Absolute names of every module that ``path`` imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "evalgpt":
                yield from (f"evalgpt.{alias.name}" for alias in node.names)
            else:
                yield node.module


def at_top(path):
    """Top-level packages that importing ``path`` imports at once, outside functions and TYPE_CHECKING."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


@pytest.mark.parametrize("module", sorted(p.stem for p in ROOT.glob("*.py")))
def test_the_harness_imports_downwards_only(module):
    ours = {name.split(".")[1] for name in imports(ROOT / f"{module}.py") if name.startswith("evalgpt.")}
    exported = set(evalgpt.__all__)
    assert {name for name in ours if name not in exported} <= ALLOWED[module]


def test_core_needs_the_standard_library_only():
    assert {name for name in at_top(ROOT / "core.py") if name != "evalgpt"} <= STANDARD


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda p: p.stem)
def test_the_harness_never_imports_torch(path):
    assert not {"torch", "transformers", "tiktoken"} & {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", sorted(ROOT.glob("adapters/*.py")), ids=lambda p: p.stem)
def test_adapters_import_core_the_marker_and_what_they_share(path):
    allowed = {"evalgpt.core", "evalgpt.hooks"} | {
        f"evalgpt.adapters.{name}" for name in SHARED_ADAPTERS | MODEL_FILES.get(path.stem, set())
    }
    assert {name for name in imports(path) if name.startswith("evalgpt")} <= allowed


@pytest.mark.parametrize("name", sorted(MODEL_FILES))
def test_plugin_modules_load_no_torch(name):
    assert set(at_top(ROOT / "adapters" / f"{name}.py")) <= STANDARD | {"evalgpt"}


@pytest.mark.parametrize("path", sorted(ROOT.glob("tasks/*.py")), ids=lambda p: p.stem)
def test_tasks_import_core_and_the_marker(path):
    allowed = {"evalgpt.core", "evalgpt.hooks", "evalgpt.tasks.reading"}
    assert {name for name in imports(path) if name.startswith("evalgpt")} <= allowed


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 350


def test_all_is_what_there_is():
    for name in evalgpt.__all__:
        assert getattr(evalgpt, name) is not None
    assert set(dir(evalgpt)) == set(evalgpt.__all__)
    assert evalgpt.__version__
    with pytest.raises(AttributeError, match="no attribute"):
        _ = evalgpt.nothing
