"use strict";

// Shows the page's data, and of a page that is watched, new data as it comes.
(() => {
  const EVERY = 2000; // milliseconds

  async function show() {
    const core = await Blocks.json("core");
    Tradeoff.showBoth(core);
    Curves.show(core);
    Phases.show(core);
    Samples.show(core);
    await LeaderboardTable.show(core);
    return core;
  }

  async function start() {
    Theme.start();
    const core = await show();
    State.target()?.scrollIntoView();
    document.documentElement.dataset.ready = String(Math.round(performance.now()));
    State.onChange(async () => {
      await show();
      State.target()?.scrollIntoView();
    });
    if (core.watched) watch(core);
  }

  /** Reads the page again when the server says that it is of another version. */
  async function watch(core) {
    const status = Dom.byId("live");
    status.hidden = false;
    for (;;) {
      try {
        const now = await (await fetch("state.json", { cache: "no-store" })).json();
        if (now.version !== core.watched) core = await refresh();
        status.textContent = Dom.shown(now.text);
      } catch {
        status.textContent = "The server has ended: this is what it said last.";
      }
      await new Promise((resolve) => setTimeout(resolve, EVERY));
    }
  }

  async function refresh() {
    const text = await (await fetch("./", { cache: "no-store" })).text();
    const page = new DOMParser().parseFromString(text, "text/html");
    for (const old of document.querySelectorAll("[data-live]")) {
      const fresh = page.getElementById(old.id);
      if (fresh) old.replaceChildren(...[...fresh.childNodes].map((node) => document.importNode(node, true)));
    }
    document.title = page.title;
    document.querySelector("h1").textContent = page.querySelector("h1").textContent;
    Blocks.replace(page.getElementById("blocks"));
    return show();
  }

  start();
})();
