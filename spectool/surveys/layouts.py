"""What files of spectra hold, as columns: its own file, the one that knows whose layout a header speaks of.

Each layout gives a Dataset with dims row and pixel: wavelength, flux, one of ivar, error and variance, mask (True =
bad), with their units and columns as the file has them. Its attrs are header and notes: what was assumed or left out.
"""

import re
from itertools import pairwise

import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.table import Table

from spectool.surveys import column_values
from spectool.surveys.axes import header_medium, header_wavelengths
from spectool.surveys.sdss import flagged_pixels

# What people call their columns and extensions, in lower case, without brackets, units and what says air or vacuum.
ROLES = {
    "wavelength": "wavelength wavelengths wave waves lambda lam lamb wl wvl wav obs_wavelength wavelength_obs wave_obs "
    "lambda_obs lam_obs awav spectral_axis wave_grid_mid",
    "log_wavelength": "loglam log_lam log_lambda loglambda logwave log_wave log_wavelength loglambda log10_wavelength "
    "log10_lambda log10lam",
    "ln_wavelength": "lnlam ln_lam ln_lambda lnlambda ln_wave lnwave",
    "flux": "flux flux_density fluxdensity f_lambda flam flambda f_lam fnu f_nu flux_nu spectrum spec flux_reduced "
    "signal sci data primary",
    "error": "error errors err errs sigma sig flux_err fluxerr flux_error fluxerror err_flux error_flux e_flux eflux "
    "flux_e dflux flux_sigma sigma_flux flux_sig flam_sig uncertainty uncert unc flux_unc flux_uncertainty "
    "uncertainties std stdev stddev flux_std noise err_reduced rms one_sigma 1sigma",
    "variance": "variance var flux_var var_flux flux_variance stat vari",
    "ivar": "ivar inverse_variance inv_var invvar flux_ivar ivar_flux flam_ivar weight_ivar inverse_var invvariance",
    "mask": "mask and_mask andmask pixmask bad badpix bad_pixel bad_pixels bpm dq qual qual_reduced quality flag flags "
    "flux_mask",
    "good": "good goodpix good_pixel valid use gpm good_mask goodmask",
}
_ROLE_OF = {word: (role, rank) for role, words in ROLES.items() for rank, word in enumerate(words.split())}
WAVELENGTHS = ("wavelength", "log_wavelength", "ln_wavelength")
ERRORS = ("ivar", "error", "variance")
UNITS_IN_NAMES = re.compile("(?:nm|um|microns?|aa?|ang|angstroms?|[mun]?jy)", re.IGNORECASE)
_FRAMES = re.compile("air|vac(uum)?|obs(erve[dr])?([ -]frame)?|heliocentric|barycentric", re.IGNORECASE)
# An exposure's own frames, and spectra that a survey's coadd is made of or its fit: they are not a second spectrum.
_MODELS = re.compile("model|template|continuum|sky|telluric|best_?fit", re.IGNORECASE)


def bare_name(column):
    """A column's name without unit and medium: 'Wavelength [nm]', 'wave_air' and 'wavelength_nm' are wavelengths."""
    bare = re.sub(r"[\[(].*$", "", column.lower()).strip(" .:#\t").replace(" ", "_").replace("-", "_")
    bare = re.sub(r"^(opt|box)_", "", bare)
    bare = re.sub(r"_(air|vac|vacuum)$|^(air|vac|vacuum)_", "", bare)
    stem, _, last = bare.rpartition("_")
    return stem if stem and UNITS_IN_NAMES.fullmatch(last) else bare


def name_unit(column):
    """The unit in a column's name, behind it in brackets or after the last underscore, or None."""
    if brackets := re.search(r"[\[(](.*)[\])]", column):
        words = [word.strip() for word in re.split("[,;]", brackets.group(1))]
        return next((word for word in words if not _FRAMES.fullmatch(word)), None)
    last = column.rpartition("_")[2] if "_" in column else ""
    if last.lower() == "mjy":
        return "mJy"
    return last if UNITS_IN_NAMES.fullmatch(last) else None


def find_roles(names):
    """The column of each role; of several, the one whose name comes first in `ROLES`."""
    ranked = {}
    for place, name in enumerate(names):
        role, rank = _ROLE_OF.get(bare_name(name), (None, 0))
        if role is not None:
            ranked.setdefault(role, []).append((rank, place, name))
    return {role: min(hits)[2] for role, hits in ranked.items()}


def is_spectrum(roles):
    """Whether columns make a spectrum: wavelengths and fluxes."""
    return "flux" in roles and any(role in roles for role in WAVELENGTHS)


def read_columns(table, name, *, header=None, notes=(), target=None):
    """The spectrum of a table: a row a pixel, or a row of vectors a spectrum.

    `target` chooses among rows of vectors: a number from 0, or "all".
    """
    roles = find_roles(table.colnames)
    for role in ("wavelength", "flux"):
        if role not in roles and not (role == "wavelength" and any(r in roles for r in WAVELENGTHS)):
            advice = f"call it one of: {', '.join(ROLES[role].split()[:8])}"
            raise ValueError(f"{name}: no {role} column among {table.colnames}; {advice}")
    header = dict(header or {}) | dict(table.meta)
    wavelength = next(roles[role] for role in WAVELENGTHS if role in roles)
    flux = table[roles["flux"]]
    if not len(table):
        raise ValueError(f"{name}: its table of {', '.join(table.colnames[:6])} has no rows")
    if np.ndim(flux) == 1 and flux.dtype != object:
        choose([name], target, name, "spectrum")
        return _row_of(table, roles, name, header, list(notes))
    rows = choose(range(len(table)), target, name)
    vectors = [
        Table({c: np.ma.asarray(table[c][row]) for c in roles.values() if np.ndim(table[c][row]) == 1})
        for row in rows
    ]
    for row, vector in zip(rows, vectors, strict=True):
        scalars = {c: table[c][row] for c in table.colnames if np.ndim(table[c][row]) == 0}
        vector.meta = header | {k: v for k, v in scalars.items() if not np.ma.is_masked(v)}
        for column in vector.colnames:
            vector[column].unit = table[column].unit
        if {wavelength, roles["flux"]} - set(vector.colnames):
            raise ValueError(
                f"{name}: row {row} has a {wavelength} or a {roles['flux']} that is no vector of pixels"
            )
    spectra = [
        _row_of(_unpadded(v, wavelength), find_roles(v.colnames), name, v.meta, list(notes)) for v in vectors
    ]
    return spectra[0] if len(spectra) == 1 else _join_rows(spectra, target, name)


def _unpadded(vector, wavelength):
    """A row's pixels without those at its ends that fill the vector up: no wavelength, or 0."""
    values = np.ma.filled(np.ma.asarray(vector[wavelength]).astype(float), np.nan)
    used = np.flatnonzero(values > 0)
    return vector[used[0] : used[-1] + 1] if used.size else vector


def choose(spectra, target, name, kind="rows"):
    """The spectra that `target` asks for: a number from 0, several, "all", or None."""
    if target is None or (isinstance(target, str) and target == "all"):
        return spectra
    try:
        numbers = np.atleast_1d(np.asarray(target)).astype(int)
        if np.any(numbers < 0) or not numbers.size:
            raise IndexError
        return [spectra[number] for number in numbers]
    except (IndexError, ValueError, TypeError, OverflowError):
        numbers = f"a number from 0 to {len(spectra) - 1}" if len(spectra) > 1 else "0"
        advice = f"it has {len(spectra)} {kind}: give {numbers}, or 'all'"
        raise ValueError(f"{name}: target={target!r} is not in the file; {advice}") from None


def _row_of(table, roles, name, header, notes):
    """One spectrum of a table with a row a pixel."""
    unused = [c for c in table.colnames if c not in roles.values()]
    for column in unused:  # what a database repeats in each row
        if (
            column.lower() in ("redshift", "z", "ebv", "data_release")
            and len(set(table[column].tolist())) == 1
        ):
            header.setdefault(column, table[column].tolist()[0])
    raw = xr.Dataset(attrs={"header": header, "notes": notes})
    for role, column in roles.items():
        if role in ("mask", "good"):
            raw["mask"] = (("row", "pixel"), _bad_pixels(table, roles, name, header, notes)[None])
            continue
        values = column_values(table, column, name)
        attrs = {"units": getattr(table[column], "unit", None), "column": column}
        raw[role] = (
            ("pixel", values, attrs) if role in WAVELENGTHS else (("row", "pixel"), values[None], attrs)
        )
    if unused and not any(role in raw for role in ERRORS):
        notes.append(f"columns that were not used: {', '.join(unused[:12])}")
    raw.attrs["medium"] = header_medium(
        header, words=[raw[r].attrs["column"] for r in WAVELENGTHS if r in raw]
    )
    return raw


def _bad_pixels(table, roles, name, header, notes):
    """Where a column of flags, of one of the surveys or anybody's, says that a pixel is bad."""
    column = roles.get("mask", roles.get("good"))
    values = table[column]
    if values.dtype.kind in "OUS":
        words = {"true": 1, "t": 1, "yes": 1, "false": 0, "f": 0, "no": 0}
        texts = np.ma.filled(np.ma.asarray(values).astype(str), "nan")
        flags = Table({column: [words.get(text.strip().lower(), text) for text in texts.tolist()]})
        values = column_values(flags, column, name)
    else:
        values = column_values(table, column, name)
    if "mask" not in roles:
        return ~(values > 0)
    is_set = np.isnan(values) | (values != 0)
    release = str(header.get("data_release", ""))
    if bare_name(column) == "and_mask" or release.startswith(("SDSS", "BOSS")):
        return np.isnan(values) | flagged_pixels(np.nan_to_num(values).astype(np.int64))
    pypeit = str(header.get("DMODCLS", "")) in ("OneSpec", "SpecObj", "SpecObjs") or "PYP_SPEC" in header
    if pypeit or column.lower().startswith(("opt_", "box_")):
        return ~(values > 0)
    if is_set.mean() > 0.5 and bare_name(column) == "mask":
        empty = ~_has_data(table, roles, name)
        if empty[~is_set].mean() > 0.5 if (~is_set).any() else not empty.all():
            notes.append(f"column {column!r} is not 0 where there are data, so 1 was taken as good")
            return ~is_set
        if not empty[is_set].mean() > 0.5:
            share = f"{is_set.mean():.0%} of the pixels"
            advice = "call it 'good' if 1 means good, or leave it out"
            raise ValueError(
                f"{name}: column {column!r} is set for {share}: does 1 mean good or bad? {advice}"
            )
    return is_set


def _has_data(table, roles, name):
    """Where flux and error are numbers that say something."""
    known = np.isfinite(column_values(table, roles["flux"], name))
    for role in ERRORS:
        if role in roles:
            values = column_values(table, roles[role], name)
            known &= np.isfinite(values) & (values > 0)
    return known


def _join_rows(spectra, target, name):
    """Rows of vectors as a stack on one wavelength array, or segments of one spectrum end to end."""
    waves = [next(raw[role].values for role in WAVELENGTHS if role in raw) for raw in spectra]
    if target is not None:
        same = all(wave.shape == waves[0].shape and np.allclose(wave, waves[0], rtol=1e-9) for wave in waves)
        if not same:
            raise ValueError(
                f"{name}: its rows have wavelengths of their own: ask for one by target=0 and so on"
            )
        keep = [[v for v in raw.variables if "row" in raw[v].dims] for raw in spectra]
        stacked = {
            v: xr.concat([raw[v] for raw in spectra], "row", combine_attrs="override") for v in keep[0]
        }
        headers = [raw.attrs["header"] for raw in spectra]
        return spectra[0].drop_vars(keep[0]).assign(stacked).assign_attrs(headers=headers)
    used = [np.isfinite(wave) & (wave > 0) for wave in waves]
    ends = sorted((wave[u].min(), wave[u].max()) for wave, u in zip(waves, used, strict=True) if u.any())
    are_disjoint = all(before[1] < after[0] for before, after in pairwise(ends))
    if not are_disjoint:
        asked = f"choose by target=0 to {len(spectra) - 1}, or target='all'"
        raise ValueError(f"{name}: holds {len(spectra)} spectra, in rows (objects or orders): {asked}")
    order = np.argsort([wave[u].min() for wave, u in zip(waves, used, strict=True)])
    raw = xr.concat([spectra[i].isel(pixel=used[i]) for i in order], "pixel", combine_attrs="override")
    raw.attrs["notes"] = [*raw.attrs["notes"], f"{len(spectra)} rows (segments) joined end to end"]
    return raw


def fits_table(hdu):
    """A FITS table, units as they are spelt; TNULL of scaled integers, which astropy passes over, is masked too."""
    table = Table.read(hdu, unit_parse_strict="silent")
    for column in hdu.columns:
        scale, zero = (1 if value in (None, "") else value for value in (column.bscale, column.bzero or 0))
        if column.null not in (None, "") and (scale, zero) != (1, 0):
            values = np.ma.asarray(table[column.name])
            is_blank = np.isclose(values.filled(0), column.null * scale + zero, rtol=1e-9, atol=0)
            unit, table[column.name] = table[column.name].unit, np.ma.masked_where(is_blank, values)
            table[column.name].unit = unit
    return table


def read_hdus(hdus, name, *, target=None, medium=None, wavelength_unit=None):
    """The spectrum of a FITS file that is no SDSS, DESI or MaNGA file: a table's, or an image's."""
    tables = [
        hdu
        for hdu in hdus
        if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and is_spectrum(find_roles(hdu.columns.names))
    ]
    spectra = [hdu for hdu in tables if not _MODELS.search(hdu.name)] or tables
    if len(spectra) > 1 and all(set(h.columns.names) == set(spectra[0].columns.names) for h in spectra):
        if target is None:
            held = ", ".join(f"{i} ({hdu.name or 'table'})" for i, hdu in enumerate(spectra[:12]))
            raise ValueError(
                f"{name}: holds {len(spectra)} spectra, in tables {held}: choose by target=0 and so on"
            )
        spectra, target = choose(spectra, target, name, "tables"), None
        if len(spectra) > 1:
            raise ValueError(
                f"{name}: its tables have wavelengths of their own: ask for one by target=0 and so on"
            )
    if spectra:
        notes = [f"read from the table {spectra[0].name}"] if len(tables) > 1 else []
        notes += [f"not read: table {hdu.name}" for hdu in tables if hdu is not spectra[0]]
        table = fits_table(spectra[0])
        return read_columns(table, name, header=hdus[0].header, notes=notes, target=target)
    return _read_images(hdus, name, target, medium, wavelength_unit)


def _read_images(hdus, name, target, medium, wavelength_unit):
    """The spectrum of an image of one axis (or of rows), with errors and flags in extensions or rows."""
    images = {}
    for hdu in hdus:
        if hdu.is_image and hdu.data is not None and hdu.data.dtype.kind in "fiu" and hdu.data.size > 1:
            images.setdefault(hdu.name.lower() or "primary", hdu)
    roles = find_roles(images)
    flux = images.get(
        roles.get("flux"), next((h for n, h in images.items() if n not in roles.values()), None)
    )
    flux = images.get("spectrum vr", flux)  # of 6dF, which keeps its two arms beside them joined
    if flux is None or np.squeeze(flux.data).ndim not in (1, 2):
        held = ", ".join(f"{h.name or 'image'} {h.shape if h.is_image else h.columns.names}" for h in hdus)
        wanted = "a table with wavelength and flux, or a 1-D image"
        raise ValueError(f"{name}: holds no spectrum ({wanted}); it has {held}")
    header, notes = flux.header.copy(), []
    header.extend(hdus[0].header, unique=True, strip=True)
    raw = xr.Dataset(attrs={"header": dict(header), "notes": notes})
    rows = _lamost_rows(flux, header, name, notes) or _rows(
        np.atleast_2d(np.squeeze(np.asarray(flux.data, float))), header, flux.name, notes
    )
    if target is None and len(rows["flux"]) > 1:
        asked = f"choose by target=0 to {len(rows['flux']) - 1}, or target='all'"
        raise ValueError(f"{name}: holds {len(rows['flux'])} spectra, in rows: {asked}")
    n_pixels = rows["flux"].shape[1]
    for role, values in rows.items():
        units = header.get("BUNIT") if role == "flux" else None
        raw[role] = (("row", "pixel"), values, {"units": units, "column": "BUNIT"})
    for role in (*ERRORS, "mask", "good"):
        hdu = images.get(roles.get(role))
        if hdu is None or role in raw:
            continue
        values = np.asarray(hdu.data, float)
        if values.size != raw["flux"].size:
            raise ValueError(
                f"{name}: extension {hdu.name} has shape {hdu.shape}, the flux has {n_pixels} pixels"
            )
        values = values.reshape(raw["flux"].shape)
        if role in ("mask", "good"):
            raw["mask"] = (("row", "pixel"), ~(values > 0) if role == "good" else ~(values == 0))
        else:
            raw[role] = (("row", "pixel"), values, {"units": hdu.header.get("BUNIT"), "column": hdu.name})
    raw = raw.isel(row=choose(list(range(raw.sizes["row"])), target, name))
    wave = next((images[roles[role]] for role in WAVELENGTHS if role in roles), None)
    if wave is not None and np.size(wave.data) == n_pixels:
        role = next(role for role in WAVELENGTHS if role in roles)
        unit = wave.header.get("BUNIT", wave.header.get("CUNIT1"))
        raw[role] = ("pixel", np.ravel(np.asarray(wave.data, float)), {"units": unit, "column": wave.name})
        raw.attrs["medium"] = header_medium(dict(header) | dict(wave.header), words=[wave.name])
        return raw
    if not {"CRVAL1", "COEFF0", "CDELT1", "CD1_1"} & set(header):
        raise ValueError(f"{name}: the image has no wavelengths (header words CRVAL1, CDELT1)")
    wavelength, more = header_wavelengths(
        header, n_pixels, name=name, medium=medium, unit=wavelength_unit, hdus=hdus
    )
    notes += more
    raw["wavelength"] = ("pixel", wavelength, {"units": "Angstrom", "column": "CRVAL1", "is_vacuum": True})
    return raw


def _lamost_rows(hdu, header, name, notes):
    """The rows of LAMOST's data releases 1 to 7: flux, inverse variance, wavelength, and-mask, or-mask; else None."""
    data = np.asarray(hdu.data, float)
    if data.ndim != 2 or not 3 <= len(data) <= 6 or "COEFF0" not in header:
        return None
    wavelength = 10 ** (header["COEFF0"] + header["COEFF1"] * np.arange(data.shape[1]))
    if len(data) >= 4 and np.allclose(data[2], wavelength, rtol=1e-3):
        notes.append("rows of LAMOST: flux, inverse variance, wavelength, and-mask")
        return {"flux": data[:1], "ivar": data[1:2], "mask": data[3:4] != 0}
    layouts = "SDSS's spSpec (errors in the third row) or LAMOST (wavelengths there)"
    advice = "no header word (TELESCOP, PLATEID) says whose"
    raise ValueError(f"{name}: its {len(data)} rows are those of {layouts}, and {advice}")


def _rows(data, header, extension, notes):
    """What the rows of an image are: spectra, or flux and error of one, where the header says so."""
    words = [_row_word(header, number) for number in range(1, len(data) + 1)]
    if len(data) in (3, 4) and (extension == "SPECTRUM VR" or {"OBSRA", "Z_HELIO", "QUALITY"} <= set(header)):
        notes.append("rows of 6dF: spectrum, variance")
        return {"flux": data[:1], "variance": data[1:2]}
    if not any(words):
        return {"flux": data}
    kinds = {"flux": 0}
    for number, word in enumerate(words):
        for role, names in {
            "error": "sigma|error",
            "variance": "varianc?e?\\b",
            "ivar": "inverse var|ivar",
        }.items():
            if number and re.search(names, word, re.IGNORECASE) and "weights variance" not in word:
                kinds[role] = number
    notes.append(
        f"row 1 ({words[0]}) of {len(data)}"
        + "".join(f", {r} from row {n + 1}" for r, n in kinds.items() if n)
    )
    return {role: data[number : number + 1] for role, number in kinds.items()}


def _row_word(header, number):
    """What a header says of a row of its image."""
    return next(
        (
            str(header[f"{word}{number}"])
            for word in ("BANDID", "ROW", "ARRAY")
            if f"{word}{number}" in header
        ),
        "",
    )
