// Elements, and text as the page writes it: what all of its parts are made of.

export function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

// A token as it is shown: without a tokenizer's mark in front for a space, and with a sign where nothing could be seen.
export function shown(token) {
  const text = token.replace(/^[Ġ▁](?=.)/, "");
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "∅";
}

// A name that may go on in the next line behind an underscore.
export const breakable = (name) => name.split(/(?<=_)/).flatMap((part, at) => (at ? [element("wbr"), part] : [part]));
