"""Which emission lines a pPXF fit has, and which of them share an amplitude."""

import numpy as np

from spectool.measure.line_setup import line_template
from spectool.measure.linear_design import DOUBLETS, NUISANCE
from spectool.measure.linear_lines import MEASURED
from spectool.wavelength import LINES

# Pixels [km/s] from which [O II] 3726, 3729 (224 km/s apart) cannot be told from each other.
BLENDED = 150.0
# Their ratio 3729 / 3726 at an electron density of 100 per cm3 (Osterbrock & Ferland 2006, Fig. 5.8).
O2_RATIO = 1.36
BALMER = ("Hα", "Hβ", "Hγ", "Hδ")
O2_DOUBLET = {"[O II] 3729": ("[O II] 3726", 1 / O2_RATIO)}


def line_columns(lines, velscale, *, doublets=None):
    """Members (lines) and columns (free amplitudes) of a fit.

    Besides the lines asked for, those of `MEASURED` and the nuisance lines of
    `spectool.measure.linear_design` are always fitted, so that what is reported does not depend on what is asked.

    Parameters
    ----------
    lines : sequence of str
        Names in `spectool.wavelength.LINES`.
    velscale : float
        Pixels [km/s]; where they are too coarse for [O II], its doublet is tied.
    doublets : dict, optional
        Stronger line: (weaker line, its flux relative to the stronger one); default [O III] and [N II] after Storey &
        Zeippen (2000, MNRAS 312, 813).

    Returns
    -------
    wavelength : ndarray, shape (member,)
        Vacuum [Angstrom].
    columns : ndarray, shape (member, column)
        Flux of each member per unit of amplitude.
    reported, balmer : ndarray of int, shapes (line,), (4,)
        The members asked for; Hα, Hβ, Hγ and Hδ.

    Raises
    ------
    ValueError
        If a line is unknown, named twice, or tied to one that is itself tied.
    """
    unknown = [name for name in lines if name not in LINES]
    if unknown:
        raise ValueError(f"no line {unknown[0]!r}; spectool.wavelength.LINES has {', '.join(LINES)}")
    if not len(lines) or len(set(lines)) < len(lines):
        raise ValueError("name at least one line, and each line once")
    ties = dict(DOUBLETS if doublets is None else doublets)
    if velscale > BLENDED:
        ties = O2_DOUBLET | ties
    names = list(dict.fromkeys([*lines, *MEASURED, *ties, *(weak for weak, _ in ties.values())]))
    if "[O II]" in names:  # the blend stands for both
        names = [name for name in names if not name.startswith("[O II] ")]
        ties = {name: tie for name, tie in ties.items() if not name.startswith("[O II] ")}
    owner = {weak: (strong, share) for strong, (weak, share) in ties.items()}
    chained = [strong for strong, _ in owner.values() if strong in owner]
    if chained:
        raise ValueError(f"{chained[0]} is tied to a stronger line: it cannot have a weaker one tied to it")
    free = {name: k for k, name in enumerate(n for n in names if n not in owner)}
    members = [(LINES[n], free[owner.get(n, (n, 1))[0]], owner.get(n, (n, 1.0))[1]) for n in names]
    taken, count = np.array([m[0] for m in members]), len(free)
    for group in NUISANCE:
        if all(np.abs(taken - centre).min() > 1.0 for centre, _ in group):
            members += [(centre, count, share) for centre, share in group]
            count += 1
    columns = np.zeros((len(members), count))
    for k, (_, column, share) in enumerate(members):
        columns[k, column] = share
    reported, balmer = (np.array([names.index(n) for n in some]) for some in (lines, BALMER))
    return np.array([m[0] for m in members]), columns, reported, balmer


def gas_templates(edges, lsf, wavelength):
    """Lines of flux 1 at the spectra's resolution, integrated over the template pixels.

    Parameters
    ----------
    edges : ndarray, shape (n + 1,)
        [Angstrom]
    lsf : ndarray, shape (n,)
        Sigma [km/s].
    wavelength : ndarray, shape (member,)
        [Angstrom]; 0 everywhere for a line beyond the pixels.

    Returns
    -------
    ndarray, shape (member, n)
        [1 / Angstrom]
    """
    sigma = np.interp(wavelength, 0.5 * (edges[1:] + edges[:-1]), lsf)
    return np.stack([line_template(edges, *line) for line in zip(wavelength, sigma, strict=True)])
