// The world as dots, the Pacific in the middle, where most earthquakes are.

import { landDots } from "./land.js";
import { Plot } from "./plot.js";
import { hasMagnitude } from "./quakes.js";

const LEFT_DEGREES = -28;
const [SOUTH, NORTH] = [-60, 80];
const MARGIN = { top: 30, right: 14, bottom: 12, left: 14 };

export class WorldMap {
  #land = landDots();

  constructor(canvas, onResize) {
    this.plot = new Plot(canvas, onResize);
  }

  /** Returns whether something still moves. */
  draw(quakes, theme, now) {
    const { plot } = this;
    plot.clear();
    const { x, y, unit } = this.#projection();
    plot.context.fillStyle = theme.land;
    for (const [lon, lat] of this.#land) disc(plot.context, x(lon), y(lat), unit * 0.85);
    let moving = false;
    for (const quake of quakes) {
      if (!Number.isFinite(quake.lon) || !Number.isFinite(quake.lat)) continue;
      moving = plot.dot(x(quake.lon), y(quake.lat), radius(quake), quake.strong ? 42 : 16, quake, theme, now) || moving;
    }
    return moving;
  }

  /** Equirectangular, as large as fits, degrees to pixels. */
  #projection() {
    const width = this.plot.width - MARGIN.left - MARGIN.right;
    const height = this.plot.height - MARGIN.top - MARGIN.bottom;
    const unit = Math.min(width / 360, height / (NORTH - SOUTH));
    const left = MARGIN.left + (width - unit * 360) / 2;
    const top = MARGIN.top + (height - unit * (NORTH - SOUTH)) / 2;
    return {
      unit,
      x: (lon) => left + ((((lon - LEFT_DEGREES) % 360) + 360) % 360) * unit,
      y: (lat) => top + (NORTH - Math.max(SOUTH, Math.min(NORTH, lat))) * unit,
    };
  }
}

function disc(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

/** Grows with the magnitude as one feels it, not as the energy does. */
function radius(quake) {
  return hasMagnitude(quake) ? Math.max(1.6, 0.9 * 1.52 ** quake.mag) : 2;
}
