"""How certainly a spectrum shows Balmer absorption: the paper's line between absorption and quiescent galaxies."""

import torch

from spectool.measure.linear_design import KM_S

LINES = (4102.892, 4341.684)  # Hδ, Hγ
SIGMA = 450.0  # km/s: the core of A stars' lines, seen through a galaxy's dispersion
SIDEBANDS = (1000.0, 3000.0)  # km/s from the line: where the pseudo-continuum is


def balmer_absorption(flux, ivar, wavelength, line_model_variance=None):
    """Depth of Hδ and Hγ below a straight local pseudo-continuum, emission subtracted.

    Around each line a straight line minus a Gaussian of 450 km/s is fitted by weighted least squares to the
    pixels within 3000 km/s; the two Gaussians' areas are summed.

    Parameters
    ----------
    flux, ivar : Tensor, shape (batch, n)
        Flux without emission lines; ivar 0 where there is nothing to see.
    wavelength : Tensor, shape (n,)
        Pixel centres [Angstrom].
    line_model_variance : tuple of Tensor, optional
        Variances of the emission subtracted at Hδ and Hγ, shape (batch,) [(flux Angstrom)^2].

    Returns
    -------
    depth, error : Tensor, shape (batch,)
        [flux Angstrom], positive in absorption; NaN where fewer than 60% of the pixels of either line are seen.
    """
    depth = torch.zeros(len(flux), dtype=torch.float64)
    variance, usable = depth.clone(), torch.ones(len(flux), dtype=torch.bool)
    for i, centre in enumerate(LINES):
        speed = (wavelength / centre - 1) * KM_S
        inside = speed.abs() <= SIDEBANDS[1]
        if int(inside.sum()) < 6:
            return depth * torch.nan, variance * torch.nan
        speed, weight = speed[inside], ivar[:, inside]
        shape = torch.exp(-0.5 * (speed / SIGMA) ** 2) / ((2 * torch.pi) ** 0.5 * SIGMA * centre / KM_S)
        design = torch.stack([-shape, torch.ones_like(speed), speed / SIDEBANDS[1]])
        normal = torch.einsum("np,ip,jp->nij", weight, design, design)
        right = (weight * flux[:, inside]) @ design.T
        seen = (weight > 0).to(torch.float64)
        core = speed.abs() <= 2 * SIGMA
        good = (seen.mean(1) > 0.6) & (seen[:, core].mean(1) > 0.6)
        normal[~good] = torch.eye(3, dtype=torch.float64)
        inverse, info = torch.linalg.inv_ex(normal)
        depth += (inverse[:, 0] * right).sum(1)
        variance += inverse[:, 0, 0]
        if line_model_variance is not None:
            # What is subtracted wrongly as emission comes back as depth.
            variance += line_model_variance[i]
        usable &= good & (info == 0)
    nan = torch.full_like(depth, torch.nan)
    return torch.where(usable, depth, nan), torch.where(usable, variance, nan) ** 0.5
