"""confidence: ask the model how sure it is of the answers of an earlier generation.

    self, other, p_true   p over bins at the confidence position; confidence = sum p * midpoint (Kadavath et al. 2022,
                          arXiv 2207.05221, for P(True))
    verbalised            the model writes a number (Lin et al. 2022, arXiv 2205.14334; Tian et al. 2023, 2305.14975)
    consistency           share of fresh samples that agree with the answer (Wang et al. 2023, arXiv 2203.11171)

One step is one pass: table `confidence`, a line a row of the generation under the row's own number, and activations of
the pass's own prompts: `last_prompt` is the confidence position, `last` the stated letter or text, `answer` the last
token of the model's own answer inside the prompt, `all` everything. Cost: a forward pass of the conversation, and of
the list of bins in each order; with texts instead of letters also the bins' tokens; prompt + samples x answer for
consistency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field, model_validator

from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.models import load_tokenizer
from gnomon.models.tokens import encode_text
from gnomon.rows import confidence_counts as counts
from gnomon.rows import price
from gnomon.rows.choose import Normalise
from gnomon.rows.confidence_fit import READ, check_rows
from gnomon.rows.confidence_prompts import FILLERS, Where, wording
from gnomon.rows.confidence_read import Stating
from gnomon.rows.confidence_scale import BINNED, Ask, Bins, Scale, Scoring, scale
from gnomon.rows.confidence_story import answered_by, blocks, settings
from gnomon.rows.confidence_work import Shard, Stater, neutral
from gnomon.rows.letters import variants_of
from gnomon.rows.options import Kept, OptionalTexts, one_or_more
from gnomon.rows.stating_samples import check_task
from gnomon.step import Context, Cost, Inputs, ModelSpec, Planning, Step, batches
from gnomon.store import Artifact
from gnomon.tasks.make import make_task
from gnomon.types import Split
from gnomon.writer import Writer

MEANT: dict[str, tuple[Ask, ...]] = {
    "bins": BINNED, "scoring": BINNED, "letters": BINNED, "orders": BINNED, "normalise": BINNED,
    "content_free": (*BINNED, "verbalised"), "question": (*BINNED, "verbalised"), "context": (*BINNED, "verbalised"),
    "capture": (*BINNED, "verbalised"), "samples": ("consistency",), "temperature": ("consistency",),
    "max_new_tokens": ("verbalised", "consistency"),
}  # fmt: skip
"""Which passes an option means something to; elsewhere it is refused, so that nobody thinks it did something."""


class Confidence(Step):
    """Ask the model how sure it is of the answers that an earlier generation gave."""

    name: ClassVar[str] = "confidence"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    writes: ClassVar[tuple[str, ...]] = ("confidence",)

    ask: Ask = "self"
    """self: how sure it is of its own answer; other: how likely a random educated person is right; p_true: whether the
    answer is true or false; verbalised: a number in its own words; consistency: whether fresh samples agree."""
    context: Where = "conversation"
    """conversation: the question follows the answer where it was given; alone: question and answer are quoted in a
    prompt of their own (by `other` the question only)."""
    question: str | None = None
    """What is asked instead of the default; {question}, {answer} and {options} are replaced (the list of bins comes
    last unless {options} says where)."""
    bins: Bins | None = None
    """The answers on offer: {edges: [0, 5, 10, 20, 40, 60, 80, 90, 100]} unless given; or texts with midpoints."""
    scoring: Scoring = "letters"
    """letters: the bins carry letters, and the letters' probabilities are read; likelihood: the bins' texts are scored
    as continuations, for models that do not follow letters."""
    letters: OptionalTexts = None
    """The letters, in the order shown: "ABCDEFGH" or a list; each must be a single token."""
    orders: Literal["both", "normal", "reversed"] = "both"
    """The bins in ascending order, in descending order, or the mean of both. The activations kept are those of the
    ascending order, unless only the other is asked."""
    normalise: Normalise = "tokens"
    """By likelihood: a text's log-likelihood is divided by its tokens, its chars, or taken as it is (none)."""
    content_free: bool = True
    """Also ask about contents without content ("N/A", ...): what the pass says when there is nothing to know."""
    samples: int = Field(default=10, ge=2, le=1000)
    """By consistency: fresh samples of each prompt."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """By consistency: the temperature of the samples."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """The longest text that the model writes: 12 for a number, the task's own for a sample, unless given."""
    another_model: bool = False
    """Ask a model about answers that another one gave (an entry's own model or adapter); refused unless this is said.
    The two must share a tokenizer."""
    only: Annotated[tuple[Split, ...] | None, BeforeValidator(one_or_more)] = None
    """Ask only about answers of these splits (test, or [tune, test]); without it about all."""
    batch_size: int = Field(default=16, ge=1)
    """Prompts that run together."""
    shard_rows: int = Field(default=50, ge=1)
    """Rows of one shard: what is lost at most when a run is killed."""
    capture: Kept | None = None
    """Activations of the pass's own prompts to keep: sites, positions, dtype."""

    @model_validator(mode="after")
    def _whole(self) -> Confidence:
        for option, asks in MEANT.items():
            if self.ask not in asks and getattr(self, option) != type(self).model_fields[option].default:
                raise UserError(f"ask: {self.ask} with {option}", f"{option} belongs to {', '.join(asks)}",
                                f"leave {option} out")  # fmt: skip
        if self.only is not None and not self.only:
            raise UserError("only: []", "splits", "leave it out")
        if self.letters is not None and self.scoring == "likelihood":
            raise UserError("scoring: likelihood with letters", "one of them", "leave letters out")
        self._scale()
        return self

    def _scale(self) -> Scale | None:
        return scale(self.ask, self.bins, self.letters, self.scoring) if self.ask in BINNED else None

    def _orders(self) -> tuple[bool, ...]:
        if self.ask not in BINNED:
            return (False,)
        return {"both": (False, True), "normal": (False,), "reversed": (True,)}[self.orders]

    # ---------------------------------------------------------------- before any work

    def check(self, plan: Planning) -> None:
        if self.capture:
            self.capture.expanded(plan.model.facts()["n_layers"])
        options = plan.source_options.get("generations", {})
        self._check_model(plan.weights.get("generations", ""), plan.model)
        task = make_task(options["task"]) if options.get("task") is not None else None
        if task is not None and task.mode == "episode":
            raise UserError(f"task {task.name} plays rounds", "a generation of single answers to ask about")
        if self.ask == "consistency":
            if task is None and not options.get("append"):
                raise UserError("ask: consistency needs the generation's task", "a generation with a task of its own")
            if task is not None:
                check_task(task, bool(options.get("append")))
        if self.only is not None and plan.inputs["generations"].splits and not self._rows(plan.inputs["generations"]):
            raise UserError(f"only: {list(self.only)}", "splits of which the generation has rows")
        tokenizer, bins = load_tokenizer(plan.model.name, plan.model.revision), self._scale()
        if bins is not None and bins.scoring == "letters":
            variants_of(tokenizer, bins.letters)
        source, context = plan.inputs["generations"], plan.model.facts().get("context")
        mean = (source.prompt_tokens + source.new_tokens) / max(source.rows, 1) + self._added(tokenizer, task)
        if context is not None and mean > context:
            raise UserError(
                f"the prompts would have about {mean:.0f} tokens",
                f"the model reads {context} at most", "fewer or shorter bins, or a lower max_new_tokens in generate",
            )  # fmt: skip

    def _check_model(self, answered: str, spec: ModelSpec) -> bool:
        """True where another model (or adapter, or dtype) gave the answers; UserError unless that was asked for."""
        another = bool(answered) and answered != spec.facts()["fingerprint"]
        if another and not self.another_model:
            raise UserError(
                f"another model than {' with '.join(filter(None, (spec.name, spec.adapter)))} gave the answers",
                "the model (adapter, dtype) that answered",
                "give this entry the same model: and adapter: as the generation's, or another_model: true",
            )  # fmt: skip
        return another

    def _words(self) -> Any:
        return wording(self.ask, self.question, self.context, self._scale())

    def _added(self, tokenizer: Any, task: Any) -> int:
        """Tokens that a pass adds to a row's own, about: the question with its bins, a chat's turns, what is said."""
        if self.ask == "consistency":
            return self._longest(task)
        chat = str(getattr(task, "style", "")).startswith("chat")
        asked = len(encode_text(tokenizer, self._words().text("", "", chat, False))) + (8 if chat else 1)
        return asked + (self._longest(task) if self.ask == "verbalised" else 1)

    def _longest(self, task: Any) -> int:
        """Most tokens of one text that the model writes."""
        if self.max_new_tokens is not None or self.ask != "consistency":
            return self.max_new_tokens or 12
        return int(getattr(task, "max_new_tokens", 16)) if task is not None and task.mode == "generate" else 16

    def _rows(self, source: Cost) -> int:
        splits = self.only
        return source.rows if splits is None else sum(int(source.splits.get(s, 0)) for s in splits)

    def cost(self, plan: Planning) -> Cost:
        facts, source = plan.model.facts(), plan.inputs["generations"]
        tokenizer = load_tokenizer(plan.model.name, plan.model.revision)
        rows, option = self._rows(source), plan.source_options.get("generations", {}).get("task")
        task = make_task(option) if option is not None else None
        base = (source.prompt_tokens + source.new_tokens) * rows // max(source.rows, 1)
        added = self._added(tokenizer, task)
        prompt = base + rows * (added - 1)
        new, forward, bins = rows, 0, self._scale()
        if self.ask == "consistency":
            prompt = source.prompt_tokens * rows // max(source.rows, 1)
            new = rows * self.samples * self._longest(task)
            forward = prompt * (1 - -self.samples // self.batch_size) + new  # a prompt runs once in each of its batches
        elif self.ask == "verbalised":
            new = rows * self._longest(task)
            prompt -= new - rows
            forward = prompt + new
        else:
            texts = 0
            if bins is not None and bins.scoring == "likelihood":
                texts = rows * sum(len(encode_text(tokenizer, " " + text)) for text in bins.texts)
            opening = base + rows * len(encode_text(tokenizer, self._words().question))  # both orders begin with it
            forward = len(self._orders()) * (prompt + texts) - (len(self._orders()) - 1) * opening
        if self.content_free and self.ask != "consistency":
            forward += len(FILLERS) * len(self._orders()) * added
        sites = self.capture.expanded(facts["n_layers"]) if self.capture else []
        positions = self.capture.positions if self.capture else ()
        held = self.capture.dtype if self.capture else "float32"
        size = price.activation_bytes(sites, positions, held, facts, rows, prompt, new)
        longest = -(-prompt // max(rows, 1)) + self._longest(task)
        return Cost(
            rows=rows,
            prompt_tokens=prompt,
            new_tokens=new,
            forward_tokens=forward,
            disk_bytes=size + price.table_bytes(rows, prompt + new, 0, 0) + 600 * rows,
            memory_bytes=price.batch_memory(facts, plan.model.dtype, self.batch_size, longest, sites, longest)
            + 2 * size * self.shard_rows // max(rows, 1),
            sites=tuple(f"{s}@{p}" for s in sites for p in positions),
            splits={s: n for s, n in source.splits.items() if self.only is None or s in self.only},
            notes=self._notes(source),
        )

    def _notes(self, source: Cost) -> tuple[str, ...]:
        if self.context == "alone" and self.capture and "answer" in self.capture.positions:
            return ("asked alone, a prompt has no position `answer`: nothing is kept there",)
        return ()

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        source = inputs["generations"]
        table = source.table("generations", READ)
        another = self._check_model(str(source.meta.get("model", {}).get("fingerprint", "")), ctx.model_spec)
        if int(np.asarray(table["round"]).max(initial=0)) > 0:
            raise UserError(f"{source.name} holds episodes of several rounds", "a generation of single answers")
        if self.only is not None:
            table = table.loc[table["split"].isin(self.only), :]
        rows, skipped = counts.reasons(table)
        if not rows:
            raise UserError(f"no answer of {source.name} can be asked about", "answers that were parsed",
                            "look at its section of the report")  # fmt: skip
        for reason, n in skipped.items():
            ctx.log.warning("%d rows are not asked: %s", n, reason)
        how = self._stating(source, ctx)
        asked = table.set_index("row").loc[rows, :]
        check_rows(asked, source.path, how, another, ctx.model_spec)
        shards: list[Shard] = [tuple(part) for part in batches(rows, self.shard_rows)]
        sizes = [len(part) for part in shards if isinstance(part, tuple)]
        if self.content_free and self.ask != "consistency":
            shards.append(neutral(asked["messages"]))
            sizes.append(len(FILLERS))
        ctx.map(Stater(ctx.model_spec, how, source.path, out.path), shards, out, f"confidence: {self.ask}", sizes)
        self._count(source, len(table), skipped, another, out, ctx)

    def _stating(self, source: Artifact, ctx: Context) -> Stating:
        one = self.ask == "consistency" and not source.options.get("append")  # rows of joined tasks are read as choices
        option = source.options.get("task") if one else None
        task = make_task(option) if option is not None else None
        stop: Sequence[str] = () if task is None else task.stop if task.mode == "generate" else ("\n",)
        if task is not None and task.mode == "generate" and source.options.get("stop") is not None:
            stop = source.options["stop"]
        sites = self.capture.expanded(ctx.model_spec.facts()["n_layers"]) if self.capture else []
        return Stating(
            self.ask, self._words(), self._orders(), self.normalise, ctx.seed, self.batch_size, self._longest(task),
            self.samples, self.temperature, tuple(stop), option, tuple(map(str, sites)),
            tuple(self.capture.positions) if self.capture else (), self.capture.dtype if self.capture else "float32",
        )  # fmt: skip

    def _count(
        self, source: Artifact, rows: int, skipped: Mapping[str, int], another: bool, out: Writer, ctx: Context
    ) -> None:
        """Write the small tables, and say how it went."""
        asked = counts.read_pass(out.path, source.table("generations", ("row", "label")))
        ctx.split(asked, "test", f"confidence: {self.ask}, stated for right and wrong answers and its AUROC")
        bins = self._scale()
        shard = sorted((out.path / "content_free").glob("*.parquet"))
        free = pd.read_parquet(shard[0]) if shard and bins is not None else None
        out.table("stated", counts.stated(asked))
        out.table("scores", counts.scores(asked, ctx.seed))
        out.table("bins", counts.bins(asked, bins, free))
        out.table("order", counts.order(asked))
        totals = counts.totals(asked, skipped, bins, self._orders())
        out.table("totals", totals)
        out.table("skipped", counts.skipped_table(skipped, rows))
        words = self._words() if self.ask != "consistency" else None
        out.table("settings", settings(self, words, answered_by(source) if another else ""))
        value = dict(zip(totals["name"].to_pylist(), totals["value"].to_pylist(), strict=True))
        mean = float("nan") if value["mean"] is None else 100 * value["mean"]
        ctx.log.info("%d answers asked about: mean confidence %.1f%%, %d without one", value["asked"], mean,
                     value["unparsed"])  # fmt: skip

    def summary(self, artifact: Artifact) -> list[Block]:
        return blocks(artifact)
