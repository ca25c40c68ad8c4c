"""What the line-flux dashboard asks of this paper: its table of lines, spectra made anew, its own figures."""

from functools import cached_property, lru_cache

import numpy as np
import xarray as xr

from spectool.measure.lines_linear import measure_lines_linear
from spectool.models.denoise import denoise
from spectool.papers.scourfield2023.network import load, paper_scatter
from spectool.papers.scourfield2023.sample import (
    MEASURED,
    TEST_NOISE_SEED,
    add_noise,
    normalize_total,
    open_lines,
    read_products,
    rebuild,
    rest_wavelength,
)
from spectool.parallel import single_thread

__all__ = ["Pipeline", "open_lines"]

ROWS = ("galaxy", "wavelength")
# Of the paper's figures beside ours.
REMARK = (
    '<span title="Passive galaxies of the mock hardly emit: a model answers with what they have on average, which '
    'widens the scatter. Raise the S/N of Hα to 3 and it halves.">(mocks emit less)</span>'
)


class Pipeline:
    """The steps from a galaxy's number to its fitted spectrum: rebuilt, noised, de-noised by a model, and fitted."""

    wavelength = rest_wavelength()
    remark = REMARK

    def __init__(self, product):
        self.row = {int(candidate): k for k, candidate in enumerate(product["candidate"].values)}

    def prepare(self, candidates):
        """Rebuild original spectra, each with its noise in the test set for sigma = 1."""
        noise = self.noise[[self.row[int(candidate)] for candidate in candidates]]
        return self.rebuild(candidates).assign(unit_noise=(ROWS, noise, {"units": ""}))

    def run(self, originals, kind, size, sigma):
        """Noise, de-noise and fit: spectra (galaxy, wavelength), latents (galaxy, dim) and lines (galaxy, line)."""
        noisy = add_noise(originals, seed=0, sigma=sigma, unit_noise=originals["unit_noise"].values)
        with single_thread():
            predicted = self.denoise(kind, size, noisy)
            # No weights: the prediction covers even pixels where the survey had no data.
            flux = predicted["flux"].values
            spectra = xr.Dataset({"flux": (ROWS, flux), "mask": (ROWS, ~np.isfinite(flux))}, noisy.coords)
            fit = self.measure(spectra)
        return xr.Dataset(
            {
                "original": (ROWS, hide_masked(originals, "flux"), {"units": ""}),
                "noisy": (ROWS, hide_masked(noisy, "noisy"), {"units": ""}),
                "denoised": (ROWS, flux, {"units": ""}),
                "fit": (ROWS, (fit["continuum"] + fit["line_model"]).values, {"units": ""}),
                "latent": (("galaxy", "dim"), predicted["latent"].values, {"units": ""}),
                **{name: fit[name] for name in MEASURED if name in fit},
            },
            coords={"wavelength": originals["wavelength"].values, "line": fit["line"].values},
        )

    def rebuild(self, candidates):
        """Normalised originals of the mock survey."""
        spectra = rebuild(candidates, keep_truth=False)[["flux", "ivar", "mask", "candidate"]]
        return normalize_total(spectra, constant=read_products().attrs["constant"])

    @cached_property
    def noise(self):
        """Unit noise of the whole test set: one draw as in `add_noise`, a galaxy's hangs on its place there."""
        shape = (len(self.row), self.wavelength.size)
        return np.random.default_rng(TEST_NOISE_SEED).standard_normal(shape, dtype="f4")

    def denoise(self, kind, size, sample):
        """Let a shipped model remove the noise."""
        return denoise(load_denoiser(kind.lower(), size), sample)

    def measure(self, spectra):
        """Fit the lines, as quickly as a slider needs it."""
        return measure_lines_linear(spectra, keep_fit=True)

    def read_published(self, source, line):
        """The paper's scatter of peak fluxes [dex], over all points and over filled bins; or None."""
        return paper_scatter(source, line)


@lru_cache(maxsize=12)
def load_denoiser(kind, size):
    """A shipped model, kept for the next move of the slider."""
    return load(kind, size)[0]


def hide_masked(sample, variable):
    """Spectra (galaxy, wavelength) with NaN in masked pixels."""
    return np.where(sample["mask"].values, np.nan, sample[variable].values).astype(np.float32)
