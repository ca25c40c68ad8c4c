"""Spectra as the network of Zahid et al. (2019) takes them: masked, continuum-normalised, at one resolution."""

import warnings

import numpy as np

from spectool.broaden import KM_S, broaden
from spectool.continuum_basis import (
    N_KEPT,
    ContinuumBasis,
    kept_pixels,
    line_windows,
    normalize_continuum,
    stack_wavelength,
    zahid2019_wavelength,
)
from spectool.measure.resolution import line_spread
from spectool.prepare import (
    PrepareWarning,
    add_history,
    correct_extinction,
    mask_bad_pixels,
    mask_sky_lines,
    resample,
    spectral_coordinate,
    to_rest_frame,
)
from spectool.surveys.sdss_files import PIXEL_VELOCITY

__all__ = [
    "FWHM",
    "N_CHUNKS",
    "N_KEPT",
    "ContinuumBasis",
    "kept_pixels",
    "line_windows",
    "normalize_continuum",
    "prepare_zahid2019",
    "stack_wavelength",
    "zahid2019_wavelength",
]

FWHM = 330.0
"""Resolution of the models and of the paper's spectra [km/s]: the line width of its most massive stack."""
N_CHUNKS = 25
TO_FWHM = np.sqrt(8 * np.log(2))
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
    ``spectral_fwhm``, ``attrs["fwhm_kms"]``, or the instrument (`spectool.measure.resolution.line_spread`) and the
    column ``velocity_dispersion`` in quadrature. A spectrum with wider lines than the models is left as it is and
    named.

    Parameters
    ----------
    sample : Dataset
        ``flux`` (galaxy, wavelength), if there ``ivar`` and ``mask``; in the observed frame with ``redshift``, or in
        the rest frame. Without ``ivar`` the noise is that of ``chunk_sigma`` (galaxy, chunk), relative to the flux of a
        pixel of 1 Angstrom (`spectool.zahid2019_spectra`); without either, spectra count as noise-free.
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
    wavelength = zahid2019_wavelength()
    wide = np.arange(wavelength[0] - MARGIN, wavelength[-1] + MARGIN + 1)
    keep = np.pad(kept_pixels(wavelength), MARGIN)
    out, noise = _resample(out, wide, min_coverage, batch_size)
    bad = out["mask"].values[:, keep]
    extra = np.sqrt(np.clip(fwhm**2 - width**2, 0, None)) / TO_FWHM
    flux = broaden(out["flux"].values, extra, wide, bad=out["mask"].values, keep=keep, step=SIGMA_STEP)
    basis = ContinuumBasis.zahid2019()
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
        return TO_FWHM * instrument, "the instrument's width alone (no velocity dispersions)"
    dispersion = np.asarray(sample["velocity_dispersion"], float)
    known = np.isfinite(dispersion) & (dispersion >= 0)
    width = TO_FWHM * np.hypot(instrument, np.where(known, dispersion, 0))
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
    """The sample on pixels of 1 Angstrom, and the variance (galaxy, n) that white noise would have there.

    Pixels that share an input pixel are correlated, so their own variance is not what counts in a sum: that of input
    pixels of width w is w times theirs, per Angstrom.
    """
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
