"""What dashboards save can be read again, is linked in the page, and foreign files are answered in words."""

import base64
import json
import re
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import ipywidgets as W
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from spectool.explore.exports import connect_files, read_state, report, write_figure, write_state, write_table

SAVED = {"format": "test state 1", "line": "Hα", "range": [0.1, None]}
CHECKS = {"name": "up.json", "state_format": "test state 1", "keys": ("line", "range")}


def test_a_state_comes_back_from_its_file_and_from_its_content(tmp_path):
    path = write_state(SAVED, str(tmp_path / "state.json"))
    assert read_state(str(path), **CHECKS) == (SAVED, "state.json")
    assert read_state(path.read_bytes(), **CHECKS) == (SAVED, "up.json")
    assert '"Hα"' in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"up\.json is not a state file of this dashboard: "),
        (b"\xff\xfe\x00", r"up\.json is not a state file of this dashboard: "),
        (b"[1, 2]", r"up\.json is not a state file of this dashboard$"),
        (b'{"format": "test state 2", "line": 1, "range": 2}', "is not a state file"),
        (b'{"format": "test state 1"}', r"up\.json lacks line, range"),
    ],
    ids=["empty", "no text", "no dict", "another's", "lacking"],
)
def test_what_is_no_state_is_named(content, message):
    with pytest.raises(ValueError, match=message):
        read_state(content, **CHECKS)


def test_a_table_has_its_comments_above_and_its_digits(tmp_path):
    table = pd.DataFrame({"n": [1, 2], "x": [np.pi, np.nan]})
    path = write_table(table, str(tmp_path / "table.csv"), comments=["Hα", "second"], digits=3)
    assert path.read_text(encoding="utf-8").splitlines() == ["# Hα", "# second", "n,x", "1,3.14", "2,"]


def test_a_figure_is_a_picture_of_its_size(tmp_path):
    assert imread(write_figure(Figure(figsize=(2, 1)), str(tmp_path / "x.png"))).shape == (150, 300, 4)


def test_a_line_without_text_is_hidden():
    line = W.HTML()
    report(line, "")
    assert line.layout.display == "none"
    report(line, "wrong", css="bad")
    assert line.value == '<span class="bad">wrong</span>'
    assert line.layout.display is None


class View(SimpleNamespace):
    """The least that `connect_files` asks for; its state is what was last loaded."""

    def __init__(self, folder):
        state = SimpleNamespace(lock=threading.RLock(), loaded=[])
        upload = W.FileUpload(accept=".json", multiple=False)
        super().__init__(png=W.Button(), csv=W.Button(), json=W.Button(), load=upload, state=state)
        self.export_folder, self.told = folder, []
        save = dict.fromkeys(("png", "csv", "json"), self.save)
        connect_files(self, prefix="test", save=save, load=self.take, tell=self.tell)

    def tell(self, text, *, warning=False):
        self.told.append((text, warning))

    @staticmethod
    def save(state, path):
        path.write_text(json.dumps(state.loaded), encoding="utf-8")

    @staticmethod
    def take(state, content, *, name):
        if content != b"good":
            raise ValueError(f"{name} is <bad>")
        state.loaded.append(name)

    def upload(self, name, content):
        now = datetime(2026, 1, 1, tzinfo=UTC)
        file = {"name": name, "content": memoryview(content), "type": "", "last_modified": now}
        self.load.value = ({**file, "size": len(content)},)


@pytest.mark.parametrize(
    ("ending", "mime"), [("png", "image/png"), ("csv", "text/csv"), ("json", "application/json")]
)
def test_a_button_writes_a_file_that_the_page_links_whole(tmp_path, ending, mime):
    view = View(tmp_path / "first")
    view.export_folder = tmp_path / "a & b"
    view.state.loaded.append("Hα")
    getattr(view, ending).click()
    (path,) = (tmp_path / "a & b").iterdir()
    assert re.fullmatch(rf"test_\d{{8}}T\d{{6}}\.{ending}", path.name)
    ((text, warning),) = view.told
    found = re.search(rf'download="{re.escape(path.name)}" href="data:{mime};base64,([^"]+)"', text)
    assert base64.b64decode(found[1]) == path.read_bytes()
    assert "a &amp; b" in text
    assert not warning


def test_an_upload_is_loaded_or_refused_and_can_be_repeated(tmp_path):
    view = View(tmp_path)
    view.upload("x<y.json", b"good")
    view.upload("x<y.json", b"good")
    assert view.state.loaded == ["x<y.json"] * 2
    view.upload("z.json", b"other")
    assert view.told == [("Loaded x&lt;y.json", False)] * 2 + [("z.json is &lt;bad&gt;", True)]
    assert view.load.value == ()
