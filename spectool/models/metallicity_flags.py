"""What to think of a metallicity: whether there is one, whether the spectrum is of a kind that the networks know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from spectool.models.metallicity_outliers import STATISTICS
from spectool.synth.zahid2019_histories import metallicities

FINE, DEAD, LOST_CHUNK, UNUSABLE = range(4)
REASONS = (
    "",
    "no good pixel",
    "more than half of a chunk is masked",
    "no continuum: the polynomial is not positive, or too few pixels are good",
)
SUSPECTS = {
    "chi2": "unlike any sum of stellar populations ({:.1f} times the expected scatter): nucleus, star, wrong redshift?",
    "excess": "{:.0f} sigma off at {:.0f} A: unmasked line, nucleus, wrong redshift or artefact?",
    "distance": "principal components {:.0f} sigma from those of the training spectra",
}
FALSE_ALARMS = 0.01
EDGES = (0.2, 0.15)
"""How near to the lowest and the highest metallicity of the training spectra an answer is a limit [dex]: of old stars
with 0.005 and 5 Zsun, beyond either, the networks say -1.89 to -1.80 and 0.26 to 0.28."""
LIMIT = "a limit: the networks say the same of metallicities beyond their training spectra"
OUTLIER_COLUMNS = {
    "chi2": "of what the principal components of training spectra leave, per bin of 8 pixels",
    "excess": "strongest run of bins, in units of its noise",
    "distance": "of the principal components from their mean, in units of their scatter",
    "score": "-log10 of the chance of an ordinary spectrum",
}


@dataclass(frozen=True)
class Found:
    """What was found of N spectra.

    Attributes
    ----------
    values : dict
        ``mean``, ``error``, ``spread`` (N, n_out); ``chi2``, ``excess``, ``distance``, ``score``, ``pixel``, ``which``
        (N,) as of `spectool.models.metallicity_outliers.score_spectra`, if there is a reference.
    usable : ndarray of bool, shape (N,)
        Whether there is an answer.
    remarks : dict of int to str
        Row -> why there is none, or what else to know.
    """

    values: dict
    usable: np.ndarray
    remarks: dict

    @classmethod
    def of_codes(cls, values, error):
        """From results that have a ``code``: a place in `REASONS`."""
        code = values["code"]
        return cls(
            values | {"error": error}, code == 0, {row: REASONS[code[row]] for row in np.flatnonzero(code)}
        )


def describe(found: Found, reader, columns: xr.Dataset) -> xr.Dataset:
    """Results as a Dataset: see `spectool.models.metallicity.predict_metallicity`.

    Parameters
    ----------
    found
    reader
        `spectool.models.metallicity_reader.MetallicityReader`.
    columns
        Per-galaxy columns to keep.
    """
    result = _answers(found, reader)
    remarks = {row: [text] for row, text in found.remarks.items()}
    outlier = ~found.usable
    if "score" in found.values:
        result |= _statistics(found, reader.basis.kept_wavelength)
        outlier = outlier | (found.values["score"] >= -np.log10(FALSE_ALARMS))
        for row in np.flatnonzero(outlier & found.usable):
            name = STATISTICS[found.values["which"][row]]
            where = result["outlier_wavelength"][0][row]
            remarks.setdefault(row, []).append(SUSPECTS[name].format(found.values[name][row], where))
    for row in np.flatnonzero(found.usable & _at_an_end(found, reader)):
        remarks.setdefault(row, []).append(LIMIT)
    reason = np.full(len(outlier), "", dtype=object)
    for row, texts in remarks.items():
        reason[row] = "; ".join(texts)
    result["outlier"] = (outlier, "", "unlike the training spectra, or without an answer")
    result["out_of_range"] = (reason != "", "", "not to be trusted as it is: see reason")
    result["reason"] = (reason, "", "")
    return columns.assign(
        {
            name: ("galaxy", values, {"units": unit} | ({"long_name": text} if text else {}))
            for name, (values, unit, text) in result.items()
        }
    )


def _answers(found, reader):
    """Columns of every output: value, unit, description."""
    result = {}
    for k, (name, unit) in enumerate(zip(reader.outputs, reader.units, strict=True)):
        for what, key, text in (
            ("predicted", "mean", "mean of the networks"),
            ("error", "error", "1 sigma, calibrated on held-out histories"),
            ("spread", "spread", "standard deviation of the networks"),
        ):
            values = np.where(found.usable, found.values[key][:, k], np.nan).astype("f4")
            result[f"{name.removesuffix('_lw')}_{what}"] = (values, unit, f"{name}: {text}")
    return result


def _statistics(found, wavelength):
    """Columns of the statistics."""
    result = {
        f"outlier_{name}": (np.where(found.usable, found.values[name], np.nan).astype("f4"), "", text)
        for name, text in OUTLIER_COLUMNS.items()
    }
    pixel = np.minimum(found.values["pixel"], len(wavelength) - 1)
    where = np.where(found.usable, wavelength[pixel], np.nan).astype("f4")
    return result | {"outlier_wavelength": (where, "Angstrom", "middle of the strongest run")}


def _at_an_end(found, reader):
    """Whether the metallicity is near an end of those that the networks were trained on."""
    if "log_z_lw" not in reader.outputs:
        return np.zeros(len(found.usable), bool)
    log_z, nodes = found.values["mean"][:, reader.outputs.index("log_z_lw")], metallicities()
    return ~((log_z > nodes[0] + EDGES[0]) & (log_z < nodes[-1] - EDGES[1]))
