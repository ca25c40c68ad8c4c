"""A small table of lines, and a pipeline that needs no model: what the dashboard does must hold for any."""

import numpy as np
import xarray as xr
from scipy.ndimage import median_filter, uniform_filter1d

from spectool.measure.classes import CLASSES
from spectool.papers.scourfield2023.line import Pipeline
from spectool.spectra import LINES

NAMES = ("Hδ", "Hβ", "[O III] 5007", "Hα", "[N II] 6583", "[S II] 6716")
MODELS = [f"{kind} {size}" for size in (2, 4, 6, 10) for kind in ("PCA", "AE", "VAE")]
SOURCES = ["original", "noise-added", *MODELS]
CONSTANT = 33.0
WIDTH = 5.0  # Angstrom; integrated over peak flux of every fake line


def scatter_of(source):
    """Scatter [dex] that the fake table gives a model: smaller for larger models, and for VAE below PCA."""
    if source == "original":
        return 0.0
    kind, size = source.split() if " " in source else ("noise-added", 1)
    return {"PCA": 0.4, "AE": 0.3, "VAE": 0.2, "noise-added": 0.6}[kind] + 0.1 / float(size)


def make_product(n=300, seed=0):
    """Lay out a table as `tools/make/scourfield2023_lines.py` does."""
    rng = np.random.default_rng(seed)
    group = rng.choice(5, n, p=(0.45, 0.15, 0.15, 0.15, 0.1))
    log_mass = rng.normal(9.9, 0.5, n)
    n2 = -0.9 + 0.35 * (log_mass - 9) + 0.1 * rng.normal(size=n) + 0.3 * (group > 2)
    o3 = 0.4 - 0.6 * (log_mass - 9) + 0.1 * rng.normal(size=n) + 1.0 * (group > 2)
    alpha = rng.uniform(-2.6, -0.4, n) - 0.6 * (group == 2)
    logs = np.stack([alpha - 1.0, alpha - 0.46, alpha - 0.46 + o3, alpha, alpha + n2, alpha - 0.6], axis=1)
    peak = np.stack([10 ** (logs + scatter_of(s) * rng.normal(size=logs.shape)) for s in SOURCES])
    peak[0][rng.random(logs.shape) < 0.04] = np.nan
    peak[2:][rng.random((len(MODELS), *logs.shape)) < 0.05] = 0.0
    latent = np.full((len(MODELS), n, 10), np.nan, dtype=np.float32)
    for k, name in enumerate(MODELS):
        size = int(name.split()[1])
        latent[k, :, :size] = rng.normal(size=(n, size)) + logs[:, 3:4]
    table = ("source", "galaxy", "line")
    return xr.Dataset(
        {
            "line_peak": (table, peak.astype("f4"), {"units": ""}),
            "line_peak_error": (table, np.full(peak.shape, 2e-3, "f4"), {"units": ""}),
            "line_flux": (table, (peak * WIDTH).astype("f4"), {"units": "Angstrom"}),
            "line_flux_error": (table, np.full(peak.shape, 1e-2, "f4"), {"units": "Angstrom"}),
            "latent": (("model", "galaxy", "dim"), latent, {"units": ""}),
            "candidate": ("galaxy", rng.permutation(10 * n)[:n]),
            "log_mass": ("galaxy", log_mass, {"units": "dex(Msun)"}),
            "spectral_class": ("galaxy", np.array(CLASSES)[group]),
        },
        coords={"source": SOURCES, "line": list(NAMES), "model": MODELS},
    )


class FakePipeline(Pipeline):
    """The paper's steps with originals of a flat continuum and lines one pixel wide, and without a model."""

    remark = "(as drawn)"

    def __init__(self, product):
        super().__init__(product)
        self.product, self.asked = product, []

    def rebuild(self, candidates):
        self.asked += [int(c) for c in candidates]
        at = [self.row[int(c)] for c in candidates]
        flux = np.full((len(at), self.wavelength.size), CONSTANT / self.wavelength.size)
        for name in NAMES:
            peak = self.product["line_peak"].sel(source="original", line=name).values[at]
            flux[:, np.argmin(np.abs(self.wavelength - LINES[name]))] += np.nan_to_num(peak)
        dims = ("galaxy", "wavelength")
        columns = {"flux": (dims, flux.astype("f4")), "ivar": (dims, np.full(flux.shape, 1e6, "f4"))}
        columns |= {"mask": (dims, np.zeros(flux.shape, bool)), "norm": ("galaxy", np.ones(len(at)))}
        columns["candidate"] = ("galaxy", np.asarray(candidates))
        return xr.Dataset(columns, coords={"wavelength": self.wavelength}, attrs={"constant": CONSTANT})

    def denoise(self, kind, size, sample):
        """Smooth with a box as wide as the model is small; its "latents" are mean fluxes of chunks."""
        width = {"PCA": 1, "AE": 2, "VAE": 3}[kind] + (size < 6)
        noisy = sample["noisy"].values
        latent = np.stack([chunk.mean(axis=1) for chunk in np.array_split(noisy, size, axis=1)], axis=1)
        flux = uniform_filter1d(noisy, width, axis=1)
        return xr.Dataset({"flux": (("galaxy", "wavelength"), flux), "latent": (("galaxy", "dim"), latent)})

    def measure(self, spectra):
        """Peak over the median of the neighbourhood; not a fit, but it follows the flux."""
        flux, wavelength = spectra["flux"].values, spectra["wavelength"].values
        continuum = median_filter(flux, size=(1, 31))
        at = [int(np.argmin(np.abs(wavelength - LINES[name]))) for name in NAMES]
        peak = (flux - continuum)[:, at]
        model = np.zeros_like(flux)
        model[:, at] = peak
        errors, table, dims = np.full(peak.shape, 1e-3), ("galaxy", "line"), ("galaxy", "wavelength")
        columns = {"line_peak": (table, peak), "line_peak_error": (table, errors)}
        columns |= {"line_flux": (table, peak * WIDTH), "line_flux_error": (table, errors * WIDTH)}
        columns |= {"continuum": (dims, continuum), "line_model": (dims, model)}
        return xr.Dataset(columns, coords={"line": list(NAMES)})
