"""Why stacks and galaxies give different metallicities: its own file, for it is an experiment, not a measure."""

import numpy as np
import xarray as xr
from scipy.interpolate import make_interp_spline

from spectool.broaden import broaden, fill_bad
from spectool.continuum import ContinuumBasis, normalize_continuum
from spectool.measure.line_widths import lacking_fwhm
from spectool.measure.stats import group_rows
from spectool.spectra import FWHM_TO_SIGMA, KM_S
from spectool.surveys.spectrograph import resolving_power

TEMPLATE_FWHM = 2.5  # Angstrom: spectra of mocks are nowhere sharper than their templates
AT = 5500.0  # Angstrom, at which the instrument's share of a width is taken
ERROR_AMPLITUDE, ERROR_SCALE = 0.03, 300.0
"""Errors of the flux calibration, relative, and their nodes' distance [Angstrom]."""
MEDIAN, NONLINEAR = "stacking: median, not light-weighted mean", "labels not log-linear"
RESOLUTION, CALIBRATION, SIGNAL_TO_NOISE = "resolution", "flux calibration", "signal to noise"


def flux_predictor(members):
    """From spectra to metallicities: continuum division and network, as a function.

    Parameters
    ----------
    members : module or sequence of modules
        With ``predict`` of prepared spectra; of several, the mean.

    Returns
    -------
    callable
        ndarray (galaxy, 3251) of flux on `spectool.continuum.optical_wavelength`, NaN where bad -> (galaxy,) [dex].
    """
    members = list(members) if isinstance(members, (list, tuple)) else [members]
    basis = ContinuumBasis.optical()

    def predict(flux):
        kept = np.asarray(flux)[:, basis.keep]
        bad = ~np.isfinite(kept)
        prepared, polynomial = normalize_continuum(np.where(bad, 0, kept), bad if bad.any() else None, basis)
        answers = np.mean([m.predict(prepared)[:, 0] for m in members], axis=0).astype(float)
        return np.where(np.isfinite(polynomial).all(axis=1), answers, np.nan)

    return predict


def distort_calibration(flux, wavelength, *, seed):
    """Multiply each spectrum by a smooth random error of its flux calibration."""
    flux, wavelength = np.asarray(flux), np.asarray(wavelength, float)
    nodes = np.arange(wavelength[0] - ERROR_SCALE, wavelength[-1] + 2 * ERROR_SCALE, ERROR_SCALE)
    rng = np.random.default_rng(seed)
    curve = make_interp_spline(nodes, rng.standard_normal((nodes.size, len(flux))), k=3)(wavelength).T
    return (flux * np.exp(ERROR_AMPLITUDE * curve)).astype(flux.dtype)


def add_noise(flux, relative_sigma, *, seed):
    """Add Gaussian noise relative to the local flux, by pixel or by chunk of the network's pixels; NaN: bad ones."""
    flux, sigma = np.asarray(flux), np.asarray(relative_sigma, np.float32)
    if sigma.shape[1] != flux.shape[1]:
        sigma = sigma[:, _chunk_of(flux.shape[1], sigma.shape[1])]
    deviates = np.random.default_rng(seed).standard_normal(flux.shape, dtype=np.float32)
    return (flux + np.abs(flux) * sigma * deviates).astype(flux.dtype)


def _chunk_of(n, n_chunks):
    """Chunk of each of n pixels: of those that the network is given, and for the others that of the next one."""
    keep = ContinuumBasis.optical().keep
    keep = keep if keep.size == n else np.ones(n, bool)
    lengths = [part.size for part in np.array_split(np.flatnonzero(keep), n_chunks)]
    of_kept = np.repeat(np.arange(n_chunks), lengths)
    return of_kept[np.minimum(np.cumsum(keep) - keep, of_kept.size - 1)]


def stellar_fwhm(sample):
    """Total width of stellar lines in SDSS spectra whose velocity dispersion is known.

    Parameters
    ----------
    sample : Dataset
        With ``redshift`` and ``velocity_dispersion`` [km/s].

    Returns
    -------
    ndarray, shape (galaxy,)
        FWHM at rest 5500 Angstrom [km/s].
    """
    observed = AT * (1 + np.asarray(sample["redshift"], float))
    instrument = np.maximum(KM_S / resolving_power(observed), KM_S * TEMPLATE_FWHM / AT)
    return np.hypot(instrument, np.asarray(sample["velocity_dispersion"], float) / FWHM_TO_SIGMA)


def observed_views(flux, wavelength, *, fwhm, assumed_fwhm, relative_sigma, seed):
    """The same galaxies seen ever less perfectly, as `explain_offset` takes them.

    Parameters
    ----------
    flux : ndarray, shape (galaxy, n)
        Noise-free, at the galaxies' own resolution, normalised as for stacking; NaN where bad.
    wavelength : ndarray, shape (n,)
    fwhm, assumed_fwhm : array_like, shape (galaxy,)
        Total width of each galaxy's lines, and what the mass-dependent correction takes it to be [km/s].
    relative_sigma : array_like, shape (galaxy, n) or (galaxy, chunk)
        Noise relative to the local flux; if so few, of the chunks that the network's pixels are cut into.
    seed : int

    Returns
    -------
    dict of str to callable
        Each returns (galaxy, n): all galaxies at exactly 330 km/s (what is broader stays); broadened by what is
        assumed; with calibration errors, too; with noise, too. (Both come before the broadening, as at the telescope.)
    """
    filled = fill_bad(np.array(flux, np.float32), ~np.isfinite(flux))
    noise_seed, error_seed = np.random.SeedSequence(seed).spawn(2)

    def broadened(spectra, width):
        return broaden(spectra, FWHM_TO_SIGMA * lacking_fwhm(width), wavelength, step=2.0)

    def distorted():
        return distort_calibration(filled, wavelength, seed=np.random.default_rng(error_seed))

    def noisy():
        return add_noise(distorted(), relative_sigma, seed=np.random.default_rng(noise_seed))

    return {
        "as they should be": lambda: broadened(filled, fwhm),
        RESOLUTION: lambda: broadened(filled, assumed_fwhm),
        CALIBRATION: lambda: broadened(distorted(), assumed_fwhm),
        SIGNAL_TO_NOISE: lambda: broadened(noisy(), assumed_fwhm),
    }


def explain_offset(
    views, labels, log_mass, predict, *, edges, light=None, n_bootstrap=50, min_count=20, seed=0
):
    """Take apart the offset between the median of galaxies and their stack, in bins of mass.

    With p the predictor, x the spectra of a bin, S their mean and w their shares of its light, the first view's offset
    median p(x) - p(S) is the sum of [median p(x) - sum w p(x)], what stacking does to any quantity, and of [sum w p(x)
    - p(S)], 0 for a predictor that is linear in flux. Each further view adds its own step.

    Parameters
    ----------
    views : dict of str to (callable or ndarray)
        Flux (galaxy, n) of the same galaxies, ever more like observations; their plain mean is the stack.
    labels, log_mass : array_like, shape (galaxy,)
        True ``log_z_lw`` [dex]; for the bins.
    predict : callable
        Flux (k, n) -> (k,) [dex], for one `flux_predictor`.
    edges : array_like
        Of the mass bins.
    light : array_like, shape (galaxy,), optional
        Light of each normalised spectrum; default: mean flux of the first view.
    n_bootstrap, min_count, seed : int
        Resamplings of a bin's galaxies, for errors; bins with fewer galaxies have NaN.

    Returns
    -------
    Dataset
        (step, bin): ``contribution`` [dex]; (step,): ``mean`` of the bins weighted by their galaxies; their sum is
        ``mean_offset``. (bin,): ``offset`` of the last view, ``label_offset``: median label minus the stack's (all
        with ``*_error``); ``stack_answer``, ``median_answer``: of the last view; ``stack_label``, ``median_label``;
        ``log_mass`` (median), ``count``. ``attrs``: ``n_left_out``, galaxies without a finite answer in each view.
    """
    labels, log_mass = np.asarray(labels, float), np.asarray(log_mass, float)
    edges = np.asarray(edges, float)
    bins = group_rows(np.searchsorted(edges, log_mass, side="right") - 1, edges.size - 1)
    answers, light = _individual_answers(views, predict, light)
    good = np.isfinite(answers).all(axis=0) & np.isfinite(labels) & np.isfinite(light)
    bins = [rows[good[rows]] for rows in bins]
    used = [b for b, rows in enumerate(bins) if rows.size >= min_count]
    rng = np.random.default_rng(seed)
    # The galaxies themselves, then resamplings of them.
    draws = {b: np.stack([bins[b], *rng.choice(bins[b], size=(n_bootstrap, bins[b].size))]) for b in used}
    stacks, n_draws = _stack_answers(views, predict, draws), n_bootstrap + 1
    steps = [MEDIAN, NONLINEAR, *list(views)[1:]]
    parts = np.full((len(steps), len(bins), n_draws), np.nan)
    names = ("stack_answer", "median_answer", "stack_label", "median_label")
    single = {name: np.full((len(bins), n_draws), np.nan) for name in names}
    for b in used:
        rows = draws[b]
        medians = np.median(answers[:, rows], axis=2)
        weight = light[rows] / light[rows].sum(axis=1, keepdims=True)
        mean = (weight * answers[0][rows]).sum(axis=1)
        offsets = medians - stacks[b]
        parts[0, b], parts[1, b] = medians[0] - mean, mean - stacks[b][0]
        parts[2:, b] = np.diff(offsets, axis=0)
        single["stack_answer"][b], single["median_answer"][b] = stacks[b][-1], medians[-1]
        single["stack_label"][b] = (weight * labels[rows]).sum(axis=1)
        single["median_label"][b] = np.median(labels[rows], axis=1)
    count = np.array([rows.size for rows in bins])
    mass = [np.median(log_mass[rows]) if rows.size else np.nan for rows in bins]
    inside = (log_mass >= edges[0]) & (log_mass < edges[-1])
    return _offset_dataset(steps, parts, single, count, mass, int((inside & ~good).sum()))


def _individual_answers(views, predict, light):
    """Answers (view, galaxy) and the galaxies' light."""
    answers = []
    for view in views.values():
        flux = view() if callable(view) else view
        if light is None:
            known = np.isfinite(flux)
            count = known.sum(axis=1)
            light = np.where(known, flux, 0).sum(axis=1, dtype=float) / np.where(count, count, np.nan)
        answers.append(predict(flux))
    return np.stack(answers).astype(float), np.asarray(light, float)


def _stack_answers(views, predict, draws):
    """Per bin, answers (view, draw) for the mean spectra."""
    answers = {b: [] for b in draws}
    for view in views.values():
        flux = view() if callable(view) else view
        for b, rows in draws.items():
            members = rows[0]
            place = np.searchsorted(members, rows)
            share = np.stack([np.bincount(p, minlength=members.size) for p in place]) / members.size
            known = np.isfinite(flux[members])
            weight = share @ known
            total = share @ np.where(known, flux[members], 0)
            answers[b].append(predict(np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)))
    return {b: np.stack(values) for b, values in answers.items()}


def _offset_dataset(steps, parts, single, count, mass, n_left_out):
    total = parts.sum(axis=0)
    used = np.isfinite(total).all(axis=1)
    share = np.where(used, count, 0) / max(count[used].sum(), 1)
    mean = np.einsum("sbd,b->sd", np.where(used[:, None], parts, 0), share if used.any() else share * np.nan)
    drawn = {
        "contribution": (("step", "bin"), parts),
        "mean": (("step",), mean),
        "mean_offset": ((), mean.sum(axis=0)),
        "offset": (("bin",), total),
        "label_offset": (("bin",), single["median_label"] - single["stack_label"]),
    }
    dex = {"units": "dex"}
    columns = {name: (dims, values[..., 0], dex) for name, (dims, values) in drawn.items()}
    columns |= {f"{name}_error": (dims, v[..., 1:].std(axis=-1), dex) for name, (dims, v) in drawn.items()}
    columns["log_mass"] = ("bin", np.array(mass), {"units": "dex(Msun)"})
    columns["count"] = ("bin", count, {"units": ""})
    columns |= {name: ("bin", values[:, 0], dex) for name, values in single.items()}
    return xr.Dataset(columns, coords={"step": steps}, attrs={"n_left_out": n_left_out})
