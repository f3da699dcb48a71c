"""What a verification compares: a step's result with the one that was recorded of the verified run. Pure."""

from dataclasses import dataclass

from events.processing import Differs, StepReused, StepSucceeded, Verifies


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first thing that is not as it was recorded: digests, or None for no rejects."""

    what: Differs
    expected: str | None
    found: str | None


def divergence(verifies: Verifies | None, result: StepSucceeded | StepReused) -> Divergence | None:
    """Where a result differs from what is expected of it; None for any other run.

    A result that was taken from the verified run itself, because its step has effects, says nothing.
    """
    if verifies is None or isinstance(result, StepReused):
        return None
    expected = verifies.steps[result.step_index]
    rejects = None if result.rejects is None else result.rejects.digest
    pairs: tuple[tuple[Differs, str | None, str | None], ...] = (
        ("input", expected.input_digest, result.input_digest),
        ("output", expected.output_digest, result.output.digest),
        ("rejects", expected.rejects_digest, rejects),
    )
    return next((Divergence(what, was, now) for what, was, now in pairs if was != now), None)
