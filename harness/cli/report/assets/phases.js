"use strict";

// Seconds and memory of the phases of each cell, stacked. Seconds add up. Peaks of memory do not: of
// each phase its bar has what it added to the highest peak before it, so that a bar ends at the peak.
const Phases = (() => {
  function show(core) {
    const cells = core.cells.filter((cell) => cell.phases.length);
    for (const id of ["phases-seconds", "phases-memory", "phases-figures"]) Dom.byId(id).hidden = !cells.length;
    Dom.byId("phases-none").hidden = cells.length > 0;
    if (!cells.length) return;
    const memory = cells.some((cell) => cell.phases.some((phase) => phase.gpu)) ? "gpu" : "host";
    const title = memory === "gpu" ? "peak GPU memory" : "peak host memory";
    const seconds = (cell) => cell.phases.map((phase) => phase.seconds ?? 0);
    const peaks = (cell) => added(cell.phases.map((phase) => phase[memory] ?? 0));
    Pictures.show(Dom.byId("phases-seconds"), () => picture(cells, seconds, "seconds", "time of all phases"));
    Pictures.show(Dom.byId("phases-memory"), () => picture(cells, peaks, "bytes", `${title}: what each phase added`, memory));
    figures(cells, memory, title);
  }

  function names(cells) {
    return [...new Set(cells.flatMap((cell) => cell.phases.map((phase) => `${phase.stage}: ${phase.name}`)))];
  }

  /** How far each value exceeds all before it. */
  function added(values) {
    let most = 0;
    return values.map((value) => {
      const more = Math.max(0, value - most);
      most += more;
      return more;
    });
  }

  function picture(cells, values, unit, title, text = "seconds") {
    const every = names(cells);
    const sums = cells.map((cell) => values(cell).reduce((sum, value) => sum + value, 0));
    const scale = Pictures.scale(sums, unit);
    return {
      traces: every.map((name, index) => trace(cells, values, scale.by, name, index, `${text}Text`)),
      layout: {
        barmode: "stack",
        height: 130 + 36 * cells.length + legendHeight(every.length),
        xaxis: Pictures.axis(`${title} (${scale.unit})`),
        yaxis: Pictures.axis("", { autorange: "reversed", type: "category", showgrid: false }),
        legend: { orientation: "h", y: 1.02, x: 0, yanchor: "bottom", traceorder: "normal" },
        bargap: 0.3,
      },
    };
  }

  /** Of so many names in columns as wide as the longest of them. */
  function legendHeight(count) {
    const fit = Math.max(1, Math.floor((Dom.byId("phases").clientWidth - 190) / 200));
    return 24 * Math.ceil(count / fit);
  }

  function trace(cells, values, by, name, index, text) {
    const style = Theme.ofPhase(index);
    const at = cells.map((cell) => cell.phases.findIndex((phase) => `${phase.stage}: ${phase.name}` === name));
    const said = (cell, i) => (i < 0 ? "" : `${cell.id}<br>${Pictures.plain(name)}: ${cell.phases[i][text]}`);
    return {
      type: "bar",
      orientation: "h",
      name: Pictures.plain(name),
      y: cells.map((cell) => cell.id),
      x: cells.map((cell, i) => (at[i] < 0 ? null : values(cell)[at[i]] / by)),
      hovertext: cells.map((cell, i) => said(cell, at[i])),
      hoverinfo: "text",
      marker: {
        color: style.colour,
        line: { width: 0 },
        pattern: { shape: style.pattern, fillmode: "overlay", fgcolor: Theme.colour("page"), size: 6 },
      },
    };
  }

  /** The same for who does not see the pictures. */
  function figures(cells, memory, title) {
    const details = Dom.byId("phases-figures");
    const head = ["cell", "phase", "seconds", title].map((text) => Dom.element("th", { scope: "col" }, text));
    const lines = cells.flatMap((cell) =>
      cell.phases.map((phase) =>
        Dom.element(
          "tr",
          {},
          Dom.element("th", { scope: "row" }, cell.id),
          Dom.element("td", {}, `${phase.stage}: ${phase.name}`),
          Dom.element("td", { class: "number" }, phase.secondsText),
          Dom.element("td", { class: "number" }, phase[`${memory}Text`]),
        ),
      ),
    );
    const table = Dom.element(
      "table",
      { class: "plain" },
      Dom.element("thead", {}, Dom.element("tr", {}, ...head)),
      Dom.element("tbody", {}, ...lines),
    );
    details.querySelector("div").replaceChildren(table);
  }

  return { show };
})();
