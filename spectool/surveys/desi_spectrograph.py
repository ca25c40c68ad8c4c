"""Galaxies as DESI would see them, by how its noise runs with wavelength: its own file, which no reader needs."""

import numpy as np
from astropy import constants as c
from astropy import units as u

from spectool.prepare import add_history
from spectool.spectra import FLUX_UNIT, IVAR_UNIT, pixel_edges
from spectool.surveys.spectrograph import luminosity_to_flux, sky_flux

# Effective, under a dark sky at the zenith: the Bright Galaxy Survey's (Hahn et al. 2023, AJ 165, 253).
EXPOSURE = 180.0
AREA = 8.66e4  # cm2, central obscuration and spider taken off
FIBRE_SHARE = (1.52 / 3.0) ** 2  # of the sky in an SDSS fibre, by the diameters in arcseconds
ACCEPTANCE = 0.8
"""Of a source's light in the fibre, what is left after seeing of 1.1" and centring: our estimate for galaxies."""
ROWS = 5.0  # CCD pixels across the trace that an optimal extraction weighs as one
SKY_FLOOR = 0.01  # of the sky: what its subtraction leaves
# The three arms, each from where it takes over [Angstrom]: width of a CCD pixel [Angstrom], read noise [electrons].
ARMS = np.array([(3500, 0.57, 3.3), (5800, 0.53, 2.9), (7600, 0.57, 2.7)])

# From the top of the atmosphere, at the zenith of Kitt Peak, to electrons: wavelength [Angstrom], share of the photons
# that enter the fibre.
# fmt: off
THROUGHPUT = np.array([
    (3600, 0.06), (3800, 0.11), (4000, 0.17), (4250, 0.22), (4500, 0.27), (5000, 0.32), (5500, 0.32), (5700, 0.29),
    (5850, 0.30), (6000, 0.34), (6500, 0.39), (7000, 0.40), (7400, 0.37), (7600, 0.36), (8000, 0.42), (8500, 0.43),
    (9000, 0.41), (9500, 0.33), (9800, 0.22),
])
# fmt: on


def electrons_per_flux(wavelength, *, exposure=EXPOSURE):
    """Electrons per Angstrom for a flux of 1e-17 erg/s/cm2/A that falls on the fibre."""
    wavelength = np.asarray(wavelength, float)
    photon = (c.h * c.c).to_value(u.erg * u.AA) / wavelength
    return 1e-17 * AREA * exposure / photon * np.interp(wavelength, *THROUGHPUT.T)


def noise_sigma(observed_wavelength, *, exposure=EXPOSURE, flux=0.0, width=0.8):
    """Standard deviation of the noise in a pixel: photons of sky and source, read-out, and the sky's subtraction."""
    wavelength = np.asarray(observed_wavelength, float)
    if not exposure > 0:
        raise ValueError(f"the exposure must be positive, not {exposure} s")
    low, high = THROUGHPUT[[0, -1], 0]
    if wavelength.size and not (wavelength.min() >= low and wavelength.max() <= high):
        asked = f"{wavelength.min():.0f}-{wavelength.max():.0f} A (observed)"
        raise ValueError(f"DESI sees {low:.0f}-{high:.0f} A, not {asked}")
    _, step, read_noise = ARMS[np.searchsorted(ARMS[:, 0], wavelength, side="right") - 1].T
    sky = sky_flux(wavelength) * FIBRE_SHARE
    electrons = electrons_per_flux(wavelength, exposure=exposure) * width  # per pixel and unit of sky
    source = np.clip(flux, 0, None) * ACCEPTANCE
    read_out = ROWS * width / step * read_noise**2
    variance = (source + sky) * electrons + read_out + (SKY_FLOOR * sky * electrons) ** 2
    return np.sqrt(variance) / (electrons * ACCEPTANCE)


def observe_desi_like(sample, *, redshift=0.1, seed, exposure=EXPOSURE):
    """Move observed galaxies to one redshift and add the noise of DESI."""
    missing = [n for n in ("flux", "ivar", "mask", "redshift", "wavelength") if n not in sample.variables]
    if missing:
        raise ValueError(f"the sample lacks {', '.join(missing)}")
    old = sample["redshift"].values.astype(float)
    if not (redshift > 0 and np.all(old > 0)):
        raise ValueError("distances need positive redshifts, old and new")
    rng = np.random.default_rng(seed)
    dims, wavelength = ("galaxy", "wavelength"), sample["wavelength"].values
    pixels = {n: sample[n].transpose(*dims).values for n in ("flux", "ivar", "mask")}
    new = np.atleast_1d(float(redshift))
    dimmer = (luminosity_to_flux(new) * (1 + new) / (luminosity_to_flux(old) * (1 + old)))[:, None]
    scale = dimmer * _physical(sample, "norm")
    flux = pixels["flux"] * scale
    truth = None
    if "truth" in sample:
        truth = sample["truth"].transpose(*dims).values * dimmer * _physical(sample, "truth_norm")
    stretch = 1 + redshift
    source = np.nan_to_num(flux if truth is None else truth) / stretch
    width = np.diff(pixel_edges(wavelength)) * stretch
    sigma = noise_sigma(wavelength * stretch, exposure=exposure, flux=source, width=width) * stretch
    mask = pixels["mask"] | ~(pixels["ivar"] > 0)
    variance = sigma**2 + np.divide(scale**2, pixels["ivar"], out=np.zeros(sigma.shape), where=~mask)
    noisy = flux + sigma * rng.standard_normal(sigma.shape)
    values = {"flux": np.where(mask, 0, noisy), "ivar": np.where(mask, 0, 1 / variance), "desi_sigma": sigma}
    values |= {} if truth is None else {"truth": truth}
    units = {"flux": FLUX_UNIT, "truth": FLUX_UNIT, "desi_sigma": FLUX_UNIT, "ivar": IVAR_UNIT}
    out = sample.drop_vars([n for n in ("norm", "truth_norm") if n in sample])
    out = out.assign({n: (dims, v.astype("f4"), {"units": units[n]}) for n, v in values.items()})
    out = out.assign(
        mask=(dims, mask, sample["mask"].attrs),
        redshift=("galaxy", np.full(old.size, float(redshift)), {"units": ""}),
        redshift_original=("galaxy", old, {"units": ""}),
    )
    out.attrs = {name: value for name, value in sample.attrs.items() if name != "constant"}
    text = f"moved to z = {redshift:g} and observed with DESI, {exposure:g} s effective"
    return add_history(out.assign_attrs(survey="DESI (simulated)"), text)


def _physical(sample, column):
    """What to multiply normalised spectra by, (galaxy, 1); 1 where they are in physical units."""
    unit = u.Unit(sample["flux"].attrs.get("units", ""))
    if unit.is_equivalent(u.Unit(FLUX_UNIT)):
        return unit.to(FLUX_UNIT)
    if unit != u.dimensionless_unscaled or column not in sample:
        wanted = f"{FLUX_UNIT}, or normalised with the column `{column}`"
        raise ValueError(f"flux is in {unit}: it must be in {wanted}")
    return sample[column].values[:, None]
