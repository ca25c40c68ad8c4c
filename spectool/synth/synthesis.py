"""Galaxy spectra from star-formation histories by linear algebra, thousands per second."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from spectool.spectra import pixel_edges
from spectool.synth.broadening import broaden_batch, make_plan
from spectool.synth.dust import (
    attenuate,
    emission_templates,
    emission_weights,
    interpolation_weights,
    relative_depth,
)
from spectool.synth.grid import load_dust_emission
from spectool.synth.nebular import add_lines, continuum_factors, nebular_weights
from spectool.synth.sfh import share_younger_than, star_formation_rate

BIRTH_CLOUD_AGE = 1e7
LABEL_RANGE = (4050.0, 7300.0)
REQUIRED = ("mass_formed", "log_z_star", "dust1", "dust2", "dust_index")
REQUIRED_GAS = ("log_z_gas", "log_u")
REQUIRED_DUST = ("qpah", "umin", "gamma")
DONE = "synthesized"


def synthesize(
    galaxies,
    grid,
    *,
    wavelength=None,
    nebular=True,
    dust_emission=False,
    keep_lines=False,
    label_range=LABEL_RANGE,
    batch_size=256,
    store=None,
    progress=True,
):
    """Rest-frame spectra of galaxies.

    Stars, two-component dust, nebular lines and continuum and, on a grid that reaches the infrared, dust emission
    that gives back the energy absorbed. Intergalactic absorption is left out: it does not matter below redshift 1.

    Parameters
    ----------
    galaxies : xarray.Dataset
        Dimension ``galaxy``. ``mass_formed`` (galaxy, age) [Msun] in the grid's age bins, and per galaxy
        ``log_z_star`` (or (galaxy, age): a metallicity history; log Z / Zsun), ``dust1``, ``dust2`` (optical depths
        at 5500 A), ``dust_index``, ``velocity_dispersion`` [km/s]; with ``nebular`` also ``log_z_gas`` and ``log_u``,
        optionally ``gas_dispersion`` [km/s]; with ``dust_emission`` also ``qpah`` [%], ``umin``, ``gamma``.
    grid : SSPGrid
    wavelength : array_like, shape (n,), optional
        Pixel centres, vacuum [Angstrom]; default: the grid's.
    nebular, dust_emission : bool
    keep_lines : bool
        Keep ``line_luminosity`` (galaxy, line) [Lsun], as attenuated.
    label_range : tuple of float
        Wavelengths [Angstrom] whose light, before dust, weighs ``age_lw`` and ``log_z_lw``.
    batch_size : int
    store : path, optional
        Zarr store to write batch by batch for samples larger than memory; the result is opened lazily. A run that
        was interrupted goes on where it stopped when it is called again with the same arguments.
    progress : bool

    Returns
    -------
    xarray.Dataset
        ``flux`` (galaxy, wavelength) [Lsun / Angstrom] float32, every column of ``galaxies``, and measured from the
        histories ``log_mass`` (surviving), ``log_sfr`` (last 100 Myr), ``age_lw`` [Gyr] (10 to the light-weighted mean
        log age) and ``log_z_lw`` (light-weighted mean log Z / Zsun).

    Raises
    ------
    ValueError
        If a column is missing, not finite, or does not fit the grid.
    """
    check_galaxies(galaxies, grid, ("velocity_dispersion",), nebular=nebular, dust_emission=dust_emission)
    if nebular and grid.nebular is None:
        raise ValueError(f"the grid {grid.provenance.get('name')} has no nebular models: pass nebular=False")
    if dust_emission and grid.edges[-1] < 1e6:
        raise ValueError("dust emission needs a grid into the infrared: SSPGrid.embedded('broadband')")
    edges = grid.edges if wavelength is None else pixel_edges(wavelength)
    operators = _build_operators(grid, edges, nebular, dust_emission)
    attrs = {"units": "Angstrom", "frame": "rest, vacuum"}
    template = describe(galaxies, grid, label_range).assign_coords(
        wavelength=("wavelength", 0.5 * (edges[1:] + edges[:-1]), attrs)
    )
    arrays = {"flux": ("wavelength", edges.size - 1, "Lsun / Angstrom")}
    if nebular and keep_lines:
        arrays["line_luminosity"] = ("line", len(operators.line_wavelength), "Lsun")
        names = grid.nebular.line_name[operators.line_index]
        template = template.assign_coords(
            line=("line", names), line_wavelength=("line", operators.line_wavelength, {"units": "Angstrom"})
        )
    output = BatchStore(template, arrays, batch_size, store)
    for batch in tqdm(output.pending(), desc="synthesizing", unit="batch", disable=not progress):
        flux, lines = _synthesize_batch(galaxies.isel(galaxy=batch), grid, operators)
        output.write(batch, {"flux": flux, "line_luminosity": lines})
    return output.finish()


def describe(galaxies, grid, label_range=LABEL_RANGE):
    """Labels that follow from the histories alone: masses, rates, light-weighted ages and metallicities.

    Parameters
    ----------
    galaxies, grid, label_range
        As in `synthesize`.

    Returns
    -------
    xarray.Dataset
        ``galaxies`` with ``log_mass``, ``log_sfr`` (-inf without star formation), ``age_lw``, ``log_z_lw``.
    """
    inside = (grid.wavelength >= label_range[0]) & (grid.wavelength <= label_range[1])
    if not inside.any():
        raise ValueError(f"label_range {label_range} A lies outside the grid")
    light = (grid.flux[..., inside] * np.diff(grid.edges)[inside]).sum(-1).astype(float)
    mass = galaxies["mass_formed"].transpose("galaxy", "age").values.astype(float)
    absolute = _absolute_metallicity(galaxies["log_z_star"], grid)
    weights = metallicity_weights(absolute, grid.metallicity)
    path = "gz,ga,za->ga" if weights.ndim == 2 else "gaz,ga,za->ga"
    share = np.einsum(path, weights, mass, light, optimize=True)
    share /= share.sum(1, keepdims=True)
    surviving = np.einsum(path, weights, mass, grid.surviving_mass, optimize=True).sum(1)
    log_z = np.log10(np.clip(absolute, grid.metallicity[0], grid.metallicity[-1]) / grid.z_sun)
    log_z = log_z[:, None] if log_z.ndim == 1 else log_z
    rate = star_formation_rate(mass, grid.age_edges)
    log_sfr = np.log10(rate, out=np.full(rate.shape, -np.inf), where=rate > 0)
    mass_attrs = {"units": "dex(Msun)", "long_name": "surviving stellar mass"}
    result = galaxies.assign(
        log_mass=("galaxy", np.log10(surviving), mass_attrs),
        log_sfr=("galaxy", log_sfr, {"units": "dex(Msun / yr)", "long_name": "SFR over 100 Myr"}),
        age_lw=("galaxy", 10 ** (share @ np.log10(grid.age / 1e9)), {"units": "Gyr"}),
        log_z_lw=("galaxy", (share * log_z).sum(1), {"units": "dex", "z_sun": grid.z_sun}),
    )
    return result.assign_attrs(
        galaxies.attrs, ssp_grid=json.dumps(grid.provenance), fwhm=grid.fwhm, z_sun=grid.z_sun, frame="rest"
    )


def metallicity_weights(metallicity, nodes):
    """Weights of the grid's metallicities, linear in log Z, the nearest node outside."""
    return interpolation_weights(np.log(metallicity), np.log(nodes))


def _build_operators(grid, edges, nebular, dust_emission):
    """Everything that does not depend on the galaxy, as tensors on the internal pixels."""
    plan = make_plan(edges, grid.edges)
    flux = torch.from_numpy(np.concatenate([grid.rebinned_flux(part) for part in plan.parts], axis=-1))
    share = share_younger_than(grid.age_edges, BIRTH_CLOUD_AGE)
    young, old = np.flatnonzero(share > 0), np.flatnonzero(share < 1)
    centres = np.concatenate([0.5 * (part[1:] + part[:-1]) for part in plan.parts])
    more = {"continuum": None, "dust_templates": None}
    if nebular:
        gas = grid.nebular
        reach = (gas.line_wavelength > edges[0]) & (gas.line_wavelength < edges[-1])
        index = np.flatnonzero(reach)
        more |= {
            "continuum": continuum_factors(gas, centres),
            "line_index": index,
            "line_wavelength": gas.line_wavelength[index],
            "line_luminosity": torch.from_numpy(
                np.ascontiguousarray(gas.line_luminosity[..., index].reshape(-1, index.size))
            ),
            "line_log_ratio": torch.from_numpy(np.log(gas.line_wavelength[index] / 5500.0).astype("f4")),
        }
    if dust_emission:
        dust = load_dust_emission()
        more |= {"dust_grid": dust, "dust_templates": torch.from_numpy(emission_templates(dust, edges))}
    return SimpleNamespace(
        plan=plan,
        young=flux[:, young].contiguous(),
        old=flux[:, old].contiguous(),
        young_ages=young,
        young_share=share,
        old_ages=old,
        log_ratio=torch.from_numpy(np.log(centres / 5500.0).astype("f4")),
        width=torch.from_numpy(np.concatenate([np.diff(part) for part in plan.parts]).astype("f4")),
        **more,
    )


@torch.inference_mode()
def _synthesize_batch(galaxies, grid, operators):
    """Flux (galaxy, n) and attenuated line luminosities (galaxy, line) or None, as arrays."""
    weights = masses_by_metallicity(galaxies, grid)
    young_mass = weights[..., operators.young_ages] * operators.young_share[operators.young_ages].astype("f4")
    old_mass = weights[..., operators.old_ages] * (1 - operators.young_share[operators.old_ages]).astype("f4")
    young = _weigh(young_mass, operators.young)
    old = _weigh(old_mass, operators.old)

    dust1, dust2, index, dispersion = (
        torch.from_numpy(galaxies[name].values.astype("f4"))
        for name in ("dust1", "dust2", "dust_index", "velocity_dispersion")
    )
    lines, absorbed = None, 0.0
    if operators.continuum is not None:
        gas = gas_weights(galaxies, grid, young_mass)
        young.addmm_(gas @ operators.continuum[0], operators.continuum[1])
        lines = gas @ operators.line_luminosity
        absorbed = lines.sum(1)
        lines *= torch.exp(-(dust1 + dust2)[:, None] * relative_depth(operators.line_log_ratio, index))
        absorbed = absorbed - lines.sum(1)
    if operators.dust_templates is not None:
        absorbed = absorbed + (young + old) @ operators.width
    if dust1.any() or dust2.any():
        flux = attenuate(young, old, relative_depth(operators.log_ratio, index), dust1, dust2)
    else:
        flux = young.add_(old)
    if operators.dust_templates is not None:
        absorbed = absorbed - flux @ operators.width
    flux = broaden_batch(flux, dispersion, operators.plan)
    if operators.dust_templates is not None:
        flux += _dust_emission(galaxies, operators, absorbed)
    if lines is not None:
        gas_dispersion = dispersion
        if "gas_dispersion" in galaxies:
            gas_dispersion = torch.from_numpy(galaxies["gas_dispersion"].values.astype("f4"))
        add_lines(flux, operators.plan.edges, operators.line_wavelength, lines, gas_dispersion, grid.fwhm)
        lines = lines.numpy()
    return flux.numpy(), lines


def _weigh(weights, spectra):
    """Sum of SSPs: weights (galaxy, Z, age) times spectra (Z, age, n)."""
    n_z, _, n = spectra.shape
    used = (weights != 0).any(axis=2)
    low = np.minimum(used.argmax(axis=1), max(n_z - 2, 0))
    if (used & (np.arange(n_z) > low[:, None] + 1)).any():
        return _matrix(weights) @ spectra.reshape(-1, n)
    result = torch.empty(len(weights), n)
    for k in np.unique(low):
        rows = np.flatnonzero(low == k)
        result[rows] = _matrix(weights[rows, k : k + 2]) @ spectra[k : k + 2].reshape(-1, n)
    return result


def masses_by_metallicity(galaxies, grid):
    """Mass formed [Msun] at each metallicity and age of a grid, (galaxy, Z, age), float32."""
    mass = galaxies["mass_formed"].transpose("galaxy", "age").values.astype("f4")
    weights = metallicity_weights(_absolute_metallicity(galaxies["log_z_star"], grid), grid.metallicity)
    by_metallicity = weights[:, :, None] if weights.ndim == 2 else weights.transpose(0, 2, 1)
    return by_metallicity * mass[:, None, :]


def gas_weights(galaxies, grid, young_mass):
    """Weights of the gas's models (galaxy, model), from the mass of stars in birth clouds (galaxy, Z, young age)."""
    gas, n = grid.nebular, young_mass.shape[-1]
    zero = galaxies["log_z_gas"].attrs.get("z_sun", grid.z_sun)
    by_metallicity = metallicity_weights(10.0 ** galaxies["log_z_gas"].values * zero, gas.metallicity)
    # The last bin may straddle 10 Myr; the mass in it is already only the younger part.
    edges = np.minimum(grid.age_edges[: n + 1], BIRTH_CLOUD_AGE)
    rate, log_u = grid.ionizing_rate[:, :n], galaxies["log_u"].values
    return torch.from_numpy(nebular_weights(young_mass, edges, rate, by_metallicity, log_u, gas))


def _dust_emission(galaxies, operators, absorbed):
    weights = emission_weights(operators.dust_grid, *(galaxies[name].values for name in REQUIRED_DUST))
    emission = torch.from_numpy(weights) @ operators.dust_templates
    width = torch.diff(operators.plan.edges).float()
    return emission * (absorbed / (emission @ width))[:, None]


def _matrix(weights):
    return torch.from_numpy(np.ascontiguousarray(weights.reshape(len(weights), -1), dtype="f4"))


def _absolute_metallicity(log_z, grid):
    dims = [d for d in ("galaxy", "age") if d in log_z.dims]
    return 10.0 ** log_z.transpose(*dims).values.astype(float) * log_z.attrs.get("z_sun", grid.z_sun)


def check_galaxies(galaxies, grid, also, *, nebular, dust_emission):
    """Raise a ValueError that names the column, and the row, that no spectrum can be made of."""
    needed = REQUIRED + also + (REQUIRED_GAS if nebular else ()) + (REQUIRED_DUST if dust_emission else ())
    missing = [name for name in needed if name not in galaxies]
    if missing:
        raise ValueError(f"galaxies lack the columns {', '.join(missing)}")
    if galaxies.sizes["age"] != len(grid.age):
        raise ValueError(f"mass_formed has {galaxies.sizes['age']} age bins, the grid {len(grid.age)}")
    for name in needed:
        values = galaxies[name].transpose("galaxy", ...).values.reshape(galaxies.sizes["galaxy"], -1)
        bad = ~np.isfinite(values).all(1)
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(f"{name} is not finite for {bad.sum()} galaxies, the first is row {row}")
        negative = (values < 0).any(1)
        if name in ("velocity_dispersion", "dust1", "dust2", "mass_formed") and negative.any():
            raise ValueError(f"{name} holds negative values, the first in row {int(negative.argmax())}")


class BatchStore:
    """Collects arrays batch by batch, in memory or in a resumable Zarr store, without ever holding them twice."""

    def __init__(self, template, arrays, batch_size, path=None):
        self._template, self._arrays, self._path = template, arrays, path
        self._count = template.sizes["galaxy"]
        starts = range(0, self._count, batch_size)
        self._batches = [slice(start, min(start + batch_size, self._count)) for start in starts]
        if path is None:
            self._memory = {k: np.empty((self._count, size), "f4") for k, (_, size, _) in arrays.items()}
            self._done = np.zeros(self._count, bool)
        else:
            self._done = self._open()

    def _open(self):
        """Create the store, or find which galaxies of it are done already."""
        if Path(self._path).exists():
            with xr.open_zarr(self._path) as existing:
                same = existing.sizes.get("galaxy") == self._count and all(
                    name in existing and existing.sizes[dim] == size
                    for name, (dim, size, _) in self._arrays.items()
                )
                if not same or DONE not in existing or not self._same_columns(existing):
                    raise ValueError(f"{self._path} holds another sample: remove it or choose another store")
                return existing[DONE].values.copy()
        import dask.array

        rows = self._batches[0].stop if self._batches else 1
        lazy = {
            name: (("galaxy", dim), dask.array.zeros((self._count, size), chunks=(rows, -1), dtype="f4"))
            for name, (dim, size, _) in self._arrays.items()
        }
        done = np.zeros(self._count, bool)
        layout = self._template.assign(lazy).assign({DONE: ("galaxy", done)})
        encoding = {name: {"chunks": (rows, size)} for name, (_, size, _) in self._arrays.items()}
        encoding[DONE] = {"chunks": (rows,)}
        self._add_units(layout).to_zarr(self._path, compute=False, encoding=encoding)
        # Columns were written with the layout; flags must be there too, since only arrays of Dask are left out.
        return done

    def _same_columns(self, existing):
        """Whether the stored histories are those asked for: same numbers, not only the same shape."""
        return all(
            name in existing
            and np.array_equal(existing[name].values, self._template[name].values, equal_nan=True)
            for name in ("mass_formed", "log_z_star", "dust2")
        )

    def _add_units(self, dataset):
        for name, (_, _, units) in self._arrays.items():
            dataset[name].attrs["units"] = units
        return dataset

    def pending(self):
        """Batches (slices of galaxies) still to be made."""
        return [batch for batch in self._batches if not self._done[batch].all()]

    def write(self, batch, values):
        """Write one batch; ``values`` maps each array's name to (galaxy, size)."""
        self._done[batch] = True
        if self._path is None:
            for name, array in self._memory.items():
                array[batch] = values[name]
            return
        written = {name: (("galaxy", dim), values[name]) for name, (dim, _, _) in self._arrays.items()}
        written[DONE] = ("galaxy", np.ones(batch.stop - batch.start, bool))
        xr.Dataset(written).to_zarr(self._path, region={"galaxy": batch})

    def finish(self):
        """The sample: in memory, or opened lazily from the store."""
        if self._path is not None:
            return xr.open_zarr(self._path).drop_vars(DONE)
        filled = {name: (("galaxy", dim), self._memory[name]) for name, (dim, _, _) in self._arrays.items()}
        return self._add_units(self._template.assign(filled))
