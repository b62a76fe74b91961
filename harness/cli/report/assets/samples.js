"use strict";

// The answers behind the figures: which samples to look at, filtered and listed.
const Samples = (() => {
  const PER_PAGE = 20;
  const ALL_BESIDE = 6; // rows up to which all stand side by side at first
  const CHANGES = [
    ["", "all samples"],
    ["worse", "got worse"],
    ["better", "got better"],
    ["flipped", "flipped, right or wrong"],
    ["lost", "flipped to wrong"],
    ["gained", "flipped to right"],
  ];
  const FLIPS = ["flipped", "lost", "gained"];
  let core = null;
  let asked = 0; // the latest request: an earlier one that ends late shows nothing

  function show(newCore) {
    core = newCore;
    if (!core.suites.length) {
      Dom.byId("samples-controls").hidden = false;
      Dom.byId("samples-controls").textContent = "No record here has its samples.";
      return;
    }
    Dom.byId("samples-browser").hidden = false;
    controls();
    const near = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        near.disconnect();
        update();
      },
      { rootMargin: "600px" },
    );
    near.observe(Dom.byId("samples"));
  }

  // What is chosen

  /** What the URL says, with what stands for it where it says nothing. */
  function chosen() {
    const named = core.suites.findIndex((suite) => suite.name === State.get("suite"));
    const number = named < 0 ? firstWithAnswers() : named;
    const suite = core.suites[number];
    const rows = Object.keys(suite.rows).map(Number);
    const row = (title) => rows.find((index) => core.rows[index].title === title);
    const against = row(State.get("against")) ?? rows.find((index) => !core.rows[index].trained) ?? rows[0];
    const score = suite.scores.findIndex((one) => one.name === State.get("score"));
    return {
      number,
      suite,
      rows,
      against,
      row: row(State.get("row")) ?? null,
      score: score < 0 ? preferred(suite, State.get("changed")) : score,
      changed: State.get("changed"),
      text: State.get("text").toLowerCase(),
      marks: State.get("marks", "reference"),
      beside: beside(rows, against),
    };
  }

  /** The first suite in which models answered something, if there is one. */
  function firstWithAnswers() {
    const index = core.suites.findIndex((suite) => suite.scores.some((score) => score.share));
    return Math.max(0, index);
  }

  /** The first score; where flips are asked for, the first that is right or wrong. */
  function preferred(suite, changed) {
    const share = suite.scores.findIndex((score) => score.share);
    return FLIPS.includes(changed) ? Math.max(0, share) : 0;
  }

  function beside(rows, against) {
    const named = State.get("beside");
    if (named) {
      const titles = new Set(named.split(","));
      return rows.filter((index) => titles.has(core.rows[index].title));
    }
    const others = rows.filter((index) => index !== against);
    return [against, ...(rows.length <= ALL_BESIDE ? others : others.slice(0, 3))];
  }

  function choose(changes) {
    State.set({ page: null, sample: null, ...changes }, "samples");
    controls();
    return update();
  }

  // Controls

  function controls() {
    const now = chosen();
    const titles = (rows) => rows.map((index) => [core.rows[index].title, core.rows[index].title]);
    const form = Dom.byId("samples-controls");
    const focused = form.contains(document.activeElement) ? document.activeElement.name : null;
    const pick = (name, text, options, value) =>
      Dom.select(name, text, options, value, (picked) => choose({ [name]: picked }));
    const scores = now.suite.scores.map((score) => [score.name, score.name]);
    form.replaceChildren(
      Dom.select("suite", "Suite", core.suites.map((one) => [one.name, one.name]), now.suite.name, (suite) =>
        choose({ suite, score: null, changed: null }),
      ),
      Dom.select("changed", "Show", changesOf(now), now.changed, (changed) => chooseChange(now, changed)),
      pick("row", "of", [["", "any row shown"], ...titles(now.rows)], now.row === null ? "" : core.rows[now.row].title),
      pick("against", "against", titles(now.rows), core.rows[now.against].title),
      pick("score", "by", scores, now.suite.scores[now.score]?.name ?? ""),
      search(),
      pick("marks", "Mark words not in", [["reference", "the reference"], ["against", "the row held against"], ["none", "(mark none)"]], now.marks),
      chooser(now),
    );
    form.hidden = false;
    form.onsubmit = (event) => event.preventDefault();
    if (focused) form.elements[focused]?.focus();
  }

  /** Without flips where no score is right or wrong. */
  function changesOf(now) {
    const share = now.suite.scores.some((score) => score.share);
    return CHANGES.filter(([value]) => share || !FLIPS.includes(value));
  }

  /** A flip is of a score that is right or wrong. */
  function chooseChange(now, changed) {
    const fits = !FLIPS.includes(changed) || now.suite.scores[now.score].share;
    return choose(fits ? { changed } : { changed, score: null });
  }

  function search() {
    let waiting = 0;
    const box = Dom.element("input", { type: "search", name: "text", value: State.get("text"), autocomplete: "off" });
    box.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        State.set({ text: box.value, page: null, sample: null }, "samples");
        update();
      }, 250);
    });
    return Dom.element("label", {}, "with the text ", box);
  }

  function chooser(now) {
    const boxes = now.rows.map((index) =>
      Dom.element(
        "label",
        {},
        Dom.element("input", { type: "checkbox", value: core.rows[index].title, checked: now.beside.includes(index) }),
        " " + core.rows[index].title,
      ),
    );
    const open = Dom.byId("samples-controls").querySelector("details")?.open ?? false;
    const box = Dom.element("div", { onchange: () => {
      const titles = [...box.querySelectorAll("input:checked")].map((input) => input.value);
      choose({ beside: titles.join(",") });
    } }, ...boxes);
    return Dom.element("details", { class: "chooser", open }, Dom.element("summary", {}, "Rows"), box);
  }

  // Which samples

  async function update() {
    const request = ++asked;
    const now = chosen();
    const list = Dom.byId("samples-list");
    list.setAttribute("aria-busy", "true");
    const found = await matching(now, () => request === asked);
    if (request !== asked) return;
    await showList(now, found);
    if (request !== asked) return;
    list.removeAttribute("aria-busy");
    const wanted = found.find((one) => one.id === State.get("sample")) ?? found[0];
    await Answers.show(core, now, wanted ?? null);
  }

  /** The samples that pass the filters, in order; those that changed most first. */
  async function matching(now, current) {
    const ids = await Blocks.json(`ids-${now.number}`);
    const values = await valuesOf(now);
    let found = ids.map((id, index) => ({ id, index, change: change(now, values, index) }));
    if (now.changed) {
      found = found.filter((one) => one.change !== null);
      found.sort((a, b) => Math.abs(b.change) - Math.abs(a.change) || a.index - b.index);
    }
    return now.text ? withText(now, found, current) : found;
  }

  async function valuesOf(now) {
    const rows = [...new Set([now.against, ...looked(now)])];
    const read = rows.map(async (row) => [row, await Blocks.json(`values-${now.number}-${row}`)]);
    return new Map(await Promise.all(read));
  }

  /** The rows whose changes count. */
  function looked(now) {
    const rows = now.row === null ? now.beside : [now.row];
    return rows.filter((row) => row !== now.against);
  }

  /** The greatest change of a row that is of the wanted kind; null without one. Up is better. */
  function change(now, values, index) {
    const changes = looked(now)
      .map((row) => Answers.gain(now, values.get(row)[index], values.get(now.against)[index]))
      .filter((gain) => gain !== null && wanted(now.changed, gain));
    if (!changes.length) return null;
    return changes.reduce((most, gain) => (Math.abs(gain) > Math.abs(most) ? gain : most));
  }

  function wanted(changed, gain) {
    if (changed === "worse" || changed === "lost") return gain < 0;
    if (changed === "better" || changed === "gained") return gain > 0;
    return changed === "flipped" ? gain !== 0 : true;
  }

  async function withText(now, found, current) {
    const rows = [...new Set([now.against, ...(now.row === null ? now.beside : [now.row])])];
    const kept = [];
    for (const one of found) {
      if (!current()) return [];
      if (one.id.toLowerCase().includes(now.text) || (await said(now, one, rows)).includes(now.text)) kept.push(one);
    }
    return kept;
  }

  /** All that was asked and answered, in small letters. */
  async function said(now, one, rows) {
    const question = await Answers.question(now, one);
    const answers = await Promise.all(rows.map((row) => Answers.answer(now, row, one)));
    const texts = [Answers.promptText(question), Answers.referenceText(question)];
    return [...texts, ...answers.map((answer) => String(answer?.output ?? ""))].join("\n").toLowerCase();
  }

  // The list

  async function showList(now, found) {
    const at = found.findIndex((one) => one.id === State.get("sample"));
    const page = at >= 0 ? Math.floor(at / PER_PAGE) : Math.min(Number(State.get("page", "0")) || 0, pages(found) - 1);
    const part = found.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
    const items = await Promise.all(part.map((one, i) => item(now, one, at >= 0 ? one.id === State.get("sample") : i === 0)));
    const of = now.suite.size === found.length ? "" : ` of ${now.suite.size}`;
    Dom.byId("samples-list").replaceChildren(
      Dom.element("p", { id: "samples-count", role: "status" }, `${found.length}${of} samples`),
      Dom.element("ol", { start: page * PER_PAGE + 1, onkeydown: moveFocus }, ...items),
      pager(found, page),
    );
  }

  function pages(found) {
    return Math.max(1, Math.ceil(found.length / PER_PAGE));
  }

  async function item(now, one, current) {
    const question = await Answers.question(now, one);
    const text = Answers.lastWords(question).replace(/\s+/g, " ").trim().slice(0, 90);
    const select = (event) => {
      State.set({ sample: one.id }, "samples");
      for (const other of Dom.byId("samples-list").querySelectorAll("[aria-current]")) other.removeAttribute("aria-current");
      event.currentTarget.setAttribute("aria-current", "true");
      Answers.show(core, now, one);
    };
    return Dom.element(
      "li",
      {},
      Dom.element(
        "button",
        { type: "button", "aria-current": current ? "true" : null, onclick: select },
        Dom.element("span", {}, text || one.id),
        now.changed || now.suite.scores[now.score]?.share ? Answers.badge(now, one.change) : null,
      ),
    );
  }

  function pager(found, page) {
    const last = pages(found) - 1;
    const go = (to) => choose({ page: String(to) });
    const button = (text, to) =>
      Dom.element("button", { type: "button", disabled: to < 0 || to > last, onclick: () => go(to) }, text);
    if (!last) return Dom.element("p", {});
    return Dom.element("p", { class: "pager" }, button("Earlier", page - 1), ` ${page + 1} of ${last + 1} `, button("Later", page + 1));
  }

  /** Up and down go through the list. */
  function moveFocus(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const buttons = [...event.currentTarget.querySelectorAll("button")];
    const next = buttons[buttons.indexOf(document.activeElement) + step];
    if (next) {
      event.preventDefault();
      next.focus();
      next.click();
    }
  }

  return { show };
})();
