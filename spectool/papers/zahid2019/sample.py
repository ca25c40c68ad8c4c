"""Training spectra and mock SDSS galaxies of Zahid et al. (2019)."""

import json
from functools import cache

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from spectool import spectra
from spectool.continuum import (
    ContinuumBasis,
    kept_pixels,
    normalize_continuum,
    optical_wavelength,
    stack_wavelength,
)
from spectool.io import DATA
from spectool.papers import as_columns, candidates
from spectool.prepare import SKY_LINES, add_history
from spectool.spectra import DLOGLAM, FWHM_TO_SIGMA, LOGLAM0, Z_SUN, pixel_edges, rebin_matrix
from spectool.surveys import spectrograph
from spectool.synth import histories as synth_histories
from spectool.synth import relations, sfh
from spectool.synth.broadening import smooth_ssps
from spectool.synth.grid import SSPGrid, embedded_grid
from spectool.synth.histories import N_INTERVALS, durations, metallicities, metallicity_operator
from spectool.synth.population import LOG_Z_STAR_RANGE, age_of_universe

MEASURED = ("Hβ", "[O III] 5007", "Hα", "[N II] 6583", "[S II] 6716", "[S II] 6731")
FWHM = 330.0
_BATCH = 512
HELDOUT_SEED = 20190
"""Of the held-out histories that training is stopped on and errors are calibrated on."""
HELDOUT_TEST_SEED = 20191
"""Of those that results are stated for, and nothing is chosen by."""
N_CHUNKS = 25
"""Of the pixels that the network is given, each of which its own filters see."""
OPTICAL = (4050.0, 7300.0)
STACK_WINDOW = (4400.0, 4450.0)
"""Rest wavelengths [Angstrom] of the normalisation; the paper, Section 3.1."""
AT_REST = {"units": "Angstrom", "description": "vacuum, rest frame"}
_ROWS = ("duration_index", "metallicity_index", "interval_index", "varied_index")


def training_table():
    """Which galaxies the training set has: 46,305 rows of numbers in `durations`, `metallicities` and the intervals.

    Per galaxy ``duration_index`` (0-20), ``metallicity_index`` (0-20, of four intervals), ``interval_index`` (0-4,
    youngest first) and ``varied_index`` (0-20, the metallicity of that interval), in this order of loops.
    """
    sizes = (durations().size, metallicities().size, N_INTERVALS, metallicities().size)
    numbers = np.indices(sizes, dtype="i2").reshape(len(sizes), -1)
    return xr.Dataset(
        {name: ("galaxy", row, {"units": ""}) for name, row in zip(_ROWS, numbers, strict=True)}
    )


def make_basis(grid, *, wavelength=None):
    """Spectra of each duration's five intervals at each metallicity, as wide as the most massive galaxies' (330 km/s).

    Returns
    -------
    Dataset
        ``flux`` (duration, interval, metallicity, wavelength) float32 [Lsun / Angstrom], per solar mass formed over the
        whole duration; ``light`` in 4050-7300 Angstrom [Lsun] and ``log_age``, the mean log age weighted by it
        [dex(Gyr)], both (duration, interval, metallicity); ``edges`` (duration, edge) [Gyr] of the intervals.
        ValueError if the grid does not cover the wavelengths or ages, or its resolution is too low.
    """
    synth_histories.check_ages(grid)
    wavelength = optical_wavelength() if wavelength is None else np.asarray(wavelength, float)
    edges = synth_histories.equal_light_intervals(grid)
    start, end = edges[:, 1:].ravel() * 1e9, edges[:, :-1].ravel() * 1e9
    share = (np.diff(edges, axis=1) / durations()[:, None]).reshape(-1, 1)
    mass = sfh.constant(grid.age_edges, start, end) * share
    mixing = metallicity_operator(metallicities(), grid)
    light = np.einsum("da,mz,za->dma", mass, mixing, synth_histories.optical_light(grid))
    log_age = light @ np.log10(grid.age / 1e9) / light.sum(2)
    ssps = torch.from_numpy(np.tensordot(mixing, smooth_ssps(grid, wavelength, FWHM), 1))
    flux = torch.matmul(torch.from_numpy(mass.astype("f4"))[None], ssps).transpose(0, 1).contiguous().numpy()
    nodes = synth_histories.clip_metallicity(metallicities(), grid)
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
            "metallicity": ("metallicity", nodes, {"units": "dex", "z_sun": Z_SUN}),
            "wavelength": ("wavelength", wavelength, AT_REST),
        },
        attrs={"ssp_grid": json.dumps(grid.provenance), "fwhm_kms": FWHM, "z_sun": Z_SUN},
    )


def label_galaxies(basis, table):
    """Labels of training galaxies."""
    duration, base, interval, varied = (table[name].values.astype(int) for name in _ROWS)
    metallicity = np.repeat(base[:, None], N_INTERVALS, axis=1)
    metallicity[np.arange(len(metallicity)), interval] = varied
    place = (duration[:, None], np.arange(N_INTERVALS), metallicity)
    light = basis["light"].values[place]
    log_z = basis["metallicity"].values[metallicity]
    return synth_histories.make_labels(light, light * log_z, light * basis["log_age"].values[place])


def composer(basis):
    """A function of a table's rows that sums basis spectra: four intervals of one metallicity and one of another."""
    parts = torch.from_numpy(basis["flux"].values)
    whole = parts.sum(1)

    def compose(table):
        duration, metallicity, interval, varied = (
            torch.from_numpy(table[name].values.astype("i8")) for name in _ROWS
        )
        flux = whole[duration, metallicity]
        flux -= parts[duration, interval, metallicity]
        flux += parts[duration, interval, varied]
        return flux.numpy()

    return compose


def make_sample(grid=None, *, table=None, dtype="float16", progress=False):
    """The training set of the paper as its network takes it: 46,305 prepared spectra with their labels.

    Parameters
    ----------
    grid : SSPGrid, optional
        Default: the embedded one. The paper's is FSPS: `SSPGrid.from_fsps`. Errors as of `make_basis`.
    table : Dataset, optional
        Rows of `training_table`; default: all.
    dtype : str
        Of the result; float16 takes 229 MB and is good to 5e-4 of a feature's depth.

    Returns
    -------
    Dataset
        ``flux`` (galaxy, wavelength: 2468), the continuum divided out and 1 subtracted; ``log_z_lw`` [dex, Zsun =
        0.02], ``age_lw`` [Gyr]; per interval of equal light, youngest first, ``log_z_interval``, ``age_interval``,
        ``light_share``; the columns of `training_table`.
    """
    continuum = ContinuumBasis.optical()
    basis = make_basis(grid or SSPGrid.embedded(), wavelength=continuum.kept_wavelength)
    table = training_table() if table is None else table
    compose = composer(basis)
    starts = range(0, table.sizes["galaxy"], _BATCH)
    flux = np.empty((table.sizes["galaxy"], continuum.kept_wavelength.size), dtype)
    for first in tqdm(starts, desc="composing", unit="batch", disable=not progress):
        part = slice(first, first + _BATCH)
        flux[part] = normalize_continuum(compose(table.isel(galaxy=part)), None, continuum)[0]
    return _as_prepared(table.assign(label_galaxies(basis, table)), flux, continuum, basis.attrs)


def make_heldout(n, *, seed, grid=None, dtype="float32"):
    """Prepared spectra of histories that no training galaxy has (`draw_histories`): no dust, no lines, no noise.

    Constant star formation ends at a light-weighted age of 1.2 Gyr; 18% of the held-out histories are older: look at
    these apart. `HELDOUT_SEED` is for choosing and calibrating, `HELDOUT_TEST_SEED` for results.

    Returns
    -------
    Dataset
        As of `make_sample`, with ``kind``, ``onset``, ``rise`` of the histories in place of the table's columns, and
        ``mask`` (none) and ``sigma`` (0) as `prepare_zahid2019` gives them.
    """
    grid = grid or SSPGrid.embedded()
    histories = synth_histories.draw_histories(n, seed=seed, grid=grid)
    continuum = ContinuumBasis.optical()
    clean = synthesize_histories(histories, grid, continuum.kept_wavelength)
    flux = normalize_continuum(clean, None, continuum)[0]
    labels = synth_histories.label_histories(histories, grid)
    columns = histories[["kind", "onset", "rise"]].assign(labels)
    attrs = {"ssp_grid": json.dumps(grid.provenance), "fwhm_kms": FWHM, "z_sun": Z_SUN}
    result = _as_prepared(columns, flux.astype(dtype), continuum, attrs)
    dims = ("galaxy", "wavelength")
    return result.assign(
        mask=(dims, np.zeros(flux.shape, bool), {"units": "", "description": "True = bad"}),
        sigma=(dims, np.zeros(flux.shape, "f4"), {"units": ""}),
    )


def synthesize_histories(histories, grid, wavelength):
    """Spectra of stars alone at one resolution: what `synthesize` gives without dust and gas, many times quicker."""
    mass = histories["mass_formed"].transpose("galaxy", "age").values
    log_z = histories["log_z_star"].transpose("galaxy", "age").values
    weights = metallicity_operator(log_z, grid).transpose(0, 2, 1) * mass[:, None]
    ssps = smooth_ssps(grid, wavelength, FWHM)
    left = torch.from_numpy(weights.reshape(len(mass), -1).astype("f4"))
    return (left @ torch.from_numpy(ssps.reshape(-1, ssps.shape[-1]))).numpy()


def _as_prepared(columns, flux, continuum, attrs):
    units = {"units": "", "description": "flux / pseudo-continuum - 1"}
    columns = columns.assign(flux=(("galaxy", "wavelength"), flux, units)).assign_attrs(attrs)
    return columns.assign_coords(wavelength=("wavelength", continuum.kept_wavelength, AT_REST))


SEED = 2019
REDSHIFT_RANGE = (0.027, 0.25)
STELLAR_METALLICITY_SFR = -0.25
"""How steeply stellar metallicity falls with star formation in the main sample [dex per dex]; our choice."""
DISPERSION_SCALE, DISPERSION_FLOOR = 0.78, 35.0
"""The population's velocity dispersions are scaled, and 35 km/s added in quadrature: emission lines in the stack of the
most massive galaxies (log M = 10.9-11) are then as wide as the paper's, 330 km/s (FWHM, instrument included)."""
TYPICAL_REDSHIFT = 0.08

_FIRST, _LAST = 670, 3679  # rest-frame pixels: log10(lambda) = LOGLAM0 + DLOGLAM k
_SHIFTS = tuple(
    int(f(np.log10(1 + z) / DLOGLAM)) for f, z in zip((np.ceil, np.floor), REDSHIFT_RANGE, strict=True)
)
_OBSERVED_RANGE = (3800.0, 9200.0)  # what SDSS's spectra cover


def rest_pixels():
    """Centres of the pixels that all candidates share: 3690-7376 A, 1e-4 dex wide, vacuum, rest frame; (3009,)."""
    return 10 ** (LOGLAM0 + DLOGLAM * np.arange(_FIRST, _LAST))


def draw_block(block, *, seed=SEED, null=False):
    """The 4096 candidates of one block: population, nuclei and fibre fractions."""
    population = {"redshift_range": REDSHIFT_RANGE, "metallicity_sfr": not null}
    population |= {"stellar_metallicity_sfr": 0.0 if null else STELLAR_METALLICITY_SFR}
    galaxies = candidates.draw_numbered(block, seed=seed, grid=embedded_grid(), **population)
    shift = np.rint(np.log10(1 + galaxies["redshift"].values) / DLOGLAM).astype(int).clip(*_SHIFTS)
    dispersion = np.hypot(DISPERSION_SCALE * galaxies["velocity_dispersion"], DISPERSION_FLOOR)
    return galaxies.assign(
        redshift=("galaxy", 10 ** (DLOGLAM * shift) - 1, galaxies["redshift"].attrs),
        velocity_dispersion=dispersion.assign_attrs(galaxies["velocity_dispersion"].attrs),
        shift=("galaxy", shift, {"units": "", "long_name": "redshift in pixels of 1e-4 dex"}),
    )


def renew_metals(galaxies, *, seed=SEED):
    """Give galaxies of the null sample new metallicities, drawn for their mass alone, once they are selected."""
    log_mass = galaxies["log_mass"].values
    numbers = galaxies["candidate"].values
    deviates = np.array(
        [np.random.default_rng([seed, candidates.METALS, int(k)]).standard_normal(3) for k in numbers]
    )
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
def _spectrograph():
    """What SDSS does at all observed pixels that candidates reach: per pixel k from _FIRST."""
    wavelength = 10 ** (LOGLAM0 + DLOGLAM * np.arange(_FIRST, _LAST + _SHIFTS[1]))
    electrons = np.interp(wavelength, *spectrograph.SENSITIVITY.T)
    dark = spectrograph.sky_flux(wavelength) / electrons + spectrograph.READ_NOISE**2 / electrons**2
    good = (wavelength >= _OBSERVED_RANGE[0]) & (wavelength <= _OBSERVED_RANGE[1])
    for centre, half_width in SKY_LINES.values():
        good &= np.abs(wavelength - centre) > half_width
    tables = (dark, 1 / electrons, spectrograph.lsf_pixels(wavelength) ** 2)
    tables = [*(values.astype("f4") for values in tables), good]
    return [np.lib.stride_tricks.sliding_window_view(values, _LAST - _FIRST) for values in tables]


def observe_candidates(galaxies, *, seed=SEED):
    """Synthesize candidates and see them as SDSS does, on the pixels of `rest_pixels`."""
    grid = embedded_grid()
    rest = candidates.synthesize_candidates(galaxies, grid, rest_pixels())
    redshift, share = galaxies["redshift"].values, galaxies["fibre_fraction"].values
    to_flux = spectrograph.luminosity_to_flux(redshift)
    dark, per_electron, lsf, good = (table[galaxies["shift"].values] for table in _spectrograph())
    truth = rest["flux"].values * (to_flux * share)[:, None].astype("f4")
    truth = _blur(truth, lsf, grid.fwhm)
    source = np.clip(truth, 0, None)
    variance = source * per_electron + dark + (spectrograph.CALIBRATION_FLOOR * source) ** 2
    numbers = galaxies["candidate"].values
    streams = [np.random.default_rng([seed, candidates.NOISE, int(k)]) for k in numbers]
    noise = np.stack([stream.standard_normal(truth.shape[1], "f4") for stream in streams])
    stretch = (1 + redshift[:, None]).astype("f4")
    dims = ("galaxy", "wavelength")
    flux = np.where(good, (truth + noise * np.sqrt(variance)) * stretch, 0)
    lsf = {"units": "km / s", "description": "at z = 0.08"}
    pixels = {
        "flux": (dims, flux, {"units": spectra.FLUX_UNIT}),
        "ivar": (dims, np.where(good, 1 / (variance * stretch**2), 0), {"units": spectra.IVAR_UNIT}),
        "mask": (dims, ~good, {"units": "", "description": "True = bad"}),
        "truth": (dims, truth * stretch, {"units": spectra.FLUX_UNIT, "long_name": "flux without noise"}),
        "lsf_sigma": ("wavelength", _typical_lsf(grid.fwhm), lsf),
    }
    lines = candidates.true_line_flux(rest, MEASURED, to_flux * share * stretch[:, 0])
    # The mass as drawn: the surviving share, which depends on metallicity, is left out.
    pixels |= {"log_mass": galaxies["log_mass"], "true_line_flux": lines.drop_vars("line_wavelength")}
    out = rest.drop_dims(["line", "age"]).drop_vars("shift").assign(pixels)
    out = out.assign_attrs(survey="SDSS (simulated)", seed=seed)
    return add_history(out, f"{redshift.size} candidates seen by SDSS (seed {seed})")


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
    instrument = spectrograph.lsf_pixels(rest_pixels() * (1 + TYPICAL_REDSHIFT)) ** 2
    return np.sqrt(np.maximum(instrument, _template_variance(fwhm))) * spectra.PIXEL_VELOCITY


@cache
def _operator():
    """From the spectrograph's pixels to 1 A, and for variances: times the width of the pixel that noise comes in."""
    edges = pixel_edges(rest_pixels())
    matrix = rebin_matrix(edges, pixel_edges(stack_wavelength())).astype("f4")
    return matrix, (matrix @ np.diff(edges)).astype("f4")


def to_angstrom(sample):
    """Rebin observed candidates to 3700-7360 A in steps of 1 A."""
    matrix, width = _operator()
    good = ~sample["mask"].values

    def apply(values):
        return (matrix @ values.T).T

    covered = apply(good.astype("f4"))
    share = np.divide(1, covered, out=np.zeros_like(covered), where=covered > 0)
    ivar = sample["ivar"].values
    variance = np.divide(1, ivar, out=np.zeros_like(ivar), where=good)
    flux, variance = apply(sample["flux"].values) * share, apply(variance) * share * width
    truth, bad = apply(sample["truth"].values), covered < 0.5
    ivar = np.divide(1, variance, out=np.zeros_like(variance), where=~bad)
    values = {"flux": np.where(bad, 0, flux), "ivar": ivar, "mask": bad, "truth": truth}
    pixels = {name: (("galaxy", "wavelength"), v, dict(sample[name].attrs)) for name, v in values.items()}
    label, window = _inside(OPTICAL), _inside(STACK_WINDOW)
    light = truth[:, label].mean(axis=1) / truth[:, window].mean(axis=1)
    signal = np.where(bad, np.nan, flux * np.sqrt(ivar))[:, label]
    norm = np.where(bad, 0, flux)[:, window].sum(axis=1) / np.maximum((~bad[:, window]).sum(axis=1), 1)
    columns = {
        "norm": (norm, sample["flux"].attrs["units"], "mean, 4400-4450 A"),
        "light": (light, "", "noise-free light, 4050-7300 A relative to 4400-4450 A"),
        "sn": (np.nanmedian(signal, axis=1), "", "median S/N per Angstrom, 4050-7300 A"),
        "is_agn": (sample["agn_type"].values != "", ""),
    }
    out = sample.drop_dims("wavelength").assign_coords(wavelength=("wavelength", stack_wavelength(), AT_REST))
    out = out.assign(pixels | as_columns(columns))
    return add_history(out, f"rebinned to 1 A: {bad.mean():.2%} of the pixels masked")


def _inside(window):
    wavelength = stack_wavelength()
    return (wavelength >= window[0]) & (wavelength <= window[1])


def stored_flux(sample):
    """Spectra of `to_angstrom` in the stored form, ndarray (galaxy, 3251) of float16.

    On `spectool.prepare.optical_wavelength`, relative to the mean flux of 4400-4450 A; NaN where bad.
    """
    part = _inside(OPTICAL)
    flux = sample["flux"].values[:, part] / sample["norm"].values[:, None]
    # Lines of extreme galaxies stay far below the largest float16.
    return np.where(sample["mask"].values[:, part], np.nan, flux).clip(-6e4, 6e4).astype(np.float16)


def chunk_sigma(sample):
    """Noise of a pixel of 1 A relative to the mean flux in the network's chunks, ndarray (galaxy, 25) of float32.

    Root mean square noise over mean flux of the chunk's good pixels; NaN where it has none.
    """
    kept = np.flatnonzero(_inside(OPTICAL))[kept_pixels(optical_wavelength())]
    good = (~sample["mask"].values[:, kept]).astype("f4")
    flux = sample["flux"].values[:, kept] * good
    ivar = sample["ivar"].values[:, kept]
    variance = np.divide(1, ivar, out=np.zeros_like(ivar), where=good > 0)
    starts = np.concatenate([[0], np.cumsum([len(c) for c in np.array_split(kept, N_CHUNKS)])[:-1]])
    n, light, noise = (np.add.reduceat(values, starts, axis=1) for values in (good, flux, variance))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n > 0, np.sqrt(noise / n) / np.maximum(light / n, 1e-6), np.nan).astype("f4")


FILES = {"main": "zahid2019_galaxies.nc", "null": "zahid2019_null.nc"}
FILES |= {"stacks": "zahid2019_stacks.nc", "bins": "zahid2019_bins.nc"}


def read_products(name="main", *, path=None):
    """Tables of the mock sample that come with spectool.

    Parameters
    ----------
    name : {"main", "null", "stacks", "bins"}
        Galaxies of the main sample, 200,000 whose metallicity falls with star formation at fixed mass, or of the null
        sample, 50,000 where it does not; the main sample's mean spectra in 25 bins of mass; mean spectra of both
        samples in 15 x 10 bins of equal numbers in mass and then star-formation rate, prepared for the networks.

    Returns
    -------
    Dataset
        "main", "null": per galaxy ``candidate``, for `rebuild`, and what is known and was measured of it. "stacks":
        (stack, wavelength) as of `tools.make.stacks.average_spectra`; per stack ``spectral_fwhm`` [km/s], of
        its lines, and from a fit with pPXF ``ppxf_log_z_lw``, its error, ``ppxf_age_lw`` and ``ppxf_fit_seconds``.
        "bins": along ``sample`` ("galaxies", "null") ``flux`` (galaxy, wavelength) as of
        `spectool.papers.zahid2019.reader.prepare_zahid2019`, in order of mass and then of rate; medians ``log_mass``
        and ``log_sfr``; ``log_z_light``, the bin's true metallicity weighted by light; ``count``.
    """
    if name not in FILES:
        raise ValueError(f"no sample {name!r}; choose from {', '.join(FILES)}")
    return xr.load_dataset(DATA / FILES[name] if path is None else path, engine="h5netcdf")


def rebuild(ids, *, null=False, seed=SEED, keep_truth=True, progress=False, batch_size=512):
    """Spectra of candidates by their numbers, in the order asked for: each the same whichever others are asked for.

    Parameters
    ----------
    ids : array_like of int
        block * 4096 + row, ValueError if there is none or one is negative; those of one block are quickest together.
    null : bool
        Those of the null sample (other galaxies under the same numbers).

    Returns
    -------
    Dataset
        On `spectool.continuum.stack_wavelength` (3700-7360 A, 1 A), at rest: ``flux``, ``truth`` [1e-17 erg/s/cm2/A],
        ``ivar``, ``mask``, ``true_line_flux`` (galaxy, line), the columns of the candidates; see `to_angstrom`.
    """

    def draw(block):
        return draw_block(block, seed=seed, null=null)

    def observe(galaxies):
        galaxies = renew_metals(galaxies, seed=seed) if null else galaxies
        seen = to_angstrom(observe_candidates(galaxies, seed=seed))
        return seen if keep_truth else seen.drop_vars("truth")

    whole = candidates.rebuild_numbers(ids, draw, observe, progress=progress, batch_size=batch_size)
    sample, masked = "null" if null else "main", whole["mask"].values.mean()
    text = f"{whole.sizes['galaxy']} candidates of the {sample} sample rebuilt (seed {seed}), {masked:.2%} masked"
    return add_history(whole, text)
