"""Narrow bands of real spectra as the networks of Liew-Cain et al. (2021) know them: at rest, of stars alone."""

import numpy as np

from spectool.measure.linear_design import KM_S
from spectool.measure.linear_lines import measure_lines_linear
from spectool.prepare import mask_bad_pixels, resample, to_rest_frame
from spectool.surveys.jpas import LIEWCAIN_BANDS, MIN_COVERAGE
from spectool.surveys.jpas_photometry import measure_bands
from spectool.surveys.sdss_files import PIXEL_VELOCITY

REST_RANGE = (3700.0, 7560.0)
"""What the 34 bands of the paper need [Angstrom]."""


def measure_stellar_bands(spectra, bands=LIEWCAIN_BANDS, *, rest_range=REST_RANGE, min_coverage=MIN_COVERAGE):
    """Rest-frame bands of observed spectra, with their emission lines fitted and subtracted.

    The paper subtracts emission, too (with GANDALF), and leaves out J0660 and J0670 besides; at rest H-alpha lies as
    much in J0650 as in J0660, so the subtraction is needed. Lines are those of
    `spectool.measure.linear_lines.measure_lines_linear`. A spectrum in which it fails is masked.

    Parameters
    ----------
    spectra : Dataset, dims (galaxy, wavelength)
        In the observed frame, with ``ivar`` and ``redshift``.
    bands : sequence of str
    rest_range : (float, float)
        Of the common rest-frame pixels [Angstrom], which are as wide as SDSS's.
    min_coverage : float
        See `measure_bands`.

    Returns
    -------
    Dataset, dims (spectrum, band)
        As of `measure_bands`; with ``line_share``, by which subtracting lines changed each band (relative to what is
        left).
    """
    step = PIXEL_VELOCITY / KM_S
    wavelength = np.exp(np.arange(*np.log(rest_range), step))
    rest = resample(to_rest_frame(mask_bad_pixels(spectra)), wavelength)
    fit = measure_lines_linear(rest, keep_fit=True)
    lines = fit["line_model"].values
    failed = fit["fit_status"].values != 0
    pixels = ("galaxy", "wavelength")
    stars = rest.assign(
        flux=(pixels, rest["flux"].values - np.nan_to_num(lines), rest["flux"].attrs),
        mask=(pixels, rest["mask"].values | failed[:, None], rest["mask"].attrs),
    )
    seen = measure_bands(stars, bands, min_coverage=min_coverage)
    with_lines = measure_bands(rest, bands, min_coverage=min_coverage)
    share = with_lines["flux"] / seen["flux"] - 1
    return seen.assign(line_share=(("spectrum", "band"), share.values, {"units": ""}))
