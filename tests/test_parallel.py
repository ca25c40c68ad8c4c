import subprocess
import sys

import joblib
import pytest

from spectool.parallel import Usage, n_workers, tree_rss


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


def test_the_peak_sees_memory_that_was_given_back():
    code = """import sys
block = bytearray(b"x") * 200_000_000
print("taken", flush=True); sys.stdin.readline()
del block
print("given back", flush=True); sys.stdin.readline()"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as child:
        assert child.stdout.readline() == "taken\n"
        usage = Usage(child.pid, interval=60)
        usage._look()
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "given back\n"
        usage.stop()
        assert tree_rss(child.pid) < 150e6 < 195e6 < usage.peak_rss_mb * 1e6
        child.stdin.close()


def test_children_are_counted_and_who_has_gone_uses_nothing():
    code = "import sys; block = b'x' * 100_000_000; print('ready', flush=True); sys.stdin.read()"
    before, pipes = tree_rss(), {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as child:
        child.stdout.readline()
        assert tree_rss() > before + 95e6 and tree_rss(child.pid) > 95e6
        child.stdin.close()
        child.wait()
    assert tree_rss(child.pid) == 0
    usage = Usage().stop()
    seconds = usage.seconds
    assert usage.stop().seconds == seconds >= 0, "the clock stands still once stopped"
