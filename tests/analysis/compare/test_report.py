"""The HTML page: contents, no external resources, sorting in a browser."""

from __future__ import annotations

import base64
import json
import math
import re
from pathlib import Path

import pytest

from neuro.__main__ import main
from neuro.analysis.compare.comparison import Comparison
from neuro.analysis.compare.report import MAX_DRAWN, _drawn, page
from neuro.analysis.plots import training
from neuro.errors import ConfigError
from tests.analysis.helpers import compared, finish, gates
from tests.browser import dom_of

METRICS = ("test/accuracy", "continual/forgetting")


def with_curves(root: Path) -> Path:
    """Two configurations with curves and accuracy matrices, two seeds each."""
    for name, level in (("good", 0.9), ("bad", 0.4)):
        for seed in range(2):
            rows = [
                {"step": step, "time": 0.0, "train/loss": 1 / step, "val/accuracy": level}
                for step in range(1, 6)
            ]
            final = level + seed / 20
            finish(
                root / f"{name}{seed}",
                {"test/accuracy": final, "continual/forgetting": 1 - level, "test/loss": 1.0},
                f"model={name}",
                seed=seed,
                rows=rows,
                config={"model.kind": f"<{name}>"},
                continual={"tasks": ["fast", "slow"], "matrix": [[level, None], [final, level]]},
                phases=[{"name": name, "task": name, "test": {}} for name in ("task1", "task2")],
            )
    return root


@pytest.fixture
def two(tmp_path: Path) -> Comparison:
    return compared(with_curves(tmp_path))


def pictures(text: str) -> dict[str, str]:
    """The page's images by their alternative texts, as SVG."""
    found = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]*)" alt="([^"]*)"', text)
    return {alt: base64.b64decode(data).decode() for data, alt in found}


def test_contents_of_the_page(two: Comparison) -> None:
    text = page(two, METRICS, directories=[Path("multirun/x")])
    assert "<title>multirun/x</title>" in text
    assert "2 configurations, 4 runs; best first by test/accuracy" in text
    assert set(pictures(text)) == {
        "val/accuracy over optimizer steps",
        "train/loss over optimizer steps",
        "accuracy matrix of good",
        "accuracy matrix of bad",
        "test/accuracy against continual/forgetting",
    }
    assert all(svg.startswith("<?xml") for svg in pictures(text).values())
    assert "92.50 ± 31.77 (3.54)" in text
    assert "&lt;good&gt;" in text and "<good>" not in text


def test_the_page_has_no_external_resources(two: Comparison) -> None:
    text = page(two, METRICS, two.configurations[0])
    assert not re.findall(r"https?:|//[a-z]", re.sub(r"base64,[^\"]*", "", text))
    assert "default-src 'none'" in text


def test_matrices_are_means_over_runs(two: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = {}
    plot = training.accuracy_matrix

    def record(matrix, *args, title, **options):
        matrices[title] = matrix
        return plot(matrix, *args, title=title, **options)

    monkeypatch.setattr(training, "accuracy_matrix", record)
    page(two, METRICS)
    ((_, missing), last) = matrices["bad"]
    assert math.isnan(missing) and last == pytest.approx([0.425, 0.4])


def test_tests_and_notes_are_on_the_page(tmp_path: Path) -> None:
    root = gates(tmp_path)
    assert (
        main(
            [
                "compare",
                str(root),
                "--baseline",
                "model.kind=fixed",
                "--output",
                str(tmp_path / "x.html"),
            ]
        )
        == 0
    )
    text = (tmp_path / "x.html").read_text()
    assert '<tr class="baseline">' in text and "Hedges g" in text
    assert "Wilcoxon cannot reach" in text
    assert "Excluded, 1 killed" in text and str(root / "killed") in text


def test_axes_of_the_pareto_plot(two: Comparison) -> None:
    chosen = page(two, METRICS, pareto="test/loss:max, test/accuracy")
    assert "test/accuracy against test/loss" in pictures(chosen)
    assert "test/accuracy against continual/forgetting" not in pictures(chosen)
    with pytest.raises(ConfigError, match="--pareto test/loss: takes two metrics"):
        page(two, METRICS, pareto="test/loss")
    with pytest.raises(ConfigError, match="--pareto test/los: .*Did you mean 'test/loss'"):
        page(two, METRICS, pareto="test/los,test/accuracy")
    with pytest.raises(ConfigError, match="allowed after the colon: max, min. Got 'less'"):
        page(two, METRICS, pareto="test/loss:less,test/accuracy")


def test_without_a_second_metric_there_is_no_pareto_plot(tmp_path: Path) -> None:
    finish(tmp_path / "a", {"test/accuracy": 0.5})
    text = page(compared(tmp_path), METRICS[:1])
    assert 'id="pareto"' not in text and 'id="curves"' not in text


def test_only_the_best_of_many_configurations_are_drawn(tmp_path: Path) -> None:
    for i in range(MAX_DRAWN + 1):
        rows = [{"step": 1, "time": 0.0, "val/accuracy": 0.5}]
        finish(tmp_path / str(i), {"test/accuracy": i / 10}, f"x={i}", rows=rows, config={"x": i})
    found = compared(tmp_path)
    text = page(found, METRICS[:1])
    assert f"{MAX_DRAWN} of {MAX_DRAWN + 1} configurations, the best." in text
    worst = found.configurations[-1]
    assert [configuration.label for configuration in _drawn(found, worst)] == [
        *(f"x={i}" for i in range(MAX_DRAWN, 1, -1)),
        "x=0",
    ]
    assert "the best and the baseline." in page(found, METRICS[:1], worst)


def test_each_plot_counts_the_configurations_that_it_shows(tmp_path: Path) -> None:
    for i, metric in enumerate(("val/accuracy", "val/accuracy", "val/loss")):
        rows = [{"step": 1, "time": 0.0, metric: 0.5}]
        finish(tmp_path / str(i), {"test/accuracy": i / 10}, f"x={i}", rows=rows, config={"x": i})
    text = page(compared(tmp_path), METRICS[:1])
    assert "2 of 3 configurations, those of the best that have these values." in text


# -- in a browser ---------------------------------------------------------------------------------

#: clicks a heading and records the visible rows
SCRIPT = """
<script>
const all = selector => [...document.querySelectorAll(selector)];
const heads = all('#summary th');
const order = () => all('#summary tbody tr').map(row => row.cells[0].innerText);
const seen = {start: order()};
const click = text => heads.find(h => h.innerText.startsWith(text)).firstElementChild.click();
click('accuracy'); seen.down = order();
click('accuracy'); seen.up = order();
click('configuration'); seen.names = order();
addEventListener('load', () => {
  seen.images = all('img').map(i => i.naturalWidth > 0 && i.getBoundingClientRect().width > 100);
  const loaded = performance.getEntriesByType('resource');
  seen.requests = loaded.filter(entry => !entry.name.startsWith('data:')).length;
  document.body.innerHTML = '<pre>SEEN ' + JSON.stringify(seen) + '</pre>';
});
</script></body>"""


def test_the_page_works_in_a_browser(tmp_path: Path) -> None:
    text = page(compared(with_curves(tmp_path / "runs")), METRICS)
    file = tmp_path / "page.html"
    file.write_text(text.replace("</body>", SCRIPT))
    shown = re.search(r"SEEN (\{.*?\})</pre>", dom_of(f"file://{file}", tmp_path))
    assert shown is not None
    seen = json.loads(shown[1])
    assert seen["start"] == seen["down"] == ["good", "bad"]
    assert seen["up"] == ["bad", "good"]
    assert seen["names"] == ["good", "bad"]  # descending
    assert seen["images"] == [True] * 5
    assert seen["requests"] == 0
