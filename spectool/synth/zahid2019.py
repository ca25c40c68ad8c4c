"""Training spectra by the recipe of Zahid et al. (2019, Section 3.2), and held-out ones that it never makes.

A training galaxy formed stars at a constant rate in five intervals of equal light; four have one metallicity, the
fifth another. So 21 durations x 5 intervals x 21 metallicities = 2,205 spectra are synthesized, and the 46,305 are sums
of these.
"""

import json

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from spectool.continuum_basis import ContinuumBasis, normalize_continuum, zahid2019_wavelength
from spectool.synth import sfh
from spectool.synth.common_resolution import smooth_ssps
from spectool.synth.grid import SSPGrid
from spectool.synth.zahid2019_histories import (
    N_INTERVALS,
    Z_SUN,
    check_ages,
    clip_metallicity,
    draw_histories,
    durations,
    equal_light_intervals,
    label_histories,
    make_labels,
    metallicities,
    metallicity_operator,
    optical_light,
)

FWHM = 330.0
HELDOUT_SEED = 20190
"""Of the held-out histories that training is stopped on and errors are calibrated on."""
HELDOUT_TEST_SEED = 20191
"""Of those that results are stated for, and nothing is chosen by."""
_ROWS = ("duration_index", "metallicity_index", "interval_index", "varied_index")


def training_table():
    """Which galaxies the training set has: 46,305 rows of numbers in `durations`, `metallicities` and the intervals.

    Returns
    -------
    Dataset
        Per galaxy ``duration_index`` (0-20), ``metallicity_index`` (0-20, of four intervals), ``interval_index`` (0-4,
        youngest first) and ``varied_index`` (0-20, the metallicity of that interval), in this order of loops.
    """
    sizes = (durations().size, metallicities().size, N_INTERVALS, metallicities().size)
    numbers = np.indices(sizes, dtype="i2").reshape(len(sizes), -1)
    return xr.Dataset(
        {name: ("galaxy", row, {"units": ""}) for name, row in zip(_ROWS, numbers, strict=True)}
    )


def make_basis(grid, *, wavelength=None, fwhm=FWHM):
    """Spectra of each duration's five intervals at each metallicity.

    Parameters
    ----------
    grid : SSPGrid
    wavelength : array_like, shape (n,), optional
        Vacuum, rest frame [Angstrom]; default `zahid2019_wavelength`.
    fwhm : float
        Total resolution [km/s].

    Returns
    -------
    Dataset
        ``flux`` (duration, interval, metallicity, wavelength) float32 [Lsun / Angstrom], per solar mass formed over the
        whole duration; ``light`` in 4050-7300 Angstrom [Lsun] and ``log_age``, the mean log age weighted by it
        [dex(Gyr)], both (duration, interval, metallicity); ``edges`` (duration, edge) [Gyr] of the intervals.

    Raises
    ------
    ValueError
        If the grid does not cover the wavelengths or ages, or its resolution is too low.
    """
    check_ages(grid)
    wavelength = zahid2019_wavelength() if wavelength is None else np.asarray(wavelength, float)
    edges = equal_light_intervals(grid)
    start, end = edges[:, 1:].ravel() * 1e9, edges[:, :-1].ravel() * 1e9
    share = (np.diff(edges, axis=1) / durations()[:, None]).reshape(-1, 1)
    mass = sfh.constant(grid.age_edges, start, end) * share
    mixing = metallicity_operator(metallicities(), grid)
    light = np.einsum("da,mz,za->dma", mass, mixing, optical_light(grid))
    log_age = light @ np.log10(grid.age / 1e9) / light.sum(2)
    ssps = torch.from_numpy(np.tensordot(mixing, smooth_ssps(grid, wavelength, fwhm), 1))
    flux = torch.matmul(torch.from_numpy(mass.astype("f4"))[None], ssps).transpose(0, 1).contiguous().numpy()
    dims, shape = ("duration", "interval", "metallicity"), (len(edges), N_INTERVALS, len(mixing))
    return xr.Dataset(
        {
            "flux": ((*dims, "wavelength"), flux.reshape(*shape, -1), {"units": "Lsun / Angstrom"}),
            "light": (dims, light.sum(2).reshape(shape), {"units": "Lsun"}),
            "log_age": (dims, log_age.reshape(shape), {"units": "dex(Gyr)"}),
            "edges": (("duration", "edge"), edges, {"units": "Gyr", "long_name": "lookback time"}),
        },
        coords={
            "duration": ("duration", durations(), {"units": "Gyr"}),
            "metallicity": (
                "metallicity",
                clip_metallicity(metallicities(), grid),
                {"units": "dex", "z_sun": Z_SUN},
            ),
            "wavelength": (
                "wavelength",
                wavelength,
                {"units": "Angstrom", "description": "vacuum, rest frame"},
            ),
        },
        attrs={"ssp_grid": json.dumps(grid.provenance), "fwhm_kms": float(fwhm), "z_sun": Z_SUN},
    )


def compose(basis, table):
    """Training galaxies as sums of the basis: four intervals of one metallicity and one of another.

    Parameters
    ----------
    basis : Dataset
        As of `make_basis`.
    table : Dataset
        Rows of `training_table`.

    Returns
    -------
    Dataset
        ``flux`` (galaxy, wavelength) float32, the labels of `label_galaxies`, and the table's columns.
    """
    dims = ("galaxy", "wavelength")
    flux = _Composer(basis)(table)
    return table.assign(
        flux=(dims, flux, dict(basis["flux"].attrs)), **label_galaxies(basis, table)
    ).assign_coords(wavelength=basis["wavelength"])


def label_galaxies(basis, table):
    """Labels of training galaxies.

    Parameters
    ----------
    basis, table
        As of `compose`.

    Returns
    -------
    dict of str to (dims, ndarray, attrs)
        Those of `label_histories`.
    """
    duration, base, interval, varied = (table[name].values.astype(int) for name in _ROWS)
    metallicity = np.repeat(base[:, None], N_INTERVALS, axis=1)
    metallicity[np.arange(len(metallicity)), interval] = varied
    place = (duration[:, None], np.arange(N_INTERVALS), metallicity)
    light = basis["light"].values[place]
    log_z = basis["metallicity"].values[metallicity]
    return make_labels(light, light * log_z, light * basis["log_age"].values[place])


class _Composer:
    """Sums of basis spectra, batch by batch."""

    def __init__(self, basis):
        self._parts = torch.from_numpy(basis["flux"].values)
        self._whole = self._parts.sum(1)

    def __call__(self, table):
        duration, metallicity, interval, varied = (
            torch.from_numpy(table[name].values.astype("i8")) for name in _ROWS
        )
        flux = self._whole[duration, metallicity]
        flux -= self._parts[duration, interval, metallicity]
        flux += self._parts[duration, interval, varied]
        return flux.numpy()


def make_training_set(grid=None, *, table=None, fwhm=FWHM, dtype="float16", batch_size=512, progress=False):
    """The training set of the paper as its network takes it: 46,305 prepared spectra with their labels.

    Composed, continuum-normalised (Section 4) and kept batch by batch: the spectra themselves are never all in memory.

    Parameters
    ----------
    grid : SSPGrid, optional
        Default: the embedded one. The paper's is FSPS: `SSPGrid.from_fsps`.
    table : Dataset, optional
        Rows of `training_table`; default: all.
    fwhm : float
        Resolution [km/s].
    dtype : str
        Of the result; float16 takes 229 MB and is good to 5e-4 of a feature's depth.
    batch_size : int
    progress : bool

    Returns
    -------
    Dataset
        ``flux`` (galaxy, wavelength: 2468), the continuum divided out and 1 subtracted; ``log_z_lw`` [dex, Zsun =
        0.02], ``age_lw`` [Gyr]; per interval of equal light, youngest first, ``log_z_interval``, ``age_interval``,
        ``light_share``; the columns of `training_table`.

    Raises
    ------
    ValueError
        As `make_basis`.
    """
    continuum = ContinuumBasis.zahid2019()
    basis = make_basis(grid or SSPGrid.embedded(), wavelength=continuum.kept_wavelength, fwhm=fwhm)
    table = training_table() if table is None else table
    composer = _Composer(basis)
    starts = range(0, table.sizes["galaxy"], batch_size)
    flux = np.empty((table.sizes["galaxy"], continuum.kept_wavelength.size), dtype)
    for first in tqdm(starts, desc="composing", unit="batch", disable=not progress):
        part = slice(first, first + batch_size)
        flux[part] = normalize_continuum(composer(table.isel(galaxy=part)), None, continuum)[0]
    return _as_prepared(table.assign(label_galaxies(basis, table)), flux, continuum, basis.attrs)


def make_heldout(n, *, seed, grid=None, fwhm=FWHM, dtype="float32"):
    """Prepared spectra of histories that no training galaxy has (`draw_histories`): no dust, no lines, no noise.

    Constant star formation ends at a light-weighted age of 1.2 Gyr; 18% of the held-out histories (truncated ones and
    those of two populations, most of them) are older, up to 11 Gyr: look at these apart.

    Parameters
    ----------
    n : int
    seed : int or numpy.random.Generator
        `HELDOUT_SEED` for choosing and calibrating, `HELDOUT_TEST_SEED` for results.
    grid : SSPGrid, optional
    fwhm : float
        [km/s]
    dtype : str

    Returns
    -------
    Dataset
        As of `make_training_set`, with ``kind``, ``onset``, ``rise`` of the histories in the place of the table's
        columns, and ``mask`` (none) and ``sigma`` (0) as `spectool.continuum.prepare_zahid2019` gives them.
    """
    grid = grid or SSPGrid.embedded()
    histories = draw_histories(n, seed=seed, grid=grid)
    continuum = ContinuumBasis.zahid2019()
    flux = normalize_continuum(
        synthesize_histories(histories, grid, continuum.kept_wavelength, fwhm=fwhm), None, continuum
    )[0]
    columns = histories[["kind", "onset", "rise"]].assign(label_histories(histories, grid))
    attrs = {"ssp_grid": json.dumps(grid.provenance), "fwhm_kms": float(fwhm), "z_sun": Z_SUN}
    result = _as_prepared(columns, flux.astype(dtype), continuum, attrs)
    dims = ("galaxy", "wavelength")
    return result.assign(
        mask=(dims, np.zeros(flux.shape, bool), {"units": "", "description": "True = bad"}),
        sigma=(dims, np.zeros(flux.shape, "f4"), {"units": ""}),
    )


def synthesize_histories(histories, grid, wavelength, *, fwhm=FWHM):
    """Spectra of stars alone at one resolution: what `synthesize` gives without dust and gas, many times quicker.

    Parameters
    ----------
    histories : Dataset
        ``mass_formed``, ``log_z_star`` (galaxy, age), as of `draw_histories`.
    grid : SSPGrid
    wavelength : array_like, shape (n,)
    fwhm : float
        [km/s]

    Returns
    -------
    ndarray, shape (galaxy, n), float32
        [Lsun / Angstrom]
    """
    mass = histories["mass_formed"].transpose("galaxy", "age").values
    log_z = histories["log_z_star"].transpose("galaxy", "age").values
    weights = metallicity_operator(log_z, grid).transpose(0, 2, 1) * mass[:, None]
    ssps = smooth_ssps(grid, wavelength, fwhm)
    left = torch.from_numpy(weights.reshape(len(mass), -1).astype("f4"))
    return (left @ torch.from_numpy(ssps.reshape(-1, ssps.shape[-1]))).numpy()


def _as_prepared(columns, flux, continuum, attrs):
    units = {"units": "", "description": "flux / pseudo-continuum - 1"}
    wavelength = {"units": "Angstrom", "description": "vacuum, rest frame; line windows left out"}
    return (
        columns.assign(flux=(("galaxy", "wavelength"), flux, units))
        .assign_coords(wavelength=("wavelength", continuum.kept_wavelength, wavelength))
        .assign_attrs(attrs)
    )
