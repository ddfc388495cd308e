"""Text: held-out documents, shards and their manifest, reuse, damage, and refused settings."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from neuro.__main__ import main
from neuro.data.tokens.corpus import Corpus
from neuro.data.tokens.documentation import Documentation
from neuro.data.tokens.files import TextFiles
from neuro.data.tokens.shards import Shards
from neuro.data.tokens.tokenizers import CharTokenizer
from neuro.errors import ConfigError, DataError
from tests.data.tokens.helpers import text, texts_of, write_texts


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "corpus")


def test_splits_are_disjoint_and_complete(corpus: Path) -> None:
    source = text(corpus, val_fraction=0.1, test_fraction=0.2)
    every = sorted(file.read_text() for file in corpus.rglob("*.txt"))
    splits = {split: texts_of(source, "all", split) for split in ("train", "val", "test")}
    assert sorted(itertools.chain(*splits.values())) == every
    assert [len(splits[split]) for split in splits] == [28, 4, 8]
    assert len(texts_of(source, "a", "test")) == 4


def test_the_split_is_by_content_so_it_does_not_depend_on_names(corpus: Path) -> None:
    before = texts_of(text(corpus), "all", "test")
    for number, file in enumerate(sorted(corpus.rglob("*.txt"))):
        file.rename(file.with_name(f"{99 - number}.txt"))
    assert sorted(texts_of(text(corpus), "all", "test")) == sorted(before)
    assert sorted(texts_of(text(corpus, split_seed=1), "all", "test")) != sorted(before)


def test_duplicate_documents_are_kept_once(corpus: Path) -> None:
    (corpus / "b" / "copy.txt").write_text((corpus / "a" / "03.txt").read_text())
    source = text(corpus)
    found = [t for split in ("train", "val", "test") for t in texts_of(source, "all", split)]
    assert len(found) == len(set(found)) == 40


def test_limits_choose_documents(corpus: Path) -> None:
    source = text(corpus, limit_train=5, limit_test=1)
    assert len(source.documents("all", "train")) == 5
    assert len(source.documents("a", "test")) == 1
    other = text(corpus, limit_train=5, split_seed=4)
    assert texts_of(other, "all", "train") != texts_of(source, "all", "train")


def test_the_spec_of_a_task(corpus: Path) -> None:
    source = text(corpus, span=32, streams=7)
    spec = source.spec("a")
    assert source.tasks == ("a", "b", "all")
    assert (spec.inputs.vocabulary, spec.inputs.document_end, spec.outputs) == (257, 256, 257)
    assert spec.timings == ((32, None),)
    assert spec.documents
    assert spec.targets.symbol_bytes == (*(1,) * 256, 0)
    assert (source.batch_size, source.batch_key) == (7, "streams")


def test_the_manifest_counts_and_hashes(corpus: Path) -> None:
    source = text(corpus)
    shards = source.corpus.shards
    sizes = [len(file.read_bytes()) for file in (corpus / "a").iterdir()]
    counts = [shards.count("a", split) for split in ("train", "val", "test")]
    assert sum(count.documents for count in counts) == 20
    assert sum(count.bytes for count in counts) == sum(sizes)
    assert sum(count.tokens for count in counts) == sum(sizes) + 20
    assert counts[0].bytes_per_token == 1.0
    manifest = json.loads((shards.path / "manifest.json").read_text())
    assert set(manifest["files"]) == {f.name for f in shards.path.iterdir()} - {"manifest.json"}
    assert manifest["settings"]["sources"]["text"]["path"] == str(corpus)


def test_shards_are_written_once_and_memory_mapped(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = text(corpus).corpus.shards
    monkeypatch.setattr("neuro.data.tokens.corpus.make_shards", None)
    second = text(corpus)
    assert second.corpus.shards.path == first.path
    assert isinstance(second.documents("a", "train").shards[0], np.memmap)
    assert [item.name for item in first.path.parent.iterdir()] == [first.path.name]


@pytest.mark.parametrize(
    "changed",
    [
        {"val_fraction": 0.2}, {"test_fraction": 0.2}, {"split_seed": 1},
        {"tokenizer": CharTokenizer()},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_other_settings_have_other_shards(corpus: Path, changed: dict[str, object]) -> None:
    assert text(corpus).measured() != text(corpus, **changed).measured()


def test_shards_depend_on_content_and_not_on_the_path(corpus: Path) -> None:
    name = text(corpus).measured()["shards"]
    moved = corpus.rename(corpus.with_name("moved"))
    assert text(moved).measured()["shards"] == name
    with (moved / "a" / "00.txt").open("a") as file:
        file.write("more")
    assert text(moved).measured()["shards"] != name


def test_damaged_shards_are_replaced(corpus: Path) -> None:
    shards = text(corpus).corpus.shards
    file = shards.path / "00-train-000.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"Damaged tokens .*00-train-000\.npy: is damaged"):
        text(corpus).prepare()
    Shards(shards.path).verify()
    file.unlink()
    with pytest.warns(UserWarning, match=r"00-train-000\.npy: is missing"):
        text(corpus).prepare()


def test_failed_writing_of_shards_leaves_no_files(corpus: Path) -> None:
    (corpus / "b" / "20.txt").write_bytes(b"ok \xff")
    with pytest.raises(DataError, match="byte 3 is 0xff"):
        text(corpus).prepare()
    assert list((corpus.parent / "cache").iterdir()) == []


def test_a_run_opens_its_shards_after_the_text_changes(corpus: Path) -> None:
    source = text(corpus)
    name, before = source.measured()["shards"], texts_of(source, "all", "train")
    (corpus / "a" / "00.txt").write_text("other")
    assert texts_of(text(corpus, shards=name), "all", "train") == before
    shutil.rmtree(corpus.parent / "cache" / name)
    with pytest.raises(DataError, match=r"data\.shards: .*missing or damaged.*data\.shards=null"):
        text(corpus, shards=name).prepare()


def test_a_tokenizer_that_does_not_fit_the_shards_is_refused(corpus: Path) -> None:
    name = text(corpus).measured()["shards"]
    with pytest.raises(ConfigError, match=r"data\.tokenizer.* got .*CharTokenizer.*ByteTokenizer"):
        text(corpus, shards=name, tokenizer=CharTokenizer()).prepare()
    with pytest.raises(ConfigError, match=r"data\.val_fraction: got 0\.3, .* made with 0\.05"):
        text(corpus, shards=name, val_fraction=0.3).prepare()
    moved = corpus.rename(corpus.with_name("moved"))
    with pytest.raises(ConfigError, match=r"data\.sources\.text\.path: got .*moved, but .*corpus"):
        text(moved, shards=name).prepare()


def test_another_tokenizer_than_that_of_the_run_is_refused(corpus: Path) -> None:
    run = text(corpus, tokenizer=CharTokenizer())
    known = run.measured()["tokenizer_hash"]
    other = write_texts(corpus.with_name("other"), domains="é")
    with pytest.raises(ConfigError, match=r"data\.tokenizer_hash: .*data\.tokenizer\.file"):
        text(other, tokenizer=CharTokenizer(), tokenizer_hash=known).prepare()
    same = write_texts(corpus.with_name("same"), count=9)
    reused = CharTokenizer(file=str(run.corpus.shards.path))
    source = text(same, tokenizer=reused, tokenizer_hash=known)
    assert source.spec("all").inputs == run.spec("all").inputs
    with pytest.raises(DataError, match=r"'é' \(U\+00E9\) is not among"):
        text(other, tokenizer=CharTokenizer(file=str(run.corpus.shards.path))).prepare()
    assert text(corpus, tokenizer_hash=text(corpus).measured()["tokenizer_hash"]).tasks


def test_an_unknown_version_of_the_manifest_is_named(corpus: Path) -> None:
    path = text(corpus).corpus.shards.path
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(DataError, match="version 99"):
        Shards(path)
    (path / "manifest.json").write_text("[1")
    with pytest.raises(DataError, match="is damaged"):
        Shards(path)


def test_too_few_documents_are_refused(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "corpus", count=2)
    with pytest.raises(DataError, match="domain 'a' has 2 different documents; at least 3"):
        text(path).prepare()
    path = write_texts(tmp_path / "corpus", count=3)
    with pytest.raises(DataError, match="domain 'a' has no documents left to train on"):
        text(path, val_fraction=0.5, test_fraction=0.4).prepare()
    with pytest.raises(ValueError, match="leave nothing to train on"):
        text(path, val_fraction=0.5, test_fraction=0.5)


def test_domains_have_different_names(corpus: Path) -> None:
    files = TextFiles(path=str(corpus))
    with pytest.raises(ConfigError, match=r"data\.sources\.two: its domain 'a' occurs twice"):
        _ = text(corpus, sources={"one": files, "two": files}, path=None).tasks
    (corpus / "a").rename(corpus / "all")
    with pytest.raises(ConfigError, match="has the name of the mixture"):
        _ = text(corpus).tasks
    with pytest.raises(ValueError, match="sources: got none"):
        text(corpus, sources={}, path=None)


def test_a_folder_that_cannot_be_written_is_named(corpus: Path) -> None:
    (corpus.parent / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .*data\.root"):
        text(corpus, root=str(corpus.parent / "file")).prepare()


def test_shards_of_the_installed_documentation(tmp_path: Path) -> None:
    packages = Documentation(packages=("rich",))
    source = text(tmp_path / "unused", sources={"documentation": packages}, path=None)
    assert source.tasks == ("rich", "all")
    every = [t for split in ("train", "val", "test") for t in texts_of(source, "rich", split)]
    assert any("rich.console.Console\n\n" in t for t in every)
    assert all(len(t) >= 200 for t in every)
    modules = {
        split: {
            ".".join(t.partition("\n")[0].split(".")[:2]) for t in texts_of(source, "rich", split)
        }
        for split in ("train", "val", "test")
    }
    assert not modules["train"] & (modules["val"] | modules["test"])
    manifest = source.corpus.shards.manifest
    assert "rich" in manifest["sources"]["documentation"]["versions"]


def test_data_make_and_inspect_report_sizes_and_compression(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEURO_DATA", str(corpus.parent / "cache"))
    main(["data", "make", "data=text", f"data.path={corpus}", "tokenizer=char", "streams=4"])
    out, err = capsys.readouterr()
    assert "Reading text: 40 of 40 files" in err
    assert "Tokenising: 40 of 40 documents" in err
    assert "tokenizer: CharTokenizer" in out
    assert "train       18 documents" in out
    assert "compression of held-out text: 1.000 bytes per token" in out
    (path,) = (corpus.parent / "cache").iterdir()
    main(["data", "inspect", str(path)])
    inspected = capsys.readouterr().out
    assert set(out.splitlines()) <= set(inspected.splitlines())
    assert "a: 'a" in inspected


def test_data_make_names_unknown_tokenizers(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "make", "text", "tokenizer=chars"]) == 2
    assert "tokenizer=chars: no such option; there are" in capsys.readouterr().err


def test_inspect_reports_damage(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = text(corpus).corpus.shards.path
    os.truncate(path / "01-val.npy", 3)
    assert main(["data", "inspect", str(path)]) == 2
    assert "01-val.npy" in capsys.readouterr().err


def test_the_corpus_lists_its_settings(corpus: Path) -> None:
    found = text(corpus).corpus
    assert isinstance(found, Corpus)
    assert json.loads(json.dumps(found.settings())) == found.settings()
