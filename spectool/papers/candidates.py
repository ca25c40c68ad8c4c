"""Numbered candidates of mock samples: drawn in blocks, so that each is rebuilt from its number when it is needed."""

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from spectool.spectra import AB_CGS, ANGSTROM_S
from spectool.surveys.spectrograph import luminosity_to_flux
from spectool.synth.agn import add_agn, draw_agn
from spectool.synth.nebular import mend_low_ionisation
from spectool.synth.population import concatenate, draw_population
from spectool.synth.synthesis import synthesize

BLOCK = 4096
FIBRE_FRACTION, FIBRE_SCATTER = 0.3, 0.15
"""Median share of a galaxy's light in the 3" fibre (Brinchmann et al. 2004, MNRAS 351, 1151), scatter in dex."""
R_BAND = (5500.0, 7000.0)
POPULATION, AGN, FIBRE, NOISE, METALS = range(5)
"""Streams of random numbers; screening and selection have later ones."""
# Names of spectool.spectra.LINES and those of the Cloudy grid.
TRUE_LINES = {"[O II] 3726": "O 2 3726", "[O II] 3729": "O 2 3729", "Hδ": "H 1 4102", "Hγ": "H 1 4340"}
TRUE_LINES |= {"[O III] 4363": "O 3 4363", "Hβ": "H 1 4861", "[O III] 4959": "O 3 4959"}
TRUE_LINES |= {"[O III] 5007": "O 3 5007", "[O I]": "O 1 6300", "[N II] 6548": "N 2 6548", "Hα": "H 1 6563"}
TRUE_LINES |= {"[N II] 6583": "N 2 6583", "[S II] 6716": "S 2 6716", "[S II] 6731": "S 2 6731"}


def draw_numbered(block, *, seed, grid, **population):
    """The 4096 galaxies of one block, with nuclei, numbers and fibre fractions; options of `draw_population`."""
    rng = np.random.default_rng([seed, block, POPULATION])
    galaxies = draw_population(BLOCK, grid_age=grid.age, seed=rng, **population)
    galaxies = draw_agn(galaxies, seed=[seed, block, AGN]).rename(spectral_class="population_class")
    scatter = np.random.default_rng([seed, block, FIBRE]).standard_normal(BLOCK)
    share = np.clip(FIBRE_FRACTION * 10 ** (FIBRE_SCATTER * scatter), 0.05, 1.0)
    units = {"units": "", "long_name": "share of the light in the fibre"}
    return galaxies.assign(
        fibre_fraction=("galaxy", share, units),
        candidate=("galaxy", block * BLOCK + np.arange(BLOCK), {"units": ""}),
    )


def synthesize_candidates(galaxies, grid, wavelength):
    """Spectra at rest with nuclei, as luminosities, with ``r_magnitude`` of the stars and gas of the whole galaxy."""
    rest = synthesize(galaxies, grid, wavelength=wavelength, keep_lines=True, progress=False)
    about = {"units": "mag", "long_name": "whole galaxy, AB, 5500-7000 A"}
    magnitude = ("galaxy", r_magnitude(rest), about)
    rest = add_agn(mend_low_ionisation(rest), fibre_fraction=galaxies["fibre_fraction"].values)
    return rest.assign(r_magnitude=magnitude)


def r_magnitude(sample):
    """AB magnitude of whole galaxies in a flat band at 5500-7000 A, SDSS's r to some 0.05 mag."""
    redshift = sample["redshift"].values
    wavelength, flux = sample["wavelength"].values, sample["flux"].values
    width = np.gradient(wavelength)
    seen = wavelength * (1 + redshift[:, None])
    inside = (seen > R_BAND[0]) & (seen < R_BAND[1])
    photons = (flux * inside * wavelength * width).sum(axis=1)
    # A flat spectrum of AB magnitude 0 has c / lambda^2 times the zero point, in 1e-17 erg/s/cm2/A.
    reference = (inside * width / wavelength).sum(axis=1) / (1 + redshift) ** 2 * AB_CGS * ANGSTROM_S / 1e-17
    return -2.5 * np.log10(photons * luminosity_to_flux(redshift) / reference)


def true_line_flux(rest, lines, to_flux):
    """Fluxes (galaxy, line) of narrow lines [1e-17 erg/s/cm2], by their luminosities and a factor per galaxy."""
    luminosity = rest["line_luminosity"].sel(line=[TRUE_LINES[name] for name in lines])
    values = (luminosity.transpose("galaxy", "line").values * to_flux[:, None]).astype("f4")
    about = {"units": "1e-17 erg / (s cm2)", "long_name": "true flux in the fibre, dimmed by dust"}
    wavelength = ("line", luminosity["line_wavelength"].values, {"units": "Angstrom"})
    coords = {"line": list(lines), "line_wavelength": wavelength}
    return xr.DataArray(values, coords, ("galaxy", "line"), attrs=about)


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
