"""The state of the engines now: blocks of the KV cache, running sequences, queue, counts."""

from __future__ import annotations

import time
from typing import Any

from glassbox.studio.models import Opened

_MOST_BLOCKS = 4096


def snapshot(opened: Opened) -> dict[str, Any]:
    """The current state of a model's engine. Rates are computed by the page from two snapshots.

    blocks: a letter for each block (`BlockManager.states`), the first 4096. sequences: their
    tokens, how many of them are computed, were found in the prefix cache, and their blocks.
    """
    stats = opened.engine.stats()
    worker = opened.service.worker
    return {
        "model": opened.name,
        "at": time.monotonic(),
        "running": worker.num_running,
        "waiting": worker.num_waiting,
        "blocks_total": stats.blocks_total,
        "blocks_free": stats.blocks_free,
        "blocks_cached": stats.blocks_cached,
        "prefix_hits": stats.prefix_hits,
        "preemptions": stats.preemptions,
        "tokens_generated": stats.tokens_generated,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "cache_bytes": opened.engine.cache_bytes,
        "blocks": opened.engine.block_states[:_MOST_BLOCKS],
        "sequences": [
            {
                "request": one.request_id,
                "prompt": one.prompt_length,
                "tokens": len(one.tokens),
                "most": one.max_length,
                "computed": one.computed,
                "reused": one.reused,
                "blocks": list(one.blocks)[:_MOST_BLOCKS],
            }
            for one in opened.engine.running
        ],
    }
