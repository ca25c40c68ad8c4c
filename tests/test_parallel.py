import subprocess
import sys

import joblib
import pytest

from spectool.parallel import n_workers


@pytest.mark.parametrize(
    ("limit", "expected"), [("1", 1), ("0.5", 1), ("1.7", 1), ("2", 2), ("999", 4), ("", 4)]
)
def test_the_smaller_of_what_the_machine_has_and_what_is_granted(monkeypatch, limit, expected):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 4)
    monkeypatch.setenv("CPU_LIMIT", limit)
    assert n_workers() == expected


@pytest.mark.parametrize("limit", ["two", "0", "-1", "nan"])
def test_a_limit_that_is_no_number_of_cores_is_named(monkeypatch, limit):
    monkeypatch.setenv("CPU_LIMIT", limit)
    with pytest.raises(ValueError, match=f"CPU_LIMIT.*'{limit}'"):
        n_workers()


@pytest.mark.skipif(sys.platform != "linux", reason="only the C library of Linux keeps freed memory")
def test_released_memory_goes_back_to_the_system():
    code = """
import re
from spectool.parallel import release_memory
used = lambda: int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
blocks = [bytearray(b"x") * 60_000 for _ in range(2000)]
del blocks[:-1]
before = used()
release_memory()
print(before - used())
"""
    freed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(freed) > 50e6
