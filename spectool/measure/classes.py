"""Spectral classes from measured lines: curves on the BPT diagram, and the five classes of Scourfield (2023)."""

import numpy as np

from spectool.prepare import add_history

CLASSES = ("emission line galaxy", "absorption galaxy", "quiescent galaxy")
CLASSES += ("narrow-line AGN", "broad-line AGN")
UNCLASSIFIED = "unclassified"
_MIN_SN = 3.0
NET_COLUMNS = ("net_h_alpha_sn", "net_h_beta_sn")
# What broad lines have to exceed.
_BROAD = {"broad_h_alpha_sn": 5.0, "broad_gain": 30.0, "broad_h_alpha_ew": 5.0}
BPT_LINES = ("Hβ", "[O III] 5007", "Hα", "[N II] 6583")


def kewley2001(log_n2):
    """Upper limit of star formation on the BPT diagram, Kewley et al. (2001, ApJ 556, 121, eq. 5)."""
    return _hyperbola(log_n2, 0.47, 1.19)


def kauffmann2003(log_n2):
    """Lower limit of composite spectra on the BPT diagram, Kauffmann et al. (2003, MNRAS 346, 1055, eq. 1)."""
    return _hyperbola(log_n2, 0.05, 1.30)


def _hyperbola(log_n2, asymptote, offset):
    x = np.asarray(log_n2, float)
    inside = x < asymptote
    curve = np.where(np.isnan(x), np.nan, -np.inf)
    return np.divide(0.61, x - asymptote, out=curve, where=inside) + offset


def log_ratio(numerator, denominator):
    """log10 of a flux ratio; NaN, without a warning, where either is not positive."""
    a, b = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    usable = (a > 0) & (b > 0)
    ratio = np.divide(a, b, out=np.ones(a.shape), where=usable)
    return np.where(usable, np.log10(ratio), np.nan)


def log_flux(line_table, line, quantity):
    """Log10 of a line's "peak" or "integrated" flux and its formal error [dex], (galaxy,); NaN if not positive."""
    name = {"peak": "line_peak", "integrated": "line_flux"}[quantity]
    flux, error = (line_table[n].sel(line=line).values.astype(float) for n in (name, f"{name}_error"))
    value = log_ratio(flux, 1.0)
    return value, np.where(np.isfinite(value), error / np.where(flux > 0, flux, 1) / np.log(10), np.nan)


def classify(line_table, *, net=True):
    """The five classes of Scourfield (2023, Section 2) from measured lines."""
    _check(line_table, net)
    flux, sn = (
        {name: line_table[column].sel(line=name).values for name in BPT_LINES}
        for column in ("line_flux", "line_sn")
    )
    absorption = line_table["balmer_absorption_sn"].values
    hydrogen = [line_table[c].values for c in NET_COLUMNS] if net else [sn["Hα"], sn["Hβ"]]
    log_n2, log_o3 = log_ratio(flux["[N II] 6583"], flux["Hα"]), log_ratio(flux["[O III] 5007"], flux["Hβ"])
    emission = (hydrogen[0] > _MIN_SN) & (hydrogen[1] > _MIN_SN)
    detected = (sn["[N II] 6583"] > _MIN_SN) & (sn["[O III] 5007"] > _MIN_SN)
    missing = np.isnan(hydrogen[0]) | np.isnan(hydrogen[1])
    missing |= emission & np.isnan([sn[name] for name in BPT_LINES]).any(axis=0)
    missing |= ~emission & np.isnan(absorption)
    failed = np.zeros(missing.shape, bool)
    if "fit_status" in line_table:
        failed = line_table["fit_status"].values != 0

    name = np.where(absorption > _MIN_SN, "absorption galaxy", "quiescent galaxy").astype("<U20")
    name[emission] = "emission line galaxy"
    name[emission & detected & (log_o3 > kewley2001(log_n2))] = "narrow-line AGN"
    name[missing] = UNCLASSIFIED
    name[_is_broad(line_table)] = "broad-line AGN"
    name[failed] = UNCLASSIFIED
    result = line_table.assign(
        spectral_class=("galaxy", name, {"units": "", "reference": "Scourfield et al. (2023), Section 2"}),
        log_n2=("galaxy", log_n2, {"units": "dex", "long_name": "log [N II] 6583 / Hα"}),
        log_o3=("galaxy", log_o3, {"units": "dex", "long_name": "log [O III] 5007 / Hβ"}),
    )
    return add_history(result, _count(name, int((emission & ~detected & ~missing).sum())))


def _is_broad(line_table):
    broad = np.full(line_table.sizes["galaxy"], "broad_h_alpha_sn" in line_table)
    for column, limit in _BROAD.items():
        if column in line_table:
            broad &= line_table[column].values > limit
    return broad


def _check(line_table, net):
    for column in ("line_flux", "line_sn", "balmer_absorption_sn", *(NET_COLUMNS if net else ())):
        if column not in line_table:
            raise ValueError(
                f"the line table has no `{column}`: classify takes what measure_lines_linear returns, not "
                f"{sorted(map(str, line_table.data_vars))}"
            )
    missing = [name for name in BPT_LINES if name not in line_table["line"].values]
    if missing:
        raise ValueError(f"classes need the lines {', '.join(BPT_LINES)}: measure {', '.join(missing)}, too")


def _count(name, undetected):
    counts = ", ".join(f"{kind}: {int((name == kind).sum())}" for kind in CLASSES)
    text = f"classified: {counts}; {undetected} of the emission line galaxies lack [O III] or [N II]"
    rows = np.flatnonzero(name == UNCLASSIFIED)
    if rows.size:
        shown = ", ".join(map(str, rows[:8])) + (", ..." if rows.size > 8 else "")
        text += f"; unclassified: {rows.size} with a line missing or a failed fit (rows {shown})"
    return text
