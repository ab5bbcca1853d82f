"""The hook marker for plugins, and the hooks they may implement."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

if TYPE_CHECKING:
    import click

__all__ = ["Factory", "Register", "hookimpl", "hookspec", "reads"]


GROUP = "evalgpt"

Factory = Callable[..., Any]
"""``factory(argument, *, key=default, ...)`` builds a model, task or protocol from its spec.

``argument`` is the text after the colon or None. The keyword-only parameters are the keys a spec may give; their
annotations (int, float, bool, str, or one of these with None) convert the values. What is heavy is imported
inside. The first line of its docstring is what listings show. Its attribute ``reads``, which it
may have, gives the spec that reads a path, or None: see :func:`reads`.
"""

Register = Callable[[str, Factory], None]
"""``register(name, factory)``; a name taken twice is an error."""

F = TypeVar("F", bound=Callable[..., Any])

_spec = pluggy.HookspecMarker(GROUP)

_impl = pluggy.HookimplMarker(GROUP)


def hookspec(function: F) -> F:
    """Mark a function as one of evalgpt's hooks."""
    return _spec(function)


def hookimpl(function: F) -> F:
    """Mark a plugin's function as its implementation of the hook of the same name."""
    return _impl(function)


def reads(spec_of: Callable[[str], str | None]) -> Callable[[F], F]:
    """Say how a spec of this factory reads a path: the error for a path given as a name then shows that spec.

    ``spec_of`` gets the path of a file or folder that is there, and returns the spec, or None for what the factory does
    not read.
    """

    def add(factory: F) -> F:
        vars(factory)["reads"] = spec_of
        return factory

    return add


@hookspec
def register_models(register: Register) -> None:
    """Add models: call ``register(name, factory)``; the factory returns an ``evalgpt.Model``."""


@hookspec
def register_tasks(register: Register) -> None:
    """Add tasks: call ``register(name, factory)``; the factory returns an ``evalgpt.Task``."""


@hookspec
def register_protocols(register: Register) -> None:
    """Add protocols: call ``register(name, factory)``; the factory returns an ``evalgpt.protocols.Protocol``."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add commands to the ``evalgpt`` command line, with ``cli.add_command`` or ``@cli.command()``."""


def is_factory(factory: object) -> bool:
    """Whether ``factory`` can be called, and its parameters read."""
    try:
        inspect.signature(factory)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return callable(factory)
