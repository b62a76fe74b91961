"use strict";

// Pictures: drawn by plotly when they come into sight, in the colours of the page.
const Pictures = (() => {
  const drawings = new Map(); // element -> how to draw it
  const seen = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "300px" },
  );

  /** `make()` gives {traces, layout}; it is called again when colours change. */
  function show(element, make) {
    drawings.set(element, make);
    if (element.dataset.drawn) draw(element);
    else seen.observe(element);
  }

  async function draw(element) {
    seen.unobserve(element);
    element.dataset.drawn = "waiting";
    await Blocks.run("plotly");
    const { traces, layout } = drawings.get(element)();
    await Plotly.react(element, traces, { ...common(), ...layout }, { displayModeBar: false, responsive: true });
    element.dataset.drawn = "yes";
  }

  function again() {
    for (const element of drawings.keys()) if (element.dataset.drawn) draw(element);
  }

  function common() {
    return {
      font: { family: "system-ui, sans-serif", size: 13, color: Theme.colour("text") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 70, r: 16, t: 16, b: 56 },
      height: 420,
      hoverlabel: { bgcolor: Theme.colour("raised"), font: { color: Theme.colour("text") } },
      legend: { orientation: "h", y: -0.22, x: 0, yanchor: "top" },
      dragmode: "zoom",
    };
  }

  function axis(title, more = {}) {
    return {
      title: { text: plain(title), standoff: 12 },
      gridcolor: Theme.colour("line"),
      zerolinecolor: Theme.colour("line"),
      linecolor: Theme.colour("line"),
      automargin: true,
      ...more,
    };
  }

  /** A unit in which people read such values, and how many of theirs make one. */
  function scale(values, unit) {
    const most = Math.max(0, ...values);
    const pick = (steps) => steps.findLast(([by]) => most >= by) ?? steps[0];
    if (unit === "bytes") return named(pick([[1, "B"], [2 ** 10, "KiB"], [2 ** 20, "MiB"], [2 ** 30, "GiB"]]));
    if (unit === "seconds") return named(pick([[1, "s"], [180, "min"], [3 * 3600, "h"]]));
    return { by: 1, unit: "" };
  }

  function named([from, unit]) {
    const by = { min: 60, h: 3600 }[unit] ?? from;
    return { by, unit };
  }

  /** A text for plotly, which reads some tags and entities. */
  function plain(text) {
    return Dom.shown(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  Theme.onChange(again);
  return { axis, plain, scale, show };
})();
