"""The plugin manager: built-in models, tasks and protocols are plugins like any other."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import pluggy

from evalgpt.core import hooks
from evalgpt.core.errors import EvalgptError, UsageError
from evalgpt.core.guard import calling, described, reason
from evalgpt.core.model import Model
from evalgpt.core.specs import Spec, check_commas, how_to_read, options_of, parse, resolve, with_home
from evalgpt.core.streams import foreign
from evalgpt.core.task import Task
from evalgpt.core.text import printable
from evalgpt.core.validation import check_model, check_protocol, check_task

if TYPE_CHECKING:
    from evalgpt.core.protocol import Protocol

__all__ = ["Entry", "Plugins", "default_plugins", "load_plugins"]


BUILTIN = (
    "evalgpt.adapters.scratch",
    "evalgpt.adapters.gpt2",
    "evalgpt.adapters.hf",
    "evalgpt.tasks.pairs",
    "evalgpt.tasks.books",
    "evalgpt.tasks.text",
    "evalgpt.tasks.minimal_pairs",
    "evalgpt.protocols.exact",
    "evalgpt.protocols.lm_eval",
    "evalgpt.protocols.hf_strided",
    "evalgpt.protocols.llama_cpp",
    "evalgpt.protocols.book",
)

KINDS = {"model": "register_models", "task": "register_tasks", "protocol": "register_protocols"}

HOOKS = ", ".join([*KINDS.values(), "register_commands"])


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered name: who registered it, and the factory that builds it."""

    name: str
    plugin: str
    factory: hooks.Factory

    @property
    def doc(self) -> str:
        """The factory's docstring."""
        text = self.factory.__doc__
        return inspect.cleandoc(text) if isinstance(text, str) else ""

    @property
    def summary(self) -> str:
        """The first line of the factory's docstring."""
        return self.doc.strip().partition("\n")[0]

    @property
    def options(self) -> dict[str, object]:
        """Keys that a spec may give, with their defaults."""
        return {key: parameter.default for key, parameter in options_of(self.factory).items()}


@dataclass(slots=True)
class Plugins:
    """What is installed: the pluggy manager, the registered names by kind, and the plugins that failed."""

    manager: pluggy.PluginManager
    entries: dict[str, dict[str, Entry]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    failures: dict[str, str] = field(default_factory=dict)

    def find(self, kind: str, name: str) -> Entry:
        """The entry called ``name``.

        Raises:
            UsageError: there is none; the message lists the names there are. Where ``name`` is a path, it shows the
                spec that reads it.
        """
        known = self.entries[kind]
        if name in known:
            return known[name]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        hint = how_to_read(name, {entry.name: entry.factory for entry in known.values()}) or hint
        raise UsageError(f"unknown {kind} {name!r}; {hint}known: {', '.join(sorted(known))}; --plugin loads others")

    def check(self, kind: str, spec: str, given: Mapping[str, object] | None = None) -> None:
        """Raise UsageError for a name, a key or a value that cannot be, without building anything."""
        parsed = with_home(parse(spec))
        resolve(kind, parsed, self.find(kind, parsed.name).factory, given)

    def model(self, spec: str, *, device: str | None = None, dtype: str | None = None, checked: bool = True) -> Model:
        """Build the model that ``spec`` names; ``checked`` holds its attributes to what a Model has.

        Raises:
            UsageError: no such model, key or value. EvaluationError: its factory raised, or made no sound Model.
        """
        model = cast(Model, self._build("model", parse(spec), {"device": device, "dtype": dtype}))
        if checked:
            check_model(model)
        return model

    def task(self, spec: str) -> Task:
        """Build the task that ``spec`` names.

        Raises:
            UsageError: no such task, key or value. EvaluationError: its factory raised, or made no sound Task.
        """
        task = cast(Task, self._build("task", parse(spec), {}))
        check_task(task)
        return task

    def protocol(self, spec: str, *, context: int | None = None, stride: int | None = None) -> Protocol:
        """Build the protocol that ``spec`` names, not yet bound to a model.

        Raises:
            UsageError: no such protocol, key or value. EvaluationError: its factory raised, or made no sound Protocol.
        """
        protocol = cast("Protocol", self._build("protocol", parse(spec), {"context": context, "stride": stride}))
        check_protocol(protocol)
        return protocol

    def _build(self, kind: str, spec: Spec, given: Mapping[str, object]) -> object:
        factory = self.find(kind, spec.name).factory
        who = f"{kind} {spec.name!r}"
        spec = with_home(spec)
        check_commas(spec)
        options = resolve(kind, spec, factory, given)
        try:
            inspect.signature(factory).bind(spec.argument, **options)
        except TypeError as error:
            raise UsageError(f"{who}: its factory cannot be called with an argument: {error}") from error
        with calling(who, "its factory"):
            built = factory(spec.argument, **options)
        expected = _type_of(kind)
        if not isinstance(built, expected):
            raise UsageError(
                f"{who}: its factory returned {described(built)}, not an {expected.__module__}.{expected.__name__}"
            )
        if isinstance(built, (Model, Task)):
            with calling(who, "setting its attribute spec"):
                object.__setattr__(built, "spec", printable(str(spec)))  # a frozen dataclass is a fine Task
        return built


def load_plugins(extra: Iterable[str] = ()) -> Plugins:
    """Load the built-in plugins, those installed under the entry-point group ``evalgpt``, and ``extra``.

    ``extra`` are paths of Python files or names of modules. An installed plugin that fails, by its import, by a name
    that is taken or by a hook that evalgpt does not have, is kept in ``failures`` and takes no other down; one named
    in ``extra`` was asked for, so its failure is an error.

    Raises:
        UsageError: a plugin in ``extra`` fails.
    """
    manager = pluggy.PluginManager(hooks.GROUP)
    manager.add_hookspecs(hooks)
    plugins = Plugins(manager)
    for name in BUILTIN:
        _admit(plugins, name, importlib.import_module(name))
    _load_installed(plugins)
    for name in dict.fromkeys(extra):
        with _asked_for(name):
            module = _import(name)
            if manager.is_registered(module):  # installed, and asked for by its module
                continue
            _admit(plugins, name, module)
            hooked = manager.get_hookcallers(module)
        if not hooked:
            raise UsageError(f"plugin {name} implements none of evalgpt's hooks: {HOOKS}")
    return plugins


def _load_installed(plugins: Plugins) -> None:
    """Load what distributions offer under the entry-point group; what fails is told by name and distribution."""
    loaded: dict[str, str] = {}
    for entry_point in importlib.metadata.entry_points(group=hooks.GROUP):
        name, distribution = entry_point.name, _distribution(entry_point)
        if name in loaded:
            plugins.failures[f"{name} of {distribution}"] = (
                f"the distribution {loaded[name]} has a plugin of that name too, which is the one loaded; uninstall one"
            )
            continue
        loaded[name] = distribution
        try:
            with foreign():
                module = entry_point.load()
                _admit(plugins, name, module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's import may raise anything, and exit
            plugins.failures[name] = f"{reason(error)} (distribution {distribution})"


def _distribution(entry_point: importlib.metadata.EntryPoint) -> str:
    found = entry_point.dist
    return "unknown" if found is None else f"{found.name} {found.version}"


@contextlib.contextmanager
def _asked_for(name: str) -> Iterator[None]:
    """Turn what a plugin named on the command line raises into a UsageError."""
    try:
        with foreign():
            yield
    except (EvalgptError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise UsageError(f"plugin {name}: {reason(error)}") from error


@lru_cache(maxsize=1)
def default_plugins() -> Plugins:
    """The plugins installed on this machine, loaded once."""
    return load_plugins()


def built(model: Model | str, device: str | None, dtype: str | None) -> Model:
    """``model``, or the one that its spec names, on ``device`` and in ``dtype``.

    Raises:
        UsageError: no such model, or a device or dtype for one that is built already.
    """
    if isinstance(model, str):
        return default_plugins().model(model, device=device, dtype=dtype)
    given: object = model
    if not isinstance(given, Model):
        module = any(base.__module__.startswith("torch.nn.") for base in type(given).__mro__)
        wrap = "; wrap it in a class on evalgpt.adapters.base.TorchModel, as docs/plugins.md shows" if module else ""
        raise UsageError(
            f"a model is an evalgpt.Model or a spec such as 'scratch:seed=7', not {described(given)}{wrap}"
        )
    if device is not None or dtype is not None:
        raise UsageError("device and dtype go with a model given as a spec; this model is already built")
    check_model(model)
    return model


def _type_of(kind: str) -> type:
    from evalgpt.core.protocol import Protocol

    return {"model": Model, "task": Task, "protocol": Protocol}[kind]


def _admit(plugins: Plugins, name: str, plugin: object) -> None:
    """Register one plugin and collect its names, or leave no trace of it.

    Raises:
        UsageError: a name is taken, or a function is marked as a hook that evalgpt does not have; also whatever the
            plugin itself raises.
    """
    manager = plugins.manager
    if manager.is_registered(plugin):
        raise UsageError(
            f"plugin {name} is the module of the plugin {manager.get_name(plugin)}, which is loaded already"
        )
    before = {kind: dict(entries) for kind, entries in plugins.entries.items()}
    try:
        manager.register(plugin, name)
        manager.check_pending()
        _collect(plugins, name, plugin)
    except BaseException as error:
        if manager.is_registered(plugin):
            manager.unregister(plugin)
        plugins.entries = before
        if isinstance(error, pluggy.PluginValidationError):
            told = " ".join(str(error).split())
            raise UsageError(f"plugin {name}: {told}; evalgpt's hooks are {HOOKS}") from None
        raise


def _import(name: str) -> ModuleType:
    path = Path(name)
    if not name.strip():
        raise UsageError("--plugin takes a .py file or the name of an installed module, not an empty text")
    if path.is_dir():
        raise UsageError(f"plugin {name} is a folder; give a .py file or the name of an installed module")
    if path.suffix != ".py":
        try:
            return importlib.import_module(name)
        except (ModuleNotFoundError, TypeError) as error:  # TypeError: a name that begins with a dot
            if getattr(error, "name", None) in (None, name) and Path(f"{name}.py").is_file():
                raise UsageError(f"plugin {name}: there is no such module; for the file write {name}.py") from None
            raise
    if not path.is_file():
        raise UsageError(f"plugin {name}: there is no such file")
    module_name = f"evalgpt_plugin_{path.stem}"
    loaded = sys.modules.get(module_name)
    if loaded is not None and loaded.__file__ != str(path):  # another file of the same name
        place = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()
        module_name = f"{module_name}_{place[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"plugin {name}: Python cannot import this file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look the module up by name
    spec.loader.exec_module(module)
    return module


def _collect(plugins: Plugins, plugin_name: str, plugin: object) -> None:
    """Ask this plugin alone for its names, so that each is known to be someone's."""
    others = [other for other in plugins.manager.get_plugins() if other is not plugin]
    for kind, hook in KINDS.items():
        taken = plugins.entries[kind]

        def register(name: str, factory: hooks.Factory, *, kind: str = kind, taken: dict[str, Entry] = taken) -> None:
            if not isinstance(name, str) or not name.strip() or set(name) & set(":,"):
                raise UsageError(
                    f"plugin {plugin_name} registers a {kind} as {described(name)}; a name is a text without : and ,"
                )
            if not hooks.is_factory(factory):
                raise UsageError(
                    f"plugin {plugin_name} registers the {kind} {name!r} with {described(factory)}; a factory is "
                    f"wanted, a function (argument, *, key=default)"
                )
            if name in taken:
                raise UsageError(
                    f"plugin {plugin_name} registers the {kind} {name!r}, which {taken[name].plugin} has registered"
                )
            taken[name] = Entry(name, plugin_name, factory)

        plugins.manager.subset_hook_caller(hook, remove_plugins=others)(register=register)
