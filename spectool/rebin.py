"""Flux-conserving rebinning of many spectra at once, each from its own pixels; for surveys and prepare."""

import numpy as np

from spectool.wavelength import rebin_matrix


def block_rebin_matrix(edges_in, edges_out):
    """One sparse operator that rebins a batch of spectra, each from its own pixels to its own pixels.

    The galaxies are laid one after the other on a long axis, with a pixel that holds nothing in each gap, so
    that a single call of `rebin_matrix` serves all.

    Parameters
    ----------
    edges_in : ndarray, shape (batch, n_in + 1)
    edges_out : ndarray, shape (batch, n_out + 1)
        Pixel edges [Angstrom].

    Returns
    -------
    csr_array, shape (batch * (n_out + 1), batch * (n_in + 1))
        Acts on raveled (batch, n_in + 1) arrays whose last column is the empty pixel; the result's last
        column is to be dropped. Rows sum to 1, the empty pixels' share included.
    """
    low = min(edges_in.min(), edges_out.min()) - 1.0
    period = max(edges_in.max(), edges_out.max()) + 1.0 - low
    start = (np.arange(len(edges_in)) * period)[:, None] - low
    ends = [len(edges_in) * period]
    # Both axes begin and end together, so that the gap pixels cover whatever the spectra do not.
    axis_in = np.concatenate([(edges_in + start).ravel(), ends])
    axis_out = np.concatenate([(edges_out + start).ravel(), ends])
    head = min(axis_in[0], axis_out[0]) - 1.0
    operator = rebin_matrix(np.concatenate([[head], axis_in]), np.concatenate([[head], axis_out]))
    return operator[1:, 1:]


def rebin_spectra(flux, variance, good, edges_in, edges_out):
    """Rebin a batch of spectra as overlap-weighted means of their good pixels.

    Parameters
    ----------
    flux, variance : ndarray, shape (batch, n_in)
        Flux density, and its variance, independent from pixel to pixel.
    good : ndarray of bool, shape (batch, n_in)
        Pixels to use; what the others hold, NaN included, is not looked at.
    edges_in : ndarray, shape (batch, n_in + 1)
    edges_out : ndarray, shape (batch, n_out + 1)
        Pixel edges [Angstrom].

    Returns
    -------
    flux, variance, covered : ndarray, shape (batch, n_out), float64
        `covered` is the fraction of each output pixel's width that good input covers; flux and variance are 0
        where it is 0.
    """
    n_batch, n_out = len(flux), edges_out.shape[1] - 1
    operator = block_rebin_matrix(edges_in, edges_out)

    def apply(matrix, values):
        padded = np.concatenate([np.where(good, values, 0.0), np.zeros((n_batch, 1))], axis=1)
        return (matrix @ padded.ravel()).reshape(n_batch, n_out + 1)[:, :-1]

    covered = apply(operator, 1.0)
    scale = np.divide(1.0, covered, out=np.zeros_like(covered), where=covered > 0)
    return apply(operator, flux) * scale, apply(operator.power(2), variance) * scale**2, covered


def rebin_common(flux, edges_in, edges_out):
    """Rebin spectra that share their input pixels, each to pixels of its own; quicker than `rebin_spectra`.

    Parameters
    ----------
    flux : ndarray, shape (batch, n_in)
        Flux density; pixels that are not finite count as absent.
    edges_in : ndarray, shape (n_in + 1,)
    edges_out : ndarray, shape (batch, n_out + 1)
        Increasing pixel edges in the same unit.

    Returns
    -------
    flux, covered : ndarray, shape (batch, n_out), float64
        As of `rebin_spectra`.
    """
    width = np.diff(edges_in)
    result = np.empty((len(flux), edges_out.shape[1] - 1))
    covered = np.empty_like(result)
    for row, (values, target) in enumerate(zip(flux, edges_out, strict=True)):
        good = np.isfinite(values)
        within = np.concatenate([[0.0], np.cumsum(np.where(good, values, 0.0) * width)])
        seen = np.concatenate([[0.0], np.cumsum(good * width)])
        overlap = np.diff(np.interp(target, edges_in, seen))
        result[row] = np.diff(np.interp(target, edges_in, within))
        # A sum over many pixels is good to 1e-16 of the whole: a sliver below that is nothing.
        result[row] *= np.divide(1.0, overlap, out=np.zeros_like(overlap), where=overlap > 1e-9)
        covered[row] = overlap / np.diff(target)
    return result, covered
