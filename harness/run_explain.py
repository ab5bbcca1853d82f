"""``evalgpt explain``: build the model, take the walk, print it, write it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from evalgpt.core import UsageError
from evalgpt.explanation import explain
from evalgpt.files import STDOUT, write_bytes
from evalgpt.options import ModelOptions
from evalgpt.plugins import Plugins
from evalgpt.render_explain import print_explanation
from evalgpt.report import to_json
from evalgpt.targets import document_kind, own_command

__all__ = ["ExplainOptions", "explain_texts"]


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(ModelOptions):
    """The options of ``evalgpt explain``."""

    texts: Sequence[str] = ()
    top: int = 3
    prefix: bool = False


def explain_texts(plugins: Plugins, options: ExplainOptions) -> None:
    """Explain, print, write; the steps go to standard error where standard output is the document's."""
    to_stdout = options.output in STDOUT
    if options.output is not None and not to_stdout:
        options.check_target(options.output, document_kind("explanation"))
    if not options.texts:
        raise UsageError("give a text to explain, or - to read one from standard input")
    options.check(plugins)
    model = options.build_model(plugins, options.models[0])
    found = explain(model, options.texts, top=options.top, prefix=options.prefix)
    found = msgspec.structs.replace(found, command=own_command(options.targets.command))
    print_explanation(found, err=to_stdout)
    if to_stdout:
        sys.stdout.buffer.write(to_json(found))
    elif options.output is not None:
        write_bytes(to_json(found), options.output)
