"""Active nuclei (narrow lines, broad Balmer lines, a power law) on top of spectra: its own file, for they are optional.

The ratios are those of the Seyfert and LINER branches of Kewley et al. (2006, MNRAS 372, 961, their Figs. 1-2) and the
luminosities those of Kauffmann et al. (2003, MNRAS 346, 1055, their Fig. 8) in the middle, scattered; everything is a
stand-in for photoionisation by a nucleus, not a model of it.
"""

import numpy as np
import torch

from spectool.spectra import FWHM_TO_SIGMA, L_SUN
from spectool.synth.dust import relative_depth
from spectool.synth.nebular import draw_lines, replace_light

# Median and scatter of: log L(H-alpha)/Lsun at log M = 10.8; log [NII]6583/Ha, [OIII]5007/Hb, [SII]/Ha, [OI]6300/Ha
# and [OII]/Hb, the doublets summed.
KINDS = {
    "Seyfert": ((6.6, 0.45), (-0.05, 0.12), (0.80, 0.20), (-0.35, 0.10), (-0.90, 0.15), (0.45, 0.15)),
    "LINER": ((6.3, 0.35), (0.10, 0.12), (0.40, 0.15), (-0.08, 0.12), (-0.60, 0.12), (0.75, 0.15)),
}
RATIOS = ("agn_log_n2", "agn_log_o3", "agn_log_s2", "agn_log_o1", "agn_log_o2")
SEYFERT_SHARE = 0.4
BROAD_SHARE = 0.03
BALMER_DECREMENT = 3.1
"""Narrow H-alpha / H-beta of active nuclei, above the 2.86 of HII regions: Gaskell & Ferland (1984, PASP 96, 393)."""

_BALMER = {"H 1 6563": BALMER_DECREMENT, "H 1 4861": 1.0}
_BALMER |= {"H 1 4340": 0.468, "H 1 4102": 0.259, "H 1 3970": 0.159}
_DESCRIPTIONS = {
    "agn_log_h_alpha": ("dex(Lsun)", "narrow H-alpha luminosity of the nucleus, before dust"),
    "agn_log_n2": ("dex", "log [NII]6583 / H-alpha of the nucleus"),
    "agn_log_o3": ("dex", "log [OIII]5007 / H-beta of the nucleus"),
    "agn_log_s2": ("dex", "log [SII]6716+6731 / H-alpha of the nucleus"),
    "agn_log_o1": ("dex", "log [OI]6300 / H-alpha of the nucleus"),
    "agn_log_o2": ("dex", "log [OII]3726+3729 / H-beta of the nucleus"),
    "agn_log_broad": ("dex(Lsun)", "broad H-alpha luminosity, before dust"),
    "agn_fwhm": ("km / s", "width of the broad lines"),
    "agn_slope": ("", "power-law index of the nucleus' continuum, f_lambda"),
}


def draw_agn(galaxies, *, seed):
    """Give a nucleus to every galaxy whose ``spectral_class`` is "AGN".

    Broad H-alpha is 0.7 +- 0.3 dex brighter than the narrow one (Stern & Laor 2012, MNRAS 426, 2703) and
    1500-8000 km/s wide (about 3000). Broad-line nuclei have the narrow lines of Seyferts, and a continuum of
    slope -1.56 +- 0.3 (Vanden Berk et al. 2001).
    """
    rng = np.random.default_rng(seed)
    log_mass = galaxies["log_mass"].values
    n = log_mass.size
    active = galaxies["spectral_class"].values == "AGN"
    broad = active & (rng.random(n) < BROAD_SHARE)
    seyfert = broad | (active & (rng.random(n) < SEYFERT_SHARE))
    deviates = np.clip(rng.standard_normal((6, n)), -2.5, 2.5)
    middle, scatter = np.where(seyfert, *(np.array(KINDS[k]).T[..., None] for k in ("Seyfert", "LINER")))
    drawn = middle + scatter * deviates
    columns = {"agn_log_h_alpha": drawn[0] + 0.5 * (log_mass - 10.8)}
    columns |= dict(zip(RATIOS, drawn[1:], strict=True))
    brighter = 0.3 * np.clip(rng.standard_normal(n), -2.5, 2.5)
    columns["agn_log_broad"] = columns["agn_log_h_alpha"] + 0.7 + brighter
    columns["agn_fwhm"] = np.clip(3000 * 10 ** (0.2 * rng.standard_normal(n)), 1500, 8000)
    columns["agn_slope"] = -1.56 + 0.3 * rng.standard_normal(n)
    kind = np.where(broad, "broad-line", np.where(seyfert, "Seyfert", np.where(active, "LINER", "")))
    out = galaxies.assign(agn_type=("galaxy", kind, {"units": ""}))
    for name, values in columns.items():
        where = broad if name in ("agn_log_broad", "agn_fwhm", "agn_slope") else active
        units, text = _DESCRIPTIONS[name]
        out[name] = ("galaxy", np.where(where, values, np.nan), {"units": units, "long_name": text})
    return out


def narrow_lines(galaxies):
    """Narrow-line luminosities of nuclei before dust."""
    alpha = 10.0 ** galaxies["agn_log_h_alpha"].values
    beta = alpha / BALMER_DECREMENT
    n2, o3, s2, o1, o2 = (10.0 ** galaxies[name].values for name in RATIOS)
    lines = {name: share * beta for name, share in _BALMER.items()}
    # Doublets from one level have fixed ratios; [SII] and [OII] are those of some 300 electrons per cm3, [OIII]4363 of
    # 13,000-14,000 K (Osterbrock & Ferland 2006); [NeIII] and HeII as in the narrow-line regions of their Table 14.2.
    lines |= {"N 2 6583": n2 * alpha, "N 2 6548": n2 * alpha / 3.05}
    lines |= {"O 3 5007": o3 * beta, "O 3 4959": o3 * beta / 2.98, "O 3 4363": 0.015 * o3 * beta}
    lines |= {"S 2 6716": s2 * alpha * 0.53, "S 2 6731": s2 * alpha * 0.47}
    lines |= {"O 1 6300": o1 * alpha, "O 1 6364": o1 * alpha / 3.03}
    lines |= {"O 2 3726": o2 * beta * 0.48, "O 2 3729": o2 * beta * 0.52}
    lines |= {"Ne 3 3869": 0.1 * o3 * beta, "Ne 3 3967": 0.03 * o3 * beta}
    seyfert = galaxies["agn_type"].values != "LINER"
    return lines | {"He 2 4686": np.where(seyfert, 0.25, 0.05) * beta}


def continuum_luminosity(log_broad):
    """Luminosity density at 5100 A [Lsun / Angstrom] that goes with a broad H-alpha luminosity [dex Lsun].

    Greene & Ho (2005, ApJ 630, 122), eq. 1: L(H-alpha) = 5.25e42 (lambda L_5100 / 1e44)^1.157 erg/s.
    """
    log_sun = np.log10(L_SUN)
    return 10 ** ((log_broad + log_sun - np.log10(5.25e42)) / 1.157 + 44 - log_sun) / 5100


def add_agn(sample, *, fibre_fraction=1.0):
    """Add the light of active nuclei to rest-frame spectra.

    Narrow lines have the width of the host's stars (Greene & Ho 2005, ApJ 627, 721) and the dust of its young
    stars; broad lines and continuum lie behind its diffuse dust only.
    """
    missing = [name for name in ("agn_type", "line_luminosity") if name not in sample]
    if missing:
        raise ValueError(
            f"the sample lacks {', '.join(missing)}: use draw_agn, and synthesize with keep_lines=True"
        )
    rows = np.flatnonzero(sample["agn_type"].values != "")
    if not rows.size:
        return sample
    some = sample.isel(galaxy=rows)
    gain = 1 / np.broadcast_to(fibre_fraction, sample.sizes["galaxy"])[rows]
    flux = some["flux"].transpose("galaxy", "wavelength").values.copy()
    narrow, where = _add_narrow_lines(flux, some, gain)
    lines = sample["line_luminosity"].transpose("galaxy", "line").values.copy()
    lines[np.ix_(rows, where)] += narrow
    broad = np.flatnonzero(some["agn_type"].values == "broad-line")
    if broad.size:
        flux[broad] = _add_broad_lines(flux[broad], some.isel(galaxy=broad), gain[broad])
    whole = sample["flux"].transpose("galaxy", "wavelength").values.copy()
    whole[rows] = flux
    return replace_light(sample, whole, lines)


def _add_narrow_lines(flux, galaxies, gain):
    """Draw them into ``flux``; their dimmed luminosities (galaxy, k) and their places in the sample's lines."""
    luminosity, where = _stack(narrow_lines(galaxies), galaxies, gain)
    dimmed = _dim(luminosity, galaxies["line_wavelength"].values[where], galaxies, "dust1", "dust2")
    draw_lines(flux, dimmed, where, galaxies, galaxies["velocity_dispersion"].values)
    return dimmed.numpy(), where


def _add_broad_lines(flux, galaxies, gain):
    """The spectra of broad-line nuclei, with their broad Balmer lines and power law."""
    log_broad, wavelength = galaxies["agn_log_broad"].values, galaxies["wavelength"].values
    balmer = {name: 10**log_broad * share / BALMER_DECREMENT for name, share in _BALMER.items()}
    luminosity, where = _stack(balmer, galaxies, gain)
    dimmed = _dim(luminosity, galaxies["line_wavelength"].values[where], galaxies, "dust2")
    draw_lines(flux, dimmed, where, galaxies, galaxies["agn_fwhm"].values * FWHM_TO_SIGMA)
    slope = galaxies["agn_slope"].values[:, None]
    power_law = (continuum_luminosity(log_broad) * gain)[:, None] * (wavelength / 5100) ** slope
    return flux + _dim(torch.from_numpy(power_law.astype("f4")), wavelength, galaxies, "dust2").numpy()


def _stack(luminosity, galaxies, gain):
    """Luminosities of those lines that the sample has, (galaxy, k), and their places among its lines."""
    names = galaxies["line"].values.tolist()
    kept = [name for name in luminosity if name in names]
    values = np.stack([luminosity[name] * gain for name in kept], axis=1)
    return torch.from_numpy(values.astype("f4")), np.array([names.index(name) for name in kept])


def _dim(luminosity, wavelength, galaxies, *dust):
    """Luminosities (galaxy, k) behind the dust of the named columns."""
    ratio = torch.from_numpy(np.log(wavelength / 5500.0).astype("f4"))
    index = torch.from_numpy(galaxies["dust_index"].values.astype("f4"))
    depth = torch.from_numpy(sum(galaxies[name].values for name in dust).astype("f4"))
    return luminosity * torch.exp(-depth[:, None] * relative_depth(ratio, index))
