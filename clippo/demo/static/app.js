// The page: a search on each key press, a search by a dropped picture, and a map of both modalities.

const TOP = 24;
const ANNOUNCE_AFTER_MS = 700; // of quiet, so that a screen reader is not interrupted by each key
const MAX_LANGUAGES = 8;
const PATCH_PX = 48; // side of a patch of the reading on the canvas

const $ = (selector) => document.querySelector(selector);
const [text, file, language, languages] = ["#text", "#file", "#language", "#languages"].map($);
const languageNames = new Intl.DisplayNames(navigator.languages, { type: "language" });
const similarity = new Intl.NumberFormat(navigator.languages, { minimumFractionDigits: 2, maximumFractionDigits: 2 });

let about = { languages: {}, max_bytes: Infinity };
let picture = null; // the file that is looked for, if it is not a text
let current = null; // the AbortController of the request whose answer is awaited
let announcement = 0;

function nameOf(code) {
  try {
    return code === "und" ? "unknown language" : languageNames.of(code);
  } catch { // it is no code of BCP 47
    return code;
  }
}

async function ask(path, parameters, options) {
  const response = await fetch(`${path}?${new URLSearchParams(parameters)}`, options);
  if (response.ok) return response.json();
  const said = await response.json().catch(() => ({ error: response.statusText }));
  throw new Error(said.error);
}

// Look for the text or the picture. An answer that a later key press has made stale is dropped.
async function search() {
  current?.abort();
  clearTimeout(announcement);
  const controller = current = new AbortController();
  const query = text.value;
  if (picture === null && !query.trim()) return show({ pictures: [], reading: null, cut: false });
  $("#pictures").setAttribute("aria-busy", "true");
  try {
    const parameters = { top: TOP, language: language.value };
    const answer = picture === null
      ? await ask("/api/text", { ...parameters, text: query }, { signal: controller.signal })
      : await ask("/api/picture", { ...parameters, languages: chosen(languages) },
        { signal: controller.signal, method: "POST", body: picture });
    if (controller === current) await show(answer);
  } catch (error) {
    if (controller === current) await show({ pictures: [], reading: null, cut: false }, error.message);
  }
}

async function show(answer, error = "") {
  const { pictures, reading, cut, words } = answer;
  $("#error").textContent = error;
  $("#hint").hidden = pictures.length > 0 || error !== "";
  showReading(reading, cut);
  showWords(words);
  const list = $("#pictures");
  while (list.children.length > pictures.length) list.lastChild.remove();
  while (list.children.length < pictures.length) list.append(newItem());
  pictures.forEach((found, i) => fill(list.children[i], found));
  const asked = current;
  await Promise.allSettled([...list.querySelectorAll("img")].map((img) => img.decode()));
  if (asked !== current) return; // a later search has begun
  list.setAttribute("aria-busy", "false");
  announcement = setTimeout(() => { $("#status").textContent = summary(pictures, error); }, ANNOUNCE_AFTER_MS);
}

function summary(pictures, error) {
  if (error || !pictures.length) return "";
  const best = pictures.slice(0, 3).map((found) => `${found.name} ${similarity.format(found.score)}`);
  return `${pictures.length} pictures; most similar: ${best.join(", ")}`;
}

function newItem() {
  const item = document.createElement("li");
  item.append(document.createElement("img"), document.createElement("bdi"), document.createElement("small"));
  return item;
}

function fill(item, found) {
  const [img, name, score] = item.children;
  if (img.getAttribute("src") !== found.thumbnail) img.src = found.thumbnail;
  img.alt = ""; // its name follows
  name.textContent = found.name;
  name.lang = found.language ?? "";
  score.textContent = similarity.format(found.score);
}

// Draw the pixels that the model reads, and outline the patches that it looks at.
function showReading(reading, cut) {
  const section = $("#reading");
  section.hidden = reading === null;
  if (reading === null) return;
  const { size, patch_size: patch, channels, patches } = reading;
  const bytes = Uint8Array.from(atob(reading.pixels), (character) => character.charCodeAt(0));
  const pixels = new ImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = bytes[channels * i + (channels === 3 ? c : 0)];
    pixels.data[4 * i + 3] = 255;
  }
  const canvas = section.querySelector("canvas");
  const across = size / patch;
  canvas.width = canvas.height = across * PATCH_PX;
  const pen = canvas.getContext("2d");
  pen.putImageData(pixels, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.globalCompositeOperation = "copy";
  pen.drawImage(canvas, 0, 0, size, size, 0, 0, canvas.width, canvas.height);
  pen.globalCompositeOperation = "source-over";
  pen.strokeStyle = "#ff9a3c";
  pen.lineWidth = 2;
  for (const position of patches) {
    const x = (position % across) * PATCH_PX, y = Math.floor(position / across) * PATCH_PX;
    pen.strokeRect(x + 1, y + 1, PATCH_PX - 2, PATCH_PX - 2);
  }
  const count = `${patches.length} ${patches.length === 1 ? "patch" : "patches"}`;
  canvas.setAttribute("aria-label", `What you gave, drawn in ${size} by ${size} pixels; the model looks at ${count}`);
  section.querySelector("p").textContent = cut ? `${count}; the rest of the text does not fit` : count;
}

function showWords(words) {
  $("#words").hidden = words === undefined || languages.options.length === 0;
  const list = $("#words dl");
  list.replaceChildren();
  for (const [code, found] of Object.entries(words ?? {})) {
    const term = document.createElement("dt"), described = document.createElement("dd");
    term.textContent = nameOf(code);
    for (const word of found) {
      const pair = document.createElement("span"), name = document.createElement("bdi");
      name.lang = code;
      name.textContent = word.text;
      pair.append(name, ` ${similarity.format(word.score)}`);
      described.append(pair, " ");
    }
    list.append(term, described);
  }
}

function chosen(select) {
  return [...select.selectedOptions].slice(0, MAX_LANGUAGES).map((option) => option.value);
}

function take(newPicture) {
  if (newPicture.size > about.max_bytes) {
    current?.abort();
    current = null;
    show({ pictures: [], reading: null, cut: false }, `The file is too large: at most ${about.max_bytes >> 20} MB`);
    return;
  }
  picture = newPicture;
  text.value = "";
  search();
}

text.addEventListener("input", () => { picture = null; file.value = ""; search(); });
text.form.addEventListener("submit", (event) => event.preventDefault());
file.addEventListener("change", () => { if (file.files.length) take(file.files[0]); });
language.addEventListener("change", () => { search(); if (map.open) loadMap(); });
languages.addEventListener("change", search);
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}

// The map

const map = $("#map"), canvas = $("#map canvas"), spot = $("#map-point");
let points = []; // of the answer, and where they lie on the canvas, in px from its left and top
let pointed = -1;

async function loadMap() {
  $("#map-text").textContent = "The model reads the names.";
  try {
    const code = language.value || firstLanguage();
    const answer = await ask("/api/map", code ? { language: code } : {});
    const gap = similarity.format(answer.gap), share = Math.round(100 * answer.explained);
    $("#map-text").textContent = `${answer.pictures.length} pictures (orange) and ${answer.names.length} names `
      + `(blue${code ? `, ${nameOf(code)}` : ""}) in the plane of their first two principal components, which `
      + `hold ${share} % of the variance. Between the mean picture and the mean name lies a gap of ${gap}.`;
    points = [...answer.pictures, ...answer.names];
    pointed = -1;
    drawMap();
  } catch (error) {
    $("#map-text").textContent = error.message;
  }
}

function drawMap() {
  const scale = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight, margin = 12;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d"), colours = getComputedStyle(document.documentElement);
  pen.scale(scale, scale);
  const range = (values) => [Math.min(...values), Math.max(...values)];
  const [left, right] = range(points.map((point) => point.x)), [bottom, top] = range(points.map((point) => point.y));
  points.forEach((point, i) => {
    point.left = margin + (width - 2 * margin) * (point.x - left) / (right - left || 1);
    point.top = margin + (height - 2 * margin) * (top - point.y) / (top - bottom || 1);
    pen.fillStyle = colours.getPropertyValue(point.thumbnail ? "--picture" : "--name");
    pen.globalAlpha = i === pointed ? 1 : 0.6;
    pen.beginPath();
    pen.arc(point.left, point.top, i === pointed ? 8 : 3, 0, 2 * Math.PI);
    pen.fill();
  });
}

function pointAt(index) {
  if (index === pointed || index < 0) return;
  pointed = index;
  const { name, language: code, thumbnail } = points[index];
  const img = spot.querySelector("img"), shown = spot.querySelector("bdi");
  img.hidden = !thumbnail;
  if (thumbnail) img.src = thumbnail;
  shown.textContent = name;
  shown.lang = code ?? "";
  drawMap();
}

// The nearest point to a place that passes a test, -1 if none does.
function nearest(x, y, passes = () => true) {
  let best = -1, least = Infinity;
  points.forEach((point, i) => {
    const distance = (point.left - x) ** 2 + (point.top - y) ** 2;
    if (distance < least && passes(point, i)) [best, least] = [i, distance];
  });
  return best;
}

// Of the points on the side that an arrow points to, within 45 degrees.
const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

canvas.addEventListener("keydown", (event) => {
  const arrow = ARROWS[event.key];
  if (!arrow || !points.length) return;
  event.preventDefault();
  if (pointed < 0) return pointAt(nearest(canvas.clientWidth / 2, canvas.clientHeight / 2));
  const from = points[pointed];
  pointAt(nearest(from.left, from.top, ({ left, top }) => {
    const [x, y] = [left - from.left, top - from.top];
    const along = x * arrow[0] + y * arrow[1];
    return along > 0 && along >= Math.abs(x * arrow[1] + y * arrow[0]);
  }));
});
canvas.addEventListener("pointermove", (event) => pointAt(nearest(event.offsetX, event.offsetY)));
map.addEventListener("toggle", () => { if (map.open && !points.length) loadMap(); });
addEventListener("resize", drawMap);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);

// The start

function firstLanguage() {
  const codes = navigator.languages.flatMap((code) => [code, code.split("-")[0]]);
  return [...codes, "en", ...Object.keys(about.languages)].find((code) => code in about.languages);
}

async function start() {
  about = await ask("/api/about", {});
  text.maxLength = about.max_text;
  $("#about").textContent += ` ${about.pictures.toLocaleString()} pictures, read by ${about.model}.`;
  const codes = Object.keys(about.languages).map((code) => [nameOf(code), code]);
  codes.sort(([a], [b]) => a.localeCompare(b));
  const own = navigator.languages.flatMap((code) => [code, code.split("-")[0]]).concat("en");
  for (const [name, code] of codes) {
    language.append(new Option(name, code));
    languages.append(new Option(name, code, false, own.includes(code)));
  }
  if (text.value) search(); // typed before, or kept by the browser
}

start().catch((error) => { $("#error").textContent = error.message; });
