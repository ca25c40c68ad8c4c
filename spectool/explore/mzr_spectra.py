"""The spectra of one galaxy of Scourfield (2023, Section 5), rebuilt from its number."""

import xarray as xr

from spectool.explore.latent_state import single_thread

MODEL = "scourfield2023_mzr_vae6"


def rebuild_scourfield2023(candidate):
    """Rebuild a galaxy as SDSS and DESI would see it, and de-noise the latter.

    Parameters
    ----------
    candidate : int
        Its number in the selection.

    Returns
    -------
    xarray.Dataset
        ``flux`` (source, wavelength), normalised, at rest; sources ``"original"``, ``"DESI-like"`` and
        ``"de-noised"``.
    """
    from spectool.denoising import normalize_total
    from spectool.models.denoise import denoise
    from spectool.models.store import load_model
    from spectool.scourfield2023 import rebuild
    from spectool.scourfield2023_selection import read_selection
    from spectool.surveys.desi import observe_desi_like

    constant = read_selection("star-forming").attrs["constant"]
    galaxy = rebuild([candidate])
    original = normalize_total(galaxy, constant=constant)
    noisy = normalize_total(observe_desi_like(galaxy), constant=constant)
    with single_thread():
        clean = denoise(load_model(MODEL)[0], noisy, variable="flux")
    versions = {"original": original, "DESI-like": noisy, "de-noised": clean}
    flux = xr.concat([v["flux"].isel(galaxy=0, drop=True) for v in versions.values()], "source")
    return xr.Dataset({"flux": flux.assign_coords(source=list(versions))})
