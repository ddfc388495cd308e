"""The reader of conf/: the content that OmegaConf's reader finds, once per version of a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hydra.plugins.config_source import ConfigLoadError
from omegaconf import OmegaConf
from yaml import YAMLError

from hydra_plugins.neuro_config_files import YamlFiles
from launch import CONF


def source(directory: Path) -> YamlFiles:
    return YamlFiles("main", f"yaml://{directory}")


def test_every_config_file_is_read_as_by_omegaconf() -> None:
    files = sorted(CONF.rglob("*.yaml"))
    assert len(files) > 100
    for file in files:
        found = source(CONF).load_config(str(file.relative_to(CONF)))
        expected = OmegaConf.load(file)
        assert found.config == expected, file
        assert OmegaConf.to_yaml(found.config) == OmegaConf.to_yaml(expected), file  # also types
        assert (found.header["package"] == "_global_") == ("@package _global_" in file.read_text())


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("rate: 1e-3\n")
    os.utime(file, ns=(0, 1))
    first = source(tmp_path).load_config("a").config
    assert first == {"rate": 0.001}
    first.rate = 7  # does not change the cached content
    assert source(tmp_path).load_config("a").config == {"rate": 0.001}
    file.write_text("")
    os.utime(file, ns=(0, 2))
    assert source(tmp_path).load_config("a").config == {}


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(YAMLError, match="found duplicate key a"):
        source(tmp_path).load_config("twice")
    with pytest.raises(ConfigLoadError, match="missing.yaml"):
        source(tmp_path).load_config("missing")
