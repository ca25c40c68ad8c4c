"""Spectra as Scourfield et al. (2023) give them to a de-noiser: their bins, their normalisation, their noise."""

import numpy as np

from spectool.prepare import _mask_rows, _warn_rows, add_history, mask_bad_pixels

N_PIXELS = 825
RANGE = (3700.0, 7900.0)
TOTAL_VARIANCE = 0.060
SIGMA = 0.04
TEST_NOISE_SEED = 20230825
MIN_FRACTION = 0.9


def scourfield2023_wavelength():
    """Pixel centres of the paper: 825 logarithmic bins of 276 km/s between 3700 and 7900 Angstrom.

    Returns
    -------
    ndarray, shape (825,)
        Vacuum wavelength [Angstrom]; the outer pixels' edges are 3700 and 7900 Angstrom.
    """
    step = np.log(RANGE[1] / RANGE[0]) / N_PIXELS
    return RANGE[0] * np.exp(step * (np.arange(N_PIXELS) + 0.5))


def fill_masked(flux, mask):
    """Masked pixels filled by linear interpolation between good neighbours, the nearest one at the ends."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return flux
    filled, pixel = np.where(mask, 0, flux), np.arange(flux.shape[1])
    for row in rows[~mask[rows].all(axis=1)]:
        good = ~mask[row]
        filled[row, ~good] = np.interp(pixel[~good], pixel[good], flux[row, good])
    return filled


def total_variance(flux):
    """Sum over the pixels of the variance over the galaxies (what a PCA's components share out).

    Parameters
    ----------
    flux : array_like, shape (galaxy, wavelength)
        Rows that hold a value that is not finite are left out.

    Returns
    -------
    float
    """
    flux = np.asarray(flux)
    good = np.isfinite(flux).all(axis=1)
    return float(flux[good].var(axis=0, dtype=float).sum())


def fit_constant(sample, *, target=TOTAL_VARIANCE):
    """The constant of `normalize_total` for which the noise-free spectra have a given total variance."""
    truth = np.asarray(sample["truth" if "truth" in sample else "flux"], float)
    total = truth.sum(axis=1, keepdims=True)
    good = np.isfinite(total[:, 0]) & (total[:, 0] > 0)
    if not good.any():
        raise ValueError("no spectrum has a positive summed flux: is the sample in physical units?")
    return float(np.sqrt(target / total_variance(truth[good] / total[good])))


def normalize_total(sample, *, constant, min_fraction=MIN_FRACTION):
    """Divide each spectrum by its summed flux and multiply it by one constant (Scourfield et al. 2023, Section 2).

    Masked pixels are filled by interpolation, so that the sum does not depend on how many there are; they stay
    masked, with ``ivar`` 0, but ``flux`` holds the filled value, because a dense network has to be given a number.
    Spectra with too few good pixels, or whose sum is not positive, are masked out whole (flux 0) and counted.

    Parameters
    ----------
    sample : Dataset
        On a common rest-frame grid: ``flux``, optionally ``ivar``, ``mask`` and ``truth`` (galaxy, wavelength), which
        is divided by its own sum.
    constant : float
        See `fit_constant`.
    min_fraction : float
        Good pixels that a spectrum must have.

    Returns
    -------
    Dataset
        ``flux``, ``ivar``, ``mask``, ``truth`` without unit; the columns ``norm`` and ``truth_norm``: what to multiply
        them by to come back to the sample's unit (NaN if masked out); ``attrs["constant"]``.

    Raises
    ------
    ValueError
        If there is no common rest-frame grid or the constant is not positive.
    """
    if "wavelength" not in sample.coords:
        raise ValueError("normalise after resampling to a common rest-frame grid (coordinate `wavelength`)")
    if not constant > 0:
        raise ValueError(f"the constant must be positive, not {constant}")
    units = sample["flux"].attrs.get("units", "")
    out = mask_bad_pixels(sample)
    mask = out["mask"].values
    filled = fill_masked(out["flux"].values, mask)
    norm = filled.sum(axis=1, dtype=float) / constant
    usable = (norm > 0) & ((~mask).mean(axis=1) >= min_fraction)
    lost = ~usable & ~mask.all(axis=1)
    out = _mask_rows(out, lost, f"fewer than {min_fraction:.0%} good pixels, or no positive summed flux")
    scale = np.where(usable, norm, 1)[:, None]
    out["flux"] = (out["flux"].dims, np.where(usable[:, None], filled / scale, 0).astype("f4"), {"units": ""})
    out["ivar"] = (out["ivar"].dims, (out["ivar"].values * scale**2).astype("f4"), {"units": ""})
    out["norm"] = ("galaxy", np.where(usable, norm, np.nan), {"units": units})
    if "truth" in sample:
        truth = sample["truth"].transpose("galaxy", "wavelength").values
        truth_norm = truth.sum(axis=1, dtype=float) / constant
        truth_norm[~(truth_norm > 0)] = np.nan
        out["truth"] = (("galaxy", "wavelength"), (truth / truth_norm[:, None]).astype("f4"), {"units": ""})
        out["truth_norm"] = ("galaxy", truth_norm, {"units": units})
    text = f"divided by summed flux, times {constant:g}; {int((~usable).sum())} spectra masked out"
    return add_history(out.assign_attrs(constant=float(constant)), text)


def add_noise(sample, *, seed, sigma=SIGMA, unit_noise=None):
    """Add Gaussian noise to normalised spectra and divide by the summed flux again, as the paper does.

    Parameters
    ----------
    sample : Dataset
        From `normalize_total`.
    seed : int or numpy.random.Generator
    sigma : float or array_like (wavelength,) or (galaxy, wavelength)
        In normalised units.
    unit_noise : array_like (galaxy, wavelength), optional
        Standard normal numbers to scale by `sigma` in place of ones drawn with `seed`: the same noise at any level.

    Returns
    -------
    Dataset
        With ``noisy`` (galaxy, wavelength), whose sum is the constant again, ``noisy_scale`` (noisy = (flux + noise)
        times it), and ``noisy_sigma`` (galaxy, wavelength), the added noise after scaling. Spectra whose noise takes
        the sum below a tenth of what it was keep scale NaN and ``noisy`` 0 and are masked and counted.

    Raises
    ------
    ValueError
        If the sample is not normalised, or sigma is negative or not finite.
    """
    if "constant" not in sample.attrs:
        raise ValueError("normalise the sample with normalize_total before noise is added to it")
    sigma = np.asarray(sigma, "f4")
    if not np.all(np.isfinite(sigma) & (sigma >= 0)):
        raise ValueError("sigma holds values that are negative or not finite")
    flux = sample["flux"].values
    if unit_noise is None:
        unit_noise = np.random.default_rng(seed).standard_normal(flux.shape, dtype="f4")
    noisy = flux + np.asarray(unit_noise, "f4") * sigma
    total = noisy.sum(axis=1, dtype=float)
    constant = sample.attrs["constant"]
    usable = np.isfinite(sample["norm"].values) & (total > 0.1 * constant)
    scale = np.where(usable, constant / np.where(usable, total, 1), np.nan)
    good = usable[:, None]
    dims = ("galaxy", "wavelength")
    unit = {"units": ""}
    factor = np.where(good, scale[:, None], 0).astype("f4")
    out = sample.assign(
        noisy=(dims, np.where(good, noisy * factor, 0), unit),
        noisy_sigma=(dims, np.broadcast_to(sigma, flux.shape) * factor, unit),
        noisy_scale=("galaxy", scale, unit),
    )
    drowned = np.isfinite(sample["norm"].values) & ~usable
    if drowned.any():
        _warn_rows(np.flatnonzero(drowned), "the noise is larger than the galaxy's light")
        mask = sample["mask"].values | drowned[:, None]
        out["mask"] = sample["mask"].copy(data=mask)
        out["ivar"] = sample["ivar"].copy(data=np.where(mask, 0, sample["ivar"].values))
    text = f"noise added, sigma {np.median(sigma):g} (median); {int((~usable).sum())} spectra without"
    return add_history(out, text)
