"""Velocity and width of the gas, for `spectool.measure.linear_lines`."""

import numpy as np
import torch

from spectool.measure.linear_blocks import KinematicPrior
from spectool.measure.linear_solver import solve_lines

PRIOR = KinematicPrior(velocity=100.0, centre=float(np.log(70.0)), log_dispersion=0.5)
MAX_VELOCITY = 300.0
_VELOCITY_STEP = 100.0
_STEPS = 3  # of Gauss and Newton


def find_kinematics(continuum, fitter):
    """Most probable velocity and dispersion, given the prior.

    A search over dispersions, then over three velocities, each ended by a parabola; then Gauss-Newton steps in
    both, with all lines' fluxes free.

    Parameters
    ----------
    continuum : Continuum
    fitter : Fitter

    Returns
    -------
    velocity, dispersion : Tensor, shape (batch,)
        [km/s]
    extended : LineBlocks or None
        Lines and kinematics together as of the last step, for the covariance; None if nothing was free.
    """
    used = len(fitter.operator.vectors)
    log_nodes = torch.log(torch.tensor(fitter.dispersions, dtype=torch.float64).clamp(min=1.0))
    speed = torch.zeros(len(continuum.whitened), dtype=torch.float64)
    badness = torch.empty(len(speed), len(log_nodes), dtype=torch.float64)
    for i, node in enumerate(log_nodes):
        blocks = fitter.strong_lines(continuum, speed[:1], torch.exp(node)[None])
        badness[:, i] = ((node - PRIOR.centre) / PRIOR.log_dispersion) ** 2
        badness[:, i] -= solve_lines(continuum, blocks, used)[1]
    log_dispersion = parabola_minimum(log_nodes, badness)
    if fitter.free[0]:
        nodes = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) * _VELOCITY_STEP
        badness = (nodes / PRIOR.velocity).repeat(len(speed), 1) ** 2
        for i, node in enumerate(nodes):
            blocks = fitter.strong_lines(continuum, speed + node, torch.exp(log_dispersion))
            badness[:, i] -= solve_lines(continuum, blocks, used)[1]
        speed = parabola_minimum(nodes, badness)
    # All lines from here on: a line left out bends the continuum, and with it the width by 3 km/s.
    lines, flux, extended = fitter.all_lines, None, None
    for _ in range(_STEPS if any(fitter.free) else 0):
        dispersion = torch.exp(log_dispersion)
        blocks = lines(continuum, speed, dispersion)
        flux = solve_lines(continuum, blocks, used)[0] if flux is None else flux
        extended = lines.with_kinematics(blocks, continuum, speed, dispersion, flux, PRIOR, fitter.free)
        solution = solve_lines(continuum, extended, used)[0].nan_to_num()
        flux, step = solution[:, :-2], solution[:, -2:]
        speed = speed + (step[:, 0] * PRIOR.velocity).clamp(-_VELOCITY_STEP, _VELOCITY_STEP)
        speed = speed.clamp(-MAX_VELOCITY, MAX_VELOCITY)
        log_dispersion = log_dispersion + (step[:, 1] * PRIOR.log_dispersion).clamp(-0.5, 0.5)
        log_dispersion = log_dispersion.clamp(log_nodes[0] - 1, log_nodes[-1])
    return speed, torch.exp(log_dispersion), extended


def parabola_minimum(nodes, values):
    """Place of the minimum of each row of ``values`` (batch, node) at evenly spaced nodes, shape (batch,)."""
    lowest = values.argmin(1)
    if len(nodes) < 3:
        return nodes[lowest]
    middle = lowest.clamp(1, len(nodes) - 2)
    left, centre, right = (values.gather(1, (middle + i)[:, None])[:, 0] for i in (-1, 0, 1))
    curvature = left - 2 * centre + right
    shift = torch.where(curvature > 0, 0.5 * (left - right) / curvature, (lowest - middle).to(values.dtype))
    step = nodes[1] - nodes[0]
    return nodes[middle] + step * shift.nan_to_num().clamp(-1, 1)
