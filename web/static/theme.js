// @ts-check
// Colour scheme: sets data-theme on <html> before the first paint, so that no page flashes.
// A plain script, not a module: modules run only after the page was drawn.
"use strict";

(() => {
  const KEY = "theme"; // "light", "dark"; nothing stored: as the system has it
  const dark = matchMedia("(prefers-color-scheme: dark)");
  /** @type {string|null} */
  let chosen = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    // No storage is allowed here: the choice lasts as long as the page.
  }

  const apply = () => {
    const theme = chosen ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    document.documentElement.dataset.themeChoice = chosen ?? "system";
    dispatchEvent(new CustomEvent("themechange", { detail: theme }));
  };

  addEventListener("choosetheme", (/** @type {any} */ event) => {
    chosen = event.detail;
    try {
      if (chosen) localStorage.setItem(KEY, chosen);
      else localStorage.removeItem(KEY);
    } catch {
      // as above
    }
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
})();
