"""Emission lines with pPXF: stars and gas together, for thousands of spectra.

How a spectrum is fitted (pPXF is described by Cappellari 2017, MNRAS 466, 798). The populations of `ppxf_templates`
and all lines that galaxies have are fitted at fixed kinematics, which is non-negative least squares. Then pPXF fits
the kinematics, with the few populations that have weight; all populations and lines are fitted again at what it found.
These are pPXF's fluxes, in a tenth of the time of its own loop over all templates. Errors come from the curvature of
chi2, with the stars and all kinematics marginalised (pPXF's own take both as known).
"""

import numpy as np
import xarray as xr
from astropy import units as u

from spectool.measure.line_batch import NOT_FITTED, Results, fingerprint, run_fits
from spectool.measure.line_columns import gas_templates, line_columns
from spectool.measure.line_setup import FitSetup
from spectool.measure.line_spectra import read_spectra
from spectool.measure.line_worker import BAD_INPUT, FAILED, OK
from spectool.measure.linear_lines import MEASURED
from spectool.measure.ppxf_templates import (
    REDDENING,
    embedded_grid,
    stellar_templates,
    template_edges,
    template_lsf,
)
from spectool.prepare import add_history
from spectool.wavelength import LINES

__all__ = ["MEASURED", "fit_lines"]

GAS_DISPERSION, STELLAR_DISPERSION = 100.0, 130.0  # km/s, to begin with
FINE = 75.0  # km/s: template pixels are at most so wide
FIT_RANGE = (3540.0, 8750.0)  # where the embedded templates have their full resolution


def fit_lines(
    sample,
    *,
    grid=None,
    templates="compact",
    reddening=REDDENING,
    variable="flux",
    lines=MEASURED,
    kinematics="free",
    gas_dispersion=GAS_DISPERSION,
    stellar_dispersion=STELLAR_DISPERSION,
    broad=True,
    degree=-1,
    doublets=None,
    lsf=None,
    fit_range=FIT_RANGE,
    rescale_errors=None,
    keep_fit=False,
    n_workers=None,
    backend="loky",
    checkpoint=None,
    progress=True,
):
    """Fluxes, errors and peaks of emission lines, with pPXF.

    Parameters
    ----------
    sample : Dataset
        dims (galaxy, wavelength), on pixels uniform in log wavelength: SDSS's own (coordinate ``observed_wavelength``
        and column ``redshift``, or ``rest_wavelength``) or any common rest-frame grid (``wavelength``).
        ``ivar`` and ``mask`` are honoured.
    grid : SSPGrid, optional
        Default: the embedded one.
    templates, reddening
        Populations and optical depths of the stellar templates; see
        `spectool.measure.ppxf_templates.stellar_templates`.
    variable : str
        Which variable is fitted. For one made by `spectool.denoising.add_noise` the errors are those of the noise
        added, in its ``_sigma``, and of the spectrum below it.
    lines : sequence of str
        To be reported.
    kinematics : {"free", "fixed"}
        Whether velocities and dispersions are fitted; spectra too noisy for that keep those that are given.
    gas_dispersion, stellar_dispersion : float or array_like (galaxy,)
        Intrinsic [km/s], to begin with or fixed.
    broad : bool
        Let Balmer lines have broad wings in spectra that ask for them: broad-line AGN.
    degree : int
        Of additive polynomials; -1 for none. They make Balmer absorption, and so Balmer lines, uncertain.
    doublets : dict, optional
        See `spectool.measure.line_columns.line_columns`.
    lsf : float or array_like (wavelength,), optional
        Sigma of the line-spread function [km/s]; default the variable ``lsf_sigma``, else SDSS's for surveys that are
        SDSS's or made of it, else the templates' own.
    fit_range : (float, float)
        Rest wavelengths [Angstrom].
    rescale_errors : bool, optional
        Multiply errors by the square root of chi2 per degree of freedom, as one must where the noise is not known;
        default: where there is no ``ivar``.
    keep_fit : bool
        Keep ``continuum`` and ``line_model``.
    n_workers : int, optional
        Default `spectool.parallel.n_workers`.
    backend : str
        Of joblib: "loky", "threading", or "dask" with a ``distributed.Client`` at hand.
    checkpoint : path, optional
        ``.npz`` file: what is done is kept there, and a second call with the same arguments goes on from it.
    progress : bool

    Returns
    -------
    Dataset
        dims (galaxy, line): ``line_flux`` and ``line_flux_error`` [flux unit Angstrom], ``line_sn``, ``line_peak`` of
        the profile on the spectrum's own (rest-frame) pixels and its error, ``line_an`` (peak over the local residual's
        rms); per galaxy ``gas_velocity``, ``gas_dispersion``, ``stellar_velocity``, ``stellar_dispersion`` [km/s],
        ``broad_h_alpha_flux``,
        ``chi2`` per degree of freedom, ``fit_status`` (0 ok, 1 bad input, 2 failed) and ``fit_message``. Lines that are
        masked or out of range are NaN and counted in ``attrs["history"]``. All per-galaxy columns of `sample` are
        kept. After an interrupt ``attrs["interrupted"]`` is 1 and what was not fitted has status 2.

    Raises
    ------
    ImportError
        Without pPXF.
    ValueError
        If the sample, a line or an option is none that can be fitted.
    """
    _require_ppxf()
    if kinematics not in ("free", "fixed"):
        raise ValueError(f"kinematics are 'free' or 'fixed', not {kinematics!r}")
    grid = embedded_grid() if grid is None else grid
    fit_range = (max(fit_range[0], grid.edges[0]), min(fit_range[1], grid.edges[-1]))
    spectra = read_spectra(sample, variable, lsf, fit_range, grid)
    rescale = not spectra.has_ivar if rescale_errors is None else bool(rescale_errors)
    setup = make_setup(spectra, lines, doublets, broad, grid, templates, reddening).with_options(
        degree=int(degree),
        free=kinematics == "free",
        fit_stellar_velocity=spectra.velscale < 2 * FINE,
        rounds=1 if spectra.velscale > 2 * FINE else 2,
        rescale=rescale,
        keep_fit=bool(keep_fit),
    )
    count = spectra.n_galaxies
    star = _per_galaxy(stellar_dispersion, count, "stellar_dispersion")
    gas = _per_galaxy(gas_dispersion, count, "gas_dispersion")
    results = Results(
        count,
        len(lines),
        spectra.n_pixels if keep_fit else 0,
        path=checkpoint,
        fingerprint=fingerprint(setup, (*spectra.arrays(), star, gas)) if checkpoint is not None else "",
    )

    def jobs(rows):
        return [(int(k), *spectra.one(k), (0.0, star[k]), (0.0, gas[k])) for k in rows]

    complete = run_fits(setup, jobs, results, n_workers=n_workers, backend=backend, progress=progress)
    return _assemble(sample, results, lines, spectra, keep_fit).assign_attrs(interrupted=int(not complete))


def _require_ppxf():
    try:
        import ppxf.ppxf  # noqa: F401
    except ImportError as error:
        raise ImportError("line fits need the package ppxf (pip install 'ppxf>=9.4')") from error


def _per_galaxy(value, count, name):
    value = np.broadcast_to(np.asarray(value, float), count)
    if not (np.isfinite(value) & (value > 0)).all():
        raise ValueError(f"{name} must be positive [km/s]")
    return value


def make_setup(spectra, lines, doublets, broad, grid, selection, reddening):
    """Templates and lines on pixels that serve all spectra.

    Parameters
    ----------
    spectra : spectool.measure.line_spectra.Spectra
    lines, doublets, broad, grid, selection, reddening
        As in `fit_lines`; `selection` is its `templates`.

    Returns
    -------
    FitSetup
    """
    ratio = int(np.ceil(spectra.velscale / FINE))
    edges = template_edges(*spectra.reach, spectra.step, ratio)
    centres = np.sqrt(edges[1:] * edges[:-1])
    lsf = template_lsf(edges, spectra.lsf_at(centres), ratio)
    stars = stellar_templates(edges, lsf, grid=grid, selection=selection, reddening=reddening)
    wavelength, columns, reported, balmer = line_columns(lines, spectra.velscale, doublets=doublets)
    gas = gas_templates(edges, lsf, wavelength)
    size = 2 ** int(np.ceil(np.log2(centres.size)))
    return FitSetup(
        velscale=spectra.velscale,
        ratio=ratio,
        log_start=float(np.log(np.mean(centres[:ratio]))),
        stars=stars,
        gas=gas,
        stars_rfft=np.fft.rfft(stars, size, axis=1),
        gas_rfft=np.fft.rfft(gas, size, axis=1),
        columns=columns,
        reported=reported,
        balmer=balmer if broad else balmer[:0],
    )


def _assemble(sample, results, lines, spectra, keep_fit):
    """The line table."""
    status = np.where(results.status == NOT_FITTED, FAILED, results.status).astype(np.int8)
    message = np.where(results.status == NOT_FITTED, "not fitted: interrupted", results.message)
    values = results.values
    flux = (u.Unit(spectra.units) * u.AA).to_string()
    with np.errstate(invalid="ignore", divide="ignore"):
        values = values | {"sn": values["flux"] / values["error"]}
    by_line = {
        "line_flux": ("flux", flux),
        "line_flux_error": ("error", flux),
        "line_sn": ("sn", ""),
        "line_peak": ("peak", spectra.units),
        "line_peak_error": ("peak_error", spectra.units),
        "line_an": ("an", ""),
    }
    by_galaxy = {
        "gas_velocity": (values["gas"][:, 0], "km / s"),
        "gas_dispersion": (values["gas"][:, 1], "km / s"),
        "stellar_velocity": (values["star"][:, 0], "km / s"),
        "stellar_dispersion": (values["star"][:, 1], "km / s"),
        "broad_h_alpha_flux": (values["broad"], flux),
        "chi2": (values["chi2"], ""),
    }
    table = xr.Dataset(
        {n: sample[n] for n in sample.variables if sample[n].dims == ("galaxy",)}, attrs=dict(sample.attrs)
    )
    centre = [LINES[name] for name in lines]
    table = table.assign_coords(
        line=("line", list(lines)),
        line_wavelength=("line", centre, {"units": "Angstrom", "description": "vacuum"}),
    )
    bad = status != OK
    for name, (key, units) in by_line.items():
        table[name] = (("galaxy", "line"), np.where(bad[:, None], np.nan, values[key]), {"units": units})
    for name, (column, units) in by_galaxy.items():
        table[name] = ("galaxy", np.where(bad, np.nan, column), {"units": units})
    text = {"units": "", "description": "0 ok, 1 bad input, 2 failed"}
    table["fit_status"] = ("galaxy", status, text)
    table["fit_message"] = ("galaxy", message, {"units": ""})
    if keep_fit:
        coordinate = spectra.coordinate
        table = table.assign_coords({coordinate.name: coordinate})
        for name in ("continuum", "line_model"):
            pixels = np.where(bad[:, None], np.nan, values[name]).astype(np.float32)
            table[name] = (("galaxy", "wavelength"), pixels, {"units": spectra.units})
    return add_history(table, _summary(table, spectra, lines))


def _summary(table, spectra, lines):
    """What was fitted and what could not be, in one line."""
    status = table["fit_status"].values
    text = (
        f"lines fitted in `{spectra.variable}` with pPXF: {status.size} spectra, "
        f"{(status == BAD_INPUT).sum()} with bad input, {(status == FAILED).sum()} failed"
    )
    reasons, counts = np.unique(table["fit_message"].values[status != OK], return_counts=True)
    text += "".join(f"; {count} x {reason}" for reason, count in zip(reasons[:8], counts[:8], strict=True))
    missing = np.isnan(table["line_flux"].values[status == OK]).sum(axis=0)
    missed = [f"{name}: {count}" for name, count in zip(lines, missing, strict=True) if count]
    text += "; lines masked or out of range, " + ", ".join(missed) if missed else ""
    text += f"; {spectra.n_not_finite} pixels with flux not finite left out" if spectra.n_not_finite else ""
    return text + ("" if spectra.has_ivar else "; no ivar given: noise guessed from neighbouring pixels")
