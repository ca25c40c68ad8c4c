"""``make bench``: one JSON object per line on stdout, everything else on stderr.

Usage: python -m benchmarks.run [NAME ...]        (all rows, or the named ones)
"""

import contextlib
import importlib
import json
import sys
import traceback

# name of a row -> module:function; a function returns one row or several
BENCHMARKS = {
    "synthesis_vs_bagpipes": "benchmarks.synthesis:against_bagpipes",
    "synthesis_vs_dsps": "benchmarks.synthesis:against_dsps",
    "slider_to_paint_ms": "benchmarks.slider:run",
    "slider_kernel_ms": "benchmarks.slider:run",
    "mi_matrix_seconds": "benchmarks.information:mi_matrix",
    "read_spectra_per_second": "benchmarks.reading:run",
    "read_desi_spectra_per_second": "benchmarks.reading:run",
    "denoise_spectra_per_second": "benchmarks.denoise:run",
    "mzr_selection_to_paint_ms": "benchmarks.mzr:run",
    "mzr_slider_to_paint_ms": "benchmarks.mzr:run",
    "mzr_stars_slider_to_paint_ms": "benchmarks.mzr:run",
    "training_set_46305_seconds": "benchmarks.training_set:run",
    "line_fits_vs_ppxf_example": "benchmarks.lines:against_example",
    "line_fits_per_second": "benchmarks.lines:fits_per_second",
    "metallicity_200k_seconds": "benchmarks.metallicity:run",
    "metallicity_vs_ppxf": "benchmarks.metallicity:run",
    "photometry_galaxies_per_second": "benchmarks.photometry:run",
    "sedfit_galaxies_per_second": "benchmarks.sedfit:run",
    "sednet_training_seconds": "benchmarks.sednet:run",
    "sednet_galaxies_per_second": "benchmarks.sednet:run",
    "sedfit_vs_bagpipes_fit": "benchmarks.sedfit:against_bagpipes",
    "cnn_training_seconds": "benchmarks.narrowband:run",
    "narrowband_1e6_seconds": "benchmarks.narrowband:run",
}


def main(names: list[str]) -> int:
    """Run the named benchmarks (all if none is named); 1 if one of them failed."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    status = 0
    for target in dict.fromkeys(BENCHMARKS[name] for name in names or BENCHMARKS):
        module, function = target.split(":")
        print(f"running {target} ...", file=sys.stderr, flush=True)
        try:
            # Peers print; stdout is kept for the rows.
            with contextlib.redirect_stdout(sys.stderr):
                rows = getattr(importlib.import_module(module), function)()
        except Exception:  # noqa: BLE001  (the other benchmarks still run, and the status tells)
            traceback.print_exc()
            status = 1
            continue
        for row in [rows] if isinstance(rows, dict) else rows:
            print(json.dumps(row), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
