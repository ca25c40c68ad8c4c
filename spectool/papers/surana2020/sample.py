"""The mock GAMA sample of Surana et al. (2020): galaxies with GAMA's noise and gaps, and the labels that a
fit gives."""

import hashlib
from pathlib import Path

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from spectool import __version__
from spectool.io import DATA, read_or_make
from spectool.measure.sedfit import N_MODELS, PROPERTIES, draw_library, fit_library
from spectool.prepare import add_history
from spectool.surveys.gama import draw_gama, load_filters, observe_gama, redraw_gama
from spectool.surveys.photometry import make_band_averages
from spectool.synth import SSPGrid
from spectool.synth.population import concatenate

BLOCK = 10_000
SEED = 2020
LIBRARY_SEED = 1
CACHE_VERSION = 1
"""Raise it when the same numbers give other galaxies."""
LABELS = DATA / "surana2020_labels.nc"
STEP = 0.001
"""Of the stored labels [dex]."""
CHI2_STEP = 0.02
STATED = ("history", "model_error", "r_limit")

PAPER_TOTAL, PAPER_LEFT = 120_114, 76_455
PAPER_FAILING = {
    "redshift": 2_173,
    "mass": 4_867,
    "missing band": 36_768,
    "negative flux": 110,
    "signal-to-noise": np.nan,  # "only reducing the sample size by a small fraction"
}
"""Galaxies that fail each cut. They add up to 43,918, more than the 43,659 that the paper loses: some fail several."""


def make_surana2020(n=PAPER_TOTAL, *, n_models=N_MODELS, cache=None, progress=True):
    """Draw galaxies of GAMA, observe them, and fit them."""
    if n < 1:
        raise ValueError(f"the number of galaxies must be at least 1, not {n}")
    recipe = f"seed {SEED}, {n_models} models, negative keep, facilities as in gama"
    digest = hashlib.sha256(f"{__version__} {CACHE_VERSION} {recipe}".encode()).hexdigest()[:12]
    made, parts = {}, []
    for block in tqdm(range(-(-n // BLOCK)), desc="sample", unit="block", disable=not progress):
        size = min(BLOCK, n - block * BLOCK)

        def make(n_galaxies, block=block):
            if not made:
                made.update(_make_library(n_models, progress))
            return _make_block(made, [SEED, block], n_galaxies)

        if cache is None:
            parts.append(make(size))
        else:
            whole = read_or_make(Path(cache) / f"surana2020_{digest}_{block}.nc", lambda: make(BLOCK))
            parts.append(whole.isel(galaxy=slice(0, size)))
    sample = concatenate(parts)
    return sample.assign_attrs(
        parts[0].attrs, history=f"{n} galaxies of GAMA (mock), fitted with a library; {recipe}"
    )


def select_galaxies(sample, *, drop_negative=True):
    """Apply the paper's cuts (z <= 0.5, log mass >= 9, all bands, S/N >= 3 in 6 of them), and count what each takes."""
    missing = [name for name in ("flux", "flux_error", "mask", "redshift", "log_mass") if name not in sample]
    if missing:
        raise ValueError(f"the sample lacks {', '.join(missing)}")
    dims = ("galaxy", "band")
    flux, error, gap = (sample[name].transpose(*dims).values for name in ("flux", "flux_error", "mask"))
    z = sample["redshift"].values
    signal = np.divide(flux, error, out=np.full(flux.shape, -np.inf), where=~gap & (error > 0))
    fails = {
        "redshift": ~((z > 0) & (z <= 0.5)),
        "mass": ~(sample["log_mass"].values >= 9.0),
        "missing band": gap.any(axis=1),
        "negative flux": (~gap & (flux < 0)).any(axis=1),
        "signal-to-noise": (signal >= 3.0).sum(axis=1) < 6,
    }
    kept, lost = np.ones(z.size, bool), []
    for name, fail in fails.items():
        fail = fail & (drop_negative or name != "negative flux")
        lost.append(int((kept & fail).sum()))
        kept &= ~fail
    failing, theirs = (
        np.array([fail.sum() for fail in fails.values()]),
        np.array(list(PAPER_FAILING.values())),
    )
    columns = {
        "failing": failing,
        "lost": np.array(lost),
        "left": z.size - np.cumsum(lost),
        "failing_fraction": failing / max(z.size, 1),
        "paper_failing": theirs,
        "paper_failing_fraction": theirs / PAPER_TOTAL,
    }
    columns = {name: ("cut", values, {"units": ""}) for name, values in columns.items()}
    cuts = xr.Dataset(columns, coords={"cut": list(fails)})
    steps = ", ".join(f"{name} {count}" for name, count in zip(fails, lost, strict=True))
    text = f"cuts of Surana et al. (2020): {kept.sum()} of {z.size} galaxies left; lost: {steps}"
    return add_history(sample.isel(galaxy=np.flatnonzero(kept)), text), cuts


def select_taught(sample, **cuts):
    """As `select_galaxies`, by the teacher's mass, as in the paper; negative fluxes, which mocks have many of, stay."""
    number = sample.assign(log_mass=sample["log_mass_fit"], row=("galaxy", np.arange(sample.sizes["galaxy"])))
    selected, table = select_galaxies(number, **{"drop_negative": False} | cuts)
    return sample.isel(galaxy=selected["row"].values).assign_attrs(selected.attrs), table


def read_surana2020(n=None, *, averages=None, path=LABELS, progress=True):
    """The sample of `make_surana2020` in seconds: galaxies and noise drawn again, the teacher's labels from a file.

    Parameters
    ----------
    n : int, optional
        The first so many (ValueError beyond those that are stored); default: all 120,114.
    averages : SimpleNamespace, optional
        ``make_band_averages(SSPGrid.embedded("broadband"), load_filters())``, if at hand: half of the time.
    path : path
        Of `tools.make.surana2020_labels`; default: the file that comes with spectool.

    Returns
    -------
    xarray.Dataset, dims (galaxy, band)
        As of `make_surana2020` without ``best_model`` and ``log_amplitude_fit``; labels to 0.0005 dex, chi-square to
        0.01.
    """
    labels = xr.load_dataset(path, engine="h5netcdf")
    seed, size = int(labels.attrs["seed"]), int(labels.attrs["block"])
    n = labels.sizes["galaxy"] if n is None else n
    if not 1 <= n <= labels.sizes["galaxy"]:
        raise ValueError(f"{path} holds {labels.sizes['galaxy']} galaxies: {n} cannot be read")
    averages = averages or make_band_averages(SSPGrid.embedded("broadband"), load_filters())
    parts = []
    for block in tqdm(range(-(-n // size)), desc="sample", unit="block", disable=not progress):
        # Noise is drawn for a block as a whole.
        numbers = np.cumsum(labels["candidate"].values[block * size : (block + 1) * size], dtype=int)
        drawn = redraw_gama(numbers, averages=averages, seed=block_seed(seed, block))
        seen = observe_gama(drawn, seed=np.random.default_rng([seed, block, 1]))
        parts.append(seen.drop_vars("candidate"))
    sample = concatenate(parts).isel(galaxy=slice(0, n))
    columns = {}
    for name, unit in PROPERTIES.items():
        fit, low, high = (labels[f"{name}_fit{end}"].values[:n].astype(int) for end in ("", "_low", "_high"))
        for end, steps in (("", fit), ("_low", fit - low), ("_high", fit + high)):
            columns[f"{name}_fit{end}"] = ("galaxy", steps * labels.attrs["step"], {"units": unit})
    columns["chi2_fit"] = ("galaxy", labels["chi2_fit"].values[:n] * labels.attrs["chi2_step"], {"units": ""})
    columns["n_bands_fit"] = ("galaxy", (~sample["mask"].values).sum(axis=1), {"units": ""})
    columns["fit_reason"] = ("galaxy", np.full(n, "", dtype=object), {"units": ""})
    note = {name: labels.attrs[name] for name in STATED}
    return sample.assign(columns).assign_attrs(parts[0].attrs | note)


def _make_library(n_models, progress):
    averages = make_band_averages(SSPGrid.embedded("broadband"), load_filters())
    library = draw_library(n_models, averages=averages, seed=LIBRARY_SEED, progress=progress)
    return {"averages": averages, "library": library}


def _make_block(made, seed, size):
    """The first galaxies of a block; drawn and observed as a whole, so that they do not depend on how many."""
    drawn = draw_gama(BLOCK, averages=made["averages"], seed=block_seed(*seed)).drop_vars("candidate")
    seen = observe_gama(drawn, seed=np.random.default_rng([*seed, 1]))
    return fit_library(seen.isel(galaxy=slice(0, size)), made["library"], progress=False)


def block_seed(seed, block):
    """Of the galaxies of one block."""
    return int(np.random.SeedSequence([seed, block]).generate_state(1)[0])
