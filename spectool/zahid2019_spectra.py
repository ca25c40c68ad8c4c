"""Candidates' spectra on pixels of 1 A, in the compact form that a memory map of 200,000 of them holds.

The *stored form* is at rest on `spectool.continuum_basis.zahid2019_wavelength`, its mean over 4400-4450 A is 1, bad
pixels are NaN, float16; the noise is kept as one number per chunk of the network's input.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import xarray as xr

from spectool.continuum_basis import kept_pixels, stack_wavelength, zahid2019_wavelength
from spectool.measure.gaussian_lines import measure_gaussian_lines
from spectool.prepare import add_history
from spectool.wavelength import pixel_edges, rebin_matrix
from spectool.zahid2019_candidates import observe_candidates, rest_pixels

NORM_WINDOW = (4400.0, 4450.0)
"""Rest wavelengths [Angstrom] of the normalisation; the paper, Section 3.1."""
N_CHUNKS = 25
PIXELS = ("flux", "ivar", "mask", "truth")
COLUMNS = (
    "candidate",
    "redshift",
    "log_mass",
    "log_sfr",
    "log_z_star",
    "log_z_lw",
    "age_lw",
    "log_z_gas",
    "log_u",
)
COLUMNS += (
    "dust1",
    "dust2",
    "dust_index",
    "velocity_dispersion",
    "fibre_fraction",
    "r_magnitude",
    "is_quiescent",
)
COLUMNS += ("is_agn", "norm", "light", "sn", "gas_dispersion", "line_flux", "line_sn", "chunk_sigma")
"""What the table of a memory map holds of each galaxy."""


@cache
def _operator():
    """From the spectrograph's pixels to 1 A, and for variances: times the width of the pixel that noise comes in."""
    edges = pixel_edges(rest_pixels())
    matrix = rebin_matrix(edges, pixel_edges(stack_wavelength())).astype("f4")
    return matrix, (matrix @ np.diff(edges)).astype("f4")


def to_angstrom(sample, *, min_coverage=0.5):
    """Rebin observed candidates to 3700-7360 A in steps of 1 A.

    Flux is conserved. A variance is that of the pixels below times their width in Angstrom: sums over several pixels,
    as filters take them, then have the right variance, although neighbours share noise.

    Parameters
    ----------
    sample : Dataset
        From `spectool.zahid2019_candidates.observe_candidates`.
    min_coverage : float
        A pixel with less of its width on good pixels is masked.

    Returns
    -------
    Dataset
        On `spectool.continuum_basis.stack_wavelength`, with the columns ``norm`` (mean flux over 4400-4450 A),
        ``light`` (mean noise-free flux over 4050-7300 A, relative to that over 4400-4450 A), ``is_agn`` and ``sn``
        (median signal-to-noise ratio per Angstrom over 4050-7300 A).
    """
    matrix, width = _operator()
    good = ~sample["mask"].values

    def apply(values):
        return (matrix @ values.T).T

    covered = apply(good.astype("f4"))
    share = np.divide(1, covered, out=np.zeros_like(covered), where=covered > 0)
    ivar = sample["ivar"].values
    variance = np.divide(1, ivar, out=np.zeros_like(ivar), where=good)
    flux, variance = apply(sample["flux"].values) * share, apply(variance) * share * width
    truth, bad = apply(sample["truth"].values), covered < min_coverage
    dims, wavelength = ("galaxy", "wavelength"), stack_wavelength()
    values = {
        "flux": np.where(bad, 0, flux),
        "ivar": np.divide(1, variance, out=np.zeros_like(variance), where=~bad),
        "mask": bad,
        "truth": truth,
    }
    pixels = {name: (dims, values[name], dict(sample[name].attrs)) for name in PIXELS}
    label = _inside((4050.0, 7300.0))
    light = truth[:, label].mean(axis=1) / truth[:, _inside(NORM_WINDOW)].mean(axis=1)
    signal = np.where(bad, np.nan, flux * np.sqrt(values["ivar"]))[:, label]
    columns = {
        "norm": (
            _mean_inside(flux, bad),
            {"units": sample["flux"].attrs["units"], "long_name": "mean, 4400-4450 A"},
        ),
        "light": (light, {"units": "", "long_name": "noise-free light, 4050-7300 A relative to 4400-4450 A"}),
        "sn": (
            np.nanmedian(signal, axis=1),
            {"units": "", "long_name": "median S/N per Angstrom, 4050-7300 A"},
        ),
        "is_agn": (sample["agn_type"].values != "", {"units": ""}),
    }
    out = sample.drop_dims("wavelength").assign_coords(
        wavelength=("wavelength", wavelength, {"units": "Angstrom", "description": "vacuum, rest frame"})
    )
    out = out.assign(pixels).assign({name: ("galaxy", *about) for name, about in columns.items()})
    return add_history(out, f"rebinned to 1 A: {bad.mean():.2%} of the pixels masked")


def _inside(window):
    wavelength = stack_wavelength()
    return (wavelength >= window[0]) & (wavelength <= window[1])


def _mean_inside(flux, bad):
    where = _inside(NORM_WINDOW)
    return np.where(bad, 0, flux)[:, where].sum(axis=1) / np.maximum((~bad[:, where]).sum(axis=1), 1)


def measure_candidates(galaxies, *, seed, grid=None):
    """Observe candidates and measure their lines.

    Parameters
    ----------
    galaxies : Dataset
        Rows of `spectool.zahid2019_candidates.draw_block`.
    seed : int
    grid : SSPGrid, optional

    Returns
    -------
    Dataset
        As `to_angstrom`, with ``line_flux``, ``line_sn`` and ``gas_dispersion`` of
        `spectool.measure.gaussian_lines.measure_gaussian_lines`.
    """
    seen = observe_candidates(galaxies, seed=seed, grid=grid)
    lines = measure_gaussian_lines(seen.drop_dims("line"))
    spectra = to_angstrom(seen)
    return spectra.assign({name: lines[name] for name in ("line_flux", "line_sn", "gas_dispersion")})


def stored_flux(sample):
    """Spectra in the stored form.

    Parameters
    ----------
    sample : Dataset
        From `to_angstrom`.

    Returns
    -------
    ndarray, shape (galaxy, 3251), float16
        On `spectool.continuum_basis.zahid2019_wavelength`.
    """
    part = _inside((4050.0, 7300.0))
    flux = sample["flux"].values[:, part] / sample["norm"].values[:, None]
    # Lines of extreme galaxies stay far below the largest float16.
    return np.where(sample["mask"].values[:, part], np.nan, flux).clip(-6e4, 6e4).astype(np.float16)


def chunk_sigma(sample):
    """Noise of a pixel of 1 A relative to the mean flux, in each of the 25 chunks of pixels that the network is given.

    Parameters
    ----------
    sample : Dataset
        From `to_angstrom`.

    Returns
    -------
    ndarray, shape (galaxy, 25), float32
        Root mean square noise over mean flux of the chunk's good pixels; NaN where it has none.
    """
    part = _inside((4050.0, 7300.0))
    kept = np.flatnonzero(part)[kept_pixels(zahid2019_wavelength())]
    good = (~sample["mask"].values[:, kept]).astype("f4")
    flux = sample["flux"].values[:, kept] * good
    ivar = sample["ivar"].values[:, kept]
    variance = np.divide(1, ivar, out=np.zeros_like(ivar), where=good > 0)
    starts = np.concatenate([[0], np.cumsum([len(c) for c in np.array_split(kept, N_CHUNKS)])[:-1]])
    n, light, noise = (np.add.reduceat(values, starts, axis=1) for values in (good, flux, variance))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n > 0, np.sqrt(noise / n) / np.maximum(light / n, 1e-6), np.nan).astype("f4")


def open_memmap(folder):
    """A sample of spectra on disk, opened without reading them.

    Parameters
    ----------
    folder : path
        Written by `MemoryMap`, as ``tools/select_zahid2019.py`` does.

    Returns
    -------
    flux : numpy.memmap, shape (galaxy, 3251), float16
        The stored form.
    table : Dataset
        `COLUMNS` of each galaxy; ``attrs["counts"]``: how many candidates each cut left, as JSON.

    Raises
    ------
    FileNotFoundError
        If the folder holds none, or one that is not complete.
    """
    folder = Path(folder)
    if not (folder / "table.nc").exists():
        state = (
            "is not complete: run the tool again, it goes on where it was"
            if (folder / "flux.npy").exists()
            else ""
        )
        raise FileNotFoundError(
            f"{folder} {state or 'holds no spectra: make them with tools/select_zahid2019.py'}"
        )
    return np.load(folder / "flux.npy", mmap_mode="r"), xr.load_dataset(
        folder / "table.nc", engine="h5netcdf"
    )


class MemoryMap:
    """Writes spectra batch by batch into a folder, and goes on where it was.

    Parameters
    ----------
    folder : path
    size : int
        Galaxies in the end.
    """

    def __init__(self, folder, size):
        self.folder, self.size = Path(folder), int(size)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "flux.npy"
        shape = (self.size, zahid2019_wavelength().size)
        if path.exists():
            self.flux = np.load(path, mmap_mode="r+")
            if self.flux.shape != shape:
                raise ValueError(f"{path} is for {len(self.flux)} galaxies, not {size}: remove it")
        else:
            self.flux = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)

    def write(self, batch, first, sample):
        """Write the spectra and the columns of one batch; rows from `first`. Returns how many had room."""
        n = min(sample.sizes["galaxy"], self.size - first)
        sample = sample.isel(galaxy=slice(n))
        if n:
            self.flux[first : first + n] = stored_flux(sample)
            self.flux.flush()
        table = sample.assign(chunk_sigma=(("galaxy", "chunk"), chunk_sigma(sample), {"units": ""}))
        columns = {name: table[name].transpose("galaxy", ...).values for name in COLUMNS}
        np.savez(self.folder / f"batch_{batch:05d}.npz", **columns)
        return n

    def finish(self, n_batches, attrs, units, lines):
        """Put the batches' columns together into ``table.nc`` and remove them."""
        paths = [self.folder / f"batch_{batch:05d}.npz" for batch in range(n_batches)]
        parts = [dict(np.load(path)) for path in paths]
        dims = {
            "line_flux": ("galaxy", "line"),
            "line_sn": ("galaxy", "line"),
            "chunk_sigma": ("galaxy", "chunk"),
        }
        table = xr.Dataset(attrs={k: v if isinstance(v, str) else json.dumps(v) for k, v in attrs.items()})
        for name in COLUMNS:
            values = np.concatenate([part[name] for part in parts])
            values = values.astype("f4") if values.dtype.kind == "f" else values
            table[name] = (dims.get(name, ("galaxy",)), values, {"units": units.get(name, "")})
        table = table.assign_coords(line=list(lines))
        partial = self.folder / "table.part.nc"
        table.to_netcdf(partial, engine="h5netcdf", encoding={n: {"zlib": True} for n in COLUMNS})
        partial.replace(self.folder / "table.nc")
        for path in paths:
            path.unlink()
        return table
