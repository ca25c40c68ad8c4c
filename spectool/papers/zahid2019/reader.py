"""Metallicities of real spectra with the networks of Zahid et al. (2019)."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from spectool.broaden import broaden, fill_bad, make_broadening
from spectool.measure.line_spectra import line_spread
from spectool.models.ensemble import ChunkedEnsemble, noise_variance, scale_errors
from spectool.models.outliers import BIN, BIN_STATISTICS, score_bin_outliers
from spectool.papers import Predictor
from spectool.papers.zahid2019.network import load
from spectool.parallel import n_workers
from spectool.prepare import (
    N_KEPT,
    ContinuumBasis,
    PrepareWarning,
    add_history,
    correct_extinction,
    kept_pixels,
    mask_bad_pixels,
    mask_sky_lines,
    normalize_continuum,
    optical_wavelength,
    resample,
    spectral_coordinate,
    to_rest_frame,
)
from spectool.spectra import FWHM_TO_SIGMA, KM_S, SIGMA_TO_FWHM
from spectool.surveys.sdss import PIXEL_VELOCITY
from spectool.synth.histories import metallicities

FWHM = 330.0
"""Resolution of the models and of the paper's spectra [km/s]: the line width of its most massive stack."""
N_CHUNKS = 25
MARGIN = 20  # Angstrom beyond either end, that broadening reaches for
LSF_RANGE = (4050.0, 5600.0)  # Angstrom: three quarters of the variance of the models' features lie here
SIGMA_STEP = 4.0  # km/s: galaxies whose broadening agrees to half of it share one operator


def prepare_zahid2019(
    sample, *, ebv=None, spectral_fwhm=None, fwhm=FWHM, min_chunk=0.5, min_coverage=0.5, batch_size=128
):
    """Prepare spectra as Zahid et al. (2019, Sections 3.1 and 4): what its network was trained on.

    Bad pixels and sky lines masked, extinction corrected where E(B-V) is known, rest frame, pixels of 1 Angstrom,
    broadened to one width in velocity, line windows left out, divided by a polynomial of degree 20, 1 subtracted.

    How wide a spectrum's lines are already comes from (the first that is there) `spectral_fwhm`, the column
    ``spectral_fwhm``, ``attrs["fwhm_kms"]``, or the instrument (`spectool.measure.line_spectra.line_spread`) and the
    column ``velocity_dispersion`` in quadrature. A spectrum with wider lines than the models is left as it is and
    named.

    Parameters
    ----------
    sample : Dataset
        ``flux`` (galaxy, wavelength), if there ``ivar`` and ``mask``; in the observed frame with ``redshift``, or in
        the rest frame. Without ``ivar`` the noise is that of ``chunk_sigma`` (galaxy, chunk), relative to the flux of a
        pixel of 1 Angstrom (`spectool.papers.zahid2019.sample`); without either, spectra count as noise-free.
    ebv : float or array_like (galaxy,), optional
        E(B-V) [mag]; default the column ``ebv``, else nothing is corrected. For spectra in the observed frame.
    spectral_fwhm : float or array_like (galaxy,), optional
        Total width of the spectra's lines [km/s].
    fwhm : float
        Width to broaden to [km/s].
    min_chunk : float
        Share of good pixels that each of the network's 25 chunks must have; a spectrum with less is masked out.
    min_coverage : float
        As of `spectool.prepare.resample`.
    batch_size : int

    Returns
    -------
    Dataset
        ``flux`` (galaxy, wavelength: 2468) float32, 0 in bad pixels; ``mask`` (True = bad); ``sigma``, relative to the
        continuum, the white noise that a pixel of 1 Angstrom had before broadening: sums over features have this noise,
        single pixels less (0 if it is not known); ``spectral_fwhm`` [km/s] before broadening; ``prepared_reason``: what
        is wrong with a spectrum, "" if nothing; and the per-galaxy columns. Spectra that cannot be used are masked
        everywhere, and counted in ``attrs["history"]``: no good pixel, no redshift, chunks without enough good pixels
        (or beyond the spectrum's end), no positive continuum.

    Raises
    ------
    ValueError
        If the sample lacks flux, wavelengths or redshifts, or a width is not a positive number.
    """
    noisy = "ivar" in sample
    out = mask_bad_pixels(sample)
    reasons = _Reasons(out.sizes["galaxy"])
    reasons.add(out["mask"].values.all(1), "no good pixel")
    out = _in_rest_frame(out, ebv, reasons)
    width, source = _spectral_fwhm(out, spectral_fwhm)
    ends = _ends(out)
    wavelength = optical_wavelength()
    wide = np.arange(wavelength[0] - MARGIN, wavelength[-1] + MARGIN + 1)
    keep = np.pad(kept_pixels(wavelength), MARGIN)
    out, noise = _resample(out, wide, min_coverage, batch_size)
    bad = out["mask"].values[:, keep]
    extra = np.sqrt(np.clip(fwhm**2 - width**2, 0, None)) / SIGMA_TO_FWHM
    flux = broaden(out["flux"].values, extra, wide, bad=out["mask"].values, keep=keep, step=SIGMA_STEP)
    basis = ContinuumBasis.optical()
    _name_chunks(reasons, bad, basis.kept_wavelength, ends, min_chunk)
    flux, continuum = _normalize(flux, bad, basis, batch_size)
    reasons.add(np.isnan(continuum[:, 0]), "the pseudo-continuum is not well above zero everywhere")
    for row in np.flatnonzero(width > fwhm):
        reasons.add_to(row, f"resolution {width[row]:.0f} km/s is lower than the models' {fwhm:g} km/s")
    bad = bad | reasons.fatal[:, None]
    sigma = np.zeros(flux.shape, "f4")
    if noisy:
        sigma = np.sqrt(noise[:, keep]) / np.where(bad, 1, continuum)
    elif "chunk_sigma" in out:
        chunk = np.repeat(np.arange(N_CHUNKS), [len(part) for part in _chunks()])
        sigma = out["chunk_sigma"].transpose("galaxy", "chunk").values[:, chunk]
    sigma = np.where(bad, 0, sigma)
    out = add_history(
        out.drop_vars(["flux", "ivar", "mask", "wavelength"]).assign_attrs(fwhm_kms=float(fwhm)),
        f"broadened to {fwhm:g} km/s (FWHM) from {source}; {(width > fwhm).sum()} have a lower resolution",
    )
    text = f"prepared as Zahid et al. (2019): {reasons.fatal.sum()} of {len(bad)} spectra masked out"
    return add_history(_assemble(out, basis, np.where(bad, 0, flux), bad, sigma, width, reasons), text)


def _assemble(columns, basis, flux, bad, sigma, width, reasons):
    """The prepared sample."""
    dims, about = ("galaxy", "wavelength"), {"units": "Angstrom", "description": "vacuum, rest frame"}
    noise = "noise of a pixel of 1 Angstrom over the pseudo-continuum, before broadening"
    return columns.assign_coords(wavelength=("wavelength", basis.kept_wavelength, about)).assign(
        flux=(dims, flux, {"units": "", "description": "flux / pseudo-continuum - 1"}),
        mask=(dims, bad, {"units": "", "description": "True = bad"}),
        sigma=(dims, sigma.astype("f4"), {"units": "", "description": noise}),
        spectral_fwhm=("galaxy", width, {"units": "km / s", "description": "of lines, before broadening"}),
        prepared_reason=("galaxy", reasons.texts(), {"units": ""}),
    )


class _Reasons:
    """What is wrong with each galaxy, and whether it is too bad to be used."""

    def __init__(self, count):
        self.fatal = np.zeros(count, bool)
        self._texts = [[] for _ in range(count)]

    def add(self, rows, text):
        """Spectra (bool per galaxy) that cannot be used; a first reason hides those that follow from it."""
        for row in np.flatnonzero(rows & ~self.fatal):
            self._texts[row].append(text)
        self.fatal |= rows

    def add_to(self, row, text):
        """A flaw of one spectrum that can be used all the same."""
        self._texts[row].append(text)

    def texts(self):
        return np.array(["; ".join(parts) for parts in self._texts], dtype=str)


def _spectral_fwhm(sample, given):
    """Total width (galaxy,) [km/s] of lines in the spectra, and in words where it comes from."""
    count = sample.sizes["galaxy"]
    for value, source in (
        (given, "the widths given"),
        (sample.get("spectral_fwhm"), "the column spectral_fwhm"),
        (sample.attrs.get("fwhm_kms"), "attrs['fwhm_kms']"),
    ):
        if value is not None:
            width = np.broadcast_to(np.asarray(value, float), count).copy()
            wrong = np.flatnonzero(~(np.isfinite(width) & (width >= 0)))
            if wrong.size:
                raise ValueError(
                    f"the width of galaxy {wrong[0]} is {width[wrong[0]]} km/s: it must be 0 or more"
                )
            return width, source
    instrument = _instrument(sample)
    if "velocity_dispersion" not in sample:
        return SIGMA_TO_FWHM * instrument, "the instrument's width alone (no velocity dispersions)"
    dispersion = np.asarray(sample["velocity_dispersion"], float)
    known = np.isfinite(dispersion) & (dispersion >= 0)
    width = SIGMA_TO_FWHM * np.hypot(instrument, np.where(known, dispersion, 0))
    return width, f"instrument and velocity dispersion ({(~known).sum()} unknown and left out)"


def _instrument(sample):
    """Sigma (galaxy,) [km/s] of the line-spread function, rms over `LSF_RANGE`, with the final pixels' own width."""
    wavelength, _ = spectral_coordinate(sample)
    range_ = np.arange(*LSF_RANGE)
    box = np.mean((KM_S / range_) ** 2) / 12
    own = sample.get("lsf_sigma")
    if own is None or "galaxy" not in own.dims:
        # One curve along observed pixels belongs to no place at rest.
        general = sample if "wavelength" in sample.coords else sample.drop_vars("lsf_sigma", errors="ignore")
        typical = np.sqrt(np.mean(line_spread(general, range_) ** 2) + box)
        return np.full(sample.sizes["galaxy"], typical)
    typical = np.mean(line_spread(sample.drop_vars("lsf_sigma"), range_) ** 2)
    own = own.transpose("galaxy", "wavelength").values
    used = (wavelength >= range_[0]) & (wavelength <= range_[-1]) & np.isfinite(own) & (own > 0)
    square = np.where(used, own, 0.0).astype(float) ** 2
    count = used.sum(1)
    mean = np.divide(square.sum(1), count, out=np.full(count.size, typical), where=count > 0)
    return np.sqrt(mean + box + np.where(count > 0, PIXEL_VELOCITY**2 / 12, 0))


def _in_rest_frame(sample, ebv, reasons):
    if spectral_coordinate(sample)[1]:
        return sample
    sample = mask_sky_lines(sample)
    if ebv is not None or "ebv" in sample:
        sample = correct_extinction(sample, ebv=ebv)
    else:
        sample = add_history(sample, "Galactic extinction left in: E(B-V) is not known")
    sample = to_rest_frame(sample)
    reasons.add(sample["mask"].values.all(1), "redshift not usable")
    return sample


def _ends(sample):
    """First and last good rest wavelength (galaxy, 2) [Angstrom]; NaN without any."""
    wavelength, _ = spectral_coordinate(sample)
    good = ~sample["mask"].values
    wavelength = np.broadcast_to(wavelength, good.shape)
    rows = np.arange(len(good))
    ends = np.stack(
        [wavelength[rows, good.argmax(1)], wavelength[rows, -1 - good[:, ::-1].argmax(1)]], axis=1
    )
    return np.where(good.any(1)[:, None], ends, np.nan)


def _resample(sample, wavelength, min_coverage, batch_size):
    """The sample on pixels of 1 Angstrom, and the variance (galaxy, n) that white noise would have there."""
    old, _ = spectral_coordinate(sample)
    ivar = sample["ivar"].values
    density = np.divide(np.gradient(old, axis=-1), ivar, out=np.zeros(ivar.shape), where=ivar > 0)
    options = {"min_coverage": min_coverage, "batch_size": batch_size}
    result = resample(sample, wavelength, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrepareWarning)
        noise = resample(sample.assign(flux=(("galaxy", "wavelength"), density)), wavelength, **options)
    return result, noise["flux"].values


def _chunks():
    """Numbers of the kept pixels that each of the network's filters sees."""
    return np.array_split(np.arange(N_KEPT), N_CHUNKS)


def _name_chunks(reasons, bad, wavelength, ends, min_chunk):
    """Name the spectra of which a chunk has too few good pixels, and whether they end there."""
    chunks = _chunks()
    share = np.stack([1 - bad[:, chunk].mean(1) for chunk in chunks], axis=1)
    poor = share < min_chunk
    for row in np.flatnonzero(poor.any(1) & ~reasons.fatal):
        worst = int(np.argmin(share[row]))
        low, high = wavelength[chunks[worst][0]], wavelength[chunks[worst][-1]]
        text = f"{poor[row].sum()} of {N_CHUNKS} chunks lack good pixels: {share[row, worst]:.0%} are good in chunk "
        text += f"{worst + 1} ({low:.0f}-{high:.0f} A)"
        if ends[row, 0] > wavelength[0] + 1 or ends[row, 1] < wavelength[-1] - 1:
            text += f", the spectrum covers {ends[row, 0]:.0f}-{ends[row, 1]:.0f} A"
        reasons.add_to(row, text)
    reasons.fatal |= poor.any(1)


def _normalize(flux, bad, basis, batch_size):
    parts = [slice(first, first + batch_size) for first in range(0, len(flux), batch_size)]
    pairs = [normalize_continuum(flux[part], bad[part], basis) for part in parts]
    return (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))


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
    """What was found of N spectra."""

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
    """Results as a Dataset: see `spectool.papers.zahid2019.reader.predict`.

    Parameters
    ----------
    found
    reader
        `spectool.papers.zahid2019.reader.MetallicityReader`.
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
            name = BIN_STATISTICS[found.values["which"][row]]
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


ANSWERS = ("mean", "spread", "noise")
SUSPICIONS = ("chi2", "excess", "distance", "score", "pixel", "which")


class MetallicityReader:
    """Networks, and what else is needed to read a batch of prepared spectra."""

    def __init__(self, members=None) -> None:
        members = load() if members is None else members
        whole = members if isinstance(members, ChunkedEnsemble) else ChunkedEnsemble(members)
        self.arrays, self.stacked = whole.arrays, whole
        self.outputs, self.units = whole.outputs, whole.units
        self.basis = ContinuumBasis.optical()
        if not np.array_equal(self.basis.kept_wavelength, whole.wavelength):
            raise ValueError("these networks do not read the pixels of spectool.prepare.kept_pixels")
        self.knows_outliers = "outlier_mean" in self.arrays
        # What a missing pixel may be wrong by: the scatter of prepared spectra.
        self._missing = float(np.mean([float(m.in_scale) for m in whole.members]))
        n = whole.wavelength.size
        self._chunk_of_bin = whole.chunk_index[np.minimum(np.arange(0, n, BIN) + BIN // 2, n - 1)]
        self._operators = {}

    def broaden_by(self, sigma: float):
        """Operator of a width [km/s], and what noise before it does behind the filters; kept for the next time."""
        if sigma not in self._operators:
            operator = make_broadening(sigma, self.basis.wavelength, keep=self.basis.keep)
            self._operators[sigma] = operator, self.stacked.filter_products(operator)
        return self._operators[sigma]

    @torch.inference_mode()
    def read(self, x: torch.Tensor, noise: np.ndarray, bad: torch.Tensor, products) -> dict[str, np.ndarray]:
        """Read a batch."""
        outputs, gradient = self.stacked.answer(x)
        variance = noise_variance(gradient, products, torch.from_numpy(noise))
        variance += self.stacked.pixel_variance(gradient, bad) * self._missing**2
        single = len(outputs) == 1
        found = {
            "mean": outputs.mean(dim=0),
            "spread": torch.zeros_like(outputs[0]) if single else outputs.std(dim=0),
            "noise": variance.clamp(min=0).sqrt().T,
        }
        found = {name: value.numpy() for name, value in found.items()}
        if self.knows_outliers:
            variance = torch.from_numpy(np.square(noise)[:, self._chunk_of_bin])
            found |= score_bin_outliers(self.arrays, x, variance, bad)
        return found

    def calibrate(self, found, noise) -> np.ndarray:
        """Errors (N, n_out) of what `read` found."""
        level = np.sqrt(np.mean(np.square(noise), axis=1))
        return scale_errors(self.arrays, *(found[name] for name in ANSWERS), level)


GROUP = 512
MIN_CHUNK = 0.5


def stream_metallicity(
    source,
    table: xr.Dataset | None = None,
    *,
    networks=None,
    extra_fwhm=None,
    batch_size: int = 8192,
    threads: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Read metallicities from spectra in stored form: at rest, on `optical_wavelength`, in a memory map.

    Parameters
    ----------
    source
        A folder with ``flux.npy`` (N, 3251), float16 or wider, bad pixels NaN, any normalisation near 1, and
        ``table.nc``; or that array or memory map. Of a map, no more than a few batches are mapped at any time.
    table
        Per galaxy: ``chunk_sigma`` (galaxy, chunk), the noise of a pixel relative to the flux; without it, spectra
        count as free of noise. Default: the folder's. Other columns of one number per galaxy are kept.
    networks
        Networks, as of `spectool.papers.zahid2019.network.load`; default: the shipped ones.
    extra_fwhm
        What each galaxy is to be broadened by (N,), or one number [km/s, FWHM]; default: the table's column
        ``extra_fwhm``, or else 0.
    batch_size
        Rows per batch.
    threads
        Default `spectool.parallel.n_workers`.
    progress
        Show a progress bar.

    Returns
    -------
    Dataset
        As of `spectool.papers.zahid2019.reader.predict`, without pixels.

    Raises
    ------
    FileNotFoundError
        If the folder lacks the spectra.
    ValueError
        If spectra, table and widths do not belong together.
    """
    rows, table = _open(source, table)
    reader = MetallicityReader(networks)
    sigma = _widths(extra_fwhm, table, len(rows))
    noise = _noise(table, len(rows), reader.stacked.n_chunks)
    for width in np.unique(sigma):
        reader.broaden_by(width)
    found = _empty(len(rows), reader)
    starts = range(0, len(rows), batch_size)

    def work(start):
        part = slice(start, min(start + batch_size, len(rows)))
        _read_batch(reader, rows.read(part), sigma[part], noise[part], {n: a[part] for n, a in found.items()})
        return part.stop - part.start

    threads = n_workers() if threads is None else threads
    with (
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        tqdm(total=len(rows), desc="metallicities", unit="galaxy", disable=not progress) as bar,
    ):
        for n_done in pool.map(work, starts):
            bar.update(n_done)
    error = reader.calibrate(found, noise)
    return describe(Found.of_codes(found, error), reader, _columns(table, len(rows)))


@dataclass(frozen=True)
class _Rows:
    """Rows of an array; if that is a file, mapped no longer than they are needed."""

    array: np.ndarray

    def __len__(self):
        return len(self.array)

    def read(self, part):
        """Rows of a slice."""
        array = self.array
        if not self._is_whole_map():
            return array[part]
        # Pages of a map count as this process's memory until it is closed: a map of its own for each batch.
        start = array.offset + part.start * array.strides[0]
        return np.memmap(array.filename, array.dtype, "r", start, (part.stop - part.start, *array.shape[1:]))

    def _is_whole_map(self):
        """A part of a map does not tell where in the file it begins."""
        array = self.array
        if not isinstance(array, np.memmap) or array.filename is None or not array.flags.c_contiguous:
            return False
        return Path(array.filename).stat().st_size == array.offset + array.nbytes


def _empty(n, reader):
    """Room for the results of all spectra."""
    found = {name: np.full((n, len(reader.outputs)), np.nan, "f4") for name in ANSWERS}
    if reader.knows_outliers:
        found |= {name: np.zeros(n, "i2" if name in ("pixel", "which") else "f4") for name in SUSPICIONS}
    return found | {"code": np.zeros(n, "i1")}


def _read_batch(reader, flux, sigma, noise, found):
    """Read a batch of stored spectra into its part of the results; those of one width go together."""
    order = np.argsort(sigma, kind="stable")
    buffers = torch.empty(GROUP, flux.shape[1]), torch.empty(GROUP, reader.stacked.n_kept)
    for rows in np.split(order, np.flatnonzero(np.diff(sigma[order])) + 1):
        for first in range(0, len(rows), GROUP):
            some = rows[first : first + GROUP]
            work, x = (buffer[: len(some)] for buffer in buffers)
            work.copy_(torch.from_numpy(np.ascontiguousarray(flux[some])))
            operator, products = reader.broaden_by(sigma[some[0]])
            bad, code = _prepare(work, x, operator, reader)
            for name, values in (reader.read(x, noise[some], bad, products) | {"code": code}).items():
                found[name][some] = values


def _prepare(work, x, operator, reader):
    """Prepare the stored spectra `work`, which are changed, into `x`; bad pixels, and codes of what is wrong."""
    bad = ~np.isfinite(work.numpy())
    fill_bad(work.numpy(), bad)
    bad = torch.from_numpy(np.take(bad, np.flatnonzero(reader.basis.keep), axis=1))
    _, polynomial = normalize_continuum(operator.apply(work, x), bad, reader.basis, in_place=True)
    starts = reader.stacked.starts
    share = np.add.reduceat(bad.numpy(), starts[:-1], axis=1, dtype="i4") / np.diff(starts)
    code = np.where(np.isnan(polynomial[:, 0]), UNUSABLE, 0)
    code = np.where((share > MIN_CHUNK).any(axis=1), LOST_CHUNK, code)
    return bad, np.where((share == 1).all(axis=1), DEAD, code)


def _open(source, table):
    """Rows and table of a folder or an array."""
    if isinstance(source, str | Path):
        folder = Path(source)
        path = folder / "flux.npy"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no spectra: there is no flux.npy")
        source = np.load(path, mmap_mode="r")
        if table is None and (folder / "table.nc").is_file():
            table = xr.load_dataset(folder / "table.nc", engine="h5netcdf")
    n_pixels = optical_wavelength().size
    if source.ndim != 2 or source.shape[1] != n_pixels:
        raise ValueError(
            f"spectra have shape {source.shape}: stored ones are (N, {n_pixels}), 4050-7300 A by 1 A"
        )
    if table is not None and table.sizes["galaxy"] != len(source):
        raise ValueError(f"{len(source)} spectra, but a table of {table.sizes['galaxy']} galaxies")
    return _Rows(source), table


def _widths(extra_fwhm, table, n):
    """Sigma per galaxy [km/s], in steps."""
    if extra_fwhm is None:
        extra_fwhm = table["extra_fwhm"].values if table is not None and "extra_fwhm" in table else 0.0
    extra = np.broadcast_to(np.asarray(extra_fwhm, float), n)
    wrong = np.flatnonzero(~(extra >= 0))
    if wrong.size:
        raise ValueError(f"extra_fwhm of galaxy {wrong[0]} is {extra[wrong[0]]} km/s: it must be 0 or more")
    return np.round(extra * FWHM_TO_SIGMA / SIGMA_STEP) * SIGMA_STEP


def _noise(table, n, n_chunks):
    """(N, n_chunks), float32; 0 where nothing is known."""
    if table is None or "chunk_sigma" not in table:
        return np.zeros((n, n_chunks), np.float32)
    noise = table["chunk_sigma"].transpose("galaxy", ...).values
    if noise.shape != (n, n_chunks):
        raise ValueError(f"chunk_sigma has shape {noise.shape}, the networks have {n_chunks} chunks")
    return np.nan_to_num(noise.astype(np.float32), nan=0.0, posinf=0.0)


def _columns(table, n):
    """Per-galaxy columns of a table, without what is only needed to read the spectra."""
    if table is None:
        return xr.Dataset(coords={"galaxy": np.arange(n)}).drop_vars("galaxy")
    return table[[name for name in table.data_vars if table[name].dims == ("galaxy",)]]


STAR_REDSHIFT = 0.002
RANGE = (4050.0, 7300.0)
TITLE = "Chunked networks (Zahid 2019)"
# output: label, note
LABELS = {
    "log_z_lw": ("log Z/Zsun of the stars, light-weighted", "Zsun = 0.02; mean of log Z, 4050-7300 A"),
    "log_age_lw": ("log age of the stars, light-weighted", "degenerate with metallicity"),
}


def predict(sample: xr.Dataset, networks=None, *, batch_size: int = 512, **preparation) -> xr.Dataset:
    """Read stellar metallicities from spectra.

    Parameters
    ----------
    sample
        Spectra as `spectool.surveys.read_sdss` and others give them, with ``redshift`` if in the observed frame, or as
        `spectool.papers.zahid2019.reader.prepare_zahid2019` leaves them.
    networks
        Networks, as of `spectool.papers.zahid2019.network.load`; default: the shipped ones. Only those of
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
        ``outlier_distance``, ``outlier_wavelength`` (`spectool.models.outliers`); ``out_of_range`` (bool)
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
    Errors hold for stars like those of the networks' library: see `spectool.papers.zahid2019.libraries` for
    how much they move with
    another. A metal-poor young population is nearly featureless, and so is whatever has no features.
    """
    reader = MetallicityReader(networks)
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


def make_predictor(networks=None) -> Predictor:
    """For `spectool.papers.ask_all`."""
    networks = load() if networks is None else networks

    def answer(prepared):
        return _as_answers(predict(prepared, networks))

    return Predictor(TITLE, RANGE, prepare_zahid2019, answer, min_fraction=0.9)


def _as_answers(found):
    """In the form of `spectool.papers.Predictor`."""
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
