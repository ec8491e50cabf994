"use strict";
// The sections of the page, each a function of the report that returns a node, or null when there is nothing to say.

function record(example) {
  return CARD.has(example.row)
    ? el("button", { type: "button", class: "link", title: "Open " + clip(example.id, 200), onclick: () => openReview(example.row) }, visible(clip(example.id, 60)))
    : el("span", { class: "plain", title: "row " + example.row }, visible(clip(example.id, 60)));
}
const some = (list, n = 4) => list.slice(0, n).map((example) => [record(example), " "]);

const ranged = (e, axis) => el("span", { class: "fixed" }, interval(e, { width: 110, ...axis }), between(e));

function tile(n, k, s, kind) {
  return el("div", { class: "tile " + (kind || "") }, el("div", { class: "n" }, n), el("div", { class: "k" }, k), s && el("div", { class: "s" }, s));
}

// Rows of equal length: 9 tiles stand as 5 and 4, not as 7 and 2.
function tiles(...found) {
  const shown = found.filter(Boolean);
  const box = el("div", { class: "tiles" }, shown);
  box.style.setProperty("--tiles", Math.ceil(shown.length / Math.ceil(shown.length / 7)));
  return box;
}

function summarySection() {
  const c = REPORT.coverage;
  const errors = REPORT.violations.filter((v) => v.severity === "error").reduce((n, v) => n + v.count, 0);
  const flagged = REPORT.queues.filter((q) => q.flagged && q.name !== "uncertain").sort((a, b) => b.flagged - a.flagged);
  const g = REPORT.gold;
  const pictures = REPORT.pictures;
  const first = flagged.length
    ? "Look first at " + flagged.slice(0, 3).map((q) => `${whole(q.flagged)} \u00d7 ${q.title.toLowerCase()}`).join(", ") + "."
    : "No queue flagged a record.";
  const lead = `${whole(c.annotated)} of ${whole(c.rows)} records carry tags by ${REPORT.annotator}. ${first}`;
  return section("summary", "How far can these tags be trusted?", lead,
    REPORT.notes.map((note) => el("p", { class: "alert" }, visible(note))),
    tiles(
      tile(whole(c.annotated), "annotated", share(c.annotated, c.rows) + " of the corpus"),
      tile(whole(c.rejected), "rejected", c.rejects.length ? c.rejects[0].reason.replaceAll("_", " ") + " leads" : "nothing failed", c.rejected ? "" : "good"),
      tile(whole(errors), "broken rules", "of taxonomy " + REPORT.taxonomy, errors ? "bad" : "good"),
      tile(whole(REPORT.distinct_combinations), "distinct tag sets", whole(REPORT.tags.filter((t) => t.count).length) + " of " + REPORT.tags.length + " tags in use"),
      pictures && pictures.changed + pictures.unreadable
        ? tile(whole(pictures.changed + pictures.unreadable), "changed pictures", `of ${whole(pictures.checked)} checked`, "bad") : null,
      tile(whole(c.with_evidence), "measured pairs", share(c.with_evidence, c.annotated) + " have both pictures"),
      g ? tile(figure(g.macro_f1.value), "macro F1 on gold", `${figure(g.macro_f1.low)}\u2013${figure(g.macro_f1.high)}, ${whole(g.records)} records`)
        : tile("\u2013", "F1 on gold", "review records below to find out"),
      g && g.ece.value !== null ? tile(figure(g.ece.value, 3), "calibration error", "0 is perfect") : null,
      REPORT.drift ? tile(figure(REPORT.drift.mean_alpha), "alpha against " + clip(REPORT.drift.source, 24), whole(REPORT.drift.changed) + " tag sets differ") : null));
}

function tagsSection() {
  const total = REPORT.coverage.annotated;
  const tiers = ["scope", "type", "preservation"].map((tier) => {
    const tags = REPORT.tags.filter((tag) => tag.tier === tier).sort((a, b) => b.count - a.count);
    return panel(tier[0].toUpperCase() + tier.slice(1), tags.map((tag) =>
      bar(tag.name, tag.count, total, share(tag.count, total), tier, () => showTag(tag.id))));
  });
  const sets = REPORT.combinations.slice(0, 12).map((set) => [
    el("div", { class: "tags" }, set.tag_ids.length ? set.tag_ids.map(tagChip) : "no tag"), whole(set.count), share(set.count, total)]);
  return section("tags", "Tags", "How often each tag was given. Press a bar to see its records.",
    el("div", { class: "grid" }, tiers),
    el("div", { class: "grid" },
      panel("Which tags go together", el("p", { class: "note" }, "Share of a row's records that also carry the column's tag."), heatmap(REPORT.tags, REPORT.pairs, showPair)),
      panel(`Most frequent of ${whole(REPORT.distinct_combinations)} tag sets`, table(["tag set", "#records", "#share"], sets))),
    REPORT.coverage.with_probabilities ? el("div", { class: "grid" },
      panel("Certainty of each record's least certain decision", histogram(REPORT.confidence, { label: "Histogram of certainty" }),
        REPORT.confidence.missing ? el("p", { class: "note" }, `${whole(REPORT.confidence.missing)} records have no probabilities.`) : null),
      panel("Stated against given", el("p", { class: "note" }, "Mean probability of a tag beside the share of records that got it; far apart means one-sided probabilities."),
        table(["tag", "#mean p", "#given"], REPORT.tags.filter((t) => t.mean_probability !== null && (t.count || t.mean_probability > 0.005))
          .sort((a, b) => Math.abs(b.mean_probability - b.share) - Math.abs(a.mean_probability - a.share)).slice(0, 8)
          .map((t) => [t.name, figure(t.mean_probability), figure(t.share)])))) : null);
}

function rulesSection() {
  const broken = REPORT.violations.filter((v) => v.count);
  return section("rules", "Rules and warnings", "Rules of the taxonomy that a tag set breaks, and what the annotator itself found odd.",
    el("div", { class: "grid wide" },
      panel("Broken rules", broken.length
        ? table(["rule", "#records", "for example"], broken.map((v) => [
          [el("span", { class: "pill " + (v.severity === "error" ? "bad" : "warn") }, v.severity), " ", v.text], whole(v.count), some(v.examples, 3)]))
        : el("p", { class: "note" }, `None of the ${REPORT.violations.length} rules is broken.`)),
      panel("Warnings", REPORT.warnings.length
        ? table(["warning", "#records", "for example"], REPORT.warnings.map((w) => [
          [el("b", {}, visible(clip(w.name, 80).replaceAll("_", " "))), w.meaning && el("div", { class: "note" }, w.meaning)], whole(w.count), some(w.examples, 3)]))
        : el("p", { class: "note" }, "No record carries a warning."))));
}

function goldSection() {
  const g = REPORT.gold;
  if (!g) return null;
  const rows = g.tags.filter((t) => t.true_positive + t.false_positive + t.false_negative).map((t) => [
    el("span", { class: "tag " + t.tier }, t.name), whole(t.true_positive + t.false_negative),
    ranged(t.precision), ranged(t.recall), ranged(t.f1)]);
  const found = Object.entries(g.queues).map(([name, e]) => [REPORT.queues.find((q) => q.name === name)?.title || name, ranged(e)]);
  return section("gold", "Against verified records", `${whole(g.records)} records of ${clip(g.source, 60)}; tags that reviewers disputed are left out. Intervals hold the true figure ${percent(REPORT.config.confidence_level, 0)} of the time.`,
    tiles(
      tile(figure(g.scope_accuracy.value), "scope accuracy", between(g.scope_accuracy)), tile(figure(g.exact_match.value), "whole tag set right", between(g.exact_match)),
      tile(figure(g.micro_f1.value), "micro F1", between(g.micro_f1)), tile(figure(g.macro_f1.value), "macro F1", between(g.macro_f1)),
      g.unmatched ? tile(whole(g.unmatched), "gold records not in this run") : null),
    panel("Per tag", table(["tag", "#in gold", "precision", "recall", "F1"], rows)),
    el("div", { class: "grid" },
      g.reliability.length ? panel("Reliability", el("p", { class: "note" }, `Expected calibration error ${between(g.ece)}, Brier score ${figure(g.brier, 3)}. Dots on the diagonal mean honest probabilities.`), reliabilityPlot(g.reliability)) : null,
      found.length ? panel("Do the queues find real mismatches?", el("p", { class: "note" }, `AUROC against the ${whole(g.mismatches)} records whose target was marked as not doing what is asked; 0.5 is chance.`), table(["queue", "AUROC"], found)) : null));
}

function planSection() {
  const p = REPORT.sampling;
  const left = p.distinct ? `${many(p.distinct, "distinct record")} ${p.distinct === 1 ? "remains" : "remain"} to be looked at; one record serves all its tags. They are listed, in order, in ${p.list_file}.` : "nothing remains to be looked at.";
  const rows = p.strata.filter((s) => s.population).map((s) => [s.name, whole(s.population), whole(s.verified), whole(s.needed), whole(s.remaining)]);
  return section("plan", "What to review", `To know the share of right answers to \u00b1${percent(p.half_width, 0)} per tag, ${left}`,
    panel(null, table(["tag", "#records", "#verified", "#to see in all", "#remaining"], rows)));
}

function duplicatesSection() {
  const d = REPORT.duplicates;
  const rows = (list) => list.slice(0, 8).map((g) => [whole(g.size), some(g.examples), g.splits.join(", ")]);
  const block = (title, note, count, list) => panel(title, el("p", { class: "note" }, note), count ? table(["#records", "for example", "splits"], rows(list)) : el("p", { class: "note" }, "None."));
  return section("duplicates", "Duplicates and leakage", `Pictures count as the same when their perceptual hashes differ in at most ${d.bits} of 64 bits.`,
    el("div", { class: "grid" },
      block(`${whole(d.repeated_records)} repeated records`, "Same instruction and same pictures as an earlier record.", d.repeated.length, d.repeated),
      block(`${whole(d.same_target_groups)} targets with several sources`, "One result for different inputs: often a wrong pairing.", d.same_target.length, d.same_target),
      block(`${whole(d.shared_source_groups)} shared sources`, "Usual in edit data; such records belong into one split.", d.shared_source.length, d.shared_source),
      Object.keys(d.splits).length ? block(`${whole(d.leak_groups)} pictures in several splits`, "Leakage: what is trained on is also tested on.", d.leaks.length, d.leaks)
        : panel("Leakage", el("p", { class: "note" }, "The corpus states no splits."))));
}

function picturesSection() {
  const p = REPORT.pictures;
  if (!p || !p.recorded) return null;
  const bad = p.changed + p.unreadable;
  const lead = !p.checked ? `None of ${whole(p.recorded)} pictures could be read again: give the corpus's place with --corpus.`
    : `${whole(p.checked)} of ${whole(p.recorded)} pictures were read again and compared with what was annotated, byte for byte (sha256). ` +
      (bad ? `${whole(p.changed)} changed, ${whole(p.unreadable)} cannot be read.` : "All are the same.");
  const complete = p.checked === p.recorded;
  const told = p.share.value === null || complete ? null
    : el("p", { class: "note" }, `Of all pictures, ${percent(p.share.value, 1)} [${percent(p.share.low, 1)}, ${percent(p.share.high, 1)}] are not the annotated ones, reckoned from ${whole(p.share.n)} drawn at random. To look at every one: `, el("code", {}, "tagmoe audit RUN --check-pictures all"));
  const rows = p.faults.slice(0, 40).map((f) => [record(f), f.role, el("b", {}, f.reason.replaceAll("_", " ")), el("code", {}, visible(clip(f.member ? f.uri + " : " + f.member : f.uri, 120)))]);
  return section("pictures", "Pictures", lead, told,
    bad ? panel(`Not what was annotated: ${whole(bad)}`, table(["record", "role", "why", "file"], rows),
      el("p", { class: "note" }, rows.length < bad ? `The first ${whole(rows.length)}; every one is in ` : "All are also in ", el("a", { href: encodeURI(p.list_file) }, p.list_file), ".")) : null);
}

function coverageSection() {
  const c = REPORT.coverage;
  const counts = (title, map) => panel(title, Object.entries(map).sort((a, b) => b[1] - a[1]).slice(0, 20).map(([name, n]) => bar(clip(name, 60), n, c.annotated, share(n, c.annotated))));
  return section("coverage", "Coverage and rejects", `${whole(c.rows)} rows: ${whole(c.annotated)} annotated, ${whole(c.rejected)} rejected. ${whole(c.without_pictures)} annotated records have no picture at all.`,
    el("div", { class: "grid" }, counts("Task", c.by_task), Object.keys(c.by_corpus).length > 1 ? counts("Corpus", c.by_corpus) : null,
      panel("Rejects", c.rejects.length
        ? table(["reason", "#records", "for example"], c.rejects.map((r) => [
          [el("b", {}, r.reason.replaceAll("_", " ")), el("div", { class: "note" }, r.stage, ": ", visible(clip(r.detail, 160)))], whole(r.count),
          r.examples.slice(0, 3).map((e) => [el("span", { class: "plain", title: "row " + e.row }, visible(clip(e.id, 40))), " "])]))
        : el("p", { class: "note" }, "No record was rejected."))));
}

function driftSection() {
  const d = REPORT.drift;
  if (!d) return null;
  return section("drift", "Against another run", `${whole(d.matched)} records are in this run and in ${clip(d.source, 60)} (${d.annotator}); ${whole(d.changed)} of them carry other tags now.`,
    el("div", { class: "grid wide" },
      panel("Agreement per tag", el("p", { class: "note" }, "Krippendorff's alpha, nominal: 1 is agreement, 0 is chance."),
        table(["tag", "alpha", "#gained", "#lost", "for example"], d.tags.filter((t) => t.alpha.value !== null && (t.gained + t.lost || t.alpha.n)).map((t) => [
          el("span", { class: "tag " + t.tier }, t.name), ranged(t.alpha, { low: -0.2 }), whole(t.gained), whole(t.lost), some(t.examples, 2)]))),
      panel("Changes of scope", d.scope_flips.length
        ? table(["before", "now", "#records", "for example"], d.scope_flips.slice(0, 15).map((f) => [f.before, f.after, whole(f.count), some(f.examples, 2)]))
        : el("p", { class: "note" }, "No scope changed."))));
}

const held = (x) => (Number.isInteger(x) ? whole(x) : figure(x, 3));

function gateSection() {
  const g = REPORT.gate;
  return section("gate", "Gate", g.passed ? "Every threshold is met." : `${whole(g.failures.length)} of ${whole(g.checks.length)} thresholds are not met.`,
    panel(g.source === "default" ? "Built-in thresholds" : g.source, g.checks.length
      ? table(["check", "", "#value", "#threshold", "#records"], g.checks.map((c) => [
        c.name, el("span", { class: "pill " + (c.passed ? "good" : "bad") }, c.passed ? "passed" : "failed"), held(c.value), held(c.threshold), whole(c.n)]))
      : el("p", { class: "note" }, "No threshold is set.")));
}

function aboutSection() {
  const facts = [["run", REPORT.run], ["run hash", REPORT.run_hash], ["corpus", REPORT.corpus_uri], ["fingerprint", REPORT.fingerprint], ["annotator", REPORT.annotator],
    ["taxonomy", REPORT.taxonomy], ["tagmoe", REPORT.tagmoe_version], ["report format", REPORT.format_version]];
  const lists = REPORT.lists.map((file) => [el("a", { href: encodeURI(file) }, file), " "]);
  return section("about", "About this report", null, panel(null, table(["", ""], facts.map(([k, v]) => [k, el("code", {}, visible(clip(v, 300)))])),
    lists.length ? el("p", { class: "note" }, "Longer lists lie beside this page: ", lists) : null));
}
