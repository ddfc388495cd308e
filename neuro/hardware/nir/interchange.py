"""Files of networks for other programs: NIR graphs, and exact integers beside them (the sidecar).

`nodes.py` defines the NIR nodes of each layer. A NIR file also stores the layer graph, as JSON in
its metadata that refers to the arrays of the nodes, so that reading restores it exactly. Reading
checks that the layer graph still describes the nodes, to detect changes by other programs.

The sidecar is a safetensors file, like checkpoints: arrays and text but no code, with a SHA-256
checksum over both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
from nir.serialization import hdf2dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from neuro.errors import DataError, ExportError
from neuro.hardware.loihi2.integer import (
    IntegerDualLIF,
    IntegerLIF,
    IntegerNetwork,
    IntegerReadout,
    IntegerSynapse,
)
from neuro.hardware.nir.nodes import ZeroReset, nir_name, to_nir
from neuro.io.files import replacing
from neuro.models.graph import (
    Conv2dNode,
    CubaLIFNode,
    DenseNode,
    DualLIFNode,
    Edge,
    FlattenNode,
    InputNode,
    LayerGraph,
    LIFNode,
    ReadoutNode,
)

Arrays = dict[str, np.ndarray]

_NIR_FORMAT = "neuro-layer-graph-1"
_INTEGER_FORMAT = "neuro-integers-1"
#: classes of nodes by their names in files, which are older than those of the classes
_NODE_TYPES = {
    t.__name__.removesuffix("Node"): t
    for t in (
        InputNode,
        Conv2dNode,
        DenseNode,
        FlattenNode,
        LIFNode,
        CubaLIFNode,
        DualLIFNode,
        ReadoutNode,
    )
}
_INTEGER_TYPES = {
    t.__name__: t
    for t in (IntegerNetwork, IntegerLIF, IntegerDualLIF, IntegerReadout, IntegerSynapse)
}
_NIR_TYPES = {
    t.__name__
    for t in (
        nir.Input,
        nir.Output,
        nir.Conv2d,
        nir.Affine,
        nir.Linear,
        nir.Flatten,
        nir.Delay,
        nir.Scale,
        nir.LI,
        nir.LIF,
        nir.CubaLIF,
        nir.Threshold,
        ZeroReset,
    )
}


def write_nir(
    graph: LayerGraph, path: Path, dt_ms: float, *, reader_dt_ms: float | None = None
) -> None:
    """Write a layer graph as a NIR file, for data of time step `dt_ms`.

    reader_dt_ms: the Euler step of the program that will read the file, if it is fixed (0.1 for
        snnTorch); None is `dt_ms`. It scales the time constants in seconds that NIR stores, so that
        the spikes of every step are the same.

    ExportError for networks that NIR cannot represent: neurons without leak, names that coincide.
    """
    steps = {"dt_ms": dt_ms, "reader_dt_ms": dt_ms if reader_dt_ms is None else reader_dt_ms}
    content = to_nir(graph, **steps)
    arrays: Arrays = {}
    text = json.dumps(
        {
            "format": _NIR_FORMAT,
            **steps,
            "nodes": {n: _pack(node, nir_name(n), arrays) for n, node in graph.nodes.items()},
            "edges": graph.edges,
        }
    )
    # Arrays that the NIR nodes hold already are not stored twice.
    held = _node_arrays(content.to_dict()["nodes"])
    elsewhere = {key: array for key, array in arrays.items() if key not in held}
    content.metadata = {"neuro": text, **elsewhere}
    with replacing(path) as temporary:
        nir.write(temporary, content)


def read_nir(path: Path) -> LayerGraph:
    """Read the layer graph of a file from `write_nir`, equal in every bit.

    DataError if the file is missing, damaged, changed or from another program. The NIR nodes alone
    are not sufficient: they have time constants for one step only, and neurons of several nodes.
    """
    content = _nir_content(path)
    nodes = content["nodes"]
    # before anything is constructed, so that the message names the nodes
    unknown = {n: node["type"] for n, node in nodes.items() if node["type"] not in _NIR_TYPES}
    if unknown:
        named = ", ".join(f"'{name}' ({kind})" for name, kind in unknown.items())
        raise DataError(
            f"{path}: there are nodes of a type that is not used here: {named}. "
            f"Known are {', '.join(sorted(_NIR_TYPES))}."
        )
    metadata = content.get("metadata", {})
    if "neuro" not in metadata:
        raise DataError(
            f"{path}: a NIR file from another program; it has no layer graph of neuro in its "
            "metadata. Only files that neuro has written can be read back."
        )
    try:
        stored = json.loads(metadata["neuro"])
        if stored["format"] != _NIR_FORMAT:
            raise DataError(
                f"{path}: the layer graph has the format '{stored['format']}', expected "
                f"'{_NIR_FORMAT}'. Export the model again with this version."
            )
        arrays = _node_arrays(nodes) | metadata
        graph = LayerGraph(
            {name: _unpack(node, _NODE_TYPES, arrays) for name, node in stored["nodes"].items()},
            tuple(Edge(*edge) for edge in stored["edges"]),
        )
        expected = to_nir(graph, stored["dt_ms"], stored["reader_dt_ms"])
    except (ValueError, KeyError, TypeError, AttributeError, ExportError) as error:
        raise DataError(
            f"{path}: the layer graph in the metadata is damaged ({error}). Export the model again."
        ) from error
    difference = _difference(expected.to_dict(), content)
    if difference:
        raise DataError(
            f"{path}: {difference} is not what the layer graph in the metadata says; the file was "
            "changed after it had been written. Export the model again."
        )
    return graph


def write_integers(network: IntegerNetwork, path: Path) -> None:
    """Write an integer network to a safetensors file.

    Its metadata are `format`; `network`, the structure as JSON with `{"array": name}` in place of
    arrays; and `sha256`, a checksum over structure and arrays.
    """
    arrays: Arrays = {}
    text = json.dumps(_pack(network, "network", arrays))
    metadata = {"format": _INTEGER_FORMAT, "network": text, "sha256": _sha256(text, arrays)}
    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata=metadata)


def read_integers(path: Path) -> IntegerNetwork:
    """Read the network of a file from `write_integers`.

    DataError if the file is missing, damaged or from another program. The network is checked on
    construction, like every integer network.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file of integers.")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path}: damaged, or not a safetensors file ({error}). Export the model again."
        ) from error
    if metadata.get("format") != _INTEGER_FORMAT:
        raise DataError(
            f"{path}: expected an integer network of format '{_INTEGER_FORMAT}', got "
            f"'{metadata.get('format', 'none')}'. Export the model again with this version."
        )
    text = metadata.get("network", "")
    if _sha256(text, arrays) != metadata.get("sha256"):
        raise DataError(
            f"{path}: the checksum does not match; the file is damaged. Export the model again."
        )
    try:
        return _unpack(json.loads(text), _INTEGER_TYPES, arrays)
    except (ValueError, KeyError, TypeError, AttributeError, ExportError) as error:
        raise DataError(
            f"{path}: the network in it is damaged ({error}). Export the model again."
        ) from error


def _nir_content(path: Path) -> dict[str, Any]:
    """Content of a NIR file as dictionaries; unlike `nir.read`, also for unknown node types."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such NIR file.")
    try:
        with h5py.File(path, "r") as file:
            content = hdf2dict(file["node"])
        # HDF5 gives strings as bytes
        content["edges"] = [(a.decode(), b.decode()) for a, b in content["edges"]]
        if not all("type" in node for node in content["nodes"].values()):
            raise KeyError("a node without a type")
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise DataError(
            f"{path}: damaged, or not a NIR graph in HDF5 ({error}). Export the model again."
        ) from error
    return content


def _difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Name of the first difference of two NIR graphs, except for rounding; None if there is none.

    Rounding is allowed because exp and expm1 depend on the machine in the last bit.
    """
    if set(expected["edges"]) != set(found["edges"]):
        source, target = min(set(expected["edges"]) ^ set(found["edges"]))
        return f"the edge {source} -> {target}"
    for name in sorted(expected["nodes"].keys() | found["nodes"].keys()):
        nodes = [content["nodes"].get(name, {}) for content in (expected, found)]
        for key in sorted((nodes[0].keys() | nodes[1].keys()) - {"metadata"}):
            one, other = (np.asarray(node.get(key)) for node in nodes)
            numeric = np.issubdtype(one.dtype, np.number) and np.issubdtype(other.dtype, np.number)
            equal = (
                one.shape == other.shape and np.allclose(one, other, 1e-6, 0, equal_nan=True)
                if numeric
                else np.array_equal(one, other)
            )
            if not equal:
                return f"{key} of node '{name}'"
    return None


def _node_arrays(nodes: Mapping[str, Mapping[str, Any]]) -> Arrays:
    return {
        f"{name}.{key}": value
        for name, node in nodes.items()
        for key, value in node.items()
        if isinstance(value, np.ndarray)
    }


def _pack(value: Any, key: str, arrays: Arrays) -> Any:
    """Convert a node or network to JSON values; its arrays go to `arrays`, named by `key`."""
    if isinstance(value, np.ndarray):
        arrays[key] = np.ascontiguousarray(value)
        return {"array": key}
    if is_dataclass(value):
        inner = {f.name: getattr(value, f.name) for f in fields(value)}
        packed = {name: _pack(item, f"{key}.{name}", arrays) for name, item in inner.items()}
        return {"type": type(value).__name__.removesuffix("Node"), **packed}
    if isinstance(value, tuple):
        return [_pack(item, f"{key}.{i}", arrays) for i, item in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def _unpack(value: Any, types: Mapping[str, type], arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `_pack`."""
    if isinstance(value, list):
        return tuple(_unpack(item, types, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    inner = {k: _unpack(item, types, arrays) for k, item in value.items() if k != "type"}
    return types[value["type"]](**inner)


def _sha256(text: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(text.encode())
    # names, dtypes and shapes too: the same bytes may be another array
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
