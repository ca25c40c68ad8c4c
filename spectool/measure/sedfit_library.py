"""A library of model galaxies for `spectool.measure.sedfit`, drawn from priors like those of MAGPHYS.

The priors are those of da Cunha, Charlot & Elbaz (2008, MNRAS 388, 1595, Sections 2 and 3.1). They are not what
`spectool.synth.population.draw_population` draws galaxies from, so that a fit does not know the answer beforehand:

==================  =============================================  =================================================
.                   library (prior of the fit)                     `draw_population` (the galaxies)
==================  =============================================  =================================================
onset               uniform in 0.1-13.5 Gyr before the galaxy      0.3-0.97 of the age of the universe, earlier in
                                                                   massive galaxies
history             exp(-gamma t), gamma like 1 - tanh(8 gamma -   delayed-tau that ends at the drawn rate,
                    6): uniform to 0.6 / Gyr, none above 1 or so   stochastic over the last Gyr
bursts              at any time, half of the galaxies have one in  one of 0.3-20% of the mass in a fifth of the
                    2 Gyr, 3-400% of the mass formed otherwise,    galaxies, 0.1-2 Gyr ago, lasting 30-300 Myr
                    lasting 30-300 Myr
quiescence          none apart: what exp(-gamma t) leaves          a class of its own, 2 dex below the sequence
metallicity         uniform in 0.02-2 Zsun, knows of no mass       mass-metallicity relation
gas                 that of the stars up to 1.2 Zsun, log U        relation with mass and SFR, log U follows
                    uniform in -4 to -2                            metallicity
tau_V (young)       like 1 - tanh(1.5 tau_V - 6.7): uniform to     twice that of old stars or so, from the Balmer
                    4, none above 6                                attenuation at that mass
mu (share of old)   like 1 - tanh(8 mu - 6): uniform to 0.6        0.5 or so
slope of the dust   -0.7 for all (see `draw_models`)               -1.3 to -0.4, steeper where there is less dust
dust emission       q_PAH, log Umin, log gamma uniform, know of    q_PAH follows metallicity, Umin the SFR
                    nothing
==================  =============================================  =================================================

What stays different from MAGPHYS: its dust emission is made of PAH, hot, warm and cold grey bodies whose shares are
free, ours has the shapes of Draine & Li (2007); its birth clouds have the slope -1.3, which our synthesis cannot give
apart from that of the diffuse dust; it has no emission lines; its stars are CB07's, ours those of the galaxies.
"""

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from spectool.surveys.band_averages import REFERENCE_MPC
from spectool.surveys.gama_photometry import luminosity_distance, measure_photometry
from spectool.synth import relations, sfh

N_MODELS = 50_000
REDSHIFT_STEP = 0.02
LOWEST_REDSHIFT = 1e-3
DUST_SLOPE = -0.7

PROPERTIES = ("log_mass", "log_sfr", "log_dust_luminosity")

_ONSET_GYR = (0.1, 13.5)
_BURSTS_PER_GYR = np.log(2) / 2  # none within 2 Gyr in half of the galaxies
_BURST_SHARE, _BURST_GYR = (0.03, 4.0), (0.03, 0.3)
_METALLICITY = (0.02, 2.0)
_KEPT = (
    "age_form",
    "gamma_sfh",
    "n_bursts",
    "log_z_star",
    "tau_v",
    "mu",
    "dust_index",
    "qpah",
    "umin",
    "gamma",
)


def draw_library(
    n=N_MODELS,
    *,
    averages,
    seed,
    redshift_step=REDSHIFT_STEP,
    highest_redshift=None,
    dust_index=DUST_SLOPE,
    batch_size=8192,
    progress=True,
):
    """Draw models and compute their fluxes on a grid of redshifts: some 17,000 models and redshifts a second.

    Parameters
    ----------
    n : int
        Number of models.
    averages : BandAverages
    seed : int or numpy.random.Generator
    redshift_step : float
        Between nodes, fluxes are interpolated linearly. Half-way between nodes 0.02 apart 99% of the fluxes are good to
        1.4%, 99.9% to 4.3% (0.01: 0.5 and 1.7%). The worst are lines that cross the edge of a band, up to half of W4
        in models almost without dust.
    highest_redshift : float, optional
        Default: the averages'.
    dust_index : float or (float, float)
        Passed to `draw_models`.
    batch_size : int
    progress : bool

    Returns
    -------
    xarray.Dataset, dims (redshift, model, band)
        ``flux`` [Jy / Msun], float32: at 10 Mpc, of a galaxy whose stars weighed 1 Msun when they formed, at rest and
        moved to each redshift. ``log_mass`` (surviving), ``log_sfr`` (100 Myr), ``log_dust_luminosity`` of that
        galaxy; the parameters drawn, ``age_form`` [Gyr] among them, by which models are sorted. 50,000 models, 26
        redshifts and 21 bands are 109 MB.
    """
    highest = float(averages.redshift[-1]) if highest_redshift is None else float(highest_redshift)
    nodes = redshift_nodes(highest, redshift_step)
    models = draw_models(n, age=averages.grid.age, seed=seed, dust_index=dust_index)
    flux, measured = np.empty((nodes.size, n, len(averages.bands)), "f4"), None
    for k, z in enumerate(tqdm(nodes, desc="library", unit="redshift", disable=not progress)):
        placed = models.assign(redshift=("galaxy", np.full(n, z), {"units": ""}))
        measured = measure_photometry(placed, averages, batch_size=batch_size, progress=False)
        flux[k] = measured["flux"].values * (luminosity_distance(z) / REFERENCE_MPC) ** 2
    kept = measured[list(_KEPT + PROPERTIES)].drop_vars(["band", "band_wavelength"], errors="ignore")
    library = kept.rename(galaxy="model").assign(
        flux=(
            ("redshift", "model", "band"),
            flux,
            {"units": "Jy / solMass", "long_name": "flux at 10 Mpc per mass formed"},
        )
    )
    return library.assign_coords(
        redshift=("redshift", nodes, {"units": ""}),
        band=("band", list(averages.bands)),
        band_wavelength=(
            "band",
            averages.wavelength,
            {"units": "Angstrom", "description": "pivot, observed"},
        ),
    ).assign_attrs(history=f"{n} models, priors like those of da Cunha et al. (2008)")


def redshift_nodes(highest, step):
    """Redshifts of a library: `LOWEST_REDSHIFT`, step, 2 step, ..., highest."""
    if not 0 < step <= highest:
        raise ValueError(f"redshift_step must lie between 0 and the highest redshift {highest:g}, not {step}")
    inner = step * np.arange(1, int(np.ceil(highest / step - 1e-9)))
    return np.concatenate([[LOWEST_REDSHIFT], inner[inner > LOWEST_REDSHIFT], [highest]])


def draw_models(n, *, age, seed, dust_index=DUST_SLOPE):
    """Draw star-formation histories, metals and dust from the priors that the module's table states.

    Parameters
    ----------
    n : int
    age : array_like, shape (age,)
        Ages of the SSP grid [yr].
    seed : int or numpy.random.Generator
    dust_index : float or (float, float)
        Slope of the attenuation, or the range that it is drawn from uniformly. -0.7 is that of Charlot & Fall
        (2000), and of MAGPHYS for the diffuse dust.

    Returns
    -------
    xarray.Dataset, dims (galaxy, age)
        Columns for `measure_photometry` but the redshift, sorted by ``age_form``; each galaxy has formed 1 Msun.
    """
    if n < 1:
        raise ValueError(f"the number of models must be at least 1, not {n}")
    rng = np.random.default_rng(seed)
    onset = np.sort(rng.uniform(*_ONSET_GYR, n))
    rate = _draw_falling(rng, n, slope=8.0, offset=6.0, highest=1.5)
    mass, n_bursts = _draw_histories(rng, onset, rate, sfh.age_bin_edges(age))
    metallicity = rng.uniform(*_METALLICITY, n)
    tau_v = _draw_falling(rng, n, slope=1.5, offset=6.7, highest=8.0)
    mu = _draw_falling(rng, n, slope=8.0, offset=6.0, highest=1.0)
    low, high = np.broadcast_to(dust_index, 2)
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
        "dust_index": (rng.uniform(low, high, n), "", "power-law index of the attenuation curve"),
        "qpah": (rng.uniform(0.47, 4.58, n), "%", "PAH mass fraction of the dust"),
        "umin": (10 ** rng.uniform(-1.0, 1.39, n), "", "weakest starlight that heats the dust"),
        "gamma": (10 ** rng.uniform(-4.0, -0.7, n), "", "fraction of the dust heated by stronger starlight"),
    }
    models = xr.Dataset(
        {
            name: ("galaxy", values, {"units": unit, "long_name": text})
            for name, (values, unit, text) in columns.items()
        },
        coords={"age": ("age", np.asarray(age, float), {"units": "yr"})},
    )
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
