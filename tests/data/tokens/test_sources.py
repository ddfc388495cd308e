"""Sources of text: documents, domains, and unreadable files."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from neuro.data.tokens.documentation import Documentation
from neuro.data.tokens.files import TextFiles
from neuro.data.tokens.huggingface import HuggingFace
from neuro.data.tokens.sources import DocumentSource
from neuro.errors import BackendUnavailable, DataError
from tests.data.tokens.helpers import text


def documents(source: DocumentSource) -> list[tuple[str, str]]:
    return [(d.domain, d.text) for d in source.documents("text", lambda done, total: None)]


def texts(path: Path, **options: Any) -> list[str]:
    return [text for _, text in documents(TextFiles(path=str(path), **options))]


def test_subfolders_are_domains(tmp_path: Path) -> None:
    (tmp_path / "news" / "old").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.txt").write_text("hidden")
    (tmp_path / "news" / "old" / "a.txt").write_text("old news")
    (tmp_path / "b.txt").write_text("beside")
    (tmp_path / "c.md").write_text("also")
    source = TextFiles(path=str(tmp_path))
    assert source.domains("text") == ("text", "news")
    assert documents(source) == [("text", "beside"), ("text", "also"), ("news", "old news")]
    assert texts(tmp_path, pattern="*.md") == ["also"]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("file", ["one\ntwo\n\nthree\n"]),
        ("paragraph", ["one\ntwo", "three"]),
        ("line", ["one", "two", "three"]),
        ("auto", ["one\ntwo\n\nthree\n"]),
    ],
)
def test_documents_of_files(tmp_path: Path, document: str, expected: list[str]) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n")
    assert texts(tmp_path / "a.txt", document=document) == expected


def test_pieces_are_complete_and_end_at_boundaries(tmp_path: Path) -> None:
    words = (
        " ".join(f"word{n}" for n in range(300)).replace("word7 ", "word7\n").replace("9 ", "9\n\n")
    )
    (tmp_path / "a.txt").write_text(words + "x" * 200)
    pieces = texts(tmp_path, document=64)
    assert "".join(pieces) == words + "x" * 200
    assert all(len(piece) <= 64 for piece in pieces)
    assert sum(piece.endswith("\n\n") for piece in pieces) > 5
    single = "line of text\n" * 1000
    (tmp_path / "a.txt").write_text(single)
    assert 3 < len(texts(tmp_path)) < 7
    (tmp_path / "b.txt").write_text("another")
    assert texts(tmp_path) == [single, "another"]


def test_json_lines_and_parquet(tmp_path: Path) -> None:
    rows = [{"text": "one", "story": "eins"}, {"text": "two\nlines", "story": "zwei"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert texts(tmp_path / "a.jsonl") == ["one", "two\nlines"]
    assert texts(tmp_path / "a.jsonl", field="story") == ["eins", "zwei"]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    assert texts(tmp_path / "b.parquet") == ["one", "two\nlines"]
    assert texts(tmp_path / "b.parquet", field="story") == ["eins", "zwei"]
    with pytest.raises(DataError, match=r"b\.parquet: has no column 'x'; it has text, story"):
        texts(tmp_path / "b.parquet", field="x")
    with pytest.raises(DataError, match=r"a\.jsonl: line 1 has no text 'x'; it has text, story"):
        texts(tmp_path / "a.jsonl", field="x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt: is empty"),
        ("a.txt", b" \n\n", r"a\.txt: holds only white space"),
        (
            "a.txt",
            b"abc\xe9def",
            r"a\.txt: is no UTF-8 text: byte 3 is 0xe9 \(invalid continuation",
        ),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"byte 24 is 0xff"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl: line 2 is no JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl: line 1 has no text 'text'; it has no keys"),
        ("a.parquet", b"PAR1 no", r"a\.parquet: is no parquet file, or damaged"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        texts(tmp_path)


def test_data_path_keeps_the_settings_of_the_source(tmp_path: Path) -> None:
    source = text(tmp_path, sources={"text": TextFiles(document="line", pattern="*.md")})
    assert source.corpus.sources["text"].settings() == {
        "path": str(tmp_path),
        "pattern": "*.md",
        "document": "line",
        "field": "text",
    }


def test_missing_files_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        TextFiles(path=str(tmp_path / "none")).domains("text")
    with pytest.raises(DataError, match=r"holds no files of the pattern \*\.txt"):
        TextFiles(path=str(tmp_path), pattern="*.txt").domains("text")
    with pytest.raises(ValueError, match=r"sources\.mine\.path: got none"):
        text(tmp_path, path=None, sources={"mine": TextFiles()})
    (tmp_path / "a.parquet").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BackendUnavailable, match=r"pyarrow.*neuro\[parquet\]"):
        texts(tmp_path)


def test_the_standard_library_is_read_without_importing_it() -> None:
    before = set(sys.modules)
    source = Documentation(packages=("python",))
    found = documents(source)
    assert {domain for domain, _ in found} == {"python"}
    assert any(text.startswith("textwrap\n\n") for _, text in found)
    assert any(
        'The "for" statement' in text for _, text in found
    )  # a topic of the language reference
    assert all(len(text) >= 200 for _, text in found)
    assert not {"turtledemo", "tkinter.ttk"} & (set(sys.modules) - before)
    assert source.versions() == {"python": sys.version.split()[0]}


def test_documents_have_whole_docstrings_between_two_lengths() -> None:
    usual = documents(Documentation(packages=("rich",)))
    assert 0 < len(documents(Documentation(packages=("rich",), shortest=3000))) < len(usual)
    cut = documents(Documentation(packages=("rich",), shortest=1, longest=1500))
    whole = documents(Documentation(packages=("rich",), shortest=1, longest=10**6))
    assert len(cut) > len(whole)
    assert len("\n".join(text for _, text in cut)) == len("\n".join(text for _, text in whole))
    longer = [text for _, text in cut if len(text) > 1500]
    assert len(longer) < len(cut) / 10  # single docstrings
    with pytest.raises(ValueError, match="shortest: got 9000, but documents end at 8000"):
        Documentation(shortest=9000)


def test_packages_that_are_not_installed_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"packages: no installed package 'nunpy'.*Did you mean 'numpy'"
    ):
        Documentation(packages=("nunpy",))


class _Fake(types.ModuleType):
    """Replacement for the package datasets, with three rows."""

    def __init__(self, error: Exception | None = None):
        super().__init__("datasets")
        self.error = error
        self.calls: list[tuple[Any, ...]] = []
        self.exceptions = types.SimpleNamespace(DatasetsError=RuntimeError)

    def load_dataset(self, *arguments: Any, **options: Any) -> Iterator[dict[str, str]]:
        self.calls.append((*arguments, options))
        if self.error is not None:
            raise self.error
        return iter([{"text": "one", "id": "1"}, {"text": " "}, {"text": "three"}])


def test_data_sets_of_hugging_face_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _Fake()
    monkeypatch.setitem(sys.modules, "datasets", fake)
    source = HuggingFace("a/b", config="c", revision="v1", documents=2)
    assert documents(source) == [("text", "one")]
    assert fake.calls == [("a/b", "c", {"split": "train", "revision": "v1", "streaming": True})]
    assert [text for _, text in documents(HuggingFace("a/b"))] == ["one", "three"]
    assert source.versions() == {"a/b": "v1"}
    assert source.fingerprint() != HuggingFace("a/b").fingerprint()
    with pytest.raises(DataError, match=r"data\.sources\.text\.field: got 'x'.*it has text, id"):
        documents(HuggingFace("a/b", field="x"))


def test_unavailable_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", _Fake(ConnectionError("no\nnetwork")))
    with pytest.raises(DataError, match=r"a/b: cannot be loaded \(ConnectionError: no\)"):
        documents(HuggingFace("a/b"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BackendUnavailable, match=r"datasets.*neuro\[huggingface\]"):
        documents(HuggingFace("a/b"))


@pytest.mark.slow
def test_a_folder_read_by_the_real_package(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert [text for _, text in documents(HuggingFace(str(tmp_path)))] == ["one", "two"]
