"""Tables of measured lines."""

import numpy as np
import torch

from spectool.spectra import KM_S, LINES

SIGMA = 250.0  # km/s, pixels of 276 km/s included: between an emission line and the stars' absorption
REACH = 2500.0  # km/s on either side
_SEEN = 0.6


def net_line(flux, ivar, wavelength, centre):
    """Area of a line above a straight local continuum, negative in absorption."""
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


MIN_COVERAGE = 0.8


def line_model(design, profile, member_flux, members=None):
    """Narrow lines on the spectrum's pixels."""
    padded = torch.zeros(len(member_flux), len(design.edges) - 1, dtype=torch.float64)
    for m in range(len(design.start)) if members is None else members:
        window = slice(design.start[m], design.start[m] + design.width)
        padded[:, window] += profile[:, m] * member_flux[:, m, None]
    return padded[:, design.width : -design.width]


def describe(residual, ivar, stars, blocks, member_flux, covariance, fitter):
    """Fluxes, peaks and their errors of the lines asked for, NaN where too little of a line is seen.

    Parameters
    ----------
    residual, ivar, stars : Tensor, shape (batch, n)
        The residual is zero where nothing is seen; stars is the continuum.
    blocks : LineBlocks
    member_flux : Tensor, shape (batch, member)
    covariance : Tensor, shape (batch, c, c)
    fitter : Fitter

    Returns
    -------
    dict of Tensor
    """
    design, reported = fitter.design, fitter.design.reported
    ratio = torch.from_numpy(design.ratio[reported])
    error = covariance.diagonal(dim1=1, dim2=2)[:, design.column[reported]] ** 0.5 * ratio
    tip = blocks.profile[:, reported].amax(-1)
    seen = (ivar > 0).to(torch.float64)
    rms = ((residual**2) @ fitter.local / (seen @ fitter.local)) ** 0.5
    values = {
        "flux": member_flux[:, reported],
        "flux_error": error,
        "peak": member_flux[:, reported] * tip,
        "peak_error": error * tip,
        "an": member_flux[:, reported] * tip / rms,
    }
    hidden = (blocks.coverage[:, reported] < MIN_COVERAGE) | ~blocks.seen[:, design.column[reported]]
    nan = torch.tensor(torch.nan, dtype=torch.float64)
    values = {name: torch.where(hidden, nan, value) for name, value in values.items()}
    return values | _net_balmer(residual + stars, ivar, blocks.profile, member_flux, fitter)


def _net_balmer(rest, ivar, profile, member_flux, fitter):
    """Signal-to-noise ratios of Hα and Hβ without regard to the stars; ``rest`` has no emission lines."""
    design, wavelength = fitter.design, torch.from_numpy(fitter.wavelength)
    result = {}
    for key, name in (("net_h_alpha_sn", "Hα"), ("net_h_beta_sn", "Hβ")):
        found = np.flatnonzero(np.isclose(design.wavelength[design.reported], LINES[name]))
        result[key] = torch.full((len(rest),), torch.nan, dtype=torch.float64)
        if found.size:
            own = line_model(design, profile, member_flux, members=[int(design.reported[found[0]])])
            flux = torch.where(ivar > 0, rest + own, 0.0)
            area, error = net_line(flux, ivar, wavelength, LINES[name])
            result[key] = area / error
    return result
