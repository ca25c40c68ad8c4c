"""SSP grids from the template files of pPXF: E-MILES, XSL, BPASS, GALAXEV and others that the user has.

Nothing of them is shipped: pPXF's examples download them (``spectra_emiles_9.0.npz`` and its like), under licences of
their own. `spectool.measure.ppxf_templates.write_ppxf_templates` is the inverse.
"""

import zipfile
from pathlib import Path

import numpy as np
import xarray as xr

from spectool.synth.grid import SSPGrid
from spectool.synth.nebular import KM_S
from spectool.wavelength import air_to_vacuum, pixel_edges, rebin_matrix, vacuum_to_air

REQUIRED = ("templates", "lam", "ages", "metals")
WAVELENGTH_RANGE = (3000.0, 9800.0)
# Where air and vacuum are told apart, and how far [km/s] from either a library may be off.
_COMPARED = (4800.0, 5400.0)
_TRIALS = np.arange(-150.0, 151.0, 5.0)
_TOLERANCE = 35.0


def load_ppxf_grid(path, *, name=None, z_sun=0.02, medium=None, wavelength_range=WAVELENGTH_RANGE):
    """SSP grid out of a file of pPXF's format.

    Parameters
    ----------
    path : path
        ``.npz`` with ``templates`` (wavelength, age, metallicity) [Lsun / Angstrom / Msun], ``lam`` [Angstrom],
        ``ages`` [Gyr], ``metals`` [log Z / Zsun]; where there, ``fwhm`` [Angstrom] (one, or one per wavelength; else
        2.51, that of MILES) and ``masses`` (age, metallicity).
    name : str, optional
        Of the library; default: the file's.
    z_sun : float
        Mass fraction of metals that ``metals`` refers to.
    medium : {None, "air", "vacuum"}
        Of ``lam``, which the files do not say: None finds out, by comparing the positions of lines with those of the
        embedded grid (air is 83 km/s bluer).
    wavelength_range : (float, float)
        What to keep, vacuum [Angstrom].

    Returns
    -------
    SSPGrid
        Without nebular emission, for the templates do not reach the ionising ultraviolet. ``provenance["resolution"]``
        holds the resolution where it changes with wavelength.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is none of pPXF's, its arrays do not fit together, or its lines are neither where air nor where vacuum
        has them.
    """
    path = Path(path)
    arrays = _read(path)
    templates, lam = arrays["templates"].astype(float), arrays["lam"].astype(float)
    ages, metals = np.atleast_1d(arrays["ages"]).astype(float), np.atleast_1d(arrays["metals"]).astype(float)
    if templates.shape != (lam.size, ages.size, metals.size):
        raise ValueError(
            f"{path.name}: templates have shape {templates.shape}; lam, ages and metals make "
            f"{(lam.size, ages.size, metals.size)}"
        )
    by_age, by_metal = np.argsort(ages), np.argsort(metals)
    flux = templates.transpose(2, 1, 0)[np.ix_(by_metal, by_age)]
    medium = _find_medium(flux, lam, ages[by_age], metals[by_metal], path.name) if medium is None else medium
    if medium not in ("air", "vacuum"):
        raise ValueError(f"medium is 'air', 'vacuum' or None, not {medium!r}")
    wavelength = air_to_vacuum(lam) if medium == "air" else lam
    inside = (wavelength >= wavelength_range[0]) & (wavelength <= wavelength_range[1])
    if inside.sum() < 2:
        raise ValueError(
            f"{path.name} covers {wavelength[0]:.0f}-{wavelength[-1]:.0f} A, nothing of "
            f"{wavelength_range[0]:g}-{wavelength_range[1]:g} A"
        )
    wavelength, flux = wavelength[inside], flux[..., inside]
    fwhm = np.broadcast_to(arrays.get("fwhm", 2.51), lam.shape)[inside].astype(float)
    provenance = {
        "name": name or path.stem,
        "stars": f"templates of {path.name}, a file of pPXF's format",
        "imf": "as in the file",
        "source": f"{path.name}, wavelengths in {medium}",
        "nebular": "none",
    }
    nodes = np.unique(np.linspace(0, fwhm.size - 1, 64).astype(int))
    if np.ptp(fwhm) > 1e-3:
        provenance["resolution"] = {"wavelength": wavelength[nodes].tolist(), "fwhm": fwhm[nodes].tolist()}
    plane = ("metallicity", "age")
    data = {"flux": ((*plane, "wavelength"), flux)}
    if "masses" in arrays:
        data["surviving_mass"] = (plane, arrays["masses"].T[np.ix_(by_metal, by_age)].astype(float))
    dataset = xr.Dataset(
        data,
        coords={
            "metallicity": 10.0 ** metals[by_metal] * z_sun,
            "age": ages[by_age] * 1e9,
            "wavelength": wavelength,
        },
        attrs={"z_sun": float(z_sun), "fwhm": float(np.median(fwhm)), "provenance": provenance},
    )
    return SSPGrid.from_dataset(dataset)


def _read(path):
    if not path.is_file():
        raise FileNotFoundError(f"no template file {path}")
    try:
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is no .npz file of arrays ({error})") from error
    missing = [key for key in REQUIRED if key not in arrays]
    if missing:
        raise ValueError(f"{path.name} is no file of pPXF's templates: it lacks {', '.join(missing)}")
    return arrays


def _find_medium(flux, lam, ages, metals, name):
    """Whether lines lie where air or where vacuum has them: shifts of a solar population of some Gyr against ours."""
    from spectool.measure.ppxf_templates import embedded_grid

    low, high = _COMPARED
    inside = (lam > low - 20) & (lam < high + 20)
    if inside.sum() < 200:
        raise ValueError(
            f"{name} does not cover {low:g}-{high:g} A well: say whether its medium is 'air' or 'vacuum'"
        )
    grid = embedded_grid()
    age, metal = np.abs(ages - 3.0).argmin(), np.abs(metals).argmin()
    ours = grid.flux[np.abs(grid.metallicity / grid.z_sun - 10.0 ** metals[metal]).argmin()]
    ours = ours[np.abs(grid.age / 1e9 - ages[age]).argmin()]
    edges = np.exp(np.arange(np.log(low), np.log(high), 30.0 / KM_S))
    theirs = _flatten(rebin_matrix(pixel_edges(lam), edges) @ flux[metal, age])
    match = [
        theirs @ _flatten(rebin_matrix(grid.edges * (1 + shift / KM_S), edges) @ ours) for shift in _TRIALS
    ]
    shift = _TRIALS[int(np.argmax(match))]
    middle = 0.5 * (low + high)
    air = (float(vacuum_to_air(middle)) / middle - 1) * KM_S
    found = {"vacuum": abs(shift), "air": abs(shift - air)}
    medium = min(found, key=found.get)
    if found[medium] > _TOLERANCE:
        raise ValueError(
            f"the lines of {name} lie {shift:.0f} km/s from those of the embedded grid, neither where vacuum (0) nor "
            f"where air ({air:.0f}) has them: say whether its medium is 'air' or 'vacuum'"
        )
    return medium


def _flatten(spectrum):
    """Without its slope, of unit norm."""
    x = np.linspace(-1, 1, spectrum.size)
    flat = spectrum / np.polynomial.Polynomial.fit(x, spectrum, 3)(x) - 1
    return flat / np.linalg.norm(flat)
