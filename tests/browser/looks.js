// What a page looks like, in numbers. Each function is handed to the browser by the tests.
({
  // [text, ratio] of every piece of text that can be seen, its colour against what is behind it (WCAG 2).
  contrasts() {
    const channels = (colour) => {
      const numbers = colour.match(/[\d.]+/g).map(Number);
      return colour.startsWith("rgb") ? numbers : [...numbers.slice(0, 3).map((each) => each * 255), ...numbers.slice(3)];
    };
    const luminance = (colour) => {
      const [r, g, b] = channels(colour).map((each) => each / 255).map((each) =>
        each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const colour = getComputedStyle(at).backgroundColor;
        if ((channels(colour)[3] ?? 1) === 1) return colour;
      }
      return getComputedStyle(document.body).backgroundColor;
    };
    const ratio = (element, part) => {
      const [one, other] = [luminance(getComputedStyle(element, part).color), luminance(behind(element))];
      return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      const text = walker.currentNode.data.trim();
      if (text && element.checkVisibility() && !element.closest(".unseen, option, noscript")) found.push([text, ratio(element)]);
    }
    for (const field of document.querySelectorAll("input:not([type=radio]), textarea, select")) {
      if (!field.checkVisibility()) continue;
      found.push([field.id, ratio(field)]);
      if (field.placeholder) found.push([`${field.id}'s placeholder`, ratio(field, "::placeholder")]);
    }
    return found;
  },

  // The colour of every cell of the heat map, from its canvas: rows of [red, green, blue].
  cells() {
    const canvas = document.querySelector("#map canvas");
    const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(canvas, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const pixel = (at) => [...data.slice(at * 4, at * 4 + 3)];
    return [...Array(canvas.height).keys()].map((row) => [...Array(canvas.width).keys()].map((column) => pixel(row * canvas.width + column)));
  },

  // Keeps every text and number of tokens that is shown while an output comes.
  watch() {
    window.seen = [];
    const look = () => {
      const text = document.querySelector("#written .text")?.textContent;
      const tokens = document.querySelectorAll("#written .tokens li").length;
      if (text !== undefined) window.seen.push([text, tokens]);
    };
    new MutationObserver(look).observe(document.querySelector("#written"), { childList: true, subtree: true, characterData: true });
  },
})
