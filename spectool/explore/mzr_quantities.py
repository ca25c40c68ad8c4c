"""What can stand on the dashboard's axis, the metals of gas or of stars: its own file, as it knows samples alone."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from spectool.measure.classes import CLASSES
from spectool.measure.indices import stellar_marks
from spectool.measure.metallicity import CALIBRATIONS
from spectool.measure.mzr import RELATIONS, STELLAR_RELATIONS, residuals
from spectool.spectra import LINES, OXYGEN_SUN, Z_SUN

MAX_POINTS = 20_000
"""Galaxies above which an image is drawn."""
N_CELLS = (110, 80)

TRUTH = "truth of the mocks"
PREDICTED = "network's prediction"


class Quantity(NamedTuple):
    """A metallicity, and what goes with it; see `QUANTITIES`.

    ``measure(sample, scale)`` gives a DataFrame of ``value``, ``error`` [dex] and ``sn``; each of ``colors`` has a
    label and a function (sample, that DataFrame) of a value per galaxy.
    """

    label: str
    axis: str
    column: str
    scales: tuple
    relations: dict
    sn_label: str
    sn_column: str
    min_sn: float
    colors: dict
    range: tuple
    unmeasured: str
    windows: dict
    marks: dict
    is_in: Callable
    measure: Callable
    truth: Callable


def find_cells(x, y, window, *, n=N_CELLS):
    """Sort points into the cells of a window: which are inside, and the cell of each of these."""
    left, right, bottom, top = window
    with np.errstate(invalid="ignore"):
        column = np.floor((x - left) * (n[0] / max(right - left, 1e-9)))
        row = np.floor((y - bottom) * (n[1] / max(top - bottom, 1e-9)))
    inside = np.flatnonzero((column >= 0) & (column < n[0]) & (row >= 0) & (row < n[1]))
    return inside, (row[inside] * n[0] + column[inside]).astype(np.uint16)


def column(sample, name, *, missing=np.nan):
    """A column as float64; a constant where the sample has none."""
    return sample[name].values.astype(float) if name in sample else np.full(sample.sizes["galaxy"], missing)


def true_oxygen(sample):
    """12 + log(O/H) that a mock galaxy was made with, on the scale of the mocks."""
    sun = sample["log_z_gas"].attrs.get("oxygen_sun", OXYGEN_SUN) if "log_z_gas" in sample else np.nan
    return column(sample, "log_z_gas") + float(sun)


def measure_oxygen(sample, scale):
    """Gas metallicities of a sample on a scale, with the S/N of Hα: infinite in a sample that does not say."""
    error = np.full(sample.sizes["galaxy"], np.nan)
    sn = column(sample, "h_alpha_sn", missing=np.inf)
    if "h_alpha_sn" not in sample and "line_flux" in sample:
        line = sample.sel(line="Hα")
        with np.errstate(divide="ignore", invalid="ignore"):
            sn = (line["line_flux"] / line["line_flux_error"]).values.astype(float)
    if scale == TRUTH:
        value = true_oxygen(sample)
    elif "oxygen" in sample or not {*CALIBRATIONS[scale].lines} <= {*_lines(sample)}:
        value, error = column(sample, "oxygen"), column(sample, "oxygen_error")
    else:
        value, error, valid = CALIBRATIONS[scale](sample)
        value, error = np.where(valid, value, np.nan), np.where(valid, error, np.nan)
    return pd.DataFrame({"value": value, "error": error, "sn": sn})


def _lines(sample):
    return sample["line"].values if "line_flux" in sample else ()


def _stars(sample, name):
    """A column of log Z/Zsun, counted from `Z_SUN` whatever sun the sample counts from."""
    sun = sample[name].attrs.get("z_sun", Z_SUN) if name in sample else Z_SUN
    return column(sample, name) + np.log10(float(sun) / Z_SUN)


def true_stars(sample):
    """Mean log Z/Zsun of a mock galaxy's stars, weighted by light; Zsun = 0.02."""
    return _stars(sample, "log_z_lw")


def measure_stars(sample, scale):
    """Stellar metallicities of a sample, none where the network flags the spectrum, with the S/N of the spectrum."""
    sn = column(sample, "sn", missing=np.inf)
    if scale == TRUTH:
        return pd.DataFrame({"value": true_stars(sample), "error": np.nan, "sn": sn})
    usable = column(sample, "outlier", missing=0) == 0
    value, error = _stars(sample, "log_z_predicted"), column(sample, "log_z_error")
    value, error = np.where(usable, value, np.nan), np.where(usable, error, np.nan)
    return pd.DataFrame({"value": value, "error": error, "sn": sn})


def _rate(sample, measured):
    return column(sample, "log_sfr")


def _excess(sample, measured):
    return residuals(sample["log_mass"].values, column(sample, "log_sfr"))


def _class(sample, measured):
    names = sample["spectral_class"].values.astype(str) if "spectral_class" in sample else np.array("")
    codes = np.select([names == name for name in CLASSES], range(len(CLASSES)), np.nan)
    return np.broadcast_to(codes, sample.sizes["galaxy"])


def _error(sample, measured):
    return measured["error"].to_numpy()


def _sn(sample, measured):
    return measured["sn"].replace(np.inf, np.nan).to_numpy()


def _number(sample, measured):
    """Logarithm of the number of galaxies in the same cell of the relation."""
    mass, value = sample["log_mass"].values.astype(float), measured["value"].to_numpy()
    known = np.isfinite(mass) & np.isfinite(value)
    if not known.any():
        return np.full(mass.size, np.nan)
    low, high = np.quantile(value[known], [0.01, 0.99])
    window = (mass[known].min(), mass[known].max(), low, high)
    inside, cell = find_cells(mass, value, window, n=N_CELLS if mass.size > MAX_POINTS else (40, 30))
    counts = np.full(mass.size, np.nan)
    counts[inside] = np.log10(np.bincount(cell)[cell])
    return counts


def _colors(axis, truth, **more):
    return {
        "log SFR": ("log SFR (M☉ yr⁻¹)", _rate),
        "excess": ("SFR at fixed mass (dex)", _excess),
        **more,
        "error": (f"error of {axis} (dex)", _error),
        "truth": (f"true {axis} of the mock", lambda sample, measured: truth(sample)),
        "number": ("galaxies around it (log)", _number),
    }


GAS, STARS = "12 + log(O/H)", "log Z* / Z☉"

QUANTITIES = {
    "gas": Quantity(
        label="Gas",
        axis=GAS,
        column="oxygen",
        scales=(*CALIBRATIONS, TRUTH),
        relations=RELATIONS,
        sn_label="Hα S/N",
        sn_column="h_alpha_sn",
        min_sn=15.0,
        colors=_colors(GAS, true_oxygen, **{"class": ("class", _class)}),
        range=(8.0, 9.2),
        unmeasured="no value on the scale",
        windows={
            "All": (3700.0, 7900.0),
            "[O II]": (3690.0, 3800.0),
            "Hβ, [O III]": (4800.0, 5060.0),
            "Hα, [N II]": (6480.0, 6660.0),
            "[S II]": (6660.0, 6800.0),
        },
        marks={name: x for name, x in LINES.items() if 3700 < x < 7900},
        is_in=lambda sample: "line_flux" in sample or "oxygen" in sample,
        measure=measure_oxygen,
        truth=true_oxygen,
    ),
    "stars": Quantity(
        label="Stars",
        axis=STARS,
        column="log_z_star",
        scales=(PREDICTED, TRUTH),
        relations=STELLAR_RELATIONS,
        sn_label="S/N per Å",
        sn_column="sn",
        min_sn=0.0,
        colors=_colors(
            STARS,
            true_stars,
            **{
                "S/N": ("S/N per Å", _sn),
                "age": ("true log age of the mock (Gyr)", lambda sample, _: column(sample, "log_age_lw")),
            },
        ),
        range=(-1.0, 0.4),
        unmeasured="flagged",
        windows={
            "All": (3950.0, 7350.0),
            "Ca, G band": (4200.0, 4420.0),
            "Fe, C₂": (4500.0, 4760.0),
            "Mg b, Fe": (5100.0, 5460.0),
            "Na D, TiO": (5830.0, 6010.0),
        },
        marks=stellar_marks(),
        is_in=lambda sample: "log_z_predicted" in sample,
        measure=measure_stars,
        truth=true_stars,
    ),
}
"""Key -> `Quantity`; another needs an entry here, and samples that have it."""

PER_GALAXY = ("oxygen", "oxygen_error", "h_alpha_sn", "log_sfr", "log_z_gas", "candidate")
PER_GALAXY += ("log_z_predicted", "log_z_error", "log_z_lw", "log_age_lw", "sn", "outlier", "redshift")


def check_sample(name, sample):
    """Return a sample with what the dashboard needs; ValueError says what it lacks.

    Parameters
    ----------
    name : str
        For messages.
    sample : xarray.Dataset
        Per ``galaxy`` ``log_mass`` [dex(Msun)] and either ``line_flux`` and ``line_flux_error`` (galaxy, line), Hα
        among them, or metallicities: ``oxygen`` of the gas, ``log_z_predicted`` of the stars. `PER_GALAXY` is used if
        it is there: ``candidate`` tells galaxies of the same ``attrs["family"]`` from each other.
    """
    needed = {"log_mass": ("galaxy",)}
    if "line_flux" in sample or not any(kind.is_in(sample) for kind in QUANTITIES.values()):
        needed |= {"line_flux": ("galaxy", "line"), "line_flux_error": ("galaxy", "line")}
    needed |= {column: ("galaxy",) for column in PER_GALAXY if column in sample}
    for column, dims in needed.items():
        if column not in sample:
            hint = " (nor metallicities, 'oxygen' or 'log_z_predicted')" if column == "line_flux" else ""
            raise ValueError(f"the sample {name!r} has no column {column!r}{hint}")
        if set(sample[column].dims) != set(dims):
            raise ValueError(f"{column!r} of the sample {name!r} is {sample[column].dims}, not {dims}")
    if sample.sizes["galaxy"] == 0:
        raise ValueError(f"the sample {name!r} holds no galaxy")
    if "line_flux" in sample:
        sample = sample.transpose("galaxy", "line", ...)
        if "Hα" not in sample["line"].values:
            raise ValueError(f"the line table of the sample {name!r} has no line 'Hα'")
    if "candidate" not in sample:
        sample = sample.assign(candidate=("galaxy", np.arange(sample.sizes["galaxy"])))
    return sample.assign_attrs(family=sample.attrs.get("family", name))
