import subprocess
import sys

from spectool.parallel import Usage, tree_rss


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
