"""The spectra of one galaxy of Scourfield (2023, Section 5), rebuilt from its number."""

import json
from functools import lru_cache

import numpy as np
import xarray as xr

from spectool.papers.scourfield2023.sample import TEST_NOISE_SEED, normalize_total
from spectool.parallel import single_thread

# By source of the product of tools/make/scourfield2023_lines.py, which of the shipped models said it.
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
        Its number.
    sample : {"star-forming", "null"}
        Whose metallicities know their star formation, or only their mass.

    Returns
    -------
    xarray.Dataset
        ``flux`` (source, wavelength), normalised, at rest; sources ``"original"``, ``"DESI-like"``, and one for each
        of `MODELS`. NaN in masked pixels of the first two.

    Raises
    ------
    KeyError
        If it is not one of the test galaxies.
    """
    from spectool.models.denoise import denoise
    from spectool.papers.scourfield2023.network import add_desi_noise
    from spectool.papers.scourfield2023.sample import rebuild

    numbers, constant, recipe = _test_galaxies(sample)
    found = np.flatnonzero(numbers == candidate)
    if not found.size:
        raise KeyError(f"galaxy {candidate} is not one of the {numbers.size} test galaxies of {sample!r}")
    galaxy = rebuild([candidate], seed=recipe["seed"], metallicity_sfr=recipe["metallicity_sfr"])
    noise = np.random.default_rng(TEST_NOISE_SEED)
    noise.standard_normal(
        (int(found[0]), galaxy.sizes["wavelength"])
    )  # what the galaxies before it were given
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


@lru_cache(maxsize=4)
def _test_galaxies(sample):
    from spectool.papers.scourfield2023.sample import read_products

    selection = read_products(sample)
    numbers = selection["candidate"].values[selection["split"].values == "test"]
    return numbers, selection.attrs["constant"], json.loads(selection.attrs["recipe"])


@lru_cache(maxsize=4)
def _model(name):
    from spectool.models.store import load_model

    return load_model(name)[0].eval()
