"""Balmer lines as a survey pipeline sees them: emission and absorption together, over a local continuum."""

import torch

from spectool.measure.linear_design import KM_S

SIGMA = 250.0  # km/s, pixels of 276 km/s included: between an emission line and the stars' absorption
REACH = 2500.0  # km/s on either side
_SEEN = 0.6


def net_line(flux, ivar, wavelength, centre):
    """Area of a line above a straight local continuum, negative in absorption.

    A straight line plus a Gaussian of 250 km/s, fitted by weighted least squares to the pixels within 2500 km/s.
    Nothing is known of the stars: an emission line that fills its absorption has no area.

    Parameters
    ----------
    flux, ivar : Tensor, shape (batch, n), float64
        Flux without other emission lines; ivar 0 where there is nothing to see.
    wavelength : Tensor, shape (n,)
        Pixel centres [Angstrom].
    centre : float
        The line's [Angstrom].

    Returns
    -------
    area, error : Tensor, shape (batch,)
        [flux Angstrom]; NaN where fewer than 60% of the pixels around the line, or in it, are seen.
    """
    speed = (wavelength / centre - 1) * KM_S
    inside = speed.abs() <= REACH
    nan = torch.full((len(flux),), torch.nan, dtype=torch.float64)
    if int(inside.sum()) < 6 or float(speed.min()) > -REACH / 2 or float(speed.max()) < REACH / 2:
        return nan, nan
    speed, weight = speed[inside], ivar[:, inside]
    shape = torch.exp(-0.5 * (speed / SIGMA) ** 2) / ((2 * torch.pi) ** 0.5 * SIGMA * centre / KM_S)
    design = torch.stack([shape, torch.ones_like(speed), speed / REACH])
    # Scaled by the weights, the equations of faint and bright spectra are equally far from singular.
    scale = weight.sum(1, keepdim=True)
    relative = weight / torch.where(scale > 0, scale, 1.0)
    products = (design[:, None] * design[None]).reshape(9, -1)
    normal = (relative @ products.T).reshape(-1, 3, 3)
    right = (relative * flux[:, inside]) @ design.T
    seen = (weight > 0).to(torch.float64)
    usable = (seen.mean(1) > _SEEN) & (seen[:, speed.abs() <= 2 * SIGMA].mean(1) > _SEEN)
    normal[~usable] = torch.eye(3, dtype=torch.float64)
    inverse, info = torch.linalg.inv_ex(normal)
    usable &= info == 0
    area = (inverse[:, 0] * right).sum(1)
    error = (inverse[:, 0, 0] / torch.where(scale[:, 0] > 0, scale[:, 0], 1.0)) ** 0.5
    return torch.where(usable, area, nan), torch.where(usable, error, nan)
