"""Text files as a source of documents: plain text, JSON lines, parquet; a file or a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from neuro.config.paths import expanded
from neuro.data.tokens.sources import Document, DocumentSource, Report
from neuro.errors import BackendUnavailable, DataError

#: characters of the pieces of a single plain text file
_PIECE = 4000
_ROWS = (".jsonl", ".ndjson", ".parquet")


class TextFiles(DocumentSource):
    """Documents of a file, or of all files of a folder and its subfolders.

    - `path`: the file or folder; None: data.path gives it. Subfolders are domains; files beside
      them belong to the domain that has the source's name
    - `pattern`: names of files in a folder that are read, such as `*.txt`
    - `document`: what is a document of a plain text file: the file, a paragraph (blank lines
      between), a line, or pieces of about so many characters, cut at the ends of paragraphs or
      lines. auto: the file, or pieces of 4000 characters if there is one file only
    - `field`: key of JSON lines, or column of parquet files, that holds the text; each row is a
      document
    """

    def __init__(
        self,
        path: str | None = None,
        pattern: str = "*",
        document: Literal["auto", "file", "paragraph", "line"] | Annotated[int, Ge(16)] = "auto",
        field: str = "text",
    ):
        self.given = bool(path)
        self.path = Path(expanded(path or ""))
        self.pattern = pattern
        self.document = document
        self.field = field

    def at(self, path: str) -> TextFiles:
        """The same settings for another file or folder."""
        return TextFiles(path, self.pattern, self.document, self.field)

    def domains(self, name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._domain(file, name) for file in self._files()))

    def settings(self) -> Mapping[str, Any]:
        return {
            "path": str(self.path),
            "pattern": self.pattern,
            "document": self.document,
            "field": self.field,
        }

    def fingerprint(self) -> Any:
        stats = [(self._relative(file), file.stat()) for file in self._files()]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

    def documents(self, name: str, report: Report) -> Iterator[Document]:
        files = self._files()
        for number, file in enumerate(files, 1):
            domain = self._domain(file, name)
            texts = self._texts(file, alone=len(files) == 1)
            yield from (Document(domain, text) for text in texts)
            report(number, len(files))

    def _files(self) -> list[Path]:
        """The files, sorted. DataError if there are none."""
        if not self.path.exists():
            raise DataError(f"{self.path}: no such file or folder.")
        if not self.path.is_dir():
            return [self.path]
        files = sorted(
            file
            for file in self.path.rglob("*")
            if file.is_file()
            and fnmatchcase(file.name, self.pattern)
            and not any(part.startswith(".") for part in file.relative_to(self.path).parts)
        )
        if not files:
            raise DataError(
                f"{self.path}: the folder holds no files of the pattern {self.pattern}."
            )
        return files

    def _relative(self, file: Path) -> str:
        return file.name if file == self.path else str(file.relative_to(self.path))

    def _domain(self, file: Path, name: str) -> str:
        parts = () if file == self.path else file.relative_to(self.path).parts
        return parts[0] if len(parts) > 1 else name

    def _texts(self, file: Path, alone: bool) -> Iterator[str]:
        """The documents of a file. DataError if it is empty or damaged."""
        try:
            if file.stat().st_size == 0:
                raise DataError(f"{file}: is empty; remove it, or give it some text.")
            if file.suffix == ".parquet":
                texts = self._column(file)
            elif file.suffix in _ROWS:
                texts = self._lines(file)
            else:
                text = decoded(file.read_bytes(), str(file))
                size = _PIECE if alone else None
                texts = _divided(text, size if self.document == "auto" else self.document)
            empty = True
            for text in texts:
                if text.strip():
                    empty = False
                    yield text
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}).") from error
        if empty:
            raise DataError(f"{file}: holds only white space; remove it, or give it some text.")

    def _lines(self, file: Path) -> Iterator[str]:
        offset = 0
        with file.open("rb") as handle:
            for number, line in enumerate(handle, 1):
                text = decoded(line, str(file), offset)
                offset += len(line)
                if not text.strip():
                    continue
                try:
                    row = json.loads(text)
                except ValueError as error:
                    raise DataError(f"{file}: line {number} is no JSON ({error}).") from error
                if not isinstance(row, dict) or not isinstance(row.get(self.field), str):
                    keys = ", ".join(row) if isinstance(row, dict) else "no keys"
                    raise DataError(
                        f"{file}: line {number} has no text {self.field!r}; it has {keys}. Name "
                        "the key in `field` of the source."
                    )
                yield row[self.field]

    def _column(self, file: Path) -> Iterator[str]:
        try:
            import pyarrow as arrow
            from pyarrow import parquet
        except ImportError as error:
            raise BackendUnavailable(
                f"{file}: parquet files need the package pyarrow; "
                "install it with `pip install 'neuro[parquet]'`."
            ) from error
        try:
            with parquet.ParquetFile(file) as opened:
                names = opened.schema_arrow.names
                if self.field not in names:
                    raise DataError(
                        f"{file}: has no column {self.field!r}; it has {', '.join(names)}. Name "
                        "the column in `field` of the source."
                    )
                for batch in opened.iter_batches(columns=[self.field]):
                    for value in batch.column(0).to_pylist():
                        if value is not None and not isinstance(value, str):
                            raise DataError(f"{file}: column {self.field!r} holds no text.")
                        yield value or ""
        except arrow.ArrowException as error:
            raise DataError(f"{file}: is no parquet file, or damaged ({error}).") from error


def decoded(content: bytes, where: str, offset: int = 0) -> str:
    """UTF-8 text; DataError names the first byte that is not, `offset` bytes before `content`."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        place = offset + error.start
        raise DataError(
            f"{where}: is no UTF-8 text: byte {place} is 0x{content[error.start]:02x} "
            f"({error.reason}). Convert it, as with `iconv -f latin1 -t utf-8`."
        ) from error


def _divided(text: str, document: str | int | None) -> Iterator[str]:
    """The documents of a plain text; pieces are cut after a paragraph, else a line, else a word."""
    if document == "line":
        yield from text.splitlines()
    elif document == "paragraph":
        yield from (part.strip("\n") for part in text.replace("\r\n", "\n").split("\n\n"))
    elif isinstance(document, int):
        start = 0
        while start < len(text):
            end = min(start + document, len(text))
            if end < len(text):
                for mark in ("\n\n", "\n", " "):
                    cut = text.rfind(mark, start + document // 2, end)
                    if cut >= 0:
                        end = cut + len(mark)
                        break
            yield text[start:end]
            start = end
    else:
        yield text
