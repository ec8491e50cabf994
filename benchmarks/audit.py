"""The audit: planted faults found, 100,000 records audited, every picture checked, the page opened in Chromium.

python benchmarks/audit.py [--only faults|scale|pictures|page|summary] [--corpora ../shared/corpora] [--records 100000]

Without --only everything is measured. With it, that part is measured and joined with what results/audit.json holds of the
others, each with the machine it ran on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from _audit_faults import measure as measure_faults
from _audit_scale import check_all, open_page, time_audits
from _machine import RESULTS, machine, save

Section = dict[str, Any]


def _faults(found: Section) -> Iterator[str]:
    yield from ("Planted faults in the real pairs of the sample corpora, AUROC of the queue [95 %]:", "")
    yield from ("| fault | queue | planted | AUROC |", "|---|---|---|---|")
    for name, row in found["planted"].items():
        yield f"| {name} | {row['queue']} | {row['planted']} | {_estimate(row)} |"
    yield ""
    yield (
        "The embedded annotator never trained on these pairs, but the few numbers that join its text with its pixels were "
        "fitted on their verified tags. Rows `unfitted` put those numbers back to their defaults, rows `consensus alone` "
        "leave the annotator out: both are free of these pairs. Intervals draw whole pairs."
    )
    yield from ("", "Real faults (0.5 is chance):", "", "| fault | queue | real ones | AUROC |", "|---|---|---|---|")
    for fault, queues in found["real"].items():
        for name, row in queues.items():
            yield f"| {fault} | {name} | {row['n']} | {_estimate(row)} |"
    yield ""
    yield (
        "The first are targets that reviewers marked as missing the request, the others mistakes of the embedded annotator on "
        "the same pairs; its stated probabilities, which these queues use, were calibrated on them."
    )

    yield from ("", "Tried for swapped pairs and left out: does the direction that words name show in the pixels?", "")
    yield from ("| quantity | pairs of | named | run that way [95 %] |", "|---|---|---|---|")
    for corpus, quantities in found["words"].items():
        for name, row in quantities.items():
            if row["n"]:
                yield f"| {name} | {corpus} | {row['n']} | {row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}] |"


def _estimate(row: Section) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _scale(found: Section) -> Iterator[str]:
    yield from (
        "Audits with the defaults: at most 20,000 second readings, at most 320 records with pictures, 1,000 pictures checked beside those.",
        "",
    )
    yield from (
        "| records | seconds, median (min to max) | peak MiB | of it imports | page MiB |",
        "|---|---|---|---|---|",
    )
    for row in found["sizes"]:
        t = row["seconds"]
        yield (
            f"| {row['records']:,} | {t['median']:.1f} ({t['min']:.1f} to {t['max']:.1f}, {t['runs']} runs) "
            f"| {row['peak_mib']} | {row['imports_mib']} | {row['page_mib']} |"
        )


def _pictures(found: Section) -> Iterator[str]:
    yield (
        f"`--check-pictures all`: {found['pictures']:,} pictures in {found['seconds']:.1f} s ({found['per_second']:,.0f} a second, "
        f"files in the page cache), {found['peak_mib'] - found['before_mib']} MiB on top of {found['before_mib']}; "
        f"{found['changed']} changed and {found['unreadable']} deleted ones were planted, {found['named']} are named."
    )


def _page(found: Section) -> Iterator[str]:
    t = found["seconds"]
    yield (
        f"The page over {found['records']:,} records ({found['cards']} cards, {found['pictured']} with pictures, "
        f"{found['page_mib']} MiB) in {found['browser']}, from a file: load event after {t['median']:.2f} s "
        f"(median of {t['runs']}, {t['min']:.2f} to {t['max']:.2f}), {len(found['problems'])} console errors or requests."
    )


WORDS: dict[str, Callable[[Section], Iterator[str]]] = {
    "faults": _faults, "scale": _scale, "pictures": _pictures, "page": _page,
}  # fmt: skip


def _summary(sections: dict[str, Section]) -> str:
    lines = ["### Audit"]
    for name, words in WORDS.items():
        if name in sections:
            lines += ["", *words(sections[name])]
    return "\n".join(lines)


def _known() -> dict[str, Section]:
    path = RESULTS / "audit.json"
    found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return {name: found[name] for name in WORDS if isinstance(found.get(name), dict) and "machine" in found[name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=Path(__file__).parents[2] / "shared" / "corpora")
    parser.add_argument("--only", choices=[*WORDS, "summary"], help="`summary` only writes the tables again")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3, help="audits of each size; the page is opened twice as often")
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    photos = sorted(
        p
        for name in ("comfy-template-pairs", "magicbrush-sample")
        for p in (asked.corpora / name / "images").glob("*.jpg")
    )
    parts: dict[str, Callable[[], Section]] = {
        "faults": lambda: measure_faults(asked.corpora, seeds=asked.seeds),
        "scale": lambda: {"sizes": time_audits(photos, records=asked.records, rounds=asked.rounds)},
        "pictures": lambda: check_all(photos, records=asked.records),
        "page": lambda: open_page(photos, records=asked.records, rounds=2 * asked.rounds),
    }
    sections = _known()
    for name, part in parts.items():
        if asked.only in (None, name):
            started = time.monotonic()
            found = part()
            took = round(time.monotonic() - started, 1)
            sections[name] = {**found, "took": took, "machine": machine("numpy", "pyarrow", "pillow", "tagmoe")}
    save("audit", dict(sections), summary=_summary(sections))


if __name__ == "__main__":
    main()
