"use strict";
// The browsable records: chips choose a queue, the filters narrow it, cards are drawn as they are needed.

const STEP = 24;
const view = { queue: "", tag: null, also: null, task: "", text: "", open: false, shown: STEP };
const QUEUE = new Map(REPORT.queues.map((queue) => [queue.name, queue]));

function tagChip(id) {
  const tag = TAG.get(id);
  return el("span", { class: "tag " + (tag ? tag.tier : "") }, tag ? tag.name : "tag " + id);
}

function inQueue(card, queue) {
  return queue === "" || (queue === "random" ? card.random : queue in card.queues);
}

function matching() {
  const needle = view.text.trim().toLocaleLowerCase();
  const found = CARDS.filter((card) =>
    inQueue(card, view.queue) && (view.tag === null || card.tags.includes(view.tag)) && (view.also === null || card.tags.includes(view.also)) &&
    (!view.task || card.task === view.task) && (!view.open || !VERDICTS.has(card.uid)) &&
    (!needle || card.text.toLocaleLowerCase().includes(needle) || card.id.toLocaleLowerCase().includes(needle)));
  if (QUEUE.has(view.queue)) found.sort((a, b) => a.queues[view.queue][0] - b.queues[view.queue][0]);
  return found;
}

const eager = "IntersectionObserver" in window ? new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    eager.unobserve(entry.target);
    fill(entry.target);
  }
}, { rootMargin: "600px" }) : null;

function fill(shots) {
  const found = pictures(Number(shots.dataset.row)) || {};
  for (const box of shots.querySelectorAll("figure")) {
    const got = found[box.dataset.role];
    if (got && got.startsWith("data:image/")) {
      box.prepend(el("img", { src: got, alt: box.dataset.role, decoding: "async" }));
    } else {
      box.prepend(el("div", { class: "absent" }, got ? visible(clip(got, 160)) : "no preview"));
    }
  }
}

function shots(card, lazily) {
  if (!card.images.length) return null;
  const found = card.pictured ? (lazily ? null : pictures(card.row)) : {};
  const roles = card.images.map((image) => image.role).filter((role) => card.images.length <= 4 || role === "source" || role === "target" || role < "ref2");
  if (card.masked) roles.push("mask");
  const name = { source: "before", target: "after", mask: "change" };
  const box = el("div", { class: "shots", "data-row": card.row }, roles.map((role) =>
    el("figure", { "data-role": role }, el("figcaption", {}, name[role] || role))));
  if (lazily && eager && found === null) eager.observe(box);
  else fill(box);
  return box;
}

function why(card) {
  if (QUEUE.has(view.queue)) return el("div", { class: "why" }, el("b", {}, `#${card.queues[view.queue][0]}`), " ", card.queues[view.queue][2]);
  if (card.rules.length) return el("div", { class: "why" }, el("b", {}, "Broken rule: "), card.rules[0]);
  const best = Object.entries(card.queues).filter(([, q]) => q[3]).sort((a, b) => a[1][0] - b[1][0])[0];
  return best ? el("div", { class: "why" }, el("b", {}, QUEUE.get(best[0]).title, ": "), best[1][2]) : null;
}

function drawCard(card) {
  const verdict = VERDICTS.get(card.uid);
  const tags = verdict ? verdict.tags : card.tags;
  return el("article", { class: "card" + (verdict ? (verdict.mismatch ? " mismatch" : " done") : ""), tabindex: 0, "data-row": card.row, onclick: () => openReview(card.row),
    onkeydown: (event) => { if (event.key === "Enter") { event.preventDefault(); event.stopPropagation(); openReview(card.row); } } },
    shots(card, true),
    el("div", { class: "words" }, why(card), el("div", { class: "text", dir: "auto" }, visible(clip(card.text, 400))),
      el("div", { class: "tags" }, tags.map(tagChip)),
      el("div", { class: "foot" }, el("span", { title: clip(card.id, 300) }, visible(clip(card.id, 120))), el("span", {}, "row " + card.row), verdict ? el("span", {}, verdict.mismatch ? "mismatch" : "verified") : null)));
}

function drawCards() {
  const found = matching();
  const list = document.getElementById("cards");
  list.replaceChildren(...found.slice(0, view.shown).map(drawCard));
  if (!found.length) list.append(el("p", { class: "empty" }, "No record in this page fits. The lists beside it hold more."));
  const more = document.getElementById("more");
  more.hidden = found.length <= view.shown;
  more.textContent = `Show ${Math.min(STEP, found.length - view.shown)} more of ${whole(found.length)}`;
  for (const chip of document.querySelectorAll("#queues button")) chip.setAttribute("aria-pressed", String(chip.dataset.queue === view.queue));
  document.getElementById("meaning").replaceChildren(...meaning());
  document.getElementById("by-tag").value = view.tag === null ? "" : String(view.tag);
  const pair = document.getElementById("pair");
  pair.hidden = view.also === null;
  pair.textContent = view.also === null ? "" : "and " + TAG.get(view.also).name + " \u00d7";
}

function meaning() {
  const queue = QUEUE.get(view.queue);
  if (!queue) return [view.queue === "random" ? "Drawn at random: what the usual record looks like." : `${whole(CARDS.length)} of ${whole(REPORT.coverage.annotated)} records are in this page: the first of every queue, examples, and a random sample.`];
  const file = `lists/${queue.name}.csv`;
  return [`${queue.meaning} ${whole(queue.flagged)} of ${whole(queue.scored)} scored records are flagged; the first ${whole(queue.entries.length)} are in `, el("a", { href: file }, file), "."];
}

function show(change) {
  Object.assign(view, { shown: STEP }, change);
  drawCards();
}
function jump(change) {
  show({ queue: "", tag: null, also: null, ...change });
  document.getElementById("look").scrollIntoView();
}
const showTag = (id) => jump({ tag: id });
const showPair = (id, also) => jump({ tag: id, also: id === also ? null : also });

function lookSection() {
  const count = (name) => CARDS.filter((card) => inQueue(card, name)).length;
  const chip = (name, title, n) => el("button", { type: "button", class: n ? "" : "none", "data-queue": name, onclick: () => show({ queue: name }) }, title, el("small", {}, whole(n)));
  const chips = [chip("", "All", CARDS.length), ...REPORT.queues.filter((q) => q.entries.length).map((q) => chip(q.name, q.title, q.flagged))];
  if (count("random")) chips.push(chip("random", "Random sample", count("random")));
  const options = (first, list) => [el("option", { value: "" }, first), ...list.map(([v, t]) => el("option", { value: v }, t))];
  return section("look", "Look at these first", null, el("div", { class: "chips", id: "queues" }, chips), el("p", { class: "lead", id: "meaning" }),
    el("div", { class: "filters" },
      el("input", { type: "search", id: "by-text", placeholder: "Search instruction or id", "aria-label": "Search instruction or id", oninput: (e) => show({ text: e.target.value }) }),
      el("select", { id: "by-tag", "aria-label": "Tag", onchange: (e) => show({ tag: e.target.value === "" ? null : Number(e.target.value), also: null }) }, options("any tag", REPORT.tags.map((t) => [t.id, t.name]))),
      el("button", { type: "button", id: "pair", hidden: true, onclick: () => show({ also: null }) }),
      el("select", { id: "by-task", "aria-label": "Task", onchange: (e) => show({ task: e.target.value }) }, options("any task", Object.keys(REPORT.coverage.by_task).map((t) => [t, t]))),
      el("label", {}, el("input", { type: "checkbox", id: "only-open", onchange: (e) => show({ open: e.target.checked }) }), " not reviewed yet")),
    el("div", { class: "cards", id: "cards" }), el("button", { type: "button", class: "more", id: "more", onclick: () => show({ shown: view.shown + STEP }) }));
}
