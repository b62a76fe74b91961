"use strict";

// Compressed blocks of the page: opened when they are wanted, and kept while they are in use.
const Blocks = (() => {
  const KEPT = 400;
  const opened = new Map();
  const libraries = new Map();

  async function text(name) {
    const block = Dom.byId(`block-${name}`);
    if (block === null) throw new Error(`no block ${name}`);
    const bytes = decoded(block.textContent);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function decoded(base64) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  }

  /** The JSON of a block; the same promise while it is kept. */
  function json(name) {
    let found = opened.get(name);
    opened.delete(name); // the last one used stands last
    found = found ?? text(name).then(JSON.parse);
    opened.set(name, found);
    if (opened.size > KEPT) opened.delete(opened.keys().next().value);
    return found;
  }

  /** Runs a library once; the page's policy knows its hash. */
  function run(name) {
    if (!libraries.has(name)) libraries.set(name, text(`library-${name}`).then(started));
    return libraries.get(name);
  }

  function started(source) {
    const script = document.createElement("script");
    script.textContent = source;
    document.head.append(script);
  }

  /** Other blocks in place of those of the page, of a page that was read anew. */
  function replace(blocks) {
    opened.clear();
    Dom.byId("blocks").replaceWith(document.importNode(blocks, true));
  }

  return { json, replace, run };
})();
