"""Metallicities of real spectra with the networks of Zahid et al. (2019)."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from spectool import prepare
from spectool.broaden import broaden, fill_bad, make_broadening
from spectool.continuum import N_KEPT, ContinuumBasis, kept_pixels, normalize_continuum, optical_wavelength
from spectool.measure.line_spectra import line_spread
from spectool.models.chunked import ChunkedEnsemble, scale_errors, white_noise_variance
from spectool.models.outliers import BIN, BIN_STATISTICS, FALSE_ALARMS, score_bin_outliers
from spectool.papers import Predictor, as_columns
from spectool.papers.zahid2019.network import load
from spectool.papers.zahid2019.sample import AT_REST, FWHM, N_CHUNKS, OPTICAL
from spectool.parallel import n_workers
from spectool.prepare import add_history, spectral_coordinate
from spectool.spectra import FWHM_TO_SIGMA, KM_S, PIXEL_VELOCITY, SIGMA_TO_FWHM
from spectool.synth.histories import metallicities

MARGIN = 20  # Angstrom beyond either end, that broadening reaches for
LSF_RANGE = (4050.0, 5600.0)  # Angstrom: three quarters of the variance of the models' features lie here
BATCH = 128
MIN_CHUNK = 0.5
SIGMA_STEP = 4.0  # km/s: galaxies whose broadening agrees to half of it share one operator


def prepare_zahid2019(sample, *, ebv=None, spectral_fwhm=None, fwhm=FWHM, min_coverage=0.5):
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
    spectral_fwhm, fwhm : float or array_like (galaxy,)
        Total width of the spectra's lines, and width to broaden to [km/s].
    min_coverage : float
        As of `spectool.prepare.resample`.

    Returns
    -------
    Dataset
        ``flux`` (galaxy, wavelength: 2468) float32, 0 in bad pixels; ``mask`` (True = bad); ``sigma``, relative to the
        continuum, the white noise that a pixel of 1 Angstrom had before broadening: sums over features have this noise,
        single pixels less (0 if it is not known); ``spectral_fwhm`` [km/s] before broadening; ``prepared_reason``: what
        is wrong with a spectrum, "" if nothing; and the per-galaxy columns. Spectra that cannot be used are masked
        everywhere, and counted in ``attrs["history"]``: no good pixel, no redshift, a chunk of the network's 25
        without half of its pixels good (or beyond the spectrum's end), no positive continuum.

    Raises
    ------
    ValueError
        If the sample lacks flux, wavelengths or redshifts, or a width is not a positive number.
    """
    noisy = "ivar" in sample
    out = prepare.mask_bad_pixels(sample)
    texts, unusable = [[] for _ in range(out.sizes["galaxy"])], np.zeros(out.sizes["galaxy"], bool)

    def reject(rows, text):
        for row in np.flatnonzero(rows & ~unusable):  # a first reason hides those that follow from it
            texts[row].append(text)
        unusable[rows] = True

    reject(out["mask"].values.all(1), "no good pixel")
    if not spectral_coordinate(out)[1]:
        out = prepare.clean_to_rest_frame(out, ebv)
        reject(out["mask"].values.all(1), "redshift not usable")
    width, source = _spectral_fwhm(out, spectral_fwhm)
    ends = _ends(out)
    wavelength = optical_wavelength()
    wide = np.arange(wavelength[0] - MARGIN, wavelength[-1] + MARGIN + 1)
    keep = np.pad(kept_pixels(wavelength), MARGIN)
    out, noise = _resample(out.drop_vars("lsf_sigma", errors="ignore"), wide, min_coverage)
    bad = out["mask"].values[:, keep]
    extra = np.sqrt(np.clip(fwhm**2 - width**2, 0, None)) / SIGMA_TO_FWHM
    flux = broaden(out["flux"].values, extra, wide, bad=out["mask"].values, keep=keep, step=SIGMA_STEP)
    basis = ContinuumBasis.optical()
    gaps = _name_gaps(bad, basis.kept_wavelength, ends)
    for row in gaps.keys() - set(np.flatnonzero(unusable)):
        texts[row].append(gaps[row])
    unusable[list(gaps)] = True
    parts = [slice(first, first + BATCH) for first in range(0, len(flux), BATCH)]
    pairs = [normalize_continuum(flux[part], bad[part], basis) for part in parts]
    flux, continuum = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    reject(np.isnan(continuum[:, 0]), "the pseudo-continuum is not well above zero everywhere")
    for row in np.flatnonzero(width > fwhm):
        texts[row].append(f"resolution {width[row]:.0f} km/s is lower than the models' {fwhm:g} km/s")
    bad = bad | unusable[:, None]
    sigma = np.zeros(flux.shape, "f4")
    if noisy:
        sigma = np.sqrt(noise[:, keep]) / np.where(bad, 1, continuum)
    elif "chunk_sigma" in out:
        chunk = np.repeat(np.arange(N_CHUNKS), [len(part) for part in _chunks()])
        sigma = out["chunk_sigma"].transpose("galaxy", "chunk").values[:, chunk]
    text = f"broadened to {fwhm:g} km/s (FWHM) from {source}; {(width > fwhm).sum()} have a lower resolution"
    out = out.drop_vars(["flux", "ivar", "mask", "wavelength"]).assign_attrs(fwhm_kms=float(fwhm))
    text = f"{text}\nprepared as Zahid et al. (2019): {unusable.sum()} of {len(bad)} spectra masked out"
    dims, noise = ("galaxy", "wavelength"), "noise of a pixel of 1 Angstrom, in units of the pseudo-continuum"
    out = add_history(out.assign_coords(wavelength=("wavelength", basis.kept_wavelength, AT_REST)), text)
    return out.assign(
        flux=(dims, np.where(bad, 0, flux), {"units": "", "description": "flux / pseudo-continuum - 1"}),
        mask=(dims, bad, {"units": "", "description": "True = bad"}),
        sigma=(dims, np.where(bad, 0, sigma).astype("f4"), {"units": "", "description": noise}),
        spectral_fwhm=("galaxy", width, {"units": "km / s", "description": "of lines, before broadening"}),
        prepared_reason=("galaxy", np.array(["; ".join(parts) for parts in texts], dtype=str), {"units": ""}),
    )


def _spectral_fwhm(sample, given):
    """Total width (galaxy,) [km/s] of lines in the spectra, and in words where it comes from."""
    count = sample.sizes["galaxy"]
    for value, source in (
        (given, "the widths given"),
        (sample.get("spectral_fwhm"), "the column spectral_fwhm"),
        (sample.attrs.get("fwhm_kms"), "attrs['fwhm_kms']"),
    ):
        if value is not None:
            return _check_widths(value, count, "the width"), source
    instrument = _instrument(sample)
    if "velocity_dispersion" not in sample:
        return SIGMA_TO_FWHM * instrument, "the instrument's width alone (no velocity dispersions)"
    dispersion = np.asarray(sample["velocity_dispersion"], float)
    known = np.isfinite(dispersion) & (dispersion >= 0)
    width = SIGMA_TO_FWHM * np.hypot(instrument, np.where(known, dispersion, 0))
    return width, f"instrument and velocity dispersion ({(~known).sum()} unknown and left out)"


def _check_widths(value, count, name):
    """Widths (galaxy,) [km/s], none of them negative or unknown."""
    width = np.broadcast_to(np.asarray(value, float), count).copy()
    wrong = np.flatnonzero(~(np.isfinite(width) & (width >= 0)))
    if wrong.size:
        raise ValueError(f"{name} of galaxy {wrong[0]} is {width[wrong[0]]} km/s: it must be 0 or more")
    return width


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


def _ends(sample):
    """First and last good rest wavelength (galaxy, 2) [Angstrom]; NaN without any."""
    wavelength, _ = spectral_coordinate(sample)
    good = ~sample["mask"].values
    wavelength = np.broadcast_to(wavelength, good.shape)
    places = np.stack([good.argmax(1), good.shape[1] - 1 - good[:, ::-1].argmax(1)], axis=1)
    return np.where(good.any(1)[:, None], np.take_along_axis(wavelength, places, axis=1), np.nan)


def _resample(sample, wavelength, min_coverage):
    """The sample on pixels of 1 Angstrom, and the variance (galaxy, n) that white noise would have there."""
    old, _ = spectral_coordinate(sample)
    ivar = sample["ivar"].values
    density = np.divide(np.gradient(old, axis=-1), ivar, out=np.zeros(ivar.shape), where=ivar > 0)
    options = {"min_coverage": min_coverage, "batch_size": BATCH}
    result = prepare.resample(sample, wavelength, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", prepare.PrepareWarning)
        sample = sample.assign(flux=(("galaxy", "wavelength"), density))
        return result, prepare.resample(sample, wavelength, **options)["flux"].values


def _chunks():
    return np.array_split(np.arange(N_KEPT), N_CHUNKS)


def _name_gaps(bad, wavelength, ends):
    """Row -> what is wrong, of spectra of which a chunk has too few good pixels: also whether they end there."""
    chunks, gaps = _chunks(), {}
    share = np.stack([1 - bad[:, chunk].mean(1) for chunk in chunks], axis=1)
    poor = share < MIN_CHUNK
    for row in np.flatnonzero(poor.any(1)):
        worst = int(np.argmin(share[row]))
        low, high = wavelength[chunks[worst][0]], wavelength[chunks[worst][-1]]
        text = f"{poor[row].sum()} of {N_CHUNKS} chunks lack good pixels: {share[row, worst]:.0%} are good in chunk "
        text += f"{worst + 1} ({low:.0f}-{high:.0f} A)"
        if ends[row, 0] > wavelength[0] + 1 or ends[row, 1] < wavelength[-1] - 1:
            text += f", the spectrum covers {ends[row, 0]:.0f}-{ends[row, 1]:.0f} A"
        gaps[row] = text
    return gaps


DEAD, LOST_CHUNK, UNUSABLE = range(1, 4)
REASONS = {
    DEAD: "no good pixel",
    LOST_CHUNK: "more than half of a chunk is masked",
    UNUSABLE: "no continuum: the polynomial is not positive, or too few pixels are good",
}
SUSPECTS = {
    "chi2": "unlike any sum of stellar populations ({:.1f} times the expected scatter): nucleus, star, wrong redshift?",
    "excess": "{:.0f} sigma off at {:.0f} A: unmasked line, nucleus, wrong redshift or artefact?",
    "distance": "principal components {:.0f} sigma from those of the training spectra",
}
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
ANSWERS = {
    "predicted": ("mean", "mean of the networks"),
    "error": ("error", "1 sigma, calibrated on held-out histories"),
    "spread": ("spread", "standard deviation of the networks"),
}
"""End of a column's name -> key of what `MetallicityReader.read` gives, and words."""
GROUP = 512


class MetallicityReader:
    """Networks, and what else is needed to read prepared spectra."""

    def __init__(self, networks=None) -> None:
        networks = load() if networks is None else networks
        whole = networks if isinstance(networks, ChunkedEnsemble) else ChunkedEnsemble(networks)
        self.arrays, self.outputs, self.stacked = whole.arrays, whole.outputs, whole
        self.basis = ContinuumBasis.optical()
        if not np.array_equal(self.basis.kept_wavelength, whole.wavelength):
            raise ValueError("these networks do not read the pixels of spectool.continuum.kept_pixels")
        self.knows_outliers = "outlier_mean" in self.arrays
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
        """Read a group of spectra that were broadened alike."""
        outputs, gradient = self.stacked.answer(x)
        variance = white_noise_variance(gradient, products, torch.from_numpy(noise))
        variance += self.stacked.pixel_variance(gradient, bad) * self.stacked.fill**2
        spread = torch.zeros_like(outputs[0]) if len(outputs) == 1 else outputs.std(dim=0)
        noises = variance.clamp(min=0).sqrt().T
        computed = {"mean": outputs.mean(dim=0).numpy(), "spread": spread.numpy(), "noise": noises.numpy()}
        if self.knows_outliers:
            variance = torch.from_numpy(np.square(noise)[:, self._chunk_of_bin])
            computed |= score_bin_outliers(self.arrays, x, variance, bad)
        return computed

    def read_all(self, sigma, noise, take, *, batch_size=GROUP, run=map, progress=False) -> dict:
        """Read spectra batch by batch, in each those together that are broadened by one width (N,).

        ``take(part)`` reads a batch and returns a function of its rows and of their operator: prepared spectra, their
        bad pixels, and codes of what is wrong (places in `REASONS`).
        """
        n, n_out = len(sigma), len(self.outputs)
        result = {name: np.full((n, n_out), np.nan, "f4") for name in ("mean", "spread", "noise")}
        if self.knows_outliers:
            result |= {name: np.zeros(n, "f4") for name in OUTLIER_COLUMNS}
            result |= {name: np.zeros(n, "i2") for name in ("pixel", "which")}
        result |= {"code": np.zeros(n, "i1")}
        for width in np.unique(sigma):
            self.broaden_by(width)

        def work(start):
            part = slice(start, min(start + batch_size, n))
            get, widths, order = take(part), sigma[part], np.argsort(sigma[part], kind="stable")
            for rows in np.split(order, np.flatnonzero(np.diff(widths[order])) + 1):
                for first in range(0, len(rows), GROUP):
                    some = rows[first : first + GROUP]
                    operator, products = self.broaden_by(widths[some[0]])
                    x, bad, code = get(some, operator)
                    answers = self.read(x, noise[part][some], bad, products) | {"code": code}
                    for name, values in answers.items():
                        result[name][part][some] = values
            return part.stop - part.start

        with tqdm(total=n, desc="metallicities", unit="galaxy", disable=not progress) as bar:
            for n_done in run(work, range(0, n, batch_size)):
                bar.update(n_done)
        level = np.sqrt(np.mean(np.square(noise), axis=1))
        errors = scale_errors(self.arrays, result["mean"], result["spread"], result["noise"], level)
        return result | {"error": errors}

    def describe(self, computed, columns: xr.Dataset, usable, remarks) -> xr.Dataset:
        """Results beside per-galaxy columns; remarks are words by row."""
        result, n = {}, len(usable)

        def known(values):
            return np.where(usable, values, np.nan).astype("f4")

        for k, (name, unit) in enumerate(zip(self.outputs, self.stacked.units, strict=True)):
            for what, (key, text) in ANSWERS.items():
                column = known(computed[key][:, k]), unit, f"{name}: {text}"
                result[f"{name.removesuffix('_lw')}_{what}"] = column
        remarks = {row: [text] for row, text in remarks.items()}
        outlier = ~usable
        if self.knows_outliers:
            for name, text in OUTLIER_COLUMNS.items():
                result[f"outlier_{name}"] = (known(computed[name]), "", text)
            pixel = np.minimum(computed["pixel"], self.basis.kept_wavelength.size - 1)
            where = known(self.basis.kept_wavelength[pixel])
            result["outlier_wavelength"] = (where, "Angstrom", "middle of the strongest run")
            outlier = outlier | (computed["score"] >= -np.log10(FALSE_ALARMS))
            for row in np.flatnonzero(outlier & usable):
                name = BIN_STATISTICS[computed["which"][row]]
                text = SUSPECTS[name].format(computed[name][row], where[row])
                remarks.setdefault(row, []).append(text)
        if "log_z_lw" in self.outputs:
            log_z, nodes = computed["mean"][:, self.outputs.index("log_z_lw")], metallicities()
            inside = (log_z > nodes[0] + EDGES[0]) & (log_z < nodes[-1] - EDGES[1])
            for row in np.flatnonzero(usable & ~inside):
                remarks.setdefault(row, []).append(LIMIT)
        reason = np.array(["; ".join(remarks.get(row, ())) for row in range(n)], dtype=object)
        result["outlier"] = (outlier, "", "unlike the training spectra, or without an answer")
        result["out_of_range"] = (reason != "", "", "not to be trusted as it is: see reason")
        result["reason"] = (reason, "")
        return columns.assign(as_columns(result))


def stream_metallicity(
    source, table=None, *, networks=None, extra_fwhm=None, batch_size=8192, threads=None, progress=True
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
        As `load` returns them; default: the shipped ones.
    extra_fwhm
        What each galaxy is to be broadened by (N,), or one number [km/s, FWHM]; default: the table's column
        ``extra_fwhm``, or else 0.
    batch_size, threads
        Rows per batch; threads, by default `spectool.parallel.n_workers`.

    Returns
    -------
    Dataset
        As of `predict`, without pixels.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder lacks the spectra; if spectra, table and widths do not belong together.
    """
    flux, table = _open(source, table)
    reader, n = MetallicityReader(networks), len(flux)
    sigma, noise = _widths(extra_fwhm, table, n), _noise(table, n, reader.stacked.n_chunks)

    def take(part):
        batch = _read_rows(flux, part)
        buffers = torch.empty(GROUP, flux.shape[1]), torch.empty(GROUP, reader.stacked.n_kept)

        def get(rows, operator):
            work, x = (buffer[: len(rows)] for buffer in buffers)
            work.copy_(torch.from_numpy(np.ascontiguousarray(batch[rows])))
            return x, *_prepare(work, x, operator, reader)

        return get

    threads = n_workers() if threads is None else threads
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        result = reader.read_all(sigma, noise, take, batch_size=batch_size, run=pool.map, progress=progress)
    code = result["code"]
    remarks = {row: REASONS[code[row]] for row in np.flatnonzero(code)}
    columns = xr.Dataset(coords={"galaxy": np.arange(n)}).drop_vars("galaxy")
    if table is not None:
        columns = table[[name for name in table.data_vars if table[name].dims == ("galaxy",)]]
    return reader.describe(result, columns, code == 0, remarks)


def _read_rows(array, part):
    """Rows of an array; those of a file through a map of their own, so that its pages are given back with the batch."""
    # A part of a map does not tell where in the file it begins.
    whole = isinstance(array, np.memmap) and array.filename is not None and array.flags.c_contiguous
    if not whole or Path(array.filename).stat().st_size != array.offset + array.nbytes:
        return array[part]
    start = array.offset + part.start * array.strides[0]
    return np.memmap(array.filename, array.dtype, "r", start, (part.stop - part.start, *array.shape[1:]))


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
        if not (folder / "flux.npy").is_file():
            raise FileNotFoundError(f"{folder} holds no spectra: there is no flux.npy")
        source = np.load(folder / "flux.npy", mmap_mode="r")
        if table is None and (folder / "table.nc").is_file():
            table = xr.load_dataset(folder / "table.nc", engine="h5netcdf")
    n_pixels = optical_wavelength().size
    if source.ndim != 2 or source.shape[1] != n_pixels:
        raise ValueError(
            f"spectra have shape {source.shape}: stored ones are (N, {n_pixels}), 4050-7300 A by 1 A"
        )
    if table is not None and table.sizes["galaxy"] != len(source):
        raise ValueError(f"{len(source)} spectra, but a table of {table.sizes['galaxy']} galaxies")
    return source, table


def _widths(extra_fwhm, table, n):
    """Sigma per galaxy [km/s], in steps."""
    if extra_fwhm is None:
        extra_fwhm = table["extra_fwhm"].values if table is not None and "extra_fwhm" in table else 0.0
    extra = _check_widths(extra_fwhm, n, "extra_fwhm")
    return np.round(extra * FWHM_TO_SIGMA / SIGMA_STEP) * SIGMA_STEP


def _noise(table, n, n_chunks):
    """(N, n_chunks), float32; 0 where nothing is known."""
    if table is None or "chunk_sigma" not in table:
        return np.zeros((n, n_chunks), np.float32)
    noise = table["chunk_sigma"].transpose("galaxy", ...).values
    if noise.shape != (n, n_chunks):
        raise ValueError(f"chunk_sigma has shape {noise.shape}, the networks have {n_chunks} chunks")
    return np.nan_to_num(noise.astype(np.float32), nan=0.0, posinf=0.0)


STAR_REDSHIFT = 0.002
# output: label, note
LABELS = {
    "log_z_lw": ("log Z/Zsun of the stars, light-weighted", "Zsun = 0.02; mean of log Z, 4050-7300 A"),
    "log_age_lw": ("log age of the stars, light-weighted", "degenerate with metallicity"),
}


def predict(sample: xr.Dataset, networks=None, **preparation) -> xr.Dataset:
    """Read stellar metallicities from spectra.

    Parameters
    ----------
    sample
        Spectra as `spectool.surveys.read_sdss` and others give them, with ``redshift`` if in the observed frame, or as
        `prepare_zahid2019` leaves them.
    networks
        As `load` returns them; default: the shipped ones. Only ``zahid2019_mlp1`` knows what errors and outliers are.
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

    Notes
    -----
    Errors hold for stars like those of the networks' library; `spectool.papers.zahid2019.network` tells how much
    they move with another. A metal-poor young population is nearly featureless, and so is whatever has no features.
    """
    reader = MetallicityReader(networks)
    wavelength = sample["wavelength"].values if "wavelength" in sample.coords else None
    if not np.array_equal(wavelength, reader.basis.kept_wavelength):
        sample = prepare_zahid2019(sample, **preparation)
    flux = sample["flux"].values
    bad = sample["mask"].values if "mask" in sample else np.zeros(flux.shape, bool)
    noise = _chunk_noise(sample, bad, reader.stacked.starts)

    def take(part):
        def get(rows, operator):  # bad pixels of prepared spectra are 0
            x = np.ascontiguousarray(flux[part][rows], dtype=np.float32)
            return torch.from_numpy(x), torch.from_numpy(bad[part][rows]), 0

        return get

    result, usable = reader.read_all(_broadened_by(sample), noise, take), ~bad.all(axis=1)
    return reader.describe(result, sample.drop_dims("wavelength"), usable, _remarks(sample, usable))


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


def _remarks(prepared, usable):
    """Row -> what preparation found wrong, and whether the redshift is a star's."""
    texts = prepared["prepared_reason"].values.tolist() if "prepared_reason" in prepared else []
    remarks = {row: text for row, text in enumerate(texts) if text}
    for row in np.flatnonzero(~usable):
        remarks.setdefault(row, "masked out in preparation")
    if "redshift" in prepared:
        for row in np.flatnonzero(usable & (np.abs(prepared["redshift"].values) < STAR_REDSHIFT)):
            text = f"redshift below {STAR_REDSHIFT}: a star, or a galaxy so near that the fibre sees little of it"
            remarks[row] = "; ".join(filter(None, (remarks.get(row, ""), text)))
    return remarks


def make_predictor() -> Predictor:
    """For `spectool.papers.ask_all`."""
    networks = load()
    unit = dict(zip(networks.outputs, networks.units, strict=True))
    names = [name for name in LABELS if name in unit]

    def answer(prepared):
        values = predict(prepared, networks)
        result = values[["out_of_range", "reason", "outlier"]].drop_attrs().reset_coords(drop=True)
        for column, end in (("value", "predicted"), ("error", "error")):
            parts = [values[f"{name.removesuffix('_lw')}_{end}"].values for name in names]
            result[column] = (("galaxy", "quantity"), np.stack(parts, axis=1))
        return result.assign_coords(
            quantity=names,
            unit=("quantity", [unit[name] for name in names]),
            label=("quantity", [LABELS[name][0] for name in names]),
            note=("quantity", [LABELS[name][1] for name in names]),
        )

    return Predictor("Chunked networks (Zahid 2019)", OPTICAL, prepare_zahid2019, answer, min_fraction=0.9)
