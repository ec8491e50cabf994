"use strict";
// Everything from records reaches the page through text nodes only, with what cannot be seen made visible:
// there is no innerHTML in this file or the next ones.
const DATA = JSON.parse(document.getElementById("data").textContent);
const REPORT = DATA.report;
const TAG = new Map(REPORT.tags.map((tag) => [tag.id, tag]));
const CARDS = DATA.cards;
const CARD = new Map(CARDS.map((card) => [card.row, card]));

function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : visible(String(child)));
  }
  return node;
}

function el(name, props, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "width") node.style.width = value;
    else if (key === "value") node.value = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  return add(node, children);
}

function svg(name, props, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(props || {})) node.setAttribute(key, value);
  return add(node, children);
}

// Control characters, bidirectional overrides and invisible characters are shown by their code point.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

function visible(text) {
  const out = document.createDocumentFragment();
  let from = 0;
  for (const match of text.matchAll(UNSEEN)) {
    out.append(text.slice(from, match.index));
    const code = match[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
    out.append(el("span", { class: "ctl", title: "U+" + code }, code));
    from = match.index + match[0].length;
  }
  out.append(text.slice(from));
  return out;
}

function clip(text, length) {
  return text.length > length ? text.slice(0, length) + "\u2026" : text;
}

const whole = (n) => n.toLocaleString("en-US");
const percent = (x, digits = 1) => (x === null || x === undefined ? "\u2013" : (100 * x).toFixed(digits) + " %");
const share = (n, of) => (of ? percent(n / of, n && n / of < 0.001 ? 2 : 1) : "\u2013");
const many = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
const figure = (x, digits = 2) => (x === null || x === undefined ? "\u2013" : x.toFixed(digits));
const between = (e) => (e.value === null ? "\u2013" : `${figure(e.value)} (${figure(e.low)}\u2013${figure(e.high)})`);

function panel(title, ...children) {
  return el("div", { class: "panel" }, title && el("h3", {}, title), ...children);
}

function section(id, title, lead, ...children) {
  return el("section", { id, "aria-label": title }, el("h2", {}, title), lead && el("p", { class: "lead" }, lead), ...children);
}

function table(heads, rows) {
  const cell = (name, value, numeric) => el(name, { class: numeric ? "num" : "wrap" }, value);
  const numeric = heads.map((head) => head.startsWith("#"));
  return el("div", { class: "table" }, el("table", {},
    heads.some(Boolean) && el("thead", {}, el("tr", {}, heads.map((head, i) => cell("th", head.replace(/^#/, ""), numeric[i])))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((value, i) => cell("td", value, numeric[i])))))));
}

let toastTimer = 0;
function toast(message) {
  const node = document.getElementById("toast");
  node.textContent = message;
  node.className = "on";
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { node.className = ""; }, 2200);
}

// A browser may forbid storage for local files; the review then lives as long as the page.
const STORE = "tagmoe-audit-" + REPORT.run_hash;
function load(key) {
  try { return JSON.parse(localStorage.getItem(key)); } catch { return null; }
}
function save(key, value) {
  try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* kept in memory */ }
}

const PICTURES = new Map();
function pictures(row) {
  if (!PICTURES.has(row)) {
    const node = document.getElementById("p" + row);
    PICTURES.set(row, node ? JSON.parse(node.textContent) : null);
  }
  return PICTURES.get(row);
}
