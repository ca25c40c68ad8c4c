"""Emission-line fluxes of tens of thousands of spectra by batched linear least squares."""

from dataclasses import dataclass

import numpy as np
import torch

from spectool.measure.linear_basis import ContinuumBasis, continuum_basis
from spectool.measure.linear_blocks import LineEliminator
from spectool.measure.linear_design import DOUBLETS, KM_S, STRONG, LineDesign, build_design
from spectool.measure.linear_kinematics import MAX_VELOCITY, find_kinematics
from spectool.measure.linear_results import describe, line_model
from spectool.measure.linear_solver import (
    ContinuumOperator,
    broad_lines,
    build_operator,
    covariance_of,
    factorize,
    gaussian_on_pixels,
    solve,
)
from spectool.measure.linear_table import assemble_table, read_spectra
from spectool.wavelength import LINES, pixel_edges

DISPERSIONS = (40.0, 63.0, 100.0, 158.0, 251.0, 398.0)
MEASURED = ("[O II] 3726", "[O II] 3729", "Hδ", "Hγ", "[O III] 4363", "Hβ", "[O III] 4959", "[O III] 5007")
MEASURED += ("[O I]", "[N II] 6548", "Hα", "[N II] 6583", "[S II] 6716", "[S II] 6731")
BROAD = ("Hα", "Hβ")
BROAD_SIGMA = 1500.0
BROAD_SN, BROAD_GAIN, BROAD_WIDTH = 5.0, 30.0, 5.0
_LOCAL = 4500.0  # km/s on either side of a line in which the residual's rms is taken


@dataclass(frozen=True)
class Fitter:
    """What all batches share; see `measure_lines_linear`."""

    wavelength: np.ndarray
    edges: np.ndarray
    design: LineDesign
    operator: ContinuumOperator
    all_lines: LineEliminator
    strong_lines: LineEliminator | None
    dispersions: tuple
    free: tuple  # velocity, dispersion: whether they are fitted
    local: torch.Tensor  # (pixel, line): pixels near each line
    broad_pixel: int  # where broad Hα peaks

    @property
    def n_narrow(self):
        """Vectors of the operator without the broad lines."""
        return len(self.operator.vectors) - self.operator.n_broad


def measure_lines_linear(
    sample,
    *,
    lines=None,
    variable="flux",
    dispersions=DISPERSIONS,
    velocity=True,
    lsf=None,
    continuum="templates",
    broad=True,
    doublets=DOUBLETS,
    scale_errors=False,
    keep_fit=False,
    batch_size=512,
    grid=None,
):
    """Fit continuum and emission lines of spectra on a common rest-frame grid.

    All lines share one velocity and one intrinsic dispersion per galaxy, found from the strong ones: the
    dispersion among `dispersions` and by a parabola between, then the velocity, both with a broad prior that decides
    where there are no lines. With these fixed, the fit is linear: a continuum basis whose coefficients
    have the spread of stellar populations as a Gaussian prior (`continuum_basis`), and lines as Gaussians
    integrated over pixels, free in flux but for the tied doublets, and of either sign. Errors are those of the
    posterior, the continuum's uncertainty included, for the kinematics found.

    Parameters
    ----------
    sample : Dataset
        dims (galaxy, wavelength): `variable`, optionally ``ivar`` and ``mask``; coordinate ``wavelength``
        (wavelength,) [Angstrom, vacuum, rest frame]. Without ``ivar`` the noise is guessed from neighbouring
        pixels, and errors are scaled by the residuals.
    lines : sequence of str, optional
        Names in `spectool.wavelength.LINES`; default `spectool.measure.lines.MEASURED`. Others that would disturb
        them are fitted as well.
    variable : str
        The variable to fit: ``flux``, ``noisy``, ``truth``...
    dispersions : tuple of float
        Gas dispersions to try [km/s], intrinsic, evenly spaced in their logarithm.
    velocity : bool
        Fit a common velocity offset of up to 250 km/s.
    lsf : float or array_like (wavelength,), optional
        Sigma of the line-spread function [km/s]. Default: `spectool.measure.resolution.line_spread`.
    continuum : {"templates"} or ContinuumBasis
    broad : bool
        Test for broad (sigma 1500 km/s) Hα and Hβ. Where they lower chi2 by 30, and broad Hα has a signal-to-noise
        ratio of 5 and an equivalent width of 5 Angstrom, the narrow fluxes are those of the fit with them.
    doublets : dict
        As `spectool.measure.linear_design.DOUBLETS`.
    scale_errors : bool
        Multiply errors by sqrt(chi2) where it exceeds 1.
    keep_fit : bool
        Return ``continuum`` and ``line_model`` (galaxy, wavelength).
    batch_size : int
    grid : SSPGrid, optional
        For the continuum; default the embedded one.

    Returns
    -------
    Dataset, dims (galaxy, line)
        ``line_flux``, ``line_flux_error``, ``line_sn``, ``line_peak``, ``line_peak_error`` (of the pixel-integrated
        profile), ``line_an`` (peak over the residuals' rms within 4500 km/s). Per galaxy: ``gas_velocity``,
        ``gas_dispersion``, ``chi2`` (per degree of freedom), ``fit_status`` (0 ok, 1 bad input, 2 failed),
        ``fit_message``; ``net_h_alpha_sn``, ``net_h_beta_sn`` of the lines above a local continuum, stars and all, as a
        survey's pipeline has them, and ``balmer_absorption_sn``, the deeper of these two, positive in absorption;
        with `broad`, ``broad_h_alpha_flux``, ``broad_h_alpha_sn``, ``broad_h_alpha_ew`` and ``broad_gain`` (by how much
        broad lines lower chi2, in units of the chi2 per pixel if that exceeds 1); and the sample's per-galaxy columns.
        A line of which less than 80% of the profile's weight falls on good pixels is NaN; ``attrs["history"]`` counts
        these, and spectra that could not be fitted.

    Raises
    ------
    ValueError
        If a variable or the wavelengths are missing or do not fit, or a line is unknown.
    """
    if lines is None:
        lines = MEASURED
    spectra = read_spectra(sample, variable, lsf)
    if len(dispersions) < 1 or min(dispersions) < 0:
        raise ValueError(f"dispersions must be at least one and not negative, not {dispersions}")
    fitter = _prepare(spectra, tuple(lines), tuple(dispersions), continuum, velocity, broad, doublets, grid)
    scale = "upwards" if scale_errors else None
    scale = scale if spectra.has_ivar else "always"
    parts = []
    with torch.inference_mode():
        for first in range(0, max(spectra.n_galaxies, 1), batch_size):
            flux, ivar = spectra.batch(first, first + batch_size)
            parts.append(_fit_batch(flux, ivar, fitter, scale, keep_fit))
    return assemble_table(sample, parts, tuple(lines), spectra, keep_fit)


def _prepare(spectra, lines, dispersions, continuum, velocity, broad, doublets, grid):
    wavelength = spectra.wavelength
    edges = pixel_edges(wavelength)
    if isinstance(continuum, str):
        if continuum != "templates":
            raise ValueError(f"continuum is 'templates' or a ContinuumBasis, not {continuum!r}")
        continuum = continuum_basis(wavelength, grid=grid)
    if not isinstance(continuum, ContinuumBasis) or continuum.vectors.shape[1] != wavelength.size:
        raise ValueError(f"the continuum basis does not fit spectra of {wavelength.size} pixels")
    shapes = [gaussian_on_pixels(LINES[name], BROAD_SIGMA, edges) for name in BROAD if broad]
    operator = build_operator(continuum, np.array(shapes).reshape(-1, wavelength.size))
    widest = np.hypot(max(dispersions), spectra.lsf.max())
    design = build_design(lines, wavelength, edges, spectra.lsf, 4 * widest + MAX_VELOCITY, doublets=doublets)
    strong = np.array([i for i, name in enumerate(lines) if name in STRONG], dtype=int)
    strong = strong if strong.size else design.reported
    centre = np.array([LINES[name] for name in lines])
    local = np.abs(wavelength[:, None] / centre - 1) * KM_S <= _LOCAL
    return Fitter(
        wavelength=wavelength,
        edges=edges,
        design=design,
        operator=operator,
        all_lines=LineEliminator(design, operator),
        strong_lines=LineEliminator(design, operator, strong),
        dispersions=dispersions,
        free=(bool(velocity), len(dispersions) > 1),
        local=torch.from_numpy(local.astype(float)),
        broad_pixel=int(np.abs(wavelength - LINES[BROAD[0]]).argmin()),
    )


def _fit_batch(flux, ivar, fitter, scale, keep_fit):
    """Fit one batch; flux and ivar (batch, n) float64 Tensors. Returns a dict of arrays."""
    operator, design = fitter.operator, fitter.design
    continuum = factorize(flux, ivar, operator, design.width)
    speed, dispersion, extended = find_kinematics(continuum, fitter)
    n_narrow, n_all = fitter.n_narrow, len(operator.vectors)
    blocks = fitter.all_lines(continuum, speed, dispersion)
    solution, failed = solve(continuum, blocks, n_narrow)
    coefficients = torch.nn.functional.pad(solution.coefficients, (0, n_all - n_narrow))
    column_flux, result = solution.flux, {}
    if operator.n_broad:
        second, failed_too = solve(continuum, blocks, n_all)
        result = _broad_result(continuum, blocks, solution, second, fitter)
        adopt = result["adopted"] & ~failed_too
        result["adopted"] = adopt
        column_flux = torch.where(adopt[:, None], second.flux, column_flux)
        coefficients = torch.where(adopt[:, None], second.coefficients, coefficients)
    covariance = solution.covariance
    if extended is not None:
        covariance = _covariance(continuum, extended, design.n_columns, fitter, result.get("adopted"))
    member_flux = column_flux[:, design.column] * torch.from_numpy(design.ratio)
    model = line_model(design, blocks.profile, member_flux)
    stars = coefficients @ operator.vectors
    residual = torch.where(ivar > 0, flux - stars - model, 0.0)
    result |= describe(residual, ivar, stars, blocks, member_flux, covariance, fitter)
    n_columns = blocks.seen.sum(1)
    freedom = (ivar > 0).sum(1) - continuum.n_effective - n_columns
    result["chi2"] = (residual**2 * ivar).sum(1) / freedom.clamp(min=1)
    result["failed"] = failed | continuum.failed
    result |= {"velocity": speed, "dispersion": dispersion}
    result["n_good"] = (ivar > 0).sum(1)
    if scale:
        factor = result["chi2"] ** 0.5
        factor = (factor if scale == "always" else factor.clamp(min=1))[:, None]
        result |= {name: result[name] * factor for name in ("flux_error", "peak_error")}
    if keep_fit:
        result |= {"continuum": stars, "line_model": model}
    return {name: value.numpy() for name, value in result.items()}


def _broad_result(continuum, blocks, narrow, both, fitter):
    """Broad Hα, and whether to believe in it.

    Stars that the templates do not match leave residuals like broad lines: chi2 is measured in units of what it is per
    pixel, errors with it, and the line must stand out from the continuum.
    """
    n_narrow, n_seen = fitter.n_narrow, (continuum.weighted > 0).sum(1).clamp(min=1)
    flux, covariance = broad_lines(continuum, blocks, both, n_narrow)
    left = continuum.chi2_zero - (continuum.whitened**2).sum(1) - both.gain
    excess = (left / n_seen).clamp(min=1)
    more = (continuum.whitened[:, n_narrow:] ** 2).sum(1)
    gain = (both.gain + more - narrow.gain) / excess
    error = (covariance[:, 0, 0] * excess) ** 0.5
    level = narrow.coefficients @ fitter.operator.vectors[:n_narrow, fitter.broad_pixel]
    width = torch.where(level > 0, flux[:, 0] / level, torch.nan)
    adopted = (flux[:, 0] > BROAD_SN * error) & (gain > BROAD_GAIN) & (width > BROAD_WIDTH)
    return {
        "broad_flux": flux[:, 0],
        "broad_error": error,
        "broad_gain": gain,
        "broad_width": width,
        "adopted": adopted,
    }


def _covariance(continuum, extended, n, fitter, adopted):
    """Covariance of the first n columns' fluxes, that from the kinematics included, shape (batch, n, n)."""
    covariance = covariance_of(continuum, extended, fitter.n_narrow)[:, :n, :n]
    if adopted is None or not adopted.any():
        return covariance
    other = covariance_of(continuum, extended, len(fitter.operator.vectors))[:, :n, :n]
    return torch.where(adopted[:, None, None], other, covariance)
