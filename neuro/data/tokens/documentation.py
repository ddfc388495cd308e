"""The installed documentation as text: docstrings of the standard library and of packages.

Files are parsed by `ast`; nothing is imported. A document is as many docstrings of a module as have
a certain length together. All documents of a module are in the same split, since their wording is
alike.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, MinLen

from neuro.data.tokens.sources import Document, DocumentSource, Report
from neuro.errors import nearest

#: the domain of the standard library, with the topics of its reference (`help("topics")`)
STANDARD_LIBRARY = "python"
_LEFT_OUT = {"test", "tests", "testing", "site-packages", "_vendor", "idlelib", "lib2to3"}


class Documentation(DocumentSource):
    """Docstrings of installed packages, each a domain; `python` is the standard library.

    - `shortest`: characters; documents with less text are left out
    - `longest`: characters; a module with more text is several documents, each with whole
      docstrings
    """

    def __init__(
        self,
        packages: Annotated[tuple[str, ...], MinLen(1)] = ("python", "numpy", "scipy", "sklearn"),
        shortest: Annotated[int, Ge(1)] = 200,
        longest: Annotated[int, Ge(1)] = 8000,
    ):
        if shortest > longest:
            raise ValueError(
                f"shortest: got {shortest}, but documents end at {longest} characters (longest); "
                "give less"
            )
        self.packages = tuple(dict.fromkeys(packages))
        self.shortest = shortest
        self.longest = longest
        self._folders = {name: _folder(name) for name in self.packages}
        for name, folder in self._folders.items():
            if not (name.isidentifier() and folder.is_dir()):
                raise ValueError(
                    f"packages: no installed package {name!r}; expected names of packages that are "
                    f"installed here, as they are imported, or {STANDARD_LIBRARY!r}."
                    + nearest(name, _installed())
                )

    def domains(self, name: str) -> tuple[str, ...]:
        return self.packages

    def settings(self) -> Mapping[str, Any]:
        return {
            "packages": list(self.packages),
            "shortest": self.shortest,
            "longest": self.longest,
        }

    def fingerprint(self) -> Any:
        return {
            name: [
                [str(file.relative_to(folder)), file.stat().st_size] for file in _modules(folder)
            ]
            for name, folder in self._folders.items()
        }

    def versions(self) -> Mapping[str, str]:
        distributions = metadata.packages_distributions()
        found = {STANDARD_LIBRARY: sys.version.split()[0]}
        for name in self.packages:
            if name in distributions:
                found[name] = metadata.version(distributions[name][0])
        return {name: found.get(name, "unknown") for name in self.packages}

    def documents(self, name: str, report: Report) -> Iterator[Document]:
        files = [(p, file) for p, folder in self._folders.items() for file in _modules(folder)]
        if STANDARD_LIBRARY in self.packages:
            yield from (Document(STANDARD_LIBRARY, text) for text in _topics(self.shortest))
        for number, (package, file) in enumerate(files, 1):
            for text in self._together(_docstrings(file, self._folders[package], package)):
                if len(text) >= self.shortest:
                    yield Document(package, text, group=str(file))
            report(number, len(files))

    def _together(self, texts: Iterable[str]) -> Iterator[str]:
        """Join consecutive texts as long as they are not longer than `longest` together."""
        joined = ""
        for text in texts:
            if joined and len(joined) + 1 + len(text) > self.longest:
                yield joined
                joined = ""
            joined = f"{joined}\n{text}" if joined else text
        if joined:
            yield joined


def _folder(package: str) -> Path:
    paths = sysconfig.get_paths()
    if package == STANDARD_LIBRARY:
        return Path(paths["stdlib"])
    places = (Path(paths["purelib"]) / package, Path(paths["platlib"]) / package)
    return next((place for place in places if place.is_dir()), places[0])


def _installed() -> list[str]:
    folders = Path(sysconfig.get_paths()["purelib"]).glob("*/__init__.py")
    return [STANDARD_LIBRARY, *(file.parent.name for file in folders)]


def _modules(folder: Path) -> list[Path]:
    """The modules of a package without its tests, sorted."""
    return sorted(
        file
        for file in folder.rglob("*.py")
        if not _LEFT_OUT.intersection(parts := file.relative_to(folder).parts)
        and not parts[-1].startswith("test_")
        and parts[-1] != "topics.py"
    )


def _docstrings(file: Path, folder: Path, package: str) -> Iterator[str]:
    """The docstrings of a module, each after the name of what it describes."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # templates and files of other Python versions
        return
    parts = file.relative_to(folder).with_suffix("").parts
    prefix = () if package == STANDARD_LIBRARY else (package,)
    module = ".".join((*prefix, *(part for part in parts if part != "__init__")))
    for name, text in _described(tree, module):
        # surrogates, which a string literal may contain, have no UTF-8 form
        yield f"{name}\n\n{text}\n".encode("utf-8", "replace").decode("utf-8")


def _described(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    """Names and docstrings of a module, its functions, its classes and their methods."""
    text = ast.get_docstring(node)
    if text:
        yield name, text
    if isinstance(node, (ast.Module, ast.ClassDef)):
        for child in node.body:
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from _described(child, f"{name}.{child.name}")


def _topics(shortest: int) -> Iterator[str]:
    """The chapters of the language reference that `help()` shows."""
    path = _folder(STANDARD_LIBRARY) / "pydoc_data" / "topics.py"
    if not path.is_file():  # some distributions package it apart
        return
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics: dict[str, str] = ast.literal_eval(node.value)
            yield from (text for _, text in sorted(topics.items()) if len(text) >= shortest)
