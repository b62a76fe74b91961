"use strict";

// Curves of every training: the loss, or what else was recorded at its steps.
const Curves = (() => {
  const TITLES = {
    loss: "training loss (nats per token)",
    validation_loss: "validation loss (nats per token)",
    grad_norm: "norm of the gradient",
    learning_rate: "learning rate",
  };

  const TOGETHER = 6; // rows that one picture can hold

  function show(core) {
    const section = Dom.byId("curves");
    const names = Object.keys(TITLES).filter((name) => core.cells.some((cell) => cell.curves[name]));
    const form = section.querySelector("form");
    form.hidden = section.querySelector(".picture").hidden = !names.length;
    if (!names.length) {
      section.querySelector(".said").textContent = "Nothing here was trained.";
      return;
    }
    const many = new Set(core.cells.filter((cell) => cell.curves[names[0]]).map((cell) => cell.row)).size > TOGETHER;
    const curve = () => (names.includes(State.get("curve")) ? State.get("curve") : names[0]);
    const panels = () => State.get("panels", many ? "row" : "one");
    const update = (changes) => {
      State.set(changes, "curves");
      draw(core, section, curve(), panels() === "row");
    };
    form.replaceChildren(
      Dom.select("curve", "Curve", names.map((name) => [name, TITLES[name]]), curve(), (name) => update({ curve: name })),
      Dom.select("panels", "in", [["one", "one picture"], ["row", "a panel for each row"]], panels(), (kind) => update({ panels: kind })),
    );
    draw(core, section, curve(), panels() === "row");
  }

  function draw(core, section, name, apart) {
    const cells = core.cells.filter((cell) => cell.curves[name]);
    section.querySelector(".said").textContent = Dom.shown(`${TITLES[name]}: ${ends(core, cells, name)}.`);
    Pictures.show(section.querySelector(".picture"), () => (apart ? panelsOf : pictureOf)(core, cells, name));
  }

  function ends(core, cells, name) {
    const last = cells.map((cell) => cell.curves[name].at(-1)[1]);
    if (cells.length > 2 * TOGETHER) {
      return `${cells.length} trainings, which end between ${Math.min(...last).toPrecision(3)} and ${Math.max(...last).toPrecision(3)}`;
    }
    return cells.map((cell, i) => `${title(core, cell)} ends at ${last[i].toPrecision(3)}`).join(", ");
  }

  function pictureOf(core, cells, name) {
    return {
      traces: cells.map((cell) => trace(core, cell, name)),
      layout: {
        xaxis: Pictures.axis("step"),
        yaxis: Pictures.axis(TITLES[name]),
        showlegend: true,
        hovermode: "x unified",
      },
    };
  }

  /** A panel for each row, its seeds together; all panels have the same axes. */
  function panelsOf(core, cells, name) {
    const rows = [...new Set(cells.map((cell) => cell.row))];
    const across = Math.max(1, Math.min(rows.length, Math.floor(Dom.byId("curves").clientWidth / 280)));
    const down = Math.ceil(rows.length / across);
    const layout = { grid: { rows: down, columns: across, pattern: "independent" }, showlegend: false, hovermode: "closest" };
    layout.height = 90 + 190 * down;
    layout.margin = { l: 48, r: 16, t: 30, b: 48 };
    layout.annotations = [];
    rows.forEach((row, i) => {
      const number = i ? String(i + 1) : "";
      const same = (axis) => (i ? { matches: axis } : {});
      layout[`xaxis${number}`] = Pictures.axis("", same("x"));
      layout[`yaxis${number}`] = Pictures.axis("", same("y"));
      layout.annotations.push({
        text: Pictures.plain(core.rows[row].title),
        xref: `x${number} domain`,
        yref: `y${number} domain`,
        x: 0,
        y: 1.02,
        xanchor: "left",
        yanchor: "bottom",
        showarrow: false,
      });
    });
    const traces = cells.map((cell) => {
      const number = rows.indexOf(cell.row) + 1;
      const at = number > 1 ? String(number) : "";
      return { ...trace(core, cell, name), xaxis: `x${at}`, yaxis: `y${at}` };
    });
    return { traces, layout };
  }

  function title(core, cell) {
    const row = core.rows[cell.row];
    return row.seeds.length > 1 ? `${row.title}, seed ${cell.seed}` : row.title;
  }

  function trace(core, cell, name) {
    const points = cell.curves[name];
    const style = Theme.ofRow(cell.row, true);
    return {
      x: points.map((point) => point[0]),
      y: points.map((point) => point[1]),
      mode: points.length < 60 ? "lines+markers" : "lines",
      name: Pictures.plain(title(core, cell)),
      line: { color: style.colour, dash: style.dash, width: 2 },
      marker: { symbol: style.shape, size: 7, maxdisplayed: 20 },
    };
  }

  return { show };
})();
