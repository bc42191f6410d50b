"""`gnomon check-dictionary`: is a sparse dictionary what it says, and does it fit this model?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gnomon.errors import UserError

TEXTS = 40
CONTEXT = 256
"""Tokens of a piece of the text; PIECES of them at most."""
PIECES = 64
DRAWS = 500


def check_dictionary(
    source: Annotated[str, typer.Argument(help="A folder, a weight file or a hub id (owner/name, a path may follow).")],
    model: Annotated[str | None, typer.Option(help="Measure it on this model's activations.")] = None,
    text: Annotated[Path | None, typer.Option(help="On this text [paragraphs that come with gnomon].")] = None,
    site: Annotated[str | None, typer.Option(help="Where its activations come from, if its files do not say.")] = None,
    format: Annotated[str | None, typer.Option(help="saelens, gemma_scope, ...; known by the files' names.")] = None,
    layer: Annotated[int | None, typer.Option(help="Which one, of a folder with many.")] = None,
    width: Annotated[str | None, typer.Option(help="The same: 16k, 65k, or a number.")] = None,
    l0: Annotated[str | None, typer.Option("--l0", help="The same: 71, medium, ...")] = None,
    path: Annotated[str | None, typer.Option(help="The same: a folder inside.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub id: branch, tag or commit.")] = None,
    sha256: Annotated[str | None, typer.Option("--sha256", help="The weight file's hash, or the fingerprint.")] = None,
    input_scale: Annotated[float | None, typer.Option(help="What its input is multiplied by, if asked for.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Check a sparse dictionary: shapes and numbers, and, with a model, what it rebuilds; exit 1 if something fails."""
    from gnomon.dictionaries.check import check_dictionary as checks_of
    from gnomon.dictionaries.check import rows
    from gnomon.dictionaries.load import load_dictionary
    from gnomon.text import table

    if text is not None and model is None:
        raise UserError("--text without --model", "a model that reads it")
    one = load_dictionary(
        source,
        site=site,
        format=format,
        layer=layer,
        width=width,
        l0=l0,
        path=path,
        revision=revision,
        sha256=sha256,
        input_scale=input_scale,
    )
    typer.echo(f"{one.name}: {one.format}, {one.activation}, {one.d_sae} latents of width {one.d_model} at {one.site}")
    typer.echo(f"fingerprint {one.fingerprint}")
    said = ", ".join(f"{key} {value}" for key, value in one.meta.items() if isinstance(value, str | int | float))
    typer.echo(f"{said}\n" if said else "")
    results = checks_of(one) if model is None else _with_model(one, model, text, device)
    typer.echo(table(rows(results)))
    failed = sum(not r.passed for r in results)
    typer.echo(f"\n{len(results) - failed} of {len(results)} checks hold")
    if failed:
        raise typer.Exit(1)


def _with_model(one: Any, name: str, text: Path | None, device: str) -> list[Any]:
    """The checks on activations of the dictionary's site, and the loss when it is spliced in."""
    from gnomon.dictionaries.check import check_dictionary as checks_of
    from gnomon.dictionaries.check import require_fit
    from gnomon.models import load_model

    model = load_model(name, device=device, check=False)
    n_layers, site = model.n_layers, str(one.site)
    width = model.site_shape(site) if one.site.layer < n_layers else 0
    require_fit(one, site, width, n_layers, name)
    texts = _texts(model, text)
    found = [model.forward(texts[a : a + 8], read=[site]).values(site).float().cpu().numpy()
             for a in range(0, len(texts), 8)]  # fmt: skip
    import numpy as np

    x = np.concatenate(found)
    results = checks_of(one, x)
    return results + _losses(one, model, texts, x) if all(r.passed for r in results) else results


def _losses(one: Any, model: Any, texts: list[list[int]], x: Any) -> list[Any]:
    import numpy as np

    from gnomon.dictionaries.check import MASSIVE, Check, unmasked
    from gnomon.lens import splice

    keep = unmasked(x)
    most = MASSIVE * float(np.median(np.linalg.norm(x.astype(np.float64), axis=1)))
    mean = x[keep].mean(0)
    edits = splice.conditions(one.site, {"dictionary": lambda y: one.decode(one.encode(y))}, mean, most)
    losses, counts = splice.text_losses(model, texts, edits)
    groups = np.arange(len(texts))
    out = [Check("loss", float(losses["clean"].sum() / counts.sum()), True, "nats a token, nothing changed")]
    for name in ("dictionary", "mean", "zero"):
        what = "with the reconstruction in its place" if name == "dictionary" else f"with {name} ablation"
        out.append(Check(f"loss, {name}", float(losses[name].sum() / counts.sum()), True, what))
    for ablation in splice.ABLATIONS:
        value = splice.recovered(losses, "dictionary", ablation, groups, DRAWS, 0)
        interval = f"{value.low:.3f} to {value.high:.3f}" if np.isfinite(value.low) else value.note or "no interval"
        bad = np.isfinite(value.value) and value.value <= 0
        out.append(Check(f"recovered from {ablation}", value.value, not bad, f"share of the loss; 95%: {interval}"))
    return out


def _texts(model: Any, path: Path | None) -> list[list[int]]:
    """Token lists: neutral paragraphs, or the first pieces of a text file."""
    if path is None:
        from gnomon.methods.neutral import neutral_texts

        return [model.tokenize(paragraph)[:CONTEXT] for paragraph in neutral_texts(TEXTS)]
    if not path.is_file():
        raise UserError(f"no text at {path}", "a text file")
    try:
        with open(path, encoding="utf-8") as file:
            ids = model.encode_text(file.read(8 * CONTEXT * PIECES))[: CONTEXT * PIECES]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text ({error})", "a text file") from None
    pieces = [ids[a : a + CONTEXT] for a in range(0, len(ids), CONTEXT)]
    pieces = [piece for piece in pieces if len(piece) > 1]
    if len(pieces) < 2:
        raise UserError(f"{path} has {len(ids)} tokens", f"at least {CONTEXT + 2}", "a longer text")
    return pieces
