"""Stellar metallicities of spectra, in one line: prepared, read by the networks of Zahid et al. (2019), and judged.

    predict_metallicity(read_sdss("spec-0266-51602-0056.fits"))

`stream_metallicity` does the same for hundreds of thousands of spectra on disk.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from spectool.continuum import FWHM, SIGMA_STEP, prepare_zahid2019
from spectool.models.metallicity_flags import Found, describe
from spectool.models.metallicity_reader import MetallicityReader
from spectool.models.metallicity_stream import stream_metallicity
from spectool.models.registry import Predictor
from spectool.surveys.sdss_noise import FWHM_TO_SIGMA

__all__ = ["make_predictor", "predict_metallicity", "stream_metallicity"]

STAR_REDSHIFT = 0.002
RANGE = (4050.0, 7300.0)
TITLE = "Chunked networks (Zahid 2019)"
# output: label, note
LABELS = {
    "log_z_lw": ("log Z/Zsun of the stars, light-weighted", "Zsun = 0.02; mean of log Z, 4050-7300 A"),
    "log_age_lw": ("log age of the stars, light-weighted", "degenerate with metallicity"),
}


def predict_metallicity(
    sample: xr.Dataset, *, members=None, batch_size: int = 512, **preparation
) -> xr.Dataset:
    """Read stellar metallicities from spectra.

    Parameters
    ----------
    sample
        Spectra as `spectool.surveys.read_sdss` and others give them, with ``redshift`` if in the observed frame, or as
        `spectool.continuum.prepare_zahid2019` leaves them.
    members
        Networks, as of `spectool.models.zahid2019.load_ensemble`; default: the shipped ones. Only those of
        ``zahid2019_mlp1`` know what errors and what outliers are.
    batch_size
        Spectra read at once.
    **preparation
        Options of `prepare_zahid2019`, for spectra that are not prepared yet.

    Returns
    -------
    Dataset
        Dim galaxy: for each output of the networks, ``log_z_predicted`` [dex, Zsun = 0.02] (mean of log Z, weighted by
        4050-7300 Angstrom light), ``log_z_error`` (1 sigma: networks' disagreement, noise of the spectrum, a floor,
        scaled to cover 68% of held-out histories), ``log_z_spread``; ``outlier`` (bool) and ``outlier_score`` (-log10
        of the chance of an ordinary spectrum; an outlier is above 2), ``outlier_chi2``, ``outlier_excess``,
        ``outlier_distance``, ``outlier_wavelength`` (`spectool.models.metallicity_outliers`); ``out_of_range`` (bool)
        and ``reason`` ("" if in range): no answer (NaN), an outlier, a metallicity at an end of the training spectra',
        a resolution lower than the models', a redshift as of a star. The sample's columns are kept.

    Raises
    ------
    FileNotFoundError
        If the shipped networks are not here.
    ValueError
        As `prepare_zahid2019`.

    Notes
    -----
    Errors hold for stars like those of the networks' library: see `spectool.libraries` for how much they move with
    another. A metal-poor young population is nearly featureless, and so is whatever has no features.
    """
    reader = MetallicityReader(members)
    if not _is_prepared(sample, reader):
        sample = prepare_zahid2019(sample, **preparation)
    widths = _broadened_by(sample)
    parts, noise = [], []
    for start in range(0, sample.sizes["galaxy"], batch_size):
        part = slice(start, start + batch_size)
        some = sample.isel(galaxy=part)
        bad = some["mask"].values if "mask" in some else np.zeros(some["flux"].shape, bool)
        noise.append(_chunk_noise(some, bad, reader.stacked.starts))
        parts.append(_read(reader, some["flux"].values, noise[-1], bad, widths[part]))
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    values["error"] = reader.calibrate(values, np.concatenate(noise))
    usable = ~sample["mask"].values.all(axis=1) if "mask" in sample else np.ones(len(widths), bool)
    columns = sample.drop_dims("wavelength")
    return describe(Found(values, usable, _remarks(sample, usable)), reader, columns)


def _is_prepared(sample, reader):
    return "wavelength" in sample.coords and np.array_equal(
        sample["wavelength"].values, reader.basis.kept_wavelength
    )


def _broadened_by(prepared):
    """Sigma (galaxy,) [km/s] of the broadening that prepared spectra went through, as far as they tell."""
    if "spectral_fwhm" not in prepared:
        return np.zeros(prepared.sizes["galaxy"])
    before = prepared["spectral_fwhm"].values
    after = prepared.attrs.get("fwhm_kms", FWHM)
    sigma = FWHM_TO_SIGMA * np.sqrt(np.clip(after**2 - np.nan_to_num(before) ** 2, 0, None))
    return np.round(sigma / SIGMA_STEP) * SIGMA_STEP


def _chunk_noise(prepared, bad, starts):
    """Root mean square noise (galaxy, chunk) of good pixels, relative to the continuum; 0 where there are none."""
    if "sigma" not in prepared:
        return np.zeros((len(bad), len(starts) - 1), np.float32)
    square = np.where(bad, 0, prepared["sigma"].values.astype(float) ** 2)
    total, count = (np.add.reduceat(values, starts[:-1], axis=1) for values in (square, (~bad).astype(float)))
    return np.sqrt(total / np.maximum(count, 1)).astype(np.float32)


def _read(reader, flux, noise, bad, widths):
    """Read one batch: spectra that were broadened alike together."""
    results = {}
    for width in np.unique(widths):
        rows = np.flatnonzero(widths == width)
        x = torch.from_numpy(np.ascontiguousarray(flux[rows], dtype=np.float32))
        # Bad pixels of prepared spectra are 0.
        found = reader.read(x, noise[rows], torch.from_numpy(bad[rows]), reader.broaden_by(width)[1])
        for name, values in found.items():
            room = results.setdefault(name, np.empty((len(flux), *values.shape[1:]), values.dtype))
            room[rows] = values
    return results


def _remarks(prepared, usable):
    """Row -> what preparation found wrong, and whether the redshift is a star's."""
    texts = (
        prepared["prepared_reason"].values.tolist() if "prepared_reason" in prepared else [""] * len(usable)
    )
    remarks = {row: text for row, text in enumerate(texts) if text}
    for row in np.flatnonzero(~usable):
        remarks.setdefault(row, "masked out in preparation")
    if "redshift" in prepared:
        for row in np.flatnonzero(usable & (np.abs(prepared["redshift"].values) < STAR_REDSHIFT)):
            text = f"redshift below {STAR_REDSHIFT}: a star, or a galaxy so near that the fibre sees little of it"
            remarks[row] = "; ".join(filter(None, (remarks.get(row, ""), text)))
    return remarks


def make_predictor(members=None) -> Predictor:
    """The registry's entry.

    Parameters
    ----------
    members
        See `predict_metallicity`.

    Raises
    ------
    FileNotFoundError
        If the shipped networks are not here.
    """
    from spectool.models.zahid2019 import load_ensemble

    members = load_ensemble() if members is None else members

    def predict(prepared):
        return _as_answers(predict_metallicity(prepared, members=members))

    return Predictor("zahid2019", "zahid2019", TITLE, RANGE, prepare_zahid2019, predict, min_fraction=0.9)


def _as_answers(found):
    """In the form of `spectool.models.registry.Predictor.predict`."""
    names = [name for name in LABELS if f"{name.removesuffix('_lw')}_predicted" in found]
    short = [name.removesuffix("_lw") for name in names]
    values, errors = (
        np.stack([found[f"{name}_{what}"].values for name in short], axis=1)
        for what in ("predicted", "error")
    )
    result = xr.Dataset(
        {
            "value": (("galaxy", "quantity"), values),
            "error": (("galaxy", "quantity"), errors),
            "out_of_range": ("galaxy", found["out_of_range"].values),
            "reason": ("galaxy", found["reason"].values),
            "outlier": ("galaxy", found["outlier"].values),
        },
        coords={
            "quantity": names,
            "unit": ("quantity", [found[f"{n}_predicted"].attrs["units"] for n in short]),
        },
    )
    for k, column in enumerate(("label", "note")):
        result = result.assign_coords({column: ("quantity", [LABELS[name][k] for name in names])})
    return result
