"""Speed of the matrix synthesis beside bagpipes and dsps: the same galaxies, 4582 pixels, in the same run.

Ours and the peer take turns, and the median of the rounds counts: a machine's speed swings, the ratio less.
Both do what their users would: ours one batch, bagpipes ``model_galaxy.update`` galaxy by galaxy (its slow
constructor is not counted), dsps its compiled function vectorised over galaxies.
"""

from importlib.metadata import version

import numpy as np
import xarray as xr

from benchmarks.row import make_row, seconds
from spectool.spectra import pixel_edges, sps_wavelength, vacuum_to_air
from spectool.synth import SSPGrid, sfh, synthesize

ROUNDS = 5
N_OURS = 8192
N_BAGPIPES = 12
N_DSPS = 64
LSUN = 3.826e33
AV_PER_TAU = 1.0857362
TODAY_GYR = 13.8


def draw_parameters(n, seed=0):
    """Delayed-tau galaxies over the prior of the paper's Table 1: a dict of (n,) arrays."""
    rng = np.random.default_rng(seed)
    return {
        "age": rng.uniform(1.0, 12.0, n),
        "tau": rng.uniform(0.5, 8.0, n),
        "log_mass_formed": rng.uniform(8.5, 11.5, n),
        "log_z": rng.uniform(-1.5, 0.05, n),
        "log_u": rng.uniform(-3.5, -2.3, n),
        "tau_birth": rng.uniform(0.1, 1.0, n),
        "tau_diffuse": rng.uniform(0.1, 1.0, n),
        "slope": rng.uniform(0.4, 1.3, n),
        "dispersion": rng.uniform(50.0, 300.0, n),
    }


def synthesize_ours(p, grid, wavelength, *, nebular=True, dust=True):
    """Our spectra [Lsun/A], (galaxy, wavelength), from the parameters on."""
    zero = np.zeros_like(p["age"])
    columns = {
        "log_z_star": p["log_z"],
        "log_z_gas": p["log_z"],
        "log_u": p["log_u"],
        "dust1": p["tau_birth"] if dust else zero,
        "dust2": p["tau_diffuse"] if dust else zero,
        "dust_index": -p["slope"],
        "velocity_dispersion": p["dispersion"],
    }
    galaxies = xr.Dataset({name: ("galaxy", values) for name, values in columns.items()})
    history = sfh.delayed_tau(grid.age_edges, p["age"] * 1e9, p["tau"] * 1e9)
    galaxies["mass_formed"] = (("galaxy", "age"), history * 10 ** p["log_mass_formed"][:, None])
    return synthesize(galaxies, grid, wavelength=wavelength, nebular=nebular, progress=False).flux.values


def bagpipes_components(p, i):
    """The parameters of galaxy ``i`` as bagpipes wants them."""
    metallicity = 10 ** p["log_z"][i]
    return {
        "redshift": 0.0,
        "veldisp": p["dispersion"][i],
        "delayed": {
            "age": p["age"][i],
            "tau": p["tau"][i],
            "massformed": p["log_mass_formed"][i],
            "metallicity": metallicity,
        },
        "dust": {
            "type": "CF00",
            "Av": p["tau_diffuse"][i] * AV_PER_TAU,
            "eta": 1 + p["tau_birth"][i] / p["tau_diffuse"][i],
            "n": p["slope"][i],
        },
        "nebular": {"logU": p["log_u"][i]},
    }


def against_bagpipes():
    """Spectra per second with stars, dust, nebular emission and velocity dispersion, beside bagpipes."""
    import bagpipes

    grid, wavelength = SSPGrid.embedded(), sps_wavelength()
    p = draw_parameters(N_OURS)
    air = wavelength * (vacuum_to_air(5500.0) / 5500.0)
    model = bagpipes.model_galaxy(bagpipes_components(p, 0), spec_wavs=air)
    theirs = np.empty((N_BAGPIPES, wavelength.size))

    def run_peer():
        for i in range(N_BAGPIPES):
            model.update(bagpipes_components(p, i))
            theirs[i] = model.spectrum[:, 1] / LSUN

    ours = synthesize_ours(p, grid, wavelength)
    run_peer()
    require_agreement(ours[:N_BAGPIPES], theirs, wavelength)
    rate, peer_rate = take_turns(lambda: synthesize_ours(p, grid, wavelength), N_OURS, run_peer, N_BAGPIPES)
    peer = f"bagpipes {version('bagpipes')} model_galaxy.update at R_spec 1000"
    return make_row("synthesis_vs_bagpipes", rate, "spectra/s", peer, peer_rate, higher_is_better=True)


def against_dsps():
    """Spectra per second of the stellar continuum alone, beside dsps on our grid."""
    import jax
    from dsps.sed.stellar_sed import calc_rest_sed_sfh_table_lognormal_mdf

    grid, wavelength = SSPGrid.embedded(), sps_wavelength()
    p = draw_parameters(N_OURS)
    to_per_hertz = wavelength**2 / 2.99792458e18
    time_table = np.linspace(0.05, TODAY_GYR, 100)
    onset = TODAY_GYR - p["age"][:N_DSPS, None]
    since = np.clip(time_table - onset, 0, None) / p["tau"][:N_DSPS, None]
    rate_table = since * np.exp(-since)
    ssp_arguments = (
        np.log10(grid.metallicity),
        np.log10(grid.age / 1e9),
        grid.rebinned_flux(pixel_edges(wavelength)) * to_per_hertz,
        TODAY_GYR,
    )
    in_axes = (None, 0, 0, None, None, None, None, None)
    compiled = jax.jit(jax.vmap(calc_rest_sed_sfh_table_lognormal_mdf, in_axes=in_axes))
    log_z = p["log_z"][:N_DSPS] + np.log10(grid.z_sun)
    arguments = jax.device_put((time_table, rate_table, log_z, 0.1, *ssp_arguments))

    def run_peer():
        return np.asarray(compiled(*arguments).rest_sed)

    def run_ours():
        return synthesize_ours(p, grid, wavelength, nebular=False, dust=False)

    require_agreement(run_ours()[:N_DSPS], run_peer() / to_per_hertz, wavelength, shape_only=True)
    rate, peer_rate = take_turns(run_ours, N_OURS, run_peer, N_DSPS)
    peer = f"dsps {version('dsps')} (jax {version('jax')}), vmap"
    return make_row("synthesis_vs_dsps", rate, "spectra/s", peer, peer_rate, higher_is_better=True)


def take_turns(ours, n_ours, theirs, n_theirs):
    """Median rates of both [1/s] over rounds in which they alternate."""
    rates = [(n_ours / seconds(ours), n_theirs / seconds(theirs)) for _ in range(ROUNDS)]
    return np.median(rates, axis=0)


def require_agreement(ours, theirs, wavelength, *, shape_only=False):
    """Raise if the two do not make the same spectra: a speed counts only for the same work."""
    inside = (wavelength > 4000) & (wavelength < 8000)
    ratio = ours[:, inside] / theirs[:, inside]
    if shape_only:
        ratio = ratio / np.median(ratio, axis=1, keepdims=True)
    typical = np.median(np.abs(ratio - 1))
    if not typical < 0.05:
        raise ValueError(f"the spectra are not those of the peer: they differ by {typical:.1%} in the median")
