"""glassbox serve: serve a model with an OpenAI-compatible HTTP API."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassbox.core.errors import UserError

if TYPE_CHECKING:
    from glassbox.serving.service import Service


_CACHE_TOKENS = 65_536


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", rich_help_panel="Use")(serve)


def serve(
    model: Annotated[
        str, typer.Argument(help="A run, a checkpoint, a folder, a .gguf or .bin file, a name.")
    ],
    host: Annotated[
        str,
        typer.Option(
            "--host", help="Address to listen on; other than loopback, a key is required."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            min=0,
            max=65535,
            help="Port to listen on; 0 chooses a free one and prints it.",
        ),
    ] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", help="File of API keys, one a line; or set GLASSBOX_API_KEY."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Model name in requests; default: its folder.")
    ] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option(
            "--adapters",
            help="NAME=PATH: serve an adapter as model NAME; may be repeated.",
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Largest max_tokens of a request.")
    ] = 4096,
    max_running: Annotated[
        int, typer.Option("--max-running", help="Sequences generated at the same time.")
    ] = 32,
    max_queue: Annotated[
        int, typer.Option("--max-queue", help="Queued requests; beyond it clients get 429.")
    ] = 128,
    max_choices: Annotated[
        int,
        typer.Option(
            "--max-choices", help="Maximum number of choices of one request: prompts times n."
        ),
    ] = 64,
    cache_tokens: Annotated[
        int | None,
        typer.Option(
            "--cache-tokens",
            min=1,
            help="Capacity of the KV cache in tokens; default: by free memory.",
        ),
    ] = None,
    step_tokens: Annotated[
        int,
        typer.Option(
            "--step-tokens",
            min=1,
            help="Maximum number of tokens per step; longer prompts are prefilled in chunks.",
        ),
    ] = 512,
    draft: Annotated[
        str | None,
        typer.Option("--draft", help="Draft model for speculative decoding; same output."),
    ] = None,
    num_drafts: Annotated[
        int, typer.Option("--num-drafts", min=1, help="Draft tokens of --draft.")
    ] = 4,
    ngram_drafts: Annotated[
        int,
        typer.Option(
            "--ngram-drafts", min=0, help="Draft this many tokens by n-grams of the text so far."
        ),
    ] = 0,
    pack_weights: Annotated[
        bool | None,
        typer.Option(
            "--pack-weights/--no-pack-weights",
            help="Copies of the weights for faster products on a CPU; else where memory allows.",
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile",
            help="Compile decoding steps of a single request on a CPU; needs a C++ compiler.",
        ),
    ] = False,
    tool_format: Annotated[
        str,
        typer.Option("--tool-format", help="hermes: <tool_call> JSON; tags: `<tool>14+27</tool>`."),
    ] = "hermes",
    cors_origin: Annotated[
        list[str] | None,
        typer.Option("--cors-origin", help="CORS origin that may read responses; may be repeated."),
    ] = None,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Write prompts to the log.")
    ] = False,
    drain_seconds: Annotated[
        int,
        typer.Option(
            "--drain-seconds", min=0, help="Time to finish running requests after SIGTERM."
        ),
    ] = 30,
    quantize: Annotated[
        str | None,
        typer.Option(
            "--quantize",
            help="Round weights: int8, int8-dynamic, int4, nf4, fp8, mxfp4, q8_0, q4_0, q4_1; file.",
        ),
    ] = None,
    kv_cache: Annotated[
        str, typer.Option("--kv-cache", help="Data type of the KV cache: auto, int8, int4.")
    ] = "auto",
    code: Annotated[
        list[str] | None,
        typer.Option("--code", help="FILE.py:NAME of a layer of your own that MODEL has."),
    ] = None,
    studio: Annotated[
        bool,
        typer.Option(
            "--studio", help="The studio's page for this model at /, in the same process."
        ),
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Serve a model over HTTP, to any client of OpenAI's API: chat, completions, embeddings.

    Example: `glassbox serve runs/quickstart --port 8000`
    """
    needed = ["fastapi", "prometheus_client", "uvicorn", *(["platformdirs"] if studio else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"serving needs {' and '.join(missing)}: run  pip install 'glassbox-lm[{'studio' if studio else 'serve'}]'"
        )
    from glassbox.serving.server import check_origins, listen, read_keys, run

    keys = read_keys(api_key_file)
    origins = check_origins(cors_origin or [])
    if tool_format not in ("hermes", "tags"):
        raise UserError(f"--tool-format {tool_format}: choose hermes or tags")
    page = None
    if studio:
        from glassbox.studio.building import page_folder

        page = page_folder()
    folders = _named(adapters or [], name or Path(model).resolve().name)
    with listen(host, port, keys=keys) as listening:  # before what takes time
        service = _service(
            model,
            device,
            {
                "max_tokens": max_tokens,
                "max_running": max_running,
                "max_queue": max_queue,
                "max_choices": max_choices,
            },
            cache_tokens,
            step_tokens,
            (draft, num_drafts, ngram_drafts),
            folders,
            {"prepacked": pack_weights, "compiled": compiled, "kv_cache": kv_cache},
            code,
            quantize,
            name=name or Path(model).resolve().name,
            tool_format=tool_format,
            log_prompts=log_prompts,
        )
        from glassbox.serving.app import build_app

        app = build_app(service, keys=keys, origins=origins)
        if page is None:
            run(app, listening, service, drain_seconds=drain_seconds)
            return
        from glassbox.formats.open_model import find_model
        from glassbox.studio import app as studio_app
        from glassbox.studio.beside import Both, studio_of

        beside = studio_of(service, find_model(model))
        both = Both(app, service, studio_app.build_app(beside, page=page, keys=keys), beside)
        run(both, listening, both, drain_seconds=drain_seconds)


def _named(adapters: list[str], model: str) -> dict[str, str]:
    """NAME=PATH as name -> path. Raises UserError for other words and for a name given twice."""
    found: dict[str, str] = {}
    for words in adapters:
        name, sign, path = words.partition("=")
        if not (name and sign and path):
            raise UserError(f"--adapters {words}: write it as NAME=PATH")
        if name in found or name == model:
            raise UserError(f"--adapters {words}: the name '{name}' is taken; give another")
        found[name] = path
    return found


def _service(
    model: str,
    device: str,
    limits: dict[str, int],
    cache_tokens: int | None,
    step_tokens: int,
    drafts: tuple[str | None, int, int],
    adapters: dict[str, str],
    speed: dict[str, Any],
    code: list[str] | None = None,
    quantize: str | None = None,
    **options: Any,
) -> Service:
    from glassbox.core.config import parse
    from glassbox.formats.open_model import find_adapter, open_on
    from glassbox.inference import Engine
    from glassbox.inference.cache_size import choose_cache_tokens
    from glassbox.inference.speculation.draft_model import DraftModel
    from glassbox.runs.speculation import open_proposer
    from glassbox.serving.bodies import Limits
    from glassbox.serving.service import Service
    from glassbox.tokenizers.prefix import text_prefix

    checked = parse(Limits, limits, where="glassbox serve")
    folders = {name: find_adapter(path) for name, path in adapters.items()}
    loaded, tokenizer, _ = open_on(model, device, code=code or (), quantize=quantize)
    proposer, count = open_proposer(loaded, tokenizer, *drafts)
    context = loaded.config.context_length
    chosen = None
    if cache_tokens is None:
        wanted = min(checked.max_running * context, max(context, _CACHE_TOKENS))
        drafting = [proposer.model] if isinstance(proposer, DraftModel) else []
        cache = choose_cache_tokens(wanted, loaded, *drafting, kv_cache=speed["kv_cache"])
        cache_tokens = cache.tokens
        chosen = f"{cache}; --cache-tokens N sets another size"
    engine = Engine(
        loaded,
        tokenizer,
        max_batch=checked.max_running,
        cache_tokens=cache_tokens,
        token_budget=step_tokens,
        keep_prefixes=True,
        proposer=proposer,
        num_drafts=count,
        adapters=folders,
        **speed,
    )
    if chosen is not None:
        print(chosen, file=sys.stderr)
    if speed["compiled"]:  # the compiler's time is not the first request's
        from glassbox.inference import SamplingParams

        engine.generate([[0]], SamplingParams(max_tokens=2, ignore_eos=True))
    return Service(
        engine,
        tokenizer,
        model=loaded,
        adapters=list(folders),
        limits=checked,
        prompt_prefix=text_prefix(tokenizer),
        **options,
    )
