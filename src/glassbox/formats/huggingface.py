"""Model folders in Hugging Face's format: config.json and model.safetensors, which transformers
opens.

config.json also has our complete config, under the key "glassbox". A model that no Hugging Face
family can represent is stored under our own names with `model_type: "glassbox"`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glassbox.adapters.base import adapters_of
from glassbox.compression import Plan, plan_for, swap_in
from glassbox.compression.swap import coded_layers, quantizable
from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.core.files import atomic_folder, clear_leftovers, leftovers, write_json
from glassbox.core.memory import available_memory, free_swap
from glassbox.core.plugins import refuse_python
from glassbox.formats.compressed_files import KEY, describe, read_plan
from glassbox.formats.narrow_files import read_narrow, widened
from glassbox.formats.tensor_files import TensorFiles, read_json, write_sharded
from glassbox.formats.tensor_source import TensorSource
from glassbox.layers.quantized_linear import CodedMatrix
from glassbox.layers.weight_codes import WeightCodes
from glassbox.layers.wide_weights import NARROW, wide_weights
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.models.families import (
    family_named,
    family_of,
    from_hf_config,
    to_hf_config,
    to_hf_weights,
    weight_rules,
)
from glassbox.models.family import Family, WeightRule, canonical
from glassbox.tokenizers import Tokenizer

FILE = "file"
"""What `quantize` is for the codes that a file has its matrices in."""
OWN_KEY = "glassbox"
"""Key of config.json that holds our config, and `model_type` of a model that is ours alone."""

MAX_SHARD_BYTES = 5 * 10**9
"""Largest weights that are written as one file."""

DTYPES = {
    "float64": ("F64", torch.float64),
    "float32": ("F32", torch.float32),
    "bfloat16": ("BF16", torch.bfloat16),
    "float16": ("F16", torch.float16),
}


CODED_DTYPES = {
    **{dtype: name for name, dtype in DTYPES.values()},
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
}
"""What the parts of quantized layers, and all beside them, are called in safetensors files."""


def export_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights by name, without the prefixes that torch.compile and DDP put before them."""
    return {_bare(name): tensor.detach() for name, tensor in model.state_dict().items()}


def import_state(model: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy weights of the same names and shapes into a model, compiled, wrapped or plain.

    Raises UserError naming the first tensor that is missing, too many, or of another shape.
    """
    own = {_bare(name): tensor for name, tensor in model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    _compare(shapes, found, where="the given weights")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def save_pretrained(
    model: CausalLM,
    folder: Path | str,
    *,
    tokenizer: Tokenizer | None = None,
    stop_token_ids: Sequence[int] = (),
    extra: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer's files.

    Weights of more than `max_shard_bytes` become several files with an index. `stop_token_ids` end generation besides the tokenizer's end of text (a chat's end of turn).
    A model with quantized layers is written in their codes, under our own names (`formats.compressed_files`).
    `extra` is added to config.json. Each file is whole or not there.
    Tested against: transformers AutoModelForCausalLM.from_pretrained, the same logits.
    """
    if adapters_of(model) is not None:
        raise UserError(
            "the model has adapters, which its own files cannot hold: bake them in first "
            "(glassbox convert does), or save the adapter alone"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    state = export_state(model)
    roles = _role_ids(tokenizer)
    coded = describe(model)
    theirs = None if coded is not None else to_hf_config(config, **roles)
    if coded is not None:
        extra = {KEY: coded, **(extra or {})}
    if theirs is None:
        theirs = {"architectures": ["CausalLM"], "model_type": OWN_KEY, **roles}
    else:
        state = to_hf_weights(config, state)
    dtype = str(model.dtype).removeprefix("torch.")
    words = {"torch_dtype": dtype, "dtype": dtype}  # transformers 4 reads the one, 5 the other
    own = {OWN_KEY: config.model_dump(mode="json")}
    stops = [*([] if roles["eos_token_id"] is None else [roles["eos_token_id"]]), *stop_token_ids]
    stops = list(dict.fromkeys(stops))
    generation = {**roles, "eos_token_id": stops[0] if len(stops) == 1 else stops or None}
    write_sharded(folder, state, max_bytes=max_shard_bytes)
    write_json(folder / "generation_config.json", generation)
    if tokenizer is not None:
        tokenizer.save(folder)
    write_json(folder / "config.json", {**theirs, **words, **own, **(extra or {})})


def opens_as(config: ModelConfig) -> str | None:
    """The class of transformers that opens a folder of this model; None where none has its blocks."""
    words = to_hf_config(config)
    return None if words is None else str(words["architectures"][0])


def write_folder(
    model: CausalLM,
    folder: Path | str,
    *,
    tokenizer: Tokenizer | None = None,
    stop_token_ids: Sequence[int] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """`save_pretrained` into a missing or empty folder, atomically.

    Partial files of killed writers of the same folder are removed first. Raises UserError if the
    folder has other content.
    """
    clear_leftovers(folder)
    refuse_taken(Path(folder))
    with atomic_folder(folder) as temporary:
        save_pretrained(
            model,
            temporary,
            tokenizer=tokenizer,
            stop_token_ids=stop_token_ids,
            max_shard_bytes=max_shard_bytes,
        )


def refuse_taken(path: Path) -> None:
    """Raise UserError for a file, and for a folder that holds more than a killed writer's leftovers."""
    taken = path.is_file()
    if path.is_dir():
        taken = bool(set(path.iterdir()) - set(leftovers(path)))
    if taken:
        raise UserError(f"'{path}' is there already; name another place or delete it")


def load_config(folder: Path | str) -> ModelConfig:
    """Read the config of a model folder, in our format or Hugging Face's. Raises UserError naming
    file and key.
    """
    return _read_config(Path(folder))[0]


def load_pretrained(
    folder: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    code: Sequence[str] = (),
    quantize: str | None = None,
) -> CausalLM:
    """Load the model of a folder, in evaluation mode: our checkpoints and Hugging Face's.

    code: paths of layers of the user's own that the model may have (`core.plugins`); none
        otherwise.

    dtype: by default the one it was saved in; in files of mixed dtypes, as in many families
        (routers, norms, decay rates in float32, the rest in bfloat16), float32 is kept where the
        layer supports it, and written again by `save_pretrained`. Everything is checked before
        memory is allocated; tensors are then read one by one, so that peak memory is near the
        model's size.
    Raises UserError naming file, tensor, what was expected and what was found.
    """
    folder = Path(folder)
    described = _read_config(folder)
    with TensorFiles(folder) as source:
        return _load(
            source, described, folder, device=device, dtype=dtype, code=code, quantize=quantize
        )


def left_out(folder: Path | str) -> list[str]:
    """Names of weights in a folder that are not loaded: modules for multi-token prediction."""
    config, family, _ = _read_config(Path(folder))
    if family is None:
        return []
    read = {name for rule in weight_rules(family, config) for name in rule.theirs}
    with TensorFiles(Path(folder)) as source:
        names = source.names
    return [name for name in names if re.fullmatch(family.left_out, name) and name not in read]


def load_weights(
    source: TensorSource,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> CausalLM:
    """`load_pretrained` with the weights from elsewhere than the folder of config.json."""
    return _load(source, _read_config(folder), folder, device=device, dtype=dtype)


def _load(
    source: TensorSource,
    described: tuple[ModelConfig, Family | None, dict[str, Any]],
    folder: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype | None,
    code: Sequence[str] = (),
    quantize: str | None = None,
) -> CausalLM:
    config, family, raw = described
    refuse_python(raw.get(OWN_KEY), where=f"'{folder / 'config.json'}'", allowed=code)
    name = _saved_dtype(raw, folder)
    if dtype is None:
        dtype = DTYPES[name or "float32"][1]
    wanted = name if OWN_KEY in raw else None
    plan = read_plan(raw, f"'{folder / 'config.json'}'")
    if plan is not None:
        if quantize not in (None, FILE):
            raise UserError(
                f"quantize = {quantize!r}: '{folder}' is quantized already; leave it out, or give the "
                "model that it was made from"
            )
        assert isinstance(source, TensorFiles), "only folders have plans"
        return _build_coded(source, config, plan, dtype=dtype, device=device)
    source = widened(source, read_narrow(raw, f"'{folder / 'config.json'}'"))
    return build_from(
        source,
        config,
        family,
        device=device,
        dtype=dtype,
        wanted=wanted,
        keep_wide=True,
        quantize=quantize,
    )


def build_from(
    source: TensorSource,
    config: ModelConfig,
    family: Family | None,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    wanted: str | None = None,
    keep_wide: bool = False,
    quantize: str | None = None,
) -> CausalLM:
    """A model of this config with weights under the family's names, or under ours where it is None.

    Everything is checked before anything is allocated. wanted: the only dtype that is accepted, but
    for float32 where a layer can hold it beside that (`layers.wide_weights`). keep_wide: such
    weights stay in float32 where the source has them wider than its embedding. quantize: the codes that
    matrices are rounded to, one at a time as they are read (`compression.named_codes`), so that memory
    peaks near the quantized model's size and one matrix; "file": those that the source has them in.
    """
    model = _on_meta(config, source).to(dtype)
    plan = None if quantize is None else _plan_of(model, source, config, family, quantize)
    device = torch.device(device)
    _fill(
        model,
        source,
        config,
        family,
        wanted=wanted,
        keep_wide=keep_wide,
        allocate_on=device,
        plan=plan,
    )
    return model.eval()


def _plan_of(
    model: CausalLM,
    source: TensorSource,
    config: ModelConfig,
    family: Family | None,
    quantize: str,
) -> Plan:
    """Every layer in the codes asked for; for "file" those of the file, where it has them in some."""
    if quantize != FILE:
        return plan_for(model, quantize)
    layers: dict[str, WeightCodes] = {}
    rules = {} if family is None else {rule.ours: rule for rule in weight_rules(family, config)}
    for path in quantizable(model):
        rule = rules.get(f"{path}.weight")
        found = set() if rule is None else {source.code_of(name) for name in rule.theirs}
        codes = found.pop() if len(found) == 1 else None
        if codes is not None:
            layers[path] = codes
    if not layers:
        raise UserError(
            f"quantize = 'file': {source.where} has no matrix in codes that layers run from (Q8_0, Q4_0, "
            "Q4_1); use int8 or int4"
        )
    return Plan(layers)


def _build_coded(
    source: TensorFiles,
    config: ModelConfig,
    plan: Plan,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
) -> CausalLM:
    """A model whose layers are in the plan's codes, read as they are: nothing is ever wide."""
    model = _on_meta(config, source).to(dtype)
    try:
        swap_in(model, plan, encode=False)
    except UserError as error:
        raise UserError(f"{source.where}: {error}") from None
    own = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    _compare(shapes, {n: source.shape(n) for n in source.names}, where=source.where)
    for name, tensor in own.items():
        wanted = CODED_DTYPES[tensor.dtype]
        if source.dtype(name) != wanted:
            raise UserError(
                f"{source.file(name)}: tensor '{name}' has the wrong dtype: expected {wanted}, found "
                f"{source.dtype(name)}"
            )
    _allocate(model, torch.device(device))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            source.copy_into(name, tensor)
    return model.eval()


def _on_meta(config: ModelConfig, source: TensorSource) -> CausalLM:
    """The model without its numbers. Raises UserError for a config that no file of the source's size fits."""
    if config.num_layers > max(256, len(source.names)):  # a layer has one at least
        raise UserError(
            f"{source.where} has {len(source.names)} tensors, the config {config.num_layers} layers; "
            "these files do not belong together"
        )
    try:
        with torch.device("meta"):
            return CausalLM(config)
    except (RuntimeError, OverflowError) as error:  # a size whose bytes 64 bits cannot count
        raise UserError(
            f"{source.where}: the config describes tensors that no machine can hold ({_short(error)})"
        ) from None


def load_pretrained_into(model: CausalLM, folder: Path | str) -> None:
    """Copy a folder's weights into a model of the same config; its device and dtype stay.

    Raises UserError where the folder's config is another model's, or as `load_pretrained` does.
    Nothing is copied unless every tensor is there in its shape.
    """
    config, family, raw = _read_config(Path(folder))
    ours, theirs = canonical(model.config), canonical(config)
    for key in type(ours).model_fields:
        if getattr(ours, key) != getattr(theirs, key):
            raise UserError(
                f"'{Path(folder) / 'config.json'}' is another model's: its '{key}' is "
                f"{_short(getattr(theirs, key))}, expected {_short(getattr(ours, key))}"
            )
    wanted = _saved_dtype(raw, Path(folder)) if OWN_KEY in raw else None
    narrow = read_narrow(raw, f"'{Path(folder) / 'config.json'}'")
    with TensorFiles(Path(folder)) as files:
        source = widened(files, narrow)
        _fill(model, source, config, family, wanted=wanted, keep_wide=False, allocate_on=None)


def _fill(
    model: CausalLM,
    source: TensorSource,
    config: ModelConfig,
    family: Family | None,
    *,
    wanted: str | None,
    keep_wide: bool,
    allocate_on: torch.device | None,
    plan: Plan | None = None,
) -> None:
    own = {_bare(name): tensor for name, tensor in model.state_dict().items()}
    if family is None:
        rules = [WeightRule(name, (name,)) for name in own]
    else:
        rules = weight_rules(family, config)
    assert {rule.ours for rule in rules} == set(own), "the family's rules miss a parameter"
    names = source.names
    stored = dict(zip(names, names, strict=True)) if family is None else family.full_names(names)
    expected = {
        name: tuple(part.shape)
        for rule in rules
        for name, part in rule.split(own[rule.ours].detach().to("meta")).items()
    }
    found = {
        full: source.shape(name)
        for full, name in stored.items()
        if full in expected or not _dispensable(full, config, family)
    }
    in_file = {name: source.own_name(name) for name in expected.keys() | found.keys()}
    _compare(
        {in_file[name]: shape for name, shape in expected.items()},
        {in_file[name]: shape for name, shape in found.items()},
        where=source.where,
    )
    can_be_wide = {_bare(name) for name in wide_weights(model)}
    for rule in rules:
        for name in rule.theirs:
            _check_dtype(source, stored[name], wanted, or_wide=rule.ours in can_be_wide)
    if allocate_on is not None:
        if keep_wide:
            dtypes = {r.ours: [source.dtype(stored[name]) for name in r.theirs] for r in rules}
            _stay_wide(model, dtypes, can_be_wide)
        if plan is not None:
            swap_in(model, plan, encode=False)
        _allocate(model, allocate_on)
        own = model.state_dict()
    coded = {f"{path}.weight": layer for path, layer in coded_layers(model)}
    with torch.no_grad():
        for rule in rules:
            if rule.ours in coded:
                _fill_coded(coded[rule.ours], rule, source, stored)
                continue
            if not rule.views:
                own[rule.ours].copy_(rule.join([source.get(stored[n]) for n in rule.theirs]))
                continue
            for name, part in rule.split(own[rule.ours]).items():
                source.copy_into(stored[name], part)


def _fill_coded(
    layer: CodedMatrix, rule: WeightRule, source: TensorSource, stored: Mapping[str, str]
) -> None:
    """Read one matrix and write it down in a layer's codes, or take the file's own."""
    found = [source.coded(stored[name]) for name in rule.theirs]
    own = [parts for parts in found if parts is not None and parts[0] == layer.format]
    if len(own) == len(found):
        joined = {name: torch.cat([parts[name] for _, parts in own]) for name in layer.names}
        layer.set_parts({name: part.to(layer.device) for name, part in joined.items()})
        return
    wide = torch.empty(layer.rows, layer.columns)
    if rule.views:
        for name, part in rule.split(wide).items():
            source.copy_into(stored[name], part)
    else:
        wide.copy_(rule.join([source.get(stored[name]) for name in rule.theirs]))
    parts = layer.format.encode(wide)
    layer.set_parts({name: part.to(layer.device) for name, part in parts.items()})


def _stay_wide(model: CausalLM, stored: Mapping[str, Sequence[str]], can_be_wide: set[str]) -> None:
    """Of a model that is to be narrow, put those weights in float32 that mixed files hold wider.

    stored: each weight's dtypes in the files. Files of one dtype throughout are not mixed.
    """
    if stored["embedding.weight"][0] not in ("BF16", "F16"):
        return
    for path, module in model.named_modules(remove_duplicate=False):
        held: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in held:
            for name, old in tensors.items():
                full = _bare(f"{path}.{name}")
                if full not in can_be_wide or old is None or old.dtype not in NARROW:
                    continue
                if any(dtype in ("F32", "F64") for dtype in stored[full]):
                    new = old.detach().float()
                    is_parameter = isinstance(old, torch.nn.Parameter)
                    tensors[name] = torch.nn.Parameter(new) if is_parameter else new


def _allocate(model: CausalLM, device: torch.device) -> None:
    """`model.to_empty(device)`, which would first import a hundred megabytes of torch."""
    assert {name for name, _ in model.named_buffers()} <= model.state_dict().keys(), "lost buffers"
    if device.type == "cpu":
        needed = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        free = available_memory() + free_swap()
        if free and needed > free:
            raise UserError(
                f"the weights take {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are "
                "free; take a smaller model or a narrower dtype, or free some"
            )
    for module in model.modules():
        held: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in held:
            for name, old in tensors.items():
                if old is not None:
                    new = torch.empty(old.shape, dtype=old.dtype, device=device)
                    is_parameter = isinstance(old, torch.nn.Parameter)
                    tensors[name] = torch.nn.Parameter(new) if is_parameter else new


def _compare(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], *, where: str
) -> None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        raise UserError(f"{where} lacks tensor '{missing[0]}'{_more(missing)}; expected it of shape "
                        f"{expected[missing[0]]}, found none of that name")  # fmt: skip
    if extra:
        raise UserError(f"{where} has tensor '{extra[0]}'{_more(extra)}, found of shape "
                        f"{found[extra[0]]}; the model expected none of that name")  # fmt: skip
    wrong = [name for name, shape in expected.items() if found[name] != shape]
    if wrong:
        raise UserError(
            f"{where}: tensor '{wrong[0]}'{_more(wrong)} has the wrong shape: expected "
            f"{expected[wrong[0]]}, found {found[wrong[0]]}"
        )


def _check_dtype(source: TensorSource, name: str, wanted: str | None, *, or_wide: bool) -> None:
    """The dtype is the one that is wanted, or float32 where the layer can hold that beside it."""
    found = source.dtype(name)
    allowed = [code for code, _ in DTYPES.values()] if wanted is None else [DTYPES[wanted][0]]
    if wanted is not None and or_wide and DTYPES[wanted][1] in NARROW:
        allowed.append("F32")
    if found not in allowed:
        raise UserError(
            f"{source.file(name)}: tensor '{name}' has the wrong dtype: "
            f"expected {' or '.join(allowed)}, found {found}"
        )


def _dispensable(name: str, config: ModelConfig, family: Family | None) -> bool:
    """Buffers that others save, and a head's copy of the embedding that it is tied to."""
    if family is None:
        return False
    return family.is_ignored(name) or (config.tie_embeddings and name == "lm_head.weight")


def _read_config(folder: Path) -> tuple[ModelConfig, Family | None, dict[str, Any]]:
    path = folder / "config.json"
    raw = read_json(path)
    where = f"'{path}'"
    own = (
        parse(ModelConfig, raw[OWN_KEY], where=f"{where}, key '{OWN_KEY}'")
        if OWN_KEY in raw
        else None
    )
    if raw.get("model_type") == OWN_KEY:
        if own is None:
            raise UserError(f"{where} lacks '{OWN_KEY}', the model's config; the file is damaged")
        return own, None, raw
    theirs = from_hf_config(raw, where=where)
    read_narrow(raw, where)  # what cannot be read is told before any file is opened
    family = family_named(str(raw["model_type"]), where=where)
    if own is None:
        if _is_scorer(raw):  # a file of theirs with scores has no logits; ours are then never asked
            words = {"score_head": True, "tie_embeddings": True, "head_bias": False}
            theirs = theirs.model_copy(update=words)
        return theirs, family, raw
    if family_of(own) is not family or canonical(own) != canonical(theirs):
        raise UserError(
            f"{where}: what stands under '{OWN_KEY}' is another model than the other keys describe; "
            f"if another program changed the model, delete the key '{OWN_KEY}'"
        )
    return own, family, raw


def _is_scorer(raw: Mapping[str, Any]) -> bool:
    """Whether a config of transformers is that of a sequence classifier with one label."""
    names = raw.get("architectures") or [""]
    return str(names[0]).endswith("ForSequenceClassification") and len(raw.get("id2label", ())) == 1


def _saved_dtype(raw: Mapping[str, Any], folder: Path) -> str | None:
    name = raw.get("dtype") or raw.get("torch_dtype")
    if name is not None and name not in DTYPES:
        raise UserError(
            f"'{folder / 'config.json'}': 'dtype' = {name!r} is not supported; "
            f"known: {', '.join(DTYPES)}"
        )
    return name


def _role_ids(tokenizer: Tokenizer | None) -> dict[str, int | None]:
    roles = {} if tokenizer is None else tokenizer.roles
    return {
        f"{role}_token_id": None
        if tokenizer is None or f"{role}_token" not in roles
        else tokenizer.token_to_id(roles[f"{role}_token"])
        for role in ("bos", "eos", "pad")
    }


def _bare(name: str) -> str:
    return name.replace("_orig_mod.", "").removeprefix("module.")


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
