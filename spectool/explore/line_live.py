"""Brushed galaxies made anew: their spectra rebuilt, noised, de-noised by a model, and fitted with lines."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import xarray as xr

from spectool.papers.scourfield2023.sample import TEST_NOISE_SEED, add_noise, normalize_total, rest_wavelength
from spectool.parallel import single_thread

TABLES = ("line_flux", "line_flux_error", "line_peak", "line_peak_error")
ROWS = ("galaxy", "wavelength")


@dataclass(frozen=True)
class Pipeline:
    """The steps from a galaxy's number to its fitted spectrum."""

    rebuild: Callable
    noise: Callable
    denoise: Callable
    measure: Callable

    def prepare(self, candidates):
        """Rebuild original spectra, and fit their lines."""
        originals = self.rebuild(candidates)
        with single_thread():
            fit = self.measure(originals[["flux", "ivar", "mask"]])
        return originals.assign(
            unit_noise=(ROWS, self.noise(candidates), {"units": ""}),
            original_fit=(ROWS, (fit["continuum"] + fit["line_model"]).values, {"units": ""}),
        )

    def run(self, originals, kind, size, sigma):
        """Noise, de-noise and fit."""
        noisy = add_noise(originals, seed=0, sigma=sigma, unit_noise=originals["unit_noise"].values)
        with single_thread():
            predicted = self.denoise(kind, size, noisy)
            # No weights: the prediction covers even pixels where the survey had no data.
            flux = predicted["flux"].values
            spectra = xr.Dataset({"flux": (ROWS, flux), "mask": (ROWS, ~np.isfinite(flux))}, noisy.coords)
            fit = self.measure(spectra)
        return xr.Dataset(
            {
                "original": (ROWS, masked(originals), {"units": ""}),
                "original_fit": (ROWS, originals["original_fit"].values, {"units": ""}),
                "noisy": (ROWS, masked(noisy, "noisy"), {"units": ""}),
                "denoised": (ROWS, predicted["flux"].values, {"units": ""}),
                "fit": (ROWS, (fit["continuum"] + fit["line_model"]).values, {"units": ""}),
                "latent": (("galaxy", "dim"), predicted["latent"].values, {"units": ""}),
                **{name: fit[name] for name in TABLES if name in fit},
            },
            coords={"wavelength": originals["wavelength"].values, "line": fit["line"].values},
        )


def masked(sample, variable="flux"):
    """Return spectra (galaxy, wavelength) with NaN in masked pixels."""
    return np.where(sample["mask"].values, np.nan, sample[variable].values).astype(np.float32)


def shipped_pipeline(product, *, seed=None):
    """Assemble the steps for the shipped table: its galaxies, the noise of its spectra, the shipped models."""
    candidates = product["candidate"].values
    row = {int(candidate): k for k, candidate in enumerate(candidates)}
    seed = TEST_NOISE_SEED if seed is None else seed

    @cache
    def all_noise():
        # One draw for the whole test set, as `add_noise` makes it: a galaxy's noise hangs on its place there.
        shape = (candidates.size, rest_wavelength().size)
        return np.random.default_rng(seed).standard_normal(shape, dtype="f4")

    return Pipeline(
        rebuild=_rebuild_normalized,
        noise=lambda ids: all_noise()[[row[int(candidate)] for candidate in ids]],
        denoise=_denoise_with_shipped,
        measure=_measure,
    )


def _rebuild_normalized(candidates):
    from spectool.papers.scourfield2023.sample import read_products, rebuild

    spectra = rebuild(candidates, keep_truth=False)[["flux", "ivar", "mask", "candidate"]]
    return normalize_total(spectra, constant=read_products().attrs["constant"])


def _measure(spectra):
    from spectool.measure.lines_linear import measure_lines_linear

    return measure_lines_linear(spectra, keep_fit=True)


def _denoise_with_shipped(kind, size, sample):
    from spectool.models.denoise import denoise

    return denoise(_shipped_model(kind, size), sample)


@lru_cache(maxsize=12)
def _shipped_model(kind, size):
    from spectool.models.store import load_model

    if kind == "PCA":
        return load_model("scourfield2023_pca", expected="PCAModel")[0].use(size)
    return load_model(f"scourfield2023_{kind.lower()}{size}", expected="DenseAutoencoder", n_latent=size)[0]
