"use strict";

// What a reader has chosen, in the URL's hash: #samples&suite=similarity&changed=worse.
const State = (() => {
  let [place, values] = parsed();
  const listeners = [];

  addEventListener("hashchange", () => {
    const [at, others] = parsed();
    place = at;
    if (others.size) {
      values = others;
      listeners.forEach((call) => call());
    } else {
      set({}, at); // an anchor of this page, which leaves what was chosen
    }
  });

  function parsed() {
    const parts = location.hash.slice(1).split("&").filter(Boolean);
    const first = parts.length && !parts[0].includes("=") ? parts.shift() : "";
    return [first, new URLSearchParams(parts.join("&"))];
  }

  function get(name, otherwise = "") {
    return values.get(name) ?? otherwise;
  }

  /** Set values, null to remove one. `at` is the part of the page that a link leads to. */
  function set(changes, at = place) {
    place = at;
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === "") values.delete(name);
      else values.set(name, value);
    }
    history.replaceState(null, "", link({}, at));
  }

  function link(changes, at = place) {
    const all = new URLSearchParams(values);
    for (const [name, value] of Object.entries(changes)) all.set(name, value);
    return "#" + [at, all.toString()].filter(Boolean).join("&");
  }

  /** Calls when a reader follows a link with other choices. */
  function onChange(call) {
    listeners.push(call);
  }

  /** The part of the page that the hash names, unless it is a plain anchor. */
  function target() {
    return values.size && place ? Dom.byId(place) : null;
  }

  return { get, link, onChange, set, target };
})();
