"""A language model with memory: phases, output files and generated text."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from neuro.analysis.plots import text as plots
from neuro.learning.continual.metrics import continual_metrics
from tests.e2e.helpers import Outcome, launch_here, read, rows, train_here

SMALL = (
    "experiment=memory_lm", "data.streams=2", "data.span=16", "data.limit_val=2",
    "data.limit_test=4",  # more than a document
    "model.tier.dim=16", "model.tier.layers=1", "model.tier.working={window: 8, dim: 8, heads: 2}",
    "model.tier.procedural.slots=2", "model.tier.episodic={slots: 4, dim: 4, read: 2, write: 1}",
    "model.tier.decoder={dim: 8, heads: 2, layers: 1, queries: 1}", "model.span=8",
    "phase.a.task=text", "phase.a.steps=6", "phase.b.steps=4", "phase.c.steps=2",
    "trainer.validation.steps=6", "trainer.log.steps=2", "callbacks.ablations.every_steps=6",
    "callbacks.text_samples={every_steps: 6, samples: 2, prompt_tokens: 8, tokens: 12}",
    "callbacks.curves.every_steps=6", "callbacks.memory_health.every_steps=2", "tracking=none",
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "corpus"
    folder.mkdir()
    for number in range(80):
        words = " ".join(f"word{number}-{i}" for i in range(4))
        (folder / f"{number}.txt").write_text(f"Document {number}: {words}.\n")
    return folder


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_here(tmp_path_factory.mktemp("language") / "run", *SMALL, f"data.path={corpus}")


def test_a_run_has_metrics_samples_and_plots_of_its_phases(trained: Path) -> None:
    report = read(trained)
    assert [phase["name"] for phase in report["phases"]] == ["a", "b", "c"]
    for prefix in ("test", "test_without_pm", "test_without_em", "test_without_pm_em"):
        for task in ("text", "all"):
            assert report["metrics"][f"{prefix}/{task}/bits_per_byte"] > 0
    assert report["metrics"]["test/text/perplexity"] > 1
    full = report["metrics"]["test/all/bits_per_byte"]
    assert report["metrics"]["test_without_wm/all/bits_per_byte"] != full
    assert report["metrics"]["test_without_lifelong/all/bits_per_byte"] != full
    # the shape of the full matrix; only the last phase is lifelong
    whole = report["continual"]
    last = [report["metrics"][f"test_without_lifelong/{t}/bits_per_byte"] for t in whole["tasks"]]
    learned = [["text"], ["all"], ["all"]]
    found = continual_metrics(whole["tasks"], [*whole["matrix"][:2], last], learned, None, "min")
    for name in ("bwt", "forgetting"):
        measured = report["metrics"][f"continual_without_lifelong/{name}"]
        assert measured == pytest.approx(getattr(found, name)) != whole[name]
    logged = [name for row in rows(trained) for name in row]
    assert "val_without_pm/bits_per_byte" in logged and "memory/pm/budget_use" in logged
    pictures = {path.stem for path in (trained / "plots").iterdir()}
    assert {"text_samples_step6", "text_samples_step12"} <= pictures
    for name in ("training", "pm", "em", "wm", "gates", "gradients"):
        assert f"through_phase_c_plot_{name}" in pictures
    state = json.loads((trained / "run_state.json").read_text())
    assert (state["status"], state["phase"], state["tokens"]) == ("completed", "c", 12 * 2 * 16)


@pytest.mark.slow  # torch compiles for minutes
@pytest.mark.timeout(1800)
def test_a_compiled_step_learns_the_same(trained: Path, corpus: Path, tmp_path: Path) -> None:
    compiled = train_here(tmp_path / "run", *SMALL, f"data.path={corpus}", "hardware.compile=true")
    losses = [
        [row["train/loss"] for row in rows(run) if "train/loss" in row]
        for run in (compiled, trained)
    ]
    assert len(losses[1]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def generate(run: Path, *given: str) -> tuple[Outcome, str]:
    done = launch_here("mode=generate", f"run={run}", "tokens=20", "hydra.run.dir=text", *given)
    path = Path("text") / "generated.txt"
    return done, path.read_text() if path.exists() else ""


def test_a_text_is_continued(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for name, given in {
        "one": ("seed=1",), "again": ("seed=1",), "other": ("seed=2",),
        "cold": ("temperature=0", "seed=1"), "cold, other": ("temperature=0", "seed=2"),
        "first": ("top_k=1",), "nucleus": ("top_p=1e-6",),
    }.items():  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        done, text = generate(trained, 'prompt="Document 3: "', *given)
        assert done.code == 0, done.err
        assert text.startswith("Document 3: ") and text.strip() in done.out
        found[name] = text
    assert found["one"] == found["again"] != found["other"]
    assert len({found[name] for name in ("cold", "cold, other", "first", "nucleus")}) == 1


def test_typed_text_is_written_to_the_memories(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("Document", "/save kept.safetensors", "word", "/load kept.safetensors", "word",
             "/reset", "word", "/what")  # fmt: skip
    typed = "\n".join(lines) + "\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    done, text = generate(trained, "prompt=-", "temperature=0")
    assert done.code == 0, done.err
    _, after_save, after_load, after_reset = _replies(text)
    assert after_save == after_load != after_reset
    assert Path("kept.safetensors").is_file()
    assert "/reset        forget everything" in done.out


def test_commands_that_cannot_be_followed(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder.d").mkdir()
    lines = ("Document one", "/save folder.d", "/load", "/load nothing", "/save kept.safetensors")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    done, text = generate(trained, "prompt=-", "temperature=0", "seed=3")
    assert done.code == 0, done.err
    assert "folder.d: cannot be written (Is a directory)." in done.out
    assert "/load: name the file, /load FILE" in done.out
    assert "nothing: there is no such saved state." in done.out
    assert text.startswith("Document one")

    typed = "/load kept.safetensors\nword\n/reset\nword\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    done = launch_here("mode=generate", f"run={trained}", "tokens=3", "prompt=-", "model.span=2",
                       "hydra.run.dir=other")  # fmt: skip
    assert done.code == 0, done.err
    assert "model.span: got 2, but the weights were trained with 8." in done.out + done.err
    assert "model.span: got 2, but the state has read" in done.out


def test_tasks_to_evaluate_must_exist(trained: Path) -> None:
    done = launch_here("mode=evaluate", f"run={trained}", "phase.c.evaluate=[txt,all]")
    assert done.code == 2
    assert "phase.c.evaluate: the data has no task 'txt'." in done.err
    assert "Did you mean 'text'?" in done.err


def _replies(text: str) -> list[str]:
    """The reply to each typed line."""
    return text.replace("Document\n", "word\n").split("word\n")[1:]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("prompt=hello", "mode=train"), "prompt: is for mode=generate, not mode=train"),
        (("mode=generate",), "mode=generate needs run=<directory of a finished run>"),
        (("mode=generate", "top_p=0"), "top_p"),
        (("+callbacks.ablations.without.x={use_pn: false}",), "Did you mean 'use_pm'?"),
        (
            ("phase.b.flags.lifelong=true",),
            "the mapping has episodic. Add keys with a leading +.",
        ),
    ],
)
def test_invalid_options(given: tuple[str, ...], message: str, corpus: Path) -> None:
    done = launch_here(*SMALL, f"data.path={corpus}", *given)
    assert done.code == 2
    assert message in done.err


def test_what_another_model_lacks_is_said_at_once(corpus: Path) -> None:
    done = launch_here("experiment=memory_lm", "model=transformer_lm", f"data.path={corpus}",
                       "phase.a.task=text")  # fmt: skip
    assert done.code == 2
    assert "phase.a.flags.episodic: the model has no such phase flag. It has none; " in done.err


def test_text_samples_need_text() -> None:
    done = launch_here("experiment=memory_recall", "callbacks=[progress,text_samples]")
    assert done.code == 2
    assert "callbacks.text_samples: MemoryTasks has no text." in done.err


def test_image_rows_are_refused_for_text(corpus: Path) -> None:
    rows_of = "model.image_rows={channels: 16, kernel: 3}"
    done = launch_here("experiment=hybrid_text", f"data.path={corpus}", rows_of)
    assert done.code == 2
    assert "model.image_rows: task" in done.err and "has tokens" in done.err


def test_generation_needs_text(task1: Path) -> None:
    done, _ = generate(task1)
    assert done.code == 2
    assert "TemporalImages" in done.err and "has no tokenizer" in done.err


def test_unprintable_text_is_drawn_as_escapes() -> None:
    lines = plots._lines("a\tb\x00\n" + "x" * 60)
    assert lines == ["a\\tb\\x00", "x" * 52, "x" * 8]
