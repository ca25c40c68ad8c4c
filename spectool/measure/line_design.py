"""Design of the line fits: which lines, their ties, templates and polynomials."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from numpy.polynomial import legendre
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from spectool.spectra import KM_S, LINES, pixel_edges
from spectool.synth.grid import SSPGrid
from spectool.synth.synthesis import synthesize

# Stronger member: (weaker member, its strength relative to the stronger one). Storey & Zeippen (2000, MNRAS 312, 813).
DOUBLETS = {"[O III] 5007": ("[O III] 4959", 1 / 2.98), "[N II] 6583": ("[N II] 6548", 1 / 3.05)}

# Lines that are fitted so that they do not disturb, and not reported: (vacuum wavelength [Angstrom], strength) of
# those that go together. Balmer: case B at 10,000 K (Osterbrock & Ferland 2006, Table 4.4); NIST.
NUISANCE = (
    ((3751.22, 0.77), (3771.70, 1.0)),
    ((3798.98, 0.73), (3836.47, 1.0)),
    ((3889.75, 1.0), (3890.16, 1.0)),
    ((3869.86, 1.0), (3968.59, 0.303)),
    ((3971.20, 1.0),),
    ((4069.75, 1.0), (4077.50, 0.33)),
    ((4472.73, 1.0),),
    ((4687.02, 1.0),),
    ((5201.70, 1.0),),
    ((5756.19, 1.0),),
    ((5877.25, 1.0),),
    ((6313.81, 1.0),),
    ((6365.54, 1.0),),
    ((6679.99, 1.0),),
    ((7067.17, 1.0),),
    ((7137.77, 1.0), (7753.24, 0.241)),
    ((7325.0, 1.0), (7334.0, 0.81)),
)
STRONG = ("[O II] 3726", "[O II] 3729", "Hβ", "[O III] 4959", "[O III] 5007")
STRONG += ("[N II] 6548", "Hα", "[N II] 6583", "[S II] 6716", "[S II] 6731")


@dataclass(frozen=True)
class LineDesign:
    """The emission lines (members) of a fit, and the columns that they share."""

    wavelength: np.ndarray
    ratio: np.ndarray
    column: np.ndarray
    reported: np.ndarray
    start: np.ndarray
    width: int
    edges: np.ndarray
    lsf: np.ndarray

    @property
    def n_columns(self):
        """Number of free amplitudes."""
        return int(self.column.max()) + 1 if self.column.size else 0

    @property
    def windows(self):
        """Padded pixels of every window, shape (member, width)."""
        return self.start[:, None] + np.arange(self.width)

    def overlaps(self):
        """Pairs (m, k, d) of different members whose windows overlap, k's beginning d >= 0 pixels later."""
        pairs = []
        for m, first in enumerate(self.start):
            for k, other in enumerate(self.start):
                offset = int(other - first)
                if k != m and 0 <= offset < self.width and (offset > 0 or k > m):
                    pairs.append((m, k, offset))
        return pairs


def build_design(lines, wavelength, edges, lsf, reach, *, doublets=DOUBLETS, nuisance=NUISANCE):
    """Choose the columns for the lines asked for and lay their windows."""
    unknown = [name for name in lines if name not in LINES]
    if unknown:
        raise ValueError(f"no line {unknown[0]!r}; spectool.spectra.LINES has {', '.join(LINES)}")
    if len(set(lines)) < len(lines) or not len(lines):
        raise ValueError("name at least one line, and each line once")
    weaker = {weak: (strong, ratio) for strong, (weak, ratio) in doublets.items() if strong in lines}
    column, members = {}, []
    for name in lines:
        if name not in weaker:
            column[name] = len(column)
    for name in lines:
        owner, ratio = weaker.get(name, (name, 1.0))
        members.append((LINES[name], ratio, column[owner]))
    asked = np.array([LINES[name] for name in lines])
    for strong, (weak, ratio) in doublets.items():
        if strong in lines and weak not in lines:
            members.append((LINES[weak], ratio, column[strong]))
    count = len(column)
    taken = np.array([member[0] for member in members])
    for group in nuisance:
        apart = all(np.abs(taken - centre).min() > 1.0 for centre, _ in group)
        if apart and any(edges[0] < centre < edges[-1] for centre, _ in group):
            members += [(centre, ratio, count) for centre, ratio in group]
            count += 1
    centre, ratio, owner = (np.array(part) for part in zip(*members, strict=True))
    return _lay_windows(
        centre, ratio, owner.astype(int), np.arange(asked.size), edges, wavelength, lsf, reach
    )


def _lay_windows(centre, ratio, column, reported, edges, wavelength, lsf, reach):
    step = np.diff(np.log(edges))
    low, high = (
        np.searchsorted(edges, centre * (1 - reach / KM_S)),
        np.searchsorted(edges, centre * (1 + reach / KM_S)),
    )
    width = int((high - low).max()) + 2
    before = edges[0] * np.exp(-step[0] * np.arange(width, 0, -1))
    after = edges[-1] * np.exp(step[-1] * np.arange(1, width + 1))
    padded = np.concatenate([before, edges, after])
    start = np.searchsorted(padded, centre * (1 - reach / KM_S)) - 1
    # A line beyond the pixels gets a window of padding: nothing is seen of it.
    start = np.clip(start, 0, padded.size - 1 - width)
    return LineDesign(
        wavelength=centre,
        ratio=ratio,
        column=column,
        reported=reported,
        start=start,
        width=width,
        edges=padded,
        lsf=np.interp(centre, wavelength, lsf),
    )


def profiles(design, velocity, dispersion):
    """Gaussians of unit flux, averaged over the pixels of their windows."""
    offset, _, _, width = _offsets(design, velocity, dispersion, np.arange(len(design.start)))
    return torch.diff(torch.erf(offset * 0.5**0.5), dim=-1) * (0.5 / width)


def profile_slopes(design, velocity, dispersion, members):
    """Derivatives of `profiles` with respect to velocity and to the natural log of the dispersion."""
    offset, sigma, scale, width = _offsets(design, velocity, dispersion, members)
    height = torch.exp(-0.5 * offset**2) / ((2 * torch.pi) ** 0.5 * sigma)
    by_centre = -torch.diff(height, dim=-1) / width
    by_sigma = -torch.diff(offset * height, dim=-1) / width
    by_log_dispersion = by_sigma * (scale * dispersion[:, None, None]) ** 2 / sigma
    return torch.stack([by_centre * scale, by_log_dispersion], dim=1)


def _offsets(design, velocity, dispersion, members):
    """Pixel edges from the line in units of sigma, sigma [A], Angstrom per km/s, and pixel widths [A]."""
    edges = torch.from_numpy(design.edges[design.start[members, None] + np.arange(design.width + 1)])
    scale = torch.from_numpy(design.wavelength[members] / KM_S)[:, None]
    lsf = torch.from_numpy(design.lsf[members])[:, None]
    sigma = scale * torch.sqrt(dispersion[:, None, None] ** 2 + lsf**2)
    offset = (edges - scale * (KM_S + velocity[:, None, None])) / sigma
    return offset, sigma, scale, torch.diff(edges, dim=-1)


N_MIXES = 3000
N_COMPONENTS = 25
DEGREE = 8

_CACHE = {}
_CACHED = 4
_NODES = np.array([6.0, 7.0, 8.0, 8.7, 9.3, 9.7, 10.2])  # log age [yr]


@dataclass(frozen=True)
class ContinuumBasis:
    """Continua as amplitude * (mean + sum of coefficients * components)."""

    vectors: np.ndarray
    spread: np.ndarray
    n_components: int


def continuum_basis(
    wavelength,
    *,
    grid=None,
    n_components=N_COMPONENTS,
    degree=DEGREE,
    dispersions=(30.0, 350.0),
    calibration=0.1,
    widening=2.0,
    n_mixes=N_MIXES,
    seed=1,
):
    """Principal components of random mixes of stellar populations, and polynomials for the calibration."""
    wavelength = np.asarray(wavelength, float)
    options = (n_components, degree, tuple(dispersions), calibration, widening, n_mixes, seed)
    key = (wavelength.tobytes(), options)
    if grid is None and key in _CACHE:
        return _CACHE[key]
    mixes = _draw_mixes(grid or SSPGrid.embedded(), wavelength, dispersions, n_mixes, seed)
    with threadpool_limits(1):
        pca = PCA(n_components, svd_solver="randomized", random_state=seed).fit(mixes)
    mean = pca.mean_.astype(float)
    x = np.log(wavelength / wavelength[0]) / np.log(wavelength[-1] / wavelength[0])
    polynomials = mean * np.array(
        [legendre.legval(2 * x - 1, row) for row in np.eye(degree + 1)[1:]]
    ).reshape(degree, wavelength.size)
    spread = [[np.inf], widening * np.sqrt(pca.explained_variance_), np.full(degree, calibration)]
    basis = ContinuumBasis(
        vectors=np.concatenate([mean[None], pca.components_.astype(float), polynomials]),
        spread=np.concatenate(spread),
        n_components=n_components,
    )
    if grid is None:
        while len(_CACHE) >= _CACHED:
            del _CACHE[next(iter(_CACHE))]
        _CACHE[key] = basis
    return basis


def _draw_mixes(grid, wavelength, dispersions, n, seed):
    """Continua of random galaxies, each with mean flux 1, shape (n, pixel)."""
    rng = np.random.default_rng(seed)
    galaxies = xr.Dataset(
        {
            "mass_formed": (("galaxy", "age"), _draw_histories(grid, n, rng)),
            "log_z_star": ("galaxy", rng.uniform(-1.7, 0.39, n)),
            "log_z_gas": ("galaxy", rng.uniform(-1.0, 0.1, n)),
            "log_u": ("galaxy", rng.uniform(-3.7, -2.3, n)),
            "dust2": ("galaxy", 10 ** rng.uniform(-2.0, 0.4, n)),
            "dust_index": ("galaxy", rng.uniform(-1.3, -0.4, n)),
            "velocity_dispersion": ("galaxy", rng.uniform(*dispersions, n)),
        }
    )
    galaxies["dust1"] = galaxies["dust2"] * rng.uniform(0.0, 2.0, n)
    nebular = grid.nebular is not None
    if nebular:
        dark = replace(grid.nebular, line_luminosity=np.zeros_like(grid.nebular.line_luminosity))
        grid = replace(grid, nebular=dark)
    pixel_edges(wavelength)  # raises if they do not increase
    inside = (wavelength[0] + wavelength[-1]) / 2 + np.array([-1, 1]) * (wavelength[-1] - wavelength[0]) / 2
    flux = synthesize(
        galaxies, grid, wavelength=wavelength, nebular=nebular, label_range=tuple(inside), progress=False
    )["flux"].values
    return flux / flux.mean(axis=1, keepdims=True)


def _draw_histories(grid, n, rng):
    """Mass formed in the grid's age bins, shape (n, age): wandering rates, some cut off."""
    steps = rng.standard_normal((n, _NODES.size))
    rate = np.cumsum(np.where(np.arange(_NODES.size) == 0, 0.5, 0.7) * steps, axis=1)
    rate += rng.normal(0.0, 0.6, (n, 1)) * (_NODES - _NODES.mean())
    log_age = np.log10(np.maximum(grid.age, 1e5))
    place = np.clip(np.interp(log_age, _NODES, np.arange(_NODES.size)), 0, _NODES.size - 1)
    low = np.minimum(place.astype(int), _NODES.size - 2)
    log_rate = rate[:, low] * (1 - (place - low)) + rate[:, low + 1] * (place - low)
    cut = np.where(rng.random(n) < 0.35, rng.uniform(7.5, 9.9, n), 0.0)
    depth = rng.uniform(1.0, 5.0, n)
    log_rate -= np.where(log_age < cut[:, None], depth[:, None], 0.0)
    return 10.0**log_rate * np.diff(grid.age_edges)
