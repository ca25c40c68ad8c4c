"""Broadband photometry of mock galaxies: filters, magnitudes, fluxes and their errors."""

from functools import cache
from itertools import pairwise
from math import factorial
from types import SimpleNamespace

import numpy as np
import torch
from astropy import constants, units
from astropy.cosmology import Planck18
from tqdm.auto import tqdm

from spectool.synth import synthesis
from spectool.synth.dust import PIVOT, attenuate, emission_templates, emission_weights, relative_depth
from spectool.synth.grid import load_dust_emission
from spectool.synth.nebular import continuum_factors
from spectool.synth.sfh import share_younger_than

TABULATED_REDSHIFT = 0.5
REDSHIFT_STEP = 0.0025
_BATCH = 8192
LYMAN_LIMIT = 912.0
"""Shortward of it galaxies are taken as dark [Angstrom]."""
REFERENCE_MPC = 10.0
"""Distance of the fluxes that `make_band_averages` tabulates."""

_CELL = 2.5e-4  # ln(wavelength): filters are sampled in cells, 20 in a pixel of the broadband grid
_STEEPEST = (2.0, 1.2)  # optical depth and negative index of the dust that nodes are laid out for
_NODE_ERROR, _MOST_NODES = 1e-3, 8
_TAIL = 5e-4  # share of a filter's weight at either end where the attenuation is held constant
_BUDGET_CUTS = (LYMAN_LIMIT, 1250.0, 1700.0, 2300.0, 3200.0, 4500.0, 6500.0, 1e4, 2e4, 1e6)
_BUDGET_NODES = 4


def make_band_averages(
    grid, filters, *, nebular=True, highest_redshift=TABULATED_REDSHIFT, step=REDSHIFT_STEP
):
    """Average the SSPs, the gas and the dust templates over bands, on a grid of redshifts.

    Parameters
    ----------
    grid : SSPGrid
        Must reach from 912 A (or the bands' blue ends) into the infrared, such as ``SSPGrid.embedded("broadband")``,
        and have nebular models if they are asked for; else a ValueError.
    filters : dict of str to (ndarray, ndarray)
        Band -> wavelengths [Angstrom] and transmission per photon; see `spectool.surveys.gama.load_filters`.
    nebular, highest_redshift, step : bool, float
        With lines and continuum of ionised gas; the redshifts are 0, step, 2 step, ... With the default, fluxes of 600
        galaxies at z = 0-0.5 are those that ``sedpy`` finds on their spectra to 0.0032 mag at most, 0.0001 mag in the
        median.

    Returns
    -------
    SimpleNamespace
        What does not depend on the galaxy, for `measure_photometry`: ``grid``, ``bands``, ``wavelength`` (pivots), ...
    """
    _check(grid, filters, nebular, highest_redshift, step)
    redshift = step * np.arange(int(np.ceil(highest_redshift / step - 1e-9)) + 1)
    bands = [_Band(name, *curve) for name, curve in filters.items()]
    to_band = np.repeat(np.eye(len(bands), dtype="f4"), [band.nodes.size for band in bands], axis=0)
    young, old = _split_ages(grid)
    dust_grid = load_dust_emission()
    templates = emission_templates(dust_grid, grid.edges)
    lines, line_wavelength = np.empty((0, 0)), np.empty(0)
    left, right = np.empty((0, 1)), np.empty((1, grid.wavelength.size))
    if nebular:
        line_wavelength = grid.nebular.line_wavelength
        lines = grid.nebular.line_luminosity.reshape(-1, line_wavelength.size)
        left, right = (factor.numpy() for factor in continuum_factors(grid.nebular, grid.wavelength))
    tables = {"young": [], "old": [], "dust": [], "gas": []}
    for z in redshift:
        weights = [band.pixel_weights(grid.edges, z) for band in bands]
        tables["young"].append(_average(young, weights))
        tables["old"].append(_average(old, weights))
        tables["dust"].append(_average(templates, weights) @ to_band)
        at_lines = np.concatenate([band.line_weights(line_wavelength, z) for band in bands], axis=1)
        tables["gas"].append(left @ _average(right, weights) + lines @ at_lines)
    budget = _budget_shares(grid.wavelength) * np.diff(grid.edges)[:, None]
    return SimpleNamespace(
        grid=grid,
        bands=tuple(filters),
        wavelength=np.array([band.pivot for band in bands]),
        redshift=redshift,
        node_log_ratio=_tensor(np.concatenate([band.nodes for band in bands]) - np.log(PIVOT)),
        to_band=_tensor(to_band),
        n_young=len(young) // len(grid.metallicity),
        young=_tensor(tables["young"]),
        old=_tensor(tables["old"]),
        gas=_tensor(tables["gas"]),
        dust=_tensor(tables["dust"]),
        budget_log_ratio=_tensor(np.concatenate(_budget_pieces()) - np.log(PIVOT)),
        budget_young=_tensor(young @ budget),
        budget_old=_tensor(old @ budget),
        budget_gas=_tensor(left @ (right @ budget) + lines @ _budget_shares(line_wavelength)),
        dust_total=_tensor(templates @ np.diff(grid.edges)),
        dust_grid=dust_grid,
    )


class _Band:
    """One filter: its nodes, and the weights with which it averages pixels and lines."""

    def __init__(self, name, wavelength, transmission):
        wavelength, transmission = np.asarray(wavelength, float), np.asarray(transmission, float)
        per_wavelength = np.trapezoid(transmission / wavelength, wavelength)
        if not per_wavelength > 0:
            raise ValueError(f"the filter of band {name!r} transmits nothing")
        self.curve = wavelength, transmission
        self.pivot = np.sqrt(np.trapezoid(transmission * wavelength, wavelength) / per_wavelength)
        n = int(np.ceil(np.log(wavelength[-1] / wavelength[0]) / _CELL))
        edges = np.geomspace(wavelength[0], wavelength[-1], n + 1)
        self.cells = 0.5 * (edges[1:] + edges[:-1])
        # f_nu [Jy] of a source of L_lambda [Lsun / A] at the reference distance: AB's definition for photon counters
        area = 4 * np.pi * (REFERENCE_MPC * units.Mpc) ** 2
        per_frequency = units.Lsun * units.AA / (area * constants.c)
        self.scale = per_frequency.to_value("Jy") / per_wavelength
        self.cell_weights = self._photons(self.cells) * np.diff(edges) * self.scale
        share = np.cumsum(self.cell_weights) / self.cell_weights.sum()
        low, high = np.log(self.cells[np.searchsorted(share, (_TAIL, 1 - _TAIL))])
        self.nodes = _chebyshev(low, high, _node_count(low, high))
        self.node_weights = _lagrange(np.log(self.cells), self.nodes) * self.cell_weights[:, None]

    def _photons(self, wavelength):
        return np.interp(wavelength, *self.curve, left=0.0, right=0.0) * wavelength

    def pixel_weights(self, edges, z):
        """First and last rest-frame pixel that the band sees, and their weights [Jy / (Lsun / A)] (pixel, node)."""
        rest = self.cells / (1 + z)
        begin, end = np.searchsorted(rest, (edges[0], edges[-1]))
        pixel = np.searchsorted(edges, rest[begin:end], side="right") - 1
        first, last = pixel[0], pixel[-1] + 1
        weights = np.zeros((last - first, self.nodes.size), "f4")
        starts = np.flatnonzero(np.diff(pixel, prepend=-1))
        # Observed f_lambda is L_lambda / (1 + z) / (4 pi d_L^2) at (1 + z) u.
        weights[pixel[starts] - first] = np.add.reduceat(self.node_weights[begin:end], starts) / (1 + z)
        return slice(first, last), weights

    def line_weights(self, wavelength, z):
        """Weights [Jy / Lsun] of lines in each node's flux, shape (line, node)."""
        observed = wavelength * (1 + z)
        return _lagrange(np.log(observed), self.nodes) * (self._photons(observed) * self.scale)[:, None]


def _budget_pieces():
    """Nodes of the attenuation [ln Angstrom] in each of the pieces that the energy over all wavelengths is cut into."""
    return [_chebyshev(low, high, _BUDGET_NODES) for low, high in pairwise(np.log(_BUDGET_CUTS))]


def _budget_shares(wavelength):
    """Share of each node of `_budget_pieces` in the energy at a wavelength, shape (n, node)."""
    x, pieces = np.log(wavelength), _budget_pieces()
    piece = np.clip(np.searchsorted(np.log(_BUDGET_CUTS), x) - 1, 0, len(pieces) - 1)
    parts = [(piece == i)[:, None] * _lagrange(x, nodes) for i, nodes in enumerate(pieces)]
    return np.concatenate(parts, axis=1).astype("f4")


def _average(spectra, weights):
    """Averages of spectra (n, pixel) over the pixels of each band, shape (n, node)."""
    return np.concatenate([spectra[:, pixels] @ weight for pixels, weight in weights], axis=1)


def _split_ages(grid):
    """SSP spectra (Z * age, pixel) times the share of an age bin in birth clouds (those ages only), and outside."""
    share = share_younger_than(grid.age_edges, synthesis.BIRTH_CLOUD_AGE).astype("f4")[:, None]
    n_young, n_pixels = int(np.flatnonzero(share)[-1]) + 1, grid.flux.shape[-1]
    young = grid.flux[:, :n_young] * share[:n_young]
    return young.reshape(-1, n_pixels), (grid.flux * (1 - share)).reshape(-1, n_pixels)


def _node_count(low, high):
    """Nodes that the steepest dust needs between two values of ln(observed wavelength), at any redshift up to 0.5."""
    depth, index = _STEEPEST
    middle = np.exp(0.5 * (low + high)) / (1 + TABULATED_REDSHIFT)
    reach = 0.5 * (high - low) * index * depth * (middle / PIVOT) ** -index
    for n in range(1, _MOST_NODES):
        if reach**n / (2.0 ** (n - 1) * factorial(n)) < _NODE_ERROR:
            return n
    return _MOST_NODES


def _chebyshev(low, high, n):
    return 0.5 * (low + high) + 0.5 * (high - low) * np.cos(np.pi * (np.arange(n) + 0.5) / n)


def _lagrange(x, nodes):
    """Lagrange's polynomials of the nodes at x, shape (n, node), constant beyond the outermost nodes' reach."""
    if nodes.size == 1:
        return np.ones((x.size, 1))
    reach = 0.5 * (nodes.max() - nodes.min()) / np.cos(0.5 * np.pi / nodes.size)
    middle = 0.5 * (nodes.max() + nodes.min())
    x = np.clip(x, middle - reach, middle + reach)
    others = [(node, np.delete(nodes, k)) for k, node in enumerate(nodes)]
    return np.stack([np.prod((x[:, None] - rest) / (node - rest), axis=1) for node, rest in others], axis=1)


def _tensor(values):
    return torch.from_numpy(np.ascontiguousarray(values, dtype="f4"))


def _check(grid, filters, nebular, highest_redshift, step):
    name = grid.provenance.get("name")
    if not highest_redshift > 0 or not step > 0:
        raise ValueError(f"highest_redshift and step must be positive, not {highest_redshift} and {step}")
    if nebular and grid.nebular is None:
        raise ValueError(f"the grid {name} has no nebular models: pass nebular=False")
    if grid.edges[-1] < 1e6:
        end = f'{name} ends at {grid.edges[-1]:.0f} A: take SSPGrid.embedded("broadband")'
        raise ValueError(f"bands need a grid into the infrared, but {end}")
    for band, (wavelength, _) in filters.items():
        blue, red = np.min(wavelength) / (1 + highest_redshift), np.max(wavelength)
        if max(blue, LYMAN_LIMIT) < grid.edges[0] or red > grid.edges[-1]:
            held = f"the grid {name} holds {grid.edges[0]:.0f}-{grid.edges[-1]:.0f} A"
            raise ValueError(f"band {band!r} sees {blue:.0f}-{red:.0f} A at rest; {held}")


def measure_photometry(galaxies, averages, *, progress=True):
    """Noise-free fluxes of galaxies in bands, and what a fit of them should find."""
    _check_photometry(galaxies, averages)
    grid = averages.grid
    described = synthesis.describe(galaxies, grid)
    n = galaxies.sizes["galaxy"]
    flux, absorbed = np.empty((n, len(averages.bands)), "f4"), np.empty(n, "f4")
    # Galaxies that lie between the same two redshift nodes are multiplied together: sort, and cut in batches.
    order = np.argsort(galaxies["redshift"].values, kind="stable")
    starts = range(0, n, _BATCH)
    for start in tqdm(starts, desc="photometry", unit="batch", disable=not progress or len(starts) == 1):
        rows = order[start : start + _BATCH]
        flux[rows], absorbed[rows] = _photometry_batch(galaxies, rows, averages)
    log_dust = np.log10(absorbed, out=np.full(n, -np.inf, "f4"), where=absorbed > 0).astype(float)
    result = described.drop_vars(["mass_formed", "age"], errors="ignore")
    result["flux"] = (("galaxy", "band"), flux, {"units": "Jy"})
    attrs = {"units": "dex(solLum)", "long_name": "luminosity absorbed and re-emitted by dust"}
    result["log_dust_luminosity"] = ("galaxy", log_dust, attrs)
    attrs = {"units": "Angstrom", "description": "pivot, observed"}
    pivots = ("band", averages.wavelength, attrs)
    result = result.assign_coords(band=list(averages.bands), band_wavelength=pivots)
    return result.assign_attrs(frame="observed", cosmology=Planck18.name)


@torch.inference_mode()
def _photometry_batch(galaxies, rows, averages):
    """Fluxes [Jy] (galaxy, band) and absorbed luminosities [Lsun] of galaxies sorted by redshift."""
    some, grid, n_young = galaxies.isel(galaxy=rows), averages.grid, averages.n_young
    masses = synthesis.masses_by_metallicity(some, grid)
    gas = torch.empty(len(rows), 0)
    if averages.gas.shape[1]:
        share = share_younger_than(grid.age_edges, synthesis.BIRTH_CLOUD_AGE)[:n_young].astype("f4")
        gas = synthesis.gas_weights(some, grid, masses[..., :n_young] * share)
    young, old = _tensor(masses[..., :n_young]).flatten(1), _tensor(masses).flatten(1)
    dust1, dust2, index = (_tensor(some[name].values) for name in ("dust1", "dust2", "dust_index"))
    absorbed = _absorbed(young, old, gas, dust1, dust2, index, averages)
    emission = _tensor(
        emission_weights(averages.dust_grid, *(some[name].values for name in synthesis.REQUIRED_DUST))
    )

    z = some["redshift"].values.astype(float)
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
    """Luminosity distance [Mpc] in astropy's Planck18 cosmology, interpolated to better than 1e-4 above z = 0.001."""
    redshift = np.asarray(redshift, dtype=float)
    return (1 + redshift) * np.interp(redshift, *_distance_nodes(max(1.0, float(np.max(redshift)))))


@cache
def _distance_nodes(highest):
    nodes = np.linspace(0, highest, 1025)
    return nodes, Planck18.comoving_distance(nodes).to_value("Mpc")


def _check_photometry(galaxies, averages):
    nebular = bool(averages.gas.shape[1])
    synthesis.check_galaxies(galaxies, averages.grid, ("redshift",), nebular=nebular, dust_emission=True)
    z, highest = galaxies["redshift"].values, averages.redshift[-1]
    outside = (z <= 0) | (z > highest * (1 + 1e-9))
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(
            f"the averages reach over redshifts above 0 to {highest:g}; {outside.sum()} galaxies lie outside, the "
            f"first is row {row} at z = {z[row]:g}: select, or make averages with highest_redshift"
        )
