import subprocess
import sys

import numpy as np

from spectool.measure.usage import Usage, tree_rss


def test_the_peak_sees_memory_that_was_given_back():
    with Usage(interval=0.01) as usage:
        before = tree_rss() / 1e6
        block = np.ones(25_000_000)
        usage._look()
        del block
    assert usage.peak_rss_mb > before + 190


def test_children_are_counted():
    code = "import sys; block = b'x' * 100_000_000; print('ready', flush=True); sys.stdin.read()"
    before = tree_rss()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        assert tree_rss() > before + 95e6
        assert tree_rss(child.pid) > 95e6
        child.stdin.close()


def test_a_process_that_has_gone_uses_nothing():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert tree_rss(child.pid) == 0


def test_the_clock_stands_still_once_stopped():
    usage = Usage().stop()
    seconds = usage.seconds
    assert usage.stop().seconds == seconds >= 0
