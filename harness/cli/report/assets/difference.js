"use strict";

// Words of a text that another text does not have in the same order.
const Difference = (() => {
  const LONGEST = 600; // words: the comparison takes their product

  function words(text) {
    return text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
  }

  /** [{text, own}] of `text`; own where `other` lacks it. Null where they are too long to compare. */
  function parts(text, other) {
    const ours = words(text);
    const theirs = words(other).filter((word) => word.trim());
    const said = ours.filter((word) => word.trim());
    if (said.length > LONGEST || theirs.length > LONGEST) return null;
    const shared = common(said.map(folded), theirs.map(folded));
    const found = [];
    let next = 0;
    for (const [at, word] of ours.entries()) {
      // a space is marked between two words that are
      const own = word.trim() ? !shared[next++] : (found.at(-1)?.own ?? false) && at + 1 < ours.length && !shared[next];
      if (found.length && found.at(-1).own === own) found.at(-1).text += word;
      else found.push({ text: word, own });
    }
    return found;
  }

  function folded(word) {
    return word.toLowerCase();
  }

  /** Of each word of `a`, whether it is in a longest common subsequence with `b`. */
  function common(a, b) {
    const width = b.length + 1;
    const longest = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        longest[i * width + j] =
          a[i] === b[j]
            ? longest[(i + 1) * width + j + 1] + 1
            : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
      }
    }
    const shared = new Array(a.length).fill(false);
    for (let i = 0, j = 0; i < a.length && j < b.length; ) {
      if (a[i] === b[j]) [shared[i], i, j] = [true, i + 1, j + 1];
      else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++;
      else j++;
    }
    return shared;
  }

  return { parts };
})();
