"""Fit some hundred spectra of the mock CALIFA sample with pPXF, and print how fitted labels err.

    python -m tools.make.liewcain2021_labels [--galaxies 36] [--per-galaxy 6] [--sn 40] [--seed 6] [--table FILE.nc]

What it prints goes into `spectool.papers.liewcain2021.sample.MEASURED`; the defaults print what is there. Five minutes
on one core.
"""

import numpy as np
import xarray as xr

from spectool.measure.populations import fit_populations
from spectool.papers.liewcain2021.sample import LABELS, PIVOT, ErrorModel
from spectool.spectra import KM_S
from spectool.surveys.califa import draw_califa, rebuild_galaxy
from tools.command import make_parser

SAMPLE_SEED = 2021
SN = 40.0
"""Signal to noise per Angstrom of the spectra that are fitted: what surveys bin to, a round number of ours."""
REGUL = 10.0
FIT_RANGE = (3800.0, 7400.0)
# CALIFA's V500 has 6 A FWHM: so many km/s at 5500 A beyond the grid's 2.5 A.
_V500_DISPERSION = 126.0
_PIXEL = 100.0  # km/s: V500 has pixels of 2 A


OPTIONS = {
    "galaxies": (36, ""),
    "per_galaxy": (6, ""),
    "sn": (SN, "per Angstrom at 5500 A"),
    "regul": (REGUL, "pPXF's regularisation"),
    "seed": (6, "of the choice of spectra and their noise"),
    "workers": (None, ""),
    "table": (None, "netCDF file for the fitted labels"),
}


def main(arguments=None):
    """Fit, print, and write the table if asked; returns the ErrorModel."""
    options = make_parser(__doc__, OPTIONS).parse_args(arguments)
    sample = draw_califa(seed=SAMPLE_SEED, progress=False)
    labels = fit_labels(sample, options)
    if options.table:
        labels.to_netcdf(options.table)
    model = fit_error_model(labels)
    report(labels, model)
    return model


def fit_labels(sample, options):
    """Ages and metallicities of some spectra with regularised pPXF."""
    rng = np.random.default_rng(options.seed)
    coarse = sample.assign(velocity_dispersion=np.hypot(sample["velocity_dispersion"], _V500_DISPERSION))
    pixels = np.exp(np.arange(*np.log(FIT_RANGE), _PIXEL / KM_S))
    parts = []
    for galaxy in np.sort(rng.permutation(sample.sizes["galaxy"])[: options.galaxies]):
        spectra = rebuild_galaxy(coarse, int(galaxy), wavelength=pixels)
        rows = np.sort(rng.permutation(spectra.sizes["spectrum"])[: options.per_galaxy])
        parts.append(spectra.isel(spectrum=rows)[["flux", "row", "galaxy_index", *LABELS]])
    spectra = xr.concat(parts, "spectrum", coords="minimal", compat="override", join="override")
    flux = spectra["flux"].values
    level = flux[:, np.abs(pixels - 5500.0) < 50].mean(axis=1)
    noise = level[:, None] / (options.sn * np.sqrt(pixels * _PIXEL / KM_S))
    noisy = flux + noise * rng.standard_normal(flux.shape)
    dims = spectra["flux"].dims
    fitted = fit_populations(
        spectra.assign(flux=(dims, noisy, {"units": ""}), ivar=(dims, noise**-2, {"units": ""})),
        regul=options.regul,
        fit_range=FIT_RANGE,
        keep=np.isfinite,
        n_workers=options.workers,
        progress=not options.quiet,
    )
    table = spectra[["row", "galaxy_index", *LABELS]]
    for name in ("chi2", "fit_status", "fit_seconds"):
        table[name] = fitted[name]
    table["log_age_fit"] = ("spectrum", np.log10(fitted["age_lw"].values), {"units": "dex(Gyr)"})
    table["log_z_fit"] = ("spectrum", fitted["log_z_lw"].values, dict(fitted["log_z_lw"].attrs))
    return table.assign_attrs(sn=options.sn, regul=options.regul)


def fit_error_model(labels):
    """Describe the errors of fitted labels: a plane in true age and metallicity, and two covariances."""
    true = np.stack([labels[name].values for name in LABELS], axis=1)
    error = np.stack([labels[f"{name}_fit"].values for name in LABELS], axis=1) - true
    good = np.isfinite(error).all(axis=1)
    _, galaxy, count = np.unique(labels["galaxy_index"].values[good], return_inverse=True, return_counts=True)
    if (count > 1).sum() < 3:
        raise ValueError("an error model needs three galaxies with two or more fitted spectra each")
    design = np.column_stack([np.ones(good.sum()), true[good] - PIVOT])
    plane, *_ = np.linalg.lstsq(design, error[good], rcond=None)
    residual = error[good] - design @ plane
    mean = np.stack([np.bincount(galaxy, column) / count for column in residual.T], axis=1)
    inside = residual - mean[galaxy]
    within = inside.T @ inside / (good.sum() - count.size)
    scatter = (mean * count[:, None]).T @ mean / (count.size - 1)
    size = (good.sum() - (count**2).sum() / good.sum()) / (count.size - 1)
    return ErrorModel(
        plane[0], plane[1:].T, _positive((scatter - within) / size), within, int(good.sum()), count.size
    )


def _positive(matrix):
    """The nearest covariance: no negative eigenvalues."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    return (vectors * np.maximum(values, 0)) @ vectors.T


def report(labels, model):
    """Print the model, and the bias and scatter of the labels that it was made from."""
    for name, values in model._asdict().items():
        print(f"{name} = {np.round(values, 4).tolist()}")
    for name in LABELS:
        error = labels[f"{name}_fit"].values - labels[name].values
        print(f"{name}: bias {np.nanmedian(error):.3f}, scatter {np.nanstd(error):.3f} dex")
    print(
        f"{int((labels['fit_status'] != 0).sum())} of {labels.sizes['spectrum']} fits failed; "
        f"{float(labels['fit_seconds'].mean()):.2f} s each"
    )


if __name__ == "__main__":
    main()
