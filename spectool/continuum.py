"""Spectra over their continuum, a polynomial outside the lines of the gas."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array

from spectool.spectra import LINES, WEAK_LINES

DEGREE = 20
N_KEPT = 2468
"""Pixels of `optical_wavelength` that the line windows leave (the paper: about 2,500)."""

MIN_CONTINUUM = 0.02  # of the spectrum's mean; real continua vary by less than a factor of ten over the range
SPARSE = 0.06  # share of bad pixels above which a dense product is as quick
SAFE_PIVOT = 0.03  # of a Cholesky factor in single precision: below, double precision takes over
BALMER_WINDOW = 75.0
LINE_WINDOW = 30.0
# The paper masks "each ISM absorption and emission line" and names none: these are the lines that reach about 1% of
# Hbeta in star-forming galaxies, Na D and the strongest narrow interstellar band.
BALMER_LINES = {name: LINES[name] for name in ("Hδ", "Hγ", "Hβ", "Hα")}
_FORBIDDEN = ("[O III] 4363", "[O III] 4959", "[O III] 5007", "He I", "[O I]", "[N II] 6548", "[N II] 6583")
_FORBIDDEN += ("[S II] 6716", "[S II] 6731", "[Ar III]")
ISM_LINES = {name: LINES[name] for name in _FORBIDDEN} | WEAK_LINES


def optical_wavelength():
    """Pixels that the network's input is cut from: 4050-7300 A in steps of 1 A, vacuum, rest frame; (3251,)."""
    return np.arange(4050.0, 7301.0)


def stack_wavelength():
    """Pixels of the paper's stacks (Section 3.1): 3700-7360 A in steps of 1 A, vacuum, rest frame; (3661,)."""
    return np.arange(3700.0, 7361.0)


def line_windows():
    """Windows left out around lines: name -> (low, high) [Angstrom, vacuum], 75 A for Balmer lines, else 30 A."""
    windows = {name: (w - BALMER_WINDOW / 2, w + BALMER_WINDOW / 2) for name, w in BALMER_LINES.items()}
    return windows | {name: (w - LINE_WINDOW / 2, w + LINE_WINDOW / 2) for name, w in ISM_LINES.items()}


def kept_pixels(wavelength):
    """Which pixels lie outside all line windows."""
    wavelength = np.asarray(wavelength, float)
    keep = np.ones(wavelength.shape, bool)
    for low, high in line_windows().values():
        keep &= (wavelength < low) | (wavelength > high)
    return keep


@dataclass(frozen=True)
class ContinuumBasis:
    """Polynomials on the kept pixels, orthonormal there: one projector for all spectra without bad pixels."""

    wavelength: np.ndarray
    keep: np.ndarray
    degree: int = DEGREE

    def __post_init__(self):
        kept = np.asarray(self.wavelength, float)[np.asarray(self.keep, bool)]
        if kept.size <= self.degree + 1:
            raise ValueError(
                f"a polynomial of degree {self.degree} needs more than {self.degree + 1} pixels, not {kept.size}"
            )
        span = np.interp(kept, [kept[0], kept[-1]], [-1.0, 1.0])
        vectors, _ = np.linalg.qr(np.polynomial.legendre.legvander(span, self.degree))
        object.__setattr__(self, "kept_wavelength", kept)
        vectors = torch.from_numpy(vectors.astype("f4"))
        first, second = torch.triu_indices(self.degree + 1, self.degree + 1)
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "products", (vectors[:, first] * vectors[:, second]).contiguous())

    def unpack(self, sums):
        """Symmetric matrices (galaxy, k, k) from sums of `products` over pixels, shape (galaxy, m)."""
        first, second = torch.triu_indices(self.degree + 1, self.degree + 1)
        matrix = sums.new_empty(len(sums), self.degree + 1, self.degree + 1)
        matrix[:, first, second] = sums
        matrix[:, second, first] = sums
        return matrix

    @classmethod
    def optical(cls):
        """That of the paper: degree 20 on the 2,468 pixels of `optical_wavelength` outside the line windows."""
        wavelength = optical_wavelength()
        return cls(wavelength, kept_pixels(wavelength))


@torch.inference_mode()
def normalize_continuum(flux, bad, basis, *, in_place=False):
    """Divide spectra by their least-squares polynomial and subtract 1 (Zahid et al. 2019, Section 4)."""
    flux = torch.as_tensor(flux)
    if flux.ndim != 2 or flux.shape[1] != basis.vectors.shape[0]:
        raise ValueError(f"flux has shape {tuple(flux.shape)}; the basis has {basis.vectors.shape[0]} pixels")
    work = flux.to(torch.float32, copy=not in_place, memory_format=torch.contiguous_format)
    places = None
    if bad is not None:
        bad = torch.as_tensor(bad)
        if bad.shape != flux.shape:
            raise ValueError(f"bad has shape {tuple(bad.shape)}, flux {tuple(flux.shape)}")
        # Bad pixels are few: most of the work is done on their places alone.
        places = torch.from_numpy(np.flatnonzero(bad.numpy()))
        work.view(-1).index_fill_(0, places, 0)
    coefficients = work @ basis.vectors
    if places is not None and len(places):
        coefficients = _fit_around(work, coefficients, bad, places, basis)
    polynomial = coefficients @ basis.vectors.T
    usable = _are_usable(work, polynomial, bad, basis)
    work.div_(polynomial).sub_(1)
    if places is not None:
        work.view(-1).index_fill_(0, places, 0)
    if not usable.all():
        work[~usable], polynomial[~usable] = 0, torch.nan
    return work.numpy(), polynomial.numpy()


def _are_usable(zeroed, polynomial, bad, basis):
    """Which polynomials are high enough at all good pixels, and fit to more of these than they have coefficients."""
    count = torch.full((len(zeroed),), zeroed.shape[1])
    if bad is not None:
        count -= torch.from_numpy(np.count_nonzero(bad.numpy(), axis=1))
    # Division by less than that would make noise huge.
    lowest = (MIN_CONTINUUM * zeroed.sum(1) / count).clamp(min=0)
    usable = polynomial.amin(1) > lowest
    if bad is not None:
        rest = torch.nonzero(~usable).ravel()
        usable[rest] = ((polynomial[rest] > lowest[rest, None]) | bad[rest]).all(1)
    return usable & (count > basis.degree + 1)


def _fit_around(zeroed, seen, bad, places, basis):
    """Coefficients (galaxy, k) of the polynomials that fit the good pixels of spectra that are 0 in bad ones."""
    matrix = torch.eye(seen.shape[1]) - basis.unpack(_masked_sums(bad, places, basis.products))
    factor, failed = torch.linalg.cholesky_ex(matrix)
    coefficients = torch.cholesky_solve(seen[:, :, None], factor)[:, :, 0]
    pivot = torch.diagonal(factor, dim1=1, dim2=2).amin(1)
    rest = torch.nonzero((failed > 0) | ~(pivot > SAFE_PIVOT)).ravel()
    if len(rest):
        coefficients[rest] = _solve_in_double(zeroed[rest], bad[rest], basis)
    return coefficients


def _masked_sums(bad, places, products):
    """bad @ products, (galaxy, m); few bad pixels are the rule, and then a sparse product is several times quicker."""
    if len(places) > SPARSE * bad.numel():
        return bad.float() @ products
    row, column = np.divmod(places.numpy(), bad.shape[1])
    starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(bad)))])
    matrix = csr_array((np.ones(row.size, "f4"), column, starts), shape=tuple(bad.shape))
    return torch.from_numpy(matrix @ products.numpy())


def _solve_in_double(zeroed, bad, basis):
    """The same by the normal equations in double precision; directions that no good pixel sees are left out."""
    vectors = basis.vectors.double()
    first, second = torch.triu_indices(vectors.shape[1], vectors.shape[1])
    gram = basis.unpack((~bad).double() @ (vectors[:, first] * vectors[:, second]))
    values, directions = torch.linalg.eigh(gram)
    inverse = torch.where(values > 1e-13, 1 / values, 0)
    right = zeroed.double() @ vectors
    return torch.einsum("gij,gj,gkj,gk->gi", directions, inverse, directions, right).float()
