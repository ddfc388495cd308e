"""Generates docs/techniques.md and docs/losses.md: `make docs`.

Order, headings and advice come from docs/techniques.yaml and docs/losses.yaml; descriptions, keys
and defaults from the comments and values of the config files, so that a page cannot contradict
them. A test fails if a page is not up to date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
TECHNIQUES = """# Techniques

Description, keys with defaults, when to use it, and an example command for each technique.
Generated from the config files by `make docs`. Techniques can be combined, are restored on resume,
and have no cost when they are off. Presets:
`experiment=quick_baseline`, `limited_memory`, `max_accuracy`, `fast_iteration`, `production`,
`transfer`, `ensemble`.
"""


LOSSES = """# Losses, pooling, paradigms
"""


def techniques_page() -> str:
    """The Markdown text of docs/techniques.md."""
    parts = [TECHNIQUES]
    for section in _sections("techniques"):
        parts.append(f"## {section['heading']}\n\n{section['text'].strip()}\n")
        parts += [_entry(technique) for technique in section["techniques"]]
    return "\n".join(parts)


def losses_page() -> str:
    """The Markdown text of docs/losses.md."""
    parts = [LOSSES]
    for section in _sections("losses"):
        parts.append(f"## {section['heading']}\n\n{section['text'].strip()}\n")
        if rows := [_loss(loss) for loss in section.get("losses", ())]:
            head = ["| term | formula | keys and defaults | models |", "|---|---|---|---|"]
            parts.append("\n".join([*head, *rows]) + "\n")
    return "\n".join(parts)


def losses() -> list[str]:
    """The options of conf/loss that docs/losses.yaml lists; a test compares them with the files."""
    return [loss["option"] for section in _sections("losses") for loss in section.get("losses", ())]


def commands() -> list[str]:
    """The overrides of every example command in docs/techniques.md; a test composes each."""
    return [
        technique["command"]
        for section in _sections("techniques")
        for technique in section["techniques"]
        if "command" in technique
    ]


def _sections(page: str) -> list[dict[str, Any]]:
    sections: list[dict[str, Any]] = yaml.safe_load((ROOT / "docs" / f"{page}.yaml").read_text())
    return sections


def _loss(loss: dict[str, Any]) -> str:
    """The table row of a loss: name and description, formula, keys except weight, models."""
    lines = (CONF / "loss" / f"{loss['option']}.yaml").read_text().splitlines()
    description = lines[0].removeprefix("# ")
    keys = [f"`{key}: {default}`" for key, default, _ in _keys(lines) if key != "weight"]
    cells = (loss["formula"].replace("|", "\\|"), ", ".join(keys), loss["models"])
    return f"| `{loss['option']}` {description} | " + " | ".join(cells) + " |"


def _entry(technique: dict[str, Any]) -> str:
    """The section of a technique: a config option, a node within one, or a single key."""
    if "option" in technique:
        description, rows = _option(technique["option"])
        group, _, name = technique["option"].rpartition("/")
        several = group in ("callbacks", "data/transforms")
        choice = f"{group}=[…,{name}]" if several else f"{group}={name}"
        title = f"### `{choice}`\n\n{description}"
    elif "node" in technique:
        option, node = technique["node"].split()
        description, rows = _node(option, node)
        title = f"### `{option.partition('/')[0]}.{node}`\n\n{description}"
    else:
        title, rows = f"### {technique['title']}: `{technique['key']}`", []
    lines = [title, "", f"When: {technique['when']}."]
    if "command" in technique:
        lines += ["", f"    python launch.py {technique['command']}"]
    if rows:
        lines += ["", "| key | default | meaning |", "|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _option(option: str) -> tuple[str, list[str]]:
    """Description of a config file (its first comment), and its keys as table rows."""
    lines = (CONF / f"{option}.yaml").read_text().splitlines()
    return lines[0].removeprefix("# "), _rows(lines[1:])


def _node(option: str, node: str) -> tuple[str, list[str]]:
    """Description of a mapping within a config file, and its keys as table rows."""
    lines = (CONF / f"{option}.yaml").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{node}:"))
    inner = []
    for line in lines[start + 1 :]:
        if not line.startswith(" "):
            break
        inner.append(line)
    description = lines[start].partition("#")[2].strip()
    return description[0].upper() + description[1:] + ".", _rows(inner)


def _keys(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield key, default and comment of each line of a config file that has all three."""
    for line in lines:
        found = re.match(r"\s*(?:- )?(\w+): *(.*?) *# (.*)$", line)
        if found and found[1] not in ("_target_", "defaults"):
            yield found[1], found[2], found[3]


def _rows(lines: list[str]) -> list[str]:
    rows = []
    for key, *texts in _keys(lines):
        default, meaning = (text.replace("|", "\\|") for text in texts)
        rows.append(f"| `{key}` | {f'`{default}`' if default else ''} | {meaning} |")
    return rows


if __name__ == "__main__":
    for name, page in (("techniques.md", techniques_page()), ("losses.md", losses_page())):
        (ROOT / "docs" / name).write_text(page)
        print(f"docs/{name}", file=sys.stderr)
