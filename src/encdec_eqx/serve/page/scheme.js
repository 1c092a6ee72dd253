// Light, dark or the system's scheme: what was chosen is kept, and set before the page is painted.
"use strict";
{
  const KEPT = "encdec-eqx scheme";
  const root = document.documentElement;

  // Storage can be forbidden; the choice then lasts as long as the page.
  const kept = () => {
    try {
      return localStorage.getItem(KEPT);
    } catch {
      return null;
    }
  };
  const keep = (scheme) => {
    try {
      localStorage.setItem(KEPT, scheme);
    } catch {}
  };
  const show = (scheme) => {
    if (scheme === "light" || scheme === "dark") root.dataset.scheme = scheme;
    else delete root.dataset.scheme;
    document.dispatchEvent(new Event("schemechange"));
  };

  show(kept());
  document.addEventListener("DOMContentLoaded", () => {
    const choice = document.getElementById("scheme");
    const now = root.dataset.scheme ?? "system";
    choice.querySelector(`[value="${now}"]`).checked = true;
    choice.addEventListener("change", ({ target }) => {
      keep(target.value);
      show(target.value);
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(root.dataset.scheme));
  });
}
