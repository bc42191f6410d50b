"""`gnomon check`: proves a model before it is used."""

from __future__ import annotations

from typing import Annotated

import typer


def check_model_command(
    model: Annotated[str, typer.Argument(help="A name, hub id, local folder or .gguf file.")] = "smollm2-135m",
    adapter: Annotated[str | None, typer.Option(help="A LoRA adapter on top of it.")] = None,
    revision: Annotated[str | None, typer.Option(help="The model's revision on the hub.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    device_map: Annotated[str, typer.Option(help="none, or spread over GPUs: auto, balanced, sequential.")] = "none",
    max_memory: Annotated[list[str] | None, typer.Option(help="With it: DEVICE=SIZE at most, as 0=20GB.")] = None,
) -> None:
    """Prove a model: streams add up, edits act, strength 0 does not, batching and caching change nothing, hooks go."""
    from gnomon.models import check_model, load_model
    from gnomon.text import table

    most = {k: v for k, _, v in (one.partition("=") for one in max_memory or ())}
    loaded = load_model(
        model, adapter=adapter, revision=revision, dtype=dtype, device=device, device_map=device_map, max_memory=most,
        check=False,
    )  # fmt: skip
    where = f" on {', '.join(f'{n} {device}' for device, n in loaded.placed.items())}" if loaded.placed else ""
    typer.echo(f"{model}: {loaded.family}, {loaded.n_layers} layers{where}, d_model {loaded.d_model}, {dtype}\n")
    results = check_model(loaded)
    typer.echo(table([("ok" if r.passed else "FAIL", r.name, f"{r.value:.3g}", r.detail) for r in results]))
    failed = sum(not r.passed for r in results)
    typer.echo(f"\n{len(results) - failed} of {len(results)} laws hold")
    if failed:
        raise typer.Exit(1)
