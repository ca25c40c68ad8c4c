"""Tables of what was fitted to spectra: results as they come, lines, columns, status and what to say of it."""

import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import xarray as xr
from astropy import units as u

from spectool.io import atomic
from spectool.parallel import run_jobs
from spectool.prepare import add_history
from spectool.spectra import LINES

OK, BAD_INPUT, FAILED = 0, 1, 2
_NOT_FITTED = -1
SAVE_EVERY = 10.0  # seconds


def attempt(fit, *job):
    """The result of a fit, or that it failed: whatever it stumbles over is that galaxy's message."""
    try:
        return fit(*job)
    except Exception as error:  # noqa: BLE001
        return {"status": FAILED, "message": f"{type(error).__name__}: {error}"[:200]}


class Results:
    """Results galaxy by galaxy, kept in a file too if one is named."""

    def __init__(self, n_galaxies, shapes, *, path=None, fingerprint=""):
        self.values = {name: np.full((n_galaxies, *shape), np.nan) for name, shape in shapes.items()}
        self.values["status"] = np.full(n_galaxies, _NOT_FITTED, np.int8)
        self.values["message"] = np.full(n_galaxies, "not fitted: interrupted", dtype="<U200")
        self.path, self.fingerprint = None if path is None else Path(path), fingerprint
        self._saved = time.monotonic()
        if self.path is not None and self.path.exists():
            self._load()

    @property
    def status(self):
        """What became of each galaxy; what was not fitted has failed."""
        return np.where(self.values["status"] == _NOT_FITTED, FAILED, self.values["status"])

    def fill(self, function, setup, job, *, chunk, progress=True, **options):
        """Fit what is pending by `function(setup, jobs)`, and say whether all is done: an interrupt keeps what is."""
        rows = np.flatnonzero(self.values["status"] == _NOT_FITTED)
        jobs = ((setup, [job(int(k)) for k in rows[i : i + chunk]]) for i in range(0, rows.size, chunk))
        bar = {"total": len(self.status), "initial": len(self.status) - rows.size, "disable": not progress}
        try:
            complete = run_jobs(function, jobs, self._add, **bar, **options)
        finally:
            self._save()
        if not complete:
            text = f"interrupted: {(self.values['status'] == _NOT_FITTED).sum()} spectra are not fitted"
            kept = f"; the others are kept in {self.path}" if self.path else ""
            warnings.warn(text + kept, stacklevel=3)
        return complete

    def _add(self, done):
        for row, result in done:
            for name in self.values.keys() & result:
                self.values[name][row] = result[name]
        if time.monotonic() - self._saved > SAVE_EVERY:
            self._save()
        return len(done)

    def _save(self):
        if self.path is None:
            return
        with atomic(self.path) as part, part.open("wb") as file:
            np.savez(file, fingerprint=self.fingerprint, **self.values)
        self._saved = time.monotonic()

    def _load(self):
        try:
            with np.load(self.path) as archive:
                kept = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path} is no checkpoint of fit_lines ({error}): remove it") from error
        if str(kept.get("fingerprint")) != self.fingerprint:
            raise ValueError(
                f"{self.path} holds fits of other spectra or with other settings: remove it, or choose another file"
            )
        self.values = {name: kept[name] for name in self.values}


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
    """The line table of a fit: of `values` by line and `columns` (values, unit) by galaxy, NaN unless status is OK."""
    table, area = line_columns(sample, lines), flux_units(spectra)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = values | {"sn": values["flux"] / values["error"]}
    lost = status != OK
    by_line = {"line_flux": ("flux", area), "line_flux_error": ("error", area), "line_sn": ("sn", "")}
    by_line |= {"line_peak": ("peak", spectra.units), "line_peak_error": ("peak_error", spectra.units)}
    by_line["line_an"] = ("an", "")
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
    # As narrow as the longest message: they are many.
    table["fit_message"] = ("galaxy", np.array([str(text) for text in message], dtype=str), {"units": ""})
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
