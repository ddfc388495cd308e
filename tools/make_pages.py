"""Writes docs/techniques.md and docs/losses.md from their .yaml and the config files' comments."""

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

What each does, its keys with their defaults, when to use it, one command. This page is made from
the config files by `make docs`; a test fails when it is not up to date. All of them combine, work
with every model that they make sense for, survive a resume and cost nothing when off. Presets:
`experiment=quick_baseline`, `limited_memory`, `max_accuracy`, `fast_iteration`, `production`,
`transfer`, `ensemble`.
"""


LOSSES = """# Losses, pooling, paradigms
"""


def techniques_page() -> str:
    """The text of docs/techniques.md."""
    parts = [TECHNIQUES]
    for section in _sections("techniques"):
        parts.append(f"## {section['heading']}\n\n{section['text'].strip()}\n")
        parts += [_entry(technique) for technique in section["techniques"]]
    return "\n".join(parts)


def losses_page() -> str:
    """The text of docs/losses.md."""
    parts = [LOSSES]
    for section in _sections("losses"):
        parts.append(f"## {section['heading']}\n\n{section['text'].strip()}\n")
        if rows := [_loss(loss) for loss in section.get("losses", ())]:
            head = ["| term | formula | keys and defaults | models |", "|---|---|---|---|"]
            parts.append("\n".join([*head, *rows]) + "\n")
    return "\n".join(parts)


def losses() -> list[str]:
    """The options of conf/loss that docs/losses.md describes."""
    return [loss["option"] for section in _sections("losses") for loss in section.get("losses", ())]


def commands() -> list[str]:
    """The overrides of every command on the page."""
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
    """A term's row: what it is, its formula, its keys but the weight, the models it goes with."""
    lines = (CONF / "loss" / f"{loss['option']}.yaml").read_text().splitlines()
    what = lines[0].removeprefix("# ")
    keys = [f"`{key}: {default}`" for key, default, _ in _keys(lines) if key != "weight"]
    cells = (loss["formula"].replace("|", "\\|"), ", ".join(keys), loss["models"])
    return f"| `{loss['option']}` {what} | " + " | ".join(cells) + " |"


def _entry(technique: dict[str, Any]) -> str:
    if "option" in technique:
        what, keys = _option(technique["option"])
        group, _, name = technique["option"].rpartition("/")
        several = group in ("callbacks", "data/transforms")
        choice = f"{group}=[…,{name}]" if several else f"{group}={name}"
        title = f"### `{choice}`\n\n{what}"
        rows = keys
    elif "node" in technique:
        option, node = technique["node"].split()
        what, rows = _node(option, node)
        title = f"### `{option.partition('/')[0]}.{node}`\n\n{what}"
    else:
        title, rows = f"### {technique['title']}: `{technique['key']}`", []
    lines = [title, "", f"When: {technique['when']}."]
    if "command" in technique:
        lines += ["", f"    python launch.py {technique['command']}"]
    if rows:
        lines += ["", "| key | default | meaning |", "|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _option(option: str) -> tuple[str, list[str]]:
    """The first comment of a config file, and its keys as table rows."""
    lines = (CONF / f"{option}.yaml").read_text().splitlines()
    return lines[0].removeprefix("# "), _rows(lines[1:])


def _node(option: str, node: str) -> tuple[str, list[str]]:
    """The same of a mapping within a file."""
    lines = (CONF / f"{option}.yaml").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{node}:"))
    inner = []
    for line in lines[start + 1 :]:
        if not line.startswith(" "):
            break
        inner.append(line)
    what = lines[start].partition("#")[2].strip()
    return what[0].upper() + what[1:] + ".", _rows(inner)


def _keys(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of each key on the lines of a config file."""
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
