"""Differences between resolved configs, as flat mappings by dotted key, and labels from them.

Keys of a component are compared only between configs whose component has the same class. If the
classes differ, the class is the difference, and the keys that one of them lacks add nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from neuro.config.modes import OF_DEPLOYMENT, OF_GENERATION

#: a resolved config by dotted key
Flat = Mapping[str, object]

#: keys that do not affect what a run measures: where it is stored, tracked, how it is started,
#: those of modes that measure nothing, and what data record of themselves (`DataSource.measured`),
#: which follows from other keys, seeds among them
IRRELEVANT = frozenset(
    {
        "repeats",
        "tracking",
        "run",
        "resume",
        "tags",
        "group",
        "name",
        "project",
        "runs_dir",
        "data.root",
        "data.shards",
        "data.tokenizer_hash",
        "check_batches",
        *OF_GENERATION,
        *OF_DEPLOYMENT,
    }
)

#: overrides whose values are clear without their keys: `lif` instead of `model=lif`
_NAMED_BY_VALUE = ("name", "experiment", "model")

_MISSING = object()


def flatten(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """The leaves of nested mappings by dotted key; lists and empty mappings are leaves."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def is_seed(key: str) -> bool:
    """Whether a key's last part is `seed` or ends in `_seed`, as in `data.split_seed`."""
    name = key.rpartition(".")[2]
    return name == "seed" or name.endswith("_seed")


def is_below(key: str, parents: Collection[str]) -> bool:
    """Whether a key is one of `parents` or within one of them."""
    while key and key not in parents:
        key = key.rpartition(".")[0]
    return key != ""


def relevant(flat: Flat) -> dict[str, object]:
    """A config without its seeds and `IRRELEVANT` keys; equal for runs of one configuration."""
    return {k: v for k, v in flat.items() if not is_seed(k) and not is_below(k, IRRELEVANT)}


def fingerprint(flat: Flat) -> str:
    """A text that is equal for equal configs, independent of the order of keys."""
    return json.dumps(flat, sort_keys=True, default=str)


def differing(configs: Sequence[Flat]) -> list[str]:
    """The keys in which configs differ, in the order of their first occurrence."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if _differs(key, configs)]


def deviations(configs: Sequence[Flat], reference: Flat | None = None) -> list[dict[str, object]]:
    """For each config, the values of differing keys that deviate from the usual value.

    The usual value is that of `reference`. Without a reference it is the value that more than half
    of the configs have; if there is none, every value of the key deviates.
    """
    found: list[dict[str, object]] = [{} for _ in configs]
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


def as_override(key: str, value: object) -> str:
    """A key and its value as text: `optimizer.lr=0.01`, `model=LIFNetwork`."""
    return f"{key.removesuffix('._target_')}={value_text(key, value)}"


def value_text(key: str, value: object) -> str:
    """A value as JSON without quotes around strings; of a class path the class's name."""
    if key.endswith("_target_") and isinstance(value, str):
        return value.rpartition(".")[2]
    return (
        value if isinstance(value, str) else json.dumps(value, default=str, separators=(",", ":"))
    )


def labels(configs: Sequence[Flat], overrides: Sequence[Sequence[str]]) -> list[str]:
    """Unique short labels of configurations.

    - `overrides[i]`: the command line's overrides of configuration i

    A label is the override of `name` if the configurations have several, else a list of the
    overrides that not all of them have. Where these are equal, the label continues with the
    config's deviations, and at last with a number.
    """
    named = [[o for o in given if key_of(o) == "name"][-1:] for given in overrides]
    own = [
        name if name and any(name != other for other in named) else _distinguishing(given)
        for name, given in zip(named, overrides, strict=True)
    ]
    common = set.intersection(*map(set, own)) if len(own) > 1 else set()
    names = [", ".join(_option(o) for o in given if o not in common) for given in own]
    taken = Counter(names)
    if any(times > 1 for times in taken.values()):
        extra = [", ".join(as_override(k, v) for k, v in d.items()) for d in deviations(configs)]
        names = [
            ", ".join(filter(None, (name, more))) if taken[name] > 1 else name
            for name, more in zip(names, extra, strict=True)
        ]
    seen: Counter[str] = Counter()
    found = []
    for name in (name or "default" for name in names):
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return found


def values_as_labels(configs: Sequence[Flat]) -> list[str]:
    """Labels that list the values of all differing keys."""
    keys = differing(configs)
    return [
        ", ".join(as_override(key, config[key]) for key in keys if key in config) or "default"
        for config in configs
    ]


def key_of(override: str) -> str:
    """The key of an override, without leading signs: `optimizer.lr` of `+optimizer.lr=0.1`."""
    return override.lstrip("+~").partition("=")[0]


def _distinguishing(overrides: Iterable[str]) -> list[str]:
    """Overrides of keys that can differ between configurations."""
    ignored = (*IRRELEVANT, "hydra")
    keys = {override: key_of(override) for override in overrides}
    return [o for o, key in keys.items() if not is_seed(key) and not is_below(key, ignored)]


def _option(override: str) -> str:
    key, _, option = override.lstrip("+").partition("=")
    return option if key in _NAMED_BY_VALUE else override.lstrip("+")


def _differs(key: str, configs: Sequence[Flat]) -> bool:
    """Whether a key's values differ between configs whose components around it are the same."""
    parts = key.split(".")[:-1]
    parents = [".".join(parts[: i + 1]) for i in range(len(parts))]
    components = [f"{parent}._target_" for parent in parents if f"{parent}._target_" != key]
    values: dict[tuple[str, ...], set[str]] = {}  # by the classes of the components
    for config in configs:
        classes = tuple(str(config.get(component)) for component in components)
        text = fingerprint({"": config[key]}) if key in config else ""
        values.setdefault(classes, set()).add(text)
    return any(len(found) > 1 for found in values.values())
