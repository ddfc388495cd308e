"""Commands that a user can paste: overrides quoted for Hydra's grammar, then for the shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

#: text that Hydra reads unquoted as the same text. Its grammar also reads numbers, null, booleans,
#: lists, mappings, interpolations and sweeps; ~, =, # and letters beyond ASCII are errors
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./@%?+:-]*", re.ASCII)
_RESERVED = re.compile(r"null|true|false|nan|inf", re.IGNORECASE)


def text(value: str) -> str:
    """A string as Hydra's grammar reads it, in quotes if it needs them."""
    if _PLAIN.fullmatch(value) and not _RESERVED.fullmatch(value):
        return value
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # for OmegaConf
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", literal)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{trailing * chr(92)}'"


def unquoted(value: str) -> str:
    """The string that an override's value stands for, without quotes and escapes."""
    quote = value[:1]
    if len(value) < 2 or quote not in ("'", '"') or not value.endswith(quote):
        return value
    inside = re.sub(rf"(\\*)\\{quote}", lambda m: m[1][: len(m[1]) // 2] + quote, value[1:-1])
    trailing = len(inside) - len(inside.rstrip("\\"))
    read = inside[: len(inside) - trailing // 2]
    return re.sub(r"(\\*)\\\$\{", lambda m: m[1][: len(m[1]) // 2] + "${", read)


def written(value: object) -> str:
    """A plain value (number, string, None, list or mapping) as Hydra's grammar reads it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{k}:{written(v)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(written, value))}]"
    return text(value) if isinstance(value, str) else str(value)


def override(key: str, value: object) -> str:
    """`key=value` for Hydra; a shell may still need quotes around it."""
    return f"{key}={written(value)}"


def argument(key: str, value: object) -> str:
    """`key=value` quoted for Hydra and for the shell."""
    return shlex.quote(override(key, value))


def launch(arguments: Sequence[str]) -> str:
    """The command `python launch.py` with arguments, quoted for the shell."""
    return shlex.join(["python", "launch.py", *arguments])


def resume(run: Path) -> str:
    """The command that continues a run."""
    return launch([override("resume", str(run))])
