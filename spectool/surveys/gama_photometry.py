"""Broadband fluxes of galaxies from band averages of the SSP matrix, tens of thousands a second.

Stars, two-component dust with a free slope, nebular lines and continuum, and dust emission that gives back the energy
absorbed, as in `spectool.synth.synthesis.synthesize`, but no spectrum of any galaxy is made; see
`spectool.surveys.band_averages`. Velocity dispersion does not matter to bands.
"""

from functools import cache
from itertools import pairwise

import numpy as np
import torch
from astropy.cosmology import Planck18
from tqdm.auto import tqdm

from spectool.surveys.band_averages import REFERENCE_MPC
from spectool.synth.dust import attenuate, emission_weights, relative_depth
from spectool.synth.nebular import nebular_weights
from spectool.synth.sfh import share_younger_than
from spectool.synth.synthesis import BIRTH_CLOUD_AGE, describe, metallicity_weights

REQUIRED = ("mass_formed", "log_z_star", "dust1", "dust2", "dust_index", "redshift")
REQUIRED_GAS = ("log_z_gas", "log_u")
REQUIRED_DUST = ("qpah", "umin", "gamma")


def measure_photometry(
    galaxies, averages, *, metallicity_interpolation="log", batch_size=8192, progress=True
):
    """Noise-free fluxes of galaxies in bands, and what a fit of them should find.

    Parameters
    ----------
    galaxies : xarray.Dataset
        As for ``synthesize``, with ``redshift``: ``mass_formed`` (galaxy, age) [Msun], ``log_z_star`` (per galaxy or
        (galaxy, age)), ``dust1``, ``dust2``, ``dust_index``, ``log_z_gas``, ``log_u`` (if the averages hold gas),
        ``qpah``, ``umin``, ``gamma``. Distances are those of Planck18.
    averages : BandAverages
    metallicity_interpolation : {"log", "linear"}
    batch_size : int
    progress : bool

    Returns
    -------
    xarray.Dataset, dims (galaxy, band)
        ``flux`` [Jy] float32, coordinate ``band_wavelength`` [Angstrom], every column of ``galaxies`` but
        ``mass_formed``, and the truths ``log_mass`` (surviving), ``log_sfr`` (last 100 Myr; -inf without stars so
        young), ``log_dust_luminosity`` (all that dust absorbs and emits [dex(Lsun)]; -inf without dust),
        ``age_lw``, ``log_z_lw``.

    Raises
    ------
    ValueError
        If a column is missing or not finite, or a redshift lies outside the averages'; the row is named.
    """
    _check(galaxies, averages)
    grid = averages.grid
    described = describe(galaxies, grid, metallicity_interpolation=metallicity_interpolation)
    n = galaxies.sizes["galaxy"]
    flux, absorbed = np.empty((n, len(averages.bands)), "f4"), np.empty(n, "f4")
    # Galaxies that lie between the same two redshift nodes are multiplied together: sort, and cut in batches.
    order = np.argsort(galaxies["redshift"].values, kind="stable")
    starts = range(0, n, batch_size)
    for start in tqdm(starts, desc="photometry", unit="batch", disable=not progress or len(starts) == 1):
        rows = order[start : start + batch_size]
        flux[rows], absorbed[rows] = _photometry_batch(galaxies, rows, averages, metallicity_interpolation)
    log_dust = np.log10(absorbed, out=np.full(n, -np.inf, "f4"), where=absorbed > 0)
    result = described.drop_vars(["mass_formed", "age"], errors="ignore").assign(
        flux=(("galaxy", "band"), flux, {"units": "Jy"}),
        log_dust_luminosity=(
            "galaxy",
            log_dust.astype(float),
            {"units": "dex(solLum)", "long_name": "luminosity absorbed and re-emitted by dust"},
        ),
    )
    result = result.assign_coords(
        band=("band", list(averages.bands)),
        band_wavelength=(
            "band",
            averages.wavelength,
            {"units": "Angstrom", "description": "pivot, observed"},
        ),
    )
    return result.assign_attrs(frame="observed", cosmology=Planck18.name)


@torch.inference_mode()
def _photometry_batch(galaxies, rows, averages, interpolation):
    """Fluxes [Jy] (galaxy, band) and absorbed luminosities [Lsun] of galaxies sorted by redshift."""
    columns = {
        name: galaxies[name].values[rows] for name in galaxies.data_vars if galaxies[name].dims == ("galaxy",)
    }
    masses, gas = _weights(galaxies, rows, columns, averages, interpolation)
    young = _tensor(masses[..., : averages.n_young]).flatten(1)
    old = _tensor(masses).flatten(1)
    dust1, dust2, index = (_tensor(columns[name]) for name in ("dust1", "dust2", "dust_index"))
    absorbed = _absorbed(young, old, gas, dust1, dust2, index, averages)
    emission = _tensor(emission_weights(averages.dust_grid, *(columns[name] for name in REQUIRED_DUST)))

    z = columns["redshift"].astype(float)
    position = np.interp(z, averages.redshift, np.arange(averages.redshift.size))
    low = np.minimum(position.astype(int), averages.redshift.size - 2)
    share = _tensor(position - low)[:, None]
    used = gas.any(dim=0).nonzero()[:, 0]  # models between whose metallicities and log U no galaxy lies
    gas = gas[:, used]
    parts = [torch.empty(len(rows), averages.to_band.shape[0]) for _ in range(2)]
    emitted = torch.empty(len(rows), len(averages.bands))
    cuts = [0, *(np.flatnonzero(np.diff(low)) + 1), len(rows)]
    for begin, end in pairwise(cuts):
        here, k = slice(begin, end), low[begin]
        between = share[here]
        parts[0][here] = _interpolate(young[here], averages.young, k, between)
        if gas.shape[1]:
            parts[0][here] += _interpolate(gas[here], averages.gas[k : k + 2, used], 0, between)
        parts[1][here] = _interpolate(old[here], averages.old, k, between)
        emitted[here] = _interpolate(emission[here], averages.dust, k, between)
    shift = _tensor(np.log1p(z))[:, None]
    depth = torch.exp_(index[:, None] * (averages.node_log_ratio - shift))
    flux = attenuate(*parts, depth, dust1, dust2) @ averages.to_band
    flux += emitted * (absorbed / (emission @ averages.dust_total))[:, None]
    flux *= _tensor((REFERENCE_MPC / luminosity_distance(z)) ** 2)[:, None]
    return flux.numpy(), absorbed.numpy()


def _weights(galaxies, rows, columns, averages, interpolation):
    """Mass formed by metallicity and age, (galaxy, Z, age), and weights of the gas's models, (galaxy, model)."""
    grid = averages.grid
    mass = galaxies["mass_formed"].transpose("galaxy", "age").values[rows].astype("f4")
    log_z = galaxies["log_z_star"]
    log_z = log_z.transpose(*(d for d in ("galaxy", "age") if d in log_z.dims))
    absolute = 10.0 ** log_z.values[rows].astype(float) * log_z.attrs.get("z_sun", grid.z_sun)
    by_metallicity = metallicity_weights(absolute, grid.metallicity, interpolation)
    if by_metallicity.ndim == 2:
        weights = by_metallicity[:, :, None] * mass[:, None, :]
    else:
        weights = by_metallicity.transpose(0, 2, 1) * mass[:, None, :]
    if not averages.gas.shape[1]:
        return weights, torch.empty(len(rows), 0)
    gas, n = grid.nebular, averages.n_young
    zero = galaxies["log_z_gas"].attrs.get("z_sun", grid.z_sun)
    of_gas = metallicity_weights(10.0 ** columns["log_z_gas"] * zero, gas.metallicity, interpolation)
    young = weights[..., :n] * share_younger_than(grid.age_edges, BIRTH_CLOUD_AGE)[:n].astype("f4")
    edges = np.minimum(grid.age_edges[: n + 1], BIRTH_CLOUD_AGE)
    models = nebular_weights(young, edges, grid.ionizing_rate[:, :n], of_gas, columns["log_u"], gas)
    return weights, torch.from_numpy(models)


def _absorbed(young, old, gas, dust1, dust2, index, averages):
    """Luminosity [Lsun] that dust takes from stars and gas, shape (galaxy,)."""
    depth = relative_depth(averages.budget_log_ratio, index)
    outside = depth * dust2[:, None]
    inside = outside + depth.mul_(dust1[:, None])
    from_young = young @ averages.budget_young
    if gas.shape[1]:
        from_young.addmm_(gas, averages.budget_gas)
    # In a light's small parts that dust takes, exp(-x) - 1 is exact where the difference of two sums is not.
    taken = from_young * torch.expm1(-inside) + (old @ averages.budget_old) * torch.expm1(-outside)
    return -taken.sum(1)


def _interpolate(weights, table, k, share):
    """Products with the tables of two neighbouring redshifts, linear between."""
    low = weights @ table[k]
    return low.add_((weights @ table[k + 1]).sub_(low).mul_(share))


def luminosity_distance(redshift):
    """Luminosity distance [Mpc] in astropy's Planck18 cosmology, interpolated to better than 1e-4 above z = 0.001.

    Parameters
    ----------
    redshift : array_like
        Above 0.
    """
    redshift = np.asarray(redshift, dtype=float)
    return (1 + redshift) * np.interp(redshift, *_distance_nodes(max(1.0, float(np.max(redshift)))))


@cache
def _distance_nodes(highest):
    nodes = np.linspace(0, highest, 1025)
    return nodes, Planck18.comoving_distance(nodes).to_value("Mpc")


def _tensor(values):
    return torch.from_numpy(np.ascontiguousarray(values, dtype="f4"))


def _check(galaxies, averages):
    needed = REQUIRED + REQUIRED_DUST + (REQUIRED_GAS if averages.gas.shape[1] else ())
    missing = [name for name in needed if name not in galaxies]
    if missing:
        raise ValueError(f"galaxies lack the columns {', '.join(missing)}")
    if galaxies.sizes["age"] != len(averages.grid.age):
        raise ValueError(
            f"mass_formed has {galaxies.sizes['age']} age bins, the grid {len(averages.grid.age)}"
        )
    for name in needed:
        values = galaxies[name].transpose("galaxy", ...).values.reshape(galaxies.sizes["galaxy"], -1)
        bad = ~np.isfinite(values).all(1)
        if bad.any():
            raise ValueError(
                f"{name} is not finite for {bad.sum()} galaxies, the first is row {int(bad.argmax())}"
            )
        if name in ("mass_formed", "dust1", "dust2") and (values < 0).any():
            raise ValueError(
                f"{name} holds negative values, the first in row {int((values < 0).any(1).argmax())}"
            )
    z, highest = galaxies["redshift"].values, averages.redshift[-1]
    outside = (z <= 0) | (z > highest * (1 + 1e-9))
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(
            f"the averages reach over redshifts above 0 to {highest:g}; {outside.sum()} galaxies lie outside, the "
            f"first is row {row} at z = {z[row]:g}: select, or make averages with highest_redshift"
        )
