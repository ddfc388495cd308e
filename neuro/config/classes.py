"""Find the class that `_target_` names, and check that it fulfils the contract of its place."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from neuro.config.renamed import CLASSES
from neuro.errors import ConfigError, nearest

T = TypeVar("T")


def class_of(node: Mapping[str, Any], contract: type[T], path: str) -> type[T]:
    """The class that a node names in `_target_`.

    Raises ConfigError if there is none, if it is not a concrete subclass of the contract, or if its
    constructor's signature cannot serve as a schema.
    """
    target = node["_target_"]
    try:
        cls = resolve(target)
    except ConfigError as error:
        raise ConfigError(f"{path}._target_: {error}") from error
    if not (inspect.isclass(cls) and issubclass(cls, contract)):
        raise ConfigError(
            f"{path}._target_: {target!r} is not a subclass of {name_of(contract)}, "
            "which this place in the config needs."
        )
    if missing := ", ".join(sorted(getattr(cls, "__abstractmethods__", ()))):
        raise ConfigError(f"{path}._target_: {target!r} does not implement {missing}.")
    if unsuited := _unsuited(cls):
        raise ConfigError(f"{path}._target_: {target!r} {unsuited}.")
    return cls


def resolve(target: Any) -> Any:
    """The object at a dotted path. ConfigError names the part that cannot be found."""
    target = CLASSES.get(target, target) if isinstance(target, str) else target
    module_name, _, attribute = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise ConfigError(f"{target!r} is not a dotted path such as 'package.module.Class'.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        name = error.name or ""
        if not f"{module_name}.".startswith(f"{name}."):
            raise ConfigError(
                f"{target!r} needs the package '{name}', which is not installed."
            ) from error
        raise ConfigError(f"{target!r}: there is no module '{name}'.{_like(name)}") from error
    if not hasattr(module, attribute):
        raise ConfigError(
            f"{target!r}: module '{module_name}' has no '{attribute}'."
            + nearest(attribute, vars(module))
        )
    return getattr(module, attribute)


@functools.cache
def settable(cls: type) -> Mapping[str, inspect.Parameter]:
    """The arguments of the constructor that a config may set."""
    supplied = getattr(cls, "supplied", ())
    parameters = inspect.signature(cls).parameters
    return {name: value for name, value in parameters.items() if name not in supplied}


@functools.cache
def hints_of(cls: Any) -> dict[str, Any]:
    """The annotations of the constructor, with their constraints.

    A dataclass's fields may be inherited, and each is annotated by names of the module that it
    comes from, which the generated constructor does not see.
    """
    generated = dataclasses.is_dataclass(cls) and "__init__" in vars(cls)
    return get_type_hints(cls if generated else cls.__init__, include_extras=True)


def name_of(cls: type) -> str:
    """The dotted path of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _unsuited(cls: type) -> str:
    """Why a constructor's signature cannot be a schema, or nothing."""
    hints = hints_of(cls)
    for name, parameter in settable(cls).items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            return f"takes *{name}; a component names each of its arguments"
        if name not in hints:
            return f"does not annotate its argument '{name}', so nothing can check it"
    return ""


def _like(module: str) -> str:
    """`" Did you mean ...?"` for a module that does not exist, from its package's other modules."""
    package, _, name = module.rpartition(".")
    try:
        siblings = pkgutil.iter_modules(importlib.import_module(package).__path__)
    except (ImportError, ValueError, AttributeError):  # no package, or one without files
        return ""
    return nearest(name, [sibling.name for sibling in siblings])
