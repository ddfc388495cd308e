"""Writes docs/techniques.md from docs/techniques.yaml and the comments of the config files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
HEAD = """# Techniques

What each does, its keys with their defaults, when to use it, one command. This page is made from
the config files by `make docs`; a test fails when it is not up to date. All of them combine, work
with every model that they make sense for, survive a resume and cost nothing when off. Presets:
`experiment=quick_baseline`, `limited_memory`, `max_accuracy`, `fast_iteration`, `production`,
`transfer`, `ensemble`.
"""


def page() -> str:
    """The text of docs/techniques.md."""
    parts = [HEAD]
    for section in yaml.safe_load((ROOT / "docs" / "techniques.yaml").read_text()):
        parts.append(f"## {section['heading']}\n\n{section['text'].strip()}\n")
        parts += [_entry(technique) for technique in section["techniques"]]
    return "\n".join(parts)


def commands() -> list[str]:
    """The overrides of every command on the page."""
    sections = yaml.safe_load((ROOT / "docs" / "techniques.yaml").read_text())
    return [
        technique["command"]
        for section in sections
        for technique in section["techniques"]
        if "command" in technique
    ]


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


def _rows(lines: list[str]) -> list[str]:
    rows = []
    for line in lines:
        found = re.match(r"\s*(?:- )?(\w+): *(.*?) *# (.*)$", line)
        if found and found[1] not in ("_target_", "defaults"):
            default, meaning = (text.replace("|", "\\|") for text in (found[2], found[3]))
            rows.append(f"| `{found[1]}` | {f'`{default}`' if default else ''} | {meaning} |")
    return rows


if __name__ == "__main__":
    (ROOT / "docs" / "techniques.md").write_text(page())
    print("docs/techniques.md", file=sys.stderr)
