"""From observed spectra to what a model reads: masks, extinction, rest frame, resampling, normalisation."""

import warnings

import numpy as np

from spectool.spectra import KM_S, R_V, extinction_curve, pixel_edges, rebin_spectra, sps_wavelength

SENTINELS = (-99.0, -999.0, -9999.0, 9999.0)
"""Numbers that stand for "no data"; in magnitudes 99 too."""
_STARLIGHT = ("FUV", "NUV", "u", "g", "r", "i", "z", "X", "Y", "J", "H", "K", "W1", "W2")
_MAGNITUDE_RANGE = (8.0, 32.0)

# Night-sky features whose residuals spoil spectra: vacuum wavelength, half width [Angstrom].
SKY_LINES = {
    "Hg I 4358": (4359.56, 3.0),
    "Hg I 5461": (5462.23, 3.0),
    "[O I] 5577": (5578.89, 8.0),
    "Na D 5890": (5891.58, 5.0),
    "Na D 5896": (5897.56, 5.0),
    "[O I] 6300": (6302.05, 5.0),
    "[O I] 6364": (6365.54, 5.0),
}

LOWEST_REDSHIFT = -0.002  # the most blueshifted galaxies (M 31 and Virgo's dwarfs) are at -0.0013

EXTINCTION_RANGE = (1000.0, 33_333.0)  # Angstrom, of the Milky Way's mean law
NORM_WINDOW = (5000.0, 5500.0)


class PrepareWarning(UserWarning):
    """Some spectra or pixels of a sample could not be used and were masked."""


def add_history(sample, text):
    """Append a line to ``attrs["history"]`` of a (new) sample."""
    old = sample.attrs.get("history", "")
    return sample.assign_attrs(history=f"{old}\n{text}" if old else text)


def history(sample):
    """What was done to a sample, as a list of sentences."""
    return sample.attrs.get("history", "").splitlines()


def spectral_coordinate(sample):
    """The wavelengths [Angstrom] of a sample, and whether they are in the rest frame.

    Raises
    ------
    ValueError
        If the sample has none of the three coordinates.
    """
    for name in ("rest_wavelength", "observed_wavelength", "wavelength"):
        if name in sample.coords:
            return sample[name].values, name != "observed_wavelength"
    raise ValueError(
        "the sample has no wavelengths: give it the coordinate `observed_wavelength` or `wavelength` "
        "(vacuum Angstrom)"
    )


def _replace(sample, flux, ivar, mask):
    """Put new pixels into a sample, with masked ones blanked."""
    dims = ("galaxy", "wavelength")
    flux_units, ivar_units = sample["flux"].attrs.get("units", ""), sample["ivar"].attrs.get("units", "")
    return sample.assign(
        flux=(dims, np.where(mask, 0, flux).astype(np.float32), {"units": flux_units}),
        ivar=(dims, np.where(mask, 0, ivar).astype(np.float32), {"units": ivar_units}),
        mask=(dims, mask, {"units": "", "description": "True = bad"}),
    )


def mask_bad_pixels(sample):
    """Mask what no model may see: flux or ivar not finite, ivar zero or negative.

    Samples without ``ivar`` (noiseless mocks) get ``ivar`` 1, and those without ``mask`` an empty one. A
    spectrum with no good pixel at all is counted in a `PrepareWarning`, not refused: a batch survives its
    worst member.

    Parameters
    ----------
    sample : Dataset
        With ``flux`` (galaxy, wavelength).

    Returns
    -------
    Dataset
    """
    if "flux" not in sample:
        raise ValueError(f"the sample has no variable `flux`, only {sorted(map(str, sample.data_vars))}")
    dims = ("galaxy", "wavelength")
    flux = sample["flux"].transpose(*dims).values
    if "ivar" not in sample:
        sample = sample.assign(ivar=(dims, np.ones(flux.shape, np.float32), {"units": ""}))
        sample = add_history(sample, "no errors given: ivar set to 1 everywhere")
    ivar = sample["ivar"].transpose(*dims).values
    given = sample["mask"].transpose(*dims).values if "mask" in sample else np.zeros(flux.shape, bool)
    finite = np.isfinite(flux)
    mask = given | ~finite | ~np.isfinite(ivar) | ~(ivar > 0)
    empty = np.flatnonzero(mask.all(axis=1))
    if empty.size:
        _warn_rows(empty, "no good pixel (all masked, not finite, or ivar 0)")
    text = (
        f"bad pixels: {mask.sum()} of {mask.size} masked ({(~finite).sum()} with flux not finite), "
        f"{empty.size} of {mask.shape[0]} spectra have none left"
    )
    return add_history(_replace(sample, np.where(finite, flux, 0), ivar, mask), text)


def _warn_rows(rows, reason):
    shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
    noun = "spectrum is" if len(rows) == 1 else "spectra are"
    warnings.warn(
        f"{len(rows)} {noun} masked out: {reason}; galaxy number {shown}", PrepareWarning, stacklevel=4
    )


def _mask_rows(sample, rows, reason):
    """Mask whole spectra (boolean per galaxy) and warn which."""
    if not rows.any():
        return sample
    _warn_rows(np.flatnonzero(rows), reason)
    mask = sample["mask"].values | rows[:, None]
    return _replace(sample, sample["flux"].values, sample["ivar"].values, mask)


def mask_sky_lines(sample):
    """Mask the pixels at strong night-sky lines, whose subtraction leaves residuals that ivar understates."""
    wavelength, rest = spectral_coordinate(sample)
    if rest:
        raise ValueError("mask sky lines before to_rest_frame: afterwards they have moved with the redshift")
    hit = np.zeros(wavelength.shape, bool)
    for centre, half_width in SKY_LINES.values():
        hit |= np.abs(wavelength - centre) <= half_width
    mask = sample["mask"].values | hit
    new = int((mask & ~sample["mask"].values).sum())
    out = _replace(sample, sample["flux"].values, sample["ivar"].values, mask)
    return add_history(out, f"sky lines: {new} more pixels masked")


def correct_extinction(sample, *, ebv=None, law="F99"):
    """Remove the Milky Way's foreground extinction: flux times 10^(0.4 A), ivar times 10^(-0.8 A)."""
    wavelength, rest = spectral_coordinate(sample)
    if rest:
        raise ValueError(
            "correct extinction before to_rest_frame: the Milky Way's dust acts at observed wavelengths"
        )
    if sample.attrs.get("extinction_law"):
        raise ValueError(f"extinction is corrected already, with {sample.attrs['extinction_law']}")
    if ebv is None and "ebv" not in sample:
        raise ValueError("E(B-V) is unknown: give ebv=..., or ebv=0 to leave the extinction in")
    ebv = np.broadcast_to(np.asarray(sample["ebv"] if ebv is None else ebv, float), sample.sizes["galaxy"])
    bad = np.flatnonzero(~(ebv >= 0) | np.isinf(ebv))
    if bad.size:
        raise ValueError(f"E(B-V) of galaxy {bad[0]} is {ebv[bad[0]]}: it must be a number >= 0 (mag)")
    curve, note = np.zeros(wavelength.shape), ""
    within = (wavelength > EXTINCTION_RANGE[0]) & (wavelength < EXTINCTION_RANGE[1])
    curve[within] = extinction_curve(wavelength[within], law=law)
    if not within.all():
        note = "; beyond {:.0f}-{:.0f} A, which the law does not cover, left as it is".format(
            *EXTINCTION_RANGE
        )
    gain = 10 ** (0.4 * ebv[:, None] * curve).astype(np.float32)
    out = _replace(
        sample, sample["flux"].values * gain, sample["ivar"].values / gain**2, sample["mask"].values
    )
    out = out.assign(ebv=("galaxy", ebv, {"units": "mag"})).assign_attrs(
        extinction_law=f"{law}, R_V = {R_V:g}"
    )
    return add_history(
        out, f"Galactic extinction corrected with {law}, R_V = {R_V:g}, E(B-V) up to {ebv.max():.3f}{note}"
    )


def to_rest_frame(sample, *, redshift=None):
    """Bring spectra to the rest frame: lambda / (1+z), flux density times (1+z), ivar over (1+z)^2.

    The flux in a line (flux density times width) stays what was observed. A redshift that is not finite or
    below -0.002 masks the whole spectrum, with a `PrepareWarning`.

    Parameters
    ----------
    sample : Dataset
        With ``observed_wavelength``.
    redshift : float or array_like (galaxy,), optional
        Default the column ``redshift``.

    Returns
    -------
    Dataset
        With the coordinate ``rest_wavelength`` (galaxy, wavelength) [Angstrom] in the place of
        ``observed_wavelength``.
    """
    wavelength, rest = spectral_coordinate(sample)
    if rest:
        raise ValueError("the sample is in the rest frame already")
    if redshift is None and "redshift" not in sample:
        raise ValueError("the redshift is unknown: give redshift=...")
    redshift = np.broadcast_to(
        np.asarray(sample["redshift"] if redshift is None else redshift, float), sample.sizes["galaxy"]
    )
    usable = np.isfinite(redshift) & (redshift >= LOWEST_REDSHIFT)
    stretch = 1 + np.where(usable, redshift, 0)[:, None]
    gain = stretch.astype(np.float32)
    out = _replace(
        sample, sample["flux"].values * gain, sample["ivar"].values / gain**2, sample["mask"].values
    )
    out = _mask_rows(out, ~usable, f"redshift not finite or below {LOWEST_REDSHIFT}")
    units = {"units": "Angstrom", "description": "vacuum, rest frame"}
    out = out.drop_vars("observed_wavelength").assign_coords(
        rest_wavelength=(("galaxy", "wavelength"), wavelength / stretch, units)
    )
    out = out.assign(redshift=("galaxy", redshift, {"units": ""}))
    return add_history(out, f"rest frame: {(~usable).sum()} spectra masked for their redshift")


def clean_to_rest_frame(sample, ebv=None):
    """Spectra without sky lines and, where E(B-V) is known, without Galactic extinction, in their rest frame."""
    sample = mask_sky_lines(sample)
    if ebv is not None or "ebv" in sample:
        sample = correct_extinction(sample, ebv=ebv)
    else:
        sample = add_history(sample, "Galactic extinction left in: E(B-V) is not known")
    return to_rest_frame(sample)


def measured_lsf(sample):
    """``lsf_sigma`` (galaxy, wavelength) [km/s] where a survey measures it; None of SDSS: fits take its mean curve."""
    lsf, survey = sample.get("lsf_sigma"), str(sample.attrs.get("survey", ""))
    if lsf is None or lsf.ndim != 2 or survey.startswith("SDSS") or "simulated" in survey:
        return None
    return lsf.transpose("galaxy", "wavelength").values


def typical_lsf(sample):
    """The median over galaxies of `measured_lsf`, along the sample's pixels; None without one."""
    lsf = measured_lsf(sample)
    if lsf is None or not np.isfinite(lsf).any():
        return None
    known = np.flatnonzero(np.isfinite(lsf).any(axis=0))
    return np.interp(np.arange(lsf.shape[1]), known, np.nanmedian(lsf[:, known].astype(float), axis=0))


def pixel_variance(edges):
    """What the width of pixels adds to the variance [km2/s2] of a line-spread function."""
    return (np.diff(edges) * 2 / (edges[..., 1:] + edges[..., :-1]) * KM_S) ** 2 / 12


def resample(sample, wavelength, *, min_coverage=0.5, batch_size=64):
    """Rebin spectra to a common wavelength grid, conserving flux.

    Each output pixel is the overlap-weighted mean of the good input pixels; its variance is that of this mean
    (squared weights), for input noise that is independent from pixel to pixel. Neighbouring output pixels
    share input pixels, more so where the output is finer than the input: those **covariances are ignored**,
    so a sum over many output pixels is less certain than ivar alone says.

    Parameters
    ----------
    sample : Dataset
    wavelength : ndarray, shape (n_out,)
        Pixel centres [Angstrom, vacuum], in the frame that the sample is in.
    min_coverage : float
        An output pixel with less than this fraction of its width covered by good input is masked.
    batch_size : int
        Galaxies in memory at once, in float64.

    Returns
    -------
    Dataset
        With coordinate ``wavelength`` (rest frame) or ``observed_wavelength``; the per-galaxy columns are
        kept, and so is ``lsf_sigma`` where the survey measures it for each pixel. `PrepareWarning` if some spectra
        do not reach the grid at all.
    """
    old, rest = spectral_coordinate(sample)
    n_galaxies, wavelength = sample.sizes["galaxy"], np.asarray(wavelength, float)
    old = np.broadcast_to(old, (n_galaxies, old.shape[-1])) if old.ndim == 1 else old
    edges_out = pixel_edges(wavelength)
    shape = (n_galaxies, wavelength.size)
    flux, ivar, mask = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, bool)
    lsf = measured_lsf(sample)
    sigma = None if lsf is None else np.empty(shape, np.float32)
    for first in range(0, n_galaxies, batch_size):
        part = slice(first, min(first + batch_size, n_galaxies))
        pixels = [sample[name].isel(galaxy=part).values for name in ("flux", "ivar", "mask")]
        good = ~pixels[2] & (pixels[1] > 0)
        variance = np.divide(1.0, pixels[1], out=np.zeros(good.shape), where=good)
        edges_in = np.stack([pixel_edges(row) for row in old[part]])
        edges = np.broadcast_to(edges_out, (len(edges_in), edges_out.size))
        f, v, covered = rebin_spectra(pixels[0], variance, good, edges_in, edges)
        bad = ~((covered >= min_coverage) & (v > 0))
        flux[part], mask[part] = np.where(bad, 0, f), bad
        ivar[part] = np.divide(1.0, v, out=np.zeros_like(v), where=~bad)
        if lsf is not None:  # rebinning takes an old pixel as flat: its width comes in again
            known = np.isfinite(lsf[part])
            spread = np.where(known, lsf[part].astype(float) ** 2 + pixel_variance(edges_in), 0.0)
            spread, _, covered = rebin_spectra(spread, spread, known, edges_in, edges)
            spread[covered == 0] = np.nan
            sigma[part] = np.sqrt(spread + pixel_variance(edges_out))
    out = _resampled(sample, wavelength, rest, (flux, ivar, mask))
    if lsf is not None:
        out["lsf_sigma"] = (("galaxy", "wavelength"), sigma, dict(sample["lsf_sigma"].attrs))
    return out


def _resampled(sample, wavelength, rest, pixels):
    """The sample with its new pixels; variables along the old wavelengths (LSF and such) are left behind."""
    stale = [
        n for n in sample.variables if "wavelength" in sample[n].dims and n not in ("flux", "ivar", "mask")
    ]
    keep = sample.drop_vars([*stale, "flux", "ivar", "mask"])
    name = "wavelength" if rest else "observed_wavelength"
    coordinate = (
        "wavelength",
        wavelength,
        {"units": "Angstrom", "description": "vacuum" + ", rest frame" * rest},
    )
    out = keep.assign_coords({name: coordinate})
    dims = ("galaxy", "wavelength")
    for variable, values in zip(("flux", "ivar", "mask"), pixels, strict=True):
        out[variable] = (dims, values, dict(sample[variable].attrs))
    out = out.assign_attrs(covariance="ignored: neighbouring pixels share input pixels after resampling")
    lost = pixels[2].all(axis=1) & ~sample["mask"].values.all(axis=1)
    if lost.any():
        reach = f"{wavelength[0]:.0f}-{wavelength[-1]:.0f} A"
        _warn_rows(np.flatnonzero(lost), f"no good pixel within {reach}")
    share = pixels[2].mean() if pixels[2].size else 0.0
    return add_history(
        out,
        f"resampled to {wavelength.size} pixels: {share:.1%} of them masked, "
        f"{lost.sum()} spectra miss the range",
    )


def normalize(sample):
    """Divide each spectrum by the median of its good pixels in a window, as Marziano (2024, Section 3.1)."""
    if "wavelength" not in sample.coords:
        raise ValueError("normalise after resampling to a common rest-frame grid (coordinate `wavelength`)")
    low, high = NORM_WINDOW
    inside = (sample["wavelength"].values >= low) & (sample["wavelength"].values <= high)
    if not inside.any():
        raise ValueError(f"the grid has no pixel in the normalisation window {low:g}-{high:g} A")
    good = ~sample["mask"].values[:, inside]
    pixels = np.where(good, sample["flux"].values[:, inside], np.nan)
    covered = good.mean(axis=1) >= max(0.5, 1 / inside.sum())
    norm = np.full(len(covered), np.nan)
    norm[covered] = np.nanmedian(pixels[covered], axis=1)
    usable = norm > 0
    seen = ~sample["mask"].values.all(axis=1)
    scale = np.where(usable, norm, 1)[:, None].astype(np.float32)
    out = _replace(
        sample, sample["flux"].values / scale, sample["ivar"].values * scale**2, sample["mask"].values
    )
    reason = f"too few good pixels (or no light) in {low:g}-{high:g} A, where spectra are normalised"
    out = _mask_rows(out, seen & ~usable, reason)
    out["norm"] = ("galaxy", np.where(usable, norm, np.nan), {"units": sample["flux"].attrs.get("units", "")})
    for name in ("flux", "ivar"):
        out[name].attrs["units"] = ""
    return add_history(out, f"normalised by the median in {low:g}-{high:g} A; {(~usable).sum()} masked out")


def prepare_spectra(sample, *, ebv=None):
    """Prepare observed (or rest-frame mock) spectra as the models of Marziano (2024) take them.

    Bad pixels and sky lines masked, extinction corrected where E(B-V) is known (argument or column ``ebv``;
    else left in, as the history says), rest frame, resampled to `spectool.spectra.sps_wavelength`, median
    in 5000-5500 A set to 1.

    Parameters
    ----------
    sample : Dataset
        In the observed or the rest frame.
    ebv : float or array_like (galaxy,), optional
        E(B-V) [mag].

    Returns
    -------
    Dataset
        dims (galaxy, wavelength: 4582), float32; see `mask_bad_pixels` for what masked pixels hold.
    """
    grid = sps_wavelength()
    out = mask_bad_pixels(sample)
    wavelength, rest = spectral_coordinate(out)
    if not rest:
        out = clean_to_rest_frame(out, ebv)
    if wavelength.shape != grid.shape or not rest or not np.allclose(wavelength, grid, rtol=1e-9):
        out = resample(out, grid)
    return normalize(out)


def are_magnitudes(flux, missing, bands, name):
    """Galaxies whose "fluxes" look like magnitudes (within a factor of 3 from far UV on); an error if most do."""
    values = np.where(~missing & np.isin(bands, _STARLIGHT), flux, np.nan)
    finite = np.isfinite(values)
    n = finite.sum(axis=1)
    low = np.min(np.where(finite, values, np.inf), axis=1)
    high = np.max(np.where(finite, values, -np.inf), axis=1)
    suspect = (n >= 5) & (low > _MAGNITUDE_RANGE[0]) & (high < _MAGNITUDE_RANGE[1]) & (high < 3 * low)
    if suspect.sum() > 0.5 * max((n >= 5).sum(), 1):
        row = int(suspect.argmax())
        raise ValueError(
            f"{name}: the fluxes look like magnitudes ({suspect.sum()} of {len(flux)} galaxies have {low[row]:.4g} to "
            f'{high[row]:.4g} in all bands, as in row {row}): pass units="mag(AB)"'
        )
    return suspect
