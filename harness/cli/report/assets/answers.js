"use strict";

// One sample: what was asked, the reference, and every row's answer side by side.
const Answers = (() => {
  const LONGEST = 20000; // characters shown before a reader asks for the rest

  // Blocks

  async function question(now, one) {
    const at = Math.floor(one.index / now.suite.perBlock);
    return (await Blocks.json(`questions-${now.number}-${at}`))[one.index % now.suite.perBlock];
  }

  async function answer(now, row, one) {
    const at = Math.floor(one.index / now.suite.perBlock);
    return (await Blocks.json(`answers-${now.number}-${row}-${at}`))[one.index % now.suite.perBlock];
  }

  // Texts

  function turns(prompt) {
    if (Array.isArray(prompt)) return prompt.map((turn) => [turn.role ?? "", said(turn)]);
    return prompt === undefined || prompt === null ? [] : [["", asText(prompt)]];
  }

  /** A turn's text, and the tool calls beside it. */
  function said(turn) {
    const calls = (turn.tool_calls ?? []).map((call) => JSON.stringify(call.function ?? call));
    return [asText(turn.content ?? ""), ...calls].filter(Boolean).join("\n");
  }

  function asText(value) {
    return typeof value === "string" ? value : JSON.stringify(value);
  }

  function promptText(question) {
    return turns(question.prompt).map(([, content]) => content).join("\n");
  }

  /** What tells a question from its neighbours: the last turn, or the text itself. */
  function lastWords(question) {
    const said = turns(question.prompt).at(-1)?.[1] ?? "";
    const heading = /^The following are multiple choice questions[^\n]*\n+/;
    return said.replace(heading, "") || referenceText(question);
  }

  function referenceText(question) {
    const reference = question.reference;
    if (reference === undefined || reference === null) return "";
    if (typeof reference === "number" && question.choices) return String(question.choices[reference]);
    return asText(reference);
  }

  // Scores

  /** How much better a row's score is than another's; null where one of them is missing. */
  function gain(now, own, other) {
    const score = now.suite.scores[now.score];
    const [a, b] = [own?.[now.score], other?.[now.score]];
    if (score === undefined || typeof a !== "number" || typeof b !== "number") return null;
    return score.higher ? a - b : b - a;
  }

  function badge(now, change) {
    if (change === null || change === 0) return null;
    const share = now.suite.scores[now.score].share;
    const words = share ? ["turned wrong", "turned right"] : ["got worse", "got better"];
    const better = change > 0;
    return Dom.element("span", { class: `badge ${better ? "better" : "worse"}` }, (better ? "▲ " : "▼ ") + words[Number(better)]);
  }

  function number(value) {
    if (value === null || value === undefined) return "-";
    if (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e6)) return value.toPrecision(2);
    return value.toFixed(Math.abs(value) < 10 ? 3 : Math.abs(value) < 100 ? 2 : 1);
  }

  // Elements

  async function show(core, now, one) {
    const place = Dom.byId("samples-one");
    place.dataset.sample = one?.id ?? "";
    if (one === null) {
      place.replaceChildren(Dom.element("p", {}, "No sample passes these filters."));
      return;
    }
    const asked = await question(now, one);
    const rows = [...new Set([...now.beside, ...(now.row === null ? [] : [now.row])])];
    const read = await Promise.all(
      [now.against, ...rows].map(async (row) => ({
        row,
        answer: await answer(now, row, one),
        values: (await Blocks.json(`values-${now.number}-${row}`))[one.index],
      })),
    );
    if (place.dataset.sample !== one.id) return; // another was asked for meanwhile
    const [against, ...beside] = read;
    place.replaceChildren(
      Dom.element("h3", {}, link(one), asked.group ? Dom.element("small", {}, ` ${asked.group}`) : null),
      ...prompt(asked),
      reference(asked),
      Dom.element("div", { class: "answers" }, ...beside.map((each) => card(core, now, asked, each, against))),
    );
  }

  function link(one) {
    return Dom.element("a", { href: State.link({ sample: one.id }, "samples"), title: "A link to this sample" }, one.id);
  }

  function prompt(asked) {
    return turns(asked.prompt).map(([role, content]) =>
      Dom.element("div", { class: "turn" }, role ? Dom.element("span", { class: "role" }, role) : null, long(content)),
    );
  }

  function reference(asked) {
    // letters alone are choices of the prompt, which says what they mean
    const told = (asked.choices ?? []).some((choice) => String(choice).trim().length > 1);
    const choices = (told ? asked.choices : []).map((choice, index) =>
      Dom.element("li", { class: index === asked.reference ? "right" : null }, String(choice).trim(), index === asked.reference ? " ✓" : ""),
    );
    const body = choices.length ? Dom.element("ol", { type: "A", class: "choices" }, ...choices) : long(referenceText(asked));
    return Dom.element("div", { class: "turn reference" }, Dom.element("span", { class: "role" }, choices.length ? "choices" : "reference"), body);
  }

  function card(core, now, asked, each, against) {
    const row = core.rows[each.row];
    const seed = now.suite.rows[each.row];
    const change = each.row === against.row ? null : gain(now, each.values, against.values);
    return Dom.element(
      "section",
      { class: "card", "data-row": row.title },
      Dom.element("h4", {}, row.title, row.seeds.length > 1 ? Dom.element("small", {}, ` seed ${seed}`) : null, " ", badge(now, change)),
      each.answer === null ? Dom.element("p", {}, "This row has no such sample.") : output(now, asked, each.answer, against.answer),
      scores(now, each, against),
    );
  }

  function output(now, asked, own, other) {
    if (own.output === undefined) {
      return Dom.element("p", { class: "quiet" }, "Nothing was asked: the text above was scored.");
    }
    const text = asText(own.output);
    const held = { reference: referenceText(asked), against: asText(other?.output ?? "") }[now.marks] ?? null;
    const box = marked(text, held);
    const cut = own.capped ? Dom.element("p", { class: "quiet" }, "cut at max_new_tokens") : null;
    const thought = own.reasoning ? reasoning(own) : null;
    return cut || thought ? Dom.element("div", {}, thought, box, cut) : box;
  }

  /** What was thought before the answer and is not scored; opened where it is asked for. */
  function reasoning(own) {
    const end = own.unfinished_reasoning ? ", unfinished: no answer" : "";
    const head = Dom.element("summary", { class: "quiet" }, `reasoning, ${own.reasoning_tokens} tokens${end}`);
    return Dom.element("details", { class: "reasoning" }, head, long(asText(own.reasoning)));
  }

  function marked(text, held) {
    const parts = held !== null && text.length <= LONGEST && text !== held ? Difference.parts(text, held) : null;
    if (parts === null) return long(text);
    return Dom.element("div", { class: "text" }, ...parts.map((part) => (part.own ? Dom.element("ins", {}, part.text) : Dom.element("span", {}, part.text))));
  }

  /** A text; the rest of one that is very long is shown when it is asked for. */
  function long(text) {
    const box = Dom.element("div", { class: "text" }, text.slice(0, LONGEST));
    if (text.length <= LONGEST) return box;
    const more = Dom.element("button", { type: "button", onclick: () => box.replaceChildren(Dom.shown(text)) }, `… ${text.length - LONGEST} characters more`);
    box.append(more);
    return box;
  }

  function scores(now, each, against) {
    const lines = now.suite.scores
      .map((score, index) => [score.name, each.values?.[index]])
      .filter(([, value]) => value !== null && value !== undefined)
      .map(([name, value]) => Dom.element("tr", {}, Dom.element("th", { scope: "row" }, name), Dom.element("td", { class: "number" }, number(value))));
    return Dom.element("table", { class: "scores" }, Dom.element("tbody", {}, ...lines));
  }

  return { answer, badge, gain, lastWords, promptText, question, referenceText, show };
})();
