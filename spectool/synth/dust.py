"""Two-component dust after Charlot & Fall (2000), and its re-emission in the infrared."""

import numpy as np
import torch

from spectool.spectra import rebin_matrix

PIVOT = 5500.0


def relative_depth(log_ratio, index):
    """Optical depth relative to that at 5500 A: a power law (Charlot & Fall 2000, eq. 9, with a free index)."""
    return torch.exp_(torch.outer(index, log_ratio))


def attenuate(young, old, depth, dust1, dust2):
    """Sum of young and old light behind dust, computed in place of its inputs."""
    birth_cloud = torch.exp(depth * -dust1[:, None])
    young.mul_(birth_cloud).add_(old)
    return young.mul_(depth.mul_(-dust2[:, None]).exp_())


def interpolation_weights(value, nodes):
    """Weights of linear interpolation between nodes; outside, the nearest node."""
    position = np.interp(value, nodes, np.arange(len(nodes)))
    return np.maximum(1.0 - np.abs(position[..., None] - np.arange(len(nodes))), 0.0).astype("f4")


def emission_templates(grid, edges):
    """Dust templates on the pixels of a spectrum, as one matrix."""
    inner = 0.5 * (grid.wavelength[1:] + grid.wavelength[:-1])
    source = np.concatenate([[grid.wavelength[0]], inner, [grid.wavelength[-1]]])
    density = (grid.energy / grid.wavelength).reshape(-1, grid.wavelength.size)
    scaled = density / density.max()
    return np.ascontiguousarray((rebin_matrix(source, edges) @ scaled.T).T.astype("f4"))


def emission_weights(grid, qpah, umin, gamma):
    """Weights of the templates of `emission_templates`, linear in qPAH, Umin and gamma (Draine & Li 2007, eq. 33)."""
    share = np.stack([1 - np.asarray(gamma), np.asarray(gamma)], axis=-1).astype("f4")
    by_qpah, by_umin = interpolation_weights(qpah, grid.qpah), interpolation_weights(umin, grid.umin)
    return np.einsum("gq,gu,gs->gqus", by_qpah, by_umin, share).reshape(len(share), -1)
