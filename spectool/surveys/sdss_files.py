"""Read spectra as SDSS distributes them: ``spec-*.fits`` (DR8 and later) and ``spSpec-*.fit`` (to DR7)."""

import io
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from astropy.constants import c
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning

FLUX_UNIT = "1e-17 erg / (Angstrom s cm2)"
IVAR_UNIT = "1e34 Angstrom2 s2 cm4 / erg2"

# All SDSS spectra are sampled on log10(lambda) = LOGLAM0 + DLOGLAM k with whole k: they only begin and end
# elsewhere.
LOGLAM0, DLOGLAM = 3.5, 1e-4

# km/s per SDSS pixel: wdisp is given in pixels.
PIXEL_VELOCITY = c.to_value("km/s") * np.log(10) * DLOGLAM

# Bits of and_mask (SPPIXMASK) that spoil a pixel. Bits below 16 flag the whole fibre, often for trifles:
# taking any bit would mask good spectra completely.
BAD_BITS = {"FULLREJECT": 18, "NOSKY": 22, "BRIGHTSKY": 23, "NODATA": 24, "COMBINEREJ": 25, "REDMONSTER": 28}


class SurveyWarning(UserWarning):
    """A file or spectrum of a batch could not be used as it is."""


def open_fits(source, name):
    """Open a FITS file completely in memory, with errors that name it.

    Parameters
    ----------
    source : path or bytes
    name : str
        What to call the file in messages.

    Returns
    -------
    astropy.io.fits.HDUList

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no FITS file, or ends too early.
    """
    if not isinstance(source, bytes):
        source = Path(source)
        if not source.is_file():
            raise FileNotFoundError(f"{name}: no such file")
        source = source.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)
        warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
        try:
            hdus = fits.open(io.BytesIO(source), lazy_load_hdus=False)
            for hdu in hdus:
                _ = hdu.data
        except (AstropyUserWarning, OSError, TypeError, ValueError, IndexError, KeyError) as error:
            if not source.startswith(b"SIMPLE") and not source.startswith(b"\x1f\x8b"):
                raise ValueError(f"{name}: is not a FITS file") from error
            raise ValueError(
                f"{name}: the FITS file is truncated or damaged ({error}); fetch it again"
            ) from error
    return hdus


def is_sdss(hdus):
    """Whether an HDUList is an SDSS spectrum that `read_sdss` understands."""
    return _is_spec(hdus) or _is_spspec(hdus)


def _is_spec(hdus):
    if len(hdus) < 2 or not isinstance(hdus[1], fits.BinTableHDU):
        return False
    return {"flux", "loglam", "ivar"} <= {n.lower() for n in hdus[1].columns.names}


def _is_spspec(hdus):
    header = hdus[0].header
    return (
        header.get("NAXIS") == 2
        and "COEFF0" in header
        and "COEFF1" in header
        and header.get("NAXIS2", 0) <= 5
    )


def _parse_spec(hdus):
    table = hdus[1].data
    column = {n.lower(): n for n in hdus[1].columns.names}
    get = {key: np.asarray(table[column[key]], float) for key in ("flux", "loglam", "ivar")}
    bits = (
        np.asarray(table[column["and_mask"]], np.int64)
        if "and_mask" in column
        else np.zeros(len(table), np.int64)
    )
    wdisp = np.asarray(table[column["wdisp"]], float) if "wdisp" in column else np.full(len(table), np.nan)
    header = hdus[0].header
    facts = {"ra": header.get("PLUG_RA"), "dec": header.get("PLUG_DEC")}
    facts |= {"plate": header.get("PLATEID"), "mjd": header.get("MJD"), "fiberid": header.get("FIBERID")}
    if len(hdus) > 2 and getattr(hdus[2], "columns", None) is not None and "Z" in hdus[2].columns.names:
        found = hdus[2].data
        facts["redshift"] = found["Z"][0]
        labels = [str(found[n][0]).strip() for n in ("CLASS", "SUBCLASS") if n in hdus[2].columns.names]
        facts["spectral_class"] = " ".join(labels).strip()
    return get["loglam"], get["flux"], get["ivar"], bits, wdisp, facts


def _parse_spspec(hdus):
    header, image = hdus[0].header, np.asarray(hdus[0].data, float)
    n_rows, n_pixels = image.shape
    if n_rows < 3:
        raise ValueError(
            f"its image has {n_rows} rows; spSpec has flux, continuum-subtracted flux, error, masks"
        )
    loglam = header["COEFF0"] + header["COEFF1"] * np.arange(n_pixels)
    error = image[2]
    ivar = np.divide(1.0, error**2, out=np.zeros_like(error), where=error > 0)
    bits = image[3].astype(np.int64) if n_rows > 3 else np.zeros(n_pixels, np.int64)
    facts = {"ra": header.get("RAOBJ", header.get("RA")), "dec": header.get("DECOBJ", header.get("DEC"))}
    facts |= {"plate": header.get("PLATEID"), "mjd": header.get("MJD"), "fiberid": header.get("FIBERID")}
    facts["redshift"] = header.get("Z")
    return loglam, image[0], ivar, bits, np.full(n_pixels, np.nan), facts


def _pixel_numbers(loglam):
    """The whole k of log10(lambda) = LOGLAM0 + DLOGLAM k (files hold float32, good to 0.001 pixel)."""
    if loglam.size < 2:
        raise ValueError(f"it has {loglam.size} pixels")
    if not np.isfinite(loglam).all():
        raise ValueError(
            f"its wavelength at row {int(np.flatnonzero(~np.isfinite(loglam))[0])} is not a number"
        )
    exact = (loglam - LOGLAM0) / DLOGLAM
    number = np.round(exact).astype(int)
    wrong = np.flatnonzero(np.diff(number) <= 0)
    if wrong.size:
        raise ValueError(
            f"its wavelengths do not increase after row {wrong[0]} (log10 = {loglam[wrong[0]]:.4f})"
        )
    if np.abs(exact - number).max() > 0.02:
        raise ValueError(
            "its wavelengths are not on SDSS's grid of 0.0001 dex: use spectool.surveys.read_spectrum"
        )
    return number


def parse_sdss(hdus, name):
    """One SDSS spectrum as plain arrays.

    Returns
    -------
    dict
        ``number`` (pixel k), ``flux``, ``ivar``, ``mask``, ``lsf_sigma`` [km/s] and ``facts`` (a dict).

    Raises
    ------
    ValueError
        Naming the file, if it holds no SDSS spectrum or one that is damaged.
    """
    if not is_sdss(hdus):
        held = ", ".join(f"{h.name or 'image'} ({type(h).__name__})" for h in hdus)
        raise ValueError(
            f"{name}: is no SDSS spectrum (no table with flux, loglam, ivar and no spSpec image); "
            f"it holds {held}"
        )
    try:
        loglam, flux, ivar, bits, wdisp, facts = (_parse_spec if _is_spec(hdus) else _parse_spspec)(hdus)
        number = _pixel_numbers(loglam)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    flagged = np.zeros(flux.shape, bool)
    for bit in BAD_BITS.values():
        flagged |= (bits >> bit) & 1 > 0
    finite = np.isfinite(flux) & np.isfinite(ivar)
    mask = flagged | ~finite | ~(ivar > 0)
    if not finite.all():
        warnings.warn(
            f"{name}: {(~finite).sum()} pixels are not finite and are masked", SurveyWarning, stacklevel=3
        )
    if mask.all():
        warnings.warn(
            f"{name}: has no good pixel (ivar 0 or flagged everywhere); it is masked out",
            SurveyWarning,
            stacklevel=3,
        )
    return {
        "number": number,
        "flux": np.where(finite, flux, 0),
        "ivar": np.where(mask, 0, ivar),
        "mask": mask,
        "lsf_sigma": np.where(wdisp > 0, wdisp, np.nan) * PIXEL_VELOCITY,
        "facts": facts,
    }


def combine_sdss(spectra, names):
    """Parsed spectra on the one log-lambda grid that spans them all, padded with ivar 0.

    Parameters
    ----------
    spectra : list of dict
        From `parse_sdss`.
    names : list of str

    Returns
    -------
    Dataset
        See `read_sdss`.
    """
    first = min(s["number"][0] for s in spectra)
    last = max(s["number"][-1] for s in spectra)
    shape = (len(spectra), last - first + 1)
    pixels = {
        "flux": np.zeros(shape, np.float32),
        "ivar": np.zeros(shape, np.float32),
        "mask": np.ones(shape, bool),
        "lsf_sigma": np.full(shape, np.nan, np.float32),
    }
    for row, spectrum in enumerate(spectra):
        for name, values in pixels.items():
            values[row, spectrum["number"] - first] = spectrum[name]
    units = {"flux": FLUX_UNIT, "ivar": IVAR_UNIT, "mask": "", "lsf_sigma": "km / s"}
    dims = ("galaxy", "wavelength")
    sample = xr.Dataset({n: (dims, v, {"units": units[n]}) for n, v in pixels.items()})
    sample["lsf_sigma"].attrs["description"] = "instrumental resolution, Gaussian sigma"
    wavelength = 10 ** (LOGLAM0 + DLOGLAM * np.arange(first, last + 1))
    attrs = {"units": "Angstrom", "description": "vacuum, heliocentric"}
    sample = sample.assign_coords(
        observed_wavelength=("wavelength", wavelength, attrs), name=("galaxy", list(names))
    )
    for column, unit in {
        "redshift": "",
        "ra": "deg",
        "dec": "deg",
        "plate": "",
        "mjd": "d",
        "fiberid": "",
    }.items():
        values = [_number(s["facts"].get(column)) for s in spectra]
        sample[column] = ("galaxy", np.array(values, float), {"units": unit})
    labels = [s["facts"].get("spectral_class", "") for s in spectra]
    sample["spectral_class"] = ("galaxy", np.array(labels, str), {"units": ""})
    return sample.assign_attrs(survey="SDSS", history=f"read {len(spectra)} SDSS files")


def _number(value):
    return np.nan if value is None else float(value)


def read_sdss(paths, *, skip_bad=False):
    """Read SDSS spectra: ``spec-*.fits`` of DR8 and later (lite or full), ``spSpec-*.fit`` of DR7 and before.

    Parameters
    ----------
    paths : path or sequence of paths
    skip_bad : bool
        Leave out files that cannot be read, with a `SurveyWarning` that names each, in place of an error.

    Returns
    -------
    Dataset
        dims (galaxy, wavelength): ``flux`` [1e-17 erg/s/cm2/A], ``ivar``, ``mask``, ``lsf_sigma``
        (instrumental sigma, km/s; NaN where unknown); ``redshift`` (the pipeline's best), ``ra``, ``dec``
        [deg], ``plate``, ``mjd``, ``fiberid``, ``spectral_class``; coordinates ``observed_wavelength``
        [Angstrom, vacuum] and ``name``. Spectra share the 1e-4 dex grid: shorter ones are padded with ivar 0
        and mask True.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file that is missing, truncated, damaged or no SDSS spectrum; or if no file is left.

    Notes
    -----
    Masked are pixels with ivar 0, values that are not finite, and the and_mask bits of `BAD_BITS`
    (https://www.sdss4.org/dr17/algorithms/bitmasks/#SPPIXMASK).
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    spectra, names = [], []
    for path in paths:
        name = Path(path).name
        try:
            spectra.append(parse_sdss(open_fits(path, name), name))
            names.append(name)
        except (FileNotFoundError, ValueError) as error:
            if not skip_bad:
                raise
            warnings.warn(f"left out: {error}", SurveyWarning, stacklevel=2)
    if not spectra:
        raise ValueError(f"none of {len(paths)} files is a readable SDSS spectrum")
    return combine_sdss(spectra, names)


def packaged_spectra():
    """Paths of the SDSS spectra of NGC 3522 and NGC 3073 that the installed ``ppxf`` package ships.

    Returns
    -------
    dict
        name -> path.
    """
    from importlib.resources import files

    folder = files("ppxf") / "spectra"
    return {f"NGC {n}": Path(str(folder / f"NGC{n}_SDSS_DR18.fits")) for n in (3522, 3073)}
