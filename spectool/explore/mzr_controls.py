"""The controls of the mass-metallicity dashboard: ipywidgets that move a `MzrState` and follow it."""

import ipywidgets as W

from spectool.explore.mzr_choices import MAX_SN
from spectool.explore.mzr_figure import RELATIONS, relation_style
from spectool.explore.mzr_quantities import QUANTITIES
from spectool.explore.mzr_tables import relation_key

CHOSEN = ("quantity", "left", "right", "calibration", "color", "reference")


class MzrControls:
    """Widgets linked to a state, both ways."""

    def __init__(self, state):
        self.state, self._listing = state, False
        wide = W.Layout(width="auto")
        half = W.Layout(flex="1 1 0", width="auto", min_width="0")
        # As wide as its two words; hidden where there is nothing to choose.
        self.quantity = W.ToggleButtons(
            style={"button_width": "auto"}, layout=W.Layout(width="auto", flex="0 0 auto", margin="0 4px 0 0")
        )
        self.quantity.add_class("mzr-quantity")
        self.left = W.Dropdown(layout=half, tooltip="sample of the left panel")
        self.right = W.Dropdown(layout=half, tooltip="sample of the right panel")
        self.overlaid = W.ToggleButton(
            description="Overlay",
            tooltip="both samples in one panel",
            layout=W.Layout(width="auto", flex="0 0 auto"),
        )
        self.calibration = W.Dropdown(description="Metallicity", layout=wide)
        self.color = W.Dropdown(description="Colour", layout=wide)
        self.reference = W.Dropdown(description="Scatter about", layout=wide)
        self.min_sn = W.FloatSlider(min=0, max=MAX_SN, step=0.5, readout_format=".1f", layout=wide)
        self.dust_corrected = W.Checkbox(
            description="correct for dust (Balmer decrement)", indent=False, layout=W.Layout(width="auto")
        )
        self.relations = {
            name: W.Checkbox(
                description=relation_key(name, *relation_style(name)),
                description_allow_html=True,
                indent=False,
                layout=W.Layout(width="auto"),
            )
            for name in RELATIONS
        }
        # Before the others follow: what they are to show must be in their lists.
        state.observe(lambda _: self.show_choices(), ["quantity", "sample_names"])
        self.show_choices()
        state.observe(lambda _: self.show_relations(), "relations")
        for name in (*CHOSEN, "overlaid", "min_sn", "dust_corrected"):
            self._bind(getattr(self, name), name)
        for name, box in self.relations.items():
            box.observe(lambda change, name=name: self._choose_relation(name, change["new"]), "value")

    def _bind(self, widget, name):
        widget.observe(lambda change: self._choose(name, change["new"]), "value")

        def follow(change):
            widget.value = change["new"]

        self.state.observe(follow, name)

    def _choose(self, name, value):
        if not self._listing:
            self.state.set(**{name: value})

    def _choose_relation(self, name, chosen):
        if not self._listing:
            others = set(self.state.relations) - {name}
            self.state.set(relations=others | {name} if chosen else others)

    def _options(self, name):
        choices = self.state.choices(name)
        if name == "quantity":
            return [(QUANTITIES[key].label, key) for key in choices]
        if name == "color":
            return [(self.state.kind.colors[key], key) for key in choices]
        return choices

    # ---- from the state

    def show_choices(self):
        """List what can be chosen now, and show what is."""
        state, self._listing = self.state, True
        try:
            for name in CHOSEN:
                widget, options = getattr(self, name), self._options(name)
                if list(widget.options) != options:
                    widget.options = options
                widget.value = getattr(state, name)
            self.overlaid.value, self.dust_corrected.value = state.overlaid, state.dust_corrected
            self.min_sn.value, self.min_sn.description = state.min_sn, state.kind.sn_label
            self.show_relations()
        finally:
            self._listing = False
        self.quantity.layout.display = None if len(self.quantity.options) > 1 else "none"
        self.dust_corrected.layout.display = None if state.quantity == "gas" else "none"
        for name, box in self.relations.items():
            box.layout.display = None if name in state.kind.relations else "none"

    def show_relations(self):
        """Tick the published relations that are drawn."""
        for name, box in self.relations.items():
            box.value = name in self.state.relations
