"""Emission-line fluxes of tens of thousands of spectra by batched linear least squares."""

from dataclasses import dataclass

import numpy as np
import torch

from spectool.measure.balmer import balmer_absorption
from spectool.measure.linear_basis import ContinuumBasis, continuum_basis
from spectool.measure.linear_blocks import KinematicPrior, LineEliminator
from spectool.measure.linear_design import DOUBLETS, KM_S, STRONG, WAVELENGTHS, LineDesign, build_design
from spectool.measure.linear_solver import (
    ContinuumOperator,
    broad_lines,
    build_operator,
    factorize,
    gaussian_on_pixels,
    solve,
    solve_lines,
)
from spectool.measure.linear_table import assemble_table, read_spectra
from spectool.wavelength import pixel_edges

DISPERSIONS = (40.0, 63.0, 100.0, 158.0, 251.0, 398.0)
MEASURED = ("[O II] 3726", "[O II] 3729", "Hδ", "Hγ", "[O III] 4363", "Hβ", "[O III] 4959", "[O III] 5007")
MEASURED += ("[O I]", "[N II] 6548", "Hα", "[N II] 6583", "[S II] 6716", "[S II] 6731")
BROAD = ("Hα", "Hβ")
BROAD_SIGMA = 1500.0
BROAD_SN, BROAD_GAIN = 5.0, 30.0
MIN_COVERAGE = 0.8
MIN_PIXELS = 60
OK, BAD_INPUT, FAILED = 0, 1, 2
PRIOR = KinematicPrior(velocity=100.0, centre=float(np.log(85.0)), log_dispersion=0.5)
_VELOCITY_STEP = 100.0
_MAX_VELOCITY = 300.0
_STEPS = 3  # Gauss-Newton steps of the kinematics
_LOCAL = 4500.0  # km/s on either side of a line in which the residual's rms is taken


@dataclass(frozen=True)
class _Fitter:
    """What all batches share."""

    wavelength: np.ndarray
    edges: np.ndarray
    design: LineDesign
    operator: ContinuumOperator
    all_lines: LineEliminator
    strong_lines: LineEliminator | None
    dispersions: tuple
    free: tuple  # velocity, dispersion: whether they are fitted
    local: torch.Tensor  # (pixel, line): pixels near each line

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
        Test for broad (1500 km/s) Hα and Hβ; where they lower chi2 by 30 at a signal-to-noise ratio of 5, the
        narrow fluxes are those of the fit with them.
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
        profile), ``line_an`` (peak over the residuals' rms within 4500 km/s); per galaxy ``gas_velocity``,
        ``gas_dispersion``, ``chi2`` (per degree of freedom), ``fit_status`` (0 ok, 1 bad input, 2 failed),
        ``fit_message``, ``balmer_absorption_sn``, and with `broad` ``broad_h_alpha_flux``, ``broad_h_alpha_sn``,
        ``broad_gain`` (by how much broad lines lower chi2); and the sample's per-galaxy columns. A line of which
        less than 80% of the profile's weight falls on good pixels is NaN; ``attrs["history"]`` counts these, and
        spectra that could not be fitted.

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
        for first in range(0, spectra.n_galaxies, batch_size):
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
    shapes = [gaussian_on_pixels(WAVELENGTHS[name], BROAD_SIGMA, edges) for name in BROAD if broad]
    operator = build_operator(continuum, np.array(shapes).reshape(-1, wavelength.size))
    widest = np.hypot(max(dispersions), spectra.lsf.max())
    design = build_design(
        lines, wavelength, edges, spectra.lsf, 4 * widest + _MAX_VELOCITY, doublets=doublets
    )
    strong = np.array([i for i, name in enumerate(lines) if name in STRONG], dtype=int)
    strong = strong if strong.size else design.reported
    centre = np.array([WAVELENGTHS[name] for name in lines])
    local = np.abs(wavelength[:, None] / centre - 1) * KM_S <= _LOCAL
    return _Fitter(
        wavelength=wavelength,
        edges=edges,
        design=design,
        operator=operator,
        all_lines=LineEliminator(design, operator),
        strong_lines=LineEliminator(design, operator, strong),
        dispersions=dispersions,
        free=(bool(velocity), len(dispersions) > 1),
        local=torch.from_numpy(local.astype(float)),
    )


def _fit_batch(flux, ivar, fitter, scale, keep_fit):
    """Fit one batch; flux and ivar (batch, n) float64 Tensors. Returns a dict of arrays."""
    operator, design = fitter.operator, fitter.design
    continuum = factorize(flux, ivar, operator, design.width)
    speed, dispersion = _find_kinematics(continuum, fitter)
    n_narrow, n_all = fitter.n_narrow, len(operator.vectors)
    blocks = fitter.all_lines(continuum, speed, dispersion)
    solution, failed = solve(continuum, blocks, n_narrow)
    coefficients = torch.nn.functional.pad(solution.coefficients, (0, n_all - n_narrow))
    column_flux, result = solution.flux, {}
    if operator.n_broad:
        second, failed_too = solve(continuum, blocks, n_all)
        broad_flux, broad_covariance = broad_lines(continuum, blocks, second, n_narrow)
        more = (continuum.whitened[:, n_narrow:] ** 2).sum(1)
        gain = second.gain + more - solution.gain
        error = broad_covariance[:, 0, 0] ** 0.5
        adopt = (broad_flux[:, 0] > BROAD_SN * error) & (gain > BROAD_GAIN) & ~failed_too
        column_flux = torch.where(adopt[:, None], second.flux, column_flux)
        coefficients = torch.where(adopt[:, None], second.coefficients, coefficients)
        result = {"broad_flux": broad_flux[:, 0], "broad_error": error, "broad_gain": gain, "adopted": adopt}
    covariance = _covariance(
        continuum, blocks, (speed, dispersion), column_flux, fitter, result.get("adopted")
    )
    member_flux = column_flux[:, design.column] * torch.from_numpy(design.ratio)
    model = _line_model(blocks.profile, member_flux, fitter)
    stars = coefficients @ operator.vectors
    result |= _describe(flux, ivar, stars, model, continuum, blocks, member_flux, covariance, fitter)
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


def _find_kinematics(continuum, fitter):
    """Velocity and dispersion [km/s] that lower chi2 most, Tensors of shape (batch,)."""
    used = len(fitter.operator.vectors)
    log_nodes = torch.log(torch.tensor(fitter.dispersions, dtype=torch.float64).clamp(min=1.0))
    speed = torch.zeros(len(continuum.whitened), dtype=torch.float64)
    badness = torch.empty(len(speed), len(log_nodes), dtype=torch.float64)
    for i, node in enumerate(log_nodes):
        blocks = fitter.strong_lines(continuum, speed[:1], torch.exp(node)[None])
        badness[:, i] = ((node - PRIOR.centre) / PRIOR.log_dispersion) ** 2
        badness[:, i] -= solve_lines(continuum, blocks, used)[1]
    log_dispersion = _parabola_minimum(log_nodes, badness)
    if fitter.free[0]:
        nodes = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) * _VELOCITY_STEP
        badness = (nodes / PRIOR.velocity).repeat(len(speed), 1) ** 2
        for i, node in enumerate(nodes):
            blocks = fitter.strong_lines(continuum, speed + node, torch.exp(log_dispersion))
            badness[:, i] -= solve_lines(continuum, blocks, used)[1]
        speed = _parabola_minimum(nodes, badness)
    # All lines from here on: a line left out bends the continuum, and with it the width by 3 km/s.
    lines, flux = fitter.all_lines, None
    for _ in range(_STEPS if any(fitter.free) else 0):
        dispersion = torch.exp(log_dispersion)
        blocks = lines(continuum, speed, dispersion)
        flux = solve_lines(continuum, blocks, used)[0] if flux is None else flux
        blocks = lines.with_kinematics(blocks, continuum, speed, dispersion, flux, PRIOR, fitter.free)
        solution = solve_lines(continuum, blocks, used)[0].nan_to_num()
        flux, step = solution[:, :-2], solution[:, -2:]
        speed = speed + (step[:, 0] * PRIOR.velocity).clamp(-_VELOCITY_STEP, _VELOCITY_STEP)
        speed = speed.clamp(-_MAX_VELOCITY, _MAX_VELOCITY)
        log_dispersion = log_dispersion + (step[:, 1] * PRIOR.log_dispersion).clamp(-0.5, 0.5)
        log_dispersion = log_dispersion.clamp(log_nodes[0] - 1, log_nodes[-1])
    return speed, torch.exp(log_dispersion)


def _covariance(continuum, blocks, kinematics, flux, fitter, adopted):
    """Covariance of the columns' fluxes, that from the kinematics included, shape (batch, c, c)."""
    n = flux.shape[1]
    blocks = fitter.all_lines.with_kinematics(blocks, continuum, *kinematics, flux, PRIOR, fitter.free)
    covariance = solve(continuum, blocks, fitter.n_narrow)[0].covariance[:, :n, :n]
    if adopted is None or not adopted.any():
        return covariance
    other = solve(continuum, blocks, len(fitter.operator.vectors))[0].covariance[:, :n, :n]
    return torch.where(adopted[:, None, None], other, covariance)


def _parabola_minimum(nodes, values):
    """Place of the minimum of each row of ``values`` (batch, node) at evenly spaced nodes, shape (batch,)."""
    lowest = values.argmin(1)
    if len(nodes) < 3:
        return nodes[lowest]
    middle = lowest.clamp(1, len(nodes) - 2)
    left, centre, right = (values.gather(1, (middle + i)[:, None])[:, 0] for i in (-1, 0, 1))
    curvature = left - 2 * centre + right
    shift = torch.where(curvature > 0, 0.5 * (left - right) / curvature, (lowest - middle).to(values.dtype))
    step = nodes[1] - nodes[0]
    return nodes[middle] + step * shift.nan_to_num().clamp(-1, 1)


def _line_model(profile, member_flux, fitter):
    """All narrow lines on the spectrum's pixels, shape (batch, n)."""
    design = fitter.design
    padded = torch.zeros(len(member_flux), len(design.edges) - 1, dtype=torch.float64)
    for m, first in enumerate(design.start):
        padded[:, first : first + design.width] += profile[:, m] * member_flux[:, m, None]
    return padded[:, design.width : -design.width]


def _describe(flux, ivar, stars, model, continuum, blocks, member_flux, covariance, fitter):
    """Fluxes, peaks and their errors of the lines asked for, and how good the fit is."""
    design = fitter.design
    reported = design.reported
    ratio = torch.from_numpy(design.ratio[reported])
    error = covariance.diagonal(dim1=1, dim2=2)[:, design.column[reported]] ** 0.5 * ratio
    line_flux = member_flux[:, reported]
    hidden = blocks.coverage[:, reported] < MIN_COVERAGE
    nan = torch.tensor(torch.nan, dtype=torch.float64)
    tip = blocks.profile[:, reported].amax(-1)
    seen = (ivar > 0).to(torch.float64)
    residual = (flux - stars - model) * seen
    rms = ((residual**2) @ fitter.local / (seen @ fitter.local)) ** 0.5
    n_lines = (blocks.coverage @ torch.from_numpy(np.eye(design.n_columns)[design.column]) > 0.2).sum(1)
    freedom = seen.sum(1) - continuum.n_effective - n_lines
    absorbed, absorption_error = balmer_absorption(
        (flux - model) * seen, ivar, torch.from_numpy(fitter.wavelength), _balmer_variance(error, fitter)
    )
    return {
        "flux": torch.where(hidden, nan, line_flux),
        "flux_error": torch.where(hidden, nan, error),
        "peak": torch.where(hidden, nan, line_flux * tip),
        "peak_error": torch.where(hidden, nan, error * tip),
        "an": torch.where(hidden, nan, line_flux * tip / rms),
        "chi2": (residual**2 * ivar).sum(1) / freedom.clamp(min=1),
        "absorption_sn": absorbed / absorption_error,
    }


def _balmer_variance(error, fitter):
    """Variances of the fitted Hδ and Hγ, if they are among the lines."""
    place = {centre: i for i, centre in enumerate(fitter.design.wavelength[fitter.design.reported])}
    if WAVELENGTHS["Hδ"] not in place or WAVELENGTHS["Hγ"] not in place:
        return None
    return tuple((error[:, place[WAVELENGTHS[name]]] ** 2).nan_to_num() for name in ("Hδ", "Hγ"))
