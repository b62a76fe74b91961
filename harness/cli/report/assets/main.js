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
    if (core.watched) watch();
  }

  /** Reads the page again when the server says that it is another one. */
  async function watch() {
    const status = Dom.byId("live");
    status.hidden = false;
    let version = null;
    for (;;) {
      try {
        const now = await (await fetch("state.json", { cache: "no-store" })).json();
        if (version !== null && now.version !== version) await refresh();
        version = now.version;
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
    Blocks.replace(page.getElementById("blocks"));
    await show();
  }

  start();
})();
