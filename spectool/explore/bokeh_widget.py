"""A Bokeh figure as an ipywidget that stays right: after a page reload, and when several threads draw."""

from contextlib import contextmanager
from threading import RLock

from bokeh.core.json_encoder import serialize_json
from bokeh.core.serialization import Serializer
from bokeh.document import Document
from bokeh.models import CustomJS, Plot
from bokeh.protocol.messages.patch_doc import patch_doc
from bokeh.settings import settings
from jupyter_bokeh import BokehModel

from spectool.explore.style import THEME, to_bokeh

# jupyter_bokeh's page sends every change back, those too that came from the kernel (BokehJS marks them with
# sync = false): a hundred kilobytes of JSON per slider move, and stale data if they overtake newer ones.
NO_ECHO = """
for (const doc of Bokeh.documents) {
  if (doc.spectool_no_echo || typeof doc._trigger_on_change !== "function") continue;
  const trigger = doc._trigger_on_change.bind(doc);
  doc._trigger_on_change = (event) => { if (event.sync !== false) trigger(event); };
  doc.spectool_no_echo = true;
}
"""


class LiveBokeh(BokehModel):
    """`jupyter_bokeh.BokehModel` with the suite's theme and five mends."""

    def __init__(self, figure, **kwargs):
        self._patch_lock = RLock()
        self._held_events = None
        self._answered, self._missed = False, False
        figure = to_bokeh(figure)
        if figure.document is None:
            Document(theme=THEME).add_root(figure)
        for plot in figure.select({"type": Plot}):
            # Any property that the page sets when it has drawn the figure.
            plot.js_on_change("inner_width", CustomJS(code=NO_ECHO))
        super().__init__(figure, **kwargs)

    @contextmanager
    def batch(self):
        """Send the changes made to the figure inside this context as one patch."""
        with self._patch_lock:
            outermost = self._held_events is None
            if outermost:
                self._held_events = []
            try:
                yield
            finally:
                if outermost:
                    events, self._held_events = self._held_events, None
                    if events:
                        self._send_patch(events)

    def refresh(self):
        """Send the whole figure anew: what changes before a view is shown never reaches it as a patch."""
        with self._patch_lock:
            self._answered, self._missed = False, False
            self.render_bundle = self._model_to_traits(self._model)

    def get_state(self, key=None, drop_defaults=False):
        """Return the traits that a new view starts from; the figure is the current one."""
        if key is None and getattr(self, "comm", None) is not None:
            with self._patch_lock:
                # Past the trait's own setter: it would send the whole figure to every view that is open.
                self._trait_values["render_bundle"] = self._model_to_traits(self._model)
        return super().get_state(key, drop_defaults)

    def _sync_model(self, _model, content, _buffers):
        # Data flow from the kernel to the page only; an echo may be older than what the kernel has.
        if not (content.get("kind") == "ModelChanged" and content.get("attr") == "data"):
            super()._sync_model(_model, content, _buffers)
        if not self._answered:
            self._answered = True
            if self._missed:
                self.refresh()

    def _document_patched(self, event):
        if event.setter is self:
            return
        with self._patch_lock:
            if self._held_events is None:
                self._send_patch([event])
            else:
                self._held_events.append(event)

    def _send_patch(self, events):
        # A page that has not answered yet may still be drawing the figure as it was.
        self._missed = not self._answered
        # Arrays within the message: as buffers, each would travel as two messages of its own.
        models = events[0].document.models
        serializer = Serializer(references=models.synced_references, deferred=False)
        settings.compression_level.set_value(0)  # floats hardly shrink, and a slider would wait for it
        try:
            content = serialize_json({"events": serializer.encode(events)})
        finally:
            settings.compression_level.unset_value()
        models.flush_synced(lambda model: not serializer.has_ref(model))
        for part in (serialize_json(patch_doc.create_header()), "{}", content):
            self.send({"msg": "patch", "payload": part})
