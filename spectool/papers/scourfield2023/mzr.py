"""What the mass-metallicity dashboard shows of this paper: measured test galaxies, and their spectra."""

import json
from functools import cache, partial

import numpy as np
import xarray as xr

from spectool.models.denoise import denoise
from spectool.models.store import load_model
from spectool.papers.scourfield2023.network import add_desi_noise
from spectool.papers.scourfield2023.sample import (
    TEST_NOISE_SEED,
    normalize_total,
    read_lines,
    read_products,
    rebuild,
)
from spectool.parallel import single_thread

# By source of the product of tools/make/scourfield2023_lines.py, which of the shipped models de-noised it.
MODELS = {
    "star-forming": {
        "de-noised": "scourfield2023_mzr_vae6",
        "de-noised, other training": "scourfield2023_null_vae6",
        "noise-aware": "scourfield2023_noise_aware",
    },
    "null": {
        "de-noised": "scourfield2023_null_vae6",
        "de-noised, other training": "scourfield2023_mzr_vae6",
        "noise-aware": "scourfield2023_noise_aware",
    },
}


def rebuild_galaxy(candidate, sample="star-forming"):
    """Rebuild a test galaxy as SDSS and DESI would see it, and de-noise the latter.

    The noise is that of the shipped table: the galaxy's row of one draw for the whole test set.

    Parameters
    ----------
    candidate : int
        Its number; KeyError if it is not one of the test galaxies.
    sample : {"star-forming", "null"}
        Whose metallicities know their star formation, or only their mass.

    Returns
    -------
    xarray.Dataset
        ``flux`` (source, wavelength), normalised, at rest; sources ``"original"``, ``"DESI-like"``, and one for each
        of `MODELS`. NaN in masked pixels of the first two.
    """
    numbers, constant, recipe = _test_galaxies(sample)
    rows = np.flatnonzero(numbers == candidate)
    if not rows.size:
        raise KeyError(f"galaxy {candidate} is not one of the {numbers.size} test galaxies of {sample!r}")
    galaxy = rebuild([candidate], seed=recipe["seed"], metallicity_sfr=recipe["metallicity_sfr"])
    noise = np.random.default_rng(TEST_NOISE_SEED)
    noise.standard_normal((int(rows[0]), galaxy.sizes["wavelength"]))  # what those before it were given
    galaxy = add_desi_noise(normalize_total(galaxy, constant=constant), seed=noise)
    good = ~galaxy["mask"].isel(galaxy=0, drop=True)
    flux = {
        "original": galaxy["flux"].isel(galaxy=0, drop=True).where(good),
        "DESI-like": galaxy["noisy"].isel(galaxy=0, drop=True).where(good),
    }
    with single_thread():
        for source, model in MODELS[sample].items():
            flux[source] = denoise(_model(model), galaxy)["flux"].isel(galaxy=0, drop=True)
    joined = xr.concat(list(flux.values()), "source", coords="minimal", compat="override")
    return xr.Dataset({"flux": joined.assign_coords(source=list(flux))})


@cache
def _test_galaxies(sample):
    selection = read_products(sample)
    numbers = selection["candidate"].values[selection["split"].values == "test"]
    return numbers, selection.attrs["constant"], json.loads(selection.attrs["recipe"])


@cache
def _model(name):
    return load_model(name)[0].eval()


SAMPLES = {
    "scourfield2023": (read_lines, rebuild_galaxy),
    "scourfield2023 null": (partial(read_lines, "null"), partial(rebuild_galaxy, sample="null")),
}
"""Key -> how its samples are read, by name, and how the spectra of a galaxy are rebuilt from its number."""
