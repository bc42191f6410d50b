"""generate: ask the model a task's questions, label its answers, and keep the activations of the same pass.

Writes `generations/` (one row an answer), `activations/` where `capture` asks for them, and the tables counts,
difficulty, temperatures, totals, settings, transcripts, and where there are such letters and skipped. Cost: one forward
pass of every prompt, and one token a step with a key-value cache; capturing adds a copy of the kept tokens and nothing
else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.rows import counts, letter_bias, merge, price, story, table
from gnomon.rows.ask import Asking
from gnomon.rows.choose import Normalise
from gnomon.rows.options import Kept, OptionalTexts, one_or_more
from gnomon.rows.plan import Shard, lay_out
from gnomon.rows.prepare import Prepared, check_context, has_parser, identity, only_splits, prepare
from gnomon.rows.reuse import COLUMNS, relabel
from gnomon.rows.work import Asker
from gnomon.step import Context, Cost, Inputs, ModelSpec, Planning, Step
from gnomon.tasks.make import make_task
from gnomon.tasks.splits import How
from gnomon.types import Site, Split
from gnomon.writer import Writer

SCHEMA = table.SCHEMA


class Generate(Step):
    """Ask the questions of a task, label the answers, and capture activations in the same pass."""

    name: ClassVar[str] = "generate"
    version: ClassVar[int] = 2
    writes: ClassVar[tuple[str, ...]] = ("generations", "activations")

    task: str | dict[str, Any] | None = None
    """A task's name, or its name with options: {sums: {digits: 2}}, {name: sums, digits: 2}; "module:Class" for your
    own. May be left out where `append` joins earlier generations."""
    n: int | None = Field(default=None, ge=1)
    """How many questions; without it as many as the task has."""
    samples: int = Field(default=1, ge=1)
    """Answers to each question at each temperature."""
    temperatures: Annotated[tuple[Annotated[float, Field(ge=0, le=100)], ...], BeforeValidator(one_or_more)] = (0.0,)
    """0 is greedy: the likeliest token each time. Above, answers are sampled."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample only from the smallest set of tokens whose probability reaches this."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """The longest answer, in tokens; without it the task's own."""
    stop: OptionalTexts = None
    """Texts at which an answer ends; without them the task's own."""
    splits: str | dict[str, float] = "50/10/40"
    """fit/tune/test in percent, or as numbers of groups (4500/500/500)."""
    split_by: How = "auto"
    """stratified by difficulty; hash: a group keeps its split when questions are added; given: as the examples say.
    auto: given where they say it, stratified where all have a difficulty, else hash."""
    only: Annotated[tuple[Split, ...] | None, BeforeValidator(one_or_more)] = None
    """Ask only the questions of these splits (test, or [tune, test]); without it all. Splits are assigned over all
    questions first, so that a question's split is that of a generation which asks every one."""
    max_length: int | None = Field(default=None, ge=1)
    """Questions whose prompt is longer than this, in tokens, are dropped and counted."""
    batch_size: int = Field(default=16, ge=1)
    """Rows answered together."""
    shard_rows: int = Field(default=50, ge=1)
    """Rows of one shard: what is lost at most when a run is killed."""
    capture: Kept | None = None
    """Activations to keep: sites, positions, dtype."""
    top_k_logits: int = Field(default=0, ge=0, le=1000)
    """Keep the highest logits, and their tokens, at each response token."""
    normalise: Normalise = "tokens"
    """Choices are compared by their log-likelihood divided by their tokens, by their chars, or as it is (none)."""
    labels_from: str | None = None
    """An earlier generation of the same prompts whose labels are used instead of grading anew."""
    append: OptionalTexts = None
    """Earlier generations whose rows (and activations) are joined to this one's."""
    condition: str = ""
    """A name for what is special about these rows, kept in each."""

    @model_validator(mode="after")
    def _whole(self) -> Generate:
        if self.task is None and not self.append:
            raise UserError(
                "generate has no task", "a task, or earlier generations to append", "see: gnomon list tasks"
            )
        if not self.temperatures or len(set(self.temperatures)) < len(self.temperatures):
            raise UserError(f"temperatures {list(self.temperatures)}", "at least one, each once")
        if self.only is not None and (self.task is None or not self.only):
            raise UserError(f"only: {list(self.only)}", "splits of this generation's own questions", "leave it out")
        if len(set(self.append or ())) < len(self.append or ()):
            raise UserError(f"append {list(self.append or ())}", "each generation once")
        return self

    def needs(self) -> Mapping[str, str]:
        named = {"labels_from": self.labels_from} if self.labels_from else {}
        return named | {f"append.{i}": name for i, name in enumerate(self.append or ())}

    # ---------------------------------------------------------------- before any work

    def check(self, plan: Planning) -> None:
        sites = self.capture.expanded(plan.model.facts()["n_layers"]) if self.capture else []
        if self.task is not None:
            prepared = self._prepared(plan.model, plan.seed)
            self._check_task(prepared)
            check_context(prepared, self._longest(prepared) * prepared.rounds, plan.model.facts().get("context"))
        for name in self.append or ():
            there = plan.inputs[name].sites if name in plan.inputs else ()
            if plan.weights.get(name) and plan.weights[name] != plan.model.facts()["fingerprint"]:
                raise UserError(f"append: {name} is of another model", "generations of one model",
                                "give this entry its model: and adapter:")  # fmt: skip
            wanted = [f"{s}@{p}" for s in sites for p in self.capture.positions] if self.capture else []
            lacking = [pair for pair in wanted if pair not in there]
            if lacking:
                raise UserError(
                    f"append: {name} has no activations at {lacking[0]} ({len(lacking)} of {len(wanted)} are missing)",
                    f"it has {', '.join(there[:4]) or 'none'}", "capture the same sites and positions in both",
                )  # fmt: skip

    def _check_task(self, prepared: Prepared) -> None:
        task = prepared.task
        if task.mode == "choices" and (self.samples > 1 or any(self.temperatures)):
            raise UserError(
                f"task {task.name} scores choices", "samples: 1 and temperatures: [0]", "mode: generate samples answers"
            )
        if task.mode == "episode" and self.labels_from:
            raise UserError("labels_from with an episode", "a task of single questions", "leave it out")
        if self.capture and "answer" in self.capture.positions and not has_parser(task, prepared.examples[0]):
            raise UserError(
                f"task {task.name} does not say where its answer stands", "Grade(answer=..., span=...) from grade()",
                "take the position last",
            )  # fmt: skip

    def _longest(self, prepared: Prepared) -> int:
        """Most tokens of one answer."""
        if prepared.choices:
            return max(longest for longest, _ in prepared.choices)
        return self.max_new_tokens or int(prepared.task.max_new_tokens)

    def _prepared(self, spec: Any, seed: int) -> Prepared:
        every = prepare(self.task, self.n, seed, spec, self.max_length, self.splits, self.split_by)
        return every if self.only is None else only_splits(every, self.only)

    def cost(self, plan: Planning) -> Cost:
        facts = plan.model.facts()
        sites = self.capture.expanded(facts["n_layers"]) if self.capture else []
        positions = self.capture.positions if self.capture else ()
        added = [plan.inputs[name] for name in self.append or () if name in plan.inputs]
        rows, prompt, response, forward, memory, notes = 0, 0, 0, 0, 0, []
        splits = dict.fromkeys(("fit", "tune", "test"), 0)
        if self.task is not None:
            prepared = self._prepared(plan.model, plan.seed)
            each = self.samples * len(self.temperatures) * prepared.rounds
            rows = len(prepared.examples) * each
            lengths = [len(ids) for ids in prepared.tokens]
            new = self._longest(prepared)
            prompt, response = sum(lengths) * each, rows * new
            forward = prompt + (sum(total for _, total in prepared.choices) if prepared.choices else response)
            if prepared.choices:
                response = sum(longest for longest, _ in prepared.choices)
            splits |= {s: each * sum(e.split == s for e in prepared.examples) for s in splits}
            kept = max(lengths) + new if "all" in positions else new + 1
            memory = price.batch_memory(facts, plan.model.dtype, self.batch_size, max(lengths) + new, sites, kept)
            notes = self._notes(prepared)
        size = (price.activation_bytes(sites, positions, self.capture.dtype, facts, rows, prompt, response)
                if self.capture else 0)  # fmt: skip
        per_shard = size * min(self.shard_rows, rows) // max(rows, 1)
        names = [f"{s}@{p}" for s in sites for p in positions]
        if self.task is None and not self.capture:
            names = [pair for pair in (added[0].sites if added else ()) if all(pair in c.sites for c in added)]
        return Cost(
            rows=rows + sum(c.rows for c in added),
            prompt_tokens=prompt,
            new_tokens=response,
            forward_tokens=forward,
            disk_bytes=size + price.table_bytes(rows, prompt + response, self.top_k_logits, response)
            + sum(c.disk_bytes for c in added),
            memory_bytes=memory + 2 * per_shard,
            sites=tuple(names),
            splits={s: n + sum(int(c.splits.get(s, 0)) for c in added) for s, n in splits.items()},
            notes=tuple(notes),
        )  # fmt: skip

    def _notes(self, prepared: Prepared) -> list[str]:
        notes = []
        if prepared.dropped:
            notes.append(f"{prepared.dropped} questions are longer than max_length {self.max_length} and are dropped")
        if prepared.skipped:
            why = ", ".join(f"{n} with {reason}" for reason, n in sorted(prepared.skipped.items()))
            notes.append(f"{sum(prepared.skipped.values())} records are no questions and are skipped: {why}")
        if self.samples > 1 and 0.0 in self.temperatures:
            notes.append(f"at temperature 0 the {self.samples} samples of a question are all alike")
        return notes

    def identity(self) -> dict[str, Any]:
        known = {"task": identity(make_task(self.task))} if self.task is not None else {}
        options = self.model_dump(mode="json")
        if self.only is None:
            del options["only"]  # all splits: the same generation as before there was a choice
        return options | {"task_identity": known}

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        shards: list[Shard] = []
        prepared, asking, asked = None, None, 0
        if self.task is not None:
            prepared, asking, shards = self.planned(ctx.model_spec, ctx.seed)
            for note in self._notes(prepared):
                ctx.log.warning(note)
            asked = sum(len(batch) for shard in shards for batch in shard)
        if self.labels_from:
            earlier = inputs.named(self.labels_from).table("generations", COLUMNS)
            shards = relabel(shards, earlier, self.labels_from)
        copied = self._copies(inputs, prepared, asked, ctx)
        worker = Asker(ctx.model_spec, self.task, asking, out.path)
        sizes = [sum(map(len, shard)) for shard in shards] + [part.rows for part in copied]
        ctx.map(worker, [*shards, *copied], out, "generate", sizes)
        self._count(prepared, out, ctx)

    def planned(self, spec: ModelSpec, seed: int) -> tuple[Prepared, Asking, list[Shard]]:
        """Its own questions (`append` apart), how they are asked, and the shards of the plan."""
        prepared = self._prepared(spec, seed)
        sites = self.capture.expanded(spec.facts()["n_layers"]) if self.capture else []
        shards = lay_out(prepared.examples, prepared.tokens, self.temperatures, self.samples, self.batch_size,
                         self.shard_rows, prepared.rounds, prepared.places)  # fmt: skip
        return prepared, self._asking(prepared, sites, seed), shards

    def _asking(self, prepared: Prepared, sites: Sequence[Site], seed: int) -> Asking:
        task = prepared.task
        return Asking(
            seed=seed,
            max_new_tokens=self._longest(prepared),
            stop=tuple(task.stop if self.stop is None else self.stop),
            top_p=self.top_p,
            top_k_logits=self.top_k_logits,
            condition=self.condition,
            normalise=self.normalise,
            max_rounds=prepared.rounds,
            sites=tuple(map(str, sites)),
            positions=self.capture.positions if self.capture else (),
            dtype=self.capture.dtype if self.capture else "float32",
        )

    def _copies(self, inputs: Inputs, prepared: Prepared | None, asked: int, ctx: Context) -> list[merge.Copied]:
        """The shards of earlier generations, numbered behind this one's own rows."""
        names = list(self.append or ())
        if not names:
            return []
        own = [] if prepared is None else [("this generation", merge.sides(prepared.examples))]
        sources = {name: inputs.named(name) for name in names}
        tables = {name: source.table("generations", merge.COLUMNS) for name, source in sources.items()}
        merge.same_sides([*own, *tables.items()])
        merge.same_model(sources, str(ctx.model_spec.facts()["fingerprint"]))  # what the study says it is
        pairs = merge.shared_pairs(list(sources.values())) if prepared is None else []
        if self.capture:
            sites = self.capture.expanded(int(next(iter(sources.values())).meta["model"]["n_layers"]))
            pairs = [(site, position) for site in sites for position in self.capture.positions]
        row, index = asked * (prepared.rounds if prepared else 1), 0
        if prepared is not None:
            index = len(prepared.examples) if prepared.places is None else prepared.places[-1] + 1
        out: list[merge.Copied] = []
        for name, source in sources.items():
            dtype = self.capture.dtype if self.capture else None
            out += merge.copies(source, name, row, index, pairs, dtype)
            row += int(tables[name]["row"].to_numpy().max()) + 1
            index += int(tables[name]["example_index"].to_numpy().max()) + 1
        return out

    def _count(self, prepared: Prepared | None, out: Writer, ctx: Context) -> None:
        """Write the small tables, and say how it went."""
        rows = counts.read_rows(out.path)
        ctx.split(rows, "test", "accuracy of the model's own answers, by split")
        counted = counts.counts(rows)
        out.table("counts", counted)
        out.table("difficulty", counts.difficulty(rows))
        out.table("temperatures", counts.temperatures(rows))
        dropped, skipped = (prepared.dropped, prepared.skipped) if prepared else (0, {})
        out.table("totals", counts.totals(rows, dropped, skipped, counts.token_sums(out.path)))
        if skipped:
            out.table("skipped", counts.skipped_table(skipped))
        by_letters = letter_bias.letter_rows(out.path)
        if len(by_letters):
            out.table("letters", letter_bias.letter_table(by_letters))
        out.table("transcripts", counts.transcripts(rows, out.path))
        out.table("settings", story.settings(self, prepared))
        share = {line["label"]: line["share"] for line in counted.to_pylist() if line["split"] == "all"}
        ctx.log.info("%d answers: %.1f%% right, %.1f%% wrong, %.1f%% unparsed", len(rows), 100 * share["correct"],
                     100 * share["incorrect"], 100 * share["unparsed"])  # fmt: skip
        if share["unparsed"] > story.MANY:
            ctx.log.warning("%.0f%% of the answers could not be parsed: they count as neither right nor wrong",
                            100 * share["unparsed"])  # fmt: skip

    def summary(self, artifact: Any) -> list[Block]:
        return story.blocks(artifact)
