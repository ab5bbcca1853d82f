"""The spec grammar of the command line: ``name[:argument][,key=value...]``."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from evalgpt.core.errors import UsageError
from evalgpt.core.guard import calling
from evalgpt.core.hooks import Factory
from evalgpt.core.text import printable

__all__ = ["Spec", "check_commas", "how_to_read", "options_of", "parse", "resolve", "with_home"]


_OPTION = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)

COMMAS = r"a comma that belongs to a path or a value is written \,"
"""The rule that an error names where a path was taken for a key."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A parsed spec; ``str()`` gives the spec back in its canonical spelling."""

    name: str
    argument: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [] if self.argument is None else [_escaped(self.argument, every=False)]
        parts += [f"{key}={_escaped(value, every=True)}" for key, value in self.options.items()]
        parts = [_doubled(part) for part in parts[:-1]] + parts[-1:]
        return f"{self.name}:{','.join(parts)}" if parts else self.name


def parse(text: str) -> Spec:
    """Parse ``name[:argument][,key=value...]``.

    The name ends at the first colon or comma. The argument runs to the first ``,key=``, so it may hold commas and
    colons of its own; an argument that itself looks like ``key=value`` is written with a leading ``./``. A comma
    behind a backslash separates nothing: ``text:a\\,b=c.txt`` is the file ``a,b=c.txt``. A backslash that stands before
    a comma is itself doubled; any other is what it is.

    Raises:
        UsageError: no name, an empty argument, a key given twice, or a NUL.
    """
    if "\0" in text:
        raise UsageError(f"the spec {text!r} holds a NUL, which no name, path or value has")
    match = re.match(r"[^:,]*", text)
    name = match.group() if match else ""
    if not name.strip():
        raise UsageError(f"the spec {text!r} has no name; write name[:argument][,key=value...]")
    if text == name:
        return Spec(name)
    argument: list[str] = []
    options: dict[str, str] = {}
    for part in _parts(text[len(name) + 1 :]):
        option = _OPTION.fullmatch(part)
        if option is None:
            if options or text[len(name)] == ",":
                raise UsageError(f"in {text!r}, {part!r} is not key=value; {COMMAS}")
            argument.append(part)
        elif option[1] in options:
            raise UsageError(f"in {text!r}, the key {option[1]!r} is given twice")
        else:
            options[option[1]] = option[2]
    if not argument:
        return Spec(name, None, options)
    if argument == [""]:
        raise UsageError(f"nothing follows the {text[len(name)]!r} in {text!r}; write name[:argument][,key=value...]")
    return Spec(name, ",".join(argument), options)


def _parts(text: str) -> list[str]:
    """``text`` cut at its commas, but for those behind an odd number of backslashes, of which two are one."""
    parts = [""]
    at = 0
    for match in re.finditer(r"(\\*),", text):
        backslashes = len(match[1])
        parts[-1] += text[at : match.start()] + "\\" * (backslashes // 2)
        at = match.end()
        if backslashes % 2:
            parts[-1] += ","
        else:
            parts.append("")
    parts[-1] += text[at:]
    return parts


def _escaped(part: str, *, every: bool) -> str:
    """``part`` with its commas behind backslashes: ``every`` one, or those that would end an argument."""
    pieces = part.split(",")
    out = pieces[0]
    for piece in pieces[1:]:
        escape = every or _OPTION.fullmatch(piece) is not None
        out = _doubled(out) + ("\\," if escape else ",") + piece
    return out


def _doubled(text: str) -> str:
    """``text`` with the backslashes at its end twice, as they stand before a comma."""
    return text + "\\" * (len(text) - len(text.rstrip("\\")))


def options_of(factory: Factory) -> dict[str, inspect.Parameter]:
    """The keys that a spec may give to ``factory``: its keyword-only parameters."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def resolve(kind: str, spec: Spec, factory: Factory, given: Mapping[str, object] | None = None) -> dict[str, object]:
    """The options with which to call ``factory``: the spec's, converted to the annotated types, and ``given``.

    ``given`` holds options that come from elsewhere (``--device``), already typed; None values are left out.

    Raises:
        UsageError: a key the factory does not know, a value of another type, a key given in both places.
    """
    known = options_of(factory)
    who = f"{kind} {spec.name!r}"
    hints = _hints(factory, who) if spec.options else {}
    options: dict[str, object] = {}
    for key, value in spec.options.items():
        _require(key, known, who, comma=spec.argument is not None)
        options[key] = _convert(value, hints.get(key, str), f"{who}: {key}")
    for key, typed in (given or {}).items():
        if typed is None:
            continue
        _require(key, known, who)
        if key in options and options[key] != typed:
            raise UsageError(f"{who}: {key} is given twice, as {options[key]} in the spec and as {typed} beside it")
        options[key] = typed
    missing = [k for k, p in known.items() if p.default is inspect.Parameter.empty and k not in options]
    if missing:
        raise UsageError(f"{who} needs {missing[0]}=...; write {spec.name}:{missing[0]}=VALUE")
    return options


def how_to_read(name: str, factories: Mapping[str, Factory]) -> str:
    """The specs that read the path ``name``, as an error shows them; empty where there is no such file or folder, or
    none of the ``factories`` says that it reads it.

    Raises:
        EvaluationError: a factory's ``reads`` raised.
    """
    if not os.path.exists(name):  # noqa: PTH110 - a name too long for a path is no error here
        return ""
    specs = []
    for factory_name, factory in factories.items():
        reads = getattr(factory, "reads", None)
        if callable(reads):
            with calling(f"{factory_name!r}", "its reads"):
                specs.append(reads(name))
    named = " or ".join(spec for spec in specs if isinstance(spec, str))
    what = "folder" if os.path.isdir(name) else "file"  # noqa: PTH112
    return f"for the {what} of that name write {named}; " if named else ""


def with_home(spec: Spec) -> Spec:
    """``spec`` with ``~`` as the home directory, which shells leave alone behind a colon or an equals sign."""

    def expanded(value: str) -> str:
        try:
            return str(Path(value).expanduser()) if value.startswith("~") else value
        except RuntimeError:
            raise UsageError(
                f"{spec.name}: there is no user {value[1:].partition('/')[0]!r}, as {value!r} names; a file whose name "
                f"begins with ~ is written ./~"
            ) from None

    argument = None if spec.argument is None else expanded(spec.argument)
    return Spec(spec.name, argument, {key: expanded(value) for key, value in spec.options.items()})


def check_commas(spec: Spec) -> None:
    """Raise UsageError where the argument and the options of ``spec`` are together the name of a file, as in
    ``text:a,field=b.txt``, and the argument alone is not."""
    if spec.argument is None or not spec.options:
        return
    whole = ",".join([spec.argument, *(f"{key}={value}" for key, value in spec.options.items())])
    if os.path.exists(whole) and not os.path.exists(spec.argument):  # noqa: PTH110 - never raises
        raise UsageError(f"{spec.argument} is not there, and {whole} is: {COMMAS}, as in {spec.name}:{_in_spec(whole)}")


def _in_spec(path: str) -> str:
    return str(Spec("x", path)).removeprefix("x:")


def _hints(factory: Factory, who: str) -> dict[str, Any]:
    try:
        return get_type_hints(factory)
    except Exception as error:  # an annotation that only type checkers can see
        raise UsageError(f"{who}: its plugin's annotations cannot be read ({error})") from error


def _require(key: str, known: Mapping[str, object], who: str, *, comma: bool = False) -> None:
    if key not in known:
        accepted = f"it knows {', '.join(known)}" if known else "it takes none"
        rule = f"; {COMMAS}" if comma else ""
        raise UsageError(f"{who} does not know the key {key!r}; {accepted}{rule}")


def _short(value: str) -> str:
    return repr(value) if len(value) <= 60 else f"{value[:60]!r}..."


def _convert(value: str, kind: Any, who: str) -> object:
    import msgspec

    if printable(value) != value:  # bytes that are no UTF-8: a path at most
        if kind is str or str in get_args(kind):
            return value
        raise UsageError(f"{who} must be {getattr(kind, '__name__', kind)}, not {_short(value)}")
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        name = getattr(kind, "__name__", str(kind)).replace(" | None", "")
        name = "bool (true or false)" if name == "bool" else name
        raise UsageError(f"{who} must be {name}, not {_short(value)}") from None
    except (TypeError, RecursionError) as error:  # an annotation that no text can be converted to
        raise UsageError(f"{who} has an annotation that no value of a spec can have ({error})") from error
