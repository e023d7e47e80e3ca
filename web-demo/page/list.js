// The latest earthquakes, newest first. New ones are put in front; nothing is
// drawn twice.

import { depth, magnitude, when } from "./quakes.js";

const SHOWN_MAX = 200;

export class List {
  #element;
  #only = "quakes";
  #shown = new Set();

  constructor(element) {
    this.#element = element;
  }

  /** Shows those of one topic from now on. */
  show(topic) {
    this.#only = topic;
    this.#shown.clear();
    this.#element.replaceChildren();
  }

  draw(quakes) {
    const fresh = [];
    for (let i = quakes.length - 1; i >= 0 && fresh.length < SHOWN_MAX; i--) {
      const quake = quakes[i];
      if (this.#only === "strong" && !quake.strong) continue;
      if (!this.#shown.has(quake.id)) fresh.push(quake);
    }
    if (fresh.length > 0) {
      for (const quake of fresh) this.#shown.add(quake.id);
      this.#element.prepend(...fresh.map(item));
      while (this.#element.childElementCount > SHOWN_MAX) this.#element.lastElementChild.remove();
    }
    for (const element of this.#element.children) element.classList.toggle("strong", element.quake.strong);
  }
}

function item(quake) {
  const element = document.createElement("li");
  element.quake = quake;
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
