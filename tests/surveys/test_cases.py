"""The inputs that people bring, where they are at hand beside the checkout: each comes out as the field expects."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT.parent / "shared" / "cases" / "check.py"


@pytest.mark.skipif(not CHECK.is_file(), reason="the cases lie beside the checkout of developers only")
def test_every_case_passes():
    done = subprocess.run([sys.executable, CHECK], cwd=ROOT, capture_output=True, text=True, check=False)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert done.returncode == 0 and not failed, "\n".join(failed) or done.stderr[-2000:]
