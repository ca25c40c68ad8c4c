"""The Milky Way's extinction law, for those who put it in (surveys) and those who take it out (prepare)."""

import numpy as np


def extinction_curve(wavelength, *, law="F99", r_v=3.1):
    """A(lambda) / E(B-V) of the Milky Way's mean extinction law.

    Parameters
    ----------
    wavelength : ndarray
        Observed wavelength [Angstrom].
    law : {"F99", "G23", "CCM89"}
        Fitzpatrick (1999, PASP 111, 63), 1000 A to 3.3 micron, which Schlafly & Finkbeiner (2011) calibrate
        their E(B-V) with; Gordon et al. (2023, ApJ 950, 86); or Cardelli, Clayton & Mathis (1989, ApJ 345, 245),
        still the custom for lines of gas. All from the ``dust_extinction`` package.
    r_v : float
        A(V) / E(B-V).

    Raises
    ------
    ValueError
        For another law, or wavelengths outside its range.
    """
    from astropy import units as u
    from dust_extinction.parameter_averages import CCM89, F99, G23

    laws = {"F99": F99, "G23": G23, "CCM89": CCM89}
    if law not in laws:
        raise ValueError(f"unknown extinction law {law!r}: choose from {', '.join(laws)}")
    return r_v * laws[law](Rv=r_v)(np.asarray(wavelength, float) * u.AA)
