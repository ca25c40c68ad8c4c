"""What all spectra of a batch share when pPXF fits them: templates, their transforms, and settings."""

from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.special import erf

KM_S = 299792.458


@dataclass(frozen=True)
class FitSetup:
    """Templates and settings of a batch.

    Attributes
    ----------
    velscale : float
        km/s per pixel.
    ratio : int
        Template pixels per pixel.
    log_start : float
        ln wavelength of the mean of the first `ratio` template pixels.
    stars, gas : ndarray, shapes (star, n), (member, n)
        Templates [per unit of median flux], [1 / Angstrom]: each line has flux 1.
    stars_rfft, gas_rfft : ndarray, complex
        Their Fourier transforms.
    columns : ndarray, shape (member, column)
        Flux of each line per unit of the free amplitude that it belongs to.
    reported : ndarray of int, shape (line,)
        Members that are reported.
    balmer : ndarray of int, shape (b,)
        Members that may have broad wings; none for a fit without. Hα comes first.
    degree : int
        Of additive polynomials; -1 for none.
    free : bool
        Whether kinematics are fitted.
    fit_stellar_velocity : bool
    rounds : int
        Times that kinematics are fitted; the templates' mix is found anew in between.
    rescale : bool
        Multiply errors by the square root of chi2 per degree of freedom.
    min_star_sn, min_gas_sn : float
        Signal to noise of continuum (over all pixels) and of the strongest line below which kinematics stay fixed.
    keep_fit : bool
    """

    velscale: float
    ratio: int
    log_start: float
    stars: np.ndarray
    gas: np.ndarray
    stars_rfft: np.ndarray
    gas_rfft: np.ndarray
    columns: np.ndarray
    reported: np.ndarray
    balmer: np.ndarray
    degree: int = -1
    free: bool = True
    fit_stellar_velocity: bool = False
    rounds: int = 1
    rescale: bool = False
    min_star_sn: float = 100.0
    min_gas_sn: float = 5.0
    keep_fit: bool = False

    def with_options(self, **options):
        """The same templates with other settings."""
        return replace(self, **options)

    def with_plain_arrays(self):
        """The same with arrays that are no memory maps, whose every use would cost some microseconds more."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: np.asarray(v) for k, v in arrays.items() if isinstance(v, np.ndarray)})

    @property
    def size(self):
        """Length of the padded templates."""
        return 2 * (self.gas_rfft.shape[1] - 1)


def line_template(edges, wavelength, sigma):
    """A Gaussian line of flux 1, integrated over pixels.

    Parameters
    ----------
    edges : ndarray, shape (n + 1,)
        [Angstrom]
    wavelength, sigma : float
        Centre [Angstrom] and width [km/s].

    Returns
    -------
    ndarray, shape (n,)
        [1 / Angstrom]
    """
    cumulative = 0.5 * erf((edges - wavelength) / (wavelength * sigma / KM_S * 2**0.5))
    return np.diff(cumulative) / np.diff(edges)


def convolve(rfft, velocity, sigma, setup, shift, n_pixels):
    """Templates at given kinematics on a spectrum's pixels, as pPXF does it (Cappellari 2017, eq. 38).

    Parameters
    ----------
    rfft : ndarray, shape (template, frequency)
    velocity, sigma : float
        [km/s]
    setup : FitSetup
    shift : float
        Of the templates' first pixel to the spectrum's [pixels].
    n_pixels : int

    Returns
    -------
    ndarray, shape (template, n_pixels)
    """
    frequency = np.linspace(0, np.pi * setup.ratio, rfft.shape[1])
    phase = (shift + velocity / setup.velscale) * frequency
    losvd = np.exp(-1j * phase - 0.5 * (sigma / setup.velscale * frequency) ** 2)
    fine = np.fft.irfft(rfft * losvd, setup.size, axis=1)[:, : n_pixels * setup.ratio]
    # Strided sums are several times quicker than a mean over so short an axis.
    return sum(fine[:, k :: setup.ratio] for k in range(setup.ratio)) / setup.ratio
