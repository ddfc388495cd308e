"""The shipped configuration: every option composes and builds, every key is explained."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

import launch
from neuro.experiment.assembly import assemble
from neuro.experiment.experiment import parse_experiment
from tests.data.helpers import write_events, write_gds, write_hdf5, write_mnist, write_ts
from tests.data.tokens.helpers import write_texts
from tests.e2e.test_bad_input import hdf5
from tests.soen import CONNECTIONS, LAYERS

CONF = launch.CONF
FILES = sorted(
    path for path in CONF.rglob("*.yaml") if path.parent != CONF and "hydra" not in path.parts
)
#: base files that are not options; others inherit them
BASES = [path for path in FILES if path.stem.startswith("base")]
SMALL = (
    "data.limit_train=20", "data.limit_val=10", "data.limit_test=10", "tracking=none",
)  # fmt: skip
TINY_MODEL = {"channels": [4, 4, 8], "strides": [1, 2, 2], "dense_units": 16}

#: metrics of numbers; the others are of classes
VALUE_METRICS = ("mae", "mse", "psnr")

#: metrics of what masks print
IMAGE_METRICS = ("ssim", "iou", "pixel_accuracy", "epe_nm", "cd_error_nm")
FEW_SEQUENCES = ("data.train=20", "data.val=10", "data.test=10")
FEW_BARS = ("data.train=20", "data.val=16", "data.test=16")
FEW_MASKS = ("data.train=2", "data.val=1", "data.test=1")

#: a small experiment with text
TEXT = (
    "model=memory_lm",
    "phase=single",
    "phase.main.task=all",
    "data.streams=2",
    "data.span=64",
)
TEXT_PHASES = ("a", "b", "c", "a_to_c", "a_to_c_python", "a_to_c_tinystories")
DOMAIN_PHASES = ("domains_2", "domains_5")
TWO_DOMAINS = ("phase.first.task=a", "phase.second.task=b")
FIVE_DOMAINS = tuple(
    f"phase.{number}.task={task}"
    for number, task in zip(("first", "second", "third", "fourth", "fifth"), "ababa", strict=True)
)
#: presets of the hybrid on text, with the domains of the tests' corpus
HYBRID_TEXT = {
    "hybrid_text": (),
    "hybrid_phase1": (),
    "hybrid_phase2": (),
    "hybrid_phase3": TWO_DOMAINS,
    "hybrid_phase3_full": (*TWO_DOMAINS, "model.layers=1", "model.dim=16"),
    "hybrid_phase4": FIVE_DOMAINS,
    "hybrid_phase4_full": (*FIVE_DOMAINS, "model.layers=1", "model.dim=16"),
}
TEXT_OPTIONS = (
    "data/text",
    "data/text_files",
    "data/tinystories",
    "data/fineweb_dclm",
    "data/stories_fineweb_dclm",
    "data/memory_tasks",
    "data/tokenizer/byte",
    "data/tokenizer/bpe",
    "data/tokenizer/char",
    "metric/bits_per_byte",
    "rule/language",
    "model/memory_lm",
    "model/memory_lm_small",
    "model/transformer_lm",
    "model/gru_lm",
    *(f"model/tier/{name}" for name in ("tiny", "small", "a", "a_wide", "b", "c")),
    "loss/memory_budget",
    "callbacks/memory_health",
    "callbacks/text_samples",
    "callbacks/ablations",
    "experiment/memory_lm",
    "experiment/memory_lm_full",
    "experiment/char_lm",
    "experiment/char_memory_lm",
    *(f"experiment/{name}" for name in HYBRID_TEXT),
    "sweep/hybrid_text",
    "sweep/memory_text",
    *(f"phase/{name}" for name in (*TEXT_PHASES, *DOMAIN_PHASES)),
)

#: overrides that an option needs for a complete experiment
WITH = {
    **dict.fromkeys(TEXT_OPTIONS, TEXT),
    **{f"phase/{name}": ("model=memory_lm",) for name in TEXT_PHASES[:4]},
    **{f"phase/{name}": ("model=memory_lm", "phase.a.task=a") for name in TEXT_PHASES[4:]},
    "experiment/memory_lm": ("phase.a.task=a",),
    "experiment/memory_lm_full": (
        "phase.a.task=a",
        "data.streams=2",
        "model/tier=tiny",
    ),
    "experiment/char_lm": (),
    "experiment/char_memory_lm": (),
    **{f"experiment/{name}": beside for name, beside in HYBRID_TEXT.items()},
    "sweep/hybrid_text": (),
    "sweep/memory_text": ("data.positions=[0,9]", "phase.main.evaluate=[all,all_from_9]"),
    "phase/domains_2": ("model=hybrid", "rule=language", *TWO_DOMAINS),
    "phase/domains_5": ("model=hybrid", "rule=language", *FIVE_DOMAINS),
    "callbacks/meta_plasticity": (
        "rule=surrogate",
        "model=lif",
        "loss=[cross_entropy,stdp]",
    ),
    "data/arm": ("experiment=hybrid_robotics", "phase.main.task=all"),
    "data/timescales": ("model=rsnn", "phase=single", "phase.main.task=context", *FEW_SEQUENCES),
    "phase/recall_across": (
        "experiment=memory_recall",
        "data.kinds=[recall_across]",
        "phase.main.task=recall_across",
        "phase.main.evaluate=all",
    ),
    "phase/silences": ("experiment=timescales_context", *FEW_SEQUENCES),
    "phase/silences_match": ("experiment=timescales_match", *FEW_SEQUENCES),
    **{
        f"experiment/timescales{kind}": FEW_SEQUENCES
        for kind in ("", "_context", "_dual", "_match")
    },
    **{f"sweep/timescales{kind}": FEW_SEQUENCES for kind in ("", "_context", "_ratio")},
    "data/event_xor": ("model=cfc", "phase=single", "phase.main.task=xor"),
    "data/moving_bars": ("model=scnn", "phase=single", "phase.main.task=all", *FEW_BARS),
    "data/made_shd": (
        "model=rsnn",
        "phase=single",
        "phase.main.task=all",
        "data.train=40",
        "data.test=20",
        "data.spikes=50",
    ),
    "experiment/moving_bars": FEW_BARS,
    "experiment/moving_bars_mlp": FEW_BARS,
    "sweep/moving_bars": FEW_BARS,
    "data/hdf5": ("phase=task1", "phase.task1.task=all", "phase.task1.evaluate=all"),
    "hardware/gpu": ("hardware.device=cpu",),
    "callbacks/constraints": ("experiment=soen_digits", "callbacks=[constraints]"),
    "callbacks/delay_width": (
        "model=rsnn",
        "data=timescales",
        "phase=single",
        "phase.main.task=mixed",
        "model.delays_ms=20",
        "model.delay_kind=axonal",
    ),
    "callbacks/loss_weights": (
        "rule=surrogate",
        "model.readout=linear",
        "model.neuron.gate.kind=learned",
    ),
    "loss/delta": ("loss=[delta,gate_variance]", "model.readout=linear"),
    "loss/gate_variance": ("loss=[gate_variance,discriminant]",),
    "loss/discriminant": ("loss=[gate_variance,discriminant]",),
    "loss/hebbian": ("loss=[hebbian,gate_variance,discriminant]",),
    **{
        f"loss/{name}": (f"loss=[cross_entropy,{name}]", "model=lif")
        for name in ("ewc", "si", "mas", "lwf", "derpp", "agem")
    },
    "loss/cross_entropy": (
        "rule=surrogate",
        "model.readout=linear",
        "model.neuron.gate.kind=learned",
    ),
    "loss/hlop_subspace": ("model=hlop", "loss=[cross_entropy,hlop_subspace]"),
    **{
        f"loss/{name}": (f"loss=[cross_entropy,{name}]", "model=lif")
        for name in (
            "top_gap_loss",
            "gap_loss",
            "rich_margin_loss",
            "reg_J_loss",
            "gravity_quantization_loss",
            "get_off_the_ground_loss",
            "exp_high_state_penalty",
            "average_state_magnitude_loss",
            "ensure_post_sample_decay",
            "stdp",
            "stdp_triplet",
            "homeostasis",
            "bcm",
        )
    },
    **{
        f"loss/{name}": (f"loss=[cross_entropy,{name}]", "model=soen", "phase=single")
        for name in ("branching_loss", "local_expansion_loss")
    },
    "loss/mse": ("model=soen", "phase=single"),
    "loss/smooth_l1": ("model=soen", "phase=single"),
    **{f"metric/{name}": ("model=soen", "phase=single", "loss=[mse]") for name in VALUE_METRICS},
    "loss/autoregressive_cross_entropy": (
        "model=soen",
        "phase=single",
        "objective.paradigm=self_supervised",
        "objective.mapping=seq2seq",
        "data.input_encoding=one_hot",
    ),
    **dict.fromkeys(
        (
            "data/lithography",
            "model/unet",
            "model/fno",
            "model/optical_kernels",
            "callbacks/images",
            "callbacks/kernel_recovery",
            *(f"metric/{name}" for name in IMAGE_METRICS),
        ),
        ("experiment=lithography", *FEW_MASKS),
    ),
    **dict.fromkeys(
        (
            "experiment/lithography",
            *(f"experiment/lithography_{n}" for n in ("ensemble", "opc", "production", "transfer")),
            *(f"sweep/{n}" for n in ("lithography", "lithography_rates", "techniques")),
            *(f"sweep/{n}" for n in ("fno", "optical_kernels", "unet")),
        ),
        FEW_MASKS,
    ),
    "opc/default": ("experiment=lithography_opc", *FEW_MASKS),
    **{f"scenario/{kind}_incremental": ("phase=splits",) for kind in ("class", "task", "domain")},
    "phase/splits": ("scenario=class_incremental",),
    "rule/gradient": ("model=soen",),
    "rule/surrogate": ("model.readout=linear", "model.neuron.gate.kind=learned"),
    "rule/readout_only": ("model.neuron.gate.kind=fixed",),
    "rule/random_features": ("model.neuron.gate.kind=fixed",),
    "rule/hlop": ("model=hlop",),
    "readout/linear": ("rule=surrogate", "model.neuron.gate.kind=learned"),
    "readout/linear_present": ("rule=surrogate", "model.neuron.gate.kind=learned"),
}
LISTS = ("callbacks", "loss", "metric", "tracking")
#: user data that an option needs: symbols or values
VALUES = {"data": np.zeros((30, 5, 3)), "labels": np.ones((30, 2))}
OWN_DATA = {
    "loss/mse": VALUES,
    "loss/smooth_l1": VALUES,
    **{f"metric/{name}": VALUES for name in VALUE_METRICS},
    "loss/autoregressive_cross_entropy": {"data": np.arange(150).reshape(30, 5) % 7},
    "experiment/soen_seq2seq": {
        "data": np.zeros((30, 5, 3)),
        "labels": np.arange(150).reshape(30, 5) % 7,
    },
}
#: options that need a finished run: tests/e2e/test_distillation.py
AFTER_A_RUN = ("loss/distillation", "experiment/soen_distillation")
#: options that need a download: tests/data/tokens/test_tokenizers.py, ragged/test_tonic.py
DOWNLOADED = ("data/tokenizer/tiktoken", "data/tonic")


@pytest.fixture(scope="module", autouse=True)
def _data_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURO_DATA", str(shared / "data"))
        yield


def compose(*overrides: str) -> dict[str, Any]:
    """The composed experiment as plain values."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        cfg.pop("hydra")
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    config["phase"] = {name: phase for name, phase in config["phase"].items() if phase is not None}
    return config


def check(config: dict[str, Any]) -> None:
    """Raise ConfigError for problems of a composed config that are found without data."""
    parse_experiment(config, compare_tasks=False)


def name_of(path: Path) -> str:
    return path.relative_to(CONF).with_suffix("").as_posix()


def overrides_for(option: str, tmp_path: Path) -> list[str]:
    """The overrides that choose an option in a tiny experiment."""
    group, _, choice = option.partition("/")
    if option == "data/litho_masks":
        np.save(tmp_path / "mask.npy", np.eye(64))
        chosen = ["experiment=lithography", option.replace("/", "=")]
        chosen += [f"data.path={tmp_path / 'mask.npy'}", "phase.main.task=all"]
        chosen += ["phase.main.evaluate=all"]
    elif choice == "litho_layout":
        path = write_gds(
            tmp_path / "cells.gds", {f"c{n}": [(0, 0, 300 + n, 200)] for n in (0, 50, 90)}
        )
        chosen = ["experiment=litho_layout", f"data.path={path}"]
    elif option == "data/memory_tasks":
        chosen = ["data=memory_tasks", "data.val=16"]
    elif option in TEXT_OPTIONS:
        path = write_texts(tmp_path / "corpus")
        nested = option.startswith("data/tokenizer/")
        chosen = ["data=text" if group != "data" or nested else option.replace("/", "=")]
        chosen += [f"{group}/tokenizer={choice.rpartition('/')[2]}"] if nested else []
        chosen += [f"{group}=[{choice}]"] if group in ("metric", "callbacks") else []
        chosen += [f"loss=[autoregressive_cross_entropy,{choice}]"] if group == "loss" else []
        chosen += [f"model={choice}"] if group == "model" and "/" not in choice else []
        chosen += [f"{group}={choice}"] if group in ("phase", "experiment", "sweep") else []
        if choice.startswith("tier/"):
            chosen += ["model=memory_lm", f"model/{choice.replace('/', '=')}"]
        key = "data.sources.text.path" if option == "data/text_files" else "data.path"
        chosen.append(f"{key}={path}")  # instead of a download
        chosen += ["data.shares=null"] if choice.endswith("fineweb_dclm") else []
    elif option == "data/timeseries" or option.startswith("data/encoder/"):
        path = write_ts(tmp_path / "x.ts", ["1,2:3,4:a", "5,6,7:8,9,8:b"] * 10)
        chosen = ["data=timeseries", f"data.train_path={path}", f"data.test_path={path}"]
        chosen += [option.replace("encoder/", "encoder=")] if choice != "timeseries" else []
        chosen += ["model=rsnn", "phase=single"]
    elif "japanese_vowels" in option:
        path = write_ts(tmp_path / "x.ts", ["1,2:3,4:a", "5,6,7:8,9,8:b"] * 10)
        chosen = [f"{group}={choice}", f"data.train_path={path}", f"data.test_path={path}"]
    elif option in ("data/events", "experiment/shd", "experiment/shd_delays"):
        path = write_events(tmp_path / "x.h5", [[0.01, 0.5]] * 20, [[0, 699]] * 20, [0, 1] * 10)
        chosen = [f"{group}={choice}", f"data.train_path={path}", f"data.test_path={path}"]
        chosen += ["model=rsnn", "phase=single"] if group == "data" else []
    elif option == "data/hdf5":
        chosen = ["data=hdf5", f"data.path={hdf5(tmp_path / 'own.h5')}"]
    elif option == "model/soen_file":
        path = tmp_path / "net.yaml"
        parts = {"layers": list(LAYERS), "connections": list(CONNECTIONS)}
        path.write_text(yaml.safe_dump(parts))
        chosen = ["model=soen_file", f"model.architecture={path}"]
    elif option.startswith("model/neuron/"):
        gate = ["model.neuron.gate.kind=learned"] if choice == "neuron/dual_timescale" else []
        chosen = ["model=lif", f"model/neuron={choice.rpartition('/')[2]}", *gate]
    elif option.startswith("model/liquid/"):
        chosen = ["experiment=hybrid_robotics", f"model/liquid={choice.rpartition('/')[2]}"]
    elif option.startswith("data/transforms/"):
        chosen = [f"data/transforms=[{choice.rpartition('/')[2]}]"]
    elif option == "data/temporal_mnist":
        chosen = ["data=temporal_mnist", f"data.images.path={write_mnist(tmp_path)}"]
    elif option in OWN_DATA:
        path = write_hdf5(tmp_path / "own.h5", {"": OWN_DATA[option]}, frame_rate=100.0)
        listed = f"[{choice}]" if group in LISTS else choice
        chosen = [f"{group}={listed}", "data=hdf5", f"data.path={path}"]
    elif group in LISTS and choice != "none":
        chosen = [f"{group}=[{choice}]"]
    else:
        chosen = [f"{group}={choice}"]
    given = {override.partition("=")[0] for override in (*chosen, *WITH.get(option, ()))}
    made = option == "data/memory_tasks" or "recall" in option
    small = [o for o in SMALL if "limit" not in o] if made else SMALL
    return [o for o in small if o.partition("=")[0] not in given] + [
        *chosen,
        *(o for o in WITH.get(option, ()) if o.partition("=")[0] != group or group == "loss"),
    ]


#: files that can be chosen; others inherit from a base
OPTIONS = [
    name_of(path)
    for path in FILES
    if path not in BASES and name_of(path) not in (*AFTER_A_RUN, *DOWNLOADED)
]
#: groups whose options do not depend on each other's
INDEPENDENT = ("optimizer", "scheduler", "tracking", "hardware", "data/transforms")


def experiments() -> list[tuple[str, ...]]:
    """The options, combined in few experiments, because a composition takes 0.2 s.

    One option of each INDEPENDENT group, and the list options with equal requirements.
    """
    alone, rows, lists = [], [], {}
    for option in OPTIONS:
        group = option.rpartition("/")[0]
        if option in OWN_DATA or option == "tracking/none":
            alone.append((option,))
        elif group in INDEPENDENT and option not in WITH:
            rows.append((group, option))
        elif group in LISTS:
            beside = tuple(o for o in WITH.get(option, ()) if not o.startswith(f"{group}="))
            lists.setdefault((group, beside), []).append(option)
        else:
            alone.append((option,))
    columns = [[option for g, option in rows if g == group] for group in INDEPENDENT]
    zipped = [tuple(filter(None, row)) for row in itertools.zip_longest(*columns)]
    return [*zipped, *map(tuple, lists.values()), *alone]


def test_no_option_is_left_out() -> None:
    assert sorted(itertools.chain(*experiments())) == sorted(OPTIONS)


@pytest.mark.parametrize("options", experiments(), ids=" ".join)
def test_every_option_composes_and_builds(options: tuple[str, ...], tmp_path: Path) -> None:
    config = compose(*merged([overrides_for(option, tmp_path) for option in options]))
    if "dense_units" in config["model"]:
        config["model"] |= TINY_MODEL
    parts = assemble(parse_experiment(config))
    assert sum(p.numel() for p in parts.model.parameters()) >= 0
    assert parts.plan


def merged(several: list[list[str]]) -> list[str]:
    """The overrides of several options; lists of the same group are joined."""
    values: dict[str, str] = {}
    for override in itertools.chain(*several):
        key, _, value = override.partition("=")
        if key in LISTS and value.startswith("[") and values.get(key, value) != value:
            names = dict.fromkeys(f"{values[key][1:-1]},{value[1:-1]}".split(","))
            value = f"[{','.join(names)}]"
        values[key] = value
    return [f"{key}={value}" for key, value in values.items()]


@pytest.mark.parametrize("path", [CONF / "config.yaml", *FILES], ids=name_of)
def test_every_key_is_explained(path: Path) -> None:
    """A comment on the key's line, on the line of its section, or above both."""
    lines = path.read_text().splitlines()
    assert path == CONF / "config.yaml" or lines[0].startswith("#")
    # presets set keys that are explained where they come from; hydra's are Hydra's
    if path.parent.name in ("experiment", "sweep", "rule", "readout"):
        return
    inherited = explained(path)
    section = ""
    for line in lines:
        if re.match(r"\w+:", line):
            section = line
        if section.startswith(("hydra:", "defaults:")) or "_target_" in line:
            continue
        key = re.match(r"\s*([\w-]+):\s*(\S.*)?$", line)
        if key is None or key[2] is None or "#" in line or "#" in section:
            continue
        if key[1] in inherited or key[1].startswith("limit_"):  # explained with the previous key
            continue
        filled = ("loss: {}", "metric: {}", "tracking: {}")  # explained with callbacks
        assert line.strip() in filled, f"{path}: {line.strip()} has no comment"


def explained(path: Path) -> set[str]:
    """The keys that the options explain which an option inherits."""
    found = re.search(r"^defaults: \[(.*)\]", path.read_text(), re.MULTILINE)
    names = [name.strip().partition("@")[0] for name in found[1].split(",")] if found else []
    names = [name.replace(": ", "/") for name in names]  # a component of another group
    files = [
        (CONF if name.startswith("/") else path.parent) / f"{name.lstrip('/')}.yaml"
        for name in names
        if name != "_self_" and not name.endswith("/null")
    ]
    keys = {key for file in files for key in re.findall(r"^\s*(\w+):.*#", file.read_text(), re.M)}
    return keys.union(*(explained(file) for file in files))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_options_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 33
