"""The state of every dashboard, without a widget: choices that may be refused, their history, files, and late work."""

import base64
import json
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import traitlets

SHARE_PREFIX = "spectool:"
MOST_SHARED = 2048  # bytes of a state as text
MERGE_SECONDS = 1.0  # moves of the same control that undo takes back together
DEPTH = 200  # states that undo remembers
SPECTRUM_STARTS = (b"SIMPLE  =", b"\x1f\x8b")


class Choice(traitlets.TraitType):
    """A value, or with ``many=True`` a tuple of values, among those that `Dashboard.choices` lists now."""

    def __init__(self, default_value=None, *, many=False):
        self.many = many
        super().__init__(() if many and default_value is None else default_value)

    def validate(self, obj, value):
        if value is None:  # not chosen yet
            return value
        offered = [v for _, v in obj.options(self.name)]
        values = list(value) if self.many else [value]
        if refused := [v for v in values if v not in offered]:
            names = ", ".join(map(str, offered[:12])) + (", …" if len(offered) > 12 else "")
            raise traitlets.TraitError(f"{self.name} cannot be {refused[0]!r}; there are: {names}")
        return tuple(v for v in offered if v in values) if self.many else offered[offered.index(value)]


class Dashboard(traitlets.HasTraits):
    """What a dashboard knows and does.

    A dashboard's own class declares its choices as traits tagged ``ui=True`` (and with ``label``, ``tooltip``, for
    numbers ``step`` and ``format``), lists them in `controls`, and derives in
    `derive` what follows from them. All that users do goes through `set`.
    """

    name = "dashboard"
    controls = ()
    """Choices in the order in which they are set: later ones may depend on earlier ones."""

    version = traitlets.Int(0, help="counts changes: a view that observes it redraws what `changed` names")
    changed = traitlets.Tuple(help="what the last change was of")
    busy = traitlets.Bool(False, help="whether work in the background is running")
    problem = traitlets.Unicode(help="what went wrong with the last work in the background, in words")

    def __init__(self, *, start=None):
        super().__init__()
        self.lock = threading.RLock()
        self._start = start or (lambda function: threading.Thread(target=function, daemon=True).start())
        self._request = 0
        self.forget()

    # ---- for a dashboard's own class to fill

    def choices(self, name):
        """Values, or (label, value) pairs, that a `Choice` may have now."""
        raise NotImplementedError(f"{type(self).__name__} lists no choices of {name}")

    def first_state(self):
        """Return the choices that the dashboard opens with."""
        raise NotImplementedError

    def identity(self):
        """What a state is of, by name; the state of another identity is refused."""
        return {}

    def complete(self, changes):
        """Return the changes with what they bring about in other choices, as the choices hold it."""
        return changes

    def derive(self, changed):
        """Compute what follows from the choices, of which those in ``changed`` are new."""

    def table(self):
        """Return what is shown as a pandas.DataFrame, for CSV."""
        raise NotImplementedError

    def about(self):
        """Lines of text above the table."""
        return [f"{key}: {value}" for key, value in self.identity().items()]

    # ---- choices

    def options(self, name):
        """Pairs (label, value) that a choice may have now."""
        return [v if isinstance(v, tuple) else (str(v), v) for v in self.choices(name)]

    def set(self, **changes):
        """Change choices together; if one is refused, none is changed.

        Raises
        ------
        ValueError
            In words, if a name is no choice or a value is refused.
        """
        with self.lock:
            before = self.state()
            self._change(changes)
            self.remember(before, tuple(sorted(changes)))

    def remember(self, before, names=()):
        """Let undo come back to a state; quick changes of the same choices count as one."""
        if self.state() == before:
            return
        now = time.monotonic()
        if not (self._past and names == self._last[0] and now - self._last[1] < MERGE_SECONDS):
            self._past = [*self._past[1 - DEPTH :], before]
        self._last, self._future = (names, now), []

    def _change(self, changes):
        if unknown := changes.keys() - set(self.controls):
            raise ValueError(f"there is no choice {min(unknown)!r}; there are: {', '.join(self.controls)}")
        before = {name: getattr(self, name) for name in self.controls}
        changes = self.complete(changes)
        try:
            with self.hold_trait_notifications():
                for name in self.controls:
                    if name in changes:
                        setattr(self, name, changes[name])
                changed = tuple(n for n in self.controls if _plain(before[n]) != _plain(getattr(self, n)))
                if changed:
                    self.derive(changed)
                    self._announce(changed)
        except (traitlets.TraitError, ValueError) as error:
            # Past the validators: what was valid together need not be valid in any other order.
            self._trait_values.update(before)
            raise ValueError(str(error)) from error

    def _announce(self, changed):
        self.changed = changed
        self.version += 1

    def reset(self):
        """Go back to what the dashboard opens with."""
        self.set(**self.first_state())

    # ---- history

    def state(self):
        """Return all choices as plain values that JSON can hold."""
        return {name: _plain(getattr(self, name)) for name in self.controls}

    def forget(self):
        """Let the history begin with what is now."""
        self._past, self._future, self._last = [], [], (None, 0.0)

    @property
    def can_undo(self):
        """Whether there is something to take back, and something to do again."""
        return bool(self._past), bool(self._future)

    def undo(self):
        """Take the last change back."""
        self._travel(self._past, self._future)

    def redo(self):
        """Do again what was taken back."""
        self._travel(self._future, self._past)

    def _travel(self, here, there):
        with self.lock:
            if here:
                there.append(self.state())
                wanted, self._last = here.pop(), (None, 0.0)
                try:
                    self._change(wanted)
                except ValueError:  # such as a file that has gone: the history stays as it was
                    here.append(wanted)
                    there.pop()
                    raise

    # ---- text and files

    def document(self):
        """Return the state with what it is of, as a dict for JSON."""
        return {"dashboard": self.name, "of": self.identity(), "state": self.state()}

    def load(self, source, *, name="the state file"):
        """Go to a saved state.

        Parameters
        ----------
        source : bytes, str or path
            Content of a state file, its path, or the text of `share`.
        name : str
            Of the file, for messages.

        Raises
        ------
        ValueError
            In words, if it is not a state of this dashboard; nothing is changed.
        """
        if isinstance(source, str) and source.strip().startswith(SHARE_PREFIX):
            source, name = _unpack(source.strip()), "the shared text"
        elif not isinstance(source, bytes):
            source, name = Path(source).read_bytes(), Path(source).name
        if source.startswith(SPECTRUM_STARTS):
            raise ValueError(f"{name} is a spectrum: open it in 05_your_spectrum")
        try:
            saved = json.loads(source.decode("utf-8"))
        except ValueError as error:
            raise ValueError(f"{name} is not a state file of this dashboard: {error}") from error
        if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
            raise ValueError(f"{name} is not a state file of this dashboard")
        if saved.get("dashboard") != self.name:
            raise ValueError(f"{name} is of the dashboard {saved.get('dashboard')!r}, not of {self.name!r}")
        for key, value in self.identity().items():
            if (other := (saved.get("of") or {}).get(key)) != value:
                raise ValueError(f"{name} belongs to the {key} {other}, but here it is {value}")
        try:
            self.set(**saved["state"])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {error}") from error

    def share(self):
        """Return the whole state as text of at most 2 kB, which `load` takes on another machine."""
        packed = zlib.compress(json.dumps(self.document(), ensure_ascii=False).encode(), 9)
        text = SHARE_PREFIX + base64.urlsafe_b64encode(packed).decode()
        if len(text) > MOST_SHARED:
            raise ValueError(
                f"this view takes {len(text)} bytes as text, more than {MOST_SHARED}: save a file"
            )
        return text

    def save(self, path):
        """Write the state as JSON."""
        text = json.dumps(self.document(), indent=1, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def save_csv(self, path):
        """Write what is shown as CSV, below comment lines that begin with ``#``."""
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            file.writelines(f"# {line}\n" for line in self.about())
            self.table().to_csv(file, index=False, float_format="%.7g")

    # ---- work in the background

    def work(self, make, finish):
        """Call ``make()`` in the background, then ``finish(result)`` unless other work was asked for meanwhile."""
        with self.lock:
            self._request += 1
            request, self.busy, self.problem = self._request, True, ""
        self._start(lambda: self._work(request, make, finish))

    def _work(self, request, make, finish):
        result, problem = None, ""
        try:
            result = make()
        except Exception as error:  # noqa: BLE001  (whatever a paper's own code raises is shown to the reader)
            problem = str(error) or type(error).__name__
        with self.lock:
            if request != self._request:
                return
            with self.hold_trait_notifications():
                self.busy, self.problem = False, problem
                if not problem:
                    finish(result)
                self._announce(("work",))

    def drop_work(self):
        """Let nothing come of work that is running."""
        with self.lock:
            self._request += 1
            self.busy, self.problem = False, ""


def _plain(value):
    """A trait's value as JSON holds it."""
    if isinstance(value, np.ndarray | tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, np.float32):
        return float(f"{value:.7g}")
    return value.item() if isinstance(value, np.generic) else value


def _unpack(text):
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(
            base64.b64decode(text[len(SHARE_PREFIX) :], altchars="-_", validate=True), 1 << 20
        )
    except (ValueError, zlib.error) as error:
        raise ValueError(f"the shared text is damaged: {error}") from error
    if not unpacker.eof:
        raise ValueError("the shared text is damaged: its end is missing")
    return content
