"""From a config node to an object: the constructor's signature is the schema.

A node names its class in `_target_`. The class must fulfil the contract of its place in the
config, and every key must fit the constructor's annotations: pydantic checks them strictly
(no "3" for 3; NaN and infinity refused; ranges and choices as the annotation says), lists are
handed over as tuples where the annotation says so, and nested nodes with a `_target_` are built
by the same rules. Nothing is constructed until everything has been checked.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from neuro.config.renamed import CLASSES
from neuro.errors import ConfigError, nearest

T = TypeVar("T")

#: keys of a node that belong to Hydra and to us, not to the constructor
RESERVED = frozenset({"_target_"})


def check(node: Any, contract: type, path: str, beside: Iterable[str] = ()) -> list[str]:
    """All problems of a node, each a full sentence that begins with the key path.

    `beside` are keys that stand in the same place of the config but belong to something else;
    a misspelt key may have been meant for one of them.
    """
    return list(_problems(node, contract, path, tuple(beside)))


def build(node: Any, contract: type[T], path: str, **supplied: Any) -> T:
    """Construct the node's object.

    `supplied` are the arguments that the program gives (the contract's `supplied` names them).
    Raises ConfigError with every problem of the node, or with the constructor's own ValueError.
    """
    problems = check(node, contract, path)
    if problems:
        raise ConfigError(problems)
    cls = _resolve(node["_target_"])
    values = _arguments(node, cls, path)
    nested: dict[str, Any] = {
        name: build(node[name], annotation, f"{path}.{name}")
        for name, annotation in _nested(node, cls).items()
    }
    for name, annotation in _collections(node, cls).items():
        nested[name] = build_mapping(node[name], annotation, f"{path}.{name}")
    accepted = inspect.signature(cls).parameters
    extra = {name: value for name, value in supplied.items() if name in accepted}
    try:
        return cls(**values, **nested, **extra)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def build_mapping(nodes: Mapping[str, Any], contract: type[T], path: str) -> dict[str, T]:
    """Build each entry of a mapping of nodes, such as the callbacks; null entries are left out."""
    return {
        name: build(node, contract, f"{path}.{name}")
        for name, node in nodes.items()
        if node is not None
    }


def check_values(values: Any, schema: type[BaseModel], path: str) -> list[str]:
    """Problems of a plain mapping against a pydantic model (for nodes that are no components)."""
    try:
        schema.model_validate_json(_to_json(values))
    except ValidationError as error:
        return _sentences(error, path, schema.model_fields)
    return []


def _problems(node: Any, contract: type, path: str, beside: tuple[str, ...] = ()) -> Iterator[str]:
    if not isinstance(node, Mapping) or "_target_" not in node:
        yield (
            f"{path}: expected a mapping with a `_target_` that names a subclass of "
            f"{_name(contract)}, got {node!r}."
        )
        return
    try:
        cls = _resolve(node["_target_"])
    except ConfigError as error:
        yield f"{path}._target_: {error}"
        return
    if not (inspect.isclass(cls) and issubclass(cls, contract)):
        yield (
            f"{path}._target_: {node['_target_']!r} is not a subclass of {_name(contract)}, "
            "which this place in the config needs."
        )
        return
    if missing := ", ".join(sorted(getattr(cls, "__abstractmethods__", ()))):
        yield f"{path}._target_: {node['_target_']!r} does not implement {missing}."
        return
    if unsuited := _unsuited(cls):
        yield f"{path}._target_: {node['_target_']!r} {unsuited}."
        return
    try:
        _arguments(node, cls, path, beside)
    except ConfigError as error:
        yield from error.problems
    for name, annotation in _nested(node, cls).items():
        yield from _problems(node[name], annotation, f"{path}.{name}")
    for name, annotation in _collections(node, cls).items():
        if not isinstance(node[name], Mapping):
            given = _short(node[name])
            yield f"{path}.{name}: got {given}; expected a mapping of names to components."
            continue
        for key, inner in node[name].items():
            if inner is not None:
                yield from _problems(inner, annotation, f"{path}.{name}.{key}")


def _resolve(target: Any) -> Any:
    """The class of a dotted path. ConfigError names the part that cannot be found."""
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


def _like(module: str) -> str:
    """`" Did you mean ...?"` for a module that does not exist, from its package's other modules."""
    package, _, name = module.rpartition(".")
    try:
        siblings = pkgutil.iter_modules(importlib.import_module(package).__path__)
    except (ImportError, ValueError, AttributeError):  # no package, or one without files
        return ""
    return nearest(name, [sibling.name for sibling in siblings])


def _settable(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of the constructor that a config may set."""
    supplied = getattr(cls, "supplied", ())
    parameters = inspect.signature(cls).parameters
    return {name: value for name, value in parameters.items() if name not in supplied}


def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls.__init__, include_extras=True)


def _unsuited(cls: type) -> str:
    """Why a constructor's signature cannot be a schema, or nothing."""
    hints = _hints(cls)
    for name, parameter in _settable(cls).items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            return f"takes *{name}; a component names each of its arguments"
        if name not in hints:
            return f"does not annotate its argument '{name}', so nothing can check it"
    return ""


@functools.cache
def _schema(cls: type) -> type[BaseModel]:
    """A pydantic model with a field for each argument that a config may set."""
    hints = _hints(cls)
    fields: dict[str, Any] = {}
    for name, parameter in _settable(cls).items():
        default = ... if parameter.default is parameter.empty else parameter.default
        nested = _component(hints[name]) or _collection(hints[name])
        annotation = Any if nested else hints[name]
        fields[name] = (annotation, default)
    config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )
    return create_model(cls.__name__, __config__=config, **fields)


def _component(annotation: Any) -> type | None:
    """The class behind an annotation whose values are built from nodes, if it is one.

    A contract marks itself by having a `supplied` attribute.
    """
    union = get_origin(annotation) in (Union, UnionType)
    for candidate in get_args(annotation) if union else (annotation,):
        if inspect.isclass(candidate) and hasattr(candidate, "supplied"):
            return candidate
    return None


def _collection(annotation: Any) -> type | None:
    """The class of the values if an annotation is a mapping of named components."""
    union = get_origin(annotation) in (Union, UnionType)
    for candidate in get_args(annotation) if union else (annotation,):
        if get_origin(candidate) is dict:
            return _component(get_args(candidate)[1])
    return None


def _collections(node: Mapping[str, Any], cls: type) -> dict[str, type]:
    """Arguments of the node that are mappings of components, with the components' contracts."""
    hints = _hints(cls)
    return {
        name: component
        for name in _settable(cls)
        if node.get(name) is not None and (component := _collection(hints[name])) is not None
    }


def _nested(node: Mapping[str, Any], cls: type) -> dict[str, type]:
    """Arguments of the node that are components themselves, with their contracts."""
    hints = _hints(cls)
    return {
        name: component
        for name in _settable(cls)
        if node.get(name) is not None and (component := _component(hints[name])) is not None
    }


def _arguments(
    node: Mapping[str, Any], cls: type, path: str, beside: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The validated plain arguments of a node (without nested components)."""
    nested = {**_nested(node, cls), **_collections(node, cls)}
    given = {k: v for k, v in node.items() if k not in RESERVED and k not in nested}
    schema = _schema(cls)
    supplied = [name for name in getattr(cls, "supplied", ()) if name in given]
    problems = [f"{path}.{name}: is set by the program; remove it." for name in supplied]
    given = {k: v for k, v in given.items() if k not in supplied}
    placeholders = dict.fromkeys(nested)
    try:
        model = schema.model_validate_json(_to_json({**given, **placeholders}))
    except ValidationError as error:
        fields = {**schema.model_fields, **dict.fromkeys(beside)}
        problems += _sentences(error, path, fields)
        raise ConfigError(problems) from error
    if problems:
        raise ConfigError(problems)
    return {name: getattr(model, name) for name in given}


def _to_json(values: Any) -> str:
    """Plain containers as JSON: there pydantic is strict about types, yet takes lists as tuples."""
    return json.dumps(values, default=str)


def _sentences(error: ValidationError, path: str, fields: Mapping[str, Any]) -> list[str]:
    """Pydantic's errors as sentences: key path, value given, what is allowed, nearest match."""
    sentences: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        location = [str(part) for part in detail["loc"] if not _is_union_branch(part)]
        key = ".".join([path, *location] if path else location)
        if key in sentences:  # a further branch of a union such as `int | Literal["auto"]`
            sentences[key] = sentences[key].rstrip(".") + f", or {_expectation(detail)}."
            sentences[key] += _nearest_choice(detail)
        else:
            sentences[key] = f"{key}: {_complaint(detail, location, fields)}"
    return list(sentences.values())


def _complaint(detail: Any, location: list[str], fields: Mapping[str, Any]) -> str:
    match detail["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            allowed = list(_keys(location, fields))
            names = ", ".join(allowed) or "none"
            return f"unknown key. Allowed: {names}.{nearest(location[-1], allowed)}"
        case "missing" | "missing_argument":
            return "required, but not given."
    return f"got {_short(detail['input'])}; {_expectation(detail)}.{_nearest_choice(detail)}"


def _keys(location: list[str], fields: Mapping[str, Any]) -> Iterable[str]:
    """The keys that are allowed where an unknown one was found."""
    values: Any = None  # of the mapping that we are in, if it is one by names of the user's
    for name in location[:-1]:
        if name.isdigit():  # a place in a list
            continue
        annotation = values or getattr(fields.get(name), "annotation", None)
        inner = (annotation, *get_args(annotation))
        values = next((get_args(a)[1] for a in inner if get_origin(a) is dict), None)
        classes = [a for a in inner if inspect.isclass(a) and values is None]
        fields = next((found for a in classes if (found := _fields(a))), {})
    return fields


def _fields(cls: type) -> Mapping[str, Any]:
    """The fields of a nested model or dataclass."""
    if issubclass(cls, BaseModel):
        return cls.model_fields
    return {f.name: f for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}


def _nearest_choice(detail: Any) -> str:
    if detail["type"] != "literal_error":
        return ""
    choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
    return nearest(str(detail["input"]), choices)


def _expectation(detail: Any) -> str:
    message: str = detail["msg"]
    return message[0].lower() + message[1:]


def _is_union_branch(part: Any) -> bool:
    """Whether a part of an error's location is pydantic's name for the branch of a union."""
    return isinstance(part, str) and (part in _UNION_BRANCHES or "[" in part)


_UNION_BRANCHES = frozenset({"int", "float", "str", "bool", "none", "constrained-float"})


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
