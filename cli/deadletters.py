"""`dex dead-letters`: what failed beyond repair, and the way back."""

from typing import Any

from nats.js.api import ConsumerConfig, DeliverPolicy

from cli.render import console, facts_table, print_json
from events import subjects
from events.connection import connect
from events.settings import Settings

FETCH_WITHIN_S = 1.0


async def show_or_replay(settings: Settings, *, replay: bool, as_json: bool) -> None:
    """List the dead letters; with `replay` give each command back to COMMANDS.

    A task is not given back: cancel and retry its run, which reuses the results that it has.
    """
    connection = await connect(settings.nats_servers, "dex")
    try:
        letters = await _letters(connection.jetstream())
        if replay:
            for letter in filter(_is_command, letters):
                await connection.jetstream().publish(letter["origin"], letter["body"])
                await connection.jetstream().delete_msg(subjects.DEAD_LETTERS, letter["number"])
    finally:
        await connection.close()
    shown = [{key: letter[key] for key in ("number", "origin", "reason")} for letter in letters]
    if as_json:
        print_json({"dead_letters": shown, "replayed": replay})
        return
    console.print(facts_table("Dead letters", ("number", "from", "reason"), ([*letter.values()] for letter in shown)))
    if replay:
        given_back = sum(map(_is_command, letters))
        console.print(f"{given_back} commands given back; {len(letters) - given_back} tasks need `runs/retry`.")


def _is_command(letter: dict[str, Any]) -> bool:
    return bool(letter["origin"].startswith("commands."))


async def _letters(jetstream: Any) -> list[dict[str, Any]]:
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
    subscription = await jetstream.pull_subscribe("dead.>", stream=subjects.DEAD_LETTERS, config=config)
    found: list[dict[str, Any]] = []
    state = (await jetstream.stream_info(subjects.DEAD_LETTERS)).state
    while len(found) < state.messages:
        for message in await subscription.fetch(min(100, state.messages - len(found)), timeout=FETCH_WITHIN_S):
            await message.ack()
            headers = message.headers or {}
            found.append(
                {
                    "number": message.metadata.sequence.stream,
                    "origin": headers.get("Subject", ""),
                    "reason": headers.get("Reason", ""),
                    "body": message.data,
                }
            )
    await subscription.unsubscribe()
    return found
