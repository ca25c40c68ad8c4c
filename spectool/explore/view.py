"""The view of every dashboard: controls, figures, tables and a status line, made from its state."""

import base64
import html
import time
from collections import deque
from functools import partial
from importlib.resources import files
from pathlib import Path

import ipywidgets as W
import numpy as np
import traitlets
from bokeh.layouts import gridplot
from bokeh.models import CustomJS, NoOverlap, SaveTool
from bokeh.plotting import figure

from spectool.explore.bokeh_widget import LiveBokeh
from spectool.explore.dashboard import Choice
from spectool.parallel import release_memory

MIME = {"csv": "text/csv", "json": "application/json"}
ECHO_SECONDS = 2.0
LEGEND = ".bk-label { color: var(--ink) !important; }"
GONE = (
    "This is a picture of the dashboard as it opens. <b>Run this cell</b> to bring the dashboard itself back."
)


class Slider(W.FloatSlider):
    """A slider that knows which of its values came from the state: the page sends them back, rounded and late."""

    def __init__(self, **options):
        self._moves = deque(maxlen=30)
        super().__init__(**options)
        self.stand = self.value

    def show(self, value):
        """Stand where the state is."""
        self.stand = value
        if abs(self.value - value) > 0.501 * self.step:
            self._moves.append((time.monotonic(), value))
            self.value = value

    def is_echo(self, value):
        """Whether a value is only what the state is, or has moved the slider to a moment ago."""
        now = time.monotonic()
        recent = [v for when, v in self._moves if now - when < ECHO_SECONDS]
        return any(abs(value - v) <= 0.501 * self.step for v in [self.stand, *recent])


class DashboardView:
    """Widgets and Bokeh figures around a `Dashboard`; a notebook shows it when it is the last line of a cell.

    A dashboard's own view says which controls stand in which row (`rows`), makes its figures (`make_panels`), fills
    them (`draw`), and tells in words what they show (`describe`, `make_tables`).

    Parameters
    ----------
    state : Dashboard
    export_folder : str or path
        Where files are saved.
    """

    rows = ()
    """Names of controls, a tuple for each row."""
    figure_rows = ()
    """The same for controls that stand above the figures."""
    hint = ""
    """What to do first; it leaves after the first action."""
    opener = ""
    """Code that opens the dashboard, for the cell that rebuilds a view."""
    beside = True
    """Whether controls stand left of the figures, or above them."""

    def __init__(self, state, *, export_folder="exports"):
        self.state, self.export_folder = state, Path(export_folder)
        self._quiet = False
        self.controls = {
            name: self.make_control(name) for row in (*self.rows, *self.figure_rows) for name in row
        }
        self._make_buttons()
        self.panels = self.make_panels()
        grid = gridplot(self.panels, sizing_mode="stretch_width", toolbar_location="right")
        grid.tags = ["spectool"]
        grid.toolbar.active_scroll = None  # the wheel scrolls the page
        for tool in grid.toolbar.select({"type": SaveTool}):
            tool.filename = f"{state.name}_dashboard"  # or the page asks for it
        columns, grid.children = max(map(len, self.panels)), []
        for i, row in enumerate(self.panels):
            places = [j for j, plot in enumerate(row) if plot is not None]
            for j, end in zip(places, [*places[1:], columns], strict=True):
                grid.children.append((row[j], i, j, 1, end - j))
        self.grid, self.figure = grid, LiveBokeh(grid, layout=W.Layout(width="100%"))
        self.figure.add_class("spectool-figure").add_class(f"bokeh-{grid.id}")
        script = CustomJS(code=read_asset("dashboard.js"))
        for plot in self.plots:
            plot.js_on_change("inner_width", script)
            plot.axis.major_label_policy = NoOverlap()
            for renderer in plot.renderers:  # a glyph's options hold the tags, the page looks at its renderer
                renderer.tags = [*renderer.tags, *renderer.glyph.tags]
            for legend in plot.legend:
                spacing = 14 if legend.orientation == "horizontal" else 2
                legend.update(background_fill_alpha=0, spacing=spacing, stylesheets=[LEGEND])
        self.status, self.message, self.tables = W.HTML(), W.HTML(), W.HTML()
        self.widget = self._arrange()
        state.observe(lambda _: self.show(state.changed), "version")
        state.observe(lambda _: self._show_status(), ["busy", "problem"])
        self.show(state.controls)

    # ---- for a dashboard's own class to fill

    def make_panels(self):
        """Return the Bokeh figures, a list for each row of the grid (over None the figure before it reaches)."""
        raise NotImplementedError

    def draw(self, changed):
        """Fill the figures' sources, and their `alt` texts, after a change of the named choices or of ``"work"``."""
        raise NotImplementedError

    def describe(self):
        """Return one line about what is shown, and a warning or ""."""
        return "", ""

    def make_tables(self):
        """Return the tables below the controls, as pandas.DataFrame or HTML."""
        return []

    def make_extras(self):
        """Return widgets of the dashboard's own, below the controls."""
        return []

    # ---- controls

    def make_control(self, name):
        """Return the widget of a choice, linked both ways."""
        trait, about = self.state.traits()[name], self.state.trait_metadata
        label, tooltip = about(name, "label") or "", about(name, "tooltip") or ""
        style = about(name, "style")
        wide = W.Layout(width="auto", flex="1 1 auto", min_width="0")
        if isinstance(trait, Choice) and trait.many:  # a box to tick for each value
            box = W.HBox(layout=W.Layout(flex_flow="row wrap", width="100%"))
            box.make = W.Checkbox if style == "check" else W.ToggleButton
            box.ticks, box.label = {}, label
            return box
        options = {"description": label, "tooltip": tooltip, "layout": wide}
        if isinstance(trait, Choice) and style == "toggles":
            widget = W.ToggleButtons(**options, style={"button_width": "auto"})
            widget.add_class("spectool-toggles")
        elif isinstance(trait, Choice):
            widget = W.Dropdown(**options)
        elif isinstance(trait, traitlets.Bool):
            options["layout"] = W.Layout(width="auto", flex="0 0 auto")
            widget = W.Checkbox(**options, indent=False) if style == "check" else W.ToggleButton(**options)
        elif isinstance(trait, traitlets.Float):
            limits = {"min": trait.min, "max": trait.max, "step": about(name, "step")}
            widget = Slider(**options, **limits, readout_format=about(name, "format") or ".2f")
        else:
            widget = W.Text(**options, continuous_update=False)
        return self.link(widget, lambda value: self.state.set(**{name: value}))

    def link(self, widget, action):
        """Call ``action(value)`` when a user moves a widget, and return the widget."""

        def moved(change):
            value = change["new"]
            if not self._quiet and not (isinstance(widget, Slider) and widget.is_echo(value)):
                self.act(action, value)

        widget.observe(moved, "value")
        return widget

    def button(self, word, tooltip, action, icon=""):
        """Return a button for an action."""
        layout = W.Layout(width="auto", flex="0 0 auto")
        widget = W.Button(description=word, tooltip=tooltip, icon=icon, layout=layout)
        widget.on_click(lambda _: self.act(action))
        return widget

    def act(self, action, *arguments, **options):
        """Do what a control asks for; an error stands on the status line until the next action."""
        with self.state.lock:
            self.tell("")
            self.hint_line.layout.display = "none"
            try:
                action(*arguments, **options)
            except (ValueError, KeyError, OSError) as error:
                self.tell(
                    html.escape(error.args[0] if isinstance(error, KeyError) else str(error)), warning=True
                )
                self._show_controls()

    # ---- buttons

    def make_steps(self, what, step):
        """Return two buttons, which call ``step(-1)`` and ``step(1)``."""
        sides = ((-1, "previous", "chevron-left"), (1, "next", "chevron-right"))
        return [self.button("", f"{word} {what}", partial(step, by), icon) for by, word, icon in sides]

    def _make_buttons(self):
        state, button = self.state, self.button
        self.undo = button("Undo", "take the last change back (Ctrl+Z)", state.undo, "undo")
        self.redo = button("Redo", "do it again (Ctrl+Shift+Z)", state.redo, "repeat")
        self.undo.add_class("spectool-undo")
        self.redo.add_class("spectool-redo")
        self.reset = button("Reset", "back to what the dashboard opens with", state.reset, "fast-backward")
        self.csv = button("CSV", "save what is shown as a table", lambda: self.export("csv"), "table")
        self.json = button("State", "save all choices as a file", lambda: self.export("json"), "save")
        options = {"layout": self.reset.layout, "tooltip": "go to a saved state"}
        self.load = W.FileUpload(accept=".json", multiple=False, description="Load", **options)
        self.load.observe(lambda change: self._upload(change["new"]), "value")
        self.code = button(
            "Code", "the cell that rebuilds this view", lambda: self.write(self.code_cell()), "code"
        )
        self.share = button(
            "Share", "this view as a line of text", lambda: self.write(state.share()), "share-alt"
        )
        self.text = W.Textarea(layout=W.Layout(width="100%", height="64px"), continuous_update=False)
        self.text.description, self.text.placeholder = "Text", "paste a shared line here"
        self.open = button("Open", "go to the view of the shared line", lambda: state.load(self.text.value))
        self.text_row = W.VBox([self.text, self.open], layout=W.Layout(display="none", width="100%"))
        self.hint_line = W.HTML(html.escape(self.hint))
        self.hint_line.add_class("spectool-hint")
        self.hint_line.layout.display = None if self.hint else "none"

    def write(self, text):
        """Show text to copy; shared text can be pasted and opened in the same place."""
        self.text.value, self.text_row.layout.display = text, None

    def code_cell(self):
        """Return the code of a cell that rebuilds this view."""
        first, now = self.state.first_state(), self.state.state()
        changes = ", ".join(f"{name}={value!r}" for name, value in now.items() if first.get(name) != value)
        module = type(self).__module__
        name = self.opener.split("(")[0]
        lines = [f"from {module} import {name}", "", f"dashboard = {self.opener}"]
        return "\n".join([*lines, f"dashboard.state.set({changes})", "dashboard"])

    def export(self, ending):
        """Save a file, and say where."""
        stamp = time.strftime("%Y%m%dT%H%M%S")
        path = self.export_folder / f"{self.state.name}_{stamp}.{ending}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            (self.state.save_csv if ending == "csv" else self.state.save)(path)
        except OSError as error:
            raise ValueError(f"not saved: {path}: {error.strerror or error}") from error
        # The link serves Voila, whose page shows no files, and a Binder session, whose disk will vanish.
        content = base64.b64encode(path.read_bytes()).decode()
        link = f'<a download="{path.name}" href="data:{MIME[ending]};base64,{content}">download</a>'
        self.tell(f"Saved {html.escape(str(path))} ({link})")

    def _upload(self, uploads):
        if uploads:
            name, content = uploads[0]["name"], bytes(uploads[0]["content"])
            self.act(self.state.load, content, name=name)
            self.load.value = ()

    def tell(self, text, *, warning=False):
        """Say something on the status line, in HTML, until the next action."""
        self.message.value = f'<span class="spectool-warning">{text}</span>' if warning else text
        self.message.layout.display = None if text else "none"

    # ---- from the state

    def show(self, changed):
        """Show the state, of which the named choices are new."""
        with self.state.lock:
            with self.figure.batch():
                self.draw(changed)
            # After the figure: nobody waits for a table.
            self._show_controls()
            self._show_status()
            self.tables.value = "".join(
                t if isinstance(t, str) else t.to_html(index=False, border=0, escape=True, na_rep="–")
                for t in self.make_tables()
            )

    def _show_status(self):
        with self.state.lock:
            text, warning = self.describe()
            warning = self.state.problem or warning
            busy = '<span class="spectool-busy">working …</span>' if self.state.busy else ""
            warned = f'<span class="spectool-warning">⚠ {html.escape(warning)}</span>' if warning else ""
            self.status.value = " &nbsp; ".join(part for part in (text, busy, warned) if part)

    def _show_controls(self):
        state, self._quiet = self.state, True
        try:
            for name, widget in self.controls.items():
                self.show_control(name, widget)
            self.undo.disabled, self.redo.disabled = (not able for able in state.can_undo)
        finally:
            self._quiet = False

    def _set_ticked(self, name, widget):
        self.state.set(**{name: [value for value, tick in widget.ticks.items() if tick.value]})

    def show_control(self, name, widget):
        """Let a control show its choice."""
        value = getattr(self.state, name)
        if isinstance(widget, W.HBox):
            options = self.state.options(name)
            if [v for _, v in options] != list(widget.ticks):
                widget.ticks = {
                    v: widget.make(description=label, layout=W.Layout(width="auto")) for label, v in options
                }
                for tick in widget.ticks.values():
                    self.link(tick, lambda _: self._set_ticked(name, widget))
                widget.children = [W.Label(widget.label), *widget.ticks.values()]
            for option, tick in widget.ticks.items():
                tick.value = option in value
            return
        if isinstance(widget, W.Dropdown | W.ToggleButtons):
            options = self.state.options(name)
            if list(widget.options) != options:
                widget.options = options
        if isinstance(widget, Slider):
            widget.show(value)
        elif widget.value != value:
            widget.value = value

    # ---- on the page

    @property
    def plots(self):
        """All figures."""
        return [plot for row in self.panels for plot in row if plot is not None]

    def _arrange(self):
        wrap = W.Layout(flex_flow="row wrap", width="100%", align_items="center")
        files = [self.csv, self.json, self.load, self.code, self.share]
        buttons = W.HBox([self.undo, self.redo, self.reset, *files], layout=wrap)
        rows, above = (
            [W.HBox([self.controls[name] for name in row], layout=wrap) for row in some]
            for some in (self.rows, self.figure_rows)
        )
        controls = W.VBox([*rows, *self.make_extras()])
        lines = [self.text_row, *above, self.hint_line, self.message, self.status]
        main = W.VBox([buttons, *lines, self.figure])
        for line in (self.status, self.message):
            line.add_class("spectool-status")
        self.tell("")
        body = W.Box([controls, main, self.tables])
        for part, name in ((controls, "controls"), (main, "main"), (self.tables, "tables"), (body, "body")):
            part.add_class(f"spectool-{name}")
        body.add_class("spectool-beside" if self.beside else "spectool-above")
        root = W.VBox([W.HTML(f"<style>{read_asset('dashboard.css')}</style>"), body])
        root.add_class("spectool-dashboard").add_class(f"spectool-{self.state.name}")
        return root

    def _ipython_display_(self):
        """Show the dashboard below the cell, above a picture that stands in for it when its kernel has gone."""
        from IPython.display import HTML, display

        release_memory()  # what opening took: JupyterLab keeps a kernel for each notebook
        self.figure.refresh()
        picture = base64.b64encode(read_asset(f"{self.state.name}.png", binary=True)).decode()
        source = f'<img src="data:image/png;base64,{picture}" alt="the {self.state.name} dashboard">'
        style = f"<style>{read_asset('picture.css')}</style>"
        display(HTML(f'{style}<div class="spectool-picture"><p>{GONE}</p>{source}</div>'))
        display(self.widget)


def read_asset(name, *, binary=False):
    """Return the content of a file that the views ship."""
    path = files("spectool.explore").joinpath("assets", name)
    return path.read_bytes() if binary else path.read_text(encoding="utf-8")


def alt(plot, sentence):
    """Say in a sentence what a figure shows, for those who cannot see it."""
    plot.html_attributes = {"role": "img", "aria-label": sentence}


def panel(name, height, **options):
    """A figure in small letters, whose frame lines up with others'."""
    borders = {"min_border_left": 52, "min_border_right": 8, "min_border_top": 4}
    plot = figure(name=name, height=height, active_scroll=None, **borders, **options)
    plot.axis.major_label_text_font_size, plot.axis.axis_label_text_font_size = "11px", "12px"
    plot.title.text_font_size = "13px"
    return plot


def send(source, **columns):
    """Put columns into a source, only those that change if it keeps its length."""
    old = source.data
    if any(len(old[name]) != len(values) for name, values in columns.items()):
        source.data = columns
    elif new := {n: v for n, v in columns.items() if not np.array_equal(old[n], v, equal_nan=True)}:
        source.data.update(new)


def set_range(axis, start, end):
    """Let an axis reach from start to end, and come back to that on the toolbar's reset."""
    axis.update(start=start, end=end, reset_start=start, reset_end=end)


def limits(values, *, low=0.5, high=99.7, margin=0.12):
    """Range of an axis that shows all but the most extreme values; (0, 1) if none is finite."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    bottom, top = np.percentile(values, [low, high])
    pad = margin * max(top - bottom, 1e-6 * max(abs(top), 1e-30))
    return float(bottom - pad), float(top + pad)
