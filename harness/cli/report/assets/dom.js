"use strict";

// Elements are made here. What models and strangers wrote becomes text nodes, never markup.
const Dom = (() => {
  // Control characters, what turns the direction of writing, and half surrogate pairs.
  const UNPRINTABLE =
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]|\p{Cs}/gu;

  /** The text with what cannot be seen written out, as JSON escapes it. */
  function shown(text) {
    return String(text).replace(
      UNPRINTABLE,
      (found) => "\\u" + found.charCodeAt(0).toString(16).padStart(4, "0"),
    );
  }

  /** element("td", {class: "number", onclick: f}, "text", anElement); null is left out. */
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") made.addEventListener(name.slice(2), value);
      else if (name === "value" || name === "checked" || name === "selected") made[name] = value;
      else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : shown(value));
    }
    made.append(...children.filter((child) => child !== null).map(node));
    return made;
  }

  function node(child) {
    return child instanceof Node ? child : document.createTextNode(shown(child));
  }

  /** A label with a select; options are [value, text] pairs, or [heading, pairs] where grouped. */
  function select(name, text, options, chosen, onchange) {
    const box = element("select", { name, onchange: () => onchange(box.value) });
    box.append(
      ...options.map(([value, content]) =>
        Array.isArray(content)
          ? element("optgroup", { label: value }, ...content.map((pair) => option(pair, chosen)))
          : option([value, content], chosen),
      ),
    );
    return element("label", {}, text + " ", box);
  }

  function option([value, text], chosen) {
    return element("option", { value, selected: String(value) === String(chosen) }, text);
  }

  function byId(id) {
    return document.getElementById(id);
  }

  return { byId, element, select, shown };
})();
