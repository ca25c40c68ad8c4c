"""Candidates of the mock SDSS main galaxy sample of Zahid et al. (2019, Section 3.1), by number.

As in `spectool.scourfield2023_candidates` a number, with one seed, says all about a candidate. Two hundred thousand of
some ten million are selected, so this is built to be quick: what cannot pass is told from colours and ionising photons
before any spectrum is made (`screen`), and redshifts are whole numbers of SDSS's pixels of 1e-4 dex (69 km/s), so that
all spectra share one grid of rest-frame pixels that are the spectrograph's own and nothing is interpolated.
"""

from functools import cache

import numpy as np

from spectool.measure.gaussian_lines import MEASURED
from spectool.measure.ppxf_templates import embedded_grid
from spectool.prepare import SKY_LINES, add_history
from spectool.scourfield2023_candidates import BLOCK, TRUE_LINES, number_block, r_magnitude
from spectool.scourfield2023_selection import MAGNITUDE_LIMIT, predict_h_alpha
from spectool.surveys.sdss import luminosity_to_flux
from spectool.surveys.sdss_files import DLOGLAM, FLUX_UNIT, IVAR_UNIT, LOGLAM0, PIXEL_VELOCITY
from spectool.surveys.sdss_noise import (
    CALIBRATION_FLOOR,
    FWHM_TO_SIGMA,
    READ_NOISE,
    SENSITIVITY,
    lsf_pixels,
    sky_flux,
)
from spectool.synth import relations
from spectool.synth.agn import add_agn, draw_agn
from spectool.synth.low_ionisation import mend_low_ionisation
from spectool.synth.population import LOG_Z_STAR_RANGE, age_of_universe, draw_population
from spectool.synth.synthesis import metallicity_weights, synthesize

SEED = 2019
REDSHIFT_RANGE = (0.027, 0.25)
STELLAR_METALLICITY_SFR = -0.25
"""How steeply stellar metallicity falls with star formation in the main sample [dex per dex]; our choice."""
DISPERSION_SCALE, DISPERSION_FLOOR = 0.78, 35.0
"""The population's velocity dispersions are scaled, and 35 km/s added in quadrature: emission lines in the stack of the
most massive galaxies (log M = 10.9-11) are then as wide as the paper's, 330 km/s (FWHM, instrument included)."""
TYPICAL_REDSHIFT = 0.08
SCREEN_MAGNITUDE = MAGNITUDE_LIMIT + 0.3
SCREEN_H_ALPHA = 30.0
"""Limits of `screen`: r [mag] of the stars, H-alpha [1e-17 erg/s/cm2]."""

_POPULATION, _AGN, _, _NOISE, _METALS = range(5)  # streams of random numbers; `number_block` takes the third
_FIRST, _LAST = 670, 3679  # rest-frame pixels: log10(lambda) = LOGLAM0 + DLOGLAM k
_SHIFTS = tuple(
    int(f(np.log10(1 + z) / DLOGLAM)) for f, z in zip((np.ceil, np.floor), REDSHIFT_RANGE, strict=True)
)
_OBSERVED_RANGE = (3800.0, 9200.0)  # what SDSS's spectra cover
_R_BAND = (5500.0, 7000.0)
_NODES = np.arange(REDSHIFT_RANGE[0], REDSHIFT_RANGE[1] + 0.01, 0.01)  # where magnitudes are predicted


def rest_pixels():
    """Centres of the pixels that all candidates share: 3690-7376 A, 1e-4 dex wide, vacuum, rest frame; (3009,)."""
    return 10 ** (LOGLAM0 + DLOGLAM * np.arange(_FIRST, _LAST))


def draw_block(block, *, seed=SEED, null=False, grid=None):
    """The 4096 candidates of one block: population, nuclei and fibre fractions.

    Parameters
    ----------
    block : int
        From 0.
    seed : int
    null : bool
        The null sample's population, in which metallicity follows mass only.
    grid : SSPGrid, optional
        Default: the embedded one.

    Returns
    -------
    Dataset
        As `spectool.synth.population.draw_population` (``log_z_star`` falls by 0.25 dex per dex of star formation above
        the sequence, if not `null`) and `spectool.synth.agn.draw_agn`, with ``candidate`` (block * 4096 + row),
        ``fibre_fraction`` (lognormal), ``shift`` (the redshift in pixels), and the population's class renamed to
        ``population_class``.
    """
    grid = grid or embedded_grid()
    galaxies = draw_population(
        BLOCK,
        grid_age=grid.age,
        seed=np.random.default_rng([seed, block, _POPULATION]),
        redshift_range=REDSHIFT_RANGE,
        metallicity_sfr=not null,
        stellar_metallicity_sfr=0.0 if null else STELLAR_METALLICITY_SFR,
    )
    galaxies = draw_agn(galaxies, seed=[seed, block, _AGN]).rename(spectral_class="population_class")
    shift = np.rint(np.log10(1 + galaxies["redshift"].values) / DLOGLAM).astype(int).clip(*_SHIFTS)
    dispersion = np.hypot(DISPERSION_SCALE * galaxies["velocity_dispersion"], DISPERSION_FLOOR)
    return number_block(galaxies, block, seed=seed).assign(
        redshift=("galaxy", 10 ** (DLOGLAM * shift) - 1, galaxies["redshift"].attrs),
        velocity_dispersion=dispersion.assign_attrs(galaxies["velocity_dispersion"].attrs),
        shift=("galaxy", shift, {"units": "", "long_name": "redshift in pixels of 1e-4 dex"}),
    )


def renew_metals(galaxies, *, seed=SEED):
    """Give galaxies of the null sample new metallicities, drawn for their mass alone, once they are selected.

    Selection ties metallicity to star formation even where the population does not: galaxies that form few stars need
    metal-poor, ionising ones for their Balmer lines, and metal-rich gas for [N II], to be seen at all. What is drawn
    afterwards knows nothing of that, so that the null sample has no such dependence but the rest of its selection.

    Parameters
    ----------
    galaxies : Dataset
        Rows of ``draw_block(..., null=True)``.
    seed : int

    Returns
    -------
    Dataset
        With other ``log_z_star`` (Gallazzi et al. 2005), ``log_z_gas`` (Curti et al. 2020 on the star-forming sequence
        of z = 0.08: that of each galaxy's redshift would bring star formation back in) and ``log_u``; the same for a
        candidate whichever others are with it.
    """
    log_mass = galaxies["log_mass"].values
    numbers = galaxies["candidate"].values
    deviates = np.array([np.random.default_rng([seed, _METALS, int(k)]).standard_normal(3) for k in numbers])
    stars, gas, ionisation = deviates.reshape(-1, 3).clip(-2.2, 2.2).T
    middle, below, above = relations.stellar_metallicity(log_mass)
    sequence = relations.star_forming_sequence(log_mass, age_of_universe(TYPICAL_REDSHIFT))
    log_z_gas = np.minimum(
        relations.gas_metallicity(log_mass, sequence) + 0.07 * gas, relations.MAX_LOG_Z_GAS
    )
    log_u = np.clip(relations.ionisation_parameter(log_z_gas) + 0.18 * ionisation, -4.0, -2.0)
    # Star-forming galaxies of their mass are metal-poorer than all, as in draw_population.
    stars = np.clip(stars - 0.6 * relations.quiescent_fraction(log_mass, TYPICAL_REDSHIFT), -2.2, 2.2)
    log_z_star = np.clip(middle + np.where(stars < 0, below, above) * stars, *LOG_Z_STAR_RANGE)
    new = {"log_z_star": log_z_star, "log_z_gas": log_z_gas, "log_u": log_u}
    return galaxies.assign({name: ("galaxy", values, galaxies[name].attrs) for name, values in new.items()})


@cache
def _band_light():
    """Photons of the SSPs in r at redshifts `_NODES`, relative to magnitude 0: (node, Z * age)."""
    grid = embedded_grid()
    wavelength, width = grid.wavelength, np.diff(grid.edges)
    light = []
    for redshift in _NODES:
        inside = np.flatnonzero(np.abs(wavelength * (1 + redshift) - np.mean(_R_BAND)) < np.ptp(_R_BAND) / 2)
        reference = (width / wavelength)[inside].sum() / (1 + redshift) ** 2
        photons = (grid.flux[..., inside] * (wavelength * width)[inside]).sum(axis=-1)
        light.append(photons / (reference * 3631e-23 * 2.99792458e18 / 1e-17))
    distance = luminosity_to_flux(_NODES)
    return np.array(light).reshape(_NODES.size, -1).astype("f4"), np.log(distance)


def predict_r(galaxies):
    """Magnitudes r of the stars of candidates, without synthesizing them; gas and nuclei only make them brighter.

    Parameters
    ----------
    galaxies : Dataset
        From `draw_block`.

    Returns
    -------
    ndarray, shape (galaxy,)
        AB; good to 0.03 mag where there is little gas.
    """
    grid = embedded_grid()
    light, log_distance = _band_light()
    redshift = galaxies["redshift"].values
    weights = metallicity_weights(10 ** galaxies["log_z_star"].values * grid.z_sun, grid.metallicity)
    mass = galaxies["mass_formed"].values
    node = np.clip(np.rint((redshift - _NODES[0]) / (_NODES[1] - _NODES[0])).astype(int), 0, _NODES.size - 1)
    photons = np.empty(redshift.size)
    for k in np.unique(node):
        rows = np.flatnonzero(node == k)
        by_metallicity = mass[rows] @ light[k].reshape(len(grid.metallicity), -1).T
        photons[rows] = (by_metallicity * weights[rows]).sum(axis=1)
    to_flux = np.exp(np.interp(np.log(redshift), np.log(_NODES), log_distance))
    where = np.mean(_R_BAND) / (1 + redshift) / 5500
    depth = galaxies["dust2"].values * where ** galaxies["dust_index"].values
    return -2.5 * np.log10(photons * to_flux) + 1.0857 * depth


def screen(galaxies, *, grid=None):
    """Rows of candidates that may pass the selection: r of their stars < 18.07, and H-alpha above 30e-17 erg/s/cm2.

    Parameters
    ----------
    galaxies : Dataset
        From `draw_block`.
    grid : SSPGrid, optional

    Returns
    -------
    ndarray of int
    """
    bright = np.flatnonzero(predict_r(galaxies) < SCREEN_MAGNITUDE)
    if not bright.size:
        return bright
    return bright[predict_h_alpha(galaxies.isel(galaxy=bright), grid or embedded_grid()) > SCREEN_H_ALPHA]


@cache
def _spectrograph():
    """What SDSS does at all observed pixels that candidates reach: per pixel k from _FIRST."""
    wavelength = 10 ** (LOGLAM0 + DLOGLAM * np.arange(_FIRST, _LAST + _SHIFTS[1]))
    electrons = np.interp(wavelength, *SENSITIVITY.T)
    dark = sky_flux(wavelength) / electrons + READ_NOISE**2 / electrons**2
    good = (wavelength >= _OBSERVED_RANGE[0]) & (wavelength <= _OBSERVED_RANGE[1])
    for centre, half_width in SKY_LINES.values():
        good &= np.abs(wavelength - centre) > half_width
    return tuple(
        np.lib.stride_tricks.sliding_window_view(values.astype(kind), _LAST - _FIRST)
        for values, kind in (
            (dark, "f4"),
            (1 / electrons, "f4"),
            (lsf_pixels(wavelength) ** 2, "f4"),
            (good, bool),
        )
    )


def observe_candidates(galaxies, *, seed=SEED, grid=None):
    """Synthesize candidates and see them as SDSS does, on the pixels of `rest_pixels`.

    The instrument's blur beyond the templates' resolution, at most 0.6 pixels, is a kernel of three pixels with the
    right variance. Noise is that of `spectool.surveys.sdss_noise`; pixels at strong sky lines
    (`spectool.prepare.SKY_LINES`) and outside 3800-9200 A observed are masked.

    Parameters
    ----------
    galaxies : Dataset
        Rows of `draw_block`.
    seed : int
        Each galaxy's noise is drawn with (seed, its number).
    grid : SSPGrid, optional

    Returns
    -------
    Dataset
        At rest (a line's flux is the observed one): ``flux``, ``truth`` (noise-free, same optics, also where masked)
        [1e-17 erg/s/cm2/A], ``ivar``, ``mask``; ``true_line_flux`` (galaxy, line) [1e-17 erg/s/cm2] of the lines that
        are measured; ``lsf_sigma`` (wavelength,) [km/s], of lines at z = 0.08; ``r_magnitude`` of the whole galaxy, and
        all columns.
    """
    grid = grid or embedded_grid()
    rest = synthesize(galaxies, grid, wavelength=rest_pixels(), keep_lines=True, progress=False)
    redshift, share = galaxies["redshift"].values, galaxies["fibre_fraction"].values
    to_flux = luminosity_to_flux(redshift)
    magnitude = r_magnitude(rest, to_flux)
    rest = add_agn(mend_low_ionisation(rest), fibre_fraction=share)
    dark, per_electron, lsf, good = (table[galaxies["shift"].values] for table in _spectrograph())
    truth = rest["flux"].values * (to_flux * share)[:, None].astype("f4")
    truth = _blur(truth, lsf, grid.fwhm)
    source = np.clip(truth, 0, None)
    variance = source * per_electron + dark + (CALIBRATION_FLOOR * source) ** 2
    numbers = galaxies["candidate"].values
    noise = np.stack(
        [np.random.default_rng([seed, _NOISE, int(k)]).standard_normal(truth.shape[1], "f4") for k in numbers]
    )
    stretch = (1 + redshift[:, None]).astype("f4")
    dims = ("galaxy", "wavelength")
    flux = np.where(good, (truth + noise * np.sqrt(variance)) * stretch, 0)
    pixels = {
        "flux": (dims, flux, {"units": FLUX_UNIT}),
        "ivar": (dims, np.where(good, 1 / (variance * stretch**2), 0), {"units": IVAR_UNIT}),
        "mask": (dims, ~good, {"units": "", "description": "True = bad"}),
        "truth": (dims, truth * stretch, {"units": FLUX_UNIT, "long_name": "flux without noise"}),
        "lsf_sigma": (
            "wavelength",
            _typical_lsf(grid.fwhm),
            {"units": "km / s", "description": "at z = 0.08"},
        ),
        "r_magnitude": ("galaxy", magnitude, {"units": "mag", "long_name": "whole galaxy, AB, 5500-7000 A"}),
    }
    luminosity = rest["line_luminosity"].sel(line=[TRUE_LINES[name] for name in MEASURED])
    line_flux = luminosity.transpose("galaxy", "line").values * (to_flux * share * stretch[:, 0])[:, None]
    out = rest.drop_dims(["line", "age"]).drop_vars("shift").assign(pixels).assign_coords(line=list(MEASURED))
    out["log_mass"] = galaxies[
        "log_mass"
    ]  # as drawn: the surviving share, which depends on metallicity, left out
    about = {"units": "1e-17 erg / (s cm2)", "long_name": "true flux in the fibre, dimmed by dust"}
    out["true_line_flux"] = (("galaxy", "line"), line_flux.astype("f4"), about)
    text = f"{redshift.size} candidates seen by SDSS (seed {seed})"
    return add_history(out.assign_attrs(survey="SDSS (simulated)", seed=seed), text)


def _blur(flux, lsf, fwhm):
    """Bring spectra from the templates' resolution to the instrument's (variances [pixel^2]) with three pixels."""
    side = 0.5 * np.clip(lsf - _template_variance(fwhm).astype("f4"), 0, None)[:, 1:-1]
    result = flux.copy()
    result[:, 1:-1] += side * (flux[:, :-2] + flux[:, 2:] - 2 * flux[:, 1:-1])
    return result


def _template_variance(fwhm):
    return (fwhm * FWHM_TO_SIGMA / rest_pixels() / (np.log(10) * DLOGLAM)) ** 2


def _typical_lsf(fwhm):
    """Sigma [km/s] of unresolved lines at the sample's median redshift."""
    instrument = lsf_pixels(rest_pixels() * (1 + TYPICAL_REDSHIFT)) ** 2
    return np.sqrt(np.maximum(instrument, _template_variance(fwhm))) * PIXEL_VELOCITY
