// The page "Try your own picture". Everything happens in this browser; nothing is sent anywhere.
//
// state says what is asked, and the address holds it, so that a page can be linked. refresh() looks
// at the state, has the worker compute what is missing, and draws it.

import { picturesOf, squareOf, startCamera } from "./pictures.js";
import { buildPage, drawMap, drawPicture, fillClasses, fillLayers, showBars } from "./view.js";

const GRID = 14; // squares that can be covered, along each side
const IN_ADDRESS = ["network", "method", "beside", "layer", "class", "versus", "picture"];
const root = document.getElementById("play");
const base = new URL("./", import.meta.url);

const state = {
  network: "", method: "grad_cam", beside: "lrp", layer: "", class: "", versus: "", picture: "",
};
const now = {
  about: null, // about.json
  image: null, // the picture, as large as it came
  pixels: null, // the same as the network wants it: ImageData
  covered: new Set(), // of squares
  cursor: 0, // the square where the keyboard is
  version: 0, // counts the questions
  busy: false, // a question is being answered
  changed: false, // and it has changed meanwhile
  note: "", // what the reader should know of the question
  probabilities: null,
};
let view = null;
let worker = null;
const waiting = new Map(); // id of a question to the worker -> what to do with the answer

// ---- the worker

function ask(file, inputs) {
  const id = waiting.size ? Math.max(...waiting.keys()) + 1 : 1;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, network: state.network, file, inputs });
  });
}

function onAnswer({ data: { id, error, ...answer } }) {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(new Error(error));
  else resolve(answer);
}

// ---- what is asked

function network() {
  return now.about.networks.find((one) => one.name === state.network);
}

function methodOf(name) {
  return network().methods.find((one) => one.name === name) ?? network().methods[0];
}

function fileOf(method) {
  const files = method.files;
  return (files.find((one) => one.layer === state.layer) ?? files[files.length - 1]).file;
}

// x, normalised as the library does, with covered squares at the mean colour
function input() {
  const { size, mean, std } = network();
  const x = new Float32Array(3 * size * size);
  for (let place = 0; place < size * size; place++) {
    const row = Math.floor((Math.floor(place / size) * GRID) / size);
    const square = row * GRID + Math.floor(((place % size) * GRID) / size);
    if (now.covered.has(square)) continue; // 0 is the mean colour
    for (let c = 0; c < 3; c++) {
      const value = now.pixels.data[4 * place + c] / 255;
      x[c * size * size + place] = (value - mean[c]) / std[c];
    }
  }
  return { data: x, dims: [1, 3, size, size] };
}

function indexOf(name) {
  const index = network().classes.indexOf(name);
  return index < 0 ? null : index;
}

function question() {
  const K = network().classes.length;
  const w = new Float32Array(K);
  const top = now.probabilities.indexOf(Math.max(...now.probabilities));
  const asked = indexOf(state.class) ?? top;
  const rival = indexOf(state.versus);
  w[asked] += 1;
  if (rival !== null && rival !== asked) w[rival] -= 1;
  return { asked, rival: rival === asked ? null : rival, w: { data: w, dims: [1, K] } };
}

function softmax(S) {
  const largest = Math.max(...S);
  const e = Array.from(S, (s) => Math.exp(s - largest));
  const sum = e.reduce((a, b) => a + b);
  return e.map((v) => v / sum);
}

// ---- compute and draw

// While one question is answered, the next may change many times: only the last is answered then.
async function refresh() {
  if (!now.pixels) return;
  drawPicture(view, now, network().size, GRID);
  now.changed = true;
  if (now.busy) return;
  now.busy = true;
  while (now.changed) {
    now.changed = false;
    try {
      await answer(++now.version);
    } catch (error) {
      say(`This did not work: ${error.message}. Choose another network, or load the page again.`);
    }
  }
  now.busy = false;
  window.xcnnPlay.settled = now.version;
}

async function answer(version) {
  for (const { figure } of view.panels) figure.setAttribute("aria-busy", "true");
  const x = input();
  const scores = await ask("scores.onnx", { x });
  if (now.changed) return;
  now.probabilities = softmax(scores.output.data);
  const { asked, rival, w } = question();
  showBars(view, network(), now.probabilities, asked, choose);
  for (const panel of view.panels) {
    const method = methodOf(state[panel.key]);
    const { output, milliseconds } = await ask(fileOf(method), { x, w });
    if (now.changed) return;
    const title = titleOf(method, asked, rival);
    drawMap(panel, now, output, now.about.colours, title, milliseconds);
    window.xcnnPlay[panel.key] = { method: method.name, file: fileOf(method), map: output };
  }
  Object.assign(window.xcnnPlay, { x, w, scores: scores.output, version });
  say(now.note);
}

function titleOf(method, asked, rival) {
  const { classes } = network();
  const layer = method.files.length > 1 ? `, ${state.layer}` : "";
  const what = rival === null ? classes[asked] : `${classes[asked]}, and not ${classes[rival]}`;
  return `${method.label}${layer}: ${what}`;
}

function say(text) {
  view.said.textContent = text;
}

// ---- what the reader changes

function choose(changes) {
  const before = state.network;
  Object.assign(state, changes);
  now.note = "";
  if (state.network !== before) onNetwork();
  for (const name of [state.class, state.versus]) {
    if (name && indexOf(name) === null) now.note = `${state.network} knows no class "${name}".`;
  }
  fillLayers(view, state, methodOf(state.method), methodOf(state.beside));
  writeAddress();
  refresh();
}

function onNetwork() {
  const names = network().methods.map(({ name }) => name);
  for (const key of ["method", "beside"]) if (!names.includes(state[key])) state[key] = names[0];
  for (const key of ["class", "versus"]) if (indexOf(state[key]) === null) state[key] = "";
  fillClasses(view, network(), state);
  if (now.image) now.pixels = squareOf(now.image, network().size);
}

function writeAddress() {
  const said = new URLSearchParams();
  for (const key of IN_ADDRESS) if (state[key]) said.set(key, state[key]);
  history.replaceState(null, "", `#${said}`);
}

function readAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  for (const key of IN_ADDRESS) if (said.has(key)) state[key] = said.get(key);
  const names = now.about.networks.map((one) => one.name);
  if (!names.includes(state.network)) state.network = names[0];
}

function show(image, name) {
  now.image?.close?.();
  now.image = image;
  now.pixels = squareOf(image, network().size);
  now.covered.clear();
  choose({ picture: name });
}

async function showBuiltIn(name) {
  const known = now.about.pictures.find((one) => one.name === name) ?? now.about.pictures[0];
  const image = new Image();
  image.src = new URL(known.file, base);
  await image.decode();
  show(image, known.name);
}

async function showFile(file) {
  if (!file) return;
  const { image, problem } = await picturesOf(file);
  if (problem) say(problem);
  else show(image, "");
}

function cover(square, covers) {
  if (covers) now.covered.add(square);
  else now.covered.delete(square);
  refresh();
}

function coverAll(covers) {
  now.covered = new Set(covers ? Array(GRID * GRID).keys() : []);
  refresh();
}

// ---- the start

async function start() {
  const button = root.querySelector("button");
  button.disabled = true;
  button.textContent = "Loading ...";
  worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  worker.onmessage = onAnswer;
  worker.onerror = () => say("The part that computes could not be loaded: load the page again.");
  readAddress();
  view = buildPage(root, now, state, GRID, {
    choose, cover, coverAll, showBuiltIn, showFile,
    camera: () => startCamera(view, say, (image) => show(image, "")),
  });
  onNetwork();
  await showBuiltIn(state.picture);
}

async function offer() {
  const note = root.querySelector(".play-note");
  const answer = await fetch(new URL("about.json", base)).catch(() => null);
  now.about = answer?.ok ? await answer.json() : null;
  if (!now.about?.networks?.length || !now.about.runtime) {
    note.textContent = now.about?.missing ?? "The networks for this page were not built.";
    return;
  }
  const button = root.querySelector("button");
  button.hidden = false;
  button.onclick = start;
  note.textContent = `Loads ${now.about.megabytes} MB once.`;
}

window.xcnnPlay = {}; // what was computed last: for tests, and for the curious
offer();
