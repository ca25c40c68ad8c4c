"""Files are whole or not there, and what is kept in one comes back as it was."""

import numpy as np
import pytest
import xarray as xr

from spectool.io import atomic, read_or_make


def test_a_file_is_whole_or_not_there(tmp_path):
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


def test_what_is_kept_is_not_made_again(tmp_path):
    made = []

    def make():
        made.append(1)
        return xr.Dataset(
            {"x": ("band", [1.0, 2.0])}, coords={"band": ["r", "FUV"]}, attrs={"history": "drawn"}
        )

    first, again = (read_or_make(tmp_path / "part.nc", make) for _ in range(2))
    assert len(made) == 1 and again["band"].dtype == first["band"].dtype
    xr.testing.assert_identical(first, again)
