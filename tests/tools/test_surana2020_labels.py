"""The script that writes the teacher's labels, from end to end."""

import numpy as np
import pytest

from spectool.papers.surana2020 import sample as surana2020
from spectool.surveys.gama import load_filters
from spectool.surveys.photometry import make_band_averages
from spectool.synth import SSPGrid
from tools.make import surana2020_labels as tool


def test_labels_are_written_and_read_with_their_galaxies(tmp_path, capsys):
    path, cache = tmp_path / "labels.nc", tmp_path / "cache"
    averages = make_band_averages(SSPGrid.embedded("broadband"), load_filters())
    few = ["--n", "250", "--n-models", "1000", "--threads", "1", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surana2020, "BLOCK", 200)
        for module in (surana2020, tool):
            patch.setattr(module, "make_band_averages", lambda *given: averages)
        tool.main([*few, "--out", str(path), "--cache", str(cache)])
        made = surana2020.make_surana2020(250, n_models=1000, cache=cache, progress=False)
    assert "250 galaxies" in capsys.readouterr().out
    found = surana2020.read_surana2020(path=path, averages=averages, progress=False)
    np.testing.assert_allclose(found["log_sfr_fit"], made["log_sfr_fit"], atol=0.00051)
    np.testing.assert_allclose(found["flux"], made["flux"], rtol=1e-3)
    np.testing.assert_array_equal(found["mask"], made["mask"])
