"""What tells configurations apart: resolved configs as flat keys, their differences, and names.

Keys of a component are compared only among runs whose component is the same class: that a LIF
network has no gate is no difference beside that of the class.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Flat = Mapping[str, Any]

#: keys under which runs are kept, watched and started; they change nothing that a run measures
IRRELEVANT = (
    "repeats", "tracking", "run", "resume", "tags", "group", "name", "project", "runs_dir",
    "data.root",
)  # fmt: skip

#: overrides of groups whose options say enough without the group's name
_NAMED_BY_OPTION = ("experiment", "model", "ablation")

_MISSING = object()


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key; lists are leaves, and so are empty mappings."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def is_seed(key: str) -> bool:
    """Whether a key is a seed: `seed` itself, `data.split_seed`, ..."""
    name = key.rpartition(".")[2]
    return name == "seed" or name.endswith("_seed")


def below(key: str, parents: Iterable[str]) -> bool:
    """Whether a key is one of `parents` or lies in one of them."""
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)


def relevant(flat: Flat) -> dict[str, Any]:
    """What runs of one configuration share: no seeds, nothing of `IRRELEVANT`."""
    return {k: v for k, v in flat.items() if not is_seed(k) and not below(k, IRRELEVANT)}


def fingerprint(flat: Flat) -> str:
    """The same text for the same values, whatever the order of their keys."""
    return json.dumps(flat, sort_keys=True, default=str)


def differing(configs: Sequence[Flat]) -> list[str]:
    """The keys in which configurations differ, in the order in which they are first met."""
    return [key for key in _keys(configs) if _differs(key, configs)]


def deviations(configs: Sequence[Flat], reference: Flat | None = None) -> list[dict[str, Any]]:
    """For each configuration the values of differing keys that are not the usual ones.

    Usual is what `reference` has, or else what more than half of the configurations have.
    """
    found: list[dict[str, Any]] = [{} for _ in configs]
    for key in differing(configs):
        if reference is not None:
            usual = reference.get(key, _MISSING)
        else:
            counts = Counter(fingerprint({"": c[key]}) for c in configs if key in c)
            common, times = counts.most_common(1)[0]
            usual = json.loads(common)[""] if 2 * times > len(configs) else _MISSING
        for config, own in zip(configs, found, strict=True):
            if key in config and (usual is _MISSING or config[key] != usual):
                own[key] = config[key]
    return found


def shown(key: str, value: Any) -> str:
    """A key and its value as one would write them: `model.gate=fixed`, `model=LIFNetwork`."""
    return f"{key.removesuffix('._target_')}={value_text(key, value)}"


def value_text(key: str, value: Any) -> str:
    """A value as YAML writes it; a class by its name."""
    if key.endswith("_target_") and isinstance(value, str):
        return value.rpartition(".")[2]
    return (
        value if isinstance(value, str) else json.dumps(value, default=str, separators=(",", ":"))
    )


def labels(configs: Sequence[Flat], overrides: Sequence[Sequence[str]]) -> list[str]:
    """A short name for each configuration, all of them different.

    `overrides[i]` are those that configuration i was started with. Those that not all share name it
    as long as this tells all apart; if not, their names go on with how the configs deviate.
    """
    own = [_distinguishing(given) for given in overrides]
    shared = set.intersection(*map(set, own)) if len(own) > 1 else set()
    names = [", ".join(_option(o) for o in given if o not in shared) for given in own]
    taken = Counter(names)
    if any(times > 1 for times in taken.values()):
        extra = [", ".join(shown(k, v) for k, v in d.items()) for d in deviations(configs)]
        names = [
            ", ".join(filter(None, (name, more))) if taken[name] > 1 else name
            for name, more in zip(names, extra, strict=True)
        ]
    return _unique([name or "default" for name in names])


def values_as_labels(configs: Sequence[Flat]) -> list[str]:
    """Configurations named by their values of the keys in which they differ."""
    keys = differing(configs)
    return [", ".join(shown(key, c[key]) for key in keys if key in c) or "default" for c in configs]


def key_of(override: str) -> str:
    """The key of `+optimizer.lr=0.1`, with its leading signs taken away."""
    return override.lstrip("+~").partition("=")[0]


def _distinguishing(overrides: Iterable[str]) -> list[str]:
    passing = (*IRRELEVANT, "hydra")
    keys = {override: key_of(override) for override in overrides}
    return [o for o, key in keys.items() if not is_seed(key) and not below(key, passing)]


def _option(override: str) -> str:
    key, _, option = override.lstrip("+").partition("=")
    return option if key in _NAMED_BY_OPTION else override.lstrip("+")


def _unique(names: Sequence[str]) -> list[str]:
    """Names with a number where one is taken already."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return found


def _keys(configs: Iterable[Flat]) -> Iterable[str]:
    return dict.fromkeys(key for config in configs for key in config)


def _differs(key: str, configs: Sequence[Flat]) -> bool:
    """Whether two configurations with the same components around a key differ in it."""
    around = [p for p in _parents(key) if f"{p}._target_" != key]
    values: dict[tuple[Any, ...], set[str]] = {}
    for config in configs:
        context = tuple(str(config.get(f"{parent}._target_")) for parent in around)
        text = fingerprint({"": config[key]}) if key in config else ""
        values.setdefault(context, set()).add(text)
    return any(len(found) > 1 for found in values.values())


def _parents(key: str) -> list[str]:
    parts = key.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
