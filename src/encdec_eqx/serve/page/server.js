// Talks to the server: JSON there and back, and server-sent events read from a POST.

// What the server refused, in its words.
export class Refusal extends Error {
  constructor({ message }, status) {
    super(message);
    this.status = status;
  }
}

async function reply(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  const { status, statusText } = response;
  throw new Refusal(told?.error ?? { message: `The server answered ${status} ${statusText}.` }, status);
}

const post = (path, body, signal) =>
  reply(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

export const get = async (path) => (await reply(path)).json();

// What the server waits for, such as "warming up"; empty once it answers requests.
export async function health() {
  const response = await fetch("health").catch(() => null);
  return response === null || response.ok ? "" : ((await response.json().catch(() => null))?.status ?? "not ready");
}

export const ask = async (path, body, signal) => (await post(path, body, signal)).json();

// The tokens of one source as they are made: `written` gets each; returns the reply as a call that does not stream.
export async function stream(path, body, signal, written) {
  const response = await post(path, body, signal);
  for await (const { event, data } of events(response.body)) {
    if (event === "token") written(data);
    else if (event === "done") return data;
    else if (event === "error") throw new Refusal(data.error, response.status);
  }
  throw new Error("The connection ended before the output did.");
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (waiting + value).replaceAll("\r\n", "\n").split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      const found = { event: "message", data: "" };
      for (const line of block.split("\n")) {
        const [, name, text] = /^(event|data): ?(.*)$/.exec(line) ?? [];
        if (name === "event") found.event = text;
        else if (name === "data") found.data += text;
      }
      if (found.data) yield { ...found, data: JSON.parse(found.data) };
    }
  }
}
