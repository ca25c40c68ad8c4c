"""Published relations between the properties of galaxies, as plain functions without randomness."""

import numpy as np

from spectool.spectra import OXYGEN_SUN

MAX_LOG_Z_GAS = float(np.log10(1.2))
"""Above 1.2 solar the lines of the Cloudy grid collapse, so gas is never drawn richer."""

# Gallazzi et al. (2005), Table 2: log mass; the 50th, 16th and 84th percentile of log Z/Zsun (Zsun = 0.02).
# fmt: off
_GALLAZZI = np.array([
    (8.91, -0.60, -1.11, -0.00), (9.11, -0.61, -1.07, -0.00), (9.31, -0.65, -1.10, -0.05), (9.51, -0.61, -1.03, -0.01),
    (9.72, -0.52, -0.97, 0.05), (9.91, -0.41, -0.90, 0.09), (10.11, -0.23, -0.80, 0.14), (10.31, -0.11, -0.65, 0.17),
    (10.51, -0.01, -0.41, 0.20), (10.72, 0.04, -0.24, 0.22), (10.91, 0.07, -0.14, 0.24), (11.11, 0.10, -0.09, 0.25),
    (11.31, 0.12, -0.06, 0.26), (11.51, 0.13, -0.04, 0.28), (11.72, 0.14, -0.03, 0.29), (11.91, 0.15, -0.03, 0.30),
])
# fmt: on


def mass_function(log_mass):
    """Galaxies per dex of stellar mass in the local universe [1 / Mpc^3 / dex]; Baldry et al. (2012), eq. 6."""
    ratio = 10.0 ** (np.asarray(log_mass) - 10.66)
    per_mass = 3.96e-3 * ratio**-0.35 + 0.79e-3 * ratio**-1.47
    return np.log(10) * np.exp(-ratio) * per_mass * ratio


def star_forming_sequence(log_mass, age_of_universe):
    """Median log SFR [Msun/yr] of star-forming galaxies; Speagle et al. (2014), eq. 28."""
    time = np.asarray(age_of_universe)
    return (0.84 - 0.026 * time) * np.asarray(log_mass) - (6.51 - 0.11 * time)


def quiescent_fraction(log_mass, redshift=0.0):
    """Fraction of quiescent galaxies; Peng et al. (2010), quenching efficiencies as fitted to SDSS."""
    characteristic = 10.56 + 0.35 * np.asarray(redshift)
    by_mass = -np.expm1(-(10.0 ** (0.80 * (np.asarray(log_mass) - characteristic))))
    by_environment = -np.expm1(-(10.0 ** (0.60 * (0.4 - 1.84))))
    return by_mass + by_environment - by_mass * by_environment


def agn_fraction(log_mass):
    """Fraction of galaxies that host a strong AGN: 12% at high mass and few below 10^10 Msun.

    A logistic curve after the trend for L[OIII] > 10^7 Lsun of Kauffmann et al. (2003, their Fig. 5).
    """
    return 0.12 / (1 + np.exp(-(np.asarray(log_mass) - 10.3) / 0.25))


def gas_metallicity(log_mass, log_sfr):
    """Median log Z_gas/Zsun of the fundamental metallicity relation; Curti et al. (2020), for total SFR."""
    turnover = 10.11 + 0.56 * np.asarray(log_sfr)
    drop = 0.31 / 2.1 * np.log10(1 + 10.0 ** (-2.1 * (np.asarray(log_mass) - turnover)))
    return 8.779 - drop - OXYGEN_SUN


def stellar_metallicity(log_mass):
    """Median log Z/Zsun of stars and its distances to the 16th and 84th percentile; Gallazzi et al. (2005)."""
    median, low, high = (np.interp(log_mass, _GALLAZZI[:, 0], _GALLAZZI[:, k]) for k in (1, 2, 3))
    return median, median - low, high - median


def ionisation_parameter(log_z_gas):
    """Median log U: -2.5 at 0.2 solar and -3.85 (held) at 0.7 solar and above, as the Cloudy grid wants it.

    With it the grid follows the star-forming locus of galaxies in the diagram of Baldwin, Phillips & Terlevich; the
    sense of the trend is that of Dopita et al. (2006).
    """
    return np.clip(-4.28 - 2.5 * np.asarray(log_z_gas), -3.85, -2.3)


def balmer_attenuation(log_mass):
    """Median attenuation of H-alpha [mag] in star-forming galaxies; Garn & Best (2010), eq. 5."""
    x = np.clip(np.asarray(log_mass) - 10, -1.5, 1.5)
    return 0.91 + 0.77 * x + 0.11 * x**2 - 0.09 * x**3


def attenuation_index(optical_depth):
    """Median power-law index of the attenuation curve, shallower the more dust there is.

    Chevallard et al. (2013), eq. 10, kept within -1.2 and -0.45, about the range in Salim & Narayanan (2020).
    """
    return np.clip(-2.8 / (1 + 3 * np.sqrt(np.asarray(optical_depth))), -1.2, -0.45)


def velocity_dispersion(log_mass):
    """Median log sigma [km/s] of quiescent galaxies; Zahid et al. (2016), eq. 5 and Table 1."""
    x = np.asarray(log_mass) - 10.26
    return 2.073 + np.where(x < 0, 0.403, 0.293) * x


def pah_fraction(log_z_gas):
    """Median PAH mass fraction [%], from 1.0 in metal-poor to 3.55 in metal-rich galaxies.

    Draine et al. (2007), their Fig. 25: the change happens near 12 + log(O/H) = 8.1; here over 0.1 dex.
    """
    oxygen = np.asarray(log_z_gas) + OXYGEN_SUN
    return 1.0 + 2.55 / (1 + np.exp(-(oxygen - 8.1) / 0.1))


def surviving_fraction(age):
    """Mass left in stars and remnants of a population of one age, per mass formed, for a Chabrier IMF.

    1 - 0.046 ln(1 + age / 0.276 Myr): Leitner & Kravtsov (2011), eq. 1 with the parameters of their Table 1.
    """
    return 1 - 0.046 * np.log1p(np.asarray(age) / 0.276e6)
