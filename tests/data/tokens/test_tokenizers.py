"""Tokenizers: round trips, byte counts, and training without held-out documents."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuro.data.tokens.bpe import BPETokenizer, TiktokenTokenizer
from neuro.data.tokens.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from neuro.errors import BackendUnavailable, DataError
from tests.data.tokens.helpers import text, texts_of, write_texts

TEXTS = ["the cat sat on the mat. ", "the rat sat. ", "  Ünïcode ≤ 😀\r\n\n\tend", "<|endoftext|>x"]


def tiktoken_of_bytes(monkeypatch: pytest.MonkeyPatch) -> TiktokenTokenizer:
    """An encoding that needs no download, in place of gpt2: bytes and two merges."""
    import tiktoken

    ranks = {bytes([b]): b for b in range(256)} | {b"th": 256, b"the": 257}
    encoding = tiktoken.Encoding(
        "gpt2", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 258}
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: encoding)
    return TiktokenTokenizer("gpt2")


@pytest.fixture(params=["byte", "char", "bpe", "tiktoken"])
def tokenizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    if request.param == "tiktoken":
        return tiktoken_of_bytes(monkeypatch)
    made = {"byte": ByteTokenizer, "char": CharTokenizer, "bpe": lambda: BPETokenizer(270)}
    found: Tokenizer = made[request.param]()
    found.train(TEXTS, set("".join(TEXTS)))
    return found


def test_round_trips_and_byte_counts(tokenizer: Tokenizer) -> None:
    end = tokenizer.document_end
    for given_text, symbols in zip(TEXTS, tokenizer.encode_all(TEXTS), strict=True):
        assert np.array_equal(symbols, tokenizer.encode(given_text))
        assert symbols.min() >= 0
        assert symbols.max() < tokenizer.vocabulary
        assert end not in symbols
        assert tokenizer.decode([*symbols.tolist(), end]) == given_text
        sizes = np.array(tokenizer.symbol_bytes)
        assert sizes[symbols].sum() == len(given_text.encode())
    assert len(tokenizer.symbol_bytes) == tokenizer.vocabulary
    assert tokenizer.symbol_bytes[end] == 0
    assert len(tokenizer.encode("")) == 0


def test_a_tokenizer_is_restored_from_its_state(tokenizer: Tokenizer) -> None:
    if isinstance(tokenizer, TiktokenTokenizer):
        assert tokenizer.state_dict() == {}
        return
    other = type(tokenizer)()
    other.load_state_dict(tokenizer.state_dict())
    assert other.vocabulary == tokenizer.vocabulary
    assert [x.tolist() for x in other.encode_all(TEXTS)] == [
        x.tolist() for x in tokenizer.encode_all(TEXTS)
    ]


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_bytes_and_byte_pairs_encode_any_text(anything: str) -> None:
    anything = anything.encode("utf-8", "replace").decode()
    for tokenizer in (ByteTokenizer(), _BPE):
        assert tokenizer.decode(tokenizer.encode(anything).tolist()) == anything


_BPE = BPETokenizer(280)
_BPE.train(TEXTS, ())


def test_byte_pairs_need_fewer_symbols(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "corpus")
    source = text(path, tokenizer=BPETokenizer(300))
    assert len(_BPE.encode("the cat sat on the mat")) < 12
    assert source.corpus.shards.count("a", "train").bytes_per_token > 1.02
    assert source.spec("a").inputs.vocabulary == 300
    every = [t for split in ("train", "val", "test") for t in texts_of(source, "all", split)]
    assert sorted(every) == sorted(file.read_text() for file in path.rglob("*.txt"))


def test_held_out_documents_do_not_shape_the_tokenizer(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "corpus")
    source = text(path, tokenizer=BPETokenizer(300))
    alone = BPETokenizer(300)
    alone.train(texts_of(source, "all", "train"), ())
    merges = [
        sorted(tokenizer._trained.get_vocab())
        for tokenizer in (source.tokenizer, alone)
        if isinstance(tokenizer, BPETokenizer)
    ]
    assert merges[0] == merges[1]


def test_the_tokenizer_of_other_shards_can_be_used(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "corpus")
    first = text(path, tokenizer=BPETokenizer(300))
    folder = first.corpus.shards.path
    other = write_texts(tmp_path / "other", count=9, domains="c")
    second = text(other, tokenizer=BPETokenizer(file=str(folder)))
    assert second.spec("all").inputs == first.spec("all").inputs
    sample = texts_of(second, "c", "train")[0]
    assert first.tokenizer.encode(sample).tolist() == second.tokenizer.encode(sample).tolist()
    byte = text(path).corpus.shards.path
    with pytest.raises(DataError, match=r"data\.tokenizer\.file: .* another kind of tokenizer"):
        text(other, tokenizer=BPETokenizer(file=str(byte))).prepare()


def test_a_vocabulary_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size: got 200; expected at least 257"):
        BPETokenizer(200)
    source = text(write_texts(tmp_path / "corpus"), tokenizer=CharTokenizer(most=5))
    with pytest.raises(DataError, match=r"data\.tokenizer\.most: got 5, but \d+ different"):
        source.prepare()


def test_characters_without_a_symbol_are_named() -> None:
    tokenizer = CharTokenizer()
    tokenizer.train(["abc"], "abc")
    assert (tokenizer.vocabulary, tokenizer.document_end) == (4, 3)
    with pytest.raises(DataError, match=r"'é' \(U\+00E9\) is not among the 3"):
        tokenizer.encode("abécé")


def test_unknown_and_unreachable_encodings(monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken

    with pytest.raises(DataError, match=r"data\.tokenizer\.name: got 'gpt3'; tiktoken has .*gpt2"):
        _ = TiktokenTokenizer("gpt3").vocabulary

    def offline(name: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(DataError, match="cannot be downloaded .*TIKTOKEN_CACHE_DIR"):
        _ = TiktokenTokenizer("gpt2").vocabulary


@pytest.mark.parametrize("package", ["tokenizers", "tiktoken"])
def test_missing_packages_are_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendUnavailable, match=rf"needs the package {package}.*neuro\[text\]"):
        if package == "tokenizers":
            BPETokenizer().train(TEXTS, ())
        else:
            _ = TiktokenTokenizer().vocabulary
