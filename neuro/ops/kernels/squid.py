"""Simulation of a two-junction SQUID: its circuit equations, integrated by Numba.

    beta_c phi_k'' + phi_k' + sin(phi_k) = i_k,   k = 1, 2
    i_1 + i_2 = i,   i_1 - i_2 = (2 pi phi - (phi_1 - phi_2)) / loop

the resistively and capacitively shunted junction model (Stewart 1968, McCumber 1968). Currents are
in units of Ic, time in Phi0 / (2 pi Ic R), the flux phi in Phi0. By symmetry both phases advance by
2 pi in a period of the voltage (phi_1' + phi_2') / 2, so its mean over a period of length P is
2 pi / P.
"""

from __future__ import annotations

import math

from numba import njit

from neuro.ops.kernels.spiking import kernel

TURN = 4 * math.pi  # phi_1 + phi_2 over one period
AT_REST = 1e-9  # speed of the phases below which the junctions are in their zero-voltage state
CHECK_EVERY = 64  # steps between two checks for that state
ROOT_STEPS = 3  # Newton iterations for the time at which a period ends


@njit(error_model="numpy")
def _slope(state, i, flux, beta_c, loop):
    """Time derivative of (phi_1, phi_2, phi_1', phi_2'); flux: 2 pi phi."""
    one, two, speed_one, speed_two = state
    ring = (flux - (one - two)) / loop
    return (
        speed_one,
        speed_two,
        (0.5 * (i + ring) - speed_one - math.sin(one)) / beta_c,
        (0.5 * (i - ring) - speed_two - math.sin(two)) / beta_c,
    )


@njit(error_model="numpy")
def _moved(state, slope, h):
    return (
        state[0] + h * slope[0],
        state[1] + h * slope[1],
        state[2] + h * slope[2],
        state[3] + h * slope[3],
    )


@njit(error_model="numpy")
def _step(state, i, flux, beta_c, loop, h):
    """One step of the classical Runge-Kutta method of fourth order."""
    a = _slope(state, i, flux, beta_c, loop)
    b = _slope(_moved(state, a, 0.5 * h), i, flux, beta_c, loop)
    c = _slope(_moved(state, b, 0.5 * h), i, flux, beta_c, loop)
    d = _slope(_moved(state, c, h), i, flux, beta_c, loop)
    inner = _moved(_moved(state, a, h / 6), b, h / 3)
    return _moved(_moved(inner, c, h / 3), d, h / 6)


@njit(error_model="numpy")
def _rate(i, flux, state, beta_c, loop, h, tolerance, limit):
    """Mean voltage of a simulation that starts from `state`, and its last state.

    Periods are measured until two in a row give the same rate to within `tolerance`. The rate is 0
    if the junctions come to rest. After the time `limit` the last rate is returned; one that is
    slower than 2 pi / limit is never measured and returned as 0.
    """
    turns = 2 * math.pi * math.floor((state[0] + state[1]) / TURN)
    state = (state[0] - turns, state[1] - turns, state[2], state[3])
    rate, ended, periods = 0.0, 0.0, -1
    for n in range(int(limit / h)):
        before = state
        state = _step(before, i, flux, beta_c, loop, h)
        if state[0] + state[1] >= TURN:
            # The time within this step at which the period ended: linear interpolation, then Newton
            part = h * (TURN - before[0] - before[1])
            part /= state[0] + state[1] - before[0] - before[1]
            for _ in range(ROOT_STEPS):
                there = _step(before, i, flux, beta_c, loop, part)
                part -= (there[0] + there[1] - TURN) / (there[2] + there[3])
            state = (state[0] - TURN / 2, state[1] - TURN / 2, state[2], state[3])
            periods += 1
            if periods > 0:
                new = 2 * math.pi / (n * h + part - ended)
                if periods > 1 and abs(new - rate) < tolerance:
                    return new, state
                rate = new
            ended = n * h + part
        elif n % CHECK_EVERY == 0 and (
            abs(state[2]) + abs(state[3]) + abs(state[0] - before[0]) < AT_REST
        ):
            return 0.0, state
    return rate, state


@kernel
def rates_from_rest(currents, flux, beta_c, loop, h, tolerance, limit, out) -> None:
    """Set out[n] to the rate at currents[n] and flux[n] (2 pi phi), each simulated from zeros."""
    for n in range(currents.size):
        rest = (0.0, 0.0, 0.0, 0.0)
        out[n] = _rate(currents[n], flux[n], rest, beta_c, loop, h, tolerance, limit)[0]


@kernel
def rate_column(currents, flux, beta_c, loop, h, tolerance, limit, out) -> None:
    """Set out[n] to the rate at currents[n], all at one flux (2 pi phi).

    Each simulation starts from the last state at the next higher current, to shorten its transient.
    """
    state = (0.0, 0.0, 0.0, 0.0)
    for n in range(currents.size - 1, -1, -1):
        out[n], state = _rate(currents[n], flux, state, beta_c, loop, h, tolerance, limit)
