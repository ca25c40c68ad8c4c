"""What the mass-metallicity dashboard opens with: samples of galaxies, and metallicities from their lines."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from spectool.explore.mzr_spectra import rebuild_galaxy
from spectool.measure.metallicity import CALIBRATIONS
from spectool.measure.reddening import deredden
from spectool.synth.relations import OXYGEN_SUN

DATA = Path(__file__).resolve().parent.parent / "data"
TRUTH = "truth of the mocks"
CALIBRATED = ", calibrated errors"

# Classes of Table 1 of Scourfield (2023), in its order.
CLASSES = (
    "emission line galaxy",
    "absorption galaxy",
    "quiescent galaxy",
    "narrow-line AGN",
    "broad-line AGN",
)


@dataclass(frozen=True)
class Oxygen:
    """Gas metallicities of a sample on one scale.

    Attributes
    ----------
    value : ndarray, shape (galaxy,)
        12 + log(O/H); NaN where the calibration gives none.
    error : ndarray, shape (galaxy,)
        [dex]; NaN where unknown.
    h_alpha_sn : ndarray, shape (galaxy,)
        Flux of Hα in units of its error; infinite in a sample that has no lines.
    """

    value: np.ndarray
    error: np.ndarray
    h_alpha_sn: np.ndarray


def check_sample(name, sample):
    """Return a sample with what the dashboard needs, or say what it lacks.

    Parameters
    ----------
    name : str
        Of the sample, for errors.
    sample : xarray.Dataset
        dim ``galaxy``: ``log_mass``; optionally ``log_sfr``, ``spectral_class``, ``log_z_gas`` (truth),
        ``candidate`` (a number that tells galaxies apart in all samples; counted from 0 if missing). Either a line
        table, ``line_flux`` and ``line_flux_error`` (galaxy, line), or metallicities, ``oxygen`` and optionally
        ``oxygen_error`` and ``h_alpha_sn`` (galaxy).

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    ValueError
        If a column is missing, of another shape, or no galaxy is there.
    """
    needed = {"log_mass": ("galaxy",)}
    if "oxygen" in sample:
        needed |= {"oxygen": ("galaxy",)}
    else:
        needed |= {"line_flux": ("galaxy", "line"), "line_flux_error": ("galaxy", "line")}
    for column, dims in needed.items():
        if column not in sample:
            hint = " (nor has it metallicities, 'oxygen')" if column == "line_flux" else ""
            raise ValueError(f"the sample {name!r} has no column {column!r}{hint}")
        if set(sample[column].dims) != set(dims):
            raise ValueError(
                f"{column!r} of the sample {name!r} has the dimensions {sample[column].dims}, not {dims}"
            )
    if sample.sizes["galaxy"] == 0:
        raise ValueError(f"the sample {name!r} holds no galaxy")
    if "line_flux" in sample:
        sample = sample.transpose("galaxy", "line", ...)
        if "Hα" not in sample["line"].values:
            raise ValueError(f"the line table of the sample {name!r} has no line 'Hα'")
    if "candidate" not in sample:
        sample = sample.assign(candidate=("galaxy", np.arange(sample.sizes["galaxy"])))
    return sample


def read_scourfield2023(sample="mzr", *, path=None):
    """Read the star-forming test galaxies of Scourfield (2023, Section 5) with their measured lines.

    Parameters
    ----------
    sample : {"mzr", "null"}
        Galaxies whose metallicity knows their star formation, or only their mass.
    path : str or pathlib.Path, optional
        Default: the shipped file.

    Returns
    -------
    dict of str to xarray.Dataset
        By source of the file, such as ``"original"``, ``"DESI-like"``, ``"de-noised"``; a source with errors that were
        scaled to cover the truth comes once more with these, as ``"de-noised, calibrated errors"``. Names of the null
        sample begin with ``"null: "``.

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    ValueError
        If it is another one.
    """
    path = Path(path or DATA / f"scourfield2023_{sample}.nc")
    if not path.exists():
        raise FileNotFoundError(
            f"{path.name} is not in {path.parent}: `python -m tools.measure_scourfield2023 {sample}` measures the "
            "lines and writes it"
        )
    with xr.open_dataset(path, engine="h5netcdf") as file:
        product = file.load()
    missing = {"source", "galaxy", "line"} - set(product.dims)
    if missing:
        raise ValueError(
            f"{path.name} is no table of lines by source: it has no {', '.join(sorted(missing))}"
        )
    samples, prefix = {}, "null: " if sample == "null" else ""
    for source in product["source"].values.astype(str).tolist():
        table = product.sel(source=source, drop=True).assign_attrs(spectrum=source)
        name, calibrated = prefix + source, table.get("line_flux_error_calibrated")
        samples[name] = table.drop_vars("line_flux_error_calibrated", errors="ignore")
        if calibrated is not None and np.isfinite(calibrated).any():
            samples[name + CALIBRATED] = samples[name].assign(line_flux_error=calibrated)
    return samples


#: What a notebook may name in ``open_mzr_dashboard(samples=...)``, and how its spectra are rebuilt; see
#: `register_samples`.
READERS = {
    "scourfield2023": read_scourfield2023,
    "scourfield2023 null": partial(read_scourfield2023, "null"),
}
REBUILDERS = {
    "scourfield2023": rebuild_galaxy,
    "scourfield2023 null": partial(rebuild_galaxy, sample="null"),
}


def register_samples(key, reader, *, rebuild=None):
    """Make the galaxies of another paper known to the dashboard.

    Parameters
    ----------
    key : str
        What it is called, such as the paper's.
    reader : callable without arguments
        Returns samples by name; see `check_sample` for what each must hold.
    rebuild : callable, optional
        From a galaxy's ``candidate`` number to its spectra, an xarray.Dataset with ``flux`` (source, wavelength).
    """
    READERS[key] = reader
    if rebuild is not None:
        REBUILDERS[key] = rebuild


def read_samples(*keys):
    """Read registered samples.

    Parameters
    ----------
    *keys : str

    Returns
    -------
    dict of str to xarray.Dataset
        By name, preceded by the key where an earlier key has the same.

    Raises
    ------
    KeyError
        If there is no reader of that name; the message lists those there are.
    """
    samples = {}
    for key in keys:
        if key not in READERS:
            raise KeyError(f"there are no samples {key!r}; there are: {', '.join(READERS)}")
        for name, sample in READERS[key]().items():
            samples[f"{key}: {name}" if name in samples else name] = sample.assign_attrs(family=key)
    return samples


def true_oxygen(sample):
    """12 + log(O/H) that a mock galaxy was made with, on the scale of the mocks.

    Parameters
    ----------
    sample : xarray.Dataset

    Returns
    -------
    ndarray, shape (galaxy,)
        NaN where the sample is not a mock.
    """
    if "log_z_gas" not in sample:
        return np.full(sample.sizes["galaxy"], np.nan)
    return sample["log_z_gas"].values + float(sample["log_z_gas"].attrs.get("oxygen_sun", OXYGEN_SUN))


def h_alpha_sn(sample):
    """S/N of Hα by galaxy; infinite in a sample that does not say.

    Parameters
    ----------
    sample : xarray.Dataset

    Returns
    -------
    ndarray, shape (galaxy,)
    """
    if "h_alpha_sn" in sample:
        return sample["h_alpha_sn"].values.astype(float)
    if "line_flux" not in sample:
        return np.full(sample.sizes["galaxy"], np.inf)
    line = sample.sel(line="Hα")
    with np.errstate(divide="ignore", invalid="ignore"):
        return (line["line_flux"] / line["line_flux_error"]).values.astype(float)


def without_dust(sample):
    """Correct the lines of a sample by the Balmer decrement, where it has lines.

    Parameters
    ----------
    sample : xarray.Dataset
        Of `check_sample`.

    Returns
    -------
    xarray.Dataset
        Fluxes are NaN where the decrement is not known; a table that was corrected before is left as it is.
    """
    if "line_flux" not in sample or sample.attrs.get("dust_corrected"):
        return sample
    return deredden(sample)


def measure_oxygen(sample, calibration):
    """Gas metallicities of a sample on a scale.

    A sample that comes with metallicities keeps them, whatever the calibration.

    Parameters
    ----------
    sample : xarray.Dataset
        Of `check_sample`.
    calibration : str
        One of `calibrations`.

    Returns
    -------
    Oxygen
    """
    sn = h_alpha_sn(sample)
    unknown = np.full(sample.sizes["galaxy"], np.nan)
    if calibration == TRUTH:
        return Oxygen(true_oxygen(sample), unknown, sn)
    if "oxygen" in sample:
        error = sample["oxygen_error"].values if "oxygen_error" in sample else unknown
        return Oxygen(sample["oxygen"].values.astype(float), np.asarray(error, dtype=float), sn)
    value, error, valid = CALIBRATIONS[calibration](sample)
    return Oxygen(np.where(valid, value, np.nan), np.where(valid, error, np.nan), sn)


def calibrations():
    """Names of the calibrations, and the mocks' truth."""
    return (*CALIBRATIONS, TRUTH)
