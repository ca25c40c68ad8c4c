"""What the mass-metallicity dashboard says in words and numbers, as HTML."""

import html

import numpy as np

from spectool.explore.mzr_data import CLASSES
from spectool.explore.mzr_layer import ALL_COLOR, CLASS_PALETTE, MEASURED_COLOR, PALETTE

GALAXY_LINES = ("Hα", "Hβ", "[O III] 5007", "[N II] 6583", "[S II] 6716", "[S II] 6731")


DASHES = {"solid": "━━", "dashed": "╍╍", "dotted": "┅┅", "dashdot": "━╍", "dotdash": "╍┅"}


def number(value, form=".2f"):
    """Format a number; a dash where it is unknown."""
    return f"{value:{form}}".replace("-", "−") if np.isfinite(value) else "–"


def _table(head, rows):
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def statistics_table(state, correlations=None):
    """How many galaxies are measured, their scatter and the trend with star formation, by sample."""
    panels = state.panels
    trends, both = correlations or (None, None)
    told = ["…"] * len(panels)
    if trends:
        told = [with_error(trend.rho, trend.error, "+.2f") for trend in trends]
    rows = [
        ["galaxies", *(f"{p.n_galaxies:,}" for p in panels)],
        ["S/N too low", *(f"{p.n_faint:,}" for p in panels)],
        [state.kind.unmeasured, *(f"{p.n_galaxies - p.n_faint - p.mass.size:,}" for p in panels)],
        ["measured", *(f"{p.mass.size:,}" for p in panels)],
        ["scatter (dex)", *(with_error(*p.scatter, ".3f") for p in panels)],
        ["offset (dex)", *(number(p.offset, "+.3f") for p in panels)],
        ["median error (dex)", *(number(median(p.error), ".3f") for p in panels)],
        ["SFR trend, ρ", *told],
    ]
    text = _table(["", *(p.name for p in panels)], rows)
    text += f'<div class="mzr-small">Scatter and offset: about {html.escape(state.reference)}.'
    if both is not None:
        r = with_error(both.rho, both.error, "+.2f")
        text += f" At fixed mass, left and right agree with ρ = {r} ({both.n:,} galaxies)."
    return text + "</div>"


def median(values):
    """Median of what is finite; NaN of nothing."""
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else np.nan


def galaxy_table(state):
    """Lines, if the gas is looked at, and metallicities of the galaxy looked at, in the samples that are shown."""
    found = {name: state.locate(name) for name in dict.fromkeys(state.shown)}
    found = {name: galaxy for name, galaxy in found.items() if galaxy is not None}
    if not found:
        return ""
    one = {name: state.lines(name).isel(galaxy=[galaxy]) for name, galaxy in found.items()}
    first = next(iter(one.values()))
    about = [f"galaxy {state.selected[1]}", f"log M*&nbsp;{number(first['log_mass'].item())}"]
    if "log_sfr" in first:
        about.append(f"log SFR&nbsp;{number(first['log_sfr'].item())}")
    if "redshift" in first:
        about.append(f"z&nbsp;{number(first['redshift'].item(), '.3f')}")
    if "spectral_class" in first:
        about.append(html.escape(str(first["spectral_class"].item())))
    head = list(one)
    text = f"<b>{', '.join(about)}</b>".replace("log ", "log&nbsp;")
    names = GALAXY_LINES if state.quantity == "gas" else ()
    lines = [
        [line, *(line_cell(sample, line) for sample in one.values())]
        for line in names
        if any("line" in sample.coords and line in sample["line"].values for sample in one.values())
    ]
    if lines:
        units = next(iter(one.values()))["line_flux"].attrs.get("units", "")
        text += _table([f"line flux ({units.replace('Angstrom', 'Å')})", *head], lines)
    rows = []
    for scale in state.kind.scales:
        found = [state.kind.measure(sample, scale) for sample in one.values()]
        rows.append([html.escape(scale), *(with_error(f.value[0], f.error[0]) for f in found)])
    rows.append([state.kind.sn_label.removesuffix(" above"), *(number(f.sn[0], ".1f") for f in found)])
    return text + _table([state.kind.axis, *head], rows)


def with_error(value, error, form=".2f"):
    """A number with its error, as far as both are known; a third digit where two say that the error is 0."""
    if np.isfinite(value) and np.isfinite(error) and error > 0:
        form = form.replace(".2f", ".3f") if error < 0.005 else form
        return f"{number(value, form)} ± {number(error, form.lstrip('+'))}"
    return number(value, form)


def line_cell(sample, line):
    """Flux and error of a line of one galaxy."""
    if "line" not in sample.coords or line not in sample["line"].values:
        return "–"
    here = sample.sel(line=line)
    flux, error = here["line_flux"].item(), here["line_flux_error"].item()
    return f"{number(flux, '.3g')} ± {number(error, '.2g')}"


def color_key(state):
    """What the colours mean."""
    parts = [f"<b>{html.escape(state.kind.colors[state.color])}</b>"]
    if state.color == "class":
        present = {int(c) for p in state.panels for c in np.unique(p.color[np.isfinite(p.color)])}
        parts += [swatch(CLASS_PALETTE[i], name, "●") for i, name in enumerate(CLASSES) if i in present]
    else:
        # How many depends on the size of a cell, which a zoom changes.
        low, high = ("few", "many") if state.color == "number" else map(number, state.color_range)
        stops = ", ".join(PALETTE[:: len(PALETTE) // 8])
        bar = f'<span class="mzr-bar" style="background: linear-gradient(to right, {stops})"></span>'
        parts.append(f"{low} {bar} {high}")
    return " &nbsp; ".join(parts)


def histogram_key():
    """What the colours of the histograms mean."""
    return swatch(ALL_COLOR, "all galaxies", "■") + " &nbsp; " + swatch(MEASURED_COLOR, "measured", "■")


def swatch(color, name, sign="▬"):
    """A coloured sign and what it stands for."""
    return f'<span style="color:{color}">{sign}</span> {html.escape(name)}'


def relation_key(name, color, dash):
    """A published relation's name behind a piece of its line, for a widget that sanitises HTML."""
    return f'<span style="color:{color}">{DASHES[dash]}</span> {html.escape(name)}'
