"""Dust in front of the gas: E(B-V) from the Balmer decrement, and line fluxes without it."""

import numpy as np
import xarray as xr

from spectool.extinction import extinction_curve
from spectool.wavelength import LINES

CASE_B = 2.86
"""H-alpha / H-beta without dust: case B, 10,000 K, 100 cm^-3 (Osterbrock & Ferland 2006, Table 4.4)."""

REASONS = ("", "not measured", "flux not positive", "S/N too low")
"""Why a galaxy has no Balmer decrement; the first stands for one that has."""

CORRECTED = ("line_flux", "line_flux_error", "line_peak", "line_peak_error")


def pick(line_table, variable, line):
    """One line's values, whatever other dimensions the table has.

    Parameters
    ----------
    line_table : Dataset
        With dim ``line`` (names).
    variable, line : str

    Returns
    -------
    DataArray
        float64.

    Raises
    ------
    ValueError
        If the table has no such variable, or no such line.
    """
    if variable not in line_table:
        raise ValueError(f"the line table has no `{variable}`, only {sorted(map(str, line_table.data_vars))}")
    if line not in line_table["line"].values:
        raise ValueError(f"the line table has no {line!r}; it has {', '.join(line_table['line'].values)}")
    return line_table[variable].sel(line=line, drop=True).astype(float)


def balmer_decrement(line_table, *, intrinsic=CASE_B, law="CCM89", r_v=3.1, min_sn=3.0):
    """Reddening of the gas from H-alpha / H-beta.

    E(B-V) = 2.5 / (k(Hb) - k(Ha)) log10[(Ha/Hb) / intrinsic] with k = A / E(B-V) of a screen of dust (for instance
    Dominguez et al. 2013, ApJ 763, 145, eqs. 1-4), to first order in the errors of the two fluxes. What noise makes
    negative is set to 0 and counted.

    Parameters
    ----------
    line_table : Dataset
        ``line_flux`` and ``line_flux_error`` (..., line) of H-alpha and H-beta.
    intrinsic : float
        H-alpha / H-beta without dust.
    law : str
        One of `spectool.extinction.extinction_curve`; default Cardelli, Clayton & Mathis (1989).
    r_v : float
    min_sn : float
        Of both lines.

    Returns
    -------
    Dataset
        ``ebv_gas``, ``ebv_gas_error`` [mag], ``a_h_alpha``, ``a_h_alpha_error`` [mag] (NaN where the decrement is
        unusable), ``ebv_clipped`` (bool) and ``dust_reason`` (one of `REASONS`). ``attrs``: ``extinction_law``,
        ``n_clipped`` and a sentence of counts in ``history``.

    Raises
    ------
    ValueError
        If the table lacks a line, or was corrected for dust already.
    """
    _refuse_corrected(line_table)
    flux = {line: pick(line_table, "line_flux", line) for line in ("Hα", "Hβ")}
    error = {line: pick(line_table, "line_flux_error", line) for line in flux}
    code = _why_not(flux, error, min_sn)
    k_alpha, k_beta = extinction_curve([LINES["Hα"], LINES["Hβ"]], law=law, r_v=r_v)
    factor = 2.5 / (k_beta - k_alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = factor * np.log10(flux["Hα"] / flux["Hβ"] / intrinsic)
        relative = np.hypot(error["Hα"] / flux["Hα"], error["Hβ"] / flux["Hβ"])
    usable = code == 0
    clipped = usable & (raw < 0)
    ebv = raw.clip(min=0).where(usable)
    ebv_error = (factor / np.log(10) * relative).where(usable)
    columns = {"ebv_gas": ebv, "ebv_gas_error": ebv_error}
    columns |= {"a_h_alpha": k_alpha * ebv, "a_h_alpha_error": k_alpha * ebv_error}
    out = xr.Dataset({n: v.assign_attrs(units="mag") for n, v in columns.items()})
    out["ebv_clipped"] = clipped.assign_attrs(units="", description="negative E(B-V), set to 0")
    out["dust_reason"] = code.copy(data=np.array(REASONS)[code.values]).assign_attrs(units="")
    counts = [f"{int((code == i).sum())} {name}" for i, name in enumerate(REASONS) if name]
    text = f"{int(usable.sum())} of {usable.size} have a Balmer decrement; {', '.join(counts)}"
    text += f"; {int(clipped.sum())} negative, set to 0"
    law = f"{law}, R_V = {r_v:g}, intrinsic Hα/Hβ = {intrinsic:g}"
    return out.assign_attrs(extinction_law=law, n_clipped=int(clipped.sum()), history=text)


def deredden(line_table, *, ebv=None, intrinsic=CASE_B, law="CCM89", r_v=3.1, min_sn=3.0):
    """Take the dust out of all lines of a table, once.

    Parameters
    ----------
    line_table : Dataset
        With ``line_flux`` and errors (..., line), and ``line_wavelength`` (line,) [Angstrom, rest frame].
    ebv : array_like, optional
        E(B-V) of the gas [mag]; default from `balmer_decrement`, to which the other options go.

    Returns
    -------
    Dataset
        Fluxes and peaks with their errors multiplied by 10^(0.4 A(lambda)), and the columns of
        `balmer_decrement`. Where E(B-V) is unknown the fluxes are NaN. The error of E(B-V), common to all lines, is
        not in their errors: ratios of neighbouring lines hardly feel it. ``attrs["dust_corrected"]`` says how.

    Raises
    ------
    ValueError
        If the table was corrected already, or an `ebv` is negative.
    """
    _refuse_corrected(line_table)
    if ebv is None:
        dust = balmer_decrement(line_table, intrinsic=intrinsic, law=law, r_v=r_v, min_sn=min_sn)
        how, told = dust.attrs["extinction_law"], dust.attrs["history"]
    else:
        like = pick(line_table, "line_flux", str(line_table["line"].values[0]))
        values = np.broadcast_to(np.asarray(ebv, float), like.shape)
        if (values < 0).any():
            raise ValueError(f"E(B-V) = {values[values < 0][0]:g} mag is negative; it is 0 or more")
        dust = xr.Dataset({"ebv_gas": like.copy(data=values).assign_attrs(units="mag")})
        how, told = f"{law}, R_V = {r_v:g}, given E(B-V)", f"{int(np.isnan(values).sum())} unknown"
    curve = extinction_curve(line_table["line_wavelength"].values, law=law, r_v=r_v)
    gain = 10 ** (0.4 * dust["ebv_gas"] * xr.DataArray(curve, dims="line"))
    new = {}
    for name in CORRECTED:
        if name in line_table:
            old = line_table[name]
            new[name] = (old * gain).transpose(*old.dims).assign_attrs(old.attrs)
    before = line_table.attrs.get("history")
    text = f"lines corrected for dust ({how}): {told}"
    attrs = {"dust_corrected": how, "history": f"{before}\n{text}" if before else text}
    return line_table.assign({**new, **dust.data_vars}).assign_attrs(attrs)


def _refuse_corrected(line_table):
    done = line_table.attrs.get("dust_corrected")
    if done:
        raise ValueError(
            f"the lines were corrected for dust already ({done}): a second correction would invent dust. Use the "
            "table as it is, or the one from before"
        )


def _why_not(flux, error, min_sn):
    """Index into `REASONS` by galaxy; the first that applies."""
    code = xr.zeros_like(next(iter(flux.values())), dtype=np.int8)
    for line in flux:
        with np.errstate(divide="ignore", invalid="ignore"):
            low = ~(flux[line] / error[line] >= min_sn)
        code = code.where((code != 0) | ~low, 3)
    for line in flux:
        code = code.where(~(flux[line] <= 0), 2)
    for line in flux:
        known = np.isfinite(flux[line]) & np.isfinite(error[line]) & (error[line] > 0)
        code = code.where(known, 1)
    return code.astype(np.int8)
