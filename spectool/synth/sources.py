"""SSP grids from FSPS and from the template files of pPXF."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pooch
import xarray as xr
from tqdm.auto import tqdm

from spectool.io import write_dataset
from spectool.spectra import (
    KM_S,
    SIGMA_TO_FWHM,
    Z_SUN,
    air_to_vacuum,
    pixel_edges,
    rebin_matrix,
    vacuum_to_air,
)

IMF_TYPES = {"salpeter": 0, "chabrier": 1, "kroupa": 2}
_WORKER = Path(__file__).with_name("fsps_worker.py")
_SENTINEL = "FSPS-DONE"
_FORMAT = 2
_LONGEST_PATH = 250
_OLDEST = 1.45e10
_EXPECTED = (
    "data/emlines_info.dat",
    "data/FILTER_LIST",
    "data/allfilters.dat",
    "dust",
    "ISOCHRONES",
    "nebular",
    "SPECTRA",
)
_OURS = {
    "sfh", "zmet", "logzsol", "zcontinuous", "tage", "vactoair_flag", "compute_vega_mags", "imf_type",
    "add_neb_emission", "add_neb_continuum", "add_dust_emission", "dust1", "dust2", "dust_index", "dust_type",
    "sigma_smooth", "add_igm_absorption", "redshift_colors",
}  # fmt: skip
_HELP = "Get the whole of FSPS's data (git clone https://github.com/cconroy20/fsps) and let SPS_HOME name that folder."


LAYOUT = {
    "flux": (("metallicity", "age", "wavelength"), "Lsun / (Angstrom Msun)"),
    "surviving_mass": (("metallicity", "age"), ""),
    "ionizing_rate": (("metallicity", "age"), "1 / (s Msun)"),
    "metallicity": (("metallicity",), ""),
    "age": (("age",), "yr"),
    "wavelength": (("wavelength",), "Angstrom"),
}


def ssp_dataset(arrays, attrs):
    """Arrays by name, in the layout that `SSPGrid.from_dataset` reads."""
    columns = {}
    for name, values in arrays.items():
        dims, units = LAYOUT[name]
        columns[name] = (dims, values, {"units": units})
    return xr.Dataset(columns, attrs=attrs).set_coords(["metallicity", "age", "wavelength"])


def ionizing_photon_rate(flux, wavelength):
    """Photons shortward of the Lyman limit, the integral of L_lambda lambda / (h c)."""
    from astropy import constants, units

    energy_times_wavelength = (constants.h * constants.c).to_value(units.Lsun * units.s * units.AA)
    inside = wavelength <= 911.76
    return np.trapezoid(
        flux[..., inside].astype(float) * wavelength[inside] / energy_times_wavelength,
        wavelength[inside],
        axis=-1,
    )


class FSPSError(RuntimeError):
    """FSPS cannot be run, or did not finish; the message says what to do."""


def load_fsps_grid(
    *,
    imf="kroupa",
    wavelength_range=(900.0, 10500.0),
    pixel=1.0,
    parameters=None,
    sps_home=None,
    cache=True,
    progress=True,
):
    """SSPs of FSPS: stars without dust or gas, on FSPS's own wavelengths (vacuum), ages and metallicities.

    The provenance names the libraries that FSPS reports (MIST and C3K_LR in today's wheels). A first call takes
    a minute and caches; later ones read.

    Parameters
    ----------
    imf : {"kroupa", "chabrier", "salpeter"}
    wavelength_range : tuple of float
        [Angstrom]; to 1e7 for dust emission and photometry.
    pixel : float
        Between 3000 and 10000 A FSPS's spacing of several Angstrom is divided, linearly, into pixels no wider.
    parameters : dict, optional
        Further parameters of ``fsps.StellarPopulation`` that shape the stars, such as ``{"fbhb": 0.2}``.
    sps_home : path, optional
        Default: the environment variable ``SPS_HOME``.
    cache : bool or path
        Keep the grid in the user's cache folder (or the one given). The entry belongs to these options and to the
        files of ``SPS_HOME`` by name, size and time.
    progress : bool

    Returns
    -------
    xarray.Dataset
        As `SSPGrid.from_dataset` reads it.

    Raises
    ------
    FSPSError
        If python-fsps is missing, ``SPS_HOME`` is unset, no directory or incomplete, or FSPS stops.
    ValueError
        If an option makes no sense.
    """
    parameters = dict(parameters or {})
    _check_options(imf, wavelength_range, pixel, parameters)
    home = check_sps_home(sps_home)
    version = metadata.version("fsps")
    options = {
        "imf": imf,
        "range": list(map(float, wavelength_range)),
        "pixel": float(pixel),
        "more": parameters,
    }
    path = None
    if cache:
        folder = Path(pooch.os_cache("spectool") if cache is True else cache)
        key = json.dumps([_FORMAT, version, options, _fingerprint(home)], sort_keys=True)
        path = folder / f"fsps_{hashlib.sha256(key.encode()).hexdigest()[:16]}.nc"
        if path.exists() and (grid := _read(path)) is not None:
            return grid
    raw = _run_worker({"imf_type": IMF_TYPES[imf], **parameters}, home, progress)
    dataset = _to_dataset(raw, options)
    if path is not None:
        write_dataset(dataset, path)
    return dataset


def check_sps_home(sps_home=None):
    """The FSPS data folder, if python-fsps is installed and the folder looks whole."""
    if importlib.util.find_spec("fsps") is None:
        raise FSPSError("python-fsps is not installed: pip install 'fsps>=0.5' (Linux and macOS)")
    named = os.environ.get("SPS_HOME", "") if sps_home is None else str(sps_home)
    if not named:
        raise FSPSError(f"FSPS needs the environment variable SPS_HOME, which is not set. {_HELP}")
    home = Path(named).expanduser().absolute()
    if not home.is_dir():
        raise FSPSError(f"SPS_HOME is {named!r}, which is not a directory. {_HELP}")
    if len(str(home)) >= _LONGEST_PATH:
        raise FSPSError(
            f"the path of SPS_HOME has {len(str(home))} characters; FSPS reads {_LONGEST_PATH - 1} at most"
        )
    missing = [name for name in _EXPECTED if not (home / name).exists()]
    if missing:
        raise FSPSError(f"SPS_HOME = {home} is incomplete: it lacks {', '.join(missing)}. {_HELP}")
    return home


def _check_options(imf, wavelength_range, pixel, parameters):
    if imf not in IMF_TYPES:
        raise ValueError(f"no IMF {imf!r}; choose from {sorted(IMF_TYPES)}")
    low, high = wavelength_range
    if not 91 <= low < high <= 1e8 or not pixel > 0:
        raise ValueError("wavelength_range must lie within FSPS's 91-1e8 Angstrom, and pixel be positive")
    taken = sorted(_OURS.intersection(parameters))
    if taken:
        raise ValueError(f"{', '.join(taken)}: set by spectool, which adds dust and gas in its own synthesis")


def _fingerprint(home):
    """A digest of the names, sizes and times of the files of a folder."""
    digest = hashlib.sha256()
    for folder, subfolders, names in os.walk(home, followlinks=True):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith(".") and s != "OUTPUTS")
        for name in sorted(names):
            file = Path(folder) / name
            if file.exists():
                stat = file.stat()
                digest.update(f"{file.relative_to(home)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _run_worker(parameters, home, progress):
    """What `fsps_worker` computes, as a dict of arrays."""
    environment = os.environ | {"SPS_HOME": str(home), "OMP_NUM_THREADS": "1"}
    # FSPS leaves files like fort.99 where it runs.
    with tempfile.TemporaryDirectory(prefix="spectool-fsps-") as scratch:
        output = Path(scratch) / "grid.npz"
        command = [sys.executable, str(_WORKER), json.dumps(parameters), str(output)]
        process = subprocess.Popen(
            command, cwd=scratch, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        message = []
        try:
            with tqdm(desc="computing the FSPS grid", unit="Z", disable=not progress) as bar:
                for line in process.stdout:
                    if line.startswith("PROGRESS "):
                        done, bar.total = map(int, line.split()[1:])
                        bar.update(done - bar.n)
                    else:
                        message.append(line.strip())
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        if code != 0 or _SENTINEL not in message or not output.exists():
            words = " / ".join(line for line in message if line)[-600:] or f"nothing (exit code {code})"
            raise FSPSError(
                f"FSPS did not finish. It said: {words}. Most often a file under SPS_HOME = {home} is missing or of "
                f"another version than python-fsps {metadata.version('fsps')}. {_HELP}"
            )
        with np.load(output) as archive:
            return {name: archive[name] for name in archive.files}


def _to_dataset(raw, options):
    """The grid in the layout of `SSPGrid.from_dataset`, cut to the options' wavelengths."""
    wavelength = raw["wavelength"].astype(float)
    ages = (raw["age"] > 0) & (raw["age"] < _OLDEST)
    flux = raw["flux"][:, ages]
    centres, position = _refine(wavelength, options["range"], options["pixel"])
    low = np.minimum(position.astype(int), wavelength.size - 2)
    share = (position - low).astype("f4")
    fine = flux[..., low] * (1 - share) + flux[..., low + 1] * share
    optical = (wavelength > 4000) & (wavelength < 7000)
    dispersion = float(np.median(np.abs(raw["resolution"][optical])))
    isochrones, spectra, dust = (str(name).upper() for name in raw["libraries"])
    provenance = {
        "name": f"FSPS {isochrones} + {spectra}",
        "stars": f"{isochrones} isochrones and {spectra} spectra, as FSPS reports its libraries",
        "dust_library": f"{dust} (not used)",
        "imf": options["imf"].capitalize(),
        "nebular": "embedded Cloudy tables of BC03-MILES stars, scaled by ionising photons",
        "source": f"FSPS through python-fsps {raw['version']}",
        "options": options,
        "resolution": _resolution(wavelength, raw["resolution"]),
    }
    arrays = {
        "flux": fine,
        "surviving_mass": raw["surviving_mass"][:, ages],
        "ionizing_rate": ionizing_photon_rate(flux, wavelength),
        "metallicity": raw["metallicity"].astype(float),
        "age": raw["age"][ages].astype(float),
        "wavelength": centres,
    }
    attrs = {
        "z_sun": round(float(raw["z_sun"]), 6),  # single precision in FSPS
        "fwhm": 5500.0 * dispersion / KM_S * float(SIGMA_TO_FWHM),
        "provenance": json.dumps(provenance),
    }
    return ssp_dataset(arrays, attrs)


def _resolution(wavelength, dispersion):
    """FWHM [Angstrom] at a few wavelengths; ``dispersion`` is what FSPS says [km/s]."""
    nodes = np.array([4000.0, 4500.0, 5500.0, 6500.0, 7300.0])
    fwhm = nodes * np.interp(nodes, wavelength, np.abs(dispersion)) / KM_S * SIGMA_TO_FWHM
    return {"wavelength": nodes.tolist(), "fwhm": np.round(fwhm, 3).tolist()}


def _refine(wavelength, wanted, pixel):
    """Finer pixel centres inside a range, and their places between FSPS's samples, as fractional indices."""
    first = max(np.searchsorted(wavelength, wanted[0], side="right") - 1, 0)
    last = min(np.searchsorted(wavelength, wanted[1]) + 1, wavelength.size)
    index = np.arange(first, last - 1)
    step = np.diff(wavelength)[index]
    inside = (wavelength[index] >= 3000) & (wavelength[index] <= 10000)
    parts = np.where(inside, np.ceil(step / pixel), 1).astype(int)
    position = np.concatenate([k + np.arange(n) / n for k, n in zip(index, parts, strict=True)])
    position = np.append(position, last - 1)
    return np.interp(position, np.arange(wavelength.size), wavelength), position


def _read(path):
    """The cached grid, or None if the file cannot be read."""
    try:
        with xr.open_dataset(path, engine="h5netcdf") as stored:
            return stored.load()
    except (OSError, ValueError, KeyError) as error:
        warnings.warn(
            f"the cached FSPS grid {path} cannot be read ({error}): computing it anew", stacklevel=3
        )
        return None


_REQUIRED = ("templates", "lam", "ages", "metals")
WAVELENGTH_RANGE = (3000.0, 9800.0)
# Where air and vacuum are told apart, and how far [km/s] from either a library may be off.
_COMPARED = (4800.0, 5400.0)
_TRIALS = np.arange(-150.0, 151.0, 5.0)
_TOLERANCE = 35.0


def load_ppxf_grid(
    path, reference, *, name=None, z_sun=Z_SUN, medium=None, wavelength_range=WAVELENGTH_RANGE
):
    """SSPs out of a file of pPXF's format, without nebular emission: templates do not reach the ionising ultraviolet.

    Parameters
    ----------
    path : path
        ``.npz`` with ``templates`` (wavelength, age, metallicity) [Lsun / Angstrom / Msun], ``lam`` [Angstrom],
        ``ages`` [Gyr], ``metals`` [log Z / Zsun]; where there, ``fwhm`` [Angstrom] (one, or one per wavelength; else
        2.51, that of MILES) and ``masses`` (age, metallicity).
    reference : callable
        Returns the grid whose lines tell air from vacuum.
    name : str, optional
        Of the library; default: the file's.
    z_sun : float
        Mass fraction of metals that ``metals`` refers to.
    medium : {None, "air", "vacuum"}
        Of ``lam``, which the files do not say: None compares the positions of lines (air is 83 km/s bluer).
    wavelength_range : (float, float)
        What to keep, vacuum [Angstrom].

    Returns
    -------
    xarray.Dataset
        As `SSPGrid.from_dataset` reads it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is none of pPXF's, its arrays do not fit together, or its lines are neither where air nor where vacuum
        has them.
    """
    path = Path(path)
    given = _read_ppxf(path)
    templates, lam = given["templates"].astype(float), given["lam"].astype(float)
    ages, metals = np.atleast_1d(given["ages"]).astype(float), np.atleast_1d(given["metals"]).astype(float)
    if templates.shape != (lam.size, ages.size, metals.size):
        raise ValueError(
            f"{path.name}: templates have shape {templates.shape}; lam, ages and metals make "
            f"{(lam.size, ages.size, metals.size)}"
        )
    by_age, by_metal = np.argsort(ages), np.argsort(metals)
    flux = templates.transpose(2, 1, 0)[np.ix_(by_metal, by_age)]
    medium = medium or _find_medium(flux, lam, ages[by_age], metals[by_metal], path.name, reference())
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
    fwhm = np.broadcast_to(given.get("fwhm", 2.51), lam.shape)[inside].astype(float)
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
    arrays = {
        "flux": flux,
        "metallicity": 10.0 ** metals[by_metal] * z_sun,
        "age": ages[by_age] * 1e9,
        "wavelength": wavelength,
    }
    if "masses" in given:
        arrays["surviving_mass"] = given["masses"].T[np.ix_(by_metal, by_age)].astype(float)
    attrs = {"z_sun": float(z_sun), "fwhm": float(np.median(fwhm)), "provenance": provenance}
    return ssp_dataset(arrays, attrs)


def _read_ppxf(path):
    if not path.is_file():
        raise FileNotFoundError(f"no template file {path}")
    try:
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is no .npz file of arrays ({error})") from error
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        raise ValueError(f"{path.name} is no file of pPXF's templates: it lacks {', '.join(missing)}")
    return arrays


def _find_medium(flux, lam, ages, metals, name, grid):
    """Whether lines lie where air or where vacuum has them: shifts of a solar population of some Gyr against ours."""
    low, high = _COMPARED
    inside = (lam > low - 20) & (lam < high + 20)
    if inside.sum() < 200:
        raise ValueError(
            f"{name} does not cover {low:g}-{high:g} A well: say whether its medium is 'air' or 'vacuum'"
        )
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
    result = {"vacuum": abs(shift), "air": abs(shift - air)}
    medium = min(result, key=result.get)
    if result[medium] > _TOLERANCE:
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
