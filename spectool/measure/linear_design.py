"""Which emission lines a linear fit has, which of them are tied, and their profiles on pixels."""

from dataclasses import dataclass

import numpy as np
import torch

from spectool.wavelength import LINES

KM_S = 299792.458

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
    """The emission lines (members) of a fit, and the columns that they share.

    Attributes
    ----------
    wavelength, ratio : ndarray, shape (member,)
        Vacuum [Angstrom]; flux relative to the column's.
    column : ndarray of int, shape (member,)
    reported : ndarray of int, shape (line,)
        The member that is each of the lines asked for.
    start : ndarray of int, shape (member,)
        First pixel of the member's window in arrays padded by `width` pixels at both ends.
    width : int
        Pixels of every window.
    edges : ndarray, shape (n + 2 width + 1,)
        Edges of the padded pixels [Angstrom].
    lsf : ndarray, shape (member,)
        Sigma of the line-spread function [km/s].
    """

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
    """Choose the columns for the lines asked for and lay their windows.

    Parameters
    ----------
    lines : sequence of str
        Names in `spectool.wavelength.LINES`.
    wavelength, edges : ndarray, shapes (n,), (n + 1,)
        Pixel centres and edges [Angstrom].
    lsf : ndarray, shape (n,)
        Sigma of the line-spread function [km/s].
    reach : float
        Half width of the windows [km/s].
    doublets, nuisance
        As `DOUBLETS` and `NUISANCE`.

    Returns
    -------
    LineDesign
        Nuisance lines beyond the pixels, or within 1 Angstrom of a line asked for, are left out.

    Raises
    ------
    ValueError
        If a line is unknown or named twice.
    """
    unknown = [name for name in lines if name not in LINES]
    if unknown:
        raise ValueError(f"no line {unknown[0]!r}; spectool.wavelength.LINES has {', '.join(LINES)}")
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
    """Gaussians of unit flux, averaged over the pixels of their windows.

    Parameters
    ----------
    design : LineDesign
    velocity, dispersion : Tensor, shape (batch,)
        Offset and intrinsic sigma [km/s]; the line-spread function is added in quadrature.

    Returns
    -------
    Tensor, shape (batch, member, width), float64
        [1 / Angstrom]
    """
    offset, _, _, width = _offsets(design, velocity, dispersion, np.arange(len(design.start)))
    return torch.diff(torch.erf(offset * 0.5**0.5), dim=-1) * (0.5 / width)


def profile_slopes(design, velocity, dispersion, members):
    """Derivatives of `profiles` with respect to velocity and to the natural log of the dispersion.

    Parameters
    ----------
    design, velocity, dispersion
        As in `profiles`.
    members : ndarray of int, shape (m,)

    Returns
    -------
    Tensor, shape (batch, 2, m, width), float64
        [1 / Angstrom / (km/s)], [1 / Angstrom]
    """
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
