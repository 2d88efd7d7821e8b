// @ts-check
// Places that a search found: the same spot and what resembles it, and one label for all of them.

import { post } from "./api.js";
import {
  busy,
  button,
  clock,
  confirmDialog,
  counted,
  element,
  emptyState,
  labelMark,
  lazyImage,
  notice,
  percent,
  span,
  thumbnailAddress,
  toast,
} from "./ui.js";

/**
 * @typedef {object} Place
 * @property {string|null} recording
 * @property {string} name
 * @property {number} start_seconds
 * @property {number} end_seconds
 * @property {string|null} label
 * @property {number} likeness 0 to 1
 * @property {string} by what it was recognised by
 */

/**
 * @param {{same: Place[], similar: Place[]}} found
 * @param {Place|null} marked the range itself, which gets the label of its airings with them
 * @param {(recording: string) => boolean} canLabel not what training clips show: their folder says it
 * @returns {HTMLElement[]}
 */
export function placesFound({ same, similar }, marked, canLabel) {
  const shown = (/** @type {Place[]} */ places, /** @type {boolean} */ ticked) =>
    places.map((place) => drawPlace(place, ticked, place.recording !== null && canLabel(place.recording)));
  if (same.length + similar.length === 0) {
    return [
      emptyState(
        "search",
        "Nothing like it was found",
        "No other place in the index resembles this range. A longer range, or one without the picture cutting away, may find more.",
      ),
    ];
  }
  return [
    ...(same.length > 0
      ? [
          section(
            "same",
            "The same again",
            "Airings of this very spot, to the second.",
            shown(marked ? [marked, ...same] : same, true),
          ),
        ]
      : []),
    ...(similar.length > 0
      ? [
          section(
            "similar",
            "Similar",
            "Looks or sounds alike. Look before you label.",
            shown(similar, false),
          ),
        ]
      : []),
  ];
}

/** @param {string} id @param {string} title @param {string} about @param {Array<ReturnType<typeof drawPlace>>} cards */
function section(id, title, about, cards) {
  const boxes = cards.map(({ box }) => box).filter((box) => box !== null);
  const chosen = () => cards.filter(({ box }) => box?.checked).map(({ place }) => place);
  const all = element("input", { type: "checkbox", "aria-label": `Choose all: ${title}` });
  const outcome = element("div", { role: "status" });
  const go = button("", () => void labelPlaces(go, chosen(), outcome), {
    class: "primary",
    icon: "label",
    data: { test: id === "same" ? "label-airings" : "label-similar" },
  });
  const refresh = () => {
    const count = chosen().length;
    go.disabled = count === 0;
    /** @type {Node} */ (go.lastChild).textContent =
      id === "same" && count === boxes.length
        ? "Label all airings as ads"
        : `Label ${counted(count, "place")} as ads`;
    all.checked = count > 0 && count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
  };
  all.addEventListener("change", () => {
    for (const box of boxes) box.checked = all.checked;
    refresh();
  });
  const list = element("ul", { class: "places" }, ...cards.map(({ card }) => card));
  list.addEventListener("change", refresh);
  refresh();
  return element(
    "section",
    { "aria-labelledby": `${id}-title` },
    element(
      "div",
      { class: "view-header" },
      element(
        "div",
        {},
        element("h2", { id: `${id}-title`, text: title }),
        element("p", { class: "lead", text: about }),
      ),
      boxes.length > 0 &&
        element("div", { class: "actions" }, element("label", { class: "check" }, all, "All"), go),
    ),
    outcome,
    list,
  );
}

/** @param {Place} place @param {boolean} ticked @param {boolean} canLabel */
function drawPlace(place, ticked, canLabel) {
  const name = place.name.slice(place.name.lastIndexOf("/") + 1);
  const times = `${clock(place.start_seconds)} – ${clock(place.end_seconds)}`;
  const middle = (place.start_seconds + place.end_seconds) / 2;
  const box =
    canLabel &&
    element("input", { type: "checkbox", checked: ticked, "aria-label": `Choose ${name}, ${times}` });
  const facts = [
    element("strong", { text: times }),
    element("span", { class: "name", text: name }),
    place.label && element("span", { class: "muted" }, labelMark(place.label)),
    element("span", {
      class: "muted",
      text: place.by ? `${percent(place.likeness)} alike, by ${place.by}` : "what you marked",
    }),
  ];
  const body = place.recording
    ? element(
        "a",
        { class: "place-link", href: `#/review/${place.recording}?t=${place.start_seconds.toFixed(2)}` },
        lazyImage(thumbnailAddress(place.recording, middle, 120)),
        ...facts,
      )
    : element(
        "div",
        { class: "place-link" },
        element("span", { class: "thumbnail missing" }),
        ...facts,
        element("small", { class: "muted", text: "not in the folders of this page" }),
      );
  const card = element(
    "li",
    { class: "place", data: { test: "search-result" } },
    box && element("label", { class: "check" }, box),
    body,
  );
  return { place, box: /** @type {HTMLInputElement|null} */ (box || null), card };
}

/** @param {HTMLButtonElement} control @param {Place[]} places @param {HTMLElement} outcome */
async function labelPlaces(control, places, outcome) {
  const recordings = new Set(places.map(({ recording }) => recording)).size;
  const seconds = places.reduce((sum, place) => sum + place.end_seconds - place.start_seconds, 0);
  const agreed = await confirmDialog({
    title: `Label ${counted(places.length, "place")} as ads?`,
    text: `${span(seconds)} in ${counted(recordings, "recording")} become ads in your corrections. What is there of them otherwise stays.`,
    yes: "Label as ads",
  });
  if (!agreed) return;
  await busy(control, async () => {
    const { changed, refused } = await post("/api/search/label", {
      label: "ads",
      places: places.map(({ recording, start_seconds, end_seconds }) => ({
        recording,
        start_seconds,
        end_seconds,
      })),
    });
    const names = new Map(places.map(({ recording, name }) => [recording, name]));
    if (changed.length > 0) toast(`${counted(changed.length, "recording")} corrected`, "good");
    outcome.replaceChildren(
      ...(changed.length > 0
        ? [
            notice(
              `Corrected: ${changed.map((/** @type {any} */ one) => `${names.get(one.recording) ?? one.recording} (${span(one.seconds)})`).join(", ")}`,
            ),
          ]
        : []),
      ...refused.map((/** @type {any} */ one) =>
        notice(`${names.get(one.recording) ?? one.recording} was left as it is: ${one.reason}`, "warning"),
      ),
    );
  });
}
