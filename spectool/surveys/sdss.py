"""SDSS spectra: the files of all data releases."""

import gzip
import io
import warnings
import zlib
from pathlib import Path

import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning

from spectool.spectra import DLOGLAM, FLUX_UNIT, IVAR_UNIT, LOGLAM0, PIXEL_VELOCITY
from spectool.surveys import SurveyWarning

# Bits of and_mask (SPPIXMASK) that spoil a pixel. Bits below 16 flag the whole fibre, often for trifles:
# taking any bit would mask good spectra completely.
BAD_BITS = {"FULLREJECT": 18, "NOSKY": 22, "BRIGHTSKY": 23, "NODATA": 24, "COMBINEREJ": 25, "REDMONSTER": 28}


def open_fits(source, name):
    """Open a FITS file, gzipped or not, completely in memory, with errors that name it."""
    if not isinstance(source, bytes):
        source = Path(source)
        if not source.is_file():
            raise FileNotFoundError(f"{name}: no such file")
        source = source.read_bytes()
    damaged = "truncated or damaged ({}); fetch it again"
    try:
        source = gzip.decompress(source) if source.startswith(b"\x1f\x8b") else source
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{name}: the gzip file is {damaged.format(error)}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)
        warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
        try:
            hdus = fits.open(io.BytesIO(source), lazy_load_hdus=False)
            for hdu in hdus:
                _ = hdu.data
        except (AstropyUserWarning, OSError, TypeError, ValueError, IndexError, KeyError) as error:
            if not source.startswith(b"SIMPLE"):
                raise ValueError(f"{name}: is not a FITS file") from error
            raise ValueError(f"{name}: the FITS file is {damaged.format(error)}") from error
    return hdus


def is_sdss(hdus):
    """Whether an HDUList is an SDSS spectrum that `read_sdss` understands."""
    return _parser(hdus) is not None


def _parser(hdus):
    is_table = len(hdus) > 1 and isinstance(hdus[1], fits.BinTableHDU)
    if is_table and {"flux", "loglam", "ivar"} <= {name.lower() for name in hdus[1].columns.names}:
        return _parse_spec
    header = hdus[0].header
    is_image = header.get("NAXIS") == 2 and header.get("NAXIS2", 0) <= 5
    return _parse_spspec if is_image and "COEFF0" in header and "COEFF1" in header else None


def _parse_spec(hdus):
    columns = {name.lower(): hdus[1].data[name] for name in hdus[1].columns.names}
    flux, loglam, ivar = (np.asarray(columns[name], float) for name in ("flux", "loglam", "ivar"))
    bits = np.asarray(columns.get("and_mask", np.zeros(flux.size)), np.int64)
    wdisp = np.asarray(columns.get("wdisp", np.full(flux.size, np.nan)), float)
    facts = _places(hdus[0].header, "PLUG_RA", "PLUG_DEC")
    names = hdus[2].columns.names if len(hdus) > 2 and getattr(hdus[2], "columns", None) is not None else []
    if "Z" in names:
        facts["redshift"] = hdus[2].data["Z"][0]
        labels = [str(hdus[2].data[name][0]).strip() for name in ("CLASS", "SUBCLASS") if name in names]
        facts["spectral_class"] = " ".join(labels).strip()
    return loglam, flux, ivar, bits, wdisp, facts


def _parse_spspec(hdus):
    header, image = hdus[0].header, np.asarray(hdus[0].data, float)
    n_rows, n_pixels = image.shape
    if n_rows < 3:
        rows = "flux, continuum-subtracted flux, error, masks"
        raise ValueError(f"its image has {n_rows} rows; spSpec has {rows}")
    loglam = header["COEFF0"] + header["COEFF1"] * np.arange(n_pixels)
    ivar = ivar_of(image[2])
    bits = image[3].astype(np.int64) if n_rows > 3 else np.zeros(n_pixels, np.int64)
    position = ("RAOBJ", "DECOBJ") if "RAOBJ" in header else ("RA", "DEC")
    facts = _places(header, *position) | {"redshift": header.get("Z")}
    return loglam, image[0], ivar, bits, np.full(n_pixels, np.nan), facts


def _places(header, ra, dec):
    words = {"ra": ra, "dec": dec, "plate": "PLATEID", "mjd": "MJD", "fiberid": "FIBERID"}
    return {name: header.get(word) for name, word in words.items()}


def ivar_of(error):
    """Inverse variance of errors; 0 where there is none."""
    return np.divide(1.0, error**2, out=np.zeros_like(error), where=error > 0)


def _pixel_numbers(loglam):
    """The whole k of log10(lambda) = LOGLAM0 + DLOGLAM k (files hold float32, good to 0.001 pixel)."""
    if loglam.size < 2:
        raise ValueError(f"it has {loglam.size} pixels")
    wrong = np.flatnonzero(~np.isfinite(loglam))
    if wrong.size:
        raise ValueError(f"its wavelength at row {wrong[0]} is not a number")
    exact = (loglam - LOGLAM0) / DLOGLAM
    number = np.round(exact).astype(int)
    wrong = np.flatnonzero(np.diff(number) <= 0)
    if wrong.size:
        place = f"row {wrong[0]} (log10 = {loglam[wrong[0]]:.4f})"
        raise ValueError(f"its wavelengths do not increase after {place}")
    if np.abs(exact - number).max() > 0.02:
        advice = "use spectool.surveys.read_spectrum"
        raise ValueError(f"its wavelengths are not on SDSS's grid of 0.0001 dex: {advice}")
    return number


def parse_sdss(hdus, name):
    """One SDSS spectrum as plain arrays."""
    parse = _parser(hdus)
    if parse is None:
        held = ", ".join(f"{h.name or 'image'} ({type(h).__name__})" for h in hdus)
        wanted = "no table with flux, loglam, ivar and no spSpec image"
        raise ValueError(f"{name}: is no SDSS spectrum ({wanted}); it holds {held}")
    try:
        loglam, flux, ivar, bits, wdisp, facts = parse(hdus)
        number = _pixel_numbers(loglam)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    flagged = np.zeros(flux.shape, bool)
    for bit in BAD_BITS.values():
        flagged |= (bits >> bit) & 1 > 0
    finite = np.isfinite(flux) & np.isfinite(ivar)
    mask = flagged | ~finite | ~(ivar > 0)
    if not finite.all():
        text = f"{name}: {(~finite).sum()} pixels are not finite and are masked"
        warnings.warn(text, SurveyWarning, stacklevel=3)
    if mask.all():
        text = f"{name}: has no good pixel (ivar 0 or flagged everywhere); it is masked out"
        warnings.warn(text, SurveyWarning, stacklevel=3)
    return {
        "number": number,
        "flux": np.where(finite, flux, 0),
        "ivar": np.where(mask, 0, ivar),
        "mask": mask,
        "lsf_sigma": np.where(wdisp > 0, wdisp, np.nan) * PIXEL_VELOCITY,
        "facts": facts,
    }


def combine_sdss(spectra, names):
    """Parsed spectra on the one log-lambda grid that spans them all, padded with ivar 0."""
    first = min(s["number"][0] for s in spectra)
    last = max(s["number"][-1] for s in spectra)
    pixels = {
        "flux": (0, "f4", FLUX_UNIT),
        "ivar": (0, "f4", IVAR_UNIT),
        "mask": (True, bool, ""),
        "lsf_sigma": (np.nan, "f4", "km / s"),
    }
    sample = xr.Dataset()
    for name, (fill, kind, unit) in pixels.items():
        values = np.full((len(spectra), last - first + 1), fill, kind)
        for row, spectrum in enumerate(spectra):
            values[row, spectrum["number"] - first] = spectrum[name]
        sample[name] = (("galaxy", "wavelength"), values, {"units": unit})
    sample["lsf_sigma"].attrs["description"] = "instrumental resolution, Gaussian sigma"
    wavelength = 10 ** (LOGLAM0 + DLOGLAM * np.arange(first, last + 1))
    attrs = {"units": "Angstrom", "description": "vacuum, heliocentric"}
    sample = sample.assign_coords(
        observed_wavelength=("wavelength", wavelength, attrs), name=("galaxy", list(names))
    )
    units = {"redshift": "", "ra": "deg", "dec": "deg", "plate": "", "mjd": "d", "fiberid": ""}
    for column, unit in units.items():
        known = (s["facts"].get(column) for s in spectra)
        values = np.array([np.nan if value is None else float(value) for value in known])
        sample[column] = ("galaxy", values, {"units": unit})
    labels = [s["facts"].get("spectral_class", "") for s in spectra]
    sample["spectral_class"] = ("galaxy", np.array(labels, str), {"units": ""})
    return sample.assign_attrs(survey="SDSS", history=f"read {len(spectra)} SDSS files")


def read_sdss(paths, *, skip_bad=False):
    """Read SDSS spectra: ``spec-*.fits`` of DR8 and later (lite or full), ``spSpec-*.fit`` of DR7 and before.

    Parameters
    ----------
    paths : path or sequence of paths
        Spectra share the 1e-4 dex grid: shorter ones are padded with ivar 0 and mask True. Masked are also pixels that
        are not finite and the and_mask bits of `BAD_BITS` (https://www.sdss4.org/dr17/algorithms/bitmasks/#SPPIXMASK).
    skip_bad : bool
        Leave out files that cannot be read, with a `SurveyWarning` that names each, in place of an error.

    Returns
    -------
    Dataset
        dims (galaxy, wavelength): ``flux`` [1e-17 erg/s/cm2/A], ``ivar``, ``mask``, ``lsf_sigma`` (instrumental sigma,
        km/s; NaN where unknown); ``redshift`` (the pipeline's best), ``ra``, ``dec`` [deg], ``plate``, ``mjd``,
        ``fiberid``, ``spectral_class``; coordinates ``observed_wavelength`` [Angstrom, vacuum] and ``name``.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file that is missing, truncated, damaged or no SDSS spectrum; or if no file is left.
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
