"""Masses, star-formation rates and dust luminosities from broadband fluxes, fitted with a library of models.

The priors resemble those of da Cunha et al. (2008, MNRAS 388, 1595).
"""

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from spectool.measure.stats import group_rows, percentiles_by_group
from spectool.models.bands import describe_counts, read_inputs
from spectool.models.calibration import figures_of_merit
from spectool.prepare import add_history
from spectool.surveys.photometry import REFERENCE_MPC, luminosity_distance, measure_photometry
from spectool.synth import relations, sfh
from spectool.synth.population import age_of_universe

PROPERTIES = {"log_mass": "dex(Msun)", "log_sfr": "dex(Msun / yr)", "log_dust_luminosity": "dex(solLum)"}

N_MODELS = 50_000
LOWEST_REDSHIFT = 1e-3
_DUST_SLOPE = -0.7
_ONSET_GYR = (0.1, 13.5)
_BURSTS_PER_GYR = np.log(2) / 2  # none within 2 Gyr in half of the galaxies
_BURST_SHARE, _BURST_GYR = (0.03, 4.0), (0.03, 0.3)
_METALLICITY = (0.02, 2.0)
_KEPT = ("age_form", "gamma_sfh", "n_bursts", "log_z_star", "tau_v", "mu", "dust_index")
_KEPT += ("qpah", "umin", "gamma")

MODEL_ERROR = 0.1
MIN_BANDS = 3
CELL = 0.0025
"""Galaxies whose redshifts differ by less are compared with models at one redshift, off by 0.00125 at most."""
NEGLIGIBLE = 20.0
"""Models this much above the smallest chi-square are dropped: at most 0.14% of the weight in 32 galaxies tried."""
_BIN = 0.005
RANGES = {"log_mass": (3.0, 14.0), "log_sfr": (-7.0, 5.0), "log_dust_luminosity": (2.0, 15.0)}
"""Of the posteriors [dex]; what lies beyond is counted in the outermost bins."""
QUANTILES = {"_fit": 0.5, "_fit_low": 0.16, "_fit_high": 0.84}
_TINY = 1e-30

SCORES = ("bias", "scatter", "rms", "r2", "coverage", "half_width", "n")
DEEPER = 10.0
RATE_BIN, MIN_COUNT = 0.5, 30
STATED = "error stated by the fit"


def draw_library(n=N_MODELS, *, averages, seed, redshift_step=0.02, progress=True):
    """Draw models and compute their fluxes on a grid of redshifts: some 17,000 models and redshifts a second.

    Parameters
    ----------
    n : int
        Number of models.
    averages : SimpleNamespace
    seed : int or numpy.random.Generator
    redshift_step : float
        Between nodes, fluxes are interpolated linearly: half-way between nodes 0.02 apart 99% are good to 1.4%.
    progress : bool

    Returns
    -------
    xarray.Dataset, dims (redshift, model, band)
        ``flux`` [Jy / Msun], float32: at 10 Mpc, of a galaxy whose stars weighed 1 Msun when they formed, at rest and
        moved to each redshift; its ``log_mass`` (surviving), ``log_sfr`` (100 Myr), ``log_dust_luminosity``; the
        parameters drawn, ``age_form`` [Gyr] among them, by which models are sorted. 26 redshifts and 21 bands: 109 MB.
    """
    nodes = redshift_nodes(float(averages.redshift[-1]), redshift_step)
    models = draw_models(n, age=averages.grid.age, seed=seed)
    flux, measured = np.empty((nodes.size, n, len(averages.bands)), "f4"), None
    for k, z in enumerate(tqdm(nodes, desc="library", unit="redshift", disable=not progress)):
        placed = models.assign(redshift=("galaxy", np.full(n, z), {"units": ""}))
        measured = measure_photometry(placed, averages, progress=False)
        flux[k] = measured["flux"].values * (luminosity_distance(z) / REFERENCE_MPC) ** 2
    kept = measured[[*_KEPT, *PROPERTIES]].drop_vars(["band", "band_wavelength"], errors="ignore")
    attrs = {"units": "Jy / solMass", "long_name": "flux at 10 Mpc per mass formed"}
    library = kept.rename(galaxy="model").assign(flux=(("redshift", "model", "band"), flux, attrs))
    attrs = {"units": "Angstrom", "description": "pivot, observed"}
    return library.assign_coords(
        redshift=("redshift", nodes, {"units": ""}),
        band=("band", list(averages.bands)),
        band_wavelength=("band", averages.wavelength, attrs),
    ).assign_attrs(history=f"{n} models, priors like those of da Cunha et al. (2008)")


def redshift_nodes(highest, step):
    """Redshifts of a library: `LOWEST_REDSHIFT`, step, 2 step, ..., highest."""
    if not 0 < step <= highest:
        raise ValueError(f"redshift_step must lie between 0 and the highest redshift {highest:g}, not {step}")
    inner = step * np.arange(1, int(np.ceil(highest / step - 1e-9)))
    return np.concatenate([[LOWEST_REDSHIFT], inner[inner > LOWEST_REDSHIFT], [highest]])


def draw_models(n, *, age, seed):
    """Draw star-formation histories, metals and dust from the priors."""
    if n < 1:
        raise ValueError(f"the number of models must be at least 1, not {n}")
    rng = np.random.default_rng(seed)
    onset = np.sort(rng.uniform(*_ONSET_GYR, n))
    rate = _draw_falling(rng, n, slope=8.0, offset=6.0, highest=1.5)
    mass, n_bursts = _draw_histories(rng, onset, rate, sfh.age_bin_edges(age))
    metallicity = rng.uniform(*_METALLICITY, n)
    tau_v = _draw_falling(rng, n, slope=1.5, offset=6.7, highest=8.0)
    mu = _draw_falling(rng, n, slope=8.0, offset=6.0, highest=1.0)
    log_z = np.log10(metallicity)
    columns = {
        "age_form": (onset, "Gyr", "time since stars began to form"),
        "gamma_sfh": (rate, "1 / Gyr", "decline of star formation"),
        "n_bursts": (n_bursts, "", "bursts"),
        "log_z_star": (log_z, "dex", "stellar metallicity, log Z / Zsun"),
        "log_z_gas": (np.minimum(log_z, relations.MAX_LOG_Z_GAS), "dex", "gas metallicity, log Z / Zsun"),
        "log_u": (rng.uniform(-4, -2, n), "dex", "ionisation parameter"),
        "tau_v": (tau_v, "", "optical depth at 5500 A towards stars younger than 10 Myr"),
        "mu": (mu, "", "share of it that older stars see"),
        "dust1": (tau_v * (1 - mu), "", "extra optical depth of young stars"),
        "dust2": (tau_v * mu, "", "optical depth of all stars"),
        # All alike, but drawn: what follows has its place in the stream of random numbers.
        "dust_index": (rng.uniform(_DUST_SLOPE, _DUST_SLOPE, n), "", "power-law index of the attenuation"),
        "qpah": (rng.uniform(0.47, 4.58, n), "%", "PAH mass fraction of the dust"),
        "umin": (10 ** rng.uniform(-1.0, 1.39, n), "", "weakest starlight that heats the dust"),
        "gamma": (10 ** rng.uniform(-4.0, -0.7, n), "", "fraction of the dust heated by stronger starlight"),
    }
    models = xr.Dataset(coords={"age": ("age", np.asarray(age, float), {"units": "yr"})})
    for name, (values, unit, text) in columns.items():
        models[name] = ("galaxy", values, {"units": unit, "long_name": text})
    models["log_z_star"].attrs["z_sun"] = models["log_z_gas"].attrs["z_sun"] = 0.02
    return models.assign(mass_formed=(("galaxy", "age"), mass.astype("f4"), {"units": "Msun"}))


def _draw_falling(rng, n, *, slope, offset, highest):
    """Deviates with the density 1 - tanh(slope x - offset) between 0 and ``highest``."""
    nodes = np.linspace(0, highest, 4097)
    density = 1 - np.tanh(slope * nodes - offset)
    cumulative = np.concatenate([[0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return np.interp(rng.random(n) * cumulative[-1], cumulative, nodes)


def _draw_histories(rng, onset, rate, edges):
    """Share of the mass formed in each age bin, (galaxy, age), and the number of bursts, (galaxy,)."""
    mass = _exponential(edges, onset, rate)
    n_bursts = rng.poisson(_BURSTS_PER_GYR * onset)
    for k in range(n_bursts.max(initial=0)):
        rows = np.flatnonzero(n_bursts > k)
        begin = rng.uniform(0, onset[rows])
        end = np.maximum(begin - rng.uniform(*_BURST_GYR, rows.size), 0.0)
        share = np.exp(rng.uniform(*np.log(_BURST_SHARE), rows.size))
        begin = np.maximum(begin, end + 1e-6)
        mass[rows] += share[:, None] * sfh.constant(edges, 1e9 * begin, 1e9 * end)
    return mass / mass.sum(axis=1, keepdims=True), n_bursts


def _exponential(edges, onset, rate):
    """Share of the mass formed in each age bin, SFR proportional to exp(-rate t) with t [Gyr] since the onset."""
    rate = np.maximum(rate, 1e-6)[:, None]
    formed = -np.expm1(-rate * np.clip(onset[:, None] - 1e-9 * edges, 0, None))
    return (formed[:, :-1] - formed[:, 1:]) / -np.expm1(-rate * onset[:, None])


def fit_library(
    sample, library, *, batch_size=32, model_error=MODEL_ERROR, min_bands=MIN_BANDS, progress=True
):
    """Fit every galaxy with every model of a library.

    Each model is scaled to the galaxy's fluxes and weighs exp(-chi^2 / 2). Models older than the universe are left out;
    missing bands are dropped; negative fluxes count as measured. 16 and 84% contain the error of the amplitude.

    ``model_error`` makes up for models that are few beside the errors, and makes labels smoother.

    Parameters
    ----------
    sample : xarray.Dataset, dims (galaxy, band)
        ``flux``, ``flux_error`` in a unit of flux per frequency, ``redshift`` and, if there, ``mask`` (True: missing).
        Bands by name, in any order; all must be in the library.
    library : xarray.Dataset
        See `draw_library`.
    batch_size : int
        Galaxies compared at a time; each takes 0.5 MB with 50,000 models.
    model_error : float
        Error of the models as a share of the flux measured (if positive), added in quadrature.
    min_bands : int
        With fewer bands a galaxy is not fitted.
    progress : bool

    Returns
    -------
    xarray.Dataset
        ``sample`` with, for each of `PROPERTIES`, the columns ``*_fit`` (median), ``*_fit_low`` and ``*_fit_high`` (16
        and 84%); ``chi2_fit`` and ``best_model`` (index in the library; -1) of the best model, ``log_amplitude_fit``
        (mass formed by it), ``n_bands_fit``, and ``fit_reason``: "" or why a galaxy was not fitted, its columns being
        NaN. What is taken as missing (see `spectool.models.bands.read_inputs`) is counted in ``attrs["history"]``.

    Raises
    ------
    ValueError
        If a column or band is missing, a band comes twice, a unit is not stated or is none of flux, or most galaxies'
        fluxes look like magnitudes.
    """
    if batch_size < 1 or not model_error >= 0:
        raise ValueError(f"batch_size {batch_size} must be 1 or more, model_error {model_error} not negative")
    inputs, reason = _read(sample, library, min_bands)
    bands = sample["band"].values
    columns, best = fit_inputs(inputs, reason, library, bands, batch_size, model_error, progress)
    units = {name + end: unit for name, unit in PROPERTIES.items() for end in QUANTILES}
    units |= {"chi2_fit": "", "log_amplitude_fit": "dex(Msun)"}
    out = {name: ("galaxy", values, {"units": units[name]}) for name, values in columns.items()}
    text = "index in the library; -1: not fitted"
    out["best_model"] = ("galaxy", best, {"units": "", "description": text})
    out["n_bands_fit"] = ("galaxy", (~inputs.mask).sum(axis=1), {"units": ""})
    out["fit_reason"] = ("galaxy", reason, {"units": "", "description": '"": fitted'})
    text = f"fitted with a library, model error {model_error:g}"
    text += f"; {(reason != '').sum()} of {reason.size} galaxies not fitted"
    text += f"; {describe_counts(inputs.counts)}"
    return add_history(sample.assign(out), text).assign_attrs(model_error=model_error)


def fit_inputs(inputs, reason, library, bands, batch_size, model_error, progress):
    """Columns of `fit_library` for inputs in these bands, where there is no reason against it, and the best models."""
    good = np.flatnonzero(reason == "")
    near, weight, log_scale = scale_fluxes(inputs.take(good), model_error)
    names = [name + end for name in PROPERTIES for end in QUANTILES]
    columns = {name: np.full(reason.size, np.nan) for name in (*names, "chi2_fit", "log_amplitude_fit")}
    best = np.full(reason.size, -1)
    properties = {name: _tensor(library[name].values) for name in PROPERTIES}
    bar = tqdm(total=good.size, desc="fit", unit="galaxy", disable=not progress)
    with torch.inference_mode(), bar:
        for z, batches in _near_in_redshift(inputs.redshift[good], batch_size):
            models = place_library(library, z, bands=bands)
            squares = models * models
            for rows in batches:
                some, best[good[rows]] = _fit_batch(
                    near[rows], weight[rows], models, squares, properties, log_scale[rows]
                )
                for name, values in some.items():
                    columns[name][good[rows]] = values
                bar.update(rows.size)
    reason[good[best[good] < 0]] = "no model has a positive amplitude"
    return columns, best


def _read(sample, library, min_bands):
    """Inputs as networks read them, and why each galaxy cannot be fitted, "" where it can."""
    bands = [str(band) for band in sample["band"].values]
    if unknown := [band for band in bands if band not in library.indexes["band"]]:
        raise ValueError(
            f"the library has no bands {', '.join(unknown)}: leave them out, or draw a library with averages of them"
        )
    if (np.diff(library["age_form"].values) < 0).any():
        raise ValueError("the library must be sorted by age_form, as draw_library makes it")
    inputs = read_inputs(sample, bands)
    return inputs, find_reasons(inputs, library, min_bands)


def find_reasons(inputs, library, min_bands):
    """Why each galaxy cannot be fitted, "" where it can."""
    highest = float(library["redshift"].values[-1])
    inside = (inputs.redshift > 0) & (inputs.redshift <= highest * (1 + 1e-9))
    few = (~inputs.mask).sum(axis=1) < min_bands
    positive = (np.where(inputs.mask, -1.0, inputs.value) > 0).any(axis=1)
    texts = f"redshift is not in 0-{highest:g}", f"fewer than {min_bands} bands", "no flux above zero"
    return np.select([~inside, few, ~positive], texts, "").astype(object)


def scale_fluxes(inputs, model_error):
    """Fluxes relative to each galaxy's highest one, so that float32 holds them, and their weights."""
    flux, error, missing, redshift = inputs.value, inputs.error, inputs.mask, inputs.redshift
    variance = error**2 + (model_error * np.maximum(flux, 0.0)) ** 2
    weight = np.where(missing, 0.0, 1.0 / np.where(missing, 1.0, variance))
    flux = np.where(missing, 0.0, flux)
    unit = np.where(missing, 0.0, np.maximum(flux, 0.0)).max(axis=1, initial=0.0)
    unit = np.where(unit > 0, unit, 1.0)[:, None]
    log_distance = 2 * np.log10(luminosity_distance(redshift) / REFERENCE_MPC) if redshift.size else redshift
    return flux / unit, weight * unit**2, np.log10(unit[:, 0]) + log_distance + 9.0


def _near_in_redshift(redshift, batch_size):
    """Redshifts of the cells that hold galaxies, and the rows in each, in batches."""
    cells, place = np.unique(np.round(redshift / CELL).astype(int), return_inverse=True)
    for cell, rows in zip(cells, group_rows(place, cells.size), strict=True):
        yield CELL * cell, np.split(rows, range(batch_size, rows.size, batch_size))


def place_library(library, redshift, *, bands=None):
    """Fluxes of the library's models at one redshift, linear between its nodes."""
    nodes = library["redshift"].values
    k = int(np.clip(np.searchsorted(nodes, redshift) - 1, 0, nodes.size - 2))
    share = float(np.clip((redshift - nodes[k]) / (nodes[k + 1] - nodes[k]), 0, 1))
    young = int(np.searchsorted(library["age_form"].values, float(age_of_universe(redshift)), side="right"))
    low, high = (torch.from_numpy(library["flux"].values[j, :young]) for j in (k, k + 1))
    flux = torch.lerp(low, high, share).mul_(1e9)
    if bands is None or list(bands) == list(library["band"].values):
        return flux
    return flux[:, library.indexes["band"].get_indexer(bands)].contiguous()


def _tensor(values):
    return torch.from_numpy(np.ascontiguousarray(values, dtype="f4"))


def _fit_batch(flux, weight, models, squares, properties, log_scale):
    """Columns of some galaxies near in redshift, and their best models."""
    gain, curvature = match_models(_tensor(flux), _tensor(weight), models, squares)
    young = {name: values[: len(models)] for name, values in properties.items()}
    quantiles, best = find_posteriors(gain, curvature, young, _tensor(log_scale))
    chi2, amplitude = exact_chi2(flux, weight, models.numpy(), best)
    reduction = (weight * flux**2).sum(axis=1) - chi2
    spread = 1 / np.sqrt(np.maximum(reduction, 1.0)) / np.log(10)  # of the log of the best amplitude
    columns = {}
    for name, (median, low, high) in quantiles.items():
        around = median - np.hypot(median - low, spread), median + np.hypot(high - median, spread)
        columns |= dict(zip([name + end for end in QUANTILES], (median, *around), strict=True))
    log_amplitude = np.log10(amplitude, out=np.full(amplitude.shape, np.nan), where=best >= 0) + log_scale
    return columns | {"chi2_fit": np.where(best >= 0, chi2, np.nan), "log_amplitude_fit": log_amplitude}, best


def match_models(flux, weight, models, squares):
    """Reduction of chi-square that each model brings at its best amplitude, and the amplitude's weight."""
    curvature = (weight @ squares.T).clamp_(min=_TINY)
    gain = (weight * flux) @ models.T
    gain.clamp_(min=0).square_().div_(curvature)
    return gain, curvature


def find_posteriors(gain, curvature, properties, log_scale):
    """`QUANTILES` of the properties over models weighted by exp(-chi^2 / 2), and each galaxy's best model or -1."""
    highest, n_models = gain.amax(dim=1), gain.shape[1]
    # A model whose best amplitude is 0 has no logarithm of a mass.
    kept = gain > (highest - NEGLIGIBLE).clamp_(min=_TINY)[:, None]
    pairs = torch.from_numpy(np.flatnonzero(kept.numpy()))  # several times quicker than torch's nonzero
    galaxy = torch.div(pairs, n_models, rounding_mode="floor")
    model = pairs - galaxy * n_models
    gains = gain.view(-1).index_select(0, pairs)
    below = gains - highest.index_select(0, galaxy)
    smallest = below == 0
    best = np.full(len(gain), -1)
    rows, first = np.unique(galaxy[smallest].numpy(), return_index=True)
    best[rows] = model[smallest].numpy()[first]
    weight = below.mul_(0.5).exp_()
    log_amplitude = gains.div_(curvature.view(-1).index_select(0, pairs)).log_().mul_(0.5 / np.log(10))
    log_amplitude += log_scale.index_select(0, galaxy)
    values = {}
    for name, unit in properties.items():
        low, high = RANGES[name]
        n_bins = round((high - low) / _BIN)
        place = unit.index_select(0, model).add_(log_amplitude).sub_(low).div_(_BIN)
        place = place.clamp_(0, n_bins - 1).long().add_(galaxy, alpha=n_bins)
        histogram = torch.zeros(len(gain) * n_bins).scatter_add_(0, place, weight)
        values[name] = low + _BIN * histogram_quantiles(histogram.view(-1, n_bins)).numpy()
    return values, best


def histogram_quantiles(histogram):
    """`QUANTILES` of histograms, in bins, flat within each."""
    cumulative = histogram.double().cumsum(dim=1)
    wanted = torch.tensor(list(QUANTILES.values()), dtype=torch.float64) * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, wanted).clamp_(max=histogram.shape[1] - 1)
    inside = histogram.double().gather(1, place)
    below = cumulative.gather(1, place) - inside
    result = place + ((wanted - below) / inside.clamp(min=_TINY)).clamp_(0, 1)
    return torch.where(cumulative[:, -1:] > 0, result, torch.nan).T


def exact_chi2(flux, weight, models, best):
    """Chi-square of one model per galaxy at its best amplitude, and the amplitude, in float64."""
    flux, weight, model = (np.asarray(x, float) for x in (flux, weight, models[best]))
    amplitude = (weight * flux * model).sum(1) / (weight * model**2).sum(1)
    return (weight * (flux - amplitude[:, None] * model) ** 2).sum(1), amplitude


def nearest_models(sample, library, *, n=5):
    """The models of the smallest chi-square for each of a few galaxies, as they would be observed.

    Parameters
    ----------
    sample, library : xarray.Dataset
        As for `fit_library`; galaxies one by one, 10 ms each with 50,000 models.
    n : int
        Models per galaxy.

    Returns
    -------
    xarray.Dataset, dims (galaxy, nearest, band)
        ``model_flux`` [Jy] in the sample's bands, ``model`` (index in the library), ``chi2``, and the properties
        ``log_mass``, ``log_sfr``, ``log_dust_luminosity`` of each model at its best amplitude.

    Raises
    ------
    ValueError
        As `fit_library`, and if a galaxy cannot be fitted; the row is named.
    """
    inputs, reason = _read(sample, library, 1)
    if (failed := np.flatnonzero(reason != "")).size:
        raise ValueError(f"row {failed[0]}: {reason[failed[0]]}")
    columns = find_nearest(inputs, library, sample["band"].values, n)
    dims, units = ("galaxy", "nearest", "band"), {"model_flux": "Jy"} | PROPERTIES
    out = {
        name: (dims[: values.ndim], values, {"units": units.get(name, "")})
        for name, values in columns.items()
    }
    return xr.Dataset(out, coords={"band": sample["band"].values})


def find_nearest(inputs, library, bands, n):
    """Columns of `nearest_models` for inputs in these bands."""
    near, weight, log_scale = scale_fluxes(inputs, MODEL_ERROR)
    total = (weight * near**2).sum(axis=1)
    columns = {name: [] for name in ("model", "chi2", "model_flux", *PROPERTIES)}
    for i, z in enumerate(inputs.redshift):
        models = place_library(library, z, bands=bands)
        rows = (torch.from_numpy(values[i : i + 1].astype("f4")) for values in (near, weight))
        gain, curvature = match_models(*rows, models, models * models)
        best, index = gain[0].topk(n)
        log_unit = 0.5 * torch.log10(best / curvature[0, index]).double().numpy()
        at_galaxy = np.log10(near[i].max()) - np.log10(inputs.value[i][~inputs.mask[i]].max())
        columns["model"].append(index.numpy())
        columns["chi2"].append(total[i] - best.double().numpy())
        columns["model_flux"].append(models[index].double().numpy() * 10 ** (log_unit - at_galaxy)[:, None])
        for name in PROPERTIES:
            columns[name].append(library[name].values[index.numpy()] + log_unit + log_scale[i])
    return {name: np.array(values) for name, values in columns.items()}


def fit_galaxy(inputs, library, bands, n):
    """`fit_library` and `nearest_models` for one galaxy that was read, in 3 ms.

    Returns medians, 16 and 84% (property, 3), the smallest chi-square, columns of the `n` nearest models, and "" or why
    there are none.
    """
    reason = find_reasons(inputs, library, MIN_BANDS)
    columns, _ = fit_inputs(inputs, reason, library, bands, 1, MODEL_ERROR, False)
    values = np.array([[columns[name + end][0] for end in QUANTILES] for name in PROPERTIES])
    near = {} if reason[0] else find_nearest(inputs, library, bands, n)
    return values, columns["chi2_fit"][0], {name: rows[0] for name, rows in near.items()}, reason[0]


def score_fit(fitted, *, truth=""):
    """Compare properties with the truth, or with another estimate.

    Parameters
    ----------
    fitted : xarray.Dataset
        For each of `PROPERTIES` a column with the ending ``truth`` and one with the ending ``_fit``; for the coverage
        also ``_fit_low`` and ``_fit_high``.
    truth : str
        Endings.

    Returns
    -------
    xarray.Dataset, dim (property)
        ``bias`` (median of prediction - truth), ``scatter`` (half of 16-84%), ``rms`` (standard deviation), ``r2``
        (share of the variance explained), ``coverage`` (share of truths between low and high; NaN without these),
        ``half_width`` (median of half of high - low) [dex]; ``n``, rows where both are finite.
    """
    rows = [_score(fitted, name + truth, name + "_fit") for name in PROPERTIES]
    units = {name: {"units": "" if name in ("r2", "coverage", "n") else "dex"} for name in SCORES}
    columns = {name: ("property", np.array([row[name] for row in rows]), units[name]) for name in SCORES}
    return xr.Dataset(columns, coords={"property": list(PROPERTIES)})


def _score(fitted, truth, prediction):
    true, estimate = (fitted[name].values.astype(float) for name in (truth, prediction))
    figures, used = figures_of_merit(estimate, true), np.isfinite(true) & np.isfinite(estimate)
    row = dict.fromkeys(SCORES, np.nan) | {"n": figures["n"]}
    if not used.any():
        return row
    low, high = np.percentile((estimate - true)[used], (16, 84))
    row |= {
        "bias": figures["median"],
        "scatter": 0.5 * (high - low),
        "rms": figures["sigma"],
        "r2": figures["r2"],
    }
    if prediction + "_low" in fitted:
        low, high = (fitted[prediction + end].values[used] for end in ("_low", "_high"))
        row["coverage"] = np.mean((low <= true[used]) & (true[used] <= high))
        row["half_width"] = np.median(0.5 * (high - low))
    return row


def fit_again(sample, library, *, n_models=None):
    """Fit galaxies with each half of a library, and as they would be seen with a tenth of the noise.

    Parameters
    ----------
    sample : xarray.Dataset, dims (galaxy, band)
        As for `fit_library`, with the noise-free ``true_flux`` [Jy].
    library : xarray.Dataset
        From `draw_library`; every other model makes a half.
    n_models : int, optional
        Of the library that made the labels, if another: the noise of labels falls as the root of the number of models.

    Returns
    -------
    xarray.Dataset, dim (galaxy)
        For each property ``<property>_arbitrary`` [dex]: half of the difference between the halves' medians, which
        scatters as labels do from one choice of models to another; ``<property>_deep``, the median with less noise.

    Raises
    ------
    ValueError
        If the sample lacks a column.
    """
    if "true_flux" not in sample:
        raise ValueError("the sample lacks true_flux, the fluxes without noise")
    halves = [fit_library(sample, library.isel(model=slice(k, None, 2))) for k in range(2)]
    true = sample["true_flux"]
    flux = (true + (sample["flux"] - true) / DEEPER).transpose(*sample["flux"].dims)
    error = sample["flux_error"] / DEEPER
    units = {"units": "Jy"}
    seen = sample.assign(flux=flux.assign_attrs(units), flux_error=error.assign_attrs(units))
    deep = fit_library(seen, library)
    factor = 0.5 * np.sqrt(library.sizes["model"] / (n_models or library.sizes["model"]))
    columns = {}
    for name, unit in PROPERTIES.items():
        difference = halves[0][f"{name}_fit"] - halves[1][f"{name}_fit"]
        columns[f"{name}_arbitrary"] = ("galaxy", factor * difference.values, {"units": "dex"})
        columns[f"{name}_deep"] = ("galaxy", deep[f"{name}_fit"].values, {"units": unit})
    return xr.Dataset(columns)


def trace_scatter(sample, again, predicted, *, of_truth=None):
    """Scatter of a network's predictions of the star-formation rate, and of what could cause it, along the rate.

    Parameters
    ----------
    sample : xarray.Dataset
        Test galaxies with true rates, the fit's medians, 16 and 84%, and ``is_quiescent``.
    again : xarray.Dataset
        From `fit_again`.
    predicted : ndarray, shape (galaxy,)
        By a network that learnt the fit's medians.
    of_truth : ndarray, shape (galaxy,), optional
        By a network that learnt the truth.

    Returns
    -------
    dict of str to dict of str to (ndarray, ndarray)
        For all, star-forming and quiescent galaxies, by curve: rates at the middle of bins of 0.5 dex of the fit's rate
        and half of the 16-84% range [dex], NaN with fewer than 30 galaxies. (For the error stated: its median.)
    """
    rate, true = sample["log_sfr_fit"].values, sample["log_sfr"].values
    differences = {
        "network - fit": predicted - rate,
        "fit - fit with other models": again["log_sfr_arbitrary"].values,
        STATED: 0.5 * (sample["log_sfr_fit_high"] - sample["log_sfr_fit_low"]).values,
        "fit - truth": rate - true,
        "fit - truth, a tenth of the noise": again["log_sfr_deep"].values - true,
    }
    if of_truth is not None:
        differences["network taught by truth - truth"] = of_truth - true
    quiescent, bins = sample["is_quiescent"].values.astype(bool), np.floor(rate / RATE_BIN)
    parts = {"all": np.isfinite(rate)}
    parts |= {"star-forming": parts["all"] & ~quiescent, "quiescent": parts["all"] & quiescent}
    curves = {title: {} for title in parts}
    for title, used in parts.items():
        numbers = np.unique(bins[used])
        for name, values in differences.items():
            place = np.where(used & np.isfinite(values), np.searchsorted(numbers, bins), -1)
            groups = group_rows(place, numbers.size)
            low, middle, high = percentiles_by_group(values, groups, min_count=MIN_COUNT)
            spread = middle if name == STATED else 0.5 * (high - low)
            curves[title][name] = ((numbers + 0.5) * RATE_BIN, spread)
    return curves
