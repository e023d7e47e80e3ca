// The page: two topics of the broker it came from, drawn as they come.
//
// `window.__eddy.proof()` is for tests: the connection's state, how often it
// was lost, and each partition's { first, next, records, missing, repeated }.

import init, { EddyClient } from "./eddy.js";
import { Feed } from "./feed.js";
import { List } from "./list.js";
import { WorldMap } from "./map.js";
import { readTheme } from "./plot.js";
import { depth, magnitude, Quakes, when } from "./quakes.js";
import { Scatter } from "./scatter.js";

const RATE_WINDOW_MS = 5000;

const element = (id) => document.getElementById(id);
const show = (id, content) => {
  const text = String(content);
  if (element(id).textContent !== text) element(id).textContent = text;
};

await init().catch((error) => {
  show("connection", "not loaded");
  throw error;
});
const client = new EddyClient();
const quakes = new Quakes();
const list = new List(element("list"));
const map = new WorldMap(element("map"), drawNow);
const scatter = new Scatter(element("scatter"), drawNow);
const feeds = {};
const arrivals = [];
let theme = readTheme();
let connection = { state: "connecting" };
let losses = 0;
let asked = false;

/** Draws once, before the next picture of the screen, however often it is asked. */
function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame((now) => {
    asked = false;
    draw(now);
  });
}

function draw(now) {
  const moving = [map.draw(quakes.all, theme, now), scatter.draw(quakes.all, theme, now)];
  list.draw(quakes);
  drawCounters(now);
  drawPartitions();
  drawNotice();
  if (moving.includes(true)) redraw();
}

/** A canvas that changed its size is empty: waiting for the next picture would flicker. */
function drawNow() {
  draw(performance.now());
}

function drawCounters(now) {
  show("count-quakes", feeds.quakes.total("records").toLocaleString("en"));
  show("count-strong", feeds.strong.total("records").toLocaleString("en"));
  while (arrivals.length > 0 && arrivals[0][0] < now - RATE_WINDOW_MS) arrivals.shift();
  const recent = arrivals.reduce((sum, [, count]) => sum + count, 0);
  show("rate", (recent / (RATE_WINDOW_MS / 1000)).toFixed(recent > 0 && recent < 50 ? 1 : 0));
  if (quakes.largest) {
    show("largest", magnitude(quakes.largest));
    show("largest-place", quakes.largest.place ?? "somewhere");
  }
  const missing = feeds.quakes.total("missing") + feeds.strong.total("missing");
  const repeated = feeds.quakes.total("repeated") + feeds.strong.total("repeated");
  show("missing", missing);
  show("repeated", repeated);
  element("proof").dataset.good = String(missing + repeated === 0);
  if (losses > 0) show("survived", `went on after ${losses} lost connection${losses > 1 ? "s" : ""}`);
}

function drawPartitions() {
  const rows = Object.values(feeds).flatMap((feed) =>
    [...feed.partitions].sort(([a], [b]) => a - b).map(([number, { records, next, missing, repeated }]) => [feed.topic, number, records, next, missing, repeated]),
  );
  const body = element("partitions");
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, i) => {
    const line = body.rows[i] ?? body.insertRow();
    row.forEach((content, j) => {
      const cell = line.cells[j] ?? line.insertCell();
      const text = typeof content === "number" ? content.toLocaleString("en") : content;
      if (cell.textContent !== text) cell.textContent = text;
    });
  });
}

/** What to do where a topic is not there. */
function drawNotice() {
  const trouble = Object.values(feeds).find((feed) => feed.trouble);
  const notice = element("notice");
  notice.hidden = !trouble;
  if (!trouble) return;
  const missing = trouble.trouble.code === "unknown_topic";
  const text = missing
    ? `There is no topic “${trouble.topic}” yet. The demo makes it: cargo xtask demo. By hand: ${COMMANDS[trouble.topic]}`
    : `Topic “${trouble.topic}”: ${trouble.trouble.message}`;
  if (notice.textContent !== text) notice.textContent = text;
}

const COMMANDS = {
  quakes: "eddy topic create quakes; eddy pub quakes data/earthquakes.ndjson",
  strong: "eddy topic create strong; eddy plugin push target/plugins/json-filter.wasm; eddy deploy strong --plugin json-filter --from quakes --to strong --param 'where=mag >= 4.5'",
};

function drawConnection(state) {
  if (connection.state === "connected" && state.state === "reconnecting") losses++;
  connection = state;
  const pill = element("connection");
  pill.dataset.state = state.state;
  pill.title = state.reason ?? "";
  pill.textContent =
    state.state === "reconnecting" && state.retryInMs > 0 ? `reconnecting in ${(state.retryInMs / 1000).toFixed(1)} s` : state.state;
  redraw();
}

/** Follows the system until somebody chooses; a browser may forbid to remember that. */
function followTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch {}
  const apply = () => {
    document.documentElement.dataset.theme = chosen ?? (system.matches ? "dark" : "light");
    theme = readTheme();
    redraw();
  };
  system.addEventListener("change", apply);
  element("theme").addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    apply();
    try {
      localStorage.setItem("theme", chosen);
    } catch {}
  });
  apply();
}

function followPointer(plot) {
  const tip = element("tip");
  plot.canvas.addEventListener("pointermove", (event) => {
    const quake = plot.near(event.offsetX, event.offsetY);
    tip.hidden = !quake;
    if (!quake) return;
    tip.textContent = `${magnitude(quake)} · ${quake.place ?? ""} · ${when(quake)} · ${depth(quake)}`;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - 300)}px`;
    tip.style.top = `${event.clientY + 14}px`;
  });
  plot.canvas.addEventListener("pointerleave", () => (tip.hidden = true));
}

function followChoice() {
  for (const topic of ["quakes", "strong"]) {
    element(`list-${topic}`).addEventListener("click", () => {
      for (const other of ["quakes", "strong"]) element(`list-${other}`).setAttribute("aria-pressed", String(other === topic));
      list.show(topic);
      redraw();
    });
  }
}

function receive(topic, events) {
  quakes.add(topic, events);
  if (topic === "quakes") arrivals.push([performance.now(), events.length]);
  redraw();
}

function proof() {
  const partitions = (feed) => [...feed.partitions].map(([partition, counts]) => ({ partition, ...counts }));
  return { state: connection.state, losses, quakes: partitions(feeds.quakes), strong: partitions(feeds.strong) };
}

client.onState(drawConnection);
for (const topic of ["quakes", "strong"]) feeds[topic] = new Feed(client, topic, receive, redraw);
followTheme();
followChoice();
followPointer(map.plot);
followPointer(scatter.plot);
// The rate falls although nothing comes.
setInterval(redraw, 1000);
window.__eddy = { proof };
