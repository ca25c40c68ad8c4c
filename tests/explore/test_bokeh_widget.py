"""The widget shows what the figure holds now, sends whole patches, and needs no network."""

import base64
import gzip
import json
import threading
from unittest.mock import MagicMock

import numpy as np
import pytest
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from spectool.explore import LiveBokeh


@pytest.fixture
def source():
    return ColumnDataSource({"x": np.arange(4, dtype=np.float32), "y": np.zeros(4, dtype=np.float32)})


@pytest.fixture
def widget(source):
    plot = figure(width=300, height=200)
    plot.line("x", "y", source=source)
    return LiveBokeh(plot)


@pytest.fixture
def sent(widget, monkeypatch):
    messages = []
    monkeypatch.setattr(widget, "send", lambda content, buffers=None: messages.append((content, buffers)))
    return messages


def patches(sent):
    return [json.loads(content["payload"]) for content, _ in sent if '"events"' in content.get("payload", "")]


def test_a_change_sends_the_changed_column_only_as_float32(source, sent):
    source.data["y"] = np.ones(4, dtype=np.float32)
    (event,) = patches(sent)[0]["events"]
    assert event["cols"] == ["y"]
    (column,) = (value for name, value in event["data"]["entries"] if name == "y")
    raw = gzip.decompress(base64.b64decode(column["array"]["data"]))
    np.testing.assert_array_equal(np.frombuffer(raw, dtype=np.float32), np.ones(4))
    assert len(sent) == 3


def test_a_batch_is_one_patch(widget, source, sent):
    with widget.batch():
        source.data["y"] = np.ones(4, dtype=np.float32)
        with widget.batch():
            widget._model.title.text = "new"
        assert patches(sent) == []
    (patch,) = patches(sent)
    assert len(patch["events"]) == 2


def test_a_batch_that_fails_still_sends_what_was_done(widget, source, sent):
    with pytest.raises(RuntimeError, match="half-way"), widget.batch():
        source.data["y"] = np.ones(4, dtype=np.float32)
        raise RuntimeError("half-way")
    assert len(patches(sent)) == 1


def test_a_patch_of_one_thread_is_never_mixed_with_another(widget, source, sent):
    def work():
        for value in range(30):
            source.data["y"] = np.full(4, value, dtype=np.float32)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kinds = ["head" if "PATCH-DOC" in content.get("payload", "") else "rest" for content, _ in sent]
    starts = [k for k, kind in enumerate(kinds) if kind == "head"]
    assert len(starts) == 90
    assert set(np.diff([*starts, len(kinds)])) == {3}


def test_a_new_view_gets_the_current_figure(widget):
    widget.comm = MagicMock()
    stale = json.dumps(widget.render_bundle, default=str)
    widget._model.title.text = "as it is now"
    assert "as it is now" not in stale
    assert "as it is now" in json.dumps(widget.get_state()["render_bundle"], default=str)


def test_data_echoed_by_a_page_never_overwrite_the_kernels(widget, source):
    source.data["y"] = np.full(4, 2, dtype=np.float32)
    echo = {
        "event": "jsevent",
        "kind": "ModelChanged",
        "model": {"id": source.id},
        "attr": "data",
        "new": {"type": "map", "entries": [["x", [0, 1]], ["y", [9, 9]]]},
    }
    widget._sync_model(widget, echo, [])
    np.testing.assert_array_equal(source.data["y"], np.full(4, 2))


def test_what_a_page_does_change_reaches_the_kernel(widget):
    zoom = {"event": "jsevent", "kind": "ModelChanged", "model": {"id": widget._model.x_range.id}}
    widget._sync_model(widget, {**zoom, "attr": "start", "new": 1.5}, [])
    assert widget._model.x_range.start == 1.5
