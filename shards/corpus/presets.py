"""Column mappings of well-known corpora, as data; docs/corpora.md says where each was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...schema import Task


@dataclass(frozen=True, slots=True)
class Preset:
    """One corpus's columns by our field names, in the notation of `CorpusSpec.columns`."""

    title: str
    columns: Mapping[str, str]
    task: Task


PRESETS: dict[str, Preset] = {
    "instructpix2pix": Preset(
        title="InstructPix2Pix (timbrooks/instructpix2pix-clip-filtered and its samples)",
        columns={
            "instruction": "edit_prompt",
            "source": "original_image|input_image",
            "target": "edited_image",
        },
        task="edit",
    ),
    "magicbrush": Preset(
        title="MagicBrush (osunlp/MagicBrush)",
        columns={"instruction": "instruction", "source": "source_img", "target": "target_img"},
        task="edit",
    ),
    "omniedit": Preset(
        title="OmniEdit (TIGER-Lab/OmniEdit-Filtered-1.2M)",
        columns={
            "id": "omni_edit_id",
            "instruction": "edited_prompt_list.0",
            "source": "src_img",
            "target": "edited_img",
        },
        task="edit",
    ),
}
