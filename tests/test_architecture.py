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
    "streams": set(),
    "guard": {"core", "streams"},
    "validation": {"core", "guard"},
    "capabilities": {"core"},
    "answers": {"conformance", "core", "guard"},
    "environment": set(),
    "repeats": {"core"},
    "normalising": {"answers", "core", "guard"},
    "faults": {"core", "normalising", "repeats"},
    "verdicts": {"core", "faults", "metrics"},
    "conformance": {"core"},
    "checks_score": {"conformance", "core"},
    "checks_state": {"conformance", "core"},
    "checks_text": {"conformance", "core"},
    "checks_distribution": {"conformance", "core"},
    "checks_lengths": {"conformance", "core"},
    "checks_logits": {"checks_distribution", "conformance", "core"},
    "checks_text_kept": {"conformance", "core"},
    "checks_precision": {"checks_logits", "conformance", "core"},
    "testing": {
        "checks_distribution",
        "checks_lengths",
        "checks_logits",
        "checks_precision",
        "checks_score",
        "checks_state",
        "checks_text",
        "checks_text_kept",
        "conformance",
        "core",
        "guard",
        "streams",
    },
    "peers": {"core"},
    "windows": {"core"},
    "protocols": {"core", "hooks", "peers", "windows", "answers"},
    "statistics": set(),
    "words": {"core"},
    "metrics": {"core", "repeats", "statistics", "words"},
    "files": {"core"},
    "report": {"core", "files", "metrics", "validation", "verdicts"},
    "finding": {"core"},
    "targets": {"core", "files", "finding", "specs"},
    "alignment": {"core", "metrics", "repeats", "report"},
    "compare": {"alignment", "core", "repeats", "report", "statistics", "verdicts"},
    "cache": {"core", "answers"},
    "batching": {"cache", "core", "answers", "guard"},
    "engine": {"batching", "core", "validation", "protocols", "answers", "guard"},
    "detail": {"core", "files", "guard", "report"},
    "divergence": {"batching", "compare", "core", "engine", "protocols", "repeats", "answers", "guard"},
    "plugins": {"core", "hooks", "specs", "protocols", "guard", "streams", "validation"},
    "api": {
        "batching",
        "cache",
        "core",
        "detail",
        "engine",
        "environment",
        "faults",
        "metrics",
        "plugins",
        "protocols",
        "report",
        "sampling",
        "specs",
        "strata",
        "streaming",
        "verdicts",
        "answers",
        "guard",
        "validation",
    },
    "cells": set(),
    "streaming": {
        "batching",
        "cells",
        "core",
        "engine",
        "faults",
        "metrics",
        "normalising",
        "protocols",
        "words",
        "answers",
        "guard",
    },
    "spelling": {"core", "answers"},
    "explanation": {"api", "core", "engine", "plugins", "report", "spelling", "answers"},
    "generation": {"api", "core", "engine", "plugins", "report", "spelling", "answers"},
    "explain_steps": {"explanation", "render"},
    "render_explain": {"explain_steps", "explanation", "render", "specs"},
    "run_explain": {"targets", "core", "explanation", "files", "options", "plugins", "render_explain", "report"},
    "run_generate": {"targets", "files", "generation", "options", "plugins", "report", "specs"},
    "cli_learn": {"core", "generation", "run_explain", "run_generate", "shell"},
    "contexts": {"metrics", "report"},
    "difference": {"alignment", "contexts", "core", "report"},
    "verify": {"api", "batching", "conformance", "core", "engine", "protocols", "report", "sampling", "validation"},
    "sequential": {"statistics"},
    "strata": {"core", "sequential"},
    "sampling": {"batching", "compare", "conformance", "core", "engine", "report", "sequential", "strata", "answers"},
    "progress": {"engine", "specs"},
    "render": {"metrics", "report", "specs"},
    "options": {"targets", "cache", "core", "plugins", "progress", "protocols", "specs"},
    "render_compare": {"compare", "render", "specs", "statistics"},
    "run_compare": {
        "strata",
        "guard",
        "validation",
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
            "targets",
        ),
    },
    "run": {
        "strata",
        "targets",
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
    "run_check": {"targets", "core", "files", "guard", "plugins", "progress", "render", "report", "specs", "testing"},
    "run_difference": {"targets", "core", "difference", "files", "render", "report"},
    "run_verify": {"core", "plugins", "progress", "protocols", "render", "report", "specs", "verify", "engine"},
    "shell": {"targets", "core", "files", "plugins", "specs", "guard", "streams"},
    "page_text": {"alignment", "core", "report"},
    "page_data": {"alignment", "detail", "metrics", "report", "statistics"},
    "page_charts": {"page_data"},
    "page_map": {"alignment", "detail", "page_data", "page_text", "report"},
    "page_views": {
        *("alignment", "detail", "page_charts", "page_data", "page_map", "page_text", "render", "report"),
    },
    "page_compare": {
        *("alignment", "compare", "page_charts", "page_data", "page_map", "page_views"),
        *("render_compare", "report", "statistics"),
    },
    "page_walk": {"explain_steps", "explanation", "page_text", "page_views"},
    "page_training": {"page_charts", "page_views", "training_log"},
    "page": {
        *("compare", "core", "detail", "explanation", "page_compare", "page_text", "page_training", "page_views"),
        *("page_walk", "report", "training_log"),
    },
    "documents": {"core", "explanation", "files", "report", "training_log"},
    "run_html": {
        "targets",
        "core",
        "detail",
        "documents",
        "explanation",
        "files",
        "page",
        "report",
        "specs",
        "training_log",
    },
    "training_log": {"core", "files", "report"},
    "training_data": {"core", "engine", "protocols", "training_log", "windows", "validation"},
    "memorised": {"core", "report", "training_log", "answers"},
    "training": {
        "answers",
        "guard",
        "validation",
        *(
            "api",
            "batching",
            "core",
            "files",
            "memorised",
            "protocols",
            "report",
            "training_data",
            "training_log",
        ),
    },
    "curve": set(),
    "run_train": {
        "engine",
        *(
            "core",
            "curve",
            "environment",
            "files",
            "plugins",
            "progress",
            "protocols",
            "render",
            "specs",
            "targets",
            "training",
            "training_log",
        ),
    },
    "cli_reports": {"render", "report", "run_export", "run_html", "shell"},
    "cli_train": {"core", "run_train", "shell"},
    "export_base": {"core", "metrics", "report"},
    "export_csv": {"export_base", "metrics", "report", "specs"},
    "export_inspect": {"export_base", "metrics", "report"},
    "export_lm_eval": {"core", "export_base", "metrics", "report"},
    "export_markdown": {"export_base", "metrics", "render", "report", "specs"},
    "run_export": {
        *("core", "export_base", "export_csv", "export_inspect", "export_lm_eval", "export_markdown"),
        *("files", "report", "specs", "targets"),
    },
    "cli": {
        "streams",
        *(
            "cache",
            "cli_learn",
            "cli_reports",
            "cli_train",
            "compare",
            "difference",
            "explanation",
            "generation",
            "plugins",
            "render",
            "report",
            "run",
            "run_check",
            "run_compare",
            "run_difference",
            "run_verify",
            "shell",
            "specs",
            "testing",
            "training_log",
        ),
    },
    "__main__": {"cli"},
    "__init__": {"api", "core", "explanation", "generation", "hooks", "plugins", "report"},
}
"""What each module of the harness may import from the harness."""

SHARED_ADAPTERS = {
    "products",
    "tree",
    "base",
    "checkpoint",
    "gpt",
    "gpt2_bpe",
    "gpt_adapter",
    "evaluating",
    "hf_files",
    "hf_gguf",
    "hf_positions",
    "hf_source",
    "positions",
    "hf_loading",
    "hf_tokenizer",
    "tiled",
    "training",
}
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
    assert {name for name in ours if name not in exported} <= ALLOWED[module] | {"capabilities"}


def test_core_needs_the_standard_library_only():
    assert {name for name in at_top(ROOT / "core.py") if name != "evalgpt"} <= STANDARD


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda p: p.stem)
def test_the_harness_never_imports_torch(path):
    assert not {"torch", "transformers", "tiktoken"} & {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", sorted(ROOT.glob("adapters/*.py")), ids=lambda p: p.stem)
def test_adapters_import_core_the_marker_and_what_they_share(path):
    allowed = {"evalgpt.capabilities", "evalgpt.core", "evalgpt.hooks"} | {
        f"evalgpt.adapters.{name}" for name in SHARED_ADAPTERS | MODEL_FILES.get(path.stem, set())
    }
    assert {name for name in imports(path) if name.startswith("evalgpt")} <= allowed


def test_the_courses_gpt_is_plain_torch():
    assert {name.split(".")[0] for name in imports(ROOT / "adapters" / "gpt.py")} <= {
        "__future__",
        "dataclasses",
        "torch",
    }


@pytest.mark.parametrize("name", sorted(MODEL_FILES))
def test_plugin_modules_load_no_torch(name):
    assert set(at_top(ROOT / "adapters" / f"{name}.py")) <= STANDARD | {"evalgpt"}


@pytest.mark.parametrize("path", sorted(ROOT.glob("tasks/*.py")), ids=lambda p: p.stem)
def test_tasks_import_core_and_the_marker(path):
    allowed = {f"evalgpt.{name}" for name in ("core", "finding", "hooks", "tasks.formats", "tasks.reading")}
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
