"""What every dashboard does, whatever it shows: choices, history, text, files, late work, and the view of all that."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_latent(folder, request):
    from spectool.explore.latent import LatentState, LatentView

    model, seeds = request.getfixturevalue("model"), request.getfixturevalue("seeds")
    state = LatentState(model(), seeds, start=lambda function: function())
    return LatentView(state, export_folder=folder), [{"seed": "two"}, {"whole_lines": True}, {"window": "Hα"}]


def make_spectrum(folder, request):
    from spectool.explore.your_spectrum import YourSpectrum, YourSpectrumView

    state = YourSpectrum(ask=lambda sample: [])
    state.reset()
    state.forget()
    return YourSpectrumView(state, export_folder=folder), [
        {"redshift": "0.01"},
        {"ebv": ""},
        {"medium": "air"},
    ]


def make_line(folder, request):
    from spectool.explore.line import LineState, LineView

    from .line_fakes import FakePipeline, make_product

    product = make_product()
    state = LineState(product, FakePipeline(product), start=lambda function: function())
    changes = [{"line": "Hβ"}, {"numbers": "4, 9-11"}, {"kind": "AE", "size": 10, "sn_range": (3.0, 50.0)}]
    return LineView(state, export_folder=folder), changes


def make_mzr(folder, request):
    from .test_mzr import make_view

    return make_view(folder), [{"left": "de-noised"}, {"min_sn": 20.0}, {"color": "error"}]


def make_sed(folder, request):
    from spectool.explore.sed import SedView
    from tests.explore.test_sed import make_state

    changes = [{"galaxy": 3}, {"shifts": {"r": 0.3}}, {"band": "K", "dropped": ["u"]}]
    state = make_state()
    state.set(**state.first_state())
    return SedView(state, export_folder=folder), changes


def make_ifu(folder, request):
    from spectool.explore.ifu import IfuState, IfuView

    from .ifu_fakes import make_predictions, make_sample, rebuild

    sample = make_sample(n_spectra=40)
    state = IfuState(sample, make_predictions(sample), rebuild=rebuild, start=lambda function: function())
    changes = [{"galaxy": 2, "view": "difference"}, {"source": "Set A"}, {"quantity": "log_z"}]
    return IfuView(state, export_folder=folder), changes


# Dashboard -> function (folder, request) that returns its view, and changes that a user could make.
BUILDERS = {
    "ifu": make_ifu,
    "latent": make_latent,
    "line": make_line,
    "mzr": make_mzr,
    "sed": make_sed,
    "spectrum": make_spectrum,
}


@pytest.fixture(params=BUILDERS)
def built(request, tmp_path):
    return BUILDERS[request.param](tmp_path / "exports", request)


@pytest.fixture
def view(built):
    return built[0]


@pytest.fixture
def state(view):
    return view.state


@pytest.fixture
def changes(built):
    return built[1]


def press(view, name):
    getattr(view, name).click()


# ---- the state


def test_every_choice_has_its_place_in_the_state(state):
    assert set(state.traits(ui=True)) <= set(state.controls)
    assert json.loads(json.dumps(state.state())) == state.state()


def test_a_refused_choice_changes_nothing_and_says_what_there_is(state, changes):
    before, version = state.state(), state.version
    name = next(iter(changes[0]))
    with pytest.raises(ValueError, match="no such value"):
        state.set(**(changes[1] | {name: "no such value"}))
    with pytest.raises(ValueError, match="there is no choice 'colour of the moon'"):
        state.set(**{"colour of the moon": 1})
    assert (state.state(), state.version) == (before, version)


def test_undo_and_redo_walk_through_at_least_fifty_states(state, changes):
    home, states = state.state(), []
    states.append(home)
    for k in range(60):
        now = state.state()
        for change in (changes[k % len(changes)], home):
            state.set(**change)
            if state.state() != now:
                break
        states.append(state.state())
    passed = [s for k, s in enumerate(states) if k == 0 or s != states[k - 1]]
    for before in passed[-2::-1][:50]:
        state.undo()
        assert state.state() == before
    for after in passed[-50:]:
        state.redo()
        assert state.state() in (after, passed[-1])
    assert state.state() == passed[-1]
    assert state.can_undo[1] is False


def test_an_undo_that_is_refused_loses_nothing(state, changes, monkeypatch):
    state.set(**changes[0])

    def refuse(changed):
        raise ValueError("the file is not there any more")

    with monkeypatch.context() as patch:
        patch.setattr(state, "derive", refuse)
        with pytest.raises(ValueError, match="not there any more"):
            state.undo()
    there = state.state()
    state.undo()
    state.redo()
    assert state.state() == there


def test_a_new_change_after_undo_ends_what_could_be_done_again(state, changes):
    state.set(**changes[0])
    state.undo()
    assert state.can_undo[1]
    state.set(**changes[1])
    assert not state.can_undo[1]


def test_reset_comes_back_and_can_be_undone(state, changes):
    state.reset()
    home = state.state()
    state.set(**changes[0])
    changed = state.state()
    state.set(**state.first_state())
    assert {k: state.state()[k] for k in state.first_state()} == {k: home[k] for k in state.first_state()}
    state.undo()
    assert state.state() == changed


def test_a_state_comes_back_exactly_from_text_and_file(state, changes, tmp_path):
    for change in changes:
        state.set(**change)
    there, text = state.state(), state.share()
    state.save(tmp_path / "state.json")
    assert len(text.encode()) <= 2048
    for source in (text, f"  {text}\n", tmp_path / "state.json", (tmp_path / "state.json").read_bytes()):
        state.reset()
        state.load(source)
        assert state.state() == there


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"SIMPLE  =                    T", "x.json is a spectrum: open it in 05"),
        (b"\x1f\x8b\x08 compressed", "x.json is a spectrum: open it in 05"),
        (b"\xff\xfe\xdf", "x.json is not a state file"),
        (b"[1, 2]", "x.json is not a state file"),
        (b'{"dashboard": "kitchen", "state": {}}', "x.json is of the dashboard 'kitchen'"),
    ],
)
def test_a_foreign_file_is_answered_in_words(state, content, words):
    before = state.state()
    with pytest.raises(ValueError, match=words):
        state.load(content, name="x.json")
    assert state.state() == before


def test_a_state_of_something_else_or_with_a_choice_that_is_not_there_changes_nothing(state, changes):
    before, saved = state.state(), state.document()
    if saved["of"]:
        foreign = saved | {"of": dict.fromkeys(saved["of"], "another")}
        with pytest.raises(ValueError, match="belongs to"):
            state.load(json.dumps(foreign).encode(), name="x.json")
    odd = saved | {"state": saved["state"] | {next(iter(changes[0])): "no such value"}}
    with pytest.raises(ValueError, match=r"x\.json: .*no such value"):
        state.load(json.dumps(odd).encode(), name="x.json")
    assert state.state() == before


def test_damaged_text_is_refused_in_words_and_changes_nothing(state):
    before, text, rng = state.state(), state.share(), np.random.default_rng(0)
    for cut in rng.integers(0, len(text), 60):
        flipped = text[:cut] + chr(rng.integers(33, 127)) + text[cut + 1 :]
        for damaged in {text[:cut], flipped} - {text}:
            try:
                state.load(damaged)
            except (ValueError, OSError) as error:
                assert str(error)
            assert state.state() == before


def test_only_the_latest_work_in_the_background_counts(state):
    jobs, results = [], []
    state._start = jobs.append
    state.work(lambda: "early", results.append)
    state.work(lambda: "late", results.append)
    assert state.busy
    jobs[1]()
    jobs[0]()
    assert (results, state.busy) == (["late"], False)


def test_work_that_fails_is_a_sentence_until_the_next(state):
    state._start = lambda function: function()

    def fail():
        raise FileNotFoundError("weights.safetensors is not there")

    state.work(fail, lambda result: None)
    assert (state.problem, state.busy) == ("weights.safetensors is not there", False)
    state.work(lambda: 1, lambda result: None)
    assert state.problem == ""


# ---- the view


def test_controls_follow_the_state_and_come_back_on_undo(view, state, changes):
    for change in changes:
        state.set(**change)
    press(view, "undo")
    for name, widget in view.controls.items():
        if hasattr(widget, "options"):
            assert widget.value == getattr(state, name)
    assert view.redo.disabled is False


def test_every_control_has_a_name(view):
    for name, widget in view.controls.items():
        words = [getattr(widget, key, "") for key in ("description", "tooltip", "label")]
        assert any(words) or getattr(widget, "children", ()), name


def test_files_are_written_and_linked(view, tmp_path):
    for name in ("csv", "json"):
        press(view, name)
        assert "download=" in view.message.value
    written = {path.suffix: path.read_text(encoding="utf-8") for path in (tmp_path / "exports").iterdir()}
    assert set(written) == {".csv", ".json"}
    assert json.loads(written[".json"]) == view.state.document()
    lines = [line for line in written[".csv"].splitlines() if not line.startswith("#")]
    assert len(lines) == len(view.state.table()) + 1


def test_a_folder_that_cannot_be_written_is_said_and_forgotten_after_the_next_action(view, tmp_path):
    (tmp_path / "file").write_text("")
    view.export_folder = tmp_path / "file" / "exports"
    press(view, "csv")
    assert "not saved" in view.message.value
    press(view, "reset")
    assert view.message.value == ""


def test_an_uploaded_state_is_loaded_and_a_spectrum_is_explained(view, state, changes):
    home = json.dumps(state.document()).encode()
    state.set(**changes[0])
    for content, words in ((b"SIMPLE  = T", "open it in 05"), (home, "")):
        upload = {
            "name": "x.json",
            "content": memoryview(content),
            "size": 1,
            "type": "",
            "last_modified": NOW,
        }
        view.load.value = (upload,)
        assert words in view.message.value
    assert state.document() == json.loads(home)


def test_the_shown_code_rebuilds_the_view(view, state, changes):
    for change in changes:
        state.set(**change)
    there = state.state()
    press(view, "code")
    code = view.text.value
    state.reset()
    lines = code.splitlines()
    assert lines[0].startswith("from spectool.explore") and lines[-1] == "dashboard"
    exec(lines[0], {})  # the import holds
    exec("\n".join(line for line in lines[1:] if ".state.set" in line), {"dashboard": view, "np": np})
    assert state.state() == there


def test_a_shared_line_is_opened(view, state, changes):
    state.set(**changes[0])
    there = state.state()
    press(view, "share")
    state.reset()
    view.open.click()
    assert state.state() == there


def test_every_figure_says_what_it_shows(view):
    for plot in view.plots:
        about = plot.html_attributes
        assert about["role"] == "img" and len(about["aria-label"]) > 20


def test_the_hint_leaves_after_the_first_action(view):
    assert view.hint_line.layout.display is None
    press(view, "undo")
    assert view.hint_line.layout.display == "none"


def test_a_reopened_notebook_has_a_picture(view, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    view._ipython_display_()
    assert "Run this cell" in shown[0].data and "data:image/png;base64" in shown[0].data
    assert shown[1] is view.widget
