"""A small table of lines, and a pipeline that needs no model: what the dashboard does must hold for any."""

import numpy as np
import xarray as xr
from scipy.ndimage import median_filter, uniform_filter1d

from spectool.explore.line_data import KINDS, SIZES, source_name
from spectool.explore.line_live import Pipeline
from spectool.measure.classes import CLASSES
from spectool.papers.scourfield2023.sample import rest_wavelength
from spectool.spectra import LINES

NAMES = ("Hδ", "Hβ", "[O III] 5007", "Hα", "[N II] 6583", "[S II] 6716")
MODELS = [source_name(kind, size) for size in SIZES for kind in KINDS]
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


def make_spectra(product, candidates):
    """Draw the originals of the fake table: a flat continuum, and lines one pixel wide."""
    wavelength = rest_wavelength()
    at = [int(np.flatnonzero(product["candidate"].values == c)[0]) for c in candidates]
    flux = np.full((len(at), wavelength.size), CONSTANT / wavelength.size)
    for name in NAMES:
        peak = product["line_peak"].sel(source="original", line=name).values[at]
        flux[:, np.argmin(np.abs(wavelength - LINES[name]))] += np.nan_to_num(peak)
    dims = ("galaxy", "wavelength")
    return xr.Dataset(
        {
            "flux": (dims, flux.astype("f4")),
            "ivar": (dims, np.full(flux.shape, 1e6, "f4")),
            "mask": (dims, np.zeros(flux.shape, bool)),
            "norm": ("galaxy", np.ones(len(at))),
            "candidate": ("galaxy", np.asarray(candidates)),
        },
        coords={"wavelength": wavelength},
        attrs={"constant": CONSTANT},
    )


def measure(sample):
    """Peak over the median of the neighbourhood; not a fit, but it follows the flux."""
    flux, wavelength = sample["flux"].values, sample["wavelength"].values
    continuum = median_filter(flux, size=(1, 31))
    at = [int(np.argmin(np.abs(wavelength - LINES[name]))) for name in NAMES]
    peak = (flux - continuum)[:, at]
    model = np.zeros_like(flux)
    model[:, at] = peak
    table, dims = ("galaxy", "line"), ("galaxy", "wavelength")
    errors = np.full(peak.shape, 1e-3)
    return xr.Dataset(
        {
            "line_peak": (table, peak),
            "line_peak_error": (table, errors),
            "line_flux": (table, peak * WIDTH),
            "line_flux_error": (table, errors * WIDTH),
            "continuum": (dims, continuum),
            "line_model": (dims, model),
        },
        coords={"line": list(NAMES)},
    )


def denoise(kind, size, sample):
    """Smooth with a box as wide as the model is small; its "latents" are mean fluxes of chunks."""
    width = {"PCA": 1, "AE": 2, "VAE": 3}[kind] + (size < 6)
    noisy = sample["noisy"].values
    latent = np.stack([chunk.mean(axis=1) for chunk in np.array_split(noisy, size, axis=1)], axis=1)
    return xr.Dataset(
        {
            "flux": (("galaxy", "wavelength"), uniform_filter1d(noisy, width, axis=1)),
            "latent": (("galaxy", "dim"), latent),
        }
    )


def make_pipeline(product, **replaced):
    """Assemble the steps; keyword arguments replace some of them."""
    noise = {int(c): k for k, c in enumerate(product["candidate"].values)}

    def unit_noise(candidates):
        return np.stack(
            [np.random.default_rng(noise[int(c)]).standard_normal(825, dtype="f4") for c in candidates]
        )

    steps = {
        "rebuild": lambda candidates: make_spectra(product, candidates),
        "noise": unit_noise,
        "denoise": denoise,
        "measure": measure,
    }
    return Pipeline(**{**steps, **replaced})
