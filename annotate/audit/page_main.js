"use strict";
// Puts the page together: sections, table of contents, theme, keys.

function theme(next) {
  document.documentElement.dataset.theme = next;
  save("tagmoe-audit-theme", next);
}

function start() {
  theme(load("tagmoe-audit-theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  document.documentElement.style.setProperty("--figures", 4.8 + 0.64 * whole(REPORT.coverage.annotated).length + "em");
  document.title = "tagmoe audit: " + REPORT.corpus;
  document.getElementById("where").append(el("b", {}, visible(clip(REPORT.corpus, 80))), ` \u00b7 ${clip(REPORT.annotator, 60)} \u00b7 run ${REPORT.run_hash.slice(0, 12)}`);
  const passed = REPORT.gate.passed;
  const pill = document.getElementById("gate-pill");
  pill.className = "pill " + (passed ? "good" : "bad");
  pill.textContent = passed ? "gate passed" : "gate failed";
  const parts = [[summarySection(), "Summary"], [lookSection(), "Records"], [tagsSection(), "Tags"], [rulesSection(), "Rules"], [goldSection(), "Gold"], [driftSection(), "Drift"],
    [planSection(), "Review plan"], [duplicatesSection(), "Duplicates"], [picturesSection(), "Pictures"], [coverageSection(), "Coverage"], [gateSection(), "Gate"], [aboutSection(), "About"]].filter(([node]) => node);
  document.getElementById("main").replaceChildren(...parts.map(([node]) => node));
  document.getElementById("toc").append(...parts.map(([node, title]) => el("a", { href: "#" + node.id }, title)));
  document.querySelector("#look .filters").append(el("button", { type: "button", id: "export", onclick: exportGold }, "Export"));
  const dialog = document.getElementById("review");
  dialog.addEventListener("keydown", reviewKey);
  dialog.addEventListener("close", () => { drawCards(); const back = document.querySelector(`.card[data-row="${now.row}"]`) || now.opener; if (back) back.focus(); });
  document.getElementById("review-open").addEventListener("click", () => { const list = matching(); if (list.length) openReview(list[0].row); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "r" && !dialog.open && !(event.target instanceof HTMLInputElement) && !event.ctrlKey && !event.metaKey && !event.altKey) document.getElementById("review-open").click();
  });
  drawCards();
  keep();
  follow(parts.map(([node]) => node));
}

function mark(links, href) {
  for (const link of links) {
    const here = link.getAttribute("href") === href;
    link.classList.toggle("here", here);
    if (here) link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.clientWidth / 2 + link.offsetWidth / 2;
  }
}

function follow(sections) {
  if (!("IntersectionObserver" in window)) return;
  const links = [...document.querySelectorAll("#toc a")];
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) mark(links, "#" + entry.target.id);
  }, { rootMargin: "-20% 0px -70% 0px" });
  sections.forEach((node) => watch.observe(node));
}

start();
