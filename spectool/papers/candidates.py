"""Candidates of the mock SDSS sample of Scourfield et al. (2023), by number: each is rebuilt when it is needed."""

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from spectool.papers.scourfield2023.spectra import scourfield2023_wavelength
from spectool.prepare import add_history, resample, to_rest_frame
from spectool.spectra import AB_CGS, ANGSTROM_S, pixel_edges, rebin_common
from spectool.surveys.sdss import luminosity_to_flux, observe_sdss, sdss_wavelength
from spectool.synth.agn import add_agn, draw_agn
from spectool.synth.grid import embedded_grid
from spectool.synth.nebular import mend_low_ionisation
from spectool.synth.population import draw_population
from spectool.synth.synthesis import synthesize

SEED = 2023
BLOCK = 4096
REDSHIFT_RANGE = (0.024, 0.05)
FIRST_PIXEL = 3800.0
"""Observed wavelength [Angstrom] where SDSS spectra begin: bluer pixels are masked (the bluest at z < 0.027)."""
FIBRE_FRACTION, FIBRE_SCATTER = 0.3, 0.15
"""Median share of a galaxy's light in the 3" fibre (Brinchmann et al. 2004, MNRAS 351, 1151), scatter in dex."""

_POPULATION, _AGN, _FIBRE, _NOISE = range(4)  # streams of random numbers
_R_BAND = (5500.0, 7000.0)
_OBSERVED = (3770.0, 8330.0)
_REST = (3640.0, 8020.0)
# Names of spectool.spectra.LINES and those of the Cloudy grid.
TRUE_LINES = {
    "[O II] 3726": "O 2 3726",
    "[O II] 3729": "O 2 3729",
    "Hδ": "H 1 4102",
    "Hγ": "H 1 4340",
    "[O III] 4363": "O 3 4363",
    "Hβ": "H 1 4861",
    "[O III] 4959": "O 3 4959",
    "[O III] 5007": "O 3 5007",
    "[O I]": "O 1 6300",
    "[N II] 6548": "N 2 6548",
    "Hα": "H 1 6563",
    "[N II] 6583": "N 2 6583",
    "[S II] 6716": "S 2 6716",
    "[S II] 6731": "S 2 6731",
}


def draw_block(block, *, seed=SEED, metallicity_sfr=True, grid=None):
    """The 4096 candidates of one block: population, nuclei and fibre fractions."""
    grid = grid or embedded_grid()
    rng = np.random.default_rng([seed, block, _POPULATION])
    galaxies = draw_population(
        BLOCK, grid_age=grid.age, seed=rng, redshift_range=REDSHIFT_RANGE, metallicity_sfr=metallicity_sfr
    )
    galaxies = draw_agn(galaxies, seed=[seed, block, _AGN]).rename(spectral_class="population_class")
    return number_block(galaxies, block, seed=seed)


def number_block(galaxies, block, *, seed):
    """Give the galaxies of a block their numbers and fibre fractions."""
    scatter = np.random.default_rng([seed, block, _FIBRE]).standard_normal(BLOCK)
    share = np.clip(FIBRE_FRACTION * 10 ** (FIBRE_SCATTER * scatter), 0.05, 1.0)
    units = {"units": "", "long_name": "share of the light in the fibre"}
    return galaxies.assign(
        fibre_fraction=("galaxy", share, units),
        candidate=("galaxy", block * BLOCK + np.arange(BLOCK), {"units": ""}),
    )


def observe_candidates(galaxies, *, seed=SEED, grid=None):
    """Synthesize candidates and see them as SDSS does, at rest on the paper's 825 bins."""
    grid = grid or embedded_grid()
    native = grid.wavelength[(grid.wavelength > _REST[0]) & (grid.wavelength < _REST[1])]
    rest = synthesize(galaxies, grid, wavelength=native, keep_lines=True, progress=False)
    redshift, share = galaxies["redshift"].values, galaxies["fibre_fraction"].values
    to_flux = luminosity_to_flux(redshift)
    magnitude = r_magnitude(rest, to_flux)
    rest = add_agn(mend_low_ionisation(rest), fibre_fraction=share)
    numbers = galaxies["candidate"].values
    seeds = np.stack([np.full_like(numbers, seed), np.full_like(numbers, _NOISE), numbers], axis=1)
    seen = observe_sdss(
        rest, seed=seeds, wavelength=sdss_wavelength(*_OBSERVED), fibre_fraction=share, keep_truth=True
    )
    bins, pixels = scourfield2023_wavelength(), ("galaxy", "wavelength")
    stretch = 1 + redshift[:, None]
    observed = seen["observed_wavelength"].values
    truth, _ = rebin_common(seen["truth"].values, pixel_edges(observed), pixel_edges(bins) * stretch)
    mask = seen["mask"].values | (observed < FIRST_PIXEL)
    seen = seen.drop_vars("truth").assign(mask=(pixels, mask, seen["mask"].attrs))
    out = resample(to_rest_frame(seen), bins)
    about = {"units": out["flux"].attrs["units"], "long_name": "flux without noise"}
    out["truth"] = (pixels, (truth * stretch).astype("f4"), about)
    out["r_magnitude"] = ("galaxy", magnitude, {"units": "mag", "long_name": "whole galaxy, AB, 5500-7000 A"})
    line_flux = to_flux * (1 + redshift) * share
    return _name_lines(out, line_flux).drop_vars(["mass_formed", "age"])


def r_magnitude(sample, to_flux=None):
    """AB magnitude of whole galaxies in a flat band at 5500-7000 A, SDSS's r to some 0.05 mag."""
    redshift = sample["redshift"].values
    to_flux = luminosity_to_flux(redshift) if to_flux is None else to_flux
    wavelength, flux = sample["wavelength"].values, sample["flux"].values
    width = np.gradient(wavelength)
    seen = wavelength * (1 + redshift[:, None])
    inside = (seen > _R_BAND[0]) & (seen < _R_BAND[1])
    photons = (flux * inside * wavelength * width).sum(axis=1)
    # A flat spectrum of 3631 Jy has c / lambda^2 times that, in 1e-17 erg/s/cm2/A.
    reference = (inside * width / wavelength).sum(axis=1) / (1 + redshift) ** 2 * AB_CGS * ANGSTROM_S / 1e-17
    return -2.5 * np.log10(photons * to_flux / reference)


def _name_lines(sample, to_flux):
    """Replace ``line_luminosity`` of all lines by the fluxes in the fibre of those that are measured."""
    luminosity = sample["line_luminosity"].sel(line=list(TRUE_LINES.values()))
    where = luminosity["line_wavelength"].values
    out = sample.drop_dims("line").assign_coords(
        line=("line", list(TRUE_LINES)), line_wavelength=("line", where, {"units": "Angstrom"})
    )
    values = (luminosity.transpose("galaxy", "line").values * to_flux[:, None]).astype("f4")
    about = {
        "units": "1e-17 erg / (s cm2)",
        "long_name": "true flux in the fibre, narrow lines, dimmed by dust",
    }
    return out.assign(true_line_flux=(("galaxy", "line"), values, about))


def rebuild(ids, *, seed=SEED, progress=False, keep_truth=True, metallicity_sfr=True, batch_size=512):
    """Candidates by their numbers, in the order asked for.

    Any galaxy comes out the same whichever others are asked for with it, its noise included (to the rounding of
    float32).

    Parameters
    ----------
    ids : array_like of int
        block * 4096 + row.
    seed : int
    progress : bool
    keep_truth : bool
        Keep ``truth``.
    metallicity_sfr : bool
        With False, the candidates of the null test (other galaxies under the same numbers).
    batch_size : int
        Galaxies in memory at full resolution; does not change the result.

    Returns
    -------
    Dataset
        On the paper's bins, at rest (a line's flux is the observed one): ``flux`` [1e-17 erg/s/cm2/A], ``ivar``,
        ``mask``, ``truth`` (without noise, through the same optics; not masked), ``true_line_flux`` (galaxy, line)
        [1e-17 erg/s/cm2] in the fibre, after dust; ``candidate``, ``fibre_fraction``, ``r_magnitude``,
        ``population_class``, ``agn_*`` and the columns of `draw_population` and `synthesize`.

    Raises
    ------
    ValueError
        If there is no number or one is negative.
    """
    grid = embedded_grid()

    def draw(block):
        return draw_block(block, seed=seed, metallicity_sfr=metallicity_sfr, grid=grid)

    def observe(galaxies):
        seen = observe_candidates(galaxies, seed=seed, grid=grid)
        return seen if keep_truth else seen.drop_vars("truth")

    whole = rebuild_numbers(ids, draw, observe, progress=progress, batch_size=batch_size)
    text = f"{whole.sizes['galaxy']} candidates rebuilt (seed {seed}), {whole['mask'].values.mean():.2%} of the pixels"
    return add_history(whole.assign_attrs(seed=seed), f"{text} masked")


def rebuild_numbers(ids, draw, observe, *, progress=False, batch_size=512):
    """Draw and observe candidates by their numbers: those of a block together, in the order asked for."""
    ids = np.atleast_1d(np.asarray(ids, dtype=np.int64))
    if not ids.size or ids.min() < 0:
        raise ValueError("give the numbers of the candidates to rebuild, each 0 or more")
    wanted, back = np.unique(ids, return_inverse=True)
    parts, waiting = [], []
    blocks = np.unique(wanted // BLOCK)
    with tqdm(total=wanted.size, desc="rebuilding", unit="galaxy", disable=not progress) as bar:
        for block in blocks:
            waiting.append(draw(int(block)).isel(galaxy=wanted[wanted // BLOCK == block] % BLOCK))
            if block != blocks[-1] and sum(some.sizes["galaxy"] for some in waiting) < batch_size:
                continue
            galaxies, waiting = concatenate(waiting), []
            for first in range(0, galaxies.sizes["galaxy"], batch_size):
                some = galaxies.isel(galaxy=slice(first, first + batch_size))
                parts.append(observe(some))
                bar.update(some.sizes["galaxy"])
    whole = concatenate(parts)
    whole = whole.isel(galaxy=back) if not np.array_equal(back, np.arange(back.size)) else whole
    return whole.assign_attrs(parts[0].attrs, history="")


def concatenate(parts):
    """Datasets of different galaxies, one after the other; what does not belong to galaxies is the first one's."""
    how = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
    return parts[0] if len(parts) == 1 else xr.concat(parts, "galaxy", **how)
