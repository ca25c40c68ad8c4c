"""The sample of Surana et al. (2020, Section 2.1): its cuts, and what each of them costs beside the paper's count."""

import numpy as np
import xarray as xr

PAPER_TOTAL = 120_114
PAPER_LEFT = 76_455
PAPER_FAILING = {
    "redshift": 2_173,
    "mass": 4_867,
    "missing band": 36_768,
    "negative flux": 110,
    "signal-to-noise": np.nan,  # "only reducing the sample size by a small fraction"
}
"""Galaxies that fail each cut. They add up to 43,918, more than the 43,659 that the paper loses: some fail several."""


def select_surana2020(
    sample,
    *,
    max_redshift=0.5,
    min_log_mass=9.0,
    drop_missing=True,
    drop_negative=True,
    min_bands=6,
    min_sn=3.0,
):
    """Apply the paper's cuts, one after the other, and count.

    Kept are galaxies with 0 < z <= 0.5, at least 10^9 Msun, a flux in every band, none below zero, and at least six
    bands at a signal-to-noise ratio of 3 or more.

    Parameters
    ----------
    sample : xarray.Dataset, dims (galaxy, band)
        ``flux``, ``flux_error``, ``mask``, ``redshift``, ``log_mass`` (in the paper that of MAGPHYS).
    max_redshift, min_log_mass : float
    drop_missing, drop_negative : bool
        False: leave that cut out, for models that take missing bands and negative fluxes.
    min_bands, min_sn : int, float

    Returns
    -------
    selected : xarray.Dataset
        The galaxies kept, with the counts in ``attrs["history"]``.
    cuts : xarray.Dataset, dim (cut)
        ``failing`` (of the whole sample, also where a cut is left out), ``lost`` (of what the cuts before left),
        ``left``, ``failing_fraction``; the paper's ``paper_failing`` (NaN where it gives none),
        ``paper_failing_fraction``. In ``attrs``: ``total``, ``left``, ``left_fraction``, ``paper_total``,
        ``paper_left``, ``paper_left_fraction``.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    missing = [name for name in ("flux", "flux_error", "mask", "redshift", "log_mass") if name not in sample]
    if missing:
        raise ValueError(f"the sample lacks {', '.join(missing)}")
    flux, error, gap = (
        sample[name].transpose("galaxy", "band").values for name in ("flux", "flux_error", "mask")
    )
    z, log_mass = sample["redshift"].values, sample["log_mass"].values
    signal = np.divide(flux, error, out=np.full(flux.shape, -np.inf), where=~gap & (error > 0))
    fails = {
        "redshift": ~((z > 0) & (z <= max_redshift)),
        "mass": ~(log_mass >= min_log_mass),
        "missing band": gap.any(axis=1),
        "negative flux": (~gap & (flux < 0)).any(axis=1),
        "signal-to-noise": (signal >= min_sn).sum(axis=1) < min_bands,
    }
    left_out = {"missing band": not drop_missing, "negative flux": not drop_negative}
    kept, lost = np.ones(z.size, bool), []
    for name, fail in fails.items():
        fail = fail & (not left_out.get(name))
        lost.append(int((kept & fail).sum()))
        kept &= ~fail
    failing = np.array([fail.sum() for fail in fails.values()])
    theirs = np.array(list(PAPER_FAILING.values()))
    cuts = xr.Dataset(
        {
            "failing": ("cut", failing, {"units": ""}),
            "lost": ("cut", np.array(lost), {"units": ""}),
            "left": ("cut", z.size - np.cumsum(lost), {"units": ""}),
            "failing_fraction": ("cut", failing / max(z.size, 1), {"units": ""}),
            "paper_failing": ("cut", theirs, {"units": ""}),
            "paper_failing_fraction": ("cut", theirs / PAPER_TOTAL, {"units": ""}),
        },
        coords={"cut": list(fails)},
        attrs={
            "total": z.size,
            "left": int(kept.sum()),
            "left_fraction": float(kept.mean()) if z.size else 0.0,
            "paper_total": PAPER_TOTAL,
            "paper_left": PAPER_LEFT,
            "paper_left_fraction": PAPER_LEFT / PAPER_TOTAL,
        },
    )
    steps = ", ".join(f"{name} {count}" for name, count in zip(fails, lost, strict=True))
    text = f"cuts of Surana et al. (2020): {kept.sum()} of {z.size} galaxies left; lost: {steps}"
    selected = sample.isel(galaxy=np.flatnonzero(kept))
    history = f"{sample.attrs.get('history', '')}\n{text}".strip()
    return selected.assign_attrs(history=history), cuts
