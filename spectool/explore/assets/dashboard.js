// What a dashboard needs of the page that neither ipywidgets nor Bokeh gives: names for screen readers, keys, one column
// where it is narrow, taller figures where the window is tall, and figures in the colours of the page's theme.
const CHROME = 135; // pixels of a window that JupyterLab takes above and below a notebook
const FOCUSABLE = "button, select, input, textarea, summary, [tabindex], .widget-readout, .spectool-figure *";
for (const root of document.querySelectorAll(".spectool-dashboard")) {
  if (root.spectoolReady) {
    root.spectoolDraw?.(); // the kernel may have sent the whole figure anew
    continue;
  }
  root.spectoolReady = true;
  const typing = (target) => target.matches("input[type=text], textarea, .widget-readout");
  root.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || typing(event.target)) return;
    event.preventDefault();
    event.stopPropagation();
    root.querySelector(event.shiftKey ? ".spectool-redo" : ".spectool-undo")?.click();
  }, true);

  const name = () => {
    // JupyterLab's own keys (b inserts a cell) ask the element that has the focus, not those around it.
    for (const place of root.querySelectorAll(FOCUSABLE)) place.dataset.lmSuppressShortcuts = "true";
    for (const slider of root.querySelectorAll(".widget-slider, .widget-hslider")) {
      const label = slider.querySelector(".widget-label")?.textContent || slider.title || "value";
      const value = slider.querySelector(".widget-readout")?.textContent ?? "";
      for (const handle of slider.querySelectorAll(".noUi-handle")) {
        if (handle.getAttribute("aria-label") !== label) handle.setAttribute("aria-label", label);
        if (handle.getAttribute("aria-valuetext") !== value) handle.setAttribute("aria-valuetext", value);
      }
    }
    for (const field of root.querySelectorAll("select, input, textarea")) {
      if (!field.getAttribute("aria-label") && !field.labels?.[0]?.textContent) {
        field.setAttribute("aria-label", field.title || field.placeholder || "value");
      }
    }
    for (const upload of root.querySelectorAll(".widget-upload")) {
      const last = upload.lastChild;
      if (/ \(\d+\)$/.test(last?.textContent ?? "")) last.textContent = last.textContent.replace(/ \(\d+\)$/, "");
    }
    for (const line of root.querySelectorAll(".spectool-status")) line.setAttribute("role", "status");
  };
  let asked = false;
  const later = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; name(); });
  };
  new MutationObserver(later).observe(root, { childList: true, subtree: true, characterData: true });
  name();

  const grids = () => Bokeh.documents.flatMap((doc) => doc.roots()).filter((grid) => grid.tags.includes("spectool")
    && root.querySelector(".bokeh-" + CSS.escape(grid.id)));
  const fit = () => {
    const narrow = root.clientWidth < 700;
    root.classList.toggle("spectool-narrow", narrow);
    for (const grid of grids()) {
      const places = grid.spectoolPlaces ??= grid.children;
      const widest = Math.max(...places.map(([, , column, , columns = 1]) => column + columns));
      // A panel whose neighbours are hidden takes their room.
      const alone = ([plot, row]) => plot.visible && places.every((p) => p[0] === plot || p[1] !== row || !p[0].visible);
      const wide = places.map((place) => (alone(place) ? [place[0], place[1], 0, 1, widest] : place));
      const shape = narrow + wide.map(([, , , , columns = 1]) => columns).join();
      if (grid.spectoolShape !== shape && places.length > 1) {
        grid.spectoolShape = shape;
        const ordered = [...places].sort((a, b) => a[1] - b[1] || a[2] - b[2]);
        grid.setv({ children: narrow ? ordered.map(([plot], row) => [plot, row, 0]) : wide }, { sync: false });
        for (const legend of places.flatMap(([plot]) => plot.above).filter((model) => model.orientation === "horizontal")) {
          legend.setv({ ncols: narrow ? 2 : "auto", spacing: narrow ? 2 : 14 }, { sync: false });
        }
      }
      const rows = {};
      for (const [plot, row] of places) {
        if (!plot.spectoolWatched) plot.properties.visible.change.connect(fit);
        plot.spectoolWatched = true;
        if (plot.height !== plot.spectoolSet) plot.spectoolHeight = plot.height;
        rows[row] = Math.max(rows[row] ?? 0, plot.spectoolHeight);
      }
      const above = root.querySelector(".bokeh-" + grid.id).getBoundingClientRect().top - root.getBoundingClientRect().top;
      const room = window.innerHeight - CHROME - above;
      const total = Object.values(rows).reduce((sum, height) => sum + height, 0);
      const taller = narrow ? 1 : Math.min(Math.max(room / total, 0.85), 1.7);
      for (const [plot] of places) {
        plot.spectoolSet = Math.round(plot.spectoolHeight * taller);
        if (plot.height !== plot.spectoolSet) plot.setv({ height: plot.spectoolSet }, { sync: false });
      }
    }
  };
  new ResizeObserver(fit).observe(root);
  window.addEventListener("resize", fit);

  const ink = () => {
    const { color, backgroundColor: ground } = getComputedStyle(root);
    for (const grid of grids()) {
      for (const model of grid.references()) {
        if (model.glyph?.background_fill_color?.value != null) {
          model.glyph.setv({ background_fill_color: ground }, { sync: false });
        }
        if (model.type === "ColorBar") {
          model.setv({ major_label_text_color: color, title_text_color: color }, { sync: false });
        }
        const paint = model.tags?.includes("ink") ? color : model.tags?.includes("ground") ? ground : null;
        for (const part of paint ? ["line_color", "fill_color", "text_color"] : []) {
          if (model.glyph?.[part]?.value != null) model.glyph.setv({ [part]: paint }, { sync: false });
        }
      }
      for (const [plot] of grid.spectoolPlaces ?? grid.children) Bokeh.index.find_one?.(plot)?.request_paint?.();
    }
  };
  new MutationObserver(ink).observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  root.spectoolDraw = () => {
    if (!grids().some((grid) => grid.spectoolShape === undefined)) return;
    fit();
    ink();
  };
  fit();
  ink();
  // Run All leaves the last cell at the foot of the window, where what it shows is not to be seen.
  if (root.closest(".jp-Cell")?.classList.contains("jp-mod-active")) {
    setTimeout(() => root.scrollIntoView({ block: "start" }), 300);
  }
}
