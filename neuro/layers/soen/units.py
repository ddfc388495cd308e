"""Conversion between physical units and the dimensionless units of SOEN dynamics.

Dimensionless time is t' = omega_c t with omega_c = 2 pi I_c R / Phi_0, dimensionless inductance
beta_L = 2 pi I_c L / Phi_0. A time step dt = 37 is about 0.1 ns.
"""

from __future__ import annotations

import math

PLANCK_J_S = 6.62607015e-34
ELEMENTARY_CHARGE_C = 1.602176634e-19
FLUX_QUANTUM_WB = PLANCK_J_S / (2 * ELEMENTARY_CHARGE_C)  #: Phi_0 = h / 2e
CRITICAL_CURRENT_A = 100e-6  #: I_c of the junctions
SHUNT_OHM = 1.2191160341258176  #: R, the shunt resistance of each junction

#: omega_c in 1/s: the dimensionless time of one second
OMEGA_C = 2 * math.pi * CRITICAL_CURRENT_A * SHUNT_OHM / FLUX_QUANTUM_WB


def beta_of(inductance_h: float) -> float:
    """Dimensionless inductance beta_L of an inductance in henries."""
    return 2 * math.pi * CRITICAL_CURRENT_A * inductance_h / FLUX_QUANTUM_WB


def seconds_of(dt: float) -> float:
    """Seconds of a dimensionless time."""
    return dt / OMEGA_C


#: charging rate 1 / beta_L of a dendrite with a storage loop of 0.5 nH that drives one other
GAMMA_PLUS = 1 / beta_of(0.5e-9)
