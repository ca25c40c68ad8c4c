"""What the mass-metallicity dashboard can put on its axis: the metals of the gas, or those of the stars."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spectool.measure.metallicity import CALIBRATIONS, deredden_lines
from spectool.measure.mzr import RELATIONS, STELLAR_RELATIONS
from spectool.spectra import OXYGEN_SUN, Z_SUN

TRUTH = "truth of the mocks"
PREDICTED = "network's prediction"


@dataclass(frozen=True)
class Metallicity:
    """Metallicities of a sample on one scale."""

    value: np.ndarray
    error: np.ndarray
    sn: np.ndarray


@dataclass(frozen=True)
class Quantity:
    """A metallicity that can stand on the axis, and what goes with it."""

    label: str
    axis: str
    column: str
    scales: tuple
    relations: dict
    sn_label: str
    sn_column: str
    min_sn: float
    colors: dict
    window: tuple
    unmeasured: str
    is_in: Callable
    measure: Callable
    truth: Callable


def _unknown(sample):
    return np.full(sample.sizes["galaxy"], np.nan)


def _column(sample, name, *, missing=np.nan):
    """A column as float64; a constant where the sample has none."""
    if name in sample:
        return sample[name].values.astype(float)
    return np.full(sample.sizes["galaxy"], missing)


# ---- the gas


def true_oxygen(sample):
    """12 + log(O/H) that a mock galaxy was made with, on the scale of the mocks."""
    if "log_z_gas" not in sample:
        return _unknown(sample)
    return sample["log_z_gas"].values + float(sample["log_z_gas"].attrs.get("oxygen_sun", OXYGEN_SUN))


def h_alpha_sn(sample):
    """S/N of Hα by galaxy; infinite in a sample that does not say."""
    if "h_alpha_sn" in sample or "line_flux" not in sample:
        return _column(sample, "h_alpha_sn", missing=np.inf)
    line = sample.sel(line="Hα")
    with np.errstate(divide="ignore", invalid="ignore"):
        return (line["line_flux"] / line["line_flux_error"]).values.astype(float)


def without_dust(sample):
    """Correct the lines of a sample by the Balmer decrement, where it has lines."""
    if "line_flux" not in sample or sample.attrs.get("dust_corrected"):
        return sample
    return deredden_lines(sample)


def measure_oxygen(sample, calibration):
    """Gas metallicities of a sample on a scale."""
    sn = h_alpha_sn(sample)
    if calibration == TRUTH:
        return Metallicity(true_oxygen(sample), _unknown(sample), sn)
    if "oxygen" in sample:
        return Metallicity(_column(sample, "oxygen"), _column(sample, "oxygen_error"), sn)
    if "line_flux" not in sample:
        return Metallicity(_unknown(sample), _unknown(sample), sn)
    value, error, valid = CALIBRATIONS[calibration](sample)
    return Metallicity(np.where(valid, value, np.nan), np.where(valid, error, np.nan), sn)


# ---- the stars


def _from_own_sun(sample, name):
    """A column of log Z/Zsun, counted from `Z_SUN` whatever sun the sample counts from."""
    if name not in sample:
        return _unknown(sample)
    return _column(sample, name) + np.log10(float(sample[name].attrs.get("z_sun", Z_SUN)) / Z_SUN)


def true_stars(sample):
    """Mean log Z/Zsun of a mock galaxy's stars, weighted by light; Zsun = 0.02."""
    return _from_own_sun(sample, "log_z_lw")


def measure_stars(sample, scale):
    """Stellar metallicities of a sample."""
    sn = _column(sample, "sn", missing=np.inf)
    if scale == TRUTH:
        return Metallicity(true_stars(sample), _unknown(sample), sn)
    value, error = _from_own_sun(sample, "log_z_predicted"), _column(sample, "log_z_error")
    if "outlier" in sample:
        outlier = sample["outlier"].values.astype(bool)
        value, error = np.where(outlier, np.nan, value), np.where(outlier, np.nan, error)
    return Metallicity(value, error, sn)


QUANTITIES = {
    "gas": Quantity(
        label="Gas",
        axis="12 + log(O/H)",
        column="oxygen",
        scales=(*CALIBRATIONS, TRUTH),
        relations=RELATIONS,
        sn_label="Hα S/N above",
        sn_column="h_alpha_sn",
        min_sn=15.0,  # Scourfield et al. (2023, Section 5)
        colors={
            "log SFR": "log SFR (M☉ yr⁻¹)",
            "excess": "SFR at fixed mass (dex)",
            "class": "class",
            "error": "error of 12 + log(O/H) (dex)",
            "truth": "true 12 + log(O/H) of the mock",
            "number": "number of galaxies (log)",
        },
        window=(8.0, 9.2),
        unmeasured="no value on the scale",
        is_in=lambda sample: "line_flux" in sample or "oxygen" in sample,
        measure=measure_oxygen,
        truth=true_oxygen,
    ),
    "stars": Quantity(
        label="Stars",
        axis="log Z* / Z☉",
        column="log_z_star",
        scales=(PREDICTED, TRUTH),
        relations=STELLAR_RELATIONS,
        sn_label="S/N above",
        sn_column="sn",
        min_sn=0.0,  # Zahid et al. (2019) ask no S/N of the continuum
        colors={
            "log SFR": "log SFR (M☉ yr⁻¹)",
            "excess": "SFR at fixed mass (dex)",
            "S/N": "S/N per Å",
            "error": "error of log Z* / Z☉ (dex)",
            "truth": "true log Z* / Z☉ of the mock",
            "age": "true log age of the mock (Gyr)",
            "number": "number of galaxies (log)",
        },
        window=(-1.0, 0.4),
        unmeasured="flagged",
        is_in=lambda sample: "log_z_predicted" in sample,
        measure=measure_stars,
        truth=true_stars,
    ),
}
"""Key -> `Quantity`; a new one needs an entry here, and a reader of samples that have it."""


def quantities_of(sample):
    """Keys of the quantities that a sample has."""
    return [key for key, quantity in QUANTITIES.items() if quantity.is_in(sample)]
