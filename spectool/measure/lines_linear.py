"""Emission lines by one linear solve for a batch of spectra."""

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import torch

from spectool.measure.line_design import (
    DOUBLETS,
    MEASURED,
    STRONG,
    ContinuumTemplates,
    build_design,
    continuum_templates,
    gaussian_on_pixels,
    profile_slopes,
    profiles,
)
from spectool.measure.line_spectra import read_spectra
from spectool.measure.line_table import BAD_INPUT, FAILED, OK, assemble_table, flux_units
from spectool.prepare import add_history
from spectool.spectra import KM_S, LINES, pixel_edges

_RIDGE = 1e-9
_FEWEST = 0.05  # of a column in good pixels, for it to be fitted
_MIN_COVERAGE = 0.8  # of a line's profile in good pixels, for its flux to be reported
_MIN_PIXELS = 60
_LOCAL = 4500.0  # km/s on either side of a line in which the residual's rms is taken
DISPERSIONS = (40.0, 63.0, 100.0, 158.0, 251.0, 398.0)
# Priors: velocity about 0 [km/s], natural log of the dispersion [km/s] about a centre.
_PRIOR_VELOCITY, _PRIOR_CENTRE, _PRIOR_LOG_DISPERSION = 100.0, float(np.log(70.0)), 0.5
_MAX_VELOCITY, _VELOCITY_STEP = 300.0, 100.0
_STEPS = 3  # of Gauss and Newton
_BROAD, _BROAD_SIGMA = ("Hα", "Hβ"), 1500.0
_BROAD_SN, _BROAD_GAIN, _BROAD_WIDTH = 5.0, 30.0, 5.0  # what broad lines have to bring to be used
_NET_SIGMA = 250.0  # km/s, pixels of 276 km/s included: between an emission line and the stars' absorption
_NET_REACH = 2500.0  # km/s on either side
_NET_SEEN = 0.6


def build_operator(basis, broad):
    """What depends on the pixels alone: vectors, of which the last are broad lines, their products and priors."""
    vectors = torch.from_numpy(np.concatenate([basis.vectors, broad]))
    first, second = torch.tril_indices(len(vectors), len(vectors))
    spread = np.concatenate([basis.spread, np.full(len(broad), np.inf)])
    products = (vectors[first] * vectors[second]).T.contiguous()
    spread = torch.from_numpy(spread)
    return SimpleNamespace(vectors=vectors, products=products, spread=spread, n_broad=len(broad))


def factorize(flux, ivar, operator, width):
    """A batch's normal equations of the continuum, by their Cholesky factor."""
    vectors = operator.vectors
    n = len(vectors)
    first, second = torch.tril_indices(n, n)
    normal = torch.empty(len(flux), n, n, dtype=torch.float64)
    packed = ivar @ operator.products
    normal[:, first, second] = packed
    normal[:, second, first] = packed
    data = ivar * flux
    right = data @ vectors.T
    diagonal = normal.diagonal(dim1=1, dim2=2)
    amplitude, error = right[:, 0] / diagonal[:, 0], diagonal[:, 0] ** -0.5
    amplitude = torch.maximum(amplitude.abs(), error)
    prior = (operator.spread * amplitude[:, None]) ** -2
    n_effective = (diagonal / (diagonal + prior)).nan_to_num().sum(1)
    diagonal += prior + _RIDGE * diagonal + (diagonal == 0)
    factor, failed = _cholesky(normal, right)
    whitened = torch.linalg.solve_triangular(factor, right[..., None], upper=False)[..., 0]
    pad = (width, width)
    return SimpleNamespace(
        factor=factor,
        whitened=whitened,
        chi2_zero=(data * flux).sum(1),
        weighted=torch.nn.functional.pad(ivar, pad),
        data=torch.nn.functional.pad(data, pad),
        n_effective=n_effective,
        failed=failed,
    )


def solve_lines(continuum, blocks, used):
    """Amplitudes alone."""
    factor, right, _ = _schur(continuum, blocks, used)
    flux = torch.cholesky_solve(right[..., None], factor)[..., 0]
    return flux, (right * flux).sum(1)


def solve(continuum, blocks, used):
    """Solve for the lines, then for the continuum."""
    factor, right, failed = _schur(continuum, blocks, used)
    covariance = torch.cholesky_inverse(factor)
    flux = (covariance @ right[..., None])[..., 0]
    whitened = blocks.whitened[:, :used]
    rest = continuum.whitened[:, :used] - (whitened @ flux[..., None])[..., 0]
    lower = continuum.factor[:, :used, :used]
    coefficients = torch.linalg.solve_triangular(lower.mT, rest[..., None], upper=True)[..., 0]
    parts = {
        "flux": flux,
        "covariance": covariance,
        "gain": (right * flux).sum(1),
        "coefficients": coefficients,
    }
    return SimpleNamespace(**parts), failed


def _schur(continuum, blocks, used):
    whitened = blocks.whitened[:, :used]
    matrix = blocks.normal - whitened.mT @ whitened
    right = blocks.right - (whitened.mT @ continuum.whitened[:, :used, None])[..., 0]
    # A column that is hardly seen would make the matrix singular: it is taken out.
    keep = blocks.seen.to(torch.float64)
    matrix *= keep[:, :, None] * keep[:, None, :]
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    diagonal += _RIDGE * diagonal + (1 - keep)
    right = right * keep
    factor, failed = _cholesky(matrix, right)
    return factor, right, failed


def _cholesky(matrix, right):
    factor, info = torch.linalg.cholesky_ex(matrix)
    failed = (info > 0) | ~torch.isfinite(right).all(1)
    factor[failed] = torch.eye(matrix.shape[1], dtype=torch.float64)
    return factor, failed


def broad_lines(continuum, blocks, solution, used):
    """Amplitudes and covariance of the broad lines, the operator's last vectors."""
    lower = continuum.factor[:, used:, used:]
    identity = torch.eye(lower.shape[1], dtype=torch.float64).expand_as(lower)
    inverse = torch.linalg.solve_triangular(lower, identity, upper=False)
    tail = blocks.whitened[:, used:]
    inner = identity + tail @ solution.covariance @ tail.mT
    return solution.coefficients[:, used:], inverse.mT @ inner @ inverse


class LineEliminator:
    """Builds the lines' part of the normal equations, the continuum eliminated, for batches of one design."""

    def __init__(self, design, operator, members=None):
        if members is not None:
            column = np.unique(design.column[members], return_inverse=True)[1]
            chosen = {n: getattr(design, n)[members] for n in ("wavelength", "ratio", "start", "lsf")}
            chosen |= {"column": column, "reported": np.arange(len(members))}
            design = SimpleNamespace(**vars(design) | chosen)
        self.design, start = design, design.start
        windows = start[:, None] + np.arange(design.width)
        self.windows = torch.from_numpy(windows)
        self.padded = torch.nn.functional.pad(operator.vectors, (design.width, design.width))
        self.vectors = self.padded[:, self.windows].permute(1, 2, 0).contiguous()  # (member, width, k)
        self.share = torch.zeros(design.column.max() + 1, len(design.column), dtype=torch.float64)
        self.share[design.column, np.arange(len(design.column))] = torch.from_numpy(design.ratio)
        first = np.unique(design.column, return_index=True)[1]
        self.first, self.column = torch.from_numpy(first), torch.from_numpy(design.column)
        self.other = torch.from_numpy(np.setdiff1d(np.arange(len(design.column)), first))
        # Members whose windows overlap, the second beginning at the first one's pixel or later.
        self.pairs = [(m, k, int(start[k] - start[m])) for m, k in permutations(range(start.size), 2)]
        self.pairs = [(m, k, d) for m, k, d in self.pairs if 0 <= d < design.width and (d > 0 or k > m)]
        self.pixel_width = torch.from_numpy(np.diff(design.edges)[windows])

    def __call__(self, continuum, velocity, dispersion):
        """Blocks for the batch with these kinematics, Tensors of shape (batch,) or (1,) [km/s]."""
        profile = profiles(self.design, velocity, dispersion)
        ivar = continuum.weighted[:, self.windows]
        seen = (ivar > 0).to(torch.float64)
        weighted = ivar * profile
        cross = torch.bmm(weighted.transpose(0, 1), self.vectors)  # (member, batch, k)
        cross = self._sum_members(cross).permute(1, 2, 0)
        right = (continuum.data[:, self.windows] * profile).sum(-1) @ self.share.T
        normal = self._line_products(weighted, profile)
        coverage = (seen * (profile * self.pixel_width)).sum(-1)
        whitened = torch.linalg.solve_triangular(continuum.factor, cross, upper=False)
        seen = (coverage @ (self.share > 0).to(torch.float64).T) > _FEWEST
        seen = seen.expand(right.shape)
        parts = {"whitened": whitened, "normal": normal, "right": right, "seen": seen}
        return SimpleNamespace(**parts, coverage=coverage, profile=profile)

    def with_kinematics(self, blocks, continuum, velocity, dispersion, flux, free):
        """Blocks with two more columns: what a change of velocity and of log dispersion does to the lines."""
        moving = self.design.reported  # the lines that are too faint to report do not tell
        slopes = profile_slopes(self.design, velocity, dispersion, moving)
        design, pixels = self.design, continuum.weighted.shape[1]
        member_flux = flux[:, design.column] * torch.from_numpy(design.ratio)
        widths = torch.tensor([_PRIOR_VELOCITY, _PRIOR_LOG_DISPERSION], dtype=torch.float64)
        change = torch.zeros(len(flux), 2, pixels, dtype=torch.float64)
        for i, m in enumerate(moving):
            window = slice(design.start[m], design.start[m] + design.width)
            change[:, :, window] += slopes[:, :, i] * member_flux[:, m, None, None]
        change *= widths[:, None]
        weighted = change * continuum.weighted[:, None]
        cross = (weighted @ self.padded.T).mT  # (batch, k, 2)
        by_line = (weighted[:, :, self.windows] * blocks.profile[:, None]).sum(-1) @ self.share.T
        own = weighted @ change.mT + torch.eye(2, dtype=torch.float64)
        offset = torch.stack([velocity, torch.log(dispersion) - _PRIOR_CENTRE], dim=1) / widths
        right = (change @ continuum.data[..., None])[..., 0] - offset
        whitened = torch.linalg.solve_triangular(continuum.factor, cross, upper=False)
        top = torch.cat([blocks.normal, by_line.mT], dim=2)
        return SimpleNamespace(
            whitened=torch.cat([blocks.whitened, whitened], dim=2),
            normal=torch.cat([top, torch.cat([by_line, own], dim=2)], dim=1),
            right=torch.cat([blocks.right, right], dim=1),
            seen=torch.cat([blocks.seen, torch.tensor(free).expand(len(flux), 2)], dim=1),
        )

    def _sum_members(self, values):
        """From members to columns along the first axis."""
        ratio = torch.from_numpy(self.design.ratio)[:, None, None]
        total = values[self.first] * ratio[self.first]
        return total.index_add_(0, self.column[self.other], values[self.other] * ratio[self.other])

    def _line_products(self, weighted, profile):
        column, ratio = self.design.column, self.design.ratio
        normal = torch.zeros(len(weighted), len(self.share), len(self.share), dtype=torch.float64)
        own = (weighted * profile).sum(-1)
        for m, c in enumerate(column):
            normal[:, c, c] += ratio[m] ** 2 * own[:, m]
        for m, k, offset in self.pairs:
            reach = self.design.width - offset
            product = (weighted[:, m, offset:] * profile[:, k, :reach]).sum(-1) * (ratio[m] * ratio[k])
            a, b = column[m], column[k]
            normal[:, a, b] += product
            normal[:, b, a] += product
        return normal


def measure_lines_linear(
    sample,
    *,
    lines=MEASURED,
    variable="flux",
    dispersions=DISPERSIONS,
    velocity=True,
    lsf=None,
    continuum="templates",
    broad=True,
    doublets=DOUBLETS,
    keep_fit=False,
    batch_size=512,
    grid=None,
):
    """Fit continuum and emission lines of spectra on a common rest-frame grid."""
    spectra = read_spectra(sample, variable, lsf)
    if len(dispersions) < 1 or min(dispersions) < 0:
        raise ValueError(f"dispersions must be at least one and not negative, not {dispersions}")
    fitter = _prepare(spectra, tuple(lines), tuple(dispersions), continuum, velocity, broad, doublets, grid)
    parts = []
    with torch.inference_mode():
        for first in range(0, max(len(spectra.flux), 1), batch_size):
            flux, ivar = spectra.weights(slice(first, first + batch_size))
            flux = torch.from_numpy(np.where(ivar > 0, flux, 0.0))
            parts.append(_fit_batch(flux, torch.from_numpy(ivar), fitter, not spectra.has_ivar, keep_fit))
    result = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    status = np.where(result["failed"], FAILED, OK)
    status[result["n_good"] < _MIN_PIXELS] = BAD_INPUT
    reasons = ["", f"fewer than {_MIN_PIXELS} good pixels", "the normal equations could not be solved"]
    ratios = ("chi2", "net_h_alpha_sn", "net_h_beta_sn", "balmer_absorption_sn")
    units = {"gas_velocity": "km / s", "gas_dispersion": "km / s"} | dict.fromkeys(ratios, "")
    units |= {"broad_h_alpha_flux": flux_units(spectra), "broad_h_alpha_sn": ""}
    units |= {"broad_h_alpha_ew": "Angstrom", "broad_gain": ""}
    columns = {name: (result[name], unit) for name, unit in units.items() if name in result}
    how = {"what": "lines measured by linear least squares", "keep_fit": keep_fit}
    table = assemble_table(sample, lines, spectra, status, np.array(reasons)[status], result, columns, **how)
    if "adopted" not in result:
        return table
    return add_history(table, f"{int(result['adopted'][status == OK].sum())} with broad Balmer lines")


def _prepare(spectra, lines, dispersions, continuum, velocity, broad, doublets, grid):
    """What all batches share."""
    wavelength = spectra.wavelength
    edges = pixel_edges(wavelength)
    if isinstance(continuum, str):
        if continuum != "templates":
            raise ValueError(f"continuum is 'templates' or a ContinuumTemplates, not {continuum!r}")
        continuum = continuum_templates(wavelength, grid=grid)
    if not isinstance(continuum, ContinuumTemplates) or continuum.vectors.shape[1] != wavelength.size:
        raise ValueError(f"the continuum basis does not fit spectra of {wavelength.size} pixels")
    centres = [LINES[name] for name in _BROAD if broad]
    shapes = [gaussian_on_pixels(edges, centre, centre * _BROAD_SIGMA / KM_S) for centre in centres]
    operator = build_operator(continuum, np.array(shapes).reshape(-1, wavelength.size))
    widest = np.hypot(max(dispersions), spectra.lsf.max())
    reach = 4 * widest + _MAX_VELOCITY
    design = build_design(lines, wavelength, edges, spectra.lsf, reach, doublets=doublets)
    strong = np.array([i for i, name in enumerate(lines) if name in STRONG], dtype=int)
    strong = strong if strong.size else design.reported
    centre = np.array([LINES[name] for name in lines])
    local = np.abs(wavelength[:, None] / centre - 1) * KM_S <= _LOCAL
    return SimpleNamespace(
        wavelength=torch.from_numpy(wavelength),
        design=design,
        operator=operator,
        n_narrow=len(continuum.vectors),
        all_lines=LineEliminator(design, operator),
        strong_lines=LineEliminator(design, operator, strong),
        dispersions=dispersions,
        free=(bool(velocity), len(dispersions) > 1),  # whether velocity and dispersion are fitted
        local=torch.from_numpy(local.astype(float)),  # (pixel, line): pixels near each line
        broad_pixel=int(np.abs(wavelength - LINES[_BROAD[0]]).argmin()),  # where broad Hα peaks
    )


def _fit_batch(flux, ivar, fitter, rescale, keep_fit):
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
        n_columns = len(fitter.all_lines.share)
        covariance = _flux_covariance(continuum, extended, n_columns, fitter, result.get("adopted"))
    member_flux = column_flux[:, design.column] * torch.from_numpy(design.ratio)
    model = line_model(design, blocks.profile, member_flux)
    stars = coefficients @ operator.vectors
    residual = torch.where(ivar > 0, flux - stars - model, 0.0)
    result |= describe_fits(residual, ivar, stars, blocks, member_flux, covariance, fitter)
    freedom = (ivar > 0).sum(1) - continuum.n_effective - blocks.seen.sum(1)
    result["chi2"] = (residual**2 * ivar).sum(1) / freedom.clamp(min=1)
    result["failed"] = failed | continuum.failed
    result |= {"gas_velocity": speed, "gas_dispersion": dispersion, "n_good": (ivar > 0).sum(1)}
    if rescale:
        factor = (result["chi2"] ** 0.5)[:, None]
        result |= {name: result[name] * factor for name in ("error", "peak_error")}
    if keep_fit:
        result |= {"continuum": stars, "line_model": model}
    return {name: value.numpy() for name, value in result.items()}


def find_kinematics(continuum, fitter):
    """Most probable velocity and dispersion, given the prior."""
    used = len(fitter.operator.vectors)
    log_nodes = torch.log(torch.tensor(fitter.dispersions, dtype=torch.float64).clamp(min=1.0))
    speed = torch.zeros(len(continuum.whitened), dtype=torch.float64)
    badness = torch.empty(len(speed), len(log_nodes), dtype=torch.float64)
    for i, node in enumerate(log_nodes):
        blocks = fitter.strong_lines(continuum, speed[:1], torch.exp(node)[None])
        badness[:, i] = ((node - _PRIOR_CENTRE) / _PRIOR_LOG_DISPERSION) ** 2
        badness[:, i] -= solve_lines(continuum, blocks, used)[1]
    log_dispersion = parabola_minimum(log_nodes, badness)
    if fitter.free[0]:
        nodes = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) * _VELOCITY_STEP
        badness = (nodes / _PRIOR_VELOCITY).repeat(len(speed), 1) ** 2
        for i, node in enumerate(nodes):
            blocks = fitter.strong_lines(continuum, speed + node, torch.exp(log_dispersion))
            badness[:, i] -= solve_lines(continuum, blocks, used)[1]
        speed = parabola_minimum(nodes, badness)
    # All lines from here on: a line left out bends the continuum, and with it the width by 3 km/s.
    lines, flux, extended = fitter.all_lines, None, None
    for _ in range(_STEPS if any(fitter.free) else 0):
        dispersion = torch.exp(log_dispersion)
        blocks = lines(continuum, speed, dispersion)
        flux = solve_lines(continuum, blocks, used)[0] if flux is None else flux
        extended = lines.with_kinematics(blocks, continuum, speed, dispersion, flux, fitter.free)
        solution = solve_lines(continuum, extended, used)[0].nan_to_num()
        flux, step = solution[:, :-2], solution[:, -2:]
        speed = speed + (step[:, 0] * _PRIOR_VELOCITY).clamp(-_VELOCITY_STEP, _VELOCITY_STEP)
        speed = speed.clamp(-_MAX_VELOCITY, _MAX_VELOCITY)
        log_dispersion = log_dispersion + (step[:, 1] * _PRIOR_LOG_DISPERSION).clamp(-0.5, 0.5)
        log_dispersion = log_dispersion.clamp(log_nodes[0] - 1, log_nodes[-1])
    return speed, torch.exp(log_dispersion), extended


def parabola_minimum(nodes, values):
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


def _broad_result(continuum, blocks, narrow, both, fitter):
    """Broad Hα, and whether to believe in it."""
    n_narrow, n_seen = fitter.n_narrow, (continuum.weighted > 0).sum(1).clamp(min=1)
    flux, covariance = broad_lines(continuum, blocks, both, n_narrow)
    left = continuum.chi2_zero - (continuum.whitened**2).sum(1) - both.gain
    excess = (left / n_seen).clamp(min=1)
    more = (continuum.whitened[:, n_narrow:] ** 2).sum(1)
    gain = (both.gain + more - narrow.gain) / excess
    error = (covariance[:, 0, 0] * excess) ** 0.5
    level = narrow.coefficients @ fitter.operator.vectors[:n_narrow, fitter.broad_pixel]
    width = torch.where(level > 0, flux[:, 0] / level, torch.nan)
    adopted = (flux[:, 0] > _BROAD_SN * error) & (gain > _BROAD_GAIN) & (width > _BROAD_WIDTH)
    return {
        "broad_h_alpha_flux": flux[:, 0],
        "broad_h_alpha_sn": flux[:, 0] / error,
        "broad_h_alpha_ew": width,
        "broad_gain": gain,
        "adopted": adopted,
    }


def _flux_covariance(continuum, extended, n, fitter, adopted):
    """Covariance of the first n columns' fluxes, that from the kinematics included, shape (batch, n, n)."""

    def covariance(used):
        return torch.cholesky_inverse(_schur(continuum, extended, used)[0])[:, :n, :n]

    narrow = covariance(fitter.n_narrow)
    if adopted is None or not adopted.any():
        return narrow
    return torch.where(adopted[:, None, None], covariance(len(fitter.operator.vectors)), narrow)


def line_model(design, profile, member_flux, members=None):
    """Narrow lines on the spectrum's pixels."""
    padded = torch.zeros(len(member_flux), len(design.edges) - 1, dtype=torch.float64)
    for m in range(len(design.start)) if members is None else members:
        window = slice(design.start[m], design.start[m] + design.width)
        padded[:, window] += profile[:, m] * member_flux[:, m, None]
    return padded[:, design.width : -design.width]


def describe_fits(residual, ivar, stars, blocks, member_flux, covariance, fitter):
    """Fluxes, peaks and their errors of the lines asked for, NaN where too little of a line is seen."""
    design, reported = fitter.design, fitter.design.reported
    ratio = torch.from_numpy(design.ratio[reported])
    error = covariance.diagonal(dim1=1, dim2=2)[:, design.column[reported]] ** 0.5 * ratio
    tip = blocks.profile[:, reported].amax(-1)
    seen = (ivar > 0).to(torch.float64)
    rms = ((residual**2) @ fitter.local / (seen @ fitter.local)) ** 0.5
    values = {
        "flux": member_flux[:, reported],
        "error": error,
        "peak": member_flux[:, reported] * tip,
        "peak_error": error * tip,
        "an": member_flux[:, reported] * tip / rms,
    }
    hidden = (blocks.coverage[:, reported] < _MIN_COVERAGE) | ~blocks.seen[:, design.column[reported]]
    values = {name: value.masked_fill(hidden, torch.nan) for name, value in values.items()}
    return values | _net_balmer(residual + stars, ivar, blocks.profile, member_flux, fitter)


def _net_balmer(rest, ivar, profile, member_flux, fitter):
    """Signal-to-noise ratios of Hα and Hβ without regard to the stars; ``rest`` has no emission lines."""
    design = fitter.design
    result = {}
    for key, name in (("net_h_alpha_sn", "Hα"), ("net_h_beta_sn", "Hβ")):
        computed = np.flatnonzero(np.isclose(design.wavelength[design.reported], LINES[name]))
        result[key] = torch.full((len(rest),), torch.nan, dtype=torch.float64)
        if computed.size:
            own = line_model(design, profile, member_flux, members=[int(design.reported[computed[0]])])
            flux = torch.where(ivar > 0, rest + own, 0.0)
            area, error = net_line(flux, ivar, fitter.wavelength, LINES[name])
            result[key] = area / error
    result["balmer_absorption_sn"] = -torch.fmin(result["net_h_alpha_sn"], result["net_h_beta_sn"])
    return result


def net_line(flux, ivar, wavelength, centre):
    """Area of a line above a straight local continuum, negative in absorption."""
    speed = (wavelength / centre - 1) * KM_S
    inside = speed.abs() <= _NET_REACH
    nan = torch.full((len(flux),), torch.nan, dtype=torch.float64)
    if int(inside.sum()) < 6 or float(speed.min()) > -_NET_REACH / 2 or float(speed.max()) < _NET_REACH / 2:
        return nan, nan
    speed, weight = speed[inside], ivar[:, inside]
    shape = torch.exp(-0.5 * (speed / _NET_SIGMA) ** 2) / ((2 * torch.pi) ** 0.5 * _NET_SIGMA * centre / KM_S)
    design = torch.stack([shape, torch.ones_like(speed), speed / _NET_REACH])
    # Scaled by the weights, the equations of faint and bright spectra are equally far from singular.
    scale = weight.sum(1, keepdim=True)
    relative = weight / torch.where(scale > 0, scale, 1.0)
    products = (design[:, None] * design[None]).reshape(9, -1)
    normal = (relative @ products.T).reshape(-1, 3, 3)
    right = (relative * flux[:, inside]) @ design.T
    seen = (weight > 0).to(torch.float64)
    usable = (seen.mean(1) > _NET_SEEN) & (seen[:, speed.abs() <= 2 * _NET_SIGMA].mean(1) > _NET_SEEN)
    normal[~usable] = torch.eye(3, dtype=torch.float64)
    inverse, info = torch.linalg.inv_ex(normal)
    usable &= info == 0
    area = (inverse[:, 0] * right).sum(1)
    error = (inverse[:, 0, 0] / torch.where(scale[:, 0] > 0, scale[:, 0], 1.0)) ** 0.5
    return torch.where(usable, area, nan), torch.where(usable, error, nan)
