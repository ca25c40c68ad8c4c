"""Stellar populations with pPXF."""

import time
import warnings
from types import SimpleNamespace

import numpy as np
from scipy.optimize import nnls

from spectool.continuum import kept_pixels
from spectool.measure.line_design import require_ppxf, select_populations, stellar_templates, template_pixels
from spectool.measure.line_spectra import read_spectra
from spectool.measure.line_table import (
    BAD_INPUT,
    FAILED,
    OK,
    Results,
    add_status,
    attempt,
    galaxy_columns,
    note_fits,
)
from spectool.parallel import n_workers as granted_workers
from spectool.prepare import mask_bad_pixels, resample, spectral_coordinate
from spectool.spectra import KM_S, PIXEL_VELOCITY
from spectool.synth.grid import embedded_grid
from spectool.synth.synthesis import LABEL_RANGE

_MIN_PIXELS = 100
_VELOCITY_LIMIT, _DISPERSION_LIMITS = 400.0, (5.0, 500.0)  # km/s
# Sixteen ages [yr] and all metallicities of the embedded grid [log Z / Zsun].
AGES = tuple(10 ** np.linspace(6.5, 10.12, 16))
METALLICITIES = (-2.3, -1.7, -0.7, -0.4, 0.0, 0.4, 0.7)
FIT_RANGE = (4050.0, 7300.0)
_CHUNK = 4  # spectra per job
_UNIFORM = 0.02  # share of a pixel by which steps may differ
_UNITS = {"log_z_lw": "dex", "age_lw": "Gyr", "stellar_velocity": "km / s", "stellar_dispersion": "km / s"}
_UNITS |= {"chi2": "", "residual_rms": "", "fit_seconds": "s", "log_z_lw_error": "dex", "age_lw_error": "dex"}


def fit_populations(
    sample,
    *,
    grid=None,
    templates=(AGES, METALLICITIES),
    mdegree=10,
    regul=0.0,
    variable="flux",
    lsf=None,
    dispersion=120.0,
    fit_range=FIT_RANGE,
    keep=None,
    n_bootstrap=0,
    seed=0,
    keep_fit=False,
    n_workers=None,
    backend="loky",
    progress=True,
):
    """Light-weighted metallicity and age of each spectrum, with pPXF.

    The light of bursts of single ages and metallicities, times a polynomial for dust and calibration. `mdegree` must
    leave dust its freedom; `regul` buys scatter with bias.

    Parameters
    ----------
    sample : Dataset
        dims (galaxy, wavelength), or another in the place of galaxy: in the observed frame (``observed_wavelength``
        and column ``redshift``) or at rest, on pixels uniform in wavelength or in its logarithm. ``ivar`` and
        ``mask`` are honoured; pixels that are not finite are left out.
    grid : SSPGrid, optional
        Default: the embedded one.
    templates
        Of `spectool.measure.line_design.select_populations`.
    mdegree : int
        Of the multiplicative Legendre polynomial.
    regul : float
        pPXF's regularisation of the weights over (metallicity, age); 0 for none.
    variable : str
        Which variable is fitted.
    dispersion : float
        Of the stars [km/s], to begin with.
    fit_range : (float, float)
        Rest wavelengths [Angstrom].
    keep : callable, optional
        Wavelengths [Angstrom] to what may be used (bool); default `spectool.continuum.kept_pixels`: no emission lines.
    n_bootstrap : int
        Repeated fits with the signs of residuals drawn anew (wild bootstrap, at the polynomial and kinematics found)
        that errors come from; 0: none.
    seed : int
        Of these signs.
    keep_fit : bool
        Keep ``model`` and ``light_share`` (galaxy, metallicity, age).
    lsf, n_workers, backend, progress
        As for `spectool.measure.lines_ppxf.fit_lines`.

    Returns
    -------
    Dataset
        Per galaxy ``log_z_lw`` [dex], ``age_lw`` [Gyr] (their ``_error`` after a bootstrap: of age_lw in dex),
        ``stellar_velocity``, ``stellar_dispersion`` [km/s], ``chi2`` per degree of freedom (of a guessed noise where
        there is no ``ivar``), ``residual_rms`` relative to the flux, ``fit_seconds``, ``fit_status`` (0 ok, 1 bad
        input, 2 failed) and ``fit_message``; the per-galaxy columns of `sample`, truth renamed ``true_log_z_lw`` and
        ``true_age_lw``. A fit that fails is NaN and stops no other. After an interrupt ``attrs["interrupted"]`` is 1.

    Raises
    ------
    ImportError
        Without pPXF.
    ValueError
        If sample or options are none that can be fitted.
    """
    require_ppxf()
    grid = embedded_grid() if grid is None else grid
    if mdegree < 0 or not regul >= 0 or n_bootstrap < 0:
        raise ValueError("mdegree, regul and n_bootstrap must not be negative")
    if variable not in sample:
        raise ValueError(
            f"the sample has no variable `{variable}`, only {sorted(map(str, sample.data_vars))}"
        )
    row_dim = next((str(d) for d in sample[variable].dims if d != "wavelength"), "galaxy")
    galaxies = sample.rename({row_dim: "galaxy"}) if row_dim != "galaxy" else sample
    fit_range = (max(fit_range[0], grid.edges[0]), min(fit_range[1], grid.edges[-1]))
    pixels = _log_pixels(galaxies, variable, fit_range)
    spectra = read_spectra(pixels, variable, lsf, fit_range=fit_range, grid=grid)
    settings = {"mdegree": int(mdegree), "regul": float(regul), "dispersion": float(dispersion)}
    setup = _make_setup(spectra, grid, templates, n_bootstrap=int(n_bootstrap), **settings)
    keep = kept_pixels if keep is None else keep
    count, n_pixels = spectra.flux.shape

    def job(k):
        flux, noise, log_first = spectra.at_rest(k)
        good = (noise > 0) & np.isfinite(flux) & keep(np.exp(log_first + spectra.step * np.arange(n_pixels)))
        return k, flux, noise, good, log_first, (seed, k)

    shapes = dict.fromkeys(_UNITS, ())
    shapes |= {"light_share": setup.light.shape, "model": (n_pixels,)} if keep_fit else {}
    results, workers = Results(count, shapes), n_workers or granted_workers()
    chunk = _CHUNK if workers > 1 else 1
    options = {"workers": min(workers, -(-count // chunk)), "backend": backend, "progress": progress}
    options |= {"desc": "fitting populations", "chunk": chunk}
    complete = results.fill(fit_population_chunk, setup, job, **options)
    table = galaxy_columns(galaxies)
    table = table.rename({name: f"true_{name}" for name in ("log_z_lw", "age_lw", "chi2") if name in table})
    for name, units in _UNITS.items():
        if n_bootstrap or not name.endswith("_error"):
            table[name] = ("galaxy", results.values[name], {"units": units})
    table = add_status(table, results.status, results.values["message"])
    if keep_fit:
        shares, models = (results.values[name].astype(np.float32) for name in ("light_share", "model"))
        log_z, log_age = ("metallicity", setup.log_z), ("age", setup.log_age)
        places = {"log_z": (*log_z, {"units": "dex"}), "log_age": (*log_age, {"units": "dex(Gyr)"})}
        table = table.assign_coords({spectra.coordinate.name: spectra.coordinate} | places)
        table["light_share"] = (("galaxy", "metallicity", "age"), shares, {"units": ""})
        table["model"] = (("galaxy", "wavelength"), models, {"units": spectra.units})
    table = note_fits(table, f"stellar populations fitted with pPXF in `{variable}`", spectra)
    name = str(grid.provenance.get("name", ""))
    table = table.assign_attrs(interrupted=int(not complete), z_sun=grid.z_sun, library=name)
    return table.rename(galaxy=row_dim) if row_dim != "galaxy" else table


def _log_pixels(sample, variable, fit_range):
    """The sample as it is if its pixels are uniform in log wavelength, else rebinned to such."""
    wavelength, rest = spectral_coordinate(sample)
    logarithmic, linear = (np.diff(values, axis=-1) for values in (np.log(wavelength), wavelength))
    if logarithmic.size == 0 or not np.isfinite(logarithmic).all():
        raise ValueError("wavelengths must be finite and positive, 60 pixels at least")
    if np.abs(logarithmic / np.median(logarithmic) - 1).max() <= _UNIFORM:
        return sample
    if np.abs(linear / np.median(linear) - 1).max() > _UNIFORM or not rest or wavelength.ndim != 1:
        raise ValueError(
            "the sample's pixels are uniform neither in log wavelength nor, at rest, in wavelength (a prepared sample "
            "has gaps): resample with spectool.prepare.resample first"
        )
    pixels = sample.assign(flux=sample[variable])
    has_ivar = "ivar" in sample
    low, high = max(wavelength[0], fit_range[0]), min(wavelength[-1], fit_range[1])
    if not high > low:
        raise ValueError(
            f"the sample covers {wavelength[0]:.0f}-{wavelength[-1]:.0f} A, nothing of {fit_range} A"
        )
    grid = np.exp(np.arange(np.log(low), np.log(high), PIXEL_VELOCITY / KM_S))
    with warnings.catch_warnings():
        # Empty spectra are told one by one in fit_message.
        warnings.simplefilter("ignore")
        pixels = resample(mask_bad_pixels(pixels), grid)
    pixels = pixels if has_ivar else pixels.drop_vars("ivar")
    return pixels if variable == "flux" else pixels.rename(flux=variable)


def _make_setup(spectra, grid, selection, **settings):
    """Templates, what they stand for, and settings that all spectra share."""
    ratio, edges, lsf, log_start = template_pixels(spectra)
    normalised = stellar_templates(edges, lsf, grid, selection=selection, reddening=(0.0,))
    age, metal = select_populations(grid, selection)
    plane = np.ix_(metal, age)
    # What a template was divided by: the sum of its pixels before and after (blurring moves light, but keeps it).
    inside = np.flatnonzero((edges >= grid.edges[0]) & (edges <= grid.edges[-1]))
    own = grid.rebinned_flux(edges[inside])[plane].reshape(len(normalised), -1).astype(float)
    divisor = own.sum(axis=1) / normalised[:, inside[0] : inside[-1]].sum(axis=1)
    seen = (grid.wavelength >= LABEL_RANGE[0]) & (grid.wavelength <= LABEL_RANGE[1])
    light = (grid.flux[..., seen] * np.diff(grid.edges)[seen]).sum(-1).astype(float)[plane].ravel()
    return SimpleNamespace(
        velscale=spectra.velscale,
        ratio=ratio,
        log_start=log_start,
        templates=normalised,
        light=(light / divisor).reshape(metal.size, age.size),
        log_z=np.log10(grid.metallicity[metal] / grid.z_sun),
        log_age=np.log10(np.maximum(grid.age[age], 1.0) / 1e9),
        **settings,
    )


def fit_population_chunk(setup, jobs):
    """Fit several spectra."""
    done = []
    for row, *job in jobs:
        begun = time.perf_counter()
        done.append((row, attempt(_fit, setup, *job) | {"fit_seconds": time.perf_counter() - begun}))
    return done


def _fit(setup, flux, noise, good, log_first, seed):
    pixels = np.flatnonzero(good)
    level = float(np.median(flux[pixels])) if pixels.size else 0.0
    if pixels.size < _MIN_PIXELS:
        return {"status": BAD_INPUT, "message": f"only {pixels.size} good pixels of {flux.size}"}
    if not level > 0:
        return {"status": BAD_INPUT, "message": "the median flux is not positive"}
    flux = np.where(np.isfinite(flux), flux, 0.0) / level
    noise = np.where(good, noise, np.median(noise[pixels])) / level
    values = _call_ppxf(setup, flux, noise, pixels, log_first)
    share = _light_share(setup, values.weights)
    if not np.isfinite(share).all():
        return {"status": FAILED, "message": "pPXF gave no template any weight"}
    log_z, log_age = _means(setup, share)
    off = (flux / values.bestfit - 1)[pixels]
    result = {
        "status": OK if values.status > 0 else FAILED,
        "message": "" if values.status > 0 else "not converged within pPXF's number of steps",
        "log_z_lw": log_z,
        "age_lw": 10**log_age,
        "stellar_velocity": float(values.sol[0]),
        "stellar_dispersion": float(values.sol[1]),
        "chi2": float(values.chi2),
        "residual_rms": float(np.sqrt(np.mean(off**2))),
        "light_share": share,
        "model": values.bestfit * level,
    }
    return result | _bootstrap(setup, values, flux, noise, pixels, seed)


def _call_ppxf(setup, flux, noise, pixels, log_first):
    from ppxf.ppxf import ppxf

    # capfit divides by the step's gain, which is 0 where there is nothing to gain.
    with np.errstate(divide="ignore", invalid="ignore"):
        return ppxf(
            setup.templates.T,
            flux,
            noise,
            setup.velscale,
            [0.0, setup.dispersion],
            bounds=[[-_VELOCITY_LIMIT, _VELOCITY_LIMIT], list(_DISPERSION_LIMITS)],
            moments=2,
            degree=-1,
            mdegree=setup.mdegree,
            regul=setup.regul,
            reg_dim=setup.light.shape if setup.regul else None,
            goodpixels=pixels,
            vsyst=(setup.log_start - log_first) * KM_S,
            velscale_ratio=setup.ratio,
            quiet=True,
        )


def _light_share(setup, weights):
    share = np.asarray(weights).reshape(setup.light.shape) * setup.light
    with np.errstate(divide="ignore", invalid="ignore"):
        return share / share.sum()


def _means(setup, share):
    return float(share.sum(1) @ setup.log_z), float(share.sum(0) @ setup.log_age)


def _bootstrap(setup, computed, flux, noise, pixels, seed):
    """Scatter of both means when residuals change their signs, at the polynomial and kinematics found."""
    if not setup.n_bootstrap:
        return {}
    rng = np.random.default_rng(seed)
    # The templates as pPXF fitted them, convolved and times the polynomial, over the noise.
    design = computed.matrix[pixels] / noise[pixels, None]
    model = computed.bestfit[pixels]
    residual = flux[pixels] - model
    means = []
    for _ in range(setup.n_bootstrap):
        drawn = model + residual * rng.choice((-1.0, 1.0), residual.size)
        weights, _ = nnls(design, drawn / noise[pixels])
        means.append(_means(setup, _light_share(setup, weights)))
    error = np.std(means, axis=0, ddof=1) if len(means) > 1 else np.full(2, np.nan)
    return {"log_z_lw_error": float(error[0]), "age_lw_error": float(error[1])}
