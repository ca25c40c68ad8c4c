"""The mock SDSS main galaxy sample of Zahid et al. (2019): which galaxies, and their spectra.

Of some ten million numbered candidates (`spectool.zahid2019_candidates`) ``tools/select_zahid2019.py`` keeps 200,000
that pass the selection of the paper's Section 3.1, and 50,000 of a null population. The package ships their numbers and
what was measured; spectra are rebuilt from the numbers, or read from a memory map that the tool makes.
"""

from pathlib import Path

import numpy as np
import xarray as xr

from spectool.measure.classes import kauffmann2003
from spectool.measure.ppxf_templates import embedded_grid
from spectool.prepare import add_history
from spectool.scourfield2023_candidates import rebuild_numbers
from spectool.scourfield2023_selection import MAGNITUDE_LIMIT
from spectool.zahid2019_candidates import (
    BLOCK,
    SEED,
    draw_block,
    observe_candidates,
    renew_metals,
)
from spectool.zahid2019_spectra import MemoryMap, open_memmap, to_angstrom

__all__ = [
    "BLOCK",
    "SEED",
    "MemoryMap",
    "open_memmap",
    "read_selection",
    "rebuild",
    "select",
    "write_selection",
]

DATA = Path(__file__).parent / "data"
FILES = {"main": "zahid2019_galaxies.nc", "null": "zahid2019_null.nc"}
STACKS = "zahid2019_stacks.nc"
BINS = "zahid2019_bins.nc"
MASS_RANGE = (8.5, 11.5)
MIN_SN = 5.0
MAX_LOG_N2 = -0.05
STEPS = {"redshift": 1e-5, "age_lw": 0.01, "sn": 0.05, "line_sn": 0.1, "line_flux": 0.1, "r_magnitude": 0.005}
"""Precision of columns in shipped files; see `write_selection`."""
CUTS = (
    "r < 17.77",
    "8.5 < log M < 11.5",
    "Hβ S/N >= 5",
    "Hα S/N >= 5",
    "[N II] 6583 S/N >= 5",
    "star-forming (BPT)",
)


def select(table):
    """Apply the selection of Section 3.1: main galaxies with lines, star-forming after Kauffmann et al. (2003).

    Eq. 4 as the paper prints it, log [OIII]/Hb > 0.61 / (log [NII]/Ha - 0.05) + 1.3, selects active nuclei; galaxies
    *below* the curve are taken here, with log [NII]/Ha < -0.05 (eq. 5). Where [O III] is not detected at all (flux
    not positive), the ratio is below any curve. The redshift range is that of the candidates.

    Parameters
    ----------
    table : Dataset
        ``r_magnitude`` [mag], ``log_mass`` and ``line_flux``, ``line_sn`` (galaxy, line).

    Returns
    -------
    passed : ndarray of bool, shape (galaxy,)
    counts : dict of str to int
        How many each cut leaves, in order.
    """
    flux, sn = (
        {name: table[column].sel(line=name).values for name in table["line"].values}
        for column in ("line_flux", "line_sn")
    )
    log_mass = table["log_mass"].values
    with np.errstate(invalid="ignore", divide="ignore"):
        log_n2 = np.log10(flux["[N II] 6583"] / flux["Hα"])
        log_o3 = np.where(flux["[O III] 5007"] <= 0, -np.inf, np.log10(flux["[O III] 5007"] / flux["Hβ"]))
    steps = (
        table["r_magnitude"].values < MAGNITUDE_LIMIT,
        (log_mass > MASS_RANGE[0]) & (log_mass < MASS_RANGE[1]),
        *(sn[name] >= MIN_SN for name in ("Hβ", "Hα", "[N II] 6583")),
        (log_o3 < kauffmann2003(log_n2)) & (log_n2 < MAX_LOG_N2),
    )
    passed, counts = np.ones(log_mass.size, bool), {}
    for name, step in zip(CUTS, steps, strict=True):
        passed = passed & step
        counts[name] = int(passed.sum())
    return passed, counts


def read_selection(sample="main", *, path=None):
    """The galaxies of a sample: their numbers, and what is known and was measured of them.

    Parameters
    ----------
    sample : {"main", "null"}
        200,000 galaxies whose metallicity falls with star formation at fixed mass, or 50,000 where it does not.
    path : path, optional
        Default: the file that comes with spectool.

    Returns
    -------
    Dataset
        Per galaxy ``candidate``, for `rebuild`, and columns with units.

    Raises
    ------
    ValueError
        If there is no such sample.
    """
    if sample not in FILES:
        raise ValueError(f"no sample {sample!r}; choose from {', '.join(FILES)}")
    return xr.load_dataset(DATA / FILES[sample] if path is None else path, engine="h5netcdf")


def write_selection(sample, path, *, steps=None):
    """Write per-galaxy columns in little space, for `read_selection`: floats as multiples of a step, compressed.

    Parameters
    ----------
    sample : Dataset
        Columns (galaxy, ...); strings are not for this.
    path : path
    steps : dict of str to float, optional
        Precision of a column, in its unit; over `STEPS`, else 0.002.
    """
    encoding = {}
    for name, column in sample.data_vars.items():
        encoding[name] = {"zlib": True, "complevel": 9, "shuffle": True}
        if column.dtype.kind == "f":
            step = (STEPS | (steps or {})).get(name, 0.002)
            largest = float(np.nanmax(np.abs(column.values), initial=0.0)) / step
            kind, fill = ("i2", -(2**15)) if largest < 2**15 - 1 else ("i4", -(2**31))
            encoding[name] |= {"dtype": kind, "scale_factor": step, "_FillValue": fill}
    sample.to_netcdf(path, engine="h5netcdf", encoding=encoding)


def read_stacks(path=None):
    """Mean spectra of the main sample in 25 bins of mass, and what was measured of them.

    Parameters
    ----------
    path : path, optional
        Default: the file that comes with spectool.

    Returns
    -------
    Dataset, dims (stack, wavelength)
        As of `spectool.zahid2019_stacks.StackSums.to_dataset`; per stack ``spectral_fwhm`` [km/s], of its lines, and
        from a fit with pPXF ``ppxf_log_z_lw``, its error, ``ppxf_age_lw`` and ``ppxf_fit_seconds``.
    """
    return xr.load_dataset(DATA / STACKS if path is None else path, engine="h5netcdf")


def read_bins(path=None):
    """Mean spectra in 15 x 10 bins of equal numbers in mass and then star-formation rate, prepared for the networks.

    Parameters
    ----------
    path : path, optional
        Default: the file that comes with spectool.

    Returns
    -------
    dict of str to Dataset
        "main" and "null": ``flux`` (galaxy, wavelength) as of `spectool.continuum.prepare_zahid2019`, in order of mass
        and then of rate; medians ``log_mass`` and ``log_sfr``; ``log_z_light``, the bin's true metallicity weighted by
        light; ``count``.
    """
    product = xr.load_dataset(DATA / BINS if path is None else path, engine="h5netcdf")
    return {
        name: product.sel(sample=key, drop=True) for name, key in (("main", "galaxies"), ("null", "null"))
    }


def rebuild(ids, *, null=False, seed=SEED, keep_truth=True, progress=False, batch_size=512):
    """Spectra of candidates by their numbers, in the order asked for.

    Any galaxy comes out the same whichever others are asked for with it, its noise included (to the rounding of
    float32). Galaxies of one block (4096 numbers) are quickest together.

    Parameters
    ----------
    ids : array_like of int
        block * 4096 + row.
    null : bool
        Those of the null sample (other galaxies under the same numbers).
    seed : int
    keep_truth : bool
        Keep the noise-free spectrum, ``truth``.
    progress : bool
    batch_size : int
        Galaxies synthesized at once.

    Returns
    -------
    Dataset
        On `spectool.continuum_basis.stack_wavelength` (3700-7360 A, 1 A), at rest: ``flux``, ``truth``
        [1e-17 erg/s/cm2/A], ``ivar``, ``mask``, ``true_line_flux`` (galaxy, line) and all columns of the candidates;
        see `spectool.zahid2019_spectra.to_angstrom`.

    Raises
    ------
    ValueError
        If there is no number or one is negative.
    """
    grid = embedded_grid()

    def draw(block):
        return draw_block(block, seed=seed, null=null, grid=grid)

    def observe(galaxies):
        galaxies = renew_metals(galaxies, seed=seed) if null else galaxies
        seen = to_angstrom(observe_candidates(galaxies, seed=seed, grid=grid))
        return seen if keep_truth else seen.drop_vars("truth")

    whole = rebuild_numbers(ids, draw, observe, progress=progress, batch_size=batch_size)
    sample, masked = "null" if null else "main", whole["mask"].values.mean()
    text = f"{whole.sizes['galaxy']} candidates of the {sample} sample rebuilt (seed {seed}), {masked:.2%} masked"
    return add_history(whole, text)
