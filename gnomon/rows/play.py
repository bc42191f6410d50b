"""One shard in mode `episode`: rounds are played together, batch by batch, until every environment ends.

The next prompt is joined to the transcript: text to text, messages to messages (a plain text becomes the user's next
message), unless its turn is `fresh`. Round r of a play is row `plan row + r`; rows of rounds that were not played do
not exist. The grade is the episode's, on each of its rows; `answer` is looked for in the last round's text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gnomon.errors import UserError
from gnomon.models.batching import plan
from gnomon.rows.ask import Ask, Asking, decode, find_answer, places
from gnomon.rows.gather import Gather
from gnomon.rows.plan import Row, environment_seed
from gnomon.rows.table import Answer
from gnomon.types import Episode, Prompt, Turn

if TYPE_CHECKING:
    from gnomon.models.model import Model


@dataclass
class Play:
    """One episode being played."""

    row: Row
    seed: int
    episode: Episode
    prompt: Prompt
    tokens: list[int]
    answers: list[Answer] = field(default_factory=list)
    over: bool = False

    def ask(self) -> Ask:
        """The next prompt."""
        number = len(self.answers)
        return Ask(self.row, self.row.row + number, self.prompt, self.tokens, self.seed, number)


def joined(prompt: Prompt, text: str, turn: Turn) -> Prompt:
    """The transcript so far, the model's reply and the environment's next words, as one prompt."""
    assert turn.prompt is not None
    if turn.fresh:
        return turn.prompt
    if isinstance(prompt, str):
        if not isinstance(turn.prompt, str):
            raise UserError("an episode that began with text goes on with messages", "text, or a fresh turn")
        return prompt + text + turn.prompt
    said = [dict(message) for message in prompt]
    if said and said[-1]["role"] == "assistant":
        said[-1]["content"] += text
    else:
        said.append({"role": "assistant", "content": text})
    more = [{"role": "user", "content": turn.prompt}] if isinstance(turn.prompt, str) else map(dict, turn.prompt)
    return (*said, *more)


def play_shard(
    model: Model, task: Any, batches: Sequence[Sequence[Row]], asking: Asking, gather: Gather,
    run: Callable[[Callable[[Sequence[Play]], list[Any]], Sequence[Play]], list[Any]],
) -> list[Answer]:  # fmt: skip
    """Play every row's episode to its end; `run(work, batch)` runs one batch (and may halve it)."""
    groups: list[list[Play]] = [[_begin(model, task, row, asking) for row in batch] for batch in batches]
    size = max(len(batch) for batch in batches)
    done: list[Play] = []
    while groups:
        for group in groups:
            first = 0
            for answers, generated in run(lambda some: [decode(model, [p.ask() for p in some], asking)], group):
                _reply(model, group[first : first + len(answers)], answers, asking)
                gather.take(places(answers), generated.take)
                first += len(answers)
        played = [play for group in groups for play in group]
        done += [play for play in played if play.over]
        waiting = [play for play in played if not play.over]
        shards = plan([len(play.tokens) for play in waiting], size, max(1, len(waiting)))
        groups = [[waiting[i] for i in batch] for shard in shards for batch in shard]
    for play in done:
        grade = play.episode.grade()
        for answer in play.answers:
            answer.grade = grade
            answer.meta = {"rounds": len(play.answers), "final": answer is play.answers[-1]} | answer.meta
    return [answer for play in done for answer in play.answers]


def _begin(model: Model, task: Any, row: Row, asking: Asking) -> Play:
    key = str(row.example.meta.get("environment", row.example.id))  # examples of one key meet the same chance
    seed = environment_seed(asking.seed, key, row.sample)
    episode = task.episode(row.example, seed)
    first = episode.first()
    return Play(row, seed, episode, first, model.tokenize(first))


def _reply(model: Model, plays: Sequence[Play], answers: Sequence[Answer], asking: Asking) -> None:
    """Hand every answer to its environment; where that ends the episode, grade it and find the answer's token."""
    for play, answer in zip(plays, answers, strict=True):
        turn = play.episode.reply(answer.text)
        answer.meta = dict(turn.meta)
        play.answers.append(answer)
        if turn.prompt is None or len(play.answers) >= asking.max_rounds:
            play.over = True
            if turn.prompt is not None:
                answer.meta["cut"] = f"after {asking.max_rounds} rounds"
            answer.grade = play.episode.grade()
            answer.answer_token = find_answer(model, answer)
        else:
            play.prompt = joined(play.prompt, answer.text, turn)
            play.tokens = model.tokenize(play.prompt)
