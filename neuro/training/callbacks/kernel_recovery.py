"""How far learned optical kernels are from those that the training images were made by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from annotated_types import Gt

from neuro.data.simulated.imaging import ImagedMasks
from neuro.models.lithography.optical_kernels import OpticalKernels
from neuro.training.callbacks.base import Callback, Setup, TrainerView


class KernelRecovery(Callback):
    """Reports the angle between the subspaces of the `kernels` strongest kernels after each phase.

    `optics/subspace_angle_deg` is the largest principal angle, `optics/operator_error` the relative
    error of the transmission cross-coefficient (`analysis.optics`).
    """

    requires = (OpticalKernels,)
    optional = True

    def __init__(self, kernels: Annotated[int, Gt(0)] = 3):
        self.kernels = kernels

    def check(self, setup: Setup) -> Iterator[str]:
        if not isinstance(setup.data, ImagedMasks):
            yield (
                f"kernels: there are none to compare with in {type(setup.data).__name__}, only in "
                "simulated images. Leave kernel_recovery out of callbacks."
            )

    def reports(self, setup: Setup) -> Iterator[str]:
        yield from ("optics/subspace_angle_deg", "optics/operator_error")

    def on_phase_end(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        from neuro.analysis.optics import recovery

        assert isinstance(trainer.model, OpticalKernels) and isinstance(trainer.data, ImagedMasks)
        data, learned = trainer.data, trainer.model.kernels.detach().cpu().numpy()
        true = data.optics.kernels(data.extent_nm).values.numpy()
        found = recovery(learned, true, min(self.kernels, len(learned), len(true)))
        trainer.add_to_report(
            {
                "optics/subspace_angle_deg": float(found.angles_deg[-1]),
                "optics/operator_error": found.operator_error,
            }
        )
