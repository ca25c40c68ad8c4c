"""Gas metallicity from strong lines, corrected for reddening."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr

from spectool.prepare import add_history
from spectool.spectra import LINES, SOLAR_OXYGEN, extinction_curve

CASE_B = 2.86
"""H-alpha / H-beta without dust: case B, 10,000 K, 100 cm^-3 (Osterbrock & Ferland 2006, Table 4.4)."""

_MIN_SN = {"Hα": 15.0}

_DUST_REASONS = ("", "not measured", "flux not positive", "S/N too low")
_REASONS = (*_DUST_REASONS, "dust not known", "outside the calibration")
"""Why a galaxy has no Balmer decrement or no metallicity, the first that applies; "" where it has one."""

CORRECTED = ("line_flux", "line_flux_error", "line_peak", "line_peak_error")
_CHUNK = 2_000_000  # numbers held at once while drawing
_LAW = "CCM89, R_V = 3.1, intrinsic Hα/Hβ = 2.86"


def pick(line_table, variable, line):
    """One line's values, whatever other dimensions the table has."""
    if variable not in line_table:
        raise ValueError(f"the line table has no `{variable}`, only {sorted(map(str, line_table.data_vars))}")
    if line not in line_table["line"].values:
        raise ValueError(f"the line table has no {line!r}; it has {', '.join(line_table['line'].values)}")
    return line_table[variable].sel(line=line, drop=True).astype(float)


def _fluxes(line_table, lines):
    flux = {line: pick(line_table, "line_flux", line).values for line in lines}
    return flux, {line: pick(line_table, "line_flux_error", line).values for line in lines}


def _why_unusable(flux, error, cuts, code):
    """Overwrite, in place, an index into `_REASONS` where lines cannot be used."""
    with np.errstate(divide="ignore", invalid="ignore"):
        for line, cut in cuts.items():
            code[~(flux[line] / error[line] >= cut)] = 3
    for line in flux:
        code[flux[line] <= 0] = 2
    for line in flux:
        code[~(np.isfinite(flux[line]) & np.isfinite(error[line]) & (error[line] > 0))] = 1
    return code


def _count_reasons(code, reasons):
    return ", ".join(f"{int((code == i).sum())} {name}" for i, name in enumerate(reasons) if name)


def balmer_decrement(line_table, *, min_sn=3.0):
    """Reddening of the gas from H-alpha / H-beta by a screen of dust, with errors to first order.

    E(B-V) = 2.5 / (k(Hb) - k(Ha)) log10[(Ha/Hb) / 2.86] with k = A / E(B-V) (Dominguez et al. 2013, ApJ 763, 145).
    """
    if done := line_table.attrs.get("dust_corrected"):
        raise ValueError(
            f"the lines were corrected for dust already ({done}): a second correction would invent dust. Use the "
            "table as it is, or the one from before"
        )
    like = pick(line_table, "line_flux", "Hα")
    flux, error = _fluxes(line_table, ("Hα", "Hβ"))
    code = _why_unusable(flux, error, dict.fromkeys(flux, min_sn), np.zeros(like.shape, np.int8))
    k_alpha, k_beta = extinction_curve([LINES["Hα"], LINES["Hβ"]], law="CCM89")
    factor = 2.5 / (k_beta - k_alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = factor * np.log10(flux["Hα"] / flux["Hβ"] / CASE_B)
        relative = np.hypot(error["Hα"] / flux["Hα"], error["Hβ"] / flux["Hβ"])
    usable = code == 0
    clipped = usable & (raw < 0)
    ebv = np.where(usable, raw.clip(min=0), np.nan)
    ebv_error = np.where(usable, factor / np.log(10) * relative, np.nan)
    columns = {"ebv_gas": ebv, "ebv_gas_error": ebv_error}
    columns |= {"a_h_alpha": k_alpha * ebv, "a_h_alpha_error": k_alpha * ebv_error}
    out = xr.Dataset({n: (like.dims, v, {"units": "mag"}) for n, v in columns.items()}, coords=like.coords)
    out["ebv_clipped"] = (like.dims, clipped, {"units": "", "description": "negative E(B-V), set to 0"})
    out["dust_reason"] = (like.dims, np.array(_DUST_REASONS)[code], {"units": ""})
    counts, n_clipped = _count_reasons(code, _DUST_REASONS), int(clipped.sum())
    text = f"{int(usable.sum())} of {usable.size} have a Balmer decrement; {counts}; {n_clipped} negative, set to 0"
    return out.assign_attrs(n_clipped=n_clipped, history=text)


def deredden_lines(line_table, *, min_sn=3.0):
    """Take the dust, known by the Balmer decrement, out of all lines of a table, once."""
    dust = balmer_decrement(line_table, min_sn=min_sn)
    curve = extinction_curve(line_table["line_wavelength"].values, law="CCM89")
    gain = 10 ** (0.4 * dust["ebv_gas"] * xr.DataArray(curve, dims="line"))
    old = {name: line_table[name] for name in CORRECTED if name in line_table}
    new = {name: (v * gain).transpose(*v.dims).assign_attrs(v.attrs) for name, v in old.items()}
    out = line_table.assign({**new, **dust.data_vars}).assign_attrs(dust_corrected=_LAW)
    return add_history(out, f"lines corrected for dust ({_LAW}): {dust.attrs['history']}")


_O3 = ((("[O III] 5007",), 1), (("Hβ",), -1))
_N2 = ((("[N II] 6583",), 1), (("Hα",), -1))
_S2 = ((("[S II] 6716", "[S II] 6731"), 1), (("Hα",), -1))


def _over(upper, lower):
    return upper + tuple((lines, -sign) for lines, sign in lower)


INDICES = {"N2": _N2, "O3N2": _over(_O3, _N2), "O3S2": _over(_O3, _S2)}
"""Index -> the sums of lines that it multiplies (1) and divides by (-1)."""


class Metallicity(NamedTuple):
    """Metallicities as arrays."""

    value: np.ndarray
    error: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """One published relation between a line index and 12 + log(O/H)."""

    name: str
    index: str
    coefficients: tuple
    inverse: bool
    valid_range: tuple
    scatter: float
    scale: str
    reference: str

    @property
    def lines(self):
        """Names of the lines that it needs."""
        return tuple(dict.fromkeys(line for lines, _ in INDICES[self.index] for line in lines))

    def __call__(self, line_table):
        """Metallicities from the fluxes of a line table, without any cut in S/N."""
        flux, error = _fluxes(line_table, self.lines)
        return self.from_index(*line_index(flux, error, self.index))

    def from_index(self, index, error=0.0):
        """Metallicities from the index itself."""
        index, error = np.broadcast_arrays(np.asarray(index, float), np.asarray(error, float))
        polynomial = np.polynomial.Polynomial(self.coefficients)
        low, high = self.valid_range
        if self.inverse:
            grid = np.linspace(low, high, 4001)
            values = polynomial(grid - SOLAR_OXYGEN)
            order = np.argsort(values)
            value = np.interp(index, values[order], grid[order], left=np.nan, right=np.nan)
            slope = 1 / polynomial.deriv()(value - SOLAR_OXYGEN)
        else:
            inside = (index >= low) & (index <= high)
            value = np.where(inside, polynomial(index), np.nan)
            slope = polynomial.deriv()(index)
        valid = np.isfinite(value)
        return Metallicity(value, np.where(valid, np.abs(slope) * error, np.nan), valid)


def line_index(flux, error, index):
    """A line index and its error."""
    total, variance = 0.0, 0.0
    for lines, sign in INDICES[index]:
        part = sum(flux[line] for line in lines)
        noise = sum(error[line] ** 2 for line in lines)
        positive = np.logical_and.reduce([flux[line] > 0 for line in lines])
        part = np.where(positive, part, np.nan)
        total = total + sign * np.log10(part)
        variance = variance + noise / (part * np.log(10)) ** 2
    return total, np.sqrt(variance)


_TE_MODELS = "electron temperatures of H II regions, models of a few metal-rich ones"
_TE = "electron temperatures of H II regions"
_TE_STACKS = "electron temperatures of galaxies, most of them stacked SDSS spectra"
_PP04 = "Pettini & Pagel (2004, MNRAS 348, L59)"
_M13 = "Marino et al. (2013, A&A 559, A114)"
_C20 = "Curti et al. (2020, MNRAS 491, 944), Table 2"
_C20_RANGE = (7.6, 8.85)
_C20_TURN = (7.65, 8.85)  # the parabola of O3N2 turns over at 7.64: below, one ratio has two metallicities
_C20_N2, _C20_O3N2 = (-0.489, 1.513, -2.554, -5.293, -2.867), (0.281, -4.765, -2.268)
_C20_O3S2 = (0.191, -4.292, -2.538, 0.053, 0.332)
_ROWS = (
    ("PP04 O3N2", "O3N2", (8.73, -0.32), False, (-1.0, 1.9), 0.14, _TE_MODELS, f"{_PP04}, eq. 3"),
    ("PP04 N2", "N2", (9.37, 2.03, 1.26, 0.32), False, (-2.5, -0.3), 0.18, _TE_MODELS, f"{_PP04}, eq. 2"),
    ("PP04 N2 linear", "N2", (8.90, 0.57), False, (-2.5, -0.3), 0.18, _TE_MODELS, f"{_PP04}, eq. 1"),
    ("Marino 2013 O3N2", "O3N2", (8.533, -0.214), False, (-1.1, 1.7), 0.18, _TE, f"{_M13}, eq. 2"),
    ("Marino 2013 N2", "N2", (8.743, 0.462), False, (-1.6, -0.2), 0.16, _TE, f"{_M13}, eq. 4"),
    ("Curti 2020 O3N2", "O3N2", _C20_O3N2, True, _C20_TURN, 0.09, _TE_STACKS, _C20),
    ("Curti 2020 N2", "N2", _C20_N2, True, _C20_RANGE, 0.10, _TE_STACKS, _C20),
    ("Curti 2020 O3S2", "O3S2", _C20_O3S2, True, _C20_RANGE, np.nan, _TE_STACKS, _C20),
)

CALIBRATIONS = {row[0]: Calibration(*row) for row in _ROWS}
"""Name -> `Calibration`; called with a line table, each gives value, error and whether it is valid."""

o3n2_pp04 = CALIBRATIONS["PP04 O3N2"]


def metallicity(line_table, *, calibration="PP04 O3N2", deredden=False, min_sn=None, n_draws=0, seed=None):
    """Gas metallicities of galaxies from their lines, with what is missing counted and explained.

    The calibrations hold where stars ionise the gas: leave AGN out (`spectool.measure.classes`).

    Parameters
    ----------
    line_table : Dataset
        ``line_flux``, ``line_flux_error`` (..., line), any unit.
    calibration : str
        One of `CALIBRATIONS`.
    deredden : bool
        Correct for dust by the Balmer decrement first.
    min_sn : float or dict of str to float, optional
        Lowest S/N of every line of the calibration, or of the lines named; default S/N > 15 in Hα.
    n_draws : int
        0: errors to first order. More: half of the 16-84% range of that many draws of the fluxes, dust included;
        better where a line's S/N is below some 5, too small near the calibration's ends.
    seed : int or numpy.random.Generator, optional
        For the draws.

    Returns
    -------
    Dataset
        The table's columns without ``line``, and ``oxygen``, ``oxygen_error`` [dex] (NaN if not valid),
        ``valid``, ``reason`` (one of `_REASONS`). The calibration's own scatter is not in the errors, but in the
        attributes of ``oxygen``, with scale, reference and the Sun's value.

    Raises
    ------
    ValueError
        If the calibration is unknown, a line is not in the table, or the dust was taken out already.
    """
    if calibration not in CALIBRATIONS:
        raise ValueError(f"unknown calibration {calibration!r}: choose from {', '.join(CALIBRATIONS)}")
    rule = CALIBRATIONS[calibration]
    if n_draws and seed is None:
        raise ValueError("draws need a seed")
    lines = deredden_lines(line_table) if deredden else line_table
    result, code = rule(lines), _why_not(line_table, lines, rule, min_sn)
    valid, spread = code == 0, result.error
    if n_draws:
        spread = _drawn_error(line_table, rule, deredden, n_draws, np.random.default_rng(seed))
    keep = lines.drop_vars([n for n in lines.variables if {"line", "wavelength"} & set(lines[n].dims)])
    dims = pick(line_table, "line_flux", rule.lines[0]).dims
    attrs = {"units": "dex", "calibration": rule.name, "reference": rule.reference, "scale": rule.scale}
    attrs |= {"description": "12 + log(O/H)", "oxygen_sun": SOLAR_OXYGEN, "calibration_scatter": rule.scatter}
    out = keep.assign(
        oxygen=(dims, np.where(valid, result.value, np.nan), attrs),
        oxygen_error=(dims, np.where(valid, spread, np.nan), {"units": "dex"}),
        valid=(dims, valid, {"units": ""}),
        reason=(dims, np.array(_REASONS)[code], {"units": ""}),
    )
    text = f"{rule.name}: {int(valid.sum())} of {valid.size} have a metallicity; {_count_reasons(code, _REASONS)}"
    return add_history(out, text)


def _why_not(given, lines, rule, min_sn):
    """Index into `_REASONS`; S/N and signs are those of the fluxes as given."""
    cuts = _MIN_SN if min_sn is None else min_sn
    cuts = cuts if isinstance(cuts, dict) else dict.fromkeys(rule.lines, float(cuts))
    code = np.where(rule(lines).valid, 0, 5).astype(np.int8)
    for corrected in _fluxes(lines, rule.lines)[0].values():
        code[~np.isfinite(corrected)] = 4
    flux, error = _fluxes(given, dict.fromkeys((*rule.lines, *cuts)))
    return _why_unusable(flux, error, cuts, code)


def _drawn_error(line_table, rule, deredden, n_draws, rng):
    """Half the 16th to 84th percentile of the metallicity over draws of the fluxes."""
    names = list(dict.fromkeys((*rule.lines, "Hα", "Hβ"))) if deredden else list(rule.lines)
    table = line_table.sel(line=names)[["line_flux", "line_flux_error"]]
    order = (*(d for d in table["line_flux"].dims if d != "line"), "line")
    flux, error = (table[n].transpose(*order).values.astype(float) for n in table)
    lines = {"line": names, "line_wavelength": ("line", [LINES[name] for name in names])}
    shape, flat = flux.shape[:-1], (-1, len(names))
    flux, error = flux.reshape(flat), error.reshape(flat)
    spread, step = np.full(len(flux), np.nan), max(1, _CHUNK // (n_draws * len(names)))
    for first in range(0, len(flux), step):
        part = slice(first, first + step)
        noise = rng.standard_normal((n_draws, *flux[part].shape))
        drawn = flux[part] + error[part] * noise
        columns = {"line_flux": drawn, "line_flux_error": np.broadcast_to(error[part], drawn.shape)}
        draws = xr.Dataset({n: (("draw", "galaxy", "line"), v) for n, v in columns.items()}, coords=lines)
        values = rule(deredden_lines(draws, min_sn=-np.inf) if deredden else draws).value
        known = np.isfinite(values).sum(axis=0) > n_draws / 2
        low, high = np.nanpercentile(values[:, known], [16, 84], axis=0)
        spread[part][known] = 0.5 * (high - low)
    return spread.reshape(shape)
