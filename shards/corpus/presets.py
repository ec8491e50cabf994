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
        title="InstructPix2Pix (timbrooks/instructpix2pix-clip-filtered, fusing/instructpix2pix-1000-samples)",
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
    "ultraedit": Preset(
        title="UltraEdit (BleachNick/UltraEdit, UltraEdit_500k, UltraEdit_Region_Based_100k)",
        columns={"instruction": "edit_prompt", "source": "source_image", "target": "edited_image"},
        task="edit",
    ),
    "omniedit": Preset(
        title="OmniEdit (TIGER-Lab/OmniEdit-Filtered-1.2M); the first of each record's instructions",
        columns={
            "id": "omni_edit_id",
            "instruction": "edited_prompt_list.0",
            "source": "src_img",
            "target": "edited_img",
        },
        task="edit",
    ),
    "imgedit": Preset(
        title="ImgEdit, single turn (sysuyy/ImgEdit, Parquet/*.parquet beside the unpacked tars)",
        columns={"instruction": "prompt", "source": "input_images", "target": "output_images"},
        task="edit",
    ),
    "pico-banana": Preset(
        title="Pico-Banana-400K, single turn (sft.jsonl after the origin's script has added local_input_image)",
        columns={
            "id": "output_image",
            "instruction": "text",
            "source": "local_input_image",
            "target": "output_image",
        },
        task="edit",
    ),
    "subjects200k": Preset(
        title="Subjects200K of OminiControl (Yuanshi/Subjects200K, pairs of 512 px in one picture)",
        columns={
            "instruction": "description.description_1",
            "references": "image@8:8:512:512",
            "target": "image@528:8:512:512",
        },
        task="customization",
    ),
    "dreambench++": Preset(
        title="DreamBench++ (the folder with images/ and captions/)",
        columns={"id": "__key__", "instruction": "prompt", "references": "image"},
        task="customization",
    ),
}
