"""Validate plain mappings against typed classes by pydantic, with its errors as sentences.

A sentence begins with the key path and says what was given, what is allowed, and which allowed
name is nearest.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from neuro.config.renamed import moved
from neuro.errors import ConfigError, nearest

T = TypeVar("T")


def parse_values(values: Any, schema: type[T], path: str = "", beside: Iterable[str] = ()) -> T:
    """A plain mapping as an instance of a pydantic model or dataclass.

    Raises ConfigError with every problem. `beside`: keys of the same mapping that belong to another
    component; they are suggested for misspelt keys.
    """
    cls: type = schema
    try:
        parsed: T = _adapter(cls).validate_json(to_json(values))
    except ValidationError as error:
        fields = {**_fields(cls), **dict.fromkeys(beside)}
        raise ConfigError(sentences(error, path, fields)) from error
    return parsed


@functools.cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    """The validator of a class, compiled once: a search parses hundreds of configs."""
    return TypeAdapter(cls)


def to_json(values: Any) -> str:
    """Plain containers as JSON: there pydantic is strict about types, yet takes lists as tuples."""
    return json.dumps(values, default=str)


def sentences(error: ValidationError, path: str, fields: Mapping[str, Any]) -> list[str]:
    """Pydantic's errors as sentences; `fields` are those of the place that was validated."""
    found: dict[str, str] = {}
    details = error.errors(include_url=False)
    for detail in details:
        place = detail["loc"]
        if detail["type"] == "too_short" and any(
            other["loc"][: len(place)] == place and len(other["loc"]) > len(place)
            for other in details
        ):
            continue  # pydantic does not count items with problems of their own
        location = [str(part) for part in detail["loc"] if not _is_union_branch(part)]
        key = ".".join([path, *location] if path else location)
        if field := _field_at_fault(detail):
            name, text = field
            found[f"{key}.{name}"] = f"{key}.{name}: {text}"
        elif key in found:  # a further branch of a union such as `int | Literal["auto"]`
            found[key] = found[key].rstrip(".") + f", or {_expectation(detail)}."
            found[key] += _nearest_choice(detail)
        else:
            found[key] = f"{key}: {_complaint(detail, key, location, fields)}"
    return list(found.values())


def shortened(value: Any) -> str:
    """A value as an error message shows it: null, true and false as in YAML."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _field_at_fault(detail: Any) -> tuple[str, str] | None:
    """The field that a class's own check begins its error with, and the rest of the sentence."""
    if detail["type"] != "value_error" or not isinstance(detail["input"], Mapping):
        return None
    name, colon, text = str(detail["ctx"]["error"]).rstrip(".").partition(": ")
    return (name, f"{text}.") if colon and name in detail["input"] else None


def _complaint(detail: Any, key: str, location: list[str], fields: Mapping[str, Any]) -> str:
    match detail["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            if new := moved(key):
                return f"is called {new} now."
            allowed = list(_keys(location, fields))
            names = ", ".join(allowed) or "none"
            return f"unknown key. Allowed: {names}.{nearest(location[-1], allowed)}"
        case "missing" | "missing_argument":
            return "required, but not given."
    return f"got {shortened(detail['input'])}; {_expectation(detail)}.{_nearest_choice(detail)}"


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
        return {f.alias or name: f for name, f in cls.model_fields.items()}
    if not dataclasses.is_dataclass(cls):
        return {}
    hints = get_type_hints(cls)
    return {f.name: FieldInfo.from_annotation(hints[f.name]) for f in dataclasses.fields(cls)}


def _nearest_choice(detail: Any) -> str:
    if detail["type"] != "literal_error" or not isinstance(detail["input"], str):
        return ""
    choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
    return nearest(detail["input"], choices)


def _expectation(detail: Any) -> str:
    """What is allowed, in the words of YAML where pydantic's are those of Python."""
    match detail["type"]:
        case "too_short":
            count = detail["ctx"]["min_length"]
            return f"expected at least {count} item{'s' if count > 1 else ''}"
        case "too_long":
            return f"expected at most {detail['ctx']['max_length']} items"
        case "string_too_short":
            return "expected some text"
        case "literal_error":
            return f"input should be {_literals(detail['ctx']['expected'])}"
        case "tuple_type" | "list_type" | "set_type":
            return "input should be a list"
        case "dict_type" | "model_type" | "dataclass_type" | "model_attributes_type":
            return "input should be a mapping"
        case "none_required":
            return "input should be null"
        case "value_error":
            return str(detail["ctx"]["error"]).rstrip(".")
    message: str = detail["msg"]
    return message[0].lower() + message[1:]


def _literals(expected: str) -> str:
    """Pydantic's list of allowed values, with those of YAML in place of Python's."""
    return re.sub(r"\b(True|False)\b", lambda match: match[0].lower(), expected)


def _is_union_branch(part: Any) -> bool:
    """Whether a part of an error's location is pydantic's name for the branch of a union."""
    return isinstance(part, str) and (part in _UNION_BRANCHES or "[" in part)


_UNION_BRANCHES = frozenset(
    {"int", "float", "str", "bool", "none", "constrained-float", "constrained-int"}
)
