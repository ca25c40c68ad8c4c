"""Wavelength grids, rebinning, extinction and the constants that every room shares. Wavelengths are vacuum Angstrom."""

import numpy as np
from scipy import sparse

KM_S = 299792.458  # the speed of light
ANGSTROM_S = 2.99792458e18  # and again
SIGMA_TO_FWHM = np.sqrt(8 * np.log(2))
FWHM_TO_SIGMA = 1 / SIGMA_TO_FWHM
AB_JY = 3631.0  # a source of magnitude 0
AB_CGS = 3631e-23  # the same [erg / s / cm2 / Hz]
R_V = 3.1  # of the Milky Way's mean extinction law
L_SUN = 3.828e33  # erg / s
Z_SUN = 0.02  # metals by mass where log_z_star and log_z_gas are 0
OXYGEN_SUN = 8.91  # 12 + log(O/H) there
SOLAR_OXYGEN = 8.69  # the Sun's by Asplund et al. (2009), which published calibrations count from
ONE_SIGMA = 0.6827  # the share of a normal distribution within one standard deviation
FLUX_UNIT = "1e-17 erg / (Angstrom s cm2)"
IVAR_UNIT = "1e34 Angstrom2 s2 cm4 / erg2"
# SDSS's pixels lie on log10(lambda) = LOGLAM0 + DLOGLAM k with whole k: spectra only begin and end elsewhere.
LOGLAM0, DLOGLAM = 3.5, 1e-4
PIXEL_VELOCITY = KM_S * np.log(10) * DLOGLAM  # km/s per pixel: wdisp is given in pixels

# Vacuum wavelengths [Angstrom] of the emission lines that notebooks name; NIST, via the SDSS line list.
LINES = {
    "Lyα": 1215.670,
    "C III]": 1908.734,
    "Mg II": 2799.117,
    "[O II]": 3728.483,
    "[O II] 3726": 3727.090,
    "[O II] 3729": 3729.880,
    "[Ne III]": 3869.860,
    "Hδ": 4102.892,
    "Hγ": 4341.684,
    "[O III] 4363": 4364.436,
    "Hβ": 4862.683,
    "[O III] 4959": 4960.295,
    "[O III] 5007": 5008.240,
    "He I": 5877.249,
    "[O I]": 6302.046,
    "[N II] 6548": 6549.859,
    "Hα": 6564.614,
    "[N II] 6583": 6585.268,
    "[S II] 6716": 6718.294,
    "[S II] 6731": 6732.674,
    "[Ar III]": 7137.757,
    "[S III] 9069": 9071.09,
    "[S III] 9531": 9533.23,
}
# Further ones, which are masked and not measured; with Na D and the strongest narrow interstellar band.
WEAK_LINES = {
    "[S II] 4069": 4069.749,
    "[S II] 4076": 4077.500,
    "He I 4471": 4472.735,
    "He II 4686": 4687.020,
    "He I 5016": 5017.077,
    "[N I] 5198": 5199.349,
    "[N I] 5200": 5201.705,
    "[N II] 5755": 5756.190,
    "DIB 5780": 5782.080,
    "Na D 5890": 5891.583,
    "Na D 5896": 5897.558,
    "[S III] 6312": 6313.810,
    "[O I] 6364": 6365.536,
    "He I 6678": 6679.996,
    "He I 7065": 7067.138,
}


def pixel_edges(centres):
    """Edges of the pixels around given centres, half-way between neighbours."""
    centres = np.asarray(centres, dtype=float)
    if centres.ndim != 1 or centres.size < 2:
        raise ValueError("need a one-dimensional array of at least two pixel centres")
    step = np.diff(centres)
    if not np.all(step > 0):
        first = int(np.flatnonzero(~(step > 0))[0])
        raise ValueError(f"wavelengths must increase, but do not after pixel {first} ({centres[first]:g} A)")
    inner = centres[:-1] + step / 2
    return np.concatenate([[centres[0] - step[0] / 2], inner, [centres[-1] + step[-1] / 2]])


def sps_wavelength():
    """Pixel centres of the spectra in Marziano (2024): 4582 pixels over 1000-10000 Angstrom.

    The sampling is that of a MILES-based stellar population code: 0.9 A between 3540 and 7350 A, and about 12 A
    (ultraviolet) and 20 A (near infrared) outside, so that most pixels lie between 3000 and 8000 A as in the
    paper's Fig. 4. The grid is also a weighting: in a sum over pixels an Angstrom of the optical counts as much as
    some thirteen of the ultraviolet.

    Returns
    -------
    ndarray, shape (4582,)
        Vacuum wavelength [Angstrom].
    """
    edges = np.concatenate(
        [
            np.linspace(1000.0, 3540.0, 213)[:-1],
            np.linspace(3540.0, 7350.0, 4234)[:-1],
            np.linspace(7350.0, 10000.0, 138),
        ]
    )
    return 0.5 * (edges[1:] + edges[:-1])


def rebin_matrix(edges_in, edges_out):
    """Linear operator that rebins a flux density, conserving flux."""
    edges_in, edges_out = np.asarray(edges_in, float), np.asarray(edges_out, float)
    cuts = np.union1d(edges_in, edges_out)
    cuts = cuts[(cuts >= max(edges_in[0], edges_out[0])) & (cuts <= min(edges_in[-1], edges_out[-1]))]
    shape = (edges_out.size - 1, edges_in.size - 1)
    if cuts.size < 2:
        return sparse.csr_array(shape)
    middle, width = 0.5 * (cuts[1:] + cuts[:-1]), np.diff(cuts)
    row = np.searchsorted(edges_out, middle) - 1
    column = np.searchsorted(edges_in, middle) - 1
    overlap = sparse.csr_array((width, (row, column)), shape=shape)
    covered = np.bincount(row, weights=width, minlength=shape[0])
    scale = np.divide(1.0, covered, out=np.zeros_like(covered), where=covered > 0)
    return sparse.csr_array(sparse.diags_array(scale) @ overlap)


def air_to_vacuum(wavelength):
    """Vacuum wavelength [Angstrom] of an air wavelength [Angstrom], after Ciddor (1996) through specutils."""
    from astropy import units as u
    from specutils.utils.wcs_utils import air_to_vac

    return air_to_vac(np.asarray(wavelength, float) * u.AA, method="Ciddor1996", scheme="iteration").to_value(
        u.AA
    )


def vacuum_to_air(wavelength):
    """Air wavelength [Angstrom] of a vacuum wavelength [Angstrom], after Ciddor (1996) through specutils."""
    from astropy import units as u
    from specutils.utils.wcs_utils import vac_to_air

    return vac_to_air(np.asarray(wavelength, float) * u.AA, method="Ciddor1996").to_value(u.AA)


def block_rebin_matrix(edges_in, edges_out):
    """One sparse operator that rebins a batch of spectra, each from its own pixels to its own pixels."""
    low = min(edges_in.min(), edges_out.min()) - 1.0
    period = max(edges_in.max(), edges_out.max()) + 1.0 - low
    start = (np.arange(len(edges_in)) * period)[:, None] - low
    ends = [len(edges_in) * period]
    # Both axes begin and end together, so that the gap pixels cover whatever the spectra do not.
    axis_in = np.concatenate([(edges_in + start).ravel(), ends])
    axis_out = np.concatenate([(edges_out + start).ravel(), ends])
    head = min(axis_in[0], axis_out[0]) - 1.0
    operator = rebin_matrix(np.concatenate([[head], axis_in]), np.concatenate([[head], axis_out]))
    return operator[1:, 1:]


def rebin_spectra(flux, variance, good, edges_in, edges_out):
    """Rebin a batch of spectra as overlap-weighted means of their good pixels."""
    n_batch, n_out = len(flux), edges_out.shape[1] - 1
    operator = block_rebin_matrix(edges_in, edges_out)

    def apply(matrix, values):
        padded = np.concatenate([np.where(good, values, 0.0), np.zeros((n_batch, 1))], axis=1)
        return (matrix @ padded.ravel()).reshape(n_batch, n_out + 1)[:, :-1]

    covered = apply(operator, 1.0)
    scale = np.divide(1.0, covered, out=np.zeros_like(covered), where=covered > 0)
    return apply(operator, flux) * scale, apply(operator.power(2), variance) * scale**2, covered


def rebin_common(flux, edges_in, edges_out):
    """Rebin spectra that share their input pixels, each to pixels of its own; quicker than `rebin_spectra`."""
    width = np.diff(edges_in)
    result = np.empty((len(flux), edges_out.shape[1] - 1))
    covered = np.empty_like(result)
    for row, (values, target) in enumerate(zip(flux, edges_out, strict=True)):
        good = np.isfinite(values)
        within = np.concatenate([[0.0], np.cumsum(np.where(good, values, 0.0) * width)])
        seen = np.concatenate([[0.0], np.cumsum(good * width)])
        overlap = np.diff(np.interp(target, edges_in, seen))
        result[row] = np.diff(np.interp(target, edges_in, within))
        # A sum over many pixels is good to 1e-16 of the whole: a sliver below that is nothing.
        result[row] *= np.divide(1.0, overlap, out=np.zeros_like(overlap), where=overlap > 1e-9)
        covered[row] = overlap / np.diff(target)
    return result, covered


def extinction_curve(wavelength, *, law="F99"):
    """A(lambda) / E(B-V) of the Milky Way's mean extinction law.

    F99 is Fitzpatrick (1999, PASP 111, 63), which Schlafly & Finkbeiner (2011) calibrate their E(B-V) with; G23
    Gordon et al. (2023, ApJ 950, 86); CCM89 Cardelli, Clayton & Mathis (1989, ApJ 345, 245), still the custom for
    lines of gas.
    """
    from astropy import units as u
    from dust_extinction.parameter_averages import CCM89, F99, G23

    laws = {"F99": F99, "G23": G23, "CCM89": CCM89}
    if law not in laws:
        raise ValueError(f"unknown extinction law {law!r}: choose from {', '.join(laws)}")
    return R_V * laws[law](Rv=R_V)(np.asarray(wavelength, float) * u.AA)
