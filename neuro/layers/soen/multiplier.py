"""Multiplying dendrites, whose input is multiplied by a second flux; see `ops/multipliers.py`.

There are two designs: with coupled states (WICC) and with an output loop (NOCC).
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from neuro.layers.soen.base import PassOptions, PerNode, SoenLayer, SoenOutput, SoenState
from neuro.layers.soen.dendrite import CLOSED
from neuro.layers.soen.noise import LayerNoise
from neuro.layers.soen.units import GAMMA_PLUS
from neuro.ops.multipliers import NOCCState, nocc, nocc_step, wicc, wicc_step
from neuro.ops.sources import SourceKind, depends_on_state


class _Multiplier(SoenLayer):
    """Base of both designs: parameters per node. ValueError for sources without SQUID current."""

    physical = True
    fused_without_noise_on = ("g", "s", "bias_current")

    def __init__(
        self,
        dim: int,
        source: SourceKind,
        values: dict[str, PerNode],
        positive: tuple[str, ...],
        learnable: tuple[str, ...],
    ):
        super().__init__(dim)
        if not depends_on_state(source):
            raise ValueError(
                f"source: {source} takes no squid current, without which the two halves do not "
                "multiply; choose fitted, table or tanh_gauss"
            )
        self.source: SourceKind = source
        self._names = tuple(values)
        self._add_parameters(values, learnable, positive)

    @property
    def noisy_places(self) -> tuple[str, ...]:
        return ("phi", "g", "s", "bias_current")

    def _values(self) -> dict[str, Tensor]:
        return {name: self.get_submodule(name)() for name in self._names}

    def _noisy_values(self, noise: LayerNoise, batch_size: int) -> dict[str, Tensor]:
        values = self._values()
        bias = noise.add("bias_current", values["bias_current"], batch_size)
        return values | {"bias_current": bias}


class WICC(_Multiplier):
    """s' = gamma_plus (g(phi + phi_y, i_b - s) - g(phi - phi_y, i_b + s)) - gamma_minus s.

    Noise on g is added to the difference of the two.
    """

    def __init__(
        self,
        dim: int,
        source: SourceKind = "table",
        phi_y: PerNode = 0.1,
        bias_current: PerNode = 2.0,
        gamma_plus: PerNode = GAMMA_PLUS,
        gamma_minus: PerNode = 1e-3,
        learnable: tuple[Literal["phi_y", "bias_current", "gamma_plus", "gamma_minus"], ...] = (
            "phi_y",
            "bias_current",
            "gamma_plus",
            "gamma_minus",
        ),
    ):
        values: dict[str, PerNode] = {
            "phi_y": phi_y,
            "bias_current": bias_current,
            "gamma_plus": gamma_plus,
            "gamma_minus": gamma_minus,
        }
        # rates stay positive in training: with a negative leak the states would diverge
        super().__init__(dim, source, values, ("gamma_plus", "gamma_minus"), learnable)

    def limit(self) -> Tensor | None:
        return self.get_submodule("bias_current")() - CLOSED

    def step(
        self, phi_BN: Tensor, state: Any, dt: Tensor, noise: LayerNoise
    ) -> tuple[Any, dict[str, Tensor]]:
        phi_BN = noise.add("phi", phi_BN)
        values = self._noisy_values(noise, len(phi_BN))
        s = wicc_step(phi_BN, state.s, dt=dt, source=self.source, **values)
        if noise.acts_on("g"):
            # recover the difference of the two g from the step, which is linear in it
            rate = values["gamma_plus"]
            difference = ((s - state.s) / dt + values["gamma_minus"] * state.s) / rate
            s = s + dt * rate * (noise.add("g", difference) - difference)
        return SoenState(noise.add("s", s)), {"phi": phi_BN}

    def run_fused(
        self, phi_TBN: Tensor, state: Any, dt: Tensor, options: PassOptions
    ) -> SoenOutput:
        out = wicc(phi_TBN, state.s, dt=dt, source=self.source, **self._values())
        return SoenOutput(out.s_TBN, SoenState(out.s_BN), {"phi": phi_TBN})


class NOCC(_Multiplier):
    """Two loops s1 and s2 that drive an output loop m, the output to other layers.

    Noise on g is added to the difference g1 - g2, half of it to each.
    """

    def __init__(
        self,
        dim: int,
        source: SourceKind = "table",
        phi_y: PerNode = 0.1,
        bias_current: PerNode = 2.1,
        alpha: PerNode = 1.64053,
        beta: PerNode = 303.85,
        beta_out: PerNode = 91.156,
        learnable: tuple[Literal["phi_y", "bias_current", "alpha", "beta", "beta_out"], ...] = (
            "phi_y",
            "bias_current",
        ),
    ):
        values: dict[str, PerNode] = {
            "phi_y": phi_y,
            "bias_current": bias_current,
            "alpha": alpha,
            "beta": beta,
            "beta_out": beta_out,
        }
        super().__init__(dim, source, values, ("alpha", "beta", "beta_out"), learnable)

    def initial_state(self, batch_size: int) -> NOCCState:
        return NOCCState(*(self._zeros(batch_size) for _ in NOCCState._fields))

    def step(
        self, phi_BN: Tensor, state: Any, dt: Tensor, noise: LayerNoise
    ) -> tuple[Any, dict[str, Tensor]]:
        phi_BN = noise.add("phi", phi_BN)
        values = self._noisy_values(noise, len(phi_BN))
        after = nocc_step(phi_BN, state, dt=dt, source=self.source, **values)
        if noise.acts_on("g"):
            after = self._with_noise_on_g(after, state, dt, values, noise)
        return after._replace(m=noise.add("s", after.m)), {"phi": phi_BN}

    def run_fused(
        self, phi_TBN: Tensor, state: Any, dt: Tensor, options: PassOptions
    ) -> SoenOutput:
        out = nocc(phi_TBN, state, dt=dt, source=self.source, **self._values())
        return SoenOutput(out.m_TBN, out.state, {"phi": phi_TBN})

    @staticmethod
    def _with_noise_on_g(
        after: NOCCState,
        before: NOCCState,
        dt: Tensor,
        values: dict[str, Tensor],
        noise: LayerNoise,
    ) -> NOCCState:
        """The state after a step with noise added to g1 - g2, in which the step is linear."""
        beta, beta_out = values["beta"], values["beta_out"]
        loop = beta + 2 * beta_out
        difference = (after.m - before.m) * loop / dt + values["alpha"] * before.m
        added = dt * (noise.add("g", difference) - difference)
        out = added / loop
        return NOCCState(
            after.m + out,
            after.s1 + (added / 2 - beta_out * out) / beta,
            after.s2 - (added / 2 + beta_out * out) / beta,
        )
