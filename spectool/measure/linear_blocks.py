"""Emission lines in the normal equations of many spectra, for `spectool.measure.linear_lines`."""

from dataclasses import dataclass

import numpy as np
import torch

from spectool.measure.linear_design import LineDesign, profile_slopes, profiles

_FEWEST = 0.05


@dataclass(frozen=True)
class KinematicPrior:
    """Gaussian prior of the gas: velocity about 0 and natural log of the dispersion about `centre` [km/s]."""

    velocity: float
    centre: float
    log_dispersion: float


@dataclass(frozen=True)
class LineBlocks:
    """The lines' part of the normal equations after the continuum is eliminated.

    Attributes
    ----------
    whitened : Tensor, shape (batch, k, c)
        Factor^-1 times the continuum-line products.
    normal : Tensor, shape (batch, c, c)
        Line-line products.
    right : Tensor, shape (batch, c)
    coverage : Tensor, shape (batch, member)
        Share of each member's flux on pixels that are seen.
    seen : Tensor of bool, shape (batch, c)
        Columns of which enough is seen to solve for them.
    profile : Tensor, shape (batch, member, width)
        Of unit flux.
    """

    whitened: torch.Tensor
    normal: torch.Tensor
    right: torch.Tensor
    coverage: torch.Tensor
    seen: torch.Tensor
    profile: torch.Tensor


class LineEliminator:
    """Builds `LineBlocks` for batches that share a design and an operator.

    Parameters
    ----------
    design : LineDesign
    operator : ContinuumOperator
    members : ndarray of int, optional
        Use these members only (for the kinematics, the strong ones).
    """

    def __init__(self, design, operator, members=None):
        if members is not None:
            column = np.unique(design.column[members], return_inverse=True)[1]
            design = LineDesign(
                wavelength=design.wavelength[members],
                ratio=design.ratio[members],
                column=column,
                reported=np.arange(len(members)),
                start=design.start[members],
                width=design.width,
                edges=design.edges,
                lsf=design.lsf[members],
            )
        self.design = design
        self.windows = torch.from_numpy(design.windows)
        padded = torch.nn.functional.pad(operator.vectors, (design.width, design.width))
        self.padded = padded
        self.vectors = padded[:, self.windows].permute(1, 2, 0).contiguous()  # (member, width, k)
        self.share = torch.zeros(design.n_columns, len(design.column), dtype=torch.float64)
        self.share[design.column, np.arange(len(design.column))] = torch.from_numpy(design.ratio)
        first = np.unique(design.column, return_index=True)[1]
        self.first, self.column = torch.from_numpy(first), torch.from_numpy(design.column)
        self.other = torch.from_numpy(np.setdiff1d(np.arange(len(design.column)), first))
        self.pairs = design.overlaps()
        widths = np.diff(design.edges)
        self.pixel_width = torch.from_numpy(widths[design.windows])

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
        return LineBlocks(whitened, normal, right, coverage, seen.expand(right.shape), profile)

    def with_kinematics(self, blocks, continuum, velocity, dispersion, flux, prior, free):
        """Blocks with two more columns: what a change of velocity and of log dispersion does to the lines.

        Parameters
        ----------
        blocks : LineBlocks
            With these kinematics.
        continuum : Continuum
        velocity, dispersion : Tensor, shape (batch,)
            [km/s]
        flux : Tensor, shape (batch, c)
            About which the model is linear.
        prior : KinematicPrior
        free : (bool, bool)
            Whether velocity and dispersion may change.

        Returns
        -------
        LineBlocks
            The last two columns are in units of the prior's widths.
        """
        moving = self.design.reported  # the lines that are too faint to report do not tell
        slopes = profile_slopes(self.design, velocity, dispersion, moving)
        design, pixels = self.design, continuum.weighted.shape[1]
        member_flux = flux[:, design.column] * torch.from_numpy(design.ratio)
        widths = torch.tensor([prior.velocity, prior.log_dispersion], dtype=torch.float64)
        change = torch.zeros(len(flux), 2, pixels, dtype=torch.float64)
        for i, m in enumerate(moving):
            window = slice(design.start[m], design.start[m] + design.width)
            change[:, :, window] += slopes[:, :, i] * member_flux[:, m, None, None]
        change *= widths[:, None]
        weighted = change * continuum.weighted[:, None]
        cross = (weighted @ self.padded.T).mT  # (batch, k, 2)
        by_line = (weighted[:, :, self.windows] * blocks.profile[:, None]).sum(-1) @ self.share.T
        own = weighted @ change.mT + torch.eye(2, dtype=torch.float64)
        offset = torch.stack([velocity, torch.log(dispersion) - prior.centre], dim=1) / widths
        right = (change @ continuum.data[..., None])[..., 0] - offset
        whitened = torch.linalg.solve_triangular(continuum.factor, cross, upper=False)
        top = torch.cat([blocks.normal, by_line.mT], dim=2)
        return LineBlocks(
            whitened=torch.cat([blocks.whitened, whitened], dim=2),
            normal=torch.cat([top, torch.cat([by_line, own], dim=2)], dim=1),
            right=torch.cat([blocks.right, right], dim=1),
            coverage=blocks.coverage,
            seen=torch.cat([blocks.seen, torch.tensor(free).expand(len(flux), 2)], dim=1),
            profile=blocks.profile,
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
