"""Spectra in, line table out: the two ends of `spectool.measure.linear_lines`."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from astropy import units as u

from spectool.measure.resolution import line_spread
from spectool.prepare import add_history
from spectool.wavelength import LINES

MIN_PIXELS = 60
OK, BAD_INPUT, FAILED = 0, 1, 2
_MESSAGES = {
    OK: "",
    BAD_INPUT: f"fewer than {MIN_PIXELS} good pixels",
    FAILED: "the normal equations could not be solved",
}
_NOISE_FLOOR = 1e-3  # of the median flux, where the noise has to be guessed


@dataclass(frozen=True)
class Spectra:
    """Arrays of a sample, and what had to be masked.

    Attributes
    ----------
    wavelength, lsf : ndarray, shape (n,)
        [Angstrom], [km/s].
    flux : ndarray, shape (galaxy, n)
    ivar, mask : ndarray, shape (galaxy, n), or None
    units : str
        Of the flux.
    variable : str
    """

    wavelength: np.ndarray
    lsf: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray | None
    mask: np.ndarray | None
    units: str
    variable: str

    @property
    def n_galaxies(self):
        """Number of spectra."""
        return len(self.flux)

    @property
    def has_ivar(self):
        """Whether the noise is known."""
        return self.ivar is not None

    def batch(self, first, last):
        """Flux and ivar as float64 Tensors, both zero in pixels that cannot be used."""
        flux = np.asarray(self.flux[first:last], dtype=float)
        bad = ~np.isfinite(flux)
        if self.mask is not None:
            bad |= self.mask[first:last]
        if self.ivar is None:
            ivar = np.broadcast_to(guess_ivar(np.where(bad, np.nan, flux))[:, None], flux.shape)
        else:
            ivar = np.asarray(self.ivar[first:last], dtype=float)
        bad |= ~np.isfinite(ivar) | ~(ivar > 0)
        return torch.from_numpy(np.where(bad, 0.0, flux)), torch.from_numpy(np.where(bad, 0.0, ivar))


def guess_ivar(flux):
    """Inverse variance of the noise, from each pixel's distance to the mean of its neighbours.

    Parameters
    ----------
    flux : ndarray, shape (batch, n)
        NaN where masked.

    Returns
    -------
    ndarray, shape (batch,)
        From the median absolute distance; the noise is taken to be at least 0.1% of the median flux. 0 where nothing
        is seen.
    """
    distance = np.abs(flux[:, 1:-1] - 0.5 * (flux[:, 2:] + flux[:, :-2]))
    seen = np.isfinite(distance).any(axis=1)
    sigma = np.zeros(len(flux))
    sigma[seen] = 1.4826 / 1.5**0.5 * np.nanmedian(distance[seen], axis=1)
    sigma[seen] = np.maximum(sigma[seen], _NOISE_FLOOR * np.nanmedian(np.abs(flux[seen]), axis=1))
    return np.divide(1.0, sigma**2, out=np.zeros_like(sigma), where=sigma > 0)


def read_spectra(sample, variable, lsf):
    """Take a sample's arrays apart and check them.

    Parameters
    ----------
    sample : Dataset
    variable : str
    lsf : float, array_like (wavelength,) or None
        [km/s]; None for `spectool.measure.resolution.line_spread`.

    Returns
    -------
    Spectra

    Raises
    ------
    ValueError
        If something is missing or has the wrong shape.
    """
    dims = ("galaxy", "wavelength")
    if variable not in sample:
        raise ValueError(
            f"the sample has no variable `{variable}`, only {sorted(map(str, sample.data_vars))}"
        )
    if "wavelength" not in sample.coords or sample["wavelength"].dims != ("wavelength",):
        raise ValueError(
            "lines are fitted on a common rest-frame grid (coordinate `wavelength`): use "
            "spectool.prepare.to_rest_frame and resample first"
        )
    if set(sample[variable].dims) != set(dims):
        raise ValueError(f"`{variable}` has dimensions {sample[variable].dims}, not {dims}")
    wavelength = sample["wavelength"].values.astype(float)
    lsf = line_spread(sample, wavelength) if lsf is None else np.asarray(lsf, float)
    lsf = np.broadcast_to(lsf, wavelength.shape)
    if not (np.isfinite(lsf) & (lsf >= 0)).all():
        raise ValueError("lsf, the sigma of the line-spread function [km/s], must be finite and not negative")
    arrays = {
        name: sample[name].transpose(*dims).values if name in sample else None for name in ("ivar", "mask")
    }
    return Spectra(
        wavelength=wavelength,
        lsf=lsf,
        flux=sample[variable].transpose(*dims).values,
        ivar=arrays["ivar"],
        mask=None if arrays["mask"] is None else arrays["mask"].astype(bool),
        units=sample[variable].attrs.get("units", ""),
        variable=variable,
    )


def assemble_table(sample, parts, lines, spectra, keep_fit):
    """Put the batches together as the line table.

    Parameters
    ----------
    sample : Dataset
        Whose per-galaxy columns are carried over.
    parts : list of dict of ndarray
        Results of the batches.
    lines : tuple of str
    spectra : Spectra
    keep_fit : bool

    Returns
    -------
    Dataset
    """
    result = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    status = np.where(result["failed"], FAILED, OK).astype(np.int8)
    status[result["n_good"] < MIN_PIXELS] = BAD_INPUT
    lost = status != OK
    flux_unit = u.Unit(spectra.units)
    area = (flux_unit * u.AA).to_string()
    with np.errstate(invalid="ignore", divide="ignore"):
        result["sn"] = result["flux"] / result["flux_error"]
        result["absorption_sn"] = -np.fmin(result["net_h_alpha_sn"], result["net_h_beta_sn"])
        if "broad_flux" in result:
            result["broad_sn"] = result["broad_flux"] / result["broad_error"]
    by_line = {
        "line_flux": ("flux", area),
        "line_flux_error": ("flux_error", area),
        "line_sn": ("sn", ""),
        "line_peak": ("peak", spectra.units),
        "line_peak_error": ("peak_error", spectra.units),
        "line_an": ("an", ""),
    }
    by_galaxy = {
        "gas_velocity": ("velocity", "km / s"),
        "gas_dispersion": ("dispersion", "km / s"),
        "chi2": ("chi2", ""),
        "net_h_alpha_sn": ("net_h_alpha_sn", ""),
        "net_h_beta_sn": ("net_h_beta_sn", ""),
        "balmer_absorption_sn": ("absorption_sn", ""),
        "broad_h_alpha_flux": ("broad_flux", area),
        "broad_h_alpha_sn": ("broad_sn", ""),
        "broad_h_alpha_ew": ("broad_width", "Angstrom"),
        "broad_gain": ("broad_gain", ""),
    }
    columns = {name: sample[name] for name in sample.variables if sample[name].dims == ("galaxy",)}
    table = xr.Dataset(columns, attrs=dict(sample.attrs))
    centre = [LINES[name] for name in lines]
    table = table.assign_coords(
        line=("line", list(lines)),
        line_wavelength=("line", centre, {"units": "Angstrom", "description": "vacuum"}),
    )
    for name, (key, units) in by_line.items():
        values = np.where(lost[:, None], np.nan, result[key])
        table[name] = (("galaxy", "line"), values, {"units": units})
    for name, (key, units) in by_galaxy.items():
        if key in result:
            table[name] = ("galaxy", np.where(lost, np.nan, result[key]), {"units": units})
    table["fit_status"] = ("galaxy", status, {"units": "", "description": "0 ok, 1 bad input, 2 failed"})
    table["fit_message"] = ("galaxy", np.array([_MESSAGES[int(s)] for s in status], dtype=object).astype(str))
    if keep_fit:
        table = table.assign_coords(wavelength=sample["wavelength"])
        for name in ("continuum", "line_model"):
            values = np.where(lost[:, None], np.nan, result[name]).astype(np.float32)
            table[name] = (("galaxy", "wavelength"), values, {"units": spectra.units})
    return add_history(table, _summary(table, spectra, result))


def _summary(table, spectra, result):
    """What was fitted, and what could not be, in one line."""
    status = table["fit_status"].values
    text = (
        f"lines measured in `{spectra.variable}` by linear least squares: {len(status)} spectra, "
        f"{(status == BAD_INPUT).sum()} with too few good pixels, {(status == FAILED).sum()} failed"
    )
    not_finite = int((~np.isfinite(spectra.flux)).sum())
    if not_finite:
        text += f"; {not_finite} pixels with flux not finite left out"
    missing = np.isnan(table["line_flux"].values[status == OK]).sum(axis=0)
    missed = [f"{name}: {count}" for name, count in zip(table["line"].values, missing, strict=True) if count]
    if missed:
        text += "; lines masked or out of range, " + ", ".join(missed)
    if not spectra.has_ivar:
        text += "; no ivar given: noise guessed from neighbouring pixels"
    if "adopted" in result:
        text += f"; {int(result['adopted'][status == OK].sum())} with broad Balmer lines"
    return text
