// The latest earthquakes, by the time at which they happened, newest first.

import { depth, magnitude, when } from "./quakes.js";

const SHOWN_MAX = 200;

export class List {
  #element;
  #only = "quakes";
  /** Quake → the element that shows it. */
  #items = new Map();
  /** What is drawn: a version of the quakes; null when all has to be drawn anew. */
  #drawn = null;

  constructor(element) {
    this.#element = element;
  }

  /** Shows those of one topic from now on. */
  show(topic) {
    this.#only = topic;
    this.#drawn = null;
  }

  draw(quakes) {
    if (this.#drawn === quakes.version) return;
    this.#drawn = quakes.version;
    const latest = newest(quakes.all, this.#only === "strong" ? (quake) => quake.strong : () => true);
    const items = new Map();
    let place = this.#element.firstElementChild;
    for (const quake of latest) {
      const element = this.#items.get(quake) ?? item(quake);
      items.set(quake, element);
      element.classList.toggle("strong", quake.strong);
      if (element === place) place = place.nextElementSibling;
      else this.#element.insertBefore(element, place);
    }
    for (const [quake, element] of this.#items) if (!items.has(quake)) element.remove();
    this.#items = items;
  }
}

/** The newest of those that are wanted. They came partition by partition, not in order of time. */
function newest(quakes, wanted) {
  return quakes.filter(wanted).sort((a, b) => b.time - a.time).slice(0, SHOWN_MAX);
}

function item(quake) {
  const element = document.createElement("li");
  element.append(
    text("b", "", magnitude(quake)),
    text("span", "place", quake.place ?? "somewhere"),
    text("span", "when", when(quake)),
    text("span", "where", depth(quake)),
  );
  return element;
}

function text(tag, className, content) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = content;
  return element;
}
