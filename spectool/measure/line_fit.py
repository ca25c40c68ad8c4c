"""One spectrum, its stars and its gas: non-negative least squares, and pPXF for the kinematics."""

import numpy as np
from scipy.optimize import nnls

from spectool.measure.line_setup import KM_S, convolve

VELOCITY_LIMIT = 400.0  # km/s on either side
STAR_LIMITS = (20.0, 450.0)
GAS_LIMITS = (10.0, 600.0)
MIN_PIXELS = 60
_COUNTED = 0.02  # coverage from which a line is part of the fit at all
# Templates of stars and of lines that stay apart while pPXF fits the kinematics; the others are summed.
_OWN_STARS, _OWN_LINES = 3, 4
_FTOL = 1e-2
# Widths [km/s] whose sums are the broad lines of AGN, and what they have to bring to be used.
BROAD_WIDTHS = (900.0, 1800.0, 3600.0)
_BROAD_SN, _BROAD_GAIN = 5.0, 30.0
_BROAD_WIDTH = 10.0  # equivalent width of Hα [Angstrom]


def _mixtures(weights, count, rank=None):
    """Few sums of templates: the `count` that matter most by themselves, the others together.

    Parameters
    ----------
    weights : ndarray, shape (template,)
    count : int
    rank : ndarray, shape (template,), optional
        What matters; default the weights.

    Returns
    -------
    ndarray, shape (at most count + 1, template)
    """
    weighted = np.flatnonzero(weights > 0)
    order = weighted[np.argsort(-(weights if rank is None else rank)[weighted], kind="stable")]
    groups = [order[k : k + 1] for k in range(min(count, order.size))] + [order[count:]]
    groups = [group for group in groups if group.size]
    mixtures = np.zeros((len(groups), weights.size))
    for row, group in zip(mixtures, groups, strict=True):
        row[group] = weights[group]
    return mixtures


class SpectrumFit:
    """A spectrum and its model at the present kinematics.

    Parameters
    ----------
    setup : FitSetup
    flux, noise : ndarray, shape (n,)
        Noise that is not positive masks a pixel.
    log_first : float
        ln of the first pixel's rest wavelength.
    """

    def __init__(self, setup, flux, noise, log_first):
        self.setup, self.n = setup, flux.size
        self.good = np.flatnonzero((noise > 0) & np.isfinite(noise) & np.isfinite(flux))
        self.shift = (setup.log_start - log_first) / (setup.velscale / KM_S)
        level = np.median(np.abs(flux[self.good])) if self.good.size else 0.0
        self.level = level if level > 0 else 1.0
        self.flux = np.where(np.isfinite(flux), flux, 0.0) / self.level
        typical = np.median(noise[self.good]) if self.good.size else 1.0
        self.noise = np.full(self.n, typical / self.level)
        self.noise[self.good] = noise[self.good] / self.level
        centre = np.exp(log_first + setup.velscale / KM_S * np.arange(self.n))
        self.pixel = centre * 2 * np.sinh(0.5 * setup.velscale / KM_S)
        series = np.polynomial.legendre.legvander(np.linspace(-1, 1, self.n), max(setup.degree, 0))
        self.poly = series.T[: setup.degree + 1]
        self.broad = np.zeros((0, self.n))
        self.fitted = []

    def what_is_wrong(self):
        """Why this spectrum cannot be fitted, or nothing."""
        if self.good.size == 0:
            return "no good pixel: masked, not finite, without ivar or without redshift"
        if self.good.size < MIN_PIXELS:
            return f"only {self.good.size} good pixels of {self.n}"
        flux, weight = self.flux[self.good], self.noise[self.good] ** -2
        if not flux.any():
            return "the flux is zero in all good pixels"
        if (flux * weight).sum() < -5 * np.sqrt(weight.sum()):
            return "the mean flux is negative: was too much sky subtracted?"
        return ""

    def convolve(self, star, gas):
        """Lines, stars and broad Balmer lines on the spectrum's pixels.

        Parameters
        ----------
        star, gas : (float, float)
            Velocity and dispersion [km/s].

        Returns
        -------
        tuple of ndarray, shapes (member, n), (star, n), (width * balmer, n)
        """
        setup = self.setup
        members = convolve(setup.gas_rfft, *gas, setup, self.shift, self.n)
        stars = convolve(setup.stars_rfft, *star, setup, self.shift, self.n)
        transforms = setup.gas_rfft[setup.balmer]
        broad = [convolve(transforms, 0.0, width, setup, self.shift, self.n) for width in BROAD_WIDTHS]
        return members, stars, np.concatenate(broad)

    def solve(self, star, gas, templates):
        """Non-negative least squares at fixed kinematics: what pPXF's linear fit does, without its loops.

        Parameters
        ----------
        star, gas : (float, float)
            Velocity and dispersion [km/s].
        templates : tuple
            From `convolve`.
        """
        self.star, self.gas, self.templates = star, gas, templates
        setup, good = self.setup, self.good
        self.members, stars, _ = templates
        self.coverage = (self.members * self.pixel)[:, good].sum(axis=1)
        inside = self.coverage > _COUNTED
        self.used = np.flatnonzero((setup.columns[inside] > 0).any(axis=0))
        lines = setup.columns[:, self.used].T @ self.members
        self.design = np.concatenate([self.poly, -self.poly, stars, self.broad, lines])
        self.first_star = 2 * len(self.poly)
        self.first_broad = self.first_star + len(stars)
        self.first_gas = self.first_broad + len(self.broad)
        scaled = (self.design[:, good] / self.noise[good]).T
        self.scale = np.linalg.norm(scaled, axis=0)
        self.scale[self.scale == 0] = 1.0
        self.scaled = scaled / self.scale
        weights, self.norm = nnls(self.scaled, self.flux[good] / self.noise[good])
        self.weights = weights / self.scale

    def add_broad_lines(self, templates):
        """Give the model broad Balmer lines if the spectrum asks for them.

        Nobody but broad-line AGN does; for the others the columns would only make Balmer lines uncertain.

        Parameters
        ----------
        templates : tuple
            From `convolve`.
        """
        broad, good = templates[2], self.good
        if not len(broad):
            return
        residual = ((self.flux - self.weights @ self.design) / self.noise)[good]
        columns = broad[:, good] / self.noise[good]
        length = np.linalg.norm(columns, axis=1)
        level = self.norm / np.sqrt(good.size)
        if (columns @ residual <= _BROAD_SN * level * length).all():
            return
        self.broad = broad
        self.keep_broad_lines_if_needed()

    def keep_broad_lines_if_needed(self):
        """Take broad lines out of the model again unless chi2 falls enough by them and Hα stands out.

        In spectra of high S/N the faults of stellar templates pass for broad lines of 3-8 Angstrom.
        """
        if not len(self.broad):
            return
        broad, self.broad = self.broad, np.zeros((0, self.n))
        self.solve(self.star, self.gas, self.templates)
        without, self.broad = self.norm**2, broad
        self.solve(self.star, self.gas, self.templates)
        gained = without - self.norm**2 > _BROAD_GAIN * self.norm**2 / self.good.size
        stars = self.weights[: self.first_broad] @ self.design[: self.first_broad]
        continuum = stars[np.argmax(self.members[self.setup.balmer[0]])]
        if not gained or self.broad_h_alpha <= _BROAD_WIDTH * max(continuum, 0.0):
            self.broad = np.zeros((0, self.n))
            self.solve(self.star, self.gas, self.templates)

    @property
    def star_weights(self):
        """Of the stellar templates."""
        return self.weights[self.first_star : self.first_broad]

    @property
    def amplitudes(self):
        """Of all columns of lines, 0 where not used."""
        every = np.zeros(self.setup.columns.shape[1])
        every[self.used] = self.weights[self.first_gas :]
        return every

    @property
    def broad_h_alpha(self):
        """Flux of broad Hα."""
        per_width = self.weights[self.first_broad : self.first_gas].reshape(len(BROAD_WIDTHS), -1)
        return float(per_width[:, 0].sum()) if per_width.size else 0.0

    def fit_kinematics(self, star, gas):
        """Fit velocities and dispersions with pPXF, and then the model with them.

        Parameters
        ----------
        star, gas : (float, float)
            Where to begin [km/s].

        Returns
        -------
        bool, str
            Whether pPXF converged, and what there is to tell.
        """
        setup, good = self.setup, self.good
        star_sn = np.linalg.norm((self.flux / self.noise)[good]) if self.star_weights.any() else 0.0
        free_star, converged = bool(star_sn > setup.min_star_sn), True
        for _ in range(setup.rounds):
            # Signal to noise of each line, were it alone.
            sn = self.weights[self.first_gas :] * self.scale[self.first_gas :]
            free_gas = bool(sn.size and sn.max() > setup.min_gas_sn)
            if not (free_star or free_gas):
                return True, "kinematics fixed: too noisy"
            star, gas, converged = self._run_ppxf(star, gas, free_star, free_gas, sn)
            self.solve(star, gas, self.convolve(star, gas))
            self.fitted = ["star"] * free_star + ["gas"] * free_gas
        if not converged:
            return False, "not converged within pPXF's number of steps"
        told = [] if free_star else ["stellar kinematics fixed: too noisy"]
        if not free_gas:
            told.append("gas kinematics fixed: no line is strong enough")
        elif not GAS_LIMITS[0] * 1.01 < gas[1] < GAS_LIMITS[1] * 0.99:
            told.append("gas dispersion at its limit")
        return True, "; ".join(told)

    def _run_ppxf(self, star, gas, free_star, free_gas, sn):
        """The nonlinear fit, with few templates: sums of populations and of lines.

        One population alone would keep the dispersion that it was mixed for; faint lines left out would bias the
        stars. Returns kinematics of stars and gas, and whether it converged.
        """
        setup = self.setup
        stars = _mixtures(self.star_weights, _OWN_STARS)
        lines = _mixtures(self.weights[self.first_gas :], _OWN_LINES, rank=sn) @ setup.columns[:, self.used].T
        fixed_star = [not (free_star and setup.fit_stellar_velocity), not free_star]
        kinds = [
            (stars @ setup.stars, stars @ setup.stars_rfft, star, STAR_LIMITS, fixed_star),
            (lines @ setup.gas, lines @ setup.gas_rfft, gas, GAS_LIMITS, [not free_gas] * 2),
        ]
        present = [bool(len(kind[0])) for kind in kinds]
        kinds = [kind for kind, there in zip(kinds, present, strict=True) if there]
        if all(all(kind[4]) for kind in kinds):
            return star, gas, True
        fit = _call_ppxf(self, kinds)
        found = iter(np.atleast_2d(fit.sol))
        star, gas = (
            tuple(map(float, next(found))) if there else old
            for there, old in zip(present, (star, gas), strict=True)
        )
        return star, gas, fit.status > 0


def _call_ppxf(spectrum, kinds):
    """pPXF on components (templates, their transforms, start, limits of the dispersion, what is fixed)."""
    from ppxf.ppxf import ppxf

    templates, transforms, start, limits, fixed = zip(*kinds, strict=True)
    bounds = [[[-VELOCITY_LIMIT, VELOCITY_LIMIT], list(limit)] for limit in limits]
    # With one component pPXF wants no lists of lists.
    pick = (lambda values: list(values)) if len(kinds) > 1 else (lambda values: values[0])
    broad = spectrum.weights[spectrum.first_broad : spectrum.first_gas] @ spectrum.broad
    # capfit divides by the step's gain, which is 0 where there is nothing to gain.
    with np.errstate(divide="ignore", invalid="ignore"):
        return ppxf(
            np.concatenate(templates).T,
            spectrum.flux,
            spectrum.noise,
            spectrum.setup.velscale,
            pick([list(s) for s in start]),
            bounds=pick(bounds),
            fixed=pick(fixed),
            component=np.repeat(np.arange(len(kinds)), [len(t) for t in templates]),
            moments=2,
            degree=spectrum.setup.degree,
            goodpixels=spectrum.good,
            sky=broad[:, None] if broad.any() else None,
            vsyst=spectrum.shift * spectrum.setup.velscale,
            velscale_ratio=spectrum.setup.ratio,
            templates_rfft=np.concatenate(transforms).T,
            linear_method="nnls",
            ftol=_FTOL,
            quiet=True,
        )
