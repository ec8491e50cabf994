"""The encoders against diffusers' own pipeline, with tiny random weights in the real classes."""

import pytest
import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageEditPipeline, QwenImagePipeline
from PIL import Image
from support_precompute import TEXT_DIM, tiny_pipeline, tiny_text_model, tiny_tokenizer
from support_train import encode_jpeg, toy_config, toy_sample
from tagmoe.schema import ConfigError, DataError
from tagmoe.shards.tensors import fingerprint_hash
from tagmoe.train.precompute.encoder import make_encoder
from tagmoe.train.precompute.encoders import Settings, fingerprint, load_encoders
from tagmoe.train.precompute.pictures import PictureEncoder
from tagmoe.train.precompute.text import TextEncoder
from transformers import Qwen2_5_VLForConditionalGeneration

SETTINGS = Settings(area=64 * 64, max_text_tokens=12, max_references=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def encoders(folder):
    return load_encoders(folder, settings=SETTINGS, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def pipeline(folder):
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder")
    vae = AutoencoderKLQwenImage.from_pretrained(folder / "vae")
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=model,
        tokenizer=tiny_tokenizer(),
        transformer=None,
    )


def test_text_equals_the_pipelines_with_unequal_prompts_in_one_batch(encoders, pipeline):
    prompts = ["describe the image", " ", "a much longer instruction, of the size and color of the text: quantity"]
    pipeline.tokenizer_max_length = SETTINGS.max_text_tokens
    wanted, mask = pipeline._get_qwen_prompt_embeds(prompts)
    found = encoders.text.encode(prompts)
    assert [len(text) for text in found] == mask.sum(1).tolist() == encoders.text.lengths(prompts)
    assert max(map(len, found)) == SETTINGS.max_text_tokens
    for row, text in enumerate(found):
        torch.testing.assert_close(text, wanted[row, : len(text)], rtol=0, atol=1e-6)
    torch.testing.assert_close(encoders.null_text(), found[1], rtol=0, atol=1e-6)


def test_the_head_that_is_dropped_has_34_tokens_or_the_tokenizer_is_refused(encoders):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["Describe the image"])
    with pytest.raises(ConfigError, match=r"into 32 tokens, expected 34"):
        TextEncoder(tokenizer, tiny_text_model(400), max_tokens=8)
    assert encoders.text.dim == TEXT_DIM


def test_latents_equal_the_edit_pipelines(pipeline):
    """diffusers' editing pipeline encodes its condition image the same way."""
    generator = torch.Generator().manual_seed(0)
    pixels = (torch.rand(2, 48, 32, 3, generator=generator) * 255).byte()
    pictures = [Image.fromarray(p.numpy()) for p in pixels]
    edit = QwenImageEditPipeline.__new__(QwenImageEditPipeline)
    edit.vae, edit.latent_channels = pipeline.vae, 16
    frames = (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).unsqueeze(2)
    with torch.no_grad():
        wanted = edit._encode_vae_image(frames, generator=None)
    found = PictureEncoder(pipeline.vae).encode(pictures)
    assert found.shape == (2, 16, 6, 4)
    torch.testing.assert_close(found, wanted.squeeze(2), rtol=1e-5, atol=1e-5)


def test_packing_is_the_pipelines(encoders):
    [tensors] = encoders.encode([toy_sample(0)])
    latent = tensors.latents["target"]
    _, height, width = latent.shape
    wanted = QwenImagePipeline._pack_latents(latent[None], 1, 16, height, width)[0]
    encoded = tensors.encoded()
    assert torch.equal(encoded.target_TC, wanted)
    assert encoded.shapes == [(1, 4, 4), (1, 4, 4)]
    assert torch.equal(
        encoded.conditions[0][0],
        QwenImagePipeline._pack_latents(tensors.latents["source"][None], 1, 16, height, width)[0],
    )


def test_conditions_are_source_then_references_in_numeric_order(encoders):
    import dataclasses

    import numpy as np

    flat = {
        role: encode_jpeg(np.full((32, 32, 3), tone, np.uint8))
        for role, tone in (("target", 9), ("ref10", 50), ("ref2", 200), ("ref0", 120))
    }
    sample = dataclasses.replace(toy_sample(3), task="customization", images=flat)
    assert encoders.roles(sample) == ["target", "ref0", "ref2"]
    [tensors] = encoders.encode([sample])
    encoded = tensors.encoded()
    assert len(encoded.conditions) == 2
    dark = {**flat, "ref0": flat["ref2"], "ref2": flat["ref0"]}
    [swapped] = encoders.encode([dataclasses.replace(sample, images=dark)])
    torch.testing.assert_close(swapped.encoded().conditions[1][0], encoded.conditions[0][0])


def test_a_batch_equals_its_samples_alone(encoders):
    samples = [toy_sample(n) for n in range(4)]
    together = encoders.encode(samples)
    for sample, tensors in zip(samples, together, strict=True):
        [alone] = encoders.encode([sample])
        torch.testing.assert_close(alone.text_SD, tensors.text_SD, rtol=0, atol=1e-6)
        for role, latent in alone.latents.items():
            torch.testing.assert_close(latent, tensors.latents[role], rtol=0, atol=1e-5)


def test_numbers_that_float16_cannot_hold_name_the_record(folder):
    broken = load_encoders(folder, settings=SETTINGS, dtype=torch.float32, device=torch.device("cpu"))
    broken.text._model.model.language_model.norm.weight.data.fill_(1e6)
    with pytest.raises(DataError, match=r"record toy-1: its text gives numbers that float16 cannot hold"):
        broken.encode([toy_sample(1)])


def test_the_fingerprint_follows_weights_and_settings(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    first = fingerprint_hash(fingerprint(folder, settings=SETTINGS))
    assert fingerprint_hash(fingerprint(copy, settings=SETTINGS)) == first
    assert fingerprint_hash(fingerprint(copy, settings=Settings(32 * 32, 12, 2))) != first
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint_hash(fingerprint(copy, settings=SETTINGS)) != first


def test_online_encoding_needs_its_folder_and_fitting_sizes(folder, tmp_path):
    online = {"data__encoder": "online", "data__area": 64 * 64, "data__max_text_tokens": 12}
    with pytest.raises(ConfigError, match=r"data\.encoder_path"):
        make_encoder(toy_config(**online), shards=None)
    with pytest.raises(ConfigError, match="lacks vae, text_encoder, tokenizer"):
        make_encoder(toy_config(**online, data__encoder_path=str(tmp_path)), shards=None)
    with pytest.raises(ConfigError, match=r"text of 24, but .*joint_attention_dim 32"):
        make_encoder(toy_config(**online, data__encoder_path=str(folder), model__joint_attention_dim=32), shards=None)
    encoder = make_encoder(toy_config(**online, data__encoder_path=str(folder)), shards=None)
    encoded = encoder.encode(toy_sample(0))
    assert (encoded.target_TC.dtype, encoded.text_SD.dtype) == (torch.float16, torch.float16)
    assert encoder.null_text_SD.shape[1] == TEXT_DIM
