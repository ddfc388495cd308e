"""docs/troubleshooting.md quotes messages; each one must exist in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def texts(tree: ast.AST) -> Iterator[str]:
    """The strings of a module, with an ellipsis for each value of an f-string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            values = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
            yield "".join(map(str, values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def quoted_messages() -> list[str]:
    """The quoted messages in the first columns; other symptoms are not quoted."""
    rows = [line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| `")]
    alone = [row for row in rows if re.fullmatch(r"\|( ?`[^`]+`,?)+", row)]
    return [message for row in alone for message in re.findall("`([^`]+)`", row)]


def test_quoted_messages_are_in_the_code() -> None:
    files = [ROOT / "launch.py", *(ROOT / "neuro").rglob("*.py")]
    code = "\n".join(
        text for file in files for text in texts(ast.parse(file.read_text(encoding="utf-8")))
    )
    messages = quoted_messages()
    assert len(messages) > 40
    patterns = {
        message: ".*".join(re.escape(part) for part in message.split("…")) for message in messages
    }
    assert [m for m, pattern in patterns.items() if not re.search(pattern, code)] == []
