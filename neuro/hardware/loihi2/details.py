"""The details of a report on Loihi 2, as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from neuro.hardware.loihi2.core_map import CoreMap
from neuro.hardware.loihi2.energy import Estimate
from neuro.hardware.loihi2.integer import IntegerNetwork
from neuro.hardware.loihi2.neurobench_metrics import neurobench_metrics
from neuro.hardware.loihi2.trial import Networks, Trial


def report_details(
    trials: Mapping[str, Trial],
    networks: Networks,
    core_map: CoreMap,
    estimates: Mapping[str, Estimate],
) -> dict[str, Any]:
    """The details of the report, as plain JSON values."""
    network = networks.any.network
    return {
        "chip": False,
        "accuracies": {task: trial.fractions for task, trial in trials.items()},
        "scores_by_way": {task: trial.scores for task, trial in trials.items()},
        "samples": {task: trial.samples for task, trial in trials.items()},
        "agreement": {task: trial.agreement for task, trial in trials.items()},
        "lava": {task: trial.lava_report for task, trial in trials.items()},
        "membranes_at_limit": {task: trial.at_limit for task, trial in trials.items()},
        "input": {
            "coding": "graded spikes" if _is_graded(network) else "spikes",
            "bits": network.input_bits,
            "integer_of_1": network.input_unit,
        },
        "time_steps_ms": sorted(networks),
        "reconfigured_between_tasks": len(networks) > 1,
        "counts": {
            task: [asdict(layer) for layer in trial.counts] for task, trial in trials.items()
        },
        "neurobench": {
            task: {
                "ClassificationAccuracy": trial.fractions["engine"],
                **neurobench_metrics(network, trial.counts),
            }
            for task, trial in trials.items()
        },
        "mapping": core_map.as_json(),
        "estimate": {task: found.as_json() for task, found in estimates.items()},
        "quantisation": {  # the spelling of existing reports
            "weight_bits": networks.fixed.weight_bits,
            "synapses": [asdict(loss) for loss in networks.any.synapses],
            "neurons": {
                f"{dt_ms:g} ms": [asdict(loss) for loss in quantized.neurons]
                for dt_ms, quantized in networks.items()
            },
        },
    }


def _is_graded(network: IntegerNetwork) -> bool:
    """Whether inputs are sent as graded spikes."""
    return any(synapse.graded for layer in network.layers for synapse in layer.synapses)
