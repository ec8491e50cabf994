"use strict";
// Keyboard review: arrows move, s/t/p choose a tier, digits toggle its tags, Enter verifies, m marks a mismatch.

const VERDICTS = new Map(Object.entries(load(STORE) || {}));
const TIERS = ["scope", "type", "preservation"];
const now = { row: null, tier: 0, tags: new Set(), disputed: new Set(), mismatch: null, list: [], opener: null };

function openReview(row) {
  const listed = matching();
  now.list = listed.some((card) => card.row === row) ? listed : CARDS;
  const dialog = document.getElementById("review");
  if (!dialog.open) { now.opener = document.activeElement; dialog.showModal(); }
  goTo(row);
}

function goTo(row) {
  const card = CARD.get(row);
  const verdict = VERDICTS.get(card.uid);
  Object.assign(now, { row, tags: new Set(verdict ? verdict.tags : card.tags), disputed: new Set(verdict ? verdict.disputed : []), mismatch: verdict ? verdict.mismatch : null });
  drawReview();
}

function move(by) {
  const at = now.list.findIndex((card) => card.row === now.row) + by;
  if (at < 0 || at >= now.list.length) return toast(at < 0 ? "This is the first record" : "This is the last record");
  goTo(now.list[at].row);
}

function keep() {
  const kept = {};
  for (const [uid, verdict] of VERDICTS) kept[uid] = verdict;
  save(STORE, kept);
  document.getElementById("export").textContent = `Export ${many(VERDICTS.size, "verdict")}`;
  document.getElementById("export").disabled = !VERDICTS.size;
}

function verify() {
  const card = CARD.get(now.row);
  VERDICTS.set(card.uid, { row: card.row, tags: [...now.tags].sort((a, b) => a - b), disputed: [...now.disputed].sort((a, b) => a - b), mismatch: now.mismatch });
  keep();
  const at = now.list.findIndex((item) => item.row === now.row);
  if (at + 1 < now.list.length) goTo(now.list[at + 1].row);
  else { drawReview(); toast("Verified; this was the last record"); }
}

function forget() {
  VERDICTS.delete(CARD.get(now.row).uid);
  keep();
  goTo(now.row);
}

function toggle(id) {
  const tag = TAG.get(id);
  if (tag.tier === "scope") {
    for (const other of REPORT.tags) if (other.tier === "scope") now.tags.delete(other.id);
    now.tags.add(id);
  } else if (!now.tags.delete(id)) now.tags.add(id);
  drawReview();
}

function dispute(id) {
  if (!now.disputed.delete(id)) now.disputed.add(id);
  drawReview();
}

function goldLine(uid, verdict) {
  const card = CARDS.find((item) => item.uid === uid);
  const names = (ids) => ids.map((id) => TAG.get(id).name);
  const disputed = new Set(verdict.disputed);
  return JSON.stringify({
    corpus: card ? card.corpus : REPORT.corpus, id: card ? card.id : "", uid, row: verdict.row, taxonomy: REPORT.taxonomy, run_hash: REPORT.run_hash,
    tags: names(verdict.tags.filter((id) => !disputed.has(id))), disputed: names(verdict.disputed), mismatch: verdict.mismatch,
    task: card ? card.task : "", instruction: card ? card.text : "", by: "review",
  });
}

function exportGold() {
  const lines = [...VERDICTS].filter(([uid]) => CARDS.some((card) => card.uid === uid)).map(([uid, verdict]) => goldLine(uid, verdict) + "\n");
  const link = el("a", { href: URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" })), download: "gold.jsonl" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  toast(`${many(lines.length, "verdict")} exported: tagmoe audit RUN --gold gold.jsonl`);
}

function tierBox(tier, place, card) {
  const tags = REPORT.tags.filter((tag) => tag.tier === tier);
  return el("div", { class: "tier" + (place === now.tier ? " active" : "") },
    el("h3", {}, el("kbd", {}, tier[0]), tier[0].toUpperCase() + tier.slice(1), tier === "scope" ? " (one)" : ""),
    el("div", { class: "toggles" }, tags.map((tag, i) => {
      const p = card.probs[tag.id];
      return el("button", { type: "button", class: tier + (now.disputed.has(tag.id) ? " disputed" : ""), "aria-pressed": String(now.tags.has(tag.id)), "data-tag": tag.id,
        title: now.disputed.has(tag.id) ? "disputed: left out of every score" : "Shift + digit marks it disputed",
        onclick: (event) => { now.tier = place; if (event.shiftKey) dispute(tag.id); else toggle(tag.id); } },
        el("kbd", {}, i + 1), " ", tag.name, p === null || p === undefined ? null : el("span", { class: "p" }, p.toFixed(2)), now.disputed.has(tag.id) ? " ?" : "");
    })));
}

function factList(card) {
  const rows = Object.entries(card.evidence || {}).map(([name, value]) => el("div", {}, el("span", {}, name.replaceAll("_", " ")), el("span", {}, value)));
  const images = card.images.map((image) => el("div", {}, el("span", {}, image.role), el("span", {}, `${image.width} \u00d7 ${image.height} ${image.format}`)));
  return el("details", {}, el("summary", {}, "Measured, files and provenance"), el("div", { class: "facts" }, images, rows),
    el("p", { class: "note" }, "uid ", el("code", {}, card.uid), ", corpus ", el("code", {}, visible(clip(card.corpus, 120))), card.split ? `, split ${card.split}` : ""));
}

function drawReview() {
  const card = CARD.get(now.row);
  const at = now.list.findIndex((item) => item.row === now.row);
  const verdict = VERDICTS.get(card.uid);
  const queues = Object.entries(card.queues).filter(([name, q]) => q[3] || name === view.queue);
  const button = (text, key, onclick, kind) => el("button", { type: "button", class: kind || "", onclick }, text, " ", el("kbd", {}, key));
  const dialog = document.getElementById("review");
  const sheet = el("div", { class: "sheet" }, shots(card, false),
    el("div", { class: "inner" },
      el("div", { class: "stack" },
        el("div", { class: "text", dir: "auto" }, visible(card.text)),
        card.length > card.text.length ? el("p", { class: "note" }, `${whole(card.length)} characters in all; the rest is left out here.`) : null,
        queues.map(([name, q]) => el("div", { class: "why" }, el("b", {}, `${QUEUE.get(name).title} (#${q[0]}): `), q[2])),
        card.rules.map((rule) => el("div", { class: "why" }, el("b", {}, "Broken rule: "), rule)),
        card.warnings.length ? el("p", { class: "note" }, "Warnings: ", visible(clip(card.warnings.join(", "), 600))) : null,
        card.reasons.length ? el("details", {}, el("summary", {}, "Why the annotator says so"), el("ul", { class: "reasons" }, card.reasons.map((reason) => el("li", {}, visible(reason))))) : null,
        factList(card)),
      el("div", { class: "tiers" }, TIERS.map((tier, place) => tierBox(tier, place, card)))));
  dialog.replaceChildren(
    el("div", { class: "bar-top" }, el("button", { type: "button", "aria-label": "Previous record", onclick: () => move(-1) }, "\u2190"), el("button", { type: "button", "aria-label": "Next record", onclick: () => move(1) }, "\u2192"),
      el("div", { class: "grow" }, `${at + 1} of ${whole(now.list.length)} \u00b7 row ${card.row} \u00b7 `, visible(clip(card.id, 120))),
      verdict ? el("span", { class: "pill " + (verdict.mismatch ? "bad" : "good") }, verdict.mismatch ? "mismatch" : "verified") : null,
      button("Close", "esc", () => dialog.close())),
    sheet,
    el("div", { class: "verdict" },
      button("Verify and go on", "enter", verify, "primary"),
      el("button", { type: "button", id: "mismatch", "aria-pressed": String(now.mismatch !== null), onclick: flipMismatch }, "Target misses the request ", el("kbd", {}, "m")),
      now.mismatch === null ? null : el("input", { class: "field", id: "mismatch-why", "aria-label": "What is wrong with the target", placeholder: "what is wrong (optional)", value: now.mismatch === "marked in review" ? "" : now.mismatch, oninput: (e) => { now.mismatch = e.target.value.trim() || "marked in review"; } }),
      verdict ? button("Forget", "x", forget) : null));
  const first = dialog.querySelector(".verdict .primary");
  if (!dialog.contains(document.activeElement) || document.activeElement === dialog) first.focus();
}

function flipMismatch() {
  now.mismatch = now.mismatch === null ? "marked in review" : null;
  drawReview();
}

function reviewKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target instanceof HTMLInputElement) { if (event.key === "Enter") { event.preventDefault(); verify(); } return; }
  const digit = /^Digit([1-9])$/.exec(event.code);
  const key = event.key.toLowerCase();
  if (digit) {
    const tag = REPORT.tags.filter((item) => item.tier === TIERS[now.tier])[Number(digit[1]) - 1];
    if (tag) { if (event.shiftKey) dispute(tag.id); else toggle(tag.id); }
  } else if (key === "arrowleft" || key === "k") move(-1);
  else if (key === "arrowright" || key === "j") move(1);
  else if (key === "s" || key === "t" || key === "p") { now.tier = ["s", "t", "p"].indexOf(key); drawReview(); }
  else if (key === "enter") verify();
  else if (key === "m") flipMismatch();
  else if (key === "x") { if (VERDICTS.has(CARD.get(now.row).uid)) forget(); }
  else return;
  event.preventDefault();
}
