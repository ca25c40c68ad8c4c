"""Measure with pPXF what the de-noisers of scourfield2023 say, and write the tables that the dashboards open.

    python -m tools.make.scourfield2023_lines lines     the 2,000 test galaxies: original, noise-added, twelve models
    python -m tools.make.scourfield2023_lines mzr       star-forming galaxies seen by a survey like DESI (Section 5)
    python -m tools.make.scourfield2023_lines null      the same with galaxies whose metallicity knows only mass

Every finished set of fits stays in a cache folder: a run that was interrupted goes on where it was. About ten minutes
on two cores, after tools/train.py has made the models.
"""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import xarray as xr

from spectool.measure.line_design import MEASURED
from spectool.measure.lines_ppxf import fit_lines
from spectool.models.calibration import fit_error_scaling
from spectool.models.denoise import denoise
from spectool.models.store import load_model
from spectool.papers.scourfield2023 import network as paper
from spectool.papers.scourfield2023.sample import SELECTION, SIGMA, TEST_NOISE_SEED, add_noise, make_sample
from tools.command import CACHE, run, write_table

DATA = SELECTION.parent
KEPT = ("line_flux", "line_flux_error", "line_peak", "line_peak_error")
COLUMNS = (
    "candidate", "redshift", "log_mass", "log_sfr", "log_z_gas", "spectral_class", "h_alpha_flux", "norm", "sn_median",
)  # fmt: skip
OPTIONS = {
    "n": (None, "so many galaxies (a trial)"),
    "out": (DATA, "folder"),
    "cache": (CACHE / "fits", "where fits are kept"),
}
N_VALID = 1000
MANTISSA_BITS = 8
NULL_TRAINED, TRAINED = "scourfield2023_null_vae6", "scourfield2023_mzr_vae6"


def main(arguments=None) -> dict:
    """Do what the command line says; the figures are printed and returned."""
    return run(__doc__, OPTIONS, PRODUCTS, arguments)


def make(what, measure, options) -> dict:
    """Measure and write one table; which fits failed, by source."""
    options.cache.mkdir(parents=True, exist_ok=True)
    product = measure(options)
    for name, variable in product.data_vars.items():
        if variable.dtype.kind == "f":
            product[name] = variable.copy(data=round_mantissa(variable.values.astype("f4")))
    recipe = {"made by": "tools/make/scourfield2023_lines.py", "noise seed": TEST_NOISE_SEED}
    product.attrs = {"recipe": json.dumps(recipe)}
    mb = write_table(product, options.out / f"scourfield2023_{what}.nc")
    bad = (product["fit_status"].values != 0).sum(axis=1).tolist()
    return {"mb": mb, "failed": dict(zip(product["source"].values.tolist(), bad, strict=True))}


def measure_uniform(options) -> xr.Dataset:
    """Lines of the uniform sample's test galaxies, in the original, the noise-added and twelve de-noised spectra."""
    sample = make_sample("uniform", split="test", n=options.n, progress=not options.quiet)
    sample = add_noise(sample, seed=np.random.default_rng(TEST_NOISE_SEED), sigma=SIGMA)
    tables = {
        "original": fit("uniform original", sample, options),
        "noise-added": fit("uniform noise-added", sample, options, variable="noisy"),
    }
    latent = {}
    for size in paper.LATENT_SIZES:
        for kind in ("PCA", "AE", "VAE"):
            name = f"{kind} {size}"
            said = denoise(paper.load(kind.lower(), size)[0], sample)
            latent[name] = said["latent"].values
            tables[name] = fit(f"uniform {name}", said, options)
    product = join(tables, sample)
    widest = max(paper.LATENT_SIZES)
    padded = [np.pad(z, ((0, 0), (0, widest - z.shape[1])), constant_values=np.nan) for z in latent.values()]
    about = {"units": "", "long_name": "mean of the latent posterior"}
    product = product.assign_coords(model=list(latent))
    return product.assign(latent=(("model", "galaxy", "dim"), np.stack(padded).astype("f4"), about))


def measure_desi(name, own, other, options) -> xr.Dataset:
    """Lines of star-forming galaxies: original, DESI-like, de-noised by three networks.

    ``own`` was trained on the same population, ``other`` on the other one; errors are learnt on validation galaxies.
    """
    sample, valid = (seen_by_desi(name, split, options) for split in ("test", "valid"))
    models = {
        "de-noised": own,
        "de-noised, other training": other,
        "noise-aware": "scourfield2023_noise_aware",
    }
    tables = {
        "original": fit(f"{name} original", sample, options),
        "DESI-like": fit(f"{name} DESI-like", sample, options, variable="noisy"),
    }
    reference = fit(f"{name} validation original", valid, options)["line_flux"].values
    calibrated = {}
    for source, file in models.items():
        model, _ = load_model(file)
        tables[source] = fit(f"{name} {source}", denoise(model, sample), options)
        learnt = fit(f"{name} validation {source}", denoise(model, valid), options)["line_flux"].values
        calibrated[source] = calibrate(learnt, reference, tables[source]["line_flux"].values)
    product = join(tables, sample)
    unknown = np.full(product["line_flux"].shape[1:], np.nan, "f4")
    whole = np.stack([calibrated.get(source, unknown) for source in product["source"].values])
    long_name = "error learnt on validation galaxies, holds the original's in 68%"
    about = {"units": "Angstrom", "long_name": long_name}
    return product.assign(line_flux_error_calibrated=(("source", "galaxy", "line"), whole, about))


def calibrate(learnt, reference, predicted) -> np.ndarray:
    """Errors (galaxy, line) of fluxes predicted, from what those of validation galaxies were off by."""
    errors = np.full(predicted.shape, np.nan, "f4")
    for k in range(predicted.shape[1]):
        scaling = fit_error_scaling(learnt[:, k], reference[:, k], correct_bias=False)
        errors[:, k] = scaling.apply(predicted[:, k])[1]
    return errors


def seen_by_desi(name, split, options) -> xr.Dataset:
    """Galaxies at z = 0.1 with DESI's noise; validation galaxies are those that the networks were chosen with."""
    progress = not options.quiet
    if split == "test":
        sample = make_sample(name, split="test", progress=progress).isel(galaxy=slice(options.n))
        return paper.add_desi_noise(sample, seed=np.random.default_rng(TEST_NOISE_SEED))
    sample = make_sample(name, split="train", progress=progress)
    sample = paper.add_desi_noise(sample, seed=np.random.default_rng([0, 1]))
    rows = paper.split_validation(sample.sizes["galaxy"], seed=0)[1]
    return sample.isel(galaxy=rows[: options.n or N_VALID])


def fit(name, sample, options, *, variable="flux") -> xr.Dataset:
    """Lines of one set of spectra, kept."""
    path = options.cache / f"{name.replace(' ', '_').replace(',', '')}_{sample.sizes['galaxy']}.npz"
    print(name, flush=True)
    return fit_lines(sample, variable=variable, checkpoint=path, progress=not options.quiet)


def join(tables, sample) -> xr.Dataset:
    """One table of all sources."""
    first = next(iter(tables.values()))
    product = xr.Dataset(coords={"source": list(tables), "line": list(MEASURED)})
    product = product.assign_coords(
        line_wavelength=("line", first["line_wavelength"].values, {"units": "Angstrom"})
    )
    for name in KEPT:
        values = np.stack([table[name].transpose("galaxy", "line").values for table in tables.values()])
        product[name] = (("source", "galaxy", "line"), values, first[name].attrs)
    for name in ("chi2", "fit_status"):
        values = np.stack([table[name].values for table in tables.values()])
        product[name] = (("source", "galaxy"), values, {"units": ""})
    sigma = 1 / np.sqrt(np.where(sample["ivar"].values > 0, sample["ivar"].values, np.nan))
    sn = np.nanmedian(sample["flux"].values / sigma, axis=1)
    sample = sample.assign(sn_median=("galaxy", sn, {"units": ""}))
    for name in COLUMNS:
        product[name] = ("galaxy", sample[name].values, sample[name].attrs)
    return product


def round_mantissa(values) -> np.ndarray:
    """float32 with 9 significant bits (0.2%), so that it compresses."""
    bits = values.view(np.uint32)
    drop = 23 - MANTISSA_BITS
    rounded = (bits + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)


PRODUCTS = {
    "lines": partial(make, "lines", measure_uniform),
    "mzr": partial(make, "mzr", partial(measure_desi, "star-forming", TRAINED, NULL_TRAINED)),
    "null": partial(make, "null", partial(measure_desi, "null", NULL_TRAINED, TRAINED)),
}

if __name__ == "__main__":
    main()
