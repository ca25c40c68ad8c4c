"""Dashboards and figures in the suite's style; names are imported when they are asked for."""

from importlib import import_module

# Name -> module that has it: a dashboard loads what it needs, and no other.
LATER = {
    "LiveBokeh": "spectool.explore.bokeh_widget",
    "YourSpectrum": "spectool.explore.your_spectrum",
    "YourSpectrumView": "spectool.explore.your_spectrum",
    "open_dashboard": "spectool.explore.latent",
    "open_ifu_dashboard": "spectool.explore.ifu",
    "open_line_dashboard": "spectool.explore.line",
    "open_mzr_dashboard": "spectool.explore.mzr",
    "open_sed_dashboard": "spectool.explore.sed",
    "open_your_spectrum": "spectool.explore.your_spectrum",
    "show": "spectool.explore.style",
    "use_bokeh": "spectool.explore.style",
}

__all__ = list(LATER)


def __getattr__(name):
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LATER[name]), name)
