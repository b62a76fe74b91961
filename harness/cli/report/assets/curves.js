"use strict";

// Curves of every training: the loss, or what else was recorded at its steps.
const Curves = (() => {
  const TITLES = {
    loss: "training loss (nats per token)",
    validation_loss: "validation loss (nats per token)",
    grad_norm: "norm of the gradient",
    learning_rate: "learning rate",
  };

  function show(core) {
    const section = Dom.byId("curves");
    const names = Object.keys(TITLES).filter((name) => core.cells.some((cell) => cell.curves[name]));
    if (!names.length) {
      section.querySelector(".said").textContent = "Nothing here was trained.";
      return;
    }
    const form = section.querySelector("form");
    const chosen = () => (names.includes(State.get("curve")) ? State.get("curve") : names[0]);
    const update = () => draw(core, section, chosen());
    form.replaceChildren(
      Dom.select("curve", "Curve", names.map((name) => [name, TITLES[name]]), chosen(), (name) => {
        State.set({ curve: name }, "curves");
        update();
      }),
    );
    form.hidden = false;
    update();
  }

  function draw(core, section, name) {
    const cells = core.cells.filter((cell) => cell.curves[name]);
    const ends = cells.map((cell) => `${title(core, cell)} ends at ${cell.curves[name].at(-1)[1].toPrecision(3)}`);
    section.querySelector(".said").textContent = Dom.shown(`${TITLES[name]}: ${ends.join(", ")}.`);
    Pictures.show(section.querySelector(".picture"), () => ({
      traces: cells.map((cell) => trace(core, cell, name)),
      layout: {
        xaxis: Pictures.axis("step"),
        yaxis: Pictures.axis(TITLES[name]),
        showlegend: true,
        hovermode: "x unified",
      },
    }));
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
