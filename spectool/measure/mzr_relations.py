"""Published mass-metallicity relations, each with its scale, its masses and where it is printed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spectool.synth.relations import stellar_metallicity


@dataclass(frozen=True)
class Relation:
    """A published mass-metallicity relation.

    Attributes
    ----------
    name : str
    curve : callable
        log M* [dex(Msun)] -> 12 + log(O/H) of the gas, or log Z/Zsun of the stars with Zsun = 0.02.
    mass_range : (float, float)
        log M* [dex(Msun)] that it is valid for; called beyond, it gives NaN.
    scale, reference : str
        What metallicities it was fitted to, and where it is printed.
    note : str
    approximate : bool
        It stands in for another, as the note says.
    """

    name: str
    curve: Callable
    mass_range: tuple
    scale: str
    reference: str
    note: str = ""
    approximate: bool = False

    def __call__(self, log_mass, *, extrapolate=False):
        """Metallicity at given masses, of what and on which scale `curve` says.

        Parameters
        ----------
        log_mass : array_like
            [dex(Msun)].
        extrapolate : bool
            Also beyond `mass_range`.

        Returns
        -------
        ndarray
        """
        log_mass = np.asarray(log_mass, float)
        inside = (log_mass >= self.mass_range[0]) & (log_mass <= self.mass_range[1])
        return np.where(inside | extrapolate, self.curve(log_mass), np.nan)


def _turnover(oxygen, log_mass_0, slope, width):
    """The form of Curti et al. (2020, eq. 2): a power law that saturates over a width."""
    return lambda log_mass: oxygen - slope / width * np.log10(1 + 10.0 ** (-width * (log_mass - log_mass_0)))


def _polynomial(*coefficients):
    return np.polynomial.Polynomial(coefficients)


_ROWS = (
    Relation(
        "Scholte et al. 2024",
        _turnover(8.854, 10.49, 0.2439, 1.20),
        (6.5, 11.5),
        "R23 and N2 of DESI's star-forming galaxies",
        "Scholte et al. (2024, arXiv:2408.03996), the fit to the line-flux-limited sample as its first author gives it",
        "Stands in for Scholte & Saintonge (2023, MNRAS 518, 353), the reference of Scourfield et al. (2023), of whose "
        "curve we found no public numbers: same first author, another sample (DESI, not SDSS) and scale. Approximate: "
        "compare scatter and shape, not the zero point.",
        True,
    ),
    Relation(
        "Tremonti et al. 2004",
        _polynomial(-1.492, 1.847, -0.08026),
        (8.5, 11.5),
        "photo-ionisation models fitted to all strong lines (Charlot & Longhetti 2001): some 0.3 dex above PP04",
        "Tremonti et al. (2004, ApJ 613, 898), eq. 3",
    ),
    Relation(
        "Kewley & Ellison 2008",
        _polynomial(32.1488, -8.51258, 0.976384, -0.0359763),
        (8.5, 11.1),
        "PP04 O3N2",
        "Kewley & Ellison (2008, ApJ 681, 1183), Table 2, row PP04 O3N2",
        "SDSS galaxies on the very scale of Scourfield et al. (2023, eq. 6).",
    ),
    Relation(
        "Andrews & Martini 2013",
        _turnover(8.798, 8.901, 0.640, 0.640),
        (7.4, 10.5),
        "electron temperatures in stacked SDSS spectra",
        "Andrews & Martini (2013, ApJ 765, 140), eq. 5 and Table 4",
    ),
    Relation(
        "Curti et al. 2020",
        _turnover(8.793, 10.02, 0.28, 1.2),
        (7.95, 11.85),
        "Curti 2020: strong lines tied to electron temperatures",
        "Curti et al. (2020, MNRAS 491, 944), eq. 2 and Table 4",
    ),
)

RELATIONS = {relation.name: relation for relation in _ROWS}
"""Name -> `Relation` of the gas. Masses are for a Kroupa or Chabrier IMF (0.03 dex apart, not told apart)."""

Z_SUN = 0.02
"""Solar metallicity of `STELLAR_RELATIONS`; papers that count from another one are shifted to it."""

# Zahid et al. (2017), Table 4: log Z/Zsun (0.0142) in bins of 0.1 dex around log M* = 8.55, 8.65, ... 10.95. Here the
# mean over its five bins of star-formation rate, which hold equally many galaxies each.
_ZAHID_MASS = 8.55 + 0.1 * np.arange(25)
_ZAHID_2017 = np.array(
    [
        [-0.652, -0.569, -0.586, -0.599, -0.474],
        [-0.498, -0.448, -0.416, -0.355, -0.285],
        [-0.228, -0.190, -0.144, -0.120, -0.078],
        [-0.040, -0.008, 0.024, 0.029, 0.046],
        [0.050, 0.044, 0.031, 0.021, 0.014],
    ]
).ravel()


def _zahid_2017(log_mass):
    return np.interp(log_mass, _ZAHID_MASS, _ZAHID_2017) + np.log10(0.0142 / Z_SUN)


_STELLAR_ROWS = (
    Relation(
        "Zahid et al. 2017",
        _zahid_2017,
        (8.55, 10.95),
        "single bursts of FSPS (MIST, MILES) fitted to stacks of star-forming SDSS galaxies, weighted by light",
        "Zahid et al. (2017, ApJ 847, 18), Table 4, mean over its five bins of star-formation rate",
        "Fig. 3 of Zahid et al. (2019) shows its fit to bins of mass alone, of which we found no public numbers. "
        "Counted from Zsun = 0.0142 there, from 0.02 here: 0.149 dex lower for the same metals.",
    ),
    Relation(
        "Gallazzi et al. 2005",
        lambda log_mass: stellar_metallicity(log_mass)[0],
        (8.91, 11.91),
        "five absorption indices of single SDSS galaxies against BC03 models, weighted by light, Zsun = 0.02",
        "Gallazzi et al. (2005, MNRAS 362, 41), Table 2, medians",
        "Of galaxies of all kinds, most massive ones quiescent. The mock galaxies were drawn from it, so to find it "
        "again says nothing about galaxies.",
    ),
)

STELLAR_RELATIONS = {relation.name: relation for relation in _STELLAR_ROWS}
"""Name -> `Relation` of the stars: log Z/Zsun, Zsun = `Z_SUN`."""
