"""Tables of what was fitted to spectra: lines, columns, status and what to say of it."""

import numpy as np
import xarray as xr
from astropy import units as u

from spectool.prepare import add_history
from spectool.spectra import LINES

OK, BAD_INPUT, FAILED = 0, 1, 2


def galaxy_columns(sample):
    """What a sample knows of its galaxies, as the beginning of a table."""
    columns = {name: sample[name] for name in sample.variables if sample[name].dims == ("galaxy",)}
    return xr.Dataset(columns, attrs=dict(sample.attrs))


def line_columns(sample, lines):
    """The same with the coordinates of lines."""
    about = {"units": "Angstrom", "description": "vacuum"}
    return galaxy_columns(sample).assign_coords(
        line=("line", list(lines)), line_wavelength=("line", [LINES[name] for name in lines], about)
    )


def flux_units(spectra):
    """Units of a line's flux in spectra."""
    return (u.Unit(spectra.units) * u.AA).to_string()


def assemble_table(sample, lines, spectra, status, message, values, columns, *, what, keep_fit=False):
    """The line table of a fit.

    `values` holds flux, error, peak, peak_error and an, shape (galaxy, line), and the fit if that is to be kept;
    `columns` per-galaxy values and their units by name. All is NaN where the status is not OK.
    """
    table, area = line_columns(sample, lines), flux_units(spectra)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = values | {"sn": values["flux"] / values["error"]}
    lost = status != OK
    by_line = {
        "line_flux": ("flux", area),
        "line_flux_error": ("error", area),
        "line_sn": ("sn", ""),
        "line_peak": ("peak", spectra.units),
        "line_peak_error": ("peak_error", spectra.units),
        "line_an": ("an", ""),
    }
    for name, (key, units) in by_line.items():
        table[name] = (("galaxy", "line"), np.where(lost[:, None], np.nan, values[key]), {"units": units})
    for name, (column, units) in columns.items():
        table[name] = ("galaxy", np.where(lost, np.nan, column), {"units": units})
    table = add_status(table, status, message)
    if keep_fit:
        table = table.assign_coords({spectra.coordinate.name: spectra.coordinate})
        for name in ("continuum", "line_model"):
            pixels = np.where(lost[:, None], np.nan, values[name]).astype(np.float32)
            table[name] = (("galaxy", "wavelength"), pixels, {"units": spectra.units})
    missing = np.isnan(table["line_flux"].values[~lost]).sum(axis=0)
    missed = [f"{name}: {count}" for name, count in zip(lines, missing, strict=True) if count]
    notes = ["lines masked or out of range, " + ", ".join(missed)] if missed else []
    n_not_finite = int((~np.isfinite(spectra.flux)).sum())
    notes += [f"{n_not_finite} pixels with flux not finite left out"] if n_not_finite else []
    return note_fits(table, f"{what} in `{spectra.variable}`", spectra, notes)


def add_status(table, status, message):
    """Columns that say which fits are there, and why others are not."""
    about = {"units": "", "description": "0 ok, 1 bad input, 2 failed"}
    table["fit_status"] = ("galaxy", np.asarray(status, np.int8), about)
    table["fit_message"] = ("galaxy", np.asarray(message, dtype=str), {"units": ""})
    return table


def note_fits(table, what, spectra, notes=()):
    """Say in the table's history what was fitted and what could not be."""
    status = table["fit_status"].values
    text = f"{what}: {status.size} spectra, {(status == BAD_INPUT).sum()} with bad input, "
    text += f"{(status == FAILED).sum()} failed"
    reasons, counts = np.unique(table["fit_message"].values[status != OK], return_counts=True)
    notes = [f"{count} x {reason}" for reason, count in zip(reasons[:8], counts[:8], strict=True)] + [*notes]
    notes += [] if spectra.has_ivar else ["no ivar given: noise guessed from neighbouring pixels"]
    return add_history(table, "; ".join([text, *notes]))
