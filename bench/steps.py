"""The five trivial steps of the comparison with other engines: each adds one field to every record."""

from collections.abc import Sequence

from services.steps.base import Record, Step, StepConfig, StepOutput, step


class NoConfig(StepConfig):
    """Nothing to set."""


def _trivial(number: int) -> Step[NoConfig]:
    @step(f"bench_s{number}", version="1", summary=f"Adds the field s{number}.", config=NoConfig)
    def add_field(records: Sequence[Record], config: NoConfig) -> StepOutput:  # noqa: ARG001 - the contract of a step
        return StepOutput([{**record, f"s{number}": number * len(record["records"])} for record in records])

    return add_field


STEPS = tuple(_trivial(number) for number in range(1, 6))
