"""`glassbox.load` and what stands around it, on a tiny model written by `glassbox.save`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import glassbox
from glassbox import Loaded, UserError

TEXT = "The fox ran. The fox sat. A bird sang to the fox, and the fox sang to a bird. " * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = glassbox.train_tokenizer([TEXT], 300)
    shape = glassbox.LlamaShape(
        hidden_size=32, num_layers=2, num_heads=2, ffn_size=64, context_length=128
    )
    torch.manual_seed(0)
    model = glassbox.CausalLM(shape.config(vocab_size=tokenizer.vocab_size))
    target = tmp_path_factory.mktemp("api") / "model"
    glassbox.save(model, target, tokenizer=tokenizer)
    return target


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    return glassbox.load(folder)


def test_load_gives_model_tokenizer_and_config(loaded: Loaded, folder: Path) -> None:
    assert loaded.config is loaded.model.config
    assert loaded.path == folder
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("The fox")) == "The fox"
    assert "M parameters" in repr(loaded)


def test_generate_is_the_engines_text(loaded: Loaded) -> None:
    params = glassbox.SamplingParams(max_tokens=8, temperature=0)
    engine = glassbox.Engine(loaded.model, loaded.tokenizer)
    expected = engine.generate([loaded.tokenizer.encode("The fox")], params)[0].text
    assert loaded.generate("The fox", max_tokens=8, temperature=0) == expected
    assert loaded.llm().generate("The fox", params)[0].text == expected


def test_a_question_and_a_conversation_are_the_same_chat(loaded: Loaded) -> None:
    sampling = {"max_tokens": 8, "temperature": 0}
    said = loaded.chat("Hello", **sampling)
    assert said == loaded.chat([{"role": "user", "content": "Hello"}], **sampling)


def test_an_unknown_option_is_named(loaded: Loaded) -> None:
    with pytest.raises(UserError, match="'max_token' is no sampling option"):
        loaded.generate("The fox", max_token=8)


def test_save_and_convert_keep_the_logits(loaded: Loaded, tmp_path: Path) -> None:
    loaded.save(tmp_path / "again")
    glassbox.convert(loaded.path or "", tmp_path / "model.gguf", dtype="f32")
    ids = torch.tensor([loaded.tokenizer.encode("A bird sang")])
    with torch.inference_mode():
        expected = loaded.model(ids)
        for place in (tmp_path / "again", tmp_path / "model.gguf"):
            torch.testing.assert_close(glassbox.load(place).model(ids), expected)
    with pytest.raises(UserError, match="is there already"):
        loaded.save(tmp_path / "again")


def test_dtype_is_the_files_own_or_the_one_asked_for(folder: Path) -> None:
    assert glassbox.load(folder).model.embedding.weight.dtype == torch.float32
    narrow = glassbox.load(folder, dtype="bfloat16")
    assert narrow.model.embedding.weight.dtype == torch.bfloat16
    assert narrow.generate("The fox", max_tokens=2, temperature=0) is not None
    with pytest.raises(UserError, match="dtype = 'int3' is unknown"):
        glassbox.load(folder, dtype="int3")  # type: ignore[arg-type]


def test_an_adapter_is_attached_trained_alone_and_merged(folder: Path) -> None:
    loaded = glassbox.load(folder)
    ids = torch.tensor([loaded.tokenizer.encode("A bird sang")])
    model = glassbox.attach_adapter(loaded, "lora", rank=2)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable
    assert all(".updates." in name for name in trainable)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        expected = model(ids)
        merged = glassbox.merge_adapter(model)
        torch.testing.assert_close(merged(ids), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="rnk"):
        glassbox.attach_adapter(glassbox.load(folder), "lora", rnk=2)


def test_evaluate_reads_texts_and_files(loaded: Loaded, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("The fox ran.", encoding="utf-8")
    figures = glassbox.evaluate(loaded, ["The fox ran."])["heldout"]
    assert glassbox.evaluate(folder, file)["heldout"] == figures
    assert set(figures) >= {"loss_nats", "perplexity", "bits_per_byte"}


def test_a_recipe_runs_from_python(tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text("\n\n".join(f"{n}. {TEXT}" for n in range(40)), encoding="utf-8")
    result = glassbox.run_recipe(
        "pretrain.yaml",
        {
            "data.path": str(file),
            "out": str(tmp_path / "run"),
            "train.steps": 2,
            "train.schedule.warmup_steps": 0,
            "tokenizer.vocab_size": 300,
            "data.row_length": 32,
            "data.rows_per_step": 2,
            "model.num_layers": 1,
            "evaluation.every": 0,
        },
    )
    assert result.status == "finished"
    assert result.summary["steps"] == 2
    assert isinstance(result.load().generate("The fox", max_tokens=3), str)
