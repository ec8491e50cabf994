"""Does the direction that an instruction's words name show in what was measured? Asked before such words join a queue.

"Make it night" should darken, "remove" should take edges away, "zoom out" should make things smaller, a sketch should lose
colour. Counted on pairs as they are; a word that says nothing is right as often as wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from tagmoe.annotate.audit.statistics import wilson
from tagmoe.schema import Evidence

Measured = Callable[[Evidence], float]

DIRECTIONS: dict[str, tuple[Measured, str, str]] = {
    "brightness": (
        lambda e: e.luma_shift,
        r"\b(bright\w*|daylight|daytime|sunny|sunlit|sunlight|noon|snow\w*|winter|fog\w*|mist\w*)\b|白天|明亮|提亮|雪|雾",
        r"\b(night\w*|midnight|dark\w*|dim|dimly|moonlit|moonlight|dusk|evening|noir|silhouette)\b|夜|黑暗|变暗|昏暗",
    ),
    "saturation": (
        lambda e: e.saturation_shift,
        r"\b(colou?ri[sz]e\w*|colou?rful|vivid\w*|vibrant\w*|neon|rainbow)\b|上色|彩色|鲜艳",
        r"\b(gr[ae]yscale|black[- ]and[- ]white|monochrom\w*|sketch|pencil|charcoal|fog\w*|snow\w*|faded|vintage)\b|黑白|素描|线稿",
    ),
    "detail": (
        lambda e: e.detail_ratio,
        r"\b(sharp\w*|deblur\w*|restor\w*|upscal\w*|enhanc\w*|high[- ]resolution|photo-?realis\w*|realis\w*)\b|清晰|修复|高清|真实|写实",
        r"\b(blur\w*|bokeh|out of focus|smooth\w*|cartoon\w*|anime|ghibli|watercolou?r|vector|minimal\w*)\b|模糊|卡通|动漫|水彩",
    ),
    "edges": (
        lambda e: e.edge_energy_change,
        r"\b(add\w*|insert\w*|put\w*|place[sd]?|placing|wear\w*|fill\w*|crowd\w*|decorat\w*)\b|添加|加上|戴|增加|放",
        r"\b(remov\w*|delet\w*|eras\w*|clean\w*|clear\w*|without|get rid|eliminat\w*|empty|bald)\b|去掉|移除|删除|去除|消除",
    ),
    "plain area": (
        lambda e: e.target_flat - e.source_flat,
        r"\b((plain|solid|white|black|transparent|studio|blank) (\w+ )?background|cut ?out|isolat\w*|icon|sketch|extract\w*)\b|纯色|抠图",
        r"\b(photo-?realis\w*|realis\w*|fill\w*|crowd\w*)\b|真实|写实",
    ),
    "size": (
        lambda e: math.log(max(e.scale, 0.1)),
        r"\b(zoom(ed|ing)? in|close[- ]?up|crop\w*|closer)\b|特写|放大|拉近",
        r"\b(zoom(ed|ing)? out|outpaint\w*|expand\w*|extend\w*|uncrop\w*|wid(er|en)|further away)\b|扩图|扩展|拉远",
    ),
}  # fmt: skip


def count(pairs: Sequence[tuple[str, Evidence]]) -> dict[str, dict[str, object]]:
    """For each quantity: pairs whose words name a direction, how many run that way, and the share with its interval."""
    found: dict[str, dict[str, object]] = {}
    for name, (measured, up, down) in DIRECTIONS.items():
        signs = [bool(re.search(up, t.casefold())) - bool(re.search(down, t.casefold())) for t, _ in pairs]
        ways = [sign * measured(evidence) for sign, (_, evidence) in zip(signs, pairs, strict=True) if sign]
        found[name] = wilson(sum(way > 0 for way in ways), len(ways)).model_dump()
    return found
