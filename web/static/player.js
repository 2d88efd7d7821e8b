// @ts-check
// Player: shows a recording at a time, as a video where the browser can play one, else as pictures.
// All times are seconds since the first picture, which is `zero_seconds` later in a player.

import { element, thumbnailAddress } from "./ui.js";

const STILL_HEIGHT = 360;
const STILL_MS = 120; // between pictures that are asked for while somebody drags

/**
 * @typedef {object} Player
 * @property {HTMLElement} element
 * @property {() => number} time
 * @property {() => boolean} isPlaying
 * @property {() => boolean} canPlay
 * @property {(seconds: number) => void} seek
 * @property {(frames: number) => void} step
 * @property {() => void} toggle plays or pauses
 * @property {(seconds: number) => void} playUntil from where it is
 * @property {(rate: number) => void} setRate
 * @property {(media: Media) => void} setMedia
 * @property {() => void} close
 */
/** @typedef {{kind: "direct"|"proxy"|"needs_proxy", url: string|null, zero_seconds: number}} Media */

/**
 * @param {{id: string, durationSeconds: number, frameSeconds: number, media: Media}} recording
 * @param {{onTime: () => void, onState: () => void, onTrouble: (message: string) => void}} told
 * @returns {Player}
 */
export function makePlayer({ id, durationSeconds, frameSeconds, media }, told) {
  const video = element("video", { preload: "auto", playsinline: true, tabindex: -1, "aria-label": "The recording" });
  const still = element("img", { class: "still", alt: "", decoding: "async" });
  const frame = element("div", { class: "screen" }, still, video);
  let zero = 0;
  let at = 0; // where it was put, which a paused video need not say to the frame
  let end = Infinity;
  let ticking = 0;
  let stillTimer = 0;
  let stillShown = -1;
  /** @type {number|null} */
  let wanted = null; // while the video is still going to another time

  const hasVideo = () => video.hasAttribute("src");
  const isPlaying = () => hasVideo() && !video.paused && !video.ended;
  const clamped = (/** @type {number} */ seconds) => Math.min(Math.max(0, durationSeconds - frameSeconds / 2), Math.max(0, seconds));

  function showStill() {
    if (hasVideo() && video.readyState >= 2) return;
    clearTimeout(stillTimer);
    stillTimer = setTimeout(() => {
      if (Math.abs(stillShown - at) < frameSeconds / 2) return;
      stillShown = at;
      still.src = thumbnailAddress(id, at, STILL_HEIGHT);
    }, stillShown < 0 ? 0 : STILL_MS);
  }

  /** A little inside the frame, since containers round the times of pictures. */
  const playerTime = () => at + zero + Math.min(0.002, frameSeconds / 4);

  function move() {
    if (!hasVideo()) return showStill();
    if (video.readyState === 0) return showStill(); // goes there once it knows its length
    if (video.seeking) wanted = at;
    else video.currentTime = playerTime();
  }

  function seek(/** @type {number} */ seconds) {
    at = clamped(seconds);
    end = Infinity;
    move();
    told.onTime();
  }

  function tick() {
    if (!isPlaying()) return;
    // While it goes elsewhere, the video still tells the time that it left.
    if (!video.seeking) at = Math.min(durationSeconds, Math.max(0, video.currentTime - zero));
    told.onTime();
    if (at >= end) {
      video.pause();
      seek(end);
    }
    ticking = requestAnimationFrame(tick);
  }

  function play() {
    if (!hasVideo()) return told.onTrouble("no_video");
    if (at >= durationSeconds - 2 * frameSeconds) seek(0);
    video.play().catch((/** @type {DOMException} */ error) => {
      if (error.name !== "AbortError") told.onTrouble(error.message);
    });
  }

  function setMedia(/** @type {Media} */ now) {
    zero = now.zero_seconds;
    still.hidden = false;
    if (now.url) video.src = now.url;
    else video.removeAttribute("src");
    video.hidden = !now.url;
    stillShown = -1;
    move();
  }

  video.addEventListener("seeked", () => {
    const there = wanted;
    wanted = null;
    if (there !== null) video.currentTime = playerTime();
  });
  video.addEventListener("loadedmetadata", () => {
    if (at > 0 || zero > 0) video.currentTime = playerTime();
  });
  video.addEventListener("loadeddata", () => (still.hidden = true));
  for (const event of ["play", "pause", "ended", "ratechange"]) video.addEventListener(event, told.onState);
  video.addEventListener("play", () => {
    cancelAnimationFrame(ticking);
    ticking = requestAnimationFrame(tick);
  });
  video.addEventListener("error", () => {
    if (!hasVideo()) return;
    const message = video.error?.message || "the browser can't play this file";
    setMedia({ kind: "needs_proxy", url: null, zero_seconds: zero });
    told.onTrouble(message);
  });
  frame.addEventListener("click", () => toggle());
  still.addEventListener("error", () => still.classList.add("missing"));
  still.addEventListener("load", () => still.classList.remove("missing"));

  const toggle = () => (isPlaying() ? video.pause() : play());
  setMedia(media);
  return {
    element: frame,
    time: () => at,
    isPlaying,
    canPlay: hasVideo,
    seek,
    toggle,
    setMedia,
    step(frames) {
      video.pause();
      seek((Math.round(at / frameSeconds) + frames) * frameSeconds);
    },
    playUntil(seconds) {
      end = seconds;
      play();
    },
    setRate: (rate) => void (video.playbackRate = rate),
    close() {
      cancelAnimationFrame(ticking);
      clearTimeout(stillTimer);
      video.pause();
      video.removeAttribute("src");
      video.load(); // lets go of the connection, of which a browser has six
    },
  };
}
