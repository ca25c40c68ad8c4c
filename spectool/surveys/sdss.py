"""SDSS spectra: the files of all data releases."""

import io
import re
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.io.fits.verify import VerifyError, VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning

from spectool.spectra import DLOGLAM, FLUX_UNIT, IVAR_UNIT, LOGLAM0, PIXEL_VELOCITY
from spectool.surveys import SurveyWarning
from spectool.surveys.sources import fetch

# Bits of and_mask (SPPIXMASK) that spoil a pixel. Bits below 16 flag the whole fibre, often for trifles:
# taking any bit would mask good spectra completely.
BAD_BITS = {"FULLREJECT": 18, "NOSKY": 22, "BRIGHTSKY": 23, "NODATA": 24, "COMBINEREJ": 25, "REDMONSTER": 28}


# What astropy raises at damaged content, and the types of table columns that it need not convert.
_DAMAGE = (AstropyUserWarning, VerifyError, ArithmeticError, AttributeError)
_DAMAGE += (LookupError, OSError, TypeError, ValueError)
_KINDS = {"L": "i1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}


@contextmanager
def naming_damage(name):
    """Whatever comes of damaged FITS content is a ValueError that names the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)
        warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
        try:
            yield
        except FileNotFoundError:
            raise
        except _DAMAGE as error:
            if isinstance(error, ValueError | OSError) and str(error).startswith(f"{name}: "):
                raise
            damaged = f"truncated or damaged ({error}); fetch it again"
            raise ValueError(f"{name}: the FITS file is {damaged}") from error


def open_fits(source, name, *, whole=True):
    """Open a FITS file, packed or not, with errors that name it: in memory or, unless `whole`, read on demand."""
    if not whole and not isinstance(source, bytes) and Path(source).is_file():
        with Path(source).open("rb") as file:
            is_plain = file.read(6) == b"SIMPLE"
        if is_plain:
            with naming_damage(name):
                return fits.open(source, lazy_load_hdus=True)
    source = fetch(source, name=name)[0]
    if not source.startswith(b"SIMPLE"):
        raise ValueError(f"{name}: is not a FITS file")
    with naming_damage(name):
        if negative := re.search(rb"COUNT  = *-", source) or re.search(rb"NAXIS\d  = *-", source):
            raise ValueError(f"{negative[0].decode()} ...")  # astropy would read such a part for ever
        hdus = fits.open(io.BytesIO(source), lazy_load_hdus=not whole)
        for hdu in hdus if whole else ():
            _ = hdu.data
    return hdus


def table_columns(hdu, *names):
    """Those of some columns that a binary table has; astropy would look at all of SDSS's 130 first."""
    place = hdu.fileinfo()
    file = place["file"]
    file.seek(place["hdrLoc"])
    header = file.read(place["datLoc"] - place["hdrLoc"]).decode("latin-1")
    labels, forms = (re.findall(rf"{word}\d+ *= *'([^']*?) *'", header) for word in ("TTYPE", "TFORM"))
    labels = [label.lower() for label in labels]
    wanted = {name: labels.index(name.lower()) for name in names if name.lower() in labels}
    fields = [re.fullmatch(r"([1-9]\d*)?([LBIJKEDA]).*", form) for form in forms]
    width, n_rows = (int(n) for n in re.findall(r"NAXIS[12] *= *(\d+)", header)[:2])
    kinds = [_kind(field[2], int(field[1] or 1)) for field in fields if field]
    ends = np.cumsum([0, *(kind.itemsize for kind in kinds)])
    if len(labels) != len(kinds) or ends[-1] != width or re.search(r"(TSCAL|TZERO|TNULL)\d", header):
        return {name: hdu.data[hdu.columns.names[column]] for name, column in wanted.items()}
    layout = {"names": list(wanted), "formats": [kinds[column] for column in wanted.values()]}
    layout |= {"offsets": [int(ends[column]) for column in wanted.values()], "itemsize": width}
    file.seek(place["datLoc"])
    rows = np.frombuffer(file.read(n_rows * width), layout, n_rows)
    return {name: rows[name] for name in wanted}


def _kind(letter, count):
    return np.dtype(
        f"S{count}" if letter == "A" else _KINDS[letter] if count == 1 else f"{count}{_KINDS[letter]}"
    )


def is_sdss(hdus):
    """Whether an HDUList is an SDSS spectrum that `read_sdss` understands; others use its columns on other grids."""
    parser = _parser(hdus)
    if parser is not _parse_spec:  # an image, which others lay out almost alike
        header = hdus[0].header
        return parser is not None and (
            "PLATEID" in header or str(header.get("TELESCOP", "")).startswith("SDSS")
        )
    loglam = _columns(hdus, 1, "loglam")["loglam"]
    return loglam.ndim == 1 and bool(np.allclose(np.diff(loglam), DLOGLAM, atol=0.02 * DLOGLAM))


def _parser(hdus):
    if len(_columns(hdus, 1, "flux", "loglam", "ivar")) == 3:
        return _parse_spec
    header = hdus[0].header
    is_image = header.get("NAXIS") == 2 and header.get("NAXIS2", 0) <= 5
    return _parse_spspec if is_image and "COEFF0" in header and "COEFF1" in header else None


def _columns(hdus, number, *names):
    """`table_columns` of an HDU, none if it is no table; later HDUs are not looked for."""
    try:
        hdu = hdus[number]
    except IndexError:
        return {}
    return table_columns(hdu, *names) if isinstance(hdu, fits.BinTableHDU) else {}


def _parse_spec(hdus):
    columns = _columns(hdus, 1, "flux", "loglam", "ivar", "and_mask", "wdisp")
    flux, loglam, ivar = (np.asarray(columns[name], float) for name in ("flux", "loglam", "ivar"))
    bits = np.asarray(columns.get("and_mask", np.zeros(flux.size)), np.int64)
    wdisp = np.asarray(columns.get("wdisp", np.full(flux.size, np.nan)), float)
    facts = _places(hdus[0].header, "PLUG_RA", "PLUG_DEC")
    best = _columns(hdus, 2, "Z", "CLASS", "SUBCLASS")
    if "Z" in best:
        facts["redshift"] = best["Z"][0]
        labels = [str(best[name].astype(str)[0]).strip() for name in ("CLASS", "SUBCLASS") if name in best]
        facts["spectral_class"] = " ".join(labels).strip()
    return loglam, flux, ivar, bits, wdisp, facts


def _parse_spspec(hdus):
    header, image = hdus[0].header, np.asarray(hdus[0].data, float)
    n_rows, n_pixels = image.shape
    if n_rows < 3:
        rows = "flux, continuum-subtracted flux, error, masks"
        raise ValueError(f"its image has {n_rows} rows; spSpec has {rows}")
    loglam = header["COEFF0"] + header["COEFF1"] * np.arange(n_pixels)
    if np.allclose(image[2], 10**loglam, rtol=1e-3):
        raise ValueError(
            "its third row holds wavelengths, as in LAMOST's files: use spectool.surveys.read_spectrum"
        )
    ivar = ivar_of(image[2])
    bits = image[3].astype(np.int64) if n_rows > 3 else np.zeros(n_pixels, np.int64)
    position = ("RAOBJ", "DECOBJ") if "RAOBJ" in header else ("RA", "DEC")
    facts = _places(header, *position) | {"redshift": header.get("Z")}
    return loglam, image[0], ivar, bits, np.full(n_pixels, np.nan), facts


def _places(header, ra, dec):
    words = {"ra": ra, "dec": dec, "plate": "PLATEID", "mjd": "MJD", "fiberid": "FIBERID"}
    return {name: header.get(word) for name, word in words.items()}


def flagged_pixels(bits):
    """Where an and_mask has one of the bits that spoil a pixel."""
    return np.bitwise_and(bits, sum(1 << bit for bit in BAD_BITS.values())) != 0


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
    flagged = flagged_pixels(bits)
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


# What fills a pixel without data, the type, the unit.
PIXELS = {
    "flux": (0, "f4", FLUX_UNIT),
    "ivar": (0, "f4", IVAR_UNIT),
    "mask": (True, bool, ""),
    "lsf_sigma": (np.nan, "f4", "km / s"),
}


def combine_sdss(spectra, names):
    """Parsed spectra on the one log-lambda grid that spans them all, padded with ivar 0."""
    first = min(s["number"][0] for s in spectra)
    last = max(s["number"][-1] for s in spectra)
    arrays = {}
    for name, (fill, kind, _) in PIXELS.items():
        values = arrays[name] = np.full((len(spectra), last - first + 1), fill, kind)
        for row, spectrum in enumerate(spectra):
            values[row, spectrum["number"] - first] = spectrum[name]
    wavelength = 10 ** (LOGLAM0 + DLOGLAM * np.arange(first, last + 1))
    units = {"redshift": "", "ra": "deg", "dec": "deg", "plate": "", "mjd": "d", "fiberid": ""}
    facts = {}
    for column, unit in units.items():
        known = (s["facts"].get(column) for s in spectra)
        facts[column] = np.array([np.nan if value is None else float(value) for value in known]), unit
    labels = [s["facts"].get("spectral_class", "") for s in spectra]
    facts["spectral_class"] = np.array(labels, str), ""
    return build_sample(wavelength, arrays, facts, names, "SDSS", f"read {len(spectra)} SDSS files")


def build_sample(wavelength, arrays, facts, names, survey, history):
    """A sample in the observed frame of `PIXELS` and of columns (values, unit) per galaxy."""
    dims, spread = ("galaxy", "wavelength"), {"description": "instrumental resolution, Gaussian sigma"}
    variables = {}
    for name, values in arrays.items():
        _, kind, unit = PIXELS[name]
        attrs = {"units": unit} | (spread if name == "lsf_sigma" else {})
        variables[name] = (dims, np.asarray(values, kind), attrs)
    variables |= {name: ("galaxy", values, {"units": unit}) for name, (values, unit) in facts.items()}
    attrs = {"units": "Angstrom", "description": "vacuum, heliocentric"}
    coords = {"observed_wavelength": ("wavelength", wavelength, attrs), "name": ("galaxy", list(names))}
    return xr.Dataset(variables, coords, {"survey": survey, "history": history})


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
            with naming_damage(name), open_fits(path, name, whole=False) as hdus:
                spectra.append(parse_sdss(hdus, name))
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
