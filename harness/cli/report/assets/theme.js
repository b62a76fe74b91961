"use strict";

// Light or dark, and the colours and shapes of rows: Okabe and Ito's palette, which colour-blind
// readers can tell apart, and a shape and a dash for each, so that colour is never alone.
const Theme = (() => {
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b8a800"];
  const ON_DARK = ["#4aa8e0", "#ff8a3d", "#1fc79a", "#e39bc4", "#f0b429", "#8fd0f5", "#f0e442"];
  const SHAPES = ["circle", "square", "diamond", "triangle-up", "cross", "star", "x", "pentagon"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
  const PATTERNS = ["", "/", "x", ".", "\\", "+", "-", "|"];
  const listeners = [];

  const system = matchMedia("(prefers-color-scheme: dark)");

  function dark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : system.matches;
  }

  function start() {
    const button = Dom.byId("theme");
    choose(State.get("theme"));
    button.hidden = false;
    button.addEventListener("click", () => {
      const theme = dark() ? "light" : "dark";
      State.set({ theme });
      choose(theme);
    });
    system.addEventListener("change", changed);
  }

  function choose(theme) {
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
    changed();
  }

  function changed() {
    Dom.byId("theme").textContent = dark() ? "Light" : "Dark";
    listeners.forEach((call) => call());
  }

  function onChange(call) {
    listeners.push(call);
  }

  /** A colour of the style sheets. */
  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  }

  /** How a row is drawn; one that was not trained is grey. */
  function ofRow(index, trained) {
    const colours = dark() ? ON_DARK : COLOURS;
    return {
      colour: trained ? colours[index % colours.length] : colour("faint"),
      shape: SHAPES[index % SHAPES.length],
      dash: DASHES[Math.floor(index / colours.length) % DASHES.length],
    };
  }

  /** How a phase is drawn: patterns tell those of one colour apart. */
  function ofPhase(index) {
    const colours = dark() ? ON_DARK : COLOURS;
    return {
      colour: colours[index % colours.length],
      pattern: PATTERNS[Math.floor(index / colours.length) % PATTERNS.length],
    };
  }

  return { colour, ofPhase, ofRow, onChange, start };
})();
