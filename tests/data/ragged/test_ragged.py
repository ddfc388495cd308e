"""Sequences of different lengths: batches, `.ts` files, encoders, generated tasks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from neuro.data.inspecting import inspected
from neuro.data.ragged.encoders import (
    CurrentEncoder,
    DeltaEncoder,
    Encoder,
    LatencyEncoder,
    PopulationEncoder,
    RateEncoder,
    Statistics,
)
from neuro.data.ragged.event_xor import EventXOR
from neuro.data.ragged.source import described
from neuro.data.ragged.timescales import KINDS, Timescales
from neuro.data.ragged.timeseries import TimeSeriesSource
from neuro.data.ragged.ts_file import read_ts
from neuro.errors import ConfigError, DataError
from tests.data.helpers import TS_HEADER, write_ts

CURRENT = CurrentEncoder()


def series(folder: Path, **options: Any) -> TimeSeriesSource:
    """Two channels; lengths 2 to 5, alternating labels, value 10 x length."""
    rows = [
        f"{','.join([str(10 * n)] * n)}:{','.join(map(str, range(n)))}:{'ab'[i % 2]}"
        for i, n in enumerate([2, 3, 4, 5] * 5)
    ]
    paths = {
        "train_path": str(write_ts(folder / "train.ts", rows)),
        "test_path": str(write_ts(folder / "test.ts", rows[:6])),
    }
    given = {"encoder": CURRENT, "batch_size": 4, "val_fraction": 0.2}
    return TimeSeriesSource(**{**paths, **given, **options})


class TestBatches:
    def test_are_padded_with_zeros_and_have_lengths(self, tmp_path: Path) -> None:
        source = series(tmp_path)
        spec = source.spec("all")
        assert spec.padded and spec.frames == 5 and spec.timings == ((5, 10.0),)
        assert spec.inputs.shape == (2,) and spec.classes == (0, 1)
        first, second = source.loader("all", "test").batches()
        assert first.lengths is not None and first.lengths.tolist() == [2, 3, 4, 5]
        assert first.targets.tolist() == [0, 1, 0, 1]
        assert first.inputs.shape == (4, 5, 2)
        assert not first.inputs[0, 2:].any() and first.inputs[0, :2].all()
        assert second.inputs.shape == (2, 3, 2)  # the longest sequence of the batch
        assert second.ids is not None and second.ids.tolist() == [4, 5]

    def test_of_training_have_similar_lengths_and_visit_each_sample_once(
        self, tmp_path: Path
    ) -> None:
        loader = series(tmp_path, bucket=4).loader("all", "train", shuffle=True, seed=1)
        batches = list(loader.batches(2))
        assert len(batches) == len(loader) == 4
        ids = torch.cat([b.ids for b in batches if b.ids is not None])
        assert sorted(ids.tolist()) == list(range(16))
        ranges = [b.lengths.max() - b.lengths.min() for b in batches if b.lengths is not None]
        assert max(ranges) <= 1
        again = [b.ids.tolist() for b in loader.batches(2, start=2) if b.ids is not None]
        assert again == [b.ids.tolist() for b in batches[2:] if b.ids is not None]
        other = [b.ids.tolist() for b in loader.batches(3) if b.ids is not None]
        assert other != [b.ids.tolist() for b in batches if b.ids is not None]
        mixed = series(tmp_path, bucket=1).loader("all", "train", shuffle=True, seed=1)
        lengths = [b.lengths for b in mixed.batches() if b.lengths is not None]
        assert max(int(found.max() - found.min()) for found in lengths) > 1

    def test_are_divided_among_processes(self, tmp_path: Path) -> None:
        source = series(tmp_path)
        shares = [
            list(source.loader("all", "train", shuffle=True, rank=r, world_size=2).batches())
            for r in range(2)
        ]
        whole = list(source.loader("all", "train", shuffle=True).batches())
        for one, two, both in zip(*shares, whole, strict=True):
            assert torch.equal(torch.cat([one.inputs, two.inputs]), both.inputs)
        with pytest.raises(ConfigError, match="data.batch_size: got 1 for 2 processes"):
            source.loader("all", "train", world_size=2, batch_size=1)

    def test_limits_keep_classes(self, tmp_path: Path) -> None:
        found = series(tmp_path, limit_train=4).sequences("all", "train")
        assert sorted(found.labels.tolist()) == [0, 0, 1, 1]
        assert any("4 samples of" in line for line in described(series(tmp_path, limit_train=4)))


class TestTimeSeriesFiles:
    def test_are_read(self, tmp_path: Path) -> None:
        found = read_ts(write_ts(tmp_path / "x.ts", ["1,2,3:4,5,6:b", "7:8:a"]))
        assert found.names == ("a", "b") and found.labels.tolist() == [1, 0]
        assert found.series[0].tolist() == [[1, 4], [2, 5], [3, 6]]

    @pytest.mark.parametrize(
        ("rows", "header", "message"),
        [
            (
                ["1,?,3:4,5,6:b"],
                TS_HEADER,
                r"line 6, channel 1: missing or wrong value in '1,\?,3'",
            ),
            (["1,2:3,4:a", "1,2,3:4,5:b"], TS_HEADER, "line 7: channels of 2 and 3 values"),
            (["1:2:a", "1:b"], TS_HEADER, "line 7: 1 channels; samples before have 2"),
            (["1:2:c"], TS_HEADER, "line 6: label 'c'; @classLabel lists a, b"),
            ([], TS_HEADER, "no samples after @data"),
            (["1:a"], "@data\n", "no classes; expected `@classLabel true`"),
            (["1:a"], TS_HEADER.replace("@data", "@dato"), "lies before @data"),
            (["1:a"], TS_HEADER.replace("false", "true"), "has time stamps"),
        ],
    )
    def test_problems_are_named(
        self, tmp_path: Path, rows: list[str], header: str, message: str
    ) -> None:
        path = write_ts(tmp_path / "x.ts", rows, header)
        with pytest.raises(DataError, match=message):
            read_ts(path)
        with pytest.raises(DataError, match=message):
            inspected(path)

    def test_are_inspected(self, tmp_path: Path) -> None:
        lines = inspected(write_ts(tmp_path / "x.ts", ["1,2:3,4:b", "7:8:a"]))
        assert "2 samples of 2 channels" in lines and "1 to 2 frames" in lines
        assert "data=timeseries" in lines[-1]

    def test_of_two_kinds_are_refused(self, tmp_path: Path) -> None:
        source = series(tmp_path)
        other = write_ts(tmp_path / "other.ts", ["1:a", "2:b"])
        mixed = TimeSeriesSource(encoder=CURRENT, train_path=source.paths[0], test_path=str(other))
        with pytest.raises(DataError, match=r"other.ts: other classes or channels \(2, 1\)"):
            mixed.prepare()
        with pytest.raises(ValueError, match="give train_path and test_path, or neither"):
            TimeSeriesSource(encoder=CURRENT, train_path="x.ts")
        missing = TimeSeriesSource(encoder=CURRENT, train_path="x.ts", test_path="y.ts")
        with pytest.raises(ConfigError, match="data.train_path: .*x.ts: no such file"):
            missing.prepare()

    def test_of_the_package_are_found_or_its_absence_explained(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"pip install neuro\[timeseries\]"):
            TimeSeriesSource(encoder=CURRENT).prepare()


def test_japanese_vowels() -> None:
    if importlib.util.find_spec("aeon") is None:
        pytest.skip("aeon is in the extra `timeseries`")
    source = TimeSeriesSource(encoder=CURRENT)
    assert source.spec("all").frames == 29 and source.input_shape == (12,)
    sizes = [len(source.sequences("all", split).labels) for split in ("train", "val", "test")]
    assert sizes == [243, 27, 370]
    with pytest.raises(ConfigError, match="Did you mean 'GunPoint'"):
        TimeSeriesSource(encoder=CURRENT, name="GunPont").prepare()


class TestEncoders:
    sequence = np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]], np.float32)
    statistics = Statistics.of([sequence])
    rng = np.random.default_rng(0)

    @pytest.mark.parametrize(
        ("encoder", "spikes"),
        [
            (CurrentEncoder(), False),
            (RateEncoder(), True),
            (LatencyEncoder(), True),
            (DeltaEncoder(), True),
            (PopulationEncoder(), False),
            (PopulationEncoder(spikes=True), True),
        ],
        ids=lambda x: type(x).__name__,
    )
    def test_makes_spikes_is_correct(self, encoder: Encoder, spikes: bool) -> None:
        out = encoder(self.sequence, self.statistics, self.rng)
        assert encoder.makes_spikes == spikes == bool(np.isin(out, (0, 1)).all())

    def test_current_is_standardised_and_held(self) -> None:
        out = CurrentEncoder(steps=2)(self.sequence, self.statistics, self.rng)
        assert out.dtype == np.float32 and out.shape == (6, 2)
        assert out[::2, 0] == pytest.approx([-1.2247, 0, 1.2247], abs=1e-4)
        assert not out[:, 1].any()  # a constant channel
        assert np.array_equal(out[0], out[1])

    def test_rate_follows_the_value(self) -> None:
        out = RateEncoder(steps=2000, largest=0.4)(self.sequence, self.statistics, self.rng)
        assert out.reshape(3, 2000, 2).mean(1)[:, 0] == pytest.approx([0, 0.2, 0.4], abs=0.04)

    def test_latency_is_shorter_for_larger_values(self) -> None:
        out = LatencyEncoder(steps=4)(self.sequence, self.statistics, self.rng)
        assert out[:, 0].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0]

    def test_delta_spikes_reconstruct_the_value(self) -> None:
        encoder = DeltaEncoder(steps=50, threshold=0.1)
        values = np.array([[0.0], [1.0], [0.4]])
        out = encoder(values, Statistics.of([values]), self.rng)
        assert out.shape == (150, 2) == (150, encoder.width(1))
        assert out[:50].sum(0).tolist() == pytest.approx([10, 0], abs=1)
        assert out[50:].sum(0).tolist() == pytest.approx([0, 6], abs=1)

    def test_population_has_overlapping_fields(self) -> None:
        encoder = PopulationEncoder(units=5)
        out = encoder(self.sequence, self.statistics, self.rng).reshape(3, 2, 5)
        assert out[:, 0].argmax(1).tolist() == [0, 2, 4]
        assert out[1, 0] == pytest.approx(out[1, 0][::-1])
        spikes = PopulationEncoder(steps=500, units=5, spikes=True)
        drawn = spikes(self.sequence, self.statistics, self.rng).reshape(3, 500, 2, 5)
        assert drawn.mean(1) == pytest.approx(out, abs=0.08)

    def test_random_spikes_differ_between_epochs_and_not_between_runs(self, tmp_path: Path) -> None:
        def epoch(number: int) -> torch.Tensor:
            source = series(tmp_path, encoder=RateEncoder(steps=20), bucket=1)
            batches = source.loader("all", "train", shuffle=True, seed=3).batches(number)
            return {int(b.ids[0]): b.inputs[0] for b in batches}  # type: ignore[index]

        one, same, other = epoch(0), epoch(0), epoch(1)
        assert all(torch.equal(one[i], same[i]) for i in one)
        assert any(not torch.equal(one[i], other[i]) for i in one.keys() & other.keys())


class TestTimescales:
    @pytest.mark.parametrize("kind", KINDS)
    def test_counts_say_nothing_about_the_class(self, kind: str) -> None:
        """Linear and other readouts of time averages are at chance; channel means are equal."""
        source = Timescales(train=400, val=2, test=400)
        counts, labels = {}, {}
        for split in ("train", "test"):
            found = source.sequences(kind, split)
            rows = found.read(np.arange(len(found.labels)), ())
            counts[split] = np.array([s.sum(0) for s in rows])
            labels[split] = found.labels
        chance = 1 / source.classes(kind)
        margin = 3 * np.sqrt(chance * (1 - chance) / 400)
        for model in (LogisticRegression(max_iter=500), RandomForestClassifier(30, random_state=0)):
            model.fit(counts["train"], labels["train"])
            assert abs(model.score(counts["test"], labels["test"]) - chance) < margin
        means = np.array([counts["train"][labels["train"] == c].mean() for c in range(2)])
        assert means == pytest.approx(means.mean(), rel=0.01)

    @pytest.mark.parametrize("kind", KINDS)
    def test_inputs_are_spikes(self, kind: str) -> None:
        source = Timescales(train=5, val=1, test=1)
        assert source.spec(kind).inputs.coding == "spikes"
        for sequence in source.sequences(kind, "train").read(np.arange(5), ()):
            assert set(np.unique(sequence)) == {0, 1}

    def test_context_is_xor_of_leader_and_cue(self) -> None:
        source = Timescales(jitter_ms=0.0, noise_hz=0.0, train=40, val=1, test=1)
        found = source.sequences("context", "train")
        for i, spikes in enumerate(found.read(np.arange(40), ())):
            first = int(spikes[:50, 8:].sum() > spikes[:50, :8].sum())
            volleys = spikes[-51:]
            times = [np.flatnonzero(volleys[:, 8 * group]) for group in (0, 1)]
            leader = int(times[1][0] < times[0][0])
            assert abs(int(times[0][0]) - int(times[1][0])) == 2  # 4 ms
            assert found.labels[i] == first ^ leader

    def test_lengths_and_samples_depend_on_the_seed_only(self) -> None:
        one, same, other = (
            Timescales(split_seed=s, train=9, val=2, test=3).sequences("match", "train")
            for s in (0, 0, 1)
        )
        assert np.array_equal(one.lengths, same.lengths)
        assert not np.array_equal(one.lengths, other.lengths)
        pairs = zip(one.read(np.arange(9), ()), same.read(np.arange(9), (5,)), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
        assert one.lengths.min() >= (200 + 200) / 2 and one.lengths.max() <= (200 + 400) / 2

    def test_a_curriculum_has_the_same_tasks_with_shorter_silences(self) -> None:
        sizes = {"train": 40, "val": 1, "test": 1}
        source = Timescales(kinds=("match", "mixed"), curriculum_ms=(60, 20), **sizes)
        assert source.tasks == ("match_20", "match_60", "match", "mixed")
        assert source.classes("match_60") == 2
        cues = 2 * 100 / 2  # steps of the two volleys
        for longest in (20, 60):
            lengths = source.sequences(f"match_{longest}", "train").lengths - cues
            assert lengths.min() >= longest / 4 and lengths.max() <= longest / 2
        plain = Timescales(**sizes).sequences("match", "train").read(np.arange(40), ())
        same = source.sequences("match", "train").read(np.arange(40), ())
        assert all(np.array_equal(a, b) for a, b in zip(plain, same, strict=True))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"kinds": ("mixed",), "curriculum_ms": (60,)},
                r"curriculum_ms: got \[60\], but none of",
            ),
            ({"delay_ms": (400.0, 200.0)}, r"delay_ms: got \[400.0, 200.0\]"),
            ({"fast_ms": 1.0}, "fast_ms: got 1, less than a step"),
            ({"fast_ms": 12.0}, "fast_ms: got 12; at most half the time between volleys"),
        ],
    )
    def test_settings_that_make_the_class_undecidable_are_refused(
        self, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            Timescales(**options)

    @pytest.mark.parametrize("key", ["train", "channels"])
    def test_more_than_memory_holds_is_refused(self, key: str) -> None:
        with pytest.raises(ConfigError, match=r"data\.train: got .* samples of each task"):
            Timescales(**{key: 2**62}).prepare()


class TestEventXOR:
    SIZES: ClassVar[dict[str, Any]] = {"train": 300, "val": 5, "test": 20, "longest": 9}

    def test_events_encode_the_runs_of_the_bits(self) -> None:
        """Both codings give the same strings, whose parity is the class."""
        dense, events = (
            EventXOR(event_based=kind, **self.SIZES).sequences("xor", "train")
            for kind in (False, True)
        )
        rows = np.arange(300)
        for bits, runs, label in zip(
            dense.read(rows, ()), events.read(rows, ()), dense.labels, strict=True
        ):
            assert label == bits.sum() % 2
            assert (runs[1:, 0] != runs[:-1, 0]).all()
            lengths = (runs[:, 1] * 10).round().astype(int)
            assert np.array_equal(np.repeat(runs[:, 0], lengths), bits[:, 0])
        assert np.array_equal(dense.labels, events.labels)
        assert sorted(set(dense.lengths.tolist())) == list(range(2, 10))

    def test_elapsed_times_are_a_feature_of_events(self) -> None:
        assert EventXOR(**self.SIZES).spec("xor").inputs.elapsed == 1
        dense = EventXOR(event_based=False, dt_ms=2.0, **self.SIZES).spec("xor")
        assert dense.inputs.elapsed is None and dense.timings == ((9, 2.0),)

    def test_each_length_of_a_run_has_a_channel_of_a_population(self) -> None:
        """The first nine channels encode the bit, the others the lengths 1 to 9."""
        encoder = PopulationEncoder(units=9, overlap=0.1)
        source = EventXOR(encoder=encoder, **self.SIZES)
        spec = source.spec("xor").inputs
        assert spec.shape == (18,) and spec.elapsed is None and spec.coding == "real"
        rows = np.arange(300)
        plain = EventXOR(**self.SIZES).sequences("xor", "train").read(rows, ())
        encoded = source.sequences("xor", "train").read(rows, ())
        for runs, channels in zip(plain, encoded, strict=True):
            bits, lengths = runs[:, 0].astype(int), (runs[:, 1] * 10).round().astype(int)
            expected = np.concatenate([np.eye(9)[8 * bits], np.eye(9)[lengths - 1]], 1)
            assert np.allclose(channels, expected, atol=1e-6)

    def test_the_spec_marks_spikes_of_an_encoder(self) -> None:
        source = EventXOR(encoder=LatencyEncoder(steps=4), event_based=False, **self.SIZES)
        spec = source.spec("xor")
        assert spec.inputs.coding == "spikes" and spec.timings == ((36, None),)

    def test_samples_depend_on_the_seed_and_the_split(self) -> None:
        one, same, other = (EventXOR(split_seed=s, **self.SIZES) for s in (0, 0, 1))
        labels = [source.sequences("xor", "train").labels for source in (one, same, other)]
        assert np.array_equal(labels[0], labels[1])
        assert not np.array_equal(labels[0], labels[2])
        assert not np.array_equal(labels[0][:20], one.sequences("xor", "test").labels)

    def test_more_than_memory_holds_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"data\.val: got .* strings of up to 31 bits"):
            EventXOR(val=2**62).prepare()
