// The earthquakes that the page knows, from both topics, in the order in which
// they came.

const KEPT_MAX = 20000;
/** More at once than this is the past being caught up with, not news. */
const NEWS_MAX = 40;

export class Quakes {
  /** Oldest first; each is the event with `strong` and `arrived` (ms). */
  all = [];
  /** The one with the largest magnitude. */
  largest = null;
  /** Another number after each change. */
  version = 0;

  #byId = new Map();

  /** Takes events of a topic; an event may come from both, in any order. */
  add(topic, events) {
    this.version++;
    const arrived = events.length > NEWS_MAX ? -Infinity : performance.now();
    for (const event of events) {
      const known = this.#byId.get(event.id);
      if (known) {
        known.strong ||= topic === "strong";
      } else {
        this.#keep({ ...event, strong: topic === "strong", arrived });
      }
    }
    if (this.all.length > KEPT_MAX * 1.1) this.#forget();
  }

  #keep(quake) {
    this.#byId.set(quake.id, quake);
    this.all.push(quake);
    if (hasMagnitude(quake) && !(this.largest?.mag >= quake.mag)) this.largest = quake;
  }

  #forget() {
    const gone = this.all.splice(0, this.all.length - KEPT_MAX);
    for (const quake of gone) this.#byId.delete(quake.id);
  }
}

/** Magnitudes can be null, and negative. */
export const hasMagnitude = (quake) => Number.isFinite(quake.mag);

/** A magnitude for people. */
export const magnitude = (quake) => (hasMagnitude(quake) ? quake.mag.toFixed(1).replace("-", "−") : "–");

const date = new Intl.DateTimeFormat("en-GB", {
  timeZone: "UTC", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit",
});

/** A point in time for people. */
export const when = (quake) => `${date.format(quake.time)} UTC`;

/** Depth for people; a negative one is a mountain's. */
export function depth(quake) {
  if (!Number.isFinite(quake.depth_km)) return "";
  return quake.depth_km < 0.5 ? "at the surface" : `${Math.round(quake.depth_km)} km deep`;
}
