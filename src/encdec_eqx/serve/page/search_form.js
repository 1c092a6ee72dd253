// The searches that the server offers, and an input for everything that a request may change.
import { breakable, element } from "./elements.js";

// What a person can be told of an option beside its name; one that is not here gets an input for a number.
const KNOWN = {
  max_new_tokens: { hint: "at least 1", min: 1, step: 1 },
  min_new_tokens: { hint: "at least 0", min: 0, step: 1 },
  temperature: { hint: "above 0", min: 0, step: 0.1 },
  top_k: { hint: "0 for all", min: 0, step: 1 },
  top_p: { hint: "above 0, up to 1", min: 0, max: 1, step: 0.05 },
  min_p: { hint: "0 to 1", min: 0, max: 1, step: 0.05 },
  typical_p: { hint: "above 0, up to 1", min: 0, max: 1, step: 0.05 },
  epsilon_cutoff: { hint: "0 for none", min: 0, max: 1, step: 0.001 },
  eta_cutoff: { hint: "0 for none", min: 0, max: 1, step: 0.001 },
  num_beams: { hint: "at least 1", min: 1, step: 1 },
  num_return_sequences: { hint: "outputs", min: 1, step: 1 },
  early_stopping: { hint: "of beams", choices: ["true", "false", "never"] },
  length_penalty: { hint: "above 0 favours long", step: 0.1 },
  repetition_penalty: { hint: "1 for none", min: 0, step: 0.1 },
  no_repeat_ngram_size: { hint: "0 for none", min: 0, step: 1 },
  seed: { hint: "repeats a draw", min: 0, step: 1 },
};

export class SearchForm {
  #info;
  #searches;
  #parameters;
  #fixed;
  #typed = new Map(); // by the option's name, so that a value outlives a look at another search

  constructor(info, { searches, parameters, fixed }) {
    this.#info = info;
    this.#searches = searches;
    this.#parameters = parameters;
    this.#fixed = fixed;
    for (const [at, search] of info.searches.entries()) searches.append(segment(search.name, at));
    searches.addEventListener("change", () => this.#show());
    parameters.addEventListener("input", ({ target }) => this.#typed.set(target.name, target.value));
    this.#show();
  }

  get search() {
    return this.#info.searches[Number(this.#searches.querySelector("input:checked").value)];
  }

  // Whether its tokens come one by one: there is one output, which only ever grows.
  get streams() {
    return this.search.streams && (this.parameters().num_return_sequences ?? 1) === 1;
  }

  // What a request sends: what belongs to the search, and what was typed. Empty inputs leave it to the server.
  parameters() {
    const found = { ...this.search.parameters };
    for (const { name, value } of this.#inputs()) {
      if (value !== "") found[name] = name === "constraint" ? value : read(value);
    }
    return found;
  }

  // The first input that holds no number, or null: a browser tells nobody what it holds instead.
  unreadable() {
    return this.#inputs().find((input) => input.validity.badInput) ?? null;
  }

  // The input that a message of the server speaks of: the one that it names first.
  spokenOf(message) {
    const places = this.#inputs().map((input) => [message.search(new RegExp(`\\b${input.name}\\b`)), input]);
    return places.filter(([place]) => place >= 0).sort(([a], [b]) => a - b)[0]?.[1] ?? null;
  }

  // Chooses a search and fills in values, as an address carries them. What is not offered here is passed over.
  restore(name, values) {
    const at = this.#info.searches.findIndex((search) => search.name === name);
    if (at >= 0) this.#searches.querySelector(`[value="${at}"]`).checked = true;
    for (const [option, value] of values) this.#typed.set(option, value);
    this.#show();
  }

  // What was typed for this search, for an address.
  typed() {
    const changed = this.#inputs().filter(({ name, value }) => value !== this.#initial(name));
    return changed.map(({ name, value }) => [name, value]);
  }

  #inputs() {
    return [...this.#parameters.querySelectorAll("input, select")];
  }

  #initial(name) {
    return String(this.search.parameters[name] ?? this.#info.defaults?.[name] ?? "");
  }

  #show() {
    const { parameters, adjustable } = this.search;
    const fixed = Object.entries(parameters).filter(([name]) => !adjustable.includes(name));
    this.#fixed.textContent = fixed.map(([name, value]) => (value === true ? name : `${name} ${value}`)).join(" · ");
    const fields = adjustable.map((name) => this.#option(name));
    const { constraints } = this.#info;
    if (constraints.length) fields.push(this.#choice("constraint", "none", constraints, "what it may write"));
    this.#parameters.replaceChildren(...fields);
  }

  #option(name) {
    const { hint, choices, ...limits } = KNOWN[name] ?? {};
    if (choices) return this.#choice(name, "default", choices, hint);
    const most = this.#info.limits[name] ?? limits.max;
    const input = element("input", { type: "number", step: "any", ...limits, placeholder: "default" });
    if (most !== undefined) input.max = most;
    const said = this.#info.limits[name] === undefined ? hint : `${limits.min ?? 0} to ${most}`;
    return this.#field(name, input, said);
  }

  #choice(name, empty, choices, hint) {
    const select = element("select");
    const options = [["", empty], ...choices.map((value) => [value, value])];
    select.append(...options.map(([value, textContent]) => element("option", { value, textContent })));
    return this.#field(name, select, hint);
  }

  #field(name, input, hint) {
    const label = element("label", { htmlFor: `p-${name}` });
    label.append(...breakable(name));
    const error = element("p", { className: "error", id: `p-${name}-error` });
    error.setAttribute("role", "alert");
    Object.assign(input, { id: `p-${name}`, name });
    input.value = this.#typed.get(name) ?? this.#initial(name);
    input.setAttribute("aria-describedby", `p-${name}-hint p-${name}-error`);
    const field = element("div", { className: "field" });
    field.append(label, input, element("p", { className: "hint", id: `p-${name}-hint`, textContent: hint ?? "" }), error);
    return field;
  }
}

// A number, true or false where the text says one, else the text.
function read(text) {
  if (text === "true" || text === "false") return text === "true";
  return Number.isNaN(Number(text)) ? text : Number(text);
}

function segment(name, at) {
  const label = element("label");
  const input = element("input", { type: "radio", name: "search", value: String(at), checked: at === 0 });
  label.append(input, element("span", { textContent: name }));
  return label;
}
