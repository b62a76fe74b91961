"use strict";

// The leaderboard: sorted by any column, filtered, with the columns that a reader chooses.
const LeaderboardTable = (() => {
  let core = null;
  let table = null;

  async function show(newCore) {
    core = newCore;
    await Blocks.run("tabulator");
    Dom.byId("leaderboard-table").hidden = true;
    Dom.byId("leaderboard-grid").hidden = false;
    Dom.byId("leaderboard-controls").hidden = false;
    if (table !== null) table.destroy();
    table = new Tabulator("#leaderboard-grid", {
      data: core.rows.map(line),
      columns: columns(),
      layout: "fitDataFill",
      headerSortClickElement: "header",
      movableColumns: false,
      rowFormatter: markGroup,
      placeholder: "No row is left by the filter.",
    });
    controls();
    await new Promise((resolve) => table.on("tableBuilt", resolve));
    describe();
    sortAsBefore();
    table.on("dataSorted", keepSort);
    filter();
  }

  /** Roles for readers of screens: what scrolls is the group of the rows. */
  function describe() {
    const grid = Dom.byId("leaderboard-grid");
    grid.setAttribute("aria-label", "The leaderboard");
    grid.removeAttribute("aria-owns");
    grid.querySelector(".tabulator-tableholder").setAttribute("role", "rowgroup");
    grid.querySelector(".tabulator-table").setAttribute("role", "presentation");
  }

  /** A row as the figures that it is sorted by. */
  function line(row, index) {
    const values = { index, place: row.rank, title: row.title };
    core.metrics.forEach((metric, i) => (values[`m${i}`] = row.figures[metric.name]?.value ?? null));
    core.costs.forEach(({ title }, i) => (values[`c${i}`] = row.costs[title].value));
    return values;
  }

  function rowOf(cell) {
    return core.rows[cell.getRow().getData().index];
  }

  function columns() {
    const shown = chosen();
    const common = { titleFormatter: heading, sorter: "number", sorterParams: { alignEmptyValues: "bottom" } };
    return [
      { ...common, field: "place", title: "#", frozen: true, hozAlign: "right", minWidth: 44, formatter: place },
      { ...common, field: "title", title: "method", frozen: true, sorter: "string", formatter: title },
      ...core.metrics.map((metric, i) => ({
        ...common,
        field: `m${i}`,
        title: metric.title,
        visible: shown.has(metric.name),
        headerSortStartingDir: metric.higher ? "desc" : "asc",
        cssClass: metric.doubted ? "doubted" : "",
        formatter: (cell) => figure(rowOf(cell).figures[metric.name]),
      })),
      ...core.costs.map(({ title: name }, i) => ({
        ...common,
        field: `c${i}`,
        title: name,
        visible: shown.has(name),
        hozAlign: "right",
        formatter: (cell) => Dom.element("span", {}, rowOf(cell).costs[name].text),
      })),
    ];
  }

  /** A button, so that the keyboard sorts too. */
  function heading(cell) {
    return Dom.element("button", { type: "button", class: "sort" }, cell.getValue());
  }

  function place(cell) {
    return Dom.element("span", {}, rowOf(cell).place);
  }

  function title(cell) {
    const row = rowOf(cell);
    const tied = row.tied.length ? `not told apart from ${row.tied.join(", ")}` : null;
    return Dom.element(
      "div",
      { class: "row-title", title: tied },
      Dom.element("strong", {}, row.title),
      row.failure ? Dom.element("span", { class: "worse" }, " " + row.failure) : null,
      row.seeds.length > 1 ? Dom.element("small", {}, ` ${row.seeds.length} seeds`) : null,
    );
  }

  function figure(of) {
    if (!of) return Dom.element("span", {}, "-");
    const delta = of.deltaText
      ? Dom.element("small", { class: of.verdict || null }, of.deltaText)
      : null;
    return Dom.element("div", { class: "figure" }, Dom.element("span", {}, of.text), delta);
  }

  /** Rows that share their places stand in one band while the table is in that order. */
  function markGroup(row) {
    const places = core.rows.map((one) => one.place);
    const groups = [...new Set(places)];
    const index = row.getData().index;
    row.getElement().classList.toggle("banded", groups.indexOf(places[index]) % 2 === 1);
  }

  // Controls

  /** The columns that the URL names, else the first metric of each suite, and costs. */
  function chosen() {
    const named = State.get("columns");
    if (named) return new Set(named.split(","));
    const firsts = new Map();
    for (const metric of core.metrics) {
      const suite = metric.name.split(".")[0];
      if (!firsts.has(suite)) firsts.set(suite, metric.name);
    }
    return new Set([core.rankedBy, ...firsts.values(), ...core.costs.map((cost) => cost.title)]);
  }

  function controls() {
    const box = Dom.byId("leaderboard-columns");
    const shown = chosen();
    const fields = [
      ...core.metrics.map((metric, i) => [metric.name, `m${i}`]),
      ...core.costs.map(({ title }, i) => [title, `c${i}`]),
    ];
    box.replaceChildren(
      ...fields.map(([name, field]) =>
        Dom.element(
          "label",
          {},
          Dom.element("input", {
            type: "checkbox",
            checked: shown.has(name),
            onchange: (event) => toggle(name, field, event.target.checked),
          }),
          " " + name,
        ),
      ),
    );
    const text = Dom.byId("leaderboard-filter");
    text.value = State.get("rows-with");
    text.oninput = filter;
    const first = Dom.byId("leaderboard-first");
    first.checked = State.get("first") === "1";
    first.onchange = filter;
    Dom.byId("leaderboard-controls").onsubmit = (event) => event.preventDefault();
  }

  function toggle(name, field, shown) {
    const names = chosen();
    if (shown) names.add(name);
    else names.delete(name);
    State.set({ columns: [...names].filter(Boolean).join(",") });
    if (shown) table.showColumn(field);
    else table.hideColumn(field);
    table.redraw(true);
  }

  function filter() {
    const text = Dom.byId("leaderboard-filter").value;
    const first = Dom.byId("leaderboard-first").checked;
    State.set({ "rows-with": text, first: first ? "1" : null });
    const wanted = text.toLowerCase();
    table.setFilter((data) => {
      const row = core.rows[data.index];
      const may = row.rank !== null && row.place.split("-")[0] === "1";
      return row.title.toLowerCase().includes(wanted) && (!first || may);
    });
  }

  function sortAsBefore() {
    const [field, direction] = State.get("sort").split(":");
    const known = field && table.getColumn(field);
    if (known) table.setSort(field, direction === "desc" ? "desc" : "asc");
  }

  function keepSort(sorters) {
    const first = sorters[0];
    State.set({ sort: first ? `${first.field}:${first.dir}` : null });
  }

  return { show };
})();
