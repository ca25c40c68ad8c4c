"""Files are whole or not there, and what is kept in one comes back as it was."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import spectool
from spectool.io import atomic, read_or_make

ROOT = Path(__file__).resolve().parents[1]


def test_a_file_is_whole_or_not_there_and_what_is_kept_is_not_made_again(tmp_path):
    path = tmp_path / "new" / "table.npz"
    with pytest.raises(KeyboardInterrupt), atomic(path) as part:
        part.write_text("half a")
        raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == []
    with atomic(path) as part:
        np.savez(part, x=np.arange(3))
    with pytest.raises(OSError, match="disk is full"), atomic(path) as part:
        raise OSError("disk is full")
    assert [p.name for p in path.parent.iterdir()] == ["table.npz"]
    np.testing.assert_array_equal(np.load(path)["x"], np.arange(3))
    made = []

    def make():
        made.append(1)
        return xr.Dataset({"x": ("band", [1.0, 2.0])}, {"band": ["r", "FUV"]}, {"history": "drawn"})

    first, again = (read_or_make(tmp_path / "part.nc", make) for _ in range(2))
    assert len(made) == 1 and again["band"].dtype == first["band"].dtype
    xr.testing.assert_identical(first, again)


def test_the_folder_above_a_checkout_finds_the_package_and_its_data(tmp_path):
    """Python puts that folder first, and there the checkout itself would pass for an (empty) package of its name."""
    checkout = tmp_path / "spectool"
    checkout.mkdir()
    shutil.copy(ROOT / "__init__.py", checkout)
    (checkout / "spectool").symlink_to(ROOT / "spectool")
    code = (
        "import spectool, spectool.io; from importlib.resources import files; from spectool.synth import SSPGrid;"
        "print(spectool.__version__, spectool.__file__, files('spectool'), SSPGrid.embedded().z_sun, sep='\\n')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    options = {"capture_output": True, "text": True, "cwd": tmp_path, "env": environment}
    run = subprocess.run([sys.executable, "-c", code], **options)
    assert run.returncode == 0, run.stderr
    package = checkout / "spectool"
    assert run.stdout.split() == [spectool.__version__, str(package / "__init__.py"), str(package), "0.02"]
