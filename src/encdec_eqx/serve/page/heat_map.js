// The heat map: source tokens across, target tokens down, one pixel of a canvas a weight, stretched to a cell.
// Pointer and arrow keys pick a cell; what is picked is told to the page in words.
import { element, shown } from "./elements.js";

const SMALLEST = 18; // pixels: a line of the labels' text still fits
const LARGEST = 56;
const MANY = 30; // columns
const LETTER = 8.5; // pixels, with a little room
const EDGE = 3; // pixels around a picked cell

export class HeatMap {
  #place;
  #figure;
  #legend;
  #told;
  #data = null;
  #picked = null; // [row, column], or [row, null]: a target token with all that it looked at

  // `told` is called with the picked row and column, or null.
  constructor(place, legend, told) {
    this.#place = place;
    this.#figure = place.closest(".figure");
    this.#legend = legend;
    this.#told = told;
    place.tabIndex = 0;
    place.setAttribute("role", "application");
    place.setAttribute("aria-roledescription", "heat map");
    place.addEventListener("keydown", (event) => this.#key(event));
    place.addEventListener("pointermove", (event) => this.#point(event));
    place.addEventListener("pointerdown", (event) => this.#point(event));
    place.addEventListener("pointerleave", ({ pointerType }) => pointerType === "mouse" && this.pick(null));
    place.addEventListener("focus", () => place.matches(":focus-visible") && !this.#picked && this.pick([0, 0]));
    place.addEventListener("blur", () => this.pick(null));
    document.addEventListener("schemechange", () => this.#paint());
    new ResizeObserver(() => this.#size()).observe(place.parentElement);
  }

  get data() {
    return this.#data;
  }

  show(data) {
    this.#data = data;
    this.#picked = undefined; // not even nothing: what is told has to be told anew
    const { source_tokens: across, target_tokens: down } = data;
    this.columns = labels(across, "columns");
    this.rows = labels(down, "rows");
    this.canvas = element("canvas", { width: across.length, height: down.length });
    this.cursor = element("div", { className: "cursor", hidden: true });
    this.plot = element("div", { className: "plot" });
    this.plot.append(this.canvas, this.cursor);
    this.plot.style.setProperty("--across", across.length);
    this.plot.style.setProperty("--down", down.length);
    const sheet = element("div", { className: "sheet" });
    sheet.append(element("div", { className: "corner" }), this.columns, this.rows, this.plot);
    sheet.setAttribute("aria-hidden", "true"); // the readout and the table say it in words
    this.#place.replaceChildren(sheet);
    const size = `${down.length} target tokens by ${across.length} source tokens`;
    this.#place.setAttribute("aria-label", `Weights of cross-attention, ${size}. Arrow keys move from cell to cell.`);
    this.#size();
    this.#paint();
    this.pick(null);
  }

  pick(cell) {
    if (!this.#data || String(cell) === String(this.#picked)) return;
    this.#picked = cell;
    const [row, column] = cell ?? [null, null];
    for (const [at, label] of [...this.rows.children].entries()) label.classList.toggle("on", at === row);
    for (const [at, label] of [...this.columns.children].entries()) {
      label.classList.toggle("on", at === column);
      label.style.setProperty("--weight", row === null ? 0 : this.#data.weights[row][at]);
    }
    this.cursor.hidden = row === null;
    this.cursor.classList.toggle("whole", column === null);
    this.cursor.style.setProperty("--row", row ?? 0);
    this.cursor.style.setProperty("--column", column ?? 0);
    this.#told(cell);
  }

  #key(event) {
    if (!this.#data || event.ctrlKey || event.metaKey || event.altKey) return;
    const [rows, columns] = [this.rows.children.length, this.columns.children.length];
    let [row, column] = this.#picked ?? [0, 0];
    column ??= 0;
    const moves = {
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      Home: [row, 0],
      End: [row, columns - 1],
      PageUp: [0, column],
      PageDown: [rows - 1, column],
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    [row, column] = moves[event.key];
    this.pick([Math.min(Math.max(row, 0), rows - 1), Math.min(Math.max(column, 0), columns - 1)]);
    this.#reveal();
  }

  // Scrolls the picked cell out from under the labels, which stay where they are.
  #reveal() {
    const [at, place] = [this.cursor.getBoundingClientRect(), this.#place.getBoundingClientRect()];
    const [left, top] = [place.left + this.rows.offsetWidth, place.top + this.columns.offsetHeight];
    const [right, bottom] = [place.left + this.#place.clientWidth, place.top + this.#place.clientHeight];
    const across = Math.min(at.left - EDGE - left, 0) || Math.max(at.right + EDGE - right, 0);
    const down = Math.min(at.top - EDGE - top, 0) || Math.max(at.bottom + EDGE - bottom, 0);
    this.#place.scrollBy(across, down);
  }

  #point(event) {
    if (!this.#data) return;
    const label = event.target.closest?.(".rows span");
    if (label) return this.pick([[...this.rows.children].indexOf(label), null]);
    if (!this.plot.contains(event.target)) return this.pick(null);
    const box = this.plot.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) / this.cell);
    const column = Math.floor((event.clientX - box.left) / this.cell);
    const [rows, columns] = [this.rows.children.length, this.columns.children.length];
    this.pick(row >= 0 && row < rows && column >= 0 && column < columns ? [row, column] : null);
  }

  // Cells are squares, as large as width and height allow, and never so small that a label does not fit.
  #size() {
    if (!this.#data) return;
    const { source_tokens: across, target_tokens: down } = this.#data;
    // Where there are many columns, the map takes the width of the page and what stands beside it goes below.
    this.#figure.classList.toggle("wide", across.length > MANY);
    const longest = Math.max(...across.map((token) => token.length));
    const width = (this.#place.parentElement.clientWidth - this.rows.offsetWidth - 2) / across.length;
    const upright = longest * LETTER > Math.min(width, LARGEST);
    this.#place.style.setProperty("--longest", longest);
    this.#place.classList.toggle("upright", upright);
    const height = (parseFloat(getComputedStyle(this.#place).maxHeight) - this.columns.offsetHeight) / down.length;
    this.cell = Math.min(Math.max(Math.floor(Math.min(width, height)), SMALLEST), LARGEST);
    this.#place.style.setProperty("--cell", `${this.cell}px`);
  }

  #paint() {
    if (!this.#data) return;
    const { weights } = this.#data;
    const most = Math.max(...weights.map((row) => Math.max(...row))) || 1;
    const colours = [...this.#legend.querySelectorAll("i")].map((stop) =>
      getComputedStyle(stop).backgroundColor.match(/[\d.]+/g).slice(0, 3).map(Number),
    );
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(this.canvas.width, this.canvas.height);
    weights.flat().forEach((weight, at) => {
      const place = (weight / most) * (colours.length - 1);
      const low = Math.min(Math.floor(place), colours.length - 2);
      const mixed = colours[low].map((channel, c) => channel + (colours[low + 1][c] - channel) * (place - low));
      image.data.set([...mixed, 255], at * 4);
    });
    context.putImageData(image, 0, 0);
    this.#legend.querySelector("#most").textContent = most.toFixed(2);
    this.#legend.setAttribute("aria-label", `Colours from weight 0 to weight ${most.toFixed(2)}`);
  }
}

function labels(tokens, className) {
  const place = element("div", { className });
  place.append(...tokens.map((token) => element("span", { textContent: shown(token), title: token })));
  return place;
}
