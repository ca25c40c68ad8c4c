"""Emission-line fluxes as sums weighted by a Gaussian, on continuum-subtracted spectra: thousands per second.

The continuum is fitted outside the lines (`spectool.measure.line_design`); what is left is weighted with the profile
that lines of one common width have (Horne 1986, PASP 98, 609), neighbours that overlap together. Used to select mock
galaxies (Zahid et al. 2019, Section 3.1) from hundreds of thousands of candidates.
"""

from dataclasses import dataclass

import numpy as np
import torch

from spectool.measure.line_design import (
    DOUBLETS,
    NUISANCE,
    continuum_templates,
    gaussian_on_pixels,
)
from spectool.measure.line_spectra import read_spectra
from spectool.measure.line_table import flux_units, line_columns
from spectool.papers.zahid2019.sample import MEASURED, observe_candidates, to_angstrom
from spectool.prepare import add_history
from spectool.spectra import KM_S, LINES, pixel_edges

DISPERSIONS = tuple(30.0 * 1.15 ** np.arange(17))
"""Gas dispersions to try [km/s], 30-281."""
N_COMPONENTS, DEGREE = 16, 4
MASKED_VELOCITY = 900.0
"""Half width [km/s] of the windows around lines that the continuum's fit leaves out."""
MIN_SEEN = 0.2
"""Share of a profile on good pixels that a flux needs: 4959 alone gives [O III], the rest of a line the line."""
MIN_PIXELS = 200


@dataclass(frozen=True)
class _Design:
    """What all batches share: continuum vectors and line profiles, as float32 tensors."""

    vectors: torch.Tensor  # (k, n)
    pairs: tuple  # of the upper triangle of a (k, k) matrix
    products: torch.Tensor  # (n, k (k + 1) / 2)
    precision: torch.Tensor  # (k,), float64
    outside: torch.Tensor  # (n,): 1 outside all lines
    profiles: torch.Tensor  # (width, line, n)
    overlaps: torch.Tensor  # (width, n, line (line + 1) / 2)
    line_pairs: tuple
    shares: torch.Tensor  # (n, line): weight of each pixel in a line of middle width


def measure_candidates(galaxies, *, seed):
    """Observe candidates and measure their lines."""
    seen = observe_candidates(galaxies, seed=seed)
    lines = measure_gaussian_lines(seen.drop_dims("line"))
    return to_angstrom(seen).assign({n: lines[n] for n in ("line_flux", "line_sn", "gas_dispersion")})


def measure_gaussian_lines(
    sample, *, lines=MEASURED, dispersions=DISPERSIONS, lsf=None, continuum=None, batch_size=512
):
    """Line fluxes of spectra at rest, on one common grid."""
    spectra = read_spectra(sample, "flux", lsf)
    design = _make_design(spectra, tuple(lines), tuple(dispersions), continuum)
    parts = []
    with torch.inference_mode():
        for first in range(0, max(len(spectra.flux), 1), batch_size):
            flux, ivar = spectra.weights(slice(first, first + batch_size))
            flux = torch.from_numpy(np.where(ivar > 0, flux, 0.0))
            parts.append(_measure_batch(flux, torch.from_numpy(ivar), design))
    flux, error, place = (torch.cat([part[k] for part in parts]).numpy() for k in range(3))
    width = np.exp(np.interp(place, np.arange(len(dispersions)), np.log(np.maximum(dispersions, 1e-3))))
    return _assemble(sample, lines, flux, error, np.where(np.isfinite(place), width, np.nan), spectra)


def _make_design(spectra, lines, dispersions, continuum):
    wavelength = spectra.wavelength
    if continuum is None:
        continuum = continuum_templates(wavelength, n_components=N_COMPONENTS, degree=DEGREE)
    vectors = torch.from_numpy(continuum.vectors.astype("f4"))
    k, m = np.triu_indices(len(vectors))
    a, b = np.triu_indices(len(lines))
    edges, shapes = pixel_edges(wavelength), np.zeros((len(dispersions), len(lines), wavelength.size))
    for i, name in enumerate(lines):
        members = [(name, 1.0)] + ([DOUBLETS[name]] if name in DOUBLETS else [])
        members = [member for member in members if member[0] == name or member[0] not in lines]
        for member, share in members:
            lsf = np.interp(LINES[member], wavelength, spectra.lsf)
            for j, dispersion in enumerate(dispersions):
                sigma = LINES[member] * np.hypot(dispersion, lsf) / KM_S
                shapes[j, i] += share * gaussian_on_pixels(edges, LINES[member], sigma)
    centres = np.array([*LINES.values(), *(centre for group in NUISANCE for centre, _ in group)])
    offset = np.abs(wavelength[:, None] / centres - 1).min(axis=1) * KM_S
    profiles = torch.from_numpy(shapes.astype("f4"))
    middle = profiles[len(dispersions) // 2]
    return _Design(
        vectors=vectors,
        pairs=(k, m),
        products=(vectors[k] * vectors[m]).T.contiguous(),
        precision=torch.from_numpy(continuum.spread**-2.0),
        outside=torch.from_numpy((offset > MASKED_VELOCITY).astype("f4")),
        profiles=profiles,
        overlaps=(profiles[:, a] * profiles[:, b]).transpose(1, 2).contiguous(),
        line_pairs=(a, b),
        shares=(middle / middle.sum(dim=1, keepdim=True).clamp(min=1e-30)).T.contiguous(),
    )


def _measure_batch(flux, ivar, design):
    """Fluxes, errors (batch, line) and the dispersion's place among those tried (batch,), float64."""
    enough = (ivar > 0).sum(1) >= MIN_PIXELS
    level = ((flux * ivar).sum(1) / ivar.sum(1).clamp(min=1e-300)).abs().clamp(min=1e-12)
    scaled, weight = (flux / level[:, None]).float(), (ivar * level[:, None] ** 2).float()
    left, covariance = _subtract_continuum(scaled, weight, design)
    coefficients, gains, grams = _weigh(left, weight, design)
    best = gains.argmax(dim=1)
    shift = _vertex(gains, best)
    rows = torch.arange(len(best))
    result = _interpolate(coefficients, best, shift)
    noise = torch.linalg.inv(grams[rows, best])
    lever = _lever(weight, best, design)
    spread = noise @ lever
    total = noise + spread @ covariance @ spread.transpose(1, 2)
    error = torch.diagonal(total, dim1=1, dim2=2).clamp(min=0).sqrt()
    seen = (weight > 0).float() @ design.shares
    good = (seen >= MIN_SEEN) & enough[:, None]
    place = torch.where(enough, best + shift, torch.nan)
    blank = torch.full_like(result, torch.nan)
    scale = level[:, None]
    return torch.where(good, result * scale, blank), torch.where(good, error * scale, blank), place


def _subtract_continuum(flux, weight, design):
    """What is left of the flux, and the covariance of the continuum's coefficients (batch, k, k)."""
    outside = weight * design.outside
    k, m = design.pairs
    normal = torch.empty(len(flux), *[len(design.vectors)] * 2, dtype=torch.float64)
    values = (outside @ design.products).double()
    normal[:, k, m], normal[:, m, k] = values, values
    normal += torch.diag(design.precision + 1e-9)
    covariance = torch.linalg.inv(normal)
    right = ((outside * flux) @ design.vectors.T).double()
    solution = (covariance @ right[..., None])[..., 0]
    return flux - solution.float() @ design.vectors, covariance


def _weigh(left, weight, design):
    """For every width: amplitudes (batch, width, line), explained chi2 (batch, width), normal matrices."""
    a, b = design.line_pairs
    n_width, n_line = design.profiles.shape[:2]
    right = ((left * weight) @ design.profiles.reshape(n_width * n_line, -1).T).double()
    right = right.reshape(len(left), n_width, n_line)
    values = (weight @ design.overlaps.permute(1, 0, 2).reshape(design.overlaps.shape[1], -1)).double()
    grams = torch.empty(len(left), n_width, n_line, n_line, dtype=torch.float64)
    values = values.reshape(len(left), n_width, -1)
    grams[..., a, b], grams[..., b, a] = values, values
    # A line without good pixels has an empty row; its flux is blanked later.
    diagonal = torch.diagonal(grams, dim1=-2, dim2=-1)
    diagonal += 1e-12 + 1e-10 * diagonal.amax(dim=-1, keepdim=True)
    amplitudes = torch.linalg.solve(grams, right[..., None])[..., 0]
    return amplitudes, (amplitudes * right).sum(-1), grams


def _vertex(gains, best):
    """Where between its neighbours the gain peaks, within half a step; 0 at the ends."""
    if gains.shape[1] < 3:
        return torch.zeros(len(best), dtype=gains.dtype)
    middle = best.clamp(1, gains.shape[1] - 2)
    rows = torch.arange(len(best))
    low, here, high = (gains[rows, middle + step] for step in (-1, 0, 1))
    curvature = (low - 2 * here + high).clamp(max=-1e-12)
    shift = (0.5 * (low - high) / curvature).clamp(-0.5, 0.5)
    return torch.where(best == middle, shift, torch.zeros_like(shift))


def _interpolate(values, best, shift):
    """Values (batch, width, line) at `best + shift`, by a parabola through three widths."""
    rows = torch.arange(len(best))
    if values.shape[1] < 3:
        return values[rows, best]
    middle = best.clamp(1, values.shape[1] - 2)
    low, here, high = (values[rows, middle + step] for step in (-1, 0, 1))
    x = (best - middle + shift)[:, None]
    return here + 0.5 * x * (high - low) + 0.5 * x**2 * (high - 2 * here + low)


def _lever(weight, best, design):
    """How the continuum's coefficients move the weighted sums, (batch, line, k)."""
    result = torch.empty(len(weight), design.profiles.shape[1], len(design.vectors), dtype=torch.float64)
    for width in torch.unique(best):
        rows = torch.nonzero(best == width)[:, 0]
        shape = (design.profiles[width][:, None] * design.vectors).reshape(-1, design.vectors.shape[1])
        result[rows] = (weight[rows] @ shape.T).double().reshape(len(rows), *result.shape[1:])
    return result


def _assemble(sample, lines, flux, error, dispersion, spectra):
    table, units = line_columns(sample, lines), flux_units(spectra)
    dims = ("galaxy", "line")
    with np.errstate(invalid="ignore", divide="ignore"):
        table["line_sn"] = (dims, flux / error, {"units": ""})
    table["line_flux"] = (dims, flux, {"units": units})
    table["line_flux_error"] = (dims, error, {"units": units})
    table["gas_dispersion"] = ("galaxy", dispersion, {"units": "km / s"})
    missing = np.isnan(flux).sum(axis=0)
    text = f"lines weighted with a Gaussian in `flux`: {len(flux)} spectra"
    text += f", {int(np.isnan(dispersion).sum())} with fewer than {MIN_PIXELS} good pixels"
    missed = [f"{name}: {count}" for name, count in zip(lines, missing, strict=True) if count]
    return add_history(
        table, text + ("; lines masked or out of range, " + ", ".join(missed) if missed else "")
    )
