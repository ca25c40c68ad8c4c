"""DESI's coadds and spectra, with redrock's redshifts: its own file, as each survey has."""

import re
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from scipy.sparse import csr_array

from spectool.spectra import KM_S
from spectool.surveys import SurveyWarning
from spectool.surveys.sdss import build_sample, naming_damage, open_fits, table_columns
from spectool.surveys.units import image_factor


def is_desi(hdus):
    """Whether an HDUList is laid out as DESI's coadds and spectra are: in three arms, or all in BRZ."""
    return bool(_arms(hdus))


def _arms(hdus):
    names = {hdu.name for hdu in hdus}
    arms = (name.removesuffix("_WAVELENGTH") for name in names if re.fullmatch("[BRZ]+_WAVELENGTH", name))
    return sorted(arm for arm in arms if {f"{arm}_FLUX", f"{arm}_IVAR"} <= names)


def redrock_beside(path):
    """Redrock's file for a ``coadd-*`` or ``spectra-*`` of DESI, by its name in the same folder; None without one."""
    match = re.search(r"([^/\\]*[/\\])*(coadd|spectra)(-[^/\\]+\.fits)(\.gz)?$", str(path))
    if not match or not isinstance(path, str | Path):
        return None
    folder = Path(path).expanduser().parent
    names = (f"{kind}{match[3]}{packed}" for kind in ("redrock", "zbest") for packed in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_desi(source, *, targets=None, redshifts=None, name=None):
    """Read DESI spectra: ``coadd-*.fits`` and, their exposures averaged, ``spectra-*.fits``, gzipped or not.

    Arms are joined by inverse variance where they overlap. Pixels with any bit of MASK are left out, as in the survey's
    own coadds (specmask: 0 SOMEBADPIX, 1 ALLBADPIX, 2 COSMIC, 3 LOWFLAT, 4 BADFIBERFLAT, 5 BRIGHTSKY, 6 BADSKY,
    7 BAD2DFIT, 8 NODATA, 9 BADFIBER). The files are described at https://desidatamodel.readthedocs.io.

    Parameters
    ----------
    source : path or HDUList
    targets : int or sequence of int, optional
        TARGETIDs, in this order; default all of the file, fibres on the sky too.
    redshifts : path, optional
        Redrock's file, or another with TARGETID and Z; default `redrock_beside` the source.
    name : str, optional
        For messages; default the file's name.

    Returns
    -------
    Dataset
        dims (galaxy, wavelength): ``flux`` [1e-17 erg/s/cm2/A], ``ivar``, ``mask``, ``lsf_sigma`` [km/s] (of the rows
        of the resolution matrices, pixel included; NaN where unknown); ``ra``, ``dec`` [deg], ``ebv`` [mag] if known;
        from redrock ``redshift``, ``zwarn`` (0: sure) and ``spectral_class`` (NaN, -1 and "": not in its file);
        coordinates ``observed_wavelength`` [Angstrom, vacuum] and ``name``, the TARGETID.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file that is missing, damaged or not DESI's, or the target that it lacks.
    """
    if not isinstance(source, fits.HDUList):
        name, redshifts = name or Path(source).name, redshifts or redrock_beside(source)
        with open_fits(source, name, whole=False) as hdus:
            return read_desi(hdus, targets=targets, redshifts=redshifts, name=name)
    name = name or "this file"
    with naming_damage(name):
        arms, parts = _arms(source), {hdu.name: hdu for hdu in source}
        if not arms or "FIBERMAP" not in parts:
            raise ValueError(f"{name}: is no DESI file (B_FLUX, ..., FIBERMAP); it holds {', '.join(parts)}")
        fibres = table_columns(parts["FIBERMAP"], "TARGETID", "TARGET_RA", "TARGET_DEC", "EBV", "OBJTYPE")
        rows, member, wanted = _choose(fibres["TARGETID"], targets, name)
        wavelength, arrays = _join(parts, arms, rows, member, name)
    fibres = {key: values[rows[np.unique(member, return_index=True)[1]]] for key, values in fibres.items()}
    facts = {"ra": ("TARGET_RA", "deg"), "dec": ("TARGET_DEC", "deg"), "ebv": ("EBV", "mag")}
    facts = {key: (fibres[n].astype(float), unit) for key, (n, unit) in facts.items() if n in fibres}
    notes = [f"read {wanted.size} DESI target{'s' * (wanted.size > 1)} of {name}, arms {', '.join(arms)}"]
    if rows.size > wanted.size:
        notes.append(f"averaged their {rows.size} exposures by inverse variance")
    if "ebv" in facts and not facts["ebv"][0].any():
        del facts["ebv"]
        notes.append("E(B-V) is 0 in the file, which stands for unknown")
    if (sky := np.count_nonzero(fibres.get("OBJTYPE", wanted.astype("S1")) == b"SKY")) > 0:
        notes.append(f"fibres on the sky among them: {sky}")
    if np.isnan(arrays["lsf_sigma"]).all():
        notes.append("no resolution matrices: fits take the curve of SDSS")
    if redshifts is not None:
        facts |= _redshifts(Path(redshifts), wanted, notes)
    if (empty := arrays["mask"].all(axis=1)).any():
        text = f"{name}: {empty.sum()} targets have no good pixel and are masked out: {wanted[empty][:8].tolist()}"
        warnings.warn(text, SurveyWarning, stacklevel=2)
    return build_sample(wavelength, arrays, facts, wanted.astype(str), "DESI", "\n".join(notes))


def _choose(targetid, targets, name):
    """Rows of the chosen targets, the number of the target of each, and the TARGETIDs."""
    held = targetid[np.sort(np.unique(targetid, return_index=True)[1])].astype(np.int64)
    wanted = held
    if targets is not None:
        wanted = np.array([int(target) for target in dict.fromkeys(np.ravel(targets).tolist())], object)
        missing = [target for target in wanted if target not in set(held.tolist())]
        if missing:
            some = ", ".join(map(str, held[:4])) + ", ..." * (held.size > 4)
            raise ValueError(f"{name}: holds no DESI target {missing[0]}; its TARGETIDs are {some}")
        wanted = wanted.astype(np.int64)
    rows, order = np.flatnonzero(np.isin(targetid, wanted)), np.argsort(wanted)
    member = order[np.searchsorted(wanted, targetid[rows], sorter=order)]
    order = np.argsort(member, kind="stable")
    return rows[order], member[order], wanted


def _join(parts, arms, rows, member, name):
    """Wavelengths, and pixels (target, wavelength) of all arms and exposures, averaged by inverse variance."""
    grids = [np.asarray(parts[f"{arm}_WAVELENGTH"].data, float) for arm in arms]
    start, step = min(grid[0] for grid in grids), np.median(np.diff(grids[0]))
    places = [(grid - start) / step for grid in grids]
    numbers = [np.round(place[0]) + np.arange(place.size) for place in places]
    n_pixels = max(number[-1] for number in numbers) + 1
    distance = max(np.abs(p - n).max() for p, n in zip(places, numbers, strict=True))
    if not (step > 0 and distance < 0.01 and n_pixels < 4 * sum(grid.size for grid in grids)):
        ends = ", ".join(f"{arm} {grid[0]:g}-{grid[-1]:g} A" for arm, grid in zip(arms, grids, strict=True))
        raise ValueError(f"{name}: its arms do not share one grid of wavelengths: {ends}")
    shape = (member.max() + 1, int(n_pixels))
    flux, ivar, square, known = np.zeros((4, *shape), "f4")
    for arm, number in zip(arms, numbers, strict=True):
        window = np.s_[:, int(number[0]) : int(number[-1]) + 1]
        values, weight, blur = _arm(parts, arm, rows, number.size, name)
        sure = np.where(np.isnan(blur), 0, weight)
        _average(flux[window], ivar[window], values, weight, member)
        _average(square[window], known[window], np.nan_to_num(blur), sure, member)
    wavelength = start + step * np.arange(shape[1])
    lsf = np.sqrt(np.where(known > 0, square, np.nan)) * (step / wavelength * KM_S)
    return wavelength, {"flux": flux, "ivar": ivar, "mask": ~(ivar > 0), "lsf_sigma": lsf}


def _average(mean, weight, more, more_weight, member):
    """Take more values (row, pixel) into a weighted mean (target, pixel), in place; `member` is each row's target."""
    if member.size > len(mean):  # several exposures
        gather = csr_array((np.ones(member.size, "f4"), (member, np.arange(member.size))))
        total = gather @ more_weight
        more = np.divide(gather @ (more * more_weight), total, out=np.zeros_like(total), where=total > 0)
        more_weight = total
    weight += more_weight
    mean += np.divide(more_weight, weight, out=np.zeros_like(weight), where=weight > 0) * (more - mean)


def _arm(parts, arm, rows, n_pixels, name):
    """Flux and ivar (0: bad) in our units, and the variance [pixel2] of the line-spread function, of some rows."""
    block = slice(rows[0], rows[-1] + 1)
    block = block if np.array_equal(rows, np.arange(block.start, block.stop)) else rows

    def read(part, *more):
        hdu = parts[f"{arm}_{part}"]
        if hdu.shape[0] <= rows.max() or hdu.shape[-1] != n_pixels:
            text = f"its FIBERMAP has {rows.max() + 1} rows or more, {arm}_WAVELENGTH {n_pixels} pixels"
            raise ValueError(f"{name}: {hdu.name} has shape {hdu.shape}, but {text}")
        return hdu.data[(block, *more)]

    factor = image_factor(parts[f"{arm}_FLUX"], name)
    flux, ivar = read("FLUX").astype("f4"), read("IVAR").astype("f4")
    if factor != 1:
        flux, ivar = flux * factor, ivar / factor**2
    bad = ~(np.isfinite(flux) & (ivar > 0) & (ivar < np.inf))
    if f"{arm}_MASK" in parts:
        bad |= read("MASK") != 0
    square = np.full(flux.shape, np.nan, "f4")
    if f"{arm}_RESOLUTION" in parts:
        middle = parts[f"{arm}_RESOLUTION"].shape[1] // 2
        square = _lsf_variance(read("RESOLUTION", slice(middle - 1, middle + 2)).astype("f4"))
    flux[bad] = ivar[bad] = 0
    return flux, ivar, square


def _lsf_variance(diagonals):
    """Variance [pixel2] of the rows of banded matrices, from the three diagonals in their middle (row, 3, pixel).

    Where these begin and end is desispec's (resolution.Resolution): along the last axis is the column, and the first
    diagonal is the highest. The Gaussian through three elements is blind to the ringing of the outer ones.
    """
    above, centre, below = np.moveaxis(diagonals, 1, 0)
    product = np.zeros_like(centre)
    product[:, 1:-1] = below[:, :-2] * above[:, 2:]
    peaked = (centre > 0) & (product > 0) & (product < centre**2)
    ratio = np.divide(centre**2, product, out=np.full_like(centre, np.nan), where=peaked)
    return 1 / np.log(ratio)


def _redshifts(path, wanted, notes):
    """Redshift, warning bits and class of targets from redrock's table; what is missing or unsure goes into `notes`."""
    name = path.name
    with naming_damage(name), open_fits(path, name, whole=False) as hdus:
        tables = (hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU))
        tables = (table_columns(hdu, "TARGETID", "Z", "ZWARN", "SPECTYPE", "SUBTYPE") for hdu in tables)
        table = next((columns for columns in tables if {"TARGETID", "Z"} <= set(columns)), None)
    if table is None:
        raise ValueError(f"{name}: has no table with TARGETID and Z, as redrock's files have")
    inside = np.flatnonzero(np.isin(table["TARGETID"], wanted))
    order = inside[np.argsort(table["TARGETID"][inside], kind="stable")]
    known, counts = np.unique(table["TARGETID"][order], return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name}: has {counts.max()} redshifts of target {known[counts.argmax()]}: which?")
    there = np.isin(wanted, known)
    row = order[np.searchsorted(known, wanted[there])]
    redshift, zwarn = np.full(wanted.size, np.nan), np.full(wanted.size, -1)
    label = np.full(wanted.size, "", "U40")
    redshift[there] = table["Z"][row]
    zwarn[there] = table.get("ZWARN", np.zeros(len(table["Z"])))[row]
    kinds = [table[key][row].astype(str) for key in ("SPECTYPE", "SUBTYPE") if key in table]
    label[there] = [" ".join(parts).strip() for parts in zip(*kinds, strict=True)]
    notes.append(f"redshifts of {name}: {(~there).sum()} missing, {(zwarn > 0).sum()} with ZWARN set")
    return {"redshift": (redshift, ""), "zwarn": (zwarn, ""), "spectral_class": (label, "")}
