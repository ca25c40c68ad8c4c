"""Which values the controls of the mass-metallicity dashboard may have, and which they have at first."""

from spectool.explore.mzr_quantities import QUANTITIES, quantities_of

MAX_SN = 50.0
NONE = "none"
SWITCHES = ("overlaid", "dust_corrected")
# What each quantity has of its own; it comes back when the quantity does.
OWN = ("left", "right", "calibration", "min_sn", "color", "relations", "reference")
CONTROLS = ("quantity", *SWITCHES, *OWN)


def list_quantities(samples):
    """Keys of `QUANTITIES` that any of the samples has."""
    return [key for key, quantity in QUANTITIES.items() if any(map(quantity.is_in, samples.values()))]


def list_choices(control, samples, quantity):
    """Values that a control may have."""
    if control == "quantity":
        return list_quantities(samples)
    chosen = QUANTITIES[quantity]
    if control in ("left", "right"):
        names = [name for name, sample in samples.items() if chosen.is_in(sample)]
        return names if control == "left" else [NONE, *names]
    return {
        "calibration": list(chosen.scales),
        "color": list(chosen.colors),
        "relations": list(chosen.relations),
        "reference": list(chosen.relations),
    }.get(control)


def first_choices(samples, quantity):
    """The paper's choices for a quantity, and the first two samples that have it."""
    chosen, names = QUANTITIES[quantity], list_choices("left", samples, quantity)
    reference = next(iter(chosen.relations))
    return {
        "left": names[0],
        "right": names[1] if len(names) > 1 else NONE,
        "calibration": chosen.scales[0],
        "min_sn": chosen.min_sn,
        "color": next(iter(chosen.colors)),
        "relations": (reference,),
        "reference": reference,
    }


def follow_sample(changes, samples, quantity):
    """The quantity that changes ask for: in words, or by a sample that lacks the one on the axis."""
    if "quantity" in changes:
        return check_choice("quantity", changes["quantity"], samples, quantity)
    for name in (changes.get("left"), changes.get("right")):
        if name in samples and not QUANTITIES[quantity].is_in(samples[name]):
            return quantities_of(samples[name])[0]
    return quantity


def check_choice(control, value, samples, quantity):
    """Return a value as its control holds it."""
    if control not in CONTROLS:
        raise ValueError(f"there is no control {control!r}; there are: {', '.join(CONTROLS)}")
    choices = list_choices(control, samples, quantity)
    if control == "relations":
        # In the order that they are listed in, whatever the order of the clicks.
        unknown = [v for v in value if v not in choices]
        value = tuple(choice for choice in choices if choice in value)
    elif choices:
        unknown = [value] if value not in choices else []
    elif control == "min_sn":
        unknown, value = [value] if not 0 <= value <= MAX_SN else [], float(value)
        choices = [f"0 to {MAX_SN:g}"]
    else:
        unknown, value = [], bool(value)
    if unknown:
        raise ValueError(f"{control} cannot be {unknown[0]!r}; there are: {', '.join(choices)}")
    return value
