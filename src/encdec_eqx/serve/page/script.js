// The page: reads the form, runs a request, shows what comes, and asks for the alignment of what came.
import { element, shown } from "./elements.js";
import { HeatMap } from "./heat_map.js";
import { SearchForm } from "./search_form.js";
import { Refusal, ask, get, health, stream } from "./server.js";

const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));
// Families as their papers write them; the others are shown as configs have them.
const FAMILIES = { bert: "BERT", gpt2: "GPT-2", roberta: "RoBERTa", t5: "T5", bart: "BART", electra: "ELECTRA" };

let form = null; // the search form, once the server has said what it offers
let running = null; // the AbortController of the request in progress
let outputs = [];
let chosen = 0;
let asked = null; // the source of the outputs, and the AbortController of their alignment
const map = new HeatMap(at.map, at.legend, tell);

start();

async function start() {
  at.form.addEventListener("submit", (event) => (event.preventDefault(), form && generate()));
  try {
    const info = await get("info");
    introduce(info);
    form = new SearchForm(info, at);
  } catch (error) {
    at.error.textContent = error.message;
    return;
  }
  restore();
  describe();
  at.form.addEventListener("input", describe);
  at.searches.addEventListener("change", describe);
  at.stop.addEventListener("click", stop);
  at.source.addEventListener("input", grow);
  at.layer.addEventListener("change", align);
  at.head.addEventListener("change", align);
  document.addEventListener("keydown", shortcut);
  if (matchMedia("(min-width: 48rem)").matches) at.source.focus();
  warmUp();
}

// Says that the server is not ready, for as long as it is not.
async function warmUp() {
  let told = "";
  for (; (told = await health()) !== ""; await new Promise((resolve) => setTimeout(resolve, 1000))) {
    if (!running) at.status.textContent = `The server is ${told}`;
  }
  if (at.status.textContent.startsWith("The server is ")) at.status.textContent = "";
}

function introduce({ model, encoder, decoder, version, limits }) {
  document.title = `${model} · encdec-eqx`;
  at.model.textContent = model;
  const name = (family) => FAMILIES[family] ?? family;
  at.pieces.replaceChildren(name(encoder), element("span", { textContent: " → " }), name(decoder));
  at["source-hint"].textContent = limits.max_source_tokens ? `up to ${limits.max_source_tokens} tokens` : "";
  at.about.textContent = `encdec-eqx ${version}, at ${location.host}`;
  if (/Mac|iP/.test(navigator.platform)) at.generate.querySelector("kbd").textContent = "⌘ ↵";
}

function shortcut(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    generate();
  } else if (event.key === "Escape" && running) {
    event.preventDefault();
    stop();
  }
}

// ---- one request

function request() {
  const body = { inputs: at.source.value, parameters: form.parameters() };
  return form.streams ? { ...body, stream: true } : body;
}

async function generate() {
  running?.abort();
  asked?.controller?.abort();
  forget();
  const unreadable = form.unreadable();
  if (unreadable) return complain(unreadable, `${unreadable.name} has to be a number.`);
  const controller = (running = new AbortController());
  const body = request();
  const began = performance.now();
  asked = { source: body.inputs };
  remember();
  busy(true);
  const tokens = [];
  try {
    const reply = body.stream
      ? await stream("generate", body, controller.signal, ({ token, text }) => {
          tokens.push(token);
          coming(text, tokens);
        })
      : await ask("generate", body, controller.signal);
    if (running !== controller) return;
    outputs = reply.outputs[0];
    at.status.textContent = summary(reply, performance.now() - began);
  } catch (error) {
    if (running !== controller) return;
    const stopped = error.name === "AbortError";
    const after = tokens.length ? ` after ${count(tokens.length, "token")}` : "";
    const text = at.written.querySelector(".text")?.textContent ?? "";
    outputs = tokens.length ? [{ generated_text: text, tokens, score: null, finish_reason: null }] : [];
    at.status.textContent = stopped ? `Stopped${after}` : "";
    if (!stopped) refuse(error);
  }
  running = null;
  busy(false);
  chosen = 0;
  list();
  align();
}

function stop() {
  running?.abort();
}

function busy(now) {
  document.body.classList.toggle("busy", now);
  if (document.activeElement === at.stop) at.source.focus(); // it is about to go
  at.stop.hidden = !now;
  at.output.hidden = false;
  at.written.setAttribute("aria-busy", String(now));
  if (now) {
    at.status.textContent = "Generating";
    at.written.replaceChildren(written("", []));
    at.alignment.classList.add("stale");
  }
}

function summary({ outputs: [found], seed }, milliseconds) {
  const tokens = found.reduce((sum, output) => sum + output.tokens.length, 0);
  const times = milliseconds < 995 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
  const many = found.length > 1 ? `${count(found.length, "output")}, ` : "";
  const drawn = seed === undefined ? "" : ` · seed ${seed}`;
  return `${many}${count(tokens, "token")} in ${times}${drawn}`;
}

const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

// ---- what was written

function coming(text, tokens) {
  const place = at.written;
  place.querySelector(".text").textContent = text;
  place.querySelector(".tokens").append(chip(tokens.at(-1), tokens.length - 1));
}

function list() {
  if (!outputs.length) {
    at.output.hidden = true;
    at.alignment.hidden = true;
    return;
  }
  if (outputs.length === 1) {
    at.written.replaceChildren(written(outputs[0].generated_text, outputs[0].tokens, note(outputs[0])));
    return;
  }
  const all = element("ol", { className: "several" });
  for (const [index, output] of outputs.entries()) {
    const button = element("button", { type: "button", className: "choice" });
    button.setAttribute("aria-pressed", String(index === chosen));
    button.append(text(output.generated_text), element("span", { className: "note", textContent: note(output) }));
    button.addEventListener("click", () => choose(index));
    const item = element("li");
    item.append(button);
    if (index === chosen) item.append(tokensOf(output.tokens));
    all.append(item);
  }
  at.written.replaceChildren(all);
}

function choose(index) {
  if (index === chosen) return;
  chosen = index;
  list();
  at.written.querySelectorAll("button")[index].focus();
  align();
}

function note({ score, finish_reason: why }) {
  const cut = why === "length" ? "cut at the most new tokens" : "";
  return [score === null ? "" : `score ${score.toFixed(3).replace("-", "−")}`, cut].filter(Boolean).join(" · ");
}

function written(said, tokens, remark = "") {
  const place = element("div", { className: "one" });
  place.append(text(said), tokensOf(tokens), element("p", { className: "note", textContent: remark }));
  return place;
}

const text = (said) => element("span", { className: "text", textContent: said });

function tokensOf(tokens) {
  const place = element("ol", { className: "tokens" });
  place.setAttribute("aria-label", "Tokens");
  place.append(...tokens.map(chip));
  return place;
}

function chip(token, index) {
  const item = element("li", { textContent: shown(token) });
  item.addEventListener("pointerenter", () => sameTokens() && map.pick([index, null]));
  item.addEventListener("pointerleave", () => map.pick(null));
  return item;
}

// ---- the alignment

async function align() {
  asked?.controller?.abort();
  if (!outputs.length) return;
  const controller = (asked.controller = new AbortController());
  const picked = (select) => (select.value === "" ? null : Number(select.value));
  const body = {
    source: asked.source,
    target: outputs[chosen].generated_text,
    layer: picked(at.layer),
    head: picked(at.head),
  };
  at["alignment-error"].textContent = "";
  at.alignment.hidden = false;
  at.alignment.classList.add("stale");
  try {
    const data = await ask("alignment", body, controller.signal);
    number(at.layer, data.layers);
    number(at.head, data.heads);
    at.alignment.classList.remove("stale", "empty");
    map.show(data);
    strongest(data);
    relabel();
  } catch (error) {
    if (error.name === "AbortError") return;
    at["alignment-error"].textContent = error.message;
    at.alignment.classList.add("empty");
  }
}

const tokensShown = () => [...at.written.querySelectorAll(".tokens li")];

// Whether the alignment's rows are the tokens of the output, and perhaps the end: it cuts the text into tokens anew, and a
// model need not have written it in the tokenizer's way.
function sameTokens() {
  const more = (map.data?.target_tokens.length ?? -1) - tokensShown().length;
  return (more === 0 || more === 1) && !at.alignment.classList.contains("stale");
}

// The tokens of the output as the alignment has them, which is how people read them: no Ġ for a space.
function relabel() {
  if (!sameTokens()) return;
  for (const [index, item] of tokensShown().entries()) item.textContent = shown(map.data.target_tokens[index]);
}

// "mean" and the numbers from 0, as in Python.
function number(select, many) {
  if (select.options.length === many + 1) return;
  const numbers = [...Array(many).keys()].map((value) => element("option", { value: String(value), textContent: value }));
  const before = select.value;
  select.replaceChildren(element("option", { value: "", textContent: "mean" }), ...numbers);
  select.value = Number(before) < many ? before : "";
}

function tell(cell) {
  const data = map.data;
  const picked = sameTokens() ? cell?.[0] : undefined;
  for (const [index, item] of tokensShown().entries()) item.classList.toggle("on", index === picked);
  if (!cell) {
    at.readout.replaceChildren(element("span", { className: "hint", textContent: "Point at a cell, or press Tab and the arrow keys." }));
    return;
  }
  const [row, column] = cell;
  const best = column ?? largest(data.weights[row]);
  const word = (token) => element("b", { textContent: shown(token) });
  at.readout.replaceChildren(
    word(data.target_tokens[row]),
    column === null ? " looked most at " : " looked at ",
    word(data.source_tokens[best]),
    element("span", { className: "number", textContent: ` ${data.weights[row][best].toFixed(3)}` }),
  );
}

const largest = (row) => row.indexOf(Math.max(...row));

function strongest({ source_tokens: source, target_tokens: target, weights }) {
  const rows = target.map((token, index) => {
    const best = largest(weights[index]);
    const row = element("tr");
    const head = element("th", { scope: "row", textContent: shown(token) });
    const cells = [shown(source[best]), weights[index][best].toFixed(3)];
    row.append(head, ...cells.map((textContent) => element("td", { textContent, title: textContent })));
    return row;
  });
  at.strongest.replaceChildren(...rows);
}

// ---- errors, beside what they speak of

function refuse(error) {
  const { message, status } = error;
  const ofRequest = error instanceof Refusal && (status === 400 || status === 413);
  const ofSource = ofRequest && /\b(text|source|inputs?)\b/.test(message);
  complain((ofRequest && form.spokenOf(message)) || (ofSource ? at.source : null), message);
}

function complain(input, message) {
  if (!input) {
    at.error.textContent = message;
    return;
  }
  input.setAttribute("aria-invalid", "true");
  document.getElementById(`${input.id}-error`).textContent = message;
  input.focus();
}

function forget() {
  for (const place of at.form.querySelectorAll(".error")) place.textContent = "";
  for (const input of at.form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

// ---- what is kept in the address, and the request in words

function remember() {
  const kept = new URLSearchParams([["source", at.source.value], ["search", form.search.name], ...form.typed()]);
  history.replaceState(null, "", `#${kept}`);
}

function restore() {
  const kept = new URLSearchParams(location.hash.slice(1));
  at.source.value = kept.get("source") ?? at.source.value;
  form.restore(kept.get("search"), [...kept].filter(([name]) => name !== "source" && name !== "search"));
  grow();
}

function describe() {
  const body = JSON.stringify(request()).replaceAll("'", "'\\''");
  const url = new URL("generate", location.href.split("#")[0]);
  at.curl.textContent = `curl -N ${url} \\\n  -H 'Content-Type: application/json' \\\n  -d '${body}'`;
}

function grow() {
  at.source.style.setProperty("height", "auto");
  at.source.style.setProperty("height", `${at.source.scrollHeight}px`);
}
