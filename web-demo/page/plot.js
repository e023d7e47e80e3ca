// What the map and the scatter have in common: a sharp canvas, the theme's
// colours, the pulse of what is new, and finding the quake under the pointer.

import { hasMagnitude } from "./quakes.js";

const PULSE_MS = 1600;
const REACH_PIXELS = 14;

export class Plot {
  /** Where the quakes are drawn: [x, y, quake]. */
  points = [];

  constructor(canvas, onResize) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    new ResizeObserver(() => {
      this.#fit();
      onResize();
    }).observe(canvas);
    this.#fit();
  }

  #fit() {
    const ratio = devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  /** A circle, with a ring that grows by `reach` while it is new; returns whether it still moves. */
  dot(x, y, radius, reach, quake, theme, now) {
    const { context } = this;
    const colour = quake.strong ? theme.strong : theme.all;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.globalAlpha = quake.strong ? 0.62 : 0.5;
    context.fillStyle = colour;
    context.strokeStyle = colour;
    if (hasMagnitude(quake)) context.fill();
    context.globalAlpha = 0.9;
    context.lineWidth = 0.75;
    context.stroke();
    this.points.push([x, y, quake]);
    // A frame may have begun before the quake came.
    const age = Math.max(0, now - quake.arrived) / PULSE_MS;
    if (age >= 1 || theme.still) return false;
    context.beginPath();
    context.arc(x, y, radius + 2 + age * reach, 0, 2 * Math.PI);
    context.globalAlpha = (1 - age) ** 2;
    context.lineWidth = quake.strong ? 2 : 1;
    context.stroke();
    return true;
  }

  /** Begins a new picture. */
  clear() {
    this.points = [];
    this.context.globalAlpha = 1;
    this.context.clearRect(0, 0, this.width, this.height);
  }

  /** The quake nearest to a point, if one is near. */
  near(x, y) {
    let best = null;
    let least = REACH_PIXELS ** 2;
    for (const [px, py, quake] of this.points) {
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance <= least) [best, least] = [quake, distance];
    }
    return best;
  }
}

/** The colours as the style sheet has them now. */
export function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  return {
    all: colour("--all"),
    strong: colour("--strong"),
    land: colour("--land"),
    line: colour("--line"),
    quiet: colour("--quiet"),
    font: getComputedStyle(document.body).fontFamily,
    still: matchMedia("(prefers-reduced-motion: reduce)").matches,
  };
}
