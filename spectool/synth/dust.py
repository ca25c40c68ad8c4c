"""Two-component dust after Charlot & Fall (2000), and its re-emission in the infrared."""

import numpy as np
import torch

from spectool.spectra import rebin_matrix

PIVOT = 5500.0


def relative_depth(log_ratio, index):
    """Optical depth relative to that at 5500 A: a power law (Charlot & Fall 2000, eq. 9, with a free index).

    Parameters
    ----------
    log_ratio : Tensor, shape (n,)
        ln(wavelength / 5500 A).
    index : Tensor, shape (galaxy,)
        Negative for attenuation that rises to the blue; -0.7 in the original.

    Returns
    -------
    Tensor, shape (galaxy, n)
    """
    return torch.exp_(torch.outer(index, log_ratio))


def attenuate(young, old, depth, dust1, dust2):
    """Sum of young and old light behind dust, computed in place of its inputs.

    Stars younger than 10 Myr, and the gas that they ionise, lie behind their birth clouds (``dust1``) and the
    diffuse dust (``dust2``); older stars behind the diffuse dust alone.

    Parameters
    ----------
    young, old, depth : Tensor, shape (galaxy, n)
        Luminosity densities and relative optical depths; all three are overwritten.
    dust1, dust2 : Tensor, shape (galaxy,)
        Optical depths at 5500 A.

    Returns
    -------
    Tensor, shape (galaxy, n)
    """
    birth_cloud = torch.exp(depth * -dust1[:, None])
    young.mul_(birth_cloud).add_(old)
    return young.mul_(depth.mul_(-dust2[:, None]).exp_())


def interpolation_weights(value, nodes):
    """Weights of linear interpolation between nodes; outside, the nearest node.

    Parameters
    ----------
    value : array_like, shape (...,)
    nodes : ndarray, shape (k,)
        Increasing.

    Returns
    -------
    ndarray, shape (..., k), float32
        Non-negative, with sum 1.
    """
    position = np.interp(value, nodes, np.arange(len(nodes)))
    return np.maximum(1.0 - np.abs(position[..., None] - np.arange(len(nodes))), 0.0).astype("f4")


def emission_templates(grid, edges):
    """Dust templates on the pixels of a spectrum, as one matrix.

    Parameters
    ----------
    grid : DustEmissionGrid
    edges : ndarray, shape (n + 1,)
        Vacuum [Angstrom].

    Returns
    -------
    ndarray, shape (q * u * 2, n), float32
        Luminosity densities in arbitrary but common units.
    """
    inner = 0.5 * (grid.wavelength[1:] + grid.wavelength[:-1])
    source = np.concatenate([[grid.wavelength[0]], inner, [grid.wavelength[-1]]])
    density = (grid.energy / grid.wavelength).reshape(-1, grid.wavelength.size)
    scaled = density / density.max()
    return np.ascontiguousarray((rebin_matrix(source, edges) @ scaled.T).T.astype("f4"))


def emission_weights(grid, qpah, umin, gamma):
    """Weights of the templates of `emission_templates`, linear in qPAH, Umin and gamma (Draine & Li 2007, eq. 33).

    Parameters
    ----------
    grid : DustEmissionGrid
    qpah, umin, gamma : array_like, shape (galaxy,)
        PAH mass fraction [%], lowest starlight intensity, fraction of the dust that is heated by more than Umin.

    Returns
    -------
    ndarray, shape (galaxy, q * u * 2), float32
    """
    share = np.stack([1 - np.asarray(gamma), np.asarray(gamma)], axis=-1).astype("f4")
    by_qpah, by_umin = interpolation_weights(qpah, grid.qpah), interpolation_weights(umin, grid.umin)
    return np.einsum("gq,gu,gs->gqus", by_qpah, by_umin, share).reshape(len(share), -1)
