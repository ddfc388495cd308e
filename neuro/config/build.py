"""Check config nodes and construct their objects: the constructor's signature is the schema.

A node names its class in `_target_`. The class must fulfil the contract of its place in the
config, and every key must fit the constructor's annotations: pydantic checks them strictly
(no "3" for 3; NaN and infinity refused; ranges and choices as the annotation says), lists are
passed as tuples where the annotation says so, and nested nodes with a `_target_` follow the same
rules. A `Node` is checked when it is made, so nothing is constructed before everything is checked.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Generic, ParamSpec, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from neuro.config.classes import class_of, hints_of, name_of, settable
from neuro.config.renamed import moved
from neuro.config.values import sentences, shortened, to_json
from neuro.errors import ConfigError

T = TypeVar("T")
P = ParamSpec("P")


class Problems(list[str]):
    """Collects the problems of several checks, to raise them together."""

    def collect(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The step's result; its ConfigError is kept until `raise_all`.

        The result of a step that failed is None, typed as if it were one: it must not be used
        before `raise_all`.
        """
        try:
            return step(*args, **kwargs)
        except ConfigError as error:
            self += error.problems
            return cast(T, None)

    def raise_all(self) -> None:
        """Raise ConfigError with all problems, each once, if there are any."""
        if self:
            raise ConfigError(dict.fromkeys(self))


@dataclass(frozen=True, eq=False)
class Node(Generic[T]):
    """A component of the config, checked: a class and the arguments to construct it with.

    - `path`: key path, with which error messages begin
    - `content`: the node as in the config; must not be changed
    - `arguments`: plain arguments, validated and converted to the types of their annotations
    - `nested`, `collections`: arguments that are components or mappings of named components
    """

    path: str
    content: Mapping[str, Any]
    cls: type[T]
    arguments: Mapping[str, Any]
    nested: Mapping[str, Node[Any]]
    collections: Mapping[str, Mapping[str, Node[Any]]]

    def build(self, **supplied: Any) -> T:
        """Construct the object.

        `supplied` are the arguments that the program gives (the contract's `supplied` names them);
        a class gets those that its constructor takes. The constructor's ValueError becomes a
        ConfigError with the key path, which ends with the argument that the error begins with.
        """
        inner = {name: node.build() for name, node in self.nested.items()}
        for name, nodes in self.collections.items():
            inner[name] = build_all(nodes)
        accepted = inspect.signature(self.cls).parameters
        extra = {name: value for name, value in supplied.items() if name in accepted}
        constructor: Callable[..., T] = self.cls
        try:
            return constructor(**self.arguments, **inner, **extra)
        except ValueError as error:
            named = re.match(r"(\w+)[.\w]*: ", str(error))
            separator = "." if named and named[1] in accepted else ": "
            raise ConfigError(f"{self.path}{separator}{error}") from error

    @functools.cached_property
    def instance(self) -> T:
        """The object, constructed on first use and the same from then on in this process."""
        return self.build()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "instance"}


def parse(node: Any, contract: type[T], path: str, beside: Iterable[str] = ()) -> Node[T]:
    """Check a node of the config. Raises ConfigError with every problem of it.

    `beside`: keys of the same mapping that belong to another component; they are suggested for
    misspelt keys.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(
            f"{path}: expected a mapping with a `_target_` that names a subclass of "
            f"{name_of(contract)}, got {shortened(node)}."
            + (f" It is called {new} now." if (new := moved(path, node)) else "")
        )
    cls: type = class_of(node, contract, path)
    hints = hints_of(cls)
    given = {name: hints[name] for name in settable(cls) if node.get(name) is not None}
    components = {name: found for name, hint in given.items() if (found := _component(hint))}
    mappings = {name: found for name, hint in given.items() if (found := _collection(hint))}
    problems = Problems(
        f"{path}.{name}: got null; expected a component, a mapping with a `_target_`."
        for name in settable(cls)
        if name in node and node[name] is None and _is_required(hints[name])
    )
    arguments = problems.collect(_arguments, node, cls, path, (*components, *mappings), beside)
    nested: dict[str, Node[Any]] = {
        name: problems.collect(parse, node[name], component, f"{path}.{name}")
        for name, component in components.items()
    }
    collections: dict[str, dict[str, Node[Any]]] = {
        name: problems.collect(parse_all, node[name], component, f"{path}.{name}")
        for name, component in mappings.items()
    }
    problems.raise_all()
    return Node(path, node, cls, arguments, nested, collections)


def parse_all(nodes: Any, contract: type[T], path: str) -> dict[str, Node[T]]:
    """Check each entry of a mapping of nodes, such as the callbacks; null entries are left out."""
    if not isinstance(nodes, Mapping):
        raise ConfigError(
            f"{path}: got {shortened(nodes)}; expected a mapping of names to components."
        )
    problems = Problems()
    found = {
        name: problems.collect(parse, node, contract, f"{path}.{name}")
        for name, node in nodes.items()
        if node is not None
    }
    problems.raise_all()
    return found


def build(node: Any, contract: type[T], path: str, **supplied: Any) -> T:
    """Check a node and construct its object; see `parse` and `Node.build`."""
    return parse(node, contract, path).build(**supplied)


def build_all(nodes: Mapping[str, Node[T]]) -> dict[str, T]:
    """Construct the objects of a mapping of nodes."""
    return {name: node.build() for name, node in nodes.items()}


@functools.cache
def _schema(cls: type) -> type[BaseModel]:
    """A pydantic model with a field for each argument that a config may set."""
    hints = hints_of(cls)
    fields: dict[str, Any] = {}
    for name, parameter in settable(cls).items():
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
    for candidate in _alternatives(annotation):
        if inspect.isclass(candidate) and hasattr(candidate, "supplied"):
            return candidate
    return None


def _collection(annotation: Any) -> type | None:
    """The class of the values if an annotation is a mapping of named components."""
    for candidate in _alternatives(annotation):
        if get_origin(candidate) is dict:
            return _component(get_args(candidate)[1])
    return None


def _is_required(annotation: Any) -> bool:
    """Whether an annotation is of components and does not allow None."""
    optional = type(None) in _alternatives(annotation)
    return not optional and bool(_component(annotation) or _collection(annotation))


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else the annotation itself."""
    union = get_origin(annotation) in (Union, UnionType)
    return get_args(annotation) if union else (annotation,)


def _arguments(
    node: Mapping[str, Any],
    cls: type,
    path: str,
    components: Iterable[str],
    beside: Iterable[str],
) -> dict[str, Any]:
    """The validated plain arguments of a node, without those that are `components`."""
    placeholders = dict.fromkeys(components)
    given = {k: v for k, v in node.items() if k != "_target_" and k not in placeholders}
    supplied = [name for name in getattr(cls, "supplied", ()) if name in given]
    problems = Problems(f"{path}.{name}: is set by the program; remove it." for name in supplied)
    given = {k: v for k, v in given.items() if k not in supplied}
    schema = _schema(cls)
    try:
        model = schema.model_validate_json(to_json({**given, **placeholders}))
    except ValidationError as error:
        fields = {**schema.model_fields, **dict.fromkeys(beside)}
        raise ConfigError(problems + sentences(error, path, fields)) from error
    problems.raise_all()
    return {name: getattr(model, name) for name in given}
