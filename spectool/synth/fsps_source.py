"""SSP grids computed by FSPS, through python-fsps in a process of its own, and kept on disk.

FSPS reads its stars and isochrones from the folder that ``SPS_HOME`` names, and its Fortran ends the whole
process, with exit code 0, when a file is missing. So it never runs in this interpreter.
"""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import pooch
import xarray as xr
from tqdm.auto import tqdm

from spectool.synth.grid import SSPGrid, ionizing_photon_rate

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
    """SSP grid of FSPS: stars without dust or gas, on FSPS's own wavelengths (vacuum), ages and metallicities.

    The grid says which libraries it is made of, as FSPS reports them: those compiled into python-fsps, MIST
    isochrones and C3K_LR spectra in the wheels of today, whatever else lies in ``SPS_HOME``. Nebular emission
    comes, as with the embedded grid, from the embedded Cloudy tables, scaled by the ionising photons of the
    FSPS stars; FSPS's own nebular and dust models are not used. The first call computes for a minute or so
    and caches; later ones read.

    Parameters
    ----------
    imf : {"kroupa", "chabrier", "salpeter"}
    wavelength_range : tuple of float
        [Angstrom]; to 1e7 for dust emission and photometry.
    pixel : float
        Between 3000 and 10000 A FSPS's spacing of several Angstrom is divided, linearly, into pixels no wider
        than this.
    parameters : dict, optional
        Further parameters of ``fsps.StellarPopulation`` that shape the stars, such as ``{"fbhb": 0.2}``.
    sps_home : path, optional
        Default: the environment variable ``SPS_HOME``.
    cache : bool or path
        Keep the grid in the user's cache folder (or the one given), and read it from there the next time. The
        entry belongs to these options and to the files of ``SPS_HOME`` by name, size and time.
    progress : bool

    Returns
    -------
    SSPGrid

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
        _write(dataset, path)
    return SSPGrid.from_dataset(dataset)


def check_sps_home(sps_home=None):
    """The FSPS data folder, if python-fsps is installed and the folder looks whole.

    Parameters
    ----------
    sps_home : path, optional
        Default: the environment variable ``SPS_HOME``.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FSPSError
        Saying what is wrong and what to do.
    """
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
        said = []
        try:
            with tqdm(desc="computing the FSPS grid", unit="Z", disable=not progress) as bar:
                for line in process.stdout:
                    if line.startswith("PROGRESS "):
                        done, bar.total = map(int, line.split()[1:])
                        bar.update(done - bar.n)
                    else:
                        said.append(line.strip())
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        if code != 0 or _SENTINEL not in said or not output.exists():
            words = " / ".join(line for line in said if line)[-600:] or f"nothing (exit code {code})"
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
    plane = ("metallicity", "age")
    rate = ionizing_photon_rate(flux, wavelength)
    return xr.Dataset(
        {
            "flux": ((*plane, "wavelength"), fine, {"units": "Lsun / (Angstrom Msun)"}),
            "surviving_mass": (plane, raw["surviving_mass"][:, ages], {"units": ""}),
            "ionizing_rate": (plane, rate, {"units": "1 / (s Msun)"}),
        },
        coords={
            "metallicity": ("metallicity", raw["metallicity"].astype(float), {"units": ""}),
            "age": ("age", raw["age"][ages].astype(float), {"units": "yr"}),
            "wavelength": ("wavelength", centres, {"units": "Angstrom"}),
        },
        attrs={
            "z_sun": round(float(raw["z_sun"]), 6),  # single precision in FSPS
            "fwhm": 5500.0 * dispersion / 299792.458 * float(np.sqrt(8 * np.log(2))),
            "provenance": json.dumps(provenance),
        },
    )


def _resolution(wavelength, dispersion):
    """FWHM [Angstrom] at a few wavelengths; ``dispersion`` is what FSPS says [km/s]."""
    nodes = np.array([4000.0, 4500.0, 5500.0, 6500.0, 7300.0])
    fwhm = nodes * np.interp(nodes, wavelength, np.abs(dispersion)) / 299792.458 * np.sqrt(8 * np.log(2))
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
            return SSPGrid.from_dataset(stored.load())
    except (OSError, ValueError, KeyError) as error:
        warnings.warn(
            f"the cached FSPS grid {path} cannot be read ({error}): computing it anew", stacklevel=3
        )
        return None


def _write(dataset, path):
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fsps-") as scratch:
        part = Path(scratch) / path.name
        dataset.to_netcdf(part, engine="h5netcdf")
        part.replace(path)
