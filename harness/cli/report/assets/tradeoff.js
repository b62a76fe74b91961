"use strict";

// Rows as points, any figure on either axis, and the Pareto front: the rows that no other row
// beats on one axis without losing on the other.
const Tradeoff = (() => {
  /** Everything that can stand on an axis. */
  function quantities(core) {
    return [
      ...core.metrics.map((metric) => ({
        key: metric.name,
        title: metric.title,
        higher: metric.higher,
        of: (row) => point(row.figures[metric.name], "value", "low", "high", "text"),
      })),
      ...core.metrics.map((metric) => ({
        key: `${metric.name}.delta`,
        title: `${metric.title} against base`,
        higher: metric.higher,
        of: (row) => point(row.figures[metric.name], "delta", "deltaLow", "deltaHigh", "deltaText"),
      })),
      ...core.costs.map(({ title, unit }) => ({
        key: title,
        title,
        higher: false,
        cost: true,
        unit,
        of: (row) => point(row.costs[title], "value", "", "", "text"),
      })),
    ];
  }

  function point(figure, value, low, high, text) {
    const at = figure?.[value] ?? null;
    if (at === null) return null;
    return { at, low: figure[low] ?? null, high: figure[high] ?? null, text: figure[text] };
  }

  /** Points that no other point beats; {x, y} each, with which way is better. */
  function front(points, x, y) {
    const better = (a, b, higher) => (higher ? a > b : a < b);
    const beats = (a, b) =>
      (better(a.x.at, b.x.at, x.higher) && !better(b.y.at, a.y.at, y.higher)) ||
      (better(a.y.at, b.y.at, y.higher) && !better(b.x.at, a.x.at, x.higher));
    const best = points.filter((one) => !points.some((other) => beats(other, one)));
    return best.sort((a, b) => a.x.at - b.x.at);
  }

  /** One picture with its pickers; `start` has the keys of its axes. */
  function show(core, id, start) {
    const known = quantities(core);
    const section = Dom.byId(id);
    const form = section.querySelector("form");
    const chosen = (axis) => {
      const key = State.get(`${id}-${axis}`, start[axis]);
      return known.find((one) => one.key === key) ?? null;
    };
    const update = () => draw(core, section, chosen("x") ?? known[0], chosen("y") ?? known[0], chosen("size"));
    const pick = (axis, text, more = []) =>
      Dom.select(axis, text, [...more, ...grouped(known)], chosen(axis)?.key ?? "", (key) => {
        State.set({ [`${id}-${axis}`]: key || "none" }, id);
        update();
      });
    form.replaceChildren(
      pick("x", "Across"),
      pick("y", "Up"),
      pick("size", "Size", [["", "all alike"]]),
    );
    form.hidden = false;
    form.onsubmit = (event) => event.preventDefault();
    update();
  }

  function grouped(known) {
    const pairs = (wanted) => known.filter(wanted).map((one) => [one.key, one.title]);
    return [
      ["Metrics", pairs((one) => !one.cost && !one.key.endsWith(".delta"))],
      ["Against the base", pairs((one) => one.key.endsWith(".delta"))],
      ["Costs", pairs((one) => one.cost)],
    ];
  }

  function draw(core, section, x, y, size) {
    const every = core.rows.map((row, index) => ({ row, index, x: x.of(row), y: y.of(row), size: size?.of(row) }));
    const points = every.filter((one) => one.x && one.y);
    const best = front(points, x, y);
    const left = every.filter((one) => !points.includes(one)).map((one) => one.row.title);
    section.querySelector(".said").textContent = Dom.shown(said(best, left, x, y));
    const across = Pictures.scale(points.map((one) => one.x.at), x.unit);
    const up = Pictures.scale(points.map((one) => one.y.at), y.unit);
    for (const one of points) [one.across, one.up] = [scaled(one.x, across), scaled(one.y, up)];
    Pictures.show(section.querySelector(".picture"), () => ({
      traces: [frontLine(best, x, y), ...points.map((one) => trace(one, best, points))],
      layout: { xaxis: Pictures.axis(titleOf(x, across)), yaxis: Pictures.axis(titleOf(y, up)), showlegend: true, hovermode: "closest" },
    }));
  }

  function scaled(of, scale) {
    const divided = (value) => (value === null ? null : value / scale.by);
    return { at: of.at / scale.by, low: divided(of.low), high: divided(of.high) };
  }

  function titleOf(quantity, scale) {
    return scale.unit ? `${quantity.title} (${scale.unit})` : quantity.title;
  }

  function said(best, left, x, y) {
    const names = best.map((one) => one.row.title).join(", ");
    const front = best.length
      ? `Pareto front: ${names}; no row is better on one of ${x.title} and ${y.title} and as good on the other.`
      : "No row has both figures.";
    return left.length ? `${front} Without one of the two: ${left.join(", ")}.` : front;
  }

  function frontLine(best, x, y) {
    return {
      x: best.map((one) => one.across.at),
      y: best.map((one) => one.up.at),
      mode: "lines",
      // between two rows of the front nothing better is known than the worse of both figures
      line: { shape: x.higher === y.higher ? "hv" : "vh", dash: "dot", width: 1.5, color: Theme.colour("muted") },
      name: "Pareto front",
      hoverinfo: "skip",
    };
  }

  function trace(one, best, points) {
    const style = Theme.ofRow(one.index, one.row.trained);
    const most = Math.max(...points.map((other) => other.size?.at ?? 0));
    const size = one.size && most > 0 ? 10 + 22 * Math.sqrt(one.size.at / most) : 13;
    const outlined = best.includes(one);
    return {
      x: [one.across.at],
      y: [one.up.at],
      error_x: bars(one.across, style),
      error_y: bars(one.up, style),
      mode: "markers",
      name: Pictures.plain(one.row.title),
      marker: {
        color: style.colour,
        symbol: style.shape,
        size,
        opacity: 0.9,
        line: { width: outlined ? 2 : 0, color: Theme.colour("text") },
      },
      text: [Pictures.plain([one.row.title, one.x.text, one.y.text, one.size?.text ?? ""].join("\n")).replace(/\n/g, "<br>")],
      hoverinfo: "text",
    };
  }

  function bars(of, style) {
    if (of.low === null || of.high === null) return { visible: false };
    return {
      type: "data",
      symmetric: false,
      array: [of.high - of.at],
      arrayminus: [of.at - of.low],
      color: style.colour,
      thickness: 1.2,
      width: 4,
    };
  }

  /** The keys that the two pictures start with: figures that some row has both of. */
  function starts(core) {
    const known = quantities(core);
    const has = (one, other = one) => core.rows.some((row) => one.of(row) && other.of(row));
    const metrics = known.filter((one) => !one.cost && !one.key.endsWith(".delta"));
    const learned = [...metrics.filter((one) => one.key === core.rankedBy), ...metrics].find((one) => has(one)) ?? known[0];
    const costs = known.filter((one) => one.cost);
    const spent = costs.find((one) => has(one, learned)) ?? costs[0];
    const suite = (one) => one.key.split(".")[0];
    const others = known.filter((one) => !one.cost && suite(one) !== suite(learned));
    const kept = core.metrics.find((metric) => metric.kind === "retained")?.name;
    const forgotten = [...others.filter((one) => one.key === kept), ...others].find((one) => has(one, learned));
    const memory = costs.find((one) => one.unit === "bytes" && has(one, learned));
    return {
      tradeoff: { x: spent.key, y: learned.key, size: memory?.key ?? "" },
      learned: { x: (forgotten ?? spent).key, y: learned.key, size: "" },
    };
  }

  function showBoth(core) {
    const { tradeoff, learned } = starts(core);
    show(core, "tradeoff", tradeoff);
    show(core, "learned", learned);
  }

  return { front, showBoth };
})();
