"""The sample of Scourfield et al. (2023) as it was: real SDSS spectra, chosen by MPA-JHU's H-alpha fluxes.

`read_real_scourfield2023` stands where `spectool.scourfield2023.make_scourfield2023` stands for mocks. It needs a
network the first time; nothing here is asked for unless it is called.
"""

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from spectool.denoising import normalize_total, scourfield2023_wavelength
from spectool.measure.classes import BPT_LINES, CLASSES, kewley2001, log_ratio
from spectool.prepare import (
    add_history,
    correct_extinction,
    mask_bad_pixels,
    mask_sky_lines,
    resample,
    to_rest_frame,
)
from spectool.surveys.mpa_jhu import query_catalogue
from spectool.surveys.sdss_real import fetch_usable, join_spectra

SAMPLES = {"uniform": (0.2, 3.4, False), "star-forming": (1.4, 3.2, True)}
"""Name -> range of log10 H-alpha flux [1e-17 erg/s/cm2] in ten bins, and whether star-forming only."""

TEST_SHARE = 0.2
MIN_SN = 3.0
"""Of H-alpha and H-beta in emission, and of Balmer absorption (Lick's H-delta A), for the classes."""
SFD_TO_SF = 0.86
"""E(B-V) of Schlafly & Finkbeiner (2011, ApJ 737, 103) over that of Schlegel et al. (1998), which MPA-JHU give."""


def read_real_scourfield2023(
    sample="uniform",
    *,
    split=None,
    n=None,
    cache=True,
    progress=True,
    n_per_bin=1000,
    constant=None,
    seed=2023,
    batch_size=256,
    catalogue_options=None,
    archive_options=None,
):
    """Real spectra prepared as Scourfield et al. (2023, Sections 2 and 5) prepared them.

    Galaxies at 0.024 < z < 0.05 of SDSS DR7, a number from each bin of H-alpha flux; sky lines masked, the Milky Way's
    dust taken out, in the rest frame, on 825 bins, divided by summed flux times the mock's constant.

    Parameters
    ----------
    sample : {"uniform", "star-forming"}
    split : {"train", "test"}, optional
        Default: both. A fifth is for tests.
    n : int, optional
        Only the first n (they are in random order); only theirs are fetched.
    cache : bool or path
        Where spectra and tables are kept; True: the user's cache, as told by ``pooch``. They are always kept.
    progress : bool
    n_per_bin : int
        Galaxies per bin; the paper has 1,000, which are some 1.6 GB of files.
    constant : float, optional
        Of `spectool.denoising.normalize_total`; default that of the mock of the same name, with which the shipped
        models were trained.
    seed : int
        Chooses galaxies, their order and the split.
    batch_size : int
        Spectra in memory at full resolution.
    catalogue_options, archive_options : dict, optional
        Of `spectool.surveys.mpa_jhu.query_catalogue` and `spectool.surveys.sdss_archive.fetch_spectra`.

    Returns
    -------
    Dataset
        ``flux``, ``ivar``, ``mask`` (galaxy, 825) without unit, ``norm``; ``candidate`` (specObjID),
        ``spectral_class``, ``split``, ``h_alpha_flux``, ``h_alpha_bin``, ``redshift``, ``log_mass``, ``log_sfr`` and
        MPA-JHU's other columns and lines. There is no ``truth``: real galaxies have none.

    Raises
    ------
    ConnectionError
        If SDSS cannot be reached and the cache does not hold what is needed.
    ValueError
        If there is no such sample or split.
    """
    if sample not in SAMPLES:
        raise ValueError(f"no sample {sample!r}; choose from {', '.join(SAMPLES)}")
    if split not in (None, "train", "test"):
        raise ValueError(f"split is 'train', 'test' or None, not {split!r}")
    low, high, star_forming = SAMPLES[sample]
    if constant is None:
        from spectool.scourfield2023 import read_selection

        constant = read_selection(sample).attrs["constant"]
    folder = None if isinstance(cache, bool) else cache
    common = {"cache": folder, "progress": progress}
    catalogue = query_catalogue(
        n_per_bin,
        h_alpha_edges=10 ** np.linspace(low, high, 11),
        star_forming=star_forming,
        seed=seed,
        **common,
        **(catalogue_options or {}),
    )
    catalogue = _shuffle(_with_classes(catalogue), seed)
    if split is not None:
        catalogue = catalogue.isel(galaxy=np.flatnonzero(catalogue["split"].values == split))
    catalogue, paths = fetch_usable(catalogue.isel(galaxy=slice(n)), **common, **(archive_options or {}))
    parts, size = [], catalogue.sizes["galaxy"]
    for first in tqdm(range(0, size, batch_size), desc="preparing", unit="batch", disable=not progress):
        part = slice(first, first + batch_size)
        parts.append(_prepare(join_spectra(catalogue.isel(galaxy=part), paths[part])))
    how = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
    whole = xr.concat(parts, "galaxy", combine_attrs="override", **how)
    masked = whole["mask"].values.mean()
    told = (
        f"{size} real spectra at rest on {whole.sizes['wavelength']} bins, {masked:.2%} of the pixels masked"
    )
    return normalize_total(
        add_history(whole.assign_attrs(history=catalogue.attrs["history"]), told), constant=constant
    )


def _prepare(spectra):
    """Observed spectra at rest, without the Milky Way's dust, on the paper's bins."""
    clean = mask_sky_lines(mask_bad_pixels(spectra))
    clean = correct_extinction(clean, ebv=SFD_TO_SF * clean["ebv"].fillna(0).values)
    return resample(to_rest_frame(clean), scourfield2023_wavelength())


def _with_classes(catalogue):
    """The five classes by the paper's rules, from MPA-JHU's lines; quasars (broad-line AGN) are SDSS's."""
    flux = {line: catalogue["line_flux"].sel(line=line).values for line in BPT_LINES}
    sn = {line: catalogue["line_sn"].sel(line=line).values for line in BPT_LINES}
    log_n2, log_o3 = log_ratio(flux["[N II] 6583"], flux["Hα"]), log_ratio(flux["[O III] 5007"], flux["Hβ"])
    with np.errstate(invalid="ignore", divide="ignore"):
        absorption = (catalogue["lick_hd_a"] / catalogue["lick_hd_a_error"]).values > MIN_SN
        emission = (sn["Hα"] > MIN_SN) & (sn["Hβ"] > MIN_SN)
        active = emission & (log_o3 > kewley2001(log_n2))
    emitting, absorbing, quiescent, narrow, broad = CLASSES
    name = np.where(absorption, absorbing, quiescent).astype("<U20")
    name[emission] = emitting
    name[active] = narrow
    name[catalogue["sdss_class"].values == "QSO"] = broad
    return catalogue.assign(spectral_class=("galaxy", name, {"units": ""}))


def _shuffle(catalogue, seed):
    """Galaxies in random order, a fifth of them for tests."""
    size = catalogue.sizes["galaxy"]
    order = np.random.default_rng([seed, 1]).permutation(size)
    split = np.where(np.arange(size) < round(TEST_SHARE * size), "test", "train")
    split = split[np.random.default_rng([seed, 2]).permutation(size)]
    columns = {"split": ("galaxy", split, {"units": ""})}
    shuffled = catalogue.isel(galaxy=order).assign(columns)
    return shuffled.assign(candidate=("galaxy", shuffled["specobjid"].values, {"units": ""}))
