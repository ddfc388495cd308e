"""The progress line: plain in a pipe, live on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from neuro.config.build import build
from neuro.runs.report import Report
from neuro.runtime.output import clock_time
from neuro.training.callbacks.base import Callback, Evaluation
from neuro.training.callbacks.progress import ProgressBar, _memory
from tests.components import check

ROOT = Path(__file__).parents[2]
NODE = {"_target_": "neuro.training.callbacks.progress.ProgressBar"}


def fake_trainer(tokens: int | None = None, *metrics: str) -> SimpleNamespace:
    plan = tuple(
        SimpleNamespace(name=name, task=task, tasks=(task,), epochs=2, total_steps=20)
        for name, task in (("task1", "fast"), ("task2", "slow"))
    )
    progress = SimpleNamespace(step=0, phase_step=0, epoch=0, samples=0)
    objective = SimpleNamespace(metrics=dict.fromkeys(metrics or ("accuracy",)))
    data = SimpleNamespace(spec=lambda task: SimpleNamespace(tokens=tokens))
    return SimpleNamespace(
        plan=plan, phase=plan[0], progress=progress, objective=objective, data=data, world_size=1
    )


def run(bar: ProgressBar, seconds_per_step: float = 0.0) -> None:
    """Make the trainer's calls, with a log interval of 5 and a validation after each epoch."""
    trainer = fake_trainer()
    bar.on_fit_start(trainer)
    progress = trainer.progress
    for phase in trainer.plan:
        trainer.phase = phase
        progress.phase_step = progress.epoch = progress.samples = 0
        bar.on_phase_start(trainer)
        for progress.epoch in range(2):
            for _ in range(10):
                time.sleep(seconds_per_step)
                progress.step += 1
                progress.phase_step += 1
                progress.samples += 32
                due = progress.phase_step % 5 == 0
                metrics = {"train/loss": 1 / progress.step, "train/accuracy": 0.915,
                           "train/lr": 1e-3, "train/samples_per_s": 1234.4}  # fmt: skip
                bar.on_step(trainer, metrics if due else {})
            bar.on_epoch_end(trainer)
            bar.on_validation(trainer, {"val/loss": 0.5, "val/accuracy": 0.93, "val/top_5": 1.0})
        bar.on_phase_end(trainer, {f"test/{trainer.phase.task}/accuracy": 0.955})
    bar.on_fit_end(trainer, Report({}))


def test_a_pipe_gets_plain_lines_at_intervals_only(capsys):
    run(ProgressBar())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Phase 1/2 task1: task fast, 2 epochs, 20 updates"
    assert len(lines) == 2 * (1 + 4 + 2 + 1)  # header, logs, validations, end
    assert re.fullmatch(
        r"  task1  epoch 1/2  update 5/20  loss 0.2  accuracy 91.5 %  lr 0.001  1234 samples/s  "
        r"ETA 0:00 \(all phases 0:00\)  \d+(\.\d)? [MG]iB( \(peak .*\))?",
        lines[1],
    )
    assert lines[3] == "  validation after update 10: loss 0.5, accuracy 93.0 %, top_5 100.0 %"
    assert lines[7] == "  task1 ended after 20 updates (0:00); test: fast/accuracy 95.5 %"
    assert "all phases" not in lines[-3]  # no line follows the last phase
    assert "\x1b" not in "".join(lines) and "\r" not in "".join(lines)


def test_plain_lines_are_flushed(monkeypatch):
    flushes = []
    monkeypatch.setattr("builtins.print", lambda *a, flush=False, **k: flushes.append(flush))
    run(ProgressBar())
    assert flushes and all(flushes)


def test_what_was_not_measured_is_left_out(capsys):
    trainer = fake_trainer()
    bar = ProgressBar(memory=False)
    bar.on_fit_start(trainer)
    bar.on_phase_start(trainer)
    time.sleep(0.02)
    trainer.progress.phase_step, trainer.progress.samples = 10, 320
    bar.on_step(trainer, {"train/loss": 0.25})
    line = capsys.readouterr().out.splitlines()[-1]
    assert "accuracy" not in line and "lr" not in line and "iB" not in line
    assert 0 < float(re.search(r"(\d+) samples/s", line)[1]) <= 320 / 0.02


def line_of(trainer: SimpleNamespace, metrics: dict[str, float], capsys) -> str:
    bar = ProgressBar(memory=False)
    bar.on_fit_start(trainer)
    bar.on_phase_start(trainer)
    time.sleep(0.02)
    trainer.progress.phase_step, trainer.progress.samples = 10, 320
    bar.on_step(trainer, metrics)
    return capsys.readouterr().out.splitlines()[-1]


def test_tokens_are_counted_where_inputs_are_tokens(capsys):
    logged = {"train/samples_per_s": 10.0, "train/tokens_per_s": 640.0}
    line = line_of(fake_trainer(64), logged, capsys)
    assert "640 tokens/s" in line and "samples/s" not in line
    line = line_of(fake_trainer(64), {"train/loss": 0.25}, capsys)  # a log without a rate
    assert 0 < float(re.search(r"(\d+) tokens/s", line)[1]) <= 64 * 320 / 0.02


def test_a_line_has_all_metrics_if_they_are_few(capsys):
    names = ("bits_per_byte", "perplexity", "bits", "accuracy")
    logged = {f"train/{name}": 0.5 for name in names}
    assert "bits_per_byte 0.5  perplexity 0.5  ETA" in re.sub(
        r"  \d+ samples/s", "", line_of(fake_trainer(None, *names[:2]), logged, capsys)
    )
    assert "bits_per_byte 0.5" in (line := line_of(fake_trainer(None, *names), logged, capsys))
    assert "perplexity" not in line


def test_a_resumed_phase_gets_its_header_at_the_first_step(capsys):
    trainer = fake_trainer()
    trainer.phase = trainer.plan[1]
    trainer.progress.phase_step, trainer.progress.epoch = 13, 1
    bar = ProgressBar()
    bar.on_fit_start(trainer)
    assert capsys.readouterr().out == ""
    bar.on_step(trainer, {})
    assert capsys.readouterr().out == (
        "Phase 2/2 task2: task slow, 2 epochs, 20 updates, resumed at update 13\n"
    )


def evaluate(bar: ProgressBar, batches: int, seconds: float) -> None:
    """Make the trainer's calls in a test after a phase of 20 updates."""
    trainer = fake_trainer()
    trainer.progress.phase_step = 20
    bar.on_fit_start(trainer)
    bar.on_phase_start(trainer)
    for done in range(1, batches + 1):
        time.sleep(seconds)
        bar.on_evaluation(trainer, Evaluation("slow", "test", done, batches))
    bar.on_phase_end(trainer, {})


def test_a_long_evaluation_prints_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr("neuro.training.callbacks.progress._SILENCE_S", 0.05)
    evaluate(ProgressBar(), 10, 0.02)
    _, *lines, _ = capsys.readouterr().out.splitlines()
    assert 1 <= len(lines) <= 4  # not at each batch, and not after the last one
    done = [int(re.fullmatch(r"  test of slow  batch (\d+)/10  ETA 0:00", x)[1]) for x in lines]
    assert done == sorted(set(done)) and done[0] > 1 and done[-1] < 10


def test_a_short_evaluation_prints_nothing(capsys):
    evaluate(ProgressBar(), 10, 0.0)
    assert len(capsys.readouterr().out.splitlines()) == 2  # the phase's header and its end


def test_a_terminal_shows_an_evaluation_in_the_live_line():
    output = in_terminal(
        "from tests.training.test_progress import ProgressBar, evaluate\n"
        "evaluate(ProgressBar(refresh_per_s=20.0), 10, 0.1)"
    )
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    assert re.search(r"test of slow  ━+ +50 %  batch 5/10  ETA 0:0[01]", plain)
    assert "100 %  epoch 1/2  update 20/20" in plain  # before its first batch, and after it


def in_terminal(code: str, term: str = "xterm") -> str:
    """The output of a script in a terminal of 160 columns."""
    main, other = pty.openpty()
    env = {**os.environ, "TERM": term, "COLUMNS": "160", "LINES": "30"}
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        env.pop(name, None)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=other, stdout=other,
                               stderr=other, env=env, cwd=ROOT)  # fmt: skip
    os.close(other)
    output = b""
    while True:
        ready, _, _ = select.select([main], [], [], 20)
        try:
            chunk = os.read(main, 65536) if ready else b""
        except OSError:  # Linux's error after the other end was closed
            chunk = b""
        if not chunk:
            break
        output += chunk
    os.close(main)
    assert process.wait() == 0, output
    return output.decode()


SCRIPT = """
from tests.training.test_progress import run
from neuro.training.callbacks.progress import ProgressBar
from tests.components import check
from tests.components import check
run(ProgressBar({arguments}), 0.02)
"""


def test_a_terminal_gets_one_live_line():
    output = in_terminal(SCRIPT.format(arguments="refresh_per_s=20.0"))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    assert "task1  ━━━━" in plain and "loss 0.2" in plain and "accuracy 91.5 %" in plain
    assert "1234 samples/s" in plain and "ETA 0:0" in plain and "iB" in plain
    kept = [line for line in plain.split("\n") if "ended after" in line or "validation" in line]
    assert len(kept) == 6
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")  # the cursor is shown again
    assert "\x1b[2K" in output  # the line is redrawn in place


def test_refresh_rate_and_memory_have_their_effect():
    slow = in_terminal(SCRIPT.format(arguments="refresh_per_s=2.0, memory=False"))
    fast = in_terminal(SCRIPT.format(arguments="refresh_per_s=25.0, memory=True"))
    assert fast.count("/20") > 2 * slow.count("/20")  # frames
    assert "iB" in fast and "iB" not in slow


def test_memory_is_that_of_all_processes():
    size = 600 << 20  # much more than the printed precision of 0.1 GiB
    code = f"kept = bytearray(b'x' * {size}); print(flush=True); input()"
    before = mebibytes(_memory())
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as child:
        child.stdout.readline()
        own = psutil.Process()
        processes = [own, *own.children(recursive=True)]  # a test worker may have others
        counted = sum(process.memory_info().rss for process in processes) / 2**20
        shown = mebibytes(_memory())
        child.communicate(b"\n")
    assert shown > before + 490
    assert shown == pytest.approx(counted, rel=0.1)


def mebibytes(shown: str) -> float:
    """The memory in use in MiB, without the peak."""
    number, unit = shown.split()[:2]
    return float(number) * {"MiB": 1, "GiB": 1024}[unit]


def test_a_dumb_terminal_gets_plain_lines():
    assert "\x1b" not in in_terminal(SCRIPT.format(arguments=""), term="dumb")


def test_an_error_leaves_no_live_line_behind():
    code = SCRIPT.format(arguments="") + (
        "import tests.training.test_progress as t\n"
        "trainer = t.fake_trainer()\nbar = ProgressBar()\n"
        "bar.on_fit_start(trainer); bar.on_phase_start(trainer)\n"
        "print('the program ends here')\n"
    )
    output = in_terminal(code)
    assert "the program ends here" in output
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")


def test_only_the_main_process_shows_progress():
    assert ProgressBar.main_process_only
    bar = build({**NODE, "refresh_per_s": 8.0, "memory": False}, Callback, "callbacks.progress")
    assert (bar.refresh_per_s, bar.memory) == (8.0, False)
    assert bar.state_dict() == {}
    (problem,) = check({**NODE, "refresh_per_s": 0}, Callback, "callbacks.progress")
    assert "callbacks.progress.refresh_per_s" in problem


@pytest.mark.parametrize(("seconds", "shown"), [(5.4, "0:05"), (75, "1:15"), (3675, "1:01:15")])
def test_durations(seconds, shown):
    assert clock_time(seconds) == shown
