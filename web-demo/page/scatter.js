// Magnitude over time. What has no magnitude sits on a line of its own, hollow.

import { Plot } from "./plot.js";
import { hasMagnitude } from "./quakes.js";

const HOUR_MS = 3_600_000;
const TICKS_HOURS = [1, 3, 6, 12, 24, 48, 168, 720];
const MARGIN = { top: 34, right: 16, bottom: 26, left: 38 };
const STRONG = 4.5;

export class Scatter {
  constructor(canvas, onResize) {
    this.plot = new Plot(canvas, onResize);
  }

  /** Returns whether something still moves. */
  draw(quakes, theme, now) {
    const { plot } = this;
    plot.clear();
    const scale = this.#scale(quakes);
    this.#axes(scale, theme);
    let moving = false;
    for (const quake of quakes) {
      const y = hasMagnitude(quake) ? scale.y(quake.mag) : scale.y(scale.low);
      moving = plot.dot(scale.x(quake.time), y, quake.strong ? 4 : 2, quake.strong ? 18 : 8, quake, theme, now) || moving;
    }
    return moving;
  }

  #scale(quakes) {
    let [first, last, low, high] = [Infinity, -Infinity, 0, 6];
    for (const quake of quakes) {
      first = Math.min(first, quake.time);
      last = Math.max(last, quake.time);
      if (hasMagnitude(quake)) {
        low = Math.min(low, Math.floor(quake.mag));
        high = Math.max(high, Math.ceil(quake.mag));
      }
    }
    if (first > last) [first, last] = [Date.now() - HOUR_MS, Date.now()];
    if (last - first < HOUR_MS) first = last - HOUR_MS;
    const width = this.plot.width - MARGIN.left - MARGIN.right;
    const height = this.plot.height - MARGIN.top - MARGIN.bottom;
    return {
      first, last, low, high,
      x: (time) => MARGIN.left + ((time - first) / (last - first)) * width,
      y: (magnitude) => MARGIN.top + ((high - magnitude) / (high - low)) * height,
    };
  }

  #axes(scale, theme) {
    const { context, width, height } = this.plot;
    context.font = `11px ${theme.font}`;
    context.fillStyle = theme.quiet;
    context.strokeStyle = theme.line;
    context.lineWidth = 1;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const every = scale.high - scale.low > 8 || height < 200 ? 2 : 1;
    for (let magnitude = scale.low; magnitude <= scale.high; magnitude += every) {
      this.#line(MARGIN.left, scale.y(magnitude), width - MARGIN.right, scale.y(magnitude));
      context.fillText(String(magnitude).replace("-", "−"), MARGIN.left - 8, scale.y(magnitude));
    }
    context.strokeStyle = theme.strong;
    context.globalAlpha = 0.6;
    context.setLineDash([4, 4]);
    this.#line(MARGIN.left, scale.y(STRONG), width - MARGIN.right, scale.y(STRONG));
    context.setLineDash([]);
    context.globalAlpha = 1;
    context.textAlign = "center";
    for (const [time, label] of ticks(scale, width)) {
      context.fillText(label, scale.x(time), height - MARGIN.bottom / 2);
    }
  }

  #line(x1, y1, x2, y2) {
    const { context } = this.plot;
    context.beginPath();
    context.moveTo(x1, Math.round(y1) + 0.5);
    context.lineTo(x2, Math.round(y2) + 0.5);
    context.stroke();
  }
}

/** Full hours or days (UTC), as many as there is room for. */
function ticks({ first, last }, width) {
  const room = Math.max(2, Math.floor(width / 95));
  const hours = TICKS_HOURS.find((hours) => (last - first) / (hours * HOUR_MS) <= room) ?? 8760;
  const step = hours * HOUR_MS;
  const part = hours < 24 ? { hour: "2-digit", minute: "2-digit", day: "numeric", month: "short" } : { day: "numeric", month: "short" };
  const label = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", ...part });
  const found = [];
  for (let time = Math.ceil(first / step) * step; time <= last; time += step) found.push([time, label.format(time)]);
  return found;
}
